//! Upstreams with members, and their listeners.

use super::*;

const SET: &str = r#"
[upstream.orders]
members = ["Mongo-1.mongo:27017", "mongo-0.mongo:27018"]
replica_set = "rs0"
tls.certificate_file = "client.pem"
tls.ca_file = "/etc/ca.pem"
[listener.orders]
address = "127.0.0.1:27017"
upstream = "orders"
"#;

/// `SET` with `line` in the table of the upstream, and without `without`.
fn upstream_with(line: &str, without: &str) -> String {
    let others = SET.lines().filter(|other| without.is_empty() || !other.starts_with(without));
    others.collect::<Vec<_>>().join("\n").replace("[upstream.orders]", &format!("[upstream.orders]\n{line}"))
}

/// `SET` with `line` in the table of the listener.
fn listener_with(line: &str) -> String {
    format!("{SET}{line}\n")
}

fn slots(text: &str) -> Vec<String> {
    let config = parse(text, &[]).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let Topology::Members(members) = config.listeners["orders"].topology.clone() else { panic!("{text}") };
    members.slots.iter().map(|slot| slot.address.to_string()).collect()
}

#[test]
fn an_upstream_is_one_server_a_replica_set_or_a_sharded_cluster() {
    let deployment = |text: &str| parse(text, &[]).unwrap().upstreams["orders"].deployment.clone();
    assert!(matches!(deployment(MINIMAL), Deployment::Single(_)));
    let seeds = vec!["Mongo-1.mongo:27017".parse().unwrap(), "mongo-0.mongo:27018".parse().unwrap()];
    let set = Deployment::ReplicaSet { seeds: Seeds::Members(seeds), name: Some("rs0".to_owned()) };
    assert_eq!(deployment(SET), set);
    assert!(matches!(deployment(&upstream_with("sharded = true", "replica_set")), Deployment::Sharded { .. }));
    let srv = upstream_with("srv = \"cluster.example.com\"", "members");
    let name = Some("rs0".to_owned());
    let seeds = || Seeds::Srv("cluster.example.com".to_owned());
    assert_eq!(deployment(&srv), Deployment::ReplicaSet { seeds: seeds(), name });
    let srv = srv.replace("replica_set = \"rs0\"", "");
    assert_eq!(deployment(&srv), Deployment::ReplicaSet { seeds: seeds(), name: None });
}

#[test]
fn invalid_deployments_are_problems() {
    let check = |line: &str, without: &str, expected: &str| check_one(&upstream_with(line, without), expected);
    check(
        "address = \"mongo:27017\"",
        "",
        "upstream.orders.address (config.toml): cannot be combined with members or srv",
    );
    check("", "replica_set", "upstream.orders.replica_set (config.toml): is missing; set the name");
    check("sharded = true", "", "cannot be combined with sharded = true");
    check("srv = \"cluster.example.com\"", "", "upstream.orders.members (config.toml): cannot be combined with srv");
    check("srv = \"10.0.0.1\"", "members", "must be the DNS name of a cluster without a port");
    check("srv = \"cluster.example.com:27017\"", "members", "must be the DNS name of a cluster without a port");
    check("members = []", "members", "is empty; list at least one server");
    check("members = [\"a:1\", \"A:1\"]", "members", "has \"A:1\" twice");
    check("members = [\"a\"]", "members", "has \"a\", which has no port");
    let one = |line: &str| MINIMAL.replace("[upstream.orders]", &format!("[upstream.orders]\n{line}"));
    check_one(&one("replica_set = \"rs0\""), "cannot be combined with address");
    check_one(&one("sharded = true"), "requires several mongos");
}

#[test]
fn members_have_consecutive_ports_or_individual_addresses() {
    let row = |last: u16| (27017..=last).map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>();
    assert_eq!(slots(SET), row(27023));
    assert_eq!(slots(&listener_with("member_ports = \"27017-27019\"")), row(27019));
    assert_eq!(slots(&SET.replace("127.0.0.1:27017", "127.0.0.1:0")), vec!["127.0.0.1:0"; 7]);
    let named = "member_addresses = { \"mongo-0.mongo:27018\" = \"127.0.0.2:27017\", \
                 \"mongo-1.mongo:27017\" = \"127.0.0.1:27017\" }";
    assert_eq!(slots(&listener_with(named)), ["127.0.0.1:27017", "127.0.0.2:27017"]);
}

#[test]
fn invalid_topologies_are_problems() {
    let check = |line: &str, expected: &str| check_one(&listener_with(line), expected);
    check("member_ports = \"27018-27020\"", "must begin with the port of the listener, 27017");
    check("member_ports = \"27017\"", "must be a range of ports");
    check("member_ports = \"27017-28017\"", "has more than 256 ports");
    check("topology = \"direct\"\nadvertise = \"gateway.local\"", "is only used with topology = \"members\"");
    check("read_preference = \"primary\"", "is only used with topology = \"load_balanced\"");
    check("topology = \"load_balanced\"\nread_preference = \"first\"", "must be \"primary\", \"primaryPreferred\"");
    check(
        "member_addresses = { \"a:1\" = \"127.0.0.1:27018\" }",
        "must give one of the members the listener's own address",
    );
    check(
        "member_addresses = { \"a:1\" = \"127.0.0.1:27017\", \"b:1\" = \"127.0.0.1:27017\" }",
        "gives 127.0.0.1:27017 to two members",
    );
    check("member_addresses = { \"a\" = \"127.0.0.1:27017\" }", "listener.orders.member_addresses.a");
    check("member_addresses = \"a\"", "must be a table of members and addresses");
    let everywhere = SET.replace("127.0.0.1:27017", "0.0.0.0:27017") + "allow_remote_plaintext = true\n";
    check_one(&everywhere, "listener.orders.advertise (config.toml): is missing; set the host name or IP address");
    assert_eq!(slots(&(everywhere + "advertise = \"gateway.local\"")).len(), 7);
    check_one(
        &SET.replace("127.0.0.1:27017", "unix:/run/m.sock"),
        "must be \"load_balanced\" or \"direct\" on a unix domain socket",
    );
    check_one(&format!("{MINIMAL}topology = \"members\""), "requires an upstream with members");
    let second =
        "[listener.other]\naddress = \"127.0.0.1:27020\"\nupstream = \"orders\"\nmember_ports = \"27020-27021\"";
    let problems = problems(&format!("{SET}{second}"), &[]);
    assert!(problems[0].contains("is already used by listener.orders.member_ports"), "{problems:#?}");
}

#[test]
fn a_listener_that_intercepts_has_one_address_and_no_tls() {
    let intercepts = |text: &str| {
        let config = parse(text, &[]).unwrap_or_else(|error| panic!("{error}"));
        let listener = &config.listeners["orders"];
        (listener.intercept, listener.topology.clone())
    };
    assert_eq!(intercepts(&listener_with("intercept = true")), (true, Topology::Direct));
    assert_eq!(intercepts(&format!("{MINIMAL}intercept = true")), (true, Topology::Direct));
    assert!(!intercepts(MINIMAL).0);
    let everywhere = SET.replace("127.0.0.1:27017", "0.0.0.0:27017") + "intercept = true\n";
    check_one(&everywhere, "would accept unencrypted MongoDB traffic from other machines");
    assert_eq!(intercepts(&(everywhere + "allow_remote_plaintext = true")), (true, Topology::Direct));

    let check = |line: &str, expected: &str| check_one(&listener_with(&format!("intercept = true\n{line}")), expected);
    check("topology = \"members\"", "listener.orders.topology (config.toml): is not used with intercept = true");
    check("member_ports = \"27017-27019\"", "listener.orders.member_ports (config.toml): is not used with intercept");
    check(
        "advertise = \"gateway.local\"",
        "listener.orders.advertise (config.toml): is not used with intercept = true",
    );
    check_one(
        &(MINIMAL.replace("127.0.0.1:27017", "unix:/run/m.sock") + "intercept = true"),
        "requires an IP address and port in address",
    );
    let tls = "tls.certificate_file = \"c.pem\"\ntls.ca_file = \"ca.pem\"";
    check(&format!("mode = \"permissive\"\n{tls}"), "listener.orders.intercept = true (config.toml): requires mode");
    check_one(&listener_with("intercept = \"yes\""), "must be true or false");
}

#[test]
fn credentials_have_principals_and_the_ca_certificates_of_their_upstream() {
    let credential =
        "[[upstream.orders.credential]]\nprincipals = [\"td/ns/shop/*\"]\ncertificate_file = \"shop.pem\"\n";
    let authentication = "[upstream.orders.authentication]\nmechanism = \"MONGODB-X509\"\n";
    let config = parse(&format!("{MINIMAL}{credential}{authentication}"), &[]).unwrap();
    let upstream = &config.upstreams["orders"];
    assert_eq!(upstream.authentication, Some(Mechanism::MongodbX509));
    let files = &upstream.credentials[0].files;
    assert_eq!(
        (files.ca_file.to_str(), files.certificate_file.to_str()),
        (Some("/etc/ca.pem"), Some("/etc/mongate/shop.pem"))
    );
    assert_eq!(files.private_key_file, files.certificate_file);

    check_one(
        &format!("{MINIMAL}{}", credential.replace("\"td/ns/shop/*\"", "")),
        "upstream.orders.credential[1].principals",
    );
    check_one(
        &format!("{MINIMAL}{}", credential.replace("certificate_file = \"shop.pem\"", "")),
        "certificate_file (config.toml): is missing",
    );
    check_one(&format!("{MINIMAL}{}", authentication.replace("-X509", "-AWS")), "must be \"MONGODB-X509\"");
    let agent = MINIMAL
        .replace("tls.certificate_file = \"client.pem\"", "tls.spiffe_socket = \"unix:/run/agent.sock\"")
        .replace("tls.ca_file = \"/etc/ca.pem\"", "");
    check_one(&format!("{agent}{credential}"), "requires ca_file in the table tls");
}
