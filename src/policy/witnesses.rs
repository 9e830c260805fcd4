//! A finite set of texts that stands for all texts: rules that match none of its texts match no text at all.

use std::collections::BTreeSet;

use super::pattern::Pattern;

/// More than this many texts are not worth an exact answer.
const WITNESSES_MAX: usize = 10_000;

/// Texts such that every text is matched by the same patterns as one of them, and has the same of the `exact` texts
/// and of the `prefixes` as that one. The exact ones come first. `None` if they are too many.
///
/// A text that no pattern names exactly is distinguished from others only by the longest prefix and the longest suffix
/// that match it. So the text that consists of both, with a character between them that no pattern has, stands for it.
pub(super) fn witnesses<'a>(
    patterns: impl Iterator<Item = &'a Pattern>,
    exact: &[&'a str],
    prefixes: &[&'a str],
) -> Option<Vec<Box<str>>> {
    let mut exact: BTreeSet<&str> = exact.iter().copied().collect();
    let mut prefixes: BTreeSet<&str> = prefixes.iter().copied().chain([""]).collect();
    let mut suffixes = BTreeSet::from([""]);
    for pattern in patterns {
        match pattern {
            Pattern::Any => {}
            Pattern::Exact(text) => drop(exact.insert(text)),
            Pattern::Prefix(text) => drop(prefixes.insert(text)),
            Pattern::Suffix(text) => drop(suffixes.insert(text)),
        }
    }
    if exact.len().saturating_add(prefixes.len().saturating_mul(suffixes.len())) > WITNESSES_MAX {
        return None;
    }
    let is_foreign = |character: &char| {
        let mut parts = exact.iter().chain(&prefixes).chain(&suffixes);
        !parts.any(|part| part.contains(*character))
    };
    // A name may have any character except NUL and a few of ASCII punctuation.
    let between = ('\u{1}'..='\u{1f}').chain('\u{80}'..=char::MAX).find(is_foreign)?;
    let made =
        prefixes.iter().flat_map(|prefix| suffixes.iter().map(move |suffix| format!("{prefix}{between}{suffix}")));
    Some(exact.iter().map(|text| Box::from(*text)).chain(made.map(String::into_boxed_str)).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_pattern() -> impl Strategy<Value = String> {
        prop_oneof!["[ab]{1,3}", "[ab]{1,3}\\*", "\\*[ab]{1,3}", "\\*"]
    }

    proptest! {
        #[test]
        fn every_text_is_matched_by_the_same_patterns_as_a_witness(
            texts in proptest::collection::vec(any_pattern(), 0..8),
            text in "[abc]{0,6}",
        ) {
            let patterns: Vec<Pattern> = texts.iter().map(|text| Pattern::new(text)).collect();
            let matching = |text: &str| patterns.iter().map(|pattern| pattern.matches(text)).collect::<Vec<_>>();
            let found = witnesses(patterns.iter(), &["cc"], &["ca"]).unwrap();
            let facts = |text: &str| (matching(text), text == "cc", text.starts_with("ca"));
            prop_assert!(found.iter().any(|witness| facts(witness) == facts(&text)), "{text:?} of {found:?}");
        }
    }

    #[test]
    fn too_many_texts_are_no_answer() {
        let parts = |star: fn(usize) -> String| (0..200).map(move |n| Pattern::new(&star(n)));
        let patterns: Vec<Pattern> = parts(|n| format!("{n}*")).chain(parts(|n| format!("*{n}"))).collect();
        assert_eq!(witnesses(patterns.iter(), &[], &[]), None);
        assert_eq!(witnesses(patterns[..200].iter(), &[], &[]).map(|texts| texts.len()), Some(201));
    }
}
