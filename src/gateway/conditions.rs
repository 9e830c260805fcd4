//! What the readiness probe reports: one condition for each upstream and each TLS listener, and one for the policy.

use std::sync::Arc;

use crate::certs::{CertificateOwner, CertificateSupervisor};
use crate::cluster::{Upstream, upstream_condition};
use crate::connection::PolicyInForce;
use crate::lifecycle::readiness::{ConditionState, Readiness};
use crate::lifecycle::reload_status::ReloadStatus;
use crate::listener::ServerIdentity;

/// Adds the conditions of all upstreams and TLS listeners.
pub(super) fn add_certificate_owners(
    readiness: &Readiness,
    upstreams: &[Arc<Upstream>],
    servers: &[Arc<ServerIdentity>],
    certificates: &CertificateSupervisor,
) {
    for upstream in upstreams {
        let title = CertificateOwner::Upstream(Arc::clone(upstream), 0).title();
        let owners = CertificateOwner::credentials_of(upstream);
        let reloads: Vec<_> = owners.filter_map(|owner| certificates.status(&owner.title())).collect();
        let upstream = Arc::clone(upstream);
        readiness.add(&title, move || of_upstream(&upstream, &reloads));
    }
    for server in servers {
        let title = CertificateOwner::Listener(Arc::clone(server)).title();
        let reload = certificates.status(&title);
        readiness.add(&title, move || of_listener(reload.as_deref()));
    }
}

/// Adds the condition of the policy.
pub(super) fn add_policy(readiness: &Readiness, in_force: &Arc<PolicyInForce>, reload: Arc<ReloadStatus>) {
    let in_force = Arc::clone(in_force);
    readiness.add("policy", move || of_policy(&in_force, &reload));
}

/// A failed reload is only a warning while the previous set works: all gateways that share the files would become
/// unready at the same time.
fn of_upstream(upstream: &Upstream, reloads: &[Arc<ReloadStatus>]) -> ConditionState {
    let state = upstream_condition(upstream);
    let problem = reloads.iter().find_map(|reload| reload.problem());
    match (state, problem) {
        (ConditionState::Holds(found) | ConditionState::Warns(found), Some(problem)) => {
            ConditionState::Warns(format!("{found}; certificate reload failed: {problem}"))
        }
        (state, _) => state,
    }
}

/// The listener is bound: the gateway does not start otherwise.
fn of_listener(reload: Option<&ReloadStatus>) -> ConditionState {
    match reload.and_then(ReloadStatus::problem) {
        None => ConditionState::Holds(String::new()),
        Some(problem) => ConditionState::Warns(format!("certificate reload failed: {problem}")),
    }
}

/// After a failed reload the previous policy is in force, so this condition never fails.
fn of_policy(in_force: &PolicyInForce, reload: &ReloadStatus) -> ConditionState {
    let policy = match in_force.current().map(|loaded| loaded.policy.rule_names().len()) {
        None => "none in force".to_owned(),
        Some(1) => "1 rule in force".to_owned(),
        Some(rules) => format!("{rules} rules in force"),
    };
    match reload.problem() {
        None => ConditionState::Holds(policy),
        Some(problem) => ConditionState::Warns(format!("{policy}; reload failed: {problem}")),
    }
}
