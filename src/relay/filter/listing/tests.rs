//! Replies as mongod 6.0.5 sends them, and what is left of them.

use std::path::Path;
use std::sync::LazyLock;

use bson::{Bson, Document, doc};
use proptest::prelude::*;

use super::*;
use crate::config::Config;
use crate::policy::{CallerFacts, Policy};

/// A caller that may read `orders` and `all-*`, insert into `log`, and read the view `of-orders` and its source.
const RULES: &str = r#"
[upstream.orders]
address = "mongo:27017"
tls.certificate_file = "client.pem"
tls.ca_file = "ca.pem"
[listener.orders]
address = "127.0.0.1:27017"
upstream = "orders"
[[policy.rule]]
name = "a"
action = "allow"
to = [
    { commands = ["@read"], databases = ["shop"], collections = ["orders", "all-*", "of-*"] },
    { commands = ["insert"], databases = ["shop"], collections = ["log"] },
]
"#;

static VIEW: LazyLock<View> = LazyLock::new(|| {
    let config = Config::parse(RULES, Path::new("config.toml"), []).unwrap();
    let policy = Policy::compile(&config.policy.unwrap(), std::time::SystemTime::now()).unwrap();
    policy.view(&CallerFacts { principal: None, source: None, listener: "orders" })
});

fn listed(listing: Listing) -> Listed {
    Listed { listing, database: "shop".into() }
}

fn message(op_code: OpCode, before: &[u8], document: &[u8], behind: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER_BYTES + before.len() + document.len() + behind.len()).unwrap();
    let header = Header { length, request_id: 90, response_to: 5, op_code };
    [&header.to_bytes(), before, document, behind].concat()
}

fn op_msg(flags: u32, document: &[u8]) -> Vec<u8> {
    let before = [&flags.to_le_bytes()[..], &[0]].concat();
    let message = message(OpCode::MSG, &before, document, if flags & 1 == 1 { &[0; 4] } else { &[] });
    if flags & 1 == 1 { sealed(message) } else { message }
}

/// The message with a valid checksum in its last bytes.
fn sealed(mut message: Vec<u8>) -> Vec<u8> {
    let (sealed, checksum) = message.split_last_chunk_mut::<4>().unwrap();
    *checksum = crc32c::crc32c(sealed).to_le_bytes();
    message
}

fn op_reply(documents: i32, document: &[u8]) -> Vec<u8> {
    let before = [&8_i32.to_le_bytes()[..], &[0; 12], &documents.to_le_bytes()].concat();
    message(OpCode::REPLY, &before, document, &[])
}

fn filtered(mut message: Vec<u8>, listing: Listing) -> Result<Vec<u8>, Malformed> {
    let length = filter(&mut message, &listed(listing), &VIEW)?;
    message.truncate(length);
    Ok(message)
}

fn bytes(document: &Document) -> Vec<u8> {
    bson::serialize_to_vec(document).unwrap()
}

/// Checks what is left of a reply, in every form of a message.
#[track_caller]
fn check(listing: Listing, reply: &Document, expected: &Document) {
    let (reply, expected) = (bytes(reply), bytes(expected));
    for flags in [0, 1, 2, 3, 1 << 20] {
        assert_eq!(filtered(op_msg(flags, &reply), listing).unwrap(), op_msg(flags, &expected), "flags {flags}");
    }
    assert_eq!(filtered(op_reply(1, &reply), listing).unwrap(), op_reply(1, &expected));
    // What is left is left a second time.
    assert_eq!(filtered(op_msg(1, &expected), listing).unwrap(), op_msg(1, &expected));
}

fn collections(batch: &str, entries: Vec<Document>) -> Document {
    doc! {
        "cursor": { "id": 7_i64, "ns": "shop.$cmd.listCollections", batch: entries, "partialResultsReturned": false },
        "ok": 1.0,
        "$clusterTime": { "clusterTime": bson::Timestamp { time: 5, increment: 6 }, "signature": { "keyId": 8_i64 } },
        "operationTime": bson::Timestamp { time: 5, increment: 6 },
    }
}

fn entry(name: &str, kind: &str, options: Document) -> Document {
    let info = doc! { "readOnly": kind == "view", "uuid": Bson::Binary(bson::Binary {
        subtype: bson::spec::BinarySubtype::Uuid, bytes: vec![7; 16],
    }) };
    doc! { "name": name, "type": kind, "options": options, "info": info, "idIndex": { "v": 2, "name": "_id_" } }
}

#[test]
fn hidden_collections_are_removed_from_a_batch_and_the_rest_stays_byte_for_byte() {
    let validator = || doc! { "validator": { "x": { "$gt": "canary" } } };
    let view_on = |source: &str| doc! { "viewOn": source, "pipeline": [{ "$match": { "x": 1 } }], "collation": {} };
    for batch in ["firstBatch", "nextBatch"] {
        let reply = collections(
            batch,
            vec![
                entry("secret", "collection", validator()),
                entry("orders", "collection", validator()),
                entry("of-orders", "view", view_on("orders")),
                entry("of-secret", "view", view_on("secret")),
                entry("view-of-orders", "view", view_on("orders")),
                entry("log", "collection", validator()),
                entry("system.views", "collection", doc! {}),
                entry("system.buckets.orders", "collection", doc! {}),
                entry("system.profile", "collection", doc! { "capped": true }),
                entry("all-weather", "timeseries", doc! { "timeseries": { "timeField": "t" } }),
            ],
        );
        let expected = collections(
            batch,
            vec![
                entry("orders", "collection", validator()),
                entry("of-orders", "view", view_on("orders")),
                entry("of-secret", "view", doc! { "collation": {} }),
                entry("log", "collection", doc! {}),
                entry("all-weather", "timeseries", doc! { "timeseries": { "timeField": "t" } }),
            ],
        );
        check(Listing::Collections, &reply, &expected);
    }
}

#[test]
fn a_view_shows_its_definition_if_everything_in_it_may_be_read() {
    let check = |options: Document, is_shown: bool| {
        let expected = if is_shown {
            options.clone()
        } else {
            doc! {}
        };
        let reply = collections("firstBatch", vec![entry("of-x", "view", options)]);
        check(Listing::Collections, &reply, &collections("firstBatch", vec![entry("of-x", "view", expected)]));
    };
    let with = |stage: Document| doc! { "viewOn": "orders", "pipeline": [{ "$match": {} }, stage] };
    check(doc! { "viewOn": "orders", "pipeline": [] }, true);
    check(doc! { "viewOn": "secret", "pipeline": [] }, false);
    check(with(doc! { "$unionWith": "all-1" }), true);
    check(with(doc! { "$unionWith": "secret" }), false);
    check(with(doc! { "$unionWith": { "coll": "all-1", "pipeline": [{ "$unionWith": "log" }] } }), false);
    check(with(doc! { "$newStage": {} }), false);
    check(doc! { "pipeline": [{ "$unionWith": "secret" }] }, false);
    check(doc! { "viewOn": 5 }, false);
    check(doc! { "viewOn": "orders", "pipeline": "secret" }, false);
    check(doc! { "viewOn": "orders", "pipeline": [], "newOption": "secret" }, false);
    check(doc! { "newOption": "secret" }, false);
    check(doc! {}, true);
}

#[test]
fn fields_that_are_not_known_are_removed() {
    let with = |extra: Document| {
        let mut entry = entry("orders", "collection", doc! { "capped": true });
        entry.extend(extra);
        collections("firstBatch", vec![entry])
    };
    check(Listing::Collections, &with(doc! { "newField": "secret" }), &with(doc! {}));
}

#[test]
fn names_alone_and_empty_batches_are_lists_too() {
    let names = |names: &[&str]| {
        collections("firstBatch", names.iter().map(|name| doc! { "name": *name, "type": "collection" }).collect())
    };
    check(Listing::Collections, &names(&["secret", "orders", "x", "log"]), &names(&["orders", "log"]));
    check(Listing::Collections, &names(&["secret"]), &names(&[]));
    check(Listing::Collections, &names(&[]), &names(&[]));
    let many: Vec<String> = (0..2500).map(|n| format!("{}-{n}", if n % 3 == 0 { "all" } else { "secret" })).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let shown: Vec<&str> = many.iter().copied().filter(|name| name.starts_with("all")).collect();
    check(Listing::Collections, &names(&many), &names(&shown));
}

#[test]
fn hidden_databases_are_removed_and_the_sums_are_those_of_the_rest() {
    let database = |name: &str, size: Bson| doc! { "name": name, "sizeOnDisk": size, "empty": false };
    let all = || vec![database("admin", 40_960_i64.into()), database("shop", 3_500_000_i64.into())];
    let shop = || vec![database("shop", 3_500_000_i64.into())];
    check(
        Listing::Databases,
        &doc! { "databases": all(), "totalSize": 3_540_960_i64, "totalSizeMb": 3_i64, "ok": 1.0 },
        &doc! { "databases": shop(), "totalSize": 3_500_000_i64, "totalSizeMb": 3_i64, "ok": 1.0 },
    );
    // The sums come first, and have the types of older servers.
    check(
        Listing::Databases,
        &doc! { "totalSize": 3_540_960.0, "totalSizeMb": 4, "databases": all(), "ok": 1.0, "x": 1 },
        &doc! { "totalSize": 3_500_000.0, "totalSizeMb": 3, "databases": shop(), "ok": 1.0, "x": 1 },
    );
    let names = |names: &[&str]| {
        doc! { "databases": names.iter().map(|name| doc! { "name": *name }).collect::<Vec<_>>(),
        "ok": 1.0 }
    };
    check(Listing::Databases, &names(&["admin", "shop", "vault"]), &names(&["shop"]));
    check(Listing::Databases, &names(&["a.b", ""]), &names(&[]));
    let huge = || doc! { "name": "shop", "sizeOnDisk": i64::MAX };
    check(
        Listing::Databases,
        &doc! { "databases": [huge(), huge()], "totalSize": 1, "ok": 1.0 },
        &doc! { "databases": [huge(), huge()], "totalSize": i32::MAX, "ok": 1.0 },
    );
}

#[test]
fn an_error_is_no_list() {
    for reply in [
        doc! { "ok": 0.0, "errmsg": "no", "code": 43, "codeName": "CursorNotFound" },
        doc! { "operationTime": bson::Timestamp { time: 5, increment: 6 }, "ok": 0, "code": 13 },
    ] {
        check(Listing::Collections, &reply, &reply);
        check(Listing::Databases, &reply, &reply);
    }
}

#[test]
fn a_reply_that_is_not_certainly_a_list_is_an_error() {
    let reply = |cursor: Document| doc! { "cursor": cursor, "ok": 1.0 };
    let ns = "shop.$cmd.listCollections";
    let secret = || doc! { "name": "secret" };
    let mut unreadable = vec![
        doc! {},
        doc! { "ok": 1.0 },
        doc! { "cursor": "secret", "ok": 1.0 },
        doc! { "ok": 1.0, "collections": ["secret"] },
        doc! { "ok": "0", "collections": ["secret"] },
        reply(doc! { "ns": ns, "id": 0_i64 }),
        reply(doc! { "firstBatch": [] }),
        reply(doc! { "ns": "shop.orders", "firstBatch": [secret()] }),
        reply(doc! { "ns": "vault.$cmd.listCollections", "firstBatch": [{ "name": "orders" }] }),
        reply(doc! { "ns": 5, "firstBatch": [] }),
        reply(doc! { "ns": ns, "firstBatch": [], "nextBatch": [secret()] }),
        reply(doc! { "ns": ns, "firstBatch": secret() }),
        reply(doc! { "ns": ns, "firstBatch": ["secret"] }),
        reply(doc! { "ns": ns, "firstBatch": [{ "type": "collection" }] }),
        reply(doc! { "ns": ns, "firstBatch": [{ "name": 5 }] }),
        reply(doc! { "ns": ns, "firstBatch": [{ "name": "orders", "options": "secret" }] }),
    ];
    for reply in &unreadable {
        assert_eq!(filtered(op_msg(0, &bytes(reply)), Listing::Collections), Err(Malformed), "{reply}");
    }
    unreadable.truncate(5);
    unreadable.extend([
        doc! { "databases": {}, "ok": 1.0 },
        doc! { "databases": ["shop"], "ok": 1.0 },
        doc! { "databases": [{ "name": 5 }], "ok": 1.0 },
        doc! { "databases": [{ "name": "shop", "sizeOnDisk": "5" }], "ok": 1.0 },
        doc! { "databases": [], "totalSize": "5", "ok": 1.0 },
    ]);
    for reply in &unreadable {
        assert_eq!(filtered(op_msg(0, &bytes(reply)), Listing::Databases), Err(Malformed), "{reply}");
    }
}

/// The bytes of a document in which a name occurs twice.
fn twice(document: &Document, name: &str, other: &str) -> Vec<u8> {
    let mut bytes = bytes(document);
    let (name, other) = (format!("{name}\0"), format!("{other}\0"));
    let at = bytes.windows(other.len()).position(|window| window == other.as_bytes()).unwrap();
    bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
    bytes
}

#[test]
fn a_name_that_occurs_twice_is_an_error() {
    let batch = |entry: Document| collections("firstBatch", vec![entry]);
    let list = |name: &str| doc! { "ns": "shop.$cmd.listCollections", "firstBatch": [{ "name": name }] };
    for (document, name, other) in [
        (doc! { "cursor": list("orders"), "cursox": list("secret"), "ok": 1.0 }, "cursor", "cursox"),
        (batch(doc! { "name": "orders", "nama": "secret" }), "name", "nama"),
        (batch(doc! { "name": "orders", "options": {}, "optionz": { "viewOn": "secret" } }), "options", "optionz"),
        (doc! { "ok": 0.0, "ox": 1.0 }, "ok", "ox"),
    ] {
        assert_eq!(
            filtered(op_msg(0, &twice(&document, name, other)), Listing::Collections),
            Err(Malformed),
            "{other}"
        );
    }
    let databases = doc! { "databases": [{ "name": "shop", "nama": "vault" }], "ok": 1.0 };
    assert_eq!(filtered(op_msg(0, &twice(&databases, "name", "nama")), Listing::Databases), Err(Malformed));
}

#[test]
fn a_message_of_another_form_is_an_error() {
    let document = bytes(&collections("firstBatch", vec![doc! { "name": "secret" }]));
    let good = op_msg(0, &document);
    let sequence = [&[1][..], &[9, 0, 0, 0], b"more\0"].concat();
    let with = |behind: &[u8]| message(OpCode::MSG, &[0; 5], &document, behind);
    let mut wrong_sum = op_msg(1, &document);
    *wrong_sum.last_mut().unwrap() ^= 1;
    let forms = [
        with(&[0]),
        with(&sequence),
        with(&document),
        with(&[&[0][..], &document].concat()),
        message(OpCode::MSG, &[0, 0, 0, 0, 1], &document, &[]),
        message(OpCode::MSG, &[], &[], &[]),
        message(OpCode(2012), &[0; 5], &document, &[]),
        op_msg(4, &document),
        wrong_sum,
        op_reply(0, &document),
        op_reply(2, &[&document[..], &document].concat()),
        [&good[..], &[0]].concat(),
    ];
    for form in forms {
        assert_eq!(filtered(form.clone(), Listing::Collections), Err(Malformed), "{form:?}");
    }
    for end in 0..good.len() {
        assert_eq!(filtered(good[..end].to_vec(), Listing::Collections), Err(Malformed));
        let short = message(OpCode::MSG, &[0; 5], &document[..end.min(document.len() - 1)], &[]);
        assert_eq!(filtered(short, Listing::Collections), Err(Malformed));
    }
}

#[test]
fn damage_to_a_single_byte_never_shows_what_is_hidden() {
    let reply = collections(
        "firstBatch",
        vec![
            entry("canary-1", "collection", doc! { "validator": { "canary": 1 } }),
            entry("orders", "collection", doc! {}),
            entry("of-x", "view", doc! { "viewOn": "canary", "pipeline": [{ "$unionWith": "canary" }] }),
            entry("log", "collection", doc! { "validator": { "canary": 1 } }),
        ],
    );
    let good = op_msg(0, &bytes(&reply));
    for at in HEADER_BYTES..good.len() {
        for value in [0, 1, 2, 3, 4, 0x10, good[at].wrapping_add(1), good[at] ^ 0x80, 0xff] {
            let mut damaged = good.clone();
            damaged[at] = value;
            if let Ok(left) = filtered(damaged, Listing::Collections) {
                assert!(
                    !left.windows(6).any(|window| window == b"canary"),
                    "{value} at {at}: {}",
                    String::from_utf8_lossy(&left)
                );
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_filtered_or_an_error(document in prop::collection::vec(any::<u8>(), 0..200), flags in 0_u32..4) {
        let mut document = document;
        if let Some(prefix) = u32::try_from(document.len()).ok().zip(document.first_chunk_mut()) {
            *prefix.1 = prefix.0.to_le_bytes();
        }
        for listing in [Listing::Collections, Listing::Databases] {
            let _ = filtered(op_msg(flags, &document), listing);
            let _ = filtered(op_reply(1, &document), listing);
        }
    }
}
