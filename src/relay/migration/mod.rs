//! Moves a client to another upstream connection: what can be told again there, and when to move.

pub(super) mod introduction;
pub(super) mod schedule;
