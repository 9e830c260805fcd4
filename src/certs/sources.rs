//! The certificate sets that are read from files: those of upstreams and listeners, and the files that complete a set
//! from the SPIFFE Workload API.

use std::path::PathBuf;
use std::sync::Arc;

use super::owner::CertificateOwner;
use super::received_set::ReceivedSet;
use super::set_facts::CertificateSetFacts;
use super::set_source::{CandidateSet, LoadFailure, SetSource};
use crate::cluster::Upstream;
use crate::config::{ListenerTlsConfig, MaterialSource, TlsFiles};
use crate::listener::ServerIdentity;
use crate::tls::{ListenerTls, UpstreamTls};

impl SetSource {
    /// The files of one credential; `None` if its certificates do not come from files.
    pub(super) fn of_credential(upstream: &Arc<Upstream>, credential: usize) -> Option<Self> {
        let endpoint = upstream.any_endpoint(credential)?;
        let files = paths(endpoint.tls.files()?);
        let upstream = Arc::clone(upstream);
        let owner = CertificateOwner::Upstream(Arc::clone(&upstream), credential);
        let load = move || {
            let tls = UpstreamTls::load(&endpoint)
                .map_err(|error| LoadFailure { sentence: error.to_string(), remedy: error.remedy() })?;
            let upstream = Arc::clone(&upstream);
            Ok(CandidateSet {
                facts: CertificateSetFacts::from(&tls),
                is_in_use: is_in_use(&upstream, credential, &tls),
                commit: Box::new(move || upstream.renew(credential, tls)),
            })
        };
        Some(Self { owner, files, load: Arc::new(load) })
    }

    /// The CA and CRL files that an upstream uses in addition to the certificates from its agent; `None` if it has
    /// none, or no agent.
    pub(super) fn in_addition_to_agent(upstream: &Arc<Upstream>, received: &ReceivedSet) -> Option<Self> {
        let endpoint = upstream.any_endpoint(0)?;
        let MaterialSource::WorkloadApi(agent) = endpoint.tls.source.clone() else { return None };
        let files: Vec<_> = agent.ca_file.iter().chain(&agent.crl_file).cloned().collect();
        if files.is_empty() {
            return None;
        }
        let upstream = Arc::clone(upstream);
        let (owner, received) = (CertificateOwner::Upstream(Arc::clone(&upstream), 0), received.clone());
        let load = move || {
            // The first set from the agent is completed with the files as they are then.
            let Some(set) = received.latest() else { return Ok(CandidateSet::none()) };
            let tls = UpstreamTls::from_workload(&endpoint, &agent, &set)
                .map_err(|error| LoadFailure { sentence: error.to_string(), remedy: error.remedy() })?;
            let (upstream, received) = (Arc::clone(&upstream), received.clone());
            Ok(CandidateSet {
                facts: CertificateSetFacts::from(&tls),
                is_in_use: is_in_use(&upstream, 0, &tls),
                commit: Box::new(move || {
                    // A newer set from the agent has been completed with these files, or newer ones.
                    if received.is_latest(&set) {
                        upstream.renew(0, tls);
                    }
                }),
            })
        };
        Some(Self { owner, files, load: Arc::new(load) })
    }

    /// The files of a TLS listener.
    pub(super) fn of_listener(identity: &Arc<ServerIdentity>, section: &ListenerTlsConfig) -> Self {
        let files = paths(&section.files);
        let (identity, section) = (Arc::clone(identity), section.clone());
        let owner = CertificateOwner::Listener(Arc::clone(&identity));
        let load = move || {
            let tls = ListenerTls::load(identity.listener(), &section)
                .map_err(|error| LoadFailure { sentence: error.to_string(), remedy: error.remedy() })?;
            let identity = Arc::clone(&identity);
            Ok(CandidateSet {
                facts: CertificateSetFacts::from(&tls),
                is_in_use: tls.is_same_material(&identity.tls()),
                commit: Box::new(move || identity.renew(tls)),
            })
        };
        Self { owner, files, load: Arc::new(load) }
    }
}

fn is_in_use(upstream: &Upstream, credential: usize, tls: &UpstreamTls) -> bool {
    let in_use = upstream.credentials().get(credential).and_then(|credential| credential.identity.tls());
    in_use.is_some_and(|in_use| tls.is_same_material(&in_use))
}

fn paths(files: &TlsFiles) -> Vec<PathBuf> {
    let TlsFiles { certificate_file, private_key_file, private_key_password_file, ca_file, crl_file, .. } = files;
    let required = [certificate_file, private_key_file, ca_file].into_iter();
    required.chain(private_key_password_file).chain(crl_file).cloned().collect()
}
