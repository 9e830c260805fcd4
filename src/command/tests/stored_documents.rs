//! Documents with a duplicate field, in every place from which a server stores them.

use bson::raw::CString;
use bson::{RawBson, RawDocumentBuf, rawdoc};

use super::{concatenated, read_body, read_with, text};
use crate::command::Sequence;

const REFUSED: &str = "DuplicateField";

#[track_caller]
fn check(body: &RawDocumentBuf, expected: &str) {
    assert_eq!(text(&read_body(body)), expected, "{body:?}");
}

/// The measurement of a sensor, with `value` twice.
fn twice() -> RawDocumentBuf {
    rawdoc! { "t": 1, "sensor": { "id": 1 }, "value": 1, "value": 2 }
}

fn once() -> RawDocumentBuf {
    rawdoc! { "t": 1, "sensor": { "id": 1 }, "value": 1, "values": [{ "value": 1 }, { "value": 1 }] }
}

/// `document` inside of `levels` objects or arrays.
fn nested(document: RawDocumentBuf, levels: usize) -> RawDocumentBuf {
    (0..levels).fold(document, |inner, level| {
        if level % 2 == 0 {
            rawdoc! { "a": 1, "b": inner }
        } else {
            rawdoc! { "a": 1, "b": [1, inner] }
        }
    })
}

#[test]
fn an_insert_with_a_duplicate_field_is_refused_at_every_depth() {
    let insert = |documents: [RawDocumentBuf; 2]| {
        let [first, second] = documents;
        rawdoc! { "insert": "m", "documents": [first, second], "$db": "shop" }
    };
    check(&insert([once(), once()]), "Write shop.m");
    check(&insert([once(), nested(once(), 9)]), "Write shop.m");
    check(&insert([twice(), once()]), REFUSED);
    for levels in 0..9 {
        check(&insert([once(), nested(twice(), levels)]), REFUSED);
    }
    check(&insert([rawdoc! { "meta": 1, "meta": 2 }, once()]), REFUSED);
    check(&insert([rawdoc! { "_id": 1, "a": 1, "_id": 2 }, once()]), REFUSED);
    check(&rawdoc! { "insert": "system.buckets.m", "documents": [{ "control": twice() }], "$db": "shop" }, REFUSED);
    check(&rawdoc! { "insert": "m", "documents": [1], "$db": "shop" }, "NotBson");
    // Clients name the elements of an array as they like.
    let mut body = insert([once(), once()]).into_bytes();
    let at = body.windows(3).position(|three| three == [3, b'1', 0]).unwrap();
    body[at + 1] = b'0';
    check(&RawDocumentBuf::from_bytes(body).unwrap(), "Write shop.m");
}

#[test]
fn an_insert_of_a_bulk_write_with_a_duplicate_field_is_refused() {
    let bulk = |operation: RawDocumentBuf| {
        rawdoc! { "bulkWrite": 1, "ops": [operation], "nsInfo": [{ "ns": "shop.m" }], "$db": "admin" }
    };
    check(&bulk(rawdoc! { "insert": 0, "document": once() }), "Write shop.m");
    check(&bulk(rawdoc! { "insert": 0, "document": twice() }), REFUSED);
    check(&bulk(rawdoc! { "insert": 0, "document": nested(twice(), 5) }), REFUSED);
    check(&rawdoc! { "explain": bulk(rawdoc! { "insert": 0, "document": twice() }), "$db": "admin" }, REFUSED);
    let body = rawdoc! { "bulkWrite": 1, "$db": "admin" };
    let namespaces = concatenated(&[rawdoc! { "ns": "shop.m" }]);
    for (document, expected) in [(once(), "Write shop.m"), (twice(), REFUSED)] {
        let ops =
            concatenated(&[rawdoc! { "insert": 0, "document": once() }, rawdoc! { "insert": 0, "document": document }]);
        let sequences = [
            Sequence { identifier: b"ops", documents: &ops },
            Sequence { identifier: b"nsInfo", documents: &namespaces },
        ];
        assert_eq!(text(&read_with(&body, &sequences, false)), expected);
    }
}

#[test]
fn an_update_is_compared_where_it_changes_buckets_as_they_are() {
    const OF_BUCKETS: &str = "Write shop.system.buckets.m, Write shop.m, Read shop.system.buckets.m, Read shop.m";
    const OF_MEASUREMENTS: &str = "Write shop.m, Read shop.m";
    let set = |value: RawDocumentBuf| rawdoc! { "$set": { "control.min": value } };
    let update = |collection: &str, value: RawDocumentBuf| {
        rawdoc! { "update": collection, "updates": [{ "q": { "a": 1, "a": 2 }, "u": set(value) }], "$db": "shop" }
    };
    let raw = |mut body: RawDocumentBuf| {
        body.append(CString::try_from("rawData").unwrap(), true);
        body
    };
    check(&update("system.buckets.m", once()), OF_BUCKETS);
    check(&update("system.buckets.m", twice()), REFUSED);
    check(&update("m", twice()), OF_MEASUREMENTS);
    check(&raw(update("m", twice())), REFUSED);
    check(&raw(update("m", once())), OF_MEASUREMENTS);
    let find_and_modify = |collection: &str, update: RawBson| {
        rawdoc! { "findAndModify": collection, "query": {}, "update": update, "upsert": true, "$db": "shop" }
    };
    check(&find_and_modify("system.buckets.m", set(once()).into()), OF_BUCKETS);
    check(&find_and_modify("system.buckets.m", set(twice()).into()), REFUSED);
    check(&find_and_modify("m", set(twice()).into()), OF_MEASUREMENTS);
    let bulk = |namespace: &str, value: RawDocumentBuf| {
        rawdoc! { "bulkWrite": 1, "ops": [
            { "update": 0, "filter": { "a": 1, "a": 2 }, "updateMods": set(value) },
        ], "nsInfo": [{ "ns": namespace }], "$db": "admin" }
    };
    check(&bulk("shop.system.buckets.m", once()), OF_BUCKETS);
    check(&bulk("shop.system.buckets.m", twice()), REFUSED);
    check(&bulk("shop.m", twice()), OF_MEASUREMENTS);
    check(&raw(bulk("shop.m", twice())), REFUSED);
}

#[test]
fn a_pipeline_that_stores_a_literal_with_a_duplicate_field_is_refused() {
    let literal = |document: RawDocumentBuf| rawdoc! { "$replaceWith": { "$literal": document } };
    let out = || rawdoc! { "$out": { "db": "shop", "coll": "m", "timeseries": { "timeField": "t" } } };
    let aggregate = |first: RawDocumentBuf| rawdoc! { "aggregate": "a", "pipeline": [first, out()], "$db": "shop" };
    check(&aggregate(literal(once())), "Read shop.a, Write shop.m");
    check(&aggregate(literal(twice())), REFUSED);
    check(&aggregate(rawdoc! { "$set": { "x": { "$cond": [true, { "$literal": nested(twice(), 3) }, 1] } } }), REFUSED);
    check(
        &rawdoc! { "aggregate": 1, "pipeline": [{ "$documents": [{ "$literal": twice() }] }, out()], "$db": "shop" },
        REFUSED,
    );
    check(
        &rawdoc! { "aggregate": "a", "pipeline": [{ "$replaceWith": "$$x" }, out()], "let": {
            "x": { "$literal": twice() },
        }, "$db": "shop" },
        REFUSED,
    );
    let view = |stage: RawDocumentBuf| rawdoc! { "create": "v", "viewOn": "a", "pipeline": [stage], "$db": "shop" };
    check(&view(literal(once())), "Ddl shop.v, Read shop.a");
    check(&view(literal(twice())), REFUSED);
    check(&rawdoc! { "collMod": "v", "viewOn": "a", "pipeline": [literal(twice())], "$db": "shop" }, REFUSED);
    // Filters may name a field twice.
    check(&aggregate(rawdoc! { "$match": { "a": { "$gt": 1 }, "a": { "$lt": 5 } } }), "Read shop.a, Write shop.m");
}

#[test]
fn a_document_with_very_many_fields_is_compared() {
    let mut many = RawDocumentBuf::new();
    for at in 0..200_000 {
        many.append(CString::try_from(format!("{at:x}")).unwrap(), 1);
    }
    check(&rawdoc! { "insert": "m", "documents": [many.clone()], "$db": "shop" }, "Write shop.m");
    many.append(CString::try_from("0").unwrap(), 1);
    check(&rawdoc! { "insert": "m", "documents": [many], "$db": "shop" }, REFUSED);
}
