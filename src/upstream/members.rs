//! Members of a set, as the configuration names servers and as their set does.

use crate::config::{Deployment, HostPort};
use crate::topology::{MemberName, SetTracker};

/// As sets name their members; `None` for a name that no set could have.
pub fn member_name(address: &HostPort) -> Option<MemberName> {
    address.to_string().parse().ok()
}

/// As the configuration names servers.
pub fn host_port(name: &MemberName) -> HostPort {
    HostPort { host: name.host().to_owned(), port: name.port() }
}

/// What is known of `deployment` before anybody is asked; `set_name` is what is said of it where the configuration does not.
pub fn tracker(deployment: &Deployment, seeds: &[HostPort], set_name: Option<String>) -> SetTracker {
    let seeds = seeds.iter().filter_map(member_name);
    match deployment {
        Deployment::Sharded { .. } => SetTracker::sharded(seeds),
        Deployment::ReplicaSet { name, .. } => SetTracker::new(name.clone().or(set_name), seeds),
        Deployment::Single(_) => SetTracker::new(set_name, seeds),
    }
}
