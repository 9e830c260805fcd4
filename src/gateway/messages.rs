//! The log messages of this module.

pub(super) const LISTENING: &str = "listening";
pub(super) const ADMIN_LISTENING: &str = "admin listening";
pub(super) const CONFIGURATION_WARNING: &str = "configuration warning";
pub(super) const STARTED: &str = "started";
pub(super) const LEAVING: &str = "shutting down: serving on before the drain";
pub(super) const DRAINING: &str = "draining";
pub(super) const DRAIN_ABORTED: &str = "drain aborted by a second signal; open connections are closed";
pub(super) const DRAIN_TIMEOUT: &str = "drain timeout reached; open connections are closed";
pub(super) const STOPPED: &str = "stopped";
pub(super) const WORKER_STOPPED: &str = "worker stopped; connection dropped";
pub(super) const FILE_LIMIT_TOO_LOW: &str = "open file limit too low; max_connections is lowered";
pub(super) const OVERLOADED: &str = "memory is nearly used up; new connections are refused";
pub(super) const OVERLOAD_OVER: &str = "memory is free again; new connections are accepted";
pub(super) const POLICY_IN_FORCE: &str = "policy in force";
pub(super) const NO_POLICY_IN_FORCE: &str = "no policy in force; every command is allowed";
pub(super) const POLICY_REMOVED: &str = "policy removed; every command is allowed";
pub(super) const POLICY_NO_LONGER_ENFORCED: &str = "policy no longer enforced; every command is allowed";
pub(super) const POLICY_UNCHANGED: &str = "policy unchanged";
pub(super) const POLICY_WARNING: &str = "policy warning";
pub(super) const RULE_EXPIRED: &str = "policy rule expired";
pub(super) const RULE_EXPIRES_SOON: &str = "policy rule expires soon";
pub(super) const RULE_APPLIES_AGAIN: &str = "policy rule applies again; the clock was set back";
pub(super) const POLICY_RELOAD_FAILED: &str = "policy reload failed; the previous policy stays in force";
pub(super) const RESTART_REQUIRED: &str = "configuration changes outside of [policy] need a restart";
pub(super) const RESTART_NO_LONGER_REQUIRED: &str = "configuration file again as in use; no restart needed";
