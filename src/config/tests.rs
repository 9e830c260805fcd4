//! Tests of the whole configuration: what is accepted, what is rejected with which message, and that nothing panics.

mod documents;
mod hostile;
mod rules;
mod sets;
mod tokens;

use std::io::Write;

use super::*;

/// The minimal configuration. Cases add lines to it or replace lines of it.
const MINIMAL: &str = r#"
[upstream.orders]
address = "mongo:27017"
tls.certificate_file = "client.pem"
tls.ca_file = "/etc/ca.pem"
[listener.orders]
address = "127.0.0.1:27017"
upstream = "orders"
"#;

fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let environment = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Config::parse(text, Path::new("/etc/mongate/config.toml"), environment)
}

fn problems(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    match parse(text, environment) {
        Err(ConfigError::Invalid { problems, .. }) => problems.iter().map(ConfigProblem::to_string).collect(),
        other => panic!("{other:?} is not a list of problems; the configuration is {text}"),
    }
}

/// Checks that `MINIMAL` with `line` in the table `listener.orders` has exactly one problem, which contains `expected`.
fn check_listener(line: &str, expected: &str) {
    let key = line.split_once(" = ").unwrap().0;
    let (start, listener) = MINIMAL.split_once("[listener.orders]").unwrap();
    let others = listener.lines().filter(|other| !other.starts_with(key)).collect::<Vec<_>>().join("\n");
    check_one(&format!("{start}[listener.orders]{others}\n{line}"), expected);
}

/// Checks that `MINIMAL` with `old` replaced by `new` has exactly one problem, which contains `expected`.
fn check_replaced(old: &str, new: &str, expected: &str) {
    assert!(MINIMAL.contains(old), "{old}");
    check_one(&MINIMAL.replace(old, new), expected);
}

/// Checks that `text` has exactly one problem, which contains `expected`.
fn check_one(text: &str, expected: &str) {
    let problems = problems(text, &[]);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(problems[0].contains(expected), "{:?} does not contain {expected:?}", problems[0]);
}

#[test]
fn absent_keys_have_their_default() {
    let config = parse(MINIMAL, &[]).unwrap();
    assert_eq!(config.workers, std::thread::available_parallelism().unwrap());
    assert_eq!(config.admin.address, "127.0.0.1:9717".parse().unwrap());
    let upstream = &config.upstreams["orders"];
    let server = HostPort { host: "mongo".to_owned(), port: 27017 };
    assert_eq!((upstream.name.as_str(), &upstream.deployment), ("orders", &Deployment::Single(server)));
    let files = upstream.tls.files().unwrap();
    assert_eq!(files.private_key_file, files.certificate_file);
    assert_eq!((upstream.warm_connections, upstream.warm_connections_max), (2, 16));
    let pool = PoolConfig {
        mode: PoolMode::Session,
        max_connections: 100_000,
        idle_timeout: std::time::Duration::from_mins(5),
        wait_timeout: std::time::Duration::from_secs(10),
    };
    assert_eq!(upstream.pool, pool);
    assert_eq!(upstream.certificate_recycle_after, std::time::Duration::from_mins(10));
    let listener = &config.listeners["orders"];
    assert_eq!((listener.max_connections, listener.socket_permissions), (10_000, 0o700));
    assert!(!listener.reuse_port);
    assert_eq!((listener.idle_timeout, listener.max_lifetime), (None, None));
    assert_eq!(listener.half_close_timeout, Some(std::time::Duration::from_secs(30)));
    assert_eq!(config.shutdown, ShutdownConfig { delay: std::time::Duration::ZERO, wait_for_clients: false });
}

#[test]
fn relative_paths_are_relative_to_the_file_also_in_environment_variables() {
    let key = ("MONGATE_UPSTREAM__ORDERS__TLS__PRIVATE_KEY_FILE", "keys/client.key");
    let socket = ("MONGATE_LISTENER__ORDERS__ADDRESS", "unix:run/m.sock");
    let config = parse(MINIMAL, &[key, socket]).unwrap();
    let tls = config.upstreams["orders"].tls.files().unwrap();
    assert_eq!(tls.certificate_file, Path::new("/etc/mongate/client.pem"));
    assert_eq!(tls.private_key_file, Path::new("/etc/mongate/keys/client.key"));
    assert_eq!(tls.ca_file, Path::new("/etc/ca.pem"));
    assert_eq!(config.listeners["orders"].address, ListenAddress::Unix("/etc/mongate/run/m.sock".into()));
}

#[test]
fn the_value_of_a_variable_is_a_string() {
    let environment = [
        ("MONGATE_WORKERS", "7"),
        ("MONGATE_UPSTREAM__ORDERS__TLS__MIN_VERSION", "1.3"),
        ("MONGATE_UPSTREAM__ORDERS__TLS__CA_FILE", "1001"),
        ("MONGATE_LISTENER__ORDERS__SOCKET_PERMISSIONS", "0660"),
        ("MONGATE_LISTENER__ORDERS__ALLOW_REMOTE_PLAINTEXT", "true"),
        ("MONGATE_LISTENER__ORDERS__TCP_KEEPALIVE", "off"),
    ];
    let config = parse(MINIMAL, &environment).unwrap();
    let (tls, listener) = (&config.upstreams["orders"].tls, &config.listeners["orders"]);
    assert_eq!(config.workers.get(), 7);
    assert_eq!(
        (tls.min_version, tls.files().unwrap().ca_file.as_path()),
        (TlsVersion::V1_3, Path::new("/etc/mongate/1001"))
    );
    assert_eq!((listener.socket_permissions, listener.allow_remote_plaintext), (0o660, true));
    assert_eq!(listener.tcp_keepalive, None);
}

#[test]
fn tables_can_be_set_by_environment_variables_only() {
    let environment = [
        ("MONGATE_UPSTREAM__A__ADDRESS", "mongo:1"),
        ("MONGATE_UPSTREAM__A__TLS__CERTIFICATE_FILE", "c"),
        ("MONGATE_UPSTREAM__A__TLS__CA_FILE", "a"),
        ("MONGATE_LISTENER__B__ADDRESS", "[::1]:0"),
        ("MONGATE_LISTENER__B__UPSTREAM", "a"),
    ];
    assert_eq!(parse("", &environment).unwrap().listeners["b"].upstream, "a");
}

#[test]
fn a_problem_names_the_variable_with_the_value() {
    let environment = [("MONGATE_WORKERS", "none"), ("MONGATE_LISTENER__ORDRES__ADDRESS", "127.0.0.1:1")];
    let problems = problems(MINIMAL, &environment);
    assert_eq!(
        problems,
        [
            "listener.ordres.upstream (environment variable MONGATE_LISTENER__ORDRES__ADDRESS): is missing; set the \
             upstream of this listener, as in upstream = \"orders\" (the file has no such table; check the spelling of \
             the variable's name)",
            "workers = \"none\" (environment variable MONGATE_WORKERS): must be an integer from 1 to 1024",
        ]
    );
}

#[test]
fn invalid_values_of_a_listener_are_problems() {
    check_listener("address = \"0.0.0.0:27017\"", "allow_remote_plaintext = true");
    check_listener("address = \"localhost:27017\"", "write \"127.0.0.1:27017\"");
    check_listener("address = \"127.0.0.1:9717\"", "is already used by admin.address");
    check_listener("address = \"\"", "is empty");
    check_listener("address = 27017", "must be a string in quotes");
    check_listener("address = \"unix:/run/a\\u0000b\"", "must have the path of a file");
    check_listener(
        &format!("address = \"unix:/{}\"", "x".repeat(107)),
        "108 bytes, and a unix domain socket can have at most 107",
    );
    check_listener("upstream = \"order\"", "did you mean \"orders\"?");
    check_listener("upstream = \"stock\"", "choose one of \"orders\"");
    check_listener("upstream = [\"orders\"]", "= [ an array ] (config.toml): must be a string");
    check_listener("max_connections = 0", "from 1 to 1000000");
    check_listener("max_connections = -1", "from 1 to 1000000");
    check_listener("max_connections = 9223372036854775807", "from 1 to 1000000");
    check_listener("max_connections = 1.5", "= 1.5 (config.toml): must be an integer");
    check_listener("max_connections = \"10\"", "without quotes");
    check_listener("allow_remote_plaintext = \"true\"", "without quotes");
    check_listener("allow_remote_plaintext = 1", "must be true or false");
    check_listener("socket_permissions = 0o660", "in quotes");
    check_listener("socket_permissions = \"0888\"", "octal");
    check_listener("socket_permissions = \"1777\"", "octal");
    check_listener("socket_permissions = \"rw-rw----\"", "octal");
    check_listener("idle_timeout = \"0s\"", "from 1s to 30days");
    check_listener("idle_timeout = \"-5s\"", "from 1s to 30days");
    check_listener("idle_timeout = 1979-05-27", "= 1979-05-27 (config.toml)");
    check_listener("max_lifetime = false", "or \"off\"");
    check_listener("tcp_keepalive = \"10h\"", "from 1s to 9h");
    check_listener("half_close_timeout = \"2days\"", "from 1s to");
    check_listener("foo = { }", "the keys of [listener.orders] are address, upstream,");
    check_listener("adress = \"127.0.0.1:27017\"", "did you mean address?");
    check_listener("verify = \"full\"", "it belongs in [upstream.NAME.tls]");
}

#[test]
fn invalid_values_of_an_upstream_are_problems() {
    check_replaced(
        "mongo:27017",
        "mongodb://user:secret@mongo",
        "= \"mongodb://…\" (config.toml): is a connection string",
    );
    check_replaced("mongo:27017", "mongo", "has no port; write \"mongo:27017\"");
    check_replaced("mongo:27017", "mongo:65536", "from 1 to 65535");
    check_replaced("\"client.pem\"", "\"\"", "is empty");
    check_replaced("\"client.pem\"", "\"a\\u0000b\"", "control characters");
    check_replaced("\"client.pem\"", "\"-----BEGIN PRIVATE KEY-----\\nx\"", "= \"…\" (config.toml): contains PEM text");
    check_replaced("tls.ca_file", "tls.verify = false\ntls.ca_file", "a string in quotes: \"full\" or \"chain\"");
    check_replaced("tls.ca_file", "tls.min_version = 1.2\ntls.ca_file", "a string in quotes: \"1.2\" or \"1.3\"");
    check_replaced("tls.ca_file", "tls.server_name = \"a b\"\ntls.ca_file", "must be a DNS name");
    check_replaced("tls.ca_file", "connect_timeout = \"99ms\"\ntls.ca_file", "from 100ms to 5m");
    check_replaced("tls.ca_file", "connect_timeout = 5\ntls.ca_file", "= 5 (config.toml): must be a string in quotes");
    check_replaced("tls.ca_file = \"/etc/ca.pem\"", "", "tls.ca_file (config.toml): is missing");
    check_replaced("[upstream.orders]", "[upstream]\nport = 27017\n[upstream.orders]", "is not in a named table");
    check_replaced("[upstream.orders]", "[log]\nlevel = \"warning\"\n[upstream.orders]", "did you mean \"warn\"?");
    check_replaced(
        "[upstream.orders]",
        "[log]\nworkers = 2\n[upstream.orders]",
        "at the top of the file, before all tables",
    );
    check_replaced("[upstream.orders]", "admin = 9717\n[upstream.orders]", "begins with the line [admin]");
    check_replaced("[upstream.orders]", "admin.address = \"unix:/x\"\n[upstream.orders]", "not a unix domain socket");
}

#[test]
fn a_table_of_the_wrong_type_is_one_problem() {
    let check = |text: &str, expected: &[&str]| {
        let problems = problems(text, &[]);
        let keys: Vec<&str> = problems.iter().map(|problem| problem.split(' ').next().unwrap()).collect();
        assert_eq!(keys, expected, "{text}");
    };
    check("", &["listener", "upstream"]);
    check("upstream = \"x\"\nlistener = 1", &["listener", "upstream"]);
    check("[[upstream]]\n[[listener]]", &["listener", "upstream"]);
    check("[upstream]\n[listener]", &["listener", "upstream"]);
    check("[upstream.a]\naddress = \"a:1\"\ntls = true\n[listener]", &["listener", "upstream.a.tls"]);
}

#[test]
fn a_name_that_environment_variables_cannot_contain_is_a_problem() {
    let check = |name: &str, allowed: bool| {
        let text = MINIMAL.replace("[listener.orders]", &format!("[listener.{name:?}]"));
        assert_eq!(parse(&text, &[]).is_ok(), allowed, "{name}");
    };
    check("orders-2_b", true);
    check("7", true);
    check(&"x".repeat(64), true);
    check(&"x".repeat(65), false);
    check("Orders", false);
    check("", false);
    check("a__b", false);
    check("a_", false);
    check("a.b", false);
    check("ä", false);
}

#[test]
fn two_listeners_cannot_have_the_same_address_unless_its_port_is_0() {
    let second = |address: &str| format!("[listener.second]\naddress = \"{address}\"\nupstream = \"orders\"\n");
    check_one(&(MINIMAL.to_owned() + &second("127.0.0.1:27017")), "is already used by listener.orders.address");
    let text = MINIMAL.replace("127.0.0.1:27017", "127.0.0.1:0") + &second("127.0.0.1:0");
    assert!(parse(&text, &[]).is_ok());
}

#[test]
fn an_upstream_cannot_be_the_gateway_itself() {
    let own = |listener: &str, server: &str| {
        let text = MINIMAL.replace("127.0.0.1:27017", listener).replace("mongo:27017", server);
        let text = text.replace("[listener.orders]", "[listener.orders]\nallow_remote_plaintext = true");
        parse(&text, &[]).map_err(|error| error.to_string())
    };
    for (listener, server) in [
        ("127.0.0.1:27017", "127.0.0.1:27017"),
        ("127.0.0.1:27017", "localhost:27017"),
        ("127.0.0.1:27017", "LOCALHOST:27017"),
        ("127.0.0.1:27017", "[::ffff:127.0.0.1]:27017"),
        ("[::1]:27017", "[::1]:27017"),
        ("[::1]:27017", "localhost:27017"),
        ("0.0.0.0:27017", "127.0.0.1:27017"),
        ("[::]:27017", "127.0.0.2:27017"),
        ("10.1.2.3:27017", "10.1.2.3:27017"),
    ] {
        let error = own(listener, server).unwrap_err();
        assert!(error.contains("upstream.orders.address"), "{error}");
        assert!(error.contains("which is listener.orders.address of this gateway"), "{error}");
    }
    assert!(own("127.0.0.1:27018", "127.0.0.1:9717").unwrap_err().contains("which is admin.address"));
    for (listener, server) in [
        ("127.0.0.1:27018", "127.0.0.1:27017"),
        ("0.0.0.0:27017", "10.1.2.3:27017"),
        ("127.0.0.2:27017", "127.0.0.1:27017"),
        ("127.0.0.1:0", "127.0.0.1:27017"),
        ("unix:/run/mongate.sock", "localhost:27017"),
    ] {
        own(listener, server).unwrap();
    }
}

#[test]
fn a_toml_error_has_a_position_and_does_not_repeat_the_file() {
    let check = |text: &str, position: (usize, usize), expected: &str| {
        let Err(ConfigError::Syntax { line, column, sentence, .. }) = parse(text, &[]) else { panic!("{text}") };
        assert_eq!((line, column), position, "{text}");
        assert!(sentence.contains(expected), "{sentence:?}");
    };
    check("workers = 4\ndrain_timeout = 5s", (2, 18), "expected newline");
    check("[upstream.a]\naddress = \"a\"\naddress = \"b\"", (3, 1), "duplicate key `address` in table `upstream.a`");
    check("[upstream.a]\n[upstream.a]", (2, 1), "duplicate key");
    check("[listener.a]\nsocket_permissions = 0660", (2, 23), "in quotes, as in socket_permissions = \"0660\"");
    check("a = 007 # mode", (1, 6), "a number cannot begin with 0");
    check("workers = 99999999999999999999", (1, 11), "number too large");
    let error = parse("password = \"hunter2", &[]).unwrap_err().to_string();
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn the_given_file_is_read() {
    let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    file.write_all(MINIMAL.as_bytes()).unwrap();
    let loaded = Config::load(Some(file.path())).unwrap();
    assert_eq!(loaded.file, file.path());
    let certificate = &loaded.config.upstreams["orders"].tls.files().unwrap().certificate_file;
    assert_eq!(*certificate, file.path().with_file_name("client.pem"));
}

#[test]
fn the_error_about_an_unreadable_file_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let error = Config::load(Some(directory.path())).unwrap_err();
    assert!(matches!(&error, ConfigError::Unreadable { reason, .. } if reason.contains("directory")), "{error}");

    let file = directory.path().join("mongate.toml");
    let error = Config::load(Some(&file)).unwrap_err();
    let expected = format!("no configuration file at {}; choose another file with --config FILE", file.display());
    assert_eq!(error.to_string(), expected);
}

#[test]
fn identities_are_read_from_the_file_and_the_environment() {
    let text = format!(
        "trust_domain = \"cluster.local\"\ntrust_domain_aliases = [\"old.local\"]\n{MINIMAL}mode = \"permissive\"\n\
         proxy_protocol = \"optional\"\nproxy_trusted = [\"10.0.0.0/8\", \"::1\"]\nproxy_identity_tlv = 0xE4\n\
         tls.certificate_file = \"gateway.pem\"\ntls.ca_file = \"mesh.pem\"\n\
         [[identity]]\nprincipal = \"cluster.local/ns/a/sa/b\"\nsources = [\"10.1.3.0/24\"]\nuids = [0, 1001]\n"
    );
    let environment = [("MONGATE_METRICS__PRINCIPALS", "a/b, c/*"), ("MONGATE_TRUST_DOMAIN_ALIASES", "x,y.z")];
    let config = parse(&text, &environment).unwrap();
    assert_eq!(config.trust_domain.as_deref(), Some("cluster.local"));
    assert_eq!(config.trust_domain_aliases, ["x", "y.z"]);
    assert_eq!(config.metrics.principals, ["a/b", "c/*"]);
    let listener = &config.listeners["orders"];
    assert_eq!((listener.mode, listener.proxy_protocol), (ListenerMode::Permissive, ProxyProtocol::Optional));
    let trusted: Vec<_> = listener.proxy_trusted.iter().map(ToString::to_string).collect();
    assert_eq!(
        (trusted, listener.proxy_identity_tlv),
        (vec!["10.0.0.0/8".to_owned(), "::1/128".to_owned()], Some(0xE4))
    );
    assert_eq!(listener.tls.as_ref().unwrap().files.ca_file, Path::new("/etc/mongate/mesh.pem"));
    let identity = &config.identities[0];
    assert_eq!((identity.principal.as_str(), identity.uids.as_slice()), ("cluster.local/ns/a/sa/b", &[0, 1001][..]));
}

#[test]
fn invalid_identities_are_problems() {
    check_listener("mode = \"mtls\"", "must be \"plaintext\", \"permissive\" or \"strict\"");
    check_listener("principal = \"spiffe://a/b\"", "must not have the scheme spiffe://; write \"a/b\"");
    check_listener("principal = \"a/*\"", "must be a SPIFFE ID");
    check_listener(
        "proxy_protocol = \"required\"",
        "proxy_trusted (config.toml): is missing; set the addresses of the proxies",
    );
    check_listener("proxy_trusted = [\"10.0.0.1/8\"]", "the network is \"10.0.0.0/8\"");
    check_listener("proxy_trusted = [\"mongo\"]", "which is not an IP address or network");
    check_listener("proxy_trusted = \"10.0.0.0/8\"", "must be a list of strings in quotes");
    check_listener("proxy_identity_tlv = 0x22", "from 224 to 247");
    check_listener(
        "tls.ca_file = \"a.pem\"",
        "listener.orders.tls (config.toml): is not used with mode = \"plaintext\"",
    );
    let strict = problems(&format!("{MINIMAL}mode = \"strict\"\n"), &[]);
    assert_eq!(strict.len(), 2, "{strict:?}");
    assert!(
        strict[0].contains("listener.orders.tls.ca_file (config.toml): is missing; set the PEM file"),
        "{strict:?}"
    );

    check_one(&format!("trust_domain = \"spiffe://a\"\n{MINIMAL}"), "must be a trust domain");
    check_one(&format!("trust_domain = \"Cluster.Local\"\n{MINIMAL}"), "must be a trust domain");
    check_one(&format!("trust_domain_aliases = [\"a b\"]\n{MINIMAL}"), "which is not a trust domain");
    check_one(&format!("identity = 1\n{MINIMAL}"), "must be tables that begin with a line [[identity]]");
    let entry = "[[identity]]\nprincipal = \"a/b\"\n";
    assert!(parse(&format!("{MINIMAL}{entry}may_forward = true\n"), &[]).unwrap().identities[0].may_forward);
    check_one(&format!("{MINIMAL}{entry}"), "identity[1].sources (config.toml): is missing; set the clients");
    check_one(&format!("{MINIMAL}{entry}uids = [-1]\n"), "must be a list of integers");
    check_one(&format!("{MINIMAL}{entry}source = []\nuids = [1]\n"), "did you mean sources?");
}

#[test]
fn the_client_certificate_comes_from_files_or_from_an_agent() {
    let agent = |line: &str| {
        MINIMAL.replace("tls.certificate_file = \"client.pem\"", line).replace("tls.ca_file = \"/etc/ca.pem\"", "")
    };
    let config = parse(&agent("tls.spiffe_socket = \"unix:///run/agent.sock\""), &[]).unwrap();
    let expected =
        WorkloadApi { socket: "/run/agent.sock".into(), ca_file: None, partial_chain: false, crl_file: None };
    assert_eq!(config.upstreams["orders"].tls.source, MaterialSource::WorkloadApi(expected));
    check_one(&agent("tls.spiffe_socket = \"tcp:127.0.0.1:1\""), "the unix domain socket of the agent");
    let both = "tls.certificate_file = \"client.pem\"\ntls.spiffe_socket = \"unix:/a\"";
    check_one(&agent(both), "certificate_file (config.toml): cannot be combined with spiffe_socket");
    check_replaced(
        "address = \"mongo:27017\"",
        "address = \"mongo:27017\"\nwarm_connections_max = 1",
        "is less than warm_connections = 2",
    );
}

#[test]
fn an_upstream_that_sends_proxy_headers_has_no_spare_connections() {
    let with =
        |lines: &str| MINIMAL.replace("address = \"mongo:27017\"", &format!("address = \"mongo:27017\"\n{lines}"));
    let parsed = |lines: &str| parse(&with(lines), &[]).unwrap().upstreams["orders"].clone();
    assert_eq!(parsed("send_proxy = \"off\""), parsed(""));
    let sends = parsed("send_proxy = \"v2\"");
    assert_eq!((sends.send_proxy, sends.warm_connections), (SendProxy::V2, 0));
    assert_eq!(parsed("send_proxy = \"v2\"\nwarm_connections = 0"), sends);
    for key in ["warm_connections", "warm_connections_max"] {
        check_one(&with(&format!("send_proxy = \"v2\"\n{key} = 3")), "cannot be combined with send_proxy");
    }
    check_one(&with("send_proxy = \"v1\""), "must be \"off\" or \"v2\"");
}

#[test]
fn a_pool_has_a_mode_and_limits() {
    let pool = |lines: &str| {
        let text = MINIMAL.replace("[listener.orders]", &format!("[upstream.orders.pool]\n{lines}\n[listener.orders]"));
        parse(&text, &[]).map(|config| config.upstreams["orders"].pool)
    };
    for (word, mode) in [("off", PoolMode::Off), ("session", PoolMode::Session), ("request", PoolMode::Request)] {
        let parsed = pool(&format!("mode = \"{word}\"")).unwrap();
        assert_eq!((parsed.mode, parsed.mode.as_str()), (mode, word));
    }
    assert_eq!(pool("mode = \"request\"").unwrap().max_connections, 100);
    let parsed =
        pool("mode = \"request\"\nmax_connections = 1\nidle_timeout = \"1s\"\nwait_timeout = \"100ms\"").unwrap();
    let seconds = std::time::Duration::from_secs_f64;
    assert_eq!((parsed.max_connections, parsed.idle_timeout, parsed.wait_timeout), (1, seconds(1.0), seconds(0.1)));
    for (line, expected) in [
        ("mode = \"transaction\"", "must be \"off\", \"session\" or \"request\""),
        ("max_connections = 0", "must be an integer from 1 to 100000"),
        ("max_connections = 100001", "must be an integer from 1 to 100000"),
        ("idle_timeout = \"999ms\"", "must be a duration from 1s to 1day"),
        ("wait_timeout = \"6m\"", "must be a duration from 100ms to 5m"),
        ("size = 3", "is not a known key"),
    ] {
        let error = pool(line).unwrap_err().to_string();
        assert!(error.contains("upstream.orders.pool.") && error.contains(expected), "{error}");
    }
    let sends = |mode: &str| {
        MINIMAL.replace(
            "address = \"mongo:27017\"",
            &format!("address = \"mongo:27017\"\nsend_proxy = \"v2\"\npool.mode = \"{mode}\""),
        )
    };
    assert!(parse(&sends("off"), &[]).is_ok());
    let without = sends("off").replace("\npool.mode = \"off\"", "");
    assert_eq!(parse(&without, &[]).unwrap().upstreams["orders"].pool.mode, PoolMode::Off);
    for mode in ["session", "request"] {
        check_one(&sends(mode), "cannot be combined with send_proxy");
    }
}
