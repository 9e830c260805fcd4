//! How a connection ended: one value that feeds its metric and its log line.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tracing::field::display;

use super::Route;
use super::caller::Caller;
use super::destination::{MemberSelector, SelectError};
use super::refusal::Refusal;
use crate::identity::printable;
use crate::listener::{HandshakeFailure, Opening, ProxyHeaderError};
use crate::relay::{EndReason, RelayEnd, Side};
use crate::telemetry::metrics::ConnectionOutcome;
use crate::telemetry::repeats::Verdict;
use crate::upstream::{ConnectError, MongoUser};
use crate::wire::error_reply::CommandError;

/// How a connection ended, as its log line and its metric tell it.
pub(super) enum Ending {
    /// The socket could not be used at all.
    Unusable(io::Error),
    /// Not a byte came.
    Probe,
    /// What came was not MongoDB's protocol.
    Foreign(Foreign),
    /// It came with a PROXY header that is not taken.
    BadProxy(ProxyHeaderError),
    /// TLS came to nothing.
    Handshake(HandshakeFailure),
    /// The client is not one that this listener takes.
    Refused(Refusal),
    /// All places of the listener were taken.
    Full,
    /// The process ends, and the client had not asked for anything.
    Draining,
    /// There was no upstream to put it on.
    NoUpstream(UpstreamUnavailable),
    /// It was carried.
    Carried(Carried),
}

/// Where a client was carried, and how that ended.
pub(super) struct Carried {
    /// The address of mongod.
    pub(super) upstream: SocketAddr,
    /// The user that the gateway had authenticated the connection as.
    pub(super) user: Option<Arc<MongoUser>>,
    /// How it ended.
    pub(super) end: RelayEnd,
}

/// The user of `MongoDB` that a connection had, as its log line names it.
#[derive(Default)]
struct ShownUser {
    /// Nothing that could move a cursor.
    name: Option<String>,
    database: Option<String>,
    mechanism: Option<String>,
    /// `gateway`: it authenticated, and mongod confirmed it; `client`: it began to, as whom it said.
    source: Option<&'static str>,
}

impl Carried {
    fn user(&self) -> ShownUser {
        if let Some(user) = &self.user {
            let [database, mechanism] = ["$external", "MONGODB-X509"].map(|text| Some(text.to_owned()));
            return ShownUser { name: Some(user.name.clone()), database, mechanism, source: Some("gateway") };
        }
        let Some(named) = &self.end.user else { return ShownUser::default() };
        let shown = |text: &String| Some(printable(text));
        ShownUser {
            name: named.user.as_ref().and_then(shown),
            database: shown(&named.database),
            mechanism: Some(named.mechanism.to_owned()),
            source: Some("client"),
        }
    }
}

/// Why a client could be put on no upstream connection.
#[derive(Debug)]
pub(super) enum UpstreamUnavailable {
    /// There is no member for it.
    SelectError(SelectError),
    /// The member cannot be connected to.
    Unreachable(ConnectError),
}

impl UpstreamUnavailable {
    /// Where a redirected client was on its way to that is put on no member.
    fn original(&self) -> Option<SocketAddr> {
        match self {
            Self::SelectError(SelectError::Elsewhere(original)) => Some(*original),
            _ => None,
        }
    }

    /// What the client reads.
    pub(super) fn command_error(&self, upstream: &str) -> CommandError {
        match self {
            Self::SelectError(astray) => astray.command_error(upstream),
            Self::Unreachable(error) => {
                let (code, code_name) = error.client_code();
                CommandError { code, code_name, message: format!("mongate: {error}") }
            }
        }
    }
}

/// What came instead of MongoDB's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreign {
    /// A TLS handshake.
    Tls,
    /// An HTTP request.
    Http,
    /// A PROXY header where none is expected.
    Proxy,
    /// Something else.
    Unknown,
    /// Too little to tell.
    Unfinished,
}

impl Ending {
    /// The end of a client that did not get to a message, or not to one that counts.
    pub(super) fn of_opening(opening: Opening) -> Self {
        match opening {
            Opening::Nothing => Self::Probe,
            Opening::Failed(error) => Self::Unusable(error),
            Opening::BadProxy(error) => Self::BadProxy(error),
            Opening::Handshake(failure) => Self::Handshake(failure),
            Opening::Tls(_) => Self::Foreign(Foreign::Tls),
            Opening::Http => Self::Foreign(Foreign::Http),
            Opening::Proxy => Self::Foreign(Foreign::Proxy),
            Opening::Unknown => Self::Foreign(Foreign::Unknown),
            Opening::Unfinished | Opening::Message(..) => Self::Foreign(Foreign::Unfinished),
        }
    }

    pub(super) fn outcome(&self) -> ConnectionOutcome {
        match self {
            Self::Probe | Self::Draining => ConnectionOutcome::Probe,
            Self::Handshake(HandshakeFailure::Certificate(_)) | Self::Full | Self::Refused(_) => {
                ConnectionOutcome::Rejected
            }
            Self::Foreign(_) | Self::BadProxy(_) | Self::Handshake(_) => ConnectionOutcome::ProtocolError,
            Self::NoUpstream(_) => ConnectionOutcome::UpstreamFailed,
            Self::Carried(Carried { end, .. }) if end.is_protocol_error() => ConnectionOutcome::ProtocolError,
            Self::Carried(Carried { end, .. }) if end.ended_by == Side::Upstream && !end.is_orderly() => {
                ConnectionOutcome::UpstreamFailed
            }
            Self::Carried(..) | Self::Unusable(_) => ConnectionOutcome::Completed,
        }
    }

    /// One line; below info for what nobody needs to read.
    ///
    /// What is wrong with an upstream is not told here but once for all its connections. A refusal is a warning, but only
    /// now and then where it repeats.
    pub(super) fn log(&self, route: &Route, caller: &Caller, duration: Duration) {
        let listener = &route.listener;
        let outcome = self.outcome().label();
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let (client, proxy, user) = (caller.address(), caller.proxy().map(display), caller.user());
        let (uid, gid, pid) = (user.map(|u| u.uid), user.map(|u| u.gid), user.and_then(|u| u.pid));
        let principal = caller.who().map(|who| who.principal.as_str());
        let principal_source = caller.who().map(|who| who.source.label());
        match self {
            Self::Probe | Self::Draining | Self::Unusable(_) => {
                tracing::debug!(listener, %client, proxy, outcome, reason = %self, duration_ms, "connection closed");
            }
            Self::Carried(carried) => {
                let (Carried { upstream, end, .. }, user) = (carried, carried.user());
                tracing::info!(
                    listener,
                    %client,
                    proxy,
                    uid,
                    gid,
                    pid,
                    principal,
                    principal_source,
                    %upstream,
                    user = user.name,
                    user_database = user.database,
                    user_mechanism = user.mechanism,
                    user_source = user.source,
                    outcome,
                    ended_by = %end.ended_by,
                    reason = %self,
                    remedy = self.remedy_at(route),
                    commands = end.commands,
                    errors = end.errors,
                    denied = end.denied,
                    unanswered = end.unanswered,
                    to_upstream_bytes = end.to_upstream_bytes,
                    to_client_bytes = end.to_client_bytes,
                    duration_ms,
                    "connection closed"
                );
            }
            Self::NoUpstream(lost) => tracing::info!(
                listener,
                %client,
                proxy,
                principal,
                principal_source,
                original = lost.original().map(display),
                outcome,
                reason = %self,
                remedy = self.remedy_at(route),
                duration_ms,
                "connection refused"
            ),
            Self::Foreign(_) | Self::BadProxy(_) | Self::Handshake(_) | Self::Refused(_) | Self::Full => {
                let kind = self.kind();
                let verdict = route.door.refused.note(kind, std::time::Instant::now());
                if let Verdict::Log { suppressed } = verdict {
                    tracing::warn!(
                        listener,
                        %client,
                        proxy,
                        uid,
                        gid,
                        pid,
                        principal,
                        outcome,
                        kind,
                        reason = %self,
                        remedy = self.remedy_at(route),
                        duration_ms,
                        suppressed,
                        "connection refused"
                    );
                } else {
                    tracing::debug!(listener, %client, proxy, outcome, kind, reason = %self, duration_ms, "connection refused");
                }
            }
        }
    }

    /// The word that tells refusals apart, from a closed set.
    fn kind(&self) -> &'static str {
        match self {
            Self::Foreign(foreign) => foreign.label(),
            Self::BadProxy(_) => "bad_proxy_header",
            Self::Handshake(failure) => failure.outcome().label(),
            Self::Refused(refusal) => refusal.label(),
            _ => "max_connections",
        }
    }

    /// What the operator of that listener can do.
    fn remedy_at(&self, route: &Route) -> Option<String> {
        match (self, &route.destination) {
            (Self::Foreign(Foreign::Tls), MemberSelector::Intercepted(_)) => Some(
                "if it is the gateway itself, leave its user out of the iptables rule that redirects; else take tls=true out of \
                 the client's connection string: the gateway adds TLS itself"
                    .to_owned(),
            ),
            _ => self.remedy(&route.listener),
        }
    }

    /// What to do about a client that could not be served.
    fn remedy(&self, listener: &str) -> Option<String> {
        match self {
            Self::Foreign(foreign) => Some(foreign.remedy(listener)),
            Self::BadProxy(_) => Some("look at what the proxy in front of this listener sends".to_owned()),
            Self::Handshake(failure) => Some(handshake_remedy(failure, listener)),
            Self::Refused(refusal) => Some(refusal.remedy(listener)),
            Self::Full => Some(format!(
                "raise listener.{listener}.max_connections, or let clients pool fewer connections (maxPoolSize)"
            )),
            Self::Carried(Carried { end, .. }) => carried_remedy(&end.reason).map(str::to_owned),
            Self::NoUpstream(UpstreamUnavailable::SelectError(astray)) => astray.remedy().map(str::to_owned),
            _ => None,
        }
    }
}

fn carried_remedy(reason: &EndReason) -> Option<&'static str> {
    match reason {
        EndReason::Compressed => Some("take `compressors` out of the client's connection string"),
        EndReason::Unjudged(_) => Some(
            "use a driver for MongoDB 3.6 or later that sends OP_MSG; with enforcement = \"dry-run\" it would pass",
        ),
        EndReason::Undetermined(_) => Some("use a driver of MongoDB 3.6 or later"),
        EndReason::UnreadableHello(_) => Some("look at what answers there: it is no mongod, or a very new one"),
        EndReason::StreamBeforePolicy => Some("none: drivers open the cursor again, and the policy judges it"),
        EndReason::TooSlow => Some("send fewer documents at a time, or look at the network between client and gateway"),
        EndReason::NotUnderstood => Some("look at what the client sends; mongod does not take it either"),
        _ => None,
    }
}

fn handshake_remedy(failure: &HandshakeFailure, listener: &str) -> String {
    match failure {
        HandshakeFailure::Certificate(refusal) => refusal.remedy().to_owned(),
        HandshakeFailure::Alert(_) => format!(
            "give the client the authority of listener.{listener}.tls.certificate_file as its tlsCAFile, and have it connect by a name of that certificate"
        ),
        HandshakeFailure::Protocol(_) => "find out what this client speaks; a driver needs TLS 1.2 or 1.3".to_owned(),
        HandshakeFailure::Closed | HandshakeFailure::TimedOut => {
            "find out who this client is: drivers finish what they begin".to_owned()
        }
    }
}

impl Foreign {
    fn remedy(self, listener: &str) -> String {
        match self {
            Self::Tls => format!(
                "take tls=true out of the client's connection string: the gateway adds TLS itself; or set listener.{listener}.mode to \"permissive\""
            ),
            Self::Http => "point the browser or health check at the administration port".to_owned(),
            Self::Proxy => format!(
                "have the proxy send no PROXY header, or set listener.{listener}.proxy_protocol and proxy_trusted"
            ),
            Self::Unknown | Self::Unfinished => {
                "find out who this client is: only MongoDB clients belong here".to_owned()
            }
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Proxy => "proxy_header",
            Self::Unknown => "not_mongodb",
            Self::Unfinished => "unfinished",
        }
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls => "TLS on a plaintext port",
            Self::Http => "HTTP on the MongoDB port",
            Self::Proxy => "PROXY protocol on a listener that does not expect it",
            Self::Unknown => "not the MongoDB wire protocol",
            Self::Unfinished => "an incomplete first message",
        })
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable(error) => write!(f, "socket failed: {error}"),
            Self::Probe => f.write_str("sent nothing"),
            Self::Foreign(foreign) => write!(f, "{foreign}"),
            Self::BadProxy(error) => write!(f, "{error}"),
            Self::Handshake(failure) => write!(f, "{failure}"),
            Self::Refused(refusal) => write!(f, "{refusal}"),
            Self::Full => f.write_str("max_connections reached"),
            Self::Draining => f.write_str("drained"),
            Self::NoUpstream(UpstreamUnavailable::SelectError(astray)) => write!(f, "{astray}"),
            Self::NoUpstream(UpstreamUnavailable::Unreachable(error)) => f.write_str(error.reason()),
            Self::Carried(Carried { end, .. }) => write!(f, "{}", end.reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{IdentityRefusal, SpiffeIdError};
    use crate::listener::ProxyRefusal;
    use crate::telemetry::metrics::ClientHandshake;

    fn refused() -> Vec<Ending> {
        let foreign = [Foreign::Tls, Foreign::Http, Foreign::Proxy, Foreign::Unknown, Foreign::Unfinished];
        let not_spiffe = IdentityRefusal::NotSpiffe { shown: "x".to_owned(), cause: SpiffeIdError::NoPath };
        let refusals = [
            Refusal::NotTls,
            Refusal::NoCertificate,
            Refusal::UnreadableCertificate,
            Refusal::Identity(not_spiffe),
            Refusal::Identity(IdentityRefusal::NoTrustDomain { domain: "td".to_owned() }),
            Refusal::Proxy(ProxyRefusal::Untrusted),
            Refusal::Proxy(ProxyRefusal::Missing),
        ];
        let more = [Ending::BadProxy(ProxyHeaderError::TooLong), Ending::Full];
        foreign.map(Ending::Foreign).into_iter().chain(refusals.map(Ending::Refused)).chain(more).collect()
    }

    #[test]
    fn the_page_lists_every_kind_of_refusal() {
        let page = include_str!("../../docs/identity.md");
        let listed =
            |kind: &str| page.lines().any(|line| line.starts_with("| `") && line.contains(&format!("`{kind}`")));
        let refused = refused();
        let handshakes = ClientHandshake::ALL.into_iter().filter(|outcome| *outcome != ClientHandshake::Ok);
        for kind in refused.iter().map(Ending::kind).chain(handshakes.map(ClientHandshake::label)) {
            assert!(listed(kind), "{kind} is not on the page");
        }
    }

    #[test]
    fn every_refusal_says_what_to_do_and_names_the_key_of_its_listener() {
        for ending in refused() {
            let remedy = ending.remedy("orders").unwrap();
            assert!(!remedy.contains("listener.") || remedy.contains("listener.orders."), "{remedy}");
        }
    }

    #[test]
    fn a_refusal_tells_the_client_which_listener_it_met_and_has_one_code() {
        for ending in refused() {
            let Ending::Refused(refusal) = ending else { continue };
            let error = refusal.command_error("orders");
            assert_eq!((error.code, error.code_name), (13, "Unauthorized"));
            assert!(error.message.starts_with("mongate: listener orders"), "{}", error.message);
        }
    }
}
