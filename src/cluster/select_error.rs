//! Why no member could be selected for a client.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::{HostPort, ReadPreference};

/// Why no member could be selected for a client.
#[derive(Debug, PartialEq, Eq)]
pub enum SelectError {
    /// No member is known yet.
    MembersUnknown,
    /// No member is assigned to the listener's address that the client connected to.
    NoMemberBehindAddress(Arc<str>),
    /// No member has the state that the read preference of the listener requires.
    NoPreferredMember(ReadPreference),
    /// The member that the listener leads to has left the set.
    NoSuchMember(HostPort),
    /// The listener intercepts connections, and this one was not redirected to it.
    NotRedirected,
    /// No member has the original destination address of a redirected connection.
    NoMemberAtOriginalAddress(SocketAddr),
}

/// What is said about a [`SelectError`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectExplanation {
    /// The `reason` in log lines, from a closed set.
    pub label: &'static str,
    /// What the operator can do, if the gateway knows.
    pub remedy: Option<&'static str>,
    /// The error message for the client, without the prefix `mongate: `.
    pub client_message: String,
}

impl SelectError {
    /// The explanation for the operator and the client; `upstream` is the name of the upstream.
    pub fn explanation(&self, upstream: &str) -> SelectExplanation {
        let (label, remedy, client_message) = match self {
            Self::MembersUnknown => (
                "members_unknown",
                None,
                format!("the members of upstream {upstream} are not known yet: no server has answered"),
            ),
            Self::NoMemberBehindAddress(advertised) => (
                "no_member_behind_address",
                None,
                format!(
                    "no member of upstream {upstream} is assigned to {advertised}, and none answers that could stand in"
                ),
            ),
            Self::NoPreferredMember(preference) => {
                let missing = match preference {
                    ReadPreference::Primary => "primary",
                    ReadPreference::Secondary => "secondary",
                    _ => "primary and no secondary",
                };
                ("no_member_preferred", None, format!("upstream {upstream} has no {missing} now"))
            }
            Self::NoSuchMember(name) => {
                ("no_such_member", None, format!("{name} is not a member of upstream {upstream}"))
            }
            Self::NotRedirected => (
                "not_redirected",
                Some(
                    "let clients connect to the server itself, and have iptables redirect these connections to the \
                     listener",
                ),
                format!(
                    "this address accepts only redirected connections to upstream {upstream}; connect to the server \
                     itself"
                ),
            ),
            Self::NoMemberAtOriginalAddress(original) => (
                "no_member_at_original_address",
                Some(
                    "redirect only connections to members with iptables; if this is the address of a member, make its \
                     name resolve to the same address on this host as for the client",
                ),
                format!("no member of upstream {upstream} has the address {original}"),
            ),
        };
        SelectExplanation { label, remedy, client_message }
    }
}
