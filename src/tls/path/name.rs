//! Distinguished names in a form that can be compared.
//!
//! Two names are equal if their attributes are equal without regard to the case of ASCII letters, to repeated spaces,
//! and to the string type. OpenSSL compares in the same way.
//!
//! Spec: RFC 5280 § 7.1. As in OpenSSL, Unicode is not normalised, and only ASCII letters are folded.

use std::hash::{Hash, Hasher};

use x509_parser::asn1_rs::{FromDer as _, Tag};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use super::super::der::{OBJECT_ID, SEQUENCE, SET, only_value, values};
use crate::identity::attribute_text;

/// A distinguished name in a form that can be compared.
#[derive(Debug, Clone)]
pub(in crate::tls) struct CanonicalName {
    /// One entry for each RDN, in the order of the certificate.
    rdns: Vec<Vec<u8>>,
    /// For each RDN, whether the identity of a client reads it in the same way. Not compared.
    is_plain: Vec<bool>,
}

impl PartialEq for CanonicalName {
    fn eq(&self, other: &Self) -> bool {
        self.rdns == other.rdns
    }
}

impl Eq for CanonicalName {}

impl Hash for CanonicalName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.rdns.hash(state);
    }
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
        let is_plain = name.iter_rdn().map(|rdn| rdn.iter().all(is_plain));
        Self { rdns: rdns.collect(), is_plain: is_plain.collect() }
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

    /// Whether this name, or what an identity reads in it, may be in the subtree of `base`.
    ///
    /// An identity is text as mongod reads it: the bytes are UTF-8 whatever the string type, and invisible characters
    /// are removed. An RDN that has another text there counts as equal to any other.
    pub(super) fn may_be_within(&self, base: &Self) -> bool {
        let own = self.rdns.iter().zip(&self.is_plain);
        let of_base = base.rdns.iter().zip(&base.is_plain);
        let may_be_equal = |((own, own_is_plain), (base, base_is_plain)): ((_, &bool), (_, &bool))| {
            own == base || !own_is_plain || !base_is_plain
        };
        self.rdns.len() >= base.rdns.len() && own.zip(of_base).all(may_be_equal)
    }
}

/// Whether an identity contains the text of the attribute that is compared here.
fn is_plain(attribute: &AttributeTypeAndValue<'_>) -> bool {
    let value = attribute.attr_value();
    match (text(value.tag(), value.data), attribute_text(attribute)) {
        (Some(compared), Some(shown)) => words(&compared) == words(&shown),
        _ => false,
    }
}

/// The text without regard to the case of ASCII letters and to repeated spaces.
fn words(text: &str) -> String {
    let words: Vec<_> = text.split_ascii_whitespace().map(str::to_ascii_lowercase).collect();
    words.join(" ")
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
        push_field(&mut bytes, words(&text).as_bytes());
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

    #[test]
    fn a_name_may_be_in_a_subtree_if_an_identity_reads_it_in_another_way() {
        let acme = (10, 12, b"Acme".as_slice());
        let base = name(&[acme]);
        for (value, expected) in [
            (acme, true),
            ((10, 20, b"ACME"), true),
            ((10, 30, b"\0A\0c\0m\0e"), true),
            ((10, 12, b"Other"), false),
            ((10, 30, b"\0O\0t\0h\0e\0r"), false),
            ((10, 12, "Müller".as_bytes()), false),
            // Read as UTF-8, all of these are Acme.
            ((10, 12, "Ac\u{ad}me".as_bytes()), true),
            ((10, 12, "Ac\u{200b}me".as_bytes()), true),
            ((10, 12, b"Ac\x01me"), true),
            ((10, 12, b"Acme\0"), true),
            ((10, 19, b"Ac\x7fme"), true),
            ((10, 12, "\u{a0}Acme".as_bytes()), true),
            ((10, 30, b"Acme"), true),
            ((10, 20, "Ac\u{ad}me".as_bytes()), true),
            ((10, 28, b"\0\0\xc2\xad\0\0\0A"), true),
            ((10, 3, b"\0Acme"), true),
            ((10, 4, b"Acme"), true),
        ] {
            assert_eq!(name(&[value, (3, 12, b"admin")]).may_be_within(&base), expected, "{value:?}");
            // Below the base, a name may contain anything.
            assert!(name(&[acme, value]).may_be_within(&base));
        }
        let hidden = (10, 12, "Ac\u{ad}me".as_bytes());
        assert!(base.may_be_within(&name(&[hidden])));
        assert!(!name(&[hidden]).may_be_within(&name(&[acme, (3, 12, b"admin")])));
        assert!(!name(&[hidden, (3, 12, b"cart")]).may_be_within(&name(&[acme, (3, 12, b"admin")])));
    }
}
