//! What is known of a replica set, and what its members are called on either side of the gateway.
//!
//! Takes answers to `hello` and returns decisions; asks nobody, and knows no clock. Names come from mongod and are
//! bounded; what cannot be read is refused, as a name that gets out leads a driver past the gateway.
//!
//! Spec: mongodb/specifications `source/server-discovery-and-monitoring/server-discovery-and-monitoring.md`, reduced to
//! what a gateway needs.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::cast_possible_truncation))]

mod hello_facts;
mod hello_reply;
mod limits;
mod member;
mod member_map;
mod member_name;
mod set;

pub use hello_facts::{HelloFacts, HelloRole, NoHello};
pub use hello_reply::{MemberNaming, Unreadable, rewrite};
pub use limits::MEMBERS_MAX;
pub use member::{MemberState, SetMember};
pub use member_map::{Assigned, MemberMap, Slot, Slots};
pub use member_name::{DEFAULT_PORT, MemberName, UnusableName};
pub use set::{Change, SetTracker};
