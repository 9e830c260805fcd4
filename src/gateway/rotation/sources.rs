//! How the files of each kind of owner become a set.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{EndpointConfig, ListenerTlsConfig, MaterialSource, TlsFiles};
use crate::connection::{Route, Upstream};
use crate::gateway::owner::{CertificateSet, Owner};
use crate::tls::{ListenerTls, UpstreamTls};

use super::follower::HandedOut;
use super::reading::{Candidate, Failure, Source};

impl Source {
    /// Of one credential of an upstream; `None` if its certificates do not come from files.
    pub(in crate::gateway) fn of_upstream(upstream: &Arc<Upstream>, credential: usize) -> Option<Self> {
        let endpoint = any_endpoint(upstream, credential)?;
        let files = paths(endpoint.tls.files()?);
        let upstream = Arc::clone(upstream);
        let owner = Owner::Upstream(Arc::clone(&upstream), credential);
        let load = move || {
            let tls = UpstreamTls::load(&endpoint)
                .map_err(|error| Failure { sentence: error.to_string(), remedy: error.remedy() })?;
            let upstream = Arc::clone(&upstream);
            Ok(Candidate {
                set: CertificateSet::from(&tls),
                is_in_use: is_in_use(&upstream, credential, &tls),
                commit: Box::new(move || upstream.renew(credential, tls)),
            })
        };
        Some(Self { owner, files, load: Arc::new(load) })
    }

    /// Of the files beside an agent; `None` if there are none, or no agent.
    pub(super) fn beside_agent(upstream: &Arc<Upstream>, handed_out: &HandedOut) -> Option<Self> {
        let endpoint = any_endpoint(upstream, 0)?;
        let MaterialSource::WorkloadApi(agent) = endpoint.tls.source.clone() else { return None };
        let files: Vec<_> = agent.ca_file.iter().chain(&agent.crl_file).cloned().collect();
        if files.is_empty() {
            return None;
        }
        let upstream = Arc::clone(upstream);
        let (owner, handed_out) = (Owner::Upstream(Arc::clone(&upstream), 0), handed_out.clone());
        let load = move || {
            // Whoever takes the first set reads the files as they are then.
            let Some(set) = handed_out.latest() else { return Ok(Candidate::nothing()) };
            let tls = UpstreamTls::from_workload(&endpoint, &agent, &set)
                .map_err(|error| Failure { sentence: error.to_string(), remedy: error.remedy() })?;
            let (upstream, handed_out) = (Arc::clone(&upstream), handed_out.clone());
            Ok(Candidate {
                set: CertificateSet::from(&tls),
                is_in_use: is_in_use(&upstream, 0, &tls),
                commit: Box::new(move || {
                    // A set that came meanwhile was put to use with the files as they are now, or newer.
                    if handed_out.is_latest(&set) {
                        upstream.renew(0, tls);
                    }
                }),
            })
        };
        Some(Self { owner, files, load: Arc::new(load) })
    }

    /// Of a listener that speaks TLS.
    pub(in crate::gateway) fn of_listener(route: &Arc<Route>, section: &ListenerTlsConfig) -> Self {
        let files = paths(&section.files);
        let (route, section) = (Arc::clone(route), section.clone());
        let owner = Owner::Listener(Arc::clone(&route));
        let load = move || {
            let tls = ListenerTls::load(&route.listener, &section)
                .map_err(|error| Failure { sentence: error.to_string(), remedy: error.remedy() })?;
            let route = Arc::clone(&route);
            Ok(Candidate {
                set: CertificateSet::from(&tls),
                is_in_use: route.door.tls().is_some_and(|in_use| tls.is_same_material(&in_use)),
                commit: Box::new(move || route.renew_tls(tls)),
            })
        };
        Self { owner, files, load: Arc::new(load) }
    }
}

/// How a credential reaches a server of its upstream, whichever: its files are the same for all.
pub(super) fn any_endpoint(upstream: &Upstream, credential: usize) -> Option<EndpointConfig> {
    let address = upstream.config().any_address();
    Some(upstream.credentials().get(credential)?.endpoint(upstream.config(), &address))
}

fn is_in_use(upstream: &Upstream, credential: usize, tls: &UpstreamTls) -> bool {
    let in_use = upstream.credentials().get(credential).and_then(|credential| credential.identity.tls());
    in_use.is_some_and(|in_use| tls.is_same_material(&in_use))
}

fn paths(files: &TlsFiles) -> Vec<PathBuf> {
    let TlsFiles { certificate_file, private_key_file, private_key_password_file, ca_file, crl_file } = files;
    let always = [certificate_file, private_key_file, ca_file].into_iter();
    always.chain(private_key_password_file).chain(crl_file).cloned().collect()
}
