//! Replica sets as clients see them through the gateway: what members say about themselves, who they are, which address
//! stands for which, and their names in replies to `hello`.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::cast_possible_truncation))]

mod hello_facts;
mod hello_reply;
mod member_map;
mod member_name;
mod set;
#[cfg(test)]
mod tests;

pub use hello_facts::{HelloFacts, HelloProblem, MemberState};
pub use hello_reply::{Names, Unreadable, rewrite};
pub use member_map::{Assigned, MemberMap, Slot, Slots};
pub use member_name::{MemberName, NotAMember};
pub use set::{MemberRecord, SetTracker};
