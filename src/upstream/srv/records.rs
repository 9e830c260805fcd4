//! Validates the SRV and TXT records of a name. One invalid record makes the whole seed list invalid.

use std::time::Duration;

use super::error::SrvFailure;
use super::srv_seeds::SrvSeeds;
use crate::config::HostPort;

/// More SRV records than any cluster has. A DNS answer can contain a few thousand.
const SERVICES_MAX: usize = 256;

/// The shortest time between two lookups, according to the specification for drivers.
const VALID_MIN: Duration = Duration::from_mins(1);
/// The longest time that an answer is used, whatever its TTL.
const VALID_MAX: Duration = Duration::from_hours(24);

const REPLICA_SET: &str = "replicaSet";
const LOAD_BALANCED: &str = "loadBalanced";
/// The options that a TXT record may contain, in any case.
const OPTIONS: [&str; 3] = ["authSource", REPLICA_SET, LOAD_BALANCED];

/// The longest option in a message, in characters.
const SHOWN_CHARS_MAX: usize = 64;

/// The records of one name.
#[derive(Debug, Default)]
pub(super) struct SrvAnswer {
    /// The SRV records.
    pub(super) services: Vec<SrvTarget>,
    /// The TXT records, each with its strings concatenated.
    pub(super) texts: Vec<Vec<u8>>,
}

/// The used fields of an SRV record. Priority and weight are ignored.
#[derive(Debug)]
pub(super) struct SrvTarget {
    /// With or without a trailing dot.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) ttl_seconds: u32,
}

/// The options of the TXT record.
#[derive(Debug, Default, PartialEq, Eq)]
struct TxtOptions {
    replica_set: Option<String>,
    load_balanced: Option<bool>,
    has_auth_source: bool,
}

/// Makes the seed list of `name`, which is in lower case and without a trailing dot.
pub(super) fn validate(name: &str, answer: &SrvAnswer) -> Result<SrvSeeds, SrvFailure> {
    let members = members(name, &answer.services)?;
    let options = match answer.texts.as_slice() {
        [] => TxtOptions::default(),
        [text] => options(text)?,
        several => return Err(SrvFailure::SeveralTexts { count: several.len() }),
    };
    let load_balanced = options.load_balanced == Some(true);
    if load_balanced && (options.replica_set.is_some() || members.len() > 1) {
        return Err(SrvFailure::LoadBalancedSet);
    }
    let ttl = answer.services.iter().map(|service| service.ttl_seconds).min().unwrap_or_default();
    let valid_for = Duration::from_secs(ttl.into()).clamp(VALID_MIN, VALID_MAX);
    Ok(SrvSeeds { members, replica_set: options.replica_set, load_balanced, valid_for })
}

fn members(name: &str, services: &[SrvTarget]) -> Result<Vec<HostPort>, SrvFailure> {
    match services {
        [] => return Err(SrvFailure::NoService),
        // RFC 2782: a target of "." means that the service is not available.
        [service] if service.host == "." => return Err(SrvFailure::NotOffered),
        _ if services.len() > SERVICES_MAX => {
            return Err(SrvFailure::TooManyServices { count: services.len(), maximum: SERVICES_MAX });
        }
        _ => {}
    }
    let domain = domain(name);
    let mut members = Vec::new();
    for service in services {
        let member = member(domain, service)?;
        if !members.contains(&member) {
            members.push(member);
        }
    }
    Ok(members)
}

/// The domain that all hosts have to be within: the name without its first label, or the whole name if only a top-level
/// domain would be left.
fn domain(name: &str) -> &str {
    match name.split_once('.') {
        Some((_, rest)) if rest.contains('.') => rest,
        _ => name,
    }
}

fn member(domain: &str, service: &SrvTarget) -> Result<HostPort, SrvFailure> {
    let host = service.host.strip_suffix('.').unwrap_or(&service.host).to_ascii_lowercase();
    let target = format!("{host}:{}", service.port);
    let member: HostPort = target.parse().map_err(|_| SrvFailure::UnusableTarget { target })?;
    // At least one whole label in front: `evil-example.com` and `example.com` are not within `example.com`.
    let is_within = host.strip_suffix(domain).is_some_and(|front| front.len() > 1 && front.ends_with('.'));
    if is_within { Ok(member) } else { Err(SrvFailure::OtherDomain { host, domain: domain.to_owned() }) }
}

/// Reads `replicaSet=rs0&authSource=admin`.
fn options(text: &[u8]) -> Result<TxtOptions, SrvFailure> {
    let malformed = |option: &str| SrvFailure::MalformedOption { option: shortened(option) };
    let text = str::from_utf8(text).map_err(|_| malformed(&String::from_utf8_lossy(text)))?;
    let mut options = TxtOptions::default();
    if text.is_empty() {
        return Ok(options);
    }
    for option in text.split('&') {
        let (key, value) = option.split_once('=').ok_or_else(|| malformed(option))?;
        if !OPTIONS.iter().any(|known| key.eq_ignore_ascii_case(known)) {
            return Err(SrvFailure::ForeignOption { option: shortened(key) });
        }
        let value = percent_decoded(value).filter(|value| !value.is_empty()).ok_or_else(|| malformed(key))?;
        // The value of authSource is not used: the gateway's user is in $external, and a client names its own database.
        let is_new = if key.eq_ignore_ascii_case(REPLICA_SET) {
            options.replica_set.replace(value).is_none()
        } else if key.eq_ignore_ascii_case(LOAD_BALANCED) {
            let value = value.parse().map_err(|_| malformed(key))?;
            options.load_balanced.replace(value).is_none()
        } else {
            !std::mem::replace(&mut options.has_auth_source, true)
        };
        if !is_new {
            return Err(malformed(key));
        }
    }
    Ok(options)
}

/// `None` if a `%` is not followed by two hexadecimal digits, or if the result is not UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let mut pieces = text.split('%');
    let mut decoded = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2)?;
        // from_str_radix would accept a plus sign.
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        decoded.push(u8::from_str_radix(digits, 16).ok()?);
        decoded.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(decoded).ok()
}

fn shortened(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn targets(hosts: &[&str]) -> Vec<SrvTarget> {
        let target = |text: &&str| {
            let (host, port) = text.rsplit_once(':').unwrap();
            SrvTarget { host: host.to_owned(), port: port.parse().unwrap(), ttl_seconds: 60 }
        };
        hosts.iter().map(target).collect()
    }

    fn seeds(name: &str, hosts: &[&str], texts: &[&str]) -> Result<SrvSeeds, SrvFailure> {
        let texts = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        validate(name, &SrvAnswer { services: targets(hosts), texts })
    }

    fn check_hosts(name: &str, hosts: &[&str], expected: &[&str]) {
        let members = seeds(name, hosts, &[]).unwrap().members;
        assert_eq!(members.iter().map(ToString::to_string).collect::<Vec<_>>(), expected, "{name}");
    }

    /// Debug form of the failure.
    fn check_rejected(name: &str, hosts: &[&str], texts: &[&str], expected: &str) {
        let failure = seeds(name, hosts, texts).unwrap_err();
        assert_eq!(format!("{failure:?}"), expected, "{name} {hosts:?} {texts:?}");
    }

    #[test]
    fn hosts_are_normalised_and_deduplicated() {
        let hosts = ["A.example.com.:27017", "b.example.com:27018", "a.Example.COM:27017", "a.example.com:27018"];
        let expected = ["a.example.com:27017", "b.example.com:27018", "a.example.com:27018"];
        check_hosts("cluster.example.com", &hosts, &expected);
        check_hosts("cluster.example.com", &["a.b.example.com.:1"], &["a.b.example.com:1"]);
    }

    #[test]
    fn a_host_has_to_be_within_the_domain_of_the_name() {
        let check = |name: &str, host: &str, domain: &str| {
            let expected = format!("OtherDomain {{ host: {host:?}, domain: {domain:?} }}");
            check_rejected(name, &[&format!("{host}.:27017")], &[], &expected);
        };
        check("cluster.example.com", "a.example.org", "example.com");
        check("cluster.example.com", "a.evilexample.com", "example.com");
        check("cluster.example.com", "example.com", "example.com");
        check("cluster.example.com", "com", "example.com");
        check("cluster.example.com", "a.example.com.evil.org", "example.com");
        check("a.b.example.com", "c.example.com", "b.example.com");
        check("cluster.example.com", "localhost", "example.com");
        // With one or two labels the name itself is the domain, and hosts are below it.
        check("mongo.local", "mongo.local", "mongo.local");
        check("mongo.local", "a.local", "mongo.local");
        check("localhost", "localhost", "localhost");
        check("localhost", "mongo.local", "localhost");
        check_hosts("mongo.local", &["a.mongo.local.:1"], &["a.mongo.local:1"]);
        check_hosts("localhost", &["a.localhost.:1"], &["a.localhost:1"]);
    }

    #[test]
    fn one_invalid_host_makes_the_list_invalid() {
        let hosts = ["a.example.com:1", "b.example.org:1"];
        check_rejected(
            "c.example.com",
            &hosts,
            &[],
            "OtherDomain { host: \"b.example.org\", domain: \"example.com\" }",
        );
    }

    #[test]
    fn an_invalid_host_or_port_is_rejected() {
        let check = |target: &str, shown: &str| {
            check_rejected("c.example.com", &[target], &[], &format!("UnusableTarget {{ target: {shown:?} }}"));
        };
        check("a.example.com.:0", "a.example.com:0");
        check("a\\.b.example.com.:1", "a\\.b.example.com:1");
        check("a\\032b.example.com.:1", "a\\032b.example.com:1");
        check("..example.com:1", "..example.com:1");
        check(".example.com:1", ".example.com:1");
        check("10.0.0:1", "10.0.0:1");
        check(&format!("{}.example.com:1", "a".repeat(64)), &format!("{}.example.com:1", "a".repeat(64)));
        check_rejected("c.example.com", &[], &[], "NoService");
        check_rejected("c.example.com", &[".:0"], &[], "NotOffered");
        // A target of "." among others is invalid.
        check_rejected("c.example.com", &[".:1", "a.example.com:1"], &[], "UnusableTarget { target: \":1\" }");
    }

    #[test]
    fn an_answer_with_too_many_records_is_rejected() {
        let hosts: Vec<String> = (0..=SERVICES_MAX).map(|index| format!("a{index}.example.com:1")).collect();
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        assert_eq!(seeds("c.example.com", &hosts[1..], &[]).unwrap().members.len(), SERVICES_MAX);
        check_rejected("c.example.com", &hosts, &[], "TooManyServices { count: 257, maximum: 256 }");
    }

    fn check_options(text: &str, replica_set: Option<&str>, load_balanced: bool) {
        let seeds = seeds("c.example.com", &["a.example.com:1"], &[text]).unwrap();
        assert_eq!((seeds.replica_set.as_deref(), seeds.load_balanced), (replica_set, load_balanced), "{text}");
    }

    #[test]
    fn three_options_are_allowed_in_the_text() {
        check_options("", None, false);
        check_options("replicaSet=rs0", Some("rs0"), false);
        check_options("authSource=admin&replicaSet=rs0", Some("rs0"), false);
        check_options("REPLICASET=rs0&AuthSource=%24external", Some("rs0"), false);
        check_options("replicaSet=a%26b%3d", Some("a&b="), false);
        check_options("loadBalanced=true", None, true);
        check_options("loadBalanced=true&authSource=x", None, true);
        check_options("loadBalanced=false&replicaSet=rs0", Some("rs0"), false);
    }

    #[test]
    fn everything_else_in_the_text_is_rejected() {
        let rejected = |text: &str, expected: &str| {
            check_rejected("c.example.com", &["a.example.com:1"], &[text], expected);
        };
        let foreign = |text: &str, option: &str| rejected(text, &format!("ForeignOption {{ option: {option:?} }}"));
        let malformed = |text: &str, option: &str| rejected(text, &format!("MalformedOption {{ option: {option:?} }}"));
        foreign("ssl=false", "ssl");
        foreign("replicaSet=rs0&tls=false", "tls");
        foreign("socketTimeoutMS=500", "socketTimeoutMS");
        foreign("=x", "");
        foreign("v=spf1 -all", "v");
        malformed("replicaSet", "replicaSet");
        malformed("replicaSet=", "replicaSet");
        malformed("replicaSet=rs0&", "");
        malformed("replicaSet=rs0&replicaSet=rs1", "replicaSet");
        malformed("authSource=a&authSource=a", "authSource");
        malformed("replicaSet=%2", "replicaSet");
        malformed("replicaSet=%+1", "replicaSet");
        malformed("replicaSet=%ff", "replicaSet");
        malformed("replicaSet=%é", "replicaSet");
        malformed("loadBalanced=yes", "loadBalanced");
        malformed("loadBalanced=TRUE", "loadBalanced");
        rejected("loadBalanced=true&replicaSet=rs0", "LoadBalancedSet");
    }

    #[test]
    fn a_load_balancer_has_one_host_and_there_is_one_text() {
        let hosts = ["a.example.com:1", "b.example.com:1"];
        check_rejected("c.example.com", &hosts, &["loadBalanced=true"], "LoadBalancedSet");
        let texts = ["replicaSet=rs0", "authSource=admin"];
        check_rejected("c.example.com", &hosts, &texts, "SeveralTexts { count: 2 }");
    }

    #[test]
    fn the_shortest_ttl_counts_within_bounds() {
        let check = |ttls: &[u32], expected: Duration| {
            let service = |&ttl_seconds: &u32| SrvTarget { host: "a.example.com".to_owned(), port: 27017, ttl_seconds };
            let answer = SrvAnswer { services: ttls.iter().map(service).collect(), texts: Vec::new() };
            assert_eq!(validate("c.example.com", &answer).unwrap().valid_for, expected, "{ttls:?}");
        };
        check(&[300, 120, 600], Duration::from_mins(2));
        check(&[300, 0], VALID_MIN);
        check(&[59], VALID_MIN);
        check(&[u32::MAX], VALID_MAX);
    }

    proptest! {
        #[test]
        fn every_member_is_within_the_domain_and_nothing_panics(
            name in "[a-z]{1,3}(\\.[a-z]{1,3}){0,3}",
            host in "[a-z.\\\\0-9%-]{0,20}",
            port: u16,
            text in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let services = vec![SrvTarget { host, port, ttl_seconds: 1 }];
            if let Ok(seeds) = validate(&name, &SrvAnswer { services, texts: vec![text] }) {
                let suffix = format!(".{}", domain(&name));
                prop_assert!(seeds.members.iter().all(|member| member.host.ends_with(&suffix)));
            }
        }
    }
}
