//! Elections under load: no acknowledged write is lost, no write fails that succeeds without the gateway, and the time
//! without writes is shown for both.

use std::time::Duration;

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::replica_set::{ReplicaSet, SetOptions};
use crate::writers;
use crate::writers::{Lane, Outcome};

/// Number of step-downs.
const STEP_DOWNS: usize = 10;
/// Number of kills. A kill takes longer than a step-down, because the other members must notice it first.
const KILLS: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn step_downs_lose_no_acknowledged_write() {
    let Some(set) = ReplicaSet::start(SetOptions::default()) else { return };
    let gateway = Gateway::start(&GatewayOptions::to_set(&set));
    // Few connections for many clients, and clients of two gateways that use them at the same time.
    let pooled = GatewayOptions::to_set(&set);
    let pool = "pool.mode = 'request'\npool.max_connections = 8\n";
    let pooled = Gateway::start(&GatewayOptions { upstream: pooled.upstream.clone() + pool, ..pooled });
    let mut lanes = lanes(&set, &gateway).await;
    let through = pooled.set_uri(set.name());
    lanes.push(Lane::rust("rust, 8 shared", &through).await);
    lanes.extend(Lane::python("pymongo, 8 shared", &through));
    let mut moments = Vec::new();
    for _ in 0..STEP_DOWNS {
        writers::await_recovery(&lanes);
        moments.push(writers::now());
        set.step_down().unwrap();
    }
    writers::await_recovery(&lanes);
    check("step-down", &set, lanes, &moments).await;
    let changes = gateway.await_metric("mongate_upstream_primary_changes_total", &[], |count| count > 9.5);
    assert!((changes - 10.0).abs() < 0.5, "the gateway counted {changes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_primaries_lose_no_acknowledged_write() {
    let Some(mut set) = ReplicaSet::start(SetOptions::default()) else { return };
    let gateway = Gateway::start(&GatewayOptions::to_set(&set));
    let lanes = lanes(&set, &gateway).await;
    let mut moments = Vec::new();
    for _ in 0..KILLS {
        writers::await_recovery(&lanes);
        let primary = set.primary();
        moments.push(writers::now());
        set.kill(&primary);
        writers::await_recovery(&lanes);
        set.restart(&primary).unwrap();
        set.await_settled().unwrap();
    }
    writers::await_recovery(&lanes);
    check("kill", &set, lanes, &moments).await;
}

/// The same work on four paths at the same time, so that every election affects all of them.
async fn lanes(set: &ReplicaSet, gateway: &Gateway) -> Vec<Lane> {
    let (direct, through) = (set.uri().unwrap(), gateway.set_uri(set.name()));
    let mut lanes = vec![Lane::rust("rust direct", &direct).await, Lane::rust("rust gateway", &through).await];
    lanes.extend(Lane::python("pymongo direct", &direct));
    lanes.extend(Lane::python("pymongo gateway", &through));
    lanes
}

/// mongod's reply to a write that a step-down interrupts. It is a write error, not a command error, so it has no error
/// label and no driver retries it, with or without the gateway.
const STEPPED_DOWN_WHILE_WRITING: &str = "Not primary while writing";

async fn check(what: &str, set: &ReplicaSet, lanes: Vec<Lane>, moments: &[f64]) {
    let direct = writers::direct(set).await;
    let mut failed = Vec::new();
    for lane in lanes {
        let outcome = lane.stop().await;
        show(what, &outcome, moments);
        outcome.check(&direct).await;
        let failures = outcome.failures.iter().filter(|failure| !failure.contains(STEPPED_DOWN_WHILE_WRITING));
        failed.extend(failures.map(|failure| format!("{}: {failure}", outcome.name)));
    }
    assert!(failed.is_empty(), "writes that failed: {failed:#?}");
    set.assert_no_strangers();
}

#[expect(clippy::print_stderr, reason = "prints how long clients were without a primary, for people to compare")]
fn show(what: &str, outcome: &Outcome, moments: &[f64]) {
    let mut gaps = outcome.gaps(moments);
    gaps.sort_by(f64::total_cmp);
    let (median, longest) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    let [median, longest] = [median, longest].map(Duration::from_secs_f64);
    eprintln!(
        "{what} x{}: {:<16} {median:>8.1?} without a write at the median, {longest:>8.1?} at most, {} failures",
        gaps.len(),
        outcome.name,
        outcome.failures.len(),
    );
}
