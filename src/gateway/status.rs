//! The snapshot behind `/status`: what is bound, where it leads, how it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::connection::{PolicyInForce, Route, Upstream};
use crate::identity::{CertificateFacts, printable, rfc3339};
use crate::lifecycle::readiness::Readiness;
use crate::lifecycle::tasks::Tasks;
use crate::listener::{Listener, Places};

use super::owner::{ListFacts, Owner};
use super::rotation::ReloadRecord;
use super::worker::Workers;

/// Principals that are shown of one listener, those with the most connections: a page, not a dump.
const PRINCIPALS_MAX: usize = 100;

/// What the snapshot is taken from.
pub(super) struct Status {
    started: Instant,
    workers: usize,
    listeners: Vec<(String, Places, Arc<Route>)>,
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
            listeners: listeners.iter().map(listener).collect(),
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
                "upstream": route.upstream.connector.upstream(),
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
        let owner = Owner::Upstream(Arc::clone(upstream));
        let health = upstream.health.snapshot();
        let (ready, target) = upstream.shelf.level();
        let seconds = |age: Duration| age.as_secs();
        json!({
            "name": upstream.connector.upstream(),
            "address": upstream.connector.address().to_string(),
            "problem": health.complaint(super::background::PROBE_AGE_MAX),
            "warm_connections": { "ready": ready, "target": target },
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
            "certificates": certificates(&owner),
            "reload": self.reload(&owner),
        })
    }

    fn reload(&self, owner: &Owner) -> Option<Value> {
        self.reloads.get(&owner.title()).map(|reload| reload.to_json())
    }
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
