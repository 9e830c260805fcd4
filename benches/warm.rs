//! Measures the time to the first reply of a new client, with a spare connection and with a new upstream connection.
//!
//! It runs the gateway's binary in front of a real mongod on the same machine, in alternating rounds. A new upstream
//! connection is as cheap as it can be here: almost no network latency, and a resumed TLS session. `--test` only checks
//! that the benchmark works.

use std::env;
use std::io::{Write, stdout};
use std::time::{Duration, Instant};

use bson::doc;

#[path = "../tests/kit/mod.rs"]
mod kit;

use kit::gateway::{Gateway, GatewayOptions};
use kit::mongod::Mongod;
use kit::waiting::until;

/// Enough that a spare connection is ready although the last round used one.
const SPARES: u32 = 4;
/// Number of measurements of each variant.
const ROUNDS: usize = 300;
/// The same with `--test`, and when cargo runs the benchmark as a test.
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
    let variants = [("spare connection", gateway(SPARES)), ("new connection", gateway(0))];
    let mut times = variants.each_ref().map(|_| Vec::with_capacity(rounds));
    for _ in 0..rounds {
        until("spare connections are ready", || (spares(&variants[0].1) >= SPARES).then_some(()));
        for ((_, gateway), times) in variants.iter().zip(&mut times) {
            times.push(first_reply(gateway)?);
        }
    }
    let mut out = stdout().lock();
    writeln!(out, "{:<18} {:>10} {:>10} {:>10}", "time to 1st reply", "least", "median", "90 %")?;
    for ((name, _), times) in variants.iter().zip(&mut times) {
        times.sort();
        let at = |percent: usize| format!("{} us", times[(times.len() - 1) * percent / 100].as_micros());
        writeln!(out, "{name:<18} {:>10} {:>10} {:>10}", at(0), at(50), at(90))?;
    }
    Ok(())
}

/// Returns the time from connecting to the reply to hello.
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
