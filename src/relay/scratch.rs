//! Buffers that all connections of a worker share.
//!
//! A worker runs one connection at a time, and a connection needs them only between two awaits, so one set per thread
//! is enough however many connections there are. What must outlive the moment is kept by the connection itself.

use std::cell::RefCell;

use crate::relay::limits::HELD_BYTES_MAX;
use crate::tls::{KEPT_BYTES_MAX as RECORDS_KEPT_MAX, RECORD_BYTES_MAX, Records};
use crate::wire::bson_scan::KEPT_BYTES_MAX;

/// Bytes asked of a socket at a time. Larger reads cost fewer system calls and fewer turns of those who wait for each other;
/// beyond this size nothing more is gained, while a peer that does not read makes a connection keep so much.
pub(super) const READ_BYTES: usize = 128 * 1024;

/// Room for what a connection kept, and one read behind it; a TLS record that was incomplete at the last read may complete
/// with this one.
pub(super) const PLAIN_BYTES: usize = HELD_BYTES_MAX + KEPT_BYTES_MAX + READ_BYTES + RECORD_BYTES_MAX;

/// Where both buffers begin. Within a long message nothing is kept, mostly, so that this is where reads go to; what a peer sends
/// in quantity mostly lies at the beginning of the kernel's pages, and large blocks of glibc's malloc begin 16 bytes into one.
/// From there to here is where `rep movsb`, with which Linux copies, takes twenty times as long on AMD's Zen 3 (a target 1 to
/// 31 bytes behind the source, of addresses within a page).
const PAGE_BYTES: usize = 4096;

/// The buffers of one worker.
pub(super) struct Scratch {
    /// Plaintext, either way: what was kept from the last time, then what has just arrived.
    pub(super) plain: &'static mut [u8],
    /// TLS records: what was kept of the last ones, then what has been read from upstream.
    pub(super) sealed: &'static mut [u8],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        RefCell::new(Scratch { plain: pages(PLAIN_BYTES), sealed: pages(RECORDS_KEPT_MAX + READ_BYTES) });
    static RECORDS: RefCell<Records> = RefCell::default();
}

/// So many bytes that begin with a page, for as long as the process runs, as workers do.
fn pages(bytes: usize) -> &'static mut [u8] {
    let room = vec![0; bytes + PAGE_BYTES].leak();
    let before = room.as_ptr().align_offset(PAGE_BYTES);
    &mut room[before..][..bytes]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffers_begin_with_a_page() {
        with_scratch(|Scratch { plain, sealed }| {
            for buffer in [plain, sealed] {
                assert_eq!(buffer.as_ptr() as usize % PAGE_BYTES, 0);
            }
        });
    }
}
