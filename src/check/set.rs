//! The members of a replica set or of a sharded cluster: each is connected to, and asked what it is; and which addresses of
//! our listeners they will have.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::connection;
use super::report::{About, ConnectionReport, Finding, Kind, MemberReport, SetReport, Severity, Status, Step};
use crate::config::{Config, HostPort, MemberAddresses, Topology, UpstreamConfig};
use crate::identity::printable;
use crate::tls::WorkloadSet;
use crate::topology::{HelloFacts, Member, MemberName, MemberState, SetTracker, Slot, Slots};
use crate::upstream::{HelloStream, host_port, initial_tracker, member_name, seeds};

/// Everything around one upstream.
pub(super) struct Surroundings<'a> {
    pub(super) config: &'a Config,
    pub(super) upstream: &'a UpstreamConfig,
    /// From an agent, if the certificates come from one.
    pub(super) handed_out: Option<&'a WorkloadSet>,
    pub(super) now: SystemTime,
}

/// Asks the members, beginning with those that are named here or in DNS, until all that are known have been asked.
///
/// That one of them cannot be connected to is a warning where another one can: the gateway goes on with the others.
pub(super) async fn check(
    around: &Surroundings<'_>,
    findings: &mut Vec<Finding>,
) -> (SetReport, Vec<ConnectionReport>) {
    let deployment = &around.upstream.deployment;
    let mut steps = Vec::new();
    let (named, set_name) = match deployment.srv() {
        Some(name) => look_up(name, around.upstream, &mut steps, findings).await,
        None => (deployment.listed().to_vec(), None),
    };
    let known = findings.len();
    let mut set = initial_tracker(deployment, &named, set_name);
    let (mut connections, mut asked) = (Vec::new(), BTreeSet::new());
    while let Some(member) = next(&set, &asked) {
        connections.extend(ask(around, &member, &mut set, findings).await);
        asked.insert(member);
    }
    if set.members().any(|member| member.problem.is_none() && member.state != MemberState::Unknown) {
        connection::demote(findings, known);
    }
    let mut desk = Desk { around, set: &set, steps, findings };
    desk.members();
    let addresses = desk.addresses();
    (desk.report(&addresses), connections)
}

/// The members that DNS names, and the set's name where it says that.
async fn look_up(
    name: &str,
    upstream: &UpstreamConfig,
    steps: &mut Vec<Step>,
    findings: &mut Vec<Finding>,
) -> (Vec<HostPort>, Option<String>) {
    match seeds(name, Instant::now() + upstream.connect_timeout).await {
        Ok(found) => {
            let members = found.members.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let set = found.replica_set.as_ref().map(|set| format!("; replica set {}", printable(set)));
            steps.push(Step::ok("SRV records", members + &set.unwrap_or_default()));
            (found.members, found.replica_set)
        }
        Err(error) => {
            steps.push(Step::failed("SRV records", error.to_string()));
            let about = About::Upstream(upstream.name.clone());
            let (sentence, remedy) = (error.to_string(), error.remedy(&upstream.name));
            findings.push(Finding { severity: Severity::Error, kind: Kind::Upstream, about, sentence, remedy });
            (Vec::new(), None)
        }
    }
}

fn next(set: &SetTracker, asked: &BTreeSet<MemberName>) -> Option<MemberName> {
    set.members().map(|member| &member.name).find(|name| !asked.contains(*name)).cloned()
}

async fn ask(
    around: &Surroundings<'_>,
    member: &MemberName,
    set: &mut SetTracker,
    findings: &mut Vec<Finding>,
) -> Vec<ConnectionReport> {
    let endpoint = around.upstream.endpoint(&host_port(member));
    let reports = connection::check(&endpoint, around.handed_out, around.now, findings).await;
    let connector = connection::connect_with(&endpoint, around.handed_out);
    let Some((connector, _)) = connector.filter(|_| reports.iter().any(|report| report.server.is_some())) else {
        let failed = reports.iter().flat_map(|report| &report.steps).find(|step| step.status == Status::Failed);
        let why = failed.and_then(|step| step.lines.first().cloned());
        set.lost(member, why.as_deref().unwrap_or("it cannot be connected to"), std::time::Instant::now());
        return reports;
    };
    match HelloStream::open(&connector).await {
        Ok((_, hello)) => match HelloFacts::read(&hello) {
            Ok(facts) => drop(set.answered(member, &facts, std::time::Instant::now())),
            Err(problem) => drop(set.lost(member, &problem.to_string(), std::time::Instant::now())),
        },
        Err(error) => drop(set.lost(member, &error.to_string(), std::time::Instant::now())),
    }
    reports
}

/// What is written down about a set.
struct Desk<'a> {
    around: &'a Surroundings<'a>,
    set: &'a SetTracker,
    steps: Vec<Step>,
    findings: &'a mut Vec<Finding>,
}

/// A listener's address for a member.
type Address = (String, Option<MemberName>, String);

impl Desk<'_> {
    fn members(&mut self) {
        for record in self.set.members() {
            let name = &record.name;
            let hidden = if record.hidden { ", hidden" } else { "" };
            let line = format!("{name} is {}{hidden}", record.state.name());
            let step = match (&record.problem, record.state) {
                (Some(problem), MemberState::WrongSet) => {
                    let sentence = format!("{name} is refused: {problem}");
                    let remedy = format!("take it out of upstream.{}.members, or mend replica_set", self.upstream());
                    self.find(Severity::Error, About::Upstream(self.upstream()), sentence, remedy);
                    Step::failed("member", format!("{line}: {problem}"))
                }
                (Some(problem), _) => Step::warning("member", format!("{line}: {problem}")),
                (None, MemberState::Unknown | MemberState::Other) => Step::warning("member", line),
                (None, _) => Step::ok("member", line),
            };
            self.steps.push(step);
        }
        if self.set.mapped().is_empty() {
            let remedy = format!("name members that are reachable in upstream.{}.members", self.upstream());
            self.find(
                Severity::Error,
                About::Upstream(self.upstream()),
                "no member of the replica set could be asked for the others".to_owned(),
                remedy,
            );
        } else if self.set.set_name().is_some() && self.set.primary().is_none() {
            self.find(
                Severity::Warning,
                About::Upstream(self.upstream()),
                "the replica set has no primary now: nothing can be written".to_owned(),
                "look at rs.status() on a member".to_owned(),
            );
        }
    }

    /// Of all listeners of the upstream, in their order.
    fn addresses(&mut self) -> Vec<Address> {
        let mut addresses = Vec::new();
        let around = self.around;
        for listener in around.config.listeners.values().filter(|one| one.upstream == around.upstream.name) {
            let Topology::Members(members) = &listener.topology else { continue };
            let mut slots = Slots::new(slots(members));
            let assigned = slots.assign(&self.set.mapped());
            for (at, slot) in members.slots.iter().enumerate() {
                let member = assigned.map.member_at(at).cloned();
                addresses.push((listener.name.clone(), member, told(members, slot.address)));
            }
            for member in assigned.left_out {
                self.find(
                    Severity::Warning,
                    About::Listener(listener.name.clone()),
                    format!("{member} gets no address: clients are not told of it"),
                    format!(
                        "add a port to listener.{0}.member_ports, or the member to listener.{0}.member_addresses",
                        listener.name
                    ),
                );
            }
        }
        for (listener, member, address) in &addresses {
            if let Some(member) = member {
                self.steps.push(Step::ok("address", format!("{address} of listener {listener} stands for {member}")));
            }
        }
        addresses
    }

    fn report(self, addresses: &[Address]) -> SetReport {
        let member = |record: &Member| MemberReport {
            name: record.name.to_string(),
            state: record.state.name(),
            hidden: record.hidden,
            problem: record.problem.clone(),
            addresses: addresses
                .iter()
                .filter(|(_, member, _)| member.as_ref() == Some(&record.name))
                .map(|(_, _, address)| address.clone())
                .collect(),
        };
        SetReport {
            name: self.set.set_name().map(printable),
            primary: self.set.primary().map(ToString::to_string),
            members: self.set.members().map(member).collect(),
            steps: self.steps,
        }
    }

    fn upstream(&self) -> String {
        self.around.upstream.name.clone()
    }

    fn find(&mut self, severity: Severity, about: About, sentence: String, remedy: String) {
        self.findings.push(Finding { severity, kind: Kind::Upstream, about, sentence, remedy });
    }
}

fn slots(members: &MemberAddresses) -> Vec<Slot> {
    let slot = |slot: &crate::config::MemberAddress| {
        let advertised: Arc<str> = told(members, slot.address).into();
        Slot { advertised, reserved_for: slot.member.as_ref().and_then(member_name) }
    };
    members.slots.iter().map(slot).collect()
}

/// What clients are told of an address; which port a free one will be is not known yet.
fn told(members: &MemberAddresses, address: std::net::SocketAddr) -> String {
    if address.port() > 0 {
        return members.advertised(address);
    }
    let host = members.advertise.clone().unwrap_or_else(|| address.ip().to_string());
    format!("a free port of {host}")
}
