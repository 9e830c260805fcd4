//! The content of `/status`: the listeners, where they lead, and the state of the upstreams.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::listeners::Listeners;
use super::rule_expiry::action_word;
use super::worker::Workers;
use crate::certs::{CertificateOwner, CrlFacts};
use crate::cluster::{Member, MemberPool, MemberSelector, Membership, SlotAssignment, Upstream, upstream_condition};
use crate::connection::{ConnectedPrincipal, PolicyInForce, Route};
use crate::identity::{CertificateFacts, printable, rfc3339};
use crate::lifecycle::pending_restart::PendingRestart;
use crate::lifecycle::readiness::{ConditionState, Readiness};
use crate::lifecycle::reload_status::ReloadStatus;
use crate::lifecycle::tasks::Tasks;
use crate::listener::{ConnectionLimit, Listener};
use crate::policy::Policy;
use crate::topology::{MemberName, MemberState};

/// The principals that are shown of each listener: those with the most connections.
const PRINCIPALS_MAX: usize = 100;

/// What `/status` is made from.
pub(super) struct StatusPage {
    started: Instant,
    workers: usize,
    /// The first address of each listener.
    listeners: Vec<(String, ConnectionLimit, Arc<Route>)>,
    upstreams: Vec<Arc<Upstream>>,
    /// By the title of the owner.
    reloads: BTreeMap<String, Arc<ReloadStatus>>,
    connections: Tasks,
    readiness: Readiness,
    policy: Option<PolicyStatus>,
    pending_restart: Arc<PendingRestart>,
}

/// The rules with an expiry that are shown: those that expire next, then those that have expired.
const EXPIRING_RULES_MAX: usize = 100;

fn expiring(policy: &Policy) -> Vec<Value> {
    let mut rules: Vec<_> = policy.expiries().collect();
    rules.sort_by_key(|rule| (rule.is_expired, rule.at));
    let shown = rules.into_iter().take(EXPIRING_RULES_MAX).map(|rule| {
        json!({
            "rule": rule.name,
            "action": action_word(rule.action),
            "expires": rfc3339(rule.at),
            "expired": rule.is_expired,
            "reason": rule.reason,
        })
    });
    shown.collect()
}

/// The policy, and the results of its reloads.
pub(super) struct PolicyStatus {
    in_force: Arc<PolicyInForce>,
    reload: Option<Arc<ReloadStatus>>,
}

impl PolicyStatus {
    pub(super) fn new(in_force: &Arc<PolicyInForce>, reload: Option<Arc<ReloadStatus>>) -> Self {
        Self { in_force: Arc::clone(in_force), reload }
    }

    fn to_json(&self) -> Value {
        let current = self.in_force.current();
        let policy = current.as_ref().map(|loaded| &loaded.policy);
        json!({
            "in_force": policy.is_some(),
            "enforced": policy.map(|policy| policy.enforces()),
            "rules": policy.map(|policy| policy.rule_names().len()),
            "expired_rules": policy.map(|policy| policy.expired_rules()),
            "expiring": policy.map(|policy| expiring(policy)),
            "fingerprint": policy.map(|policy| policy.fingerprint()),
            "loaded": current.as_ref().map(|loaded| humantime::format_rfc3339_seconds(loaded.since).to_string()),
            "reload": self.reload.as_ref().map(|reload| reload.to_json()),
        })
    }
}

impl StatusPage {
    pub(super) fn new(
        listeners: &Listeners,
        upstreams: &[Arc<Upstream>],
        reloads: &BTreeMap<String, Arc<ReloadStatus>>,
        workers: &Workers,
        readiness: &Readiness,
    ) -> Self {
        let listener = |(listener, route): &(Listener, Arc<Route>)| {
            (listener.address().to_string(), listener.connection_limit().clone(), Arc::clone(route))
        };
        Self {
            started: Instant::now(),
            workers: workers.count(),
            listeners: listeners.first_addresses().map(listener).collect(),
            upstreams: upstreams.to_vec(),
            reloads: reloads.clone(),
            connections: workers.connections(),
            readiness: readiness.clone(),
            policy: None,
            pending_restart: Arc::default(),
        }
    }

    pub(super) fn with_policy(self, policy: PolicyStatus) -> Self {
        Self { policy: Some(policy), ..self }
    }

    pub(super) fn with_pending_restart(self, pending_restart: Arc<PendingRestart>) -> Self {
        Self { pending_restart, ..self }
    }

    /// The current content.
    pub(super) fn snapshot(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "ready": self.readiness.report().ready,
            "workers": self.workers,
            "panics": self.connections.panics(),
            "policy": self.policy.as_ref().map(PolicyStatus::to_json),
            "config_pending_restart": &*self.pending_restart.keys(),
            "held_bytes": self.policy.as_ref().map(|policy| policy.in_force.hold_budget().held_bytes()),
            "max_held_bytes": self.policy.as_ref().map(|policy| policy.in_force.hold_budget().max_bytes()),
            "listeners": self.listeners.iter().map(|listener| self.listener(listener)).collect::<Vec<_>>(),
            "upstreams": self.upstreams.iter().map(|upstream| self.upstream(upstream)).collect::<Vec<_>>(),
        })
    }

    fn listener(&self, (address, limit, route): &(String, ConnectionLimit, Arc<Route>)) -> Value {
        let owner = route.admission.server_identity().cloned().map(CertificateOwner::Listener);
        let connected = route.admission.connected().largest(PRINCIPALS_MAX);
        json!({
            "name": route.listener(),
            "address": address,
            "upstream": route.upstream.name(),
            "members": member_addresses(route),
            "mode": route.admission.mode().as_str(),
            "connections": limit.in_use(),
            "max_connections": limit.max(),
            "principals": connected.principals.iter().map(principal).collect::<Vec<_>>(),
            "other_principals": {
                "principals": connected.more_principals,
                "connections": connected.more_connections,
            },
            "certificates": owner.as_ref().map(certificates),
            "reload": owner.and_then(|owner| self.reload(&owner)),
        })
    }

    fn upstream(&self, upstream: &Arc<Upstream>) -> Value {
        let owner = CertificateOwner::Upstream(Arc::clone(upstream), 0);
        let membership = upstream.membership();
        let pools = membership.members.iter().flat_map(|status| &status.member.pools);
        let (ready, target) = pools
            .map(|pool| pool.spares.level())
            .fold((0, 0), |(ready, target), (more_ready, more_target)| (ready + more_ready, target + more_target));
        let problem = match upstream_condition(upstream) {
            ConditionState::Fails(problem) => Some(problem),
            ConditionState::Holds(_) | ConditionState::Warns(_) => None,
        };
        let mut described = json!({
            "name": upstream.name(),
            "problem": problem,
            "warm_connections": { "ready": ready, "target": target },
            "certificates": certificates(&owner),
            "reload": self.reload(&owner),
            "user": user(upstream, &membership, 0),
            "credentials": CertificateOwner::credentials_of(upstream).enumerate().skip(1).map(|(index, owner)| json!({
                "principals": owner.principals(),
                "certificates": certificates(&owner),
                "reload": self.reload(&owner),
                "user": user(upstream, &membership, index),
            })).collect::<Vec<_>>(),
        });
        let servers = match membership.members.first() {
            _ if upstream.config().deployment.has_members() => json!({ "set": set(&membership) }),
            Some(status) => server(&status.member),
            None => json!({}),
        };
        if let (Value::Object(described), Value::Object(servers)) = (&mut described, servers) {
            described.extend(servers);
        }
        described
    }

    fn reload(&self, owner: &CertificateOwner) -> Option<Value> {
        self.reloads.get(&owner.title()).map(|reload| reload.to_json())
    }
}

fn principal(connected: &ConnectedPrincipal) -> Value {
    let ConnectedPrincipal { identity, connections, token } = connected;
    let mut described = json!({
        "principal": printable(identity.principal.as_str()),
        "source": identity.source.label(),
        "connections": connections,
    });
    if let (Value::Object(described), Some(token)) = (&mut described, token) {
        let expires = humantime::format_rfc3339_seconds(token.valid_until).to_string();
        described.insert("token".to_owned(), json!({ "issuer": printable(&token.issuer), "expires": expires }));
    }
    described
}

/// The addresses of a listener that stand for members, these members, and those that clients are given instead.
fn member_addresses(route: &Route) -> Option<Value> {
    let MemberSelector::Members(slots) = &route.selector else { return None };
    let address = |SlotAssignment { advertised, member, stand_in }| {
        let [member, stand_in] = [member, stand_in].map(|name: Option<MemberName>| name.map(|name| name.to_string()));
        json!({ "address": &*advertised, "member": member, "stand_in": stand_in })
    };
    Some(slots.assignments().into_iter().map(address).collect())
}

/// The pools of a member, one for each credential; `null` if its upstream has none.
fn pools(member: &Member) -> Option<Vec<Value>> {
    let pool = |(credential, pool): (usize, &Arc<MemberPool>)| {
        let reuse = pool.reuse.as_ref()?;
        let counts = reuse.counts();
        Some(json!({
            "credential": credential,
            "mode": reuse.config().mode.as_str(),
            "idle": counts.idle,
            "in_use": counts.in_use,
            "waiting": counts.waiting,
            "max_connections": reuse.config().max_connections,
        }))
    };
    member.pools.iter().enumerate().map(pool).collect()
}

/// The state of an upstream of one server.
fn server(member: &Member) -> Value {
    let health = member.health.status.snapshot();
    let seconds = |age: Duration| age.as_secs();
    json!({
        "address": member.address.to_string(),
        "last_success_seconds_ago": health.succeeded.map(seconds),
        "last_failure": health.failed.as_ref().map(|(age, sentence)| json!({
            "seconds_ago": seconds(*age),
            "error": sentence,
        })),
        "server": health.server.as_ref().map(|(_, server)| json!({
            "version": server.version,
            "role": server.role.to_string(),
            "set_name": server.set_name,
            "max_wire_version": server.max_wire_version,
        })),
        "pools": pools(member),
    })
}

/// The state of an upstream of several servers.
fn set(membership: &Membership) -> Value {
    let primary = membership.members.iter().find(|status| status.state == MemberState::Primary);
    let members = membership.members.iter().map(|status| {
        let health = status.member.health.status.snapshot();
        json!({
            "name": status.member.address.to_string(),
            "state": status.state.name(),
            "hidden": status.hidden,
            "answered_seconds_ago": health.succeeded.map(|age| age.as_secs()),
            "problem": status.problem,
            "pools": pools(&status.member),
        })
    });
    json!({
        "name": membership.set_name,
        "known": membership.is_known,
        "problem": membership.seed_list_error,
        "primary": primary.map(|status| status.member.address.to_string()),
        "members": members.collect::<Vec<_>>(),
    })
}

/// The MongoDB user of a credential; `null` if the gateway does not authenticate, or has not authenticated yet.
fn user(upstream: &Upstream, membership: &Membership, credential: usize) -> Option<Value> {
    upstream.config().authentication?;
    membership.user_of(credential).map(|user| match user {
        Ok(user) => json!({ "name": user.name, "roles": user.roles }),
        Err(problem) => json!({ "problem": problem }),
    })
}

fn certificates(owner: &CertificateOwner) -> Value {
    let set = owner.set();
    let [own, trust_anchors] =
        [&set.own, &set.trust_anchors].map(|facts| facts.iter().map(certificate).collect::<Vec<_>>());
    json!({
        owner.own_key(): own,
        "ca": trust_anchors,
        "revocation_lists": set.crls.iter().map(revocation_list).collect::<Vec<_>>(),
    })
}

fn revocation_list(crl: &CrlFacts) -> Value {
    json!({
        "issuer": printable(&crl.issuer.to_string()),
        "revoked": crl.revoked,
        "this_update": rfc3339(crl.this_update),
        "next_update": crl.next_update.map(rfc3339),
    })
}

fn certificate(facts: &CertificateFacts) -> Value {
    json!({
        "subject": printable(&facts.subject.to_string()),
        "issuer": printable(&facts.issuer.to_string()),
        "serial": facts.serial,
        "not_before": rfc3339(facts.not_before),
        "not_after": rfc3339(facts.not_after),
        "uris": facts.uris.iter().map(|uri| printable(uri)).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CredentialConfig, PoolMode, UpstreamConfig};
    use crate::telemetry::metrics::UpstreamMetrics;
    use crate::tls::test_pki::{CertificateAuthority, Folder, files_of, upstream_of};

    #[test]
    fn the_pools_of_a_member_are_shown_for_each_credential() {
        let (folder, authority) = (Folder::new(), CertificateAuthority::new("ca"));
        let mut endpoint = folder.upstream(9, &authority.issue("client", &[]), &authority.pem);
        let files = files_of(&mut endpoint).clone();
        let mut section = upstream_of(&endpoint);
        section.credentials.push(CredentialConfig { principals: vec!["shop".to_owned()], files });
        let shown = |section: &UpstreamConfig| {
            let upstream = Upstream::new(section, UpstreamMetrics::new("orders", &[])).unwrap();
            pools(&upstream.membership().members[0].member)
        };
        assert_eq!(shown(&section), None);
        section.pool.mode = PoolMode::Session;
        let [first, second] = shown(&section).unwrap().try_into().unwrap();
        let expected = json!({
            "credential": 0, "mode": "session", "idle": 0, "in_use": 0, "waiting": 0, "max_connections": 100
        });
        assert_eq!((first, &second["credential"]), (expected, &json!(1)));
    }
}
