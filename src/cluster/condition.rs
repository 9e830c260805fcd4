//! What the readiness probe reports about an upstream, apart from its certificates.

use super::health_check::SUCCESS_AGE_MAX;
use super::member::Member;
use super::membership::{MemberStatus, Membership, Usability};
use super::upstream::Upstream;
use crate::lifecycle::readiness::ConditionState;

/// Whether the gateway can serve clients of `upstream`: its servers answer, and they accept a user where the gateway
/// authenticates.
pub fn upstream_condition(upstream: &Upstream) -> ConditionState {
    let membership = upstream.membership();
    let state = condition_of_servers(upstream, &membership);
    let (ConditionState::Holds(found) | ConditionState::Warns(found)) = &state else { return state };
    if upstream.config().authentication.is_none() {
        return state;
    }
    let users: Vec<_> = (0..upstream.credentials().len()).filter_map(|index| membership.user_of(index)).collect();
    let rejections: Vec<_> = users.iter().filter_map(|user| user.as_ref().err()).collect();
    match rejections.first() {
        // One accepted credential is enough: its callers are served.
        None if !users.is_empty() => state,
        None => ConditionState::Fails("no connection was authenticated yet".to_owned()),
        Some(&first) if rejections.len() == users.len() => ConditionState::Fails(first.clone()),
        Some(first) => ConditionState::Warns(format!("{found}; {first}")),
    }
}

/// Whether the gateway can connect to a member: its last attempt succeeded, a short time ago.
pub fn is_up(member: &Member) -> bool {
    member.health.status.snapshot().complaint(SUCCESS_AGE_MAX).is_none()
}

fn condition_of_servers(upstream: &Upstream, membership: &Membership) -> ConditionState {
    if upstream.config().deployment.has_members() {
        return condition_of_members(membership);
    }
    let Some(status) = membership.members.first() else { return ConditionState::Fails("it has no server".to_owned()) };
    let health = status.member.health.status.snapshot();
    if let Some(complaint) = health.complaint(SUCCESS_AGE_MAX) {
        return ConditionState::Fails(complaint);
    }
    let server = health.server.map(|(address, server)| format!("{} at {address}", server.role));
    ConditionState::Holds(server.unwrap_or_default())
}

/// Clients can be served while one member answers. Members that do not answer are a warning.
fn condition_of_members(membership: &Membership) -> ConditionState {
    let complaint = |status: &MemberStatus| status.member.health.status.snapshot().complaint(SUCCESS_AGE_MAX);
    let complaints: Vec<_> = membership.members.iter().filter_map(complaint).collect();
    let count = membership.members.len();
    if complaints.len() == count {
        let first = complaints.into_iter().next().or_else(|| membership.seed_list_error.clone());
        return ConditionState::Fails(first.unwrap_or_else(|| "no member is known".to_owned()));
    }
    if !membership.is_known {
        let problem = |status: &MemberStatus| {
            status.problem.as_ref().map(|problem| format!("{} {problem}", status.member.address))
        };
        let first = membership.members.iter().find_map(problem);
        return ConditionState::Fails(first.unwrap_or_else(|| "no member of the set has answered yet".to_owned()));
    }
    let name = membership.set_name.as_deref().map(|name| format!("{name}: ")).unwrap_or_default();
    let primary = membership.members.iter().find(|status| status.usability == Usability::Writable);
    let found = match primary {
        Some(_) if membership.set_name.is_none() => format!("{count} mongos"),
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
    use std::sync::Arc;

    use super::*;
    use crate::config::HostPort;
    use crate::telemetry::metrics::UpstreamMetrics;
    use crate::tls::test_pki::{CertificateAuthority, Folder, upstream_of};
    use crate::topology::MemberState;
    use crate::upstream::REASONS;

    /// The condition of a set that is `known`, with one member that answers and is in this state.
    fn of_one(state: MemberState, usability: Usability, problem: Option<&str>, is_known: bool) -> ConditionState {
        let (folder, authority) = (Folder::new(), CertificateAuthority::new("ca"));
        let section = upstream_of(&folder.upstream(9, &authority.issue("client", &[]), &authority.pem));
        let upstream = Upstream::new(&section, UpstreamMetrics::new(&section.name, &REASONS)).unwrap();
        let member = Arc::new(upstream.new_member(&HostPort { host: "mongo".to_owned(), port: 1 }).unwrap());
        member.health.status.record_ok(None);
        let status = MemberStatus { member, usability, state, hidden: false, problem: problem.map(str::to_owned) };
        condition_of_members(&Membership::new(vec![status], is_known, Some("rs0".to_owned()), None))
    }

    #[tokio::test]
    async fn servers_that_answer_but_are_not_members_do_not_make_the_upstream_ready() {
        let text = |text: &str| text.to_owned();
        let problem = "runs without a replica set";
        let foreign = of_one(MemberState::WrongSet, Usability::Neither, Some(problem), false);
        assert_eq!(foreign, ConditionState::Fails(text("mongo:1 runs without a replica set")));
        let garbled = of_one(MemberState::Unknown, Usability::Neither, None, false);
        assert_eq!(garbled, ConditionState::Fails(text("no member of the set has answered yet")));
        let no_primary = of_one(MemberState::Secondary, Usability::Readable, None, true);
        assert_eq!(no_primary, ConditionState::Warns(text("rs0: 1 members, no primary")));
        let healthy = of_one(MemberState::Primary, Usability::Writable, None, true);
        assert_eq!(healthy, ConditionState::Holds(text("rs0: 1 members, primary mongo:1")));
    }
}
