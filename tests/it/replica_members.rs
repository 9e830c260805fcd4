//! Members join and leave a set while clients work; the gateway's address of each member stays the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;
use serde_json::Value;
use tempfile::TempDir;

use crate::kit::drivers;
use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::ports;
use crate::kit::process::Process;
use crate::kit::raw::Connection;
use crate::kit::replica_set::{MemberOptions, ReplicaSet, SetOptions};
use crate::kit::scratch;
use crate::kit::waiting;

/// A driver learns of a change within moments; a busy machine may need much longer.
const TIMEOUT: Duration = Duration::from_mins(1);

/// A `PyMongo` client that continuously writes, and reads from secondaries.
struct Follower {
    process: Process,
    directory: TempDir,
}

#[test]
fn connections_to_other_members_survive_when_a_member_joins_or_leaves() {
    let Some(mut set) = ReplicaSet::start(SetOptions::default()) else { return };
    let gateway = Gateway::start(&GatewayOptions::to_set(&set));
    let first = gateway.await_members(&set.members());
    let Some(mut follower) = Follower::start(&gateway.set_uri(set.name())) else { return };
    follower.await_members(first.values(), 2);

    let added = set.add(MemberOptions::default()).unwrap();
    let second = gateway.await_members(&set.members());
    for (member, address) in &first {
        assert_eq!(second[member], *address, "the address of {member} changed when another member joined");
    }
    follower.await_members(second.values(), 3);
    follower.await_read(&second[&added]);

    let removed = set.secondary();
    let kept: BTreeMap<_, _> =
        second.iter().filter(|(member, _)| **member != removed).map(|(m, a)| (m.clone(), a.clone())).collect();
    set.remove(&removed).unwrap();
    assert_eq!(gateway.await_members(&set.members()), kept, "an address changed when a member left");
    follower.await_members(kept.values(), 2);

    let last = follower.stop();
    assert_eq!(last["failures"], serde_json::json!([]), "{last}");
    for address in kept.values() {
        let pool = &last["pools"][address];
        assert!(pool["created"].as_u64().unwrap() > 0, "{address} was not used: {last}");
        assert!(pool["closed"].is_null() && pool["cleared"].is_null(), "{address}: {last}");
    }
    // No member is at the address of the removed one; the hello there names the address of another one.
    let hello = Connection::plain(&second[&removed]).unwrap().run(&doc! { "hello": 1, "$db": "admin" }).unwrap();
    assert!(kept.values().any(|address| address == hello.get_str("me").unwrap()), "{hello}");
    set.assert_no_strangers();
}

/// Clients may outlive a restart of the gateway, and operators may write the addresses down: they must not change.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_address_of_every_member() {
    let Some(set) = ReplicaSet::shared() else { return };
    let mut options = GatewayOptions::to_set(&set);
    let (mut gateway, ports) = start_at_ports(&mut options);
    let before = gateway.await_members(&set.members());
    let mut wanted: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    wanted.truncate(3);
    // The members in order of their names have consecutive ports.
    assert_eq!(before.values().cloned().collect::<Vec<_>>(), wanted);
    let client = Client::with_uri_str(gateway.set_uri(set.name())).await.unwrap();
    let collection = client.database("restart").collection::<Document>("c");
    collection.insert_one(doc! { "when": "before" }).await.unwrap();
    gateway.terminate().unwrap();
    gateway.wait(TIMEOUT).unwrap();
    // Another seed list: the member that is asked first must not matter.
    options.upstream_members = vec![set.members()[2].clone()];
    let gateway = Gateway::start(&options);
    assert_eq!(gateway.await_members(&set.members()), before);
    collection.insert_one(doc! { "when": "after" }).await.unwrap();
    assert_eq!(collection.count_documents(doc! {}).await.unwrap(), 2);
    client.database("restart").drop().await.unwrap();
}

#[test]
fn a_member_of_another_set_is_rejected() {
    let Some(set) = ReplicaSet::shared() else { return };
    let one = vec![MemberOptions::default()];
    let other = ReplicaSet::start_with(&set.pki, SetOptions { name: "other", members: one, ..SetOptions::default() });
    let Some(other) = other else { return };
    let foreign_member = other.members().remove(0);
    let mut options = GatewayOptions::to_set(&set);
    options.upstream_members.push(foreign_member.clone());
    let gateway = Gateway::start(&options);
    gateway.await_members(&set.members());
    let problem = waiting::until("the member of the other set is rejected", || {
        let status = gateway.status().ok()?;
        let members = status["upstreams"][0]["set"]["members"].as_array()?;
        let shown = members.iter().find(|member| member["name"] == foreign_member.as_str())?;
        shown["problem"].as_str().map(str::to_owned)
    });
    assert!(problem.contains("other") && problem.contains(set.name()), "{problem}");
    let logged = gateway.wait_for_log(TIMEOUT, |event| event["message"] == "member rejected").unwrap();
    assert_eq!(logged["member"], foreign_member.as_str());
    // A rejected member has no address, whatever it replies.
    assert!(!gateway.members_at("test").unwrap().contains_key(&foreign_member));
}

/// Each member is at its configured address. A member without a configured address is not in hello replies.
#[test]
fn configured_member_addresses_are_used() {
    let Some(set) = ReplicaSet::shared() else { return };
    let members = set.members();
    let mut options = GatewayOptions::to_set(&set);
    let (gateway, taken) = (0..5)
        .find_map(|_| {
            let ports = [ports::free().ok()?, ports::free().ok()?];
            let [first, second] = ports.map(|port| format!("127.0.0.1:{port}"));
            options.listener_address = Some(first.clone());
            options.tables = format!(
                "[listener.test.member_addresses]\n\"{}\" = \"{second}\"\n\"{}\" = \"{first}\"\n",
                members[0].to_uppercase().replace("LOCALHOST", "LocalHost"),
                members[1],
            );
            Some((Gateway::try_start(&options).ok()?, [second, first]))
        })
        .expect("there are two free ports");
    let wanted: BTreeMap<_, _> = members.iter().cloned().zip(taken).collect();
    assert_eq!(gateway.await_members(&members[..2]), wanted);
    for address in wanted.values() {
        let hello = Connection::plain(address).unwrap().run(&doc! { "hello": 1, "$db": "admin" }).unwrap();
        assert_eq!(hello.get_str("me").unwrap(), address);
        let hosts = hello.get_array("hosts").unwrap().iter().map(|host| host.as_str().unwrap());
        assert_eq!(hosts.collect::<Vec<_>>(), members[..2].iter().map(|member| &wanted[member]).collect::<Vec<_>>());
        // The primary may be the member without an address.
        let primary = wanted.get(&set.primary()).map(String::as_str);
        assert_eq!(hello.get_str("primary").ok(), primary);
    }
}

/// Starts a gateway on four consecutive ports. Retries, because another program may take one of them first.
fn start_at_ports(options: &mut GatewayOptions) -> (Gateway, Vec<u16>) {
    let started = (0..5).find_map(|_| {
        let first = ports::free_in_a_row(4).ok()?;
        let ports: Vec<_> = (first..first + 4).collect();
        options.listener_address = Some(format!("127.0.0.1:{first}"));
        options.listener = format!("member_ports = \"{first}-{}\"\n", first + 3);
        Some((Gateway::try_start(options).ok()?, ports))
    });
    started.expect("there are four free consecutive ports")
}

impl Follower {
    fn start(uri: &str) -> Option<Self> {
        let mut command = drivers::python()?;
        let directory = scratch::directory("follower").unwrap();
        command.arg(drivers::scripts().join("follow.py")).args([uri, "followed"]).arg(directory.path().join("stop"));
        Some(Self { process: Process::start("follow.py", command).unwrap(), directory })
    }

    /// Waits until the driver knows exactly these addresses, a primary and this number of secondaries.
    fn await_members<'a>(&self, addresses: impl Iterator<Item = &'a String>, secondaries: usize) {
        let mut wanted: Vec<_> = addresses.cloned().collect();
        wanted.sort();
        waiting::until(&format!("the driver knows {wanted:?}"), || {
            let last = self.lines().rev().find_map(|line| line.get("members").cloned())?;
            let known: BTreeMap<String, String> = serde_json::from_value(last).ok()?;
            let is_complete = known.values().filter(|kind| *kind == "RSSecondary").count() == secondaries
                && known.values().any(|kind| kind == "RSPrimary");
            (is_complete && known.into_keys().collect::<Vec<_>>() == wanted).then_some(())
        });
    }

    /// Waits until the driver has read from this address.
    fn await_read(&self, address: &str) {
        waiting::until("the driver reads from the address", || self.lines().find(|line| line["read"] == address));
    }

    /// Stops the client and returns its report: pool events by address, and failures.
    fn stop(&mut self) -> Value {
        let stop: PathBuf = self.directory.path().join("stop");
        fs::write(stop, "").unwrap();
        let status = self.process.wait(TIMEOUT).unwrap();
        assert!(status.success(), "{}", self.process.tail());
        self.lines().find(|line| line.get("pools").is_some()).unwrap()
    }

    fn lines(&self) -> impl DoubleEndedIterator<Item = Value> {
        let lines = self.process.lines().into_iter();
        lines.filter_map(|line| serde_json::from_str(&line.text).ok())
    }
}
