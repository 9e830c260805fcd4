//! A set over time. The cases are those of the specification for drivers, and those of the gateway's differences.

use super::*;

fn name(host: &str) -> MemberName {
    format!("{host}:1").parse().unwrap()
}

fn names(hosts: &str) -> Vec<MemberName> {
    hosts.split_whitespace().map(name).collect()
}

/// The reply of a member of rs0 that lists `hosts`.
fn member(role: HelloRole, hosts: &str) -> HelloFacts {
    HelloFacts {
        role,
        hidden: false,
        set_name: Some("rs0".to_owned()),
        set_version: None,
        election_id: None,
        hosts: names(hosts),
        passives: Vec::new(),
        arbiters: Vec::new(),
        me: None,
        primary: None,
        topology_version: None,
        max_wire_version: 17,
    }
}

fn elected(hosts: &str, term: u8, version: i64) -> HelloFacts {
    let mut id = [0; 12];
    id[11] = term;
    let election_id = Some(ObjectId::from_bytes(id));
    HelloFacts { election_id, set_version: Some(version), ..member(HelloRole::Primary, hosts) }
}

fn replica_set(seeds: &str) -> SetTracker {
    SetTracker::new(Some("rs0".to_owned()), names(seeds))
}

trait TrackerByHost {
    fn reply(&mut self, host: &str, facts: &HelloFacts) -> Change;
    fn lose(&mut self, host: &str) -> Change;
    fn states(&self) -> String;
    fn mapped_hosts(&self) -> String;
}

impl TrackerByHost for SetTracker {
    fn reply(&mut self, host: &str, facts: &HelloFacts) -> Change {
        self.answered(&name(host), facts, Instant::now())
    }

    fn lose(&mut self, host: &str) -> Change {
        self.lost(&name(host), "gone", Instant::now())
    }

    fn states(&self) -> String {
        let states: Vec<_> = self.members().map(|m| format!("{}={}", m.name.host(), m.state.name())).collect();
        states.join(" ")
    }

    fn mapped_hosts(&self) -> String {
        self.mapped().iter().map(MemberName::host).collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn members_are_learned_from_any_member_until_there_is_a_primary() {
    let mut set = replica_set("a");
    assert_eq!((set.states().as_str(), set.mapped_hosts().as_str()), ("a=unknown", ""));
    let change = set.reply("a", &member(HelloRole::Secondary, "a b x"));
    assert_eq!(change.joined, names("b x"));
    assert!(change.mapped && !change.primary);
    assert_eq!(change.states, [(name("a"), MemberState::Secondary)]);
    let change = set.reply("b", &HelloFacts { arbiters: names("d"), ..elected("a b", 1, 1) });
    assert_eq!((change.joined, change.left), (names("d"), names("x")));
    assert!(change.primary);
    // Once there is a primary, the lists of other members add no member.
    let change = set.reply("a", &member(HelloRole::Secondary, "a b y"));
    assert_eq!(change, Change::default());
    set.reply("d", &member(HelloRole::Arbiter, "a b"));
    assert_eq!(set.states(), "a=secondary b=primary d=arbiter");
    assert_eq!(set.mapped_hosts(), "a b d");
    assert_eq!((set.primary(), set.set_name()), (Some(&name("b")), Some("rs0")));
    assert_eq!(set.reply("x", &elected("x", 9, 9)), Change::default(), "it is no longer in the set");
}

#[test]
fn a_lost_member_keeps_its_address_and_a_lost_primary_is_no_longer_primary() {
    let mut set = replica_set("a b");
    set.reply("a", &elected("a b", 1, 1));
    let change = set.lost(&name("a"), "connection refused", Instant::now());
    assert!(change.primary && !change.mapped);
    assert_eq!((set.states().as_str(), set.mapped_hosts().as_str()), ("a=unknown b=unknown", "a b"));
    assert_eq!(set.member(&name("a")).unwrap().problem.as_deref(), Some("connection refused"));
    assert_eq!(set.primary(), None);
    set.reply("a", &elected("a b", 1, 1));
    assert_eq!((set.member(&name("a")).unwrap().problem.as_deref(), set.primary_changes()), (None, 0));
}

#[test]
fn elections_are_counted_and_end_the_role_of_the_old_primary() {
    let mut set = replica_set("a b");
    set.reply("a", &elected("a b", 1, 1));
    set.reply("b", &elected("a b", 2, 1));
    assert_eq!((set.states().as_str(), set.primary_changes()), ("a=unknown b=primary", 1));
    // The old primary does not know of the election yet.
    set.reply("a", &elected("a b", 1, 1));
    assert_eq!(set.states(), "a=unknown b=primary");
    set.reply("a", &member(HelloRole::Secondary, "a b"));
    set.reply("b", &elected("a b", 2, 2));
    assert_eq!(set.primary_changes(), 1, "a new configuration is no election");
    set.reply("b", &elected("a b", 3, 2));
    assert_eq!((set.states().as_str(), set.primary_changes()), ("a=secondary b=primary", 2));
}

#[track_caller]
fn check_newer(first: &HelloFacts, second: &HelloFacts, accepted: bool) {
    let mut set = replica_set("a b");
    set.reply("a", first);
    set.reply("b", second);
    let expected = if accepted { "b" } else { "a" };
    assert_eq!(set.primary(), Some(&name(expected)), "{first:?} {second:?}");
}

#[test]
fn the_newer_of_two_primaries_is_accepted() {
    let newer = |version: i32, facts: HelloFacts| HelloFacts { max_wire_version: version, ..facts };
    let nothing = || member(HelloRole::Primary, "a b");
    // Since MongoDB 6.0 the election ID is compared first, and a missing value is older than any value.
    for (first, second, accepted) in [
        (elected("a b", 1, 2), elected("a b", 2, 1), true),
        (elected("a b", 2, 1), elected("a b", 1, 2), false),
        (elected("a b", 2, 1), elected("a b", 2, 2), true),
        (elected("a b", 2, 2), elected("a b", 2, 1), false),
        (elected("a b", 1, 1), nothing(), false),
        (nothing(), elected("a b", 1, 1), true),
        (nothing(), nothing(), true),
    ] {
        check_newer(&first, &second, accepted);
    }
    // Before 6.0 the version of the configuration is compared first, and missing values are not compared.
    for (first, second, accepted) in [
        (elected("a b", 1, 2), elected("a b", 2, 1), false),
        (elected("a b", 2, 1), elected("a b", 1, 2), true),
        (elected("a b", 2, 1), elected("a b", 1, 1), false),
        (elected("a b", 1, 1), elected("a b", 2, 1), true),
        (elected("a b", 1, 1), nothing(), true),
    ] {
        check_newer(&newer(16, first), &newer(16, second), accepted);
    }
}

#[test]
fn a_set_that_is_created_again_is_accepted_once_no_old_member_answers() {
    let mut set = replica_set("a b");
    set.reply("a", &elected("a b", 9, 9));
    set.reply("b", &member(HelloRole::Secondary, "a b"));
    set.lose("a");
    set.reply("a", &elected("a b", 1, 1));
    assert_eq!(set.states(), "a=unknown b=secondary", "a member of the old set still answers");
    set.lose("a");
    set.lose("b");
    set.reply("a", &elected("a b", 1, 1));
    assert_eq!(set.states(), "a=primary b=unknown");
}

#[test]
fn a_server_of_another_deployment_is_refused_until_it_is_a_member() {
    let foreign = HelloFacts { set_name: Some("rs1".to_owned()), ..elected("x y", 9, 9) };
    let alone = HelloFacts { set_name: None, ..member(HelloRole::Standalone, "") };
    let router = HelloFacts { set_name: None, ..member(HelloRole::Mongos, "") };
    for (facts, problem) in [
        (foreign, "is a member of the replica set \"rs1\", not of \"rs0\""),
        (alone, "runs without a replica set"),
        (router, "is a mongos, not a member of a replica set"),
    ] {
        let mut set = replica_set("a b");
        set.reply("a", &elected("a b c", 1, 1));
        let change = set.reply("b", &facts);
        assert!(change.mapped, "{problem}");
        assert_eq!((set.states().as_str(), set.mapped_hosts().as_str()), ("a=primary b=wrong_set c=unknown", "a c"));
        assert_eq!(set.member(&name("b")).unwrap().problem.as_deref(), Some(problem));
        // The set still lists the server, and it is gone. It stays excluded until it replies as a member.
        set.reply("a", &elected("a b c", 1, 1));
        set.lose("b");
        assert_eq!((set.states().as_str(), set.mapped_hosts().as_str()), ("a=primary b=unknown c=unknown", "a c"));
        set.reply("b", &member(HelloRole::Secondary, "a b c"));
        assert_eq!((set.states().as_str(), set.mapped_hosts().as_str()), ("a=primary b=secondary c=unknown", "a b c"));
    }
}

#[test]
fn the_name_of_the_set_is_learned_once_and_kept() {
    let mut set = SetTracker::new(None, names("a b"));
    set.reply("a", &HelloFacts { set_name: None, ..member(HelloRole::Ghost, "") });
    assert_eq!((set.set_name(), set.states().as_str()), (None, "a=other b=unknown"));
    assert!(set.member(&name("a")).unwrap().problem.is_some());
    set.reply("a", &member(HelloRole::Secondary, "a"));
    assert_eq!(set.set_name(), Some("rs0"));
    set.reply("b", &HelloFacts { set_name: Some("rs1".to_owned()), ..elected("b", 1, 1) });
    assert_eq!((set.states().as_str(), set.mapped_hosts().as_str()), ("a=secondary b=wrong_set", "a"));
}

#[test]
fn an_alias_of_a_member_is_dropped_when_its_own_name_is_known() {
    let mut set = replica_set("alias");
    let me = |host: &str| Some(name(host));
    let change = set.reply("alias", &HelloFacts { me: me("a"), ..elected("a b", 1, 1) });
    assert_eq!((change.joined, change.left), (names("a b"), names("alias")));
    assert_eq!((set.states().as_str(), set.mapped_hosts().as_str()), ("a=unknown b=unknown", "a b"));
    set.reply("a", &HelloFacts { me: me("a"), ..elected("a b", 1, 1) });
    assert_eq!((set.states().as_str(), set.primary_changes()), ("a=primary b=unknown", 0));
    // No member answers any longer: the alias may lead to new members.
    let later = Instant::now() + ALIASES_ASKED_AGAIN_AFTER;
    assert_eq!(set.lost(&name("a"), "gone", later).joined, names("alias"));
    let change = set.reply("alias", &HelloFacts { me: me("c"), ..elected("c", 2, 2) });
    assert_eq!((change.joined, change.left), (names("c"), names("a alias b")));
    assert!(change.mapped);
}

#[test]
fn an_alias_of_members_that_do_not_answer_is_not_asked_endlessly() {
    let mut set = replica_set("alias");
    let start = Instant::now();
    let facts = HelloFacts { me: Some(name("a")), ..elected("a b", 1, 1) };
    let mut asked = 0;
    // For one minute, the alias and the members are tried every half second.
    for tick in 0..120 {
        let now = start + Duration::from_millis(500) * tick;
        if set.member(&name("alias")).is_some() {
            asked += 1;
            set.answered(&name("alias"), &facts, now);
        }
        set.lost(&name("a"), "cannot be resolved", now);
        set.lost(&name("b"), "cannot be resolved", now);
    }
    assert_eq!(asked, 6);
    assert!(set.is_silent() && set.mapped_hosts() == "a b");
}

#[test]
fn a_hidden_member_is_mapped_if_it_is_in_the_seed_list() {
    let hidden = HelloFacts { hidden: true, ..member(HelloRole::Other, "a b") };
    let mut set = replica_set("a h alias");
    set.reply("a", &elected("a b", 1, 1));
    assert_eq!(set.states(), "a=primary alias=unknown b=unknown h=unknown");
    set.reply("h", &hidden);
    set.reply("alias", &HelloFacts { me: Some(name("i")), ..hidden.clone() });
    set.reply("i", &HelloFacts { me: Some(name("i")), ..hidden });
    set.reply("a", &elected("a b", 1, 1));
    assert_eq!(set.states(), "a=primary b=unknown h=other i=other");
    assert_eq!(set.mapped_hosts(), "a b h i");
    assert!(set.member(&name("h")).unwrap().hidden);
    // A seed that is not in the set, and not hidden, has no address.
    let mut set = replica_set("a h");
    set.reply("h", &member(HelloRole::Secondary, "a b"));
    set.reply("a", &elected("a b", 1, 1));
    assert_eq!((set.states().as_str(), set.mapped_hosts().as_str()), ("a=primary b=unknown h=secondary", "a b"));
}

#[test]
fn a_primary_that_does_not_list_itself_is_not_accepted() {
    let mut set = replica_set("a b");
    set.reply("a", &elected("b", 1, 1));
    assert_eq!((set.primary(), set.states().as_str()), (None, "a=unknown b=unknown"));
}

#[test]
fn the_seeds_of_a_sharded_cluster_must_be_mongos() {
    let router = HelloFacts { set_name: None, ..member(HelloRole::Mongos, "x") };
    let mut cluster = SetTracker::sharded(names("b a"));
    assert_eq!(cluster.mapped_hosts(), "a b");
    cluster.reply("a", &router);
    assert!(cluster.reply("b", &elected("x", 1, 1)).mapped);
    assert_eq!((cluster.states().as_str(), cluster.mapped_hosts().as_str()), ("a=mongos b=wrong_set", "a"));
    assert_eq!((cluster.primary(), cluster.set_name()), (None, None));
    let change = cluster.reseed(names("a c"));
    assert_eq!((change.joined, change.left, change.mapped), (names("c"), names("b"), true));
    assert_eq!(cluster.states(), "a=mongos c=unknown");
}

#[test]
fn new_seeds_of_a_set_are_added_and_its_members_stay() {
    let mut set = replica_set("a s");
    set.reply("a", &elected("a b", 1, 1));
    let change = set.reseed(names("t a"));
    assert_eq!((change.joined, change.left, change.mapped), (names("t"), names("s"), false));
    assert_eq!(set.reseed(names("t a")), Change::default());
}

#[test]
fn the_number_of_members_is_limited() {
    let mut set = replica_set("a");
    for round in 0..10 {
        let hosts: Vec<String> = (0..100).map(|n| format!("h{round}-{n}")).collect();
        set.reply("a", &member(HelloRole::Secondary, &hosts.join(" ")));
    }
    assert_eq!(set.members().count(), 2 * MEMBERS_MAX);
}

#[test]
fn one_failure_of_a_monitor_is_not_a_member_that_is_down() {
    use crate::topology::Standing;
    let mut set = replica_set("a b");
    set.reply("a", &HelloFacts { arbiters: names("d"), ..elected("a b c", 1, 1) });
    let standings = |set: &SetTracker| set.candidates().iter().map(|it| it.standing).collect::<Vec<_>>();
    assert_eq!(standings(&set), [Standing::Writable, Standing::Untried, Standing::Untried, Standing::Untried]);
    assert_eq!(set.candidates().iter().map(|it| it.serves_clients).collect::<Vec<_>>(), [true, true, true, false]);
    set.reply("b", &HelloFacts { set_name: None, ..member(HelloRole::Ghost, "") });
    set.reply("c", &member(HelloRole::Other, "a b c"));
    set.reply("d", &member(HelloRole::Arbiter, "a b c"));
    assert_eq!(standings(&set), [Standing::Writable, Standing::Out, Standing::Introduces, Standing::Introduces]);
    set.reply("b", &member(HelloRole::Secondary, "a b c"));
    set.lose("a");
    assert_eq!(standings(&set)[..2], [Standing::Untried, Standing::Readable]);
    set.lose("a");
    assert_eq!(standings(&set)[..2], [Standing::Out, Standing::Readable]);
    set.reply("a", &elected("a b c", 1, 1));
    set.lose("a");
    assert_eq!(standings(&set)[0], Standing::Untried);
}

#[test]
fn a_member_that_gets_another_name_is_mapped_when_the_primary_says_so() {
    let mut set = replica_set("a");
    set.reply("a", &elected("a b c", 1, 1));
    set.reply("b", &member(HelloRole::Secondary, "a b c"));
    set.reply("c", &member(HelloRole::Secondary, "a b c"));
    // The primary gets another name, and closes the connection of its monitor. A secondary reports it first.
    set.lose("a");
    let change = set.reply("b", &member(HelloRole::Secondary, "b c x"));
    assert_eq!((change.joined, change.mapped), (names("x"), false));
    assert_eq!(set.mapped_hosts(), "a b c");
    set.reply("c", &member(HelloRole::Secondary, "b c x"));
    assert_eq!(set.mapped_hosts(), "a b c");
    let change = set.reply("x", &elected("b c x", 1, 2));
    assert!(change.mapped);
    assert_eq!(set.mapped_hosts(), "b c x");
    // Without a primary for long, the list of a secondary has to do.
    set.lose("x");
    set.reply("b", &member(HelloRole::Secondary, "b c x y"));
    assert_eq!(set.mapped_hosts(), "b c x");
    for gone in ["b", "c"] {
        set.lose(gone);
    }
    assert_eq!(set.mapped_hosts(), "b c x y");
}

#[test]
fn members_of_a_better_horizon_that_do_not_answer_are_not_added_and_dropped_again_and_again() {
    let now = Instant::now();
    let mut set = replica_set("a x");
    set.reply("x", &elected("x y", 1, 1));
    let better = member(HelloRole::Secondary, "a b");
    let change = set.answered(&name("a"), &better, now);
    assert_eq!(change.joined, names("b"));
    assert_eq!(set.mapped_hosts(), "x y");
    let unused = |set: &SetTracker| {
        set.members()
            .filter(|member| !member.is_in_use())
            .map(|member| member.name.host().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(unused(&set), ["a", "b"]);
    for round in 1..30 {
        let then = now + Duration::from_secs(10 * round);
        assert_eq!(set.lost(&name("b"), "gone", then).left, []);
        assert_eq!(set.answered(&name("a"), &better, then).joined, []);
    }
    // Nothing names it any longer.
    assert_eq!(set.lost(&name("b"), "gone", now + Duration::from_mins(10)).left, names("b"));
}
