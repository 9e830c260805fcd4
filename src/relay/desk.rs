//! What the readers of requests and of replies share.

use crate::relay::exchange::Exchange;
use crate::relay::guard::Guard;
use crate::relay::record::Record;
use crate::relay::terms::Terms;

/// What is open, what is counted, what may pass, and as what.
pub(super) struct Desk {
    pub(super) exchange: Exchange,
    pub(super) record: Record,
    pub(super) guard: Guard,
    pub(super) terms: Terms,
}
