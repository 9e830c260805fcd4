//! Explains failed connections.
pub(super) mod target;
