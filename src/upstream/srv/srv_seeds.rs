//! The seed list of a name in DNS.

use std::time::Duration;

use crate::config::HostPort;

/// The seed list of a name in DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SrvSeeds {
    /// In the order of the answer, without duplicates, in lower case; never empty.
    pub members: Vec<HostPort>,
    /// `replicaSet` of the TXT record.
    pub replica_set: Option<String>,
    /// `loadBalanced` of the TXT record. If `true`, there is one member and no `replica_set`.
    pub load_balanced: bool,
    /// How long the seed list is valid: 1 minute to 1 day. Needed for deployments that do not report changes of their
    /// members.
    pub valid_for: Duration,
}
