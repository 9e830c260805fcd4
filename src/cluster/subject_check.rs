//! Warns about a client certificate that mongod may take for that of a cluster member.
//!
//! With `clusterAuthMode: x509`, a mongod treats a client as a member of its cluster if the O, OU and DC attributes of
//! both subjects are equal.

use std::sync::Arc;

use super::messages::CLUSTER_MEMBER_CERTIFICATE;
use super::pool::MemberPool;
use crate::identity::printable;
use crate::tls::UpstreamTls;
use crate::upstream::UpstreamStream;

/// Compares the subjects of both certificates, once for each certificate set of the gateway.
#[derive(Default)]
pub(super) struct SubjectCheck {
    checked: Option<Arc<UpstreamTls>>,
}

impl SubjectCheck {
    /// Checks a connection that was just made.
    pub(super) fn check(&mut self, pool: &MemberPool, stream: &UpstreamStream) {
        let used = &stream.made_with;
        if self.checked.as_ref().is_some_and(|checked| Arc::ptr_eq(checked, used)) {
            return;
        }
        let Some(server) = stream.server_certificate() else { return };
        let client = &used.credentials.certificate;
        if server.subject.is_of_same_cluster(&client.subject) {
            tracing::warn!(
                upstream = pool.connector.upstream(),
                subject = printable(client.subject.as_str()),
                server_subject = printable(server.subject.as_str()),
                reason = "O, OU and DC are those of mongod's certificate: a mongod with X.509 cluster authentication \
                          treats every client of this gateway as a cluster member, which may do everything",
                remedy = "use a client certificate whose O, OU or DC differs from those of mongod's certificate",
                "{CLUSTER_MEMBER_CERTIFICATE}"
            );
        }
        self.checked = Some(Arc::clone(used));
    }
}
