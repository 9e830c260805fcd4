//! How a conversation ended, and which side ended it.

use std::fmt;
use std::io;

use crate::command::Unclear;
use crate::tls::tls_error_text;
use crate::wire::sasl::SaslUser;

/// A side of the gateway, or the gateway itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// mongod or mongos.
    Upstream,
    /// The gateway.
    Gateway,
}

/// Why a conversation ended. An ordinary end is not an error.
#[derive(Debug)]
pub enum EndReason {
    /// The side closed between two messages, with no request in flight.
    Closed,
    /// The side closed in the middle of a message, or with requests in flight.
    Interrupted,
    /// The socket failed.
    Socket(io::Error),
    /// What upstream sent is not valid in its TLS session.
    Tls(rustls::Error),
    /// The client sent `OP_COMPRESSED`.
    Compressed,
    /// The client sent a message that the policy cannot judge and that cannot be answered. It did not go upstream
    /// whole.
    Unjudged(&'static str),
    /// The client sent a document that the policy refuses, after a part of its message had gone upstream. The rest did
    /// not.
    RefusedDocument(Unclear),
    /// The client sent a message that could be a hello or an authentication and that cannot be answered. It did not go
    /// upstream, since both may not reach mongod as they are.
    Undetermined(&'static str),
    /// The next reply of a cursor or a stream arrived after a policy had come into force that does not allow it.
    DeniedMeanwhile,
    /// Upstream answered a hello with a reply that cannot be parsed, and could name members.
    UnreadableHello(&'static str),
    /// Upstream sent a reply that cannot be parsed, and could list what the policy hides from the client.
    UnreadableReply(&'static str),
    /// A long request that is held for the policy did not arrive in time.
    TooSlow,
    /// Upstream closed after the client had sent a message that is not valid in the wire protocol.
    NotUnderstood,
    /// The gateway drains, and no command is in flight.
    Drained,
    /// The gateway stops, with or without commands in flight.
    Stopped,
    /// No bytes have moved for `idle_timeout`.
    Idle,
    /// The connection is older than `max_lifetime`, and no command is in flight.
    Lifetime,
    /// The connection is older than `max_lifetime`, and its command in flight has taken longer than `drain_timeout`.
    LifetimeCut,
    /// The client closed its side, and did not get all replies within `half_close_timeout`.
    HalfClosed,
    /// The upstream connection was made with a replaced certificate set, and the client could not be moved to another.
    Recycled,
    /// The listener does not accept the client's certificate any longer.
    Dismissed,
    /// New connections go to another member.
    Outlived,
    /// Upstream answered a hello with members that all have names which the gateway does not know yet.
    MembersUnknown,
    /// The memory of the gateway is nearly used up, and the client was idle.
    Overload,
    /// The member does not answer the gateway any longer, and the client waits for its next state.
    MemberLost,
    /// A shared upstream connection sent a reply that answers no request in flight.
    ForeignReply,
    /// No upstream connection could be had for a request.
    NoUpstream,
}

/// The side that ends the conversation, and why.
pub(super) type End = (Side, EndReason);

/// How a conversation ended, and what passed through it.
#[derive(Debug)]
pub struct RelayEnd {
    /// The side that ended it.
    pub ended_by: Side,
    /// Why.
    pub reason: EndReason,
    /// Plaintext bytes read from the client.
    pub to_upstream_bytes: u64,
    /// Plaintext bytes read from upstream.
    pub to_client_bytes: u64,
    /// Requests that went upstream whole or got a local reply, except those that the policy denied.
    pub commands: u64,
    /// Replies with `ok: 0`, including local replies, except those of the policy.
    pub errors: u64,
    /// Requests that the policy denied.
    pub denied: u64,
    /// Requests without a reply at the end.
    pub unanswered: usize,
    /// Whether one of them was waiting for an upstream connection of the pool.
    pub waits_for_upstream: bool,
    /// Whether the end of the process has cut a command short.
    pub is_cut: bool,
    /// The user that the client named when it began to authenticate. The gateway does not verify it.
    pub user: Option<Box<SaslUser>>,
    /// What the client has to read before its side closes; empty where it reads nothing more.
    pub final_reply: Vec<u8>,
}

impl RelayEnd {
    /// Whether no message and no command was cut short.
    pub fn is_orderly(&self) -> bool {
        matches!(
            self.reason,
            EndReason::Closed
                | EndReason::Drained
                | EndReason::Idle
                | EndReason::Lifetime
                | EndReason::Recycled
                | EndReason::Dismissed
                | EndReason::Outlived
                | EndReason::MembersUnknown
                | EndReason::Overload
        )
    }

    /// Whether the client violated the protocol.
    pub fn is_protocol_error(&self) -> bool {
        matches!(
            self.reason,
            EndReason::Compressed
                | EndReason::Unjudged(_)
                | EndReason::RefusedDocument(_)
                | EndReason::Undetermined(_)
                | EndReason::TooSlow
                | EndReason::NotUnderstood
        )
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Gateway => "gateway",
        })
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Socket(error) => write!(f, "socket failed: {error}"),
            Self::Tls(error) => write!(f, "TLS failed: {}", tls_error_text(error)),
            Self::Compressed => f.write_str("sent OP_COMPRESSED, which was not negotiated"),
            Self::Unjudged(what) => write!(f, "sent {what}, which the policy cannot judge"),
            Self::RefusedDocument(unclear) => write!(f, "sent a command that the policy refuses: {unclear}"),
            Self::Undetermined(what) => write!(f, "sent {what}, which could be a hello or an authentication"),
            Self::DeniedMeanwhile => {
                f.write_str("a policy that does not allow the open cursor came into force before the next reply")
            }
            Self::UnreadableHello(what) => write!(f, "answered hello with {what}"),
            Self::UnreadableReply(what) => write!(f, "sent {what}, which the policy cannot filter"),
            Self::TooSlow => f.write_str("took too long to send a command that the policy has to read whole"),
            Self::NotUnderstood => f.write_str("closed after a message that is not valid in the MongoDB wire protocol"),
            Self::Drained => f.write_str("drained"),
            Self::Stopped => f.write_str("stopped"),
            Self::Idle => f.write_str("idle_timeout"),
            Self::Lifetime => f.write_str("max_lifetime"),
            Self::LifetimeCut => f.write_str("max_lifetime and drain_timeout"),
            Self::HalfClosed => f.write_str("half_close_timeout"),
            Self::Recycled => f.write_str("certificate renewed"),
            Self::MembersUnknown => {
                f.write_str("answered hello with members that all have names which the gateway does not know yet")
            }
            Self::Outlived => f.write_str("new connections go to another member"),
            Self::Overload => f.write_str("closed while idle: the memory of the gateway is nearly used up"),
            Self::MemberLost => f.write_str("the member does not answer the gateway any longer"),
            Self::ForeignReply => f.write_str("sent a reply that answers no request of this client"),
            Self::NoUpstream => f.write_str("no upstream connection could be had for a request"),
            Self::Dismissed => f.write_str("client certificate no longer accepted"),
        }
    }
}
