//! Throttles log lines that clients or servers can cause without limit: a burst is written whole, then a few lines at
//! intervals with the number of lines that were left out.
//!
//! Keeps one small entry for each kind of line, and a limited number of them. Kinds come from closed sets, such as a
//! configured name and a label.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

/// Kinds of one message that have a budget of their own. The others share one, so that a caller that has many names
/// does not fill the memory.
const KINDS_MAX: usize = 1024;

/// The kind of all lines beyond [`KINDS_MAX`].
const OTHER_KINDS: &str = "other";

/// Left-out lines are reported this long after the last written line of their kind, unless another line of the kind
/// has reported them. Longer than the longest interval of a budget, so that a flood that goes on reports them itself.
const CLOSING_DELAY: Duration = Duration::from_secs(15);

const LINES_SUPPRESSED: &str = "log lines suppressed";

/// How many lines of one kind are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineBudget {
    /// For failures that repeat with the same cause: one line, then one every ten seconds.
    Failures,
    /// For denied commands: 20 lines at once, then one every ten seconds. The first lines name the affected callers.
    /// The later ones show that commands are still denied.
    Denials,
    /// The same for lines at level info.
    Changes,
    /// For lines about the members of a set at level info: 64 at once, then one per second. A start with 50 members is
    /// logged whole.
    Members,
    /// The same for failures of members.
    MemberFailures,
    /// For lines at level info of which ordinary traffic writes one for each connection: 100 lines at once, then ten
    /// per second, which is about 5 kB per second.
    Traffic,
}

impl LineBudget {
    fn burst(self) -> u32 {
        match self {
            Self::Failures => 1,
            Self::Denials | Self::Changes => 20,
            Self::Members | Self::MemberFailures => 64,
            Self::Traffic => 100,
        }
    }

    fn interval(self) -> Duration {
        match self {
            Self::Failures | Self::Denials | Self::Changes => Duration::from_secs(10),
            Self::Members | Self::MemberFailures => Duration::from_secs(1),
            Self::Traffic => Duration::from_millis(100),
        }
    }
}

/// What the lines of a throttle are about; a field of the line about left-out lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogSubject {
    /// The name of a listener.
    Listener(String),
    /// The name of an upstream.
    Upstream(String),
    /// The whole process.
    Process,
}

/// Whether to write a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogDecision {
    /// Write it.
    Log {
        /// Lines of this kind that were left out since the last one and not reported yet.
        suppressed: u64,
    },
    /// Leave it out. It has been counted.
    Suppress,
}

/// The budgets of all kinds of lines about one subject. Clones share them.
#[derive(Debug, Clone)]
pub struct LogThrottle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    subject: LogSubject,
    kinds: Mutex<Kinds>,
}

/// By message, then by kind.
type Kinds = HashMap<&'static str, HashMap<Box<str>, Entry>>;

/// The state of one kind of line. The budget is a token bucket that needs no timer (GCRA, the generic cell rate
/// algorithm).
#[derive(Debug)]
struct Entry {
    /// When the bucket will be full again.
    full_at: Instant,
    written_at: Instant,
    suppressed: u64,
    /// Whether a task waits to report the left-out lines.
    has_reporter: bool,
}

impl LogThrottle {
    /// Makes a throttle with full budgets.
    pub fn new(subject: LogSubject) -> Self {
        Self(Arc::new(Shared { subject, kinds: Mutex::default() }))
    }

    /// Counts one line with `message`, and returns whether to write it. Each pair of message and `kind` has a budget
    /// of its own, and must always come with the same `budget`. Takes a lock, so it is not for the data path.
    ///
    /// Within a runtime, lines that were left out are reported by a line of their own if no other line of the kind
    /// follows. Elsewhere, and at the end of the process, such a number is lost.
    pub fn note(&self, message: &'static str, kind: &str, budget: LineBudget) -> LogDecision {
        let now = Instant::now();
        let mut kinds = self.0.locked();
        let of_message = kinds.entry(message).or_default();
        if of_message.len() >= KINDS_MAX && !of_message.contains_key(kind) {
            of_message.retain(|_, entry| !entry.is_unused(now));
        }
        let kind = if of_message.len() < KINDS_MAX || of_message.contains_key(kind) { kind } else { OTHER_KINDS };
        if !of_message.contains_key(kind) {
            of_message.insert(kind.into(), Entry::new(now));
        }
        let Some(entry) = of_message.get_mut(kind) else { return LogDecision::Log { suppressed: 0 } };
        let decision = entry.note(budget, now);
        if decision == LogDecision::Suppress
            && !entry.has_reporter
            && let Ok(runtime) = Handle::try_current()
        {
            entry.has_reporter = true;
            runtime.spawn(report(Arc::clone(&self.0), message, kind.into(), budget));
        }
        decision
    }
}

#[cfg(test)]
impl LogThrottle {
    /// How many lines with `message` were left out and are not reported yet.
    pub(crate) fn suppressed(&self, message: &str) -> u64 {
        self.0.locked().get(message).into_iter().flat_map(HashMap::values).map(|entry| entry.suppressed).sum()
    }
}

impl Shared {
    fn locked(&self) -> MutexGuard<'_, Kinds> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the number of left-out lines if it is due, and 0 if another line has reported them. Otherwise returns
    /// when to ask again.
    fn take_due(&self, message: &'static str, kind: &str) -> Result<u64, Instant> {
        let mut kinds = self.locked();
        let Some(entry) = kinds.get_mut(message).and_then(|kinds| kinds.get_mut(kind)) else { return Ok(0) };
        let due = entry.written_at + CLOSING_DELAY;
        if entry.suppressed > 0 && Instant::now() < due {
            return Err(due);
        }
        entry.has_reporter = false;
        Ok(std::mem::take(&mut entry.suppressed))
    }
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self { full_at: now, written_at: now, suppressed: 0, has_reporter: false }
    }

    /// Whether a new entry would be the same.
    fn is_unused(&self, now: Instant) -> bool {
        self.full_at <= now && self.suppressed == 0 && !self.has_reporter
    }

    fn note(&mut self, budget: LineBudget, now: Instant) -> LogDecision {
        let full_at = self.full_at.max(now) + budget.interval();
        if full_at - now > budget.interval() * budget.burst() {
            self.suppressed += 1;
            return LogDecision::Suppress;
        }
        self.full_at = full_at;
        self.written_at = now;
        LogDecision::Log { suppressed: std::mem::take(&mut self.suppressed) }
    }
}

/// Reports left-out lines once no other line of their kind does.
async fn report(shared: Arc<Shared>, message: &'static str, kind: Box<str>, budget: LineBudget) {
    let suppressed = loop {
        match shared.take_due(message, &kind) {
            Ok(suppressed) => break suppressed,
            Err(due) => tokio::time::sleep_until(due).await,
        }
    };
    if suppressed == 0 {
        return;
    }
    let (listener, upstream) = match &shared.subject {
        LogSubject::Listener(name) => (Some(name.as_str()), None),
        LogSubject::Upstream(name) => (None, Some(name.as_str())),
        LogSubject::Process => (None, None),
    };
    match budget {
        LineBudget::Failures | LineBudget::Denials | LineBudget::MemberFailures => {
            tracing::warn!(listener, upstream, lines = message, kind = &*kind, suppressed, "{LINES_SUPPRESSED}");
        }
        LineBudget::Changes | LineBudget::Members | LineBudget::Traffic => {
            tracing::info!(listener, upstream, lines = message, kind = &*kind, suppressed, "{LINES_SUPPRESSED}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUPPRESS: LogDecision = LogDecision::Suppress;

    fn log(suppressed: u64) -> LogDecision {
        LogDecision::Log { suppressed }
    }

    fn throttle() -> LogThrottle {
        LogThrottle::new(LogSubject::Upstream("orders".to_owned()))
    }

    /// The lines that are written when `count` lines come now.
    fn written(throttle: &LogThrottle, kind: &str, budget: LineBudget, count: usize) -> usize {
        (0..count).filter(|_| throttle.note("failed", kind, budget) != SUPPRESS).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_written_whole_and_then_one_line_at_each_interval_with_a_count() {
        let throttle = throttle();
        let note = |kind| throttle.note("failed", kind, LineBudget::Denials);
        assert_eq!(written(&throttle, "refused", LineBudget::Denials, 25), 20);
        assert_eq!(note("expired"), log(0));
        tokio::time::advance(Duration::from_millis(9_999)).await;
        assert_eq!(note("refused"), SUPPRESS);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(note("refused"), log(6));
        assert_eq!(note("refused"), SUPPRESS);
        tokio::time::advance(Duration::from_secs(200)).await;
        assert_eq!(written(&throttle, "refused", LineBudget::Denials, 25), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_logged_at_once_and_then_every_ten_seconds_with_a_count() {
        let throttle = throttle();
        assert_eq!(written(&throttle, "refused", LineBudget::Failures, 8), 1);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(throttle.note("failed", "refused", LineBudget::Failures), log(7));
    }

    #[tokio::test(start_paused = true)]
    async fn ordinary_traffic_loses_no_line_and_a_flood_writes_ten_per_second() {
        let throttle = throttle();
        let budget = LineBudget::Traffic;
        for _ in 0..600 {
            assert_eq!(throttle.note("closed", "", budget), log(0));
            tokio::time::advance(Duration::from_secs(1) / 10).await;
        }
        let mut lines = 0;
        for _ in 0..60 {
            lines += written(&throttle, "", budget, 1_000);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(lines, 100 + 59 * 10);
    }

    #[tokio::test(start_paused = true)]
    async fn messages_and_kinds_have_budgets_of_their_own_up_to_a_limit() {
        let throttle = throttle();
        assert_eq!(written(&throttle, "refused", LineBudget::Denials, 25), 20);
        assert_eq!(throttle.note("lost", "refused", LineBudget::Denials), log(0));
        let kinds = (0..10 * KINDS_MAX).map(|kind| written(&throttle, &kind.to_string(), LineBudget::Denials, 1));
        assert_eq!(kinds.sum::<usize>(), KINDS_MAX - 1 + 20);
        assert_eq!(throttle.0.locked()["failed"].len(), KINDS_MAX + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_lines_that_were_left_out_is_reported_once_when_the_flood_has_ended() {
        let throttle = throttle();
        let take_due = || throttle.0.take_due("failed", "refused");
        assert_eq!(written(&throttle, "refused", LineBudget::Denials, 25), 20);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(throttle.note("failed", "refused", LineBudget::Denials), log(5));
        assert_eq!(written(&throttle, "refused", LineBudget::Denials, 3), 0);
        let due = take_due().unwrap_err();
        assert_eq!(due - Instant::now(), CLOSING_DELAY);
        tokio::time::advance(CLOSING_DELAY).await;
        assert_eq!(take_due(), Ok(3));
        assert_eq!(take_due(), Ok(0));
        assert_eq!(throttle.note("failed", "refused", LineBudget::Denials), log(0));
    }
}
