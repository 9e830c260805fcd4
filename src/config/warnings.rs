//! What is allowed and likely a mistake: rules that the rest of the configuration makes useless.
//!
//! Only what is certain is said; whether a rule is useless beside other rules is for the policy to say.

use super::check::policy::KnownPrincipals;
use super::error::quoted;
use super::sections::Action;
use super::sections::Config;
use super::sections::FromConfig;

/// Something that is allowed and likely a mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Where in the configuration: `policy.rule[2].from[1].principals`.
    pub key: String,
    /// What is doubtful, and what to do; reads on from the key.
    pub sentence: String,
}

impl Config {
    /// What is allowed and likely a mistake, in the order of the file.
    pub fn warnings(&self) -> Vec<Warning> {
        let Some(policy) = &self.policy else { return Vec::new() };
        let principals = KnownPrincipals::of(self.listeners.values(), &self.identities);
        let mut warnings = Vec::new();
        for (rule_at, rule) in policy.rules.iter().enumerate() {
            for (at, entry) in rule.from.iter().flatten().enumerate() {
                let path = format!("policy.rule[{}].from[{}]", rule_at + 1, at + 1);
                self.look_at_principals(entry, &path, &principals, &mut warnings);
                if principals == KnownPrincipals::Any {
                    self.look_at_aliases(rule.action, entry, &path, &mut warnings);
                }
                Self::look_at_namespaces(entry, &path, &principals, &mut warnings);
                self.look_at_listeners(entry, &path, &mut warnings);
            }
        }
        warnings
    }

    fn look_at_principals(&self, entry: &FromConfig, path: &str, known: &KnownPrincipals, warnings: &mut Vec<Warning>) {
        for (key, list) in [("principals", &entry.principals.any), ("not_principals", &entry.principals.not)] {
            for text in list.iter().flatten().filter(|text| !text.contains('*')) {
                if let Some(sentence) = self.doubt(text, known) {
                    warnings.push(Warning { key: format!("{path}.{key}"), sentence });
                }
            }
        }
    }

    /// A principal keeps the trust domain that it was shown with. Whom a rule is to keep away under one name of the domain
    /// is not kept away under another.
    fn look_at_aliases(&self, action: Action, entry: &FromConfig, path: &str, warnings: &mut Vec<Warning>) {
        let (key, list) = match action {
            Action::Deny => ("principals", &entry.principals.any),
            Action::Allow => ("not_principals", &entry.principals.not),
            Action::Audit => return,
        };
        let domains = || self.trust_domain.iter().chain(&self.trust_domain_aliases);
        let named = || list.iter().flatten();
        for text in named().filter(|text| !text.contains('*')) {
            let Some((_, path_of_id)) = text.split_once('/').filter(|(domain, _)| domains().any(|ours| ours == domain))
            else {
                continue;
            };
            let others = domains().map(|domain| format!("{domain}/{path_of_id}"));
            let left_out = others.filter(|other| !named().any(|value| fits(value, other))).map(|other| quoted(&other));
            let left_out = left_out.collect::<Vec<_>>().join(", ");
            if !left_out.is_empty() {
                let sentence = format!(
                    "has {}, and not {left_out}, which the same client can be by trust_domain_aliases; add that, or \
                     write {}",
                    quoted(text),
                    quoted(&format!("*/{path_of_id}"))
                );
                warnings.push(Warning { key: format!("{path}.{key}"), sentence });
            }
        }
    }

    /// Only where all principals are known; a certificate may have any namespace.
    fn look_at_namespaces(entry: &FromConfig, path: &str, known: &KnownPrincipals, warnings: &mut Vec<Warning>) {
        let KnownPrincipals::Only(named) = known else { return };
        let has = |namespace: &str| named.iter().any(|principal| namespace_of(principal) == Some(namespace));
        for (key, list) in [("namespaces", &entry.namespaces.any), ("not_namespaces", &entry.namespaces.not)] {
            for text in list.iter().flatten().filter(|text| !text.contains('*') && !has(text)) {
                let sentence = format!(
                    "has {}, which no client can be of: principals come only from [[identity]] and listeners here, and \
                     none of them is of that namespace",
                    quoted(text)
                );
                warnings.push(Warning { key: format!("{path}.{key}"), sentence });
            }
        }
    }

    fn doubt(&self, principal: &str, known: &KnownPrincipals) -> Option<String> {
        let shown = quoted(principal);
        match known {
            KnownPrincipals::Only(named) if named.iter().any(|named| named == principal) => None,
            KnownPrincipals::Only(_) => Some(format!(
                "has {shown}, whom no client can be: principals come only from [[identity]] and listeners here, and none \
                 of them is that one"
            )),
            KnownPrincipals::Any => {
                let ours = self.trust_domain.as_ref()?;
                let named = |text: &str| {
                    let by_identity = self.identities.iter().map(|identity| Some(&identity.principal));
                    let by_listener = self.listeners.values().map(|listener| listener.principal.as_ref());
                    by_identity.chain(by_listener).flatten().any(|named| named == text)
                };
                // A distinguished name has an equals sign before any slash.
                let (domain, _) = principal.split_once('/')?;
                let foreign = domain != ours && !self.trust_domain_aliases.iter().any(|alias| alias == domain);
                (foreign && !domain.contains('=') && !named(principal)).then(|| {
                    format!(
                        "has {shown}, whom no client can be: the trust domain {} is neither trust_domain nor one of \
                         trust_domain_aliases",
                        quoted(domain)
                    )
                })
            }
        }
    }

    fn look_at_listeners(&self, entry: &FromConfig, path: &str, warnings: &mut Vec<Warning>) {
        for (key, list) in [("listeners", &entry.listeners.any), ("not_listeners", &entry.listeners.not)] {
            for text in list.iter().flatten() {
                if !self.listeners.keys().any(|name| fits(text, name)) {
                    let sentence = format!("has {}, which fits the name of no listener", quoted(text));
                    warnings.push(Warning { key: format!("{path}.{key}"), sentence });
                }
            }
        }
    }
}

/// Whether a value of a rule takes `name`.
fn fits(value: &str, name: &str) -> bool {
    match (value.strip_suffix('*'), value.strip_prefix('*')) {
        (Some(prefix), _) => name.starts_with(prefix),
        (None, Some(suffix)) => name.ends_with(suffix),
        (None, None) => name == value,
    }
}

/// The namespace of a principal that is a SPIFFE id of Kubernetes.
fn namespace_of(principal: &str) -> Option<&str> {
    let mut segments = principal.split('/').skip(1);
    match (segments.next(), segments.next(), segments.next(), segments.next(), segments.next()) {
        (Some("ns"), Some(namespace), Some("sa"), Some(_), None) => Some(namespace),
        _ => None,
    }
}
