//! How a relay ended, and who ended it.

use std::fmt;
use std::io;

use crate::wire::sasl::SaslUser;

/// A side of the gateway, or the gateway itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that connected to us.
    Client,
    /// mongod.
    Upstream,
    /// Us.
    Gateway,
}

/// Why a relay ended. An ordinary end is not an error.
#[derive(Debug)]
pub enum EndReason {
    /// Closed in order, between messages.
    Closed,
    /// Closed, or said nothing more, in the middle of a message or with requests unanswered.
    Interrupted,
    /// The socket failed.
    Socket(io::Error),
    /// What upstream sent was not TLS as it had been agreed on.
    Tls(rustls::Error),
    /// The client sent `OP_COMPRESSED`.
    Compressed,
    /// The client sent what the policy in force cannot judge and nobody can answer; none of it went upstream whole.
    Unjudged(&'static str),
    /// The client sent what could be a hello or an authentication, which does not go upstream as it is, and what nobody can
    /// answer.
    Undetermined(&'static str),
    /// Upstream answered a hello with what cannot be read: the names of members could be in it.
    UnreadableHello(&'static str),
    /// A long message of the client's, held for the policy, did not arrive in time.
    TooSlow,
    /// Upstream closed after the client had sent what is no message of the protocol.
    NotUnderstood,
    /// The gateway drains, and no command was in flight.
    Drained,
    /// The gateway stops, whatever was in flight.
    Stopped,
    /// Nothing moved for `idle_timeout`.
    Idle,
    /// `max_lifetime` is over, and no command was in flight.
    Lifetime,
    /// Its upstream connection was made with a certificate set that is no longer in use.
    Recycled,
    /// Whoever accepted the client does not any more.
    Dismissed,
    /// Its member is not the one that connections are put on any more.
    Outlived,
}

/// How a relay ended, with what passed through it.
#[derive(Debug)]
pub struct RelayEnd {
    /// Who ended it.
    pub ended_by: Side,
    /// Why.
    pub reason: EndReason,
    /// Plaintext bytes read from the client.
    pub to_upstream_bytes: u64,
    /// Plaintext bytes read from upstream.
    pub to_client_bytes: u64,
    /// Requests that went upstream whole, or were answered by the gateway itself.
    pub commands: u64,
    /// Replies that said `ok: 0`, also of the gateway's own, but for what the policy refused.
    pub errors: u64,
    /// Requests that the policy refused.
    pub denied: u64,
    /// Requests that had no reply at the end.
    pub unanswered: usize,
    /// Whom the client named when it began to authenticate; nobody has proven that.
    pub user: Option<Box<SaslUser>>,
    /// What the client is still to be told, before its side closes; empty where nothing is.
    pub final_reply: Vec<u8>,
}

impl RelayEnd {
    /// Whether nothing was cut short.
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
        )
    }

    /// Whether the client broke the protocol, rather than just ending the conversation.
    pub fn is_protocol_error(&self) -> bool {
        matches!(
            self.reason,
            EndReason::Compressed
                | EndReason::Unjudged(_)
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
            Self::Tls(error) => write!(f, "TLS failed: {error}"),
            Self::Compressed => f.write_str("sent OP_COMPRESSED, which was not negotiated"),
            Self::Unjudged(why) => write!(f, "sent {why}, which the policy in force cannot judge"),
            Self::Undetermined(why) => write!(f, "sent {why}, which may be a hello or an authentication"),
            Self::UnreadableHello(why) => write!(f, "answered hello with {why}"),
            Self::TooSlow => f.write_str("took too long to send a command that the policy has to see whole"),
            Self::NotUnderstood => f.write_str("closed on a message that is not MongoDB's protocol"),
            Self::Drained => f.write_str("drained"),
            Self::Stopped => f.write_str("stopped"),
            Self::Idle => f.write_str("idle_timeout"),
            Self::Lifetime => f.write_str("max_lifetime"),
            Self::Recycled => f.write_str("certificate renewed"),
            Self::Outlived => f.write_str("connections go to another member now"),
            Self::Dismissed => f.write_str("client certificate no longer accepted"),
        }
    }
}
