//! The members of an upstream: what is known about them, the connections to them, and which one a client is given.

mod health_check;
mod membership;
pub mod monitor;
mod original_dst;
mod pool;
mod select;
mod upstream;

pub use membership::{MemberStatus, Membership, Usability};
pub use original_dst::AddressBook;
pub use pool::{MemberHealth, MemberPool, NoReplacement};
pub use select::{Ingress, MemberSelector, SelectError, Selection, SlotMap};
pub use upstream::{Credential, Member, Upstream};
