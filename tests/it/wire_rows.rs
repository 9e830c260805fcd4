//! Malformed and unusual messages: mongod must treat them through the gateway as it does on a direct connection.
//!
//! Drivers send none of them. Each one is sent as the first message of a connection, after a hello, and directly behind
//! another message in the same write.

use bson::{Document, doc};

use crate::kit::raw::{
    self, CHECKSUM_PRESENT, EXHAUST_ALLOWED, MORE_TO_COME, OP_GET_MORE, OP_MSG, OP_QUERY, OP_REPLY, body_section,
    op_msg, op_msg_with_checksum, op_query, sequence_section, sequence_section_claiming,
};
use crate::wire_seen::{Expected, ROW, Row, check, ping};

#[test]
fn unusual_lengths_and_opcodes_are_treated_as_by_mongod() {
    let ping = &body_section(&ping())[..];
    let with_flags = [&[0; 4], ping].concat();
    let bare = |op_code| raw::message(op_code, ROW, &with_flags);
    let mut rows = vec![
        Row::new("length 0", raw::with_length(0, OP_MSG, ROW, &with_flags), Expected::Closed),
        Row::new("length 15", raw::with_length(15, OP_MSG, ROW, &with_flags), Expected::Closed),
        Row::new("negative length", raw::with_length(-1, OP_MSG, ROW, &with_flags), Expected::Closed),
        Row::new(
            "the smallest possible length",
            raw::with_length(i32::MIN, OP_MSG, ROW, &with_flags),
            Expected::Closed,
        ),
        Row::new("one byte above the limit", raw::with_length(48_000_001, OP_MSG, ROW, &with_flags), Expected::Closed),
        Row::new("the largest possible length", raw::with_length(i32::MAX, OP_MSG, ROW, &with_flags), Expected::Closed),
        Row::new("OP_MSG without flags", raw::message(OP_MSG, ROW, &[]), Expected::Closed),
        Row::new("OP_MSG with half its flags", raw::message(OP_MSG, ROW, &[0; 2]), Expected::Closed),
        Row::new("a request that claims to be a reply", response_to(5), Expected::Ok),
        Row::new("operation code 0", bare(0), Expected::Silence),
        Row::new("OP_GET_MORE", raw::message(OP_GET_MORE, ROW, &get_more()), Expected::Code(5_739_101)),
    ];
    for op_code in [OP_REPLY, 1000, 2001, 2002, 2003, 2006, 2007, 2008, 2010, 2011, -1, 4711] {
        rows.push(Row::new(format!("operation code {op_code}"), bare(op_code), Expected::Closed));
    }
    check(&rows);
}

#[test]
fn unusual_flags_and_checksums_are_treated_as_by_mongod() {
    let ping = [body_section(&ping())];
    let mut wrong = op_msg_with_checksum(ROW, 0, &ping);
    if let Some(last) = wrong.last_mut() {
        *last ^= 1;
    }
    let mut rows = vec![
        Row::new("nothing unusual", op_msg(ROW, 0, &ping), Expected::Ok),
        Row::new("a checksum", op_msg_with_checksum(ROW, 0, &ping), Expected::Ok),
        Row::new("a wrong checksum", wrong, Expected::Closed),
        Row::new("the checksum flag without a checksum", op_msg(ROW, CHECKSUM_PRESENT, &ping), Expected::Code(22)),
        Row::new("an unknown optional flag", op_msg(ROW, 1 << 17, &ping), Expected::Ok),
        Row::new("the last optional flag", op_msg(ROW, 1 << 31, &ping), Expected::Ok),
        Row::new(
            "exhaustAllowed on a command without an exhaust cursor",
            op_msg(ROW, EXHAUST_ALLOWED, &ping),
            Expected::Ok,
        ),
    ];
    for bit in 2..16 {
        rows.push(Row::new(format!("required flag {bit}"), op_msg(ROW, 1 << bit, &ping), Expected::Closed));
    }
    check(&rows);
}

#[test]
fn unusual_sections_are_treated_as_by_mongod() {
    let ping = body_section(&ping());
    let insert = |collection: &str| body_section(&doc! { "insert": collection, "$db": "wire_rows" });
    let documents = |identifier: &str| sequence_section(identifier, &[doc! { "n": 1 }]);
    let claiming = |size| [&ping[..], &sequence_section_claiming(size, "documents", &[])].concat();
    let endless_name = [&ping[..], &[1, 20, 0, 0, 0], &[b'x'; 16]].concat();
    let one = |sections: &[&[u8]]| op_msg(ROW, 0, &[sections.concat()]);
    let in_body_too = body_section(&doc! { "insert": "c", "documents": [{ "n": 1 }], "$db": "wire_rows" });
    let dotted = one(&[&insert("c"), &documents("documents"), &documents("documents.a")]);
    check(&[
        Row::new("the sequence after the body", one(&[&insert("after"), &documents("documents")]), Expected::Ok),
        Row::new("the sequence before the body", one(&[&documents("documents"), &insert("before")]), Expected::Ok),
        Row::new("an empty sequence", one(&[&insert("c"), &sequence_section("documents", &[])]), Expected::Code(16)),
        Row::new("no section", one(&[]), Expected::Code(40_587)),
        Row::new("no body", one(&[&documents("documents")]), Expected::Code(40_587)),
        Row::new("two bodies", one(&[&ping, &ping]), Expected::Code(40_430)),
        Row::new("kind 2 without a body", one(&[&[2], &raw::encode(&doc! {})]), Expected::Code(13)),
        Row::new("kind 3", one(&[&ping, &[3], &raw::encode(&doc! {})]), Expected::Code(40_432)),
        Row::new("kind 255", one(&[&[255], &ping]), Expected::Code(40_432)),
        Row::new("sequence of size 0", one(&[&claiming(0)]), Expected::Code(15)),
        Row::new("sequence of size 3", one(&[&claiming(3)]), Expected::Code(15)),
        Row::new("sequence of size -1", one(&[&claiming(-1)]), Expected::Code(15)),
        Row::new("sequence beyond the end", one(&[&claiming(1_000)]), Expected::Code(15)),
        Row::new("a sequence whose name does not end", one(&[&endless_name]), Expected::Code(15)),
        Row::new(
            "the same sequence twice",
            one(&[&insert("c"), &documents("documents"), &documents("documents")]),
            Expected::Code(40_431),
        ),
        Row::new("three sequences", one(&[&ping, &documents("a"), &documents("b"), &documents("c")]), Expected::Closed),
        Row::new(
            "a sequence that is also in the body",
            one(&[&in_body_too, &documents("documents")]),
            Expected::Code(40_433),
        ),
        Row::new("a sequence inside another", dotted, Expected::Code(40_415)),
        Row::new("a byte after the last section", one(&[&ping, &[0]]), Expected::Code(40_430)),
        Row::new("bytes after the last section", one(&[&ping, &[9; 7]]), Expected::Code(40_432)),
        Row::new("a sequence that ping does not know", one(&[&ping, &documents("zzz")]), Expected::Ok),
        Row::new(
            "a sequence that insert does not accept",
            one(&[&insert("c"), &documents("documents"), &documents("updates")]),
            Expected::Code(40_415),
        ),
        Row::new(
            "$db as a sequence",
            one(&[&body_section(&doc! { "ping": 1 }), &documents("$db")]),
            Expected::Code(40_571),
        ),
    ]);
}

#[test]
fn invalid_commands_are_treated_as_by_mongod() {
    let command = |command: &Document| op_msg(ROW, 0, &[body_section(command)]);
    let deep = (0..220).fold(doc! { "n": 1 }, |inner, _| doc! { "n": inner });
    let deep = op_msg(ROW, 0, &[body_section(&doc! { "find": "c", "filter": deep, "$db": "wire_rows" })]);
    check(&[
        Row::new("an unknown command", command(&doc! { "noSuchCommand": 1, "$db": "admin" }), Expected::Code(59)),
        Row::new("an empty document", command(&doc! {}), Expected::Code(40_571)),
        Row::new("no $db", command(&doc! { "ping": 1 }), Expected::Code(40_571)),
        Row::new("$db before the command", command(&doc! { "$db": "admin", "ping": 1 }), Expected::Code(59)),
        Row::new("$db that is not a string", command(&doc! { "ping": 1, "$db": 1 }), Expected::Code(13_111)),
        Row::new("an empty $db", command(&doc! { "ping": 1, "$db": "" }), Expected::Code(73)),
        Row::new("a $db too long", command(&doc! { "ping": 1, "$db": "d".repeat(64) }), Expected::Code(73)),
        Row::new("$db twice", op_msg(ROW, 0, &[raw_body(&duplicate_database())]), Expected::Code(40_413)),
        Row::new("exhaust hello without maxAwaitTimeMS", exhaust_hello_without_limit(), Expected::Code(51_756)),
        Row::new("documents nested too deep", deep, Expected::Code(15)),
    ]);
}

#[test]
fn invalid_bson_is_treated_as_by_mongod() {
    let good = raw::encode(&ping());
    let length = i32::try_from(good.len()).unwrap();
    let with = |length: i32, rest: &[u8]| op_msg(ROW, 0, &[raw_body(&[&length.to_le_bytes()[..], rest].concat())]);
    let rest = &good[4..];
    let unterminated = [&rest[..rest.len() - 1], &[1]].concat();
    let hidden = [rest, b"\x10x\0\x01\0\0\0\0"].concat();
    let element = |element: &[u8]| {
        let body = [b"\x10ping\0\x01\0\0\0", element, b"\x02$db\0\x06\0\0\0admin\0", &[0]].concat();
        with(i32::try_from(4 + body.len()).unwrap(), &body)
    };
    check(&[
        Row::new("well formed, but unknown to ping", element(b"\x08b\0\x01"), Expected::Code(40_415)),
        Row::new("one byte too few claimed", with(length - 1, rest), Expected::Code(22)),
        Row::new("one byte too many claimed", with(length + 1, rest), Expected::Code(22)),
        Row::new("claims far beyond the end", with(i32::MAX, rest), Expected::Code(22)),
        Row::new("claims length 0", with(0, rest), Expected::Code(22)),
        Row::new("claims a negative length", with(-5, rest), Expected::Code(22)),
        Row::new("does not end with 0", with(length, &unterminated), Expected::Code(22)),
        Row::new("elements after the end", with(length + 8, &hidden), Expected::Code(22)),
        Row::new("a string of length 0", element(b"\x02s\0\0\0\0\0\0"), Expected::Code(22)),
        Row::new("a string beyond the end", element(b"\x02s\0\xff\0\0\0a\0"), Expected::Code(22)),
        Row::new("a string without its terminator", element(b"\x02s\0\x02\0\0\0aa"), Expected::Code(22)),
        Row::new("a boolean that is neither 0 nor 1", element(b"\x08b\0\x02"), Expected::Code(22)),
        Row::new("an unknown type", element(b"\x20u\0\x01"), Expected::Code(22)),
        Row::new("a document beyond its parent", element(b"\x03d\0\xff\0\0\0\0"), Expected::Code(22)),
        Row::new("a name that is not UTF-8", element(b"\x10\xff\xfe\0\x01\0\0\0"), Expected::Code(40_415)),
        Row::new("a string that is not UTF-8", element(b"\x02comment\0\x03\0\0\0\xff\xfe\0"), Expected::Ok),
    ]);
}

#[test]
fn requests_with_more_to_come_get_no_reply() {
    let silent = |sections: &[Vec<u8>]| op_msg(ROW, MORE_TO_COME, sections);
    let garbage = raw_body(&[9; 30]);
    check(&[
        Row::new("ping", silent(&[body_section(&ping())]), Expected::Silence),
        Row::new("find", silent(&[body_section(&doc! { "find": "c", "$db": "wire_rows" })]), Expected::Silence),
        Row::new("an unknown command", silent(&[body_section(&doc! { "none": 1, "$db": "admin" })]), Expected::Silence),
        Row::new("no $db", silent(&[body_section(&doc! { "ping": 1 })]), Expected::Silence),
        Row::new("no BSON", silent(&[garbage]), Expected::Silence),
        Row::new("no section", silent(&[]), Expected::Silence),
        Row::new(
            "endSessions",
            silent(&[body_section(&doc! { "endSessions": [], "$db": "admin" })]),
            Expected::Silence,
        ),
        Row::new(
            "with a checksum",
            op_msg_with_checksum(ROW, MORE_TO_COME, &[body_section(&ping())]),
            Expected::Silence,
        ),
    ]);
}

#[test]
fn legacy_queries_are_treated_as_by_mongod() {
    let query = |namespace: &str, count: i32, query: &Document| op_query(ROW, namespace, count, query);
    let hello = doc! { "ismaster": 1 };
    check(&[
        Row::new("ismaster", query("admin.$cmd", -1, &hello), Expected::Ok),
        Row::new("ismaster that requests one document", query("admin.$cmd", 1, &hello), Expected::Ok),
        Row::new("hello on any database", query("test.$cmd", -1, &doc! { "hello": 1 }), Expected::Ok),
        Row::new("wrapped in $query", query("admin.$cmd", -1, &doc! { "$query": { "isMaster": 1 } }), Expected::Ok),
        Row::new("wrapped in query", query("admin.$cmd", -1, &doc! { "query": { "isMaster": 1 } }), Expected::Ok),
        Row::new("buildInfo", query("admin.$cmd", -1, &doc! { "buildInfo": 1 }), Expected::Ok),
        Row::new("ping", query("admin.$cmd", -1, &doc! { "ping": 1 }), Expected::Code(352)),
        Row::new("a find", query("test.c", 0, &doc! {}), Expected::Code(5_739_101)),
        Row::new("a legacy namespace", query("admin.$cmd.sys.inprog", -1, &doc! {}), Expected::Code(5_739_101)),
        Row::new("OP_QUERY without a body", raw::message(OP_QUERY, ROW, &[]), Expected::Closed),
    ]);
}

#[test]
fn messages_at_their_size_limits_are_treated_as_by_mongod() {
    let too_large = doc! { "ping": 1, "pad": "x".repeat(16_793_600), "$db": "admin" };
    let largest_document = raw::encode(&doc! { "pad": "x".repeat(15_999_985) });
    assert_eq!(largest_document.len(), 16_000_000);
    // Three documents and the bytes around them make a message of exactly the limit.
    let ping = body_section(&ping());
    let overhead = 16 + 4 + ping.len() + 1 + 4 + "zzz".len() + 1;
    let last = raw::encode(&doc! { "pad": "x".repeat(48_000_000 - overhead - 2 * largest_document.len() - 15) });
    let documents = [&largest_document[..], &largest_document, &last].concat();
    let size = i32::try_from(4 + 4 + documents.len()).unwrap();
    let largest = op_msg(ROW, 0, &[ping.clone(), sequence_section_claiming(size, "zzz", &documents)]);
    assert_eq!(largest.len(), 48_000_000);
    let many = sequence_section("documents", &vec![doc! {}; 100_001]);
    let insert = body_section(&doc! { "insert": "many", "$db": "wire_rows" });
    check(&[
        Row::new("the largest message", largest, Expected::Ok),
        Row::new("a body above its limit", op_msg(ROW, 0, &[body_section(&too_large)]), Expected::Code(10_334)),
        Row::new("too many documents", op_msg(ROW, 0, &[insert, many]), Expected::Code(16)),
    ]);
}

/// A section of kind 0 with arbitrary bytes.
fn raw_body(bytes: &[u8]) -> Vec<u8> {
    [&[0], bytes].concat()
}

fn response_to(id: i32) -> Vec<u8> {
    let mut bytes = op_msg(ROW, 0, &[body_section(&ping())]);
    bytes[8..12].copy_from_slice(&id.to_le_bytes());
    bytes
}

/// Body of `OP_GET_MORE`: zero, namespace, count, cursor id.
fn get_more() -> Vec<u8> {
    [&[0; 4][..], b"test.c\0", &[0; 4], &[1; 8]].concat()
}

fn exhaust_hello_without_limit() -> Vec<u8> {
    op_msg(ROW, EXHAUST_ALLOWED, &[body_section(&doc! { "hello": 1, "$db": "admin" })])
}

fn duplicate_database() -> Vec<u8> {
    let body = b"\x10ping\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0\x02$db\0\x06\0\0\0admin\0\0";
    let length = i32::try_from(4 + body.len()).unwrap();
    [&length.to_le_bytes()[..], body].concat()
}
