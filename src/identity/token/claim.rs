//! Paths of claims, as in `kubernetes.io.serviceaccount.name`, and the values that they lead to.

use std::fmt;

use serde_json::{Map, Value};

/// The longest path in bytes.
const PATH_BYTES_MAX: usize = 256;

/// The claims of a token.
pub(super) type Claims = Map<String, Value>;

/// The path of a claim: names with dots between them. A name may contain dots itself, as `kubernetes.io` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPath(String);

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Found<'a> {
    Value(&'a Value),
    Nothing,
    /// Several claims have this path, because dots can be part of names. It is not decided which one is meant.
    Several,
}

impl ClaimPath {
    /// Reads a path: not empty, at most 256 bytes, without control characters, braces and empty names.
    pub fn parse(text: &str) -> Result<Self, String> {
        let has_odd = text.contains(|c: char| c.is_control() || matches!(c, '{' | '}'));
        if text.is_empty() || text.len() > PATH_BYTES_MAX || has_odd || text.split('.').any(str::is_empty) {
            return Err(format!(
                "must be the path of a claim, as in \"kubernetes.io.namespace\", of at most {PATH_BYTES_MAX} bytes"
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// The text of the configuration.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value at the path.
    pub(super) fn find<'a>(&self, claims: &'a Claims) -> Found<'a> {
        let mut found = Vec::new();
        collect(claims, &self.0, &mut found);
        match found.as_slice() {
            [] => Found::Nothing,
            [one] => Found::Value(one),
            _ => Found::Several,
        }
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Tries every split of the path into names. A path has at most 128 names and a token at most 16 levels; a member that
/// does not exist ends its branch.
fn collect<'a>(object: &'a Claims, path: &str, found: &mut Vec<&'a Value>) {
    found.extend(object.get(path));
    for (at, _) in path.match_indices('.') {
        let (name, rest) = (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default());
        if let Some(Value::Object(inner)) = object.get(name) {
            collect(inner, rest, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_with_dots_are_found_and_two_meanings_are_not_decided() {
        let claims = json!({
            "sub": "x", "kubernetes.io": { "namespace": "shop", "serviceaccount": { "name": "cart" } },
            "a": { "b": { "c": 1 }, "d": 3 }, "a.b": { "c": 2 }, "e.f": 4, "list": [1],
        });
        let Value::Object(claims) = claims else { unreachable!() };
        let find = |path: &str| match ClaimPath::parse(path).unwrap().find(&claims) {
            Found::Value(value) => value.to_string(),
            other => format!("{other:?}"),
        };
        for (path, expected) in [
            ("sub", "\"x\""),
            ("kubernetes.io.namespace", "\"shop\""),
            ("kubernetes.io.serviceaccount.name", "\"cart\""),
            ("a.d", "3"),
            ("e.f", "4"),
            ("a.b.c", "Several"),
            ("kubernetes.namespace", "Nothing"),
            ("list.0", "Nothing"),
            ("sub.x", "Nothing"),
        ] {
            assert_eq!(find(path), expected, "{path}");
        }
    }

    #[test]
    fn a_path_has_no_empty_name_and_is_bounded() {
        let long = "a".repeat(257);
        for wrong in ["", ".", "a.", ".a", "a..b", "a{b", "a\nb", &long] {
            assert!(ClaimPath::parse(wrong).is_err(), "{wrong}");
        }
        for right in ["sub", "https://example.com/roles", "a b"] {
            assert!(ClaimPath::parse(right).is_ok(), "{right}");
        }
    }

    #[test]
    fn a_long_path_costs_little_in_a_nested_token() {
        // Every prefix exists at every level: the worst case within the depth of a token.
        let mut value = json!(1);
        for _ in 0..14 {
            value = json!({ "a": value.clone(), "a.a": value });
        }
        let Value::Object(claims) = value else { unreachable!() };
        assert_eq!(ClaimPath::parse(&vec!["a"; 16].join(".")).unwrap().find(&claims), Found::Several);
    }
}
