//! The mistakes that people make with the certificates of the textbooks, each of which ends in a sentence that names it.

use bson::doc;

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::recipe::{Scene, documented_in};
use crate::reports;

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
        says: &["CERTIFICATE MAY BE TAKEN FOR A CLUSTER MEMBER", "CN=localhost,OU=Databases"],
        remedy: "whose O, OU or DC differs",
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
