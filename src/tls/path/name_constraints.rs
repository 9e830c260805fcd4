//! Name constraints: which names the certificates below a CA may have.
//!
//! Evaluates directory names, DNS names, e-mail addresses, URIs and IP addresses. A name of another form is rejected if
//! the CA constrains that form. So is a name that cannot be read, because it could hide what a constraint excludes.
//!
//! Spec: RFC 5280 § 4.2.1.10 and § 6.1.4 (g).

use std::net::IpAddr;

use super::super::der::{DerValue, INTEGER, SEQUENCE, only_value, values};
use super::name::CanonicalName;

/// Comparisons of a name with a constraint for one chain, whatever a peer sends.
pub(super) const COMPARISONS_MAX: usize = 100_000;

/// One name of a certificate, or the base of a constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum GeneralName<'a> {
    Directory(CanonicalName),
    Dns(&'a str),
    Email(&'a str),
    Uri(&'a str),
    Ip(&'a [u8]),
    /// A form that is not evaluated, or a value that cannot be read.
    Opaque,
}

/// A general name with its form, the number of its tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name<'a> {
    form: u8,
    pub(super) value: GeneralName<'a>,
}

const EMAIL: u8 = 1;
const DIRECTORY: u8 = 4;

/// The extension `nameConstraints`.
#[derive(Debug, Default)]
pub(super) struct NameConstraints<'a> {
    permitted: Vec<Name<'a>>,
    excluded: Vec<Name<'a>>,
}

/// Why a name is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConstraintViolation {
    /// A constraint excludes it, no constraint permits it, or it cannot be evaluated.
    Name,
    /// More than [`COMPARISONS_MAX`] comparisons are needed.
    TooMany,
}

impl<'a> Name<'a> {
    /// Reads a `GeneralName`; `None` if it is not one.
    pub(super) fn from_der(der: DerValue<'a>) -> Option<Self> {
        // Class: context-specific.
        let form = (der.tag & 0xc0 == 0x80).then_some(der.tag & 0x1f).filter(|form| *form <= 8)?;
        let text = || std::str::from_utf8(der.content).ok().filter(|text| text.is_ascii());
        let value = match form {
            EMAIL => text().map(GeneralName::Email),
            2 => text().map(GeneralName::Dns),
            DIRECTORY => CanonicalName::from_der(der.content).map(GeneralName::Directory),
            6 => text().map(GeneralName::Uri),
            7 => Some(GeneralName::Ip(der.content)),
            _ => None,
        };
        Some(Self { form, value: value.unwrap_or(GeneralName::Opaque) })
    }

    /// A subject.
    pub(super) fn directory(name: CanonicalName) -> Self {
        Self { form: DIRECTORY, value: GeneralName::Directory(name) }
    }

    /// An attribute `emailAddress` of a subject.
    pub(super) fn email(text: Option<&'a str>) -> Self {
        let text = text.filter(|text| text.is_ascii());
        Self { form: EMAIL, value: text.map_or(GeneralName::Opaque, GeneralName::Email) }
    }
}

impl<'a> NameConstraints<'a> {
    /// Reads the value of the extension; `None` if it is malformed or empty.
    pub(super) fn from_der(der: &'a [u8]) -> Option<Self> {
        let mut constraints = Self::default();
        for part in values(only_value(der, SEQUENCE)?) {
            let part = part?;
            let subtrees: Vec<_> = values(part.content).map(subtree).collect::<Option<_>>()?;
            let target = match part.tag {
                0xa0 if constraints.permitted.is_empty() && constraints.excluded.is_empty() => {
                    &mut constraints.permitted
                }
                0xa1 if constraints.excluded.is_empty() => &mut constraints.excluded,
                _ => return None,
            };
            *target = subtrees;
            if target.is_empty() {
                return None;
            }
        }
        (!constraints.permitted.is_empty() || !constraints.excluded.is_empty()).then_some(constraints)
    }

    /// Checks all `names` of a certificate. `comparisons_left` is reduced by what was compared.
    pub(super) fn check(&self, names: &[Name<'_>], comparisons_left: &mut usize) -> Result<(), ConstraintViolation> {
        for name in names {
            let cost = self.permitted.len() + self.excluded.len();
            *comparisons_left = comparisons_left.checked_sub(cost).ok_or(ConstraintViolation::TooMany)?;
            let same_form = |base: &&Name<'_>| base.form == name.form;
            let mut excluded = self.excluded.iter().filter(same_form);
            if excluded.any(|base| is_within(&name.value, &base.value, Role::Excluded).unwrap_or(true)) {
                return Err(ConstraintViolation::Name);
            }
            let mut permitted = self.permitted.iter().filter(same_form).peekable();
            let is_free = permitted.peek().is_none();
            let is_permitted = |base: &Name<'_>| is_within(&name.value, &base.value, Role::Permitted) == Some(true);
            if !is_free && !permitted.any(is_permitted) {
                return Err(ConstraintViolation::Name);
            }
        }
        Ok(())
    }
}

/// Reads a `GeneralSubtree`.
fn subtree(der: Option<DerValue<'_>>) -> Option<Name<'_>> {
    let der = der?;
    let mut parts = values(if der.tag == SEQUENCE { der.content } else { return None });
    let mut base = Name::from_der(parts.next()??)?;
    for limit in parts {
        // RFC 5280 does not use `minimum` and `maximum`. A constraint with another value than the default of
        // `minimum` is not evaluated.
        match limit? {
            DerValue { tag: 0x80, content: [0], .. } => {}
            DerValue { tag: 0x80 | 0x81, .. } => base.value = GeneralName::Opaque,
            _ => return None,
        }
    }
    Some(base)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Permitted,
    Excluded,
}

/// Whether `name` is in the subtree of `base`, which has the same form; `None` if that cannot be evaluated.
fn is_within(name: &GeneralName<'_>, base: &GeneralName<'_>, role: Role) -> Option<bool> {
    match (name, base) {
        (GeneralName::Directory(name), GeneralName::Directory(base)) => Some(match role {
            Role::Permitted => name.is_within(base),
            Role::Excluded => name.may_be_within(base),
        }),
        (GeneralName::Dns(name), GeneralName::Dns(base)) => is_dns_name_within(name, base, role),
        (GeneralName::Email(name), GeneralName::Email(base)) => is_address_within(name, base),
        (GeneralName::Uri(name), GeneralName::Uri(base)) => is_host_within(uri_host(name)?, base),
        (GeneralName::Ip(name), GeneralName::Ip(base)) => is_ip_within(name, base),
        _ => None,
    }
}

/// A constraint covers the name itself and all names below it; with a dot at its start only those below it.
///
/// A wildcard stands for one label. It is excluded if one of the names that it stands for is.
fn is_dns_name_within(name: &str, base: &str, role: Role) -> Option<bool> {
    let (is_wildcard, host) = name.strip_prefix("*.").map_or((false, name), |parent| (true, parent));
    if !is_host_name(host) || !(base.is_empty() || is_host_base(base)) {
        return None;
    }
    let covers = |name: &str| {
        base.is_empty() || name.eq_ignore_ascii_case(base) || {
            let start = name.len().checked_sub(base.len());
            let is_label_end = |start: usize| base.starts_with('.') || name.as_bytes().get(start - 1) == Some(&b'.');
            ends_with(name, base) && start.is_some_and(|start| start > 0 && is_label_end(start))
        }
    };
    let stands_for_base =
        || base.split_once('.').is_some_and(|(label, parent)| !label.is_empty() && parent.eq_ignore_ascii_case(host));
    Some(covers(name) || (is_wildcard && role == Role::Excluded && stands_for_base()))
}

/// A constraint is an address, a host, or with a dot at its start all hosts of a domain.
fn is_address_within(address: &str, base: &str) -> Option<bool> {
    let (local, host) = mailbox(address)?;
    if !base.contains('@') {
        return is_host_within(host, base);
    }
    let (base_local, base_host) = mailbox(base)?;
    Some(local == base_local && host.eq_ignore_ascii_case(base_host))
}

/// The parts of an e-mail address. Identities are read without control characters, so none may hide a name.
fn mailbox(address: &str) -> Option<(&str, &str)> {
    let is_local = |local: &str| !local.is_empty() && !local.bytes().any(|byte| byte.is_ascii_control());
    address.rsplit_once('@').filter(|(local, host)| is_local(local) && is_host_name(host))
}

/// Whether `host` is the host `base`, or with a dot at the start of `base` one of its domain. `None` if `base` is
/// neither: an excluded base that covers nothing would let every name pass.
fn is_host_within(host: &str, base: &str) -> Option<bool> {
    is_host_base(base).then(
        || {
            if base.starts_with('.') { ends_with(host, base) } else { host.eq_ignore_ascii_case(base) }
        },
    )
}

/// A host name, with or without a dot at its start.
fn is_host_base(base: &str) -> bool {
    is_host_name(base.strip_prefix('.').unwrap_or(base))
}

/// The host of a URI; `None` if it has none that is a host name. RFC 5280 requires that a URI without one is rejected.
fn uri_host(uri: &str) -> Option<&str> {
    let is_scheme = |scheme: &str| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+.-".contains(&byte))
    };
    let (_, rest) = uri.split_once("://").filter(|(scheme, _)| is_scheme(scheme))?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = match authority.split_once(':') {
        Some((host, port)) => Some(host).filter(|_| port.bytes().all(|byte| byte.is_ascii_digit()))?,
        None => authority,
    };
    (is_host_name(host) && host.parse::<IpAddr>().is_err()).then_some(host)
}

/// A constraint is an address and a mask.
fn is_ip_within(address: &[u8], base: &[u8]) -> Option<bool> {
    if !matches!(base.len(), 8 | 32) || !matches!(address.len(), 4 | 16) {
        return None;
    }
    let (network, mask) = base.split_at(base.len() / 2);
    let masked = |bytes: &[u8]| bytes.iter().zip(mask).map(|(byte, mask)| byte & mask).collect::<Vec<_>>();
    Some(address.len() == network.len() && masked(address) == masked(network))
}

/// Letters, digits, `-` and `_` in labels that are not empty.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    name.split('.').all(is_label)
}

/// Without regard to case.
fn ends_with(name: &str, end: &str) -> bool {
    let start = name.len().checked_sub(end.len());
    start.and_then(|start| name.get(start..)).is_some_and(|tail| tail.eq_ignore_ascii_case(end))
}

/// Reads a non-negative `INTEGER`; values beyond 32 bits are reduced to the largest one.
pub(super) fn unsigned(content: &[u8]) -> Option<u32> {
    if content.first().is_none_or(|first| *first >= 0x80) {
        return None;
    }
    let zeros = content.iter().take_while(|byte| **byte == 0).count();
    match content.get(zeros..).unwrap_or_default() {
        digits if digits.len() <= 4 => Some(digits.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))),
        _ => Some(u32::MAX),
    }
}

/// Reads a value that must be a non-negative `INTEGER`.
pub(super) fn unsigned_value(der: &[u8]) -> Option<u32> {
    unsigned(only_value(der, INTEGER)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::test_pki::der_value;

    /// Whether a name is in a subtree; `None` if that cannot be evaluated.
    #[track_caller]
    fn check(make: fn(&'static str) -> GeneralName<'static>, cases: &[(&'static str, &'static str, Option<bool>)]) {
        for (name, base, expected) in cases {
            let found = is_within(&make(name), &make(base), Role::Permitted);
            assert_eq!(found, *expected, "{name} in {base}");
        }
    }

    #[test]
    fn dns_names_are_in_a_subtree_label_by_label() {
        check(
            GeneralName::Dns,
            &[
                ("mongo.example", "example", Some(true)),
                ("mongo.example", "mongo.example", Some(true)),
                ("MONGO.Example", "mongo.EXAMPLE", Some(true)),
                ("a.mongo.example", ".mongo.example", Some(true)),
                ("mongo.example", ".mongo.example", Some(false)),
                ("mongo.example", "", Some(true)),
                ("example", "mongo.example", Some(false)),
                ("notmongo.example", "mongo.example", Some(false)),
                ("*.mongo.example", "mongo.example", Some(true)),
                ("*.example", "mongo.example", Some(false)),
                ("mongo_1.example", "example", Some(true)),
                ("mongo.example.", "example", None),
                ("mongo..example", "example", None),
                ("mo ngo.example", "example", None),
                ("m*.example", "example", None),
                ("mongo.example", "exa mple", None),
            ],
        );
        let excludes = |name, base| is_within(&GeneralName::Dns(name), &GeneralName::Dns(base), Role::Excluded);
        assert_eq!(excludes("*.example", "mongo.example"), Some(true));
        assert_eq!(excludes("*.example", "a.mongo.example"), Some(false));
        assert_eq!(excludes("*.example", ".mongo.example"), Some(false));
    }

    #[test]
    fn uris_are_in_a_subtree_by_their_host() {
        check(
            GeneralName::Uri,
            &[
                ("spiffe://cluster.local/ns/a", "cluster.local", Some(true)),
                ("spiffe://Cluster.LOCAL", "cluster.local", Some(true)),
                ("https://cluster.local:8080/x", "cluster.local", Some(true)),
                ("https://cluster.local?x", "cluster.local", Some(true)),
                ("https://cluster.local#x", "cluster.local", Some(true)),
                ("spiffe://a.cluster.local/x", "cluster.local", Some(false)),
                ("spiffe://a.cluster.local/x", ".cluster.local", Some(true)),
                ("spiffe://cluster.local/x", ".cluster.local", Some(false)),
                ("spiffe://other/cluster.local", "cluster.local", Some(false)),
                ("https://cluster.local@evil.example/", "cluster.local", None),
                ("https://evil.example:a@cluster.local/", "cluster.local", None),
                ("https://10.0.0.1/x", "cluster.local", None),
                ("https://[::1]/x", "cluster.local", None),
                ("https:///x", "cluster.local", None),
                ("urn:uuid:1", "cluster.local", None),
                ("cluster.local", "cluster.local", None),
                ("https://cluster.local./x", "cluster.local", None),
                ("svn+ssh://cluster.local/x", "cluster.local", Some(true)),
                ("urn:x://cluster.local/x", "cluster.local", None),
                ("a/b://cluster.local/x", "cluster.local", None),
                ("1a://cluster.local/x", "cluster.local", None),
                ("://cluster.local/x", "cluster.local", None),
                ("spiffe://prod.example/a", "", None),
                ("spiffe://prod.example/a", ".", None),
                ("spiffe://prod.example/a", "spiffe://prod.example", None),
                ("spiffe://prod.example/a", "prod.example.", None),
                ("spiffe://prod.example/a", "..prod.example", None),
                ("spiffe://prod.example/a", "prod.example/a", None),
                ("spiffe://prod.example/a", "prod.example:443", None),
                ("spiffe://prod.example/a", "*.example", None),
            ],
        );
    }

    #[test]
    fn addresses_are_in_a_subtree_by_mailbox_host_or_domain() {
        check(
            GeneralName::Email,
            &[
                ("dba@acme.example", "acme.example", Some(true)),
                ("dba@ACME.example", "acme.EXAMPLE", Some(true)),
                ("dba@mail.acme.example", "acme.example", Some(false)),
                ("dba@mail.acme.example", ".acme.example", Some(true)),
                ("dba@acme.example", ".acme.example", Some(false)),
                ("dba@acme.example", "dba@acme.example", Some(true)),
                ("DBA@acme.example", "dba@acme.example", Some(false)),
                ("\"a@b\"@acme.example", "acme.example", Some(true)),
                ("acme.example", "acme.example", None),
                ("@acme.example", "acme.example", None),
                ("dba@", "acme.example", None),
                ("db\u{1}a@acme.example", "dba@acme.example", None),
                ("dba@acme.example", "", None),
                ("dba@acme.example", ".", None),
                ("dba@acme.example", "@acme.example", None),
                ("dba@acme.example", "dba@", None),
                ("dba@acme.example", "dba@acme.example.", None),
                ("dba@acme.example", "dba@.acme.example", None),
                ("dba@acme.example", "acme.example.", None),
                ("dba@acme.example", "acme..example", None),
            ],
        );
    }

    #[test]
    fn malformed_constraints_are_rejected() {
        let dns = [0x82, 1, b'a'];
        let subtree = [&[0x30, 3], dns.as_slice()].concat();
        let list = |tag: u8| [&[tag, 5], subtree.as_slice()].concat();
        let whole = |parts: &[&[u8]]| {
            let content = parts.concat();
            [&[0x30, u8::try_from(content.len()).unwrap()], content.as_slice()].concat()
        };
        assert!(NameConstraints::from_der(&whole(&[&list(0xa0), &list(0xa1)])).is_some());
        for (case, der) in [
            ("empty", whole(&[])),
            ("an empty list", whole(&[&[0xa0, 0]])),
            ("the wrong order", whole(&[&list(0xa1), &list(0xa0)])),
            ("a list twice", whole(&[&list(0xa0), &list(0xa0)])),
            ("an unknown list", whole(&[&list(0xa2)])),
            ("bytes after it", [whole(&[&list(0xa0)]), vec![0]].concat()),
        ] {
            assert!(NameConstraints::from_der(&der).is_none(), "{case}");
        }
        // With a maximum, the constraint is not evaluated, and no name of its form is accepted.
        let limited = whole(&[&[0xa0, 8, 0x30, 6, 0x82, 1, b'a', 0x81, 1, 1]]);
        let limited = NameConstraints::from_der(&limited).unwrap();
        let name = |form, value| Name { form, value };
        let mut left = COMPARISONS_MAX;
        assert!(limited.check(&[name(2, GeneralName::Dns("a"))], &mut left).is_err());
        assert!(limited.check(&[name(6, GeneralName::Uri("x:"))], &mut left).is_ok());
    }

    #[test]
    fn a_directory_name_with_a_malformed_tail_is_not_read_as_a_shorter_one() {
        let acme = der_value(0x31, &der_value(0x30, b"\x06\x03\x55\x04\x0a\x0c\x04Acme"));
        for (tail, is_read) in [(&[][..], true), (&[5, 0], false), (&[0x31, 0], false), (&[0x31, 2, 0x30, 0], false)] {
            let der = der_value(0xa4, &der_value(0x30, &[acme.as_slice(), tail].concat()));
            let name = Name::from_der(values(&der).next().unwrap().unwrap()).unwrap();
            assert_eq!(matches!(name.value, GeneralName::Directory(_)), is_read, "{tail:?}");
        }
    }

    #[test]
    fn integers_are_not_negative_and_large_ones_are_reduced() {
        for (content, expected) in [
            (&[0][..], Some(0)),
            (&[5], Some(5)),
            (&[0, 0xff], Some(255)),
            (&[0, 0xff, 0xff, 0xff, 0xff], Some(u32::MAX)),
            (&[1, 0, 0, 0, 0], Some(u32::MAX)),
            (&[], None),
            (&[0xff], None),
        ] {
            assert_eq!(unsigned(content), expected, "{content:?}");
        }
    }
}
