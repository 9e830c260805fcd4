//! What all connections together may hold back of command bodies while they are being read.
//!
//! A policy judges a body as a whole. Most are small and wait in what a connection keeps anyway; a larger one needs a share
//! of one budget, and while there is none its connection is not read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use memmap2::MmapMut;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// For the whole process: room for 16 of the largest bodies at one time.
const BUDGET_KIB: usize = 256 * 1024;

/// A body that is held has arrived within this time, and a second more for each of its mebibytes, or its connection ends:
/// the others wait for its share. It has as long again to leave.
const HELD_TIME: Duration = Duration::from_secs(10);

const MEBIBYTE: usize = 1024 * 1024;

/// The budget; clones are the same one.
#[derive(Clone)]
pub struct HoldBudget(Arc<Semaphore>);

impl Default for HoldBudget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET_KIB)))
    }
}

#[cfg(test)]
impl HoldBudget {
    pub(super) fn take_everything(&self) -> OwnedSemaphorePermit {
        let all = u32::try_from(BUDGET_KIB).unwrap_or(u32::MAX);
        Arc::clone(&self.0).try_acquire_many_owned(all).expect("nothing is held yet")
    }
}

/// The share that one body has of the budget.
pub(super) struct BudgetPermit {
    _permit: OwnedSemaphorePermit,
    due: Instant,
}

/// A share that is being waited for.
type Waiting = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

/// The beginning of a message that the policy has to see and that is too long to wait at the front of the input: it comes
/// whole, is judged, and leaves piece by piece, as upstream takes it.
///
/// In memory that the system gives as it is written to and gets back as a whole: a length is only a claim, and an allocator
/// would keep megabytes for the next one.
pub(super) struct HeldMessage {
    /// As much as is wanted.
    memory: MmapMut,
    /// How much of that is here.
    filled: usize,
    /// How much of that has been scanned.
    pub(super) scanned: usize,
    /// How much of that has left, once it may.
    left: Option<usize>,
    share: BudgetPermit,
}

impl HeldMessage {
    /// For `wanted` bytes of a message, of which so many have been scanned. Fails where the system has no memory.
    pub(super) fn new(wanted: usize, scanned: usize, share: BudgetPermit) -> io::Result<Self> {
        Ok(Self { memory: MmapMut::map_anon(wanted)?, filled: 0, scanned, left: None, share })
    }

    /// Takes what is wanted of `input`, and says how much that is.
    pub(super) fn take(&mut self, input: &[u8]) -> usize {
        let room = self.memory.get_mut(self.filled..).unwrap_or_default();
        let taken = input.len().min(room.len());
        room[..taken].copy_from_slice(&input[..taken]);
        self.filled += taken;
        taken
    }

    /// What is here.
    pub(super) fn bytes(&self) -> &[u8] {
        self.memory.get(..self.filled).unwrap_or_default()
    }

    /// Whether all that is wanted is here.
    pub(super) fn is_whole(&self) -> bool {
        self.filled == self.memory.len()
    }

    /// By when it has to be here, or to have left.
    pub(super) fn due(&self) -> Instant {
        self.share.due
    }

    /// It may leave.
    pub(super) fn let_go(&mut self) {
        self.left = Some(0);
        self.share.due = due(self.memory.len());
    }

    /// Whether it is on its way out.
    pub(super) fn is_leaving(&self) -> bool {
        self.left.is_some()
    }

    /// The next piece that leaves; the last one is empty.
    pub(super) fn next_piece(&mut self, bytes_max: usize) -> &[u8] {
        let from = self.left.unwrap_or(self.filled);
        let to = self.filled.min(from + bytes_max);
        self.left = Some(to);
        self.memory.get(from..to).unwrap_or_default()
    }
}

/// By when so many bytes have come or gone.
fn due(bytes: usize) -> Instant {
    let mebibytes = u32::try_from(bytes.div_ceil(MEBIBYTE)).unwrap_or(u32::MAX);
    Instant::now() + HELD_TIME + Duration::from_secs(1) * mebibytes
}

/// Where one connection stands with the budget.
#[derive(Default)]
pub(super) struct BudgetRequest {
    waiting: Option<Waiting>,
    granted: Option<OwnedSemaphorePermit>,
}

impl BudgetRequest {
    /// A share for `bytes` if there is one now; otherwise [`BudgetRequest::poll_granted`] tells when. Those who asked first come first.
    pub(super) fn share(&mut self, holding: &HoldBudget, bytes: usize) -> Option<BudgetPermit> {
        let due = due(bytes);
        if let Some(permit) = self.granted.take() {
            return Some(BudgetPermit { _permit: permit, due });
        }
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        if let Ok(permit) = Arc::clone(&holding.0).try_acquire_many_owned(kib) {
            return Some(BudgetPermit { _permit: permit, due });
        }
        self.waiting = Some(Box::pin(Arc::clone(&holding.0).acquire_many_owned(kib)));
        None
    }

    /// Whether a share is being waited for.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether the share that was waited for has come just now; it is to be asked for again at once.
    pub(super) fn poll_granted(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(waiting) = &mut self.waiting else { return false };
        let Poll::Ready(permit) = waiting.as_mut().poll(cx) else { return false };
        (self.waiting, self.granted) = (None, permit.ok());
        true
    }
}
