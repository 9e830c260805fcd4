//! Fetches a document from an address, with limits on time and size.
//!
//! One request, one connection, no redirect: the operator has named the server that is trusted with the keys.

use std::fs;
use std::io;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio_rustls::TlsConnector;

use super::freshness::max_age;
use crate::config::JwksUrl;
use crate::identity::token::{KEY_SET_BYTES_MAX, TOKEN_BYTES_MAX};
use crate::tls::{HttpsError, https_client};

/// For name lookup, connection, handshake, request and response together.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The CA certificates cannot be used.
    #[error("{0}")]
    Tls(#[from] HttpsError),
    /// The token for the server cannot be read.
    #[error("cannot read bearer_token_file {}: {source}", file.display())]
    BearerToken {
        /// As configured.
        file: PathBuf,
        /// From the system.
        source: io::Error,
    },
    /// No connection.
    #[error("cannot connect: {0}")]
    Unreachable(#[source] io::Error),
    /// The TLS handshake failed, usually because the server's certificate is not trusted.
    #[error("the TLS handshake failed: {0}")]
    Handshake(#[source] io::Error),
    /// The server answers in another way than with the document.
    #[error("the server answered with the HTTP status {0}")]
    Status(StatusCode),
    /// The response is not HTTP, incomplete, or too long.
    #[error("the response cannot be read: {0}")]
    Response(Box<dyn std::error::Error + Send + Sync>),
    /// It took too long.
    #[error("there was no complete response within {}", humantime::format_duration(TIMEOUT))]
    TimedOut,
}

impl FetchError {
    /// What the operator can do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Tls(_) | Self::Handshake(_) => "set ca_file to the CA certificates of that server",
            Self::BearerToken { .. } => "correct bearer_token_file, and let mongate read the file",
            Self::Status(status) if matches!(status.as_u16(), 401 | 403) => {
                "set bearer_token_file to a token that may read this address"
            }
            Self::Status(status) if status.is_redirection() => {
                "set jwks_url to the final address; redirects are not followed"
            }
            Self::Status(_) | Self::Response(_) => "check that jwks_url is the address of a JSON Web Key Set",
            Self::Unreachable(_) | Self::TimedOut => "check jwks_url, and that a firewall lets mongate connect to it",
        }
    }
}

/// A document that was fetched.
pub(super) struct Fetched {
    pub(super) document: Bytes,
    /// How long its server wants it to be used.
    pub(super) max_age: Option<Duration>,
}

/// Fetches the document at `url`. Takes at most 10 s. Cancel safe.
pub(super) async fn fetch(
    url: &JwksUrl,
    ca_file: Option<&Path>,
    bearer_token_file: Option<&Path>,
) -> Result<Fetched, FetchError> {
    tokio::time::timeout(TIMEOUT, fetch_whole(url, ca_file, bearer_token_file))
        .await
        .unwrap_or(Err(FetchError::TimedOut))
}

async fn fetch_whole(
    url: &JwksUrl,
    ca_file: Option<&Path>,
    bearer_token_file: Option<&Path>,
) -> Result<Fetched, FetchError> {
    let bearer = match bearer_token_file.map(Path::to_owned) {
        Some(file) => Some(blocking(move || read_token(&file)).await?),
        None => None,
    };
    let stream =
        TcpStream::connect((url.server.host.as_str(), url.server.port)).await.map_err(FetchError::Unreachable)?;
    if !url.is_https {
        return request(url, bearer.as_deref(), stream).await;
    }
    let ca_file = ca_file.map(Path::to_owned);
    let config = blocking(move || https_client(ca_file.as_deref()).map_err(FetchError::Tls)).await?;
    let invalid = |error| FetchError::Handshake(io::Error::new(io::ErrorKind::InvalidInput, error));
    let name = ServerName::try_from(url.server.host.clone()).map_err(invalid)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(FetchError::Handshake)?;
    request(url, bearer.as_deref(), stream).await
}

/// Runs what reads files on another thread.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    spawn_blocking(read).await.unwrap_or_else(|error| Err(FetchError::Response(Box::new(error))))
}

fn read_token(file: &Path) -> Result<String, FetchError> {
    let read = || {
        let mut text = String::new();
        // A pipe would never end.
        if !fs::metadata(file)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
        }
        fs::File::open(file)?.take(TOKEN_BYTES_MAX as u64 + 1).read_to_string(&mut text)?;
        let token = text.trim_ascii();
        let is_plain = token.bytes().all(|byte| byte.is_ascii_graphic());
        if token.is_empty() || text.len() > TOKEN_BYTES_MAX || !is_plain {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a token on one line of at most 16 KiB"));
        }
        Ok(token.to_owned())
    };
    read().map_err(|source| FetchError::BearerToken { file: file.to_owned(), source })
}

/// The host as browsers send it: some servers do not know themselves with the usual port.
fn host(url: &JwksUrl) -> String {
    let (host, usual) = (url.server.to_string(), if url.is_https { ":443" } else { ":80" });
    host.strip_suffix(usual).map_or_else(|| host.clone(), ToOwned::to_owned)
}

async fn request(
    url: &JwksUrl,
    bearer: Option<&str>,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<Fetched, FetchError> {
    let wrong = |error: Box<dyn std::error::Error + Send + Sync>| FetchError::Response(error);
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| wrong(Box::new(error)))?;
    let mut request = Request::get(url.path.as_str())
        .header(HOST, host(url))
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .header(USER_AGENT, concat!("mongate/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close");
    if let Some(bearer) = bearer {
        request = request.header(AUTHORIZATION, format!("Bearer {bearer}"));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| wrong(Box::new(error)))?;
    let response = async move {
        let response = sender.send_request(request).await.map_err(|error| wrong(Box::new(error)))?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let max_age = max_age(response.headers());
        let body = Limited::new(response.into_body(), KEY_SET_BYTES_MAX).collect().await.map_err(wrong)?;
        Ok(Fetched { document: body.to_bytes(), max_age })
    };
    // `connection` moves the bytes for `response`, and ends with it: a server need not close its side. When it ends
    // first, `response` has all bytes, or returns the error.
    let mut response = pin!(response);
    tokio::select! {
        biased;
        document = &mut response => document,
        _ended = connection => response.await,
    }
}
