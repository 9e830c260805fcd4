//! How the files of each kind of owner become a set.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{TlsFiles, UpstreamConfig};
use crate::connection::Upstream;
use crate::gateway::owner::{CertificateSet, Owner};
use crate::tls::ClientTls;

use super::reading::{Candidate, Failure, Source};

impl Source {
    /// Of an upstream; `None` if its certificates do not come from files.
    pub(in crate::gateway) fn of_upstream(upstream: &Arc<Upstream>, section: &UpstreamConfig) -> Option<Self> {
        let files = paths(section.tls.files()?);
        let (owner, section) = (Owner::Upstream(Arc::clone(upstream)), section.clone());
        let upstream = Arc::clone(upstream);
        let load = move || {
            let tls = ClientTls::load(&section)
                .map_err(|error| Failure { sentence: error.to_string(), remedy: error.remedy() })?;
            let upstream = Arc::clone(&upstream);
            Ok(Candidate {
                set: CertificateSet::from(&tls),
                is_in_use: is_same(&tls, &upstream.connector.tls()),
                commit: Box::new(move || upstream.renew(tls)),
            })
        };
        Some(Self { owner, files, load: Arc::new(load) })
    }
}

/// The key need not be compared: one that belongs to the same certificate is the same.
fn is_same(new: &ClientTls, in_use: &ClientTls) -> bool {
    new.credentials.certified_key.cert == in_use.credentials.certified_key.cert
        && new.authorities.certificates == in_use.authorities.certificates
}

fn paths(files: &TlsFiles) -> Vec<PathBuf> {
    let TlsFiles { certificate_file, private_key_file, private_key_password_file, ca_file, crl_file } = files;
    let always = [certificate_file, private_key_file, ca_file].into_iter();
    always.chain(private_key_password_file).chain(crl_file).cloned().collect()
}
