//! What a client sent instead of the MongoDB wire protocol.

use super::explanation::EndingExplanation;

/// What a client sent instead of the MongoDB wire protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OtherProtocol {
    /// A TLS handshake to a plaintext listener.
    Tls,
    /// An HTTP request.
    Http,
    /// A PROXY header to a listener that does not expect one.
    Proxy,
    /// Something else.
    Unknown,
    /// Fewer bytes than a message header.
    Unfinished,
}

impl OtherProtocol {
    /// The explanation for the operator. `intercepts` is whether the listener takes redirected connections.
    pub(super) fn explanation(self, listener: &str, intercepts: bool) -> EndingExplanation {
        const UNKNOWN_CLIENT: &str = "find out which client this is: only MongoDB clients can use this listener";
        match self {
            Self::Tls if intercepts => EndingExplanation::new("tls", "TLS on a plaintext port").with_remedy(
                "if this is the gateway itself, exclude its user from the iptables rule that redirects; otherwise \
                 remove tls=true from the client's connection string: the gateway adds TLS itself",
            ),
            Self::Tls => EndingExplanation::new("tls", "TLS on a plaintext port").with_remedy(format!(
                "remove tls=true from the client's connection string: the gateway adds TLS itself; or set \
                 listener.{listener}.mode to \"permissive\""
            )),
            Self::Http => EndingExplanation::new("http", "HTTP on the MongoDB port")
                .with_remedy("point the browser or health check at the administration port"),
            Self::Proxy => {
                EndingExplanation::new("proxy_header", "PROXY protocol on a listener that does not expect it")
                    .with_remedy(format!(
                        "stop the proxy from sending PROXY headers, or set listener.{listener}.proxy_protocol and \
                     proxy_trusted"
                    ))
            }
            Self::Unknown => {
                EndingExplanation::new("not_mongodb", "not the MongoDB wire protocol").with_remedy(UNKNOWN_CLIENT)
            }
            Self::Unfinished => {
                EndingExplanation::new("unfinished", "an incomplete first message").with_remedy(UNKNOWN_CLIENT)
            }
        }
    }
}
