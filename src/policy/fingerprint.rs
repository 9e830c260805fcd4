//! The fingerprint of a policy: a hash of its canonical form. Two gateways with the same fingerprint make the same
//! decisions.
//!
//! Comments, the order of values and the spelling of aliases have no effect on it. Names and the order of rules do,
//! because metrics and error messages contain them. It changes when a rule expires.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::config::{Enforcement, PolicyConfig, RuleConfig, Values};
use crate::identity::rfc3339;

use super::rule::{Rule, To};

/// Must change when the same canonical form gets another meaning.
const VERSION: &str = "mongate policy 2";

/// The fingerprint of `config`. `rules` are its compiled rules.
pub(super) fn of(config: &PolicyConfig, rules: &[Rule]) -> String {
    let mut canonical = Canonical::default();
    canonical.item("version", VERSION);
    canonical.item("enforcement", if config.enforcement == Enforcement::Enforce { "enforce" } else { "dry-run" });
    canonical.item("deny_javascript", if config.deny_javascript { "true" } else { "false" });
    for (name, word) in &config.known_commands {
        canonical.item("known", name);
        canonical.item("as", word);
    }
    for (config, rule) in config.rules.iter().zip(rules) {
        canonical.rule(config, rule);
    }
    let mut hex = String::with_capacity(64);
    for byte in canonical.hash.finalize() {
        // Writing into a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

#[derive(Default)]
struct Canonical {
    hash: Sha256,
}

impl Canonical {
    /// Hashes the length before the text, so that different lists of items never give the same bytes.
    fn item(&mut self, key: &str, text: &str) {
        for part in [key, text] {
            self.hash.update((part.len() as u64).to_be_bytes());
            self.hash.update(part);
        }
    }

    fn rule(&mut self, config: &RuleConfig, rule: &Rule) {
        self.item("rule", &rule.name);
        self.item("action", &format!("{:?}", config.action));
        self.item("dry_run", if rule.dry_run { "true" } else { "false" });
        if let Some(expires) = rule.expires {
            self.item("expires", &rfc3339(expires));
            self.item("expired", if rule.is_expired { "true" } else { "false" });
        }
        for entry in config.from.iter().flatten() {
            self.item("from", "");
            self.values("principals", &entry.principals);
            self.values("namespaces", &entry.namespaces);
            self.values("listeners", &entry.listeners);
            let networks = |networks: &[ipnet::IpNet]| networks.iter().map(ToString::to_string).collect();
            self.list("sources", entry.sources.as_deref().map(networks));
            self.list("not_sources", entry.not_sources.as_deref().map(networks));
        }
        self.item("from entries", &count(config.from.as_ref().map(Vec::len)));
        for (entry, compiled) in config.to.iter().flatten().zip(&rule.to) {
            self.item("to", "");
            self.commands(compiled);
            self.values("databases", &entry.databases);
            self.values("collections", &entry.collections);
        }
        self.item("to entries", &count(config.to.as_ref().map(Vec::len)));
    }

    fn commands(&mut self, to: &To) {
        for (key, selector) in [("commands", &to.commands), ("not_commands", &to.not_commands)] {
            let texts = selector.as_ref().map(|selector| selector.texts().into_iter().map(str::to_owned).collect());
            self.list(key, texts);
        }
    }

    fn values(&mut self, key: &str, values: &Values) {
        self.list(key, values.any.clone());
        self.list(key, values.not.clone());
    }

    fn list(&mut self, key: &str, texts: Option<Vec<String>>) {
        self.item(key, if texts.is_some() { "present" } else { "absent" });
        let mut texts = texts.unwrap_or_default();
        texts.sort_unstable();
        texts.dedup();
        for text in texts {
            self.item("", &text);
        }
    }
}

fn count(entries: Option<usize>) -> String {
    entries.map_or_else(|| "absent".to_owned(), |count| count.to_string())
}
