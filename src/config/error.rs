//! What is wrong with a configuration, in sentences for the operator who has to put it right.
//!
//! A value is repeated so that it can be found, except where it may hold a secret.

use std::fmt;
use std::path::Path;
use std::path::PathBuf;

use figment::value::Value;

/// Why there is no configuration to start with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No file where one was looked for.
    #[error("no configuration file at {}; --config FILE names another", listed(.looked_for))]
    NotFound {
        /// Every place, in the order of looking.
        looked_for: Vec<PathBuf>,
    },
    /// The file is there and cannot be read as text.
    #[error("cannot read configuration file {}: {reason}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The system's own words.
        reason: String,
    },
    /// The file is not TOML, so nothing in it was looked at.
    #[error(
        "{}, line {line}, column {column}: {sentence} (the file must be TOML, where texts and times stand in quotes)",
        .file.display()
    )]
    Syntax {
        /// The file.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What the TOML reader says.
        sentence: String,
    },
    /// The file is TOML, and something in it or in the environment cannot be used.
    #[error("{}", numbered(.file, .problems))]
    Invalid {
        /// The file.
        file: PathBuf,
        /// All of them, at least one.
        problems: Vec<ConfigProblem>,
    },
}

fn listed(files: &[PathBuf]) -> String {
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(" or ")
}

fn numbered(file: &Path, problems: &[ConfigProblem]) -> String {
    let plural = if problems.len() == 1 { "" } else { "s" };
    let heading = format!("{} problem{plural} in the configuration {}:", problems.len(), file.display());
    std::iter::once(heading).chain(problems.iter().map(|problem| format!("\n  {problem}"))).collect()
}

/// One thing to put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// Where in the configuration: `upstream.orders.tls.verify`.
    pub key: String,
    /// What was given there, shortened; `None` where nothing was, or where it is better not repeated.
    pub value: Option<String>,
    /// Who gave it.
    pub origin: Origin,
    /// What is wrong, what is allowed, and what to do; reads on from the key.
    pub sentence: String,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        write!(f, " ({}): {}", self.origin, self.sentence)
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The configuration file.
    File(PathBuf),
    /// The environment variable of this name.
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The heading above the problems has the whole path.
            Self::File(file) => write!(f, "{}", file.file_name().unwrap_or(file.as_os_str()).display()),
            Self::Variable(name) => write!(f, "environment variable {}", shortened(name)),
        }
    }
}

/// Joins a key to the path of its table; a key that TOML takes only in quotes gets them.
pub(super) fn joined(table: &str, key: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let key =
        if !key.is_empty() && key.len() <= SHOWN_MAX && key.bytes().all(bare) { key.to_owned() } else { quoted(key) };
    if table.is_empty() { key } else { format!("{table}.{key}") }
}

/// A text of the operator's choice, safe to stand in a sentence.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", shortened(text))
}

/// The value as it would be written in the file, on one line, without what may be a secret.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("\"{}\"", without_secrets(text)),
        Value::Char(_, character) => format!("\"{}\"", character.escape_debug()),
        Value::Bool(_, value) => value.to_string(),
        Value::Num(_, number) => match (number.to_i128(), number.to_u128(), number.to_f64()) {
            (Some(number), ..) => number.to_string(),
            (_, Some(number), _) => number.to_string(),
            (.., number) => format!("{:?}", number.unwrap_or(f64::NAN)),
        },
        Value::Dict(_, table) if table.contains_key("$__toml_private_datetime") => "a date".to_owned(),
        Value::Dict(..) => "{ a table }".to_owned(),
        Value::Array(..) => "[ an array ]".to_owned(),
        Value::Empty(..) => "nothing".to_owned(),
    }
}

/// Passwords stand in connection strings, before an `@`; keys stand in PEM text that was meant to be a file name.
fn without_secrets(text: &str) -> String {
    if text.contains("-----") {
        return "…".to_owned();
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return format!("{}://…", shortened(scheme));
    }
    match text.rsplit_once('@') {
        Some((_, host)) => format!("…@{}", shortened(host)),
        None => shortened(text),
    }
}

/// Long enough for any path that is likely to be right.
const SHOWN_MAX: usize = 120;

/// On one line whatever it holds; for use between quotes.
pub(super) fn shortened(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    // As `str`'s own Debug, which leaves apostrophes alone; the caller sets the quotes.
    let quoted = format!("{shown:?}");
    quoted[1..quoted.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_shown_as_it_would_be_written() {
        let check = |value: Value, expected: &str| assert_eq!(shown(&value), expected);
        check("plain".into(), "\"plain\"");
        check("it's".into(), "\"it's\"");
        check("quo\"te\n\0".into(), "\"quo\\\"te\\n\\0\"");
        check(true.into(), "true");
        check((-1i64).into(), "-1");
        check(7u64.into(), "7");
        check(1.0f64.into(), "1.0");
        check(f64::NAN.into(), "NaN");
        check(vec![1u8].into(), "[ an array ]");
        check("x".repeat(1000).into(), &format!("\"{}…\"", "x".repeat(SHOWN_MAX)));
    }

    #[test]
    fn a_value_that_may_hold_a_secret_is_not_repeated() {
        let check = |text: &str, expected: &str| assert_eq!(shown(&text.into()), expected);
        check("mongodb://user:secret@mongo:27017/?password=secret", "\"mongodb://…\"");
        check("user:secret@mongo:27017", "\"…@mongo:27017\"");
        check("-----BEGIN PRIVATE KEY-----\nsecret", "\"…\"");
    }

    #[test]
    fn a_key_that_needs_quotes_gets_them() {
        assert_eq!(joined("", "upstream"), "upstream");
        assert_eq!(joined("upstream", "my-orders_1"), "upstream.my-orders_1");
        assert_eq!(joined("upstream", "a.b"), "upstream.\"a.b\"");
        assert_eq!(joined("upstream", ""), "upstream.\"\"");
    }
}
