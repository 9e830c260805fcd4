//! A member that needs an address of the gateway, as the assignment of addresses sees it.

use super::member_name::MemberName;

/// A member that needs an address of the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: MemberName,
    /// What a client that connects to it finds.
    pub standing: Standing,
    /// Whether clients read and write there: not an arbiter, and not hidden.
    pub serves_clients: bool,
}

/// What a client that connects to a member finds, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// A primary or a mongos.
    Writable,
    /// A secondary that is not hidden.
    Readable,
    /// A member that names the others in its hello, but cannot be read from: an arbiter, or one that is hidden,
    /// starting or recovering.
    Introduces,
    /// Its state is not known at the moment.
    Untried,
    /// It does not answer, or has no configuration of the set: a client learns nothing there.
    Out,
}

impl Standing {
    /// Whether clients can at least read from the member.
    pub(super) fn is_usable(self) -> bool {
        self <= Self::Readable
    }

    /// Whether a client learns the members of the set from it.
    pub(super) fn is_informative(self) -> bool {
        self <= Self::Introduces
    }
}
