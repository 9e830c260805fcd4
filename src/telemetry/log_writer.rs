//! Writes log lines on a thread of its own, so that a blocked reader of standard error blocks only that thread.
//!
//! Lines wait in a bounded queue. A line that finds the queue full is dropped and counted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use crate::telemetry::metrics::set_dropped_log_lines;

/// Lines that wait for the writer. A line has a few hundred bytes, and at most about 4 KiB.
const QUEUED_LINES_MAX: usize = 4096;

/// How long the end of the process waits for queued lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The interval between two looks at the number of dropped lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

const LINES_DROPPED: &str = "log lines dropped";

/// The writer's thread, and what it has dropped. Only [`LogWriter::flush`] writes what is queued.
pub struct LogWriter {
    guard: WorkerGuard,
    dropped: ErrorCounter,
    written: Arc<AtomicU64>,
}

impl LogWriter {
    /// Starts the thread. Returns the handle to which lines are written; a write never blocks.
    pub(super) fn start(target: impl io::Write + Send + 'static) -> (NonBlocking, Self) {
        let written = Arc::<AtomicU64>::default();
        let target = CountingWriter { target, written: Arc::clone(&written) };
        let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUED_LINES_MAX);
        let (lines, guard) = builder.thread_name("log").finish(target);
        let dropped = lines.error_counter();
        (lines, Self { guard, dropped, written })
    }

    /// Counts dropped lines in the metrics, and logs their number when the writer has recovered. Runs until dropped.
    pub async fn report_dropped(&self) {
        let mut report = DropReport::default();
        loop {
            tokio::time::sleep(REPORT_INTERVAL).await;
            let dropped = self.dropped.dropped_lines() as u64;
            set_dropped_log_lines(dropped);
            if let Some(count) = report.due(dropped, self.written.load(Ordering::Relaxed)) {
                tracing::warn!(
                    count,
                    remedy = "the reader of stderr is too slow or has stopped: see to it, or log less",
                    "{LINES_DROPPED}"
                );
            }
        }
    }

    /// Writes the queued lines, for at most one second.
    pub fn flush(self) {
        let (done, wait) = mpsc::sync_channel(1);
        let guard = self.guard;
        // On a thread of its own: dropping the handle prints to standard output if the queue is full, and that can
        // block too.
        let flushing = thread::Builder::new().name("log flush".to_owned()).spawn(move || {
            drop(guard);
            // The process no longer waits after the timeout.
            let _ = done.send(());
        });
        if flushing.is_ok() {
            let _ = wait.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

/// Counts the lines that the target has taken.
struct CountingWriter<W> {
    target: W,
    written: Arc<AtomicU64>,
}

impl<W: io::Write> io::Write for CountingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.target.write(bytes)?;
        self.written.fetch_add(1, Ordering::Relaxed);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.target.flush()
    }
}

/// Decides when the number of dropped lines is logged: not before the writer has written again, because the line about
/// it would be dropped too.
#[derive(Default)]
struct DropReport {
    reported: u64,
    /// The lines written when the first unreported loss was seen.
    written: Option<u64>,
}

impl DropReport {
    /// The number of lines to report now, from the totals of dropped and of written lines.
    fn due(&mut self, dropped: u64, written: u64) -> Option<u64> {
        if dropped == self.reported {
            return None;
        }
        match self.written {
            Some(before) if written > before => {
                let count = dropped - self.reported;
                *self = Self { reported: dropped, written: None };
                Some(count)
            }
            Some(_) => None,
            None => {
                self.written = Some(written);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use super::*;

    /// A target that takes lines only while its lock is free.
    #[derive(Clone, Default)]
    struct Gate(Arc<Mutex<Vec<u8>>>);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_blocked_target_blocks_no_writer_and_lines_beyond_the_queue_are_counted() {
        let gate = Gate::default();
        let blocked = gate.0.lock().unwrap();
        let (mut lines, writer) = LogWriter::start(gate.clone());
        // One line is with the blocked thread, or still in the queue.
        let sent = QUEUED_LINES_MAX + 10;
        for _ in 0..sent {
            lines.write_all(b"line\n").unwrap();
        }
        let dropped = writer.dropped.dropped_lines();
        assert!((9..=10).contains(&dropped), "{dropped}");
        drop(blocked);
        writer.flush();
        assert_eq!(gate.0.lock().unwrap().len(), (sent - dropped) * b"line\n".len());
    }

    #[test]
    fn a_flush_ends_while_the_target_is_blocked() {
        let gate = Gate::default();
        let _blocked = gate.0.lock().unwrap();
        let (mut lines, writer) = LogWriter::start(gate.clone());
        for _ in 0..=QUEUED_LINES_MAX {
            lines.write_all(b"line\n").unwrap();
        }
        writer.flush();
    }

    #[test]
    fn a_loss_is_reported_once_and_after_the_writer_has_written_again() {
        let mut report = DropReport::default();
        assert_eq!(report.due(0, 5), None);
        assert_eq!(report.due(3, 5), None);
        assert_eq!(report.due(4, 5), None);
        assert_eq!(report.due(4, 6), Some(4));
        assert_eq!(report.due(4, 7), None);
        assert_eq!(report.due(6, 7), None);
        assert_eq!(report.due(6, 9), Some(2));
    }
}
