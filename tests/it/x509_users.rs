//! Two callers in front of a replica set with access control. On every member, each is the MongoDB user of the
//! certificate that the gateway shows for it, has only that user's roles, and cannot become another user.

use std::time::Duration;

use bson::{Document, doc};
use futures::TryStreamExt;
use mongodb::Client;
use mongodb::error::{ErrorKind, WriteFailure};
use mongodb::options::{ClientOptions, Credential, ReadPreference, SelectionCriteria, TlsOptions};
use serde_json::Value;

use crate::kit::certificates::{First, Issued, Pki, Usage, Wanted};
use crate::kit::drivers;
use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::raw;
use crate::kit::raw::{Connection, body_section, op_msg, op_query, sequence_section};
use crate::kit::replica_set::{MemberOptions, ReplicaSet, SetOptions, Users, subject_of};
use crate::kit::secret::{Content, Secret};
use crate::replica_balanced;
use crate::reports::{LOG_TIMEOUT, is_at_least_one};
use crate::writers;
use crate::writers::Lane;

const CART: &str = "cluster.local/ns/shop/sa/cart";
const TILL: &str = "cluster.local/ns/shop/sa/till";
const AUTHENTICATION: &str = "[upstream.test.authentication]\nmechanism = 'MONGODB-X509'\n";
/// Error text for a client that sends credentials of its own.
const REMOVE: &str = "the gateway authenticates; remove the credentials from the URI";

/// A set with access control, whose members authenticate each other by certificates. It has the users `cart`, `till`
/// and `others`, which has no roles.
fn set_with_auth() -> Option<ReplicaSet> {
    let members = vec![MemberOptions::default(), MemberOptions::default(), MemberOptions::arbiter()];
    let set = ReplicaSet::start(SetOptions { members, users: Users::ClusterCertificates, ..SetOptions::default() })?;
    for (name, roles) in [("cart", &["readWrite@shop"][..]), ("till", &["read@shop"]), ("others", &[])] {
        set.create_user(name, roles).unwrap();
    }
    // A password would make a client this user, if the gateway let it authenticate.
    let app = doc! { "createUser": "app", "pwd": "secret", "roles": ["root"], "$db": "admin" };
    set.run_on_primary(&app).unwrap();
    Some(set)
}

fn certificate(set: &ReplicaSet, common_name: &'static str) -> Issued {
    set.pki.issue(common_name, &Wanted { common_name, ..Wanted::default() }).unwrap()
}

fn credential(principal: &str, certificate: &str) -> String {
    format!("[[upstream.test.credential]]\nprincipals = ['{principal}']\n{certificate}")
}

fn listener(name: &str, principal: &str) -> String {
    format!("[listener.{name}]\naddress = '127.0.0.1:0'\nupstream = 'test'\nprincipal = '{principal}'\n")
}

/// A credential for each of the two callers and one for all others, and listeners `cart` and `till` for the two
/// callers.
fn options(set: &ReplicaSet) -> GatewayOptions {
    let mut options = GatewayOptions {
        top: "trust_domain = 'cluster.local'\n".to_owned(),
        tables: AUTHENTICATION.to_owned(),
        ..GatewayOptions::to_set(set)
    };
    options.credentials(&set.pki, &certificate(set, "others"));
    for (name, principal) in [("cart", CART), ("till", TILL)] {
        let file = certificate(set, name).combined(First::Certificate).unwrap();
        options.tables += &credential(principal, &format!("certificate_file = '{}'\n", file.display()));
        options.tables += &listener(name, principal);
    }
    options
}

fn set_uri(gateway: &Gateway, listener: &str) -> String {
    format!("mongodb://{}/?replicaSet=rs0", gateway.address_of(listener).unwrap())
}

fn users_on(connection: &mut Connection) -> Vec<String> {
    let status = connection.run(&doc! { "connectionStatus": 1, "$db": "admin" }).unwrap();
    let users = status.get_document("authInfo").unwrap().get_array("authenticatedUsers").unwrap();
    let text = |user: &Document| format!("{}@{}", user.get_str("user").unwrap(), user.get_str("db").unwrap());
    users.iter().map(|user| text(user.as_document().unwrap())).collect()
}

fn user(common_name: &str) -> Vec<String> {
    vec![format!("{}@$external", subject_of(common_name))]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_caller_has_the_roles_of_its_user_on_every_member() {
    let Some(set) = set_with_auth() else { return };
    let gateway = Gateway::start(&options(&set));
    gateway.await_members(&set.members());
    let arbiter = set.members().remove(2);
    for listener in ["test", "cart", "till"] {
        let expected = if listener == "test" { "others" } else { listener };
        for (member, address) in gateway.members_at(listener).unwrap() {
            let mut connection = Connection::plain(&address).unwrap();
            let hello = connection.run(&doc! { "hello": 1, "$db": "admin" }).unwrap();
            assert_eq!(hello.get_str("me").unwrap(), address);
            // An arbiter has no users.
            let users = if member == arbiter { Vec::new() } else { user(expected) };
            assert_eq!(users_on(&mut connection), users, "{listener} on {member}");
        }
    }
    let [cart, till, others] = [set_uri(&gateway, "cart"), set_uri(&gateway, "till"), gateway.set_uri("rs0")];
    let [cart, till, others] = [client(&cart).await, client(&till).await, client(&others).await];
    let orders = |client: &Client| client.database("shop").collection::<Document>("orders");
    orders(&cart).insert_many((0..20).map(|id| doc! { "_id": id })).await.unwrap();
    let from_secondaries = SelectionCriteria::ReadPreference(ReadPreference::Secondary { options: None });
    let read = orders(&till).find(doc! {}).batch_size(5).selection_criteria(from_secondaries).await.unwrap();
    assert_eq!(read.try_collect::<Vec<_>>().await.unwrap().len(), 20);
    for (attempt, refused) in [
        ("till writes", code_of(orders(&till).insert_one(doc! {}).await)),
        ("till reads elsewhere", code_of(till.database("other").collection::<Document>("c").find_one(doc! {}).await)),
        ("cart reads elsewhere", code_of(cart.database("other").collection::<Document>("c").find_one(doc! {}).await)),
        (
            "cart creates users",
            code_of(cart.database("shop").run_command(doc! { "createUser": "x", "pwd": "x", "roles": [] }).await),
        ),
        ("others read", code_of(orders(&others).find_one(doc! {}).await)),
    ] {
        assert_eq!(refused, Some(13), "{attempt}");
    }
    // The roles are the same after an election.
    set.step_down().unwrap();
    orders(&cart).insert_one(doc! { "_id": 20 }).await.unwrap();
    assert_eq!(code_of(orders(&till).insert_one(doc! {}).await), Some(13));
    set.assert_no_strangers();
}

/// A client certificate identifies the caller to the gateway. The gateway selects the credential, and so the MongoDB
/// user.
#[test]
fn the_clients_mesh_certificate_selects_the_credential() {
    let Some(set) = set_with_auth() else { return };
    let mesh = Pki::new().unwrap();
    let server = mesh.issue("gateway", &Wanted::server()).unwrap().combined(First::Certificate).unwrap();
    let mut options = options(&set);
    let listener = format!(
        "[listener.mesh]\naddress = '127.0.0.1:0'\nupstream = 'test'\nmode = 'strict'\n\
         [listener.mesh.tls]\ncertificate_file = '{}'\nca_file = '{}'\n",
        server.display(),
        mesh.ca_file().display()
    );
    options.tables += &listener;
    let gateway = Gateway::start(&options);
    gateway.await_members(&set.members());
    let address = gateway.members_at("mesh").unwrap().remove(&set.primary()).unwrap();
    for (principal, name) in [(CART, "cart"), (TILL, "till"), ("cluster.local/ns/shop/sa/nobody", "others")] {
        let uri: &'static str = format!("spiffe://{principal}").leak();
        // The common name of a more powerful user has no effect.
        let wanted = Wanted { common_name: "operator", names: vec![uri], ..Wanted::default() };
        let workload = mesh.issue(name, &wanted).unwrap();
        let mut connection = Connection::tls(&address, &mesh, &workload).unwrap();
        connection.run(&doc! { "hello": 1, "$db": "admin" }).unwrap();
        assert_eq!(users_on(&mut connection), user(name), "{principal}");
    }
}

/// The gateway replies to every form of authentication that a client tries, and the client stays the same user.
#[test]
fn no_client_can_become_another_user() {
    let Some(set) = set_with_auth() else { return };
    let gateway = Gateway::start(&options(&set));
    let primary = set.primary();
    gateway.await_members(&set.members());
    let address = gateway.members_at("till").unwrap().remove(&primary).unwrap();
    let x509 = doc! { "authenticate": 1, "mechanism": "MONGODB-X509", "user": subject_of("operator") };
    let scram = doc! { "saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": payload("app"), "autoAuthorize": 1 };
    let speculative = |inner: &Document, db: &str| {
        let mut inner = inner.clone();
        inner.insert("db", db);
        doc! {
            "hello": 1, "speculativeAuthenticate": inner, "saslSupportedMechs": "admin.app",
            "internalClient": { "minWireVersion": 0, "maxWireVersion": 17 }, "$db": "admin"
        }
    };
    let on = |command: &Document, db: &str| {
        let mut command = command.clone();
        command.insert("$db", db);
        command
    };
    let msg = |command: &Document| op_msg(5, 0, &[body_section(command)]);
    let attempts: Vec<(&str, Vec<u8>)> = vec![
        ("hello with a certificate", msg(&speculative(&x509, "$external"))),
        ("hello with a password", msg(&speculative(&scram, "admin"))),
        ("hello in OP_QUERY", op_query(5, "admin.$cmd", -1, &speculative(&x509, "$external"))),
        ("hello wrapped in $query", op_query(5, "admin.$cmd", -1, &doc! { "$query": speculative(&x509, "$external") })),
        ("authenticate", msg(&on(&x509, "$external"))),
        ("authenticate in OP_QUERY", op_query(5, "$external.$cmd", -1, &x509)),
        ("authenticate wrapped in query", op_query(5, "$external.$cmd", -1, &doc! { "query": &x509 })),
        ("authenticate with a checksum", raw::op_msg_with_checksum(5, 0, &[body_section(&on(&x509, "$external"))])),
        (
            "authenticate after a sequence",
            op_msg(5, 0, &[sequence_section("x", &[doc! { "_id": 1 }]), body_section(&on(&x509, "$external"))]),
        ),
        ("saslStart", msg(&on(&scram, "admin"))),
        ("saslStart in OP_QUERY", op_query(5, "admin.$cmd", -1, &scram)),
        (
            "saslContinue",
            msg(&doc! { "saslContinue": 1, "conversationId": 1, "payload": payload("x"), "$db": "admin" }),
        ),
        ("getnonce", msg(&doc! { "getnonce": 1, "$db": "admin" })),
        ("logout", msg(&doc! { "logout": 1, "$db": "$external" })),
        (
            "logout, and authenticate",
            [msg(&doc! { "logout": 1, "$db": "$external" }), msg(&on(&x509, "$external"))].concat(),
        ),
        ("saslStart, twice", [msg(&on(&scram, "admin")), msg(&on(&scram, "admin"))].concat()),
    ];
    for (attempt, bytes) in attempts {
        let mut connection = Connection::plain(&address).unwrap();
        connection.send(&bytes).unwrap();
        for _ in 0..if attempt.contains(", ") { 2 } else { 1 } {
            let reply = connection.reply().unwrap().document;
            for field in ["speculativeAuthenticate", "saslSupportedMechs", "conversationId", "nonce"] {
                assert!(!reply.contains_key(field), "{attempt}: {reply}");
            }
        }
        assert_eq!(users_on(&mut connection), user("till"), "after {attempt}");
        let insert = doc! { "insert": "c", "documents": [{}], "$db": "shop" };
        assert_eq!(connection.command(&insert).unwrap().get_i32("code").unwrap(), 13, "after {attempt}");
    }
    // A request with moreToCome gets no reply, and it has no effect either.
    let mut connection = Connection::plain(&address).unwrap();
    connection.send(&op_msg(5, raw::MORE_TO_COME, &[body_section(&on(&x509, "$external"))])).unwrap();
    assert_eq!(users_on(&mut connection), user("till"));
    // No attempt has reached mongod.
    let log = set.log(&primary);
    let attempted =
        |line: &&str| line.contains("Authentication") && (line.contains("\"app\"") || line.contains("SCRAM"));
    assert_eq!(log.lines().find(attempted), None);
}

/// A password in a driver's URI is refused with an error that names the remedy. `MONGODB-X509` is not needed, and does
/// no harm.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_in_a_uri_is_refused_and_x509_has_no_effect() {
    let Some(set) = set_with_auth() else { return };
    let gateway = Gateway::start(&options(&set));
    gateway.await_members(&set.members());
    let address = gateway.address_of("cart").unwrap();
    let uri = |user: &str, parameters: &str| format!("mongodb://{user}{address}/?replicaSet=rs0{parameters}");
    let refused = [
        uri("app:secret@", "&authSource=admin"),
        uri("app:secret@", "&authMechanism=SCRAM-SHA-1"),
        uri("app:secret@", "&authMechanism=SCRAM-SHA-256"),
        uri("app:secret@", "&authMechanism=PLAIN&authSource=$external"),
    ];
    let accepted = [uri("", ""), uri("", "&authMechanism=MONGODB-X509")];
    let arguments: Vec<_> = refused.iter().chain(&accepted).map(String::as_str).collect();
    for (name, command) in [("whoami.py", drivers::python()), ("whoami.mjs", drivers::node())] {
        let Some(command) = command else { continue };
        let output = replica_balanced::run(name, command, &arguments);
        let lines: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), arguments.len());
        for (uri, line) in arguments.iter().zip(&lines) {
            if accepted.iter().any(|accepted| accepted == uri) {
                assert_eq!(line["users"], serde_json::json!([subject_of("cart")]), "{name} {uri}: {line}");
            } else {
                assert!(line["message"].as_str().is_some_and(|text| text.contains(REMOVE)), "{name} {uri}: {line}");
                assert_eq!(line["code"], 18, "{name} {uri}: {line}");
            }
        }
    }
    for uri in &refused[..3] {
        let error = client(uri).await.database("admin").run_command(doc! { "connectionStatus": 1 }).await.unwrap_err();
        assert!(error.to_string().contains(REMOVE), "{uri}: {error}");
    }
    let mut x509 = ClientOptions::parse(&accepted[0]).await.unwrap();
    x509.credential = Some(Credential::builder().mechanism(mongodb::options::AuthMechanism::MongoDbX509).build());
    let x509 = Client::with_options(x509).unwrap();
    let status = x509.database("admin").run_command(doc! { "connectionStatus": 1 }).await.unwrap();
    assert!(status.to_string().contains(&subject_of("cart")), "{status}");
}

/// A caller's credential is renewed several times while the caller writes. No write fails, and every caller stays the
/// same user.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_reloaded_under_load_without_failures() {
    let Some(set) = set_with_auth() else { return };
    // The lane uses its own database.
    let role = doc! { "role": "readWrite", "db": "renewed" };
    let grant = doc! {
        "grantRolesToUser": subject_of("cart"), "roles": [role], "writeConcern": { "w": 2 }, "$db": "$external"
    };
    set.run_on_primary(&grant).unwrap();
    let issue = |number: usize| {
        let wanted = Wanted { common_name: "cart", ..Wanted::default() };
        Content::of(&set.pki, &set.pki.issue(&format!("cart-{number}"), &wanted).unwrap())
    };
    let secret = Secret::plain(&issue(0)).unwrap();
    let files = format!(
        "certificate_file = '{}'\nprivate_key_file = '{}'\n",
        secret.certificate_file().display(),
        secret.key_file().display()
    );
    let mut options = GatewayOptions { tables: AUTHENTICATION.to_owned(), ..GatewayOptions::to_set(&set) };
    options.upstream += "certificate_recycle_after = '1s'\n";
    options.credentials(&set.pki, &certificate(&set, "others"));
    options.tables += &credential(CART, &files);
    options.tables += &listener("cart", CART);
    let gateway = Gateway::start(&options);
    gateway.await_members(&set.members());
    // The first address may belong to the arbiter.
    let on_primary = |listener| {
        let address = gateway.members_at(listener).unwrap().remove(&set.primary()).unwrap();
        Connection::plain(&address).unwrap()
    };
    let mut others = on_primary("test");
    others.run(&doc! { "hello": 1, "$db": "admin" }).unwrap();
    let lanes = vec![Lane::rust("renewed", &set_uri(&gateway, "cart")).await];
    let mut moved = 0.0;
    for number in 1..=4 {
        writers::await_recovery(&lanes);
        secret.rename_over(&issue(number)).unwrap();
        let before = moved;
        moved = gateway.await_metric("mongate_upstream_recycled_total", &[("how", "moved")], |now| now > before + 0.5);
    }
    writers::await_recovery(&lanes);
    for lane in lanes {
        let outcome = lane.stop().await;
        assert_eq!(outcome.failures, Vec::<String>::new());
        outcome.check(&operator(&set).await).await;
    }
    assert_eq!(users_on(&mut others), user("others"));
    assert_eq!(users_on(&mut on_primary("cart")), user("cart"));
}

/// mongod gives all rights to a connection whose certificate looks like that of a cluster member. The gateway never
/// uses such a connection for a client.
#[test]
fn no_client_is_served_with_a_cluster_member_certificate() {
    let Some(set) = set_with_auth() else { return };
    let wanted = Wanted { common_name: "gateway", usage: Usage::Both, ..Wanted::default() };
    let member = set.pki.issue("member", &wanted).unwrap();
    let mut options = options(&set);
    let file = member.combined(First::Certificate).unwrap();
    options.tables +=
        &credential("cluster.local/ns/shop/sa/trap", &format!("certificate_file = '{}'\n", file.display()));
    options.tables += &listener("trap", "cluster.local/ns/shop/sa/trap");
    let gateway = Gateway::start(&options);
    gateway.await_members(&set.members());
    let primary = set.primary();
    let address = gateway.members_at("trap").unwrap().remove(&primary).unwrap();
    // The gateway has tried the certificate for its spare connections.
    let is_warning = |event: &Value| event["reason"] == "cluster_member" && event["level"] == "WARN";
    let line = gateway.wait_for_log(LOG_TIMEOUT, is_warning).unwrap();
    for command in [doc! { "hello": 1, "$db": "admin" }, doc! { "find": "system.users", "$db": "admin" }] {
        let answer = Connection::plain(&address).unwrap().command(&command).unwrap();
        assert_eq!(answer.get_i32("code").unwrap(), 18, "{answer}");
        assert!(answer.get_str("errmsg").unwrap().contains("member of its cluster"), "{answer}");
    }
    assert!(line["remedy"].as_str().is_some_and(|text| text.contains("O, OU or DC")), "{line}");
    assert!(is_at_least_one(gateway.metric("mongate_upstream_handshakes_total", &[("outcome", "cluster_member")])));
    // Callers with other credentials are served.
    let address = gateway.members_at("cart").unwrap().remove(&primary).unwrap();
    assert_eq!(users_on(&mut Connection::plain(&address).unwrap()), user("cart"));
}

async fn client(uri: &str) -> Client {
    let mut options = ClientOptions::parse(uri).await.unwrap();
    options.server_selection_timeout = Some(Duration::from_secs(15));
    Client::with_options(options).unwrap()
}

/// Returns a client that is connected to the set directly, as the administrator.
async fn operator(set: &ReplicaSet) -> Client {
    let mut options =
        ClientOptions::parse(format!("mongodb://{}/?replicaSet=rs0", set.members()[..2].join(","))).await.unwrap();
    let tls = TlsOptions::builder()
        .ca_file_path(set.pki.ca_file())
        .cert_key_file_path(set.operator().combined(First::Certificate).unwrap())
        .build();
    options.tls = Some(tls.into());
    options.credential = Some(Credential::builder().mechanism(mongodb::options::AuthMechanism::MongoDbX509).build());
    Client::with_options(options).unwrap()
}

fn payload(user: &str) -> bson::Binary {
    let bytes = format!("n,,n={user},r=fyko+d2lbbFgONRv9qkxdawL").into_bytes();
    bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes }
}

fn code_of<T>(result: mongodb::error::Result<T>) -> Option<i32> {
    match *result.err()?.kind {
        ErrorKind::Command(error) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        other => panic!("expected an error from the server: {other}"),
    }
}
