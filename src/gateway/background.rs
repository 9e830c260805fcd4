//! What goes on beside the connections: asking each upstream how it is, keeping spare connections to it, and keeping the
//! metrics small.

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

/// How often spare connections are looked at: one that mongod has closed is known for at most this long.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Spare connections that are made at one time.
const SPARE_DIALS_MAX: usize = 4;

/// First and longest pause when none can be made; a success of anybody else ends it.
const SPARE_BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

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
            upstream.note_success(&stream);
            upstream.condition.hold(&format!("{} at {}", server.role, stream.address));
            upstream.health.record_ok(Some(server));
            true
        }
        Err(error) => {
            upstream.note_failure(&error);
            false
        }
    }
}

/// Keeps as many spare connections to `upstream` as there should be, until the drain begins; then closes them.
pub(super) async fn keep_warm(upstream: Arc<Upstream>, drain: DrainWatch) {
    tokio::select! {
        // Nothing is made any more when the drain has begun.
        biased;
        () = drain.draining() => {}
        () = fill(&upstream) => {}
    }
    upstream.shelf.clear();
    upstream.tell_shelf();
}

async fn fill(upstream: &Upstream) {
    let mut pause = SPARE_BACK_OFF.0;
    loop {
        if upstream.shelf.sweep(upstream.connector.generation()) > 0 {
            // mongod has closed what nobody used: it may be gone.
            upstream.failed.notify_one();
        }
        let missing = upstream.shelf.missing();
        upstream.tell_shelf();
        if missing == 0 {
            pause = SPARE_BACK_OFF.0;
            tokio::select! {
                () = upstream.shelf.changed() => {}
                () = sleep(SWEEP_INTERVAL) => {}
            }
        } else if !make_spares(upstream, missing).await {
            tokio::select! {
                () = upstream.succeeded.notified() => {}
                () = sleep(pause) => {}
            }
            pause = (pause * 2).min(SPARE_BACK_OFF.1);
        }
    }
}

/// Makes a few of the `missing` spares at a time; whether all of those could be made.
async fn make_spares(upstream: &Upstream, missing: usize) -> bool {
    let make = async |place: usize| {
        if place >= missing.min(SPARE_DIALS_MAX) {
            return true;
        }
        match upstream.dial().await {
            Ok(link) => upstream.shelf.put(link).is_ok(),
            Err(_) => false,
        }
    };
    let (first, second, third, fourth) = tokio::join!(make(0), make(1), make(2), make(3));
    first && second && third && fourth
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
