//! Clients with passwords beside clients with tokens, where the gateway authenticates to mongod for the others.

use bson::spec::BinarySubtype;
use bson::{Binary, Document, doc};
use mongodb::Client;
use serde_json::{Value, json};

use crate::kit::drivers;
use crate::kit::gateway::Gateway;
use crate::kit::raw::Connection;
use crate::reports::LOG_TIMEOUT;
use crate::token_clients::{Scene, authenticate, code, find, report, sasl_start};
use crate::x509_connect::{as_root, subject};

const PASSWORD: &str = "secret-of-alice";

/// A gateway that takes tokens and passwords. Alice may read, and has no other mechanism than SCRAM-SHA-256.
fn scene(mode: &str) -> Option<Scene> {
    let mut scene = Scene::new(mode)?;
    let roles = vec![doc! { "role": "read", "db": "shop" }];
    let mechanisms = vec!["SCRAM-SHA-256"];
    as_root(
        &scene.mongod,
        &doc! { "createUser": "alice", "pwd": PASSWORD, "roles": roles, "mechanisms": mechanisms, "$db": "admin" },
    );
    "authentication = 'token-optional'\n".clone_into(&mut scene.options.listener);
    scene.options.tables += "[[policy.rule]]\nname = 'others'\naction = 'allow'\nto = [{ commands = ['find', \
                             'connectionStatus', 'insert'] }]\n";
    Some(scene)
}

fn users(connection: &mut Connection) -> String {
    let status = connection.run(&doc! { "connectionStatus": 1, "$db": "admin" }).unwrap();
    let users = status.get_document("authInfo").unwrap().get_array("authenticatedUsers").unwrap();
    let name = |user: &bson::Bson| user.as_document().unwrap().get_str("user").unwrap().to_owned();
    users.iter().map(name).collect::<Vec<_>>().join(" ")
}

fn uri(gateway: &Gateway, password: &str) -> String {
    format!("mongodb://alice:{password}@{}/?directConnection=true", gateway.address())
}

/// The first message of Alice's authentication, or one that mongod cannot read.
fn scram(is_readable: bool) -> Document {
    let payload = if is_readable { &b"n,,n=alice,r=c2VjcmV0"[..] } else { b"" };
    let payload = Binary { subtype: BinarySubtype::Generic, bytes: payload.to_vec() };
    doc! { "saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": payload, "$db": "admin" }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_a_password_is_its_own_user_beside_clients_with_tokens() {
    for mode in ["off", "session", "request"] {
        let Some(scene) = scene(mode) else { return };
        let gateway = scene.start();
        // Two connections of the pool of each kind exist before.
        let mut plain = gateway.connect().unwrap();
        assert_eq!(users(&mut plain), subject("others"), "{mode}");
        let mut orders = gateway.connect().unwrap();
        authenticate(&mut orders, &scene.token("orders", 600));
        assert_eq!(users(&mut orders), subject("orders"), "{mode}");

        let client = Client::with_uri_str(uri(&gateway, PASSWORD)).await.unwrap();
        let shop = client.database("shop");
        assert_eq!(shop.collection::<Document>("orders").find_one(doc! {}).await.unwrap(), None);
        let refused = shop.collection("orders").insert_one(doc! {}).await.unwrap_err();
        assert!(refused.to_string().contains("not authorized"), "{refused}");
        let status = client.database("admin").run_command(doc! { "connectionStatus": 1 }).await.unwrap();
        assert!(status.to_string().contains("alice") && !status.to_string().contains("CN="), "{mode}: {status}");
        client.shutdown().immediate(true).await;
        let is_alice = |event: &Value| event["message"] == "connection closed" && event["user"] == "alice";
        let line = gateway.wait_for_log(LOG_TIMEOUT, is_alice).unwrap();
        assert_eq!(line["principal"], Value::Null, "{line}");
        // The same driver with the same metadata, and without a password.
        let without = format!("mongodb://{}/?directConnection=true", gateway.address());
        let client = Client::with_uri_str(without).await.unwrap();
        let status = client.database("admin").run_command(doc! { "connectionStatus": 1 }).await.unwrap();
        let is_others = status.to_string().contains(&subject("others")) && !status.to_string().contains("alice");
        assert!(is_others, "{mode}: {status}");

        let client = Client::with_uri_str(uri(&gateway, "wrong")).await.unwrap();
        let refused = client.database("shop").collection::<Document>("orders").find_one(doc! {}).await.unwrap_err();
        assert!(refused.to_string().contains("Authentication failed"), "{refused}");

        // The others are who they were.
        assert_eq!(users(&mut plain), subject("others"), "{mode}");
        assert_eq!(users(&mut orders), subject("orders"), "{mode}");
        let mut fresh = gateway.connect().unwrap();
        assert_eq!(users(&mut fresh), subject("others"), "{mode}");
    }
}

#[test]
fn pymongo_with_a_password_finds_the_mechanism_of_its_user() {
    let Some(scene) = scene("session") else { return };
    let Some(python) = drivers::python() else { return };
    let gateway = scene.start();
    let script = drivers::scripts().join("account.py").display().to_string();
    let found = report("account.py", python, &[&script, &uri(&gateway, PASSWORD)], &scene.token_file("orders", 600));
    assert_eq!(found, json!({ "users": ["alice"], "orders": 0, "insert": { "code": 13 } }));
}

#[test]
fn a_client_that_begins_with_a_password_has_no_user_until_mongod_accepts_it() {
    for mode in ["off", "session", "request"] {
        let Some(scene) = scene(mode) else { return };
        let gateway = scene.start();
        let mut connection = gateway.connect().unwrap();
        // On a connection that has worked with the user of the gateway.
        assert_eq!(users(&mut connection), subject("others"));
        let reply = connection.run(&scram(true)).unwrap();
        assert!(!reply.get_bool("done").unwrap(), "{reply}");
        assert_eq!(users(&mut connection), "", "{mode}: the conversation has only begun");
        assert_eq!(code(&connection.command(&find()).unwrap()), 13);
        let reply = connection.command(&scram(false)).unwrap();
        assert_ne!(code(&reply), 0, "{reply}");
        assert_eq!(users(&mut connection), "", "{mode}");
        connection.command(&doc! { "logout": 1, "$db": "admin" }).unwrap();
        assert_eq!(users(&mut connection), "", "{mode}");
        // A token makes it that of a principal, and ends its own authentications.
        authenticate(&mut connection, &scene.token("reports", 600));
        assert_eq!(users(&mut connection), subject("reports"), "{mode}");
        assert_eq!(code(&connection.command(&scram(true)).unwrap()), 334);
        let other = connection.command(&sasl_start(&scene.token("orders", 600))).unwrap();
        assert_eq!(code(&other), 18, "{other}");
        connection.run(&find()).unwrap();

        // The hello that comes before a password.
        let mut hello = doc! { "hello": 1, "saslSupportedMechs": "admin.alice", "$db": "admin" };
        let mut connection = gateway.connect().unwrap();
        let reply = connection.run(&hello).unwrap();
        assert_eq!(reply.get_array("saslSupportedMechs").unwrap().len(), 1, "{reply}");
        assert_eq!(users(&mut connection), "", "{mode}");
        // mongod sees the certificate of the gateway on this connection, which is not that of the client.
        let x509 = doc! { "authenticate": 1, "mechanism": "MONGODB-X509", "$db": "$external" };
        assert_eq!(code(&connection.command(&x509).unwrap()), 334);
        let inner = doc! { "authenticate": 1, "mechanism": "MONGODB-X509", "db": "$external" };
        let speculative = doc! { "hello": 1, "speculativeAuthenticate": inner, "$db": "admin" };
        let reply = connection.run(&speculative).unwrap();
        assert!(reply.get("speculativeAuthenticate").is_none(), "{reply}");
        assert_eq!(users(&mut connection), "", "{mode}");
        drop(connection);
        hello.insert("speculativeAuthenticate", {
            let mut inner = scram(true);
            inner.remove("$db");
            inner.insert("db", "admin");
            inner
        });
        let mut connection = gateway.connect().unwrap();
        let reply = connection.run(&hello).unwrap();
        assert!(!reply.get_document("speculativeAuthenticate").unwrap().get_bool("done").unwrap(), "{reply}");
        assert_eq!(users(&mut connection), "", "{mode}");

        // A certificate is no password: the gateway has authenticated with its own.
        let mut connection = gateway.connect().unwrap();
        let x509 = doc! { "authenticate": 1, "mechanism": "MONGODB-X509", "$db": "$external" };
        connection.run(&x509).unwrap();
        assert_eq!(users(&mut connection), subject("others"), "{mode}");
    }
}
