//! Clients that show who they are by tokens (MONGODB-OIDC), in front of a mongod that knows nothing of tokens.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use bson::spec::BinarySubtype;
use bson::{Binary, Document, doc};
use mongodb::Client;
use mongodb::options::oidc::{Callback, IdpServerResponse};
use mongodb::options::{AuthMechanism, ClientOptions, Credential};
use serde_json::{Value, json};

use crate::kit::certificates::{First, Pki, Wanted};
use crate::kit::drivers;
use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::Mongod;
use crate::kit::process;
use crate::kit::raw::{Connection, body_section, encode, op_msg, op_query};
use crate::kit::waiting::until;
use crate::reports::LOG_TIMEOUT;
use crate::token_issuer::{IssuerAnswer, TokenIssuer};
use crate::token_keys::{TokenKey, hs256_token, unsigned_token};
use crate::x509_connect::{as_root, certificate, create_user, credential, mongod_with_auth, subject};

pub const AUDIENCE: &str = "mongodb://orders";
const SCRIPT_TIMEOUT: Duration = Duration::from_mins(2);
/// What a driver has in its URI.
const MECHANISM: &str = "authMechanism=MONGODB-OIDC&authMechanismProperties=ENVIRONMENT:k8s";
const POLICY: &str = "[[policy.rule]]\nname = 'orders'\naction = 'allow'\n\
                      from = [{ principals = ['cluster.local/ns/shop/sa/orders'] }]\n\
                      [[policy.rule]]\nname = 'reports'\naction = 'allow'\n\
                      from = [{ principals = ['cluster.local/ns/shop/sa/reports'] }]\n\
                      to = [{ commands = ['@read', 'connectionStatus'] }]\n";

/// A gateway whose listener takes the tokens of an issuer.
pub struct Scene {
    pub mongod: Mongod,
    pub issuer: TokenIssuer,
    pub options: GatewayOptions,
}

impl Scene {
    /// `mode` is that of the pool. mongod has a user for each of two service accounts.
    pub fn new(mode: &str) -> Option<Self> {
        let mongod = mongod_with_auth(&[])?;
        for (name, role) in [("orders", "readWrite"), ("reports", "read"), ("others", "")] {
            create_user(&mongod, name, role);
        }
        let issuer = TokenIssuer::start().unwrap();
        let mut options = GatewayOptions {
            log_level: Some("debug"),
            listener: "authentication = 'token'\n".to_owned(),
            upstream: format!("pool.mode = '{mode}'\n"),
            tables: format!(
                "[upstream.test.authentication]\nmechanism = \"MONGODB-X509\"\n{}clock_skew = '0s'\n{POLICY}",
                issuer.configuration(AUDIENCE)
            ),
            ..GatewayOptions::to(&mongod)
        };
        options.credentials(&mongod.pki, &certificate(&mongod, "others"));
        for name in ["orders", "reports"] {
            options.tables += &credential(&certificate(&mongod, name), &principal(name));
        }
        Some(Self { mongod, issuer, options })
    }

    pub fn start(&self) -> Gateway {
        let gateway = Gateway::start(&self.options);
        gateway.await_metric("mongate_jwks_keys", &[("issuer", TokenIssuer::NAME)], |keys| keys >= 1.0);
        gateway
    }

    pub fn token(&self, account: &str, seconds: u64) -> String {
        self.issuer.token(AUDIENCE, "shop", account, seconds)
    }

    /// A file with a token, which ends with a line feed as those of Kubernetes may.
    pub fn token_file(&self, account: &str, seconds: u64) -> PathBuf {
        let file = self.issuer.directory().join(format!("token-{account}"));
        fs::write(&file, format!("{}\n", self.token(account, seconds))).unwrap();
        file
    }
}

pub fn principal(account: &str) -> String {
    format!("cluster.local/ns/shop/sa/{account}")
}

pub fn uri(gateway: &Gateway) -> String {
    format!("{}/?directConnection=true&{MECHANISM}", gateway.uri())
}

fn binary(document: &Document) -> Binary {
    Binary { subtype: BinarySubtype::Generic, bytes: encode(document) }
}

pub fn sasl_start(token: &str) -> Document {
    doc! { "saslStart": 1, "mechanism": "MONGODB-OIDC", "payload": binary(&doc! { "jwt": token }), "$db": "$external" }
}

fn hello() -> Document {
    doc! { "hello": 1, "helloOk": true, "$db": "admin" }
}

pub fn find() -> Document {
    doc! { "find": "orders", "$db": "shop" }
}

pub fn code(reply: &Document) -> i32 {
    reply.get_i32("code").unwrap_or_default()
}

/// Sends a token in a `saslStart`, which must be accepted.
pub fn authenticate(connection: &mut Connection, token: &str) {
    let reply = connection.run(&sasl_start(token)).unwrap();
    let empty = Binary { subtype: BinarySubtype::Generic, bytes: Vec::new() };
    assert_eq!(reply, doc! { "conversationId": 1, "done": true, "payload": empty, "ok": 1.0 });
}

/// How many tokens of the issuer had this outcome.
fn validations(gateway: &Gateway, outcome: &str) -> f64 {
    gateway.metric("mongate_token_validations_total", &[("issuer", TokenIssuer::NAME), ("outcome", outcome)])
}

/// What a script of a driver reports with the token in `file`.
pub fn report(name: &str, command: Command, arguments: &[&str], file: &PathBuf) -> Value {
    let mut command = command;
    command.env("AWS_WEB_IDENTITY_TOKEN_FILE", file).args(arguments);
    let output = process::run(name, command, SCRIPT_TIMEOUT).unwrap();
    serde_json::from_str(output.trim()).unwrap_or_else(|error| panic!("{error}: {output}"))
}

#[test]
fn drivers_with_a_token_are_their_service_account_for_policy_and_mongod() {
    for mode in ["off", "request"] {
        let Some(scene) = Scene::new(mode) else { return };
        let gateway = scene.start();
        let uri = uri(&gateway);
        let script = |name: &str| drivers::scripts().join(name).display().to_string();
        let shell = ["--quiet", "--norc", &uri, "--file", &script("account.mongosh.js")];
        let runs = [
            ("account.py", drivers::python(), vec![script("account.py"), uri.clone()]),
            ("account.mjs", drivers::node(), vec![script("account.mjs"), uri.clone()]),
            ("account.mongosh.js", drivers::mongosh(), shell.map(str::to_owned).to_vec()),
        ];
        for (orders, (name, command, arguments)) in (1..).zip(runs) {
            let Some(command) = command else { continue };
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            let run = |account: &str| {
                let mut again = Command::new(command.get_program());
                again.args(command.get_args());
                again.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
                report(name, again, &arguments, &scene.token_file(account, 600))
            };
            let own = run("orders");
            let expected = json!({ "users": [subject("orders")], "orders": orders - 1, "insert": true });
            assert_eq!(own, expected, "{name} {mode}");
            let reader = run("reports");
            let expected = json!({ "users": [subject("reports")], "orders": orders, "insert": { "code": 13 } });
            assert_eq!(reader, expected, "{name} {mode}");
            let other = run("billing");
            assert_eq!(
                other,
                json!({ "users": [subject("others")], "orders": { "code": 13 }, "insert": { "code": 13 } })
            );
        }
        let line = |event: &Value| {
            event["message"] == "connection closed" && event["principal"] == principal("orders").as_str()
        };
        let line = gateway.wait_for_log(LOG_TIMEOUT, line).unwrap();
        assert_eq!((&line["principal_source"], &line["user"]), (&"token".into(), &subject("orders").into()), "{line}");
        let validated =
            gateway.metric("mongate_token_validations_total", &[("issuer", TokenIssuer::NAME), ("outcome", "ok")]);
        assert!(validated >= 9.0, "{validated}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_driver_fetches_another_token_when_its_own_expires_under_load() {
    let Some(scene) = Scene::new("off") else { return };
    let gateway = scene.start();
    let mut options = ClientOptions::parse(format!("{}/?directConnection=true", gateway.uri())).await.unwrap();
    let (scene, fetched) = (Arc::new(scene), Arc::new(AtomicU32::new(0)));
    let (source, counter) = (Arc::clone(&scene), Arc::clone(&fetched));
    options.credential = Some(
        Credential::builder()
            .mechanism(AuthMechanism::MongoDbOidc)
            .oidc_callback(Callback::machine(move |_| {
                counter.fetch_add(1, Ordering::SeqCst);
                let token = source.token("orders", 3);
                Box::pin(async move { Ok(IdpServerResponse::builder().access_token(token).build()) }) as _
            }))
            .build(),
    );
    let client = Client::with_options(options).unwrap();
    let orders = client.database("shop").collection::<Document>("orders");
    let workers = (0..4).map(async |_| {
        let mut written = 0;
        while fetched.load(Ordering::SeqCst) < 4 {
            orders.insert_one(doc! {}).await.unwrap();
            written += 1;
        }
        written
    });
    let written: u64 = futures::future::join_all(workers).await.into_iter().sum();
    assert_eq!(orders.count_documents(doc! {}).await.unwrap(), written);
}

#[test]
fn a_client_without_a_token_may_only_begin_a_connection() {
    for mode in ["off", "session"] {
        let Some(scene) = Scene::new(mode) else { return };
        let gateway = scene.start();
        let mut connection = gateway.connect().unwrap();
        for command in [hello(), doc! { "ping": 1, "$db": "admin" }, doc! { "buildInfo": 1, "$db": "admin" }, hello()] {
            connection.run(&command).unwrap();
        }
        for (command, name) in [
            (find(), "find"),
            (doc! { "insert": "orders", "documents": [{}], "$db": "shop" }, "insert"),
            (doc! { "getMore": 1_i64, "collection": "orders", "$db": "shop" }, "getMore"),
            (doc! { "serverStatus": 1, "$db": "admin" }, "serverStatus"),
            (doc! { "endSessions": [], "$db": "admin" }, "endSessions"),
        ] {
            let reply = connection.command(&command).unwrap();
            assert_eq!(code(&reply), 13, "{reply}");
            let text = reply.get_str("errmsg").unwrap();
            assert!(text.contains(&format!("command {name} requires authentication")), "{text}");
        }
        // Other mechanisms are named as such.
        for command in [
            doc! { "saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": binary(&doc! {}), "$db": "admin" },
            doc! { "authenticate": 1, "mechanism": "MONGODB-X509", "$db": "$external" },
        ] {
            let reply = connection.command(&command).unwrap();
            assert_eq!(code(&reply), 334, "{reply}");
        }
        // An unacknowledged write is dropped, and the next reply is that to the next request.
        connection
            .send(&op_msg(9, 2, &[body_section(&doc! { "insert": "orders", "documents": [{}], "$db": "shop" })]))
            .unwrap();
        connection.run(&doc! { "ping": 1, "$db": "admin" }).unwrap();
        authenticate(&mut connection, &scene.token("orders", 600));
        let reply = connection.run(&doc! { "count": "orders", "$db": "shop" }).unwrap();
        assert_eq!(reply.get_i32("n").unwrap(), 0);
        // A legacy message cannot be judged.
        let mut legacy = gateway.connect().unwrap();
        legacy.send(&op_query(1, "shop.orders", 1, &doc! {})).unwrap();
        let reply = legacy.reply().unwrap().document;
        assert_ne!(code(&reply), 0, "{reply}");
    }
}

#[test]
fn a_hello_may_have_the_token_and_no_token_reaches_mongod_or_the_log() {
    for mode in ["off", "session"] {
        let Some(scene) = Scene::new(mode) else { return };
        as_root(&scene.mongod, &doc! { "setParameter": 1, "logLevel": 2, "$db": "admin" });
        let gateway = scene.start();
        let token = scene.token("orders", 600);
        let payload = binary(&doc! { "jwt": &token });
        let start = doc! { "saslStart": 1, "mechanism": "MONGODB-OIDC", "payload": payload, "db": "$external" };
        let mut with_token = hello();
        with_token.insert("speculativeAuthenticate", start.clone());
        let legacy = doc! { "isMaster": 1, "helloOk": true, "speculativeAuthenticate": start };
        for message in [op_msg(1, 0, &[body_section(&with_token)]), op_query(1, "admin.$cmd", -1, &legacy)] {
            let mut connection = gateway.connect().unwrap();
            connection.send(&message).unwrap();
            let reply = connection.reply().unwrap().document;
            let field = reply.get_document("speculativeAuthenticate").unwrap();
            let empty = Binary { subtype: BinarySubtype::Generic, bytes: Vec::new() };
            assert_eq!(field, &doc! { "conversationId": 1, "done": true, "payload": empty });
            let status = connection.run(&doc! { "connectionStatus": 1, "$db": "admin" }).unwrap();
            assert!(status.to_string().contains(&subject("orders")), "{status}");
            // Both in one packet.
            let mut connection = gateway.connect().unwrap();
            connection.send(&[message, op_msg(2, 0, &[body_section(&find())])].concat()).unwrap();
            connection.reply().unwrap();
            let reply = connection.reply().unwrap().document;
            assert!(reply.get_document("cursor").is_ok(), "{reply}");
        }
        // A token that is not accepted leaves the field out, and the driver reads the reason in its saslStart.
        let expired = with_token.get_document_mut("speculativeAuthenticate").unwrap();
        expired.insert("payload", binary(&doc! { "jwt": "a.b.c" }));
        let mut connection = gateway.connect().unwrap();
        let reply = connection.run(&with_token).unwrap();
        assert!(!reply.contains_key("speculativeAuthenticate"), "{reply}");
        assert_eq!(code(&connection.command(&find()).unwrap()), 13);
        let signature = token.rsplit('.').next().unwrap();
        let log = gateway.log().iter().map(Value::to_string).collect::<String>() + &scene.mongod.log();
        assert!(!log.contains(signature) && !log.contains(&token[..40]), "a token is in a log");
    }
}

#[test]
fn a_person_learns_where_to_log_in() {
    let Some(scene) = Scene::new("off") else { return };
    let gateway = scene.start();
    let mut connection = gateway.connect().unwrap();
    let request = |payload: Document| {
        doc! { "saslStart": 1, "mechanism": "MONGODB-OIDC", "payload": binary(&payload), "$db": "$external" }
    };
    let end = |token: &str| {
        doc! { "saslContinue": 1, "payload": binary(&doc! { "jwt": token }), "conversationId": 1, "$db": "$external" }
    };
    // There is nothing to continue.
    assert_eq!(code(&connection.command(&end(&scene.token("orders", 600))).unwrap()), 18);
    for payload in [doc! {}, doc! { "n": "me@example.com" }] {
        let reply = connection.run(&request(payload)).unwrap();
        assert_eq!((reply.get_i32("conversationId").unwrap(), reply.get_bool("done").unwrap()), (1, false));
        let told = Document::from_reader(&reply.get_binary_generic("payload").unwrap()[..]).unwrap();
        assert_eq!(told, doc! { "issuer": TokenIssuer::NAME });
        let reply = connection.run(&end(&scene.token("orders", 600))).unwrap();
        assert!(reply.get_bool("done").unwrap());
        connection.run(&find()).unwrap();
    }
}

#[test]
fn forged_and_foreign_tokens_are_refused_with_the_reason_and_change_nothing() {
    let Some(scene) = Scene::new("session") else { return };
    let gateway = scene.start();
    let claims = TokenIssuer::claims(AUDIENCE, "shop", "orders", 600);
    let header = |alg: &str| json!({ "alg": alg, "kid": "rsa-1" });
    let without = |claim: &str| {
        let mut claims = claims.clone();
        claims.as_object_mut().unwrap().remove(claim);
        scene.issuer.key.token(&claims)
    };
    let mut later = claims.clone();
    later["nbf"] = json!(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() + 3_600);
    let mut old = claims.clone();
    (old["exp"], old["nbf"]) = (json!(1_600_000_000), json!(1_500_000_000));
    let cases = [
        (unsigned_token(&header("none"), &claims), "algorithm none"),
        (scene.issuer.key.token_of_text(r#"{"alg":"RS256","kid":"rsa-1"}"#, "[1]"), "claims of the token"),
        (hs256_token(&scene.issuer.key.public_der(), &header("HS256"), &claims), "algorithm HS256"),
        (TokenKey::rsa("rsa-1").token(&claims), "signature"),
        (TokenKey::rsa("other").token(&claims), "unknown"),
        (without("exp"), "exp is missing"),
        (without("iss"), "iss is missing"),
        (without("aud"), "aud"),
        (without("sub"), "sub is missing"),
        (scene.issuer.key.token(&later), "not valid before"),
        (scene.issuer.key.token(&old), "expired"),
        (scene.issuer.token("mongodb://billing", "shop", "orders", 600), "audience is mongodb://billing"),
        (scene.issuer.token(AUDIENCE, "shop", "a/b", 600), "principal cannot be made"),
        ("x".repeat(20_000), "more than"),
        (String::new(), "not a signed JWT"),
    ];
    let mut known = gateway.connect().unwrap();
    authenticate(&mut known, &scene.token("orders", 600));
    assert_eq!((validations(&gateway, "ok"), validations(&gateway, "other_principal")), (1.0, 0.0));
    for (token, reason) in cases {
        let mut fresh = gateway.connect().unwrap();
        for connection in [&mut fresh, &mut known] {
            let reply = connection.command(&sasl_start(&token)).unwrap();
            assert_eq!(code(&reply), 18, "{reason}: {reply}");
            assert!(reply.get_str("errmsg").unwrap().contains(reason), "{reason}: {reply}");
        }
        assert_eq!(code(&fresh.command(&find()).unwrap()), 13, "{reason}");
        known.run(&find()).unwrap();
    }
    // A connection stays with its principal.
    let reply = known.command(&sasl_start(&scene.token("reports", 600))).unwrap();
    assert_eq!(code(&reply), 18, "{reply}");
    assert!(reply.get_str("errmsg").unwrap().contains("belongs to"), "{reply}");
    known.run(&doc! { "logout": 1, "$db": "$external" }).unwrap();
    assert_eq!(code(&known.command(&find()).unwrap()), 13);
    assert_eq!(code(&known.command(&sasl_start(&scene.token("reports", 600))).unwrap()), 18);
    authenticate(&mut known, &scene.token("orders", 600));
    known.run(&find()).unwrap();
    // A valid token of another principal is counted once, and as what it is.
    assert_eq!((validations(&gateway, "ok"), validations(&gateway, "other_principal")), (2.0, 2.0));
    // Payloads that are none.
    let mut twice = sasl_start("a.b.c");
    twice.insert("payload", Binary { subtype: BinarySubtype::UserDefined(0x80), bytes: vec![5, 0, 0, 0, 0] });
    let huge = doc! { "saslStart": 1, "mechanism": "MONGODB-OIDC",
    "payload": binary(&doc! { "jwt": "x".repeat(70_000) }), "$db": "$external" };
    for command in [twice, huge] {
        let reply = gateway.connect().unwrap().command(&command).unwrap();
        assert_eq!(code(&reply), 18, "{reply}");
    }
}

#[test]
fn an_expired_token_is_told_once_and_what_was_begun_may_end() {
    let Some(scene) = Scene::new("session") else { return };
    as_root(&scene.mongod, &doc! { "insert": "orders", "documents": [{}, {}, {}], "$db": "shop" });
    let gateway = scene.start();
    let mut connection = gateway.connect().unwrap();
    authenticate(&mut connection, &scene.token("orders", 3));
    let reply = connection.run(&doc! { "find": "orders", "batchSize": 1, "$db": "shop" }).unwrap();
    let cursor = reply.get_document("cursor").unwrap().get_i64("id").unwrap();
    let more = doc! { "getMore": cursor, "collection": "orders", "batchSize": 1, "$db": "shop" };
    let expired = || {
        let reply = connection.command(&find()).unwrap();
        (code(&reply) != 0).then_some(reply)
    };
    let reply = until("the token has expired", expired);
    assert_eq!((code(&reply), reply.get_str("codeName").unwrap()), (391, "ReauthenticationRequired"), "{reply}");
    connection.run(&more).unwrap();
    connection.run(&hello()).unwrap();
    // The same token, and one that is nearly expired, are refused, so that no driver goes on and on.
    let reply = connection.command(&sasl_start(&scene.token("orders", 0))).unwrap();
    assert_eq!(code(&reply), 18, "{reply}");
    authenticate(&mut connection, &scene.token("orders", 600));
    connection.run(&find()).unwrap();
    connection.run(&more).unwrap();
}

#[test]
fn a_rotated_key_is_fetched_when_the_first_token_needs_it() {
    let Some(scene) = Scene::new("off") else { return };
    let gateway = scene.start();
    let (next, before) = (TokenKey::ec("ec-2"), scene.issuer.asked());
    scene.issuer.publish([&scene.issuer.key, &next]);
    let token = next.token(&TokenIssuer::claims(AUDIENCE, "shop", "orders", 600));
    let mut connection = gateway.connect().unwrap();
    // All in one packet: what is behind the token waits for its validation.
    let messages = [hello(), sasl_start(&token), find()];
    let bytes: Vec<u8> =
        (1..).zip(&messages).flat_map(|(id, command)| op_msg(id, 0, &[body_section(command)])).collect();
    connection.send(&bytes).unwrap();
    for id in 1..4 {
        let reply = connection.reply().unwrap();
        assert_eq!((reply.response_to, reply.document.get_f64("ok").unwrap()), (id, 1.0), "{:?}", reply.document);
    }
    assert_eq!(scene.issuer.asked(), before + 1);
}

#[test]
fn a_silent_issuer_delays_only_the_client_whose_key_is_unknown() {
    let Some(scene) = Scene::new("session") else { return };
    let gateway = scene.start();
    scene.issuer.answer(IssuerAnswer::Silence);
    let unknown = TokenKey::ec("ec-2").token(&TokenIssuer::claims(AUDIENCE, "shop", "orders", 600));
    let (mut waiting, mut other) = (gateway.connect().unwrap(), gateway.connect().unwrap());
    waiting.send(&op_msg(1, 0, &[body_section(&sasl_start(&unknown))])).unwrap();
    until("the gateway asks for newer keys", || (scene.issuer.asked() > 1).then_some(()));
    authenticate(&mut other, &scene.token("orders", 600));
    other.run(&find()).unwrap();
    let reply = waiting.reply().unwrap().document;
    assert_eq!(code(&reply), 18, "{reply}");
    assert!(reply.get_str("errmsg").unwrap().contains("key id ec-2 is unknown"), "{reply}");
    authenticate(&mut waiting, &scene.token("orders", 600));
    waiting.run(&find()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_with_tokens_and_clients_with_passwords_use_one_listener() {
    let Some(mongod) = mongod_with_auth(&[]) else { return };
    let roles = vec![doc! { "role": "read", "db": "shop" }];
    as_root(&mongod, &doc! { "createUser": "alice", "pwd": "secret-of-alice", "roles": roles, "$db": "admin" });
    let issuer = TokenIssuer::start().unwrap();
    let gateway = Gateway::start(&GatewayOptions {
        log_level: Some("debug"),
        listener: "authentication = 'token-optional'\n".to_owned(),
        tables: issuer.configuration(AUDIENCE),
        ..GatewayOptions::to(&mongod)
    });
    let uri = format!("mongodb://alice:secret-of-alice@{}/?directConnection=true", gateway.address());
    let client = Client::with_uri_str(uri).await.unwrap();
    assert_eq!(client.database("shop").collection::<Document>("orders").find_one(doc! {}).await.unwrap(), None);
    client.shutdown().immediate(true).await;
    let closed = |name: &str, value: &str| {
        let (name, value) = (name.to_owned(), value.to_owned());
        let is_it = move |event: &Value| event["message"] == "connection closed" && event[&name] == value.as_str();
        gateway.wait_for_log(LOG_TIMEOUT, is_it).unwrap()
    };
    assert_eq!(closed("user", "alice")["principal"], Value::Null);

    let mut connection = gateway.connect().unwrap();
    connection.run(&hello()).unwrap();
    authenticate(&mut connection, &issuer.token(AUDIENCE, "shop", "orders", 600));
    // mongod knows nothing of the token. The client cannot become another user of mongod either.
    assert_eq!(code(&connection.command(&find()).unwrap()), 13);
    let scram = doc! { "saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": binary(&doc! {}), "$db": "admin" };
    assert_eq!(code(&connection.command(&scram).unwrap()), 334);
    drop(connection);
    // Too long to be read, or without a name: the token could go upstream.
    let long = doc! { "saslStart": 1, "mechanism": "MONGODB-OIDC", "pad": "x".repeat(70_000),
    "payload": binary(&doc! { "jwt": "a.b.c" }), "$db": "$external" };
    let mut speculating = hello();
    speculating.extend(doc! { "pad": "x".repeat(70_000), "speculativeAuthenticate": long.clone() });
    for command in [long, speculating] {
        let message = op_msg(1, 0, &[body_section(&command)]);
        let mut connection = gateway.connect().unwrap();
        for piece in [&message[..20], &message[20..]] {
            connection.send(piece).unwrap();
        }
        let reply = connection.reply().unwrap().document;
        assert!([17, 18].contains(&code(&reply)), "{reply}");
    }
    assert_eq!(closed("principal_source", "token")["principal"], principal("orders").as_str());
}

#[test]
fn a_token_has_to_be_for_the_principal_of_the_certificate_unless_that_may_forward() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let (pki, issuer) = (Pki::new().unwrap(), TokenIssuer::start().unwrap());
    let server = pki.issue("gateway", &Wanted::server()).unwrap().combined(First::Certificate).unwrap();
    let workload = |account: &str| {
        let uri: &'static str = format!("spiffe://{}", principal(account)).leak();
        pki.issue(account, &Wanted { common_name: "workload", names: vec![uri], ..Wanted::default() }).unwrap()
    };
    let (own, other, forwarder) = (workload("orders"), workload("billing"), workload("ingress"));
    let gateway = Gateway::start(&GatewayOptions {
        top: "trust_domain = 'cluster.local'\n".to_owned(),
        listener: "mode = 'strict'\nauthentication = 'token-optional'\n".to_owned(),
        tables: format!(
            "[listener.test.tls]\ncertificate_file = '{}'\nca_file = '{}'\n{}\
             [[identity]]\nprincipal = '{}'\nmay_forward = true\n",
            server.display(),
            pki.ca_file().display(),
            issuer.configuration(AUDIENCE),
            principal("ingress"),
        ),
        ..GatewayOptions::to(&mongod)
    });
    let token = issuer.token(AUDIENCE, "shop", "orders", 600);
    for (certificate, expected) in [(&own, 0), (&other, 18), (&forwarder, 0)] {
        let mut connection = Connection::tls(gateway.address(), &pki, certificate).unwrap();
        connection.run(&find()).unwrap();
        let reply = connection.command(&sasl_start(&token)).unwrap();
        assert_eq!(code(&reply), expected, "{reply}");
        connection.run(&find()).unwrap();
        if expected == 0 {
            let status: Value = serde_json::from_str(&gateway.get("/status").unwrap().body).unwrap();
            let shown = &status["listeners"][0]["principals"][0];
            assert_eq!((&shown["principal"], &shown["source"]), (&principal("orders").into(), &"token".into()));
            assert_eq!(shown["token"]["issuer"], TokenIssuer::NAME, "{shown}");
            assert!(shown["token"]["expires"].as_str().unwrap().ends_with('Z'), "{shown}");
        } else {
            let text = reply.get_str("errmsg").unwrap();
            assert!(text.contains(&format!("the certificate of this connection is that of {}", principal("billing"))));
            assert_eq!((validations(&gateway, "ok"), validations(&gateway, "other_principal")), (1.0, 1.0));
        }
        drop(connection);
        gateway.await_metric("mongate_connections_active", &[], |open| open < 0.5);
    }
}
