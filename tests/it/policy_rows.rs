//! Ways around a policy, as bytes: what a caller sends who may use the database `shop`, but not `shop.private` in it,
//! and nothing else; and what becomes of it.
//!
//! Each was tried on mongod 6.0.5. No row holds the canary, so that no error can repeat it.

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document, Timestamp, doc};

use crate::kit::raw::{self, OP_MSG, body_section, op_msg, sequence_section};
use crate::{policy_commands, policy_stages};

/// Request id of a row.
pub const ROW: i32 = 77;

/// What becomes of a row where it is not allowed; the connection is in step after all but the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Code 13, and it has not gone upstream.
    Refused,
    /// The connection ends, if need be with a word.
    Closed,
    /// No answer: none was wanted.
    Silent,
    /// Code 43: there is no such cursor.
    NoCursor,
    /// Whatever mongod makes of it: there is nothing wrong with it.
    Passes,
}

/// What becomes of a row where everything is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elsewhere {
    /// It reads the canary.
    Reads,
    /// It still does not pass, for what it is; mongod itself would give the canary for it.
    MongodReads,
    /// It is not sent: it reads nothing, or does harm.
    Unsent,
}

/// One way around.
pub struct Row {
    pub name: String,
    pub bytes: Vec<u8>,
    pub verdict: Verdict,
    pub elsewhere: Elsewhere,
}

/// What a row may know of a server that it may not look at.
#[derive(Debug, Clone)]
pub struct Leads {
    /// A cursor on `vault.secret`, opened by another caller.
    pub cursor: i64,
    /// A cursor of the same caller's `listCollections` in `vault`.
    pub listing: i64,
    /// The `UUID` of `shop.private`.
    pub private: Binary,
    /// And that of a collection in `shop` whose name is the canary.
    pub named: Binary,
    /// Before the canary was written.
    pub before: Timestamp,
}

/// A plain command that reads what it may not.
pub fn reads(name: &str, command: &Document) -> Row {
    Row { elsewhere: Elsewhere::Reads, ..refused(name, command) }
}

/// A plain command that is refused.
pub fn refused(name: &str, command: &Document) -> Row {
    Row { verdict: Verdict::Refused, ..passes(name, command) }
}

/// A plain command that is as good as any.
pub fn passes(name: &str, command: &Document) -> Row {
    sent(name, Verdict::Passes, op_msg(ROW, 0, &[body_section(command)]))
}

/// A command that no driver sends, and that reads what it may not where mongod gets it.
pub fn trick(name: &str, command: &Document, patches: &[(&str, &str)]) -> Row {
    Row { elsewhere: Elsewhere::MongodReads, ..garbled(name, command, patches) }
}

/// A command that no driver sends. Of each patch, the first text is replaced by the second, which is as long.
pub fn garbled(name: &str, command: &Document, patches: &[(&str, &str)]) -> Row {
    let mut row = refused(name, command);
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

/// Any bytes.
pub fn sent(name: &str, verdict: Verdict, bytes: Vec<u8>) -> Row {
    Row { name: name.to_owned(), bytes, verdict, elsewhere: Elsewhere::Unsent }
}

/// All of them.
pub fn all(leads: &Leads) -> Vec<Row> {
    let kinds = [framing(), envelopes(), names(leads), policy_stages::all(leads), policy_commands::all(leads)];
    kinds.into_iter().flatten().collect()
}

/// What the caller may not read.
pub fn secret() -> Document {
    doc! { "find": "secret", "$db": "vault" }
}

fn private() -> Document {
    doc! { "find": "private", "$db": "shop" }
}

/// What it may.
pub fn orders() -> Document {
    doc! { "find": "orders", "$db": "shop" }
}

/// Sections, flags and headers.
fn framing() -> Vec<Row> {
    let [secret, orders] = [secret(), orders()].map(|command| body_section(&command));
    let insert = body_section(&doc! { "insert": "secret", "$db": "vault" });
    let documents = sequence_section("documents", &[doc! { "n": 1 }]);
    let shadow = |name: &str, document: Document| sequence_section(name, &[document]);
    let refused = |name: &str, sections: &[&[u8]]| sent(name, Verdict::Refused, op_msg(ROW, 0, &[sections.concat()]));
    let flagged =
        |name: &str, bit: u32| sent(name, Verdict::Refused, op_msg(ROW, 1 << bit, std::slice::from_ref(&secret)));
    let mut reply = op_msg(ROW, 0, std::slice::from_ref(&secret));
    reply[8] = 5;
    let mut wrong = raw::op_msg_with_checksum(ROW, 0, std::slice::from_ref(&secret));
    *wrong.last_mut().unwrap() ^= 1;
    let long = sequence_section("documents", &vec![doc! { "text": "x".repeat(1_000) }; 200]);
    let mine = body_section(&doc! { "insert": "long", "$db": "shop" });
    let ended =
        |name: &str, behind: &[u8]| sent(name, Verdict::Closed, op_msg(ROW, 0, &[[&mine, &long, behind].concat()]));
    let long_silent = op_msg(ROW, raw::MORE_TO_COME, &[insert.clone(), long.clone()]);
    let silent = |command: &Document| op_msg(ROW, raw::MORE_TO_COME, &[body_section(command)]);
    vec![
        refused("two bodies, the second of them allowed", &[&secret, &orders]),
        refused("two bodies, the first of them allowed", &[&orders, &secret]),
        refused("a sequence before the body", &[&documents, &insert]),
        refused("a sequence after the body", &[&insert, &documents]),
        refused("a sequence that shadows $db", &[&orders, &shadow("$db", doc! { "": "vault" })]),
        refused("a sequence that shadows the collection", &[&orders, &shadow("find", doc! { "": "private" })]),
        refused("a sequence that shadows the filter", &[&shadow("filter", doc! {}), &orders]),
        refused("a sequence of another command", &[&insert, &documents, &shadow("updates", doc! {})]),
        refused("a security token", &[&orders, &[2], &raw::encode(&doc! {})]),
        refused("an unknown kind of section", &[&orders, &[3], &raw::encode(&doc! {})]),
        refused("bytes behind the last section", &[&orders, &[0]]),
        refused("no body", &[&documents]),
        flagged("an unknown flag that must be understood", 2),
        flagged("an unknown flag that need not be understood", 17),
        flagged("a stream of replies", 16),
        ended("a second body behind more than is held", &secret),
        ended("another command's sequence behind more than is held", &shadow("updates", doc! {})),
        ended("bytes behind more than is held", &[9]),
        sent("a long insert that wants no reply", Verdict::Silent, long_silent),
        sent("a checksum", Verdict::Refused, raw::op_msg_with_checksum(ROW, 0, std::slice::from_ref(&secret))),
        sent("a wrong checksum", Verdict::Refused, wrong),
        sent("a request that claims to be a reply", Verdict::Closed, reply),
        sent("a find that wants no reply", Verdict::Silent, silent(&self::secret())),
        sent("an unknown command that wants no reply", Verdict::Silent, silent(&doc! { "none": 1, "$db": "vault" })),
        sent("an insert that wants no reply", Verdict::Silent, op_msg(ROW, raw::MORE_TO_COME, &[insert, documents])),
    ]
}

/// Other kinds of message.
fn envelopes() -> Vec<Row> {
    let payload = [&[0; 4][..], &body_section(&secret())].concat();
    let [admin, vault] = ["admin.$cmd", "vault.$cmd"];
    let query = |name: &str, namespace: &str, query: &Document| {
        sent(name, Verdict::Refused, raw::op_query(ROW, namespace, -1, query))
    };
    let closed = |name: &str, bytes| sent(name, Verdict::Closed, bytes);
    let compressed_query = [&[0; 4][..], b"vault.$cmd\0", &[0; 4], &[1, 0, 0, 0], &raw::encode(&secret())].concat();
    let mut rows = vec![
        closed("compressed, though nobody agreed to it", raw::op_compressed(ROW, OP_MSG, &payload)),
        closed("compressed twice", raw::op_compressed(ROW, raw::OP_COMPRESSED, &payload)),
        closed("an old query, compressed", raw::op_compressed(ROW, raw::OP_QUERY, &compressed_query)),
        query("a find as an old query", vault, &doc! { "find": "secret" }),
        query("a find as an old query, wrapped", vault, &doc! { "$query": { "find": "secret" } }),
        query("a find as an old query, wrapped the older way", vault, &doc! { "query": { "find": "secret" } }),
        query("an old query of a collection", "vault.secret", &doc! {}),
        query("an old query of the operations", "admin.$cmd.sys.inprog", &doc! {}),
        query("a hello that becomes a find", admin, &doc! { "$query": { "find": "secret" }, "hello": 1 }),
        query("saslStart as an old query", admin, &doc! { "find": "secret", "saslStart": 1 }),
        sent("a hello as an old query", Verdict::Passes, raw::op_query(ROW, admin, -1, &doc! { "isMaster": 1 })),
        closed("HTTP", b"GET /vault/secret HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        closed("a length that no message has", raw::with_length(-1, OP_MSG, ROW, &payload)),
    ];
    let old = [&[0; 4][..], b"vault.secret\0", &[0; 4], &raw::encode(&doc! {})].concat();
    for op_code in [0, 1, 1000, 2001, 2002, 2003, 2005, 2006, 2007, 2008, 2010, 2011, 4711] {
        rows.push(closed(&format!("operation code {op_code}"), raw::message(op_code, ROW, &old)));
    }
    rows
}

/// Names of commands, databases and collections.
fn names(leads: &Leads) -> Vec<Row> {
    let symbol = || Bson::Symbol("private".to_owned());
    let uuid = Bson::Binary(leads.private.clone());
    let find = |collection: Bson| doc! { "find": collection, "$db": "shop" };
    let [pattern, options] = ["private", ""].map(|text| text.to_owned().try_into().unwrap());
    let modify = doc! { "findAndModify": symbol(), "query": {}, "update": { "$set": { "seen": 1 } }, "$db": "shop" };
    let old_uuid = Binary { subtype: BinarySubtype::UuidOld, ..leads.private.clone() };
    let dotted = |database: &str| doc! { "find": "secret", "$db": database };
    let mut rows = vec![
        reads("another database", &secret()),
        reads("a view of another database", &doc! { "find": "view", "$db": "vault" }),
        reads("a collection that a rule denies", &private()),
        reads("distinct", &doc! { "distinct": "private", "key": "text", "$db": "shop" }),
        trick("a symbol as the name", &find(symbol()), &[]),
        trick("a symbol as the name, distinct", &doc! { "distinct": symbol(), "key": "text", "$db": "shop" }, &[]),
        trick("a symbol as the name, findAndModify", &modify, &[]),
        trick("a symbol inside explain", &explain(doc! { "find": symbol(), "filter": { "text": "x" } }), &[]),
        trick("a UUID as the name", &find(uuid.clone()), &[]),
        trick("a UUID as the name, distinct", &doc! { "distinct": uuid.clone(), "key": "text", "$db": "shop" }, &[]),
        trick("a UUID as the name, listIndexes", &doc! { "listIndexes": uuid, "$db": "shop" }, &[]),
        refused("a UUID of the old kind", &find(Bson::Binary(old_uuid))),
        refused("a number as the name", &find(1.into())),
        refused("a document as the name", &find(doc! { "coll": "private" }.into())),
        refused("an array as the name", &find(vec!["private"].into())),
        refused("null as the name", &find(Bson::Null)),
        refused("a regular expression as the name", &find(bson::Regex { pattern, options }.into())),
        refused("code as the name", &find(Bson::JavaScriptCode("private".to_owned()))),
        refused("no name at all", &find("".into())),
        refused("another number than one", &doc! { "aggregate": 2, "pipeline": [], "cursor": {}, "$db": "shop" }),
        garbled("NUL in a name", &find("orders_private".into()), &[("orders_p", "orders\0p")]),
        garbled("NUL in a database", &dotted("shop_vault"), &[("shop_v", "shop\0v")]),
        passes("a collection that is called as if it were elsewhere", &find("vault.secret".into())),
        refused("a database with a dot", &dotted("vault.secret")),
        refused("a database with a slash", &dotted("va/ult")),
        refused("a database without a name", &dotted("")),
        refused("a database that is no text", &doc! { "find": "secret", "$db": 1 }),
        refused("a database as a symbol", &doc! { "find": "secret", "$db": Bson::Symbol("vault".to_owned()) }),
        refused("no database", &doc! { "find": "orders" }),
        refused("a database in capitals", &dotted("SHOP")),
        refused("$db before the command", &doc! { "$db": "shop", "find": "private" }),
        refused("no command", &doc! {}),
        garbled("a command twice", &doc! { "find": "orders", "fin2": "private", "$db": "shop" }, &[("fin2", "find")]),
        garbled("$db twice", &doc! { "find": "secret", "$db": "shop", "$d2": "vault" }, &[("$d2", "$db")]),
        garbled(
            "a pipeline twice",
            &doc! { "aggregate": "orders", "pipeline": [], "pipelin2": [{ "$unionWith": "private" }], "cursor": {}, "$db": "shop" },
            &[("pipelin2", "pipeline")],
        ),
        garbled(
            "a target twice",
            &doc! { "renameCollection": "shop.orders", "to": "shop.mine", "t2": "vault.mine", "$db": "admin" },
            &[("t2\0", "to\0")],
        ),
        garbled("a name that is no UTF-8", &find("XYprivate".into()), &[("XYp", "\u{fffd}")]),
    ];
    // What no text of Rust can be.
    for row in rows.iter_mut().filter(|row| row.name.contains("UTF-8")) {
        let at = row.bytes.windows(3).position(|bytes| bytes == "\u{fffd}".as_bytes()).unwrap();
        row.bytes[at..at + 3].copy_from_slice(b"\xff\xfep");
    }
    for name in ["Find", "FIND", "find ", "findd", "fin"] {
        rows.push(refused(&format!("a command called {name:?}"), &doc! { name: "secret", "$db": "vault" }));
    }
    rows
}

/// `explain`, with all that it can tell.
pub fn explain(command: Document) -> Document {
    doc! { "explain": command, "verbosity": "executionStats", "$db": "shop" }
}
