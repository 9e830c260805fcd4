//! Tests of the comparison of field names.

use bson::raw::CString;
use bson::{RawArray, RawBson, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};
use proptest::prelude::*;

use super::level::LEVELS_MAX;
use super::*;

fn fault_in_pieces(bytes: &[u8], part: ComparedPart, cut: usize) -> Option<FieldFault> {
    let mut names = FieldNames::new(part);
    bytes.chunks(cut).for_each(|piece| names.read(piece));
    names.fault()
}

fn fault_of(documents: &[u8]) -> Option<FieldFault> {
    let mut names = FieldNames::new(ComparedPart::Everything);
    names.read(documents);
    names.final_fault()
}

#[track_caller]
fn check(document: &RawDocument, expected: Option<FieldFault>) {
    for cut in [1, 2, 3, 7, 64, usize::MAX] {
        let found = fault_in_pieces(document.as_bytes(), ComparedPart::Everything, cut);
        assert_eq!(found, expected, "pieces of {cut}: {document:?}");
    }
    assert_eq!(fault_of(document.as_bytes()), expected, "{document:?}");
}

fn document(fields: &[(&str, RawBson)]) -> RawDocumentBuf {
    let mut document = RawDocumentBuf::new();
    for (name, value) in fields {
        document.append(CString::try_from(*name).unwrap(), value.clone());
    }
    document
}

#[test]
fn a_duplicate_field_is_found_at_every_depth_and_nothing_else_is() {
    let twice = || rawdoc! { "a": 1, "b": 2, "a": 3 };
    let once = || rawdoc! { "a": 1, "b": 2 };
    let duplicate = Some(FieldFault::Duplicate);
    check(&RawDocumentBuf::new(), None);
    check(&once(), None);
    check(&twice(), duplicate);
    check(&rawdoc! { "": 1, "": 2 }, duplicate);
    check(&rawdoc! { "x": { "y": twice() } }, duplicate);
    check(&rawdoc! { "x": [1, [once(), twice()]] }, duplicate);
    check(&rawdoc! { "a": { "a": { "a": 1 }, "b": { "a": 1 } }, "b": [{ "a": 1 }, { "a": 1 }] }, None);
    check(&rawdoc! { "a": once(), "a": 1 }, duplicate);
    check(&rawdoc! { "a": [], "b": {}, "a": [] }, duplicate);
    check(&rawdoc! { "abcdefg": 1, "abcdefgh": 1, "abcdefghi": 1, "abcdefgh\u{e9}": 1, "h": 1, "": 1 }, None);
    check(&rawdoc! { "abcdefghijklmnop": 1, "abcdefghijklmno": 1, "abcdefghijklmnop": 1 }, duplicate);
    // Servers ignore the keys of an array.
    let mut array = rawdoc! { "x": [1, 2] }.into_bytes();
    let at = array.iter().position(|byte| *byte == b'1').unwrap();
    array[at] = b'0';
    check(RawDocument::from_bytes(&array).unwrap(), None);
}

#[test]
fn every_type_of_value_is_skipped() {
    let text = || "x".repeat(20);
    let values = [
        RawBson::Double(1.5),
        RawBson::String(text()),
        RawBson::Binary(bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![0; 9] }),
        RawBson::Undefined,
        RawBson::ObjectId(bson::oid::ObjectId::new()),
        RawBson::Boolean(true),
        RawBson::DateTime(bson::DateTime::from_millis(1)),
        RawBson::Null,
        RawBson::RegularExpression(bson::Regex { pattern: "a+".try_into().unwrap(), options: "i".try_into().unwrap() }),
        RawBson::JavaScriptCode(text()),
        RawBson::Symbol(text()),
        RawBson::JavaScriptCodeWithScope(bson::raw::RawJavaScriptCodeWithScope {
            code: text(),
            scope: rawdoc! { "a": 1 },
        }),
        RawBson::Int32(1),
        RawBson::Timestamp(bson::Timestamp { time: 1, increment: 1 }),
        RawBson::Int64(1),
        RawBson::Decimal128("1".parse().unwrap()),
        RawBson::MinKey,
        RawBson::MaxKey,
    ];
    for value in values {
        check(&document(&[("a", value.clone()), ("b", value.clone())]), None);
        check(&document(&[("a", value.clone()), ("b", value.clone()), ("a", value)]), Some(FieldFault::Duplicate));
    }
}

#[test]
fn only_the_chosen_part_of_a_statement_is_compared_below_its_fields() {
    let check = |statement: RawDocumentBuf, expected: Option<FieldFault>| {
        for cut in [1, 5, usize::MAX] {
            let found = fault_in_pieces(statement.as_bytes(), ComparedPart::Field(b"u"), cut);
            assert_eq!(found, expected, "{statement:?}");
        }
    };
    let twice = || rawdoc! { "a": 1, "a": 2 };
    check(rawdoc! { "q": twice(), "u": { "b": 1 }, "multi": true }, None);
    check(rawdoc! { "q": { "u": twice() }, "u": {} }, None);
    check(rawdoc! { "q": {}, "u": { "$set": { "x": twice() } } }, Some(FieldFault::Duplicate));
    check(rawdoc! { "q": {}, "u": [{ "$set": twice() }] }, Some(FieldFault::Duplicate));
    check(rawdoc! { "q": {}, "u": {}, "q": {} }, Some(FieldFault::Duplicate));
}

#[test]
fn a_fault_is_found_in_any_document_of_a_sequence() {
    let good = rawdoc! { "a": 1, "b": { "c": [1] } };
    let bad = rawdoc! { "a": 1, "b": { "c": 1, "c": 2 } };
    let several = |last: &RawDocumentBuf| [good.as_bytes(), good.as_bytes(), last.as_bytes()].concat();
    for cut in [1, 9, usize::MAX] {
        assert_eq!(fault_in_pieces(&several(&good), ComparedPart::Everything, cut), None);
        assert_eq!(fault_in_pieces(&several(&bad), ComparedPart::Everything, cut), Some(FieldFault::Duplicate));
    }
}

#[test]
fn bytes_that_are_not_a_document_are_malformed() {
    let good = rawdoc! { "a": "text", "b": { "c": [1, 2.5] }, "d": true };
    for end in 1..good.as_bytes().len() {
        assert_eq!(fault_of(&good.as_bytes()[..end]), Some(FieldFault::Malformed), "{end}");
    }
    assert_eq!(fault_of(&[good.as_bytes(), &[0]].concat()), Some(FieldFault::Malformed));
    let check = |bytes: &[u8]| assert_eq!(fault_of(bytes), Some(FieldFault::Malformed), "{bytes:?}");
    check(b"\x04\0\0\0");
    check(b"\xff\xff\xff\xff\0");
    check(b"\x06\0\0\0\0\0");
    check(b"\x08\0\0\0\x20a\0\0");
    check(b"\x09\0\0\0\x10a\0\0\0\0\0\0");
    check(b"\x0c\0\0\0\x02a\0\xff\xff\xff\xff\0");
    check(b"\x0c\0\0\0\x02a\0\x01\0\0\0\0");
    check(b"\x0c\0\0\0\x03a\0\x04\0\0\0\0");
    check(b"\x0d\0\0\0\x03a\0\x06\0\0\0\0\0");
}

#[test]
fn nesting_has_a_limit() {
    let nested = |levels: usize| {
        let mut document = rawdoc! { "a": 1 };
        for _ in 1..levels {
            document = rawdoc! { "a": document };
        }
        document
    };
    check(&nested(LEVELS_MAX), None);
    check(&nested(LEVELS_MAX + 1), Some(FieldFault::TooDeep));
}

#[test]
fn an_object_with_many_fields_is_compared_and_its_memory_is_given_back() {
    let many = |count: usize| {
        let mut document = RawDocumentBuf::new();
        (0..count).for_each(|at| document.append(CString::try_from(format!("{at:x}")).unwrap(), 1));
        document
    };
    for count in [31, 32, 33, 34, 1000] {
        check(&many(count), None);
        let mut twice = many(count);
        twice.append(CString::try_from(format!("{:x}", count - 1)).unwrap(), 1);
        check(&twice, Some(FieldFault::Duplicate));
        let mut first_twice = many(count);
        first_twice.append(CString::try_from("0").unwrap(), 1);
        check(&rawdoc! { "x": first_twice, "y": 1 }, Some(FieldFault::Duplicate));
    }
    let mut names = FieldNames::new(ComparedPart::Everything);
    let million = many(1_000_000);
    names.read(&million.as_bytes()[..million.as_bytes().len() - 1]);
    assert_eq!((names.fault(), names.names_held()), (None, 1_000_000));
    names.read(&[0]);
    assert_eq!((names.fault(), names.names_held()), (None, 0));
}

/// The same by the bson crate, with all names of an object at once.
fn has_duplicate(document: &RawDocument) -> bool {
    let mut names = std::collections::BTreeSet::new();
    document.iter().map(Result::unwrap).any(|(name, value)| !names.insert(name) || value_has_duplicate(value))
}

fn array_has_duplicate(array: &RawArray) -> bool {
    array.into_iter().map(Result::unwrap).any(value_has_duplicate)
}

fn value_has_duplicate(value: RawBsonRef<'_>) -> bool {
    match value {
        RawBsonRef::Document(document) => has_duplicate(document),
        RawBsonRef::Array(array) => array_has_duplicate(array),
        _ => false,
    }
}

fn value() -> impl Strategy<Value = RawBson> {
    let leaf = prop_oneof![
        any::<i32>().prop_map(RawBson::Int32),
        any::<f64>().prop_map(RawBson::Double),
        "[a-z]{0,12}".prop_map(RawBson::String),
        Just(RawBson::Null),
    ];
    leaf.prop_recursive(4, 60, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(|values| {
                let mut array = bson::RawArrayBuf::new();
                for value in values {
                    array.push(value);
                }
                RawBson::Array(array)
            }),
            fields(inner).prop_map(RawBson::Document),
        ]
    })
}

/// Few enough fields, and names from a large enough set, that about half of the documents have no duplicate.
fn fields(value: impl Strategy<Value = RawBson>) -> impl Strategy<Value = RawDocumentBuf> {
    prop::collection::vec(("[a-c]{0,2}[d-f]{0,18}", value), 0..6).prop_map(|fields| {
        let mut document = RawDocumentBuf::new();
        for (name, value) in fields {
            document.append(CString::try_from(name).unwrap(), value);
        }
        document
    })
}

proptest! {
    #[test]
    fn pieces_of_any_size_give_what_the_bson_crate_finds(document in fields(value()), cut in 1_usize..80) {
        let expected = has_duplicate(&document).then_some(FieldFault::Duplicate);
        prop_assert_eq!(fault_in_pieces(document.as_bytes(), ComparedPart::Everything, cut), expected);
        prop_assert_eq!(fault_of(document.as_bytes()), expected);
    }

    #[test]
    fn hostile_bytes_cause_no_panic_and_no_other_result_in_pieces(
        bytes in prop::collection::vec(prop_oneof![0_u8..20, any::<u8>()], 0..300),
        cut in 1_usize..40,
    ) {
        let whole = fault_in_pieces(&bytes, ComparedPart::Everything, usize::MAX);
        prop_assert_eq!(fault_in_pieces(&bytes, ComparedPart::Everything, cut), whole);
    }

    #[test]
    fn a_damaged_document_has_no_duplicate_that_the_bson_crate_finds_and_this_does_not(
        document in fields(value()),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = document.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let Ok(document) = RawDocument::from_bytes(&bytes) else { return Ok(()) };
        let is_readable = bson::Document::try_from(document).is_ok();
        if is_readable && has_duplicate(document) {
            prop_assert!(fault_of(&bytes).is_some());
        }
    }
}
