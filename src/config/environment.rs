//! Environment variables as configuration: `MONGATE_UPSTREAM__ORDERS__ADDRESS` sets `upstream.orders.address`.
//!
//! Values stay strings. figment's own provider would guess types, and convert `0660` to the number 660. A variable with
//! an unknown key is a problem, as it is in the file, unless Kubernetes or the tests have set it.

use std::collections::BTreeMap;
use std::ffi::OsString;

use figment::Metadata;
use figment::Profile;
use figment::Provider;
use figment::value::Dict;
use figment::value::Map;
use figment::value::Value;

use super::error::ConfigProblem;
use super::error::Origin;
use super::error::joined;
use super::error::shortened;
use super::schema::SCHEMA;
use super::schema::is_repeated;
use super::schema::nearest;

const PREFIX: &str = "MONGATE_";

/// One variable that sets one key.
pub(super) struct Variable {
    /// Name in the environment.
    name: String,
    /// Path of the key: `["upstream", "orders", "address"]`.
    path: Vec<String>,
    text: String,
}

impl Provider for Variable {
    fn metadata(&self) -> Metadata {
        Metadata::from("environment variable", self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let leaf = Value::from(self.text.clone());
        let nested = self.path.iter().rfold(leaf, |value, key| Value::from(Map::from([(key.clone(), value)])));
        Ok(Profile::Default.collect(nested.into_dict().unwrap_or_default()))
    }
}

/// The variables that set keys, sorted by key, and the problems of the other variables with the prefix `MONGATE_`.
pub(super) fn variables(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> (Vec<Variable>, Vec<ConfigProblem>) {
    let mut found = BTreeMap::new();
    let mut problems = Vec::new();
    for (name, text) in environment {
        let name = name.to_string_lossy().into_owned();
        if !is_ours(&name, &text.to_string_lossy()) {
            continue;
        }
        match variable(&name, text).map(|variable| found.insert(variable.path.clone(), variable)) {
            Ok(None) => {}
            Ok(Some(other)) => {
                let other = Origin::Variable(other.name);
                problems.push(problem(&name, format!("is also set by {other}; remove one of them")));
            }
            Err(sentence) => problems.push(problem(&name, sentence)),
        }
    }
    problems.sort_by(|a, b| a.key.cmp(&b.key));
    (found.into_values().collect(), problems)
}

/// Whether the variable is meant for the configuration. Variables of Kubernetes and of the tests are ignored.
fn is_ours(name: &str, text: &str) -> bool {
    let Some(rest) = strip_prefix(name) else { return false };
    !rest.starts_with("TEST_") && !is_from_kubernetes(rest, text)
}

/// Kubernetes sets variables for every Service in every pod of the namespace, also for a Service `mongate` or
/// `mongate-…`.
fn is_from_kubernetes(rest: &str, text: &str) -> bool {
    let rest = format!("_{rest}");
    if rest.contains("__") {
        return false;
    }
    let of_the_service_itself = rest == "_PORT" || rest.starts_with("_PORT_");
    let link = rest.ends_with("_PORT") && text.contains("://");
    let part_of_link =
        rest.split_once("_PORT_").is_some_and(|(_, port)| port.starts_with(|c: char| c.is_ascii_digit()));
    of_the_service_itself
        || link
        || part_of_link
        || rest.ends_with("_SERVICE_HOST")
        || rest.ends_with("_SERVICE_PORT")
        || rest.contains("_SERVICE_PORT_")
}

/// The name without the prefix. Case is ignored, so that `mongate_workers` is not silently ignored.
fn strip_prefix(name: &str) -> Option<&str> {
    let (prefix, rest) = name.split_at_checked(PREFIX.len())?;
    prefix.eq_ignore_ascii_case(PREFIX).then_some(rest)
}

fn path_of(name: &str) -> Vec<String> {
    strip_prefix(name).unwrap_or(name).split("__").map(str::to_ascii_lowercase).collect()
}

fn problem(name: &str, sentence: String) -> ConfigProblem {
    let key = path_of(name).iter().fold(String::new(), |table, key| joined(&table, key));
    ConfigProblem { key, value: None, origin: Origin::Variable(name.to_owned()), sentence }
}

fn variable(name: &str, text: OsString) -> Result<Variable, String> {
    let path = path_of(name);
    if is_table(&path) {
        return Err(format!("is a table; set its keys individually, as in {}", example_in(&path)));
    }
    if !is_key(&path) {
        return Err(format!("is not a known key; {}", remedy_for_unknown(name, &path)));
    }
    let text = text.into_string().map_err(|_| "is not UTF-8".to_owned())?;
    Ok(Variable { name: name.to_owned(), path, text })
}

fn is_key(path: &[String]) -> bool {
    let Some((key, table)) = path.split_last() else { return false };
    SCHEMA.iter().any(|(pattern, keys)| matches(pattern, table) && keys.contains(&key.as_str()))
}

/// Whether `path` is a table or a parent of one: `upstream`, `upstream.orders`, `upstream.orders.tls`.
fn is_table(path: &[String]) -> bool {
    let levels = |pattern: &str| pattern.split('.').take(path.len()).collect::<Vec<_>>().join(".");
    SCHEMA.iter().any(|(pattern, _)| matches(&levels(pattern), path))
}

fn matches(pattern: &str, table: &[String]) -> bool {
    let mut levels = pattern.split('.').filter(|level| !level.is_empty());
    let all = table.iter().all(|name| levels.next().is_some_and(|level| level == name || level == "NAME"));
    all && levels.next().is_none()
}

/// The variable names of all keys, with the second level of `path` in place of `NAME`.
fn names_near(path: &[String]) -> Vec<String> {
    let name = path.get(1).map_or("NAME", String::as_str);
    let tables = SCHEMA.iter().filter(|(table, _)| !is_repeated(table));
    let keys = tables.flat_map(|(table, keys)| keys.iter().map(move |key| joined(table, key)));
    let keys = keys.filter(|key| !is_table(&key.split('.').map(str::to_owned).collect::<Vec<_>>()));
    keys.map(|key| key.replace("NAME", name).replace('.', "__").to_ascii_uppercase()).collect()
}

fn example_in(path: &[String]) -> String {
    let start = path.join("__").to_ascii_uppercase() + "__";
    let names = names_near(path);
    let example = names.iter().find(|name| name.starts_with(&start)).map_or("LOG__LEVEL", String::as_str);
    format!("{PREFIX}{}", shortened(example))
}

fn remedy_for_unknown(name: &str, path: &[String]) -> String {
    let names = names_near(path);
    let rest = strip_prefix(name).unwrap_or(name).to_ascii_uppercase();
    match nearest(&rest, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {PREFIX}{}?", shortened(near)),
        None => format!("two underscores separate the levels of a key, as in {PREFIX}UPSTREAM__ORDERS__ADDRESS"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn sort(environment: &[(&str, &str)]) -> (Vec<Vec<String>>, Vec<String>) {
        let environment = environment.iter().map(|(name, text)| (OsString::from(name), OsString::from(text)));
        let (variables, problems) = variables(environment);
        let paths = variables.into_iter().map(|variable| variable.path).collect();
        (paths, problems.iter().map(ConfigProblem::to_string).collect())
    }

    #[test]
    fn variables_of_kubernetes_and_of_the_tests_are_ignored() {
        let check = |name: &str, text: &str, ignored: bool| {
            assert_eq!(sort(&[(name, text)]).1.is_empty(), ignored, "{name}={text}");
        };
        check("PATH", "/bin", true);
        check("MONGAT", "", true);
        check("MONGATÉ_WORKERS", "", true);
        check("MONGATE_TEST_MONGOD", "/usr/bin/mongod", true);
        check("MONGATE_SERVICE_HOST", "10.0.0.1", true);
        check("MONGATE_SERVICE_PORT", "27017", true);
        check("MONGATE_SERVICE_PORT_MONGODB", "27017", true);
        check("MONGATE_PORT", "tcp://10.0.0.1:27017", true);
        check("MONGATE_PORT_27017_TCP", "tcp://10.0.0.1:27017", true);
        check("MONGATE_PORT_27017_TCP_ADDR", "10.0.0.1", true);
        check("MONGATE_ADMIN_SERVICE_HOST", "10.0.0.1", true);
        check("MONGATE_ADMIN_PORT", "tcp://10.0.0.1:9717", true);
        check("MONGATE_ADMIN_PORT_9717_TCP_PROTO", "tcp", true);
        // These are meant to set a key.
        check("MONGATE_ADMIN_PORT", "9717", false);
        check("MONGATE_ADMIN__PORT", "tcp://10.0.0.1:9717", false);
        check("MONGATE_", "", false);
        check("mongate_worker", "4", false);
    }

    #[test]
    fn a_variable_with_an_unknown_key_is_a_problem_with_a_suggestion() {
        let check = |name: &str, expected: &str| {
            let (paths, problems) = sort(&[(name, "x")]);
            assert_eq!((paths.len(), problems.len()), (0, 1), "{name}");
            assert!(problems[0].contains(expected), "{:?} does not contain {expected:?}", problems[0]);
        };
        check("MONGATE_WORKRES", "did you mean MONGATE_WORKERS?");
        check("MONGATE_LOG_LEVEL", "did you mean MONGATE_LOG__LEVEL?");
        check("MONGATE_LOG__LEVEL__X", "did you mean MONGATE_LOG__LEVEL?");
        check("MONGATE_UPSTREAM_ORDERS_ADDRESS", "did you mean MONGATE_UPSTREAM__NAME__ADDRESS?");
        check("MONGATE_UPSTREAM__ORDERS__TLS__CAFILE", "did you mean MONGATE_UPSTREAM__ORDERS__TLS__CA_FILE?");
        check("MONGATE_QQQ", "two underscores separate the levels");
        check("MONGATE_LOG", "is a table; set its keys individually, as in MONGATE_LOG__FORMAT");
        check("MONGATE_UPSTREAM__ORDERS", "as in MONGATE_UPSTREAM__ORDERS__ADDRESS");
        check("MONGATE_UPSTREAM__ORDERS__TLS", "as in MONGATE_UPSTREAM__ORDERS__TLS__CERTIFICATE_FILE");
    }

    #[test]
    fn a_key_that_two_variables_set_is_a_problem() {
        let (_, problems) = sort(&[("MONGATE_WORKERS", "1"), ("mongate_workers", "2")]);
        let expected = "workers (environment variable mongate_workers): is also set by environment variable \
                        MONGATE_WORKERS; remove one of them";
        assert_eq!(problems, [expected]);
    }

    #[test]
    fn a_value_that_is_not_utf_8_is_a_problem() {
        let (_, problems) = variables([("MONGATE_WORKERS".into(), OsString::from_vec(vec![0xff]))]);
        assert_eq!(problems[0].sentence, "is not UTF-8");
    }
}
