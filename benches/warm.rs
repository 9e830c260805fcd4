//! Time to the first reply of a new client: with a spare connection waiting for it, and with one that is made then.
//!
//! The gateway's binary before a real mongod, both on this machine, in rounds that take turns. Dialling is shown at its
//! best: next to no network, and a TLS session that is resumed. With `--test` it only shows that it works.

use std::env;
use std::io::{Write, stdout};
use std::time::{Duration, Instant};

use bson::doc;

#[path = "../tests/kit/mod.rs"]
mod kit;

use kit::gateway::{Gateway, GatewayOptions};
use kit::mongod::Mongod;
use kit::waiting::until;

/// So that a spare is there although the last round took one.
const SPARES: u32 = 4;
/// Of each way.
const ROUNDS: usize = 300;
/// With `--test`, or where cargo tests and does not measure.
const ROUNDS_OF_TEST: usize = 3;

fn main() -> anyhow::Result<()> {
    let measures =
        env::args().any(|argument| argument == "--bench") && env::args().all(|argument| argument != "--test");
    let rounds = if measures { ROUNDS } else { ROUNDS_OF_TEST };
    let Some(mongod) = Mongod::shared_standalone() else { return Ok(()) };
    let gateway = |spares: u32| {
        let upstream = format!("warm_connections = {spares}\n");
        Gateway::start(&GatewayOptions { upstream, ..GatewayOptions::to(&mongod) })
    };
    let ways = [("spare connection", gateway(SPARES)), ("dialled", gateway(0))];
    let mut times = ways.each_ref().map(|_| Vec::with_capacity(rounds));
    for _ in 0..rounds {
        until("spares are there", || (spares(&ways[0].1) >= SPARES).then_some(()));
        for ((_, gateway), times) in ways.iter().zip(&mut times) {
            times.push(first_reply(gateway)?);
        }
    }
    let mut out = stdout().lock();
    writeln!(out, "{:<18} {:>10} {:>10} {:>10}", "time to 1st reply", "least", "median", "90 %")?;
    for ((name, _), times) in ways.iter().zip(&mut times) {
        times.sort();
        let at = |percent: usize| format!("{} us", times[(times.len() - 1) * percent / 100].as_micros());
        writeln!(out, "{name:<18} {:>10} {:>10} {:>10}", at(0), at(50), at(90))?;
    }
    Ok(())
}

/// From the first packet of a new connection to the answer of its hello.
fn first_reply(gateway: &Gateway) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut client = gateway.connect()?;
    client.run(&doc! { "hello": 1, "$db": "admin" })?;
    Ok(began.elapsed())
}

fn spares(gateway: &Gateway) -> u32 {
    let ready = gateway.metric("mongate_upstream_warm_connections", &[]);
    (0..=SPARES).rev().find(|count| ready > f64::from(*count) - 0.5).unwrap_or(0)
}
