//! Parsing, checking and forwarding a message allocates no memory, except what TLS needs.
//!
//! This is a separate test binary, because the counting allocator is global.

mod kit;
#[path = "../benches/instructions/relayed.rs"]
mod relayed;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write as _;

use bson::spec::BinarySubtype;
use bson::{Binary, RawDocumentBuf, rawdoc};
use smallvec::{SmallVec, smallvec};

use relayed::{Relayed, Rules};

use mongate::command::table;
use mongate::command::{self, Meaning, Reach, Request, Resource};
use mongate::config::{Action, Enforcement, FromConfig, PolicyConfig, RuleConfig, ToConfig, Values};
use mongate::identity::Principal;
use mongate::policy::{CallerFacts, Effect, Note, Policy, View};
use mongate::tls::Records;
use mongate::wire::op_msg;

thread_local! {
    /// Per thread, because tests run in parallel.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[expect(unsafe_code, reason = "GlobalAlloc is an unsafe trait; this allocator counts, and calls the system allocator")]
// SAFETY: every call is passed unchanged to the system allocator. The counter has no destructor and does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller upholds the same contract that the system allocator requires.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

fn allocations_of<T>(run: impl FnOnce() -> T) -> (usize, T) {
    let before = ALLOCATIONS.get();
    let result = run();
    (ALLOCATIONS.get() - before, result)
}

const CALLER: &str = "cluster.local/ns/shop/sa/cart";

fn values(text: &str) -> Values {
    Values { any: Some(vec![text.to_owned()]), not: None }
}

fn rule(n: usize, action: Action, database: &str, collection: &str) -> RuleConfig {
    RuleConfig {
        name: format!("rule-{n}"),
        action,
        dry_run: n.is_multiple_of(5),
        expires: None,
        reason: None,
        from: Some(vec![FromConfig { principals: values(CALLER), ..FromConfig::default() }]),
        to: Some(vec![ToConfig {
            databases: values(database),
            collections: Values { any: Some(vec![collection.to_owned()]), not: Some(vec![format!("not-{n}")]) },
            ..ToConfig::default()
        }]),
    }
}

/// A policy of `count` rules and two more: one allows everything in `shop`, and one audits `orders`.
fn view(count: usize) -> View {
    let mut rules: Vec<RuleConfig> = (1..=count)
        .map(|n| rule(n, [Action::Deny, Action::Allow][n % 2], &format!("db-{n}"), &format!("c-{n}*")))
        .collect();
    rules.push(rule(1_000_001, Action::Audit, "shop", "orders"));
    rules.push(rule(1_000_002, Action::Allow, "shop", "*"));
    let config = PolicyConfig {
        enforcement: Enforcement::Enforce,
        deny_javascript: false,
        known_commands: std::collections::BTreeMap::new(),
        rules,
    };
    let policy = Policy::compile(&config, std::time::SystemTime::now()).expect("rules without commands");
    let principal = Principal::configured(CALLER);
    policy.view(&CallerFacts { principal: Some(&principal), source: None, listener: "orders" })
}

fn meaning<'a>(name: &str, resource: Resource<'a>) -> Meaning<'a> {
    let command = table::find(name.as_bytes()).expect("a command of the table");
    Meaning {
        command,
        explained: false,
        database: "shop",
        reaches: smallvec![Reach { resource, class: command.class, incidental: false }],
        javascript: false,
        listing: None,
        essential: command.class == table::Class::Handshake,
        cursors: SmallVec::new(),
        sessions: SmallVec::new(),
    }
}

#[test]
fn the_allocator_counts() {
    assert_eq!(allocations_of(|| Box::new(7)).0, 1);
    assert_eq!(allocations_of(|| 7).0, 0);
}

#[test]
fn checking_a_command_does_not_allocate_for_any_number_of_rules() {
    let orders = Resource::Collection { database: "shop", collection: "orders" };
    let vault = Resource::Collection { database: "vault", collection: "orders" };
    for count in [0, 1, 1_000] {
        let view = view(count);
        let cases = [
            (meaning("ping", Resource::Database("admin")), Effect::Allow, 0),
            (meaning("find", orders), Effect::Allow, 1),
            (meaning("find", vault), Effect::Deny, 0),
        ];
        for (meaning, effect, notes) in cases {
            // The first decision for a command and place is computed and cached.
            view.judge(&meaning);
            let (allocations, judgement) = allocations_of(|| view.judge(&meaning));
            let audits = judgement.notes.iter().filter(|(note, _)| *note == Note::Audit).count();
            assert_eq!((allocations, judgement.effect, audits), (0, effect, notes), "{:?} {count}", meaning.command);
        }
    }
}

#[test]
fn parsing_and_checking_a_command_do_not_allocate() {
    let ping = rawdoc! { "ping": 1, "$db": "admin" };
    let find = rawdoc! { "find": "orders", "filter": { "customer": 5 }, "lsid": { "id": session_id() }, "$db": "shop" };
    let aggregate =
        rawdoc! { "aggregate": "orders", "pipeline": [{ "$match": { "a": 1 } }], "cursor": {}, "$db": "shop" };
    let view = view(1_000);
    for body in [&ping, &find, &aggregate] {
        read_and_judge(&view, body);
        let (allocations, effect) = allocations_of(|| read_and_judge(&view, body));
        assert_eq!((allocations, effect), (0, Some(Effect::Allow)), "{body:?}");
    }
}

/// Counts the allocations of rustls for encrypting `request` and decrypting `reply`: one buffer per record.
fn allocations_of_tls(request: &[u8], reply: &[u8]) -> usize {
    let (mut session, mut server) = relayed::shake_hands().expect("both sides trust each other");
    let mut records = Records::default();
    let round_trips = (0..2).map(|_| {
        records.clear();
        let (sealing, sealed) = allocations_of(|| session.seal(request, &mut records));
        sealed.expect("the handshake is over");
        server.writer().write_all(reply).expect("the handshake is over");
        let mut back = Vec::new();
        server.write_tls(&mut back).expect("a write to memory");
        let (opening, opened) = allocations_of(|| session.open(&mut back, |_| {}, &mut Records::default()));
        opened.expect("the server's record");
        sealing + opening
    });
    // The first round trip allocates buffers that are reused.
    round_trips.last().expect("two round trips")
}

#[test]
fn forwarding_a_message_allocates_only_what_tls_allocates() {
    let ping = op_msg::encode(1, 0, &rawdoc! { "ping": 1, "$db": "admin" });
    let session = rawdoc! { "id": session_id() };
    let find = rawdoc! { "find": "orders", "filter": { "customer": 5 }, "lsid": session, "$db": "shop" };
    let find = op_msg::encode(1, 0, &find);
    let ok = op_msg::encode(9, 1, &rawdoc! { "ok": 1.0 });
    for (request, judged) in [(&ping, Rules::Off), (&ping, Rules::Count(100)), (&find, Rules::Count(100))] {
        let expected = allocations_of_tls(request, &ok);
        let mut relayed = Relayed::new(judged).expect("a relay");
        // The first round trips allocate buffers that are reused, and the in-memory pipe grows sometimes.
        let round_trips = (0..8).map(|_| {
            let mut allocations = 0;
            let done = relayed.round_trip(request, &ok, &mut |turn| allocations += allocations_of(turn).0);
            done.expect("a round trip");
            allocations
        });
        assert_eq!((expected, round_trips.min()), (2, Some(2)), "{judged:?}");
    }
}

fn session_id() -> Binary {
    Binary { subtype: BinarySubtype::Uuid, bytes: vec![7; 16] }
}

/// `None` where it is not understood.
fn read_and_judge(view: &View, body: &RawDocumentBuf) -> Option<Effect> {
    let request = Request { body, database: None, sequences: &[] };
    let meaning = command::read(&request, view.read_options()).ok()?;
    Some(view.judge(&meaning).effect)
}
