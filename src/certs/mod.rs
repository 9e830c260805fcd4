//! Keeps certificates current: reloads them from files, receives them from a SPIFFE agent, and warns before they
//! expire.

mod expiry;
mod file_reload;
mod messages;
mod owner;
mod received_set;
mod set_facts;
mod set_source;
mod sources;
mod supervisor;
#[cfg(test)]
mod tests;
mod watched_set;
mod workload_follower;

pub use owner::CertificateOwner;
pub use set_facts::{CertificateSetFacts, CrlFacts};
pub use supervisor::CertificateSupervisor;
