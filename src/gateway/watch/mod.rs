//! Who watches over an upstream: one server is asked now and then, the members of a set tell what they are.

mod member;
mod records;
mod set;

use std::sync::Arc;

use crate::connection::{Membership, Route, Upstream, Usability};
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::readiness::ConditionState;
use crate::lifecycle::tasks::Tasks;

use super::background;
use set::SetMonitor;

/// Has somebody watch over `upstream` until the drain begins, and keep its spare connections; `routes` are those of all
/// listeners.
pub(super) fn watch_over<'r>(
    upstream: &Arc<Upstream>,
    routes: impl Iterator<Item = &'r Arc<Route>>,
    tasks: &Tasks,
    drain: &DrainWatch,
) {
    if upstream.config().deployment.has_members() {
        let routes = routes.filter(|route| Arc::ptr_eq(&route.upstream, upstream)).cloned().collect();
        tasks.spawn("set monitor", SetMonitor::new(upstream, routes, tasks, drain).run());
        return;
    }
    for listed in &upstream.roster().members {
        for line in &listed.member.lines {
            background::attend(line, tasks, drain, std::future::pending());
        }
        tasks.spawn("upstream probe", background::probe(Arc::clone(&listed.member), drain.clone()));
    }
}

/// What readiness says of an upstream, its certificates aside.
pub(super) fn condition(upstream: &Upstream) -> ConditionState {
    let roster = upstream.roster();
    let state = condition_of_servers(upstream, &roster);
    let (ConditionState::Holds(found) | ConditionState::Warns(found)) = &state else { return state };
    if upstream.config().authentication.is_none() {
        return state;
    }
    let seen: Vec<_> = (0..upstream.credentials().len()).map(|credential| roster.user_of(credential)).collect();
    let denied = || seen.iter().flatten().filter_map(|user| user.as_ref().err());
    match denied().next() {
        // As long as one credential is good, its callers are served.
        None if seen.iter().flatten().any(Result::is_ok) => state,
        None => ConditionState::Fails("no connection was authenticated yet".to_owned()),
        Some(first) if denied().count() == seen.iter().flatten().count() => ConditionState::Fails(first.clone()),
        Some(first) => ConditionState::Warns(format!("{found}; {first}")),
    }
}

fn condition_of_servers(upstream: &Upstream, roster: &Membership) -> ConditionState {
    if upstream.config().deployment.has_members() {
        return condition_of_members(roster);
    }
    let Some(listed) = roster.members.first() else { return ConditionState::Fails("it has no server".to_owned()) };
    let health = listed.member.news.health.snapshot();
    if let Some(sentence) = health.complaint(background::PROBE_AGE_MAX) {
        return ConditionState::Fails(sentence);
    }
    let server = health.server.map(|(address, server)| format!("{} at {address}", server.role));
    ConditionState::Holds(server.unwrap_or_default())
}

/// Clients can be served as long as one member can; that others cannot is worth knowing.
fn condition_of_members(roster: &Membership) -> ConditionState {
    let problem = |listed: &crate::connection::MemberStatus| {
        let health = listed.member.news.health.snapshot();
        health.complaint(background::PROBE_AGE_MAX)
    };
    let complaints: Vec<_> = roster.members.iter().filter_map(problem).collect();
    let count = roster.members.len();
    if complaints.len() == count {
        let first = complaints.into_iter().next().or_else(|| roster.trouble.clone());
        return ConditionState::Fails(first.unwrap_or_else(|| "no member is known".to_owned()));
    }
    if !roster.is_known {
        let first = roster
            .members
            .iter()
            .find_map(|listed| listed.problem.as_ref().map(|problem| format!("{} {problem}", listed.member.address)));
        return ConditionState::Fails(first.unwrap_or_else(|| "no member of the set has answered yet".to_owned()));
    }
    let name = roster.set_name.as_deref().map(|name| format!("{name}: ")).unwrap_or_default();
    let primary = roster.members.iter().find(|listed| listed.part == Usability::Writable);
    let found = match primary {
        Some(_) if roster.set_name.is_none() => format!("{count} mongos"),
        Some(primary) => format!("{name}{count} members, primary {}", primary.member.address),
        None => return ConditionState::Warns(format!("{name}{count} members, no primary")),
    };
    match complaints.first() {
        None => ConditionState::Holds(found),
        Some(first) => ConditionState::Warns(format!("{found}; {} cannot be used: {first}", complaints.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HostPort;
    use crate::connection::MemberStatus;
    use crate::gateway::open_upstream;
    use crate::tls::test_pki::{CertificateAuthority, Folder, upstream_of};
    use crate::topology::MemberState;

    /// What is said of a set that is `known`, with one member that answers and is in this state.
    fn of_one(state: MemberState, part: Usability, problem: Option<&str>, is_known: bool) -> ConditionState {
        let (folder, authority) = (Folder::new(), CertificateAuthority::new("ca"));
        let section = upstream_of(&folder.upstream(9, &authority.issue("client", &[]), &authority.pem));
        let upstream = open_upstream(&section).unwrap();
        let member = Arc::new(upstream.member(&HostPort { host: "mongo".to_owned(), port: 1 }).unwrap());
        member.news.health.record_ok(None);
        let listed = MemberStatus { member, part, state, hidden: false, problem: problem.map(str::to_owned) };
        condition_of_members(&Membership::new(vec![listed], is_known, Some("rs0".to_owned()), None))
    }

    #[tokio::test]
    async fn servers_that_answer_and_are_no_members_make_nobody_ready() {
        let said = |text: &str| text.to_owned();
        let problem = "runs without a replica set";
        let foreign = of_one(MemberState::WrongSet, Usability::Neither, Some(problem), false);
        assert_eq!(foreign, ConditionState::Fails(said("mongo:1 runs without a replica set")));
        let garbled = of_one(MemberState::Unknown, Usability::Neither, None, false);
        assert_eq!(garbled, ConditionState::Fails(said("no member of the set has answered yet")));
        let headless = of_one(MemberState::Secondary, Usability::Readable, None, true);
        assert_eq!(headless, ConditionState::Warns(said("rs0: 1 members, no primary")));
        let well = of_one(MemberState::Primary, Usability::Writable, None, true);
        assert_eq!(well, ConditionState::Holds(said("rs0: 1 members, primary mongo:1")));
    }
}
