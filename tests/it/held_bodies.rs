//! Clients that begin long commands and do not finish them: they do not delay the long commands of another caller.

use bson::{Document, doc};

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::Mongod;
use crate::kit::raw::{Connection, body_section, op_msg};

const ATTACKERS: u32 = 200;
const MEBIBYTE: f64 = 1024.0 * 1024.0;
const TO_UPSTREAM: [(&str, &str); 1] = [("direction", "to_upstream")];

/// A gateway with a listener `shop`, whose clients may do everything, and a listener `test`, whose clients may send
/// `commands`.
fn gateway(mongod: &Mongod, max_held_bytes: &str, commands: &str) -> Gateway {
    let tables = format!(
        "[listener.shop]\naddress = '127.0.0.1:0'\nupstream = 'test'\n\
         [[policy.rule]]\nname = 'shop'\naction = 'allow'\nfrom = [{{ listeners = ['shop'] }}]\n\
         [[policy.rule]]\nname = 'test'\naction = 'allow'\nfrom = [{{ listeners = ['test'] }}]\n\
         to = [{{ commands = [{commands:?}] }}]\n"
    );
    let top = format!("max_held_bytes = {max_held_bytes:?}\n");
    Gateway::start(&GatewayOptions { top, tables, ..GatewayOptions::to(mongod) })
}

fn insert(bytes: usize) -> Document {
    doc! { "insert": "held", "documents": [{ "t": "x".repeat(bytes) }], "$db": "held_bodies" }
}

/// Clients of the listener `test` that each send the first `sent` bytes of an insert of 16 MB.
fn attackers(gateway: &Gateway, sent: &[usize]) -> Vec<Connection> {
    let message = op_msg(1, 0, &[body_section(&insert(16_000_000))]);
    let mut attackers: Vec<_> = (0..ATTACKERS).map(|_| gateway.connect().unwrap()).collect();
    for (attacker, sent) in attackers.iter_mut().zip(sent.iter().cycle()) {
        attacker.send(&message[..*sent]).unwrap();
    }
    attackers
}

/// A client of the listener `shop` inserts 8 MB.
fn insert_as_shop(gateway: &Gateway) {
    let mut shop = Connection::plain(&gateway.address_of("shop").unwrap()).unwrap();
    let reply = shop.run(&insert(8_000_000)).unwrap();
    assert_eq!(reply.get_i32("n").unwrap(), 1, "{reply}");
}

#[test]
fn callers_without_rights_that_begin_long_inserts_do_not_delay_those_with_rights() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = gateway(&mongod, "64MiB", "@read");
    let attackers = attackers(&gateway, &[100, 17_000]);
    let denied = [("listener", "test"), ("outcome", "denied")];
    gateway.await_metric("mongate_commands_total", &denied, |count| count >= f64::from(ATTACKERS));
    assert!(gateway.metric("mongate_held_bytes", &TO_UPSTREAM) == 0.0, "they hold memory");
    insert_as_shop(&gateway);
    let connected = gateway.metric("mongate_connections_active", &[("listener", "test")]);
    assert!(connected >= f64::from(ATTACKERS), "only {connected} attackers are left");
    drop(attackers);

    let max = gateway.metric("mongate_held_bytes_max", &TO_UPSTREAM);
    assert_eq!(max.to_bits(), (64.0 * MEBIBYTE).to_bits(), "{max}");
    let status = gateway.status().unwrap();
    assert_eq!((&status["max_held_bytes"], &status["held_bytes"]), (&(64 << 20).into(), &0.into()));
}

#[test]
fn a_caller_that_holds_its_share_of_the_memory_does_not_delay_another() {
    /// A quarter of what is not the reserve of 48 MiB, and the reserve.
    const SHARE: f64 = (20.0 + 48.0) * MEBIBYTE;
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = gateway(&mongod, "128MiB", "insert");
    let attackers = attackers(&gateway, &[300_000]);
    let held = |least: f64| move |held: f64| held >= least;
    // The last step of the share may be too long for what is left of it.
    let almost = SHARE - MEBIBYTE;
    gateway.await_metric("mongate_held_bytes", &TO_UPSTREAM, held(almost));
    insert_as_shop(&gateway);
    let still = gateway.metric("mongate_held_bytes", &TO_UPSTREAM);
    assert!(still >= 20.0 * MEBIBYTE - MEBIBYTE, "the attackers hold only {still} bytes");
    drop(attackers);
    gateway.await_metric("mongate_held_bytes", &TO_UPSTREAM, |held| held == 0.0);
}
