//! Every rule of the conversation, in the order in which drivers send commands.

use std::time::{Duration, UNIX_EPOCH};

use bson::spec::BinarySubtype;
use bson::{Binary, Document, doc};

use super::*;

/// Seconds on the clock of the tests.
fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

/// A token that expires at `expires`, without skew, with a grace of 300 s.
fn token(principal: &str, expires: u64) -> ValidToken {
    ValidToken {
        principal: Principal::configured(principal),
        issuer: "https://issuer".to_owned(),
        subject: "subject".to_owned(),
        kid: "k1".to_owned(),
        expires: at(expires),
        valid_until: at(expires),
        expiry_grace: Duration::from_mins(5),
    }
}

const ORDERS: &str = "cluster.local/ns/shop/sa/orders";
const ADMIN: &str = "cluster.local/ns/shop/sa/admin";

fn payload(document: &Document) -> Binary {
    Binary { subtype: BinarySubtype::Generic, bytes: bson::serialize_to_vec(document).unwrap() }
}

fn sasl_start(document: &Document) -> Document {
    doc! { "saslStart": 1, "mechanism": "MONGODB-OIDC", "payload": payload(document), "$db": "$external" }
}

fn scram() -> Document {
    doc! { "saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": payload(&doc! {}), "$db": "admin" }
}

fn sasl_continue(id: i32) -> Document {
    doc! { "saslContinue": 1, "conversationId": id, "payload": payload(&doc! { "jwt": "a.b.c" }), "$db": "$external" }
}

fn hello(speculation: Option<Document>) -> Document {
    let mut command = doc! { "hello": 1, "$db": "admin" };
    command.extend(speculation.map(|inner| doc! { "speculativeAuthenticate": inner }).unwrap_or_default());
    command
}

/// A client and its session.
struct Client(TokenSession);

impl Client {
    fn new(is_required: bool) -> Self {
        let provider = IdentityProvider { issuer: "https://i".to_owned(), client_id: None, request_scopes: Vec::new() };
        Self(TokenSession::new(TokenDemand {
            is_required,
            separates_passwords: false,
            identity_provider: Some(provider.into()),
            certificate: None,
        }))
    }

    /// In front of an upstream to which the gateway authenticates.
    fn separating() -> Self {
        Self(TokenSession::new(TokenDemand { separates_passwords: true, ..TokenDemand::default() }))
    }

    /// Authenticated from 0 s to 60 s.
    fn authenticated(is_required: bool) -> Self {
        let mut client = Self::new(is_required);
        assert_eq!(client.send(&sasl_start(&doc! { "jwt": "a.b.c" }), 0), "validate a.b.c");
        assert_eq!(client.validated(Ok(token(ORDERS, 60))), "done");
        client
    }

    /// What becomes of a command, in short.
    fn send(&mut self, command: &Document, seconds: u64) -> String {
        self.send_with(command, seconds, false)
    }

    fn send_with(&mut self, command: &Document, seconds: u64, more_to_come: bool) -> String {
        let body = RawDocumentBuf::try_from(command).unwrap();
        let name = command.keys().next().unwrap();
        match self.0.step(&SessionCommand { name, body: Some(&body), more_to_come }, at(seconds)) {
            SessionStep::Pass => "pass".to_owned(),
            SessionStep::PassHello => "stripped".to_owned(),
            SessionStep::Separate => "separate".to_owned(),
            SessionStep::Speculate(token) => format!("speculate {token}"),
            SessionStep::Validate(token) => format!("validate {token}"),
            SessionStep::Answer(answer) => shown(&answer),
            SessionStep::Drop => "dropped".to_owned(),
        }
    }

    /// A command that consists of its name.
    fn name(&mut self, name: &str, seconds: u64) -> String {
        self.send(&doc! { name: 1, "$db": "shop" }, seconds)
    }

    fn validated(&mut self, result: TokenResult) -> String {
        shown(&self.0.validated(result))
    }
}

fn shown(answer: &SessionAnswer) -> String {
    match answer {
        SessionAnswer::Done(document) if document.get_bool("done").is_ok_and(|done| !done) => "log in".to_owned(),
        SessionAnswer::Done(_) => "done".to_owned(),
        SessionAnswer::Failed(error) => format!("{} {}", error.code, error.code_name),
    }
}

#[test]
fn before_the_authentication_only_the_handshake_passes() {
    let mut client = Client::new(true);
    for (command, expected) in [
        (hello(None), "stripped"),
        (doc! { "isMaster": 1 }, "stripped"),
        (doc! { "ismaster": 1, "topologyVersion": 1, "maxAwaitTimeMS": 10_000 }, "stripped"),
        (doc! { "ping": 1 }, "pass"),
        (doc! { "buildInfo": 1 }, "pass"),
        (doc! { "buildinfo": 1 }, "pass"),
        (doc! { "connectionStatus": 1 }, "pass"),
        (doc! { "find": "orders" }, "13 Unauthorized"),
        (doc! { "Ping": 1 }, "13 Unauthorized"),
        (doc! { "endSessions": [] }, "13 Unauthorized"),
        (doc! { "getMore": 1_i64 }, "13 Unauthorized"),
        (doc! { "\u{1b}[31m": 1 }, "13 Unauthorized"),
        (doc! { "authenticate": 1, "mechanism": "MONGODB-X509" }, "334 MechanismUnavailable"),
        (scram(), "334 MechanismUnavailable"),
        (sasl_continue(1), "18 AuthenticationFailed"),
        (doc! { "logout": 1 }, "done"),
        (doc! { "find": "orders" }, "13 Unauthorized"),
    ] {
        assert_eq!(client.send(&command, 0), expected, "{command}");
    }
    let told = client.0.step(&SessionCommand { name: "find", body: None, more_to_come: false }, at(0));
    let SessionStep::Answer(SessionAnswer::Failed(error)) = told else { panic!("{told:?}") };
    assert!(error.message.contains("command find requires authentication"), "{}", error.message);
}

#[test]
fn a_monitor_is_answered_for_ever() {
    let mut client = Client::new(true);
    for seconds in [0, 1_000, 1_000_000, 1_000_000_000] {
        assert_eq!(client.send(&hello(None), seconds), "stripped");
    }
}

#[test]
fn one_step_authenticates() {
    let mut client = Client::authenticated(true);
    assert_eq!(client.0.owner().map(Principal::as_str), Some(ORDERS));
    assert_eq!(client.0.token().map(|token| token.issuer.as_str()), Some("https://issuer"));
    for name in ["find", "insert", "dropDatabase", "ping", "getMore"] {
        assert_eq!(client.name(name, 59), "pass");
    }
    assert_eq!(client.send(&scram(), 1), "334 MechanismUnavailable");
    assert_eq!(client.send(&sasl_continue(1), 1), "18 AuthenticationFailed");
}

#[test]
fn two_steps_authenticate_a_person() {
    for document in [doc! {}, doc! { "n": "me@example.com" }] {
        let mut client = Client::new(true);
        assert_eq!(client.send(&sasl_start(&document), 0), "log in");
        assert_eq!(client.name("find", 0), "13 Unauthorized");
        assert_eq!(client.send(&sasl_continue(1), 0), "validate a.b.c");
        assert_eq!(client.validated(Ok(token(ORDERS, 60))), "done");
        assert_eq!(client.name("find", 0), "pass");
        // The conversation is over.
        assert_eq!(client.send(&sasl_continue(1), 0), "18 AuthenticationFailed");
        assert_eq!(client.name("find", 0), "pass");
    }
    let mut client = Client::new(true);
    assert_eq!(client.send(&sasl_start(&doc! {}), 0), "log in");
    assert_eq!(client.send(&sasl_continue(2), 0), "18 AuthenticationFailed");
    assert_eq!(client.send(&sasl_continue(1), 0), "18 AuthenticationFailed");
    // A new saslStart ends the conversation before it.
    assert_eq!(client.send(&sasl_start(&doc! {}), 0), "log in");
    assert_eq!(client.send(&sasl_start(&doc! { "jwt": "a.b.c" }), 0), "validate a.b.c");
    assert_eq!(client.validated(Err(TokenProblem::NotCompact)), "18 AuthenticationFailed");
    assert_eq!(client.send(&sasl_continue(1), 0), "18 AuthenticationFailed");
    let mut without = Client(TokenSession::new(TokenDemand { is_required: true, ..TokenDemand::default() }));
    assert_eq!(without.send(&sasl_start(&doc! {}), 0), "18 AuthenticationFailed");
    assert_eq!(without.send(&sasl_continue(1), 0), "18 AuthenticationFailed");
}

#[test]
fn a_hello_authenticates_or_says_nothing() {
    let speculative = hello(Some(sasl_start(&doc! { "jwt": "a.b.c" })));
    let mut client = Client::new(true);
    assert_eq!(client.send(&speculative, 0), "speculate a.b.c");
    assert_eq!(client.0.speculated(Err(TokenProblem::AboutToExpire)), None);
    assert_eq!(client.name("find", 0), "13 Unauthorized");
    assert_eq!(client.send(&speculative, 0), "speculate a.b.c");
    assert!(client.0.speculated(Ok(token(ORDERS, 60))).is_some_and(|field| matches!(field.get("ok"), Ok(None))));
    assert_eq!(client.name("find", 0), "pass");
    for inner in [scram(), sasl_start(&doc! {}), sasl_start(&doc! { "jwt": 5 }), doc! {}] {
        assert_eq!(Client::new(true).send(&hello(Some(inner.clone())), 0), "stripped", "{inner}");
    }
}

#[test]
fn an_expired_token_is_told_once_and_never_after_a_new_one() {
    let mut client = Client::authenticated(true);
    assert_eq!(client.name("find", 59), "pass");
    for name in ["find", "insert", "aggregate", "saslStarts"] {
        assert_eq!(client.name(name, 60), "391 ReauthenticationRequired", "{name}");
    }
    for name in ["hello", "ping", "buildInfo"] {
        assert!(["pass", "stripped"].contains(&client.name(name, 60).as_str()), "{name}");
    }
    // The driver sends a stale token, which the validation refuses, and then a fresh one.
    assert_eq!(client.send(&sasl_start(&doc! { "jwt": "a.b.c" }), 61), "validate a.b.c");
    assert_eq!(client.validated(Err(TokenProblem::Expired { ago: Duration::from_secs(1) })), "18 AuthenticationFailed");
    assert_eq!(client.name("find", 61), "391 ReauthenticationRequired");
    assert_eq!(client.send(&sasl_start(&doc! { "jwt": "d.e.f" }), 61), "validate d.e.f");
    assert_eq!(client.validated(Ok(token(ORDERS, 120))), "done");
    for seconds in 61..120 {
        assert_eq!(client.name("find", seconds), "pass");
    }
    assert_eq!(client.name("find", 120), "391 ReauthenticationRequired");
}

#[test]
fn what_was_begun_ends_within_the_grace() {
    let mut client = Client::authenticated(true);
    for name in ["getMore", "killCursors", "commitTransaction", "abortTransaction", "endSessions"] {
        assert_eq!(client.name(name, 60), "pass", "{name}");
        assert_eq!(client.name(name, 359), "pass", "{name}");
        assert_eq!(client.name(name, 360), "391 ReauthenticationRequired", "{name}");
    }
    let insert = doc! { "insert": "orders", "writeConcern": { "w": 0 } };
    assert_eq!(client.send_with(&insert, 359, true), "pass");
    assert_eq!(client.send_with(&insert, 360, true), "dropped");
    assert_eq!(client.send(&insert, 359), "391 ReauthenticationRequired");
}

#[test]
fn what_expects_no_reply_gets_none() {
    let mut client = Client::new(true);
    for command in [
        doc! { "insert": "orders" },
        sasl_start(&doc! { "jwt": "a.b.c" }),
        sasl_start(&doc! {}),
        scram(),
        doc! { "endSessions": [] },
    ] {
        assert_eq!(client.send_with(&command, 0, true), "dropped", "{command}");
    }
    assert_eq!(client.name("find", 0), "13 Unauthorized");
}

#[test]
fn a_connection_stays_with_its_first_principal() {
    let mut client = Client::authenticated(true);
    let start = sasl_start(&doc! { "jwt": "a.b.c" });
    for seconds in [1, 70] {
        assert_eq!(client.send(&start, seconds), "validate a.b.c");
        assert_eq!(client.validated(Ok(token(ADMIN, 600))), "18 AuthenticationFailed");
        assert_eq!(client.0.owner().map(Principal::as_str), Some(ORDERS));
    }
    assert_eq!(client.0.speculated(Ok(token(ADMIN, 600))), None);
    // The old token was not replaced.
    assert_eq!(client.name("find", 59), "pass");
    assert_eq!(client.name("find", 70), "391 ReauthenticationRequired");
    assert_eq!(client.send(&doc! { "logout": 1 }, 70), "done");
    assert_eq!(client.send(&start, 70), "validate a.b.c");
    assert_eq!(client.validated(Ok(token(ADMIN, 600))), "18 AuthenticationFailed");
    assert_eq!(client.send(&start, 70), "validate a.b.c");
    assert_eq!(client.validated(Ok(token(ORDERS, 600))), "done");
}

#[test]
fn a_logout_ends_the_authentication() {
    for is_required in [true, false] {
        let mut client = Client::authenticated(is_required);
        assert_eq!(client.send(&doc! { "logout": 1 }, 1), "done");
        assert!(client.0.token().is_none());
        assert_eq!(client.name("find", 1), "13 Unauthorized");
        assert_eq!(client.name("ping", 1), "pass");
        assert_eq!(client.send(&scram(), 1), "334 MechanismUnavailable");
    }
}

#[test]
fn where_tokens_are_optional_other_mechanisms_are_told_apart() {
    let mut client = Client::new(false);
    for command in [
        hello(None),
        hello(Some(scram())),
        scram(),
        doc! { "saslContinue": 1, "conversationId": 1, "payload": payload(&doc! {}) },
        doc! { "authenticate": 1, "mechanism": "MONGODB-X509" },
        doc! { "find": "orders" },
        doc! { "logout": 1 },
    ] {
        assert_eq!(client.send(&command, 0), "pass", "{command}");
    }
    assert_eq!(client.send(&hello(Some(sasl_start(&doc! { "jwt": "a.b.c" }))), 0), "speculate a.b.c");
    assert!(client.0.speculated(Ok(token(ORDERS, 60))).is_some());
    assert_eq!(client.name("find", 59), "pass");
    assert_eq!(client.name("find", 60), "391 ReauthenticationRequired");
    assert_eq!(client.send(&scram(), 60), "334 MechanismUnavailable");
    assert_eq!(client.send(&hello(Some(scram())), 60), "stripped");
}

#[test]
fn a_message_that_cannot_be_read_is_never_forwarded() {
    for is_required in [true, false] {
        let mut client = Client::new(is_required);
        let step = client.0.step(&SessionCommand { name: "saslStart", body: None, more_to_come: false }, at(0));
        let SessionStep::Answer(answer) = step else { panic!("{step:?}") };
        assert_eq!(shown(&answer), "18 AuthenticationFailed");
        let step = client.0.step(&SessionCommand { name: "hello", body: None, more_to_come: false }, at(0));
        assert_eq!(step, SessionStep::PassHello);
        let wrong = sasl_start(&doc! { "jwt": 5 });
        assert_eq!(client.send(&wrong, 0), "18 AuthenticationFailed");
    }
}

/// Drivers in Go and Rust repeat a command for ever when it is answered with 391 after each authentication.
#[test]
fn between_two_391_there_is_a_refused_token_or_a_new_expiry() {
    let mut client = Client::authenticated(true);
    let (mut seconds, mut expires, mut told) = (0, 60, 0);
    for _ in 0..300 {
        if client.name("find", seconds) == "pass" {
            seconds += 1;
            continue;
        }
        told += 1;
        assert_eq!(client.send(&sasl_start(&doc! { "jwt": "a.b.c" }), seconds), "validate a.b.c");
        // The validation refuses what has less than a second left.
        expires = expires.max(seconds + 1) + 10;
        assert_eq!(client.validated(Ok(token(ORDERS, expires))), "done");
        assert_eq!(client.name("find", seconds), "pass");
    }
    assert!(told > 10);
}

#[test]
fn a_client_with_a_password_is_separated_once_before_mongod_sees_it() {
    let x509 = doc! { "authenticate": 1, "mechanism": "MONGODB-X509", "db": "$external" };
    let asking = doc! { "isMaster": 1, "saslSupportedMechs": "admin.alice", "$db": "admin" };
    for first in [scram(), hello(Some(scram())), asking] {
        let mut client = Client::separating();
        for command in [hello(None), hello(Some(x509.clone())), x509.clone(), doc! { "find": "c", "$db": "shop" }] {
            assert_eq!(client.send(&command, 0), "pass", "{command}");
        }
        assert_eq!(client.send(&first, 0), "separate", "{first}");
        // The only certificate is that of the gateway.
        let mut mixed = hello(Some(x509.clone()));
        mixed.insert("saslSupportedMechs", "admin.alice");
        let mut doubled = scram();
        doubled.remove("mechanism");
        let server = doc! { "hello": 1, "internalClient": { "maxWireVersion": 17 }, "$db": "admin" };
        let no_mechanism = hello(Some(doubled.clone()));
        for command in [hello(Some(x509.clone())), mixed, server, no_mechanism] {
            assert_eq!(client.send(&command, 0), "stripped", "{command}");
        }
        let by_sasl = doc! { "saslStart": 1, "mechanism": "MONGODB-X509", "$db": "$external" };
        for command in [x509.clone(), by_sasl] {
            assert_eq!(client.send(&command, 0), "334 MechanismUnavailable", "{command}");
        }
        for command in [first, scram(), hello(Some(scram())), sasl_continue(1), doc! { "logout": 1, "$db": "admin" }] {
            assert_eq!(client.send(&command, 0), "pass", "{command}");
        }
        // It may still show a token, and is that of the token from then on.
        assert_eq!(client.send(&sasl_start(&doc! { "jwt": "a.b.c" }), 0), "validate a.b.c");
        assert_eq!(client.validated(Ok(token(ORDERS, 60))), "done");
        assert_eq!(client.send(&scram(), 1), "334 MechanismUnavailable");
        assert_eq!(client.send(&hello(Some(scram())), 1), "stripped");
    }
    let mut client = Client::separating();
    assert_eq!(client.send(&sasl_start(&doc! { "jwt": "a.b.c" }), 0), "validate a.b.c");
    assert_eq!(client.validated(Ok(token(ORDERS, 60))), "done");
    assert_eq!(client.send(&scram(), 1), "334 MechanismUnavailable");
}
