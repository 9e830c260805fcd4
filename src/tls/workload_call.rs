//! A call to an agent of the SPIFFE Workload API, which sends a message now and each time that something changes.
//!
//! Spec: SPIFFE Workload API § 4.

use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;
use spiffe::transport::Endpoint;
use spiffe::{WorkloadApiClient, WorkloadApiError};

use super::workload_error::{WorkloadError, WorkloadProblem};

/// The messages of a call.
pub(super) type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, WorkloadApiError>> + Send>>;

/// A call whose messages have the type `T`. Dropping it ends the call.
pub(super) struct WorkloadCall<T> {
    socket: PathBuf,
    messages: Messages<T>,
    /// The first answer, until [`next`](Self::next) returns it.
    first: Option<Result<T, WorkloadError>>,
}

impl<T> WorkloadCall<T> {
    /// Connects to the agent that listens on `socket`, begins the call with `open`, and waits at most `limit` for the
    /// first answer. Cancel safe.
    pub(super) async fn begin(
        socket: &Path,
        limit: Duration,
        open: impl AsyncFnOnce(WorkloadApiClient) -> Result<Messages<T>, WorkloadApiError>,
    ) -> Result<Self, WorkloadError> {
        let asked = async {
            let failed = |cause| WorkloadError::of(socket, &cause);
            let client = WorkloadApiClient::connect(Endpoint::Unix(socket.to_owned())).await.map_err(failed)?;
            let messages = open(client).await.map_err(failed)?;
            let mut call = Self { socket: socket.to_owned(), messages, first: None };
            match call.receive().await {
                Err(error) if !error.is_about_content() => Err(error),
                first => Ok(Self { first: Some(first), ..call }),
            }
        };
        let silent = || WorkloadError { socket: socket.to_owned(), problem: WorkloadProblem::Silent { limit } };
        tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| Err(silent()))
    }

    /// Waits for the next message, which replaces the previous one. The first is available at once.
    ///
    /// After an error that [is about content](WorkloadError::is_about_content) the agent may send another message;
    /// after any other error the call has ended. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<T, WorkloadError> {
        match self.first.take() {
            Some(first) => first,
            None => self.receive().await,
        }
    }

    /// The agent's socket.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    async fn receive(&mut self) -> Result<T, WorkloadError> {
        match poll_fn(|context| self.messages.as_mut().poll_next(context)).await {
            Some(Ok(message)) => Ok(message),
            Some(Err(cause)) => Err(WorkloadError::of(&self.socket, &cause)),
            None => Err(WorkloadError { socket: self.socket.clone(), problem: WorkloadProblem::Ended }),
        }
    }
}
