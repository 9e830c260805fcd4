//! Documents with a duplicate field do not reach a time-series collection through a gateway with a policy.

use bson::{DateTime, Document, RawDocumentBuf, doc, rawdoc};

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::Mongod;
use crate::kit::raw::{Received, body_section, op_msg, sequence_section_claiming};

const DATABASE: &str = "policy_series";

/// A measurement; with `is_twice`, the sensor has the same field twice.
fn measurement(is_twice: bool) -> RawDocumentBuf {
    let now = DateTime::from_millis(1_700_000_000_000);
    let values = if is_twice {
        rawdoc! { "x": 1, "y": 2, "x": 3 }
    } else {
        rawdoc! { "x": 1, "y": 2 }
    };
    rawdoc! { "t": now, "m": { "id": 1 }, "values": values }
}

fn count(mongod: &Mongod) -> i32 {
    mongod.run(&doc! { "count": "m", "$db": DATABASE }).unwrap().get_i32("n").unwrap()
}

fn in_body(documents: &[RawDocumentBuf]) -> Vec<u8> {
    let mut array = bson::RawArrayBuf::new();
    for document in documents {
        array.push(document.clone());
    }
    let body = rawdoc! { "insert": "m", "documents": array, "$db": DATABASE };
    op_msg(1, 0, &[[&[0], body.as_bytes()].concat()])
}

fn in_sequence(documents: &[RawDocumentBuf]) -> Vec<u8> {
    let bytes: Vec<u8> = documents.iter().flat_map(|document| document.as_bytes().to_vec()).collect();
    let size = i32::try_from(4 + "documents".len() + 1 + bytes.len()).unwrap();
    let sequence = sequence_section_claiming(size, "documents", &bytes);
    op_msg(1, 0, &[body_section(&doc! { "insert": "m", "$db": DATABASE }), sequence])
}

#[test]
fn a_duplicate_field_does_not_reach_a_time_series_collection() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let create: Document =
        doc! { "create": "m", "timeseries": { "timeField": "t", "metaField": "m" }, "$db": DATABASE };
    mongod.run(&create).unwrap();
    let rule = format!("[[policy.rule]]\nname = 'series'\naction = 'allow'\nto = [{{ databases = ['{DATABASE}'] }}]\n");
    let gateway = Gateway::start(&GatewayOptions { tables: rule, ..GatewayOptions::to(&mongod) });
    let good = |count: usize| vec![measurement(false); count];
    let bad = |before: usize, behind: usize| [good(before), vec![measurement(true)], good(behind)].concat();

    // The control: the same documents without the duplicate field arrive.
    let mut expected = 0;
    for documents in [good(3), good(5_000)] {
        for message in [in_body(&documents), in_sequence(&documents)] {
            let mut connection = gateway.connect().unwrap();
            connection.send(&message).unwrap();
            let reply = connection.reply().unwrap();
            assert_eq!(reply.document.get_i32("n").ok(), i32::try_from(documents.len()).ok(), "{}", reply.document);
            expected += documents.len();
        }
    }
    assert_eq!(usize::try_from(count(&mongod)).unwrap(), expected);

    let rows = [
        (in_body(&bad(2, 1)), true),
        (in_body(&bad(5_000, 1_000)), true),
        (in_sequence(&bad(2, 1)), true),
        (in_sequence(&bad(5_000, 1_000)), false),
        (in_sequence(&bad(20_000, 0)), false),
    ];
    for (message, stays_open) in rows {
        let mut connection = gateway.connect().unwrap();
        connection.send(&message).unwrap();
        let reply = connection.reply().unwrap();
        assert_eq!(reply.code(), Some(13), "{}", reply.document);
        let sentence = reply.document.get_str("errmsg").unwrap();
        assert!(sentence.contains("a document has the same field twice"), "{sentence}");
        if stays_open {
            connection.run(&doc! { "count": "m", "$db": DATABASE }).unwrap();
        } else {
            assert!(matches!(connection.receive().unwrap(), Received::Closed(_)));
        }
    }
    assert_eq!(usize::try_from(count(&mongod)).unwrap(), expected);
}
