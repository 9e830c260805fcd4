//! Distinguished names in a form that can be compared.
//!
//! Two names are equal if their attributes are equal without regard to the case of ASCII letters, to repeated spaces,
//! and to the string type. OpenSSL compares in the same way.
//!
//! Spec: RFC 5280 § 7.1. As in OpenSSL, Unicode is not normalised, and only ASCII letters are folded.

use x509_parser::asn1_rs::{FromDer as _, Tag};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use super::super::der::{OBJECT_ID, SEQUENCE, SET, only_value, values};

/// A distinguished name in a form that can be compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::tls) struct CanonicalName {
    /// One entry for each RDN, in the order of the certificate.
    rdns: Vec<Vec<u8>>,
}

impl CanonicalName {
    pub(in crate::tls) fn new(name: &X509Name<'_>) -> Self {
        let rdns = name.iter_rdn().map(|rdn| {
            let mut attributes: Vec<_> = rdn.iter().map(canonical_attribute).collect();
            // The attributes of an RDN are a set.
            attributes.sort_unstable();
            attributes.iter().fold(Vec::new(), |mut bytes, attribute| {
                push_field(&mut bytes, attribute);
                bytes
            })
        });
        Self { rdns: rdns.collect() }
    }

    /// Reads the DER of a `Name`: the sequence with its header and no trailing bytes. `None` if any part of it is
    /// malformed.
    ///
    /// x509-parser ends a name silently at the first RDN or attribute that it cannot read. What is left of the name
    /// would be another name, with fewer RDNs: as a base, it would cover more.
    pub(super) fn from_der(der: &[u8]) -> Option<Self> {
        let mut sizes = Vec::new();
        for rdn in values(only_value(der, SEQUENCE)?) {
            let rdn = rdn.filter(|rdn| rdn.tag == SET)?;
            sizes.push(attribute_count(rdn.content)?);
        }
        let ([], name) = X509Name::from_der(der).ok()? else { return None };
        let is_complete = name.iter_rdn().map(|rdn| rdn.iter().count()).eq(sizes);
        is_complete.then(|| Self::new(&name))
    }

    /// Whether the name has no attributes.
    pub(super) fn is_empty(&self) -> bool {
        self.rdns.is_empty()
    }

    /// Whether this name is in the subtree of `base`: equal to it or below it.
    pub(super) fn is_within(&self, base: &Self) -> bool {
        self.rdns.starts_with(&base.rdns)
    }
}

/// The number of attributes in an RDN; `None` if one of them is malformed, or if there is none.
fn attribute_count(rdn: &[u8]) -> Option<usize> {
    let mut count = 0;
    for attribute in values(rdn) {
        let mut parts = values(attribute.filter(|attribute| attribute.tag == SEQUENCE)?.content);
        parts.next()?.filter(|kind| kind.tag == OBJECT_ID && !kind.content.is_empty())?;
        parts.next()??;
        if parts.next().is_some() {
            return None;
        }
        count += 1;
    }
    (count > 0).then_some(count)
}

fn canonical_attribute(attribute: &AttributeTypeAndValue<'_>) -> Vec<u8> {
    let value = attribute.attr_value();
    let mut bytes = Vec::new();
    push_field(&mut bytes, attribute.attr_type().as_bytes());
    if let Some(text) = text(value.tag(), value.data) {
        bytes.push(0);
        let words: Vec<_> = text.split_ascii_whitespace().map(str::to_ascii_lowercase).collect();
        push_field(&mut bytes, words.join(" ").as_bytes());
    } else {
        // Not text: compared byte for byte, with its type.
        bytes.push(1);
        bytes.extend(value.tag().0.to_be_bytes());
        push_field(&mut bytes, value.data);
    }
    bytes
}

/// The text of a string type; `None` for other types and for malformed text.
fn text(tag: Tag, data: &[u8]) -> Option<String> {
    match tag {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::VisibleString | Tag::NumericString => {
            String::from_utf8(data.to_vec()).ok()
        }
        // Read as Latin-1, as OpenSSL does.
        Tag::T61String => Some(data.iter().copied().map(char::from).collect()),
        Tag::BmpString => {
            let units: Vec<_> = data.chunks(2).map(|unit| unit.try_into().map(u16::from_be_bytes)).collect();
            String::from_utf16(&units.into_iter().collect::<Result<Vec<_>, _>>().ok()?).ok()
        }
        Tag::UniversalString => {
            data.chunks(4).map(|unit| unit.try_into().ok().map(u32::from_be_bytes).and_then(char::from_u32)).collect()
        }
        _ => None,
    }
}

/// Appends `field` with its length, so that different fields never result in the same bytes.
fn push_field(bytes: &mut Vec<u8>, field: &[u8]) {
    bytes.extend(field.len().to_be_bytes());
    bytes.extend(field);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::test_pki::der_value;

    /// A name with one attribute per RDN: the last byte of `2.5.4.x`, string tag, bytes.
    fn name(attributes: &[(u8, u8, &[u8])]) -> CanonicalName {
        let rdns = attributes.iter().map(|(kind, tag, value)| der_value(0x31, &attribute(*kind, *tag, value)));
        CanonicalName::from_der(&der_value(0x30, &rdns.collect::<Vec<_>>().concat())).unwrap()
    }

    fn attribute(kind: u8, tag: u8, value: &[u8]) -> Vec<u8> {
        let oid = [0x06, 0x03, 0x55, 0x04, kind];
        der_value(0x30, &[&oid, der_value(tag, value).as_slice()].concat())
    }

    #[test]
    fn a_name_with_a_malformed_part_is_no_name() {
        let good = attribute(10, 12, b"Acme");
        let rdn = |content: &[u8]| der_value(0x31, content);
        let whole = |rdns: &[&[u8]]| der_value(0x30, &rdns.concat());
        let acme = rdn(&good);
        assert!(CanonicalName::from_der(&whole(&[])).is_some());
        assert!(CanonicalName::from_der(&whole(&[&acme, &rdn(&[good.clone(), good.clone()].concat())])).is_some());
        for (case, der) in [
            ("a NULL after the RDNs", whole(&[&acme, &[5, 0]])),
            ("a NULL before an RDN", whole(&[&[5, 0], &acme])),
            ("a cut RDN", whole(&[&acme, &acme[..acme.len() - 1]])),
            ("an RDN that is a sequence", whole(&[&acme, &der_value(0x30, &good)])),
            ("an empty RDN", whole(&[&acme, &rdn(&[])])),
            ("a NULL in an RDN", whole(&[&rdn(&[good.as_slice(), &[5, 0]].concat())])),
            ("an attribute without a value", whole(&[&acme, &rdn(&der_value(0x30, &[6, 3, 0x55, 4, 10]))])),
            ("an attribute without a type", whole(&[&acme, &rdn(&der_value(0x30, &[12, 1, b'a']))])),
            ("an attribute with two values", {
                whole(&[&rdn(&der_value(0x30, &[6, 3, 0x55, 4, 10, 12, 1, b'a', 12, 1, b'b']))])
            }),
            ("an empty type", whole(&[&acme, &rdn(&der_value(0x30, &[6, 0, 12, 1, b'a']))])),
            ("bytes after it", [whole(&[&acme]), vec![0]].concat()),
            ("a set", der_value(0x31, &acme)),
            ("nothing", Vec::new()),
        ] {
            assert_eq!(CanonicalName::from_der(&der), None, "{case}");
        }
    }

    #[test]
    fn names_are_compared_without_case_spaces_and_string_type() {
        let acme = name(&[(10, 12, b"Acme Inc")]);
        for same in [
            (10, 19, b"Acme Inc".as_slice()),
            (10, 12, b"  ACME   inc "),
            (10, 20, b"Acme Inc"),
            (10, 30, b"\0A\0c\0m\0e\0 \0I\0n\0c"),
            (10, 28, b"\0\0\0A\0\0\0c\0\0\0m\0\0\0e\0\0\0 \0\0\0I\0\0\0n\0\0\0c"),
        ] {
            assert_eq!(name(&[same]), acme, "{same:?}");
        }
        for other in [(10, 12, b"AcmeInc".as_slice()), (11, 12, b"Acme Inc"), (10, 12, b"Acme"), (10, 4, b"Acme Inc")] {
            assert_ne!(name(&[other]), acme, "{other:?}");
        }
        // Latin-1 and UTF-8.
        assert_eq!(name(&[(3, 20, b"M\xfcller")]), name(&[(3, 12, "Müller".as_bytes())]));
        // An odd number of bytes is no BMPString.
        assert_ne!(name(&[(3, 30, b"\0A\0")]), name(&[(3, 30, b"\0A")]));
    }

    #[test]
    fn a_subtree_contains_names_that_begin_with_its_base() {
        let base = name(&[(6, 19, b"DE"), (10, 12, b"Acme")]);
        assert!(name(&[(6, 19, b"de"), (10, 12, b"ACME")]).is_within(&base));
        assert!(name(&[(6, 19, b"DE"), (10, 12, b"Acme"), (3, 12, b"mongo")]).is_within(&base));
        assert!(!name(&[(6, 19, b"DE")]).is_within(&base));
        assert!(!name(&[(6, 19, b"DE"), (10, 12, b"Acme2")]).is_within(&base));
        assert!(!name(&[(10, 12, b"Acme"), (6, 19, b"DE")]).is_within(&base));
        assert!(base.is_within(&name(&[])) && name(&[]).is_empty());
    }
}
