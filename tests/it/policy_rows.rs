//! Attempts to bypass a policy, as raw messages, with the expected outcome of each. The caller may use the database
//! `shop` except for `shop.private`, and no other database.
//!
//! Each attempt was tried on mongod 6.0.5. No row contains the canary, so no error message can repeat it.

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document, Timestamp, doc};

use crate::kit::raw::{self, OP_MSG, body_section, op_msg, sequence_section};
use crate::{policy_commands, policy_stages};

/// Request id of every row.
pub const ROW: i32 = 77;

/// The expected outcome of a row under the restrictive policy. The connection stays usable, except after `Closed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// An error with code 13. The request is not forwarded.
    Denied,
    /// The connection closes. An error may come first.
    Closed,
    /// No reply: the request sets moreToCome.
    Silent,
    /// Code 43: there is no such cursor.
    NoCursor,
    /// The request is allowed, and the reply is mongod's.
    Passes,
}

/// What happens to a row when the policy allows everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfAllowed {
    /// The reply contains the canary.
    Reads,
    /// The gateway still denies it, because it is malformed or unknown. Sent to mongod directly, it returns the canary.
    MongodReads,
    /// The test does not send it, because it reads nothing or does damage.
    Unsent,
}

/// One attempt to bypass the policy.
pub struct Row {
    pub name: String,
    pub bytes: Vec<u8>,
    pub verdict: Verdict,
    pub if_allowed: IfAllowed,
}

/// Facts about the server that an attacker may know without permission to read them.
#[derive(Debug, Clone)]
pub struct ServerFacts {
    /// A cursor on `vault.secret` of another caller.
    pub cursor: i64,
    /// A `listCollections` cursor of that caller in `vault`.
    pub listing: i64,
    /// The `UUID` of `shop.private`.
    pub private: Binary,
    /// The `UUID` of the collection in `shop` whose name is the canary.
    pub named: Binary,
    /// A cluster time before the canary was written.
    pub before: Timestamp,
}

/// A well-formed command that is denied, and that reads the canary when everything is allowed.
pub fn denied_read(name: &str, command: &Document) -> Row {
    Row { if_allowed: IfAllowed::Reads, ..denied(name, command) }
}

/// A list whose reply shows what the caller may see, and that reads the canary when everything is allowed.
pub fn filtered_read(name: &str, command: &Document) -> Row {
    Row { if_allowed: IfAllowed::Reads, ..passes(name, command) }
}

/// A well-formed command that is denied.
pub fn denied(name: &str, command: &Document) -> Row {
    Row { verdict: Verdict::Denied, ..passes(name, command) }
}

/// A well-formed command that is allowed.
pub fn passes(name: &str, command: &Document) -> Row {
    raw_row(name, Verdict::Passes, op_msg(ROW, 0, &[body_section(command)]))
}

/// A command that no driver sends. It is denied even when everything is allowed; mongod itself returns the canary.
pub fn unusual_read(name: &str, command: &Document, patches: &[(&str, &str)]) -> Row {
    Row { if_allowed: IfAllowed::MongodReads, ..patched(name, command, patches) }
}

/// A malformed command that is denied. Each patch replaces its first text with its second text of the same length.
pub fn patched(name: &str, command: &Document, patches: &[(&str, &str)]) -> Row {
    let mut row = denied(name, command);
    for (from, to) in patches {
        assert_eq!(from.len(), to.len(), "{name}");
        let places: Vec<_> = (0..row.bytes.len()).filter(|at| row.bytes[*at..].starts_with(from.as_bytes())).collect();
        assert!(!places.is_empty(), "{from} is not in {name}");
        for at in places {
            row.bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
    }
    row
}

/// A row of arbitrary bytes.
pub fn raw_row(name: &str, verdict: Verdict, bytes: Vec<u8>) -> Row {
    Row { name: name.to_owned(), bytes, verdict, if_allowed: IfAllowed::Unsent }
}

/// All rows.
pub fn all(facts: &ServerFacts) -> Vec<Row> {
    let groups = [framing(), envelopes(), names(facts), policy_stages::all(facts), policy_commands::all(facts)];
    groups.into_iter().flatten().collect()
}

/// A command that the caller may not run.
pub fn secret() -> Document {
    doc! { "find": "secret", "$db": "vault" }
}

fn private() -> Document {
    doc! { "find": "private", "$db": "shop" }
}

/// A command that the caller may run.
pub fn orders() -> Document {
    doc! { "find": "orders", "$db": "shop" }
}

/// Sections, flags and headers.
fn framing() -> Vec<Row> {
    let [secret, orders] = [secret(), orders()].map(|command| body_section(&command));
    let insert = body_section(&doc! { "insert": "secret", "$db": "vault" });
    let documents = sequence_section("documents", &[doc! { "n": 1 }]);
    let shadow = |name: &str, document: Document| sequence_section(name, &[document]);
    let denied = |name: &str, sections: &[&[u8]]| raw_row(name, Verdict::Denied, op_msg(ROW, 0, &[sections.concat()]));
    let flagged =
        |name: &str, bit: u32| raw_row(name, Verdict::Denied, op_msg(ROW, 1 << bit, std::slice::from_ref(&secret)));
    let mut reply = op_msg(ROW, 0, std::slice::from_ref(&secret));
    reply[8] = 5;
    let mut wrong = raw::op_msg_with_checksum(ROW, 0, std::slice::from_ref(&secret));
    *wrong.last_mut().unwrap() ^= 1;
    let long = sequence_section("documents", &vec![doc! { "text": "x".repeat(1_000) }; 200]);
    let mine = body_section(&doc! { "insert": "long", "$db": "shop" });
    let ended =
        |name: &str, behind: &[u8]| raw_row(name, Verdict::Closed, op_msg(ROW, 0, &[[&mine, &long, behind].concat()]));
    let long_silent = op_msg(ROW, raw::MORE_TO_COME, &[insert.clone(), long.clone()]);
    let silent = |command: &Document| op_msg(ROW, raw::MORE_TO_COME, &[body_section(command)]);
    vec![
        denied("two bodies, only the second one allowed", &[&secret, &orders]),
        denied("two bodies, only the first one allowed", &[&orders, &secret]),
        denied("a sequence before the body", &[&documents, &insert]),
        denied("a sequence after the body", &[&insert, &documents]),
        denied("a sequence that shadows $db", &[&orders, &shadow("$db", doc! { "": "vault" })]),
        denied("a sequence that shadows the collection", &[&orders, &shadow("find", doc! { "": "private" })]),
        denied("a sequence that shadows the filter", &[&shadow("filter", doc! {}), &orders]),
        denied("a sequence that belongs to another command", &[&insert, &documents, &shadow("updates", doc! {})]),
        denied("a security token", &[&orders, &[2], &raw::encode(&doc! {})]),
        denied("an unknown kind of section", &[&orders, &[3], &raw::encode(&doc! {})]),
        denied("bytes after the last section", &[&orders, &[0]]),
        denied("no body", &[&documents]),
        flagged("an unknown flag that must be understood", 2),
        flagged("an unknown flag that need not be understood", 17),
        flagged("the exhaustAllowed flag", 16),
        ended("a second body after more than the gateway holds", &secret),
        ended("another command's sequence after more than the gateway holds", &shadow("updates", doc! {})),
        ended("bytes after more than the gateway holds", &[9]),
        raw_row("a long insert with moreToCome", Verdict::Silent, long_silent),
        raw_row("a checksum", Verdict::Denied, raw::op_msg_with_checksum(ROW, 0, std::slice::from_ref(&secret))),
        raw_row("a wrong checksum", Verdict::Denied, wrong),
        raw_row("a request with responseTo set", Verdict::Closed, reply),
        raw_row("a find with moreToCome", Verdict::Silent, silent(&self::secret())),
        raw_row("an unknown command with moreToCome", Verdict::Silent, silent(&doc! { "none": 1, "$db": "vault" })),
        raw_row("an insert with moreToCome", Verdict::Silent, op_msg(ROW, raw::MORE_TO_COME, &[insert, documents])),
    ]
}

/// Messages other than `OP_MSG`.
fn envelopes() -> Vec<Row> {
    let payload = [&[0; 4][..], &body_section(&secret())].concat();
    let [admin, vault] = ["admin.$cmd", "vault.$cmd"];
    let query = |name: &str, namespace: &str, query: &Document| {
        raw_row(name, Verdict::Denied, raw::op_query(ROW, namespace, -1, query))
    };
    let closed = |name: &str, bytes| raw_row(name, Verdict::Closed, bytes);
    let compressed_query = [&[0; 4][..], b"vault.$cmd\0", &[0; 4], &[1, 0, 0, 0], &raw::encode(&secret())].concat();
    let mut rows = vec![
        closed("OP_COMPRESSED without negotiated compression", raw::op_compressed(ROW, OP_MSG, &payload)),
        closed("OP_COMPRESSED inside OP_COMPRESSED", raw::op_compressed(ROW, raw::OP_COMPRESSED, &payload)),
        closed("a compressed OP_QUERY", raw::op_compressed(ROW, raw::OP_QUERY, &compressed_query)),
        query("a find as OP_QUERY", vault, &doc! { "find": "secret" }),
        query("a find as OP_QUERY, wrapped in $query", vault, &doc! { "$query": { "find": "secret" } }),
        query("a find as OP_QUERY, wrapped in query", vault, &doc! { "query": { "find": "secret" } }),
        query("an OP_QUERY of a collection", "vault.secret", &doc! {}),
        query("an OP_QUERY of the running operations", "admin.$cmd.sys.inprog", &doc! {}),
        query("a hello that wraps a find", admin, &doc! { "$query": { "find": "secret" }, "hello": 1 }),
        query("saslStart in an OP_QUERY find", admin, &doc! { "find": "secret", "saslStart": 1 }),
        raw_row("a hello as OP_QUERY", Verdict::Passes, raw::op_query(ROW, admin, -1, &doc! { "isMaster": 1 })),
        closed("HTTP", b"GET /vault/secret HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        closed("an invalid message length", raw::with_length(-1, OP_MSG, ROW, &payload)),
    ];
    let old = [&[0; 4][..], b"vault.secret\0", &[0; 4], &raw::encode(&doc! {})].concat();
    for op_code in [0, 1, 1000, 2001, 2002, 2003, 2005, 2006, 2007, 2008, 2010, 2011, 4711] {
        rows.push(closed(&format!("operation code {op_code}"), raw::message(op_code, ROW, &old)));
    }
    rows
}

/// Names of commands, databases and collections.
fn names(facts: &ServerFacts) -> Vec<Row> {
    let symbol = || Bson::Symbol("private".to_owned());
    let uuid = Bson::Binary(facts.private.clone());
    let find = |collection: Bson| doc! { "find": collection, "$db": "shop" };
    let [pattern, options] = ["private", ""].map(|text| text.to_owned().try_into().unwrap());
    let modify = doc! { "findAndModify": symbol(), "query": {}, "update": { "$set": { "seen": 1 } }, "$db": "shop" };
    let old_uuid = Binary { subtype: BinarySubtype::UuidOld, ..facts.private.clone() };
    let find_in = |database: &str| doc! { "find": "secret", "$db": database };
    let union = [doc! { "$unionWith": "private" }];
    let mut rows = vec![
        denied_read("another database", &secret()),
        denied_read("a view in another database", &doc! { "find": "view", "$db": "vault" }),
        denied_read("a denied collection", &private()),
        denied_read("distinct", &doc! { "distinct": "private", "key": "text", "$db": "shop" }),
        unusual_read("a symbol as the name", &find(symbol()), &[]),
        unusual_read(
            "a symbol as the name, distinct",
            &doc! { "distinct": symbol(), "key": "text", "$db": "shop" },
            &[],
        ),
        unusual_read("a symbol as the name, findAndModify", &modify, &[]),
        unusual_read("a symbol inside explain", &explain(doc! { "find": symbol(), "filter": { "text": "x" } }), &[]),
        unusual_read("a UUID as the name", &find(uuid.clone()), &[]),
        unusual_read(
            "a UUID as the name, distinct",
            &doc! { "distinct": uuid.clone(), "key": "text", "$db": "shop" },
            &[],
        ),
        unusual_read("a UUID as the name, listIndexes", &doc! { "listIndexes": uuid, "$db": "shop" }, &[]),
        denied("a UUID of the old subtype", &find(Bson::Binary(old_uuid))),
        denied("a number as the name", &find(1.into())),
        denied("a document as the name", &find(doc! { "coll": "private" }.into())),
        denied("an array as the name", &find(vec!["private"].into())),
        denied("null as the name", &find(Bson::Null)),
        denied("a regular expression as the name", &find(bson::Regex { pattern, options }.into())),
        denied("code as the name", &find(Bson::JavaScriptCode("private".to_owned()))),
        denied("an empty name", &find("".into())),
        denied("a number other than 1", &doc! { "aggregate": 2, "pipeline": [], "cursor": {}, "$db": "shop" }),
        patched("NUL in a collection name", &find("orders_private".into()), &[("orders_p", "orders\0p")]),
        patched("NUL in a database name", &find_in("shop_vault"), &[("shop_v", "shop\0v")]),
        passes("a collection whose name looks like another namespace", &find("vault.secret".into())),
        denied("a database with a dot", &find_in("vault.secret")),
        denied("a database with a slash", &find_in("va/ult")),
        denied("an empty database name", &find_in("")),
        denied("a number as the database", &doc! { "find": "secret", "$db": 1 }),
        denied("a symbol as the database", &doc! { "find": "secret", "$db": Bson::Symbol("vault".to_owned()) }),
        denied("no database", &doc! { "find": "orders" }),
        denied("a database name in capitals", &find_in("SHOP")),
        denied("$db before the command", &doc! { "$db": "shop", "find": "private" }),
        denied("no command", &doc! {}),
        patched(
            "a duplicate command key",
            &doc! { "find": "orders", "fin2": "private", "$db": "shop" },
            &[("fin2", "find")],
        ),
        patched("a duplicate $db key", &doc! { "find": "secret", "$db": "shop", "$d2": "vault" }, &[("$d2", "$db")]),
        patched(
            "a duplicate pipeline key",
            &doc! { "aggregate": "orders", "pipeline": [], "pipelin2": union, "cursor": {}, "$db": "shop" },
            &[("pipelin2", "pipeline")],
        ),
        patched(
            "a duplicate target key",
            &doc! { "renameCollection": "shop.orders", "to": "shop.mine", "t2": "vault.mine", "$db": "admin" },
            &[("t2\0", "to\0")],
        ),
        patched("a name that is not UTF-8", &find("XYprivate".into()), &[("XYp", "\u{fffd}")]),
    ];
    // A Rust string cannot hold these bytes.
    for row in rows.iter_mut().filter(|row| row.name.contains("UTF-8")) {
        let at = row.bytes.windows(3).position(|bytes| bytes == "\u{fffd}".as_bytes()).unwrap();
        row.bytes[at..at + 3].copy_from_slice(b"\xff\xfep");
    }
    for name in ["Find", "FIND", "find ", "findd", "fin"] {
        rows.push(denied(&format!("a command called {name:?}"), &doc! { name: "secret", "$db": "vault" }));
    }
    rows
}

/// `explain` with the verbosity that returns the most information.
pub fn explain(command: Document) -> Document {
    doc! { "explain": command, "verbosity": "executionStats", "$db": "shop" }
}
