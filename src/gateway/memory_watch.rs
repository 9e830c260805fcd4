//! Measures the memory of the container, reports when the overload state begins and ends, and has free memory returned
//! to the system.

use std::time::Duration;

use tokio::task::spawn_blocking;

use super::messages::{OVERLOAD_OVER, OVERLOADED};
use crate::lifecycle::cgroup;
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::heap;
use crate::lifecycle::heap::HeapTrimmer;
use crate::lifecycle::overload::{Overload, Pressure};
use crate::lifecycle::tasks::Tasks;
use crate::telemetry::metrics::OverloadMetrics;

/// Time between two measurements, and while more than half of the limit is used. Clients can fill 100 MiB in a second.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(200));

/// Measures until the process stops.
pub(super) async fn run(overload: Overload, connections: Tasks, drain: DrainWatch) {
    let mut trimmer = HeapTrimmer::new();
    let metrics = OverloadMetrics::new();
    let mut counts_before = (0, 0);
    let watch = async {
        loop {
            let memory = cgroup::memory_use();
            let (pressure, has_changed) = overload.observe(memory);
            let (refused, closed) = overload.counts();
            metrics.set(pressure > Pressure::None, refused, closed);
            if has_changed && pressure == Pressure::None {
                let (refused_before, closed_before) = counts_before;
                tracing::warn!(
                    percent = overload.percent(),
                    refused = refused - refused_before,
                    closed = closed - closed_before,
                    "{OVERLOAD_OVER}"
                );
                counts_before = (refused, closed);
            } else if has_changed && let Some(memory) = memory {
                tracing::error!(
                    used_bytes = memory.used,
                    limit_bytes = memory.limit,
                    closes_idle = pressure == Pressure::Critical,
                    remedy = "raise the memory limit of the container, or lower max_connections and max_held_bytes",
                    "{OVERLOADED}"
                );
            }
            let open = connections.len() as u64;
            let ended = connections.started().saturating_sub(open);
            if trimmer.is_due(open, ended, pressure > Pressure::None) {
                // On a thread that serves no client.
                let _ = spawn_blocking(heap::give_back).await;
            }
            let is_half = memory.is_some_and(|memory| memory.percent() >= 50);
            tokio::time::sleep(if is_half { INTERVALS.1 } else { INTERVALS.0 }).await;
        }
    };
    tokio::select! {
        () = watch => {}
        () = drain.stopped() => {}
    }
}
