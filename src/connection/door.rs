//! The door of a listener: who is let in, as whom, and what those are told who are not.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;

use super::Route;
use super::caller::Caller;
use super::ending::{Ending, Foreign};
use super::present::Present;
use super::refusal::Refusal;
use crate::config::Mode;
use crate::identity::{ClientFacts, Identified, Identities};
use crate::lifecycle::renewal::{Renewal, RenewalWatch};
use crate::listener;
use crate::listener::{ClientStream, Heard, Opening, PeerTls, ProxyRules};
use crate::telemetry::log_throttle::LogThrottle;
use crate::telemetry::metrics::ClientHandshake;
use crate::tls::ListenerTls;
use crate::wire::header::Header;

/// What decides who is let in; shared by the connections of one listener.
pub struct Admission {
    mode: Mode,
    tls: ArcSwapOption<ListenerTls>,
    /// Tells those who are in that they are judged by something else.
    renewal: Renewal,
    /// Who may send PROXY headers.
    pub(super) proxy: ProxyRules,
    identities: Identities,
    /// Who is in.
    pub(super) present: Arc<Present>,
    /// Keeps refusals from filling the log, by their label: clients try again and again, and ports are scanned.
    pub(super) refused: LogThrottle<&'static str>,
}

/// A client that is let in, with what it has said.
pub(super) struct Admitted {
    pub(super) client: ClientStream,
    /// Of its first message.
    pub(super) header: Header,
    /// Of its first message; the header and whatever came with it.
    pub(super) first_bytes: Vec<u8>,
}

impl Admission {
    /// `tls` is there unless `mode` is plaintext.
    pub fn new(mode: Mode, tls: Option<ListenerTls>, proxy: ProxyRules, identities: Identities) -> Self {
        Self {
            mode,
            tls: ArcSwapOption::from_pointee(tls),
            renewal: Renewal::new(Duration::ZERO),
            proxy,
            identities,
            present: Arc::default(),
            refused: LogThrottle::new(),
        }
    }

    /// What the listener takes.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What TLS clients are shown now; `None` where none are taken.
    pub fn tls(&self) -> Option<Arc<ListenerTls>> {
        self.tls.load_full()
    }

    pub(super) fn server_config(&self) -> Option<Arc<ServerConfig>> {
        self.tls.load().as_ref().map(|tls| Arc::clone(&tls.config))
    }

    /// Who is in now.
    pub fn present(&self) -> &Present {
        &self.present
    }

    /// Connections that begin from now on use `tls`; clients that are in and would not be let in by it have to go.
    pub(super) fn renew_tls(&self, tls: ListenerTls) {
        let tls = Arc::new(tls);
        let old = self.tls.swap(Some(Arc::clone(&tls)));
        // To judge thousands again takes seconds in all.
        if old.is_none_or(|old| !old.accepts_same_clients(&tls)) {
            self.renewal.begin(self.renewal.watch().generation() + 1);
        }
    }

    pub(super) fn renewals(&self) -> RenewalWatch {
        self.renewal.watch()
    }

    fn judge(&self, tls: &PeerTls, facts: ClientFacts<'_>) -> Result<Option<Identified>, Refusal> {
        let certificate = match tls {
            PeerTls::Plaintext if self.mode == Mode::Strict => return Err(Refusal::NotTls),
            PeerTls::Plaintext => None,
            PeerTls::Anonymous => return Err(Refusal::NoCertificate),
            PeerTls::Unreadable => return Err(Refusal::UnreadableCertificate),
            PeerTls::Certificate(shown) => Some(&**shown),
        };
        self.identities.identify(&ClientFacts { certificate, ..facts }).map_err(Refusal::Identity)
    }
}

/// Lets a client in, or answers it with the reason why not.
///
/// Gives up on an answer after a few seconds. What is learnt of the client is added to `caller`.
pub(super) async fn admit(heard: Heard, route: &Route, caller: &mut Caller) -> Result<Admitted, Ending> {
    let Heard { client, user, proxy, tls, opening } = heard;
    let facts = caller.add(user, proxy.as_ref().ok().and_then(Option::as_ref));
    let verdict = match &proxy {
        Ok(_) => route.door.judge(&tls, facts),
        Err(refusal) => Err(Refusal::Proxy(*refusal)),
    };
    count_handshake(route, &tls, &opening, &verdict);
    let Some(mut client) = client else { return Err(Ending::of_opening(opening)) };
    let refused = match (opening, verdict) {
        (Opening::Message(header, first_bytes), Ok(who)) => {
            if let Some(who) = who {
                caller.enter(who, &route.door.present);
            }
            return Ok(Admitted { client, header, first_bytes });
        }
        (Opening::Message(header, first_bytes), Err(refusal)) => {
            let error = refusal.command_error(&route.listener);
            listener::refuse(&mut client, &header, first_bytes.len(), &error).await;
            return Err(Ending::Refused(refusal));
        }
        // The client of an untrusted proxy gets no handshake.
        (Opening::Tls(_), Err(refusal @ Refusal::Proxy(_))) => {
            listener::refuse_tls(&mut client).await;
            return Err(Ending::Refused(refusal));
        }
        (other, _) => Ending::of_opening(other),
    };
    match &refused {
        Ending::Foreign(Foreign::Tls) => listener::refuse_tls(&mut client).await,
        Ending::Foreign(Foreign::Http) => listener::refuse_http(&mut client).await,
        // The alert has been written already.
        Ending::Handshake(_) => listener::final_reply(&mut client, b"").await,
        _ => {}
    }
    Err(refused)
}

/// Counts handshakes, whatever came after them, and clients that began none where they should have.
fn count_handshake(route: &Route, tls: &PeerTls, opening: &Opening, verdict: &Result<Option<Identified>, Refusal>) {
    let outcome = match (opening, tls, verdict) {
        (Opening::Handshake(failure), ..) => Some(failure.outcome()),
        (Opening::Message(..), PeerTls::Plaintext, Err(Refusal::NotTls)) => Some(ClientHandshake::NotTls),
        (_, PeerTls::Plaintext, _) => None,
        (_, _, Ok(_)) => Some(ClientHandshake::Ok),
        (_, _, Err(refusal)) => refusal.handshake(),
    };
    if let Some(outcome) = outcome {
        route.metrics.count_handshake(outcome);
    }
}
