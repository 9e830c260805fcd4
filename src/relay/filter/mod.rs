//! What becomes of a request or a reply: each filter returns a verdict, and [`chain`] asks them in their order.
//!
//! Filters decide and write nothing: `requests` and `replies` carry their verdicts out.

pub(super) mod chain;
pub(super) mod findings;
pub(super) mod handshake;
pub(super) mod judgeable;
pub(super) mod judged_commands;
pub(super) mod listing;
pub(super) mod local_reply;
pub(super) mod names_permit;
pub(super) mod naming;
pub(super) mod patches;
pub(super) mod policy;
pub(super) mod policy_source;
pub(super) mod reply;
pub(super) mod request_changes;
pub(super) mod session_ids;
pub(super) mod token;
pub(super) mod verdict;
pub(super) mod view;
