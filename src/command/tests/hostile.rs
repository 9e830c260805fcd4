//! Hostile bytes: they cause no panic, have no second meaning, and cost no more work than their length.
//!
//! Tests run on threads with the same stack size as workers, so excessive nesting would crash them.

use bson::raw::CString;
use bson::{Document, RawArrayBuf, RawBson, RawDocument, RawDocumentBuf, rawdoc};
use proptest::prelude::*;

use super::generator::command;
use super::{Sequence, reach_text, read_body, read_with, text};
use crate::command::strict::work;
use crate::command::{Meaning, Unclear};

/// The longest body that mongod accepts.
const BODY_BYTES: usize = 16 * 1024 * 1024;

#[track_caller]
fn check(body: &RawDocument, javascript: bool, expected: &str) {
    work::take();
    let meaning = read_with(body, &[], javascript);
    assert_eq!(text(&meaning), expected);
    let (elements, length) = (work::take(), body.as_bytes().len());
    assert!(elements <= length, "{elements} elements read in {length} bytes");
}

/// An array that fills a large body; `item` gets the index.
fn many(item: impl Fn(usize) -> RawBson) -> RawArrayBuf {
    let mut array = RawArrayBuf::new();
    let mut at = 0;
    while array.as_bytes().len() < BODY_BYTES - 1024 {
        array.push(item(at));
        at += 1;
    }
    array
}

fn many_fields(value: &RawBson) -> RawDocumentBuf {
    let mut document = RawDocumentBuf::new();
    let mut at = 0;
    while document.as_bytes().len() < BODY_BYTES - 1024 {
        document.append(CString::try_from(format!("{at}")).unwrap(), value.clone());
        at += 1;
    }
    document
}

fn nested(depth: usize, inner: RawDocumentBuf, wrap: impl Fn(RawDocumentBuf) -> RawDocumentBuf) -> RawDocumentBuf {
    (0..depth).fold(inner, |inside, _| wrap(inside))
}

#[test]
fn a_large_filter_is_read_once_and_only_to_find_javascript() {
    let body = rawdoc! { "find": "orders", "filter": many_fields(&RawBson::Null), "$db": "shop" };
    check(&body, true, "Read shop.orders");
    work::take();
    assert!(read_body(&body).is_ok());
    assert!(work::take() < 10);
}

#[test]
fn reading_a_body_with_too_many_arguments_stops_early() {
    let mut body = rawdoc! { "find": "orders", "$db": "shop" };
    for element in many_fields(&RawBson::Null).iter_elements() {
        body.append(element.unwrap().key(), RawBson::Null);
    }
    work::take();
    assert_eq!(read_body(&body), Err(Unclear::TooManyArguments));
    assert!(work::take() < 200);
}

#[test]
fn a_resource_that_is_named_a_million_times_counts_once() {
    let stages = many(|_| rawdoc! { "$unionWith": "x" }.into());
    let body = rawdoc! { "aggregate": "orders", "pipeline": stages, "$db": "shop" };
    check(&body, true, "Read shop.orders, Read shop.x");
    let body =
        rawdoc! { "bulkWrite": 1, "ops": [], "nsInfo": many(|_| rawdoc! { "ns": "a.b" }.into()), "$db": "admin" };
    check(&body, true, "Write a.b");
}

#[test]
fn a_command_reaches_at_most_a_thousand_resources() {
    let of = |count: usize| {
        let mut stages = RawArrayBuf::new();
        // Each name occurs three times, so that the search for duplicates matters.
        (0..3 * count).for_each(|at| stages.push(rawdoc! { "$unionWith": format!("x{}", at % count) }));
        rawdoc! { "aggregate": "orders", "pipeline": stages, "$db": "shop" }
    };
    assert_eq!(read_body(&of(999)).unwrap().reaches.len(), 1000);
    assert_eq!(read_body(&of(1000)), Err(Unclear::TooManyResources));
    let stages = many(|at| rawdoc! { "$unionWith": format!("x{at}") }.into());
    let body = rawdoc! { "aggregate": "orders", "pipeline": stages, "$db": "shop" };
    work::take();
    assert_eq!(read_body(&body), Err(Unclear::TooManyResources));
    assert!(work::take() < 10_000);
}

#[test]
fn reading_an_endless_list_stops_early() {
    let body = rawdoc! { "killCursors": "a", "cursors": many(|_| RawBson::Int64(1)), "$db": "shop" };
    work::take();
    assert_eq!(read_body(&body), Err(Unclear::TooManyResources));
    assert!(work::take() < 2_000);
    let body = rawdoc! { "endSessions": many(|_| RawBson::Null), "$db": "shop" };
    work::take();
    assert_eq!(read_body(&body), Err(Unclear::Session));
    assert!(work::take() < 10);
}

#[test]
fn a_duplicate_key_is_found_among_a_million_keys() {
    let mut project = many_fields(&RawBson::Null);
    let body = |project: &RawDocumentBuf| {
        rawdoc! { "aggregate": "orders", "pipeline": [{ "$project": project.clone() }], "$db": "shop" }
    };
    check(&body(&project), false, "Read shop.orders");
    project.append(CString::try_from("77").unwrap(), 1);
    check(&body(&project), false, "DuplicateKey");
}

#[test]
fn nested_pipelines_have_a_limit() {
    let aggregate = |stage: RawDocumentBuf| rawdoc! { "aggregate": "orders", "pipeline": [stage], "$db": "shop" };
    let wraps: [fn(RawDocumentBuf) -> RawDocumentBuf; 3] = [
        |stage| rawdoc! { "$lookup": { "from": "a", "pipeline": [stage], "as": "x" } },
        |stage| rawdoc! { "$unionWith": { "coll": "a", "pipeline": [stage] } },
        |stage| rawdoc! { "$facet": { "a": [stage] } },
    ];
    for wrap in wraps {
        for (depth, refused) in [(20, false), (32, false), (33, true), (2_000, true)] {
            let body = aggregate(nested(depth, rawdoc! { "$unionWith": "secret" }, wrap));
            let meaning = read_body(&body);
            if refused {
                assert_eq!(meaning, Err(Unclear::TooDeep));
            } else {
                assert!(text(&meaning).ends_with("Read shop.secret"), "{meaning:?}");
            }
        }
    }
}

#[test]
fn nested_documents_have_a_limit() {
    let find = |filter: RawDocumentBuf| rawdoc! { "find": "orders", "filter": filter, "$db": "shop" };
    let wraps: [fn(RawDocumentBuf) -> RawDocumentBuf; 2] =
        [|inside| rawdoc! { "a": inside }, |inside| rawdoc! { "$or": [inside] }];
    for (wrap, levels) in wraps.into_iter().zip([1, 2]) {
        let deep = find(nested(190 / levels, rawdoc! { "$where": "x" }, wrap));
        assert!(read_with(&deep, &[], true).unwrap().javascript);
        for depth in [200, 4_000] {
            let too_deep = find(nested(depth, rawdoc! { "$where": "x" }, wrap));
            assert_eq!(read_with(&too_deep, &[], true), Err(Unclear::TooDeep));
            // Nothing in the filter names a resource, and mongod refuses it.
            assert!(read_body(&too_deep).is_ok());
        }
    }
}

/// All facts of a meaning except JavaScript, which may be in a document with duplicate keys.
fn facts(meaning: &Meaning<'_>) -> (&'static str, bool, String, Vec<String>, Vec<i64>) {
    let reaches = meaning.reaches.iter().map(reach_text).collect();
    (meaning.command.name, meaning.explained, meaning.database.to_owned(), reaches, meaning.cursors.to_vec())
}

/// The bson crate reads every accepted body as the same command: name, database, and everything that it reaches.
fn has_one_meaning(body: &RawDocument) -> Result<(), TestCaseError> {
    let _ = read_with(body, &[], true);
    let Ok(meaning) = read_body(body) else { return Ok(()) };
    // The crate's reader stops at a value of invalid UTF-8 before `$db`; mongod does not.
    prop_assert_eq!(body.get_str("$db").unwrap_or(meaning.database), meaning.database);
    // The reader does not look at the value of a command that names nothing by it.
    let Some(Ok((first, value))) = body.iter().next() else { return Ok(()) };
    let name = match value {
        bson::raw::RawBsonRef::Document(inner) if meaning.explained => inner.iter().next().unwrap().unwrap().0,
        _ => first,
    };
    prop_assert!(name == meaning.command.name || meaning.command.aliases.contains(&name.as_str()));
    // mongod finds what is invalid inside values that do not name a resource.
    if let Ok(decoded) = Document::try_from(body) {
        let written = RawDocumentBuf::try_from(&decoded).unwrap();
        prop_assert_eq!(facts(&read_body(&written).unwrap()), facts(&meaning));
    }
    Ok(())
}

proptest! {
    #[test]
    fn arbitrary_bytes_cause_no_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        bytes.splice(0..0, [0; 4]);
        bytes.push(0);
        let length = i32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        has_one_meaning(RawDocument::from_bytes(&bytes).unwrap())?;
        let insert = rawdoc! { "bulkWrite": 1, "$db": "admin" };
        for identifier in [&b"ops"[..], b"nsInfo"] {
            let sequences = [Sequence { identifier, documents: &bytes }];
            prop_assert!(read_with(&insert, &sequences, true).is_err());
        }
    }

    #[test]
    fn a_damaged_command_has_one_meaning(
        body in command(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = RawDocumentBuf::try_from(&body).unwrap().into_bytes();
        let (first, last) = (4, bytes.len() - 1);
        for (place, byte) in damage {
            bytes[first + place.index(last - first)] = byte;
        }
        has_one_meaning(RawDocument::from_bytes(&bytes).unwrap())?;
    }

    #[test]
    fn a_command_with_a_repeated_or_missing_piece_has_one_meaning(
        body in command(),
        from in any::<prop::sample::Index>(),
        length in 1_usize..40,
        again in any::<bool>(),
    ) {
        let mut bytes = RawDocumentBuf::try_from(&body).unwrap().into_bytes();
        let from = 4 + from.index(bytes.len() - 5);
        let piece = from..(from + length).min(bytes.len() - 1);
        if again {
            bytes.extend_from_within(piece);
            bytes.push(0);
        } else {
            bytes.drain(piece);
        }
        let length = i32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        if let Ok(body) = RawDocument::from_bytes(&bytes) {
            has_one_meaning(body)?;
        }
    }
}
