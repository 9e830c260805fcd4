//! Reads DER, value by value, without interpreting it.
//!
//! For what is compared byte for byte, and for extensions of certificates, which must be read strictly. x509-parser
//! reads dates, names and keys.

use x509_parser::asn1_rs::{Any, FromDer};

/// One DER value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DerValue<'a> {
    /// Its first byte, the tag.
    pub(super) tag: u8,
    /// The bytes after the header.
    pub(super) content: &'a [u8],
    /// The bytes with the header.
    pub(super) whole: &'a [u8],
}

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OBJECT_ID: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

/// The consecutive DER values in `content`. Malformed DER yields `None` and ends the iteration.
pub(super) fn values(mut content: &[u8]) -> impl Iterator<Item = Option<DerValue<'_>>> {
    std::iter::from_fn(move || {
        let tag = *content.first()?;
        let Some((value, rest)) = first_value(content, tag) else {
            content = &[];
            return Some(None);
        };
        content = rest;
        Some(Some(value))
    })
}

fn first_value(input: &[u8], tag: u8) -> Option<(DerValue<'_>, &[u8])> {
    let (rest, any) = Any::from_der(input).ok()?;
    let whole = input.get(..input.len().checked_sub(rest.len())?)?;
    Some((DerValue { tag, content: any.data, whole }, rest))
}

/// The content of `der`, if it is one value with this tag and nothing else.
pub(super) fn only_value(der: &[u8], tag: u8) -> Option<&[u8]> {
    match first_value(der, *der.first()?)? {
        (value, []) if value.tag == tag => Some(value.content),
        _ => None,
    }
}

/// The content of `der`, if it is one sequence and nothing else.
pub(super) fn sequence(der: &[u8]) -> Option<&[u8]> {
    only_value(der, SEQUENCE)
}

/// The bytes of a bit string, if it has no unused bits.
pub(super) fn whole_bytes(bits: DerValue<'_>) -> Option<&[u8]> {
    match bits.content.split_first()? {
        (0, bytes) => Some(bytes),
        _ => None,
    }
}
