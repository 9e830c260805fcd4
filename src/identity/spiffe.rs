//! SPIFFE IDs, parsed strictly.
//!
//! Spec: SPIFFE-ID § 2; X509-SVID § 2, § 3.1. The parser of the `spiffe` crate is not used: it converts trust domains
//! to lower case, accepts `SPIFFE://` as the scheme, and does not limit the path. For access control, an identity must
//! have exactly one spelling. Text that does not follow the specification exactly is an error and is not normalised.

use std::fmt;

use super::distinguished_name::printable;

/// The scheme of every SPIFFE ID.
const SCHEME: &str = "spiffe://";

/// The longest ID in bytes, with its scheme. The specification requires support for IDs of this length.
const ID_BYTES_MAX: usize = 2048;

/// The longest trust domain in bytes.
const TRUST_DOMAIN_BYTES_MAX: usize = 255;

/// The ID of a workload: a trust domain and a path of at least one segment.
///
/// Stored without `spiffe://`, as principals are written: `cluster.local/ns/shop/sa/cart`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    text: String,
    /// `text[..domain_bytes]` is the trust domain, and a slash follows.
    domain_bytes: usize,
}

/// Why a text is not the SPIFFE ID of a workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// More than 2048 bytes.
    #[error("it has more than {ID_BYTES_MAX} bytes")]
    TooLong,
    /// Another scheme, or the scheme in upper case.
    #[error("it does not begin with {SCHEME}")]
    Scheme,
    /// Nothing before the first slash.
    #[error("its trust domain is empty")]
    NoTrustDomain,
    /// More than 255 bytes.
    #[error("its trust domain has more than {TRUST_DOMAIN_BYTES_MAX} bytes")]
    LongTrustDomain,
    /// For example an upper-case letter, a port or a user name.
    #[error("its trust domain contains {}; only a-z, 0-9, \".\", \"-\" and \"_\" are allowed", shown(*.0))]
    TrustDomainCharacter(char),
    /// A trust domain without a path is not a workload.
    #[error("it has no path after the trust domain, so it does not identify a workload")]
    NoPath,
    /// `//`, or a slash at the end.
    #[error("its path has an empty segment")]
    EmptySegment,
    /// `.` or `..`.
    #[error("its path has a segment \".\" or \"..\"")]
    DotSegment,
    /// For example a query, a fragment or a percent sign.
    #[error("its path contains {}; only letters, digits, \".\", \"-\" and \"_\" are allowed", shown(*.0))]
    PathCharacter(char),
}

impl SpiffeId {
    /// Parses `spiffe://<trust domain>/<path>`.
    pub fn from_uri(uri: &str) -> Result<Self, SpiffeIdError> {
        Self::from_principal(uri.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?)
    }

    /// Parses `<trust domain>/<path>`, the form without the scheme.
    pub fn from_principal(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() + SCHEME.len() > ID_BYTES_MAX {
            return Err(SpiffeIdError::TooLong);
        }
        let (domain, path) = match text.split_once('/') {
            Some((domain, path)) => (domain, Some(path)),
            None => (text, None),
        };
        check_trust_domain(domain)?;
        path.ok_or(SpiffeIdError::NoPath)?.split('/').try_for_each(check_segment)?;
        Ok(Self { text: text.to_owned(), domain_bytes: domain.len() })
    }

    /// The ID without `spiffe://`; printable ASCII.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain, for example `cluster.local`.
    pub fn trust_domain(&self) -> &str {
        self.text.get(..self.domain_bytes).unwrap_or_default()
    }

    /// The namespace of a Kubernetes workload, if the path is `ns/<namespace>/sa/<service account>`.
    pub fn namespace(&self) -> Option<&str> {
        self.workload().map(|(namespace, _)| namespace)
    }

    /// The service account of a Kubernetes workload; see [`namespace`](Self::namespace).
    pub fn service_account(&self) -> Option<&str> {
        self.workload().map(|(_, account)| account)
    }

    /// Namespace and service account. A longer path does not match.
    fn workload(&self) -> Option<(&str, &str)> {
        let path = self.text.get(self.domain_bytes..)?;
        let mut segments = path.strip_prefix("/ns/")?.split('/');
        match (segments.next(), segments.next(), segments.next(), segments.next()) {
            (Some(namespace), Some("sa"), Some(account), None) => Some((namespace, account)),
            _ => None,
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether a URI has the scheme of SPIFFE, in upper or lower case, so that it must be a valid SPIFFE ID.
pub(super) fn is_meant_as_spiffe(uri: &str) -> bool {
    uri.get(..SCHEME.len()).is_some_and(|start| start.eq_ignore_ascii_case(SCHEME))
}

/// Checks that `text` is a valid name of a trust domain.
pub fn check_trust_domain(text: &str) -> Result<(), SpiffeIdError> {
    let allowed = |c: &char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_');
    match text.chars().find(|c| !allowed(c)) {
        _ if text.is_empty() => Err(SpiffeIdError::NoTrustDomain),
        _ if text.len() > TRUST_DOMAIN_BYTES_MAX => Err(SpiffeIdError::LongTrustDomain),
        Some(wrong) => Err(SpiffeIdError::TrustDomainCharacter(wrong)),
        None => Ok(()),
    }
}

fn check_segment(segment: &str) -> Result<(), SpiffeIdError> {
    let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    match segment.chars().find(|c| !allowed(c)) {
        _ if segment.is_empty() => Err(SpiffeIdError::EmptySegment),
        _ if segment == "." || segment == ".." => Err(SpiffeIdError::DotSegment),
        Some(wrong) => Err(SpiffeIdError::PathCharacter(wrong)),
        None => Ok(()),
    }
}

fn shown(character: char) -> String {
    format!("\"{}\"", printable(&character.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_are_parsed_with_trust_domain_and_workload() {
        let cases = [
            (
                "spiffe://cluster.local/ns/shop/sa/cart",
                ("cluster.local/ns/shop/sa/cart", "cluster.local", Some(("shop", "cart"))),
            ),
            ("spiffe://a-b_c.9/Billing/API", ("a-b_c.9/Billing/API", "a-b_c.9", None)),
            ("spiffe://td/ns/shop/sa/cart/more", ("td/ns/shop/sa/cart/more", "td", None)),
            ("spiffe://td/ns/shop/pod/cart", ("td/ns/shop/pod/cart", "td", None)),
            ("spiffe://td/x/ns/shop/sa/cart", ("td/x/ns/shop/sa/cart", "td", None)),
            ("spiffe://td/...", ("td/...", "td", None)),
        ];
        for (uri, expected) in cases {
            let id = SpiffeId::from_uri(uri).unwrap();
            assert_eq!((id.as_str(), id.trust_domain(), id.namespace().zip(id.service_account())), expected, "{uri}");
        }
    }

    #[test]
    fn text_that_is_not_exactly_the_id_of_a_workload_is_an_error() {
        use SpiffeIdError as E;
        let cases = [
            ("", E::Scheme),
            ("https://td/x", E::Scheme),
            ("SPIFFE://td/x", E::Scheme),
            ("spiffe:/td/x", E::Scheme),
            ("spiffe://", E::NoTrustDomain),
            ("spiffe:///x", E::NoTrustDomain),
            ("spiffe://td", E::NoPath),
            ("spiffe://td/", E::EmptySegment),
            ("spiffe://td//x", E::EmptySegment),
            ("spiffe://td/x/", E::EmptySegment),
            ("spiffe://td/./x", E::DotSegment),
            ("spiffe://td/x/..", E::DotSegment),
            ("spiffe://Td/x", E::TrustDomainCharacter('T')),
            ("spiffe://td:80/x", E::TrustDomainCharacter(':')),
            ("spiffe://me@td/x", E::TrustDomainCharacter('@')),
            ("spiffe://td?x", E::TrustDomainCharacter('?')),
            ("spiffe://bücher/x", E::TrustDomainCharacter('ü')),
            ("spiffe://td/x?y=z", E::PathCharacter('?')),
            ("spiffe://td/x#y", E::PathCharacter('#')),
            ("spiffe://td/%6eo", E::PathCharacter('%')),
            ("spiffe://td/a b", E::PathCharacter(' ')),
            ("spiffe://td/a\0b", E::PathCharacter('\0')),
            ("spiffe://td/a\\b", E::PathCharacter('\\')),
            ("spiffe://td/é", E::PathCharacter('é')),
        ];
        for (uri, expected) in cases {
            assert_eq!(SpiffeId::from_uri(uri), Err(expected), "{uri}");
        }
    }

    #[test]
    fn lengths_are_limited() {
        let domain = "d".repeat(TRUST_DOMAIN_BYTES_MAX);
        assert!(SpiffeId::from_principal(&format!("{domain}/x")).is_ok());
        assert_eq!(SpiffeId::from_principal(&format!("{domain}d/x")), Err(SpiffeIdError::LongTrustDomain));
        let longest = format!("spiffe://td/{}", "x".repeat(ID_BYTES_MAX - 12));
        assert_eq!(longest.len(), ID_BYTES_MAX);
        assert!(SpiffeId::from_uri(&longest).is_ok());
        assert_eq!(SpiffeId::from_uri(&(longest + "x")), Err(SpiffeIdError::TooLong));
    }

    #[test]
    fn a_uri_is_meant_as_spiffe_by_its_scheme() {
        for (uri, meant) in [
            ("spiffe://", true),
            ("SpIfFe://td", true),
            ("spiffe:/td", false),
            ("https://spiffe://td/x", false),
            ("", false),
            ("ßßßßßßßß", false),
        ] {
            assert_eq!(is_meant_as_spiffe(uri), meant, "{uri}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_an_id_that_parses_back_or_an_error(
            text in "(spiffe://)?[a-zA-Z0-9._/%?# -]{0,40}|\\PC{0,40}",
        ) {
            if let Ok(id) = SpiffeId::from_uri(&text) {
                prop_assert_eq!(format!("spiffe://{id}"), text);
                prop_assert_eq!(SpiffeId::from_principal(id.as_str()), Ok(id.clone()));
                let start = [id.trust_domain(), "/"].concat();
                prop_assert!(id.as_str().starts_with(&start));
            }
        }
    }
}
