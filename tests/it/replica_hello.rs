//! The gateway rewrites five fields of a member's `hello` reply, to its own addresses. All other fields, and all other
//! replies, reach the client byte for byte.

use std::collections::BTreeMap;

use bson::{Bson, Document, doc};

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::raw;
use crate::kit::raw::{Connection, OP_MSG, OP_REPLY, Reply, body_section, encode, op_msg, op_query};
use crate::kit::replica_set::{MemberOptions, ReplicaSet, SetOptions};

/// Fields that differ from one reply to the next: times, the number of the connection, the last write.
const CHANGING: [&str; 5] = ["localTime", "connectionId", "lastWrite", "$clusterTime", "operationTime"];
/// Enough for a member that sometimes writes between two requests, which changes its next reply.
const ATTEMPTS_MAX: usize = 20;

/// The gateway's addresses.
struct Addresses {
    /// By member name.
    of: BTreeMap<String, String>,
}

/// One message form of a request.
struct Form {
    name: &'static str,
    /// Encodes a command for a database.
    bytes: fn(&Document, &str) -> Vec<u8>,
}

const FORMS: [Form; 3] = [
    Form { name: "OP_MSG", bytes: |command, database| op_msg(9, 0, &[body_section(&on(command, database))]) },
    Form {
        name: "OP_MSG with a checksum",
        bytes: |command, database| raw::op_msg_with_checksum(9, 0, &[body_section(&on(command, database))]),
    },
    Form { name: "OP_QUERY", bytes: |command, database| op_query(9, &format!("{database}.$cmd"), -1, command) },
];

#[test]
fn every_form_of_hello_is_rewritten_in_five_fields_only() {
    let Some(set) = ReplicaSet::start(set_with_every_kind_of_member()) else { return };
    let gateway = Gateway::start(&GatewayOptions::to_set(&set));
    let hidden = &set.members()[2];
    let shown: Vec<_> = set.members().into_iter().filter(|member| member != hidden).collect();
    let addresses = Addresses { of: gateway.await_members(&shown) };
    let commands = ["hello", "isMaster", "ismaster"].map(|name| doc! { name: 1 });
    let wrapped = [doc! { "$query": { "isMaster": 1 } }, doc! { "query": { "ismaster": 1 } }];
    let long = doc! { "hello": "anything", "client": metadata(), "helloOk": true, "comment": "x".repeat(9_000) };
    for member in &shown {
        for (form, database) in FORMS.iter().flat_map(|form| [(form, "admin"), (form, "shop")]) {
            for command in &commands {
                addresses.compare(&set, member, &(form.bytes)(command, database), form.name);
            }
        }
        for command in &wrapped {
            addresses.compare(&set, member, &(FORMS[2].bytes)(command, "admin"), "OP_QUERY, wrapped");
        }
        addresses.compare(&set, member, &(FORMS[0].bytes)(&long, "admin"), "a long one");
    }
    // The reply has every kind of name (host, passive, arbiter, primary), and nothing of the hidden member.
    let mut connection = Connection::plain(&addresses.of[&set.primary()]).unwrap();
    let hello = connection.run(&doc! { "hello": 1, "$db": "admin" }).unwrap();
    assert_eq!(hello.get_array("hosts").unwrap().len(), 1);
    assert_eq!(hello.get_array("passives").unwrap().len(), 1);
    assert_eq!(hello.get_array("arbiters").unwrap().len(), 1);
    assert_eq!(hello.get_str("me").unwrap(), hello.get_str("primary").unwrap());
}

#[test]
fn every_reply_to_a_streaming_hello_is_rewritten() {
    let Some(set) =
        ReplicaSet::start(SetOptions { members: vec![MemberOptions::default(); 2], ..SetOptions::default() })
    else {
        return;
    };
    let gateway = Gateway::start(&GatewayOptions::to_set(&set));
    let addresses = Addresses { of: gateway.await_members(&set.members()) };
    // In the order of the set's configuration, as in mongod's reply.
    let gateways: Vec<_> = set.members().iter().map(|member| addresses.of[member].clone()).collect();
    let primary = set.primary();
    for with_checksum in [false, true] {
        let mut connection = Connection::plain(&addresses.of[&primary]).unwrap();
        let first = connection.run(&doc! { "hello": 1, "$db": "admin" }).unwrap();
        let version = first.get_document("topologyVersion").unwrap();
        let hello = doc! { "hello": 1, "topologyVersion": version, "maxAwaitTimeMS": 200, "$db": "admin" };
        let build = if with_checksum { raw::op_msg_with_checksum } else { op_msg };
        connection.send(&build(40, raw::EXHAUST_ALLOWED, &[body_section(&hello)])).unwrap();
        let mut answered = 40;
        for reply_number in 0..5 {
            let reply = connection.reply().unwrap();
            let about = format!("reply {reply_number}, checksum {with_checksum}: {}", reply.document);
            assert_eq!(reply.flags & !raw::CHECKSUM_PRESENT, raw::MORE_TO_COME, "{about}");
            assert_eq!(reply.flags & raw::CHECKSUM_PRESENT != 0, with_checksum, "{about}");
            assert_eq!(reply.response_to, answered, "{about}");
            answered = reply.request_id;
            check_checksum(&reply);
            assert_eq!(reply.document.get_str("me").unwrap(), addresses.of[&primary], "{about}");
            assert_eq!(reply.document.get_str("primary").unwrap(), addresses.of[&primary], "{about}");
            assert_eq!(names(&reply.document, "hosts"), gateways, "{about}");
        }
    }
    check_stream_during_election(&set, &addresses);
}

/// During an election, the stream through the gateway has the same replies as mongod's own, with the gateway's
/// addresses.
fn check_stream_during_election(set: &ReplicaSet, addresses: &Addresses) {
    let before = set.primary();
    let mut direct = set.connect(&before).unwrap();
    let mut through = Connection::plain(&addresses.of[&before]).unwrap();
    for connection in [&mut direct, &mut through] {
        let first = connection.run(&doc! { "hello": 1, "$db": "admin" }).unwrap();
        let version = first.get_document("topologyVersion").unwrap();
        let hello = doc! { "hello": 1, "topologyVersion": version, "maxAwaitTimeMS": 3_000, "$db": "admin" };
        connection.send(&op_msg(50, raw::EXHAUST_ALLOWED, &[body_section(&hello)])).unwrap();
    }
    let after = set.step_down().unwrap();
    let own_replies = replies_until(&mut direct, &after);
    let rewritten_replies = replies_until(&mut through, &addresses.of[&after]);
    assert!(rewritten_replies.len() > 1, "no reply during the election: {rewritten_replies:?}");
    for rewritten in rewritten_replies.values() {
        let known = |name: &str| addresses.of.values().any(|address| address == name);
        assert!(rewritten.get_str("me").is_ok_and(known), "{rewritten}");
        assert!(rewritten.get_str("primary").ok().is_none_or(known), "{rewritten}");
    }
    // On each stream, mongod may skip a topology version that is already out of date when it writes the reply.
    for (counter, rewritten) in rewritten_replies {
        let Some(own) = own_replies.get(&counter) else { continue };
        let renamed = |field: &str| own.get_str(field).ok().map(|name| addresses.of[name].as_str());
        assert_eq!(rewritten.get_str("me").ok(), renamed("me"), "{rewritten}");
        assert_eq!(rewritten.get_str("primary").ok(), renamed("primary"), "{rewritten}");
        for same in ["isWritablePrimary", "secondary", "setVersion", "electionId"] {
            assert_eq!(rewritten.get(same), own.get(same), "{rewritten}");
        }
    }
}

/// Returns the replies of a stream by the counter of their `topologyVersion`, up to the first that names this primary.
fn replies_until(connection: &mut Connection, primary: &str) -> BTreeMap<i64, Document> {
    let mut replies = BTreeMap::new();
    loop {
        let reply = connection.reply().unwrap().document;
        let is_last = reply.get_str("primary").ok() == Some(primary);
        replies.insert(reply.get_document("topologyVersion").unwrap().get_i64("counter").unwrap(), reply);
        if is_last {
            return replies;
        }
    }
}

/// A user's documents may have the same fields as a hello reply. Replies of administrative commands about the set are
/// not rewritten either: operators read them.
#[test]
fn documents_that_look_like_hello_replies_are_not_rewritten() {
    let Some(set) = ReplicaSet::shared() else { return };
    let gateway = Gateway::start(&GatewayOptions::to_set(&set));
    let addresses = Addresses { of: gateway.await_members(&set.members()) };
    let primary = set.primary();
    let mut direct = set.connect(&primary).unwrap();
    let mut through = Connection::plain(&addresses.of[&primary]).unwrap();
    let hello_reply = set.run(&primary, &doc! { "hello": 1, "$db": "admin" }).unwrap();
    let database = "looks";
    for (id, ok) in [Bson::Double(1.0), Bson::Int32(1), Bson::Null].into_iter().enumerate() {
        let mut document = doc! { "_id": i32::try_from(id).unwrap() };
        document.extend(hello_reply.clone());
        document.insert("ok", ok);
        document.insert("hello", 1);
        let insert = doc! { "insert": "c", "documents": [document], "writeConcern": { "w": 3 }, "$db": database };
        through.run(&insert).unwrap();
    }
    let secondary = set.secondary();
    let (mut direct_to_other, mut through_to_other) =
        (set.connect(&secondary).unwrap(), Connection::plain(&addresses.of[&secondary]).unwrap());
    let anywhere = doc! { "mode": "secondaryPreferred" };
    let hosts = hello_reply.get_array("hosts").unwrap().clone();
    let sort_and_match = vec![doc! { "$sort": { "_id": 1 } }, doc! { "$match": { "me": { "$exists": true } } }];
    let reads = [
        doc! { "find": "c", "sort": { "_id": 1 } },
        doc! { "find": "c", "filter": { "hosts": hosts }, "singleBatch": true },
        doc! { "aggregate": "c", "pipeline": sort_and_match, "cursor": {} },
        doc! { "aggregate": "c", "pipeline": [{ "$replaceWith": "$$ROOT" }], "cursor": {}, "comment": "hello" },
        doc! { "distinct": "c", "key": "primary" },
        doc! { "distinct": "c", "key": "hosts" },
        // The command's name decides, not one of its fields.
        doc! { "find": "c", "filter": { "hello": 1 }, "comment": { "hello": 1, "isMaster": 1 } },
    ];
    for read in reads {
        for (direct, through) in [(&mut direct, &mut through), (&mut direct_to_other, &mut through_to_other)] {
            let mut command = on(&read, database);
            command.insert("$readPreference", anywhere.clone());
            compare_replies(&command, direct, through);
        }
    }
    let modify =
        doc! { "findAndModify": "c", "query": { "_id": 0 }, "update": { "$set": { "me": "me" } }, "$db": database };
    let was = through.run(&modify).unwrap();
    assert_eq!(names(was.get_document("value").unwrap(), "hosts"), names(&hello_reply, "hosts"));
    for command in ["replSetGetConfig", "replSetGetStatus"] {
        let reply = through.run(&doc! { command: 1, "$db": "admin" }).unwrap();
        let members = match command {
            "replSetGetConfig" => reply.get_document("config").unwrap().get_array("members").unwrap(),
            _ => reply.get_array("members").unwrap(),
        };
        let name = |member: &Bson| {
            let member = member.as_document().unwrap();
            member.get_str("host").or_else(|_| member.get_str("name")).unwrap().to_owned()
        };
        assert_eq!(members.iter().map(name).collect::<Vec<_>>(), set.members(), "{command}");
    }
    let status = through.run(&doc! { "serverStatus": 1, "$db": "admin" }).unwrap();
    assert_eq!(status.get_document("repl").unwrap().get_str("me").unwrap(), primary);
    through.run(&doc! { "dropDatabase": 1, "$db": database }).unwrap();
}

/// A pipelined hello must not cause replies to other requests to be rewritten.
#[test]
fn replies_between_hello_replies_are_not_rewritten() {
    let Some(set) = ReplicaSet::shared() else { return };
    let gateway = Gateway::start(&GatewayOptions::to_set(&set));
    let addresses = Addresses { of: gateway.await_members(&set.members()) };
    let primary = set.primary();
    let mut connection = Connection::plain(&addresses.of[&primary]).unwrap();
    let lookalike = doc! { "_id": 1, "setName": "rs0", "hosts": set.members(), "me": &primary, "primary": &primary };
    let insert = doc! { "insert": "c", "documents": [&lookalike], "$db": "between" };
    let find = doc! { "find": "c", "$db": "between" };
    let hello = doc! { "hello": 1, "$db": "between" };
    connection.run(&insert).unwrap();
    // All requests have the same request id, which clients may do.
    let requests = [&hello, &find, &hello, &find, &find, &hello];
    connection.send(&requests.map(|command| op_msg(7, 0, &[body_section(command)])).concat()).unwrap();
    for command in requests {
        let reply = connection.reply().unwrap();
        assert_eq!(reply.response_to, 7);
        if command == &hello {
            assert_eq!(reply.document.get_str("me").unwrap(), addresses.of[&primary]);
        } else {
            let batch = reply.document.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
            assert_eq!(batch, &[Bson::Document(lookalike.clone())]);
        }
    }
    connection.run(&doc! { "dropDatabase": 1, "$db": "between" }).unwrap();
}

impl Addresses {
    /// Sends the same bytes to the member and to its address at the gateway. The replies must be equal except for the
    /// names.
    fn compare(&self, set: &ReplicaSet, member: &str, request: &[u8], what: &str) {
        let address = &self.of[member];
        let mut difference = String::new();
        // A member may write between the two requests.
        for _ in 0..ATTEMPTS_MAX {
            let direct = ask(set.connect(member).unwrap(), request);
            let through = ask(Connection::plain(address).unwrap(), request);
            check_checksum(&through);
            let expected = self.expected(&direct, &through, address);
            if through.bytes == expected {
                return;
            }
            difference =
                format!("{what} to {member}: mongod replies {}, the gateway {}", direct.document, through.document);
        }
        panic!("{difference}");
    }

    /// Returns mongod's reply as the gateway must send it. Fields that change between replies are taken from `through`.
    fn expected(&self, direct: &Reply, through: &Reply, here: &str) -> Vec<u8> {
        let advertised = |name: &Bson| self.of.get(name.as_str().unwrap()).cloned().map(Bson::from);
        let mut document = Document::new();
        for (field, value) in &direct.document {
            let value = match (field.as_str(), value) {
                ("hosts" | "passives" | "arbiters", Bson::Array(names)) => {
                    Some(Bson::Array(names.iter().filter_map(advertised).collect()))
                }
                ("primary", name) => advertised(name),
                ("me", _) => Some(here.into()),
                (changing, _) if CHANGING.contains(&changing) => {
                    Some(through.document.get(changing).cloned().unwrap_or(Bson::Undefined))
                }
                _ => Some(value.clone()),
            };
            document.extend(value.map(|value| (field.clone(), value)));
        }
        let body = match direct.op_code {
            OP_REPLY => [&direct.bytes[16..36], &encode(&document)].concat(),
            _ => [&direct.bytes[16..20], &body_section(&document)].concat(),
        };
        let mut bytes = raw::message(direct.op_code, through.request_id, &body);
        bytes[8..12].copy_from_slice(&direct.response_to.to_le_bytes());
        if has_checksum(direct) {
            let length = i32::try_from(bytes.len() + 4).unwrap();
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        }
        bytes
    }
}

/// Sends the same request to both until the replies are equal, because a member may change between the two; panics if
/// they never are.
fn compare_replies(command: &Document, direct: &mut Connection, through: &mut Connection) {
    let request = op_msg(9, 0, &[body_section(command)]);
    let mut difference = String::new();
    for _ in 0..ATTEMPTS_MAX {
        let mut replies = [&mut *direct, &mut *through].map(|connection| {
            connection.send(&request).unwrap();
            connection.reply().unwrap()
        });
        // mongod chooses the request id of its reply; all other bytes must be equal.
        for reply in &mut replies {
            reply.bytes[4..8].fill(0);
        }
        let [direct, through] = replies;
        assert!(!direct.document.contains_key("code"), "{}", direct.document);
        if direct.bytes == through.bytes {
            return;
        }
        difference = format!("mongod replies {}, the gateway {}", direct.document, through.document);
    }
    panic!("{command}: {difference}");
}

fn ask(mut connection: Connection, request: &[u8]) -> Reply {
    connection.send(request).unwrap();
    connection.reply().unwrap()
}

/// Adds `$db` to a command.
fn on(command: &Document, database: &str) -> Document {
    let mut command = command.clone();
    command.insert("$db", database);
    command
}

fn names(document: &Document, field: &str) -> Vec<String> {
    document.get_array(field).unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

fn has_checksum(reply: &Reply) -> bool {
    reply.op_code == OP_MSG && reply.flags & raw::CHECKSUM_PRESENT != 0
}

fn check_checksum(reply: &Reply) {
    if has_checksum(reply) {
        let (message, checksum) = reply.bytes.split_last_chunk::<4>().unwrap();
        assert_eq!(crc32c::crc32c(message), u32::from_le_bytes(*checksum));
    }
}

fn metadata() -> Document {
    doc! { "driver": { "name": "kit", "version": "1" }, "os": { "type": "Linux" } }
}

fn set_with_every_kind_of_member() -> SetOptions {
    let members = vec![
        MemberOptions::tagged("zone", "north"),
        MemberOptions::passive(),
        MemberOptions::hidden(),
        MemberOptions::arbiter(),
    ];
    SetOptions { members, ..SetOptions::default() }
}
