//! Checks that config.toml and the documentation agree with the code.

use super::super::schema::{SCHEMA, is_repeated, repeated};
use super::*;

const FILE: &str = include_str!("../../../config.toml");
const PAGE: &str = include_str!("../../../docs/configuration.md");

/// The settings of config.toml that are required.
const REQUIRED: &str = r#"
[upstream.orders]
address = "127.0.0.1:27018"
[upstream.orders.tls]
certificate_file = "certs/out/client.pem"
ca_file = "certs/out/ca.pem"
[listener.orders]
address = "127.0.0.1:27017"
upstream = "orders"
"#;

/// config.toml with the commented keys uncommented.
fn uncommented() -> String {
    let is_key = |rest: &str| {
        let key = rest.split(" = ").next().unwrap_or_default();
        rest.contains(" = ") && SCHEMA.iter().any(|(_, keys)| keys.contains(&key))
    };
    let lines = FILE.lines().map(|line| line.strip_prefix("# ").filter(|rest| is_key(rest)).unwrap_or(line));
    lines.map(|line| line.to_owned() + "\n").collect()
}

/// config.toml with everything uncommented, except `keys`, which cannot be combined with the others.
fn with_everything_but(keys: &[&str]) -> String {
    let text = uncommented().replace("# [", "[").replace("mode = \"plaintext\"", "mode = \"strict\"");
    let is_kept = |line: &&str| !keys.iter().any(|key| line.starts_with(&format!("{key} = ")));
    text.lines().filter(is_kept).map(|line| line.to_owned() + "\n").collect()
}

/// config.toml with an upstream of one server.
fn with_everything() -> String {
    let of_sets = [
        "members",
        "srv",
        "replica_set",
        "sharded",
        "topology",
        "member_ports",
        "member_addresses",
        "advertise",
        "jwks_file",
    ];
    with_everything_but(&[&of_sets[..], &["send_proxy", "spiffe_socket", "read_preference"]].concat())
}

#[test]
fn the_file_shows_a_replica_set_in_place_of_one_server() {
    let others = ["send_proxy", "spiffe_socket", "srv", "sharded", "member_addresses", "read_preference", "jwks_file"];
    let text = with_everything_but(&others).replace("address = \"127.0.0.1:27018\"", "#");
    let config = parse(&text, &[]).unwrap();
    assert_eq!(config.upstreams["orders"].deployment.listed().len(), 2);
    let Topology::Members(members) = &config.listeners["orders"].topology else { panic!("no members") };
    assert_eq!((members.slots.len(), members.advertise.as_deref()), (7, Some("gateway.local")));

    let others = ["send_proxy", "spiffe_socket", "srv", "sharded", "member_ports", "read_preference", "jwks_file"];
    let text = with_everything_but(&others).replace("address = \"127.0.0.1:27018\"", "#");
    let Topology::Members(members) = &parse(&text, &[]).unwrap().listeners["orders"].topology.clone() else {
        panic!("no members")
    };
    assert_eq!(members.slots[0].member.as_ref().unwrap().to_string(), "mongo-0.mongo:27017");
}

/// Tables without which the configuration has other meaning than with an empty table.
const OPTIONAL: [&str; 8] = [
    "upstream.NAME.authentication",
    "[upstream.NAME.credential]",
    "listener.NAME.tls",
    "[identity]",
    "[token_issuer]",
    "[policy.rule]",
    "[policy.rule.from]",
    "[policy.rule.to]",
];

fn blocks<'a>(page: &'a str, fence: &str) -> Vec<&'a str> {
    let opened = page.split(fence).skip(1);
    opened.map(|rest| rest.split_once("```").expect("every block is closed").0).collect()
}

/// The rows of `docs/configuration.md` below the heading of `table`, as cells.
fn rows(table: &str) -> Vec<Vec<&'static str>> {
    let heading = if table.is_empty() { "## The top of the file".to_owned() } else { format!("## `[{table}]`") };
    let (_, section) = PAGE.split_once(&heading).unwrap_or_else(|| panic!("the page has no {heading}"));
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

#[test]
fn the_examples_of_the_page_on_identity_are_configurations() {
    let page = include_str!("../../../docs/identity.md");
    let upstream = REQUIRED.split_once("[listener.orders]").unwrap().0;
    let blocks = blocks(page, "```toml\n");
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        // The block begins with keys at the top of the file, so it comes first.
        parse(&format!("{block}{upstream}"), &[]).unwrap();
    }
}

#[test]
fn the_examples_of_the_page_on_users_are_configurations() {
    let blocks = blocks(include_str!("../../../docs/x509-users.md"), "```toml\n");
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        let config = parse(block, &[]).unwrap_or_else(|error| panic!("{error}\n{block}"));
        assert_eq!(config.upstreams["orders"].authentication, Some(Mechanism::MongodbX509));
    }
}

#[test]
fn the_examples_of_the_page_on_replica_sets_are_configurations() {
    let blocks = blocks(include_str!("../../../docs/replica-sets.md"), "```toml\n");
    assert_eq!(blocks.len(), 4);
    for block in blocks {
        parse(block, &[]).unwrap_or_else(|error| panic!("{error}\n{block}"));
    }
}

#[test]
fn the_examples_of_the_page_on_tokens_are_configurations() {
    let blocks = blocks(include_str!("../../../docs/tokens.md"), "```toml\n");
    assert_eq!(blocks.len(), 3);
    for block in blocks {
        let (upstream, listener) = REQUIRED.split_once("[listener.orders]").unwrap();
        let rest = if block.contains("[listener.orders]") {
            upstream.to_owned()
        } else {
            format!("{upstream}[listener.orders]{listener}")
        };
        let config = parse(&format!("{block}{rest}"), &[]).unwrap_or_else(|error| panic!("{error}\n{block}"));
        assert!(config.token_issuers.len() + config.identities.len() == 1, "{block}");
    }
}

#[test]
fn the_example_of_the_page_on_interception_is_a_configuration() {
    let blocks = blocks(include_str!("../../../docs/interception.md"), "```toml\n");
    assert_eq!(blocks.len(), 1);
    let config = parse(blocks[0], &[]).unwrap();
    assert!(config.listeners["orders"].intercept);
}

#[test]
fn the_examples_of_the_pages_on_deployment_are_configurations() {
    let pages = [
        (include_str!("../../../docs/install.md"), 3),
        (include_str!("../../../docs/istio.md"), 2),
        (include_str!("../../../docs/migrating.md"), 4),
    ];
    for (page, examples) in pages {
        let blocks = blocks(page, "```toml\n");
        assert_eq!(blocks.len(), examples);
        for block in blocks {
            parse(block, &[]).unwrap_or_else(|error| panic!("{error}\n{block}"));
        }
    }
    parse(include_str!("../../../deploy/kustomize/example/config.toml"), &[]).unwrap();
}

#[test]
fn the_file_shows_the_defaults() {
    assert_eq!(parse(FILE, &[]).unwrap(), parse(REQUIRED, &[]).unwrap());
}

#[test]
fn the_file_shows_every_key_with_one_comment() {
    let config = parse(&with_everything(), &[]).unwrap();
    assert_eq!(config.upstreams["orders"].tls.server_name.as_deref(), Some("mongo.example"));
    assert_eq!((config.identities.len(), config.listeners["orders"].tls.is_some()), (1, true));
    let rule = &config.policy.as_ref().unwrap().rules[0];
    assert_eq!((rule.from.as_ref().unwrap().len(), rule.to.as_ref().unwrap().len()), (1, 1));
    assert_eq!(config.warnings(), []);

    // Repeated tables are converted to tables at the top of the file, with a name without dots.
    let named = |table: &str| table.replace("NAME", "orders");
    let flat = |table: &str| named(table).trim_matches(['[', ']']).replace('.', "/");
    let mut text = uncommented().replace("# [[", "[[").replace("# [", "[");
    for (table, _) in SCHEMA.iter().filter(|(table, _)| is_repeated(table)) {
        text = text.replace(&format!("[{}]", named(table)), &format!("[\"{}\"]", flat(table)));
    }
    let shown = Toml::string(&text).data().unwrap().remove(&Profile::Default).unwrap();
    let shown = figment::value::Value::from(shown);
    for (table, keys) in SCHEMA {
        for key in *keys {
            let inner = repeated(table, key);
            let path = if SCHEMA.iter().any(|(table, _)| *table == inner) {
                flat(&inner)
            } else if is_repeated(table) {
                format!("{}.{key}", flat(table))
            } else {
                error::joined(&table.replace("NAME", "orders"), key)
            };
            assert!(shown.find_ref(&path).is_some(), "config.toml does not show {path}");
        }
    }
    for line in text.lines().filter(|line| line.contains(" = ")) {
        assert!(line.starts_with('#') || line.contains("  # "), "no comment: {line}");
    }
}

#[test]
fn the_page_has_every_key_under_its_table_and_no_other() {
    for (table, keys) in SCHEMA {
        let below = |key: &str| [error::joined(table, key), repeated(table, key)];
        let is_table =
            |key: &str| SCHEMA.iter().any(|(other, _)| below(key).iter().any(|below| other.starts_with(below)));
        let expected: Vec<String> = keys.iter().filter(|key| !is_table(key)).map(|key| format!("`{key}`")).collect();
        let shown: Vec<&str> = rows(table).iter().map(|row| row[0]).collect();
        assert_eq!(shown, expected, "[{table}]");
    }
}

#[test]
fn the_page_has_the_defaults() {
    let mut lines = Vec::new();
    for (table, _) in SCHEMA.iter().filter(|(table, _)| !OPTIONAL.contains(table)) {
        let named = table.replace("NAME", "orders");
        if !named.is_empty() {
            lines.push(format!("[{named}]"));
        }
        for row in rows(table) {
            let [key, _, default, _] = row[..] else { panic!("not four cells: {row:?}") };
            let key = key.trim_matches('`');
            match default.strip_prefix('`').and_then(|default| default.strip_suffix('`')) {
                Some("certificate_file") => assert_eq!(key, "private_key_file"),
                Some(value) => lines.push(format!("{key} = {value}")),
                None if default == "required" => lines.push(required_line(&named, key).to_owned()),
                None if default == "none" => {}
                None => {
                    let depends = [
                        "workers",
                        "max_held_bytes",
                        "server_name",
                        "trust_domain",
                        "warm_connections_max",
                        "topology",
                        "member_ports",
                        "advertise",
                        "read_preference",
                    ];
                    assert!(depends.contains(&key), "{key} has no value");
                }
            }
        }
    }
    let text = lines.join("\n");
    assert_eq!(parse(&text, &[]).unwrap(), parse(REQUIRED, &[]).unwrap(), "{text}");
}

fn required_line(table: &str, key: &str) -> &'static str {
    let (_, lines) = REQUIRED.split_once(&format!("[{table}]\n")).unwrap_or_default();
    let line = lines.lines().take_while(|line| !line.starts_with('[')).find(|line| line.starts_with(key));
    line.unwrap_or_else(|| panic!("{table}.{key} is not required"))
}

#[test]
fn the_examples_of_the_configuration_page_are_configurations() {
    let blocks = blocks(PAGE, "```toml\n");
    assert_eq!(blocks.len(), 3);
    for block in blocks {
        parse(block, &[]).unwrap_or_else(|error| panic!("{error}\n{block}"));
    }
}

#[test]
fn the_variables_on_the_page_set_keys() {
    let (_, section) = PAGE.split_once("## The environment").unwrap();
    let variables: Vec<_> =
        section.lines().filter_map(|line| line.strip_prefix("| `MONGATE_")?.split_once("` |")).collect();
    assert!(!variables.is_empty());
    for (variable, key) in variables {
        let (name, value) = variable.split_once('=').unwrap();
        let config = parse(REQUIRED, &[(&format!("MONGATE_{name}"), value)]);
        assert!(config.is_ok(), "{variable}: {config:?}");
        assert_eq!(key.trim_matches([' ', '|', '`']), name.to_lowercase().replace("__", "."));
    }
}

#[test]
fn the_page_shows_the_error_messages_of_the_code() {
    let file = Path::new("config.toml");
    let wrong = blocks(PAGE, "```toml wrong\n")[0];
    let environment = [("MONGATE_LOG_LEVEL".into(), "debug".into())];
    let shown = blocks(PAGE, "```text\n");
    assert_eq!(Config::parse(wrong, file, environment).unwrap_err().to_string(), shown[0].trim_end());
    let syntax = Config::parse("\n\n\naddress = mongo", file, []).unwrap_err();
    assert_eq!(syntax.to_string(), shown[1].trim_end());
}

#[test]
fn the_examples_of_the_readme_and_of_compose_are_configurations() {
    let readme = include_str!("../../../README.md");
    let compose = include_str!("../../../compose/mongate.toml");
    let shown = blocks(readme, "```toml\n");
    assert!(!shown.is_empty(), "README.md shows a configuration");
    for text in shown.into_iter().chain([compose]) {
        Config::parse(text, Path::new("config.toml"), []).unwrap_or_else(|error| panic!("{error}\nin\n{text}"));
    }
}
