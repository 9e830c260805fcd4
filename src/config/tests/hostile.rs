//! Any file and environment gives a configuration or an error, never a panic.

use std::os::unix::ffi::OsStringExt;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::super::schema::SCHEMA;
use super::*;

/// Mostly existing keys, and others.
fn any_key() -> impl Strategy<Value = String> {
    let known: Vec<String> = SCHEMA.iter().flat_map(|(_, keys)| *keys).map(|key| (*key).to_owned()).collect();
    prop_oneof![
        6 => select(known),
        2 => select(vec!["orders".to_owned(), "\"\"".to_owned(), "\"a\\nb\"".to_owned(), "\"Ä\"".to_owned()]),
        1 => "[a-z_]{1,8}",
    ]
}

/// Values that are valid for some key, and others, as TOML.
fn any_value() -> impl Strategy<Value = String> {
    let valid = [
        "\"orders\"",
        "\"127.0.0.1:0\"",
        "\"mongo:27017\"",
        "\"unix:/run/a\"",
        "\"5s\"",
        "\"off\"",
        "\"0660\"",
        "\"1.2\"",
        "\"\"",
        "\"\\u0000\"",
        "true",
        "0",
        "-1",
        "7",
        "1.5",
        "nan",
        "-inf",
        "1979-05-27",
        "9223372036854775807",
        "[]",
    ];
    let leaf = prop_oneof![
        4 => select(valid.to_vec()).prop_map(str::to_owned),
        1 => any::<String>().prop_map(|text| serde_json::Value::from(text).to_string()),
        1 => any::<i64>().prop_map(|number| number.to_string()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let table = vec((any_key(), inner.clone()), 0..5);
        prop_oneof![
            3 => table.prop_map(|keys| format!("{{ {} }}", keys.iter().map(assignment).collect::<Vec<_>>().join(", "))),
            1 => vec(inner, 0..3).prop_map(|values| format!("[{}]", values.join(", "))),
        ]
    })
}

fn assignment((key, value): &(String, String)) -> String {
    format!("{key} = {value}")
}

fn any_variable() -> impl Strategy<Value = (OsString, OsString)> {
    let level = prop_oneof![any_key(), "[A-Za-z_.\n-]{0,6}"];
    let name = vec(level, 0..6).prop_map(|levels| OsString::from(format!("MONGATE_{}", levels.join("__"))));
    let value = prop_oneof![any_value().prop_map(OsString::from), vec(any::<u8>(), 0..9).prop_map(OsString::from_vec)];
    (name, value)
}

fn check(text: &str, environment: Vec<(OsString, OsString)>) {
    match Config::parse(text, Path::new("/etc/config.toml"), environment) {
        Ok(config) => assert!(!config.listeners.is_empty() && !config.upstreams.is_empty()),
        Err(error) => {
            let problems = if let ConfigError::Invalid { problems, .. } = &error { problems.len() } else { 0 };
            assert_eq!(error.to_string().lines().count(), problems + 1, "a heading and a line for each: {error}");
        }
    }
}

proptest! {
    #[test]
    fn any_tables_and_variables(
        values in vec((any_key(), any_value()), 0..8),
        environment in vec(any_variable(), 0..8),
    ) {
        // A duplicate key would be a TOML error.
        let values: std::collections::BTreeMap<_, _> = values.into_iter().collect();
        check(&values.into_iter().map(|pair| assignment(&pair) + "\n").collect::<String>(), environment);
    }

    #[test]
    fn any_text(text in any::<String>(), near in "([a-z.\\[\\]\"= 0-9#{},-]{0,20}\n){0,8}") {
        check(&text, Vec::new());
        check(&near, Vec::new());
    }
}

#[test]
fn deeply_nested_tables_and_variables_are_errors() {
    let depth = 10_000;
    check(&format!("upstream = {}", "[".repeat(depth)), Vec::new());
    check(&format!("upstream = {}", "{a=".repeat(depth)), Vec::new());
    check(&format!("{}a = 1", "a.".repeat(depth)), Vec::new());
    check(&format!("[{}a]", "a.".repeat(depth)), Vec::new());
    check(MINIMAL, vec![(format!("MONGATE_{}A", "A__".repeat(depth)).into(), "[".repeat(depth).into())]);
}
