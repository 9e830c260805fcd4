//! Checks `[[token_issuer]]`, and `authentication` of a listener.

use std::path::Path;
use std::time::Duration;

use super::identity_readers;
use super::readers;
use crate::config::error::quoted;
use crate::config::given::Given;
use crate::config::section::Section;
use crate::config::sections::JwksUrl;
use crate::config::sections::KeySource;
use crate::config::sections::ListenerAuthentication;
use crate::config::sections::ListenerConfig;
use crate::config::sections::ListenerMode;
use crate::config::sections::TokenIssuerConfig;
use crate::config::values::HostPort;
use crate::config::values::is_host;

/// The longest names of issuers and audiences, in bytes.
const NAME_BYTES_MAX: usize = 2048;

/// A clock that is wrong by more has to be set.
const CLOCK_SKEW_MAX: Duration = Duration::from_mins(5);

pub(super) fn authentication(given: &Given<'_>) -> Result<ListenerAuthentication, String> {
    const CHOICES: &[(&str, ListenerAuthentication)] = &[
        ("none", ListenerAuthentication::None),
        ("token", ListenerAuthentication::Token),
        ("token-optional", ListenerAuthentication::TokenOptional),
    ];
    readers::choice(given, CHOICES)
}

/// Reads one `[[token_issuer]]`. `trust_domain` is the one at the top of the file.
pub(super) fn token_issuer(
    mut section: Section<'_>,
    trust_domain: Option<&str>,
    directory: &Path,
) -> Option<TokenIssuerConfig> {
    let has_issuer = section.has("issuer");
    let issuer = section.optional("issuer", issuer);
    let audiences = section.required(
        "audiences",
        "set what the tokens of clients are for, as in audiences = [\"mongodb://orders\"]",
        audiences,
    );
    // One that is wrong is not missing.
    let has_own_domain = section.has("trust_domain");
    let has_domain = has_own_domain || trust_domain.is_some();
    let own_domain = section.optional("trust_domain", identity_readers::trust_domain);
    // The agent has only keys of JWT-SVIDs.
    if !has_issuer && !has_own_domain && !section.has("spiffe_socket") {
        section
            .missing("issuer", "set the claim iss of its tokens, or trust_domain for the JWT-SVIDs of a trust domain");
    }
    let trust_domain = own_domain.or_else(|| trust_domain.map(ToOwned::to_owned));
    let keys = keys(&mut section, has_issuer, trust_domain.as_deref(), directory);
    let principal = section.optional("principal", |given| {
        given.text("a principal with claims in braces, as in \"{trust_domain}/ns/{sub}\"").map(ToOwned::to_owned)
    });
    if !has_domain && principal.is_none() {
        section
            .missing("trust_domain", "set the trust domain of the principals, as in trust_domain = \"cluster.local\"");
    }
    if !has_issuer && principal.is_some() {
        section.note("principal", "needs an issuer: the principal of a JWT-SVID is its SPIFFE ID".to_owned());
    }
    let required_claims = required_claims(&mut section);
    let text = |given: &Given<'_>| given.text("a string, as in \"mongodb\"").map(ToOwned::to_owned);
    let client_id = section.optional("client_id", text);
    let request_scopes = section.or("request_scopes", Vec::new(), |given| {
        Ok(given.texts("a scope, as in \"openid\"")?.into_iter().map(ToOwned::to_owned).collect())
    });
    let clock_skew = section
        .or("clock_skew", Duration::from_secs(30), |given| readers::duration(given, Duration::ZERO, CLOCK_SKEW_MAX));
    let expiry_grace = section
        .or("expiry_grace", Duration::from_mins(5), |given| readers::duration(given, Duration::ZERO, readers::HOUR));
    Some(TokenIssuerConfig {
        issuer,
        audiences: audiences?,
        keys: keys?,
        trust_domain,
        principal,
        required_claims: required_claims?,
        client_id,
        request_scopes,
        clock_skew,
        expiry_grace,
    })
}

/// Records two issuers that the same tokens come from: only the first would be used.
pub(super) fn refuse_twins(top: &Section<'_>, issuers: &[TokenIssuerConfig]) {
    for (at, issuer) in issuers.iter().enumerate() {
        let label = issuer.label();
        if issuers.iter().take(at).any(|other| other.label() == label) {
            let sentence = format!("is {} for a second time; put all audiences into one table", quoted(&label));
            top.note(&format!("token_issuer[{}].issuer", at + 1), sentence);
        }
    }
}

/// Records what prevents a listener from taking tokens.
pub(super) fn check_listener(top: &Section<'_>, listener: &ListenerConfig, has_issuer: bool) {
    if listener.authentication == ListenerAuthentication::None {
        return;
    }
    let note = |sentence: &str| {
        let value = listener.authentication.as_str();
        top.note(&format!("listener.{}.authentication", listener.name), format!("\"{value}\" {sentence}"));
    };
    if !has_issuer {
        note("needs to know whose tokens are accepted; add a [[token_issuer]]");
    }
    if listener.mode != ListenerMode::Strict && listener.addresses().iter().any(|address| !address.is_local()) {
        note(
            "would take tokens in the clear from other machines, and every reader of a token can use it; set mode = \
             \"strict\", or use a loopback address or a unix domain socket",
        );
    }
}

fn issuer(given: &Given<'_>) -> Result<String, String> {
    let what = "the claim iss of its tokens, as in \"https://kubernetes.default.svc.cluster.local\"";
    name(given.text(what)?, what)
}

fn audiences(given: &Given<'_>) -> Result<Vec<String>, String> {
    let what = "an audience, as in \"mongodb://orders\"";
    let audiences: Vec<String> =
        given.texts(what)?.into_iter().map(|text| name(text, what)).collect::<Result<_, _>>()?;
    if audiences.is_empty() {
        return Err(
            "is empty, so that every token would be refused; list what the tokens of clients are for".to_owned()
        );
    }
    Ok(audiences)
}

fn name(text: &str, what: &str) -> Result<String, String> {
    if text.len() > NAME_BYTES_MAX || text.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(format!("must be {what}, without spaces and of at most {NAME_BYTES_MAX} bytes"));
    }
    Ok(text.to_owned())
}

fn keys(
    section: &mut Section<'_>,
    has_issuer: bool,
    trust_domain: Option<&str>,
    directory: &Path,
) -> Option<KeySource> {
    const WHAT: &str = "set where its keys are, as in jwks_url = \"https://issuer.example/jwks\", jwks_file, or \
                        spiffe_socket";
    let path = |given: &Given<'_>, what: &str| {
        let text = given.text(what)?;
        if text.contains(char::is_control) { Err(format!("must be {what}")) } else { Ok(directory.join(text)) }
    };
    let given: Vec<&str> =
        ["jwks_url", "jwks_file", "spiffe_socket"].into_iter().filter(|key| section.has(key)).collect();
    let file = section.optional("jwks_file", |given| path(given, "the path of a file with a JSON Web Key Set"));
    let url = section.optional("jwks_url", url);
    let socket = section.optional("spiffe_socket", |given| readers::socket(given, directory));
    if !given.contains(&"jwks_url") {
        let sentence = "is for jwks_url only; remove it";
        section.misplaced("ca_file", sentence);
        section.misplaced("bearer_token_file", sentence);
    }
    let ca_file = section.optional("ca_file", |given| readers::file(given, directory));
    let bearer_token_file =
        section.optional("bearer_token_file", |given| path(given, "the path of a file with a token"));
    match given[..] {
        [] => {
            section.missing("jwks_url", WHAT);
            None
        }
        ["jwks_url"] => url.map(|url| KeySource::Url { url, ca_file, bearer_token_file }),
        ["jwks_file"] => file.map(KeySource::File),
        ["spiffe_socket"] if has_issuer => {
            let sentence = "has only keys of JWT-SVIDs, which are recognised by their SPIFFE ID; remove issuer, or use \
                            jwks_url or jwks_file";
            section.note("spiffe_socket", sentence.to_owned());
            None
        }
        ["spiffe_socket"] => Some(KeySource::WorkloadApi { socket: socket?, trust_domain: trust_domain?.to_owned() }),
        [first, second, ..] => {
            section.note(second, format!("cannot be combined with {first}; remove one of the two"));
            None
        }
        [_] => None,
    }
}

/// An address. Keys that arrive in the clear could be those of an attacker, so `http` is for this machine only.
fn url(given: &Given<'_>) -> Result<JwksUrl, String> {
    const WHAT: &str = "an address with https://, as in \"https://issuer.example/openid/v1/jwks\"";
    let text = given.text(WHAT)?;
    let wrong = || format!("must be {WHAT}");
    let (is_https, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return Err(wrong()),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    if !path.bytes().all(|byte| matches!(byte, b'!'..=b'~') && !b"#\"<>\\^`{|}".contains(&byte)) {
        return Err(wrong());
    }
    let default_port = if is_https { 443 } else { 80 };
    let server = if let Ok(server) = authority.parse::<HostPort>() {
        server
    } else {
        let bare = authority.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let is_v6 = |host: &str| host.parse::<std::net::Ipv6Addr>().is_ok();
        let host = match bare {
            Some(host) if is_v6(host) => host,
            None if is_host(authority) => authority,
            _ => return Err(wrong()),
        };
        HostPort { host: host.to_owned(), port: default_port }
    };
    let is_loopback = server.host == "localhost"
        || server.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if !is_https && !is_loopback {
        return Err(
            "has http://, and keys that arrive without TLS can be those of an attacker; use https://".to_owned()
        );
    }
    Ok(JwksUrl { is_https, server, path: path.to_owned(), text: text.to_owned() })
}

/// `None` if there is a problem.
fn required_claims(section: &mut Section<'_>) -> Option<Vec<(String, Vec<String>)>> {
    const EXPECTED: &str = "must be a table of claims and values, as in required_claims = { \
                            \"kubernetes.io.namespace\" = \"shop\" }";
    if !section.has("required_claims") {
        return Some(Vec::new());
    }
    section.pairs("required_claims", EXPECTED, |claim, given| {
        let what = "a value of this claim, as in \"shop\"";
        let values = match given.text(what) {
            Ok(one) => vec![one.to_owned()],
            Err(_) => given.texts(what)?.into_iter().map(ToOwned::to_owned).collect(),
        };
        if values.is_empty() { Err(format!("is empty; it must be {what}")) } else { Ok((claim.to_owned(), values)) }
    })
}
