//! An upstream connection as a relay takes it over.

use crate::tls::Session;

/// An upstream connection: mongod says nothing on it before it is asked.
pub struct UpstreamSide<U> {
    /// Where the TLS records go.
    pub socket: U,
    /// The finished session; nothing of it waits to be read or sent.
    pub session: Session,
    /// Of the certificate set that it was made with.
    pub generation: u64,
}
