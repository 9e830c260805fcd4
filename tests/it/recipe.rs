//! Certificates as MongoDB's textbooks make them: the commands of docs/certificates.md, run as they stand there, and the
//! mistakes that people make when they follow them. Each mistake ends in a sentence that names it.

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
struct Scene {
    workshop: Workshop,
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
        "it is revoked",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

/// A mistake that somebody makes with the files of the recipe.
struct Mistake {
    name: &'static str,
    /// Shell lines that make it.
    made_by: &'static str,
    /// The table with it; `ca_file` and `legacy_certificates` are added where they are missing.
    table: &'static str,
    /// Where it comes out.
    seen: Seen,
    /// Parts of the sentence.
    says: &'static [&'static str],
    /// Part of what is to be done.
    remedy: &'static str,
}

/// Where a mistake comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// `run` and `check` end with 78.
    AtStart,
    /// `check` ends with 78; `run` starts, since files are replaced under way, and clients read it.
    ByClients,
    /// All works, and `check` warns.
    InCheck,
}

const MISTAKES: [Mistake; 14] = [
    Mistake {
        name: "no certificate is given",
        made_by: "",
        table: "",
        seen: Seen::AtStart,
        says: &["upstream.test.tls.certificate_file"],
        remedy: "",
    },
    Mistake {
        name: "the certificate is given without a key",
        made_by: "",
        table: "certificate_file = 'client.crt'",
        seen: Seen::AtStart,
        says: &["certificate_file: ", "client.crt: the file holds no private key (it has: CERTIFICATE)"],
        remedy: "name its file in private_key_file",
    },
    Mistake {
        name: "the authority's file is given as key file",
        made_by: "",
        table: "certificate_file = 'client.crt'\nprivate_key_file = 'ca.pem'",
        seen: Seen::AtStart,
        says: &["private_key_file: ", "ca.pem: the file holds no private key (it has: CERTIFICATE)"],
        remedy: "name its file in private_key_file",
    },
    Mistake {
        name: "the authority's key is given as ours",
        made_by: "",
        table: "certificate_file = 'client.crt'\nprivate_key_file = 'ca.key'",
        seen: Seen::AtStart,
        says: &["ca.key: the private key belongs to the certificate in ca_file", "CN=mongo CA", "the authority's"],
        remedy: "take the authority's key off this host",
    },
    Mistake {
        name: "key and certificate are exchanged",
        made_by: "",
        table: "certificate_file = 'client.key'\nprivate_key_file = 'client.crt'",
        seen: Seen::AtStart,
        says: &["client.key: the file holds a private key and no certificate", "they are exchanged"],
        remedy: "exchange upstream.test.tls.certificate_file and upstream.test.tls.private_key_file",
    },
    Mistake {
        name: "our own file is given as the authority's",
        made_by: "",
        table: "certificate_file = 'client.pem'\nca_file = 'client.pem'",
        seen: Seen::AtStart,
        says: &["ca_file: ", "client.pem: this is our own certificate (", "CN=orders", "not that of an authority"],
        remedy: "put the certificate of the authority that signed the other side's certificate into",
    },
    Mistake {
        name: "mongod's file is used as ours",
        made_by: "",
        table: "certificate_file = 'server.pem'",
        seen: Seen::InCheck,
        says: &["OUR CERTIFICATE MAY BE THAT OF A CLUSTER MEMBER", "CN=localhost,OU=Databases"],
        remedy: "another O, OU or DC",
    },
    Mistake {
        name: "the key is that of another certificate",
        made_by: "",
        table: "certificate_file = 'client.crt'\nprivate_key_file = 'server.key'",
        seen: Seen::AtStart,
        says: &["server.key: the private key does not belong to the certificate in ", "client.crt"],
        remedy: "use the key that the certificate was requested with",
    },
    Mistake {
        name: "the certificate is DER",
        made_by: "openssl x509 -in client.crt -outform der -out client.der",
        table: "certificate_file = 'client.der'\nprivate_key_file = 'client.key'",
        seen: Seen::AtStart,
        says: &["client.der: the file is binary (DER or PKCS#12), not PEM text"],
        remedy: "openssl x509 -inform der",
    },
    Mistake {
        name: "the key is DER",
        made_by: "openssl rsa -in client.key -outform der -out client-key.der",
        table: "certificate_file = 'client.crt'\nprivate_key_file = 'client-key.der'",
        seen: Seen::AtStart,
        says: &["client-key.der: the file is binary (DER or PKCS#12), not PEM text"],
        remedy: "openssl pkey -inform der",
    },
    Mistake {
        name: "the key's file may be read by everyone",
        made_by: "cp client.key open.key && chmod 644 open.key",
        table: "certificate_file = 'client.crt'\nprivate_key_file = 'open.key'",
        seen: Seen::InCheck,
        says: &["every user of this host may", "open.key"],
        remedy: "chmod",
    },
    Mistake {
        name: "the authority has expired",
        made_by: EXPIRE_CA,
        table: "certificate_file = 'client.pem'\nca_file = 'expired-ca.pem'",
        seen: Seen::ByClients,
        says: &["CN=mongo CA", "expired"],
        remedy: "renew",
    },
    Mistake {
        name: "the chain begins with the authority",
        made_by: "cat client.key ca.pem client.crt > reversed.pem",
        table: "certificate_file = 'reversed.pem'",
        seen: Seen::AtStart,
        says: &[
            "reversed.pem: the private key does not belong to the certificate",
            "but to certificate 2 of that file",
        ],
        remedy: "put our own certificate first",
    },
    Mistake {
        name: "the chain is in the wrong order above our certificate",
        made_by: "cat client.key client.crt server.crt ca.pem > shuffled.pem",
        table: "certificate_file = 'shuffled.pem'",
        seen: Seen::InCheck,
        says: &["shuffled.pem", "CN=localhost", "CN=mongo CA"],
        remedy: "order the file",
    },
];

/// The same key and name with dates of the past: `openssl x509` cannot write those.
const EXPIRE_CA: &str = "
    : > index.txt
    printf '%s\n' '[ca]' 'default_ca=d' '[d]' 'database=index.txt' 'new_certs_dir=.' 'default_md=sha256' 'policy=p' \
        'preserve=yes' 'rand_serial=yes' 'x509_extensions=e' '[p]' 'countryName=optional' 'stateOrProvinceName=optional' \
        'localityName=optional' 'organizationName=optional' 'organizationalUnitName=optional' 'commonName=supplied' \
        'emailAddress=optional' '[e]' 'basicConstraints=critical,CA:TRUE' > dated.cnf
    openssl x509 -x509toreq -in ca.pem -signkey ca.key -out ca.csr
    openssl ca -config dated.cnf -selfsign -batch -notext -keyfile ca.key -in ca.csr -out expired-ca.pem \
        -startdate 20200101000000Z -enddate 20210101000000Z";

#[tokio::test(flavor = "multi_thread")]
async fn every_mistake_ends_in_a_sentence_that_names_it() {
    let Some(scene) = Scene::new() else { return };
    for mistake in &MISTAKES {
        scene.workshop.run(mistake.made_by);
        let options = scene.options_of(mistake.table);
        check_mistake(mistake, &options).await;
    }
}

async fn check_mistake(mistake: &Mistake, options: &GatewayOptions) {
    let Mistake { name, seen, says, remedy, .. } = mistake;
    let (exit, said) = options.check(&[]).unwrap();
    assert_eq!(exit, Some(if *seen == Seen::InCheck { 0 } else { 78 }), "{name}: {said}");
    assert!(says.iter().chain([remedy]).all(|part| said.contains(part)), "{name}: check says {said}");
    match seen {
        Seen::AtStart => {
            let (exit, wrote) = Gateway::start_in_vain(options).unwrap();
            assert_eq!(exit, Some(78), "{name}: {wrote}");
            assert!(says.iter().chain([remedy]).all(|part| wrote.contains(part)), "{name}: run says {wrote}");
        }
        Seen::ByClients => {
            let gateway = Gateway::start(options);
            let reported = reports::of_rust(&doc! { "ping": 1, "$db": "admin" }, &reports::uri(&gateway)).await;
            assert!(says.iter().all(|part| reported.message.contains(part)), "{name}: {reported:?}");
        }
        Seen::InCheck => {
            Gateway::start(options).connect().unwrap().run(&doc! { "ping": 1, "$db": "admin" }).unwrap();
        }
    }
}

#[test]
fn keys_under_a_password_are_read_and_what_is_wrong_with_them_is_said() {
    let Some(scene) = Scene::new() else { return };
    let workshop = &scene.workshop;
    workshop.run(&documented_in("Encrypted keys", 0));
    workshop.run(
        "printf 'wrong' > wrong.password
         : > empty.password
         openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -aes256 -pass file:client.password -out own.key
         openssl req -new -key own.key -passin file:client.password -out own.csr -subj /O=Acme/OU=Applications/CN=own
         openssl x509 -req -days 365 -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out own.crt
         openssl rsa -in client.key -aes256 -traditional -passout file:client.password -out traditional.key",
    );
    let right = "private_key_password_file = 'client.password'\n";
    let check = |certificate: &str, key: &str, password: &str, exit: i32, says: &str| {
        let table = format!("certificate_file = '{certificate}'\nprivate_key_file = '{key}'\n{password}");
        let (code, said) = scene.options_of(&table).check(&[]).unwrap();
        assert!(code == Some(exit) && said.contains(says), "{key} {password} {code:?}: {said}");
        said
    };
    check("client.crt", "client.encrypted.key", right, 0, "verdict: ready");
    check("own.crt", "own.key", right, 0, "verdict: ready");
    check("client.crt", "client.encrypted.key", "", 78, "no private_key_password_file is named");
    for (file, says) in [
        ("wrong.password", "is not that of the private key"),
        ("empty.password", "the file is empty, where a password was expected"),
        ("no-such.password", "the file does not exist"),
    ] {
        let password = format!("private_key_password_file = '{file}'\n");
        check("client.crt", "client.encrypted.key", &password, 78, says);
    }
    let said = check("client.crt", "traditional.key", right, 78, "Proc-Type: 4,ENCRYPTED");
    // What the remedy says, with the password that it would ask for.
    let start = said.find("openssl pkcs8").expect("a command that converts the key");
    let command = said[start..].lines().next().unwrap().replace("NEW", "converted.key");
    workshop.run(&format!("{command} -passin file:client.password -passout pass:\"$(cat client.password)\""));
    check("client.crt", "converted.key", right, 0, "verdict: ready");
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
    fn new() -> Option<Self> {
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
    fn options_of(&self, table: &str) -> GatewayOptions {
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
fn documented_in(section: &str, index: usize) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/certificates.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, section) = text.split_once(&format!("## {section}\n")).expect("the section is documented");
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let block = section.split("```sh\n").nth(index + 1).expect("the block is there");
    block.split("```").next().unwrap().to_owned()
}
