//! Explains why a server's certificate is accepted: which trust anchor signed it, and how it matches the server.

use super::chain::{Chain, IssuerSources};
use crate::config::{EndpointConfig, Verify};
use crate::identity::CertificateFacts;
use crate::tls::{PeerName, TrustAnchors};

/// How the drawing calls the certificates that the server sends with its own.
const SENT: &str = "sent by mongod";

/// The chain of a server's certificate. `sent` are the intermediate certificates that the server sends.
pub(super) fn chain_of<'a>(
    leaf: &'a CertificateFacts,
    sent: &'a [CertificateFacts],
    trust_anchors: &'a TrustAnchors,
) -> Chain<'a> {
    Chain::follow(leaf, &IssuerSources { sent, sent_as: SENT, trust_anchors: Some(trust_anchors) })
}

/// Which trust anchor signed the certificate. Compares names only, because rustls has verified the signatures.
pub(super) fn why_trusted(chain: &Chain<'_>) -> String {
    let issuers = || chain.links.iter().skip(1);
    let sent = issuers().take_while(|(_, found_in)| *found_in == SENT);
    let through = sent.fold(String::new(), |all, (facts, _)| format!("{all}through {}, ", facts.subject));
    match issuers().find(|(_, found_in)| *found_in != SENT) {
        Some((anchor, found_in)) => format!("{through}signed by {} {found_in}", anchor.subject),
        None => "it is itself a trust anchor".to_owned(),
    }
}

/// How the certificate matches the server that the configuration names.
pub(super) fn why_named(leaf: &CertificateFacts, expected: &PeerName, upstream: &EndpointConfig) -> String {
    let name = expected.as_str();
    if !upstream.tls.server_identities.is_empty() {
        return format!("and {} is in server_identities", leaf.uris.join(", "));
    }
    if upstream.tls.verify == Verify::Chain {
        return "its names are not verified (verify = \"chain\")".to_owned();
    }
    if leaf.names().is_empty() {
        return format!("and its common name matches {name} (legacy_certificates)");
    }
    match matching_wildcard(leaf, expected) {
        Some(pattern) => format!("and {pattern} matches {name}"),
        None => format!("and {name} is among its names"),
    }
}

/// The wildcard name of the certificate that matches, if no name is equal to the expected one.
fn matching_wildcard(leaf: &CertificateFacts, expected: &PeerName) -> Option<String> {
    let name = expected.dns_name()?;
    let has = |name: &str| leaf.dns_names.iter().any(|presented| presented.eq_ignore_ascii_case(name));
    let (_, parent) = name.split_once('.')?;
    let pattern = format!("*.{parent}");
    (!has(name) && has(&pattern)).then_some(pattern)
}

/// The names of a certificate.
pub(super) fn names_line(facts: &CertificateFacts) -> String {
    match facts.names() {
        none if none.is_empty() => "no names except the common name".to_owned(),
        names => format!("names {}", names.join(", ")),
    }
}
