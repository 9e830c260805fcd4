//! The snapshot behind `/status`: what is bound, where it leads, how it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::certs::{ListFacts, Owner};
use crate::cluster::{Member, MemberSelector, Membership, Upstream, monitor};
use crate::connection::{PolicyInForce, Route};
use crate::identity::{CertificateFacts, printable, rfc3339};
use crate::lifecycle::readiness::{ConditionState, Readiness};
use crate::lifecycle::reload_status::ReloadRecord;
use crate::lifecycle::tasks::Tasks;
use crate::listener::{ConnectionLimit, Listener};
use crate::topology::MemberState;

use super::worker::Workers;

/// Principals that are shown of one listener, those with the most connections: a page, not a dump.
const PRINCIPALS_MAX: usize = 100;

/// What the snapshot is taken from.
pub(super) struct Status {
    started: Instant,
    workers: usize,
    /// One of each listener: its own address comes first.
    listeners: Vec<(String, ConnectionLimit, Arc<Route>)>,
    upstreams: Vec<Arc<Upstream>>,
    /// By the title of their owner.
    reloads: BTreeMap<String, Arc<ReloadRecord>>,
    connections: Tasks,
    readiness: Readiness,
    policy: Option<PolicyStatus>,
}

/// The policy, and how it follows its file.
pub(super) struct PolicyStatus {
    in_force: Arc<PolicyInForce>,
    reload: Option<Arc<ReloadRecord>>,
}

impl PolicyStatus {
    pub(super) fn new(in_force: &Arc<PolicyInForce>, reload: Option<Arc<ReloadRecord>>) -> Self {
        Self { in_force: Arc::clone(in_force), reload }
    }

    fn to_json(&self) -> Value {
        let current = self.in_force.current();
        let policy = current.as_ref().map(|loaded| &loaded.policy);
        json!({
            "in_force": policy.is_some(),
            "enforced": policy.map(|policy| policy.enforces()),
            "rules": policy.map(|policy| policy.rule_names().len()),
            "fingerprint": policy.map(|policy| policy.fingerprint()),
            "loaded": current.as_ref().map(|loaded| humantime::format_rfc3339_seconds(loaded.since).to_string()),
            "reload": self.reload.as_ref().map(|reload| reload.to_json()),
        })
    }
}

impl Status {
    pub(super) fn new(
        listeners: &[(Listener, Arc<Route>)],
        upstreams: &[Arc<Upstream>],
        reloads: &BTreeMap<String, Arc<ReloadRecord>>,
        workers: &Workers,
        readiness: &Readiness,
    ) -> Self {
        let listener = |(listener, route): &(Listener, Arc<Route>)| {
            (listener.address().to_string(), listener.places().clone(), Arc::clone(route))
        };
        Self {
            started: Instant::now(),
            workers: workers.count(),
            listeners: listeners.iter().filter(|(listener, _)| listener.slot() == 0).map(listener).collect(),
            upstreams: upstreams.to_vec(),
            reloads: reloads.clone(),
            connections: workers.connections(),
            readiness: readiness.clone(),
            policy: None,
        }
    }

    pub(super) fn with_policy(self, policy: PolicyStatus) -> Self {
        Self { policy: Some(policy), ..self }
    }

    pub(super) fn snapshot(&self) -> Value {
        let listeners = self.listeners.iter().map(|(address, places, route)| {
            let owner = Owner::listener_of(route);
            let present = route.door.present().largest(PRINCIPALS_MAX);
            json!({
                "name": route.listener,
                "address": address,
                "upstream": route.upstream.name(),
                "members": members_of(route),
                "mode": route.door.mode().as_str(),
                "connections": places.taken(),
                "max_connections": places.limit(),
                "principals": present.principals.iter().map(|(who, connections)| json!({
                    "principal": printable(who.principal.as_str()),
                    "source": who.source.label(),
                    "connections": connections,
                })).collect::<Vec<_>>(),
                "other_principals": {
                    "principals": present.more_principals,
                    "connections": present.more_connections,
                },
                "certificates": owner.as_ref().map(certificates),
                "reload": owner.and_then(|owner| self.reload(&owner)),
            })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "ready": self.readiness.report().ready,
            "workers": self.workers,
            "panics": self.connections.panics(),
            "policy": self.policy.as_ref().map(PolicyStatus::to_json),
            "listeners": listeners.collect::<Vec<_>>(),
            "upstreams": self.upstreams.iter().map(|upstream| self.describe(upstream)).collect::<Vec<_>>(),
        })
    }

    fn describe(&self, upstream: &Arc<Upstream>) -> Value {
        let owner = Owner::Upstream(Arc::clone(upstream), 0);
        let roster = upstream.roster();
        let lines = || roster.members.iter().flat_map(|listed| &listed.member.lines);
        let (ready, target) = lines()
            .map(|line| line.shelf.level())
            .fold((0, 0), |(ready, target), (more, wanted)| (ready + more, target + wanted));
        let problem = match monitor::condition(upstream) {
            ConditionState::Fails(problem) => Some(problem),
            ConditionState::Holds(_) | ConditionState::Warns(_) => None,
        };
        let mut described = json!({
            "name": upstream.name(),
            "problem": problem,
            "warm_connections": { "ready": ready, "target": target },
            "certificates": certificates(&owner),
            "reload": self.reload(&owner),
            "user": user(upstream, &roster, 0),
            "credentials": Owner::credentials_of(upstream).enumerate().skip(1).map(|(credential, owner)| json!({
                "principals": owner.principals(),
                "certificates": certificates(&owner),
                "reload": self.reload(&owner),
                "user": user(upstream, &roster, credential),
            })).collect::<Vec<_>>(),
        });
        let more = match roster.members.first() {
            _ if upstream.config().deployment.has_members() => json!({ "set": set(&roster) }),
            Some(listed) => server(&listed.member),
            None => json!({}),
        };
        if let (Value::Object(described), Value::Object(more)) = (&mut described, more) {
            described.extend(more);
        }
        described
    }

    fn reload(&self, owner: &Owner) -> Option<Value> {
        self.reloads.get(&owner.title()).map(|reload| reload.to_json())
    }
}

/// The gateway's addresses for members, and who is behind each.
fn members_of(route: &Route) -> Option<Value> {
    let MemberSelector::Members(layout) = &route.destination else { return None };
    let shown = layout.shown().into_iter().map(
        |(advertised, member)| json!({ "address": &*advertised, "member": member.map(|member| member.to_string()) }),
    );
    Some(shown.collect())
}

/// What is known of one mongod or mongos.
fn server(member: &Member) -> Value {
    let health = member.news.health.snapshot();
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
    })
}

/// The members of an upstream that has several.
fn set(roster: &Membership) -> Value {
    let primary = roster.members.iter().find(|listed| listed.state == MemberState::Primary);
    let members = roster.members.iter().map(|listed| {
        let health = listed.member.news.health.snapshot();
        json!({
            "name": listed.member.address.to_string(),
            "state": listed.state.name(),
            "hidden": listed.hidden,
            "answered_seconds_ago": health.succeeded.map(|age| age.as_secs()),
            "problem": listed.problem,
        })
    });
    json!({
        "name": roster.set_name,
        "known": roster.is_known,
        "problem": roster.trouble,
        "primary": primary.map(|listed| listed.member.address.to_string()),
        "members": members.collect::<Vec<_>>(),
    })
}

/// Whom mongod takes a credential for; `null` where the gateway does not authenticate, or nobody knows yet.
fn user(upstream: &Upstream, roster: &Membership, credential: usize) -> Option<Value> {
    upstream.config().authentication?;
    roster.user_of(credential).map(|user| match user {
        Ok(user) => json!({ "name": user.name, "roles": user.roles }),
        Err(problem) => json!({ "problem": problem }),
    })
}

fn certificates(owner: &Owner) -> Value {
    let set = owner.set();
    let [own, authorities] =
        [&set.own, &set.authorities].map(|facts| facts.iter().map(certificate).collect::<Vec<_>>());
    json!({
        owner.own_key(): own,
        "ca": authorities,
        "revocation_lists": set.lists.iter().map(revocation_list).collect::<Vec<_>>(),
    })
}

fn revocation_list(list: &ListFacts) -> Value {
    json!({
        "issuer": printable(&list.issuer.to_string()),
        "revoked": list.revoked,
        "this_update": rfc3339(list.this_update),
        "next_update": list.next_update.map(rfc3339),
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
