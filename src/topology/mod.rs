//! The state of a replica set or sharded cluster, and the mapping of its members to addresses of the gateway.
//!
//! Takes replies to `hello` and returns decisions. Opens no connection and reads no clock. Names from mongod are
//! limited in length and number. A reply that cannot be parsed is an error: a member name that reaches a driver would
//! lead it past the gateway.
//!
//! Spec: mongodb/specifications `source/server-discovery-and-monitoring/server-discovery-and-monitoring.md`, reduced to
//! what a gateway needs.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::cast_possible_truncation))]

mod candidate;
mod hello_facts;
mod hello_reply;
mod horizon;
mod known_hello;
mod limits;
mod member;
mod member_map;
mod member_name;
mod set;
mod stand_in;

pub use candidate::{Candidate, Standing};
pub use hello_facts::{HelloFacts, HelloRole, NoHello};
pub use hello_reply::{MemberNaming, RewriteError, rewrite};
pub use known_hello::{KnownHello, TopologyVersion};
pub use limits::MEMBERS_MAX;
pub use member::{MemberState, SetMember};
pub use member_map::{Assigned, MemberMap, Slot, Slots};
pub use member_name::{DEFAULT_PORT, MemberName, UnusableName};
pub use set::{Change, SetTracker};
