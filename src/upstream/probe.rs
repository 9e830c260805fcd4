//! Who answers at an upstream: `hello` and `buildInfo` on a connection that no client will use.

use std::fmt;

use bson::{RawDocument, RawDocumentBuf, rawdoc};
use tokio::time::Instant;

use super::own_commands::{self, OwnCommandError};
use super::{ConnectError, ConnectFailure, Connector, Phase, UpstreamStream};

/// mongod's code for a command that it does not know.
const COMMAND_NOT_FOUND: i32 = 59;

/// What a probe found.
#[derive(Debug)]
pub struct Probe {
    /// The connection; dropping it closes it.
    pub stream: UpstreamStream,
    /// What mongod said about itself.
    pub server: ServerFacts,
}

/// What mongod says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// As `6.0.5`; `None` if `buildInfo` is not allowed without authentication.
    pub version: Option<String>,
    /// Its part in the deployment.
    pub role: ServerRole,
    /// Name of its replica set.
    pub set_name: Option<String>,
    /// Newest wire protocol version that it speaks.
    pub max_wire_version: i32,
}

/// Part of a server in its deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerRole {
    /// A mongod of its own.
    Standalone,
    /// The writable member of a replica set.
    Primary,
    /// A readable member of a replica set.
    Secondary,
    /// A router.
    Mongos,
    /// A member that is none of these: starting, recovering, arbiter, not yet initiated.
    Other,
}

impl fmt::Display for ServerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Standalone => "standalone",
            Self::Primary => "primary",
            Self::Secondary => "secondary",
            Self::Mongos => "mongos",
            Self::Other => "other",
        })
    }
}

/// Connects, and asks the server who it is; all within `connect_timeout`.
///
/// Cancel safe: dropping the future closes what was opened.
pub async fn probe(connector: &Connector) -> Result<Probe, ConnectError> {
    let deadline = Instant::now() + connector.config.connect_timeout;
    let mut stream = connector.connect_by(deadline).await?;
    let server = identify(connector, &mut stream, deadline).await?;
    Ok(Probe { stream, server })
}

/// Asks the server of a proven connection who it is; no client can be put on it afterwards.
pub async fn identify(
    connector: &Connector,
    stream: &mut UpstreamStream,
    deadline: Instant,
) -> Result<ServerFacts, ConnectError> {
    let address = stream.address;
    let server = connector.within(deadline, Phase::Proof, ask_server(stream)).await;
    server.map_err(|failure| connector.error(Some(address), failure))
}

async fn ask_server(stream: &mut UpstreamStream) -> Result<ServerFacts, ConnectFailure> {
    let failed = |cause| ConnectFailure::Proof { cause };
    let hello = hello(stream).await.map_err(failed)?;
    let build_info = match own_commands::ask(&mut stream.tls, &rawdoc! { "buildInfo": 1, "$db": "admin" }).await {
        Ok(reply) => Some(reply),
        Err(OwnCommandError::Refused { .. }) => None,
        Err(cause) => return Err(failed(cause)),
    };
    let version = build_info.and_then(|reply| reply.get_str("version").ok().map(crate::identity::printable));
    Ok(ServerFacts { version, ..ServerFacts::of_hello(&hello) })
}

impl ServerFacts {
    /// What a hello tells; that is not the version.
    pub fn of_hello(hello: &RawDocument) -> Self {
        Self {
            version: None,
            role: role(hello),
            set_name: hello.get_str("setName").ok().map(crate::identity::printable),
            max_wire_version: hello.get_i32("maxWireVersion").unwrap_or(0),
        }
    }
}

/// Its hello, by whichever name it knows the command.
pub(super) async fn hello(stream: &mut UpstreamStream) -> Result<RawDocumentBuf, OwnCommandError> {
    match own_commands::ask(&mut stream.tls, &rawdoc! { "hello": 1, "$db": "admin" }).await {
        // Before 4.4.2 it has only its old name.
        Err(OwnCommandError::Refused { code: COMMAND_NOT_FOUND, .. }) => {
            own_commands::ask(&mut stream.tls, &rawdoc! { "isMaster": 1, "$db": "admin" }).await
        }
        answer => answer,
    }
}

fn role(hello: &RawDocument) -> ServerRole {
    let says = |key| hello.get_bool(key).unwrap_or(false);
    if hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid") {
        return ServerRole::Mongos;
    }
    if hello.get_str("setName").is_err() {
        return if says("isreplicaset") { ServerRole::Other } else { ServerRole::Standalone };
    }
    match () {
        () if says("isWritablePrimary") || says("ismaster") => ServerRole::Primary,
        () if says("secondary") => ServerRole::Secondary,
        () => ServerRole::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_read_from_hello() {
        for (hello, expected) in [
            (rawdoc! { "isWritablePrimary": true }, ServerRole::Standalone),
            (rawdoc! { "isWritablePrimary": true, "setName": "rs0" }, ServerRole::Primary),
            (rawdoc! { "ismaster": true, "setName": "rs0" }, ServerRole::Primary),
            (rawdoc! { "isWritablePrimary": false, "secondary": true, "setName": "rs0" }, ServerRole::Secondary),
            (rawdoc! { "isWritablePrimary": false, "secondary": false, "setName": "rs0" }, ServerRole::Other),
            (rawdoc! { "isWritablePrimary": false, "isreplicaset": true }, ServerRole::Other),
            (rawdoc! { "isWritablePrimary": true, "msg": "isdbgrid" }, ServerRole::Mongos),
            (rawdoc! {}, ServerRole::Standalone),
        ] {
            assert_eq!(role(&hello), expected, "{hello:?}");
        }
    }
}
