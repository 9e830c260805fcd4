//! Decides which clients a listener admits, and who they are; rejects the others.

use std::sync::Arc;

use rustls::ServerConfig;

use super::caller_info::CallerInfo;
use super::client_rejection::ClientRejection;
use super::ending::{Ending, ListenerFacts};
use super::other_protocol::OtherProtocol;
use super::principals::ConnectedPrincipals;
use crate::config::{ListenerConfig, ListenerMode};
use crate::identity::{ClientFacts, Identified, Identities};
use crate::listener;
use crate::listener::{ClientPreamble, ClientStream, HandshakeFailure, Opening, PeerTls, ProxyRules, ServerIdentity};
use crate::telemetry::log_throttle::{LogSubject, LogThrottle};
use crate::telemetry::metrics::{ClientHandshake, ListenerMetrics};
use crate::wire::header::Header;

/// Decides which clients a listener admits; shared by its connections.
pub struct Admission {
    listener: String,
    mode: ListenerMode,
    /// The server certificate, unless the mode is plaintext.
    server_identity: Option<Arc<ServerIdentity>>,
    /// Which clients may send PROXY headers.
    proxy_rules: ProxyRules,
    identities: Identities,
    connected: Arc<ConnectedPrincipals>,
    metrics: Arc<ListenerMetrics>,
    /// Limits log lines about connections: clients try again and again, and ports are scanned.
    log_throttle: LogThrottle,
}

/// A client that is admitted, and the beginning of its first message.
pub(super) struct Admitted {
    pub(super) client: ClientStream,
    /// The header of its first message.
    pub(super) header: Header,
    /// The bytes received so far, from the header on.
    pub(super) first_bytes: Vec<u8>,
}

impl Admission {
    /// `server_identity` is `None` if and only if the mode of the listener is plaintext.
    pub fn new(
        config: &ListenerConfig,
        server_identity: Option<Arc<ServerIdentity>>,
        identities: Identities,
        metrics: Arc<ListenerMetrics>,
    ) -> Self {
        Self {
            listener: config.name.clone(),
            mode: config.mode,
            server_identity,
            proxy_rules: ProxyRules::new(config),
            identities,
            connected: Arc::default(),
            metrics,
            log_throttle: LogThrottle::new(LogSubject::Listener(config.name.clone())),
        }
    }

    /// The name of the listener.
    pub fn listener(&self) -> &str {
        &self.listener
    }

    /// Whether the listener takes plaintext, TLS or both.
    pub fn mode(&self) -> ListenerMode {
        self.mode
    }

    /// The server certificate of the listener; `None` if it takes plaintext only.
    pub fn server_identity(&self) -> Option<&Arc<ServerIdentity>> {
        self.server_identity.as_ref()
    }

    /// The principals that are connected now.
    pub fn connected(&self) -> &Arc<ConnectedPrincipals> {
        &self.connected
    }

    /// The metrics of the listener. Those about commands, errors and bytes count principals without metrics of their
    /// own.
    pub(super) fn metrics(&self) -> &Arc<ListenerMetrics> {
        &self.metrics
    }

    pub(super) fn log_throttle(&self) -> &LogThrottle {
        &self.log_throttle
    }

    pub(super) fn proxy_rules(&self) -> &ProxyRules {
        &self.proxy_rules
    }

    pub(super) fn server_config(&self) -> Option<Arc<ServerConfig>> {
        self.server_identity.as_ref().map(|identity| Arc::clone(&identity.tls().config))
    }

    /// Admits a client, or answers it with the reason for its rejection and closes the connection.
    ///
    /// Gives up on the answer after a few seconds. Adds what it learns about the client to `caller`.
    pub(super) async fn admit(
        &self,
        heard: ClientPreamble,
        facts: &ListenerFacts<'_>,
        caller: &mut CallerInfo,
    ) -> Result<Admitted, Ending> {
        let ClientPreamble { client, user, proxy, tls, opening } = heard;
        let client_facts = caller.add(user, proxy.as_ref().ok().and_then(Option::as_ref));
        let identity = match &proxy {
            Ok(_) => self.identify(&tls, client_facts),
            Err(refusal) => Err(ClientRejection::Proxy(*refusal)),
        };
        self.count_handshake(&tls, &opening, &identity);
        let Some(mut client) = client else { return Err(Ending::of_opening(opening)) };
        match (opening, identity) {
            (Opening::Message(header, first_bytes), Ok(identity)) => {
                if let Some(identity) = identity {
                    caller.set_identity(identity, &self.connected);
                }
                Ok(Admitted { client, header, first_bytes })
            }
            (Opening::Message(header, first_bytes), Err(rejection)) => {
                let ending = Ending::Rejected(rejection);
                reply_with(&ending, facts, &mut client, &header, first_bytes.len()).await;
                Err(ending)
            }
            // A client that is no trusted proxy gets no TLS handshake.
            (Opening::Tls(_), Err(rejection @ ClientRejection::Proxy(_))) => {
                listener::refuse_tls(&mut client).await;
                Err(Ending::Rejected(rejection))
            }
            (opening, _) => {
                let ending = Ending::of_opening(opening);
                match &ending {
                    Ending::OtherProtocol(OtherProtocol::Tls)
                    | Ending::HandshakeFailed(HandshakeFailure::HelloTooLong) => {
                        listener::refuse_tls(&mut client).await;
                    }
                    Ending::OtherProtocol(OtherProtocol::Http) => listener::refuse_http(&mut client).await,
                    // The TLS alert has been written already.
                    Ending::HandshakeFailed(_) => listener::final_reply(&mut client, b"").await,
                    _ => {}
                }
                Err(ending)
            }
        }
    }

    /// The identity of a client: `None` if it has none and needs none.
    fn identify(&self, tls: &PeerTls, facts: ClientFacts<'_>) -> Result<Option<Identified>, ClientRejection> {
        let certificate = match tls {
            PeerTls::Plaintext if self.mode == ListenerMode::Strict => return Err(ClientRejection::NotTls),
            PeerTls::Plaintext => None,
            PeerTls::Anonymous => return Err(ClientRejection::NoCertificate),
            PeerTls::Unreadable => return Err(ClientRejection::UnreadableCertificate),
            PeerTls::Certificate(certificate) => Some(&**certificate),
        };
        self.identities.identify(&ClientFacts { certificate, ..facts }).map_err(ClientRejection::Identity)
    }

    /// Counts TLS handshakes, and clients that did not begin one where they had to.
    fn count_handshake(
        &self,
        tls: &PeerTls,
        opening: &Opening,
        identity: &Result<Option<Identified>, ClientRejection>,
    ) {
        let outcome = match (opening, tls, identity) {
            (Opening::Handshake(failure), ..) => Some(failure.outcome()),
            (Opening::Message(..), PeerTls::Plaintext, Err(ClientRejection::NotTls)) => Some(ClientHandshake::NotTls),
            (_, PeerTls::Plaintext, _) => None,
            (_, _, Ok(_)) => Some(ClientHandshake::Ok),
            (_, _, Err(rejection)) => rejection.handshake(),
        };
        if let Some(outcome) = outcome {
            self.metrics.count_handshake(outcome);
        }
    }
}

/// Replies to the client's first message, of which `received` bytes have been read, with the error of `ending`.
pub(super) async fn reply_with(
    ending: &Ending,
    facts: &ListenerFacts<'_>,
    client: &mut ClientStream,
    header: &Header,
    received: usize,
) {
    if let Some(error) = ending.explanation(facts).client_error {
        listener::refuse(client, header, received, &error).await;
    }
}
