//! The text form of an explanation.

use std::fmt;

use super::explain::{Decision, Explanation};
use super::trace::{ResourceTrace, RuleKey, RuleTrace};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_question(f)?;
        self.write_rules(f)?;
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        if !self.audited_by.is_empty() {
            writeln!(f, "audited by: {}", self.audited_by.join(", "))?;
        }
        let verdict = match self.decision {
            Decision::Allow => "allowed",
            Decision::Deny => "denied",
            Decision::WouldDeny => "allowed (dry run; it would be denied)",
        };
        writeln!(f, "verdict: {verdict}: {}", self.because)?;
        match (&self.errmsg, self.decision) {
            (Some(errmsg), Decision::Deny) => writeln!(f, "a client reads: {errmsg}"),
            (Some(errmsg), _) => writeln!(f, "a client would read: {errmsg}"),
            (None, _) => Ok(()),
        }
    }
}

impl Explanation {
    fn write_question(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "caller   {}", self.caller.principal.as_deref().unwrap_or("unauthenticated"))?;
        if let Some(source) = &self.caller.source {
            write!(f, ", from {source}")?;
        }
        if let Some(listener) = &self.caller.listener {
            write!(f, ", through listener {listener}")?;
        }
        write!(f, "\ncommand  ")?;
        if self.command.explained {
            f.write_str("explain of ")?;
        }
        write!(f, "{}", self.command.name.unwrap_or("(unknown)"))?;
        if let Some(class) = self.command.class {
            write!(f, " ({class})")?;
        }
        if let Some(database) = &self.command.database {
            write!(f, " on {database}")?;
        }
        if self.command.javascript {
            f.write_str(", runs JavaScript")?;
        }
        writeln!(f)?;
        let width = self.reaches.iter().map(|reach| reach.place.len()).max().unwrap_or_default();
        for (at, reach) in self.reaches.iter().enumerate() {
            let title = if at == 0 { "reaches" } else { "" };
            let decided = if reach.decided && self.reaches.len() > 1 { "  <- decides" } else { "" };
            let incidental = if reach.incidental { ", incidental: needs no allow rule" } else { "" };
            writeln!(f, "{title:<9}{:<width$}  {}{incidental}{decided}", reach.place, reach.class)?;
        }
        writeln!(f)
    }

    fn write_rules(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rules.is_empty() {
            return Ok(());
        }
        writeln!(f, "rules")?;
        let width = self.rules.iter().map(|rule| rule.name.len()).max().unwrap_or_default();
        for rule in &self.rules {
            let mut lines = self.rule_lines(rule).into_iter();
            let dry_run = if rule.dry_run { " (dry run)" } else { "" };
            writeln!(f, "  {:<5}  {:<width$}  {}{dry_run}", rule.action, rule.name, lines.next().unwrap_or_default())?;
            lines.by_ref().try_for_each(|line| writeln!(f, "  {:5}  {:width$}  {line}", "", ""))?;
            let expired = rule.excludes_caller_by == Some(RuleKey::Expires);
            if let Some(expires) = rule.expires.as_deref().filter(|_| !expired) {
                writeln!(f, "  {:5}  {:width$}  expires {expires}", "", "")?;
            }
            if let Some(reason) = &rule.reason {
                writeln!(f, "  {:5}  {:width$}  reason: {reason}", "", "")?;
            }
        }
        writeln!(f)
    }

    /// A line for each resource, or a single one if all lines are equal.
    fn rule_lines(&self, rule: &RuleTrace) -> Vec<String> {
        if let (Some(RuleKey::Expires), Some(expires)) = (rule.excludes_caller_by, &rule.expires) {
            return vec![format!("does not match: expired {expires}")];
        }
        if let Some(key) = rule.excludes_caller_by {
            return vec![format!("does not match: {}", key.of("from"))];
        }
        let line = |trace: &ResourceTrace| match trace.excluded_by {
            _ if trace.matches => "matches".to_owned(),
            Some(key) => format!("does not match: {}", key.of("to")),
            None => String::new(),
        };
        let lines: Vec<String> = rule.places.iter().map(line).collect();
        match lines.split_first() {
            Some((first, rest)) if rest.iter().all(|other| other == first) => vec![first.clone()],
            _ => self.reaches.iter().zip(&lines).map(|(reach, line)| format!("{}: {line}", reach.place)).collect(),
        }
    }
}

impl RuleKey {
    /// The path of the key in a rule, for example `from.principals`.
    fn of(self, table: &str) -> String {
        let key = match self {
            Self::Principals => "principals",
            Self::Namespaces => "namespaces",
            Self::Sources => "sources",
            Self::Listeners => "listeners",
            Self::Commands => "commands",
            Self::Databases => "databases",
            Self::Collections => "collections",
            Self::Expires => return "expires".to_owned(),
            Self::Nothing => return format!("{table} is an empty list"),
        };
        format!("{table}.{key}")
    }
}
