//! The monitoring connection to a server: a stream of hello replies, one each time that the server's state changes.
//!
//! Spec: mongodb/specifications `source/server-discovery-and-monitoring/server-monitoring.md` § Streaming Protocol.

use std::time::Duration;

use bson::{RawDocument, RawDocumentBuf, rawdoc};
use tokio::time::{Instant, sleep};

use super::connect_error::ConnectError;
use super::connector::Connector;
use super::failure::{ConnectFailure, Phase};
use super::own_commands::{self, CommandReply, OwnCommandError, declared};
use super::probe::hello;
use super::stream::UpstreamStream;
use crate::wire::message_scan::flag;

/// How long a server waits for a change before it replies anyway, unless another time is set; the
/// `heartbeatFrequencyMS` of drivers.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// The request ID of the streaming request.
const FIRST_REQUEST_ID: i32 = 1;

/// A monitoring connection, on which a server reports its state. Dropping it closes the connection.
pub struct HelloStream {
    connection: UpstreamStream,
    /// The ID that the next streamed reply responds to; `None` if no reply is expected without a request.
    streaming: Option<i32>,
    /// The topologyVersion of the last reply; servers before 4.4 have none.
    topology_version: Option<RawDocumentBuf>,
    /// How long the server waits for a change before it replies anyway.
    heartbeat: Duration,
}

impl HelloStream {
    /// Connects and sends the first hello, all within `connect_timeout`. The connection is not authenticated: `hello`
    /// needs no user, and an arbiter has none.
    ///
    /// Cancel safe: dropping the future closes the connection.
    pub async fn open(connector: &Connector) -> Result<(Self, RawDocumentBuf), ConnectError> {
        let deadline = Instant::now() + connector.connect_timeout();
        let mut connection = connector.connect_unauthenticated(deadline).await?;
        let address = connection.address;
        let first = async { hello(&mut connection).await.map_err(|cause| ConnectFailure::Proof { cause }) };
        let first = connector.within(deadline, Phase::Proof, first).await;
        let first = first.map_err(|failure| connector.error(Some(address), failure))?;
        let topology_version = topology_version(&first);
        Ok((Self { connection, streaming: None, topology_version, heartbeat: HEARTBEAT }, first))
    }

    /// Has the server reply at least every `heartbeat`, instead of every ten seconds. Only before the first
    /// [`HelloStream::next`].
    #[must_use]
    pub fn at_least_every(mut self, heartbeat: Duration) -> Self {
        self.heartbeat = heartbeat;
        self
    }

    /// The connection, for the facts about its handshake.
    pub fn connection(&self) -> &UpstreamStream {
        &self.connection
    }

    /// Waits for the next hello reply, which the server sends at once if its state changes, or else after the
    /// heartbeat: ten seconds, or the time that was set.
    ///
    /// Takes at most that time and `connect_timeout`. Not cancel safe: if this was dropped or failed, the stream has
    /// ended.
    pub async fn next(&mut self, connector: &Connector) -> Result<RawDocumentBuf, ConnectError> {
        let address = self.connection.address;
        let limit = self.heartbeat + connector.connect_timeout();
        let next = tokio::time::timeout(limit, self.receive()).await;
        let next = next.unwrap_or_else(|_| {
            let silent = std::io::Error::new(std::io::ErrorKind::TimedOut, "no hello reply in time");
            Err(OwnCommandError::Closed(silent))
        });
        next.map_err(|cause| connector.error(Some(address), ConnectFailure::Lost { cause }))
    }

    async fn receive(&mut self) -> Result<RawDocumentBuf, OwnCommandError> {
        let expected = match (self.streaming.take(), &self.topology_version) {
            (Some(expected), _) => expected,
            (None, Some(known)) => {
                let wait = i64::try_from(self.heartbeat.as_millis()).unwrap_or(i64::MAX);
                let mut request = rawdoc! { "hello": 1, "maxAwaitTimeMS": wait, "$db": "admin" };
                request.append(bson::raw::cstr!("topologyVersion"), known.clone());
                let request = declared(request, self.connection.declares_api);
                own_commands::send(&mut self.connection.tls, FIRST_REQUEST_ID, flag::EXHAUST_ALLOWED, &request).await?;
                FIRST_REQUEST_ID
            }
            (None, None) => {
                // A server without topologyVersion replies at once.
                sleep(self.heartbeat).await;
                return hello(&mut self.connection).await;
            }
        };
        let CommandReply { body, request_id, more_to_come } =
            own_commands::receive(&mut self.connection.tls, expected).await?;
        self.streaming = more_to_come.then_some(request_id);
        self.topology_version = topology_version(&body);
        Ok(body)
    }
}

fn topology_version(hello: &RawDocument) -> Option<RawDocumentBuf> {
    hello.get_document("topologyVersion").ok().map(ToOwned::to_owned)
}
