//! Writes rules as TOML, with comments about their origin.

use std::fmt::Write;

use crate::config::{Action, FromConfig, RuleConfig, Values};

/// One `[[policy.rule]]`. Does not write `to`, because imported rules never have it.
pub(super) fn rule(rule: &RuleConfig) -> String {
    let action = match rule.action {
        Action::Deny => "deny",
        Action::Allow => "allow",
        Action::Audit => "audit",
    };
    let mut text = format!("[[policy.rule]]\nname = {}\naction = \"{action}\"\n", quoted(&rule.name));
    if rule.dry_run {
        text.push_str("dry_run = true\n");
    }
    match rule.from.as_deref() {
        None => {}
        Some([]) => text.push_str("from = []\n"),
        Some(entries) => {
            text.push_str("from = [\n");
            for entry in entries {
                let _ = writeln!(text, "  {{ {} }},", keys(entry).join(", "));
            }
            text.push_str("]\n");
        }
    }
    text
}

/// A comment with the lines of the text. Nothing in the text can end the comment.
pub(super) fn comment(text: &str) -> String {
    let mut comment = String::new();
    for line in text.lines() {
        comment.push_str(format!("# {}", plain(line)).trim_end());
        comment.push('\n');
    }
    comment
}

/// The text with control characters escaped.
pub(super) fn plain(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn keys(entry: &FromConfig) -> Vec<String> {
    let networks = |nets: &Option<Vec<ipnet::IpNet>>| {
        nets.as_ref().map(|nets| nets.iter().map(|net| net.trunc().to_string()).collect::<Vec<_>>())
    };
    let Values { any: principals, not: not_principals } = &entry.principals;
    let Values { any: namespaces, not: not_namespaces } = &entry.namespaces;
    let keys = [
        ("principals", principals.clone()),
        ("not_principals", not_principals.clone()),
        ("namespaces", namespaces.clone()),
        ("not_namespaces", not_namespaces.clone()),
        ("sources", networks(&entry.sources)),
        ("not_sources", networks(&entry.not_sources)),
    ];
    let list = |values: Vec<String>| values.iter().map(|value| quoted(value)).collect::<Vec<_>>().join(", ");
    keys.into_iter().filter_map(|(key, values)| Some(format!("{key} = [{}]", list(values?)))).collect()
}

/// A TOML basic string.
///
/// Spec: TOML v1.0.0 § String.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            control if control.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
