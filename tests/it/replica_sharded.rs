//! Several mongos of a sharded cluster as members of one upstream: each has an address of its own, and the gateway does
//! not change their replies. The mongos are simulated, see `kit::mongos`.

use std::sync::Arc;

use bson::{Document, doc};
use mongodb::Client;
use mongodb::event::EventHandler;
use mongodb::event::sdam::{SdamEvent, TopologyType};
use mongodb::options::ClientOptions;

use crate::drivers;
use crate::kit::drivers as programs;
use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::Mongod;
use crate::kit::mongos::Mongos;
use crate::kit::raw::{Connection, EXHAUST_ALLOWED, body_section, op_msg, op_query};
use crate::kit::waiting;
use crate::replica_balanced;

/// Steps that a simulated mongos does not support.
const REPLICA_SET_STEPS: [&str; 2] = ["change_stream", "transaction"];

#[test]
fn every_mongos_has_an_address_and_its_replies_are_not_changed() {
    let Some((mongod, all)) = two() else { return };
    // With a pool the gateway answers itself, with the time of now.
    let mut options = options(&mongod, &all);
    options.upstream += "pool.mode = 'off'\n";
    let gateway = Gateway::start(&options);
    let addresses = gateway.await_members(&names(&all));
    let version = doc! { "processId": bson::oid::ObjectId::from_bytes([7; 12]), "counter": 0_i64 };
    let awaited = doc! { "hello": 1, "topologyVersion": version, "maxAwaitTimeMS": 100, "$db": "admin" };
    let requests = [
        op_msg(3, 0, &[body_section(&doc! { "hello": 1, "$db": "admin" })]),
        op_msg(3, 0, &[body_section(&doc! { "isMaster": 1, "$db": "shop" })]),
        op_msg(3, EXHAUST_ALLOWED, &[body_section(&awaited)]),
        op_query(3, "admin.$cmd", -1, &doc! { "ismaster": 1, "helloOk": true }),
    ];
    for mongos in &all {
        for request in &requests {
            let direct = ask(Connection::tls(&mongos.address(), &mongod.pki, &mongod.client).unwrap(), request);
            let through = ask(Connection::plain(&addresses[&mongos.name()]).unwrap(), request);
            assert_eq!(direct, through);
        }
    }
    let states = gateway.status().unwrap()["upstreams"][0]["set"]["members"].clone();
    for member in states.as_array().unwrap() {
        assert_eq!((&member["state"], &member["problem"]), (&"mongos".into(), &serde_json::Value::Null), "{states}");
    }
}

#[test]
fn pymongo_works_with_two_mongos() {
    let Some((mongod, all)) = two() else { return };
    let gateway = Gateway::start(&options(&mongod, &all));
    let Some(command) = programs::python() else { return };
    let output = replica_balanced::run("balanced.py", command, &[&uri(&gateway, &all), "python_sharded"]);
    let (topology, rest) = output.split_once('\n').unwrap();
    assert!(topology.contains("Mongos"), "{topology}");
    assert_eq!(rest.lines().collect::<Vec<_>>(), replica_balanced::EXPECTED[1..]);
}

/// All steps except those that need all requests on one connection.
#[test]
fn the_node_driver_works_with_two_mongos() {
    let Some((mongod, all)) = two() else { return };
    let gateway = Gateway::start(&options(&mongod, &all));
    let Some(mut outcome) = drivers::node(&uri(&gateway, &all), "node_sharded") else { return };
    outcome.lines.retain(|line| !line.contains("\"unacknowledged\""));
    let left_out: Vec<_> = ["exhaust", "unacknowledged"].into_iter().chain(REPLICA_SET_STEPS).collect();
    assert_eq!(outcome.lines, drivers::expected_lines(&left_out));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_continues_with_the_remaining_mongos() {
    let Some((mongod, mut all)) = two() else { return };
    let gateway = Gateway::start(&options(&mongod, &all));
    let addresses = gateway.await_members(&names(&all));
    let mut client = ClientOptions::parse(uri(&gateway, &all)).await.unwrap();
    let (sender, kinds) = std::sync::mpsc::channel();
    client.sdam_event_handler = Some(EventHandler::callback(move |event| {
        if let SdamEvent::TopologyDescriptionChanged(changed) = event {
            // Fails only after the test has ended.
            let _ = sender.send(changed.new_description.topology_type());
        }
    }));
    let client = Client::with_options(client).unwrap();
    let collection = client.database("sharded_left").collection::<Document>("c");
    for id in 0..20 {
        collection.insert_one(doc! { "_id": id }).await.unwrap();
    }
    assert_eq!(kinds.try_iter().last(), Some(TopologyType::Sharded));
    let stopped = all.remove(0);
    let name = stopped.name();
    drop(stopped);
    // Inserts and counts are retryable, and the driver learns from the first one that fails that a mongos has stopped.
    for id in 20..40 {
        collection.insert_one(doc! { "_id": id }).await.unwrap();
    }
    assert_eq!(collection.count_documents(doc! {}).await.unwrap(), 40);
    collection.drop().await.unwrap();
    let problem = waiting::until("the gateway notices the stopped mongos", || {
        let status = gateway.status().ok()?;
        let members = status["upstreams"][0]["set"]["members"].as_array()?;
        let lost = members.iter().find(|member| member["name"] == name.as_str())?;
        lost["problem"].as_str().map(str::to_owned)
    });
    assert!(problem.contains(&name), "{problem}");
    // It is still a member, because the configuration lists it.
    assert_eq!(gateway.members_at("test").unwrap(), addresses);
    assert_eq!(gateway.get("/readyz").unwrap().status, 200);
}

#[test]
fn a_member_that_is_not_a_mongos_is_rejected() {
    let Some((mongod, all)) = two() else { return };
    let mut options = options(&mongod, &all);
    // The mongod behind the simulated mongos, which belongs to a replica set.
    let other = format!("localhost:{}", mongod.port());
    options.upstream_members.push(other.clone());
    let gateway = Gateway::start(&options);
    let problem = waiting::until("the gateway rejects it", || {
        let status = gateway.status().ok()?;
        let members = status["upstreams"][0]["set"]["members"].as_array()?;
        let refused = members.iter().find(|member| member["name"] == other.as_str())?;
        refused["problem"].as_str().map(str::to_owned)
    });
    assert!(problem.contains("mongos"), "{problem}");
    gateway.await_members(&names(&all));
}

fn uri(gateway: &Gateway, all: &[Mongos]) -> String {
    let addresses: Vec<_> = gateway.await_members(&names(all)).into_values().collect();
    format!("mongodb://{}/", addresses.join(","))
}

fn two() -> Option<(Arc<Mongod>, Vec<Mongos>)> {
    let mongod = Mongod::shared_replica_set()?;
    let all = [1, 2].map(|number| Mongos::start(&mongod, number).unwrap()).into();
    Some((mongod, all))
}

fn options(mongod: &Mongod, all: &[Mongos]) -> GatewayOptions {
    let upstream = "sharded = true\n".to_owned();
    GatewayOptions { upstream_members: names(all), upstream, ..GatewayOptions::to(mongod) }
}

fn names(all: &[Mongos]) -> Vec<String> {
    all.iter().map(Mongos::name).collect()
}

fn ask(mut connection: Connection, request: &[u8]) -> Vec<u8> {
    connection.send(request).unwrap();
    connection.reply().unwrap().bytes
}
