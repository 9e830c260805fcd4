//! Moves a client to another upstream connection: `introduction` is what has to be sent there first, `schedule` is when
//! to move.

pub(super) mod introduction;
pub(super) mod schedule;
