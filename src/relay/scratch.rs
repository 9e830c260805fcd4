//! The buffers that all connections of a worker share.
//!
//! A worker runs one connection at a time, and a connection needs the buffers only between two awaits. One set per
//! thread is therefore enough for any number of connections. A connection keeps what has to outlive the moment itself.

use std::cell::RefCell;

use crate::relay::limits::HELD_BYTES_MAX;
use crate::tls::{KEPT_BYTES_MAX as RECORDS_KEPT_MAX, RECORD_BYTES_MAX, Records};
use crate::wire::bson_scan::KEPT_BYTES_MAX;

/// Bytes that are read from a socket at a time. Larger reads take fewer system calls and fewer turns between the two
/// sides. Beyond this size nothing is gained, while a connection has to keep as much for a peer that does not read.
pub(super) const READ_BYTES: usize = 128 * 1024;

/// Room for what a connection has kept, and one read behind it. A TLS record that was incomplete at the last read may
/// be completed by this one.
pub(super) const PLAIN_BYTES: usize = HELD_BYTES_MAX + KEPT_BYTES_MAX + READ_BYTES + RECORD_BYTES_MAX;

/// The alignment of both buffers. Within a long message a connection mostly keeps nothing, so that reads go to the
/// start of a buffer. The kernel mostly has the bytes of a long message at the start of a page, and large blocks of
/// glibc's malloc start 16 bytes into one. Linux copies with `rep movsb`, which takes twenty times as long on AMD's Zen
/// 3 when the offset of the target within its page is 1 to 31 bytes larger than that of the source.
const PAGE_BYTES: usize = 4096;

/// The buffers of one worker.
pub(super) struct Scratch {
    /// Plaintext of either direction: what was kept, then what has just arrived.
    pub(super) plain: &'static mut [u8],
    /// TLS records from upstream: what was kept, then what has just arrived.
    pub(super) sealed: &'static mut [u8],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        RefCell::new(Scratch { plain: pages(PLAIN_BYTES), sealed: pages(RECORDS_KEPT_MAX + READ_BYTES) });
    static RECORDS: RefCell<Records> = RefCell::default();
}

/// `bytes` bytes that start with a page. They are never freed: workers run as long as the process.
fn pages(bytes: usize) -> &'static mut [u8] {
    let room = vec![0; bytes + PAGE_BYTES].leak();
    let before = room.as_ptr().align_offset(PAGE_BYTES);
    &mut room[before..][..bytes]
}

/// Lends this worker's buffers to `work`, which must not call this again.
pub(super) fn with_scratch<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with_borrow_mut(work)
}

/// Lends this worker's empty buffer for what goes upstream to `work`, which must not call this again.
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
    fn the_buffers_start_with_a_page() {
        with_scratch(|Scratch { plain, sealed }| {
            for buffer in [plain, sealed] {
                assert_eq!(buffer.as_ptr() as usize % PAGE_BYTES, 0);
            }
        });
    }
}
