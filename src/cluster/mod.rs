//! The members of an upstream: which servers there are, whether they are healthy, the connections to them, and which
//! member a client is given.
//!
//! It makes connections through `upstream` and does not see the bytes on them.

mod acquire;
mod attempts;
mod condition;
mod credential;
mod dial_queue;
mod health_check;
mod hello_watch;
mod member;
mod member_health;
mod membership;
mod messages;
pub mod monitor;
mod original_dst;
mod pool;
mod pool_upkeep;
mod reuse;
mod select;
mod select_error;
mod slot_map;
mod subject_check;
mod upstream;

pub use acquire::AcquireError;
pub use attempts::Attempts;
pub use condition::{is_up, upstream_condition};
pub use credential::Credential;
pub use dial_queue::DialError;
pub use hello_watch::UseOfHello;
pub use member::Member;
pub use member_health::MemberHealth;
pub use membership::{MemberStatus, Membership, Usability};
pub use original_dst::AddressBook;
pub use pool::{MemberPool, NoReplacement};
pub use reuse::{Lease, Leased, PoolCounts, PoolKey, ReusePool};
pub use select::{Ingress, MemberSelector, Selection};
pub use select_error::{SelectError, SelectExplanation};
pub use slot_map::{SlotAssignment, SlotMap};
pub use upstream::Upstream;
