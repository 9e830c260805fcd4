//! Reads the merged tables key by key. A problem is recorded and reading continues, so that all problems are reported.
//!
//! Knows the tables and keys of the schema and the types of TOML values, but not the meaning of a value.

use figment::value::Dict;
use figment::value::Value;

use super::error::Origin;
use super::error::joined;
use super::error::shown;
use super::given::Given;
use super::problems::ProblemCollector;
use super::schema::SCHEMA;
use super::schema::is_repeated;
use super::schema::nearest;
use super::schema::repeated;

/// One table. Reading a key removes it.
pub(super) struct Section<'a> {
    problems: &'a ProblemCollector<'a>,
    /// Path of the table in the configuration: `upstream.orders`.
    path: String,
    /// Name of the table in the schema: `upstream.NAME`.
    pattern: String,
    origin: Origin,
    values: Dict,
    /// `false` if the configuration has another value in place of the table. Missing keys are not reported then.
    is_table: bool,
}

impl<'a> Section<'a> {
    pub(super) fn top(problems: &'a ProblemCollector<'a>, values: Dict) -> Self {
        Self::open(problems, String::new(), String::new(), values)
    }

    fn open(problems: &'a ProblemCollector<'a>, path: String, pattern: String, values: Dict) -> Self {
        let origin = problems.origin_of_table(&values).unwrap_or_else(|| Origin::File(problems.file.to_owned()));
        let section = Self { problems, path, pattern, origin, values, is_table: true };
        section.note_unknown_keys();
        section
    }

    fn note_unknown_keys(&self) {
        let known = SCHEMA.iter().find(|(table, _)| *table == self.pattern).map_or(&[][..], |(_, keys)| keys);
        for (key, value) in &self.values {
            if !known.contains(&key.as_str()) {
                // The value of an unknown key is not shown, because it may be a secret.
                let sentence = format!("is not a known key; {}", self.remedy_for_unknown(key, known));
                self.problems.note(joined(&self.path, key), None, self.problems.origin(value), sentence);
            }
        }
    }

    fn remedy_for_unknown(&self, key: &str, known: &[&str]) -> String {
        let place = |table: &str| match table {
            "" => "at the top of the file, before all tables".to_owned(),
            table => format!("in [{table}]"),
        };
        let tables = SCHEMA.iter().filter(|(_, keys)| keys.contains(&key));
        let tables: Vec<String> = tables.map(|(table, _)| place(table)).collect();
        if let Some(near) = nearest(key, known.iter().copied()) {
            format!("did you mean {near}?")
        } else if !tables.is_empty() {
            format!("it belongs {}", tables.join(" or "))
        } else if self.path.is_empty() {
            format!("the keys at the top of the file are {}", known.join(", "))
        } else {
            let table = if is_repeated(&self.pattern) { &self.pattern } else { &self.path };
            format!("the keys of [{table}] are {}", known.join(", "))
        }
    }

    /// The value of `key`, parsed by `read`; `default` if the key is absent.
    ///
    /// An error of `read` continues a sentence that begins with the key, and is recorded. The default is returned then
    /// too, because a configuration with problems is not used.
    pub(super) fn or<T>(&mut self, key: &str, default: T, read: impl FnOnce(&Given<'_>) -> Result<T, String>) -> T {
        self.optional(key, read).unwrap_or(default)
    }

    /// The value of `key`. If it is absent, a problem is recorded, and `what` tells how to set it.
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

    /// The value of `key`; `None` if it is absent or has a problem.
    pub(super) fn optional<T>(&mut self, key: &str, read: impl FnOnce(&Given<'_>) -> Result<T, String>) -> Option<T> {
        let value = self.take(key)?;
        let origin = self.problems.origin(&value);
        match read(&Given { value: &value, origin: &origin }) {
            Ok(read) => Some(read),
            Err(sentence) => {
                self.problems.note(joined(&self.path, key), Some(shown(&value)), origin, sentence);
                None
            }
        }
    }

    /// The table `key`; an empty table if it is absent or has a problem.
    pub(super) fn table(&mut self, key: &str) -> Section<'a> {
        let path = joined(&self.path, key);
        let pattern = joined(&self.pattern, key);
        let absent = !self.values.contains_key(key);
        let values = self.dict(key, &format!("must be a table that begins with the line [{path}]"));
        let is_table = self.is_table && (absent || values.is_some());
        let section = Self::open(self.problems, path, pattern, values.unwrap_or_default());
        // Problems of an absent table are reported for the origin of its parent.
        let origin = if absent { self.origin.clone() } else { section.origin.clone() };
        Self { origin, is_table, ..section }
    }

    /// The entries of the table `key`, whose names the operator chooses, each parsed by `read`.
    ///
    /// `None` if the key is absent or has a problem.
    pub(super) fn pairs<T>(
        &mut self,
        key: &str,
        wrong: &str,
        mut read: impl FnMut(&str, &Given<'_>) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let values = if self.has(key) { self.dict(key, wrong)? } else { return None };
        let pair = |(name, value): (String, Value)| {
            let origin = self.problems.origin(&value);
            let read = read(&name, &Given { value: &value, origin: &origin });
            let noted = |sentence| {
                let path = joined(&joined(&self.path, key), &name);
                self.problems.note(path, Some(shown(&value)), origin.clone(), sentence);
            };
            read.map_err(noted).ok()
        };
        values.into_iter().map(pair).collect::<Vec<_>>().into_iter().collect()
    }

    /// Whether `key` is present.
    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Records a problem if `key` is present, and removes it.
    pub(super) fn misplaced(&mut self, key: &str, sentence: &str) {
        if let Some(value) = self.take(key) {
            let origin = self.problems.origin(&value);
            self.problems.note(joined(&self.path, key), None, origin, sentence.to_owned());
        }
    }

    /// Records that `key` is missing; `what` tells how to set it.
    pub(super) fn missing(&self, key: &str, what: &str) {
        if self.is_table {
            self.note_missing(key, what);
        }
    }

    /// The tables `[[key]]` in their order; `None` if there is no such key.
    ///
    /// An entry that is not a table is recorded as a problem with the sentence `wrong`, and omitted.
    pub(super) fn repeated_tables(&mut self, key: &str, wrong: &str) -> Option<Vec<Section<'a>>> {
        let value = self.take(key)?;
        let (path, pattern) = (joined(&self.path, key), repeated(&self.pattern, key));
        let Value::Array(_, entries) = value else {
            self.note_wrong(path, &value, wrong);
            return None;
        };
        let entry = |(index, value)| {
            // Entries are counted from 1.
            let path = format!("{path}[{}]", index + 1);
            if let Value::Dict(_, values) = value {
                return Some(Self::open(self.problems, path, pattern.clone(), values));
            }
            self.note_wrong(path, &value, wrong);
            None
        };
        Some(entries.into_iter().enumerate().filter_map(entry).collect())
    }

    fn note_wrong(&self, path: String, value: &Value, wrong: &str) {
        self.problems.note(path, Some(shown(value)), self.problems.origin(value), wrong.to_owned());
    }

    /// Path of the table in the configuration, for example `policy.rule[2]`.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Records a problem of `key` in combination with other keys, after its value has been read.
    pub(super) fn note(&self, key: &str, sentence: String) {
        self.problems.note(joined(&self.path, key), None, self.origin.clone(), sentence);
    }

    /// The tables `[key.NAME]` by name. If there is none, a problem is recorded.
    ///
    /// The table of an invalid name is returned too.
    pub(super) fn named_tables(&mut self, key: &str) -> Vec<(String, Section<'a>)> {
        let wrong = format!("must be tables that begin with a line [{key}.NAME]; choose a NAME for each {key}");
        let absent = !self.values.contains_key(key);
        let values = if absent { Some(Dict::new()) } else { self.dict(key, &wrong) };
        if values.as_ref().is_some_and(Dict::is_empty) {
            self.note_missing(key, &format!("at least one {key} is required, as a table [{key}.NAME]"));
        }
        let named = values.unwrap_or_default().into_iter();
        named.filter_map(|(name, value)| Some((name.clone(), self.named_table(key, &name, value)?))).collect()
    }

    fn named_table(&self, key: &str, name: &str, value: Value) -> Option<Section<'a>> {
        let path = joined(key, name);
        let Value::Dict(_, values) = value else {
            let sentence = format!("is not in a named table; put it below a line [{key}.NAME]");
            self.problems.note(path, Some(shown(&value)), self.problems.origin(&value), sentence);
            return None;
        };
        let section = Self::open(self.problems, path, format!("{key}.NAME"), values);
        if let Err(sentence) = check_name(name) {
            self.problems.note(section.path.clone(), None, section.origin.clone(), sentence);
        }
        Some(section)
    }

    fn dict(&mut self, key: &str, wrong: &str) -> Option<Dict> {
        match self.take(key)? {
            Value::Dict(_, values) => Some(values),
            value => {
                let origin = self.problems.origin(&value);
                self.problems.note(joined(&self.path, key), Some(shown(&value)), origin, wrong.to_owned());
                None
            }
        }
    }

    fn note_missing(&self, key: &str, what: &str) {
        let hint = match self.origin {
            Origin::File(_) => "",
            Origin::Variable(_) => " (the file has no such table; check the spelling of the variable's name)",
        };
        let sentence = format!("is missing; {what}{hint}");
        self.problems.note(joined(&self.path, key), None, self.origin.clone(), sentence);
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

/// Names with upper case letters, or with double or trailing underscores, cannot be written in environment variables.
fn check_name(name: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    let reachable = ends(bytes.first()) && ends(bytes.last()) && !name.contains("__");
    if reachable && bytes.len() <= 64 && bytes.iter().copied().all(allowed) {
        return Ok(());
    }
    Err("has an invalid name; use at most 64 lower-case letters, digits, \"-\" and single \"_\", with a letter or \
         digit at both ends, so that environment variables can set its keys"
        .to_owned())
}
