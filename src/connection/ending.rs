//! How a connection ended: one value that determines its metric and its log line.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::client_rejection::ClientRejection;
use super::explanation::EndingExplanation;
use super::other_protocol::OtherProtocol;
use crate::cluster::{DialError, SelectError};
use crate::listener::{HandshakeFailure, Opening, ProxyHeaderError};
use crate::relay::{EndReason, RelayEnd, Side};
use crate::telemetry::metrics::ConnectionOutcome;
use crate::upstream::MongoUser;

/// The MongoDB error for a client that the gateway cannot connect to a server. Drivers try again after it.
pub(super) const HOST_UNREACHABLE: (i32, &str) = (6, "HostUnreachable");

/// How a connection ended.
pub(super) enum Ending {
    /// The client's socket failed before its first message.
    SocketFailed(io::Error),
    /// The client sent nothing.
    Probe,
    /// The client sent something other than the MongoDB wire protocol.
    OtherProtocol(OtherProtocol),
    /// The client's PROXY header is invalid.
    BadProxyHeader(ProxyHeaderError),
    /// The TLS handshake failed.
    HandshakeFailed(HandshakeFailure),
    /// The listener does not accept this client.
    Rejected(ClientRejection),
    /// The listener has reached its connection limit, which is this.
    ConnectionLimit(usize),
    /// New connections are refused, because this much of the memory limit is used.
    Overloaded {
        /// In percent.
        percent: u64,
    },
    /// Another client got its place before it had sent its first message. The number of places.
    Displaced(usize),
    /// The drain began before the client's first message.
    Drained,
    /// There was no upstream connection for the client.
    NoUpstream(UpstreamUnavailable),
    /// Messages were relayed.
    Relayed(Relayed),
}

/// A connection that was relayed.
pub(super) struct Relayed {
    /// The address of the server; `None` if the client has needed none.
    pub(super) upstream: Option<SocketAddr>,
    /// How many upstream connections of a pool the client has used; `None` with a connection of its own.
    pub(super) shared: Option<u64>,
    /// The MongoDB user, if the gateway authenticated the connection.
    pub(super) user: Option<Arc<MongoUser>>,
    /// How the relay ended.
    pub(super) end: RelayEnd,
}

/// Why there was no upstream connection for a client.
#[derive(Debug)]
pub(super) enum UpstreamUnavailable {
    /// No member could be selected.
    NoMember(SelectError),
    /// The gateway cannot connect to the member.
    ConnectFailed(DialError),
}

/// The part of a listener's configuration that explanations depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct ListenerFacts<'a> {
    /// The name of the listener.
    pub(super) listener: &'a str,
    /// The name of its upstream.
    pub(super) upstream: &'a str,
    /// Whether it takes redirected connections.
    pub(super) intercepts: bool,
}

impl Ending {
    /// The end of a client that did not send a complete message header.
    pub(super) fn of_opening(opening: Opening) -> Self {
        match opening {
            Opening::Nothing => Self::Probe,
            Opening::Failed(error) => Self::SocketFailed(error),
            Opening::BadProxy(error) => Self::BadProxyHeader(error),
            Opening::Handshake(failure) => Self::HandshakeFailed(failure),
            Opening::Tls(_) => Self::OtherProtocol(OtherProtocol::Tls),
            Opening::Http => Self::OtherProtocol(OtherProtocol::Http),
            Opening::Proxy => Self::OtherProtocol(OtherProtocol::Proxy),
            Opening::Unknown => Self::OtherProtocol(OtherProtocol::Unknown),
            Opening::Unfinished | Opening::Message(..) => Self::OtherProtocol(OtherProtocol::Unfinished),
        }
    }

    /// How the connection is counted.
    pub(super) fn outcome(&self) -> ConnectionOutcome {
        match self {
            Self::Probe | Self::Drained => ConnectionOutcome::Probe,
            Self::HandshakeFailed(HandshakeFailure::Certificate { .. })
            | Self::ConnectionLimit(_)
            | Self::Displaced(_)
            | Self::Overloaded { .. }
            | Self::Rejected(_) => ConnectionOutcome::Rejected,
            Self::OtherProtocol(_) | Self::BadProxyHeader(_) | Self::HandshakeFailed(_) => {
                ConnectionOutcome::ProtocolError
            }
            Self::NoUpstream(_) => ConnectionOutcome::UpstreamFailed,
            Self::Relayed(Relayed { end, .. }) if end.is_protocol_error() => ConnectionOutcome::ProtocolError,
            Self::Relayed(Relayed { end, shared, .. })
                if matches!(end.reason, EndReason::NoUpstream)
                    // The client has given up before there was an upstream connection. A driver's monitor, which waits
                    // for a reply of the gateway, needs none.
                    || (*shared == Some(0) && end.waits_for_upstream)
                    || (end.ended_by == Side::Upstream && !end.is_orderly()) =>
            {
                ConnectionOutcome::UpstreamFailed
            }
            Self::Relayed(..) | Self::SocketFailed(_) => ConnectionOutcome::Completed,
        }
    }

    /// The explanation for the operator and the client.
    pub(super) fn explanation(&self, facts: &ListenerFacts<'_>) -> EndingExplanation {
        let listener = facts.listener;
        match self {
            Self::SocketFailed(error) => EndingExplanation::new("socket_failed", format!("socket failed: {error}")),
            Self::Probe => EndingExplanation::new("probe", "sent nothing"),
            Self::OtherProtocol(protocol) => protocol.explanation(listener, facts.intercepts),
            Self::BadProxyHeader(error) => EndingExplanation::new("bad_proxy_header", error.to_string())
                .with_remedy("check what the proxy in front of this listener sends"),
            Self::HandshakeFailed(failure) => handshake_explanation(failure, listener),
            Self::Rejected(rejection) => rejection.explanation(listener),
            Self::ConnectionLimit(limit) => EndingExplanation::new("max_connections", "max_connections reached")
                .with_remedy(format!(
                    "raise listener.{listener}.max_connections, or reduce the connection pools of the clients \
                     (maxPoolSize)"
                ))
                .with_client_error(
                    HOST_UNREACHABLE,
                    &format!("listener {listener} has all of its {limit} connections in use (max_connections)"),
                ),
            Self::Overloaded { percent } => EndingExplanation::new(
                "overloaded",
                format!("{percent} % of the memory limit of the gateway is used, so that new connections are refused"),
            )
            .with_remedy(
                "raise the memory limit of the container, or lower max_connections and max_held_bytes; \
                 docs/operations.md says how much memory the gateway needs",
            )
            .with_client_error(
                HOST_UNREACHABLE,
                &format!("listener {listener} takes no new connections: the memory of the gateway is nearly used up"),
            ),
            Self::Displaced(places) => EndingExplanation::new(
                "displaced",
                format!(
                    "closed to make room: it had not sent its first message, and all {places} places for such clients \
                     were in use"
                ),
            )
            .with_remedy(
                "find out which client this is: drivers send their first message at once; the number of places is a \
                 quarter of max_connections, and at most 1024",
            ),
            Self::Drained => EndingExplanation::new("drained", "drained"),
            Self::NoUpstream(unavailable) => unavailable.explanation(facts.upstream),
            Self::Relayed(Relayed { end, .. }) => {
                let remedy = relay_remedy(&end.reason).map(Cow::Borrowed);
                EndingExplanation { remedy, ..EndingExplanation::new("relayed", end.reason.to_string()) }
            }
        }
    }
}

impl UpstreamUnavailable {
    fn explanation(&self, upstream: &str) -> EndingExplanation {
        match self {
            Self::NoMember(error) => {
                let error = error.explanation(upstream);
                let remedy = error.remedy.map(Cow::Borrowed);
                let explanation = EndingExplanation::new(error.label, error.label);
                EndingExplanation { remedy, ..explanation.with_client_error(HOST_UNREACHABLE, &error.client_message) }
            }
            // The remedy is logged once for all connections to this member, not here.
            Self::ConnectFailed(error) => EndingExplanation::new(error.cause.reason(), error.cause.reason())
                .with_client_error(error.cause.client_code(), &error.to_string()),
        }
    }

    /// The original destination of a redirected connection, if no member has that address.
    pub(super) fn original(&self) -> Option<SocketAddr> {
        match self {
            Self::NoMember(SelectError::NoMemberAtOriginalAddress(original)) => Some(*original),
            _ => None,
        }
    }
}

fn handshake_explanation(failure: &HandshakeFailure, listener: &str) -> EndingExplanation {
    let remedy: Cow<'static, str> = match failure {
        HandshakeFailure::Certificate { rejection, .. } => rejection.remedy().into(),
        HandshakeFailure::Alert(_) => format!(
            "set the client's tlsCAFile to the CA that issued listener.{listener}.tls.certificate_file, and connect \
             by a name in that certificate"
        )
        .into(),
        HandshakeFailure::Protocol(_) => {
            "find out which TLS version this client uses; a driver needs TLS 1.2 or 1.3".into()
        }
        HandshakeFailure::HelloTooLong => {
            "find out which client this is: the ClientHello of a driver has about 500 bytes, or 2000 with post-quantum \
             keys"
                .into()
        }
        HandshakeFailure::TooLong => {
            "give the client a certificate file with the certificate and its intermediate CAs only".into()
        }
        HandshakeFailure::Closed | HandshakeFailure::TimedOut => {
            "find out which client this is: drivers complete the TLS handshake".into()
        }
    };
    EndingExplanation::new(failure.outcome().label(), failure.to_string()).with_remedy(remedy)
}

fn relay_remedy(reason: &EndReason) -> Option<&'static str> {
    match reason {
        EndReason::Compressed => Some("remove `compressors` from the client's connection string"),
        EndReason::Unjudged(_) => Some(
            "update the driver to a version that sends OP_MSG; enforcement = \"dry-run\" would forward this message",
        ),
        EndReason::RefusedDocument(_) => {
            Some("correct the document that the client inserts; enforcement = \"dry-run\" would forward this message")
        }
        EndReason::Undetermined(_) => Some("update the driver to a version that sends OP_MSG"),
        EndReason::UnreadableHello(_) | EndReason::UnreadableReply(_) => {
            Some("check what listens at this address: it is not a mongod, or a newer one than mongate knows")
        }
        EndReason::DeniedMeanwhile => {
            Some("no action is needed: if the client opens the cursor again, the policy evaluates it")
        }
        EndReason::TooSlow => Some("send fewer documents per command, or check the network between client and gateway"),
        EndReason::Overload => {
            Some("raise the memory limit of the container, or lower max_connections and max_held_bytes")
        }
        EndReason::NotUnderstood => Some("check what the client sends; mongod does not accept it either"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{IdentityRefusal, SpiffeIdError};
    use crate::listener::ProxyRefusal;
    use crate::telemetry::metrics::ClientHandshake;

    const FACTS: ListenerFacts<'_> = ListenerFacts { listener: "orders", upstream: "orders", intercepts: false };

    fn rejected() -> Vec<Ending> {
        let protocols = [
            OtherProtocol::Tls,
            OtherProtocol::Http,
            OtherProtocol::Proxy,
            OtherProtocol::Unknown,
            OtherProtocol::Unfinished,
        ];
        let not_spiffe = IdentityRefusal::NotSpiffe { shown: "x".to_owned(), cause: SpiffeIdError::NoPath };
        let rejections = [
            ClientRejection::NotTls,
            ClientRejection::NoCertificate,
            ClientRejection::UnreadableCertificate,
            ClientRejection::Identity(not_spiffe),
            ClientRejection::Identity(IdentityRefusal::NoTrustDomain { domain: "td".to_owned() }),
            ClientRejection::Proxy(ProxyRefusal::Untrusted),
            ClientRejection::Proxy(ProxyRefusal::Missing),
        ];
        let more = [
            Ending::BadProxyHeader(ProxyHeaderError::TooLong),
            Ending::ConnectionLimit(1),
            Ending::Displaced(16),
            Ending::Overloaded { percent: 91 },
        ];
        let protocols = protocols.map(Ending::OtherProtocol).into_iter();
        protocols.chain(rejections.map(Ending::Rejected)).chain(more).collect()
    }

    #[test]
    fn the_page_lists_every_kind_of_rejection() {
        let page = include_str!("../../docs/identity.md");
        let listed =
            |kind: &str| page.lines().any(|line| line.starts_with("| `") && line.contains(&format!("`{kind}`")));
        let handshakes = ClientHandshake::ALL.into_iter().filter(|outcome| *outcome != ClientHandshake::Ok);
        let kinds = rejected().into_iter().map(|ending| ending.explanation(&FACTS).label);
        for kind in kinds.chain(handshakes.map(ClientHandshake::label)) {
            assert!(listed(kind), "{kind} is not on the page");
        }
    }

    #[test]
    fn every_rejection_has_a_remedy_and_names_the_key_of_its_listener() {
        for ending in rejected() {
            let remedy = ending.explanation(&FACTS).remedy.unwrap();
            assert!(!remedy.contains("listener.") || remedy.contains("listener.orders."), "{remedy}");
        }
    }

    #[test]
    fn a_rejected_client_reads_the_name_of_the_listener_and_one_error_code() {
        for ending in rejected() {
            if let Ending::Rejected(_) = ending {
                let error = ending.explanation(&FACTS).client_error.unwrap();
                assert_eq!((error.code, error.code_name), (13, "Unauthorized"));
                assert!(error.message.starts_with("mongate: listener orders"), "{}", error.message);
            }
        }
    }
}
