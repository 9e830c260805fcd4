//! The log messages of this module.

pub(super) const UPSTREAM_CONNECTION_FAILED: &str = "upstream connection failed";
pub(super) const UPSTREAM_CONNECTION_LOST: &str = "upstream connection lost during a command";
pub(super) const UPSTREAM_RECOVERED: &str = "upstream recovered";
pub(super) const CLUSTER_MEMBER_CERTIFICATE: &str = "client certificate may be taken for a cluster member";
pub(super) const SEED_LIST_LOOKUP_FAILED: &str = "seed list lookup failed";
pub(super) const MEMBER_ADDED: &str = "member added";
pub(super) const MEMBER_REMOVED: &str = "member removed";
pub(super) const MEMBER_REJECTED: &str = "member rejected";
pub(super) const MEMBER_WITHOUT_ADDRESS: &str = "member has no listener address; clients cannot see it";
pub(super) const ADDRESSES_CHANGED: &str = "member addresses changed";
pub(super) const PRIMARY_CHANGED: &str = "primary changed";
pub(super) const NO_PRIMARY: &str = "no primary";
