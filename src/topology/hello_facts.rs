//! What a server says about itself and its set, in a reply to `hello`.
//!
//! Spec: mongodb/specifications `source/server-discovery-and-monitoring/server-discovery-and-monitoring.md` § Parsing a hello
//! or legacy hello response.

use bson::{RawArray, RawDocument};

use super::member_name::MemberName;

/// A replica set has at most 50 members.
const MEMBERS_MAX: usize = 128;

const SET_NAME_BYTES_MAX: usize = 255;

/// What a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemberState {
    /// The writable member of a replica set.
    Primary,
    /// A readable member.
    Secondary,
    /// A member that only votes.
    Arbiter,
    /// A member that is none of these: starting, recovering, removed.
    Other,
    /// A router of a sharded cluster.
    Mongos,
    /// It does not answer, or has not yet.
    Unknown,
    /// It is not what this upstream is made of: another set, no set, no mongos.
    WrongSet,
}

impl MemberState {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Primary, Self::Secondary, Self::Arbiter, Self::Other, Self::Mongos, Self::Unknown, Self::WrongSet];

    /// As metrics and `/status` name it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
            Self::Arbiter => "arbiter",
            Self::Other => "other",
            Self::Mongos => "mongos",
            Self::Unknown => "unknown",
            Self::WrongSet => "wrong_set",
        }
    }
}

/// What one reply says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloFacts {
    /// Of a member of a set; a server of its own is [`MemberState::Other`].
    pub state: MemberState,
    /// Its set.
    pub set_name: Option<String>,
    /// All other members that clients are told of, in lower case.
    pub members: Vec<MemberName>,
    /// What its set calls it.
    pub me: Option<MemberName>,
    /// Whether clients are not told of it.
    pub hidden: bool,
    /// Of its configuration, and of the election that made it primary.
    pub(super) age: Age,
}

/// How new the word of a primary is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Age {
    pub(super) set_version: Option<i64>,
    pub(super) election_id: Option<[u8; 12]>,
    /// Whether the election comes first, as it does since MongoDB 6.0 (maxWireVersion 17).
    pub(super) election_first: bool,
}

/// A reply that no server of ours gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloProblem {
    /// Not BSON to its end, or a field of another type.
    #[error("its hello cannot be read")]
    Unreadable,
    /// More than there can be.
    #[error("its hello names more than 128 members")]
    TooMany,
    /// A name that is none.
    #[error("its hello names a member that is no host:port")]
    Name,
}

impl HelloFacts {
    /// Reads a reply that said `ok: 1`.
    pub fn read(hello: &RawDocument) -> Result<Self, HelloProblem> {
        let says = |key: &str| hello.get_bool(key).unwrap_or(false);
        let text = |key: &str| hello.get_str(key).ok();
        for element in hello {
            element.map_err(|_| HelloProblem::Unreadable)?;
        }
        let set_name = text("setName").filter(|name| name.len() <= SET_NAME_BYTES_MAX).map(str::to_owned);
        let mut members = Vec::new();
        for key in ["hosts", "passives", "arbiters"] {
            if let Some(value) = hello.get(key).map_err(|_| HelloProblem::Unreadable)? {
                names(value.as_array().ok_or(HelloProblem::Unreadable)?, &mut members)?;
            }
        }
        let number = |key: &str| {
            let value = hello.get(key).ok().flatten()?;
            value.as_i64().or_else(|| value.as_i32().map(i64::from))
        };
        let election_id = hello.get_object_id("electionId").ok().map(|id| id.bytes());
        Ok(Self {
            state: match () {
                () if text("msg") == Some("isdbgrid") => MemberState::Mongos,
                () if set_name.is_none() => MemberState::Other,
                () if says("isWritablePrimary") || says("ismaster") => MemberState::Primary,
                () if says("secondary") => MemberState::Secondary,
                () if says("arbiterOnly") => MemberState::Arbiter,
                () => MemberState::Other,
            },
            set_name,
            members,
            me: text("me").and_then(|me| MemberName::parse(me).ok()),
            hidden: says("hidden"),
            age: Age {
                set_version: number("setVersion"),
                election_id,
                election_first: number("maxWireVersion").is_some_and(|version| version >= 17),
            },
        })
    }
}

fn names(array: &RawArray, into: &mut Vec<MemberName>) -> Result<(), HelloProblem> {
    for value in array {
        let name = value.map_err(|_| HelloProblem::Unreadable)?.as_str().ok_or(HelloProblem::Unreadable)?;
        let name = MemberName::parse(name).map_err(|_| HelloProblem::Name)?;
        if !into.contains(&name) {
            into.push(name);
        }
        if into.len() > MEMBERS_MAX {
            return Err(HelloProblem::TooMany);
        }
    }
    Ok(())
}

impl Age {
    /// Whether a primary of this age has been replaced by the one that spoke with the age `newest`.
    pub(super) fn is_stale(&self, newest: &Self) -> bool {
        if self.election_first {
            return (self.election_id, self.set_version) < (newest.election_id, newest.set_version);
        }
        match (self.set_version, self.election_id, newest.set_version, newest.election_id) {
            (Some(version), Some(election), Some(newest_version), Some(newest_election)) => {
                newest_version > version || (newest_version == version && newest_election > election)
            }
            _ => false,
        }
    }
}
