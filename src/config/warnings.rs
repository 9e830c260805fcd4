//! Warnings: settings that are allowed but probably a mistake, such as a rule that the rest of the configuration makes
//! ineffective.
//!
//! Only certain cases are reported. Whether other rules make a rule ineffective is analysed by the policy.

use super::check::policy::KnownPrincipals;
use super::error::quoted;
use super::sections::Action;
use super::sections::Config;
use super::sections::FromConfig;
use super::sections::ListenerAuthentication;
use super::sections::ListenerConfig;
use super::values::ListenAddress;

/// A setting that is allowed but probably a mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Path of the key, for example `policy.rule[2].from[1].principals`.
    pub key: String,
    /// What is wrong and what to do. It continues a sentence that begins with the key.
    pub sentence: String,
}

impl Config {
    /// The warnings about everything but the policy, each with the remedy after the last semicolon.
    pub fn warnings_outside_policy(&self) -> Vec<Warning> {
        let mut warnings = self.exposures();
        warnings.extend(self.listeners.values().filter_map(|listener| self.token_warning(listener)));
        warnings
    }

    /// A listener that demands tokens, although its clients cannot become users of mongod.
    fn token_warning(&self, listener: &ListenerConfig) -> Option<Warning> {
        let authenticates = self.upstreams.get(&listener.upstream).is_some_and(|it| it.authentication.is_some());
        if listener.authentication != ListenerAuthentication::Token || authenticates {
            return None;
        }
        let upstream = quoted(&listener.upstream);
        Some(Warning {
            key: format!("listener.{}.authentication", listener.name),
            sentence: format!(
                "is \"token\", but the gateway does not authenticate to the upstream {upstream}: its clients have no \
                 MongoDB user, and can do only what mongod allows without one; add [upstream.{}.authentication]",
                listener.upstream
            ),
        })
    }

    /// Addresses that other machines can reach although they need no credentials.
    fn exposures(&self) -> Vec<Warning> {
        let admin = self.admin.address;
        if ListenAddress::Tcp(admin).is_local() {
            return Vec::new();
        }
        vec![Warning {
            key: "admin.address".to_owned(),
            sentence: format!(
                "= {admin} can be reached from other machines, and everyone who reaches it can read /status and \
                 /metrics: names of callers, members and certificates; limit who can connect to it (a NetworkPolicy or \
                 a firewall), or use a loopback address"
            ),
        }]
    }

    /// The warnings about the policy, in the order of the file.
    pub fn warnings(&self) -> Vec<Warning> {
        let Some(policy) = &self.policy else { return Vec::new() };
        let principals = KnownPrincipals::of(self.listeners.values(), &self.identities);
        let mut warnings = Vec::new();
        for (rule_at, rule) in policy.rules.iter().enumerate() {
            for (at, entry) in rule.from.iter().flatten().enumerate() {
                let path = format!("policy.rule[{}].from[{}]", rule_at + 1, at + 1);
                self.check_principals(entry, &path, &principals, &mut warnings);
                if principals == KnownPrincipals::Any {
                    self.check_aliases(rule.action, entry, &path, &mut warnings);
                }
                Self::check_namespaces(entry, &path, &principals, &mut warnings);
                self.check_listeners(entry, &path, &mut warnings);
            }
        }
        warnings
    }

    fn check_principals(&self, entry: &FromConfig, path: &str, known: &KnownPrincipals, warnings: &mut Vec<Warning>) {
        for (key, list) in [("principals", &entry.principals.any), ("not_principals", &entry.principals.not)] {
            for text in list.iter().flatten().filter(|text| !text.contains('*')) {
                if let Some(sentence) = self.principal_warning(text, known) {
                    warnings.push(Warning { key: format!("{path}.{key}"), sentence });
                }
            }
        }
    }

    /// A principal keeps the trust domain of its certificate, which may be an alias. A rule that denies a workload in
    /// one trust domain does not deny it in another.
    fn check_aliases(&self, action: Action, entry: &FromConfig, path: &str, warnings: &mut Vec<Warning>) {
        let (key, list) = match action {
            Action::Deny => ("principals", &entry.principals.any),
            Action::Allow => ("not_principals", &entry.principals.not),
            Action::Audit => return,
        };
        let domains = || self.trust_domain.iter().chain(&self.trust_domain_aliases);
        let named = || list.iter().flatten();
        for text in named().filter(|text| !text.contains('*')) {
            let Some((_, path_of_id)) =
                text.split_once('/').filter(|(domain, _)| domains().any(|accepted| accepted == domain))
            else {
                continue;
            };
            let others = domains().map(|domain| format!("{domain}/{path_of_id}"));
            let left_out =
                others.filter(|other| !named().any(|value| matches(value, other))).map(|other| quoted(&other));
            let left_out = left_out.collect::<Vec<_>>().join(", ");
            if !left_out.is_empty() {
                let sentence = format!(
                    "has {} but not {left_out}, which is the same client under trust_domain_aliases; add it, or write \
                     {}",
                    quoted(text),
                    quoted(&format!("*/{path_of_id}"))
                );
                warnings.push(Warning { key: format!("{path}.{key}"), sentence });
            }
        }
    }

    /// Only if all principals are known: a certificate can have any namespace.
    fn check_namespaces(entry: &FromConfig, path: &str, known: &KnownPrincipals, warnings: &mut Vec<Warning>) {
        let KnownPrincipals::Only(named) = known else { return };
        let has = |namespace: &str| named.iter().any(|principal| namespace_of(principal) == Some(namespace));
        for (key, list) in [("namespaces", &entry.namespaces.any), ("not_namespaces", &entry.namespaces.not)] {
            for text in list.iter().flatten().filter(|text| !text.contains('*') && !has(text)) {
                let sentence = format!(
                    "has {}, which can never match: in this configuration principals come only from [[identity]] and \
                     listeners, and none of them is in that namespace; add one, or remove it",
                    quoted(text)
                );
                warnings.push(Warning { key: format!("{path}.{key}"), sentence });
            }
        }
    }

    fn principal_warning(&self, principal: &str, known: &KnownPrincipals) -> Option<String> {
        let shown = quoted(principal);
        match known {
            KnownPrincipals::Only(named) if named.iter().any(|named| named == principal) => None,
            KnownPrincipals::Only(_) => Some(format!(
                "has {shown}, which can never match: in this configuration principals come only from [[identity]] and \
                 listeners, and none of them is this principal; add it there, or remove it"
            )),
            KnownPrincipals::Any => {
                let own = self.trust_domain.as_ref()?;
                let named = |text: &str| {
                    let by_identity = self.identities.iter().map(|identity| Some(&identity.principal));
                    let by_listener = self.listeners.values().map(|listener| listener.principal.as_ref());
                    by_identity.chain(by_listener).flatten().any(|named| named == text)
                };
                // A distinguished name has an equals sign before any slash.
                let (domain, _) = principal.split_once('/')?;
                let foreign = domain != own && !self.trust_domain_aliases.iter().any(|alias| alias == domain);
                (foreign && !domain.contains('=') && !named(principal)).then(|| {
                    format!(
                        "has {shown}, which can never match: the trust domain {} is neither trust_domain nor one of \
                         trust_domain_aliases; add it there, or correct it",
                        quoted(domain)
                    )
                })
            }
        }
    }

    fn check_listeners(&self, entry: &FromConfig, path: &str, warnings: &mut Vec<Warning>) {
        for (key, list) in [("listeners", &entry.listeners.any), ("not_listeners", &entry.listeners.not)] {
            for text in list.iter().flatten() {
                if !self.listeners.keys().any(|name| matches(text, name)) {
                    let sentence = format!("has {}, which matches no listener; correct or remove it", quoted(text));
                    warnings.push(Warning { key: format!("{path}.{key}"), sentence });
                }
            }
        }
    }
}

/// Whether a value of a rule matches `name`.
fn matches(value: &str, name: &str) -> bool {
    match (value.strip_suffix('*'), value.strip_prefix('*')) {
        (Some(prefix), _) => name.starts_with(prefix),
        (None, Some(suffix)) => name.ends_with(suffix),
        (None, None) => name == value,
    }
}

/// The namespace of a principal that is a SPIFFE ID of a Kubernetes workload.
fn namespace_of(principal: &str) -> Option<&str> {
    let mut segments = principal.split('/').skip(1);
    match (segments.next(), segments.next(), segments.next(), segments.next(), segments.next()) {
        (Some("ns"), Some(namespace), Some("sa"), Some(_), None) => Some(namespace),
        _ => None,
    }
}
