//! Introduces a new connection to mongod as that of a client, with the client's own hello.

use std::io;

use tokio::time::Instant;

use super::connect_error::ConnectError;
use super::connector::Connector;
use super::failure::{ConnectFailure, Phase};
use super::own_commands::OwnCommandError;
use super::proven_connection::{HelloReplayError, ProvenConnection};

/// Why a connection could not be introduced. It must not be used then.
#[derive(Debug, thiserror::Error)]
pub enum IntroductionError {
    /// The connection failed, or mongod did not reply within `connect_timeout`.
    #[error(transparent)]
    Failed(ConnectError),
    /// mongod did not reply to the hello with `ok: 1`.
    #[error("mongod rejected the client's hello")]
    Rejected,
}

impl Connector {
    /// Replays `hello` on a connection that no client has used, and drops the reply, within `connect_timeout`.
    ///
    /// `hello` is a complete message that expects one reply; if it is empty, nothing is sent. Not cancel safe: if this
    /// was dropped or failed, the connection must not be used.
    pub async fn introduce(&self, connection: &mut ProvenConnection, hello: &[u8]) -> Result<(), IntroductionError> {
        let deadline = Instant::now() + self.connect_timeout();
        let address = connection.address;
        let replay = async {
            match connection.replay_hello(hello).await {
                Ok(()) => Ok(true),
                Err(HelloReplayError::Rejected) => Ok(false),
                Err(HelloReplayError::Failed(cause)) => Err(proof(cause)),
            }
        };
        match self.within(deadline, Phase::Proof, replay).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(IntroductionError::Rejected),
            Err(failure) => Err(IntroductionError::Failed(self.error(Some(address), failure))),
        }
    }
}

fn proof(cause: io::Error) -> ConnectFailure {
    ConnectFailure::Proof { cause: OwnCommandError::Closed(cause) }
}
