//! OCSP stapling by a real mongod, with `openssl ocsp` as the responder of the CA.

use std::fs;
use std::process::Command;
use std::time::Duration;

use bson::doc;

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::{Mongod, MongodOptions, ServerFiles};
use crate::kit::openssl::Workshop;
use crate::kit::ports;
use crate::kit::process::Process;
use crate::kit::raw::{body_section, op_msg};
use crate::kit::waiting::until;
use crate::reports::LOG_TIMEOUT;

/// Limit for the start of the responder, which takes milliseconds, and more on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const SERIAL: &str = "1000";

/// A CA, its responder, and a server certificate that names the responder and requires a staple.
struct Scene {
    shop: Workshop,
    responder: Option<Process>,
    port: u16,
}

impl Scene {
    fn new() -> Option<Self> {
        let shop = Workshop::new()?;
        shop.run(
            "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 30 -subj '/O=Acme/CN=Acme CA' \
             -addext basicConstraints=critical,CA:TRUE
             openssl req -newkey rsa:2048 -nodes -keyout client.key -out client.csr -subj '/O=Acme/OU=apps/CN=app'
             echo extendedKeyUsage=clientAuth > client.cnf
             openssl x509 -req -in client.csr -CA ca.pem -CAkey ca.key -set_serial 7 -days 30 -extfile client.cnf \
             -out client.crt
             cat client.crt client.key > client.pem",
        );
        let port = ports::free().unwrap();
        let mut scene = Self { shop, responder: None, port };
        scene.answer(&format!("V\t400101000000Z\t\t{SERIAL}\tunknown\t/CN=mongod\n"));
        fs::write(
            scene.shop.file("server.cnf"),
            format!(
                "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\ntlsfeature=status_request\n\
                 authorityInfoAccess=OCSP;URI:http://127.0.0.1:{port}/\n"
            ),
        )
        .unwrap();
        scene.shop.run(&format!(
            "openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj '/O=Acme/OU=db/CN=mongod'
             openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -set_serial 0x{SERIAL} -days 30 \
             -extfile server.cnf -out server.crt
             cat server.crt server.key > server.pem"
        ));
        Some(scene)
    }

    /// Starts the responder again with this database.
    fn answer(&mut self, index: &str) {
        self.responder = None;
        fs::write(self.shop.file("index.txt"), index).unwrap();
        let mut command = Command::new("openssl");
        command.args(["ocsp", "-index", "index.txt", "-CA", "ca.pem", "-rsigner", "ca.pem", "-rkey", "ca.key"]);
        command.args(["-ndays", "1", "-port", &self.port.to_string()]).current_dir(self.shop.path());
        let responder = Process::start("openssl", command).unwrap();
        let waits =
            responder.wait_for_line(START_TIMEOUT, |line| line.text.contains("waiting for OCSP client").then_some(()));
        waits.unwrap();
        self.responder = Some(responder);
    }

    fn mongod(&self, arguments: &[&str]) -> Option<Mongod> {
        let files = ServerFiles { certificate_key: self.shop.file("server.pem"), ca: self.shop.file("ca.pem") };
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Mongod::start(MongodOptions { files: Some(files), arguments, ..MongodOptions::default() })
    }

    fn options(&self, mongod: &Mongod, tls: &str) -> GatewayOptions {
        let upstream_tls = format!(
            "certificate_file = '{}'\nca_file = '{}'\n{tls}",
            self.shop.file("client.pem").display(),
            self.shop.file("ca.pem").display()
        );
        GatewayOptions { upstream_address: mongod.address(), upstream_tls, ..GatewayOptions::default() }
    }
}

/// The exit code of `mongate check`, and its output with single spaces.
fn check(options: &GatewayOptions) -> (Option<i32>, String) {
    let (code, text) = options.check(&[]).unwrap();
    (code, text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[test]
fn a_certificate_that_its_responder_revokes_is_rejected() {
    let Some(mut scene) = Scene::new() else { return };
    let Some(mut mongod) = scene.mongod(&[]) else { return };
    let options = scene.options(&mongod, "");
    // mongod asks the responder when it starts, and may listen before it has the answer.
    until("mongod staples", || check(&options).1.contains("OCSP: stapled, good, until 20").then_some(()));
    let gateway = Gateway::start(&options);
    gateway.connect().unwrap().run(&doc! { "ping": 1, "$db": "admin" }).unwrap();

    mongod.stop().unwrap();
    scene.answer(&format!("R\t400101000000Z\t260102030405Z\t{SERIAL}\tunknown\t/CN=mongod\n"));
    mongod.restart().unwrap();
    let sentence = "it is revoked since 2026-01-02 03:04:05 UTC, as the OCSP response that mongod staples says";
    let (code, text) = until("mongod staples that it is revoked", || {
        Some(check(&options)).filter(|(_, text)| text.contains(sentence))
    });
    assert_eq!(code, Some(69), "{text}");
    assert!(text.contains("give mongod a new certificate"), "{text}");
    let logged = |event: &serde_json::Value| {
        event["reason"] == "server_certificate_revoked"
            && event["error"].as_str().is_some_and(|text| text.contains(sentence))
    };
    gateway.wait_for_log(LOG_TIMEOUT, logged).unwrap();
    let mut client = gateway.connect().unwrap();
    client.send(&op_msg(1, 0, &[body_section(&doc! { "ping": 1, "$db": "admin" })])).unwrap();
    let reply = client.reply().unwrap();
    assert_eq!(reply.code(), Some(141));
    assert!(reply.document.get_str("errmsg").unwrap().contains(sentence), "{reply:?}");
    assert_eq!(check(&scene.options(&mongod, "ocsp = 'off'\n")).0, Some(0));
}

#[test]
fn a_certificate_that_requires_a_staple_is_rejected_without_one() {
    let Some(scene) = Scene::new() else { return };
    let Some(mongod) = scene.mongod(&["--setParameter", "ocspEnabled=false"]) else { return };
    let (code, text) = check(&scene.options(&mongod, ""));
    assert_eq!(code, Some(69), "{text}");
    assert!(text.contains("it requires a stapled OCSP response (TLS feature status_request)"), "{text}");
    assert!(text.contains("upstream.test.tls.ocsp = \"off\" ignores it"), "{text}");
    let (code, text) = check(&scene.options(&mongod, "ocsp = 'off'\n"));
    assert_eq!((code, text.contains("OCSP")), (Some(0), false), "{text}");
}
