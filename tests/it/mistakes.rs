//! Common mistakes with certificates and keys. Each one must produce a message that names it.

use bson::doc;

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::recipe::{Scene, documented_in};
use crate::reports;

/// One mistake with the certificate files of the recipe.
struct Mistake {
    name: &'static str,
    /// Shell commands that create the files with the mistake.
    made_by: &'static str,
    /// The TLS table of the configuration. `ca_file` and `legacy_certificates` are added if they are missing.
    table: &'static str,
    /// Where the mistake is reported.
    seen: Seen,
    /// Parts of the message.
    says: &'static [&'static str],
    /// Part of the remedy.
    remedy: &'static str,
}

/// Where a mistake is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// `run` and `check` exit with 78.
    AtStart,
    /// `check` exits with 78. `run` starts, because the files may be replaced later, and clients read the message.
    ByClients,
    /// Connections work, and `check` warns.
    InCheck,
}

const MISTAKES: [Mistake; 14] = [
    Mistake {
        name: "no certificate is configured",
        made_by: "",
        table: "",
        seen: Seen::AtStart,
        says: &["upstream.test.tls.certificate_file"],
        remedy: "",
    },
    Mistake {
        name: "the certificate is configured without a key",
        made_by: "",
        table: "certificate_file = 'client.crt'",
        seen: Seen::AtStart,
        says: &["certificate_file: ", "client.crt: the file contains no private key (it contains: CERTIFICATE)"],
        remedy: "set private_key_file to its file",
    },
    Mistake {
        name: "the CA's certificate file is configured as the key file",
        made_by: "",
        table: "certificate_file = 'client.crt'\nprivate_key_file = 'ca.pem'",
        seen: Seen::AtStart,
        says: &["private_key_file: ", "ca.pem: the file contains no private key (it contains: CERTIFICATE)"],
        remedy: "set private_key_file to its file",
    },
    Mistake {
        name: "the CA's key is configured as the client key",
        made_by: "",
        table: "certificate_file = 'client.crt'\nprivate_key_file = 'ca.key'",
        seen: Seen::AtStart,
        says: &["ca.key: the private key belongs to the CA certificate in ca_file", "CN=mongo CA", "not to a leaf"],
        remedy: "remove the CA's private key from this host",
    },
    Mistake {
        name: "the key file and the certificate file are swapped",
        made_by: "",
        table: "certificate_file = 'client.key'\nprivate_key_file = 'client.crt'",
        seen: Seen::AtStart,
        says: &["client.key: the file contains a private key and no certificate", "the two files are swapped"],
        remedy: "swap upstream.test.tls.certificate_file and upstream.test.tls.private_key_file",
    },
    Mistake {
        name: "the client certificate file is configured as ca_file",
        made_by: "",
        table: "certificate_file = 'client.pem'\nca_file = 'client.pem'",
        seen: Seen::AtStart,
        says: &[
            "ca_file: ",
            "client.pem: this is the certificate of certificate_file (",
            "CN=orders",
            "not a CA certificate",
        ],
        remedy: "put the certificate of the CA that signed the peer's certificate into",
    },
    Mistake {
        name: "mongod's certificate file is used as the client certificate",
        made_by: "",
        table: "certificate_file = 'server.pem'",
        seen: Seen::InCheck,
        says: &["CERTIFICATE MAY BE TAKEN FOR A CLUSTER MEMBER", "CN=localhost,OU=Databases"],
        remedy: "whose O, OU or DC differs",
    },
    Mistake {
        name: "the key belongs to another certificate",
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
        name: "every user can read the key file",
        made_by: "cp client.key open.key && chmod 644 open.key",
        table: "certificate_file = 'client.crt'\nprivate_key_file = 'open.key'",
        seen: Seen::InCheck,
        says: &["every user of this host can read", "open.key"],
        remedy: "chmod",
    },
    Mistake {
        name: "the CA certificate has expired",
        made_by: EXPIRE_CA,
        table: "certificate_file = 'client.pem'\nca_file = 'expired-ca.pem'",
        seen: Seen::ByClients,
        says: &["CN=mongo CA", "expired"],
        remedy: "renew",
    },
    Mistake {
        name: "the chain begins with the CA certificate",
        made_by: "cat client.key ca.pem client.crt > reversed.pem",
        table: "certificate_file = 'reversed.pem'",
        seen: Seen::AtStart,
        says: &[
            "reversed.pem: the private key does not belong to the certificate",
            "but to certificate 2 of that file",
        ],
        remedy: "put the leaf certificate first",
    },
    Mistake {
        name: "the chain above the leaf certificate is in the wrong order",
        made_by: "cat client.key client.crt server.crt ca.pem > shuffled.pem",
        table: "certificate_file = 'shuffled.pem'",
        seen: Seen::InCheck,
        says: &["shuffled.pem", "CN=localhost", "CN=mongo CA"],
        remedy: "order the file",
    },
];

/// The CA certificate with the same key and name, but dates in the past. `openssl x509` cannot set such dates.
pub const EXPIRE_CA: &str = "
    : > index.txt
    printf '%s\n' '[ca]' 'default_ca=d' '[d]' 'database=index.txt' 'new_certs_dir=.' 'default_md=sha256' 'policy=p' \
        'preserve=yes' 'rand_serial=yes' 'x509_extensions=e' '[p]' 'countryName=optional' \
        'stateOrProvinceName=optional' 'localityName=optional' 'organizationName=optional' \
        'organizationalUnitName=optional' 'commonName=supplied' \
        'emailAddress=optional' '[e]' 'basicConstraints=critical,CA:TRUE' > dated.cnf
    openssl x509 -x509toreq -in ca.pem -signkey ca.key -out ca.csr
    openssl ca -config dated.cnf -selfsign -batch -notext -keyfile ca.key -in ca.csr -out expired-ca.pem \
        -startdate 20200101000000Z -enddate 20210101000000Z";

#[tokio::test(flavor = "multi_thread")]
async fn every_mistake_produces_a_message_that_names_it() {
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
    assert!(says.iter().chain([remedy]).all(|part| said.contains(part)), "{name}: check prints {said}");
    match seen {
        Seen::AtStart => {
            let (exit, wrote) = Gateway::start_in_vain(options).unwrap();
            assert_eq!(exit, Some(78), "{name}: {wrote}");
            assert!(says.iter().chain([remedy]).all(|part| wrote.contains(part)), "{name}: run prints {wrote}");
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
fn encrypted_keys_are_read_and_their_faults_are_named() {
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
    check("client.crt", "client.encrypted.key", "", 78, "private_key_password_file is not set");
    for (file, says) in [
        ("wrong.password", "is not the password of the private key"),
        ("empty.password", "the file is empty; it must contain a password"),
        ("no-such.password", "the file does not exist"),
    ] {
        let password = format!("private_key_password_file = '{file}'\n");
        check("client.crt", "client.encrypted.key", &password, 78, says);
    }
    let said = check("client.crt", "traditional.key", right, 78, "Proc-Type: 4,ENCRYPTED");
    // The command of the remedy, with the password that it would prompt for.
    let start = said.find("openssl pkcs8").expect("a command that converts the key");
    let command = said[start..].lines().next().unwrap().replace("NEW", "converted.key");
    workshop.run(&format!("{command} -passin file:client.password -passout pass:\"$(cat client.password)\""));
    check("client.crt", "converted.key", right, 0, "verdict: ready");
}
