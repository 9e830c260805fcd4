//! Reads the fields of a Kubernetes document one by one, and collects all problems.
//!
//! An unknown field is a problem and is never ignored, because no part of a policy may be lost.

use std::cell::RefCell;

use super::toml_text::plain;
use crate::review::tree::Node;

/// The problems of one document.
pub(super) struct Problems {
    /// For example `document 2, AuthorizationPolicy cart in namespace shop`.
    document: String,
    problems: RefCell<Vec<String>>,
}

impl Problems {
    pub(super) fn of(document: String) -> Self {
        Self { document, problems: RefCell::default() }
    }

    pub(super) fn note(&self, path: &str, sentence: &str) {
        self.problems.borrow_mut().push(plain(&format!("{}: {path} {sentence}", self.document)));
    }

    pub(super) fn into_problems(self) -> Vec<String> {
        self.problems.into_inner()
    }
}

/// The keys and values of a table, in their order.
pub(super) type Entries<'a> = &'a [(String, Node)];

/// One table of a document, with its path.
#[derive(Clone, Copy)]
pub(super) struct DocumentFields<'a> {
    problems: &'a Problems,
    path: &'a str,
    entries: Entries<'a>,
}

impl<'a> DocumentFields<'a> {
    pub(super) fn new(problems: &'a Problems, path: &'a str, entries: Entries<'a>) -> Self {
        Self { problems, path, entries }
    }

    pub(super) fn problems(&self) -> &'a Problems {
        self.problems
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn note(&self, key: &str, sentence: &str) {
        self.problems.note(&self.path_of(key), sentence);
    }

    /// Notes a problem of the table itself.
    pub(super) fn note_here(&self, sentence: &str) {
        self.problems.note(self.path, sentence);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value of `key`; `null` counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&'a Node> {
        let value = self.entries.iter().find(|(name, _)| name == key).map(|(_, value)| value);
        value.filter(|value| **value != Node::Null)
    }

    /// Notes every key that is neither in `known` nor in `unsupported`, and those in `unsupported` with their reason.
    pub(super) fn only(&self, known: &[&str], unsupported: &[(&str, &str)]) {
        for (key, value) in self.entries {
            if known.contains(&key.as_str()) || *value == Node::Null {
                continue;
            }
            match unsupported.iter().find(|(name, _)| name == key) {
                Some((_, why)) => self.note(key, why),
                None => self.note(key, &format!("is unknown; the known keys are {}", known.join(", "))),
            }
        }
    }

    /// The string of `key`.
    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        let value = self.get(key)?;
        let text = value.text();
        if text.is_none() {
            self.note(key, &format!("is {}; it must be a string", value.kind()));
        }
        text
    }

    /// The entries of the table of `key`.
    pub(super) fn table(&self, key: &str) -> Option<Entries<'a>> {
        match self.get(key)? {
            Node::Table(entries) => Some(entries),
            other => {
                self.note(key, &format!("is {}; it must be a table", other.kind()));
                None
            }
        }
    }

    /// The tables in the list of `key`, each with its path. An empty list is a problem, as in Istio.
    pub(super) fn tables(&self, key: &str) -> Option<Vec<(String, Entries<'a>)>> {
        let list = self.list(key)?;
        let mut tables = Vec::new();
        for (at, value) in list.iter().enumerate() {
            let key = format!("{key}[{}]", at + 1);
            match value {
                Node::Table(entries) => tables.push((self.path_of(&key), entries.as_slice())),
                other => self.note(&key, &format!("is {}; it must be a table", other.kind())),
            }
        }
        Some(tables)
    }

    /// The strings in the list of `key`. An empty list and an empty string are problems, as in Istio.
    pub(super) fn texts(&self, key: &str) -> Option<Vec<&'a str>> {
        let list = self.list(key)?;
        let mut texts = Vec::new();
        for (at, value) in list.iter().enumerate() {
            match value {
                Node::Text(text) if text.is_empty() => self.note(&format!("{key}[{}]", at + 1), "is empty"),
                Node::Text(text) => texts.push(text.as_str()),
                other => {
                    let sentence = format!("is {}; it must be a string, in quotes", other.kind());
                    self.note(&format!("{key}[{}]", at + 1), &sentence);
                }
            }
        }
        Some(texts)
    }

    fn list(&self, key: &str) -> Option<&'a [Node]> {
        match self.get(key)? {
            Node::List(values) if values.is_empty() => {
                self.note(key, "is an empty list, which Istio rejects too");
                None
            }
            Node::List(values) => Some(values),
            other => {
                self.note(key, &format!("is {}; it must be a list", other.kind()));
                None
            }
        }
    }
}
