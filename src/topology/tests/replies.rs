//! Replies to hello, rewritten.

use super::*;

fn map() -> MemberMap {
    assign(&mut slots(&["gw:1", "gw:2", "gw:3"]), &["a:1", "b:1", "c:1"]).0
}

fn members(map: &MemberMap) -> Names<'_> {
    Names::Members { map, here: "gw:9" }
}

fn secondary() -> Document {
    doc! {
        "topologyVersion": { "counter": 5_i64 },
        "hosts": ["A:1", "b:1", "x:1"],
        "passives": ["c:1"],
        "arbiters": ["y:1"],
        "setName": "rs0",
        "me": "b:1",
        "primary": "a:1",
        "tags": { "hosts": ["a:1"], "me": "b:1" },
        "ok": 1.0,
    }
}

fn rewritten() -> Document {
    doc! {
        "topologyVersion": { "counter": 5_i64 },
        "hosts": ["gw:1", "gw:2"],
        "passives": ["gw:3"],
        "arbiters": [],
        "setName": "rs0",
        "me": "gw:2",
        "primary": "gw:1",
        "tags": { "hosts": ["a:1"], "me": "b:1" },
        "ok": 1.0,
    }
}

fn sealed(mut message: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(message.len() + 4).unwrap();
    message[..4].copy_from_slice(&length.to_le_bytes());
    let checksum = crc32c::crc32c(&message);
    message.extend_from_slice(&checksum.to_le_bytes());
    message
}

fn op_reply(documents: &[Document]) -> Vec<u8> {
    let mut body = vec![8, 0, 0, 0];
    body.extend_from_slice(&[0; 12]);
    body.extend_from_slice(&u32::try_from(documents.len()).unwrap().to_le_bytes());
    for document in documents {
        body.extend_from_slice(raw(document).as_bytes());
    }
    let length = u32::try_from(HEADER_BYTES + body.len()).unwrap();
    let header = Header { length, request_id: 7, response_to: 5, op_code: OpCode::REPLY };
    [&header.to_bytes()[..], &body].concat()
}

#[test]
fn names_are_replaced_and_all_else_stays_to_the_byte() {
    let map = map();
    for flags in [0, 2] {
        let (before, after) = (encode(7, flags, &raw(&secondary())), encode(7, flags, &raw(&rewritten())));
        assert_eq!(rewrite(&before, &members(&map)), Ok(Some(after.clone())));
        assert_eq!(
            rewrite(&sealed(encode(7, flags | 1, &raw(&secondary()))), &members(&map)),
            Ok(Some(sealed(encode(7, flags | 1, &raw(&rewritten())))))
        );
    }
    assert_eq!(rewrite(&op_reply(&[secondary()]), &members(&map)), Ok(Some(op_reply(&[rewritten()]))));
    assert_eq!(
        rewrite(&op_reply(&[secondary(), secondary()]), &members(&map)),
        Ok(Some(op_reply(&[rewritten(), rewritten()])))
    );
}

#[test]
fn who_has_no_address_is_left_out_or_is_where_the_client_is() {
    let map = map();
    let hello = doc! { "setName": "rs0", "hosts": ["x:1"], "primary": "x:1", "me": "x:1", "ok": 1 };
    let expected = doc! { "setName": "rs0", "hosts": [], "me": "gw:9", "ok": 1 };
    assert_eq!(rewrite(&encode(7, 0, &raw(&hello)), &members(&map)), Ok(Some(encode(7, 0, &raw(&expected)))));
}

#[test]
fn servers_of_no_set_are_not_changed() {
    let map = map();
    for hello in [
        doc! { "msg": "isdbgrid", "hosts": ["a:1"], "ok": 1 },
        doc! { "ismaster": true, "me": "a:1", "ok": 1 },
        doc! { "ok": 0, "errmsg": "no", "code": 13 },
    ] {
        assert_eq!(rewrite(&encode(7, 0, &raw(&hello)), &members(&map)), Ok(None), "{hello}");
    }
}

#[test]
fn behind_a_load_balancer_there_are_no_names() {
    let names = Names::LoadBalanced { service_id: [7; 12] };
    let id = bson::oid::ObjectId::from_bytes([7; 12]);
    let expected = doc! {
        "topologyVersion": { "counter": 5_i64 },
        "setName": "rs0",
        "tags": { "hosts": ["a:1"], "me": "b:1" },
        "ok": 1.0,
        "serviceId": id,
    };
    let once = rewrite(&encode(7, 0, &raw(&secondary())), &names).unwrap().unwrap();
    assert_eq!(once, encode(7, 0, &raw(&expected)));
    assert_eq!(rewrite(&once, &names), Ok(Some(once.clone())));
    assert_eq!(rewrite(&encode(7, 0, &raw(&doc! { "ok": 0, "code": 13 })), &names), Ok(None));
}

#[test]
fn names_of_another_shape_do_not_get_out() {
    let map = map();
    let hello = doc! { "setName": "rs0", "hosts": "a:1", "primary": ["a:1"], "me": 5, "passives": [1, "a:1"], "ok": 1 };
    let expected = doc! { "setName": "rs0", "passives": ["gw:1"], "ok": 1 };
    assert_eq!(rewrite(&encode(7, 0, &raw(&hello)), &members(&map)), Ok(Some(encode(7, 0, &raw(&expected)))));
    // A name twice, and the set's name behind them.
    let mut twice = RawDocumentBuf::new();
    for (key, value) in [("me", "a:1"), ("me", "b:1"), ("setName", "rs0")] {
        twice.append(bson::raw::CString::try_from(key).unwrap(), value);
    }
    let rewritten = rewrite(&encode(7, 0, &twice), &members(&map)).unwrap().unwrap();
    assert!(!rewritten.windows(4).any(|bytes| bytes == b"a:1\0" || bytes == b"b:1\0"));
}

#[test]
fn what_cannot_be_read_is_refused() {
    let map = map();
    let good = sealed(encode(7, 1, &raw(&secondary())));
    let mut wrong = good.clone();
    *wrong.last_mut().unwrap() ^= 1;
    assert_eq!(rewrite(&wrong, &members(&map)), Err(Unreadable));
    for message in [good, op_reply(&[secondary()]), encode(7, 0, &raw(&secondary()))] {
        for end in 0..message.len() {
            let mut cut = message[..end].to_vec();
            assert_eq!(rewrite(&cut, &members(&map)), Err(Unreadable), "{end}");
            if let Some(length) = cut.get_mut(..4).filter(|_| end > 37) {
                length.copy_from_slice(&u32::try_from(end).unwrap().to_le_bytes());
                assert_eq!(rewrite(&cut, &members(&map)), Err(Unreadable), "{end}, with its length");
            }
        }
    }
}

proptest! {
    #[test]
    fn hostile_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), op_code in prop::sample::select(vec![1_u8, 221])) {
        let map = map();
        let mut message = encode(7, 0, &raw(&secondary()));
        message.splice(HEADER_BYTES.., bytes);
        let length = u32::try_from(message.len()).unwrap();
        message[..4].copy_from_slice(&length.to_le_bytes());
        if op_code == 1 {
            message[12..16].copy_from_slice(&1_u32.to_le_bytes());
        }
        let _ = rewrite(&message, &members(&map));
    }

    #[test]
    fn a_flipped_bit_leaks_no_name_of_a_member(at in 20_usize..300, bit in 0_u8..8) {
        let map = map();
        let mut message = encode(7, 0, &raw(&secondary()));
        let at = at % message.len();
        message[at] ^= 1 << bit;
        let _ = rewrite(&message, &members(&map));
    }
}
