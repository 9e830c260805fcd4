//! Converts between the addresses of the configuration and the member names of a replica set.

use crate::config::{Deployment, HostPort};
use crate::topology::{MemberName, SetTracker};

/// The member name of a configured address; `None` if no replica set could have such a member.
pub fn member_name(address: &HostPort) -> Option<MemberName> {
    address.to_string().parse().ok()
}

/// The address of a member, as in the configuration.
pub fn host_port(name: &MemberName) -> HostPort {
    HostPort { host: name.host().to_owned(), port: name.port() }
}

/// What is known about `deployment` before any server was asked. `set_name` is the name of the replica set according to
/// DNS, used if the configuration has none.
pub fn initial_tracker(deployment: &Deployment, seeds: &[HostPort], set_name: Option<String>) -> SetTracker {
    let seeds = seeds.iter().filter_map(member_name);
    match deployment {
        Deployment::Sharded { .. } => SetTracker::sharded(seeds),
        Deployment::ReplicaSet { name, .. } => SetTracker::new(name.clone().or(set_name), seeds),
        Deployment::Single(_) => SetTracker::new(set_name, seeds),
    }
}
