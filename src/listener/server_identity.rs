//! The certificate set of a TLS listener, which changes with each reload.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::lifecycle::renewal::{Renewal, RenewalWatch};
use crate::tls::ListenerTls;

/// Connected clients are verified again in the first half of this window, each at a time of its own: rejected clients
/// then do not all come back in one moment, and others do not wait for thousands of verifications.
const VERIFICATION_WINDOW: Duration = Duration::from_secs(10);

/// The server certificate that a listener shows, and the trust anchors and CRLs by which it verifies clients.
///
/// Shared by all workers; readers never wait.
pub struct ServerIdentity {
    listener: String,
    current: ArcSwap<ListenerTls>,
    /// Begins when connected clients must be verified again.
    renewal: Renewal,
}

impl ServerIdentity {
    /// For the listener with this name, with the set that it starts with.
    pub fn new(listener: &str, tls: ListenerTls) -> Self {
        let renewal = Renewal::new(VERIFICATION_WINDOW);
        Self { listener: listener.to_owned(), current: ArcSwap::from_pointee(tls), renewal }
    }

    /// The name of the listener.
    pub fn listener(&self) -> &str {
        &self.listener
    }

    /// The set that new connections use.
    pub fn tls(&self) -> Arc<ListenerTls> {
        self.current.load_full()
    }

    /// Uses `tls` for new connections. Connected clients are verified again if the new set verifies them differently.
    pub fn renew(&self, tls: ListenerTls) {
        let tls = Arc::new(tls);
        let previous = self.current.swap(Arc::clone(&tls));
        if !previous.accepts_same_clients(&tls) {
            self.renewal.begin(self.renewal.watch().generation() + 1);
        }
    }

    /// Reports when connected clients must be verified again.
    pub fn renewals(&self) -> RenewalWatch {
        self.renewal.watch()
    }
}
