//! Limits that several files of this module share.

/// Maximum number of members of a set. mongod allows 50.
pub const MEMBERS_MAX: usize = 128;
