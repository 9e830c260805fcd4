//! What a server says about itself, again each time that it changes: a stream of replies to one hello.
//!
//! Spec: mongodb/specifications `source/server-discovery-and-monitoring/server-monitoring.md` § Streaming Protocol.

use std::time::Duration;

use bson::{RawDocument, RawDocumentBuf, rawdoc};
use tokio::time::{Instant, sleep};

use super::own_commands::{self, CommandReply, OwnCommandError};
use super::probe::hello;
use super::{ConnectError, ConnectFailure, Connector, Phase, UpstreamStream};
use crate::wire::message_scan::flag;

/// How long a server waits for a change before it answers all the same; as drivers have it (`heartbeatFrequencyMS`).
const HEARTBEAT: Duration = Duration::from_secs(10);

/// What a monitor's first request is called; replies count on from there.
const FIRST_REQUEST_ID: i32 = 1;

/// A connection on which a server tells what it is. Dropping it closes it.
pub struct HelloStream {
    connection: UpstreamStream,
    /// What the next reply answers, where one comes unasked.
    streaming: Option<i32>,
    /// Of the last reply; a server before 4.4 has none.
    topology_version: Option<RawDocumentBuf>,
}

impl HelloStream {
    /// Connects and asks for the first time; all within `connect_timeout`. The connection is not authenticated: `hello` needs
    /// no user, and an arbiter has none.
    ///
    /// Cancel safe: dropping the future closes what was opened.
    pub async fn open(connector: &Connector) -> Result<(Self, RawDocumentBuf), ConnectError> {
        let deadline = Instant::now() + connector.config.connect_timeout;
        let mut connection = connector.connect_by(deadline).await?;
        let address = connection.address;
        let first = async { hello(&mut connection).await.map_err(|cause| ConnectFailure::Proof { cause }) };
        let first = connector.within(deadline, Phase::Proof, first).await;
        let first = first.map_err(|failure| connector.error(Some(address), failure))?;
        let topology_version = topology_version(&first);
        Ok((Self { connection, streaming: None, topology_version }, first))
    }

    /// The connection, for what its handshake showed.
    pub fn connection(&self) -> &UpstreamStream {
        &self.connection
    }

    /// What the server says next: at once when something has changed, else after ten seconds.
    ///
    /// Bounded by that and the upstream's `connect_timeout`. Not cancel safe: where this was dropped or failed, the stream is
    /// over.
    pub async fn next(&mut self, connector: &Connector) -> Result<RawDocumentBuf, ConnectError> {
        let address = self.connection.address;
        let limit = HEARTBEAT + connector.config.connect_timeout;
        let next = tokio::time::timeout(limit, self.go_on()).await;
        let next = next.unwrap_or_else(|_| {
            let silent = std::io::Error::new(std::io::ErrorKind::TimedOut, "no hello came in time");
            Err(OwnCommandError::Closed(silent))
        });
        next.map_err(|cause| connector.error(Some(address), ConnectFailure::Lost { cause }))
    }

    async fn go_on(&mut self) -> Result<RawDocumentBuf, OwnCommandError> {
        let expected = match (self.streaming.take(), &self.topology_version) {
            (Some(expected), _) => expected,
            (None, Some(known)) => {
                let wait = i64::try_from(HEARTBEAT.as_millis()).unwrap_or(i64::MAX);
                let mut request = rawdoc! { "hello": 1, "maxAwaitTimeMS": wait, "$db": "admin" };
                request.append(bson::raw::cstr!("topologyVersion"), known.clone());
                own_commands::send(&mut self.connection.tls, FIRST_REQUEST_ID, flag::EXHAUST_ALLOWED, &request).await?;
                FIRST_REQUEST_ID
            }
            (None, None) => {
                // Such a server answers at once.
                sleep(HEARTBEAT).await;
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
