//! Every metric of the gateway: names, labels, and the handles that record them.
//!
//! Handles are looked up once for each listener, upstream and kind of command. Recording is a few atomic operations and
//! no lookup. Label values are configured names or members of a closed set, never text from the wire.

mod certs;
pub(super) mod families;
mod labels;
mod listener;
mod own_process;
mod process;
mod recorder;
mod state;
#[cfg(test)]
mod tests;
mod tokens;
mod upstream;

pub use certs::{ReloadMetrics, set_certificate_expiry};
pub use labels::{CertificateRole, ClientHandshake, CommandOutcome, ConnectionOutcome, Direction, Recycling, Reloaded};
pub use listener::{ListenerMetrics, OpenConnection};
pub use own_process::render_process_metrics;
pub use process::{HeldBytes, OverloadMetrics, set_dropped_log_lines};
pub use recorder::{InstallError, Metrics};
pub use state::StateGauges;
pub use tokens::{TokenMetrics, set_jwks_keys};
pub use upstream::{SetMetrics, UpstreamMetrics};
