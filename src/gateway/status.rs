//! The snapshot behind `/status`: what is bound, where it leads, how it is.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::connection::{Route, Upstream};
use crate::identity::{CertificateFacts, printable, rfc3339};
use crate::lifecycle::readiness::Readiness;
use crate::lifecycle::tasks::Tasks;
use crate::listener::{Listener, Places};

use super::worker::Workers;

/// Principals that are shown of one listener, those with the most connections: a page, not a dump.
const PRINCIPALS_MAX: usize = 100;

/// What the snapshot is taken from.
pub(super) struct Status {
    started: Instant,
    workers: usize,
    listeners: Vec<(String, Places, Arc<Route>)>,
    upstreams: Vec<Arc<Upstream>>,
    connections: Tasks,
    readiness: Readiness,
}

impl Status {
    pub(super) fn new(
        listeners: &[(Listener, Arc<Route>)],
        upstreams: &[Arc<Upstream>],
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
            connections: workers.connections(),
            readiness: readiness.clone(),
        }
    }

    pub(super) fn snapshot(&self) -> Value {
        let listeners = self.listeners.iter().map(|(address, places, route)| {
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
            })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "ready": self.readiness.report().ready,
            "workers": self.workers,
            "panics": self.connections.panics(),
            "listeners": listeners.collect::<Vec<_>>(),
            "upstreams": self.upstreams.iter().map(|upstream| describe(upstream)).collect::<Vec<_>>(),
        })
    }
}

fn describe(upstream: &Upstream) -> Value {
    let tls = upstream.connector.tls();
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
        "server": health.server.as_ref().map(|server| json!({
            "version": server.version,
            "role": server.role.to_string(),
            "set_name": server.set_name,
            "max_wire_version": server.max_wire_version,
        })),
        "certificates": {
            "client": tls.iter().flat_map(|tls| tls.credentials.certificates()).map(certificate).collect::<Vec<_>>(),
            "ca": tls.iter().flat_map(|tls| &tls.authorities.certificates).map(certificate).collect::<Vec<_>>(),
        },
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
