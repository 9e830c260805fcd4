//! Chooses the member that an address leads to while its own member cannot be found there.
//!
//! The documented connection string has one address. If the member behind it leaves the set or is down, a client that
//! starts from there must still find the others. The hello of the stand-in names the members' true addresses, so that a
//! driver which knows the replica set moves on to them and drops the address it came by.
//!
//! A stand-in stays the same while it can be read from: all connections of one driver to one address should reach one
//! member, because a cursor is known there only.
//!
//! Spec: mongodb/specifications `source/server-discovery-and-monitoring/server-discovery-and-monitoring.md`
//! § `updateRSWithPrimaryFromMember` (a server whose `me` is another address is removed).

use super::candidate::{Candidate, Standing};
use super::member_name::MemberName;

/// The stand-in for an address; `None` if no other member answers.
///
/// `absent` is the member that has the address but is out. `with_address` are the members that have an address of their
/// own. `current` is the present stand-in.
pub(super) fn choose(
    members: &[&Candidate],
    with_address: &[MemberName],
    absent: Option<&MemberName>,
    current: Option<&MemberName>,
) -> Option<MemberName> {
    let is_current = |member: &Candidate| Some(&member.name) == current;
    // One hello that fails says little: the stand-in and its clients wait for the next one.
    let is_kept = |member: &Candidate| is_current(member) && member.standing == Standing::Untried;
    let is_able =
        |member: &&&Candidate| (member.standing.is_informative() || is_kept(member)) && Some(&member.name) != absent;
    let best = members.iter().filter(is_able).min_by_key(|member| {
        let preference = match (member.standing, absent) {
            // While the set lists the address, the primary would be seen at two addresses. It is the last choice.
            (Standing::Writable, Some(_)) => Standing::Readable,
            (Standing::Readable, Some(_)) => Standing::Writable,
            (standing, _) => standing,
        };
        let is_usable = member.standing.is_usable() || is_kept(member);
        let has_address = with_address.contains(&member.name);
        (!is_usable, !has_address, !is_current(member), preference, member.name.clone())
    });
    best.map(|member| member.name.clone())
}
