//! Measures the memory of the container, and reports when the overload state begins and ends.

use std::time::Duration;

use super::messages::{OVERLOAD_OVER, OVERLOADED};
use crate::lifecycle::cgroup;
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::overload::{Overload, Pressure};
use crate::telemetry::metrics::OverloadMetrics;

/// Time between two measurements, and while more than half of the limit is used. Clients can fill 100 MiB in a second.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(200));

/// Measures until the process stops.
pub(super) async fn run(overload: Overload, drain: DrainWatch) {
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
            let is_half = memory.is_some_and(|memory| memory.percent() >= 50);
            tokio::time::sleep(if is_half { INTERVALS.1 } else { INTERVALS.0 }).await;
        }
    };
    tokio::select! {
        () = watch => {}
        () = drain.stopped() => {}
    }
}
