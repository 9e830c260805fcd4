//! What goes on beside the connections: asking each upstream how it is, keeping spare connections to it, and keeping the
//! metrics small.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::connection::{Member, MemberPool};
use crate::identity::printable;
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::tasks::Tasks;
use crate::telemetry::metrics::Metrics;
use crate::tls::UpstreamTls;
use crate::upstream;
use crate::upstream::{Probe, ServerRole, UpstreamStream, Users};

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

/// Asks `server` for its hello over a connection of its own, again and again, until the drain begins.
pub(super) async fn probe(server: Arc<Member>, drain: DrainWatch) {
    // There is one for each credential, and always that of the upstream itself.
    let Some(line) = server.lines.first() else { return };
    let mut well = None;
    let mut membership = Membership::default();
    loop {
        let now_well = tokio::select! {
            biased;
            () = drain.draining() => return,
            well = probe_once(&server, line, &mut membership) => well,
        };
        if now_well && well == Some(false) {
            tracing::info!(upstream = line.connector.upstream(), "upstream is back");
        }
        well = Some(now_well);
        let pause = async {
            if now_well {
                tokio::select! {
                    () = sleep(PROBE_INTERVAL) => return,
                    () = line.news.failed.notified() => {}
                }
            }
            sleep(RETRY_INTERVAL).await;
        };
        tokio::select! {
            () = drain.draining() => return,
            // What the old certificates met says nothing of the new ones.
            () = line.news.renewed.notified() => {}
            () = pause => {}
        }
    }
}

async fn probe_once(member: &Member, line: &MemberPool, membership: &mut Membership) -> bool {
    match upstream::probe(&line.connector).await {
        Ok(Probe { stream, server }) => {
            line.note_success(&stream);
            membership.mind(line, &stream);
            // A member that is none of these, an arbiter among them, may have no users.
            let users = if server.role == ServerRole::Other { Users::Awaited } else { Users::Kept };
            member.lines.iter().for_each(|line| line.connector.expect_users(users));
            line.news.health.record_ok(Some((stream.address, server)));
            true
        }
        Err(error) => {
            line.note_failure(&error);
            false
        }
    }
}

/// Whether our certificate would make us a member of mongod's cluster; said once for each set of ours.
#[derive(Default)]
pub(super) struct Membership {
    told: Option<Arc<UpstreamTls>>,
}

impl Membership {
    /// Looks at a connection that was just made.
    pub(super) fn mind(&mut self, line: &MemberPool, stream: &UpstreamStream) {
        let ours = &stream.made_with;
        if self.told.as_ref().is_some_and(|told| Arc::ptr_eq(told, ours)) {
            return;
        }
        let Some(theirs) = stream.server_certificate() else { return };
        if theirs.subject.is_of_same_cluster(&ours.credentials.certificate.subject) {
            tracing::warn!(
                upstream = line.connector.upstream(),
                subject = printable(ours.credentials.certificate.subject.as_str()),
                server_subject = printable(theirs.subject.as_str()),
                remedy = "use a client certificate whose O, OU or DC differs from those of mongod's certificate",
                "the client certificate has the organization of mongod's own: a mongod with X.509 cluster \
                 authentication takes every client of this gateway for a member of its cluster, which may do everything"
            );
        }
        self.told = Some(Arc::clone(ours));
    }
}

/// Has somebody attend to `line` until the drain begins or `gone` resolves: keep its spare connections, and mind its user.
pub(super) fn attend(
    line: &Arc<MemberPool>,
    tasks: &Tasks,
    drain: &DrainWatch,
    gone: impl Future<Output = ()> + Send + 'static,
) {
    let (line, drain) = (Arc::clone(line), drain.clone());
    if line.shelf.is_on() {
        tasks.spawn("spare connections", keep_warm(line, drain, gone));
    } else if line.connector.authenticates() {
        tasks.spawn("user check", mind_user(line, drain, gone));
    }
}

/// Keeps as many spare connections on `line` as there should be, until the drain begins or `gone` resolves; then closes
/// them.
async fn keep_warm(line: Arc<MemberPool>, drain: DrainWatch, gone: impl Future<Output = ()>) {
    tokio::select! {
        // Nothing is made any more when the drain has begun.
        biased;
        () = drain.draining() => {}
        () = gone => {}
        () = fill(&line) => {}
    }
    line.shelf.clear();
    line.tell_shelf();
}

async fn fill(line: &MemberPool) {
    let mut pause = SPARE_BACK_OFF.0;
    loop {
        if line.shelf.sweep(line.connector.identity().generation()) > 0 {
            // mongod has closed what nobody used: it may be gone.
            line.news.failed.notify_one();
        }
        let missing = if line.may_have_spares() { line.shelf.missing() } else { 0 };
        line.tell_shelf();
        if missing == 0 {
            pause = SPARE_BACK_OFF.0;
            tokio::select! {
                () = line.shelf.changed() => {}
                () = sleep(SWEEP_INTERVAL) => {}
            }
        } else if !make_spares(line, missing).await {
            tokio::select! {
                // Where it is our certificate that the member does not take, others succeed all the time.
                () = line.news.succeeded.notified(), if !line.is_denied() => {}
                () = sleep(pause) => {}
            }
            pause = (pause * 2).min(SPARE_BACK_OFF.1);
        }
    }
}

/// Makes a few of the `missing` spares at a time; whether all of those could be made.
async fn make_spares(line: &MemberPool, missing: usize) -> bool {
    let make = async |place: usize| place >= missing.min(SPARE_DIALS_MAX) || line.make_spare().await;
    let (first, second, third, fourth) = tokio::join!(make(0), make(1), make(2), make(3));
    first && second && third && fourth
}

/// Sees to it that somebody knows whether mongod takes the user of `line`, where no spare connections show it; until the
/// drain begins or `gone` resolves.
async fn mind_user(line: Arc<MemberPool>, drain: DrainWatch, gone: impl Future<Output = ()>) {
    let minding = async {
        let mut tried = None;
        loop {
            let generation = line.connector.identity().generation();
            let is_fresh =
                tried.is_some_and(|(of, at): (u64, Instant)| of == generation && at.elapsed() < PROBE_INTERVAL);
            if line.may_have_spares() && !line.connector.has_user() && !is_fresh {
                tried = Some((generation, Instant::now()));
                // What it came to is noted already.
                drop(line.dial().await);
            }
            sleep(RETRY_INTERVAL).await;
        }
    };
    tokio::select! {
        biased;
        () = drain.draining() => {}
        () = gone => {}
        () = minding => {}
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
