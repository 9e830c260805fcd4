//! What the readiness probe reports: one condition for each upstream and each TLS listener, and one for the policy.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::listeners::Listeners;
use crate::admin::GaugeSource;
use crate::certs::{CertificateOwner, CertificateSetFacts, CertificateSupervisor};
use crate::cluster::{Upstream, is_up, upstream_condition};
use crate::config::ListenerMode;
use crate::connection::{PolicyInForce, Route};
use crate::identity::date_text;
use crate::lifecycle::overload::Overload;
use crate::lifecycle::pending_restart::PendingRestart;
use crate::lifecycle::readiness::{ConditionState, Readiness, ReportScope, Subject};
use crate::lifecycle::reload_status::ReloadStatus;
use crate::listener::ConnectionLimit;
use crate::policy::Policy;
use crate::telemetry::metrics::StateGauges;
use crate::tokens::{IssuerKeys, TokenKeys};

/// How long a listener may be at its connection limit without a warning.
const FULL_TIME_MAX: Duration = Duration::from_mins(1);

/// Adds the conditions of all upstreams and listeners.
pub(super) fn add_servers(
    readiness: &Readiness,
    upstreams: &[Arc<Upstream>],
    listeners: &Listeners,
    certificates: &CertificateSupervisor,
) {
    for upstream in upstreams {
        let title = CertificateOwner::Upstream(Arc::clone(upstream), 0).title();
        let owners = CertificateOwner::credentials_of(upstream);
        let reloads: Vec<_> = owners.filter_map(|owner| certificates.status(&owner.title())).collect();
        let upstream = Arc::clone(upstream);
        let subject = Subject::Upstream(upstream.name().to_owned());
        readiness.add(&title, subject, move || of_upstream(&upstream, &reloads));
    }
    for (listener, route) in listeners.first_addresses() {
        let owner = route.admission.server_identity().cloned().map(CertificateOwner::Listener);
        let title = format!("listener {}", route.listener());
        let reload = certificates.status(&title);
        let subject = Subject::Listener {
            name: route.listener().to_owned(),
            upstream: route.upstream.name().to_owned(),
            has_tls: owner.is_some(),
        };
        let (limit, route) = (listener.connection_limit().clone(), Arc::clone(route));
        readiness.add(&title, subject, move || of_listener(owner.as_ref(), reload.as_deref(), &limit, &route));
    }
}

/// Adds the condition of the memory. It is part of reports only while it fails.
pub(super) fn add_memory(readiness: &Readiness, overload: &Overload) {
    let overload = overload.clone();
    readiness.add("memory", Subject::Memory, move || {
        if overload.is_refusing() {
            let percent = overload.percent();
            ConditionState::Fails(format!(
                "{percent} % of the memory limit is used: new connections are refused; raise the limit of the \
                 container, or lower max_connections and max_held_bytes"
            ))
        } else {
            ConditionState::Holds(String::new())
        }
    });
}

/// The gauges about upstreams and listeners, from the same owners as the conditions.
pub(super) fn gauges(
    readiness: &Readiness,
    upstreams: &[Arc<Upstream>],
    listeners: &Listeners,
    pending_restart: Arc<PendingRestart>,
    policy: &Arc<PolicyInForce>,
) -> GaugeSource {
    let (readiness, upstreams, policy) = (readiness.clone(), upstreams.to_vec(), Arc::clone(policy));
    let names: Vec<_> = listeners.first_addresses().map(|(_, route)| route.listener().to_owned()).collect();
    Arc::new(move || {
        let members_of = |upstream: &Arc<Upstream>| {
            let (name, membership) = (upstream.name().to_owned(), upstream.membership());
            let members = membership.members.iter().map(|status| &status.member);
            members.map(|member| (name.clone(), member.address.to_string(), is_up(member))).collect::<Vec<_>>()
        };
        let pools_of = |upstream: &Arc<Upstream>| {
            let (name, membership) = (upstream.name().to_owned(), upstream.membership());
            let pools = membership.members.iter().filter_map(|status| {
                let counts = status.member.pool_counts()?;
                Some((name.clone(), status.member.address.to_string(), [counts.idle, counts.in_use]))
            });
            pools.collect::<Vec<_>>()
        };
        let is_ready = |name: &String| {
            let report = readiness.report_of(ReportScope::Listener(name));
            (name.clone(), report.is_some_and(|report| report.ready))
        };
        let report = readiness.full_report();
        StateGauges {
            is_ready: report.ready,
            conditions: report.conditions.into_iter().map(|condition| (condition.name, condition.ok)).collect(),
            members: upstreams.iter().flat_map(members_of).collect(),
            pools: upstreams.iter().flat_map(pools_of).collect(),
            listeners: names.iter().map(is_ready).collect(),
            pending_restart: pending_restart.keys().len(),
            next_rule_expiry: policy.current().and_then(|loaded| loaded.policy.next_expiry()),
        }
    })
}

/// Adds the condition of the policy.
pub(super) fn add_policy(readiness: &Readiness, in_force: &Arc<PolicyInForce>, reload: Arc<ReloadStatus>) {
    let in_force = Arc::clone(in_force);
    readiness.add("policy", Subject::Process, move || of_policy(&in_force, &reload));
}

/// Adds a condition for the keys of each token issuer.
pub(super) fn add_tokens(readiness: &Readiness, tokens: &TokenKeys) {
    for keys in tokens.issuers() {
        let (title, keys) = (format!("token issuer {}", keys.label()), Arc::clone(keys));
        readiness.add(&title, Subject::Process, move || of_issuer(&keys));
    }
}

/// Without keys no client can be authenticated. After that the last keys are good enough: all gateways with the same
/// issuer would become unready at the same time.
fn of_issuer(keys: &IssuerKeys) -> ConditionState {
    match (keys.current().map(|keys| keys.len()), keys.problem()) {
        (None, None) => ConditionState::Fails("its keys are being loaded".to_owned()),
        // The other issuers work as before, and so do clients without tokens.
        (None, Some(problem)) if keys.were_withdrawn() => {
            ConditionState::Warns(format!("its keys were withdrawn: {problem}"))
        }
        (None, Some(problem)) => ConditionState::Fails(format!("there are no keys: {problem}")),
        (Some(found), None) => ConditionState::Holds(keys_text(found)),
        (Some(found), Some(problem)) => {
            ConditionState::Warns(format!("{}; they cannot be loaded again: {problem}", keys_text(found)))
        }
    }
}

fn keys_text(keys: usize) -> String {
    if keys == 1 { "1 key".to_owned() } else { format!("{keys} keys") }
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
fn of_listener(
    owner: Option<&CertificateOwner>,
    reload: Option<&ReloadStatus>,
    limit: &ConnectionLimit,
    route: &Route,
) -> ConditionState {
    let now = SystemTime::now();
    let leaf = owner.and_then(|owner| owner.set().own.into_iter().next());
    if let Some(expired) = leaf.filter(|leaf| leaf.not_after < now) {
        // Drivers verify it: no client can connect.
        let end = date_text(expired.not_after);
        return ConditionState::Fails(format!("its certificate expired on {end}; renew certificate_file"));
    }
    let anchors = owner.and_then(|owner| expired_trust_anchors(&owner.set(), now));
    if let Some(expired) = anchors.as_ref().filter(|_| route.admission.mode() == ListenerMode::Strict) {
        // Every client needs a certificate, and none is accepted.
        return ConditionState::Fails(expired.clone());
    }
    if route.policy.denies_everything() {
        let name = route.listener();
        return ConditionState::Fails(format!(
            "the policy denies every command of all its clients: no allow rule applies to them, or a deny rule without \
             limits does; name the listener \"{name}\" in from of a rule, or correct listeners"
        ));
    }
    let full = limit.full_for().filter(|time| *time >= FULL_TIME_MAX).map(|time| {
        let time = humantime::format_duration(Duration::from_secs(time.as_secs()));
        format!("all of its {} connections have been in use for {time} (max_connections)", limit.max())
    });
    let reload = reload.and_then(ReloadStatus::problem).map(|problem| format!("certificate reload failed: {problem}"));
    let problems: Vec<String> = reload.into_iter().chain(anchors).chain(full).collect();
    if problems.is_empty() { ConditionState::Holds(String::new()) } else { ConditionState::Warns(problems.join("; ")) }
}

/// A sentence about the trust anchors, if none of them is valid: no certificate of a client is accepted.
fn expired_trust_anchors(set: &CertificateSetFacts, now: SystemTime) -> Option<String> {
    let last = set.trust_anchors.iter().max_by_key(|facts| facts.not_after).filter(|last| last.not_after < now)?;
    let (subject, end, location) = (&last.subject, date_text(last.not_after), &set.trust_anchors_location);
    let all = if set.trust_anchors.len() > 1 { ", as the last one," } else { "" };
    Some(format!(
        "no client certificate is accepted: the CA certificate {subject}{all} expired on {end} ({location}); put the \
         renewed CA certificate into that file"
    ))
}

/// After a failed reload the previous policy is in force, so this condition never fails.
fn of_policy(in_force: &PolicyInForce, reload: &ReloadStatus) -> ConditionState {
    let in_effect = |policy: &Policy| policy.rule_names().len() - policy.expired_rules();
    let policy = match in_force.current().map(|loaded| in_effect(&loaded.policy)) {
        None => "none in force".to_owned(),
        Some(1) => "1 rule in force".to_owned(),
        Some(rules) => format!("{rules} rules in force"),
    };
    match reload.problem() {
        None => ConditionState::Holds(policy),
        Some(problem) => ConditionState::Warns(format!("{policy}; reload failed: {problem}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::CertificateFacts;
    use crate::tls::test_pki::CertificateAuthority;

    #[test]
    fn trust_anchors_are_reported_when_the_last_one_has_expired() {
        let ca = |name: &str, year: i32| {
            let dated = |params: &mut rcgen::CertificateParams| params.not_after = rcgen::date_time_ymd(year, 1, 1);
            CertificateFacts::from_der(CertificateAuthority::new_with(name, dated).der()).unwrap()
        };
        let report = |trust_anchors: &[CertificateFacts]| {
            let set = CertificateSetFacts {
                trust_anchors: trust_anchors.to_vec(),
                trust_anchors_location: "listener.mesh.tls.ca_file: ca.pem".to_owned(),
                ..CertificateSetFacts::default()
            };
            expired_trust_anchors(&set, SystemTime::now())
        };
        let (old, older, new) = (ca("Old CA", 2021), ca("Older CA", 2020), ca("New CA", 2090));
        assert_eq!(report(&[old.clone(), new]), None);
        assert_eq!(report(&[]), None);
        assert_eq!(
            report(&[older, old]).as_deref(),
            Some(
                "no client certificate is accepted: the CA certificate CN=Old CA,O=Acme, as the last one, expired on \
                 2021-01-01 00:00:00 UTC (listener.mesh.tls.ca_file: ca.pem); put the renewed CA certificate into that \
                 file"
            )
        );
    }
}
