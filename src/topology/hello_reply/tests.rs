//! Real replies of mongod, other valid replies, and malformed ones.

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use proptest::prelude::*;

use super::*;
use crate::topology::{Candidate, MemberName, Slot, Slots, Standing};

const HERE: &str = "gateway:9";

/// A member of every set here for which the gateway has no address.
const WITHOUT_ADDRESS: &str = "mongo-c:3";

fn map(members: &[(&str, &str)]) -> MemberMap {
    let name = |text: &str| text.parse::<MemberName>().unwrap();
    let slots = members.iter().map(|(m, a)| Slot { advertised: (*a).into(), reserved_for: Some(name(m)) });
    let candidate = |member| Candidate { name: name(member), standing: Standing::Readable, serves_clients: true };
    let members = members.iter().map(|(member, _)| *member).chain([WITHOUT_ADDRESS]);
    Slots::new(slots).assign(&members.map(candidate).collect::<Vec<_>>()).map
}

fn two() -> MemberMap {
    map(&[("mongo-a:1", "gateway:1"), ("mongo-b:2", "gateway:2")])
}

fn bytes_of(document: &Document) -> Vec<u8> {
    bson::serialize_to_vec(document).unwrap()
}

fn message(op_code: OpCode, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER_BYTES + body.len()).unwrap();
    [&Header { length, request_id: 9, response_to: 5, op_code }.to_bytes(), body].concat()
}

fn msg_of(flags: u32, sections: &[u8]) -> Vec<u8> {
    let checksum = if flags & 1 == 0 { 0 } else { 4 };
    let mut message = message(OpCode::MSG, &[&flags.to_le_bytes(), sections, &[0; 4][..checksum]].concat());
    if checksum > 0 {
        let (sealed, checksum) = message.split_last_chunk_mut::<4>().unwrap();
        *checksum = crc32c::crc32c(sealed).to_le_bytes();
    }
    message
}

fn msg(flags: u32, document: &Document) -> Vec<u8> {
    msg_of(flags, &[&[0], bytes_of(document).as_slice()].concat())
}

fn op_reply(documents: &[Document]) -> Vec<u8> {
    let count = i32::try_from(documents.len()).unwrap();
    let documents: Vec<u8> = documents.iter().flat_map(bytes_of).collect();
    message(OpCode::REPLY, &[&8_i32.to_le_bytes()[..], &[0; 12], &count.to_le_bytes(), &documents].concat())
}

fn named(message: &[u8]) -> Result<Option<Vec<u8>>, RewriteError> {
    rewrite(message, &MemberNaming::Members { map: &two(), here: HERE })
}

fn balanced(message: &[u8]) -> Result<Option<Vec<u8>>, RewriteError> {
    rewrite(message, &MemberNaming::LoadBalanced { service_id: [7; 12] })
}

fn real() -> Document {
    doc! {
        "topologyVersion": { "processId": ObjectId::from_bytes([3; 12]), "counter": 6_i64 },
        "hosts": ["mongo-a:1", "mongo-c:3", "Mongo-B:2"],
        "passives": ["mongo-b:2"],
        "arbiters": ["mongo-c:3"],
        "setName": "rs0",
        "setVersion": 3,
        "primary": "MONGO-A:1",
        "tags": { "hosts": ["mongo-a:1"], "me": "mongo-a:1" },
        "me": "mongo-b:2",
        "lastWrite": { "majority": 1 },
        "ok": 1.0,
    }
}

fn rewritten() -> Document {
    let mut rewritten = real();
    rewritten.insert("hosts", vec!["gateway:1", "gateway:2"]);
    rewritten.insert("passives", vec!["gateway:2"]);
    rewritten.insert("arbiters", Vec::<Bson>::new());
    rewritten.insert("primary", "gateway:1");
    rewritten.insert("me", "gateway:2");
    rewritten
}

#[test]
fn the_five_fields_are_rewritten_and_all_other_bytes_are_kept() {
    for flags in [0, 1, 2, 3, 1 << 16, 1 << 20 | 1] {
        assert_eq!(named(&msg(flags, &real())), Ok(Some(msg(flags, &rewritten()))), "{flags}");
    }
    assert_eq!(named(&op_reply(&[real()])), Ok(Some(op_reply(&[rewritten()]))));
    let other = doc! { "ok": 0, "x": 1 };
    let mixed = op_reply(&[other.clone(), real(), real()]);
    assert_eq!(named(&mixed), Ok(Some(op_reply(&[other, rewritten(), rewritten()]))));
}

#[test]
fn members_without_an_address_are_omitted() {
    let reply = |primary: &str, me: &str| {
        msg(0, &doc! { "setName": "rs0", "primary": primary, "me": me, "hosts": ["mongo-c:3"], "ok": 1 })
    };
    let expected = msg(0, &doc! { "setName": "rs0", "me": HERE, "hosts": [], "ok": 1 });
    assert_eq!(named(&reply("mongo-c:3", "mongo-d:3")), Ok(Some(expected.clone())));
    assert_eq!(named(&reply("mongo-a:1\0", "")), Ok(Some(expected)));
}

/// A driver could not use the only server that it reaches if that were not in the list.
#[test]
fn a_member_without_an_address_is_named_by_the_address_that_the_client_came_by() {
    let reply = doc! { "hosts": ["mongo-a:1", "mongo-c:3"], "primary": "Mongo-C:3", "me": "mongo-c:3", "ok": 1 };
    let expected = doc! { "hosts": ["gateway:1", HERE], "primary": HERE, "me": HERE, "ok": 1 };
    assert_eq!(named(&msg(0, &reply)), Ok(Some(msg(0, &expected))));
}

/// The client came by the address of `mongo-a`, and `mongo-b` replies.
#[test]
fn a_primary_at_the_address_of_another_member_is_not_shown_as_primary() {
    for field in ["isWritablePrimary", "ismaster"] {
        let reply = |me: &str, is_primary: bool| doc! { field: is_primary, "hosts": ["mongo-b:2"], "me": me, "ok": 1 };
        let here = |address: &str, reply: &Document| {
            let naming = MemberNaming::Members { map: &two(), here: address };
            let rewritten = rewrite(&op_reply(std::slice::from_ref(reply)), &naming).unwrap().unwrap();
            Document::from_reader(&rewritten[HEADER_BYTES + REPLY_HEAD_BYTES..]).unwrap()
        };
        for (address, me, expected) in [
            ("gateway:1", "mongo-b:2", (false, "gateway:2")),
            ("gateway:2", "mongo-b:2", (true, "gateway:2")),
            // The set does not list an address without a member, so that a driver drops it.
            (HERE, "mongo-b:2", (true, "gateway:2")),
            ("gateway:1", "mongo-c:3", (true, "gateway:1")),
        ] {
            let shown = here(address, &reply(me, true));
            assert_eq!((shown.get_bool(field).unwrap(), shown.get_str("me").unwrap()), expected, "{address} {me}");
            assert!(!here(address, &reply(me, false)).get_bool(field).unwrap());
        }
    }
}

#[test]
fn replies_without_member_names_are_not_changed() {
    for document in [
        doc! { "msg": "isdbgrid", "isWritablePrimary": true, "ok": 1.0 },
        doc! { "isWritablePrimary": true, "ok": 1.0 },
        doc! { "isreplicaset": true, "ok": 1.0 },
        doc! { "ok": 0.0, "errmsg": "hosts", "code": 13 },
        doc! { "inner": { "hosts": ["mongo-a:1"] }, "Hosts": ["mongo-a:1"], "serviceId": 1 },
        doc! {},
    ] {
        for flags in [0, 1] {
            assert_eq!(named(&msg(flags, &document)), Ok(None), "{document}");
        }
        assert_eq!(named(&op_reply(&[document])), Ok(None));
    }
    assert_eq!(named(&op_reply(&[])), Ok(None));
}

#[test]
fn a_load_balanced_reply_has_a_service_id_and_no_names() {
    let id = ObjectId::from_bytes([7; 12]);
    for (before, after) in [
        (
            doc! {
                "hosts": ["a:1"], "passives": 1, "setName": "rs0", "me": "x", "primary": 1, "arbiters": [], "ok": 1.0
            },
            doc! { "setName": "rs0", "ok": 1.0, "serviceId": id },
        ),
        (doc! { "serviceId": ObjectId::new(), "ok": true }, doc! { "serviceId": id, "ok": true }),
        (doc! { "msg": "isdbgrid", "ok": 1_i64 }, doc! { "msg": "isdbgrid", "ok": 1_i64, "serviceId": id }),
    ] {
        for flags in [0, 1] {
            let after = msg(flags, &after);
            assert_eq!(balanced(&msg(flags, &before)), Ok(Some(after.clone())), "{before}");
            assert_eq!(balanced(&after), Ok(None), "a second rewrite changes nothing");
        }
    }
    assert_eq!(balanced(&msg(0, &doc! { "ok": 0.0, "code": 13 })), Ok(None));
}

#[test]
fn every_occurrence_of_a_field_is_rewritten() {
    let element = |kind: u8, name: &str, value: &[u8]| [&[kind], name.as_bytes(), &[0], value].concat();
    let text = |text: &[u8]| [&i32::try_from(text.len() + 1).unwrap().to_le_bytes(), text, &[0]].concat();
    let document = |elements: &[Vec<u8>]| {
        let mut out = DocumentBytes::with_capacity(0);
        for element in elements {
            out.push(element);
        }
        out.finish()
    };
    let odd = [element(2, "x", &text(b"\xFF\xFE")), element(2, "x", &text(b"me")), vec![10, 0xC3, 0x28, 0]].concat();
    let me = |name: &[u8]| element(2, "me", &text(name));
    let before = document(&[me(b"mongo-a:1"), odd.clone(), me(b"mongo-\xFF:1"), me(b"mongo-b:2")]);
    let after = document(&[me(b"gateway:1"), odd, me(HERE.as_bytes()), me(b"gateway:2")]);
    let wrap = |document: &[u8]| msg_of(1, &[&[0], document].concat());
    assert_eq!(named(&wrap(&before)), Ok(Some(wrap(&after))));
}

#[test]
fn fields_of_an_unexpected_type_are_errors() {
    for document in [
        doc! { "hosts": "mongo-a:1" },
        doc! { "hosts": { "0": "mongo-a:1" } },
        doc! { "hosts": ["mongo-a:1", 1] },
        doc! { "hosts": [["mongo-a:1"]] },
        doc! { "arbiters": [Bson::Symbol("mongo-a:1".to_owned())] },
        doc! { "primary": { "x": "mongo-a:1" } },
        doc! { "me": Bson::Null },
        doc! { "me": Bson::JavaScriptCode("mongo-a:1".to_owned()) },
    ] {
        assert_eq!(named(&msg(0, &document)), Err(Unreadable), "{document}");
        assert_eq!(named(&op_reply(&[doc! { "ok": 1 }, document])), Err(Unreadable));
    }
    let mut unterminated = msg(0, &doc! { "me": "mongo-a:1" });
    let nul = unterminated.len() - 2;
    unterminated[nul] = b'x';
    assert_eq!(named(&unterminated), Err(Unreadable));
}

#[test]
fn messages_that_are_not_a_reply_are_errors() {
    let document = [&[0], bytes_of(&real()).as_slice()].concat();
    let sequence = |identifier: &str, documents: &[u8]| {
        let size = i32::try_from(4 + identifier.len() + 1 + documents.len()).unwrap();
        [&[1][..], &size.to_le_bytes(), identifier.as_bytes(), &[0], documents].concat()
    };
    let with = |sections: &[&[u8]]| msg_of(0, &sections.concat());
    let kept = sequence("x", b"anything");
    let rewritten = [&[0], bytes_of(&rewritten()).as_slice()].concat();
    for checksum in [0, 1] {
        let around = |document: &[u8]| msg_of(checksum, &[&kept, document, &kept].concat());
        assert_eq!(named(&around(&document)), Ok(Some(around(&rewritten))));
    }
    for hostile in [
        with(&[]),
        with(&[&kept]),
        with(&[&document, &document]),
        with(&[&document, &sequence("hosts", &[])]),
        with(&[&document, &sequence("me.x", &[])]),
        with(&[&document, &[2, 5, 0, 0, 0, 0]]),
        with(&[&document, &[1, 3, 0, 0, 0]]),
        msg_of(4, &document),
        message(OpCode::COMPRESSED, &document),
        message(OpCode::QUERY, &document),
        message(OpCode::REPLY, &[&[0; 16][..], &(-1_i32).to_le_bytes()].concat()),
        [op_reply(&[real()]), vec![0]].concat(),
        message(OpCode::REPLY, &[&[0; 20][..], &bytes_of(&real())].concat()),
    ] {
        assert_eq!(named(&hostile), Err(Unreadable), "{hostile:?}");
        assert_eq!(balanced(&hostile), Err(Unreadable), "{hostile:?}");
    }
}

#[test]
fn truncated_and_altered_messages_are_errors() {
    for whole in [msg(0, &real()), msg(1, &real()), op_reply(&[real()])] {
        for end in 0..whole.len() {
            assert_eq!(named(&whole[..end]), Err(Unreadable));
            // Also if the header declares the shorter length.
            let mut cut = whole[..end].to_vec();
            if let Some(length) = cut.first_chunk_mut() {
                *length = i32::try_from(end).unwrap().to_le_bytes();
            }
            assert_eq!(named(&cut), Err(Unreadable), "{end}");
        }
    }
    let sealed = msg(1, &real());
    for at in HEADER_BYTES..sealed.len() {
        let mut altered = sealed.clone();
        altered[at] ^= 1;
        let flags_lost_the_checksum = at == HEADER_BYTES;
        assert!(named(&altered).is_err() || flags_lost_the_checksum, "{at}");
    }
}

/// The elements of a document, except the rewritten fields.
fn others(document: &[u8]) -> Vec<Vec<u8>> {
    let elements = WholeElements::new(document).map(Result::unwrap);
    elements.filter(|e| Field::of(e.name).is_none()).map(|e| e.bytes.to_vec()).collect()
}

fn field() -> impl Strategy<Value = (String, Bson)> {
    let host = prop_oneof![Just("mongo-a:1"), Just("mongo-b:2"), Just("mongo-c:3"), Just("x")];
    let hosts = prop::collection::vec(host.clone().prop_map(Bson::from), 0..4).prop_map(Bson::Array);
    prop_oneof![
        (prop::sample::select(vec!["hosts", "passives", "arbiters"]), hosts).prop_map(|(n, v)| (n.to_owned(), v)),
        (prop::sample::select(vec!["me", "primary"]), host).prop_map(|(n, v)| (n.to_owned(), v.into())),
        ("[a-z]{1,9}", "\\PC{0,700}").prop_map(|(n, v)| (n, v.into())),
        ("[a-z]{1,9}", any::<i64>()).prop_map(|(n, v)| (n, v.into())),
    ]
}

proptest! {
    #[test]
    fn no_member_name_remains_and_all_other_elements_are_kept(
        fields in prop::collection::vec(field(), 0..9), checksum: bool, legacy: bool,
    ) {
        let document: Document = fields.into_iter().collect();
        let wrap = |d: &Document| if legacy { op_reply(std::slice::from_ref(d)) } else { msg(u32::from(checksum), d) };
        let before = wrap(&document);
        let after = match named(&before) {
            Err(unknown) => {
                prop_assert_eq!(unknown, RewriteError::MembersUnknown);
                return Ok(());
            }
            Ok(after) => after.unwrap_or_else(|| before.clone()),
        };
        let head = if legacy { HEADER_BYTES + 20 } else { HEADER_BYTES + 5 };
        let tail = if !legacy && checksum { 4 } else { 0 };
        let inside = &after[head..after.len() - tail];
        prop_assert_eq!(others(inside), others(&bytes_of(&document)));
        prop_assert!(!after.windows(6).any(|bytes| bytes == b"mongo-"));
        // Rewriting again, with a set whose members have the advertised names, changes nothing.
        let same = map(&[("gateway:1", "gateway:1"), ("gateway:2", "gateway:2"), (HERE, HERE)]);
        prop_assert_eq!(rewrite(&after, &MemberNaming::Members { map: &same, here: HERE }), Ok(None));
    }

    #[test]
    fn any_bytes_give_a_valid_message_or_an_error(
        bytes in prop::collection::vec(any::<u8>(), 0..200), op_code in prop::sample::select(vec![1, 2013, 2012]),
    ) {
        let message = message(OpCode(op_code), &bytes);
        for rewritten in [named(&message), balanced(&message)].into_iter().flatten().flatten() {
            prop_assert!(Header::parse(*rewritten.first_chunk().unwrap()).unwrap().length as usize == rewritten.len());
        }
    }
}

#[test]
fn a_list_is_not_emptied_because_all_members_have_got_other_names() {
    let here = |map: &MemberMap, hosts: &[&str], me: &str| {
        let reply = doc! { "isWritablePrimary": true, "hosts": hosts, "me": me, "ok": 1.0 };
        rewrite(&msg(0, &reply), &MemberNaming::Members { map, here: "gateway:1" })
    };
    let renamed = here(&two(), &["new-a:1", "new-b:2"], "new-a:1");
    assert_eq!(renamed, Err(RewriteError::MembersUnknown));
    // One that is still known leads to the others.
    assert!(here(&two(), &["new-a:1", "mongo-b:2"], "new-a:1").is_ok());
    // There is no address for these, and there will be none.
    let name = |text: &str| text.parse::<MemberName>().unwrap();
    let slot = |address: &str| Slot { advertised: address.into(), reserved_for: Some(name("hidden:1")) };
    let candidate = |member| Candidate { name: name(member), standing: Standing::Readable, serves_clients: true };
    let map = Slots::new([slot("gateway:1")]).assign(&[candidate("mongo-a:1")]).map;
    assert!(here(&map, &["mongo-a:1"], "mongo-a:1").is_ok());
    let slot = |address: &str| Slot { advertised: address.into(), reserved_for: None };
    let map = Slots::new([slot("gateway:1")]).assign(&["a:1", "b:1"].map(candidate)).map;
    assert!(here(&map, &["b:1"], "b:1").is_ok());
}
