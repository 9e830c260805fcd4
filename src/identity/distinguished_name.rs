//! Subjects and issuers as text, exactly as mongod writes them for users of `$external`.
//!
//! The format is RFC 2253 with the following details, each tested with mongod 6.0.5 and OpenSSL 3:
//! - The last RDN of the certificate comes first, and so does the last attribute of an RDN with several attributes.
//! - Attribute types have OpenSSL's short names (`emailAddress`, `street`); unknown types have their OID.
//! - Every byte from 0x80 on is written as `\C3`, in upper case. Control characters are not escaped.
//! - A space at the end is escaped only if the text before it, with its escapes, has two or more characters: `CN=a `.
//! - The bytes of a value are read as UTF-8, whatever their declared type. If they are not UTF-8 (`BMPString` and
//!   `T61String` with characters beyond ASCII), mongod rejects the connection.
//! - Characters are mapped according to RFC 4518 § 2.2: control characters and invisible marks are removed; tabs, line
//!   ends and other spaces become a space.
//!
//! One detail is not implemented: mongod also normalises text to Unicode NFKC. Current certificates already have that
//! form.
//!
//! Names are not parsed back from text.

use std::fmt;
use std::fmt::Write as _;

use x509_parser::asn1_rs::{FromDer, Tag};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// A distinguished name in mongod's format.
///
/// The text is printable ASCII, except for a name that mongod rejects, which may contain control characters. `Display`
/// passes it through [`printable`], and writes `(no name)` for an empty name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DistinguishedName {
    text: String,
    readable_by_mongod: bool,
    /// Sorted.
    organization: Vec<String>,
}

impl DistinguishedName {
    /// Parses the DER of a `Name`: the sequence with its header and no trailing bytes. `None` if it is malformed.
    pub fn from_der(der: &[u8]) -> Option<Self> {
        match X509Name::from_der(der) {
            Ok(([], name)) => Some(Self::from_parsed(&name)),
            _ => None,
        }
    }

    pub(super) fn from_parsed(name: &X509Name<'_>) -> Self {
        let mut parsed = Self { text: String::new(), readable_by_mongod: true, organization: Vec::new() };
        let rdns: Vec<_> = name.iter_rdn().collect();
        for (index, rdn) in rdns.into_iter().rev().enumerate() {
            let attributes: Vec<_> = rdn.iter().collect();
            for (part, attribute) in attributes.into_iter().rev().enumerate() {
                match (index, part) {
                    (0, 0) => {}
                    (_, 0) => parsed.text.push(','),
                    _ => parsed.text.push('+'),
                }
                parsed.push(attribute);
            }
        }
        parsed.organization.sort_unstable();
        parsed
    }

    /// The text of a name that consists of a common name only.
    pub(super) fn text_of_common_name(value: &str) -> String {
        let mut text = "CN=".to_owned();
        let mapped: String = value.chars().filter_map(mapped).collect();
        push_escaped(&mut text, mapped.as_bytes());
        text
    }

    /// The text; empty for an empty name.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the name has no attributes. mongod has no user for such a certificate.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Whether mongod accepts a client with this subject: the bytes of every value must be UTF-8.
    pub fn is_readable_by_mongod(&self) -> bool {
        self.readable_by_mongod
    }

    /// Whether a mongod with x.509 membership authentication treats `self` and `other` as members of the same cluster:
    /// their `O`, `OU` and `DC` attributes are equal, and there is at least one.
    pub fn is_of_same_cluster(&self, other: &Self) -> bool {
        !self.organization.is_empty() && self.organization == other.organization
    }

    fn push(&mut self, attribute: &AttributeTypeAndValue<'_>) {
        let start = self.text.len();
        let oid = attribute.attr_type().to_id_string();
        self.text.push_str(short_name(&oid).unwrap_or(&oid));
        self.text.push('=');
        if let Some(value) = attribute_text(attribute) {
            push_escaped(&mut self.text, value.as_bytes());
        } else {
            self.readable_by_mongod = false;
            push_escaped(&mut self.text, attribute_bytes(attribute));
        }
        let written = self.text.get(start..).unwrap_or_default();
        if ["O=", "OU=", "DC="].iter().any(|kind| written.starts_with(kind)) {
            self.organization.push(written.to_owned());
        }
    }
}

impl fmt::Display for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() { f.write_str("(no name)") } else { f.write_str(&printable(&self.text)) }
    }
}

/// `text` with control characters written as `\u{1b}`, so that a name from a certificate cannot control a terminal or
/// begin a new line in a log.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Spec: RFC 4518 § 2.2 Map, without case folding, which mongod does not use. `None` means that the character is
/// removed.
fn mapped(character: char) -> Option<char> {
    let space = matches!(character,
        '\u{9}'..='\u{d}' | '\u{85}' | '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{2028}' | '\u{2029}'
        | '\u{202f}' | '\u{205f}' | '\u{3000}');
    let nothing = matches!(character,
        '\u{ad}' | '\u{34f}' | '\u{6dd}' | '\u{70f}' | '\u{1806}' | '\u{180b}'..='\u{180e}' | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2063}' | '\u{206a}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffc}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0001}' | '\u{e0020}'..='\u{e007f}');
    match character {
        _ if space => Some(' '),
        _ if nothing || character.is_control() => None,
        _ => Some(character),
    }
}

/// The value of an attribute as names contain it, before it is escaped; `None` if its bytes are not UTF-8.
pub(crate) fn attribute_text(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    let value = std::str::from_utf8(attribute_bytes(attribute)).ok()?;
    Some(value.chars().filter_map(mapped).collect())
}

fn attribute_bytes<'a>(attribute: &'a AttributeTypeAndValue<'_>) -> &'a [u8] {
    let value = attribute.as_slice();
    // OpenSSL does not include the count of unused bits in the bytes of a bit string.
    match attribute.attr_value().tag() {
        Tag::BitString => value.get(1..).unwrap_or_default(),
        _ => value,
    }
}

fn push_escaped(text: &mut String, value: &[u8]) {
    let start = text.len();
    for (index, &byte) in value.iter().enumerate() {
        let leading = index == 0 && matches!(byte, b' ' | b'#');
        if byte >= 0x80 {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\{byte:02X}");
        } else {
            if leading || b",+\"\\<>;".contains(&byte) {
                text.push('\\');
            }
            text.push(char::from(byte));
        }
    }
    // mongod does not escape a final space after a single character; a single space is already escaped.
    if text.len() - start > 2 && text.ends_with(' ') {
        text.pop();
        text.push_str("\\ ");
    }
}

/// OpenSSL's short name of an attribute type that certificates use; `None` for other types, which are written as OID.
fn short_name(oid: &str) -> Option<&'static str> {
    if let Some(number) = oid.strip_prefix("2.5.4.") {
        let number: usize = number.parse().ok()?;
        return match number {
            65 => Some("pseudonym"),
            72 => Some("role"),
            97 => Some("organizationIdentifier"),
            98 => Some("c3"),
            99 => Some("n3"),
            100 => Some("dnsName"),
            _ => X520_NAMES.get(number.checked_sub(3)?).copied(),
        };
    }
    OTHER_NAMES.iter().find(|(number, _)| *number == oid).map(|(_, name)| *name)
}

/// The short names of 2.5.4.3 and the following OIDs, without a gap.
const X520_NAMES: [&str; 52] = [
    "CN",
    "SN",
    "serialNumber",
    "C",
    "L",
    "ST",
    "street",
    "O",
    "OU",
    "title",
    "description",
    "searchGuide",
    "businessCategory",
    "postalAddress",
    "postalCode",
    "postOfficeBox",
    "physicalDeliveryOfficeName",
    "telephoneNumber",
    "telexNumber",
    "teletexTerminalIdentifier",
    "facsimileTelephoneNumber",
    "x121Address",
    "internationaliSDNNumber",
    "registeredAddress",
    "destinationIndicator",
    "preferredDeliveryMethod",
    "presentationAddress",
    "supportedApplicationContext",
    "member",
    "owner",
    "roleOccupant",
    "seeAlso",
    "userPassword",
    "userCertificate",
    "cACertificate",
    "authorityRevocationList",
    "certificateRevocationList",
    "crossCertificatePair",
    "name",
    "GN",
    "initials",
    "generationQualifier",
    "x500UniqueIdentifier",
    "dnQualifier",
    "enhancedSearchGuide",
    "protocolInformation",
    "distinguishedName",
    "uniqueMember",
    "houseIdentifier",
    "supportedAlgorithms",
    "deltaRevocationList",
    "dmdName",
];

const OTHER_NAMES: [(&str, &str); 23] = [
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.3", "mail"),
    ("0.9.2342.19200300.100.1.4", "info"),
    ("0.9.2342.19200300.100.1.8", "userClass"),
    ("0.9.2342.19200300.100.1.9", "host"),
    ("0.9.2342.19200300.100.1.10", "manager"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.37", "associatedDomain"),
    ("0.9.2342.19200300.100.1.40", "personalTitle"),
    ("0.9.2342.19200300.100.1.44", "uid"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("1.2.840.113549.1.9.2", "unstructuredName"),
    ("1.2.840.113549.1.9.7", "challengePassword"),
    ("1.2.840.113549.1.9.8", "unstructuredAddress"),
    ("1.2.840.113549.1.9.20", "friendlyName"),
    ("1.3.6.1.4.1.311.20.2.3", "msUPN"),
    ("1.3.6.1.4.1.311.60.2.1.1", "jurisdictionL"),
    ("1.3.6.1.4.1.311.60.2.1.2", "jurisdictionST"),
    ("1.3.6.1.4.1.311.60.2.1.3", "jurisdictionC"),
    ("1.2.643.3.131.1.1", "INN"),
    ("1.2.643.100.1", "OGRN"),
    ("1.2.643.100.3", "SNILS"),
    ("1.2.643.100.5", "OGRNIP"),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UTF8: u8 = 0x0c;

    fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut der = vec![tag];
        match u8::try_from(content.len()) {
            Ok(length) if length < 0x80 => der.push(length),
            Ok(length) => der.extend([0x81, length]),
            Err(_) => {
                der.push(0x82);
                der.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
            }
        }
        der.extend_from_slice(content);
        der
    }

    fn oid(dotted: &str) -> Vec<u8> {
        let numbers: Vec<u64> = dotted.split('.').map(|number| number.parse().unwrap()).collect();
        let mut content = Vec::new();
        for number in std::iter::once(numbers[0] * 40 + numbers[1]).chain(numbers[2..].iter().copied()) {
            let mut septets = vec![(number & 0x7f) as u8];
            let mut rest = number >> 7;
            while rest > 0 {
                septets.push(0x80 | (rest & 0x7f) as u8);
                rest >>= 7;
            }
            content.extend(septets.iter().rev());
        }
        tlv(6, &content)
    }

    fn attribute(kind: &str, tag: u8, value: &[u8]) -> Vec<u8> {
        tlv(0x30, &[oid(kind), tlv(tag, value)].concat())
    }

    fn name(rdns: &[&[Vec<u8>]]) -> Vec<u8> {
        let sets: Vec<Vec<u8>> = rdns.iter().map(|rdn| tlv(0x31, &rdn.concat())).collect();
        tlv(0x30, &sets.concat())
    }

    fn common_name(value: &[u8]) -> DistinguishedName {
        DistinguishedName::from_der(&name(&[&[attribute("2.5.4.3", UTF8, value)]])).unwrap()
    }

    #[track_caller]
    fn check_common_name(value: &str, expected: &str) {
        assert_eq!(common_name(value.as_bytes()).as_str(), expected, "{value:?}");
    }

    #[test]
    fn values_are_escaped_as_mongod_escapes_them() {
        // Each expected value is the reply of a mongod 6.0.5 to a client with that common name.
        for (value, expected) in [
            ("svc-a", "CN=svc-a"),
            (" lead", "CN=\\ lead"),
            ("trail ", "CN=trail\\ "),
            ("#hash", "CN=\\#hash"),
            ("a#b c=d", "CN=a#b c=d"),
            ("  two  ", "CN=\\  two \\ "),
            ("", "CN="),
            (" ", "CN=\\ "),
            ("  ", "CN=\\ \\ "),
            ("   ", "CN=\\  \\ "),
            ("#", "CN=\\#"),
            ("# ", "CN=\\#\\ "),
            (" #", "CN=\\ #"),
            ("a ", "CN=a "),
            ("a  ", "CN=a \\ "),
            (", ", "CN=\\,\\ "),
            ("\\ ", "CN=\\\\\\ "),
            (" ;", "CN=\\ \\;"),
            ("a\\b", "CN=a\\\\b"),
            ("q\"+\\<>;,=", "CN=q\\\"\\+\\\\\\<\\>\\;\\,="),
            ("Zürich €𝄞", "CN=Z\\C3\\BCrich \\E2\\82\\AC\\F0\\9D\\84\\9E"),
            ("é ", "CN=\\C3\\A9\\ "),
            ("nul\0byte", "CN=nulbyte"),
            ("ctl\u{1}\u{1f}\u{7f}\ttab\nnl", "CN=ctl tab nl"),
            ("\u{b}\u{c}x", "CN=\\  x"),
            ("a\u{a0}", "CN=a "),
            ("a\u{3000}b", "CN=a b"),
            ("a\u{2028}b", "CN=a b"),
            ("a\u{ad}b", "CN=ab"),
            ("a\u{200b}b", "CN=ab"),
            ("a\u{200e}b", "CN=ab"),
            ("x\u{7f} ", "CN=x "),
            ("\u{fffd}", "CN=\\EF\\BF\\BD"),
            ("a/b@c'd`e~!$%&()*:?[]^_{|}", "CN=a/b@c'd`e~!$%&()*:?[]^_{|}"),
        ] {
            check_common_name(value, expected);
        }
    }

    #[test]
    fn rdns_and_their_attributes_are_written_in_reverse_order() {
        let plain = name(&[
            &[attribute("2.5.4.6", 0x13, b"US")],
            &[attribute("2.5.4.8", UTF8, b"NY, Inc")],
            &[attribute("2.5.4.10", UTF8, b"Acme")],
            &[attribute("2.5.4.11", UTF8, b"apps")],
            &[attribute("2.5.4.3", UTF8, b"svc-a")],
        ]);
        let parts = name(&[
            &[attribute("2.5.4.10", UTF8, b"a")],
            &[
                attribute("2.5.4.3", UTF8, b"multi"),
                attribute("2.5.4.11", UTF8, b"x"),
                attribute("1.2.840.113549.1.9.1", 0x16, b"a@b.c"),
            ],
        ]);
        for (der, expected) in [
            (plain, "CN=svc-a,OU=apps,O=Acme,ST=NY\\, Inc,C=US"),
            (parts, "emailAddress=a@b.c+OU=x+CN=multi,O=a"),
            (name(&[]), ""),
        ] {
            assert_eq!(DistinguishedName::from_der(&der).unwrap().as_str(), expected);
        }
    }

    #[test]
    fn types_have_the_short_names_of_openssl_or_their_oid() {
        for (kind, expected) in [
            ("2.5.4.2", "2.5.4.2=v"),
            ("2.5.4.3", "CN=v"),
            ("2.5.4.4", "SN=v"),
            ("2.5.4.5", "serialNumber=v"),
            ("2.5.4.7", "L=v"),
            ("2.5.4.9", "street=v"),
            ("2.5.4.12", "title=v"),
            ("2.5.4.17", "postalCode=v"),
            ("2.5.4.41", "name=v"),
            ("2.5.4.42", "GN=v"),
            ("2.5.4.46", "dnQualifier=v"),
            ("2.5.4.54", "dmdName=v"),
            ("2.5.4.55", "2.5.4.55=v"),
            ("2.5.4.65", "pseudonym=v"),
            ("2.5.4.97", "organizationIdentifier=v"),
            ("2.5.4.200", "2.5.4.200=v"),
            ("0.9.2342.19200300.100.1.1", "UID=v"),
            ("0.9.2342.19200300.100.1.25", "DC=v"),
            ("1.3.6.1.4.1.311.60.2.1.3", "jurisdictionC=v"),
            ("1.2.3.4.5", "1.2.3.4.5=v"),
        ] {
            let der = name(&[&[attribute(kind, UTF8, b"v")]]);
            assert_eq!(DistinguishedName::from_der(&der).unwrap().as_str(), expected);
        }
    }

    #[test]
    fn a_value_that_is_not_utf8_is_escaped_and_marked_as_unreadable() {
        let bmp: Vec<u8> = "Zürich".encode_utf16().flat_map(u16::to_be_bytes).collect();
        for (tag, value, text, readable) in [
            (0x14, b"Z\xfcrich".as_slice(), "CN=Z\\FCrich", false),
            (0x1e, bmp.as_slice(), "CN=\0Z\0\\FC\0r\0i\0c\0h", false),
            (0x03, b"\0abc".as_slice(), "CN=abc", true),
            (0x13, b"plain".as_slice(), "CN=plain", true),
        ] {
            let parsed = DistinguishedName::from_der(&name(&[&[attribute("2.5.4.3", tag, value)]])).unwrap();
            assert_eq!((parsed.as_str(), parsed.is_readable_by_mongod()), (text, readable));
        }
    }

    #[test]
    fn members_of_a_cluster_have_the_same_organization_unit_and_domain() {
        let subject = |values: &[(&str, &str)]| {
            let rdns: Vec<_> = values.iter().map(|(kind, value)| [attribute(kind, UTF8, value.as_bytes())]).collect();
            let rdns: Vec<&[Vec<u8>]> = rdns.iter().map(<[_; 1]>::as_slice).collect();
            DistinguishedName::from_der(&name(&rdns)).unwrap()
        };
        let [cn, o, ou] = ["2.5.4.3", "2.5.4.10", "2.5.4.11"];
        let server = subject(&[(o, "Acme"), (ou, "db"), (cn, "mongod")]);
        for (client, expected) in [
            (subject(&[(ou, "db"), (o, "Acme"), (cn, "gateway")]), true),
            (subject(&[(o, "Acme"), (ou, "apps"), (cn, "gateway")]), false),
            (subject(&[(o, "Acme"), (cn, "gateway")]), false),
            (subject(&[(cn, "mongod")]), false),
        ] {
            assert_eq!(server.is_of_same_cluster(&client), expected, "{client}");
        }
        assert!(!subject(&[(cn, "a")]).is_of_same_cluster(&subject(&[(cn, "b")])));
    }

    #[test]
    fn display_escapes_control_characters() {
        assert_eq!(common_name(b"a\x1b[2J\n\xff").to_string(), "CN=a\\u{1b}[2J\\u{a}\\FF");
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_name_or_none(der in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = DistinguishedName::from_der(&der);
        }

        #[test]
        fn any_text_gives_printable_ascii(value: String) {
            prop_assert!(common_name(value.as_bytes()).as_str().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }

        #[test]
        fn any_value_gives_ascii(value in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(common_name(&value).as_str().is_ascii());
        }
    }
}
