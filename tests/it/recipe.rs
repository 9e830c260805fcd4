//! Certificates as MongoDB's textbooks make them: the commands of docs/certificates.md, run as they stand there.

use std::fs;
use std::path::Path;

use bson::{Document, doc};
use mongodb::Client;
use serde_json::Value;

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::{Mongod, MongodOptions, ServerFiles};
use crate::kit::openssl::Workshop;
use crate::reports;

/// The heading of the recipe, and which of its blocks of shell lines is which.
const SECTION: &str = "Certificates made with plain openssl";
const MAKE: usize = 0;
const REISSUE: usize = 1;

/// The certificates of the recipe, and a mongod that has its part of them.
pub struct Scene {
    /// Where the files are.
    pub workshop: Workshop,
    mongod: Mongod,
    /// X.509 version of mongod's certificate and of ours.
    version: u32,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_textbook_recipe_works_with_legacy_certificates() {
    for scene in Scene::of_each_version() {
        let gateway = Gateway::start(&scene.options("legacy_certificates = true\n"));
        let client = Client::with_uri_str(reports::uri(&gateway)).await.unwrap();
        let collection = client.database("recipe").collection::<Document>("c");
        collection.insert_one(doc! { "_id": 1 }).await.unwrap();
        assert_eq!(collection.count_documents(doc! {}).await.unwrap(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_legacy_certificates_the_sentence_says_what_it_is_and_both_ways_out() {
    for scene in Scene::of_each_version() {
        refuses_with_both_ways_out(&scene).await;
    }
}

async fn refuses_with_both_ways_out(scene: &Scene) {
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
        gateway.wait_for_log(reports::LOG_TIMEOUT, |event| event["message"] == "cannot connect to upstream").unwrap();
    let remedy = logged["remedy"].as_str().unwrap();
    for way_out in ["subjectAltName=DNS:localhost", "-extfile", "upstream.test.tls.legacy_certificates"] {
        assert!(remedy.contains(way_out), "{way_out} is not in: {remedy}");
    }
    let (exit, said) = options.check(&[]).unwrap();
    assert_eq!(exit, Some(69), "{said}");
    assert!(said.contains(kind) && said.contains(remedy), "{said}");
}

#[test]
fn the_recipes_own_way_out_needs_no_legacy_certificates() {
    let Some(workshop) = made() else { return };
    workshop.run(&documented(REISSUE));
    let Some(scene) = Scene::of(workshop) else { return };
    for verify in ["full", "chain"] {
        let (exit, said) = scene.options(&format!("verify = \"{verify}\"\n")).check(&[]).unwrap();
        assert_eq!(exit, Some(0), "{said}");
    }
}

#[test]
fn check_writes_the_user_as_mongod_does() {
    let Some(scene) = Scene::new() else { return };
    let options = scene.options("legacy_certificates = true\n");
    let user = external_user(&options);
    let expected = "emailAddress=orders@acme.example,CN=orders,OU=Applications,O=Acme,L=Berlin,ST=Berlin,C=DE";
    assert_eq!((user.as_str(), mongods_user(&options).as_str()), (expected, expected));

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
fn the_documented_list_takes_mongods_certificate_back() {
    let Some(scene) = Scene::new() else { return };
    scene.workshop.run(&documented_in("Revocation lists", 0));
    let with_list = scene.options_of("certificate_file = 'client.pem'\ncrl_file = 'crl.pem'");
    let (exit, said) = with_list.check(&[]).unwrap();
    assert_eq!(exit, Some(69), "{said}");
    for part in [
        "revocation list         of emailAddress=dba@acme.example,CN=mongo CA",
        "1 certificate revoked",
        "it, or the certificate of an issuer, is revoked",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

/// Subjects as openssl takes them, each with a twist of its own.
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
fn check_writes_every_subject_as_mongod_does() {
    let Some(scene) = Scene::new() else { return };
    for subject in SUBJECTS {
        scene.workshop.run(&format!(
            "openssl req -new -utf8 -multivalue-rdn -key client.key -out subject.csr -subj '{subject}'
             openssl x509 -req -days 365 -in subject.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out subject.crt"
        ));
        let options = scene.options_of("certificate_file = 'subject.crt'\nprivate_key_file = 'client.key'");
        let user = external_user(&options);
        assert_eq!(mongods_user(&options), user, "{subject}");
    }
}

/// What `mongate check` says.
fn external_user(options: &GatewayOptions) -> String {
    let (exit, said) = options.check(&["--json", "--offline"]).unwrap();
    assert_eq!(exit, Some(0), "{said}");
    let report: Value = serde_json::from_str(&said).unwrap();
    report["upstreams"][0]["external_user"].as_str().unwrap().to_owned()
}

/// Whom mongod looks for when somebody authenticates with this certificate and names nobody.
fn mongods_user(options: &GatewayOptions) -> String {
    let login = doc! { "authenticate": 1, "mechanism": "MONGODB-X509", "$db": "$external" };
    let refused = Gateway::start(options).connect().unwrap().command(&login).unwrap();
    let said = refused.get_str("errmsg").unwrap();
    let user =
        said.strip_prefix("Could not find user \"").and_then(|rest| rest.strip_suffix("\" for db \"$external\""));
    user.unwrap_or_else(|| panic!("mongod says: {said}")).to_owned()
}

impl Scene {
    /// As the recipe makes it; `None` where openssl or mongod is missing.
    pub fn new() -> Option<Self> {
        Self::of(made()?)
    }

    /// One as this openssl makes it; where that is not version 1 any more, another one that is.
    fn of_each_version() -> Vec<Self> {
        let as_made = Self::new();
        let is_old = as_made.as_ref().is_none_or(|scene| scene.version == 1);
        let old = if is_old { None } else { made().and_then(|workshop| Self::of(in_version_1(workshop))) };
        as_made.into_iter().chain(old).collect()
    }

    fn of(workshop: Workshop) -> Option<Self> {
        let files = ServerFiles { certificate_key: workshop.file("server.pem"), ca: workshop.file("ca.pem") };
        let mongod = Mongod::start(MongodOptions { files: Some(files), ..MongodOptions::default() })?;
        let version = workshop.version_of("server");

        Some(Self { workshop, mongod, version })
    }

    /// A gateway as the recipe configures it, and what else is in its table.
    fn options(&self, more: &str) -> GatewayOptions {
        self.with_files(&format!("certificate_file = 'client.pem'\nca_file = 'ca.pem'\n{more}"))
    }

    /// A gateway with this table, completed.
    pub fn options_of(&self, table: &str) -> GatewayOptions {
        let authority = if table.contains("ca_file") { "" } else { "ca_file = 'ca.pem'\n" };
        self.with_files(&format!("{table}\n{authority}legacy_certificates = true\n"))
    }

    /// A gateway with exactly this table; file names are of the workshop.
    fn with_files(&self, table: &str) -> GatewayOptions {
        let place = self.workshop.path().display();
        GatewayOptions {
            upstream_address: format!("localhost:{}", self.mongod.port()),
            upstream_tls: table.replace("_file = '", &format!("_file = '{place}/")),
            ..GatewayOptions::default()
        }
    }
}

fn in_version_1(workshop: Workshop) -> Workshop {
    for who in ["server", "client"] {
        workshop.sign_version_1(who);
        workshop.run(&format!("cat {who}.key {who}.crt > {who}.pem"));
    }
    workshop
}

fn made() -> Option<Workshop> {
    let workshop = Workshop::new()?;
    workshop.run(&documented(MAKE));
    Some(workshop)
}

fn documented(index: usize) -> String {
    documented_in(SECTION, index)
}

/// A block of shell lines as docs/certificates.md has it.
pub fn documented_in(section: &str, index: usize) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/certificates.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, section) = text.split_once(&format!("## {section}\n")).expect("the section is documented");
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let block = section.split("```sh\n").nth(index + 1).expect("the block is there");
    block.split("```").next().unwrap().to_owned()
}
