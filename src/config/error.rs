//! Errors of the configuration, with a remedy for the operator.
//!
//! An error repeats the wrong value, so that it can be found, unless it may be a secret.

use std::fmt;
use std::path::Path;
use std::path::PathBuf;

use figment::value::Value;

/// Why a configuration cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is no configuration file.
    #[error("no configuration file at {}; choose another file with --config FILE", listed(.looked_for))]
    NotFound {
        /// The paths that were tried, in their order.
        looked_for: Vec<PathBuf>,
    },
    /// The file exists but cannot be read as text.
    #[error("cannot read the configuration file {}: {reason}", .file.display())]
    Unreadable {
        /// Path of the file.
        file: PathBuf,
        /// Error of the system.
        reason: String,
    },
    /// The file is not valid TOML. Nothing in it was checked.
    #[error(
        "{}, line {line}, column {column}: {sentence} (the file must be TOML; strings and durations need quotes)",
        .file.display()
    )]
    Syntax {
        /// Path of the file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// Error of the TOML parser.
        sentence: String,
    },
    /// Keys or values in the file or in the environment are invalid.
    #[error("{}", numbered(.file, .problems))]
    Invalid {
        /// Path of the file.
        file: PathBuf,
        /// All problems, at least one.
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

/// One problem of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// Path of the key, for example `upstream.orders.tls.verify`.
    pub key: String,
    /// The given value, shortened. `None` if there is no value, or if it is not shown.
    pub value: Option<String>,
    /// Where the value comes from.
    pub origin: Origin,
    /// What is wrong, what is allowed, and what to do. It continues a sentence that begins with the key.
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
            // The heading of the list of problems has the whole path.
            Self::File(file) => write!(f, "{}", file.file_name().unwrap_or(file.as_os_str()).display()),
            Self::Variable(name) => write!(f, "environment variable {}", shortened(name)),
        }
    }
}

/// Appends a key to the path of its table. A key that needs quotes in TOML is quoted.
pub(super) fn joined(table: &str, key: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let key =
        if !key.is_empty() && key.len() <= SHOWN_MAX && key.bytes().all(bare) { key.to_owned() } else { quoted(key) };
    if table.is_empty() { key } else { format!("{table}.{key}") }
}

/// A text from the configuration, shortened, escaped and in quotes.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", shortened(text))
}

/// The value as in TOML, on one line, without text that may be a secret.
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
        Value::Dict(..) if datetime_text(value).is_some() => datetime_text(value).unwrap_or_default().to_owned(),
        Value::Dict(..) => "{ a table }".to_owned(),
        Value::Array(..) => "[ an array ]".to_owned(),
        Value::Empty(..) => "nothing".to_owned(),
    }
}

/// The text of a TOML date or time, which figment represents as a table with one key.
pub(super) fn datetime_text(value: &Value) -> Option<&str> {
    let Value::Dict(_, table) = value else { return None };
    table.get("$__toml_private_datetime").and_then(Value::as_str)
}

/// Removes passwords, which are in connection strings and before an `@`, and PEM text that was given as a file name.
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

/// Characters of a value that are shown; usual paths are shorter.
const SHOWN_MAX: usize = 120;

/// The text shortened and escaped on one line, for use between quotes.
pub(super) fn shortened(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    // The Debug output of `str` does not escape apostrophes. The caller adds the quotes.
    let quoted = format!("{shown:?}");
    quoted[1..quoted.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_shown_as_in_toml() {
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
    fn a_value_that_may_be_a_secret_is_not_shown() {
        let check = |text: &str, expected: &str| assert_eq!(shown(&text.into()), expected);
        check("mongodb://user:secret@mongo:27017/?password=secret", "\"mongodb://…\"");
        check("user:secret@mongo:27017", "\"…@mongo:27017\"");
        check("-----BEGIN PRIVATE KEY-----\nsecret", "\"…\"");
    }

    #[test]
    fn a_key_that_needs_quotes_is_quoted() {
        assert_eq!(joined("", "upstream"), "upstream");
        assert_eq!(joined("upstream", "my-orders_1"), "upstream.my-orders_1");
        assert_eq!(joined("upstream", "a.b"), "upstream.\"a.b\"");
        assert_eq!(joined("upstream", ""), "upstream.\"\"");
    }
}
