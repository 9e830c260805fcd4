//! Every metric of the gateway: names, labels, and the handles that record it.
//!
//! Handles are looked up once, per listener, upstream or kind of command; recording is a few atomic operations and
//! never a search. Label values come from configured names and from closed sets ([`labels`]).

mod certs;
pub(super) mod families;
mod labels;
mod listener;
mod recorder;
#[cfg(test)]
mod tests;
mod upstream;

pub use certs::{ReloadMetrics, set_certificate_expiry};
pub use labels::{CertificateRole, ClientHandshake, CommandOutcome, ConnectionOutcome, Direction, Recycling};
pub use listener::{ListenerMetrics, OpenConnection};
pub use recorder::{InstallError, Metrics};
pub use upstream::{SetMetrics, UpstreamMetrics};
