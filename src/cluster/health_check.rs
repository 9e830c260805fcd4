//! The health check of an upstream of one server: it asks the server for its hello at intervals.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::member::Member;
use super::messages::UPSTREAM_RECOVERED;
use super::pool::MemberPool;
use super::subject_check::SubjectCheck;
use crate::lifecycle::drain::DrainWatch;
use crate::telemetry::log_throttle::{LineBudget, LogDecision};
use crate::upstream;
use crate::upstream::{Probe, ServerRole, Users};

/// Time between two checks of a healthy server. The readiness probe shows a state that is at most this old, plus one
/// `connect_timeout`.
const INTERVAL: Duration = Duration::from_secs(10);

/// Time until the next check of a server that does not answer: recovery shows within about a second, at the cost of one
/// attempt.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// A success older than this no longer counts: at least two checks have not finished.
pub(super) const SUCCESS_AGE_MAX: Duration = Duration::from_secs(30);

/// Checks `server` over separate connections until the drain begins.
pub(super) async fn run(server: Arc<Member>, drain: DrainWatch) {
    let Some(pool) = server.pools.first() else { return };
    let mut was_healthy = None;
    let mut subject_check = SubjectCheck::default();
    loop {
        let is_healthy = tokio::select! {
            biased;
            () = drain.draining() => return,
            is_healthy = check_once(&server, pool, &mut subject_check) => is_healthy,
        };
        if is_healthy && was_healthy == Some(false) {
            log_recovery(pool);
        }
        was_healthy = Some(is_healthy);
        let pause = async {
            if is_healthy {
                tokio::select! {
                    () = sleep(INTERVAL) => return,
                    () = pool.health().failed.notified() => {}
                }
            }
            sleep(RETRY_INTERVAL).await;
        };
        tokio::select! {
            () = drain.draining() => return,
            // The last result does not apply to the new certificates.
            () = pool.health().certificates_renewed.notified() => {}
            () = pause => {}
        }
    }
}

fn log_recovery(pool: &MemberPool) {
    let decision = pool.health().repeats.note(UPSTREAM_RECOVERED, "", LineBudget::Changes);
    if let LogDecision::Log { suppressed } = decision {
        tracing::info!(upstream = pool.connector.upstream(), suppressed, "{UPSTREAM_RECOVERED}");
    }
}

async fn check_once(server: &Member, pool: &MemberPool, subject_check: &mut SubjectCheck) -> bool {
    match upstream::probe(&pool.connector).await {
        Ok(Probe { stream, server: facts }) => {
            pool.record_success(&stream);
            subject_check.check(pool, &stream);
            // A server in any other state, such as an arbiter, may have no users.
            let users = if facts.role == ServerRole::Other { Users::Awaited } else { Users::Kept };
            server.pools.iter().for_each(|pool| pool.connector.expect_users(users));
            pool.health().status.record_ok(Some((stream.address, facts)));
            true
        }
        Err(error) => {
            pool.attempts.record_failure(&error);
            if error.is_timeout() {
                server.pools.iter().for_each(|pool| pool.spares.suspect());
            }
            false
        }
    }
}
