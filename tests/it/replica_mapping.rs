//! The documented connection string names one address. It works whatever becomes of the member behind that address, and
//! under whichever names the seeds are known.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bson::{Bson, doc};
use serde_json::Value;

use crate::kit::certificates::Wanted;
use crate::kit::drivers;
use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::{Mongod, MongodOptions};
use crate::kit::process;
use crate::kit::raw::Connection;
use crate::kit::replica_set::{MemberOptions, ReplicaSet, SetOptions};
use crate::kit::waiting;

/// A driver takes a second; a busy machine may need many more.
const TIMEOUT: Duration = Duration::from_mins(2);

const LINE: &str = "member addresses changed";

/// What a new `PyMongo` client finds at `uri`; `None` without `PyMongo`.
fn visit(uri: &str, more: &[&str]) -> Option<Value> {
    let mut command = drivers::python()?;
    command.arg(drivers::scripts().join("documented.py")).args([uri, "documented"]).args(more);
    let out = process::run("documented.py", command, TIMEOUT).unwrap();
    Some(serde_json::from_str(out.lines().last().unwrap()).unwrap())
}

/// The addresses in a list of a hello reply or of a driver.
fn addresses(list: &Value) -> BTreeSet<&str> {
    list.as_array().unwrap().iter().map(|address| address.as_str().unwrap()).collect()
}

/// The state of the listener's own address: its member and the one that stands in.
fn own_address(gateway: &Gateway) -> (Option<String>, Option<String>) {
    let status = gateway.status().unwrap();
    let own = status["listeners"][0]["members"][0].clone();
    assert_eq!(own["address"], gateway.address());
    let text = |value: &Value| value.as_str().map(str::to_owned);
    (text(&own["member"]), text(&own["stand_in"]))
}

/// Waits until the own address is in this state, and checks that new clients are served in every way.
fn check(gateway: &Gateway, set: &ReplicaSet, wanted: (Option<&str>, bool)) -> Option<()> {
    waiting::until(&format!("the first address is {wanted:?}"), || {
        let (member, stand_in) = own_address(gateway);
        ((member.as_deref(), stand_in.is_some()) == wanted).then_some(())
    });
    // A driver that knows the set moves on to the true addresses.
    let seen = visit(&gateway.set_uri(set.name()), &[])?;
    assert_eq!(seen["is_primary"], true, "{seen}");
    let members: BTreeSet<_> = gateway.members_at("test").unwrap().into_values().collect();
    assert_eq!(addresses(&seen["hosts"]), members.iter().map(String::as_str).collect(), "{seen}");
    assert!(addresses(&seen["nodes"]).is_subset(&addresses(&seen["hosts"])), "{seen}");
    assert!(seen["read"].as_u64().unwrap() > 0, "{seen}");
    let unnamed = visit(&gateway.uri(), &[])?;
    assert_eq!(unnamed["is_primary"], true, "{unnamed}");
    // One that does not is served by the stand-in.
    let direct = visit(&format!("{}/?directConnection=true", gateway.uri()), &[])?;
    assert!(addresses(&direct["hosts"]).contains(direct["me"].as_str().unwrap()), "{direct}");
    assert!(direct["read"].as_u64().unwrap() > 0, "{direct}");
    assert_eq!(gateway.get("/readyz").unwrap().status, 200);
    Some(())
}

/// Makes another member primary if `member` is.
fn demote(set: &ReplicaSet, member: &str) {
    while set.primary() == member {
        set.step_down().unwrap();
    }
}

#[test]
fn the_documented_uri_outlives_the_member_behind_it() {
    let Some(mut set) = ReplicaSet::start(SetOptions::default()) else { return };
    let gateway = Gateway::start(&GatewayOptions::to_set(&set));
    let first = gateway.await_members(&set.members());
    let behind = first.iter().find(|(_, address)| *address == gateway.address()).unwrap().0.clone();
    if check(&gateway, &set, (Some(&behind), false)).is_none() {
        return;
    }
    // A connection that was there before, of a client that never looks for other members.
    let mut old = Connection::plain(gateway.address()).unwrap();
    old.run(&doc! { "ping": 1, "$db": "admin" }).unwrap();

    demote(&set, &behind);
    set.remove(&behind).unwrap();
    check(&gateway, &set, (None, true));
    // It does not stay at a server that is no member any longer.
    assert!(old.run(&doc! { "ping": 1, "$db": "admin" }).is_err(), "the connection was closed");
    let logged = gateway
        .wait_for_log(TIMEOUT, |event| {
            event["message"] == LINE && event["members"].as_str().is_some_and(|text| text.contains(" -> "))
        })
        .unwrap();
    assert_eq!((&logged["listener"], &logged["level"]), (&"test".into(), &"INFO".into()), "{logged}");

    // An operator scales up again: the new member gets the address that was left.
    let added = set.add(MemberOptions::default()).unwrap();
    check(&gateway, &set, (Some(&added), false));
    assert_eq!(gateway.await_members(&set.members())[&added], gateway.address());

    // It goes down without leaving.
    demote(&set, &added);
    set.kill(&added);
    check(&gateway, &set, (Some(&added), true));
    set.restart(&added).unwrap();
    set.await_settled().unwrap();
    check(&gateway, &set, (Some(&added), false));

    // The set shrinks to one member.
    for member in set.members() {
        if set.members().len() > 1 && member != set.primary() {
            set.remove(&member).unwrap();
        }
    }
    let last = set.members().remove(0);
    let own = (last == added).then_some(added.as_str());
    check(&gateway, &set, (own, own.is_none()));
    set.assert_no_strangers();
}

/// The same server under another host name: for the set it is another member.
#[test]
fn the_documented_uri_outlives_a_new_name_of_the_member_behind_it() {
    let Some(set) = ReplicaSet::start(SetOptions::default()) else { return };
    let gateway = Gateway::start(&GatewayOptions::to_set(&set));
    let first = gateway.await_members(&set.members());
    let behind = own_address(&gateway).0.unwrap();
    let renamed = behind.replace("localhost", "127.0.0.1");
    set.reconfigure(|configuration| {
        for member in configuration.get_array_mut("members").unwrap() {
            let Bson::Document(member) = member else { continue };
            if member.get_str("host").is_ok_and(|host| host == behind) {
                member.insert("host", renamed.clone());
            }
        }
    })
    .unwrap();
    if check(&gateway, &set, (Some(&renamed), false)).is_none() {
        return;
    }
    // The others keep their addresses.
    let now = gateway.members_at("test").unwrap();
    for (member, address) in first.iter().filter(|(member, _)| **member != behind) {
        assert_eq!(now[member], *address);
    }
}

/// A driver that reads an empty list forgets the set, and never connects again.
#[test]
fn no_client_reads_an_empty_list_while_all_members_get_other_names() {
    for count in [1, 3] {
        let members = vec![MemberOptions::default(); count];
        let Some(set) = ReplicaSet::start(SetOptions { members, ..SetOptions::default() }) else { return };
        let gateway = Gateway::start(&GatewayOptions::to_set(&set));
        gateway.await_members(&set.members());
        let renamed: Vec<_> = set.members().iter().map(|name| name.replace("localhost", "127.0.0.1")).collect();
        let is_over = AtomicBool::new(false);
        let addresses: Vec<_> = gateway.members_at("test").unwrap().into_values().collect();
        std::thread::scope(|scope| {
            let watches: Vec<_> =
                addresses.iter().map(|address| scope.spawn(|| watch_lists(address, &is_over))).collect();
            let renaming = set.reconfigure(|configuration| {
                for member in configuration.get_array_mut("members").unwrap() {
                    let Bson::Document(member) = member else { continue };
                    let name = member.get_str("host").unwrap().replace("localhost", "127.0.0.1");
                    member.insert("host", name);
                }
            });
            let renamed = renaming.map(|()| gateway.await_members(&renamed));
            is_over.store(true, Ordering::Relaxed);
            let seen: Vec<_> = watches.into_iter().map(|watch| watch.join().unwrap()).collect();
            renamed.unwrap();
            assert!(seen.iter().all(|replies| *replies > 0), "{seen:?}");
        });
    }
}

/// Asks for hello again and again, and returns how many replies had members. Connections may be closed meanwhile.
fn watch_lists(address: &str, is_over: &AtomicBool) -> u64 {
    let mut replies = 0;
    while !is_over.load(Ordering::Relaxed) {
        let Ok(mut connection) = Connection::plain(address) else { continue };
        while let Ok(hello) = connection.run(&doc! { "hello": 1, "$db": "admin" }) {
            if let Ok(hosts) = hello.get_array("hosts") {
                assert!(!hosts.is_empty(), "{hello}");
                replies += 1;
            }
            if is_over.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    replies
}

#[test]
fn the_documented_uri_works_while_the_only_other_member_is_primary() {
    let members = vec![MemberOptions::default(), MemberOptions::default(), MemberOptions::arbiter()];
    let Some(mut set) = ReplicaSet::start(SetOptions { members, ..SetOptions::default() }) else { return };
    let gateway = Gateway::start(&GatewayOptions::to_set(&set));
    gateway.await_members(&set.members());
    let behind = own_address(&gateway).0.unwrap();
    assert_ne!(behind, set.members()[2], "the first address is not for an arbiter");
    demote(&set, &behind);
    set.kill(&behind);
    if check(&gateway, &set, (Some(&behind), true)).is_none() {
        return;
    }
    let primary = set.primary();
    let mut direct = Connection::plain(gateway.address()).unwrap();
    let hello = direct.run(&doc! { "hello": 1, "$db": "admin" }).unwrap();
    // Drivers would see the primary at two addresses.
    assert!(!hello.get_bool("isWritablePrimary").unwrap(), "{hello}");
    assert_eq!(hello.get_str("me").unwrap(), gateway.members_at("test").unwrap()[&primary]);
    assert_eq!(hello.get_str("primary").unwrap(), hello.get_str("me").unwrap());
}

/// The same servers have IP addresses in the configuration of the set, and `localhost` in a horizon of it. mongod
/// selects the horizon by the name in the TLS handshake, and an IP address is never sent there.
#[test]
fn seeds_under_two_names_come_to_rest_in_the_same_map() {
    let Some(set) = ReplicaSet::start(SetOptions::default()) else { return };
    let external = set.members();
    let internal: Vec<_> = external.iter().map(|name| name.replace("localhost", "127.0.0.1")).collect();
    set.reconfigure(|configuration| {
        for member in configuration.get_array_mut("members").unwrap() {
            let Bson::Document(member) = member else { continue };
            let name = member.get_str("host").unwrap().to_owned();
            member.insert("host", name.replace("localhost", "127.0.0.1"));
            member.insert("horizons", doc! { "external": name });
        }
    })
    .unwrap();
    let mut expected = None;
    for seeds in [
        [external[0].clone(), internal[1].clone()],
        [external[1].clone(), internal[0].clone()],
        [internal[2].clone(), external[0].clone()],
        [external[2].clone(), internal[2].clone()],
    ] {
        let mut options = GatewayOptions::to_set(&set);
        options.upstream_members = seeds.to_vec();
        let gateway = Gateway::start(&options);
        let map = gateway.await_members(&internal);
        let order: Vec<_> = map.into_keys().collect();
        assert_eq!(*expected.get_or_insert(order.clone()), order, "{seeds:?}");
        let Some(seen) = visit(&gateway.set_uri(set.name()), &[]) else { return };
        assert_eq!(seen["is_primary"], true, "{seen}");
        set.step_down().unwrap();
        gateway.await_primary(&set.primary().replace("localhost", "127.0.0.1"));
        assert_eq!(gateway.await_members(&internal).into_keys().collect::<Vec<_>>(), order, "{seeds:?}");
        assert_eq!(visit(&gateway.set_uri(set.name()), &[]).unwrap()["is_primary"], true);
    }
}

#[test]
fn servers_that_require_an_api_version_are_served_and_checked() {
    let arguments = vec!["--setParameter", "enableTestCommands=1"];
    // Members do not declare a version to each other, so that replication would end.
    let members = vec![MemberOptions::default()];
    let Some(set) = ReplicaSet::start(SetOptions { members, arguments, ..SetOptions::default() }) else { return };
    set.run_on_primary(&doc! { "setParameter": 1, "requireApiVersion": true, "$db": "admin" }).unwrap();
    let mut options = GatewayOptions::to_set(&set);
    options.upstream += "warm_connections = 1\n";
    let (code, shown) = options.check(&[]).unwrap();
    assert_eq!(code, Some(0), "{shown}");
    let gateway = Gateway::start(&options);
    gateway.await_members(&set.members());
    let problem = "a member that answers has no problem";
    waiting::until(problem, || {
        let status = gateway.status().unwrap()["upstreams"][0]["set"]["members"].clone();
        status.as_array().unwrap().iter().all(|member| member["problem"].is_null()).then_some(())
    });
    // A client that declares no version reads mongod's own error.
    let mut plain = Connection::plain(gateway.address()).unwrap();
    let refused = plain.command(&doc! { "hello": 1, "$db": "admin" }).unwrap();
    assert_eq!(refused.get_i32("code").unwrap(), 498_870, "{refused}");
    let Some(seen) = visit(&gateway.set_uri(set.name()), &["api"]) else { return };
    assert_eq!((&seen["is_primary"], &seen["read"]), (&true.into(), &1.into()), "{seen}");
    let failed = gateway.log().into_iter().find(|event| event["message"] == "upstream connection failed");
    assert_eq!(failed, None);
}

#[test]
fn a_server_name_whose_label_ends_in_a_hyphen_is_verified() {
    let certificate = Wanted { names: vec!["localhost", "127.0.0.1", "1mongo-.local"], ..Wanted::server() };
    let Some(mongod) = Mongod::start(MongodOptions { certificate, ..MongodOptions::default() }) else { return };
    let mut options = GatewayOptions::to(&mongod);
    let tls = options.upstream_tls.clone();
    for (name, is_served) in [("1mongo-.local", true), ("1mongo.local", false), ("2mongo-.local", false)] {
        options.upstream_tls = format!("{tls}server_name = {name:?}\n");
        let reply = Gateway::start(&options).connect().unwrap().command(&doc! { "ping": 1, "$db": "admin" }).unwrap();
        assert_eq!(reply.get_i32("code").ok(), (!is_served).then_some(141), "{name}: {reply}");
        let (code, shown) = options.check(&[]).unwrap();
        assert_eq!(code == Some(0), is_served, "{shown}");
    }
}
