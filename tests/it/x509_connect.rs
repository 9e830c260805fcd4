//! MongoDB users without passwords, with a single mongod with access control: the gateway authenticates each upstream
//! connection with the certificate of the caller's credential.

use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;
use mongodb::error::{Error, ErrorKind};
use serde_json::Value;

use crate::kit::certificates::{First, Issued, Usage, Wanted};
use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::{Mongod, MongodOptions};
use crate::kit::raw::{Connection, body_section, op_msg, op_query};
use crate::kit::replica_set::{MemberOptions, ReplicaSet, SetOptions, Users};
use crate::kit::secret::{Content, Secret};
use crate::kit::waiting::{until, until_steady};
use crate::reports::{LOG_TIMEOUT, is_at_least_one, is_zero};

const AUTHENTICATION: &str = "[upstream.test.authentication]\nmechanism = \"MONGODB-X509\"\n";
const CART: &str = "cluster.local/ns/shop/sa/cart";
const TILL: &str = "cluster.local/ns/shop/sa/till";

/// A mongod with access control and `more` arguments; the kit's own client certificate is the administrator.
pub fn mongod_with_auth(more: &[&str]) -> Option<Mongod> {
    let arguments = ["--auth"].iter().chain(more).map(|&argument| argument.to_owned()).collect();
    let mongod = Mongod::start(MongodOptions { arguments, ..MongodOptions::default() })?;
    // The localhost exception allows creating the first user without authentication.
    let root =
        doc! { "createUser": subject("client"), "roles": [{ "role": "root", "db": "admin" }], "$db": "$external" };
    mongod.run(&root).unwrap();
    Some(mongod)
}

pub fn subject(common_name: &str) -> String {
    format!("CN={common_name},OU=clients,O=mongate kit")
}

/// Runs a command as the administrator, on a direct connection.
pub fn as_root(mongod: &Mongod, command: &Document) -> Document {
    let mut connection = mongod.connect().unwrap();
    connection.run(&doc! { "authenticate": 1, "mechanism": "MONGODB-X509", "$db": "$external" }).unwrap();
    connection.run(command).unwrap()
}

pub fn create_user(mongod: &Mongod, common_name: &str, role: &str) {
    let roles = if role.is_empty() { vec![] } else { vec![doc! { "role": role, "db": "shop" }] };
    as_root(mongod, &doc! { "createUser": subject(common_name), "roles": roles, "$db": "$external" });
}

pub fn certificate(mongod: &Mongod, common_name: &'static str) -> Issued {
    mongod.pki.issue(common_name, &Wanted { common_name, ..Wanted::default() }).unwrap()
}

/// `[[upstream.test.credential]]` for one principal.
pub fn credential(issued: &Issued, principal: &str) -> String {
    let file = issued.combined(First::Certificate).unwrap();
    format!("[[upstream.test.credential]]\nprincipals = ['{principal}']\ncertificate_file = '{}'\n", file.display())
}

/// A further listener, whose clients have this principal.
fn listener(name: &str, principal: &str) -> String {
    format!("[listener.{name}]\naddress = '127.0.0.1:0'\nupstream = 'test'\nprincipal = '{principal}'\n")
}

/// A gateway whose client certificate has this common name.
fn options(mongod: &Mongod, common_name: &'static str) -> GatewayOptions {
    let mut options = GatewayOptions { tables: AUTHENTICATION.to_owned(), ..GatewayOptions::to(mongod) };
    options.credentials(&mongod.pki, &certificate(mongod, common_name));
    options
}

fn users_of(status: &Document) -> Vec<String> {
    let users = status.get_document("authInfo").unwrap().get_array("authenticatedUsers").unwrap();
    let text = |user: &Document| format!("{}@{}", user.get_str("user").unwrap(), user.get_str("db").unwrap());
    users.iter().map(|user| text(user.as_document().unwrap())).collect()
}

/// Returns the authenticated users of this connection.
fn users_on(connection: &mut Connection) -> Vec<String> {
    users_of(&connection.run(&doc! { "connectionStatus": 1, "$db": "admin" }).unwrap())
}

fn user(common_name: &str) -> Vec<String> {
    vec![format!("{}@$external", subject(common_name))]
}

fn status(gateway: &Gateway) -> Value {
    let status: Value = serde_json::from_str(&gateway.get("/status").unwrap().body).unwrap();
    status["upstreams"][0].clone()
}

fn readyz(gateway: &Gateway) -> (u16, String) {
    let answer = gateway.get("/readyz").unwrap();
    (answer.status, answer.body)
}

fn code_of(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(error) => Some(error.code),
        ErrorKind::Write(mongodb::error::WriteFailure::WriteError(error)) => Some(error.code),
        _ => None,
    }
}

async fn client(address: &str) -> Client {
    Client::with_uri_str(format!("mongodb://{address}/?serverSelectionTimeoutMS=15000")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_caller_is_the_user_of_its_credential_and_has_its_roles() {
    let Some(mongod) = mongod_with_auth(&[]) else { return };
    for (name, role) in [("cart", "readWrite"), ("till", "read"), ("others", "")] {
        create_user(&mongod, name, role);
    }
    let mut options = options(&mongod, "others");
    for (name, principal) in [("cart", CART), ("till", TILL)] {
        options.tables += &credential(&certificate(&mongod, name), principal);
        options.tables += &listener(name, principal);
    }
    let gateway = Gateway::start(&options);
    let address = |name: &str| gateway.address_of(name).unwrap();

    let (cart, till, others) =
        (client(&address("cart")).await, client(&address("till")).await, client(gateway.address()).await);
    let [cart_orders, till_orders, others_orders] =
        [&cart, &till, &others].map(|client| client.database("shop").collection::<Document>("orders"));
    cart_orders.insert_one(doc! { "_id": 1 }).await.unwrap();
    assert_eq!(till_orders.find_one(doc! {}).await.unwrap(), Some(doc! { "_id": 1 }));
    for refused in [
        till_orders.insert_one(doc! { "_id": 2 }).await.unwrap_err(),
        others_orders.find_one(doc! {}).await.unwrap_err(),
        cart.database("other").collection::<Document>("orders").find_one(doc! {}).await.unwrap_err(),
    ] {
        assert_eq!(code_of(&refused), Some(13), "{refused}");
    }
    for (client, name) in [(&cart, "cart"), (&till, "till"), (&others, "others")] {
        let status = client.database("admin").run_command(doc! { "connectionStatus": 1 }).await.unwrap();
        assert_eq!(users_of(&status), user(name));
    }
    // The log line of a closed connection names its user.
    for client in [cart, till, others] {
        client.shutdown().immediate(true).await;
    }
    for name in ["cart", "till"] {
        // A driver's monitoring connections use no upstream connection with a pool, and have no user then.
        let line = |event: &Value| {
            event["message"] == "connection closed" && event["listener"] == name && !event["user"].is_null()
        };
        let line = gateway.wait_for_log(LOG_TIMEOUT, line).unwrap();
        assert_eq!((&line["user"], &line["user_source"]), (&subject(name).into(), &"gateway".into()), "{line}");
    }
    let upstream = status(&gateway);
    assert_eq!(upstream["user"], serde_json::json!({ "name": subject("others"), "roles": [] }));
    let roles = |credential: usize| upstream["credentials"][credential]["user"]["roles"].clone();
    assert_eq!((roles(0), roles(1)), (serde_json::json!(["readWrite@shop"]), serde_json::json!(["read@shop"])));
    assert_eq!(readyz(&gateway).0, 200);
}

#[test]
fn a_caller_cannot_change_its_user() {
    let Some(mongod) = mongod_with_auth(&[]) else { return };
    create_user(&mongod, "cart", "readWrite");
    as_root(&mongod, &doc! { "createUser": "app", "pwd": "secret", "roles": ["root"], "$db": "admin" });
    let gateway = Gateway::start(&options(&mongod, "cart"));
    let mut connection = gateway.connect().unwrap();
    connection.run(&doc! { "hello": 1, "$db": "admin" }).unwrap();
    let external =
        |name: &str| doc! { name: 1, "mechanism": "MONGODB-X509", "user": subject("client"), "$db": "$external" };
    for attempt in [
        external("authenticate"),
        doc! { "logout": 1, "$db": "$external" },
        doc! { "saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": "n,,n=app,r=abc", "$db": "admin" },
        external("authenticate"),
    ] {
        connection.command(&attempt).unwrap();
        assert_eq!(users_on(&mut connection), user("cart"), "after {attempt}");
    }
}

#[test]
fn a_missing_user_is_reported_everywhere_until_it_is_created() {
    let Some(mongod) = mongod_with_auth(&[]) else { return };
    for warm in ["", "warm_connections = 0\n"] {
        let name: &'static str = if warm.is_empty() { "late" } else { "later" };
        let mut options = options(&mongod, name);
        options.upstream = warm.to_owned();
        let (code, said) = options.check(&[]).unwrap();
        assert_eq!(code, Some(69), "{said}");
        assert!(said.contains("error   authenticated") && said.contains("createUser: \"CN=late"), "{said}");
        let gateway = Gateway::start(&options);

        let failed = |event: &Value| event["reason"] == "authentication_failed";
        let line = gateway.wait_for_log(LOG_TIMEOUT, failed).unwrap();
        let remedy = line["remedy"].as_str().unwrap();
        let command = format!("runCommand({{createUser: \"{}\", roles:", subject(name));
        assert!(remedy.contains(&command), "{line}");
        let answer = gateway.connect().unwrap().command(&doc! { "hello": 1, "$db": "admin" }).unwrap();
        let sentence = format!("did not authenticate upstream test as {}: Could not find user", subject(name));
        assert_eq!(answer.get_i32("code").unwrap(), 18);
        assert!(answer.get_str("errmsg").unwrap().contains(&sentence), "{answer}");
        let labels = [("upstream", "test"), ("outcome", "authentication_failed")];
        assert!(is_at_least_one(gateway.metric("mongate_upstream_handshakes_total", &labels)));
        let (code, text) = until("/readyz fails", || Some(readyz(&gateway)).filter(|(code, _)| *code == 503));
        assert!(text.contains(&sentence), "{code} {text}");
        assert!(status(&gateway)["user"]["problem"].as_str().is_some_and(|problem| problem.contains(&sentence)));

        create_user(&mongod, name, "read");
        // A client can connect before the background check has noticed the user.
        assert_eq!(users_on(&mut gateway.connect().unwrap()), user(name));
        until("/readyz succeeds", || (readyz(&gateway).0 == 200).then_some(()));
        let (code, said) = options.check(&[]).unwrap();
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(&format!("as {}", subject(name))) && said.contains("with roles read@shop"), "{said}");
    }
}

#[test]
fn a_missing_user_does_not_affect_other_callers() {
    let Some(mongod) = mongod_with_auth(&[]) else { return };
    create_user(&mongod, "here", "read");
    let mut options = options(&mongod, "here");
    options.tables += &credential(&certificate(&mongod, "missing"), CART);
    options.tables += &listener("cart", CART);
    let (code, said) = options.check(&[]).unwrap();
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains(&format!("files of credential 1, for {CART}")), "{said}");
    assert!(said.contains("with credential 1") && said.contains("createUser: \"CN=missing,"), "{said}");
    let gateway = Gateway::start(&options);
    gateway.wait_for_log(LOG_TIMEOUT, |event| event["reason"] == "authentication_failed").unwrap();
    assert_eq!(users_on(&mut gateway.connect().unwrap()), user("here"));
    let mut cart = Connection::plain(&gateway.address_of("cart").unwrap()).unwrap();
    assert_eq!(cart.command(&doc! { "hello": 1, "$db": "admin" }).unwrap().get_i32("code").unwrap(), 18);
    let (code, text) =
        until("the gateway is ready except for one user", || Some(readyz(&gateway)).filter(|(code, _)| *code == 200));
    assert!(text.contains("WARN") && text.contains("CN=missing,OU=clients"), "{code} {text}");
}

#[test]
fn a_cluster_member_certificate_is_rejected_with_a_reason() {
    for more in [&["--clusterAuthMode", "x509"][..], &[]] {
        let Some(mongod) = mongod_with_auth(more) else { return };
        let member = Wanted { common_name: "gateway", usage: Usage::Both, ..Wanted::default() };
        let member = mongod.pki.issue("member", &member).unwrap();
        let mut options = GatewayOptions { tables: AUTHENTICATION.to_owned(), ..GatewayOptions::to(&mongod) };
        options.credentials(&mongod.pki, &member);
        let (code, said) = options.check(&[]).unwrap();
        assert_eq!(code, Some(69), "{said}");
        assert!(said.contains("for that of a member of its cluster, which has all privileges"), "{said}");
        let gateway = Gateway::start(&options);
        let line = gateway.wait_for_log(LOG_TIMEOUT, |event| event["reason"] == "cluster_member").unwrap();
        assert!(line["remedy"].as_str().unwrap().contains("whose O, OU or DC differs"), "{line}");
        for command in [doc! { "hello": 1, "$db": "admin" }, doc! { "find": "system.users", "$db": "admin" }] {
            let answer = gateway.connect().unwrap().command(&command).unwrap();
            assert_eq!(answer.get_i32("code").unwrap(), 18, "{answer}");
            assert!(answer.get_str("errmsg").unwrap().contains("member of its cluster"), "{answer}");
        }
        assert!(is_zero(gateway.metric("mongate_upstream_warm_connections", &[])));
        assert_eq!(readyz(&gateway).0, 503);
    }
}

#[test]
fn after_a_reload_new_connections_are_the_new_user_and_old_spare_connections_are_closed() {
    let Some(mongod) = mongod_with_auth(&[]) else { return };
    let [first, second] = ["first", "second"].map(|name| {
        create_user(&mongod, name, "read");
        certificate(&mongod, name)
    });
    let unknown = certificate(&mongod, "unknown");
    let secret = Secret::plain(&Content::of(&mongod.pki, &first)).unwrap();
    let mut options = GatewayOptions { tables: AUTHENTICATION.to_owned(), ..GatewayOptions::to(&mongod) };
    // With a pool the client gets another connection, and an error with the reason, at its next command.
    let own = "pool.mode = 'off'\n";
    options.upstream = format!("warm_connections = 3\ncertificate_recycle_after = '2s'\n{own}");
    options.upstream_tls = secret.configuration();
    let gateway = Gateway::start(&options);
    let spares = |count: f64| count > 2.5;
    gateway.await_metric("mongate_upstream_warm_connections", &[], spares);
    let mut old = gateway.connect().unwrap();
    old.run(&doc! { "hello": 1, "$db": "admin" }).unwrap();
    assert_eq!(users_on(&mut old), user("first"));

    // A certificate without a user in mongod does not end existing connections.
    secret.rename_over(&Content::of(&mongod.pki, &unknown)).unwrap();
    gateway.wait_for_log(LOG_TIMEOUT, |event| event["reason"] == "authentication_failed").unwrap();
    until("no spare connection of the old user is left", || {
        let answer = gateway.connect().unwrap().command(&doc! { "hello": 1, "$db": "admin" }).unwrap();
        (answer.get_i32("code").ok() == Some(18)).then_some(())
    });
    let seen = until_steady("the old connection outlives certificate_recycle_after", Duration::from_secs(4), || {
        users_on(&mut old)
    });
    assert_eq!(seen, user("first"));

    secret.rename_over(&Content::of(&mongod.pki, &second)).unwrap();
    until("new connections are the new user", || {
        let mut connection = gateway.connect().unwrap();
        let answer = connection.command(&doc! { "connectionStatus": 1, "$db": "admin" }).unwrap();
        (answer.get_i32("code").ok() != Some(18) && users_of(&answer) == user("second")).then_some(())
    });
    for _ in 0..8 {
        assert_eq!(users_on(&mut gateway.connect().unwrap()), user("second"));
    }
    gateway.await_metric("mongate_upstream_warm_connections", &[], spares);
    // A connection never changes its user. The gateway closes it after certificate_recycle_after.
    gateway.await_metric("mongate_upstream_recycled_total", &[("how", "closed")], is_at_least_one);
    assert!(is_zero(gateway.metric("mongate_upstream_recycled_total", &[("how", "moved")])));
    assert!(old.command(&doc! { "ping": 1, "$db": "admin" }).is_err());
}

#[test]
fn existing_connections_move_to_a_renewed_certificate_of_the_same_user() {
    let Some(mongod) = mongod_with_auth(&[]) else { return };
    create_user(&mongod, "same", "read");
    let [first, second] = ["same-1", "same-2"]
        .map(|stem| mongod.pki.issue(stem, &Wanted { common_name: "same", ..Wanted::default() }).unwrap());
    let secret = Secret::plain(&Content::of(&mongod.pki, &first)).unwrap();
    let mut options = GatewayOptions { tables: AUTHENTICATION.to_owned(), ..GatewayOptions::to(&mongod) };
    // With a pool the gateway answers hello itself.
    options.upstream = "certificate_recycle_after = '2s'\npool.mode = 'off'\n".to_owned();
    options.upstream_tls = secret.configuration();
    let gateway = Gateway::start(&options);
    let mut connection = gateway.connect().unwrap();
    connection.run(&doc! { "hello": 1, "$db": "admin" }).unwrap();
    let id = |connection: &mut Connection| {
        connection.run(&doc! { "hello": 1, "$db": "admin" }).unwrap().get_i32("connectionId").unwrap()
    };
    let before = id(&mut connection);
    secret.rename_over(&Content::of(&mongod.pki, &second)).unwrap();
    gateway.await_metric("mongate_upstream_recycled_total", &[("how", "moved")], is_at_least_one);
    assert_ne!(id(&mut connection), before);
    assert_eq!(users_on(&mut connection), user("same"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_line_names_the_user_of_a_client_that_authenticates_itself() {
    let Some(mongod) = mongod_with_auth(&[]) else { return };
    let roles = vec![doc! { "role": "read", "db": "shop" }];
    as_root(&mongod, &doc! { "createUser": "alice", "pwd": "secret-of-alice", "roles": roles, "$db": "admin" });
    let gateway = Gateway::start(&GatewayOptions { log_level: Some("debug"), ..GatewayOptions::to(&mongod) });
    let client = client(&gateway.address().replacen("127.", "alice:secret-of-alice@127.", 1)).await;
    assert_eq!(client.database("shop").collection::<Document>("orders").find_one(doc! {}).await.unwrap(), None);
    client.shutdown().immediate(true).await;
    let line = |name: &'static str| {
        let is_it = move |event: &Value| event["message"] == "connection closed" && event["user"] == name;
        gateway.wait_for_log(LOG_TIMEOUT, is_it).unwrap()
    };
    let alice = line("alice");
    let fields = ["user_database", "user_mechanism", "user_source"].map(|field| alice[field].as_str().unwrap());
    assert_eq!(fields, ["admin", "SCRAM-SHA-256", "client"], "{alice}");

    // In small pieces, and with a control character that would move a terminal's cursor.
    let payload = bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: b"n,,n=bob\n,r=abc".to_vec() };
    let start = doc! { "saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": payload, "$db": "admin" };
    let mut connection = gateway.connect().unwrap();
    connection.run(&doc! { "hello": 1, "$db": "admin" }).unwrap();
    let message = op_msg(5, 0, &[body_section(&start)]);
    for piece in message.chunks(11) {
        connection.send(piece).unwrap();
    }
    connection.reply().unwrap();
    drop(connection);
    assert_eq!(line("bob\\u{a}")["user_source"], "client");

    let plain =
        bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: b"\0carol\0secret-of-carol".to_vec() };
    let start = doc! { "saslStart": 1, "mechanism": "PLAIN", "payload": plain, "$db": "$external" };
    let mut connection = gateway.connect().unwrap();
    connection.command(&start).unwrap();
    drop(connection);
    assert_eq!(line("carol")["user_mechanism"], "PLAIN");

    // As old drivers did.
    let old = doc! { "authenticate": 1, "mechanism": "MONGODB-X509", "user": "CN=dave", "$db": "$external" };
    let mut connection = gateway.connect().unwrap();
    connection.send(&op_query(6, "$external.$cmd", -1, &old)).unwrap();
    connection.reply().unwrap();
    drop(connection);
    assert_eq!(line("CN=dave")["user_mechanism"], "MONGODB-X509");
    assert!(!gateway.log().iter().any(|event| event.to_string().contains("secret-of")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_authenticates_to_all_members_except_arbiters() {
    let members = vec![MemberOptions::default(), MemberOptions::default(), MemberOptions::arbiter()];
    let Some(set) = ReplicaSet::start(SetOptions { members, users: Users::KeyFile, ..SetOptions::default() }) else {
        return;
    };
    set.create_user("client", &["readWrite@shop"]).unwrap();
    let arbiter = &set.members()[2];
    let of_set = GatewayOptions { tables: AUTHENTICATION.to_owned(), ..GatewayOptions::to_set(&set) };
    let gateway = Gateway::start(&of_set);
    let addresses = gateway.await_members(&set.members());
    until("the gateway is ready", || (readyz(&gateway).0 == 200).then_some(()));
    let uri = format!("{}/?replicaSet={}&serverSelectionTimeoutMS=15000", gateway.uri(), set.name());
    let client = Client::with_uri_str(uri).await.unwrap();
    let orders = client.database("shop").collection::<Document>("orders");
    orders.insert_one(doc! { "_id": 1 }).await.unwrap();
    let status = client.database("admin").run_command(doc! { "connectionStatus": 1 }).await.unwrap();
    assert_eq!(users_of(&status), user("client"));

    for (member, address) in addresses {
        let mut connection = Connection::plain(&address).unwrap();
        let hello = connection.run(&doc! { "hello": 1, "$db": "admin" }).unwrap();
        let is_arbiter = member == *arbiter;
        assert_eq!(hello.get_bool("arbiterOnly").unwrap_or(false), is_arbiter, "{hello}");
        let expected = if is_arbiter { Vec::new() } else { user("client") };
        assert_eq!(users_on(&mut connection), expected, "{member}");
    }
    assert!(is_zero(gateway.metric("mongate_upstream_handshakes_total", &[("outcome", "authentication_failed")])));
    assert!(!readyz(&gateway).1.contains("WARN"), "{}", readyz(&gateway).1);
    assert!(!set.log(arbiter).contains("MONGODB-X509"), "the gateway does not authenticate to an arbiter");

    // The same if the only server is an arbiter.
    let address = arbiter.clone();
    let gateway = Gateway::start(&GatewayOptions {
        upstream_address: address,
        upstream_members: Vec::new(),
        upstream: String::new(),
        ..of_set
    });
    let answered = until("the gateway knows that the server is an arbiter", || {
        let answer = gateway.connect().unwrap().command(&doc! { "hello": 1, "$db": "admin" }).unwrap();
        answer.get_bool("arbiterOnly").ok()
    });
    assert!(answered);
}
