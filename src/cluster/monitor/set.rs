//! Tracks the members of an upstream with several servers, and publishes them to its listeners.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bson::RawDocumentBuf;
use tokio::sync::{mpsc, oneshot};

use super::change_budget::ChangeBudget;
use super::changes::SetSnapshot;
use super::member;
use super::member::HelloReport;
use super::seed_list::{SeedList, next_seeds};
use crate::cluster::hello_watch::UseOfHello;
use crate::cluster::member::Member;
use crate::cluster::membership::{MemberStatus, Membership, Usability};
use crate::cluster::messages::SEED_LIST_LOOKUP_FAILED;
use crate::cluster::pool_upkeep;
use crate::cluster::slot_map::SlotMap;
use crate::cluster::upstream::Upstream;
use crate::identity::printable;
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::tasks::Tasks;
use crate::telemetry::log_throttle::{LineBudget, LogDecision, LogSubject, LogThrottle};
use crate::telemetry::metrics::SetMetrics;
use crate::topology::{HelloFacts, MemberName, MemberState, SetTracker};
use crate::upstream::{SrvError, SrvSeeds, Users, host_port, initial_tracker, member_name};

/// Reports of members that wait to be processed; when there are more, the member monitors wait.
const REPORTS_MAX: usize = 64;

/// Tracks the members of one upstream.
pub(super) struct SetMonitor {
    upstream: Arc<Upstream>,
    slot_maps: Vec<Arc<SlotMap>>,
    use_of_hello: UseOfHello,
    tasks: Tasks,
    drain: DrainWatch,
    tracker: SetTracker,
    monitored: HashMap<MemberName, MonitoredMember>,
    /// While it is overdrawn, reports wait.
    changes: ChangeBudget,
    metrics: SetMetrics,
    /// Where the seed list comes from DNS.
    seed_list: Option<SeedList>,
    /// Limits the log lines about a set that changes again and again.
    log_throttle: LogThrottle,
    /// As last published.
    published: SetSnapshot,
}

/// A member with its tasks, which end when this is dropped.
struct MonitoredMember {
    member: Arc<Member>,
    /// The monitor.
    _monitor: oneshot::Sender<()>,
    /// One for each pool, while the member is in use.
    upkeep: Vec<oneshot::Sender<()>>,
}

impl SetMonitor {
    pub(super) fn new(
        upstream: &Arc<Upstream>,
        slot_maps: Vec<Arc<SlotMap>>,
        use_of_hello: UseOfHello,
        tasks: &Tasks,
        drain: &DrainWatch,
    ) -> Self {
        let deployment = &upstream.config().deployment;
        let tracker = initial_tracker(deployment, deployment.listed(), None);
        let seed_list = deployment.srv().map(|name| SeedList::new(name, upstream.config().connect_timeout));
        Self {
            upstream: Arc::clone(upstream),
            slot_maps,
            use_of_hello,
            tasks: tasks.clone(),
            drain: drain.clone(),
            tracker,
            monitored: HashMap::new(),
            changes: ChangeBudget::new(),
            metrics: SetMetrics::new(upstream.name(), &MemberState::ALL.map(MemberState::name)),
            seed_list,
            log_throttle: LogThrottle::new(LogSubject::Upstream(upstream.name().to_owned())),
            published: SetSnapshot::default(),
        }
    }

    /// Runs until the drain begins.
    pub(super) async fn run(mut self) {
        let drain = self.drain.clone();
        tokio::select! {
            biased;
            () = drain.draining() => {}
            () = self.monitor() => {}
        }
    }

    async fn monitor(&mut self) {
        let (sender, mut reports) = mpsc::channel(REPORTS_MAX);
        self.update_monitors(&sender);
        self.publish();
        loop {
            tokio::select! {
                Some(HelloReport { member, hello }) = next_report(&mut reports, &self.changes) => {
                    self.take_report(&member, hello);
                }
                found = next_seeds(&mut self.seed_list) => self.take_seeds(found),
            }
            self.update_monitors(&sender);
            self.publish();
        }
    }

    fn take_report(&mut self, member: &MemberName, hello: Result<RawDocumentBuf, String>) {
        match hello.and_then(|hello| HelloFacts::read(&hello).map_err(|error| error.to_string())) {
            Ok(facts) => drop(self.tracker.answered(member, &facts, Instant::now())),
            Err(reason) => drop(self.tracker.lost(member, &reason, Instant::now())),
        }
        if self.tracker.is_silent() {
            self.seed_list.as_mut().into_iter().for_each(SeedList::look_up_again);
        }
    }

    fn take_seeds(&mut self, found: Result<SrvSeeds, SrvError>) {
        let deployment = &self.upstream.config().deployment;
        let SrvSeeds { members, replica_set, .. } = match found {
            Ok(seeds) => seeds,
            Err(error) => {
                let upstream = self.upstream.name();
                let decision = self.log_throttle.note(SEED_LIST_LOOKUP_FAILED, "", LineBudget::Failures);
                if let LogDecision::Log { suppressed } = decision {
                    let remedy = error.remedy(upstream);
                    tracing::warn!(upstream, %error, remedy, suppressed, "{SEED_LIST_LOOKUP_FAILED}");
                }
                return;
            }
        };
        if self.tracker.members().next().is_some() {
            self.tracker.reseed(members.iter().filter_map(member_name));
        } else {
            self.tracker = initial_tracker(deployment, &members, replica_set);
        }
        // The members of a replica set report who joins it.
        if self.tracker.set_name().is_some() && !self.tracker.mapped().is_empty() {
            self.seed_list.as_mut().into_iter().for_each(SeedList::stop);
        }
    }

    /// Starts a monitor for each new member, and ends those of removed members. They are counted as changes.
    fn update_monitors(&mut self, reports: &mpsc::Sender<HelloReport>) {
        let tracked: Vec<_> = self.tracker.members().map(|member| (member.name.clone(), member.is_in_use())).collect();
        let before = self.monitored.len();
        self.monitored.retain(|name, _| tracked.iter().any(|(known, _)| known == name));
        let mut changes = before - self.monitored.len();
        for (name, is_in_use) in tracked {
            if !self.monitored.contains_key(&name)
                && let Some(monitored) = self.start_monitor(&name, reports)
            {
                self.monitored.insert(name.clone(), monitored);
                changes += 1;
            }
            match self.monitored.get_mut(&name) {
                Some(monitored) if !is_in_use => monitored.upkeep.clear(),
                Some(monitored) if monitored.upkeep.is_empty() => {
                    monitored.upkeep = start_upkeep(&monitored.member, &self.tasks, &self.drain);
                }
                _ => {}
            }
        }
        self.changes.spend(changes);
    }

    fn start_monitor(&mut self, name: &MemberName, reports: &mpsc::Sender<HelloReport>) -> Option<MonitoredMember> {
        let member = match self.upstream.new_member(&host_port(name)) {
            Ok(member) => Arc::new(member),
            Err(error) => {
                self.tracker.lost(name, &error.to_string(), Instant::now());
                return None;
            }
        };
        let (monitor, removed) = oneshot::channel::<()>();
        let monitored = member::run(name.clone(), Arc::clone(&member), self.use_of_hello, reports.clone());
        let drain = self.drain.clone();
        self.tasks.spawn("member monitor", async move {
            tokio::select! {
                biased;
                () = drain.draining() => {}
                _ = removed => {}
                () = monitored => {}
            }
        });
        Some(MonitoredMember { member, _monitor: monitor, upkeep: Vec::new() })
    }

    /// Publishes changes to listeners, metrics and the log.
    fn publish(&mut self) {
        let without_address = self.assign_addresses();
        let addresses = self.slot_maps.iter().map(|slots| (slots.listener().to_owned(), slots.assignments())).collect();
        let now = SetSnapshot::new(&self.tracker, without_address, addresses, self.seed_list.as_ref());
        if now == self.published {
            return;
        }
        self.expect_users();
        self.upstream.publish(self.membership());
        self.metrics.set_primary_changes(self.tracker.primary_changes());
        self.metrics.set_members(&now.state_names());
        now.log_changes(self.upstream.name(), &self.published, &self.log_throttle);
        self.published = now;
    }

    /// Assigns the addresses of the listeners to members. Must come before the members are published.
    fn assign_addresses(&self) -> Vec<MemberName> {
        let candidates = self.tracker.candidates();
        self.slot_maps.iter().flat_map(|slots| slots.assign(&candidates)).collect()
    }

    /// Informs the pools of each member whether it has users to authenticate as. A member that does not answer is
    /// treated as in its last state.
    fn expect_users(&self) {
        for tracked in self.tracker.members() {
            let users = match tracked.state {
                MemberState::Primary | MemberState::Secondary | MemberState::Mongos => Users::Kept,
                MemberState::Arbiter => Users::None,
                MemberState::Other => Users::Awaited,
                MemberState::Unknown | MemberState::WrongSet => continue,
            };
            let pools = self.monitored.get(&tracked.name).into_iter().flat_map(|monitored| &monitored.member.pools);
            pools.for_each(|pool| pool.connector.expect_users(users));
        }
    }

    fn membership(&self) -> Membership {
        let members = self.tracker.members().filter(|tracked| tracked.is_in_use()).filter_map(|tracked| {
            let member = Arc::clone(&self.monitored.get(&tracked.name)?.member);
            let usability = match tracked.state {
                MemberState::Primary | MemberState::Mongos => Usability::Writable,
                MemberState::Secondary if !tracked.hidden => Usability::Readable,
                _ => Usability::Neither,
            };
            let (state, hidden, problem) = (tracked.state, tracked.hidden, tracked.problem.clone());
            Some(MemberStatus { member, usability, state, hidden, problem })
        });
        let set_name = self.tracker.set_name().map(printable);
        let seed_list_error = self.seed_list.as_ref().and_then(SeedList::error);
        Membership::new(members.collect(), !self.tracker.mapped().is_empty(), set_name, seed_list_error)
    }
}

/// The next report, once the budget allows it: meanwhile, reports wait in their channel. Cancel safe.
async fn next_report(reports: &mut mpsc::Receiver<HelloReport>, changes: &ChangeBudget) -> Option<HelloReport> {
    changes.available().await;
    reports.recv().await
}

/// Starts the upkeep of the pools of `member`, which ends when the senders are dropped.
fn start_upkeep(member: &Member, tasks: &Tasks, drain: &DrainWatch) -> Vec<oneshot::Sender<()>> {
    let start = |pool| {
        let (upkeep, ended) = oneshot::channel::<()>();
        pool_upkeep::start(pool, tasks, drain, async move { drop(ended.await) });
        upkeep
    };
    member.pools.iter().map(start).collect()
}
