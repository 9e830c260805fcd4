//! Servers that rustls cannot talk to: `mongate check` names what they have instead.

use crate::kit::gateway::GatewayOptions;
use crate::kit::mongod::{Mongod, MongodOptions, ServerFiles};
use crate::kit::openssl::Workshop;

/// A shop with a CA and a client certificate.
fn shop() -> Option<Workshop> {
    let shop = Workshop::new()?;
    shop.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 30 -subj '/O=Acme/CN=Acme CA' \
         -addext basicConstraints=critical,CA:TRUE
         printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth,clientAuth\\n' > server.cnf
         openssl req -newkey rsa:2048 -nodes -keyout client.key -out client.csr -subj '/O=Acme/OU=apps/CN=app'
         openssl x509 -req -in client.csr -CA ca.pem -CAkey ca.key -set_serial 7 -days 30 -extfile server.cnf \
         -out client.crt
         cat client.crt client.key > client.pem",
    );
    Some(shop)
}

/// Checks what `mongate check` says about a mongod whose certificate has a key of this kind (arguments of
/// `openssl genpkey`), and that has these further arguments.
#[track_caller]
fn check(shop: &Workshop, key: &str, arguments: &[&str], sentence: &str, remedy: &str) {
    shop.run(&format!(
        "openssl genpkey {key} -out server.key
         openssl req -new -key server.key -out server.csr -subj '/O=Acme/OU=db/CN=mongod'
         openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -set_serial 8 -days 30 -extfile server.cnf \
         -out server.crt
         cat server.crt server.key > server.pem"
    ));
    let files = ServerFiles { certificate_key: shop.file("server.pem"), ca: shop.file("ca.pem") };
    let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let Some(mongod) = Mongod::start(MongodOptions { files: Some(files), arguments, ..MongodOptions::default() })
    else {
        return;
    };
    let upstream_tls = format!(
        "certificate_file = '{}'\nca_file = '{}'\n",
        shop.file("client.pem").display(),
        shop.file("ca.pem").display()
    );
    let options = GatewayOptions { upstream_address: mongod.address(), upstream_tls, ..GatewayOptions::default() };
    let (code, text) = options.check(&[]).unwrap();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(code, Some(69), "{text}");
    for expected in [sentence, remedy] {
        assert!(text.contains(expected), "{expected:?} is not in {text}");
    }
    for debug in ["HandshakeFailure", "AlertReceived"] {
        assert!(!text.contains(debug), "{text}");
    }
}

#[test]
fn cipher_suites_that_rustls_does_not_have_are_named() {
    let Some(shop) = shop() else { return };
    let rsa = "-algorithm RSA -pkeyopt rsa_keygen_bits:2048";
    for suite in ["AES256-SHA", "ECDHE-RSA-AES128-SHA256"] {
        let config = format!("opensslCipherConfig={suite}");
        let arguments = ["--tlsDisabledProtocols", "TLS1_3", "--setParameter", &config];
        let sentence = format!("of TLS 1.2 it offers only cipher suites such as {suite}");
        check(&shop, rsa, &arguments, &sentence, "an ECDHE suite with AES-GCM: mongod's parameter opensslCipherConfig");
    }
}

#[test]
fn keys_that_rustls_does_not_have_are_named() {
    let Some(shop) = shop() else { return };
    for (key, name) in [
        ("-algorithm ED448", "Ed448"),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:brainpoolP256r1", "ECDSA brainpoolP256r1"),
    ] {
        let sentence = format!("its certificate has a key of the type {name}, which the gateway does not support");
        check(&shop, key, &[], &sentence, "an ECDSA key on P-256, P-384 or P-521");
    }
}
