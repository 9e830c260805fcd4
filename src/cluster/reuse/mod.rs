//! Upstream connections that serve one client after the other: the store of those that no client uses now, and the
//! turns of clients that need one.
//!
//! A reply must never reach another client than the one that sent its request. Three rules hold that here:
//!
//! - A client gives a connection back only at a boundary: every request has its reply, and no stream of replies is
//!   open. The relay decides that. In doubt it drops the lease, and the connection is closed.
//! - When a connection is given back, nothing may wait to be read from it, not even a part of a TLS record. Bytes that
//!   have arrived by then are a reply that the relay does not know of, so the connection is closed.
//! - The same is checked when a client takes it, because bytes can arrive while it is parked. mongod sends nothing
//!   without a request: any byte is a late reply to an earlier client, or the end of the connection.
//!
//! Bytes that arrive after the second check are not recognised here. The relay compares each reply with its request.
//!
//! A parked connection belongs to no runtime, so that a client on any worker can take it.

mod lease;
mod place;
mod places;
mod pool_key;
mod store;
mod wait_queue;

pub use lease::{Lease, Leased};
pub(super) use place::Place;
pub use pool_key::PoolKey;
pub use store::{PoolCounts, ReusePool};
