//! Clients with JWT-SVIDs, whose keys come from the SPIFFE Workload API: pushed keys, a lost agent, an agent without
//! keys for the gateway, and tokens of other trust domains.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::kit::drivers;
use crate::kit::gateway::{Gateway, GatewayOptions, run_to_end};
use crate::kit::mongod::Mongod;
use crate::kit::scratch;
use crate::kit::waiting::until;
use crate::kit::workload_api::{Answer, Bundles, WorkloadApi};
use crate::reports::LOG_TIMEOUT;
use crate::token_clients::{AUDIENCE, code, find, report, sasl_start, uri};
use crate::token_issuer::TokenIssuer;
use crate::token_keys::{TokenKey, key_set};
use crate::x509_connect::{certificate, create_user, credential, mongod_with_auth, subject};

const DOMAIN: &str = "prod.example";
const ISSUER: &str = "spiffe://prod.example";
const KEYS: &str = "mongate_jwks_keys";

/// A JWT-SVID as SPIRE makes it: without `iss` and `nbf`.
fn svid(key: &TokenKey, id: &str) -> String {
    svid_with(key, id, &json!({}))
}

/// The same with more claims.
fn svid_with(key: &TokenKey, id: &str, more: &Value) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut claims = json!({ "aud": [AUDIENCE], "exp": now + 300, "iat": now, "sub": format!("spiffe://{id}") });
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    key.token_with(&json!({ "alg": key.algorithm(), "kid": key.kid, "typ": "JWT" }), &claims)
}

fn orders(key: &TokenKey) -> String {
    svid(key, "prod.example/ns/shop/sa/orders")
}

/// The answer of an agent that knows these keys of the trust domain.
fn keys<'a>(keys: impl IntoIterator<Item = &'a TokenKey>) -> Answer<Bundles> {
    Answer::Set(Bundles::of([(DOMAIN, key_set(keys))]))
}

fn agent(keys: Answer<Bundles>) -> WorkloadApi {
    let api = WorkloadApi::start(Answer::Silence).unwrap();
    api.answer_bundles(keys);
    api
}

fn table(socket: &Path, trust_domain: &str) -> String {
    format!(
        "[[token_issuer]]\ntrust_domain = '{trust_domain}'\naudiences = ['{AUDIENCE}']\n\
         spiffe_socket = 'unix:{}'\n",
        socket.display()
    )
}

/// Options for a mongod without users.
fn options(mongod: &Mongod, socket: &Path) -> GatewayOptions {
    GatewayOptions {
        listener: "authentication = 'token'\n".to_owned(),
        tables: table(socket, DOMAIN),
        ..GatewayOptions::to(mongod)
    }
}

fn start(options: &GatewayOptions) -> Gateway {
    let gateway = Gateway::start(options);
    wait_for_keys(&gateway, 1);
    gateway
}

fn wait_for_keys(gateway: &Gateway, number: u32) {
    gateway.await_metric(KEYS, &[("issuer", ISSUER)], |keys| (keys - f64::from(number)).abs() < 0.5);
}

/// What a new client with this token gets: its principal's command is served, or the reason why not.
fn outcome(gateway: &Gateway, token: &str) -> Result<(), String> {
    let mut connection = gateway.connect().unwrap();
    let reply = connection.command(&sasl_start(token)).unwrap();
    if code(&reply) != 0 {
        assert_eq!(code(&reply), 18, "{reply}");
        return Err(reply.get_str("errmsg").unwrap().to_owned());
    }
    connection.run(&find()).unwrap();
    Ok(())
}

fn refused(gateway: &Gateway, token: &str, reason: &str) {
    let refusal = outcome(gateway, token).unwrap_err();
    assert!(refusal.contains(reason), "{reason}: {refusal}");
}

#[test]
fn drivers_with_a_jwt_svid_are_their_workload_for_policy_and_mongod() {
    let Some(mongod) = mongod_with_auth(&[]) else { return };
    for (name, role) in [("orders", "readWrite"), ("others", "")] {
        create_user(&mongod, name, role);
    }
    let key = TokenKey::ec("svid-1");
    let api = agent(keys([&key]));
    let mut options = GatewayOptions {
        log_level: Some("debug"),
        tables: format!(
            "[upstream.test.authentication]\nmechanism = \"MONGODB-X509\"\n{}\
             [[policy.rule]]\nname = 'orders'\naction = 'allow'\n\
             from = [{{ principals = ['prod.example/ns/shop/sa/*'] }}]\n",
            table(api.socket(), DOMAIN)
        ),
        ..options(&mongod, api.socket())
    };
    options.credentials(&mongod.pki, &certificate(&mongod, "others"));
    options.tables += &credential(&certificate(&mongod, "orders"), "prod.example/ns/shop/sa/orders");
    let gateway = start(&options);
    let directory = scratch::directory("jwt-svid").unwrap();
    let file = directory.path().join("token");
    let script = |name: &str| drivers::scripts().join(name).display().to_string();
    let uri = uri(&gateway);
    let mut inserted = 0;
    for (name, driver) in [("account.py", drivers::python as fn() -> _), ("account.mjs", drivers::node as fn() -> _)] {
        let run = |token: &str| {
            fs::write(&file, token).unwrap();
            Some(report(name, driver()?, &[&script(name), &uri], &file))
        };
        let Some(own) = run(&orders(&key)) else { continue };
        assert_eq!(own, json!({ "users": [subject("orders")], "orders": inserted, "insert": true }), "{name}");
        inserted += 1;
        // Another workload of the trust domain has another user of mongod.
        let other = run(&svid(&key, "prod.example/ns/shop/sa/other")).unwrap();
        let denied = json!({ "code": 13 });
        assert_eq!(other, json!({ "users": [subject("others")], "orders": denied, "insert": denied }), "{name}");
    }
    outcome(&gateway, &orders(&key)).unwrap();
    let is_it = |event: &Value| {
        event["message"] == "connection closed" && event["principal"] == "prod.example/ns/shop/sa/orders"
    };
    let line = gateway.wait_for_log(LOG_TIMEOUT, is_it).unwrap();
    assert_eq!(line["principal_source"], "token", "{line}");
    assert_eq!(api.asked_for_bundles(), 1);
}

#[test]
fn pushed_keys_are_in_use_at_once_and_keys_that_are_gone_are_not() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let (first, second) = (TokenKey::ec("svid-1"), TokenKey::rsa("svid-2"));
    let api = agent(keys([&first]));
    let gateway = start(&options(&mongod, api.socket()));
    outcome(&gateway, &orders(&first)).unwrap();
    api.answer_bundles(keys([&first, &second]));
    wait_for_keys(&gateway, 2);
    for key in [&first, &second] {
        outcome(&gateway, &orders(key)).unwrap();
    }
    api.answer_bundles(keys([&second]));
    wait_for_keys(&gateway, 1);
    outcome(&gateway, &orders(&second)).unwrap();
    assert_eq!(api.asked_for_bundles(), 1, "one call, on which the agent pushes");
    // For an unknown key the gateway asks once more: an agent may hang.
    refused(&gateway, &orders(&first), "key id svid-1 is unknown");
    assert_eq!(api.asked_for_bundles(), 2);
    refused(&gateway, &orders(&first), "key id svid-1 is unknown");
    assert_eq!(api.asked_for_bundles(), 2);
    outcome(&gateway, &orders(&second)).unwrap();
}

#[test]
fn keys_stay_in_use_without_the_agent_and_the_gateway_reconnects() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let directory = scratch::directory("agent").unwrap();
    let socket = directory.path().join("agent.sock");
    let (first, second) = (TokenKey::ec("svid-1"), TokenKey::ec("svid-2"));
    let api = WorkloadApi::start_at(&socket, Answer::Silence).unwrap();
    api.answer_bundles(keys([&first]));
    let gateway = start(&options(&mongod, &socket));
    // The agent ends the call orderly, as during its upgrade.
    api.end_streams();
    until("the gateway calls again", || (api.asked_for_bundles() == 2).then_some(()));
    // The registration of the gateway is deleted: nothing is wrong with the keys.
    api.answer_bundles(Answer::Denied);
    let logged = |text: &str| {
        let is_it = |event: &Value| {
            event["message"] == "token keys cannot be loaded" && event["error"].as_str().unwrap().contains(text)
        };
        gateway.wait_for_log(LOG_TIMEOUT, is_it).unwrap()
    };
    let line = logged("has no JWT bundle for this process");
    assert_eq!(line["in_use"], "the last keys", "{line}");
    assert!(line["remedy"].as_str().unwrap().contains("spire-server entry create"), "{line}");
    drop(api);
    until("the agent is lost", || {
        gateway.get("/readyz").unwrap().body.contains("the socket does not exist").then_some(())
    });
    assert_eq!(gateway.get("/readyz").unwrap().status, 200);
    outcome(&gateway, &orders(&first)).unwrap();
    let api = WorkloadApi::start_at(&socket, Answer::Silence).unwrap();
    api.answer_bundles(keys([&first, &second]));
    wait_for_keys(&gateway, 2);
    outcome(&gateway, &orders(&second)).unwrap();
    assert!(!gateway.get("/readyz").unwrap().body.contains("cannot be loaded again"));
}

#[test]
fn a_gateway_is_not_ready_before_the_agent_has_sent_keys() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let directory = scratch::directory("agent").unwrap();
    let socket = directory.path().join("agent.sock");
    let gateway = Gateway::start(&options(&mongod, &socket));
    let key = TokenKey::ec("svid-1");
    refused(&gateway, &orders(&key), "the keys of issuer spiffe://prod.example are not available");
    let unready = |text: &str| {
        until(text, || gateway.get("/readyz").unwrap().body.contains(text).then_some(()));
        assert_eq!(gateway.get("/readyz").unwrap().status, 503);
    };
    unready("the socket does not exist");
    let api = WorkloadApi::start_at(&socket, Answer::Silence).unwrap();
    api.answer_bundles(Answer::Set(Bundles::of([("other.example", key_set([&key]))])));
    unready("sent no JWT bundle of trust domain prod.example");
    refused(&gateway, &orders(&key), "are not available");
    api.answer_bundles(keys([&key]));
    wait_for_keys(&gateway, 1);
    assert_eq!(gateway.get("/readyz").unwrap().status, 200);
    outcome(&gateway, &orders(&key)).unwrap();
}

#[test]
fn unusable_keys_change_nothing_and_withdrawn_keys_are_out_of_use() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let (key, other) = (TokenKey::ec("svid-1"), TokenKey::ec("other-1"));
    let api = agent(keys([&key]));
    let gateway = start(&options(&mongod, api.socket()));
    let secret = json!({ "keys": [{ "kty": "oct", "kid": "svid-2", "k": "AAAA" }] });
    let sent = |keys: Value| Answer::Set(Bundles::of([(DOMAIN, keys)]));
    for (answer, problem) in [
        (sent(json!("no key set")), "sent JWT bundles that cannot be used"),
        (sent(json!({ "keys": [{ "kty": "EC" }] })), "missing key ID"),
        (sent(secret), "it is a shared secret"),
        (Answer::Set(Bundles::default()), "sent JWT bundles that cannot be used"),
    ] {
        api.answer_bundles(answer);
        until(problem, || gateway.get("/readyz").unwrap().body.contains(problem).then_some(()));
        assert_eq!(gateway.get("/readyz").unwrap().status, 200);
        outcome(&gateway, &orders(&key)).unwrap();
        api.answer_bundles(keys([&key]));
        until("the keys are good", || (!gateway.get("/readyz").unwrap().body.contains("loaded again")).then_some(()));
    }
    assert_eq!(api.asked_for_bundles(), 1, "all came on one call");
    // The trust domains federate no longer, or its key set is empty.
    for keys_of_domain in [None, Some(json!({ "keys": [] }))] {
        let others = [("other.example", key_set([&other]))];
        let sent = others.into_iter().chain(keys_of_domain.map(|keys| (DOMAIN, keys)));
        api.answer_bundles(Answer::Set(Bundles::of(sent)));
        wait_for_keys(&gateway, 0);
        gateway.wait_for_log(LOG_TIMEOUT, |event| event["message"] == "token keys withdrawn").unwrap();
        refused(&gateway, &orders(&key), "are not available");
        let ready = gateway.get("/readyz").unwrap();
        assert!(ready.status == 200 && ready.body.contains("its keys were withdrawn"), "{}", ready.body);
        api.answer_bundles(keys([&key]));
        wait_for_keys(&gateway, 1);
        outcome(&gateway, &orders(&key)).unwrap();
    }
}

#[test]
fn a_token_is_verified_only_with_the_keys_of_its_trust_domain() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    // The keys have the same id, as an attacker with a trust domain of his own can arrange.
    let (home, other, issuer) = (TokenKey::ec("svid-1"), TokenKey::ec("svid-1"), TokenIssuer::start().unwrap());
    let api = agent(Answer::Set(Bundles::of([
        (DOMAIN, key_set([&home])),
        ("other.example", key_set([&other])),
        ("federated.example", key_set([&other])),
    ])));
    let mut options = options(&mongod, api.socket());
    options.tables += &table(api.socket(), "other.example");
    options.tables += &issuer.configuration(AUDIENCE).replace("cluster.local", DOMAIN);
    let gateway = start(&options);
    for name in ["spiffe://other.example", TokenIssuer::NAME] {
        gateway.await_metric(KEYS, &[("issuer", name)], |keys| keys >= 1.0);
    }
    outcome(&gateway, &orders(&home)).unwrap();
    outcome(&gateway, &svid(&other, "other.example/workload")).unwrap();
    let id = "prod.example/ns/shop/sa/orders";
    // What SPIRE puts into iss does not matter.
    outcome(&gateway, &svid_with(&home, id, &json!({ "iss": "https://spire.example" }))).unwrap();
    let named = json!({ "iss": TokenIssuer::NAME });
    let at_issuer = TokenKey::rsa("rsa-1");
    for (token, reason) in [
        (orders(&other), "signature of the token is not valid"),
        (svid(&home, "other.example/workload"), "signature of the token is not valid"),
        (svid(&other, "federated.example/workload"), "issuer is spiffe://federated.example/workload"),
        (svid(&home, "PROD.example/workload"), "which this gateway does not know"),
        (svid(&home, "prod.example.evil/workload"), "which this gateway does not know"),
        (svid(&home, "prod.example"), "principal cannot be made"),
        (svid(&home, "prod.example/a/../b"), "principal cannot be made"),
        // The names of another issuer do not help, and its keys do not either.
        (svid_with(&other, id, &named), "signature of the token is not valid"),
        (svid(&issuer.key, id), "key id rsa-1 is unknown"),
        (svid_with(&issuer.key, id, &named), "key id rsa-1 is unknown"),
        (svid_with(&at_issuer, id, &named), "key id rsa-1 is unknown"),
        (svid_with(&home, id, &json!({ "aud": ["mongodb://billing"] })), "audience is mongodb://billing"),
        (svid_with(&home, id, &json!({ "aud": [] })), "audience is empty"),
        (svid_with(&home, id, &json!({ "exp": 1_600_000_000 })), "expired"),
        (svid_with(&home, id, &json!({ "exp": null })), "exp"),
        (svid_with(&home, id, &json!({ "sub": null })), "sub"),
    ] {
        refused(&gateway, &token, reason);
    }
    outcome(&gateway, &issuer.token(AUDIENCE, "shop", "orders", 600)).unwrap();
}

#[test]
fn check_shows_the_keys_of_the_agent_and_examines_a_jwt_svid() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let key = TokenKey::ec("svid-1");
    let api = agent(keys([&key]));
    let options = options(&mongod, api.socket());
    let directory = scratch::directory("jwt-svid").unwrap();
    let file = directory.path().join("token");
    fs::write(&file, orders(&key)).unwrap();
    let (code, text) = options.check(&["--token-file", file.to_str().unwrap()]).unwrap();
    assert_eq!(code, Some(0), "{text}");
    for shown in ["token issuer spiffe://prod.example", "svid-1 (EC P-256)", "token of prod.example/ns/shop/sa/orders"]
    {
        assert!(text.contains(shown), "{shown}: {text}");
    }
    let config = directory.path().join("config.toml");
    fs::write(&config, options.configuration()).unwrap();
    let explained = run_to_end(&[
        "policy",
        "explain",
        "--config",
        config.to_str().unwrap(),
        "--command",
        "find",
        "--database",
        "shop",
        "--collection",
        "c",
        "--token-file",
        file.to_str().unwrap(),
    ]);
    assert_eq!(explained.unwrap().0, Some(0));
    for (answer, expected) in [
        (Answer::Denied, "has no JWT bundle for this process: no identity issued"),
        (Answer::Set(Bundles::of([("x.example", key_set([&key]))])), "sent no JWT bundle of trust domain prod.example"),
    ] {
        api.answer_bundles(answer);
        let (code, text) = options.check(&["--json"]).unwrap();
        let report: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(code, Some(69), "{text}");
        let findings = report["findings"].to_string();
        assert!(findings.contains("token_issuer[1].spiffe_socket") && findings.contains(expected), "{findings}");
    }
}
