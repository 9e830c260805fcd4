//! Buffers that all connections of a worker share.
//!
//! A worker runs one connection at a time, and a connection needs them only between two awaits, so one set per thread
//! is enough however many connections there are. What must outlive the moment is kept by the connection itself.

use std::cell::RefCell;

use crate::relay::requests::HELD_BYTES_MAX;
use crate::tls::{KEPT_BYTES_MAX as RECORDS_KEPT_MAX, RECORD_BYTES_MAX, Records};
use crate::wire::bson_scan::KEPT_BYTES_MAX;

/// Bytes asked of a socket at a time. Larger reads cost fewer system calls; beyond this size nothing more is gained.
pub(super) const READ_BYTES: usize = 64 * 1024;

/// Room for what a connection kept, and one read behind it; a TLS record that was incomplete at the last read may complete
/// with this one.
pub(super) const PLAIN_BYTES: usize = HELD_BYTES_MAX + KEPT_BYTES_MAX + READ_BYTES + RECORD_BYTES_MAX;

/// The buffers of one worker.
pub(super) struct Scratch {
    /// Plaintext, either way: what was kept from the last time, then what has just arrived.
    pub(super) plain: Box<[u8]>,
    /// TLS records: what was kept of the last ones, then what has been read from upstream.
    pub(super) sealed: Box<[u8]>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        plain: vec![0; PLAIN_BYTES].into_boxed_slice(),
        sealed: vec![0; RECORDS_KEPT_MAX + READ_BYTES].into_boxed_slice(),
    });
    static RECORDS: RefCell<Records> = RefCell::default();
}

/// Lends this worker's buffers to `work`, which must not call this again.
pub(super) fn with_scratch<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with_borrow_mut(work)
}

/// Lends this worker's room for what goes upstream to `work`, which must not call this again. It finds nothing in it.
pub(super) fn with_records<T>(work: impl FnOnce(&mut Records) -> T) -> T {
    RECORDS.with_borrow_mut(|records| {
        // A panic may have left the records of another connection.
        records.clear();
        work(records)
    })
}
