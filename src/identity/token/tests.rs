//! What the validation accepts and refuses: every rule, and every attack on it.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::test_keys::{TokenKey, hs256_token, key_set, kubernetes_claims, unsigned_token};
use super::{ClaimPath, KeySet, PrincipalTemplate, TokenIssuer, TokenIssuers, TokenProblem, TokenResult};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const AUDIENCE: &str = "mongodb://orders";
const NOW: u64 = 1_800_000_000;

static RSA: LazyLock<TokenKey> = LazyLock::new(|| TokenKey::rsa("k1"));
static EC: LazyLock<TokenKey> = LazyLock::new(|| TokenKey::ec("k2"));
static FOREIGN: LazyLock<TokenKey> = LazyLock::new(|| TokenKey::rsa("f1"));

fn issuer() -> TokenIssuer {
    TokenIssuer {
        issuer: Some(ISSUER.to_owned()),
        audiences: vec![AUDIENCE.to_owned(), "sts.amazonaws.com".to_owned()],
        trust_domain: Some("cluster.local".to_owned()),
        principal: PrincipalTemplate::kubernetes(Some("cluster.local")).unwrap(),
        required_claims: Vec::new(),
        clock_skew: Duration::from_secs(30),
        expiry_grace: Duration::from_mins(5),
    }
}

fn svid_issuer() -> TokenIssuer {
    TokenIssuer { issuer: None, trust_domain: Some("prod.example".to_owned()), ..issuer() }
}

fn keys<'a>(keys: impl IntoIterator<Item = &'a TokenKey>) -> KeySet {
    KeySet::from_json(key_set(keys).to_string().as_bytes()).unwrap()
}

fn claims() -> Value {
    kubernetes_claims(ISSUER, AUDIENCE, ("shop", "orders"), NOW - 60, 3600)
}

/// The usual claims with one changed; `null` removes it.
fn with(claim: &str, value: Value) -> Value {
    let mut claims = claims();
    let object = claims.as_object_mut().unwrap();
    if value.is_null() {
        drop(object.remove(claim));
    } else {
        drop(object.insert(claim.to_owned(), value));
    }
    claims
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn validate_at(issuers: Vec<TokenIssuer>, token: &str, now: u64) -> TokenResult {
    let (own, foreign) = (keys([&*RSA, &*EC]), keys([&*FOREIGN]));
    // The second issuer has another key.
    let keys_of = |position: usize| if position == 0 { Some(&own) } else { Some(&foreign) };
    TokenIssuers::new(issuers).validate(token, keys_of, at(now)).result
}

fn validate(token: &str) -> TokenResult {
    let other = TokenIssuer { issuer: Some("https://other.example".to_owned()), ..issuer() };
    validate_at(vec![issuer(), other], token, NOW)
}

/// The label and the text of the problem.
fn refused(token: &str) -> (&'static str, String) {
    let problem = validate(token).unwrap_err();
    let told = problem.to_string();
    assert!(!token.split('.').any(|part| part.len() > 20 && told.contains(part)), "{told}");
    (problem.label(), told)
}

#[test]
fn a_token_of_kubernetes_is_a_service_account() {
    for key in [&*RSA, &*EC] {
        let valid = validate(&key.token(&claims())).unwrap();
        assert_eq!(valid.principal.as_str(), "cluster.local/ns/shop/sa/orders");
        assert_eq!((valid.issuer.as_str(), valid.kid.as_str()), (ISSUER, key.kid.as_str()));
        assert_eq!(valid.subject, "system:serviceaccount:shop:orders");
        assert_eq!(valid.expires, at(NOW - 60 + 3600));
        assert_eq!(valid.valid_until, at(NOW - 60 + 3600 + 30));
    }
    // As in a file, which drivers send untrimmed.
    assert!(validate(&format!("{}\n", RSA.token(&claims()))).is_ok());
}

#[test]
fn the_algorithm_comes_from_the_key() {
    let header = |alg: &str| json!({ "alg": alg, "kid": "k1" });
    for alg in ["none", "None", "NONE", "", "HS256", "HS384", "HS512", "ES512", "RSA-OAEP"] {
        let (label, told) = refused(&unsigned_token(&header(alg), &claims()));
        assert_eq!(label, "algorithm", "{alg}: {told}");
    }
    // The public key as a shared secret, in each form that a library may take it.
    for secret in [RSA.public_der(), RSA.jwk()["n"].as_str().unwrap().into(), RSA.jwk().to_string().into(), Vec::new()]
    {
        assert_eq!(refused(&hs256_token(&secret, &header("HS256"), &claims())).0, "algorithm");
    }
    // Another algorithm than that of the key, within its family and outside.
    for alg in ["PS256", "RS384", "ES256", "ES384", "EdDSA"] {
        let (label, told) = refused(&RSA.token_with(&header(alg), &claims()));
        assert_eq!((label, told.contains("is not that of its key")), ("algorithm", true), "{alg}: {told}");
    }
    assert_eq!(refused(&EC.token_with(&json!({ "alg": "RS256", "kid": "k2" }), &claims())).0, "algorithm");
    for header in [json!({ "kid": "k1" }), json!({ "alg": 5, "kid": "k1" }), json!({ "alg": ["RS256"], "kid": "k1" })] {
        assert_eq!(refused(&RSA.token_with(&header, &claims())).0, "malformed");
    }
}

#[test]
fn a_key_without_algorithm_takes_those_of_rsa() {
    let mut set = key_set([&*RSA]);
    set["keys"][0].as_object_mut().unwrap().remove("alg");
    let keys = KeySet::from_json(set.to_string().as_bytes()).unwrap();
    let validate = |token: &str| TokenIssuers::new(vec![issuer()]).validate(token, |_| Some(&keys), at(NOW)).result;
    for alg in ["RS256", "PS256"] {
        assert!(validate(&RSA.token_with(&json!({ "alg": alg, "kid": "k1" }), &claims())).is_ok(), "{alg}");
    }
    // The padding of the signature is another one than the header says.
    let token = RSA.token_with(&json!({ "alg": "RS384", "kid": "k1" }), &claims());
    assert_eq!(validate(&token).unwrap_err().label(), "signature");
}

#[test]
fn the_key_is_one_of_the_issuer_of_the_token() {
    let (label, told) = refused(&FOREIGN.token(&claims()));
    assert_eq!((label, told.as_str()), ("unknown_key", format!("key id f1 is unknown to issuer {ISSUER}").as_str()));
    // The other issuer's key, under the key id of this one.
    assert_eq!(refused(&FOREIGN.token_with(&json!({ "alg": "RS256", "kid": "k1" }), &claims())).0, "signature");
    // This issuer's key for the other issuer's name.
    assert_eq!(refused(&RSA.token(&with("iss", json!("https://other.example")))).0, "unknown_key");
    assert_eq!(refused(&RSA.token(&with("iss", json!("https://evil.example")))).0, "issuer");
    assert_eq!(refused(&RSA.token(&with("iss", json!(format!("{ISSUER}/"))))).0, "issuer");
    for header in [json!({ "alg": "RS256" }), json!({ "alg": "RS256", "kid": "" }), json!({ "alg": "RS256", "kid": 1 })]
    {
        assert_eq!(refused(&RSA.token_with(&header, &claims())).0, "malformed");
    }
    // Keys that the header brings along are not looked at.
    let header = json!({ "alg": "RS256", "kid": "f1", "jwk": FOREIGN.jwk(), "jku": "https://evil.example/jwks" });
    assert_eq!(refused(&FOREIGN.token_with(&header, &claims())).0, "unknown_key");
}

#[test]
fn without_keys_no_token_is_valid() {
    let problem = TokenIssuers::new(vec![issuer()]).validate(&RSA.token(&claims()), |_| None, at(NOW));
    assert_eq!((problem.issuer, problem.result.unwrap_err().label()), (Some(0), "no_keys"));
    let problem = TokenIssuers::default().validate(&RSA.token(&claims()), |_| None, at(NOW));
    assert_eq!((problem.issuer, problem.result.unwrap_err().label()), (None, "issuer"));
}

#[test]
fn a_changed_token_has_no_valid_signature() {
    let token = RSA.token(&claims());
    let mut parts: Vec<&str> = token.split('.').collect();
    let other = RSA.token(&with("sub", json!("system:serviceaccount:shop:admin")));
    parts[1] = other.split('.').nth(1).unwrap();
    assert_eq!(refused(&parts.join(".")).0, "signature");
    parts[2] = "";
    assert_eq!(refused(&parts.join(".")).0, "signature");
}

#[test]
fn every_registered_claim_is_required() {
    for (claim, label) in [
        ("iss", "claims"),
        ("aud", "claims"),
        ("exp", "claims"),
        ("nbf", "claims"),
        ("sub", "claims"),
        ("kubernetes.io", "claims"),
    ] {
        let (found, told) = refused(&RSA.token(&with(claim, Value::Null)));
        assert_eq!((found, told.contains("is missing")), (label, true), "{claim}: {told}");
        // A null is no value.
        let mut claims = claims();
        claims[claim] = Value::Null;
        assert!(validate(&RSA.token(&claims)).is_err(), "{claim}");
    }
    for (claim, value) in [
        ("iss", json!([ISSUER])),
        ("iss", json!("")),
        ("sub", json!(17)),
        ("sub", json!("x".repeat(2049))),
        ("aud", json!({ "a": 1 })),
        ("aud", json!([AUDIENCE, 7])),
        ("aud", json!(vec![AUDIENCE; 33])),
        ("exp", json!("1800003600")),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("exp", json!(u64::MAX)),
        ("nbf", json!("0")),
    ] {
        assert!(validate(&RSA.token(&with(claim, value.clone()))).is_err(), "{claim} {value}");
    }
    assert!(validate(&RSA.token(&with("exp", json!(1_800_003_600.5)))).is_ok());
}

#[test]
fn the_audience_is_one_of_the_list() {
    assert!(validate(&RSA.token(&with("aud", json!(AUDIENCE)))).is_ok());
    assert!(validate(&RSA.token(&with("aud", json!(["x", "sts.amazonaws.com"])))).is_ok());
    let (label, told) = refused(&RSA.token(&with("aud", json!("mongodb://billing"))));
    assert_eq!(label, "audience");
    assert_eq!(told, format!("audience is mongodb://billing, expected {AUDIENCE} or sts.amazonaws.com"));
    for other in [json!([]), json!("MONGODB://ORDERS"), json!("mongodb://orders/"), json!(["mongodb://"])] {
        assert_eq!(refused(&RSA.token(&with("aud", other))).0, "audience");
    }
}

#[test]
fn a_credential_for_the_kubernetes_api_is_refused_unless_it_is_listed() {
    let with_audience = |aud: Value| RSA.token(&with("aud", aud));
    for audience in [ISSUER, "https://kubernetes.default.svc", "https://kubernetes.default.svc.cluster.local:443"] {
        for aud in [json!(audience), json!([AUDIENCE, audience])] {
            let (label, told) = refused(&with_audience(aud.clone()));
            assert_eq!((label, told.contains("API server")), ("audience", true), "{aud}: {told}");
        }
        let mut listed = issuer();
        listed.audiences.push(audience.to_owned());
        assert!(validate_at(vec![listed], &with_audience(json!([AUDIENCE, audience])), NOW).is_ok());
    }
    assert!(validate(&with_audience(json!([AUDIENCE, "https://kubernetes.defaults.example"]))).is_ok());
}

#[test]
fn dates_are_compared_with_the_skew_of_the_clocks() {
    let token = RSA.token(&claims());
    let (issued, expires) = (NOW - 60, NOW - 60 + 3600);
    for (now, expected) in [
        (issued - 30, Ok(())),
        (issued - 31, Err("token is not valid before 31 seconds from now")),
        (expires, Ok(())),
        (expires + 29, Ok(())),
        (expires + 30, Err("token expired 30 seconds ago")),
        (expires + 300, Err("token expired 5 minutes ago")),
    ] {
        let told = validate_at(vec![issuer()], &token, now).map(drop).map_err(|problem| problem.to_string());
        assert_eq!(told, expected.map_err(ToOwned::to_owned), "{now}");
    }
    // One that a driver could not use: it would be told that it expired by the next command.
    let strict = TokenIssuer { clock_skew: Duration::ZERO, ..issuer() };
    assert!(validate_at(vec![strict.clone()], &token, expires - 1).is_ok());
    let late = TokenIssuers::new(vec![strict]).validate(
        &token,
        |_| Some(Box::leak(Box::new(keys([&*RSA])))),
        at(expires) - Duration::from_millis(999),
    );
    assert_eq!(late.result, Err(TokenProblem::AboutToExpire));
}

#[test]
fn a_token_is_bounded_before_it_is_read() {
    assert_eq!(refused(&"a".repeat(64 * 1024)).1, "the token has more than 16384 bytes");
    let long = with("padding", json!("x".repeat(16 * 1024)));
    assert_eq!(refused(&RSA.token(&long)).0, "malformed");
    assert!(validate(&RSA.token(&with("padding", json!("x".repeat(8 * 1024))))).is_ok());
    let mut deep = json!(1);
    for _ in 0..20 {
        deep = json!([deep]);
    }
    assert_eq!(refused(&RSA.token(&with("deep", deep))).0, "malformed");
    for text in ["", ".", "..", "...", "a.b", "a.b.c.d", "é.é.é", "a.b.c", "\0", "a b.c.d"] {
        assert_eq!(refused(text).0, "malformed", "{text}");
    }
    let token = RSA.token(&claims());
    for odd in [format!("{token}.x"), format!("{token}="), format!("Bearer {token}"), token.replace('.', "..")] {
        assert_eq!(refused(&odd).0, "malformed");
    }
}

#[test]
fn what_two_readers_read_differently_is_refused() {
    let claims = claims().to_string();
    let twice = claims.replacen('{', r#"{"sub":"system:serviceaccount:shop:admin","#, 1);
    assert_eq!(refused(&RSA.token_of_text(r#"{"alg":"RS256","kid":"k1"}"#, &twice)).0, "malformed");
    for header in
        [r#"{"alg":"none","alg":"RS256","kid":"k1"}"#, r#"{"alg":"RS256","kid":"f1","kid":"k1"}"#, "[]", "1", ""]
    {
        assert_eq!(refused(&RSA.token_of_text(header, &claims)).0, "malformed", "{header}");
    }
    assert_eq!(refused(&RSA.token_of_text(r#"{"alg":"RS256","kid":"k1"}"#, "[1]")).0, "malformed");
    let (label, told) =
        refused(&RSA.token_with(&json!({ "alg": "RS256", "kid": "k1", "crit": ["x"], "x": 1 }), &json!({})));
    assert_eq!((label, told.contains("crit")), ("malformed", true), "{told}");
}

#[test]
fn a_claim_cannot_become_another_principal() {
    for name in ["orders/../admin", "a/sa/b", "", "..", "a b", "a\u{202e}b", "a\nb"] {
        let kubernetes = json!({ "namespace": "shop", "serviceaccount": { "name": name } });
        assert_eq!(refused(&RSA.token(&with("kubernetes.io", kubernetes))).0, "claims", "{name}");
    }
}

#[test]
fn required_claims_have_one_of_their_values() {
    let requires = |path: &str, values: &[&str]| {
        let values = values.iter().map(ToString::to_string).collect();
        TokenIssuer { required_claims: vec![(ClaimPath::parse(path).unwrap(), values)], ..issuer() }
    };
    let token = RSA.token(&with("groups", json!(["ops", "dba"])));
    for (path, values, expected) in [
        ("kubernetes.io.namespace", &["shop"][..], true),
        ("kubernetes.io.namespace", &["billing", "shop"], true),
        ("kubernetes.io.namespace", &["billing"], false),
        ("kubernetes.io", &["shop"], false),
        ("groups", &["dba"], true),
        ("groups", &["admin"], false),
        ("email_verified", &["true"], false),
    ] {
        let result = validate_at(vec![requires(path, values)], &token, NOW);
        assert_eq!(result.is_ok(), expected, "{path} {values:?}");
        assert!(expected || result.unwrap_err().label() == "claims");
    }
    let verified = RSA.token(&with("email_verified", json!(true)));
    assert!(validate_at(vec![requires("email_verified", &["true"])], &verified, NOW).is_ok());
}

#[test]
fn another_issuer_has_its_own_template_and_needs_no_nbf() {
    let principal = PrincipalTemplate::parse("{trust_domain}/google/{sub}", Some("cluster.local")).unwrap();
    let google = TokenIssuer { principal, ..issuer() };
    let claims = json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "10769150350006150715113082367", "exp": NOW + 60 });
    let valid = validate_at(vec![google.clone()], &EC.token(&claims), NOW).unwrap();
    assert_eq!(valid.principal.as_str(), "cluster.local/google/10769150350006150715113082367");
    // With a template, a SPIFFE ID in sub is a value as any other.
    let spiffe = json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "spiffe://cluster.local/ns/a/sa/b", "exp": NOW + 60 });
    assert_eq!(validate_at(vec![google], &EC.token(&spiffe), NOW).unwrap_err().label(), "claims");
}

#[test]
fn a_jwt_svid_is_its_spiffe_id() {
    let svid = |sub: &str| json!({ "sub": sub, "aud": [AUDIENCE], "exp": NOW + 60 });
    let validate = |claims: &Value| validate_at(vec![svid_issuer()], &EC.token(claims), NOW);
    let id = "spiffe://prod.example/billing/api";
    let valid = validate(&svid(id)).unwrap();
    assert_eq!(
        (valid.principal.as_str(), valid.issuer.as_str()),
        ("prod.example/billing/api", "spiffe://prod.example")
    );
    // SPIRE sets iss on request. It does not matter.
    let mut with_issuer = svid(id);
    with_issuer["iss"] = json!("https://spire.example");
    assert!(validate(&with_issuer).is_ok());
    for (sub, label) in [
        ("spiffe://other.example/billing/api", "issuer"),
        ("spiffe://prod.example", "claims"),
        ("spiffe://prod.example/a/../b", "claims"),
        ("spiffe://prod.example/a?x=1", "claims"),
        ("spiffe://Prod.example/a", "issuer"),
        ("prod.example/billing/api", "claims"),
        ("system:serviceaccount:shop:orders", "claims"),
    ] {
        assert_eq!(validate(&svid(sub)).unwrap_err().label(), label, "{sub}");
    }
    for missing in ["sub", "aud", "exp"] {
        let mut claims = svid(id);
        claims.as_object_mut().unwrap().remove(missing);
        assert!(validate(&claims).is_err(), "{missing}");
    }
    let header = |more: Value| {
        let mut header = json!({ "alg": "ES256", "kid": "k2" });
        header.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        validate_at(vec![svid_issuer()], &EC.token_with(&header, &svid(id)), NOW).map(drop)
    };
    assert_eq!(header(json!({ "typ": "JWT" })), Ok(()));
    assert_eq!(header(json!({ "typ": "JOSE" })), Ok(()));
    assert!(header(json!({ "typ": "at+jwt" })).is_err());
    assert!(header(json!({ "x5t": "abc" })).is_err());
}

#[test]
fn an_issuer_with_a_name_takes_spiffe_ids_of_its_trust_domain() {
    let svid = |sub: &str| RSA.token(&json!({ "iss": ISSUER, "sub": sub, "aud": AUDIENCE, "exp": NOW + 60 }));
    assert_eq!(validate(&svid("spiffe://cluster.local/x")).unwrap().principal.as_str(), "cluster.local/x");
    assert_eq!(validate(&svid("spiffe://other.local/x")).unwrap_err().label(), "claims");
}

#[test]
fn keys_that_cannot_verify_tokens_are_left_out() {
    let usable = RSA.jwk();
    let changed = |member: &str, value: Value| {
        let mut jwk = FOREIGN.jwk();
        let object = jwk.as_object_mut().unwrap();
        if value.is_null() {
            drop(object.remove(member));
        } else {
            drop(object.insert(member.to_owned(), value));
        }
        jwk
    };
    let short = json!({ "kty": "RSA", "kid": "s", "e": "AQAB", "n": "w".repeat(171) });
    let zeros =
        json!({ "kty": "RSA", "kid": "z", "e": "AQAB", "n": format!("{}{}", "A".repeat(300), "w".repeat(100)) });
    for (jwk, reason) in [
        (json!({ "kty": "oct", "kid": "o", "k": "c2VjcmV0" }), "shared secret"),
        (json!({ "kty": "oct", "kid": "o", "k": "c2VjcmV0", "alg": "RS256" }), "shared secret"),
        (changed("use", json!("enc")), "use is enc"),
        (changed("use", json!("x509-svid")), "use is x509-svid"),
        (changed("key_ops", json!(["encrypt"])), "key_ops"),
        (changed("kid", Value::Null), "no kid"),
        (changed("kid", json!("")), "no kid"),
        (changed("kid", json!(7)), "kid is not a string"),
        (changed("alg", json!("HS256")), "its alg is not"),
        (changed("alg", json!("ES256")), "its alg is not"),
        (changed("alg", json!("RSA-OAEP")), "its alg is not"),
        (changed("d", json!("AQAB")), "private key"),
        (changed("e", json!("AQ")), "exponent"),
        (changed("e", json!("AAAA")), "exponent"),
        (changed("n", json!("!")), "not base64url"),
        (changed("kty", json!("DSA")), "kty DSA"),
        (short, "1024 bits"),
        (zeros, "bits"),
        (json!({ "kty": "EC", "kid": "e", "crv": "P-521", "x": "AA", "y": "AA" }), "curve P-521"),
        (json!({ "kty": "EC", "kid": "e", "crv": "P-256", "x": "AA", "y": "AA" }), "not a point"),
        (json!({ "kty": "OKP", "kid": "e", "crv": "X25519", "x": "AA" }), "curve X25519"),
        (json!(17), "not a JSON object"),
    ] {
        let set = KeySet::from_json(json!({ "keys": [usable, jwk] }).to_string().as_bytes()).unwrap();
        let told = set.left_out()[0].to_string();
        assert!(set.len() == 1 && set.has("k1") && told.contains(reason), "{jwk}: {told}");
        assert!(KeySet::from_json(json!({ "keys": [jwk] }).to_string().as_bytes()).is_err(), "{jwk}");
    }
}

#[test]
fn two_keys_with_one_kid_are_both_left_out() {
    let mut other = FOREIGN.jwk();
    other["kid"] = json!("k1");
    for keys in [json!([RSA.jwk(), other, EC.jwk()]), json!([other, EC.jwk(), RSA.jwk(), other])] {
        let set = KeySet::from_json(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
        assert_eq!((set.len(), set.has("k1"), set.left_out().len()), (1, false, 1));
    }
    // One of the two cannot verify, so that the kid is not ambiguous.
    other["use"] = json!("enc");
    assert!(KeySet::from_json(json!({ "keys": [RSA.jwk(), other] }).to_string().as_bytes()).unwrap().has("k1"));
}

#[test]
fn a_document_that_is_no_key_set_is_an_error() {
    for (document, expected) in [
        ("", "not JSON"),
        ("<html>", "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "no array \"keys\""),
        (r#"{"keys":{}}"#, "no array \"keys\""),
        (r#"{"keys":[]}"#, "no key that can verify"),
        (r#"{"keys":[],"keys":[]}"#, "twice"),
        (r#"{"issuer":"https://x","jwks_uri":"https://x/jwks"}"#, "no array \"keys\""),
    ] {
        let told = KeySet::from_json(document.as_bytes()).unwrap_err().to_string();
        assert!(told.contains(expected), "{document}: {told}");
    }
    let many = json!({ "keys": vec![RSA.jwk(); 257] }).to_string();
    assert!(KeySet::from_json(many.as_bytes()).unwrap_err().to_string().contains("more than 256 keys"));
    assert!(KeySet::from_json(&vec![b' '; 2 << 20]).unwrap_err().to_string().contains("more than 1048576 bytes"));
}
