//! The kit keeps its promises: what the other tests rely on without looking.

use bson::doc;

use crate::kit::certificates::{KeyKind, SignedBy, Usage, Validity, Wanted};
use crate::kit::mongod::{Mongod, MongodOptions};
use crate::kit::raw::Connection;

#[test]
fn mongod_takes_our_client_and_no_other() {
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
        assert!(answer.is_err(), "mongod took {wanted:?}");
    }
    for key in [KeyKind::P256, KeyKind::P384, KeyKind::Ed25519, KeyKind::Rsa] {
        let client = mongod.pki.issue("taken", &Wanted { key, ..Wanted::default() }).unwrap();
        let mut connection = Connection::tls(&mongod.address(), &mongod.pki, &client).unwrap();
        connection.run(&doc! { "ping": 1, "$db": "admin" }).unwrap();
    }
}

#[test]
fn a_mongod_comes_back_on_its_port_with_its_data() {
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
fn a_replica_set_of_one_is_primary_when_it_is_handed_out() {
    let Some(mongod) = Mongod::shared_replica_set() else { return };
    let hello = mongod.run(&doc! { "hello": 1, "$db": "admin" }).unwrap();
    assert!(hello.get_bool("isWritablePrimary").unwrap());
    assert_eq!(hello.get_str("setName").unwrap(), "kit");
}
