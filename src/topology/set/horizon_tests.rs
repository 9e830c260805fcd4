//! Seeds under several names: whatever the order of the answers, the map comes to rest in the same place, and the first
//! address always leads to a member that answers, as far as the gateway can know.

use proptest::prelude::*;

use super::*;
use crate::topology::{MemberMap, Slot, Slots, Standing};

/// Names of the same three servers in two horizons. An alias is an address that no horizon contains; mongod answers
/// there in the default horizon.
const DEFAULT: [&str; 3] = ["m0", "m1", "m2"];
const EXTERNAL: [&str; 3] = ["x0", "x1", "x2"];
const ALIASES: [&str; 3] = ["10.0.0.0", "10.0.0.1", "10.0.0.2"];

/// Time between two questions to a member.
const PACE: Duration = Duration::from_millis(500);

fn name(host: &str) -> MemberName {
    format!("{host}:1").parse().unwrap()
}

/// The set, and the gateway that watches it.
struct World {
    primary: usize,
    term: u8,
    is_up: [bool; 3],
    set: SetTracker,
    slots: Slots,
    now: Instant,
}

impl World {
    fn new(seeds: &[&str], primary: usize) -> Self {
        let slot = |index: usize| Slot { advertised: format!("gateway:{index}").into(), reserved_for: None };
        Self {
            primary,
            term: 1,
            is_up: [true; 3],
            set: SetTracker::new(Some("rs0".to_owned()), seeds.iter().copied().map(name)),
            slots: Slots::new((0..4).map(slot)),
            now: Instant::now(),
        }
    }

    /// What the server replies if it is asked by this name.
    fn reply(&self, asked: &MemberName) -> Option<HelloFacts> {
        let host = asked.host();
        let server = host.bytes().last().map(|digit| usize::from(digit - b'0'))?;
        let names = if EXTERNAL.contains(&host) { EXTERNAL } else { DEFAULT };
        let is_primary = server == self.primary;
        let mut id = [0; 12];
        id[11] = self.term;
        self.is_up[server].then(|| HelloFacts {
            role: if is_primary { HelloRole::Primary } else { HelloRole::Secondary },
            hidden: false,
            set_name: Some("rs0".to_owned()),
            set_version: Some(1),
            election_id: is_primary.then(|| ObjectId::from_bytes(id)),
            hosts: names.into_iter().map(name).collect(),
            passives: Vec::new(),
            arbiters: Vec::new(),
            me: Some(name(names[server])),
            primary: self.is_up[self.primary].then(|| name(names[self.primary])),
            topology_version: None,
            max_wire_version: 17,
        })
    }

    /// Asks a server by this name and checks what clients find.
    fn ask(&mut self, asked: &MemberName) {
        match self.reply(asked) {
            Some(facts) => self.set.answered(asked, &facts, self.now),
            None => self.set.lost(asked, "gone", self.now),
        };
        let map = self.assign();
        let candidates = self.set.candidates();
        let first = candidates.iter().find(|candidate| Some(&candidate.name) == map.leads_to(0));
        let has_any = candidates.iter().any(|candidate| candidate.standing <= Standing::Introduces);
        let is_live = first.is_some_and(|first| first.standing < Standing::Out);
        assert!(is_live || !has_any, "{candidates:?} {map:?}");
        let horizons = [DEFAULT, EXTERNAL].map(|names| map.iter().filter(|it| names.contains(&it.1.host())).count());
        assert!(horizons.contains(&0), "members have two addresses: {map:?}");
    }

    fn assign(&mut self) -> MemberMap {
        self.slots.assign(&self.set.candidates()).map
    }

    /// Asks all monitored members, those first that come first in `order`, until nothing changes any longer.
    fn settle(&mut self, order: &[&str]) -> String {
        let mut quiet = 0;
        for _ in 0..100 {
            let mut asked = BTreeSet::new();
            let before = format!("{:?}", self.set);
            let place = |member: &MemberName| order.iter().position(|host| *host == member.host());
            while let Some(next) = {
                let waiting = self.set.members().map(|member| &member.name).filter(|member| !asked.contains(*member));
                waiting.min_by_key(|member| place(member)).cloned()
            } {
                self.ask(&next);
                asked.insert(next);
            }
            // A seed is asked again so much later after it was found to be another name of a member.
            self.now += ALIASES_ASKED_AGAIN_AFTER;
            quiet = if format!("{:?}", self.set) == before { quiet + 1 } else { 0 };
            if quiet > 2 {
                let map = self.assign();
                let hosts = map.iter().map(|(slot, member, _)| format!("{slot}={}", member.host()));
                return hosts.collect::<Vec<_>>().join(" ");
            }
        }
        panic!("the set does not come to rest: {:?}", self.set);
    }
}

fn permutations(hosts: &[&'static str]) -> Vec<Vec<&'static str>> {
    if hosts.is_empty() {
        return vec![Vec::new()];
    }
    let with_first = |first: usize| {
        let mut rest = hosts.to_vec();
        let host = rest.remove(first);
        permutations(&rest).into_iter().map(move |mut order| {
            order.insert(0, host);
            order
        })
    };
    (0..hosts.len()).flat_map(with_first).collect()
}

const IN_DEFAULT: &str = "0=m0 1=m1 2=m2";
const IN_EXTERNAL: &str = "0=x0 1=x1 2=x2";

#[test]
fn the_order_of_the_answers_does_not_decide_between_horizons() {
    let names = [DEFAULT, EXTERNAL].concat();
    for order in permutations(&names) {
        for (seeds, expected) in [
            (&["m1", "x2"][..], IN_DEFAULT),
            (&["x0", "10.0.0.1"], IN_EXTERNAL),
            (&["10.0.0.0", "10.0.0.2"], IN_DEFAULT),
            (&["m0", "10.0.0.1", "x2"], IN_DEFAULT),
        ] {
            for primary in 0..3 {
                let found = World::new(seeds, primary).settle(&order);
                assert_eq!(found, expected, "{seeds:?}, {primary} is primary, {order:?}");
            }
        }
    }
}

#[test]
fn a_secondary_in_another_horizon_takes_no_address() {
    let mut world = World::new(&["m0", "x1"], 0);
    world.ask(&name("x1"));
    assert_eq!(world.set.mapped(), EXTERNAL.map(name), "nothing better is known yet");
    world.ask(&name("m0"));
    assert_eq!(world.set.mapped(), DEFAULT.map(name));
    ["m1", "m2"].map(name).iter().for_each(|member| world.ask(member));
    // There is no primary for a while.
    world.is_up[0] = false;
    for member in ["m0", "m0", "x1", "m1", "m2"] {
        world.ask(&name(member));
    }
    assert_eq!(world.set.mapped(), DEFAULT.map(name));
    assert_eq!(world.set.members().count(), 3, "the seed was another name of m1: {:?}", world.set);
}

#[test]
fn another_horizon_is_used_when_no_member_answers_in_the_first_one() {
    let mut world = World::new(&["m0", "x1"], 0);
    assert_eq!(world.settle(&DEFAULT), IN_DEFAULT);
    // The names of the default horizon do not resolve any longer.
    let gone = |world: &mut World| {
        for _ in 0..2 {
            DEFAULT.map(name).iter().for_each(|member| drop(world.set.lost(member, "cannot be resolved", world.now)));
        }
        world.now += ALIASES_ASKED_AGAIN_AFTER;
        drop(world.set.lost(&name("m1"), "cannot be resolved", world.now));
    };
    gone(&mut world);
    world.ask(&name("x1"));
    assert_eq!(world.set.mapped(), EXTERNAL.map(name));
    world.ask(&name("x0"));
    assert_eq!(world.settle(&EXTERNAL), IN_DEFAULT, "they resolve again");
}

#[derive(Debug, Clone)]
enum Event {
    Ask(usize),
    Elect(usize),
    Toggle(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..100_usize).prop_map(Event::Ask),
        1 => (0..3_usize).prop_map(Event::Elect),
        1 => (0..3_usize).prop_map(Event::Toggle),
    ]
}

proptest! {
    #[test]
    fn after_any_history_the_map_comes_to_rest_in_the_same_place(
        seeds in proptest::sample::subsequence([DEFAULT, EXTERNAL, ALIASES].concat(), 1..5),
        events in proptest::collection::vec(event(), 0..60),
    ) {
        let mut world = World::new(&seeds, 0);
        for event in events {
            match event {
                Event::Ask(which) => {
                    let members: Vec<_> = world.set.members().map(|member| member.name.clone()).collect();
                    let Some(member) = members.get(which % members.len().max(1)) else { continue };
                    world.ask(member);
                    world.now += PACE;
                }
                Event::Elect(server) if world.is_up[server] && server != world.primary => {
                    (world.primary, world.term) = (server, world.term + 1);
                }
                Event::Elect(_) => {}
                Event::Toggle(server) => world.is_up[server] = !world.is_up[server],
            }
        }
        world.is_up = [true; 3];
        let calm = World::new(&seeds, 0).settle(&[]);
        prop_assert_eq!(world.settle(&[]), calm);
    }
}
