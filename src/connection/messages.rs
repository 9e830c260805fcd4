//! The log messages of this module.

pub(super) const CONNECTION_CLOSED: &str = "connection closed";
pub(super) const CONNECTION_REJECTED: &str = "connection rejected";
pub(super) const UPSTREAM_CONNECTION_REPLACED: &str = "upstream connection replaced after a certificate reload";
pub(super) const COMMAND_DENIED: &str = "command denied";
pub(super) const COMMAND_WOULD_BE_DENIED: &str = "command would be denied";
pub(super) const COMMAND_AUDITED: &str = "command audited";
pub(super) const DECISIONS_OF_RULE: &str = "total decisions of the rule on this connection";
