//! A message that is held apart from its connection's input, until the filters decide and then until it has been sent.

use std::io;
use std::time::Duration;

use memmap2::MmapMut;
use tokio::time::Instant;

use crate::relay::hold_budget::{BudgetPermit, BudgetRequest};

/// The time in which a held message has to arrive, plus a second for each of its mebibytes: other connections wait for
/// its part of the budget. The time in which it waits itself does not count. It has as long again to be sent.
const HOLD_TIME: Duration = Duration::from_secs(10);

/// The first part of the budget that a message takes. Each further one doubles what it has: a message that claims
/// megabytes and does not send them takes no more than twice what has arrived, or this.
pub(super) const FIRST_PART_BYTES: usize = 64 * 1024;

const MEBIBYTE: usize = 1024 * 1024;

/// The beginning of a message that is too long to wait in the input: all of it that the filters asked for arrives, is
/// judged, and is sent piece by piece as the other side takes it.
///
/// It is in memory that the system provides as it is written to, and gets back as a whole. A length is only a claim,
/// and an allocator would keep megabytes for later.
pub(super) struct HeldMessage {
    /// As long as what the filters asked for.
    memory: MmapMut,
    /// Bytes that have arrived.
    filled: usize,
    /// Bytes that have been scanned.
    pub(super) scanned: usize,
    /// Bytes that have been sent; `None` before the filters have decided.
    sent: Option<usize>,
    deadline: Instant,
    /// Since when it waits for the next part of the budget.
    waits_since: Option<Instant>,
    permit: BudgetPermit,
}

impl HeldMessage {
    /// Room for `bytes` of a message, of which `scanned` have been scanned already. `permit` is for its beginning at
    /// least. Fails where the system has no memory.
    pub(super) fn new(bytes: usize, scanned: usize, permit: BudgetPermit) -> io::Result<Self> {
        let memory = MmapMut::map_anon(bytes)?;
        let deadline = Instant::now() + hold_time(bytes);
        Ok(Self { memory, filled: 0, scanned, sent: None, deadline, waits_since: None, permit })
    }

    /// Copies what is missing, and what the budget allows, from the front of `input`. Returns the number of bytes.
    pub(super) fn take(&mut self, input: &[u8]) -> usize {
        let end = self.allowed();
        let room = self.memory.get_mut(self.filled..end).unwrap_or_default();
        let taken = input.len().min(room.len());
        room[..taken].copy_from_slice(&input[..taken]);
        self.filled += taken;
        taken
    }

    /// The bytes that have arrived.
    pub(super) fn bytes(&self) -> &[u8] {
        self.memory.get(..self.filled).unwrap_or_default()
    }

    /// The same, to be changed in place.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(..self.filled).unwrap_or_default()
    }

    /// Keeps only the first `bytes` of those that have arrived.
    pub(super) fn truncate(&mut self, bytes: usize) {
        self.filled = self.filled.min(bytes);
    }

    /// Whether everything that the filters asked for has arrived.
    pub(super) fn is_filled(&self) -> bool {
        self.filled == self.memory.len()
    }

    /// Whether the message needs another part of the budget before it can take more.
    pub(super) fn needs_budget(&self) -> bool {
        !self.is_filled() && self.filled == self.allowed()
    }

    /// Takes another part of the budget. Returns whether there is one: `request` waits for it otherwise.
    pub(super) fn grow(&mut self, request: &mut BudgetRequest) -> bool {
        let before = self.allowed();
        let missing = self.memory.len() - before;
        let Some(more) = request.permit(self.permit.account(), missing.min(before)) else {
            self.waits_since.get_or_insert_with(Instant::now);
            return false;
        };
        self.permit.add(more);
        if let Some(since) = self.waits_since.take() {
            self.deadline += since.elapsed();
        }
        true
    }

    /// How much of the message the budget allows to hold.
    fn allowed(&self) -> usize {
        self.permit.bytes().min(self.memory.len())
    }

    /// When the message has to have arrived or, once it may be sent, has to have been sent; `None` while it waits for
    /// the budget.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waits_since.is_none().then_some(self.deadline)
    }

    /// The message may be sent.
    pub(super) fn start_sending(&mut self) {
        self.sent = Some(0);
        self.deadline = Instant::now() + hold_time(self.memory.len());
    }

    pub(super) fn is_being_sent(&self) -> bool {
        self.sent.is_some()
    }

    /// Whether a part of what is being sent has not been sent.
    pub(super) fn has_more(&self) -> bool {
        self.sent.is_some_and(|sent| sent < self.filled)
    }

    /// The next piece to send, at most `bytes_max` long. The one after the last is empty.
    pub(super) fn next_piece(&mut self, bytes_max: usize) -> &[u8] {
        let from = self.sent.unwrap_or(self.filled);
        let to = self.filled.min(from + bytes_max);
        self.sent = Some(to);
        self.memory.get(from..to).unwrap_or_default()
    }
}

/// The time in which this number of bytes has to arrive, or to be sent.
fn hold_time(bytes: usize) -> Duration {
    let mebibytes = u32::try_from(bytes.div_ceil(MEBIBYTE)).unwrap_or(u32::MAX);
    HOLD_TIME + Duration::from_secs(1) * mebibytes
}
