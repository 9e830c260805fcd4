//! Every key type with every certificate form and both TLS versions against a real mongod: the gateway accepts or
//! rejects each server certificate as its settings require.
//!
//! mongod 6.0 supports all combinations, so a mongod that does not start with one fails the test. The gateway's client
//! certificate has the same key type and form as mongod's certificate, which covers client certificates too.

use std::fmt::Write;
use std::sync::Mutex;
use std::thread;

use serde_json::Value;

use crate::kit::gateway::GatewayOptions;
use crate::kit::mongod::{Mongod, MongodOptions, ServerFiles};
use crate::kit::openssl::Workshop;
use crate::kit::{mongod_binary, provision};

/// Name of the key type, and the openssl algorithm with its options.
const KEYS: [(&str, &str); 5] = [
    ("RSA 4096", "RSA -pkeyopt rsa_keygen_bits:4096"),
    ("RSA 2048", "RSA -pkeyopt rsa_keygen_bits:2048"),
    ("P-256", "EC -pkeyopt ec_paramgen_curve:prime256v1"),
    ("P-384", "EC -pkeyopt ec_paramgen_curve:secp384r1"),
    ("Ed25519", "ED25519"),
];

/// The TLS version that mongod disables, and the version that the connection then uses.
const VERSIONS: [(&str, &str); 2] = [("TLS1_3", "TLSv1.2"), ("TLS1_2", "TLSv1.3")];

/// X.509 version and names of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Version 3 with a subject alternative name.
    Names,
    /// Version 3 with a common name only.
    CommonName,
    /// Version 1 with a common name only: it has no extensions.
    Version1,
}

/// One upstream of the configuration and the expected result.
struct Row {
    name: &'static str,
    table: &'static str,
    /// Part of the error for this form of certificate, or `None` if it is accepted.
    refused: fn(Form) -> Option<&'static str>,
}

const ROWS: [Row; 8] = [
    Row { name: "full", table: FULL, refused: |_| None },
    Row { name: "chain", table: CHAIN, refused: |_| None },
    Row {
        name: "full-strict",
        table: "server_name = 'localhost'",
        refused: |form| match form {
            Form::Names => None,
            Form::CommonName => Some("it has no subject alternative name"),
            Form::Version1 => Some("it is an X.509 version 1 certificate"),
        },
    },
    Row {
        name: "chain-strict",
        table: "server_name = 'localhost'\nverify = 'chain'",
        refused: |form| (form == Form::Version1).then_some("it is an X.509 version 1 certificate"),
    },
    Row {
        name: "full-other-name",
        table: "server_name = 'other.example'\nlegacy_certificates = true",
        refused: |_| Some("other.example"),
    },
    Row {
        name: "chain-other-name",
        table: "server_name = 'other.example'\nverify = 'chain'\nlegacy_certificates = true",
        refused: |_| None,
    },
    Row { name: "full-other-authority", table: FULL, refused: |_| Some(OTHER_AUTHORITY) },
    Row { name: "chain-other-authority", table: CHAIN, refused: |_| Some(OTHER_AUTHORITY) },
];
const FULL: &str = "server_name = 'localhost'\nlegacy_certificates = true";
const CHAIN: &str = "server_name = 'localhost'\nverify = 'chain'\nlegacy_certificates = true";
/// The other CA has the same name, so only the signature differs.
const OTHER_AUTHORITY: &str = "the trust anchor of that name did not sign it";

#[test]
fn every_key_type_certificate_form_and_tls_version_is_accepted_or_rejected_correctly() {
    if provision::or_skip("a real mongod", mongod_binary::locate()).is_none() || Workshop::new().is_none() {
        return;
    }
    // Two at a time: more mongods than cores would not start faster. The slowest key type comes first.
    let remaining = Mutex::new(KEYS.iter());
    let next = || remaining.lock().unwrap().next();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((name, algorithm)) = next() {
                    check_key_type(name, algorithm);
                }
            });
        }
    });
}

fn check_key_type(name: &str, algorithm: &str) {
    let workshop = Workshop::new().expect("openssl is installed");
    workshop.run(&format!(
        "for who in ca server; do openssl genpkey -algorithm {algorithm} -out $who.key; done
         # Generating large keys is slow, so three parties share one.
         cp server.key client.key
         cp server.key stranger.key
         for who in ca stranger; do
             openssl req -new -x509 -key $who.key -days 365 -subj '/O=Acme/CN=matrix CA' -out $who.pem
         done
         for who in server client; do
             openssl req -new -key $who.key -subj \"/O=Acme/OU=$who/CN=localhost\" -out $who.csr
         done"
    ));
    for form in [Form::Names, Form::CommonName, Form::Version1] {
        for who in ["server", "client"] {
            sign(&workshop, form, who);
        }
        for (disabled, version) in VERSIONS {
            let files = ServerFiles { certificate_key: workshop.file("server.pem"), ca: workshop.file("ca.pem") };
            let options =
                MongodOptions { files: Some(files), disabled_protocols: Some(disabled), ..MongodOptions::default() };
            let mongod = Mongod::try_start(options).unwrap_or_else(|error| panic!("{name} {form:?}: {error:#}"));
            check(&workshop, &mongod, form, version, &format!("{name}, {form:?}, {version}"));
        }
    }
}

fn sign(workshop: &Workshop, form: Form, who: &str) {
    let extensions = match form {
        Form::Names => "subjectAltName=DNS:localhost",
        Form::CommonName => "basicConstraints=CA:FALSE",
        Form::Version1 => "",
    };
    if form == Form::Version1 {
        workshop.sign_version_1(who);
    } else {
        workshop.run(&format!(
            "echo {extensions} > {who}.ext
             openssl x509 -req -days 365 -in {who}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {who}.crt \
                 -extfile {who}.ext"
        ));
    }
    workshop.run(&format!("cat {who}.key {who}.crt > {who}.pem"));
}

/// One `mongate check` of all rows.
fn check(workshop: &Workshop, mongod: &Mongod, form: Form, version: &str, cell: &str) {
    let (exit, said) = configuration(workshop, mongod).check(&["--json"]).unwrap();
    assert_eq!(exit, Some(69), "{cell}: {said}");
    let report: Value = serde_json::from_str(&said).unwrap();
    for row in &ROWS {
        let upstream = report["upstreams"].as_array().unwrap().iter().find(|upstream| upstream["name"] == row.name);
        let connection = &upstream.unwrap()["connections"][0];
        let errors: Vec<_> = report["findings"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|finding| finding["upstream"] == row.name && finding["severity"] == "error")
            .map(|finding| finding["sentence"].as_str().unwrap())
            .collect();
        let server = &connection["server_certificate"];
        assert_eq!(server["version"], if form == Form::Version1 { 1 } else { 3 }, "{cell}, {}: {errors:?}", row.name);
        if let Some(reason) = (row.refused)(form) {
            assert!(matches!(errors.as_slice(), [error] if error.contains(reason)), "{cell}, {}: {errors:?}", row.name);
        } else {
            assert!(errors.is_empty(), "{cell}, {}: {errors:?}", row.name);
            assert_eq!(connection["handshake"]["version"], version, "{cell}, {}", row.name);
        }
    }
}

fn configuration(workshop: &Workshop, mongod: &Mongod) -> GatewayOptions {
    let mut tables = String::new();
    let place = workshop.path().display();
    for Row { name, table, .. } in ROWS {
        let ca = if name.ends_with("other-authority") { "stranger.pem" } else { "ca.pem" };
        let files = format!("certificate_file = '{place}/client.pem'\nca_file = '{place}/{ca}'\n{table}\n");
        let address = mongod.address();
        write!(tables, "[upstream.{name}]\naddress = '{address}'\n[upstream.{name}.tls]\n{files}").unwrap();
    }
    let mut options = GatewayOptions { upstream_address: mongod.address(), tables, ..GatewayOptions::default() };
    options.upstream_tls = format!("certificate_file = '{place}/client.pem'\nca_file = '{place}/ca.pem'\n{FULL}\n");
    options
}
