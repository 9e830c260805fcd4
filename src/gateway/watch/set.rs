//! Knows who the members of an upstream are and what each of them is, and tells its listeners.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bson::RawDocumentBuf;
use tokio::sync::{mpsc, oneshot};

use super::member;
use super::member::Told;
use super::records::{Records, next_records};
use crate::config::HostPort;
use crate::connection::{Member, MemberSelector, MemberStatus, Membership, Route, Upstream, Usability};
use crate::gateway::background;
use crate::identity::printable;
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::tasks::Tasks;
use crate::telemetry::metrics::SetMetrics;
use crate::topology::{HelloFacts, MemberName, MemberState, SetTracker};
use crate::upstream::{SrvError, SrvSeeds, Users, host_port, initial_tracker, member_name};

/// What members say on their way here; they wait when it is more.
const TOLD_MAX: usize = 64;

/// Watches over the members of one upstream.
pub(super) struct SetMonitor {
    upstream: Arc<Upstream>,
    routes: Vec<Arc<Route>>,
    tasks: Tasks,
    drain: DrainWatch,
    tracker: SetTracker,
    watched: HashMap<MemberName, Watched>,
    metrics: SetMetrics,
    /// Where the seeds come from DNS.
    records: Option<Records>,
    /// As of the last time that it was said.
    said: Said,
}

/// A member, and what ends whoever listens to it and keeps its spares.
struct Watched {
    member: Arc<Member>,
    _gone: Vec<oneshot::Sender<()>>,
}

#[derive(Default, PartialEq, Eq)]
struct Said {
    primary: Option<MemberName>,
    members: Vec<(MemberName, MemberState)>,
    /// What is wrong with each of them; `/status` shows it.
    problems: Vec<Option<String>>,
    left_out: Vec<MemberName>,
    /// Why nobody is known.
    trouble: Option<String>,
}

impl SetMonitor {
    pub(super) fn new(upstream: &Arc<Upstream>, routes: Vec<Arc<Route>>, tasks: &Tasks, drain: &DrainWatch) -> Self {
        let deployment = &upstream.config().deployment;
        let tracker = initial_tracker(deployment, deployment.listed(), None);
        let records = deployment.srv().map(|name| Records::new(name, upstream.config().connect_timeout));
        Self {
            upstream: Arc::clone(upstream),
            routes,
            tasks: tasks.clone(),
            drain: drain.clone(),
            tracker,
            watched: HashMap::new(),
            metrics: SetMetrics::new(upstream.name(), &MemberState::ALL.map(MemberState::name)),
            records,
            said: Said::default(),
        }
    }

    /// Goes on until the drain begins.
    pub(super) async fn run(mut self) {
        let drain = self.drain.clone();
        tokio::select! {
            biased;
            () = drain.draining() => {}
            () = self.watch() => {}
        }
    }

    async fn watch(&mut self) {
        let (sender, mut told) = mpsc::channel(TOLD_MAX);
        self.follow_members(&sender);
        self.tell();
        loop {
            tokio::select! {
                Some(Told { member, what }) = told.recv() => self.hear(&member, what),
                found = next_records(&mut self.records) => self.take_records(found),
            }
            self.follow_members(&sender);
            self.tell();
        }
    }

    fn hear(&mut self, member: &MemberName, what: Result<RawDocumentBuf, String>) {
        match what.and_then(|hello| HelloFacts::read(&hello).map_err(|error| error.to_string())) {
            Ok(facts) => drop(self.tracker.answered(member, &facts, Instant::now())),
            Err(reason) => drop(self.tracker.lost(member, &reason, Instant::now())),
        }
        if self.tracker.is_silent() {
            self.records.as_mut().into_iter().for_each(Records::doubt);
        }
    }

    fn take_records(&mut self, found: Result<SrvSeeds, SrvError>) {
        let deployment = &self.upstream.config().deployment;
        let SrvSeeds { members, replica_set, .. } = match found {
            Ok(seeds) => seeds,
            Err(error) => {
                let upstream = self.upstream.name();
                tracing::warn!(upstream, %error, remedy = error.remedy(upstream), "members are not found in DNS");
                return;
            }
        };
        if self.tracker.members().next().is_some() {
            self.tracker.reseed(members.iter().filter_map(member_name));
        } else {
            self.tracker = initial_tracker(deployment, &members, replica_set);
        }
        // A set tells by itself who joins it.
        if self.tracker.set_name().is_some() && !self.tracker.mapped().is_empty() {
            self.records.as_mut().into_iter().for_each(Records::suffice);
        }
    }

    /// Has somebody listen to each member that is known now, and nobody to those that are gone.
    fn follow_members(&mut self, sender: &mpsc::Sender<Told>) {
        let names: Vec<MemberName> = self.tracker.members().map(|member| member.name.clone()).collect();
        self.watched.retain(|name, _| names.contains(name));
        for name in names {
            if !self.watched.contains_key(&name)
                && let Some(watched) = self.begin(&name, sender)
            {
                self.watched.insert(name, watched);
            }
        }
    }

    fn begin(&mut self, name: &MemberName, sender: &mpsc::Sender<Told>) -> Option<Watched> {
        let address: HostPort = host_port(name);
        let member = match self.upstream.member(&address) {
            Ok(member) => Arc::new(member),
            Err(error) => {
                self.tracker.lost(name, &error.to_string(), Instant::now());
                return None;
            }
        };
        let mut gone = Vec::new();
        for line in &member.lines {
            let (sender, receiver) = oneshot::channel::<()>();
            gone.push(sender);
            let is_gone = async move { drop(receiver.await) };
            background::attend(line, &self.tasks, &self.drain, is_gone);
        }
        if let Some(line) = member.lines.first() {
            let (ending, receiver) = oneshot::channel::<()>();
            gone.push(ending);
            let (listening, drain) =
                (member::listen(name.clone(), Arc::clone(line), sender.clone()), self.drain.clone());
            self.tasks.spawn("member monitor", async move {
                tokio::select! {
                    biased;
                    () = drain.draining() => {}
                    _ = receiver => {}
                    () = listening => {}
                }
            });
        }
        Some(Watched { member, _gone: gone })
    }

    /// Tells listeners, metrics and the log what is new.
    fn tell(&mut self) {
        let now = Said {
            primary: self.tracker.primary().cloned(),
            members: self.tracker.members().map(|member| (member.name.clone(), member.state)).collect(),
            problems: self.tracker.members().map(|member| member.problem.clone()).collect(),
            left_out: self.assign(),
            trouble: self.records.as_ref().and_then(Records::trouble),
        };
        if now == self.said {
            return;
        }
        self.expect_users();
        self.upstream.publish(self.roster());
        self.metrics.set_primary_changes(self.tracker.primary_changes());
        self.metrics.set_members(&now.members.iter().map(|(_, state)| state.name()).collect::<Vec<_>>());
        self.log(&now);
        self.said = now;
    }

    /// Tells whoever connects to a member whether it has users to authenticate as. What one was that is not heard now is the
    /// best that is known of it.
    fn expect_users(&self) {
        for record in self.tracker.members() {
            let name = &record.name;
            let users = match record.state {
                MemberState::Primary | MemberState::Secondary | MemberState::Mongos => Users::Kept,
                MemberState::Arbiter => Users::None,
                MemberState::Other => Users::Awaited,
                MemberState::Unknown | MemberState::WrongSet => continue,
            };
            let lines = self.watched.get(name).into_iter().flat_map(|watched| &watched.member.lines);
            lines.for_each(|line| line.connector.expect_users(users));
        }
    }

    /// Gives the members their addresses at the listeners; before any client is put on them.
    fn assign(&self) -> Vec<MemberName> {
        let mapped = self.tracker.mapped();
        let mut left_out = Vec::new();
        for route in &self.routes {
            if let MemberSelector::Members(layout) = &route.destination {
                left_out.extend(layout.assign(&mapped));
            }
        }
        left_out
    }

    fn roster(&self) -> Membership {
        let listed = self.tracker.members().filter_map(|record| {
            let member = Arc::clone(&self.watched.get(&record.name)?.member);
            let part = match record.state {
                MemberState::Primary | MemberState::Mongos => Usability::Writable,
                MemberState::Secondary if !record.hidden => Usability::Readable,
                _ => Usability::Neither,
            };
            Some(MemberStatus {
                member,
                part,
                state: record.state,
                hidden: record.hidden,
                problem: record.problem.clone(),
            })
        });
        let set_name = self.tracker.set_name().map(printable);
        let trouble = self.records.as_ref().and_then(Records::trouble);
        Membership::new(listed.collect(), !self.tracker.mapped().is_empty(), set_name, trouble)
    }

    fn log(&mut self, now: &Said) {
        let (upstream, before) = (self.upstream.name(), &self.said);
        let is_new = |name: &MemberName| !before.members.iter().any(|(known, _)| known == name);
        for (member, _) in now.members.iter().filter(|(name, _)| is_new(name)) {
            tracing::info!(upstream, %member, "member found");
        }
        for (member, _) in before.members.iter().filter(|(name, _)| !now.members.iter().any(|(known, _)| known == name))
        {
            tracing::info!(upstream, %member, "member is no longer part of the set");
        }
        for (member, state) in &now.members {
            if *state == MemberState::WrongSet && !before.members.contains(&(member.clone(), *state)) {
                let problem = self.tracker.member(member).and_then(|record| record.problem.clone());
                tracing::warn!(
                    upstream,
                    %member,
                    problem,
                    remedy = format!("check upstream.{upstream}.members and replica_set"),
                    "member refused"
                );
            }
        }
        for member in now.left_out.iter().filter(|member| !before.left_out.contains(member)) {
            tracing::warn!(
                upstream,
                %member,
                remedy = "add a port to member_ports of its listeners, or an entry to member_addresses",
                "no address for this member: clients are not told of it"
            );
        }
        match &now.primary {
            primary if *primary == before.primary => {}
            Some(primary) => {
                tracing::info!(upstream, %primary, "primary found");
            }
            None => tracing::warn!(upstream, "there is no primary"),
        }
    }
}
