//! The HTTP client of `mongate healthcheck`: asks a running gateway for its `/readyz` report.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::lifecycle::readiness::ReadinessReport;

/// Limit of the response body. The report of a thousand upstreams is smaller; a server that is not mongate may send any
/// amount.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Why the health check has no readiness report.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The TCP connection failed.
    #[error("cannot connect to {address}; check that mongate is running and that this is its admin.address")]
    Unreachable {
        /// The address that was asked.
        address: SocketAddr,
        /// From the system.
        source: io::Error,
    },
    /// The whole response did not arrive in time.
    #[error(
        "{address} did not respond within {}; check that this is mongate's admin.address",
        humantime::format_duration(*.timeout)
    )]
    TimedOut {
        /// The address that was asked.
        address: SocketAddr,
        /// Limit for the connection, the request and the response together.
        timeout: Duration,
    },
    /// The response is incomplete, too long, or not HTTP.
    #[error("{address} did not send a valid HTTP response; check that this is mongate's admin.address")]
    NotHttp {
        /// The address that was asked.
        address: SocketAddr,
        /// From the HTTP client, or about the length of the body.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The response is HTTP, but its body is not a readiness report.
    #[error("{address} responded with {status} but no readiness report; check that this is mongate's admin.address")]
    NotMongate {
        /// The address that was asked.
        address: SocketAddr,
        /// HTTP status of the response.
        status: StatusCode,
    },
}

/// Asks the gateway at `address`, its administration port, for its readiness report. Takes at most `timeout`.
///
/// The report of a gateway that is not ready is a result, not an error.
pub async fn healthcheck(address: SocketAddr, timeout: Duration) -> Result<ReadinessReport, HealthError> {
    let (status, body) = tokio::time::timeout(timeout, get_readyz(address))
        .await
        .map_err(|_elapsed| HealthError::TimedOut { address, timeout })??;
    serde_json::from_slice(&body).map_err(|_not_a_report| HealthError::NotMongate { address, status })
}

async fn get_readyz(address: SocketAddr) -> Result<(StatusCode, Bytes), HealthError> {
    let stream = TcpStream::connect(address).await.map_err(|source| HealthError::Unreachable { address, source })?;
    request_readyz(address, stream).await.map_err(|source| HealthError::NotHttp { address, source })
}

async fn request_readyz(
    address: SocketAddr,
    stream: TcpStream,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/readyz")
        .header(HOST, address.to_string())
        .header(ACCEPT, "application/json")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let response = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await?;
        Ok((status, body.to_bytes()))
    };
    // `connection` moves the bytes for `response`. It ends when `response` has finished and dropped the sender.
    let (response, _ended) = tokio::join!(response, connection);
    response
}
