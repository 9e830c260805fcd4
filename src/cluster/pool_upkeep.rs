//! Keeps the spare connections of a pool and those that clients share, and finds out whether mongod accepts its user.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::pool::MemberPool;
use super::reuse::{PoolCounts, ReusePool};
use crate::lifecycle::back_off::BackOff;
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::tasks::Tasks;

/// How often the connections that no client uses are inspected. One that mongod has closed is noticed within this time.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Spare connections that are made at the same time.
const SPARE_DIALS_MAX: usize = 4;

/// First and longest pause after a spare connection could not be made. A success of any other connection ends the
/// pause.
const SPARE_BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// First and longest pause between two attempts to use a new certificate set that no connection has used yet.
const PROOF_BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How often the user check looks at its pool.
const USER_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Minimum time between two authentication attempts of the user check with the same certificate set.
const USER_RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// Starts the upkeep of `pool`, which runs until the drain begins or `removed` resolves.
pub(super) fn start(
    pool: &Arc<MemberPool>,
    tasks: &Tasks,
    drain: &DrainWatch,
    removed: impl Future<Output = ()> + Send + 'static,
) {
    if !pool.spares.is_on() && !pool.connector.authenticates() && pool.reuse.is_none() {
        return;
    }
    let keeper = pool.reuse.as_ref().map(ReusePool::keep);
    let (pool, drain) = (Arc::clone(pool), drain.clone());
    tasks.spawn("pool upkeep", async move {
        tokio::select! {
            // No connection is made after the drain has begun.
            biased;
            () = drain.draining() => {}
            () = removed => {}
            () = keep(&pool) => {}
        }
        drop(keeper);
        pool.spares.clear();
        pool.report_spares();
    });
}

/// Keeps the required number of spare connections, and the connections that clients share. Does not end.
async fn keep(pool: &MemberPool) {
    let unused = async {
        if pool.spares.is_on() {
            fill(pool).await;
        } else if pool.connector.authenticates() {
            check_user(pool).await;
        }
    };
    let shared = async {
        if let Some(reuse) = &pool.reuse {
            keep_shared(pool, reuse).await;
        }
    };
    tokio::join!(unused, shared, std::future::pending::<()>());
}

/// Closes shared connections in time, and proves a new certificate set, so that those of the previous one can end.
async fn keep_shared(pool: &MemberPool, reuse: &ReusePool) {
    let mut back_off = BackOff::new(PROOF_BACK_OFF.0, PROOF_BACK_OFF.1);
    let mut prove_at = Instant::now();
    loop {
        if reuse.sweep() > 0 {
            // mongod has closed unused connections: it may be down.
            pool.health().failed.notify_one();
        }
        if !pool.has_unproven_certificates() {
            back_off.reset();
        } else if Instant::now() >= prove_at && reuse.counts() != PoolCounts::default() {
            // The pool has recorded the result.
            drop(pool.dial(None).await);
            prove_at = Instant::now() + back_off.next_pause();
        }
        sleep(SWEEP_INTERVAL).await;
    }
}

async fn fill(pool: &MemberPool) {
    let mut back_off = BackOff::new(SPARE_BACK_OFF.0, SPARE_BACK_OFF.1);
    let mut last_young: Option<Instant> = None;
    loop {
        let swept = pool.spares.sweep(pool.connector.identity().generation());
        if swept.lost > 0 {
            // mongod has closed unused connections: it may be down.
            pool.health().failed.notify_one();
        }
        if swept.young > 0 {
            // A server that closes new connections at once would be dialled in a loop.
            last_young = Some(Instant::now());
            pool.report_spares();
            sleep(back_off.next_pause()).await;
        }
        let missing = if pool.may_have_spares() { pool.missing_spares() } else { 0 };
        pool.report_spares();
        if missing == 0 {
            if last_young.is_none_or(|at| at.elapsed() > SPARE_BACK_OFF.1 * 2) {
                back_off.reset();
            }
            tokio::select! {
                () = pool.spares.changed() => {}
                () = sleep(SWEEP_INTERVAL) => {}
            }
        } else if !make_spares(pool, missing).await {
            tokio::select! {
                // If the member rejects this credential, the success of another credential means nothing.
                () = pool.health().connected.notified(), if !pool.attempts.is_credential_rejected() => {}
                () = sleep(back_off.next_pause()) => {}
            }
        }
    }
}

/// Makes some of the `missing` spare connections at the same time; returns whether all of these succeeded.
async fn make_spares(pool: &MemberPool, missing: usize) -> bool {
    let make = async |index: usize| index >= missing.min(SPARE_DIALS_MAX) || pool.make_spare().await;
    let (first, second, third, fourth) = tokio::join!(make(0), make(1), make(2), make(3));
    first && second && third && fourth
}

/// Authenticates now and then until mongod accepts the user of `pool`, so that the readiness probe and `/status` know
/// about it before a client connects. Spare connections make this unnecessary. Does not end.
async fn check_user(pool: &MemberPool) {
    let mut tried = None;
    loop {
        let generation = pool.connector.identity().generation();
        let is_recent = tried.is_some_and(|(tried_generation, at): (u64, Instant)| {
            tried_generation == generation && at.elapsed() < USER_RETRY_INTERVAL
        });
        if pool.may_have_spares() && !pool.connector.has_user() && !is_recent {
            tried = Some((generation, Instant::now()));
            // The pool has recorded the result.
            drop(pool.dial(None).await);
        }
        sleep(USER_CHECK_INTERVAL).await;
    }
}
