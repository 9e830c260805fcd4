//! The check of the members of a replica set or a sharded cluster: connects to each, sends it a hello, and lists the
//! addresses of listeners that stand for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::connection;
use super::report::{About, ConnectionReport, Finding, FindingKind, MemberReport, SetReport, Status, Step};
use crate::config::{Config, HostPort, MemberAddresses, Topology, UpstreamConfig};
use crate::identity::printable;
use crate::tls::WorkloadSet;
use crate::topology::{HelloFacts, MemberName, MemberState, SetMember, SetTracker, Slot, Slots};
use crate::upstream::{HelloStream, host_port, initial_tracker, member_name, seeds};

/// The facts that all checks of one upstream need.
pub(super) struct SetContext<'a> {
    pub(super) config: &'a Config,
    pub(super) upstream: &'a UpstreamConfig,
    /// The certificates from a SPIFFE agent, if the upstream uses one.
    pub(super) workload: Option<&'a WorkloadSet>,
    pub(super) now: SystemTime,
}

/// Sends a hello to each member: first to those in the configuration or in DNS, then to those that members name.
///
/// If at least one member works, a failure of another one is a warning, because the gateway uses the others.
pub(super) async fn check(context: &SetContext<'_>, findings: &mut Vec<Finding>) -> (SetReport, Vec<ConnectionReport>) {
    let deployment = &context.upstream.deployment;
    let mut steps = Vec::new();
    let (named, set_name) = match deployment.srv() {
        Some(name) => look_up(name, context.upstream, &mut steps, findings).await,
        None => (deployment.listed().to_vec(), None),
    };
    let findings_before = findings.len();
    let mut set = initial_tracker(deployment, &named, set_name);
    let (mut connections, mut visited) = (Vec::new(), BTreeSet::new());
    while let Some(member) = next(&set, &visited) {
        connections.extend(check_member(context, &member, &mut set, findings).await);
        visited.insert(member);
    }
    if set.members().any(|member| member.problem.is_none() && member.state != MemberState::Unknown) {
        connection::demote(findings, findings_before);
    }
    let mut checks = SetChecks { context, set: &set, steps, findings };
    checks.members();
    let addresses = checks.addresses();
    (checks.report(&addresses), connections)
}

/// The members from the SRV records, and the name of the replica set, if the TXT record has it.
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
            steps.push(Step::error("SRV records", error.to_string()));
            let about = About::Upstream(upstream.name.clone());
            let (sentence, remedy) = (error.to_string(), error.remedy(&upstream.name));
            findings.push(Finding { severity: Status::Error, kind: FindingKind::Upstream, about, sentence, remedy });
            (Vec::new(), None)
        }
    }
}

fn next(set: &SetTracker, visited: &BTreeSet<MemberName>) -> Option<MemberName> {
    set.members().map(|member| &member.name).find(|name| !visited.contains(*name)).cloned()
}

async fn check_member(
    context: &SetContext<'_>,
    member: &MemberName,
    set: &mut SetTracker,
    findings: &mut Vec<Finding>,
) -> Vec<ConnectionReport> {
    let endpoint = context.upstream.endpoint(&host_port(member));
    let reports = connection::check(&endpoint, context.workload, context.now, findings).await;
    let connector = connection::connect_with(&endpoint, context.workload);
    let Some((connector, _)) = connector.filter(|_| reports.iter().any(|report| report.server.is_some())) else {
        let failed = reports.iter().flat_map(|report| &report.steps).find(|step| step.status == Status::Error);
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

/// Collects the steps and the findings about a set.
struct SetChecks<'a> {
    context: &'a SetContext<'a>,
    set: &'a SetTracker,
    steps: Vec<Step>,
    findings: &'a mut Vec<Finding>,
}

/// The name of a listener, a member, and the address of the listener that stands for this member.
type Address = (String, Option<MemberName>, String);

impl SetChecks<'_> {
    fn members(&mut self) {
        for record in self.set.members() {
            let name = &record.name;
            let hidden = if record.hidden { ", hidden" } else { "" };
            let line = format!("{name} is {}{hidden}", record.state.name());
            let step = match (&record.problem, record.state) {
                (Some(problem), MemberState::WrongSet) => {
                    let sentence = format!("{name} is not used: {problem}");
                    let remedy = format!("remove it from upstream.{}.members, or correct replica_set", self.upstream());
                    self.find(Status::Error, About::Upstream(self.upstream()), sentence, remedy);
                    Step::error("member", format!("{line}: {problem}"))
                }
                (Some(problem), _) => Step::warning("member", format!("{line}: {problem}")),
                (None, MemberState::Unknown | MemberState::Other) => Step::warning("member", line),
                (None, _) => Step::ok("member", line),
            };
            self.steps.push(step);
        }
        if self.set.mapped().is_empty() {
            let remedy = format!("name at least one reachable member in upstream.{}.members", self.upstream());
            self.find(
                Status::Error,
                About::Upstream(self.upstream()),
                "no member answered, so the members of the replica set are unknown".to_owned(),
                remedy,
            );
        } else if self.set.set_name().is_some() && self.set.primary().is_none() {
            self.find(
                Status::Warning,
                About::Upstream(self.upstream()),
                "the replica set has no primary; writes are not possible".to_owned(),
                "run rs.status() on a member".to_owned(),
            );
        }
    }

    /// The addresses of all listeners of the upstream, in their order.
    fn addresses(&mut self) -> Vec<Address> {
        let mut addresses = Vec::new();
        let context = self.context;
        for listener in context.config.listeners.values().filter(|one| one.upstream == context.upstream.name) {
            let Topology::Members(members) = &listener.topology else { continue };
            let mut slots = Slots::new(slots(members));
            let assigned = slots.assign(&self.set.candidates());
            for (at, slot) in members.slots.iter().enumerate() {
                let member = assigned.map.member_at(at).cloned();
                addresses.push((listener.name.clone(), member, advertised(members, slot.address)));
            }
            for member in assigned.left_out {
                self.find(
                    Status::Warning,
                    About::Listener(listener.name.clone()),
                    format!("{member} has no address on this listener, so clients do not learn about it"),
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
        let member = |record: &SetMember| MemberReport {
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
        self.context.upstream.name.clone()
    }

    fn find(&mut self, severity: Status, about: About, sentence: String, remedy: String) {
        self.findings.push(Finding { severity, kind: FindingKind::Upstream, about, sentence, remedy });
    }
}

fn slots(members: &MemberAddresses) -> Vec<Slot> {
    let slot = |slot: &crate::config::MemberAddress| {
        let advertised: Arc<str> = advertised(members, slot.address).into();
        Slot { advertised, reserved_for: slot.member.as_ref().and_then(member_name) }
    };
    members.slots.iter().map(slot).collect()
}

/// The address that clients receive. If the port is 0, the system chooses it when the gateway starts.
fn advertised(members: &MemberAddresses, address: std::net::SocketAddr) -> String {
    if address.port() > 0 {
        return members.advertised(address);
    }
    let host = members.advertise.clone().unwrap_or_else(|| address.ip().to_string());
    format!("a free port of {host}")
}
