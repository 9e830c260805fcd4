//! An upstream connection as a relay takes it over.

use std::fmt;

use crate::tls::TlsSession;

/// An upstream connection. Its server sends nothing before it gets a request.
pub struct UpstreamSide<U> {
    /// The socket that the TLS records go to.
    pub socket: U,
    /// The established session, with nothing waiting to be read or sent.
    pub session: TlsSession,
    /// The generation of the certificate set that the connection was made with.
    pub generation: u64,
}

impl<U> fmt::Debug for UpstreamSide<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamSide").field("generation", &self.generation).finish_non_exhaustive()
    }
}
