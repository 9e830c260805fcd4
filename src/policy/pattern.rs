//! Values of rules: exact, `prefix*`, `*suffix`, or `*`; and tables that find all that fit a text without trying each.
//!
//! Bytes are compared, case counts. Nothing is known here of what the texts are.

use foldhash::HashMap;

use crate::config::Values;

/// One value as the operator wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Pattern {
    /// `*`: whatever is there.
    Any,
    /// The whole text.
    Exact(Box<str>),
    /// `prefix*`; not empty.
    Prefix(Box<str>),
    /// `*suffix`; not empty.
    Suffix(Box<str>),
}

impl Pattern {
    /// The configuration has seen to it that a `*` stands nowhere else.
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

    /// Whether all that `other` matches is matched by this.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (_, Self::Exact(text)) => self.matches(text),
            (Self::Prefix(prefix), Self::Prefix(longer)) => longer.starts_with(&**prefix),
            (Self::Suffix(suffix), Self::Suffix(longer)) => longer.ends_with(&**suffix),
            _ => false,
        }
    }

    /// Whether certainly no text matches both.
    pub(super) fn excludes(&self, other: &Self) -> bool {
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

/// A key and its `not_`.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    /// Sorted, none twice; `None` where the key is absent.
    pub(super) any: Option<Box<[Pattern]>>,
    /// Sorted, none twice.
    pub(super) not: Box<[Pattern]>,
    /// The same, for looking up.
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

    /// Whether the key takes `text`; `None` is a fact that is not there, which has no value: it is none of those that a
    /// key asks for, and none of those that its `not_` takes away.
    pub(super) fn take(&self, text: Option<&str>) -> bool {
        let Some(text) = text else { return self.any.is_none() };
        self.any.as_ref().is_none_or(|any| any.iter().any(|pattern| pattern.matches(text))) && !self.take_away(text)
    }

    /// Whether the `not_` takes `text` away.
    pub(super) fn take_away(&self, text: &str) -> bool {
        !self.not.is_empty() && self.not_table.has(text)
    }

    /// Whether the key is absent or takes everything; its `not_` is not asked.
    pub(super) fn ask_for_all(&self) -> bool {
        self.any.as_ref().is_none_or(|any| any.contains(&Pattern::Any))
    }

    /// Whether its `not_` leaves nothing.
    pub(super) fn leave_nothing(&self) -> bool {
        self.not.contains(&Pattern::Any)
    }

    /// Whether the key is there and has no value.
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

/// Values by the patterns that they stand under.
///
/// Looking a text up costs one step, and one for every length that prefixes have and that suffixes have; how many
/// patterns there are does not matter. What is looked up comes from clients, what stands here from the operator alone: nobody
/// can fill it with texts that collide, so that the hash may be a cheap one.
#[derive(Debug)]
pub(super) struct Table<T> {
    any: Option<T>,
    exact: HashMap<Box<str>, T>,
    prefixes: ByLength<T>,
    suffixes: ByLength<T>,
}

/// Parts of texts, with the lengths that there are.
#[derive(Debug)]
struct ByLength<T> {
    /// In bytes, from short to long, none twice.
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
    /// The value under `pattern`, made where there is none.
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
    /// Every value whose pattern matches `text`.
    pub(super) fn visit<'a>(&'a self, text: &str, mut see: impl FnMut(&'a T)) {
        self.any.iter().for_each(&mut see);
        self.exact.get(text).into_iter().for_each(&mut see);
        // A part that ends inside of a character is no beginning of the text that a pattern could be.
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
        fn a_table_finds_what_trying_each_finds(
            texts in proptest::collection::vec(any_pattern(), 0..12),
            asked in "[aäb]{0,5}",
        ) {
            let mut table = Table::<Vec<usize>>::default();
            for (at, text) in texts.iter().enumerate() {
                table.slot(&Pattern::new(text)).push(at);
            }
            let mut found = Vec::<usize>::new();
            table.visit(&asked, |under| found.extend_from_slice(under));
            found.sort_unstable();
            let expected: Vec<usize> = (0..texts.len()).filter(|at| matches(&texts[*at], &asked)).collect();
            prop_assert_eq!(&found, &expected);
            prop_assert_eq!(table.has(&asked), !expected.is_empty());
        }

        #[test]
        fn what_is_said_of_two_patterns_is_true_of_every_text(
            a in any_pattern(), b in any_pattern(), asked in "[aäb]{0,4}",
        ) {
            let (first, second) = (Pattern::new(&a), Pattern::new(&b));
            if first.covers(&second) && matches(&b, &asked) {
                prop_assert!(matches(&a, &asked));
            }
            if first.excludes(&second) {
                prop_assert!(!matches(&a, &asked) || !matches(&b, &asked));
            }
        }
    }
}
