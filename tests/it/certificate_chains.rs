//! Certificate chains of company PKIs, which mongod and drivers accept: through the built binary, with a real mongod.

use std::fs;
use std::path::Path;

use bson::{Document, doc};

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::{Mongod, MongodOptions, ServerFiles};
use crate::kit::openssl::Workshop;
use crate::kit::waiting::until;
use crate::mistakes::EXPIRE_CA;
use crate::reports;
use crate::reports::LOG_TIMEOUT;

/// A root and an intermediate CA with critical policies and a name constraint for directory names, and signatures of
/// the kind RSASSA-PSS with a salt of 20 bytes, as Microsoft's CA makes them.
const PKI: &str = "
    pss='-sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:20'
    openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 365 $pss \
        -subj '/O=Acme/CN=Company root'
    printf '%s\n' basicConstraints=critical,CA:TRUE,pathlen:0 keyUsage=critical,keyCertSign,cRLSign \
        certificatePolicies=critical,1.3.6.1.4.1.99999.1 policyConstraints=critical,requireExplicitPolicy:0 \
        inhibitAnyPolicy=critical,0 'nameConstraints=critical,permitted;dirName:acme' '[acme]' O=Acme > middle.ext
    openssl req -new -newkey rsa:2048 -nodes -keyout middle.key -out middle.csr -subj '/O=Acme/CN=Issuing CA'
    openssl x509 -req -in middle.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 365 $pss -extfile middle.ext \
        -out middle.pem
    printf '%s\n' subjectAltName=DNS:localhost,IP:127.0.0.1 extendedKeyUsage=serverAuth,clientAuth \
        certificatePolicies=critical,1.3.6.1.4.1.99999.1 > leaf.ext
    issue() {
        openssl x509 -req -in $1.csr -CA middle.pem -CAkey middle.key -CAcreateserial -days 365 $pss \
            -extfile leaf.ext -out $1.crt
        cat $1.key $1.crt middle.pem > $1.pem
    }
    for name in server client; do
        openssl req -new -newkey rsa:2048 -nodes -keyout $name.key -out $name.csr -subj /O=Acme/CN=$name
        issue $name
    done
    openssl genpkey -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048 -out pss.key
    openssl req -new -key pss.key -out pss.csr -subj /O=Acme/CN=pss
    issue pss";

fn ping() -> Document {
    doc! { "ping": 1, "$db": "admin" }
}

/// A gateway to this mongod with the client certificate of [`PKI`].
fn options(workshop: &Workshop, mongod: &Mongod, ca_file: &Path) -> GatewayOptions {
    let (client, ca_file) = (workshop.file("client.pem"), ca_file.display());
    GatewayOptions {
        upstream_address: format!("localhost:{}", mongod.port()),
        upstream_tls: format!("certificate_file = '{}'\nca_file = '{ca_file}'\n", client.display()),
        ..GatewayOptions::default()
    }
}

fn mongod_with(workshop: &Workshop, certificate_key: &str) -> Option<Mongod> {
    let files = ServerFiles { certificate_key: workshop.file(certificate_key), ca: workshop.file("ca.pem") };
    Mongod::start(MongodOptions { files: Some(files), ..MongodOptions::default() })
}

#[test]
fn critical_policies_directory_names_and_signatures_with_a_short_salt_are_accepted() {
    let Some(workshop) = Workshop::new() else { return };
    workshop.run(PKI);
    for certificate_key in ["server.pem", "pss.pem"] {
        let Some(mongod) = mongod_with(&workshop, certificate_key) else { return };
        let options = options(&workshop, &mongod, &workshop.file("ca.pem"));
        Gateway::start(&options).connect().unwrap().run(&ping()).unwrap();
        let (exit, said) = options.check(&[]).unwrap();
        assert_eq!(exit, Some(0), "{certificate_key}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_limited_to_its_trust_domain_serves_its_clients() {
    let Some(workshop) = Workshop::new() else { return };
    let Some(mongod) = Mongod::shared_standalone() else { return };
    workshop.run(
        "printf '%s\n' basicConstraints=critical,CA:TRUE keyUsage=critical,keyCertSign \
            'nameConstraints=critical,permitted;URI:cluster.local' > mesh.ext
        openssl req -new -newkey rsa:2048 -nodes -keyout mesh.key -out mesh.csr -subj /CN=mesh
        openssl x509 -req -in mesh.csr -signkey mesh.key -days 365 -extfile mesh.ext -out mesh.pem
        openssl req -x509 -newkey rsa:2048 -nodes -keyout gateway-ca.key -out gateway-ca.pem -days 365 \
            -subj '/CN=gateway CA'
        openssl req -new -newkey rsa:2048 -nodes -keyout gateway.key -out gateway.csr -subj /CN=gateway
        printf '%s\n' subjectAltName=DNS:localhost,IP:127.0.0.1 > gateway.ext
        openssl x509 -req -in gateway.csr -CA gateway-ca.pem -CAkey gateway-ca.key -CAcreateserial -days 365 \
            -extfile gateway.ext -out gateway.crt
        cat gateway.key gateway.crt > gateway.pem
        for domain in cluster other; do
            openssl req -new -newkey rsa:2048 -nodes -keyout $domain.key -out $domain.csr -subj /CN=$domain
            printf '%s\n' subjectAltName=URI:spiffe://$domain.local/ns/shop/sa/cart extendedKeyUsage=clientAuth > \
                $domain.ext
            openssl x509 -req -in $domain.csr -CA mesh.pem -CAkey mesh.key -CAcreateserial -days 365 \
                -extfile $domain.ext -out $domain.crt
            cat $domain.key $domain.crt > $domain.pem
        done",
    );
    let file = |name: &str| workshop.file(name).display().to_string();
    let gateway = Gateway::start(&GatewayOptions {
        top: "trust_domain = 'cluster.local'\ntrust_domain_aliases = ['other.local']\n".to_owned(),
        listener: "mode = 'strict'\n".to_owned(),
        tables: format!(
            "[listener.test.tls]\ncertificate_file = '{}'\nca_file = '{}'\n",
            file("gateway.pem"),
            file("mesh.pem")
        ),
        ..GatewayOptions::to(&mongod)
    });
    let uri = |client: &str| {
        let (ca, client) = (file("gateway-ca.pem"), file(client));
        format!("{}&tls=true&tlsCAFile={ca}&tlsCertificateKeyFile={client}", reports::uri(&gateway))
    };
    let served = reports::of_rust(&ping(), &uri("cluster.pem")).await;
    assert!(served.kind.is_empty(), "{served:?}");
    let rejected = reports::of_rust(&ping(), &uri("other.pem")).await;
    assert!(!rejected.kind.is_empty(), "a client of another trust domain was served");
    gateway.wait_for_log(LOG_TIMEOUT, |event| event["kind"] == "invalid").unwrap();
}

#[test]
fn an_expired_authority_is_named_and_a_reload_heals() {
    let Some(workshop) = Workshop::new() else { return };
    workshop.run(PKI);
    workshop.run(EXPIRE_CA);
    let Some(mongod) = mongod_with(&workshop, "server.pem") else { return };
    let ca_file = workshop.file("trusted.pem");
    fs::copy(workshop.file("expired-ca.pem"), &ca_file).unwrap();
    let options = options(&workshop, &mongod, &ca_file);
    let gateway = Gateway::start(&options);
    let expected = format!("the CA certificate CN=Company root,O=Acme in {}", ca_file.display());
    let report = until("the gateway names the expired CA certificate", || {
        let report = gateway.get("/readyz").ok()?;
        (report.status == 503 && report.body.contains(&expected)).then_some(report.body)
    });
    assert!(report.contains("expired on 2021-01-01"), "{report}");
    let (exit, said) = options.check(&[]).unwrap();
    assert_eq!(exit, Some(78), "{said}");
    assert!(said.contains("CN=Company root,O=Acme expired 2021-01-01"), "{said}");
    // Next to a valid one it has no effect.
    workshop.run("cat expired-ca.pem ca.pem > new.pem && mv new.pem trusted.pem");
    until("the gateway is ready", || (gateway.get("/readyz").ok()?.status == 200).then_some(()));
    gateway.connect().unwrap().run(&ping()).unwrap();
}
