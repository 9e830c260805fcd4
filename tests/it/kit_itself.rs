//! Tests of the test kit: properties that the other tests rely on.

use bson::doc;

use crate::kit::certificates::{KeyKind, SignedBy, Usage, Validity, Wanted};
use crate::kit::mongod::{Mongod, MongodOptions};
use crate::kit::raw;
use crate::kit::raw::Connection;
use crate::kit::replica_set::{MemberOptions, ReplicaSet, SetOptions, Users, subject_of};
use crate::kit::waiting;

#[test]
fn mongod_accepts_only_valid_client_certificates() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    mongod.run(&doc! { "ping": 1, "$db": "admin" }).unwrap();
    assert!(Connection::plain(&mongod.address()).unwrap().run(&doc! { "ping": 1, "$db": "admin" }).is_err());
    let refused = [
        Wanted { issuer: SignedBy::Stranger, ..Wanted::default() },
        Wanted { issuer: SignedBy::Itself, ..Wanted::default() },
        Wanted { usage: Usage::Server, ..Wanted::default() },
        Wanted { validity: Validity::Expired, ..Wanted::default() },
        Wanted { validity: Validity::NotYet, ..Wanted::default() },
    ];
    for wanted in &refused {
        let client = mongod.pki.issue("refused", wanted).unwrap();
        let answer = Connection::tls(&mongod.address(), &mongod.pki, &client)
            .and_then(|mut connection| connection.run(&doc! { "ping": 1, "$db": "admin" }));
        assert!(answer.is_err(), "mongod accepted {wanted:?}");
    }
    for key in [KeyKind::P256, KeyKind::P384, KeyKind::Ed25519, KeyKind::Rsa] {
        let client = mongod.pki.issue("accepted", &Wanted { key, ..Wanted::default() }).unwrap();
        let mut connection = Connection::tls(&mongod.address(), &mongod.pki, &client).unwrap();
        connection.run(&doc! { "ping": 1, "$db": "admin" }).unwrap();
    }
}

#[test]
fn a_restarted_mongod_has_its_port_and_its_data() {
    let Some(mut mongod) = Mongod::start(MongodOptions::default()) else { return };
    mongod.run(&doc! { "insert": "c", "documents": [{ "_id": 1 }], "$db": "kit" }).unwrap();
    let address = mongod.address();
    mongod.stop().unwrap();
    assert!(mongod.connect().is_err());
    mongod.restart().unwrap();
    assert_eq!(mongod.address(), address);
    let count = mongod.run(&doc! { "count": "c", "$db": "kit" }).unwrap();
    assert_eq!(count.get_i32("n").unwrap(), 1);
}

#[test]
fn the_shared_replica_set_has_a_primary() {
    let Some(mongod) = Mongod::shared_replica_set() else { return };
    let hello = mongod.run(&doc! { "hello": 1, "$db": "admin" }).unwrap();
    assert!(hello.get_bool("isWritablePrimary").unwrap());
    assert_eq!(hello.get_str("setName").unwrap(), "kit");
}

#[test]
fn a_replica_set_elects_loses_adds_and_removes_members() {
    let Some(mut set) = ReplicaSet::start(SetOptions::default()) else { return };
    let first = set.primary();
    let second = set.step_down().unwrap();
    assert_ne!(first, second);
    set.kill(&second);
    let third = set.primary();
    assert_ne!(second, third);
    set.restart(&second).unwrap();
    set.await_settled().unwrap();
    let added = set.add(MemberOptions::tagged("region", "north")).unwrap();
    // A new configuration reaches the members one after the other.
    let hello = waiting::until("the member knows the new configuration", || {
        let hello = set.run(&added, &doc! { "hello": 1, "$db": "admin" }).ok()?;
        (hello.get_array("hosts").ok()?.len() == 4).then_some(hello)
    });
    assert_eq!(hello.get_str("me").unwrap(), added);
    assert_eq!(hello.get_document("tags").unwrap(), &doc! { "region": "north" });
    let removed = set.secondary();
    set.remove(&removed).unwrap();
    set.await_settled().unwrap();
    let hello = set.run_on_primary(&doc! { "hello": 1, "$db": "admin" }).unwrap();
    assert_eq!(hello.get_array("hosts").unwrap().len(), 3);
    set.assert_no_strangers();
}

#[test]
fn connections_without_a_client_certificate_are_counted_as_strangers() {
    let Some(set) = ReplicaSet::start(SetOptions { members: vec![MemberOptions::default()], ..SetOptions::default() })
    else {
        return;
    };
    set.assert_no_strangers();
    let address = set.primary().replace("localhost", "127.0.0.1");
    drop(std::net::TcpStream::connect(&address).unwrap());
    assert_eq!(until_strangers(&set, 1), 1);
    assert!(Connection::plain(&address).unwrap().run(&doc! { "ping": 1, "$db": "admin" }).is_err());
    assert_eq!(until_strangers(&set, 2), 2);
    let config = raw::client_config(&set.pki, None, rustls::ALL_VERSIONS).unwrap();
    let answer = Connection::tls_with(&address, &[], config)
        .and_then(|mut connection| connection.run(&doc! { "ping": 1, "$db": "admin" }));
    assert!(answer.is_err());
    assert_eq!(until_strangers(&set, 3), 3);
}

#[test]
fn a_replica_set_with_users_authenticates_by_certificate() {
    for users in [Users::KeyFile, Users::ClusterCertificates] {
        let members = vec![MemberOptions::default(), MemberOptions::default(), MemberOptions::arbiter()];
        let Some(set) = ReplicaSet::start(SetOptions { members, users, ..SetOptions::default() }) else { return };
        set.create_user("reader", &["read@shop"]).unwrap();
        let find = doc! { "find": "c", "$db": "shop" };
        let insert = doc! { "insert": "c", "documents": [{}], "$db": "shop" };
        let authenticate = doc! { "authenticate": 1, "mechanism": "MONGODB-X509", "$db": "$external" };
        let reader = set.pki.issue("reader", &Wanted { common_name: "reader", ..Wanted::default() }).unwrap();
        let address = set.primary().replace("localhost", "127.0.0.1");
        let mut connection = Connection::tls(&address, &set.pki, &reader).unwrap();
        assert_eq!(connection.command(&find).unwrap().get_i32("code").unwrap(), 13);
        let reply = connection.run(&authenticate).unwrap();
        assert_eq!(reply.get_str("user").unwrap(), subject_of("reader"));
        connection.run(&find).unwrap();
        assert_eq!(connection.command(&insert).unwrap().get_i32("code").unwrap(), 13);
        // With x509 cluster authentication a server certificate is the `__system` user, otherwise it is no user.
        let server = set.pki.issue("member", &Wanted::server()).unwrap();
        let mut connection = Connection::tls(&address, &set.pki, &server).unwrap();
        let reply = connection.command(&authenticate).unwrap();
        let status = connection.run(&doc! { "connectionStatus": 1, "$db": "admin" }).unwrap();
        let known = status.get_document("authInfo").unwrap().get_array("authenticatedUsers").unwrap();
        match users {
            Users::ClusterCertificates => {
                assert_eq!(known[0].as_document().unwrap().get_str("user").unwrap(), "__system");
            }
            _ => assert_eq!(reply.get_i32("code").unwrap(), 18, "{reply}"),
        }
    }
}

fn until_strangers(set: &ReplicaSet, count: usize) -> usize {
    waiting::until("the stranger is counted", || Some(set.strangers().len()).filter(|seen| *seen >= count))
}
