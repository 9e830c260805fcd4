//! `[[token_issuer]]`, and `authentication` of a listener.

use std::time::Duration;

use super::*;

const ISSUER: &str = "[[token_issuer]]\nissuer = \"https://i.example\"\naudiences = [\"mongodb://orders\"]\n\
                      jwks_url = \"https://i.example/jwks\"\ntrust_domain = \"cluster.local\"\n";

/// Checks that an issuer with one line in place of the one with the same key has exactly one problem.
fn check(line: &str, expected: &str) {
    let key = line.split_once(" = ").map_or(line, |(key, _)| key);
    let others = ISSUER.lines().filter(|other| !other.starts_with(&format!("{key} = "))).collect::<Vec<_>>().join("\n");
    let line = if key == line { "" } else { line };
    check_one(&format!("{MINIMAL}{others}\n{line}\n"), expected);
}

#[test]
fn all_keys_of_an_issuer_are_read() {
    let text = format!(
        "{MINIMAL}{ISSUER}ca_file = \"ca.pem\"\nbearer_token_file = \"/run/token\"\nprincipal = \"CN={{email}}\"\n\
         required_claims = {{ \"a.b\" = \"x\", c = [\"y\", \"z\"] }}\nclient_id = \"app\"\n\
         request_scopes = [\"openid\"]\nclock_skew = \"1s\"\nexpiry_grace = \"0s\"\n"
    );
    let [issuer] = &parse(&text, &[]).unwrap().token_issuers[..] else { panic!("one issuer") };
    let KeySource::Url { url, ca_file, bearer_token_file } = &issuer.keys else { panic!("{issuer:?}") };
    assert_eq!((url.is_https, url.server.to_string(), url.path.as_str()), (true, "i.example:443".to_owned(), "/jwks"));
    assert_eq!(ca_file.as_deref(), Some(Path::new("/etc/mongate/ca.pem")));
    assert_eq!(bearer_token_file.as_deref(), Some(Path::new("/run/token")));
    let claims = [("a.b", vec!["x"]), ("c", vec!["y", "z"])];
    let claims = claims.map(|(claim, values)| (claim.to_owned(), values.into_iter().map(ToOwned::to_owned).collect()));
    assert_eq!(issuer.required_claims, claims);
    assert_eq!((issuer.clock_skew, issuer.expiry_grace), (Duration::from_secs(1), Duration::ZERO));
    assert_eq!((issuer.client_id.as_deref(), issuer.request_scopes.len()), (Some("app"), 1));
}

#[test]
fn absent_keys_of_an_issuer_have_their_default() {
    let text = ISSUER.replace("trust_domain = \"cluster.local\"\n", "");
    let [issuer] = &parse(&format!("trust_domain = \"top.local\"{MINIMAL}{text}"), &[]).unwrap().token_issuers[..]
    else {
        panic!("one issuer")
    };
    assert_eq!(issuer.trust_domain.as_deref(), Some("top.local"));
    assert_eq!((issuer.clock_skew, issuer.expiry_grace), (Duration::from_secs(30), Duration::from_mins(5)));
    let svid = ISSUER.replace("issuer = \"https://i.example\"\n", "").replace("jwks_url", "jwks_file");
    let [issuer] =
        &parse(&format!("{MINIMAL}{}", svid.replace("https://i.example/", "")), &[]).unwrap().token_issuers[..]
    else {
        panic!("one issuer")
    };
    assert_eq!(
        (issuer.label().as_str(), issuer.keys.to_string().as_str()),
        ("spiffe://cluster.local", "/etc/mongate/jwks")
    );
}

#[test]
fn people_log_in_where_there_is_an_application_for_them() {
    let svid = ISSUER.replace("issuer = \"https://i.example\"\n", "");
    let second = ISSUER.replace("https://i.example\"", "https://second.example\"");
    let with_client = format!("{second}client_id = \"app\"\n");
    for (issuers, expected) in [
        (svid.clone(), None),
        (format!("{svid}{ISSUER}{second}"), Some("https://i.example")),
        (format!("{svid}{ISSUER}{with_client}"), Some("https://second.example")),
    ] {
        let config = parse(&format!("{MINIMAL}{issuers}"), &[]).unwrap();
        let found = TokenIssuerConfig::for_people(&config.token_issuers).and_then(|issuer| issuer.issuer.as_deref());
        assert_eq!(found, expected, "{issuers}");
    }
}

#[test]
fn addresses_of_keys_are_read() {
    for (address, expected) in [
        ("https://h", Some(("h:443", "/"))),
        ("https://h:8443/a?b=c%20d", Some(("h:8443", "/a?b=c%20d"))),
        ("https://[::1]/a", Some(("[::1]:443", "/a"))),
        ("https://[::1]:8443/a", Some(("[::1]:8443", "/a"))),
        ("http://127.0.0.1:8001/openid/v1/jwks", Some(("127.0.0.1:8001", "/openid/v1/jwks"))),
        ("http://localhost/a", Some(("localhost:80", "/a"))),
        ("http://h/a", None),
        ("HTTPS://h/a", None),
        ("ftp://h/a", None),
        ("https://", None),
        ("https:///a", None),
        ("https://me@h/a", None),
        ("https://h/a b", None),
        ("https://h/a#b", None),
        ("https://h:0/a", None),
        ("https://h:99999/a", None),
        ("h/a", None),
    ] {
        let text = format!("{MINIMAL}{}", ISSUER.replace("https://i.example/jwks", address));
        let found = parse(&text, &[]).ok().map(|config| match &config.token_issuers[0].keys {
            KeySource::Url { url, .. } => (url.server.to_string(), url.path.clone()),
            other => panic!("{other:?}"),
        });
        assert_eq!(found, expected.map(|(server, path)| (server.to_owned(), path.to_owned())), "{address}");
    }
}

#[test]
fn problems_of_an_issuer_are_named() {
    check("audiences", "token_issuer[1].audiences");
    check("audiences = []", "every token would be refused");
    check("audiences = [\"a b\"]", "without spaces");
    check("jwks_url", "jwks_file");
    check("jwks_url = \"http://h/jwks\"", "keys that arrive without TLS");
    check("jwks_file = \"a.json\"", "cannot be combined with jwks_url");
    check("trust_domain", "set the trust domain of the principals");
    check("trust_domain = \"A\"", "trust domain");
    check("issuer = \"\"", "is empty");
    check("required_claims = \"x\"", "must be a table of claims and values");
    check("required_claims = { a = 5 }", "a value of this claim");
    check("required_claims = { a = [] }", "is empty");
    check("clock_skew = \"6min\"", "0s to 5m");
    check("expiry_grace = \"2h\"", "0s to 1h");
    check("jwks_uri = \"https://h\"", "did you mean jwks_url?");
    check_one(&format!("{MINIMAL}{ISSUER}{ISSUER}"), "for a second time");
    let file = ISSUER.replace("jwks_url = \"https://i.example/jwks\"", "jwks_file = \"a.json\"\nca_file = \"ca.pem\"");
    check_one(&format!("{MINIMAL}{file}"), "is for jwks_url only");
    let anonymous = ISSUER.replace("issuer = \"https://i.example\"\n", "principal = \"CN={sub}\"\n");
    check_one(&format!("{MINIMAL}{anonymous}"), "needs an issuer");
    check("spiffe_socket = \"unix:/run/agent.sock\"", "spiffe_socket (config.toml): cannot be combined with jwks_url");
    let agent = ISSUER.replace("jwks_url = \"https://i.example/jwks\"", "spiffe_socket = \"unix:/run/agent.sock\"");
    check_one(&format!("{MINIMAL}{agent}"), "remove issuer, or use jwks_url or jwks_file");
}

#[test]
fn an_agent_has_the_keys_of_a_trust_domain() {
    const AGENT: &str = "[[token_issuer]]\naudiences = [\"mongodb://orders\"]\n\
                         spiffe_socket = \"unix:///run/agent.sock\"\n";
    let own = format!("{AGENT}trust_domain = \"prod.example\"\n");
    for (text, expected) in [
        (format!("trust_domain = \"top.example\"{MINIMAL}{AGENT}"), "top.example"),
        (format!("trust_domain = \"top.example\"{MINIMAL}{own}"), "prod.example"),
    ] {
        let [issuer] = &parse(&text, &[]).unwrap().token_issuers[..] else { panic!("one issuer") };
        let (socket, trust_domain) = ("/run/agent.sock".into(), expected.to_owned());
        assert_eq!(issuer.keys, KeySource::WorkloadApi { socket, trust_domain });
        assert_eq!(issuer.keys.to_string(), "unix:/run/agent.sock");
        assert_eq!(issuer.label(), format!("spiffe://{expected}"));
    }
    check_one(&format!("{MINIMAL}{AGENT}"), "set the trust domain of the principals");
    check_one(&format!("{MINIMAL}{}", own.replace("unix:", "tcp:")), "the unix domain socket of the agent");
    check_one(&format!("{MINIMAL}{own}ca_file = \"ca.pem\"\n"), "is for jwks_url only");
    check_one(&format!("{MINIMAL}{own}{own}"), "for a second time");
}

#[test]
fn clients_with_tokens_that_are_no_user_of_mongod_are_worth_a_warning() {
    let authentication = "[upstream.orders.authentication]\nmechanism = \"MONGODB-X509\"\n";
    for (value, tables, is_warned) in
        [("token", "", true), ("token", authentication, false), ("token-optional", "", false), ("none", "", false)]
    {
        let text = format!("{MINIMAL}authentication = \"{value}\"\n{ISSUER}{tables}");
        let warnings = parse(&text, &[]).unwrap().warnings_outside_policy();
        assert_eq!(warnings.len(), usize::from(is_warned), "{value} {tables}: {warnings:?}");
        for Warning { key, sentence } in warnings {
            assert_eq!(key, "listener.orders.authentication");
            assert!(sentence.contains("no MongoDB user") && sentence.contains("[upstream.orders.authentication]"));
        }
    }
}

#[test]
fn a_listener_takes_tokens_only_where_others_cannot_read_them() {
    const IN_THE_CLEAR: &str = "would take tokens in the clear";
    const NO_ISSUER: &str = "add a [[token_issuer]]";
    let strict = "mode = \"strict\"\ntls.certificate_file = \"gateway.pem\"\ntls.ca_file = \"mesh.pem\"\n";
    let permissive = strict.replace("strict", "permissive");
    let remote = "allow_remote_plaintext = true\n";
    for (address, lines, issuer, expected) in [
        ("127.0.0.1:27017", "", ISSUER, None),
        ("unix:/run/m.sock", "", ISSUER, None),
        ("10.0.0.1:27017", strict, ISSUER, None),
        ("0.0.0.0:27017", remote, ISSUER, Some(IN_THE_CLEAR)),
        ("0.0.0.0:27017", &format!("{remote}{permissive}"), ISSUER, Some(IN_THE_CLEAR)),
        ("127.0.0.1:27017", "", "", Some(NO_ISSUER)),
    ] {
        for value in ["token", "token-optional"] {
            let listener = MINIMAL.replace("127.0.0.1:27017", address);
            let text = format!("{listener}authentication = \"{value}\"\n{lines}{issuer}");
            let Some(expected) = expected else {
                assert!(parse(&text, &[]).is_ok(), "{text}");
                continue;
            };
            let found = problems(&text, &[]);
            let start = format!("\"listener.orders.authentication\" (config.toml): \"{value}\" ");
            assert!(found.len() == 1 && found[0].contains(expected) && found[0].starts_with(&start), "{found:#?}");
        }
    }
    check_listener("authentication = \"tokens\"", "did you mean \"token\"?");
    assert!(parse(&format!("{MINIMAL}authentication = \"none\"\n"), &[]).is_ok());
}
