//! Many tokens: nothing in the gateway grows with them, whether one principal shows them or many.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::kit::gateway::Gateway;
use crate::kit::raw::{Connection, body_section, op_msg};
use crate::token_clients::{Scene, find, sasl_start};
use crate::token_issuer::TokenIssuer;
use crate::token_keys::TokenKey;

const TOKENS: u64 = 10_000;

/// The first tokens fill buffers and caches of a limited size. Of the others, each would have to leave less than 600
/// bytes, which is less than its own length.
const WARM: u64 = 4_000;
const GROWTH_MAX_KIB: u64 = 3_500;

/// What must not depend on the number of tokens.
struct Extent {
    /// Names and labels of all metrics.
    series: BTreeSet<String>,
    descriptors: usize,
}

impl Extent {
    fn of(gateway: &Gateway) -> Self {
        gateway.await_metric("mongate_connections_active", &[], |open| open < 0.5);
        let name = |sample: &crate::kit::gateway::Sample| format!("{} {:?}", sample.name, sample.labels);
        Self { series: gateway.metrics().iter().map(name).collect(), descriptors: gateway.descriptors().unwrap() }
    }
}

/// An issuer that signs quickly, and a gateway that knows its key.
fn start() -> Option<(Scene, TokenKey, Gateway)> {
    let mut scene = Scene::new("session")?;
    let key = TokenKey::ec("ec-1");
    scene.issuer.publish([&key]);
    // At the level debug each connection has lines of its own.
    scene.options.log_level = None;
    scene.options.tables += "[[policy.rule]]\nname = 'all'\naction = 'allow'\nto = [{ commands = ['find'] }]\n";
    let gateway = scene.start();
    Some((scene, key, gateway))
}

fn token(key: &TokenKey, account: &str, seconds: u64) -> String {
    key.token(&TokenIssuer::claims("mongodb://orders", "shop", account, seconds))
}

/// Sends tokens, each followed by a command, in one packet, and reads all replies.
fn show(connection: &mut Connection, tokens: &[String]) {
    let mut commands: Vec<_> = tokens.iter().map(|token| sasl_start(token)).collect();
    commands.push(find());
    let message = |(id, command)| op_msg(id, 0, &[body_section(command)]);
    let bytes: Vec<u8> = (1..).zip(&commands).flat_map(message).collect();
    connection.send(&bytes).unwrap();
    for command in &commands {
        let reply = connection.reply().unwrap().document;
        // mongod refuses the command of an account that has no user; the gateway does not.
        let name = command.keys().next().unwrap();
        assert!(name == "find" || reply.get_bool("done").is_ok_and(|done| done), "{reply}");
    }
}

fn grown_kib(gateway: &Gateway, since: u64) -> u64 {
    gateway.memory_kib().unwrap().saturating_sub(since)
}

fn validated(gateway: &Gateway) -> f64 {
    gateway.metric("mongate_token_validations_total", &[("issuer", TokenIssuer::NAME), ("outcome", "ok")])
}

fn upstream_connections(gateway: &Gateway) -> f64 {
    gateway.metric("mongate_pool_connections", &[])
}

#[test]
fn ten_thousand_tokens_of_one_client_leave_nothing() {
    const BATCH: u64 = 50;
    let Some((_scene, key, gateway)) = start() else { return };
    let mut connections: Vec<_> = (0..4).map(|_| gateway.connect().unwrap()).collect();
    let mut warm = None;
    for batch in 0..TOKENS / BATCH {
        let tokens: Vec<_> = (0..BATCH).map(|at| token(&key, "orders", 600 + batch * BATCH + at)).collect();
        let place = usize::try_from(batch).unwrap() % 4;
        show(&mut connections[place], &tokens);
        if batch * BATCH == WARM {
            warm = Some((gateway.memory_kib().unwrap(), upstream_connections(&gateway)));
        }
    }
    let (memory, upstream) = warm.unwrap();
    assert!((validated(&gateway) - 10_000.0).abs() < 0.5);
    let status: Value = serde_json::from_str(&gateway.get("/status").unwrap().body).unwrap();
    let principals = status["listeners"][0]["principals"].as_array().unwrap();
    assert_eq!(principals.len(), 1, "{principals:?}");
    assert_eq!((&principals[0]["source"], &principals[0]["connections"]), (&"token".into(), &4.into()));
    assert!(upstream_connections(&gateway) <= upstream + 0.5);
    let grown = grown_kib(&gateway, memory);
    assert!(grown < GROWTH_MAX_KIB, "{grown} KiB more after {} tokens", TOKENS - WARM);
}

#[test]
fn ten_thousand_principals_leave_nothing() {
    let Some((_scene, key, gateway)) = start() else { return };
    let mut warm = None;
    for number in 0..TOKENS {
        let mut connection = gateway.connect().unwrap();
        show(&mut connection, &[token(&key, &format!("account-{number}"), 600)]);
        drop(connection);
        if number == WARM {
            warm = Some((Extent::of(&gateway), gateway.memory_kib().unwrap(), upstream_connections(&gateway)));
        }
    }
    let (before, memory, upstream) = warm.unwrap();
    let after = Extent::of(&gateway);
    assert_eq!(after.series, before.series);
    assert!(
        after.descriptors <= before.descriptors + 2,
        "{} descriptors, {} before",
        after.descriptors,
        before.descriptors
    );
    assert!((validated(&gateway) - 10_000.0).abs() < 0.5);
    assert!(upstream_connections(&gateway) <= upstream + 1.5, "the pool is that of a credential");
    let status: Value = serde_json::from_str(&gateway.get("/status").unwrap().body).unwrap();
    assert_eq!(status["listeners"][0]["principals"], serde_json::json!([]));
    let grown = grown_kib(&gateway, memory);
    assert!(grown < GROWTH_MAX_KIB, "{grown} KiB more after {} principals", TOKENS - WARM);
}
