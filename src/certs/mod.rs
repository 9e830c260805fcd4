//! Certificates that follow their files and agents, and the dates when they expire.

mod expiry;
mod file_reload;
mod owner;
mod reading;
mod sources;
mod supervisor;
#[cfg(test)]
mod tests;
mod watched_set;
mod workload_follower;

pub use file_reload::Reload;
pub use owner::{CertificateSet, ListFacts, Owner};
pub use supervisor::Certificates;
