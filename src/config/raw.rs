//! Reads the merged tables key by key; a problem is noted and reading goes on, so that all are found at once.
//!
//! Knows which tables and keys there are and what a TOML value is. What a value means is not decided here.

use std::cell::RefCell;
use std::path::Path;

use figment::Figment;
use figment::Source;
use figment::value::Dict;
use figment::value::Value;

use super::error::Origin;
use super::error::Problem;
use super::error::joined;
use super::error::shown;

/// Every table and its keys; `NAME` stands for a name that the operator chose, the first entry for the top of the file.
pub(super) const SCHEMA: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "workers",
            "drain_timeout",
            "trust_domain",
            "trust_domain_aliases",
            "admin",
            "log",
            "metrics",
            "upstream",
            "listener",
            "identity",
            "policy",
        ],
    ),
    ("admin", &["address"]),
    ("log", &["format", "level"]),
    ("metrics", &["principals"]),
    (
        "upstream.NAME",
        &[
            "address",
            "members",
            "srv",
            "replica_set",
            "sharded",
            "connect_timeout",
            "tcp_keepalive",
            "warm_connections",
            "warm_connections_max",
            "certificate_recycle_after",
            "tls",
            "authentication",
            "credential",
        ],
    ),
    (
        "upstream.NAME.tls",
        &[
            "certificate_file",
            "private_key_file",
            "private_key_password_file",
            "spiffe_socket",
            "ca_file",
            "crl_file",
            "server_name",
            "verify",
            "server_identities",
            "legacy_certificates",
            "min_version",
        ],
    ),
    ("upstream.NAME.authentication", &["mechanism"]),
    (
        "[upstream.NAME.credential]",
        &["principals", "certificate_file", "private_key_file", "private_key_password_file"],
    ),
    (
        "listener.NAME",
        &[
            "address",
            "upstream",
            "topology",
            "member_ports",
            "member_addresses",
            "advertise",
            "read_preference",
            "intercept",
            "mode",
            "principal",
            "proxy_protocol",
            "proxy_trusted",
            "proxy_identity_tlv",
            "max_connections",
            "allow_remote_plaintext",
            "socket_permissions",
            "idle_timeout",
            "max_lifetime",
            "tcp_keepalive",
            "tls",
        ],
    ),
    (
        "listener.NAME.tls",
        &[
            "certificate_file",
            "private_key_file",
            "private_key_password_file",
            "ca_file",
            "crl_file",
            "legacy_certificates",
            "min_version",
        ],
    ),
    ("[identity]", &["principal", "sources", "uids"]),
    ("policy", &["enforcement", "deny_javascript", "known_commands", "rule"]),
    ("[policy.rule]", &["name", "action", "dry_run", "from", "to"]),
    (
        "[policy.rule.from]",
        &[
            "principals",
            "not_principals",
            "namespaces",
            "not_namespaces",
            "sources",
            "not_sources",
            "listeners",
            "not_listeners",
        ],
    ),
    ("[policy.rule.to]", &["commands", "not_commands", "databases", "not_databases", "collections", "not_collections"]),
];

/// Whether a table of the schema is one of many without a name, as those under `[[identity]]` are; no variable reaches
/// into them.
pub(super) fn is_repeated(table: &str) -> bool {
    table.starts_with('[')
}

/// The table `key` inside of `table`, as the schema writes repeated ones.
pub(super) fn repeated(table: &str, key: &str) -> String {
    format!("[{}]", joined(table.trim_matches(['[', ']']), key))
}

/// The candidate that `given` was most likely meant to be, if any is near.
pub(super) fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Weighs the start of a word, so that "cert_file" and "warning" are near too; below 0.85 it is guessing.
    let given = given.to_ascii_lowercase();
    let similarity = |candidate: &str| strsim::jaro_winkler(&given, &candidate.to_ascii_lowercase());
    let scored = candidates.into_iter().map(|candidate| (similarity(candidate), candidate));
    scored.filter(|(score, _)| *score >= 0.85).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate)
}

/// Collects the problems of one reading, and knows where values came from.
pub(super) struct Journal<'a> {
    figment: &'a Figment,
    file: &'a Path,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Journal<'a> {
    /// Starts with the problems that the environment had.
    pub(super) fn new(figment: &'a Figment, file: &'a Path, problems: Vec<Problem>) -> Self {
        Self { figment, file, problems: RefCell::new(problems) }
    }

    /// Table by table.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by(|a, b| a.key.cmp(&b.key));
        problems
    }

    fn note(&self, key: String, value: Option<String>, origin: Origin, sentence: String) {
        self.problems.borrow_mut().push(Problem { key, value, origin, sentence });
    }

    fn origin(&self, value: &Value) -> Origin {
        match self.figment.get_metadata(value.tag()).and_then(|metadata| metadata.source.as_ref()) {
            Some(Source::Custom(variable)) => Origin::Variable(variable.clone()),
            _ => Origin::File(self.file.to_owned()),
        }
    }

    /// A table belongs to the file if anything in it does; else to one of the variables that made it.
    fn origin_of_table(&self, table: &Dict) -> Option<Origin> {
        let origins = table.values().filter_map(|value| match value {
            Value::Dict(_, inner) => self.origin_of_table(inner),
            value => Some(self.origin(value)),
        });
        origins.reduce(|first, next| if matches!(first, Origin::File(_)) { first } else { next })
    }
}

/// One table, from which keys are taken.
pub(super) struct Section<'a> {
    journal: &'a Journal<'a>,
    /// As the operator knows it: `upstream.orders`.
    path: String,
    /// As the schema knows it: `upstream.NAME`.
    pattern: String,
    origin: Origin,
    values: Dict,
    /// Something else stands where the table should be; then nobody asks for keys in it.
    is_table: bool,
}

impl<'a> Section<'a> {
    pub(super) fn top(journal: &'a Journal<'a>, values: Dict) -> Self {
        Self::open(journal, String::new(), String::new(), values)
    }

    fn open(journal: &'a Journal<'a>, path: String, pattern: String, values: Dict) -> Self {
        let origin = journal.origin_of_table(&values).unwrap_or_else(|| Origin::File(journal.file.to_owned()));
        let section = Self { journal, path, pattern, origin, values, is_table: true };
        section.note_unknown_keys();
        section
    }

    fn note_unknown_keys(&self) {
        let known = SCHEMA.iter().find(|(table, _)| *table == self.pattern).map_or(&[][..], |(_, keys)| keys);
        for (key, value) in &self.values {
            if !known.contains(&key.as_str()) {
                // The value is not repeated: nobody knows what stands under an unknown key.
                let sentence = format!("is not a known key; {}", self.remedy_for_unknown(key, known));
                self.journal.note(joined(&self.path, key), None, self.journal.origin(value), sentence);
            }
        }
    }

    fn remedy_for_unknown(&self, key: &str, known: &[&str]) -> String {
        let place = |table: &str| match table {
            "" => "at the top, above all tables".to_owned(),
            table => format!("in [{table}]"),
        };
        let homes = SCHEMA.iter().filter(|(_, keys)| keys.contains(&key));
        let homes: Vec<String> = homes.map(|(table, _)| place(table)).collect();
        if let Some(near) = nearest(key, known.iter().copied()) {
            format!("did you mean {near}?")
        } else if !homes.is_empty() {
            format!("it belongs {}", homes.join(" or "))
        } else if self.path.is_empty() {
            format!("at the top stand {}", known.join(", "))
        } else {
            let table = if is_repeated(&self.pattern) { &self.pattern } else { &self.path };
            format!("the keys of [{table}] are {}", known.join(", "))
        }
    }

    /// The value of `key` as `read` understands it; `default` where it is absent.
    ///
    /// `read` fails with the rest of a sentence that begins with the key. Then too the default is returned: a
    /// configuration with problems is not used.
    pub(super) fn or<T>(&mut self, key: &str, default: T, read: impl FnOnce(&Given<'_>) -> Result<T, String>) -> T {
        self.optional(key, read).unwrap_or(default)
    }

    /// The value of `key`; its absence is a problem, and `what` says how to write it.
    pub(super) fn required<T>(
        &mut self,
        key: &str,
        what: &str,
        read: impl FnOnce(&Given<'_>) -> Result<T, String>,
    ) -> Option<T> {
        if self.is_table && !self.values.contains_key(key) {
            self.note_missing(key, what);
        }
        self.optional(key, read)
    }

    /// The value of `key`; `None` where it is absent or has a problem.
    pub(super) fn optional<T>(&mut self, key: &str, read: impl FnOnce(&Given<'_>) -> Result<T, String>) -> Option<T> {
        let value = self.take(key)?;
        let origin = self.journal.origin(&value);
        match read(&Given { value: &value, origin: &origin }) {
            Ok(read) => Some(read),
            Err(sentence) => {
                self.journal.note(joined(&self.path, key), Some(shown(&value)), origin, sentence);
                None
            }
        }
    }

    /// The table `key`; an empty one where it is absent or has a problem.
    pub(super) fn table(&mut self, key: &str) -> Section<'a> {
        let path = joined(&self.path, key);
        let pattern = joined(&self.pattern, key);
        let absent = !self.values.contains_key(key);
        let values = self.dict(key, &format!("must be a table, begun by a line [{path}]"));
        let is_table = self.is_table && (absent || values.is_some());
        let section = Self::open(self.journal, path, pattern, values.unwrap_or_default());
        // An absent table would be where its parent is.
        let origin = if absent { self.origin.clone() } else { section.origin.clone() };
        Self { origin, is_table, ..section }
    }

    /// What stands below `key`, where names are of the operator's choice, each as `read` understands it.
    ///
    /// `None` where there is no such key, or something is wrong with it.
    pub(super) fn pairs<T>(
        &mut self,
        key: &str,
        wrong: &str,
        mut read: impl FnMut(&str, &Given<'_>) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let values = if self.has(key) { self.dict(key, wrong)? } else { return None };
        let pair = |(name, value): (String, Value)| {
            let origin = self.journal.origin(&value);
            let read = read(&name, &Given { value: &value, origin: &origin });
            let noted = |sentence| {
                let path = joined(&joined(&self.path, key), &name);
                self.journal.note(path, Some(shown(&value)), origin.clone(), sentence);
            };
            read.map_err(noted).ok()
        };
        values.into_iter().map(pair).collect::<Vec<_>>().into_iter().collect()
    }

    /// Whether anything stands under `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Notes that `key` stands where it cannot, and takes it away.
    pub(super) fn misplaced(&mut self, key: &str, sentence: &str) {
        if let Some(value) = self.take(key) {
            let origin = self.journal.origin(&value);
            self.journal.note(joined(&self.path, key), None, origin, sentence.to_owned());
        }
    }

    /// Notes that `key` is missing.
    pub(super) fn missing(&self, key: &str, what: &str) {
        if self.is_table {
            self.note_missing(key, what);
        }
    }

    /// The tables `[[key]]`, in their order; `None` where there is no such key.
    ///
    /// What is no table is noted, with `wrong` as the sentence, and left out.
    pub(super) fn repeated_tables(&mut self, key: &str, wrong: &str) -> Option<Vec<Section<'a>>> {
        let value = self.take(key)?;
        let (path, pattern) = (joined(&self.path, key), repeated(&self.pattern, key));
        let Value::Array(_, entries) = value else {
            self.note_wrong(path, &value, wrong);
            return None;
        };
        let entry = |(index, value)| {
            // Counted from 1, as people do.
            let path = format!("{path}[{}]", index + 1);
            if let Value::Dict(_, values) = value {
                return Some(Self::open(self.journal, path, pattern.clone(), values));
            }
            self.note_wrong(path, &value, wrong);
            None
        };
        Some(entries.into_iter().enumerate().filter_map(entry).collect())
    }

    fn note_wrong(&self, path: String, value: &Value, wrong: &str) {
        self.journal.note(path, Some(shown(value)), self.journal.origin(value), wrong.to_owned());
    }

    /// Where it stands, as the operator knows it: `policy.rule[2]`.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Notes what is wrong with `key` in the light of others; its value has been read.
    pub(super) fn note(&self, key: &str, sentence: String) {
        self.journal.note(joined(&self.path, key), None, self.origin.clone(), sentence);
    }

    /// The tables below `key` by their names; that there is none is a problem.
    ///
    /// A name with a problem is noted, and its table read all the same.
    pub(super) fn named_tables(&mut self, key: &str) -> Vec<(String, Section<'a>)> {
        let wrong = format!("must be a table for each {key}, begun by a line [{key}.NAME] with a name of your choice");
        let absent = !self.values.contains_key(key);
        let values = if absent { Some(Dict::new()) } else { self.dict(key, &wrong) };
        if values.as_ref().is_some_and(Dict::is_empty) {
            self.note_missing(key, &format!("at least one {key} is needed, as a table [{key}.NAME]"));
        }
        let named = values.unwrap_or_default().into_iter();
        named.filter_map(|(name, value)| Some((name.clone(), self.named_table(key, &name, value)?))).collect()
    }

    fn named_table(&self, key: &str, name: &str, value: Value) -> Option<Section<'a>> {
        let path = joined(key, name);
        let Value::Dict(_, values) = value else {
            let sentence = format!("stands outside of a named table; begin one by a line [{key}.NAME]");
            self.journal.note(path, Some(shown(&value)), self.journal.origin(&value), sentence);
            return None;
        };
        let section = Self::open(self.journal, path, format!("{key}.NAME"), values);
        if let Err(sentence) = check_name(name) {
            self.journal.note(section.path.clone(), None, section.origin.clone(), sentence);
        }
        Some(section)
    }

    fn dict(&mut self, key: &str, wrong: &str) -> Option<Dict> {
        match self.take(key)? {
            Value::Dict(_, values) => Some(values),
            value => {
                let origin = self.journal.origin(&value);
                self.journal.note(joined(&self.path, key), Some(shown(&value)), origin, wrong.to_owned());
                None
            }
        }
    }

    fn note_missing(&self, key: &str, what: &str) {
        let hint = match self.origin {
            Origin::File(_) => "",
            Origin::Variable(_) => " (the file has no such table: is the variable's name spelt right?)",
        };
        let sentence = format!("is missing; {what}{hint}");
        self.journal.note(joined(&self.path, key), None, self.origin.clone(), sentence);
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        debug_assert!(
            SCHEMA.iter().any(|(table, keys)| *table == self.pattern && keys.contains(&key)),
            "{key} is missing from the schema of [{}]",
            self.pattern
        );
        self.values.remove(key)
    }
}

/// Upper case and double or trailing underscores could never be written in the name of an environment variable.
fn check_name(name: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    let reachable = ends(bytes.first()) && ends(bytes.last()) && !name.contains("__");
    if reachable && bytes.len() <= 64 && bytes.iter().copied().all(allowed) {
        return Ok(());
    }
    Err("has a name that cannot be used; names are of lower-case letters, digits, \"-\" and single \"_\", begin and end with \
         a letter or digit, and have at most 64 bytes (no environment variable could reach others: case is ignored there, \
         and \"__\" divides levels)"
        .to_owned())
}

/// One value as it was given.
pub(super) struct Given<'a> {
    value: &'a Value,
    origin: &'a Origin,
}

impl Given<'_> {
    /// The text; `what` says what it should be, with an example in quotes.
    pub(super) fn text(&self, what: &str) -> Result<&str, String> {
        match self.value {
            Value::String(_, text) if !text.is_empty() => Ok(text),
            Value::String(..) => Err(format!("is empty; it must be {what}")),
            _ => Err(format!("must be text in quotes: {what}")),
        }
    }

    /// A whole number from `min` to `max`.
    pub(super) fn whole_number(&self, min: usize, max: usize) -> Result<usize, String> {
        let quotes = matches!((self.value, self.origin), (Value::String(..), Origin::File(_)));
        let number = match self.value {
            Value::Num(_, number) => number.to_i128().and_then(|number| usize::try_from(number).ok()),
            // Variables are text and nothing else.
            Value::String(_, text) if !quotes => text.parse().ok(),
            _ => None,
        };
        let hint = if quotes { ", without quotes" } else { "" };
        let number = number.filter(|number| (min..=max).contains(number));
        number.ok_or_else(|| format!("must be a whole number from {min} to {max}{hint}"))
    }

    /// A list of texts, none of them empty; a variable has them with commas between.
    ///
    /// `what` says what one of them should be, with an example in quotes.
    pub(super) fn texts(&self, what: &str) -> Result<Vec<&str>, String> {
        let wrong = || format!("must be a list of texts in quotes, each {what}");
        let texts: Option<Vec<&str>> = match (self.value, self.origin) {
            (Value::Array(_, entries), _) => entries.iter().map(Value::as_str).collect(),
            (Value::String(_, text), Origin::Variable(_)) if text.is_empty() => Some(Vec::new()),
            (Value::String(_, text), Origin::Variable(_)) => Some(text.split(',').map(str::trim).collect()),
            _ => None,
        };
        texts.filter(|texts| texts.iter().all(|text| !text.is_empty())).ok_or_else(wrong)
    }

    /// A list of whole numbers that fit; a variable has them with commas between.
    pub(super) fn numbers(&self) -> Result<Vec<u32>, String> {
        let numbers: Option<Vec<u32>> = match (self.value, self.origin) {
            (Value::Array(_, entries), _) => {
                let number = |value: &Value| value.to_i128().and_then(|number| u32::try_from(number).ok());
                entries.iter().map(number).collect()
            }
            (Value::String(_, text), Origin::Variable(_)) => {
                text.split(',').map(|text| text.trim().parse().ok()).collect()
            }
            _ => None,
        };
        numbers.ok_or_else(|| format!("must be a list of whole numbers from 0 to {}, as in [1001]", u32::MAX))
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Result<bool, String> {
        match (self.value, self.origin) {
            (Value::Bool(_, value), _) => Ok(*value),
            (Value::String(_, text), Origin::Variable(_)) if text == "true" => Ok(true),
            (Value::String(_, text), Origin::Variable(_)) if text == "false" => Ok(false),
            (Value::String(..), Origin::File(_)) => Err("must be true or false, without quotes".to_owned()),
            _ => Err("must be true or false".to_owned()),
        }
    }
}
