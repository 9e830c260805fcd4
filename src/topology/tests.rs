//! Sets as they change, and replies as they pass.

use bson::{Document, RawDocumentBuf, doc};
use proptest::prelude::*;

use super::*;
use crate::wire::header::{HEADER_BYTES, Header, OpCode};
use crate::wire::op_msg::encode_with;

mod replies;
mod tracking;

fn name(text: &str) -> MemberName {
    MemberName::parse(text).unwrap()
}

fn names(texts: &[&str]) -> Vec<MemberName> {
    texts.iter().map(|text| name(text)).collect()
}

fn encode(request_id: i32, flags: u32, body: &RawDocumentBuf) -> Vec<u8> {
    encode_with(flags, request_id, 5, body)
}

fn raw(document: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(document).unwrap()
}

/// The slots of a listener at these ports, the map of `members`, and who is left out.
fn assign(slots: &mut Slots, members: &[&str]) -> (MemberMap, Vec<String>) {
    let Assigned { map, left_out } = slots.assign(&names(members));
    (map, left_out.iter().map(MemberName::to_string).collect())
}

fn slots(advertised: &[&str]) -> Slots {
    Slots::new(advertised.iter().map(|text| Slot::new(&(*text).into(), None)).collect())
}

fn shown(map: &MemberMap, count: usize) -> Vec<String> {
    (0..count).map(|at| map.member_at(at).map(MemberName::to_string).unwrap_or_default()).collect()
}

#[test]
fn a_members_name_is_a_host_and_a_port() {
    let parts =
        |text: &str| MemberName::parse(text).map(|name| (name.host().to_owned(), name.port(), name.to_string()));
    let is = |text: &str, host: &str, port: u16, whole: &str| {
        assert_eq!(parts(text), Ok((host.to_owned(), port, whole.to_owned())), "{text}");
    };
    is("Mongo-0.Mongo:27018", "mongo-0.mongo", 27018, "mongo-0.mongo:27018");
    is("mongo", "mongo", 27017, "mongo:27017");
    is("[::1]:1", "::1", 1, "[::1]:1");
    is("[FE80::1]", "fe80::1", 27017, "[fe80::1]:27017");
    for wrong in [
        "",
        ":1",
        "a:",
        "a:0",
        "a:70000",
        "::1",
        "::1:27017",
        "[::1",
        "::1]:5",
        "a b:1",
        "a,b:1",
        "a\n:1",
        "[]:1",
        "a:+",
    ] {
        assert_eq!(parts(wrong), Err(NotAMember), "{wrong}");
    }
    assert_eq!(parts(&"a".repeat(400)), Err(NotAMember));
}

#[test]
fn members_take_addresses_in_the_order_of_their_names_and_keep_them() {
    let mut slots = slots(&["g:1", "g:2", "g:3"]);
    let (map, left_out) = assign(&mut slots, &["c:1", "a:1"]);
    assert_eq!((shown(&map, 3), left_out), (vec!["a:1".to_owned(), "c:1".to_owned(), String::new()], vec![]));
    assert_eq!(map.advertised(&name("C:1")).map(|told| &**told), Some("g:2"));

    let (map, left_out) = assign(&mut slots, &["a:1", "b:1", "c:1"]);
    assert_eq!((shown(&map, 3), left_out), (vec!["a:1".to_owned(), "c:1".to_owned(), "b:1".to_owned()], vec![]));

    let (map, left_out) = assign(&mut slots, &["b:1", "c:1", "d:1", "e:1"]);
    assert_eq!(shown(&map, 3), ["d:1", "c:1", "b:1"], "the address of the one that has left");
    assert_eq!(left_out, ["e:1"]);
}

#[test]
fn who_comes_back_finds_his_address_where_nobody_needed_it() {
    let mut slots = slots(&["g:1", "g:2"]);
    assign(&mut slots, &["a:1", "b:1"]);
    let (map, _) = assign(&mut slots, &["b:1"]);
    assert_eq!(shown(&map, 2), ["", "b:1"]);
    let (map, _) = assign(&mut slots, &["a:1", "b:1"]);
    assert_eq!(shown(&map, 2), ["a:1", "b:1"]);
}

#[test]
fn a_named_address_is_for_its_member_only() {
    let slot = |advertised: &str, member: &str| Slot::new(&advertised.into(), Some(name(member)));
    let mut slots = Slots::new(vec![slot("g:1", "b:1"), slot("g:2", "a:1")]);
    let (map, left_out) = assign(&mut slots, &["a:1", "c:1"]);
    assert_eq!((shown(&map, 2), left_out), (vec![String::new(), "a:1".to_owned()], vec!["c:1".to_owned()]));
    assert_eq!(map.advertised(&name("b:1")), None);
}
