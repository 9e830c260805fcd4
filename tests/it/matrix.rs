//! Every kind of key in every form of certificate under both versions of TLS, against a real mongod: what is to be
//! accepted is, and what is to be refused is.
//!
//! mongod 6.0 serves all of them, so nothing is left out: mongod that does not start with a pair fails the test.
//! Our own certificate has the kind and form of mongod's, so that client certificates are covered too.

use std::fmt::Write;
use std::sync::Mutex;
use std::thread;

use serde_json::Value;

use crate::kit::gateway::GatewayOptions;
use crate::kit::mongod::{Mongod, MongodOptions, ServerFiles};
use crate::kit::openssl::Workshop;
use crate::kit::{mongod_binary, provision};

/// Name and how openssl makes one.
const KEYS: [(&str, &str); 5] = [
    ("RSA 4096", "RSA -pkeyopt rsa_keygen_bits:4096"),
    ("RSA 2048", "RSA -pkeyopt rsa_keygen_bits:2048"),
    ("P-256", "EC -pkeyopt ec_paramgen_curve:prime256v1"),
    ("P-384", "EC -pkeyopt ec_paramgen_curve:secp384r1"),
    ("Ed25519", "ED25519"),
];

/// What mongod is told not to speak, and what is spoken then.
const VERSIONS: [(&str, &str); 2] = [("TLS1_3", "TLSv1.2"), ("TLS1_2", "TLSv1.3")];

/// What a certificate says of its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Version 3 with a subject alternative name.
    Names,
    /// Version 3 with nothing but a common name.
    CommonName,
    /// Version 1, which has nothing else.
    Version1,
}

/// How one upstream of the configuration is to be, and what becomes of it.
struct Row {
    name: &'static str,
    table: &'static str,
    /// Part of the sentence of the refusal; none where it is accepted.
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
/// The stranger has the authority's name: only the signature tells.
const OTHER_AUTHORITY: &str = "the trust anchor of that name did not sign it";

#[test]
fn every_kind_of_key_form_of_certificate_and_version_of_tls_is_judged_as_it_should_be() {
    if provision::or_skip("a real mongod", mongod_binary::locate()).is_none() || Workshop::new().is_none() {
        return;
    }
    // Two at a time: more mongods than cores start no sooner. The slowest kind is first.
    let left = Mutex::new(KEYS.iter());
    let next = || left.lock().unwrap().next();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((name, algorithm)) = next() {
                    check_kind(name, algorithm);
                }
            });
        }
    });
}

fn check_kind(name: &str, algorithm: &str) {
    let workshop = Workshop::new().expect("openssl was there a moment ago");
    workshop.run(&format!(
        "for who in ca server; do openssl genpkey -algorithm {algorithm} -out $who.key; done
         # Large keys take long to make: three parties have the same.
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
             openssl x509 -req -days 365 -in {who}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {who}.crt -extfile {who}.ext"
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
