//! `send_proxy`: the server receives the address of each client, and learns which connections are the gateway's own.

use std::net::SocketAddr;
use std::sync::Arc;

use bson::doc;

use crate::kit::certificates::Wanted;
use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::Mongod;
use crate::kit::proxy_port::{ProxyPort, Told};
use crate::kit::raw::{Connection, body_section, op_msg};
use crate::kit::scratch;
use crate::kit::secret::{Content, Secret};
use crate::kit::waiting::until;

/// A gateway with `send_proxy` in front of a stand-in for mongod's `proxyPort`.
struct Scene {
    mongod: Arc<Mongod>,
    port: ProxyPort,
}

impl Scene {
    fn new() -> Option<Self> {
        let mongod = Mongod::shared_standalone()?;
        let port = ProxyPort::start(&mongod).unwrap();
        Some(Self { mongod, port })
    }

    fn options(&self) -> GatewayOptions {
        GatewayOptions {
            upstream_address: self.port.address(),
            upstream: "send_proxy = 'v2'\n".to_owned(),
            ..GatewayOptions::to(&self.mongod)
        }
    }

    /// What the header says about `client`, which runs a command.
    fn told_about(&self, mut client: Connection) -> Told {
        let before = self.port.told().len();
        client.run(&doc! { "ping": 1, "$db": "admin" }).unwrap();
        // The health check of the gateway may have connected in the meantime.
        let told = self.port.told();
        let clients = || told[before..].iter().copied().filter(|told| *told != Told::Gateway);
        assert!(clients().count() <= 1, "{told:?}");
        clients().next().unwrap_or(Told::Gateway)
    }
}

#[test]
fn the_server_receives_the_address_of_ipv4_and_ipv6_clients() {
    let Some(scene) = Scene::new() else { return };
    let mut options = scene.options();
    options.tables = "[listener.six]\naddress = \"[::1]:0\"\nupstream = \"test\"\n".to_owned();
    let gateway = Gateway::start(&options);
    for listener in ["test", "six"] {
        let address = gateway.address_of(listener).unwrap();
        let client = Connection::plain(&address).unwrap();
        let source = client.local_address().unwrap();
        assert_eq!(scene.told_about(client), Told::Client { source, destination: address.parse().unwrap() });
    }
    assert!(scene.port.told().contains(&Told::Gateway), "the health check has no client");
    assert!(!scene.port.told().contains(&Told::Invalid));
}

#[test]
fn a_client_of_a_unix_socket_has_the_address_of_the_gateway() {
    let Some(scene) = Scene::new() else { return };
    let directory = scratch::directory("socket").unwrap();
    let path = directory.path().join("mongate.sock");
    let options = GatewayOptions { listener_address: Some(format!("unix:{}", path.display())), ..scene.options() };
    let _gateway = Gateway::start(&options);
    assert_eq!(scene.told_about(Connection::unix(&path).unwrap()), Told::Gateway);
    assert_eq!(scene.port.sources(), []);
}

#[test]
fn the_address_in_a_clients_own_header_is_passed_on() {
    let Some(scene) = Scene::new() else { return };
    let listener = "proxy_protocol = 'optional'\nproxy_trusted = ['127.0.0.1']\n".to_owned();
    let gateway = Gateway::start(&GatewayOptions { listener, ..scene.options() });
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    for (line, source, destination) in [
        ("PROXY TCP4 10.1.3.7 10.0.0.1 8080 27017\r\n", "10.1.3.7:8080", "10.0.0.1:27017"),
        ("PROXY TCP6 fd00::7 fd00::1 8080 27017\r\n", "[fd00::7]:8080", "[fd00::1]:27017"),
    ] {
        let mut client = Connection::plain(gateway.address()).unwrap();
        client.send(line.as_bytes()).unwrap();
        let expected = Told::Client { source: address(source), destination: address(destination) };
        assert_eq!(scene.told_about(client), expected);
    }
    // The proxy does not know the client.
    let mut client = Connection::plain(gateway.address()).unwrap();
    client.send(b"PROXY UNKNOWN\r\n").unwrap();
    assert_eq!(scene.told_about(client), Told::Gateway);
}

#[test]
fn a_client_that_moves_to_a_new_certificate_keeps_its_address() {
    let Some(scene) = Scene::new() else { return };
    let [first, second] = ["proxied-1", "proxied-2"].map(|name| {
        let wanted = Wanted { common_name: name, ..Wanted::default() };
        Content::of(&scene.mongod.pki, &scene.mongod.pki.issue(name, &wanted).unwrap())
    });
    let secret = Secret::plain(&first).unwrap();
    let mut options = scene.options();
    options.upstream += "certificate_recycle_after = '1s'\n";
    options.upstream_tls = secret.configuration();
    let gateway = Gateway::start(&options);
    let mut client = gateway.connect().unwrap();
    client.run(&doc! { "hello": 1, "$db": "admin" }).unwrap();
    let source = client.local_address().unwrap();
    assert_eq!(scene.port.sources(), [source]);

    secret.rename_over(&second).unwrap();
    gateway.await_metric("mongate_upstream_recycled_total", &[("how", "moved")], |moved| moved > 0.5);
    client.run(&doc! { "ping": 1, "$db": "admin" }).unwrap();
    assert_eq!(scene.port.sources(), [source, source]);
}

#[test]
fn the_wrong_port_is_named_in_the_remedy() {
    let Some(scene) = Scene::new() else { return };
    let to = |address: String, lines: &str| GatewayOptions {
        upstream_address: address,
        upstream: lines.to_owned(),
        ..GatewayOptions::to(&scene.mongod)
    };
    for (options, expected) in [
        // The header goes to the usual port.
        (
            to(scene.mongod.address(), "send_proxy = 'v2'\n"),
            "the port for PROXY headers, which upstream.test.send_proxy",
        ),
        (to(scene.port.address(), ""), "no port for PROXY headers (proxyPort; upstream.test.send_proxy)"),
    ] {
        let (code, text) = options.check(&[]).unwrap();
        assert_eq!(code, Some(69), "{text}");
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(expected), "{text}");
    }
    let (code, text) = scene.options().check(&[]).unwrap();
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(scene.port.told().last(), Some(&Told::Gateway), "mongate check has no client");

    let gateway = Gateway::start(&to(scene.mongod.address(), "send_proxy = 'v2'\n"));
    let mut client = gateway.connect().unwrap();
    client.send(&op_msg(1, 0, &[body_section(&doc! { "hello": 1, "$db": "admin" })])).unwrap();
    let reply = client.reply().unwrap();
    assert_eq!(reply.code(), Some(141), "{reply:?}");
    until("the failure is logged", || {
        gateway
            .log()
            .into_iter()
            .find(|event| event["remedy"].as_str().is_some_and(|remedy| remedy.contains("loadBalancerPort of mongos")))
    });
}
