//! What goes on beside the connections: asking each upstream how it is, and keeping the metrics small.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::connection::Upstream;
use crate::lifecycle::drain::DrainWatch;
use crate::telemetry::metrics::Metrics;
use crate::upstream;
use crate::upstream::Probe;

/// How often a well upstream is asked: readiness is never older than this and one `connect_timeout`.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// Older news than this about an upstream is no news: two probes have failed to end.
pub(super) const PROBE_AGE_MAX: Duration = Duration::from_secs(30);

/// How soon a failing one is asked again: recovery shows within about a second, and a dead one costs one attempt.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How often durations are folded into their histograms; each keeps 16 bytes until then.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Asks `upstream` for its hello over a connection of its own, again and again, until the drain begins.
pub(super) async fn probe(upstream: Arc<Upstream>, drain: DrainWatch) {
    let mut well = None;
    loop {
        let now_well = tokio::select! {
            biased;
            () = drain.draining() => return,
            well = probe_once(&upstream) => well,
        };
        if now_well && well == Some(false) {
            tracing::info!(upstream = upstream.connector.upstream(), "upstream is back");
        }
        well = Some(now_well);
        let pause = async {
            if now_well {
                tokio::select! {
                    () = sleep(PROBE_INTERVAL) => return,
                    () = upstream.failed.notified() => {}
                }
            }
            sleep(RETRY_INTERVAL).await;
        };
        tokio::select! {
            () = drain.draining() => return,
            () = pause => {}
        }
    }
}

async fn probe_once(upstream: &Upstream) -> bool {
    match upstream::probe(&upstream.connector).await {
        Ok(Probe { stream, server }) => {
            upstream.metrics.count_handshake(stream.handshake.duration);
            upstream.health.record_ok(Some((stream.address, server)));
            true
        }
        Err(error) => {
            upstream.note_failure(&error);
            false
        }
    }
}

/// Folds recorded durations together, until everything stops.
pub(super) async fn upkeep(metrics: Metrics, drain: DrainWatch) {
    let work = async {
        loop {
            sleep(UPKEEP_INTERVAL).await;
            metrics.upkeep();
        }
    };
    tokio::select! {
        () = work => {}
        () = drain.stopped() => {}
    }
}
