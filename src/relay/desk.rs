//! What the readers of requests and of replies share.

use crate::relay::exchange::Exchange;
use crate::relay::guard::Guard;
use crate::relay::record::Record;

/// What is open, what is counted, and what may pass.
pub(super) struct Desk {
    pub(super) exchange: Exchange,
    pub(super) record: Record,
    pub(super) guard: Guard,
}
