//! The log messages of this module.

pub(super) const TOKEN_KEYS_LOADED: &str = "token keys loaded";
pub(super) const TOKEN_KEYS_FAILED: &str = "token keys cannot be loaded";
pub(super) const TOKEN_KEY_LEFT_OUT: &str = "token key left out";
pub(super) const TOKEN_KEY_WATCH_FAILED: &str = "token key file watch failed; the file is read once a minute";
pub(super) const TOKEN_KEYS_WITHDRAWN: &str = "token keys withdrawn";
