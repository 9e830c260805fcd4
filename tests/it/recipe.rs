//! Runs the openssl commands of docs/certificates.md exactly as the page shows them, and uses the certificates that
//! they create: between the gateway and a real mongod.

use std::fs;
use std::path::Path;

use bson::{Document, doc};
use mongodb::Client;
use serde_json::Value;

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::{Mongod, MongodOptions, ServerFiles};
use crate::kit::openssl::Workshop;
use crate::reports;

/// Heading of the section with the commands.
const SECTION: &str = "Certificates made with plain openssl";
/// Index of the shell block that creates the certificates.
const MAKE: usize = 0;
/// Index of the shell block that issues the server certificate again, with a subject alternative name.
const REISSUE: usize = 1;

/// The certificates that the documented commands create, and a mongod that uses the server certificate.
pub struct Scene {
    /// Directory with the certificate files.
    pub workshop: Workshop,
    mongod: Mongod,
    /// X.509 version of mongod's certificate and of the gateway's client certificate.
    version: u32,
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_certificates_work_with_legacy_certificates() {
    for scene in Scene::of_each_version() {
        let gateway = Gateway::start(&scene.options("legacy_certificates = true\n"));
        let client = Client::with_uri_str(reports::uri(&gateway)).await.unwrap();
        let collection = client.database("recipe").collection::<Document>("c");
        collection.insert_one(doc! { "_id": 1 }).await.unwrap();
        assert_eq!(collection.count_documents(doc! {}).await.unwrap(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_legacy_certificates_the_error_names_the_cause_and_both_remedies() {
    for scene in Scene::of_each_version() {
        check_cause_and_both_remedies(&scene).await;
    }
}

async fn check_cause_and_both_remedies(scene: &Scene) {
    let options = scene.options("");
    let kind = match scene.version {
        1 => "it is an X.509 version 1 certificate",
        _ => "it has no subject alternative name",
    };
    let gateway = Gateway::start(&options);
    let reported = reports::of_rust(&doc! { "ping": 1, "$db": "admin" }, &reports::uri(&gateway)).await;
    assert!(reported.message.contains(kind), "{reported:?}");
    assert!(reported.message.contains("CN=localhost"), "{reported:?}");
    let logged =
        gateway.wait_for_log(reports::LOG_TIMEOUT, |event| event["message"] == "upstream connection failed").unwrap();
    let remedy = logged["remedy"].as_str().unwrap();
    for part in ["subjectAltName=DNS:localhost", "-extfile", "upstream.test.tls.legacy_certificates"] {
        assert!(remedy.contains(part), "{part} is missing from the remedy: {remedy}");
    }
    let (exit, said) = options.check(&[]).unwrap();
    assert_eq!(exit, Some(69), "{said}");
    assert!(said.contains(kind) && said.contains(remedy), "{said}");
}

#[test]
fn the_documented_reissued_certificate_needs_no_legacy_certificates() {
    let Some(workshop) = created_workshop() else { return };
    workshop.run(&documented(REISSUE));
    let Some(scene) = Scene::of(workshop) else { return };
    for verify in ["full", "chain"] {
        let (exit, said) = scene.options(&format!("verify = \"{verify}\"\n")).check(&[]).unwrap();
        assert_eq!(exit, Some(0), "{said}");
    }
}

#[test]
fn check_prints_the_user_name_as_mongod_does() {
    let Some(scene) = Scene::new() else { return };
    let options = scene.options("legacy_certificates = true\n");
    let user = external_user(&options);
    let expected = "emailAddress=orders@acme.example,CN=orders,OU=Applications,O=Acme,L=Berlin,ST=Berlin,C=DE";
    assert_eq!((user.as_str(), user_of_mongod(&options).as_str()), (expected, expected));

    let gateway = Gateway::start(&options);
    let mut connection = gateway.connect().unwrap();
    let login = doc! { "authenticate": 1, "mechanism": "MONGODB-X509", "$db": "$external" };
    let roles = vec![doc! { "role": "read", "db": "recipe" }];
    connection.run(&doc! { "createUser": &user, "roles": roles, "$db": "$external" }).unwrap();
    let mut connection = gateway.connect().unwrap();
    connection.run(&login).unwrap();
    let status = connection.run(&doc! { "connectionStatus": 1, "$db": "admin" }).unwrap();
    let users = status.get_document("authInfo").unwrap().get_array("authenticatedUsers").unwrap();
    assert_eq!(
        users.first().and_then(|user| user.as_document()?.get_str("user").ok()),
        Some(user.as_str()),
        "{status}"
    );
}

#[test]
fn the_documented_crl_revokes_the_certificate_of_mongod() {
    let Some(scene) = Scene::new() else { return };
    scene.workshop.run(&documented_in("Revocation lists", 0));
    let with_crl = scene.options_of("certificate_file = 'client.pem'\ncrl_file = 'crl.pem'");
    let (exit, said) = with_crl.check(&[]).unwrap();
    assert_eq!(exit, Some(69), "{said}");
    for part in [
        "revocation list         of emailAddress=dba@acme.example,CN=mongo CA",
        "1 certificate revoked",
        "it, or the certificate of an issuer, is revoked",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

/// Subjects in openssl's syntax. Each one tests another rule of the RFC 4514 form: escapes, spaces, hexadecimal values,
/// non-ASCII text, multi-valued RDNs, short names and repeated attributes.
const SUBJECTS: [&str; 9] = [
    "/DC=example/DC=acme/O=Acme/CN=orders",
    r#"/O=Acme, Inc./CN=orders \+ "more""#,
    "/O=Acme/CN=#orders",
    "/O= Acme /CN=orders ",
    r"/O=Ac;me<>\\/CN=ord=ers",
    "/O=Größe/CN=注文",
    "/O=Acme/OU=one+OU=two/CN=orders+UID=4711",
    "/C=DE/street=Hauptstr. 1/O=Acme/title=Dr/GN=Ada/SN=L/serialNumber=17/CN=orders",
    "/O=Acme/CN=orders/emailAddress=a@acme.example/emailAddress=b@acme.example",
];

#[test]
fn check_prints_every_subject_as_mongod_does() {
    let Some(scene) = Scene::new() else { return };
    for subject in SUBJECTS {
        scene.workshop.run(&format!(
            "openssl req -new -utf8 -multivalue-rdn -key client.key -out subject.csr -subj '{subject}'
             openssl x509 -req -days 365 -in subject.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out subject.crt"
        ));
        let options = scene.options_of("certificate_file = 'subject.crt'\nprivate_key_file = 'client.key'");
        let user = external_user(&options);
        assert_eq!(user_of_mongod(&options), user, "{subject}");
    }
}

/// Returns the user name that `mongate check` prints.
fn external_user(options: &GatewayOptions) -> String {
    let (exit, said) = options.check(&["--json", "--offline"]).unwrap();
    assert_eq!(exit, Some(0), "{said}");
    let report: Value = serde_json::from_str(&said).unwrap();
    report["upstreams"][0]["external_user"].as_str().unwrap().to_owned()
}

/// Returns the user name that mongod derives from this certificate: it looks for this user if `authenticate` has no
/// user field.
fn user_of_mongod(options: &GatewayOptions) -> String {
    let login = doc! { "authenticate": 1, "mechanism": "MONGODB-X509", "$db": "$external" };
    let refused = Gateway::start(options).connect().unwrap().command(&login).unwrap();
    let said = refused.get_str("errmsg").unwrap();
    let user =
        said.strip_prefix("Could not find user \"").and_then(|rest| rest.strip_suffix("\" for db \"$external\""));
    user.unwrap_or_else(|| panic!("mongod's reply has no user name: {said}")).to_owned()
}

impl Scene {
    /// Runs the documented commands and starts mongod; `None` if openssl or mongod is missing.
    pub fn new() -> Option<Self> {
        Self::of(created_workshop()?)
    }

    /// One with the X.509 version that this openssl creates. If that is not version 1, a second one with version 1, as
    /// older releases of openssl create it.
    fn of_each_version() -> Vec<Self> {
        let created = Self::new();
        let is_version_1 = created.as_ref().is_none_or(|scene| scene.version == 1);
        let old = if is_version_1 {
            None
        } else {
            created_workshop().and_then(|workshop| Self::of(resigned_in_version_1(workshop)))
        };
        created.into_iter().chain(old).collect()
    }

    fn of(workshop: Workshop) -> Option<Self> {
        let files = ServerFiles { certificate_key: workshop.file("server.pem"), ca: workshop.file("ca.pem") };
        let mongod = Mongod::start(MongodOptions { files: Some(files), ..MongodOptions::default() })?;
        let version = workshop.version_of("server");

        Some(Self { workshop, mongod, version })
    }

    /// A gateway with the documented certificate files; `more` is appended to its table `tls`.
    fn options(&self, more: &str) -> GatewayOptions {
        self.with_files(&format!("certificate_file = 'client.pem'\nca_file = 'ca.pem'\n{more}"))
    }

    /// A gateway with `table` as its table `tls`, with `legacy_certificates`, and with the documented `ca_file` unless
    /// the table has one.
    pub fn options_of(&self, table: &str) -> GatewayOptions {
        let ca_file = if table.contains("ca_file") { "" } else { "ca_file = 'ca.pem'\n" };
        self.with_files(&format!("{table}\n{ca_file}legacy_certificates = true\n"))
    }

    /// A gateway with exactly this table; file names are relative to the workshop.
    fn with_files(&self, table: &str) -> GatewayOptions {
        let directory = self.workshop.path().display();
        GatewayOptions {
            upstream_address: format!("localhost:{}", self.mongod.port()),
            upstream_tls: table.replace("_file = '", &format!("_file = '{directory}/")),
            ..GatewayOptions::default()
        }
    }
}

fn resigned_in_version_1(workshop: Workshop) -> Workshop {
    for stem in ["server", "client"] {
        workshop.sign_version_1(stem);
        workshop.run(&format!("cat {stem}.key {stem}.crt > {stem}.pem"));
    }
    workshop
}

/// Runs the documented commands in a new directory.
fn created_workshop() -> Option<Workshop> {
    let workshop = Workshop::new()?;
    workshop.run(&documented(MAKE));
    Some(workshop)
}

fn documented(index: usize) -> String {
    documented_in(SECTION, index)
}

/// Returns a shell block of docs/certificates.md: the one with this index in the section with this heading.
pub fn documented_in(section: &str, index: usize) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/certificates.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, section) = text.split_once(&format!("## {section}\n")).expect("docs/certificates.md has this section");
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let block = section.split("```sh\n").nth(index + 1).expect("the section has this shell block");
    block.split("```").next().unwrap().to_owned()
}
