//! The DNS seed list: the members of a replica set or sharded cluster, from the SRV and TXT records of one name.

mod error;
mod lookup;
mod records;
mod srv_seeds;
#[cfg(test)]
mod tests;

pub use error::{SrvError, SrvFailure};
pub use lookup::seeds;
pub use srv_seeds::SrvSeeds;
