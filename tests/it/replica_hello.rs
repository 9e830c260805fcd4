//! What members say of themselves reaches clients with the gateway's addresses in five fields, and to the byte as it was
//! in everything else; and nothing but replies to `hello` is touched.

use std::collections::BTreeMap;

use bson::{Bson, Document, doc};

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::raw;
use crate::kit::raw::{Connection, OP_MSG, OP_REPLY, Reply, body_section, encode, op_msg, op_query};
use crate::kit::replica_set::{MemberOptions, ReplicaSet, SetOptions};

/// Fields that differ from one reply to the next: a time, a connection's number, what was written last.
const CHANGING: [&str; 5] = ["localTime", "connectionId", "lastWrite", "$clusterTime", "operationTime"];
/// Long enough for what a member writes to itself now and then.
const ATTEMPTS_MAX: usize = 20;

/// Who stands where.
struct Addresses {
    /// By the name of the member.
    of: BTreeMap<String, String>,
}

/// A request in one of its forms, and which database it asks.
struct Form {
    name: &'static str,
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
fn every_form_of_hello_differs_in_five_fields_and_in_nothing_else() {
    let Some(set) = ReplicaSet::start(set_of_every_kind()) else { return };
    let gateway = Gateway::start(&GatewayOptions::to_set(&set));
    let hidden = &set.members()[2];
    let told: Vec<_> = set.members().into_iter().filter(|member| member != hidden).collect();
    let addresses = Addresses { of: gateway.await_members(&told) };
    let commands = ["hello", "isMaster", "ismaster"].map(|name| doc! { name: 1 });
    let wrapped = [doc! { "$query": { "isMaster": 1 } }, doc! { "query": { "ismaster": 1 } }];
    let long = doc! { "hello": "anything", "client": metadata(), "helloOk": true, "comment": "x".repeat(9_000) };
    for member in &told {
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
    // All kinds of names have been seen: passive, arbiter, primary, and nothing of the hidden one.
    let mut connection = Connection::plain(&addresses.of[&set.primary()]).unwrap();
    let hello = connection.run(&doc! { "hello": 1, "$db": "admin" }).unwrap();
    assert_eq!(hello.get_array("hosts").unwrap().len(), 1);
    assert_eq!(hello.get_array("passives").unwrap().len(), 1);
    assert_eq!(hello.get_array("arbiters").unwrap().len(), 1);
    assert_eq!(hello.get_str("me").unwrap(), hello.get_str("primary").unwrap());
}

#[test]
fn every_frame_of_a_stream_is_changed() {
    let Some(set) =
        ReplicaSet::start(SetOptions { members: vec![MemberOptions::default(); 2], ..SetOptions::default() })
    else {
        return;
    };
    let gateway = Gateway::start(&GatewayOptions::to_set(&set));
    let addresses = Addresses { of: gateway.await_members(&set.members()) };
    // In the order of the set's configuration, as mongod tells them.
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
        for frame in 0..5 {
            let reply = connection.reply().unwrap();
            let about = format!("frame {frame}, checksum {with_checksum}: {}", reply.document);
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
    frames_of_an_election(&set, &addresses);
}

/// What an election changes comes on the stream as it does on mongod's own, with the gateway's addresses.
fn frames_of_an_election(set: &ReplicaSet, addresses: &Addresses) {
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
    let frames = frames_until(&mut direct, &after);
    let changed = frames_until(&mut through, &addresses.of[&after]);
    assert!(changed.len() > 1, "an election without a frame in between: {changed:?}");
    for other in changed.values() {
        let known = |name: &str| addresses.of.values().any(|address| address == name);
        assert!(other.get_str("me").is_ok_and(known), "{other}");
        assert!(other.get_str("primary").ok().is_none_or(known), "{other}");
    }
    // mongod may leave out what is past when it comes to write a frame, on one stream or the other.
    for (counter, other) in changed {
        let Some(frame) = frames.get(&counter) else { continue };
        let renamed = |field: &str| frame.get_str(field).ok().map(|name| addresses.of[name].as_str());
        assert_eq!(other.get_str("me").ok(), renamed("me"), "{other}");
        assert_eq!(other.get_str("primary").ok(), renamed("primary"), "{other}");
        for same in ["isWritablePrimary", "secondary", "setVersion", "electionId"] {
            assert_eq!(other.get(same), frame.get(same), "{other}");
        }
    }
}

/// The frames of a stream by their topology's version, as far as the one that names this primary.
fn frames_until(connection: &mut Connection, primary: &str) -> BTreeMap<i64, Document> {
    let mut frames = BTreeMap::new();
    loop {
        let frame = connection.reply().unwrap().document;
        let is_last = frame.get_str("primary").ok() == Some(primary);
        frames.insert(frame.get_document("topologyVersion").unwrap().get_i64("counter").unwrap(), frame);
        if is_last {
            return frames;
        }
    }
}

/// Documents of users may have such fields; replies about the set itself are for operators.
#[test]
fn documents_that_look_like_hello_stay_as_they_are() {
    let Some(set) = ReplicaSet::shared() else { return };
    let gateway = Gateway::start(&GatewayOptions::to_set(&set));
    let addresses = Addresses { of: gateway.await_members(&set.members()) };
    let primary = set.primary();
    let mut direct = set.connect(&primary).unwrap();
    let mut through = Connection::plain(&addresses.of[&primary]).unwrap();
    let looks = set.run(&primary, &doc! { "hello": 1, "$db": "admin" }).unwrap();
    let database = "looks";
    for (id, ok) in [Bson::Double(1.0), Bson::Int32(1), Bson::Null].into_iter().enumerate() {
        let mut document = doc! { "_id": i32::try_from(id).unwrap() };
        document.extend(looks.clone());
        document.insert("ok", ok);
        document.insert("hello", 1);
        let insert = doc! { "insert": "c", "documents": [document], "writeConcern": { "w": 3 }, "$db": database };
        through.run(&insert).unwrap();
    }
    let secondary = set.secondary();
    let (mut direct_to_other, mut through_to_other) =
        (set.connect(&secondary).unwrap(), Connection::plain(&addresses.of[&secondary]).unwrap());
    let anywhere = doc! { "mode": "secondaryPreferred" };
    let reads = [
        doc! { "find": "c", "sort": { "_id": 1 } },
        doc! { "find": "c", "filter": { "hosts": looks.get_array("hosts").unwrap().clone() }, "singleBatch": true },
        doc! { "aggregate": "c", "pipeline": [{ "$sort": { "_id": 1 } }, { "$match": { "me": { "$exists": true } } }], "cursor": {} },
        doc! { "aggregate": "c", "pipeline": [{ "$replaceWith": "$$ROOT" }], "cursor": {}, "comment": "hello" },
        doc! { "distinct": "c", "key": "primary" },
        doc! { "distinct": "c", "key": "hosts" },
        // A command's name decides, not a field of it.
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
    assert_eq!(names(was.get_document("value").unwrap(), "hosts"), names(&looks, "hosts"));
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

/// A pipelined hello must not lend its name to its neighbours.
#[test]
fn replies_between_hellos_stay_as_they_are() {
    let Some(set) = ReplicaSet::shared() else { return };
    let gateway = Gateway::start(&GatewayOptions::to_set(&set));
    let addresses = Addresses { of: gateway.await_members(&set.members()) };
    let primary = set.primary();
    let mut connection = Connection::plain(&addresses.of[&primary]).unwrap();
    let looks = doc! { "_id": 1, "setName": "rs0", "hosts": set.members(), "me": &primary, "primary": &primary };
    let insert = doc! { "insert": "c", "documents": [&looks], "$db": "between" };
    let find = doc! { "find": "c", "$db": "between" };
    let hello = doc! { "hello": 1, "$db": "between" };
    connection.run(&insert).unwrap();
    // The same request id for all, as a client is free to do.
    let requests = [&hello, &find, &hello, &find, &find, &hello];
    connection.send(&requests.map(|command| op_msg(7, 0, &[body_section(command)])).concat()).unwrap();
    for command in requests {
        let reply = connection.reply().unwrap();
        assert_eq!(reply.response_to, 7);
        if command == &hello {
            assert_eq!(reply.document.get_str("me").unwrap(), addresses.of[&primary]);
        } else {
            let batch = reply.document.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
            assert_eq!(batch, &[Bson::Document(looks.clone())]);
        }
    }
    connection.run(&doc! { "dropDatabase": 1, "$db": "between" }).unwrap();
}

impl Addresses {
    /// Sends the same bytes to the member and to its address; what comes back is the same but for the names.
    fn compare(&self, set: &ReplicaSet, member: &str, request: &[u8], what: &str) {
        let address = &self.of[member];
        let mut difference = String::new();
        // Between two questions a member may have written something.
        for _ in 0..ATTEMPTS_MAX {
            let direct = ask(set.connect(member).unwrap(), request);
            let through = ask(Connection::plain(address).unwrap(), request);
            check_checksum(&through);
            let expected = self.expected(&direct, &through, address);
            if through.bytes == expected {
                return;
            }
            difference =
                format!("{what} to {member}: mongod says {}, the gateway {}", direct.document, through.document);
        }
        panic!("{difference}");
    }

    /// The reply of mongod as the gateway is to give it, with what differs from one reply to the next from `through`.
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

/// Asks both, until they have nothing to tell that changes meanwhile, and wants the same bytes.
fn compare_replies(command: &Document, direct: &mut Connection, through: &mut Connection) {
    let request = op_msg(9, 0, &[body_section(command)]);
    let mut difference = String::new();
    for _ in 0..ATTEMPTS_MAX {
        let mut replies = [&mut *direct, &mut *through].map(|connection| {
            connection.send(&request).unwrap();
            connection.reply().unwrap()
        });
        // The number of a reply is mongod's; the rest is all the same.
        for reply in &mut replies {
            reply.bytes[4..8].fill(0);
        }
        let [direct, through] = replies;
        assert!(!direct.document.contains_key("code"), "{}", direct.document);
        if direct.bytes == through.bytes {
            return;
        }
        difference = format!("mongod gives {}, the gateway {}", direct.document, through.document);
    }
    panic!("{command}: {difference}");
}

fn ask(mut connection: Connection, request: &[u8]) -> Reply {
    connection.send(request).unwrap();
    connection.reply().unwrap()
}

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
        let (sealed, checksum) = reply.bytes.split_last_chunk::<4>().unwrap();
        assert_eq!(crc32c::crc32c(sealed), u32::from_le_bytes(*checksum));
    }
}

fn metadata() -> Document {
    doc! { "driver": { "name": "kit", "version": "1" }, "os": { "type": "Linux" } }
}

fn set_of_every_kind() -> SetOptions {
    let members = vec![
        MemberOptions::tagged("zone", "north"),
        MemberOptions::passive(),
        MemberOptions::hidden(),
        MemberOptions::arbiter(),
    ];
    SetOptions { members, ..SetOptions::default() }
}
