//! The other end of `/readyz`: how `mongate healthcheck` asks a running gateway.

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

/// More than the report of a thousand upstreams; whatever else answers there may send anything.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Why nobody could say whether the gateway is ready.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// No connection.
    #[error("nothing answers on {address}: is mongate running, and is this its admin.address?")]
    Unreachable {
        /// Who was asked.
        address: SocketAddr,
        /// From the system.
        source: io::Error,
    },
    /// No whole answer.
    #[error("{address} did not answer within {}", humantime::format_duration(*.timeout))]
    TimedOut {
        /// Who was asked.
        address: SocketAddr,
        /// For everything together.
        timeout: Duration,
    },
    /// The answer broke off, is too long, or is no HTTP.
    #[error("{address} does not answer in HTTP: is this mongate's admin.address?")]
    NotHttp {
        /// Who was asked.
        address: SocketAddr,
        /// From the client, or about the length.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// HTTP, but no report.
    #[error("{address} answers {status} without a readiness report: is this mongate's admin.address?")]
    NotMongate {
        /// Who was asked.
        address: SocketAddr,
        /// Of the answer.
        status: StatusCode,
    },
}

/// Asks the gateway whose administration port is at `address`; all of it takes at most `timeout`.
///
/// A gateway that is not ready is an answer, not an error.
pub async fn healthcheck(address: SocketAddr, timeout: Duration) -> Result<ReadinessReport, HealthError> {
    let (status, body) = tokio::time::timeout(timeout, ask(address))
        .await
        .map_err(|_elapsed| HealthError::TimedOut { address, timeout })??;
    serde_json::from_slice(&body).map_err(|_not_a_report| HealthError::NotMongate { address, status })
}

async fn ask(address: SocketAddr) -> Result<(StatusCode, Bytes), HealthError> {
    let stream = TcpStream::connect(address).await.map_err(|source| HealthError::Unreachable { address, source })?;
    converse(address, stream).await.map_err(|source| HealthError::NotHttp { address, source })
}

async fn converse(
    address: SocketAddr,
    stream: TcpStream,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/readyz")
        .header(HOST, address.to_string())
        .header(ACCEPT, "application/json")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let answer = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await?;
        Ok((status, body.to_bytes()))
    };
    // The connection moves the bytes for `answer`, and ends after it because the sender is dropped with it.
    let (answer, _ended) = tokio::join!(answer, connection);
    answer
}
