//! Issuers of tokens: what `mongate check` and `mongate policy explain` say about keys and tokens, and a gateway that
//! follows the keys of an issuer.

use std::fmt::Write as _;
use std::fs;

use serde_json::{Value, json};

use crate::kit::gateway::{Gateway, GatewayOptions, run_to_end};
use crate::kit::mongod::Mongod;
use crate::reports::LOG_TIMEOUT;
use crate::token_issuer::{IssuerAnswer, TokenIssuer};
use crate::token_keys::{TokenKey, hs256_token, unsigned_token};

const AUDIENCE: &str = "mongodb://orders";

/// Options with the issuer, for a configuration whose upstream nothing connects to.
fn options(mongod: &Mongod, issuer: &TokenIssuer) -> GatewayOptions {
    GatewayOptions { tables: issuer.configuration(AUDIENCE), ..GatewayOptions::to(mongod) }
}

#[test]
fn check_fetches_the_keys_and_examines_a_token_claim_by_claim() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let issuer = TokenIssuer::start().unwrap();
    let (second, stranger) = (TokenKey::ec("ec-2"), TokenKey::rsa("rsa-9"));
    issuer.publish([&issuer.key, &second]);
    let options = options(&mongod, &issuer);
    let check = |token: &str| {
        let file = issuer.directory().join("token");
        fs::write(&file, token).unwrap();
        options.check(&["--token-file", file.to_str().unwrap()]).unwrap()
    };
    let (code, text) = options.check(&[]).unwrap();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("token issuer https://issuer.example"), "{text}");
    let demanding = GatewayOptions { listener: "authentication = 'token'\n".to_owned(), ..options.clone() };
    let (code, text) = demanding.check(&[]).unwrap();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("its clients have no MongoDB user"), "{text}");
    let logged =
        Gateway::start(&demanding).wait_for_log(LOG_TIMEOUT, |line| line["message"] == "configuration warning");
    assert_eq!(logged.unwrap()["key"], "listener.test.authentication");
    for shown in [&issuer.jwks_url(), "ec-2 (EC P-256)", "rsa-1 (RSA 2048 bits)"] {
        assert!(text.contains(shown), "{shown}: {text}");
    }

    let good = issuer.token(AUDIENCE, "shop", "orders", 600);
    let (code, text) = check(&format!("{good}\n"));
    assert_eq!(code, Some(0), "{text}");
    for shown in
        ["token of cluster.local/ns/shop/sa/orders", "issuer: https://issuer.example", "signature: valid, RS256"]
    {
        assert!(text.contains(shown), "{shown}: {text}");
    }
    let claims = TokenIssuer::claims(AUDIENCE, "shop", "orders", 600);
    let header = |alg: &str| json!({ "alg": alg, "kid": "rsa-1" });
    for (token, expected) in [
        (
            issuer.token("mongodb://billing", "shop", "orders", 600),
            "audience is mongodb://billing, expected mongodb://orders",
        ),
        (stranger.token(&claims), "key id rsa-9 is unknown"),
        (stranger.token_with(&header("RS256"), &claims), "the signature of the token is not valid"),
        (unsigned_token(&header("none"), &claims), "algorithm none"),
        (hs256_token(&issuer.key.public_der(), &header("HS256"), &claims), "algorithm HS256"),
        (issuer.token(AUDIENCE, "shop", "a/b", 600), "principal cannot be made"),
        ("no token".to_owned(), "not a signed JWT"),
    ] {
        let (code, text) = check(&token);
        assert_eq!(code, Some(69), "{expected}: {text}");
        assert!(text.contains(expected), "{expected}: {text}");
        assert!(!token.split('.').any(|part| part.len() > 20 && text.contains(part)), "{text}");
    }
    let mut old = claims.clone();
    (old["exp"], old["nbf"]) = (json!(1_600_000_000), json!(1_500_000_000));
    let (_, text) = check(&issuer.key.token(&old));
    assert!(text.contains("token expired") && text.contains("days ago"), "{text}");
}

#[test]
fn check_says_why_keys_cannot_be_fetched() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let issuer = TokenIssuer::start().unwrap();
    let fails = |options: &GatewayOptions, expected: &str| {
        let (code, text) = options.check(&["--json"]).unwrap();
        let report: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(code, Some(69), "{text}");
        let findings = report["findings"].to_string();
        assert!(findings.contains("token_issuer[1].jwks_url") && findings.contains(expected), "{expected}: {findings}");
    };
    let usual = options(&mongod, &issuer);
    issuer.answer(IssuerAnswer::Status("503 Service Unavailable"));
    fails(&usual, "503 Service Unavailable");
    issuer.answer(IssuerAnswer::Keys(json!({ "keys": [] })));
    fails(&usual, "no key that can verify tokens");
    issuer.publish([&issuer.key]);
    issuer.demand("gateway");
    fails(&usual, "bearer_token_file");
    let bearer = issuer.directory().join("bearer");
    fs::write(&bearer, "gateway\n").unwrap();
    let mut with_token = usual.clone();
    writeln!(with_token.tables, "bearer_token_file = {:?}", bearer.display().to_string()).unwrap();
    let (code, text) = with_token.check(&[]).unwrap();
    assert_eq!(code, Some(0), "{text}");
    let mut other_ca = with_token;
    let (own, stranger) = (issuer.ca_file(), mongod.pki.ca_file());
    other_ca.tables = other_ca.tables.replace(own.to_str().unwrap(), stranger.to_str().unwrap());
    fails(&other_ca, "TLS handshake failed");
}

#[test]
fn policy_explain_takes_the_principal_of_a_token() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let issuer = TokenIssuer::start().unwrap();
    let mut options = options(&mongod, &issuer);
    options.listener = "principal = \"cluster.local/ns/shop/sa/other\"\n".to_owned();
    options.tables.push_str(
        "[[policy.rule]]\nname = \"orders\"\naction = \"allow\"\n\
         from = [{ principals = [\"cluster.local/ns/shop/sa/orders\"] }]\n",
    );
    let config = issuer.directory().join("config.toml");
    fs::write(&config, options.configuration()).unwrap();
    let explain = |account: &str| {
        let file = issuer.directory().join("token");
        fs::write(&file, issuer.token(AUDIENCE, "shop", account, 600)).unwrap();
        let arguments = ["policy", "explain", "--config", config.to_str().unwrap(), "--command", "find"];
        let more = ["--database", "shop", "--collection", "c", "--token-file", file.to_str().unwrap()];
        run_to_end(&[&arguments[..], &more[..]].concat()).unwrap()
    };
    for (account, code) in [("orders", 0), ("billing", 77), ("a/b", 65)] {
        let (found, out, all) = explain(account);
        assert_eq!(found, Some(code), "{account}: {out} {all}");
    }
}

#[test]
fn a_gateway_is_ready_once_it_has_keys_and_keeps_the_last_ones() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let issuer = TokenIssuer::start().unwrap();
    let file = issuer.directory().join("jwks.json");
    let mut options = options(&mongod, &issuer);
    let second = options.tables.replace(TokenIssuer::NAME, "https://second.example");
    let lines = second.lines().filter(|line| !line.starts_with("jwks_url") && !line.starts_with("ca_file"));
    let second = lines.collect::<Vec<_>>().join("\n");
    writeln!(options.tables, "{second}\njwks_file = {:?}", file.display().to_string()).unwrap();
    fs::write(&file, crate::token_keys::key_set([&issuer.key]).to_string()).unwrap();
    let gateway = Gateway::start(&options);
    gateway.await_metric("mongate_jwks_keys", &[("issuer", TokenIssuer::NAME)], |keys| keys >= 1.0);
    fs::write(&file, "{}").unwrap();
    let is_failure =
        |line: &Value| line["message"] == "token keys cannot be loaded" && line["issuer"] == "https://second.example";
    let line = gateway.wait_for_log(LOG_TIMEOUT, is_failure).unwrap();
    assert_eq!(line["in_use"], "the last keys", "{line}");
    let ready = gateway.get("/readyz").unwrap();
    assert!(ready.status == 200 && ready.body.contains("they cannot be loaded again"), "{}", ready.body);
    fs::write(&file, crate::token_keys::key_set([&issuer.key, &TokenKey::ec("ec-2")]).to_string()).unwrap();
    gateway.await_metric("mongate_jwks_keys", &[("issuer", "https://second.example")], |keys| keys >= 2.0);
}
