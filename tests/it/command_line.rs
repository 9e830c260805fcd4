//! The subcommands that an operator types: what they print and how they exit.

use std::fmt::Write;
use std::fs;
use std::net::TcpListener;

use serde_json::Value;

use crate::kit::certificates::{SignedBy, Wanted};
use crate::kit::gateway::{Gateway, GatewayOptions, run_to_end};
use crate::kit::mongod::Mongod;
use crate::kit::ports;
use crate::kit::waiting::until;
use crate::reports::LOG_TIMEOUT;

/// One run of `mongate check`.
struct Row {
    name: &'static str,
    options: GatewayOptions,
    exit: i32,
    /// The `verdict` field of the JSON report.
    verdict: &'static str,
    /// Parts of the text report.
    says: Vec<&'static str>,
    /// Exit code and verdict with `--offline`.
    offline: (i32, &'static str),
}

#[test]
fn check_shows_the_handshake_and_names_each_fault() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let Some(replica_set) = Mongod::shared_replica_set() else { return };
    let good = (0, "ready");
    let bad_files = (78, "bad_configuration");
    let stranger = mongod.pki.stranger_ca_file();
    let mut other_ca = GatewayOptions::to(&mongod);
    let ca_file = mongod.pki.ca_file();
    other_ca.upstream_tls = other_ca.upstream_tls.replace(ca_file.to_str().unwrap(), stranger.to_str().unwrap());
    let mut refused = GatewayOptions::to(&mongod);
    let wanted = Wanted { issuer: SignedBy::Stranger, ..Wanted::default() };
    refused.credentials(&mongod.pki, &mongod.pki.issue("check-refused", &wanted).unwrap());
    let mut missing = GatewayOptions::to(&mongod);
    missing.upstream_tls = "certificate_file = \"no-such.pem\"\nca_file = \"nor-this.pem\"\n".to_owned();
    let mut other_key = GatewayOptions::to(&mongod);
    let (_, key) = mongod.pki.issue("check-other-key", &Wanted::default()).unwrap().split().unwrap();
    writeln!(other_key.upstream_tls, "private_key_file = '{}'", key.display()).unwrap();
    let refusing = ports::Refusing::new().unwrap();
    let unused_address = refusing.address();

    for row in [
        Row {
            name: "everything works",
            options: GatewayOptions::to(&mongod),
            exit: 0,
            verdict: "ready",
            says: vec![
                "ok      TLS negotiated          TLSv1.3, cipher TLS_AES_128_GCM_SHA256",
                "ok      server certificate      CN=mongod,OU=servers,O=mongate kit",
                "accepted: signed by CN=kit authority,OU=authorities,O=mongate kit from ca_file",
                "ok      certificate requested   from CN=kit authority",
                "ok      certificate sent        CN=client,OU=clients,O=mongate kit",
                "ok      TLS handshake           full handshake",
                "ok      MongoDB hello           mongod ",
                "standalone",
                "ok      second connection       resumes the TLS session",
                "verdict: ready",
            ],
            offline: good,
        },
        Row {
            name: "a replica set",
            options: GatewayOptions::to(&replica_set),
            exit: 0,
            verdict: "ready",
            says: vec!["primary of replica set kit"],
            offline: good,
        },
        Row {
            name: "a server certificate from an unknown CA",
            options: other_ca,
            exit: 69,
            verdict: "refused",
            says: vec![
                "error   server certificate",
                "CN=kit authority",
                "-> add the CA certificate that signed it to upstream.test.tls.ca_file",
            ],
            offline: good,
        },
        Row {
            name: "a client certificate that mongod rejects",
            options: refused,
            exit: 69,
            verdict: "refused",
            says: vec![
                "rejected the gateway's client certificate (subject CN=client",
                "-> mongod accepts certificates of",
            ],
            offline: good,
        },
        Row {
            name: "a port without a listener",
            options: GatewayOptions { upstream_address: unused_address, ..GatewayOptions::to(&mongod) },
            exit: 69,
            verdict: "refused",
            says: vec!["error   TCP connected", "connection refused", "-> check that mongod runs and listens there"],
            offline: good,
        },
        Row {
            name: "missing files",
            options: missing,
            exit: 78,
            verdict: "bad_configuration",
            says: vec!["no-such.pem", "nor-this.pem"],
            offline: bad_files,
        },
        Row {
            name: "a key that belongs to another certificate",
            options: other_key,
            exit: 78,
            verdict: "bad_configuration",
            says: vec!["check-other-key-key.pem"],
            offline: bad_files,
        },
    ] {
        check(&row);
    }
}

#[test]
fn run_and_check_name_every_bad_configuration_key() {
    let options = GatewayOptions {
        upstream_address: "mongo.example".to_owned(),
        upstream: "conect_timeout = \"5s\"\n".to_owned(),
        listener: "max_connections = 0\n".to_owned(),
        ..GatewayOptions::default()
    };
    let file = configuration(&options);
    for command in ["run", "check"] {
        let (exit, _, wrote) = run_to_end(&[command, "--config", file.path().to_str().unwrap()]).unwrap();
        assert_eq!(exit, Some(78), "{wrote}");
        let keys = ["upstream.test.address", "conect_timeout", "connect_timeout", "listener.test.max_connections"];
        assert!(keys.iter().all(|key| wrote.contains(key)), "{command}: {wrote}");
    }
    let (exit, _, wrote) = run_to_end(&["run", "--config", "/no/such/file.toml"]).unwrap();
    assert!(exit == Some(78) && wrote.contains("/no/such/file.toml"), "{exit:?} {wrote}");
}

#[test]
fn run_exits_with_78_for_bad_files_and_with_1_for_a_port_in_use() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let mut missing = GatewayOptions::to(&mongod);
    missing.upstream_tls = missing.upstream_tls.replace("certificate_file = '", "certificate_file = '/no/such");
    let (exit, wrote) = Gateway::start_in_vain(&missing).unwrap();
    assert!(exit == Some(78) && wrote.contains("/no/such"), "{exit:?} {wrote}");
    let strict = GatewayOptions {
        listener: "mode = 'strict'\n".to_owned(),
        tables: "[listener.test.tls]\ncertificate_file = '/no/such.pem'\nca_file = '/no/such.pem'\n".to_owned(),
        ..GatewayOptions::to(&mongod)
    };
    let (exit, wrote) = Gateway::start_in_vain(&strict).unwrap();
    assert!(exit == Some(78) && wrote.contains("/no/such.pem"), "{exit:?} {wrote}");

    // Not only the first file that is missing, but all of them, and the value that cannot be used.
    let mut several = GatewayOptions { tables: strict.tables.clone(), listener: strict.listener.clone(), ..missing };
    several.upstream_tls = several.upstream_tls.replace("ca_file = '", "ca_file = '/none");
    let (exit, wrote) = Gateway::start_in_vain(&several).unwrap();
    assert_eq!(exit, Some(78), "{wrote}");
    let keys =
        ["upstream.test.tls.certificate_file", "upstream.test.tls.ca_file", "listener.test.tls.certificate_file"];
    for key in keys.into_iter().chain(["listener.test.tls.ca_file"]) {
        assert_eq!(wrote.matches(key).count(), 1, "{key}: {wrote}");
    }

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let environment = vec![("MONGATE_ADMIN__ADDRESS".to_owned(), address.clone())];
    let (exit, wrote) = Gateway::start_in_vain(&GatewayOptions { environment, ..GatewayOptions::to(&mongod) }).unwrap();
    assert_eq!(exit, Some(1), "{wrote}");
    assert!(wrote.contains(&address) && wrote.contains("admin.address"), "{wrote}");
}

#[test]
fn check_reports_an_address_in_use_and_an_admin_port_that_others_reach() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let options = GatewayOptions { listener_address: Some(address.clone()), ..GatewayOptions::to(&mongod) };
    let file = configuration(&options);
    let (exit, out, _) = run_to_end(&["check", "--offline", "--config", file.path().to_str().unwrap()]).unwrap();
    assert_eq!(exit, Some(78), "{out}");
    assert!(out.contains(&format!("listener.test.address = {address} is in use by another process")), "{out}");

    let environment = vec![("MONGATE_ADMIN__ADDRESS".to_owned(), "0.0.0.0:0".to_owned())];
    let gateway = Gateway::start(&GatewayOptions { environment, ..GatewayOptions::to(&mongod) });
    let logged = gateway.wait_for_log(LOG_TIMEOUT, |event| event["message"] == "configuration warning").unwrap();
    assert_eq!(logged["key"], "admin.address");
    assert!(logged["warning"].as_str().unwrap().contains("can be reached from other machines"), "{logged}");
}

#[test]
fn check_prints_json_also_for_a_configuration_that_cannot_be_read() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let report = |text: &str| {
        fs::write(file.path(), text).unwrap();
        let (exit, out, _) = run_to_end(&["check", "--json", "--config", file.path().to_str().unwrap()]).unwrap();
        assert_eq!(exit, Some(78), "{out}");
        let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("no JSON: {out}"));
        assert_eq!(report["verdict"], "bad_configuration", "{out}");
        report["findings"].as_array().unwrap().clone()
    };
    let findings = report("workers = 0\n[listener.a]\naddress = 'x'\n");
    let keys: Vec<_> = findings.iter().map(|finding| finding["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["listener.a.address", "listener.a.upstream", "upstream", "workers"]);
    let findings = report("[listener.a]\nsocket_permissions = 0660\n");
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0]["file"], file.path().to_str().unwrap());
    assert!(findings[0]["remedy"].as_str().unwrap().contains("quotes"), "{findings:?}");
    let (exit, out, _) = run_to_end(&["check", "--json", "--config", "/no/such/file.toml"]).unwrap();
    assert!(exit == Some(78) && out.contains("/no/such/file.toml"), "{out}");
}

#[test]
fn healthcheck_reports_what_readyz_reports() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = Gateway::to(&mongod);
    let ask = |gateway: &Gateway| run_to_end(&["healthcheck", "--address", gateway.admin_address()]).unwrap();
    // A spare connection can be proven before the first health check: what the server is comes later.
    let is_known = |answer: &(_, String, _)| answer.1.contains("upstream test: standalone at 127.0.0.1");
    let (exit, said, _) = until("the gateway is ready", || Some(ask(&gateway)).filter(is_known));
    assert!(exit == Some(0) && said.starts_with("ready\n"), "{said}");

    let refusing = ports::Refusing::new().unwrap();
    let unready =
        Gateway::start(&GatewayOptions { upstream_address: refusing.address(), ..GatewayOptions::to(&mongod) });
    let told = |answer: &(_, String, _)| answer.1.contains("cannot be reached: connection refused");
    let (exit, said, _) = until("the gateway knows that the upstream is down", || Some(ask(&unready)).filter(told));
    assert_eq!(exit, Some(1));
    assert!(said.starts_with("not ready\n") && said.contains("FAILED upstream test"), "{said}");

    let file = configuration(&GatewayOptions::to(&mongod));
    let by_file = ["healthcheck", "--address", unready.admin_address(), "--config", file.path().to_str().unwrap()];
    assert_eq!(run_to_end(&by_file).unwrap().0, Some(1), "--address takes precedence over the file");
    let address = refusing.address();
    let (exit, _, wrote) = run_to_end(&["healthcheck", "--address", &address]).unwrap();
    assert!(exit == Some(1) && wrote.contains(&format!("cannot connect to {address}")), "{exit:?} {wrote}");
}

fn check(row: &Row) {
    let file = configuration(&row.options);
    let run = |more: &[&str]| {
        let (exit, out, all) =
            run_to_end(&[&["check", "--config", file.path().to_str().unwrap()], more].concat()).unwrap();
        (exit.unwrap(), out, all)
    };
    let (exit, out, all) = run(&[]);
    assert_eq!(exit, row.exit, "{}: {all}", row.name);
    assert!(row.says.iter().all(|part| out.contains(part)), "{}: {out}", row.name);
    let (exit, out, _) = run(&["--json"]);
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{}: no JSON: {out}", row.name));
    assert_eq!((exit, report["verdict"].as_str()), (row.exit, Some(row.verdict)), "{}: {out}", row.name);
    let findings = report["findings"].as_array().unwrap();
    let errors: Vec<_> = findings.iter().filter(|finding| finding["severity"] == "error").collect();
    assert_eq!(errors.is_empty(), row.exit == 0, "{}: {out}", row.name);
    assert!(
        findings.iter().all(|finding| finding["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty())),
        "{out}"
    );

    let (exit, out, _) = run(&["--offline", "--json"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((exit, report["verdict"].as_str().unwrap()), row.offline, "{}: {out}", row.name);
    assert!(report["upstreams"][0]["connections"].as_array().unwrap().is_empty(), "{}: {out}", row.name);
}

fn configuration(options: &GatewayOptions) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), options.configuration()).unwrap();
    file
}
