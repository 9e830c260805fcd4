//! Which requests the gateway answers, and which go to mongod.

use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document, RawDocumentBuf, Timestamp, doc};

use super::*;
use crate::wire::bson_elements::DocumentBytes;
use crate::wire::op_msg;

const STREAM: u32 = flag::EXHAUST_ALLOWED;

fn msg(flags: u32, command: &Document) -> Vec<u8> {
    op_msg::encode_with(flags, 5, 0, &RawDocumentBuf::try_from(command).unwrap())
}

fn query_to(namespace: &str, flags: u32, to_return: i32, command: &Document) -> Vec<u8> {
    let head = [&flags.to_le_bytes()[..], namespace.as_bytes(), &[0; 5], &to_return.to_le_bytes()].concat();
    let body = [head, bson::serialize_to_vec(command).unwrap()].concat();
    let length = u32::try_from(HEADER_BYTES + body.len()).unwrap();
    let header = Header { length, request_id: 5, response_to: 0, op_code: OpCode::QUERY };
    [&header.to_bytes(), body.as_slice()].concat()
}

fn query(command: &Document) -> Vec<u8> {
    query_to("admin.$cmd", SECONDARY_OK, -1, command)
}

/// A hello with `$db` at its end, as drivers send it.
fn hello(arguments: Document) -> Document {
    let mut command = doc! { "hello": 1 };
    command.extend(arguments);
    command.insert("$db", "admin");
    command
}

fn topology_version(counter: impl Into<Bson>) -> Document {
    doc! { "processId": ObjectId::from_bytes([7; 12]), "counter": counter.into() }
}

fn awaitable() -> Document {
    doc! { "topologyVersion": topology_version(6_i64), "maxAwaitTimeMS": 10_000 }
}

fn client() -> Document {
    doc! {
        "application": { "name": "shop" }, "driver": { "name": "PyMongo|c", "version": "4.20" },
        "os": { "type": "Linux", "version": "6" }, "platform": "CPython", "env": { "timeout_sec": 3 },
    }
}

#[test]
fn the_hello_of_every_driver_is_recognised() {
    let plain = ReplyStyle { is_legacy: false, asks_hello_ok: false };
    let legacy = ReplyStyle { is_legacy: true, asks_hello_ok: true };
    let of = |message: &[u8]| HelloQuestion::read(message).map(|it| (it.style, it.introduces, it.wait));
    let first = doc! { "ismaster": 1, "helloOk": true, "backpressure": "2", "client": client(), "$db": "admin" };
    assert_eq!(of(&msg(0, &first)), Some((legacy, true, None)), "PyMongo");
    let first = doc! { "ismaster": true, "helloOk": true, "client": client() };
    assert_eq!(of(&query(&first)), Some((legacy, true, None)), "the drivers that begin with an OP_QUERY");
    assert_eq!(of(&query(&doc! { "isMaster": 1.0 })).unwrap().0, ReplyStyle { asks_hello_ok: false, ..legacy });
    assert_eq!(of(&query_to("shop.$cmd", 0, 1, &doc! { "hello": 1_i64 })), Some((plain, false, None)));
    assert_eq!(of(&msg(0, &hello(doc! {}))), Some((plain, false, None)), "a poll");

    let known = TopologyVersion { process_id: [7; 12], counter: 6 };
    let wait = |streams| Some(Wait { known, at_most: Duration::from_secs(10), streams });
    assert_eq!(of(&msg(0, &hello(awaitable()))), Some((plain, false, wait(false))));
    assert_eq!(of(&msg(STREAM, &hello(awaitable()))), Some((plain, false, wait(true))));
    let mut as_query = doc! { "isMaster": 1 };
    as_query.extend(awaitable());
    assert_eq!(of(&query(&as_query)).unwrap().2, wait(false));
    let header = HelloQuestion::read(&msg(0, &hello(doc! {}))).unwrap().header;
    assert_eq!((header.request_id, header.op_code), (5, OpCode::MSG));
}

#[test]
fn arguments_are_recognised_only_with_values_that_mongod_accepts() {
    let uuid = Binary { subtype: BinarySubtype::Uuid, bytes: vec![1; 16] };
    let cluster_time = |key: Bson| {
        let hash = Binary { subtype: BinarySubtype::Generic, bytes: vec![0; 20] };
        doc! { "clusterTime": Timestamp { time: 1, increment: 1 }, "signature": { "hash": hash, "keyId": key } }
    };
    let without = |name: &str| {
        let mut client = client();
        client.remove(name);
        client
    };
    let with = |name: &str, value: Bson| {
        let mut client = client();
        client.insert(name, value);
        client
    };
    let yes = [
        doc! {},
        doc! { "helloOk": 1 },
        doc! { "comment": "x" },
        doc! { "comment": { "a": [1, { "b": Bson::Null }] } },
        doc! { "backpressure": true },
        doc! { "loadBalanced": false },
        doc! { "apiVersion": "1", "apiStrict": true, "apiDeprecationErrors": false },
        doc! { "lsid": { "id": uuid.clone() } },
        doc! { "$readPreference": { "mode": "secondaryPreferred" } },
        doc! { "$clusterTime": cluster_time(Bson::Int64(0)) },
        doc! { "client": client() },
        doc! { "client": without("application") },
        doc! { "topologyVersion": topology_version(6_i64), "maxAwaitTimeMS": 0 },
        doc! { "topologyVersion": topology_version(6_i64), "maxAwaitTimeMS": 300.7 },
        doc! { "topologyVersion": topology_version(6_i64), "maxAwaitTimeMS": i64::MAX },
    ];
    let no = [
        doc! { "saslSupportedMechs": "admin.app" },
        doc! { "speculativeAuthenticate": { "saslStart": 1 } },
        doc! { "compression": ["zstd"] },
        doc! { "internalClient": { "minWireVersion": 0, "maxWireVersion": 17 } },
        doc! { "maxTimeMS": 5 },
        doc! { "readConcern": {} },
        doc! { "foo": 1 },
        doc! { "$tenant": 1 },
        doc! { "HelloOk": true },
        doc! { "helloOk": false },
        doc! { "helloOk": "x" },
        doc! { "comment": bson::Regex { pattern: "x".try_into().unwrap(), options: "i".try_into().unwrap() } },
        doc! { "comment": [[[[[[1]]]]]] },
        doc! { "loadBalanced": true },
        doc! { "loadBalanced": 0 },
        doc! { "apiVersion": "2" },
        doc! { "apiVersion": 1 },
        doc! { "apiStrict": true },
        doc! { "apiVersion": "1", "apiStrict": 1 },
        doc! { "lsid": {} },
        doc! { "lsid": 1 },
        doc! { "lsid": { "id": uuid, "txnNumber": 1_i64 } },
        doc! { "$readPreference": { "mode": "bogus" } },
        doc! { "$readPreference": { "mode": "nearest", "maxStalenessSeconds": 90 } },
        doc! { "$readPreference": 1 },
        doc! { "$clusterTime": 1 },
        doc! { "$clusterTime": {} },
        doc! { "$clusterTime": cluster_time(Bson::String("x".to_owned())) },
        doc! { "client": 1 },
        doc! { "client": {} },
        doc! { "client": without("driver") },
        doc! { "client": without("os") },
        doc! { "client": with("driver", Bson::Int32(1)) },
        doc! { "client": with("os", doc! { "type": 1 }.into()) },
        doc! { "client": with("application", doc! { "name": "x".repeat(129) }.into()) },
        doc! { "client": with("platform", "x".repeat(512).into()) },
        doc! { "topologyVersion": topology_version(6_i64) },
        doc! { "maxAwaitTimeMS": 10_000 },
        doc! { "topologyVersion": topology_version(6_i64), "maxAwaitTimeMS": -1 },
        doc! { "topologyVersion": topology_version(6_i64), "maxAwaitTimeMS": true },
        doc! { "topologyVersion": topology_version(6_i64), "maxAwaitTimeMS": "1" },
        doc! { "topologyVersion": topology_version(6_i64), "maxAwaitTimeMS": Bson::Null },
        doc! { "topologyVersion": topology_version(6), "maxAwaitTimeMS": 1 },
        doc! { "topologyVersion": topology_version(-6_i64), "maxAwaitTimeMS": 1 },
        doc! { "topologyVersion": [], "maxAwaitTimeMS": 1 },
        doc! { "topologyVersion": 1, "maxAwaitTimeMS": 1 },
    ];
    for (all, expected) in [(&yes[..], true), (&no, false)] {
        for arguments in all {
            let found = HelloQuestion::read(&msg(0, &hello(arguments.clone())));
            assert_eq!(found.is_some(), expected, "{arguments}");
        }
    }
}

#[test]
fn other_commands_databases_and_names_go_to_mongod() {
    for command in [
        doc! { "ping": 1, "$db": "admin" },
        doc! { "Hello": 1, "$db": "admin" },
        doc! { "$db": "admin", "hello": 1 },
        doc! { "hello": 0, "$db": "admin" },
        doc! { "hello": false, "$db": "admin" },
        doc! { "hello": "x", "$db": "admin" },
        doc! { "hello": {}, "$db": "admin" },
        doc! { "hello": 1 },
        doc! { "hello": 1, "$db": "" },
        doc! { "hello": 1, "$db": "a.b" },
        doc! { "hello": 1, "$db": "x".repeat(64) },
        doc! { "hello": 1, "$db": 1 },
        doc! { "ismaster": 1, "apiVersion": "1", "$db": "admin" },
        doc! {},
    ] {
        assert_eq!(HelloQuestion::read(&msg(0, &command)), None, "{command}");
    }
    assert!(HelloQuestion::read(&msg(0, &doc! { "hello": 1, "$db": "shop-2_x" })).is_some());
}

#[test]
fn other_kinds_of_messages_go_to_mongod() {
    let good = msg(0, &hello(doc! {}));
    for flags in [flag::CHECKSUM_PRESENT, flag::MORE_TO_COME, 1 << 5, 1 << 17, STREAM | flag::MORE_TO_COME] {
        assert_eq!(HelloQuestion::read(&msg(flags, &hello(awaitable()))), None, "{flags:x}");
    }
    assert_eq!(HelloQuestion::read(&msg(STREAM, &hello(doc! {}))), None, "an error of mongod");
    let ending_in = |tail: &[u8]| {
        let mut message = [&good[..], tail].concat();
        let length = u32::try_from(message.len()).unwrap();
        *message.first_chunk_mut().unwrap() = length.to_le_bytes();
        message
    };
    assert!(HelloQuestion::read(&ending_in(&[])).is_some());
    assert_eq!(HelloQuestion::read(&ending_in(&[0])), None);
    let sequence = [&[1][..], &6_i32.to_le_bytes(), b"a\0"].concat();
    assert_eq!(HelloQuestion::read(&ending_in(&sequence)), None, "a document sequence");
    let mut compressed = good.clone();
    compressed[12..16].copy_from_slice(&OpCode::COMPRESSED.0.to_le_bytes());
    assert_eq!(HelloQuestion::read(&compressed), None);
    let long = hello(doc! { "comment": "x".repeat(HELLO_BYTES_MAX) });
    assert_eq!(HelloQuestion::read(&msg(0, &long)), None);

    let command = doc! { "ismaster": 1 };
    for message in [
        query_to("admin.$cmd", 1 << 6, -1, &command),
        query_to("admin.$cmd", 2, -1, &command),
        query_to("admin.$cmd", 0, 0, &command),
        query_to("admin.orders", 0, -1, &command),
        query_to("a.b.$cmd", 0, -1, &command),
        query_to(".$cmd", 0, -1, &command),
        query(&doc! { "ismaster": 1, "$db": "admin" }),
        query(&doc! { "$query": command.clone() }),
        query(&doc! { "query": command.clone(), "$readPreference": { "mode": "primary" } }),
        query(&doc! { "ping": 1 }),
    ] {
        assert_eq!(HelloQuestion::read(&message), None, "{message:?}");
    }
}

#[test]
fn a_repeated_argument_goes_to_mongod() {
    let build = |names: &[&[u8]]| {
        let mut command = DocumentBytes::with_capacity(0);
        for name in names {
            command.push_value(kind::BOOLEAN, name, &[1]);
        }
        command.push_string(b"$db", "admin");
        let document = RawDocumentBuf::from_bytes(command.finish()).unwrap();
        op_msg::encode(5, 0, &document)
    };
    assert!(HelloQuestion::read(&build(&[b"hello", b"helloOk", b"comment"])).is_some());
    assert_eq!(HelloQuestion::read(&build(&[b"hello", b"helloOk", b"helloOk"])), None);
    assert_eq!(HelloQuestion::read(&build(&[b"hello", b"hello"])), None);
    assert_eq!(HelloQuestion::read(&build(&[b"hello", b"ismaster"])), None);
    assert_eq!(HelloQuestion::read(&build(&[b"hello", b"\xFF"])), None);
}

#[test]
fn a_damaged_message_goes_to_mongod() {
    let mut arguments = awaitable();
    arguments.extend(doc! { "client": client(), "comment": ["x", true] });
    for good in [msg(STREAM, &hello(arguments.clone())), query(&doc! { "ismaster": 1, "client": client() })] {
        assert!(HelloQuestion::read(&good).is_some());
        for end in 0..good.len() {
            assert_eq!(HelloQuestion::read(&good[..end]), None);
            // Also if the header agrees with the length.
            let mut cut = good[..end].to_vec();
            let length = u32::try_from(end).unwrap();
            if let Some(prefix) = cut.first_chunk_mut() {
                *prefix = length.to_le_bytes();
            }
            assert_eq!(HelloQuestion::read(&cut), None, "{end}");
        }
    }
    let good = msg(0, &hello(doc! { "comment": ["x", true] }));
    let at = |text: &[u8]| good.windows(text.len()).position(|window| window == text).unwrap();
    for (place, wrong) in [(at(b"x\0"), 0xFF), (at(b"x\0") + 1, 1), (at(b"1\0\x01\0") + 2, 2)] {
        let mut damaged = good.clone();
        damaged[place] = wrong;
        assert_eq!(HelloQuestion::read(&damaged), None, "{place}");
    }
}
