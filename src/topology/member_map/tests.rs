//! The assignment over time: members join, leave, return and fail.

use super::*;

fn name(host: &str) -> MemberName {
    format!("{host}:27017").parse().unwrap()
}

/// A member by its host and a mark: `a*` is primary, `a!` is out, `a?` is untried, `a~` is an arbiter, `a` is a
/// secondary.
fn candidate(text: &str) -> Candidate {
    let (host, standing) = match text.split_at(text.len() - 1) {
        (host, "*") => (host, Standing::Writable),
        (host, "!") => (host, Standing::Out),
        (host, "?") => (host, Standing::Untried),
        (host, "~") => (host, Standing::Introduces),
        _ => (text, Standing::Readable),
    };
    Candidate { name: name(host), standing, serves_clients: standing != Standing::Introduces }
}

fn slots(reserved: &[Option<&str>]) -> Slots {
    Slots::new(
        reserved
            .iter()
            .enumerate()
            .map(|(index, host)| Slot { advertised: format!("gateway:{index}").into(), reserved_for: host.map(name) }),
    )
}

fn assigned(slots: &mut Slots, members: &str) -> Assigned {
    slots.assign(&members.split_whitespace().map(candidate).collect::<Vec<_>>())
}

/// Assigns the hosts of `members` and returns the assignment: `a b - c +d`, where `d` has no address.
fn assign(slots: &mut Slots, members: &str) -> String {
    let Assigned { map, left_out } = assigned(slots, members);
    let host = |slot| map.member_at(slot).map_or("-", MemberName::host);
    let mut hosts: Vec<String> = (0..slots.len()).map(|slot| host(slot).to_owned()).collect();
    hosts.extend(left_out.iter().map(|member| format!("+{}", member.host())));
    hosts.join(" ")
}

/// Assigns the hosts of `members` and returns where each address leads: `a ->b -`, where `b` stands in.
fn lead(slots: &mut Slots, members: &str) -> String {
    let map = assigned(slots, members).map;
    let host = |slot| match (map.stand_in_at(slot), map.member_at(slot)) {
        (Some(stand_in), _) => format!("->{}", stand_in.host()),
        (None, Some(member)) => member.host().to_owned(),
        (None, None) => "-".to_owned(),
    };
    (0..slots.len()).map(host).collect::<Vec<_>>().join(" ")
}

#[test]
fn new_members_are_assigned_by_name_and_keep_their_address() {
    let mut slots = slots(&[None; 4]);
    assert_eq!(assign(&mut slots, ""), "- - - -");
    assert_eq!(assign(&mut slots, "c b d"), "b c d -");
    assert_eq!(assign(&mut slots, "a b c d"), "b c d a");
    assert_eq!(assign(&mut slots, "d d c a"), "- c d a");
    assert_eq!(assign(&mut slots, "e c d a"), "e c d a");
    assert_eq!(assign(&mut slots, "b e c d a"), "e c d a +b");
}

#[test]
fn a_member_that_joins_gets_an_address_that_was_left_and_a_member_that_returns_its_own() {
    let mut slots = slots(&[None; 5]);
    assert_eq!(assign(&mut slots, "a b c"), "a b c - -");
    assert_eq!(assign(&mut slots, "b c"), "- b c - -");
    assert_eq!(assign(&mut slots, "b c d"), "d b c - -");
    // `a` has lost its address to `d`.
    assert_eq!(assign(&mut slots, "0 a b c d"), "d b c 0 a");
    assert_eq!(assign(&mut slots, "a c d"), "d - c - a");
    // Both could have the first free address, but `0` had another one.
    assert_eq!(assign(&mut slots, "0 a c d e"), "d e c 0 a");
}

#[test]
fn the_whole_set_can_be_renamed_or_replaced() {
    let mut slots = slots(&[None; 3]);
    assert_eq!(assign(&mut slots, "a b c"), "a b c");
    assert_eq!(assign(&mut slots, "x y z"), "x y z");
    assert_eq!(assign(&mut slots, "z"), "- - z");
    assert_eq!(assign(&mut slots, "a z"), "a - z");
    assert_eq!(assign(&mut slots, "a b z 0"), "a b z +0");
    assert_eq!(assign(&mut slots, "b z 0"), "0 b z");
}

#[test]
fn a_reserved_address_is_for_its_member_only() {
    let mut slots = slots(&[Some("b"), None, Some("x")]);
    assert_eq!(assign(&mut slots, "a b c"), "b a - +c");
    assert_eq!(assign(&mut slots, "b c"), "b c -");
    assert_eq!(assign(&mut slots, "a c x"), "- c x +a");
}

#[test]
fn arbiters_and_hidden_members_come_last_and_never_get_the_first_address() {
    let mut plain = slots(&[None; 3]);
    assert_eq!(assign(&mut plain, "a~ b c"), "b c a");
    assert_eq!(assign(&mut plain, "a~ c"), "- c a");
    assert_eq!(assign(&mut plain, "a~ b~ c"), "- c a +b");
    // It comes back with data.
    assert_eq!(assign(&mut plain, "a~ b c"), "b c a");
    // The first member becomes an arbiter: another configuration in between was not seen.
    assert_eq!(assign(&mut plain, "a b~ c"), "- c a +b");
    assert_eq!(assign(&mut plain, "a b c"), "b c a");
    assert_eq!(assign(&mut slots(&[None]), "a~"), "- +a");
    assert_eq!(assign(&mut slots(&[Some("a"), None]), "a~ b"), "a b");
}

#[test]
fn an_address_without_a_member_leads_to_the_primary_or_else_to_a_secondary() {
    let mut slots = slots(&[None; 4]);
    assert_eq!(lead(&mut slots, ""), "- - - -");
    assert_eq!(lead(&mut slots, "a b* c"), "a b c ->b");
    assert_eq!(lead(&mut slots, "b c*"), "->c b c ->b");
    // An election does not move the clients of an address to another member.
    assert_eq!(lead(&mut slots, "b* c"), "->c b c ->b");
    assert_eq!(lead(&mut slots, "b c!"), "->b b c ->b");
    assert_eq!(lead(&mut slots, "b! c~"), "->c b c ->c");
    // A member that can be read from is better than one that only names the others.
    assert_eq!(lead(&mut slots, "b c~"), "->b b c ->b");
    assert_eq!(lead(&mut slots, "b! c?"), "- b c -");
    assert_eq!(lead(&mut slots, "b c d*"), "d b c ->d");
}

#[test]
fn only_the_first_address_has_a_stand_in_while_its_member_is_out() {
    let mut slots = slots(&[None; 3]);
    assert_eq!(lead(&mut slots, "a b c"), "a b c");
    assert_eq!(lead(&mut slots, "a? b! c*"), "a b c");
    // Preferably not the primary, which drivers would see at two addresses.
    assert_eq!(lead(&mut slots, "a! b* c"), "->c b c");
    assert_eq!(lead(&mut slots, "a! b c*"), "->c b c");
    assert_eq!(lead(&mut slots, "a b c*"), "a b c");
    assert_eq!(lead(&mut slots, "a! b* c!"), "->b b c");
    assert_eq!(lead(&mut slots, "a! b! c!"), "a b c");
    assert_eq!(lead(&mut slots, "a! b! c~"), "->c b c");
}

#[test]
fn a_stand_in_with_an_address_of_its_own_is_preferred() {
    assert_eq!(lead(&mut slots(&[None, None]), "a! b c*"), "->b b");
    assert_eq!(lead(&mut slots(&[None]), "a! b c*"), "->b");
    // All members with a reserved address have left the set.
    assert_eq!(lead(&mut slots(&[Some("a"), Some("b")]), "c d*"), "->d -");
    assert_eq!(lead(&mut slots(&[Some("a"), Some("b")]), "b c* d"), "->b b");
}

#[test]
fn a_connection_stays_where_its_address_leads_to_its_member() {
    let mut slots = slots(&[None; 2]);
    let may_stay =
        |map: &MemberMap, hosts: &str| hosts.split(' ').map(|host| map.may_stay(0, &name(host))).collect::<Vec<_>>();
    assert_eq!(may_stay(&slots.map(), "a b"), [true, true], "no member is known yet");
    let map = assigned(&mut slots, "a! b").map;
    assert_eq!((map.leads_to(0), map.member_at(0)), (Some(&name("b")), Some(&name("a"))));
    assert_eq!(may_stay(&map, "a b c"), [true, true, false]);
    assert_eq!(may_stay(&assigned(&mut slots, "a b").map, "a b"), [true, false]);
    assert_eq!(may_stay(&assigned(&mut slots, "b").map, "a b"), [false, true]);
    assert_eq!(may_stay(&assigned(&mut slots, "b!").map, "a b"), [true, true]);
}

#[test]
fn a_name_is_found_in_upper_and_lower_case() {
    let mut slots = slots(&[None; 2]);
    let map = assigned(&mut slots, "mongo-a mongo-b").map;
    assert_eq!(map.advertised(b"Mongo-B:27017"), Some("gateway:1"));
    for other in ["mongo-b", "mongo-b:27018", "xmongo-b:27017", "gateway:1", ""] {
        assert_eq!(map.advertised(other.as_bytes()), None, "{other}");
    }
    assert_eq!(map.iter().map(|(slot, member, _)| (slot, member.host())).last(), Some((1, "mongo-b")));
    assert_eq!((map.member_at(2), slots.map()), (None, map.clone()));
    assert_eq!((map.is_assigned("gateway:1"), map.is_assigned("gateway:2")), (true, false));
}

#[test]
fn members_that_have_left_are_forgotten_at_a_limit() {
    let mut slots = slots(&[None; 2]);
    for round in 0..2 * FORMER_MAX {
        assign(&mut slots, &format!("a pod-{round}"));
        assert!(slots.former.len() <= FORMER_MAX, "{round}");
    }
    assert!(slots.former.contains_key(&name("a")));
}
