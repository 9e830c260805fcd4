//! Patterns of rules (exact, `prefix*`, `*suffix` or `*`), and tables that find all matching patterns without comparing
//! each.
//!
//! Compares bytes; case matters.

use foldhash::HashMap;

use crate::config::Values;

/// One pattern of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Pattern {
    /// `*`: every text.
    Any,
    /// The whole text.
    Exact(Box<str>),
    /// `prefix*`; the prefix is not empty.
    Prefix(Box<str>),
    /// `*suffix`; the suffix is not empty.
    Suffix(Box<str>),
}

impl Pattern {
    /// The configuration ensures that `text` has a `*` only at its beginning or its end.
    pub(super) fn new(text: &str) -> Self {
        match (text.strip_suffix('*'), text.strip_prefix('*')) {
            (Some(""), _) => Self::Any,
            (Some(prefix), _) => Self::Prefix(prefix.into()),
            (None, Some(suffix)) => Self::Suffix(suffix.into()),
            (None, None) => Self::Exact(text.into()),
        }
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => **exact == *text,
            Self::Prefix(prefix) => text.starts_with(&**prefix),
            Self::Suffix(suffix) => text.ends_with(&**suffix),
        }
    }

    /// Whether this pattern matches every text that `other` matches.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (_, Self::Exact(text)) => self.matches(text),
            (Self::Prefix(prefix), Self::Prefix(longer)) => longer.starts_with(&**prefix),
            (Self::Suffix(suffix), Self::Suffix(longer)) => longer.ends_with(&**suffix),
            _ => false,
        }
    }

    /// Whether it is certain that no text matches both patterns.
    pub(super) fn is_disjoint(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(text), _) => !other.matches(text),
            (_, Self::Exact(text)) => !self.matches(text),
            (Self::Prefix(_), Self::Prefix(_)) | (Self::Suffix(_), Self::Suffix(_)) => {
                !self.covers(other) && !other.covers(self)
            }
            _ => false,
        }
    }
}

/// The values of a key and of its `not_` key.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    /// Sorted, without duplicates; `None` if the key is absent.
    pub(super) any: Option<Box<[Pattern]>>,
    /// Sorted, without duplicates.
    pub(super) not: Box<[Pattern]>,
    /// The patterns of `not`, for lookups.
    not_table: Table<()>,
}

impl Patterns {
    pub(super) fn new(values: &Values) -> Self {
        let any = values.any.as_deref().map(patterns);
        let not = patterns(values.not.as_deref().unwrap_or_default());
        let mut not_table = Table::default();
        for pattern in &not {
            not_table.slot(pattern);
        }
        Self { any, not, not_table }
    }

    /// Whether the key and its `not_` key match a fact. A fact that is missing (`None`) has no value: it does not match
    /// a key, and a `not_` key does not exclude it.
    pub(super) fn match_fact(&self, text: Option<&str>) -> bool {
        let Some(text) = text else { return self.any.is_none() };
        self.any.as_ref().is_none_or(|any| any.iter().any(|pattern| pattern.matches(text))) && !self.exclude(text)
    }

    /// Whether the `not_` key excludes `text`.
    pub(super) fn exclude(&self, text: &str) -> bool {
        !self.not.is_empty() && self.not_table.has(text)
    }

    /// Whether neither the key nor its `not_` key limits anything.
    pub(super) fn is_blank(&self) -> bool {
        self.any.is_none() && self.not.is_empty()
    }

    /// Whether the key is absent or matches everything; ignores its `not_` key.
    pub(super) fn match_all(&self) -> bool {
        self.any.as_ref().is_none_or(|any| any.contains(&Pattern::Any))
    }

    /// Whether the `not_` key excludes everything.
    pub(super) fn exclude_all(&self) -> bool {
        self.not.contains(&Pattern::Any)
    }

    /// Whether the key is present and has no values.
    pub(super) fn is_empty(&self) -> bool {
        self.any.as_ref().is_some_and(|any| any.is_empty())
    }
}

fn patterns(texts: &[String]) -> Box<[Pattern]> {
    let mut patterns: Vec<Pattern> = texts.iter().map(|text| Pattern::new(text)).collect();
    patterns.sort_unstable();
    patterns.dedup();
    patterns.into()
}

/// A map from patterns to values.
///
/// A lookup takes one step, plus one for each distinct length of prefixes and of suffixes. It does not depend on the
/// number of patterns. Clients choose the texts of lookups, but only the operator adds patterns. Clients cannot cause
/// collisions, so a cheap hash is sufficient.
#[derive(Debug)]
pub(super) struct Table<T> {
    any: Option<T>,
    exact: HashMap<Box<str>, T>,
    prefixes: ByLength<T>,
    suffixes: ByLength<T>,
}

/// Prefixes or suffixes, and their lengths.
#[derive(Debug)]
struct ByLength<T> {
    /// The distinct lengths in bytes, in ascending order.
    lengths: Vec<usize>,
    parts: HashMap<Box<str>, T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { any: None, exact: HashMap::default(), prefixes: ByLength::default(), suffixes: ByLength::default() }
    }
}

impl<T> Default for ByLength<T> {
    fn default() -> Self {
        Self { lengths: Vec::new(), parts: HashMap::default() }
    }
}

impl<T: Default> Table<T> {
    /// The value for `pattern`, inserted if there is none.
    pub(super) fn slot(&mut self, pattern: &Pattern) -> &mut T {
        match pattern {
            Pattern::Any => self.any.get_or_insert_default(),
            Pattern::Exact(text) => self.exact.entry(text.clone()).or_default(),
            Pattern::Prefix(text) => self.prefixes.slot(text),
            Pattern::Suffix(text) => self.suffixes.slot(text),
        }
    }
}

impl<T: Default> ByLength<T> {
    fn slot(&mut self, text: &str) -> &mut T {
        if let Err(at) = self.lengths.binary_search(&text.len()) {
            self.lengths.insert(at, text.len());
        }
        self.parts.entry(text.into()).or_default()
    }
}

impl<T> Table<T> {
    /// Calls `see` with every value whose pattern matches `text`.
    pub(super) fn visit<'a>(&'a self, text: &str, mut see: impl FnMut(&'a T)) {
        self.any.iter().for_each(&mut see);
        self.exact.get(text).into_iter().for_each(&mut see);
        // A part that ends inside a character cannot be a pattern.
        for &length in self.prefixes.lengths.iter().take_while(|length| **length <= text.len()) {
            let part = text.get(..length);
            part.and_then(|part| self.prefixes.parts.get(part)).into_iter().for_each(&mut see);
        }
        for &length in self.suffixes.lengths.iter().take_while(|length| **length <= text.len()) {
            let part = text.get(text.len() - length..);
            part.and_then(|part| self.suffixes.parts.get(part)).into_iter().for_each(&mut see);
        }
    }

    /// Whether any pattern matches `text`.
    pub(super) fn has(&self, text: &str) -> bool {
        let mut found = false;
        self.visit(text, |_| found = true);
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_pattern() -> impl Strategy<Value = String> {
        prop_oneof!["[aäb]{1,3}", "[aäb]{1,3}\\*", "\\*[aäb]{1,3}", "\\*"]
    }

    fn matches(pattern: &str, text: &str) -> bool {
        if pattern == "*" {
            return true;
        }
        let (bytes, text) = (pattern.as_bytes(), text.as_bytes());
        match (bytes.first(), bytes.last()) {
            (_, Some(b'*')) => text.starts_with(&bytes[..bytes.len() - 1]),
            (Some(b'*'), _) => text.ends_with(&bytes[1..]),
            _ => text == bytes,
        }
    }

    proptest! {
        #[test]
        fn a_table_finds_what_a_comparison_of_each_pattern_finds(
            texts in proptest::collection::vec(any_pattern(), 0..12),
            text in "[aäb]{0,5}",
        ) {
            let mut table = Table::<Vec<usize>>::default();
            for (at, text) in texts.iter().enumerate() {
                table.slot(&Pattern::new(text)).push(at);
            }
            let mut found = Vec::<usize>::new();
            table.visit(&text, |values| found.extend_from_slice(values));
            found.sort_unstable();
            let expected: Vec<usize> = (0..texts.len()).filter(|at| matches(&texts[*at], &text)).collect();
            prop_assert_eq!(&found, &expected);
            prop_assert_eq!(table.has(&text), !expected.is_empty());
        }

        #[test]
        fn relations_of_two_patterns_hold_for_every_text(
            a in any_pattern(), b in any_pattern(), text in "[aäb]{0,4}",
        ) {
            let (first, second) = (Pattern::new(&a), Pattern::new(&b));
            if first.covers(&second) && matches(&b, &text) {
                prop_assert!(matches(&a, &text));
            }
            if first.is_disjoint(&second) {
                prop_assert!(!matches(&a, &text) || !matches(&b, &text));
            }
        }
    }
}
