//! The intersection of two conditions.
//!
//! In Istio, `from` and `when` of a rule must both match; an entry of a rule here has each key once. The intersection
//! is exact, or an error.

use ipnet::IpNet;

use crate::config::{FromConfig, Values};

/// The intersection of both conditions, or a sentence if no entry of a rule can express it.
pub(super) fn both(first: FromConfig, second: FromConfig) -> Result<FromConfig, String> {
    Ok(FromConfig {
        principals: both_values(first.principals, second.principals)?,
        namespaces: both_values(first.namespaces, second.namespaces)?,
        sources: intersection(first.sources, second.sources, |a, b| Ok(common_networks(&a, &b)))?,
        not_sources: union(first.not_sources, second.not_sources),
        listeners: both_values(first.listeners, second.listeners)?,
    })
}

/// Whether no caller can meet the condition, because one of its keys is an empty list.
pub(super) fn is_impossible(condition: &FromConfig) -> bool {
    let nothing = |values: &Values| values.any.as_ref().is_some_and(Vec::is_empty);
    nothing(&condition.principals)
        || nothing(&condition.namespaces)
        || nothing(&condition.listeners)
        || condition.sources.as_ref().is_some_and(Vec::is_empty)
}

fn both_values(first: Values, second: Values) -> Result<Values, String> {
    Ok(Values {
        any: intersection(first.any, second.any, |a, b| common_patterns(&a, &b))?,
        not: union(first.not, second.not),
    })
}

/// Two lists that must both match: their intersection. A list that is absent has no effect.
fn intersection<T>(
    first: Option<T>,
    second: Option<T>,
    common: impl FnOnce(T, T) -> Result<T, String>,
) -> Result<Option<T>, String> {
    match (first, second) {
        (Some(first), Some(second)) => common(first, second).map(Some),
        (one, other) => Ok(one.or(other)),
    }
}

/// Two lists, neither of them may match: their union.
fn union<T>(first: Option<Vec<T>>, second: Option<Vec<T>>) -> Option<Vec<T>> {
    match (first, second) {
        (Some(first), Some(second)) => Some(first.into_iter().chain(second).collect()),
        (one, other) => one.or(other),
    }
}

/// Of two networks, one contains the other, or they are disjoint.
fn common_networks(first: &[IpNet], second: &[IpNet]) -> Vec<IpNet> {
    let pairs = first.iter().flat_map(|a| second.iter().map(move |b| (a, b)));
    let mut common: Vec<IpNet> =
        pairs.filter_map(|(a, b)| if a.contains(b) { Some(*b) } else { b.contains(a).then_some(*a) }).collect();
    common.sort_unstable();
    common.dedup();
    common
}

fn common_patterns(first: &[String], second: &[String]) -> Result<Vec<String>, String> {
    let mut common = Vec::new();
    for one in first {
        for other in second {
            common.extend(common_pattern(one, other)?.map(str::to_owned));
        }
    }
    common.sort_unstable();
    common.dedup();
    Ok(common)
}

/// The pattern for all texts that both patterns match; `None` if there are none.
fn common_pattern<'a>(one: &'a str, other: &'a str) -> Result<Option<&'a str>, String> {
    use Pattern::{Exact, Prefix, Suffix};
    let longer = || if one.len() >= other.len() { one } else { other };
    Ok(match (Pattern::of(one), Pattern::of(other)) {
        (Exact(text), pattern) => pattern.matches(text).then_some(one),
        (pattern, Exact(text)) => pattern.matches(text).then_some(other),
        // "*" is the empty prefix: the other pattern decides.
        (Prefix(""), _) => Some(other),
        (_, Prefix("")) => Some(one),
        (Prefix(a), Prefix(b)) => (a.starts_with(b) || b.starts_with(a)).then(longer),
        (Suffix(a), Suffix(b)) => (a.ends_with(b) || b.ends_with(a)).then(longer),
        (Prefix(_), Suffix(_)) | (Suffix(_), Prefix(_)) => {
            return Err(format!(
                "requires {one:?} and {other:?} at once; one value cannot have both a prefix and a suffix, so name the \
                 principals or namespaces in full"
            ));
        }
    })
}

#[derive(Clone, Copy)]
enum Pattern<'a> {
    Exact(&'a str),
    Prefix(&'a str),
    Suffix(&'a str),
}

impl<'a> Pattern<'a> {
    fn of(text: &'a str) -> Self {
        match (text.strip_suffix('*'), text.strip_prefix('*')) {
            (Some(prefix), _) => Self::Prefix(prefix),
            (None, Some(suffix)) => Self::Suffix(suffix),
            (None, None) => Self::Exact(text),
        }
    }

    fn matches(self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => text == exact,
            Self::Prefix(prefix) => text.starts_with(prefix),
            Self::Suffix(suffix) => text.ends_with(suffix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_have_an_intersection() {
        let check = |one: &str, other: &str, expected: Option<&str>| {
            assert_eq!(common_pattern(one, other), Ok(expected), "{one} {other}");
            assert_eq!(common_pattern(other, one), Ok(expected), "{other} {one}");
        };
        check("a", "a", Some("a"));
        check("a", "b", None);
        check("*", "a", Some("a"));
        check("*", "*", Some("*"));
        check("*", "a*", Some("a*"));
        check("*", "*a", Some("*a"));
        check("ab*", "abc", Some("abc"));
        check("ab*", "ac", None);
        check("ab*", "a*", Some("ab*"));
        check("ab*", "ac*", None);
        check("*bc", "*c", Some("*bc"));
        check("*bc", "abc", Some("abc"));
        check("*bc", "*ac", None);
        assert!(common_pattern("a*", "*c").is_err());
    }

    #[test]
    fn the_intersection_of_two_patterns_matches_exactly_what_both_match() {
        let texts = |longest: u32| {
            (0..=longest).flat_map(|length| {
                (0..2_u32.pow(length)).map(move |bits| {
                    (0..length).map(|at| if bits >> at & 1 == 0 { 'a' } else { 'b' }).collect::<String>()
                })
            })
        };
        let patterns: Vec<String> = texts(2)
            .flat_map(|text| [format!("{text}*"), format!("*{text}"), text])
            .filter(|p| !p.is_empty())
            .collect();
        for one in &patterns {
            for other in &patterns {
                let Ok(common) = common_pattern(one, other) else { continue };
                for text in texts(5) {
                    let both = Pattern::of(one).matches(&text) && Pattern::of(other).matches(&text);
                    assert_eq!(
                        common.is_some_and(|common| Pattern::of(common).matches(&text)),
                        both,
                        "{one} {other} {text}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_intersection_of_networks_is_the_smaller_one() {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        let check = |first: &[&str], second: &[&str], expected: &[&str]| {
            assert_eq!(common_networks(&nets(first), &nets(second)), nets(expected), "{first:?} {second:?}");
            assert_eq!(common_networks(&nets(second), &nets(first)), nets(expected), "{second:?} {first:?}");
        };
        check(&["10.0.0.0/8"], &["10.1.0.0/16", "192.168.0.0/16"], &["10.1.0.0/16"]);
        check(&["10.0.0.0/8", "10.1.0.0/16"], &["10.1.2.3/32"], &["10.1.2.3/32"]);
        check(&["10.0.0.0/8"], &["fd00::/8"], &[]);
    }
}
