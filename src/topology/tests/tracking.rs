//! What a set is, from what its members say one after the other.

use bson::oid::ObjectId;

use super::*;

/// What a member of rs0 says that has these hosts.
fn hello(me: &str, what: &str, hosts: &[&str]) -> Document {
    let mut hello =
        doc! { "setName": "rs0", "hosts": hosts, "me": me, "maxWireVersion": 17, "setVersion": 1, "ok": 1.0 };
    if !what.is_empty() {
        hello.insert(what, true);
    }
    hello
}

fn primary(me: &str, hosts: &[&str], election: u8) -> Document {
    let mut hello = hello(me, "isWritablePrimary", hosts);
    hello.insert("electionId", ObjectId::from_bytes([election; 12]));
    hello
}

struct Scene(SetTracker);

impl Scene {
    fn new(seeds: &[&str]) -> Self {
        Self(SetTracker::new(Some("rs0".to_owned()), names(seeds)))
    }

    fn says(&mut self, member: &str, hello: &Document) -> &mut Self {
        self.0.answered(&name(member), &HelloFacts::read(&raw(hello)).unwrap());
        self
    }

    fn lost(&mut self, member: &str) -> &mut Self {
        self.0.lost(&name(member), "gone".to_owned());
        self
    }

    #[track_caller]
    fn check(&self, members: &[&str], mapped: &[&str]) {
        let state = |(name, record): (&MemberName, &MemberRecord)| format!("{name} {}", record.state.label());
        assert_eq!(self.0.members().map(state).collect::<Vec<_>>(), members);
        assert_eq!(self.0.mapped(), names(mapped));
    }
}

const ABC: &[&str] = &["a:1", "b:1", "c:1"];

#[test]
fn a_set_is_learned_from_its_primary_and_follows_elections() {
    let mut set = Scene::new(&["a:1"]);
    set.check(&["a:1 unknown"], &[]);
    assert!(!set.0.is_known());
    set.says("a:1", &primary("a:1", ABC, 1)).check(&["a:1 primary", "b:1 unknown", "c:1 unknown"], ABC);
    assert!(set.0.is_known());
    set.says("b:1", &hello("b:1", "secondary", ABC)).says("c:1", &hello("c:1", "arbiterOnly", ABC));
    set.check(&["a:1 primary", "b:1 secondary", "c:1 arbiter"], ABC);
    // The new one is heard of before the old one says that it is no longer primary.
    set.says("b:1", &primary("b:1", ABC, 2)).check(&["a:1 unknown", "b:1 primary", "c:1 arbiter"], ABC);
    set.says("a:1", &primary("a:1", ABC, 1)).check(&["a:1 unknown", "b:1 primary", "c:1 arbiter"], ABC);
    set.says("a:1", &hello("a:1", "secondary", ABC)).check(&["a:1 secondary", "b:1 primary", "c:1 arbiter"], ABC);
    set.lost("b:1").check(&["a:1 secondary", "b:1 unknown", "c:1 arbiter"], ABC);
    assert_eq!(set.0.primary(), None);
}

#[test]
fn before_mongodb_6_the_configuration_is_older_than_the_election() {
    let say = |me: &str, version: i32, election: u8| {
        let mut hello = primary(me, ABC, election);
        hello.insert("maxWireVersion", 13);
        hello.insert("setVersion", version);
        hello
    };
    let mut set = Scene::new(&["a:1"]);
    set.says("a:1", &say("a:1", 2, 1)).says("b:1", &say("b:1", 1, 5));
    assert_eq!(set.0.primary(), Some(&name("a:1")));
    set.says("b:1", &say("b:1", 2, 2));
    assert_eq!(set.0.primary(), Some(&name("b:1")));
}

#[test]
fn members_come_and_go_with_the_word_of_the_primary() {
    let mut set = Scene::new(&["a:1", "b:1"]);
    set.says("b:1", &hello("b:1", "secondary", ABC));
    set.check(&["a:1 unknown", "b:1 secondary", "c:1 unknown"], ABC);
    let mut passive = primary("a:1", &["a:1", "c:1"], 1);
    passive.insert("passives", vec!["d:1"]);
    passive.insert("arbiters", vec!["e:1"]);
    set.says("a:1", &passive);
    let told = &["a:1", "c:1", "d:1", "e:1"];
    // It was named by the operator, and its set does not know it any more.
    let mapped = set.0.mapped();
    assert_eq!(mapped, names(told));
    set.says("c:1", &hello("c:1", "secondary", &["a:1", "c:1", "x:1"]));
    assert_eq!(set.0.mapped(), names(told), "a secondary's word does not count beside a primary's");
}

#[test]
fn a_hidden_member_is_mapped_where_the_operator_named_it() {
    let mut hidden = hello("h:1", "secondary", &["a:1"]);
    hidden.insert("hidden", true);
    let mut set = Scene::new(&["a:1", "h:1"]);
    set.says("h:1", &hidden).says("a:1", &primary("a:1", &["a:1"], 1));
    set.check(&["a:1 primary", "h:1 secondary"], &["a:1", "h:1"]);
    set.lost("h:1").says("a:1", &primary("a:1", &["a:1"], 1));
    set.check(&["a:1 primary", "h:1 unknown"], &["a:1", "h:1"]);
}

#[test]
fn an_alias_gives_way_to_the_real_name() {
    let mut set = Scene::new(&["alias:9"]);
    set.says("alias:9", &hello("a:1", "secondary", ABC));
    set.check(&["a:1 unknown", "b:1 unknown", "c:1 unknown"], ABC);
    let mut set = Scene::new(&["alias:9"]);
    set.says("alias:9", &primary("a:1", ABC, 1));
    set.check(&["a:1 unknown", "b:1 unknown", "c:1 unknown"], ABC);
}

#[test]
fn another_set_is_refused_and_changes_nothing() {
    let problem = |set: &Scene, member: &str| {
        set.0.members().find(|(known, _)| **known == name(member)).unwrap().1.problem.clone().unwrap()
    };
    let mut other = primary("x:1", &["x:1", "y:1"], 9);
    other.insert("setName", "rs1");
    let mut set = Scene::new(&["a:1", "x:1"]);
    set.says("x:1", &other).check(&["a:1 unknown", "x:1 wrong_set"], &[]);
    assert!(!set.0.is_known());
    assert_eq!(problem(&set, "x:1"), "it is of the replica set rs1, not rs0");
    set.says("a:1", &doc! { "ok": 1, "isWritablePrimary": true });
    assert_eq!(problem(&set, "a:1"), "it is no member of a replica set, or has not been initiated");
    set.says("a:1", &doc! { "ok": 1, "msg": "isdbgrid" });
    assert!(problem(&set, "a:1").starts_with("it is a mongos"));
    assert_eq!(set.0.primary(), None);

    // Without a name of the operator's, the first that answers gives it.
    let mut set = Scene(SetTracker::new(None, names(&["a:1", "x:1"])));
    set.says("a:1", &primary("a:1", &["a:1", "x:1"], 1)).says("x:1", &other);
    set.check(&["a:1 primary", "x:1 wrong_set"], &["a:1"]);
    assert_eq!(set.0.set_name(), Some("rs0"));
}

#[test]
fn a_cluster_is_its_mongos() {
    let mut cluster = Scene(SetTracker::sharded(names(&["a:1", "b:1", "c:1"])));
    assert!(cluster.0.is_known());
    cluster.says("a:1", &doc! { "ok": 1, "msg": "isdbgrid" }).says("c:1", &primary("c:1", ABC, 1));
    cluster.check(&["a:1 mongos", "b:1 unknown", "c:1 wrong_set"], &["a:1", "b:1"]);
    cluster.0.reseed(names(&["a:1", "d:1"]));
    cluster.check(&["a:1 mongos", "d:1 unknown"], &["a:1", "d:1"]);
}

#[test]
fn what_no_server_says_is_refused() {
    let read = |document: Document| HelloFacts::read(&raw(&document));
    let hosts: Vec<_> = (0..200).map(|n| format!("h{n}:1")).collect();
    assert_eq!(read(doc! { "setName": "rs0", "hosts": hosts }), Err(HelloProblem::TooMany));
    assert_eq!(read(doc! { "setName": "rs0", "hosts": [1] }), Err(HelloProblem::Unreadable));
    assert_eq!(read(doc! { "setName": "rs0", "arbiters": "a:1" }), Err(HelloProblem::Unreadable));
    assert_eq!(read(doc! { "setName": "rs0", "passives": ["a:x"] }), Err(HelloProblem::Name));
}

proptest! {
    #[test]
    fn whatever_is_said_in_whatever_order_keeps_one_primary_at_most(
        said in prop::collection::vec((0_usize..4, 0_usize..6, 1_u8..4, prop::collection::vec(0_usize..4, 0..4)), 0..40)
    ) {
        const ALL: [&str; 4] = ["a:1", "b:1", "c:1", "d:1"];
        let mut set = Scene::new(&["a:1", "b:1"]);
        for (who, what, election, hosts) in said {
            let hosts: Vec<&str> = hosts.into_iter().map(|at| ALL[at]).collect();
            match what {
                0 | 1 => drop(set.says(ALL[who], &primary(ALL[who], &hosts, election))),
                2 => drop(set.says(ALL[who], &hello(ALL[who], "secondary", &hosts))),
                3 => drop(set.says(ALL[who], &hello(ALL[(who + 1) % 4], "secondary", &hosts))),
                4 => drop(set.says(ALL[who], &hello(ALL[who], "", &hosts))),
                _ => drop(set.lost(ALL[who])),
            }
            let primaries = set.0.members().filter(|(_, record)| record.state == MemberState::Primary).count();
            prop_assert!(primaries <= 1);
            let mapped = set.0.mapped();
            prop_assert!(mapped.is_sorted() && mapped.len() <= ALL.len());
        }
    }
}
