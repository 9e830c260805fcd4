//! Probes a server: `hello` and `buildInfo` on a connection that no client will use.

use std::fmt;

use bson::{RawDocument, RawDocumentBuf, rawdoc};
use tokio::time::Instant;

use super::connect_error::ConnectError;
use super::connector::Connector;
use super::failure::{ConnectFailure, Phase};
use super::own_commands::{self, OwnCommandError, declared};
use super::server_error_codes::{COMMAND_NOT_FOUND, LOAD_BALANCER_SUPPORT_MISMATCH};
use super::stream::UpstreamStream;

/// The result of a probe.
#[derive(Debug)]
pub struct Probe {
    /// The connection. Dropping it closes it.
    pub stream: UpstreamStream,
    /// The facts about the server.
    pub server: ServerFacts,
}

/// What a server reports about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// As `6.0.5`; `None` if the server does not allow `buildInfo` without authentication.
    pub version: Option<String>,
    /// Its role in the deployment.
    pub role: ServerRole,
    /// Name of its replica set.
    pub set_name: Option<String>,
    /// The newest wire protocol version that it supports.
    pub max_wire_version: i32,
}

/// The role of a server in its deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerRole {
    /// A mongod without a replica set.
    Standalone,
    /// The writable member of a replica set.
    Primary,
    /// A readable member of a replica set.
    Secondary,
    /// A mongos.
    Mongos,
    /// A member in another state: starting, recovering, an arbiter, or not initiated.
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

/// Connects and asks the server about itself, all within `connect_timeout`.
///
/// Cancel safe: dropping the future closes the connection.
pub async fn probe(connector: &Connector) -> Result<Probe, ConnectError> {
    let deadline = Instant::now() + connector.connect_timeout();
    let mut stream = connector.connect_unauthenticated(deadline).await?;
    let server = identify(connector, &mut stream, deadline).await?;
    Ok(Probe { stream, server })
}

/// Asks the server of a proven connection about itself. No client may use the connection afterwards.
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
    let build_info = declared(rawdoc! { "buildInfo": 1, "$db": "admin" }, stream.declares_api);
    let build_info = match own_commands::run(&mut stream.tls, &build_info).await {
        Ok(reply) => Some(reply),
        Err(OwnCommandError::Refused { .. }) => None,
        Err(cause) => return Err(failed(cause)),
    };
    let version = build_info.and_then(|reply| reply.get_str("version").ok().map(crate::identity::printable));
    Ok(ServerFacts { version, ..ServerFacts::of_hello(&hello) })
}

impl ServerFacts {
    /// The facts in a hello reply, which does not contain the version.
    pub fn of_hello(hello: &RawDocument) -> Self {
        Self {
            version: None,
            role: role(hello),
            set_name: hello.get_str("setName").ok().map(crate::identity::printable),
            max_wire_version: hello.get_i32("maxWireVersion").unwrap_or(0),
        }
    }
}

/// Runs `hello`, or `isMaster` on a server that does not know `hello`. On a mongos' port for load balancers, the hello
/// says that it comes through one; a mongod refuses a hello that says so. Declares an API version if the server was
/// configured to require one since the connection was proven.
pub(super) async fn hello(stream: &mut UpstreamStream) -> Result<RawDocumentBuf, OwnCommandError> {
    let command = || rawdoc! { "hello": 1, "$db": "admin" };
    match own_commands::run(&mut stream.tls, &declared(command(), stream.declares_api)).await {
        // Servers before 4.4.2, which know no API version.
        Err(OwnCommandError::Refused { code: COMMAND_NOT_FOUND, .. }) => {
            own_commands::run(&mut stream.tls, &rawdoc! { "isMaster": 1, "$db": "admin" }).await
        }
        Err(OwnCommandError::Refused { code: LOAD_BALANCER_SUPPORT_MISMATCH, .. }) => {
            let hello = rawdoc! { "hello": 1, "loadBalanced": true, "$db": "admin" };
            own_commands::run(&mut stream.tls, &declared(hello, stream.declares_api)).await
        }
        Err(error) if error.requires_api() && !stream.declares_api => {
            stream.declares_api = true;
            own_commands::run(&mut stream.tls, &declared(command(), true)).await
        }
        result => result,
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
    fn the_role_is_read_from_a_hello_reply() {
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
