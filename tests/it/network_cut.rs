//! A network partition between clients and one member: packets are lost, no connection is closed, and the network
//! recovers later. A driver through the gateway and a driver that connects directly must behave alike.
//!
//! The test runs in a network namespace. An iptables rule drops all packets between the member and the gateway or the
//! direct driver. The members still reach each other.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bson::{Bson, Document, doc};
use serde_json::Value;

use crate::kit::drivers as programs;
use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod_binary;
use crate::kit::namespace;
use crate::kit::namespace::{Namespace, User};
use crate::kit::process::Process;
use crate::kit::provision;
use crate::kit::raw::{Connection, body_section, op_msg};
use crate::kit::replica_set::{MemberOptions, ReplicaSet, SetOptions};
use crate::kit::waiting::until;

const HOSTS: [(&str, &[&str]); 3] =
    [("mongo-0.test", &["10.217.2.1"]), ("mongo-1.test", &["10.217.2.2"]), ("mongo-2.test", &["10.217.2.3"])];
/// Enough operations to rule out coincidence.
const ENOUGH: usize = 20;

#[test]
fn an_unreachable_member_is_avoided_and_is_used_again_after_it_recovers() {
    if programs::python().is_none() || provision::or_skip("a real mongod", mongod_binary::locate()).is_none() {
        return;
    }
    let test = "network_cut::an_unreachable_member_is_avoided_and_is_used_again_after_it_recovers";
    namespace::inside(test, |namespace| {
        namespace.hosts(&HOSTS).unwrap();
        let members = HOSTS.iter().map(|(host, _)| MemberOptions::at(host)).collect();
        let set = ReplicaSet::start(SetOptions { members, ..SetOptions::default() }).unwrap();
        let partition = Partition::prepare(namespace);
        let options = GatewayOptions {
            upstream: "replica_set = \"rs0\"\nconnect_timeout = \"1s\"\n".to_owned(),
            user: Some(namespace::GATEWAY),
            ..GatewayOptions::to_set(&set)
        };
        let gateway = Gateway::start(&options);
        let addresses = gateway.await_members(&set.members());
        let through = Traffic::start("through", &gateway.set_uri("rs0"), None);
        let direct = Traffic::start("direct", &set.uri().unwrap(), Some(namespace::CLIENT));
        let primary = set.primary();
        let secondaries: Vec<_> = set.members().into_iter().filter(|member| *member != primary).collect();
        let [far, near] = &secondaries[..] else { panic!("{secondaries:?}") };
        let both = [(&through, addresses[far].clone(), addresses[near].clone()), (&direct, far.clone(), near.clone())];
        for (traffic, far, near) in &both {
            traffic.await_more("all members are used", |seen| {
                seen.writes() >= ENOUGH && seen.reads_of(far) >= ENOUGH && seen.reads_of(near) >= ENOUGH
            });
        }

        // A secondary: reads go to the other secondary, and writes continue.
        partition.begin(far);
        for (traffic, _, near) in &both {
            traffic.await_more("the other members are used", |seen| {
                seen.writes() >= ENOUGH && seen.reads_of(near) >= ENOUGH
            });
        }
        until("the gateway marks the member as unknown", || (state_of(&gateway, far)? == "unknown").then_some(()));
        assert_eq!(gateway.metric("mongate_upstream_members", &[("state", "unknown")]).to_string(), "1");
        assert_eq!(gateway.get("/readyz").unwrap().status, 200);
        let asked = Instant::now();
        let refusal = refusal_at(&addresses[far]);
        assert_eq!(refusal.get_i32("code").unwrap(), 6, "{refusal}");
        assert!(asked.elapsed() < Duration::from_secs(10), "refused after {:?}", asked.elapsed());
        for (traffic, far, near) in &both {
            // By now no client tries this member.
            traffic.await_more("no read comes from the member", |seen| {
                seen.reads_of(near) >= ENOUGH && seen.reads_of(far) == 0
            });
        }
        partition.end(far);
        for (traffic, far, _) in &both {
            traffic.await_more("reads come from the member again", |seen| seen.reads_of(far) >= ENOUGH);
        }
        assert_eq!(state_of(&gateway, far).as_deref(), Some("secondary"));

        // The primary, which the other members still reach: every write fails until the clients reach it again.
        partition.begin(&primary);
        for (traffic, far, near) in &both {
            traffic.await_more("reads continue and writes fail", |seen| {
                seen.failed("write") >= 1 && seen.reads_of(far) + seen.reads_of(near) >= ENOUGH
            });
        }
        assert_eq!(set.primary(), primary, "the members elect no other primary");
        partition.end(&primary);
        for (traffic, ..) in &both {
            traffic.await_more("writes succeed again", |seen| seen.writes() >= ENOUGH);
        }
        for traffic in [&through, &direct] {
            let acknowledged = traffic.seen().acknowledged();
            let query = doc! { "_id": { "$in": acknowledged.iter().copied().map(Bson::from).collect::<Vec<_>>() } };
            let count = doc! { "count": "traffic", "query": query, "$db": traffic.name };
            let there = set.run_on_primary(&count).unwrap().get_i32("n").unwrap();
            assert_eq!(
                usize::try_from(there).unwrap(),
                acknowledged.len(),
                "{}: acknowledged writes were lost",
                traffic.name
            );
        }
    });
}

/// Drops packets between members and clients, but not among the members.
struct Partition<'a>(&'a Namespace);

impl<'a> Partition<'a> {
    /// Marks the connections of the gateway and the client. Connections among the members stay unmarked.
    fn prepare(namespace: &'a Namespace) -> Self {
        for user in [namespace::GATEWAY, namespace::CLIENT] {
            for (_, addresses) in HOSTS {
                let address = addresses[0];
                let mark = mark_of(address);
                let from = format!("-m owner --uid-owner {}", user.name);
                let rule = format!("-p tcp -d {address} --dport 27017 {from} -j CONNMARK --set-mark {mark}");
                namespace.sh(&format!("iptables -t mangle -A OUTPUT {rule}")).unwrap();
            }
        }
        Self(namespace)
    }

    fn begin(&self, member: &str) {
        self.rule("-A", member);
    }

    fn end(&self, member: &str) {
        self.rule("-D", member);
    }

    fn rule(&self, action: &str, member: &str) {
        let (host, _) = member.rsplit_once(':').unwrap();
        let (_, addresses) = HOSTS.iter().find(|(known, _)| *known == host).unwrap();
        let mark = mark_of(addresses[0]);
        self.0.sh(&format!("iptables {action} OUTPUT -m connmark --mark {mark} -j DROP")).unwrap();
    }
}

/// The last number of the address, which is unique per member.
fn mark_of(address: &str) -> &str {
    address.rsplit_once('.').unwrap().1
}

/// A driver that writes and reads continuously.
struct Traffic {
    name: &'static str,
    process: Process,
}

/// The operations of a driver since some point in time.
struct Seen(Vec<Value>);

impl Traffic {
    fn start(name: &'static str, uri: &str, user: Option<User>) -> Self {
        let mut command = programs::python().unwrap();
        command.arg(programs::scripts().join("traffic.py")).args([uri, name]);
        if let Some(user) = user {
            command = namespace::run_as(user, &command).unwrap();
        }
        Self { name, process: Process::start(name, command).unwrap() }
    }

    fn seen(&self) -> Seen {
        Seen(self.process.stdout().lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    /// Waits until the operations from now on satisfy `is_enough`.
    fn await_more(&self, what: &str, is_enough: impl Fn(&Seen) -> bool) {
        let before = self.seen().0.len();
        until(&format!("{}: {what}", self.name), || {
            let mut all = self.seen().0;
            let seen = Seen(all.split_off(before));
            is_enough(&seen).then_some(())
        });
    }
}

impl Seen {
    fn writes(&self) -> usize {
        self.0.iter().filter(|event| event["write"].is_u64()).count()
    }

    fn reads_of(&self, member: &str) -> usize {
        self.0.iter().filter(|event| event["read"].is_u64() && event["member"] == member).count()
    }

    fn failed(&self, kind: &str) -> usize {
        self.0.iter().filter(|event| event["failed"] == kind).count()
    }

    fn acknowledged(&self) -> BTreeSet<i64> {
        self.0.iter().filter_map(|event| event["write"].as_i64()).collect()
    }
}

fn state_of(gateway: &Gateway, member: &str) -> Option<String> {
    let status = gateway.status().ok()?;
    let members = status["upstreams"][0]["set"]["members"].as_array()?;
    let member = members.iter().find(|shown| shown["name"] == member)?;
    Some(member["state"].as_str()?.to_owned())
}

fn refusal_at(address: &str) -> Document {
    let mut connection = Connection::plain(address).unwrap();
    let hello = doc! { "hello": 1, "$db": "admin" };
    connection.send(&op_msg(1, 0, &[body_section(&hello)])).unwrap();
    connection.reply().unwrap().document
}
