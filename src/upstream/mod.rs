//! Where bytes leave: one proven mutual-TLS connection to one mongod or mongos.
//!
//! A connection is proven when mongod has answered a `ping` on it. mongod judges a client certificate only after the TLS
//! handshake and then closes without a word, so the handshake alone proves nothing; and it must not be `hello`, because
//! the client's own hello has to be the first of its connection.
//!
//! Refuses to retry, to share a connection among clients, and to log: it returns what happened, once, with all there is to say about it.

mod demand;
mod dial;
mod error;
mod exchange;
mod health;
mod link;
mod probe;
mod shelf;
mod srv;
mod target;
#[cfg(test)]
pub(crate) mod test_server;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bson::rawdoc;
use rustls::{CipherSuite, HandshakeKind, ProtocolVersion};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::{HostPort, MaterialSource, UpstreamConfig};
use crate::identity::CertificateFacts;
use crate::tls::{ClientTls, ClientTlsError, check_beside_agent};

pub use error::{CertificateRefusal, ConnectError, Failure, Phase, REASONS};
pub use exchange::ExchangeError;
pub use health::{HealthSnapshot, UpstreamHealth};
pub use link::{IntroductionError, Link};
pub use probe::{Probe, Role, ServerFacts, identify, probe};
pub use shelf::Shelf;
pub use srv::{SrvError, SrvFailure, SrvSeeds, seeds};

use target::Target;

/// Makes connections to one upstream.
///
/// Shared by all workers: connecting takes `&self`, and what is shared behind it (the TLS sessions to resume) is locked
/// only within a handshake.
#[derive(Debug)]
pub struct Connector {
    config: UpstreamConfig,
    current: ArcSwap<Current>,
    generations: AtomicU64,
    first_set: watch::Sender<FirstSet>,
}

/// One set of certificates, and what is said about connections made with it.
#[derive(Debug)]
struct Current {
    /// `None` until the first set is there.
    tls: Option<Arc<ClientTls>>,
    target: Arc<Target>,
    generation: u64,
}

/// What is known about the first set of certificates, where it does not come from files.
#[derive(Debug)]
enum FirstSet {
    /// It was asked for.
    Awaited,
    /// It could not be had.
    Failed(Arc<ClientTlsError>),
    /// It came, and perhaps others since.
    There,
}

/// A proven connection: nothing is on its way in either direction, and no client's byte was sent on it.
///
/// Dropping it closes the socket.
#[derive(Debug)]
pub struct UpstreamStream {
    /// The socket and its TLS session; `into_inner` takes them apart.
    pub tls: TlsStream<TcpStream>,
    /// The certificates that it was made with.
    pub made_with: Arc<ClientTls>,
    /// Which set of certificates that was, counted from 0.
    pub generation: u64,
    /// The address, of those that the name has, that answered.
    pub address: SocketAddr,
    /// What was agreed on.
    pub handshake: HandshakeFacts,
}

/// What a handshake agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeFacts {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// Name of the cipher suite, as IANA writes it.
    pub cipher_suite: &'static str,
    /// Name of the key exchange group; `None` where a resumed session needed none.
    pub key_exchange: Option<&'static str>,
    /// Whether an earlier session was taken up, in which case no certificate travelled.
    pub resumed: bool,
    /// Of the TLS handshake alone.
    pub duration: Duration,
}

impl Connector {
    /// Reads the files of `upstream` and prepares its connections.
    ///
    /// Where certificates come from the SPIFFE Workload API there are none yet: [`Connector::renew`] brings them.
    pub fn new(upstream: &UpstreamConfig) -> Result<Self, ClientTlsError> {
        let (tls, first_set) = match &upstream.tls.source {
            MaterialSource::Files(_) => (Some(ClientTls::load(upstream)?), FirstSet::There),
            MaterialSource::WorkloadApi(agent) => {
                check_beside_agent(upstream, agent)?;
                (None, FirstSet::Awaited)
            }
        };
        let current = ArcSwap::from_pointee(Current::new(upstream, tls, 0));
        let (generations, first_set) = (AtomicU64::new(0), watch::Sender::new(first_set));
        Ok(Self { config: upstream.clone(), current, generations, first_set })
    }

    /// What connections are made with now: certificates, authorities, and what handshakes showed.
    ///
    /// `None` as long as the SPIFFE Workload API has given nothing.
    pub fn tls(&self) -> Option<Arc<ClientTls>> {
        self.current.load().tls.clone()
    }

    /// Makes all further connections with `tls`; those that are there already stay as they are.
    ///
    /// A connection that is being made may still be of the old set: see [`UpstreamStream::made_with`].
    pub fn renew(&self, tls: ClientTls) {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        self.current.store(Arc::new(Current::new(&self.config, Some(tls), generation)));
        self.first_set.send_replace(FirstSet::There);
    }

    /// Which set of certificates connections are made with now, counted from 0.
    pub fn generation(&self) -> u64 {
        self.current.load().generation
    }

    /// Says why the first set of certificates could not be had; without it, connections wait for one. Changes nothing
    /// once there is a set.
    pub fn lacks(&self, cause: Arc<ClientTlsError>) {
        self.first_set.send_if_modified(|known| {
            let lacking = !matches!(known, FirstSet::There);
            if lacking {
                *known = FirstSet::Failed(cause);
            }
            lacking
        });
    }

    /// Name of the upstream in the configuration.
    pub fn upstream(&self) -> &str {
        &self.config.name
    }

    /// Where it is, as configured.
    pub fn address(&self) -> &HostPort {
        &self.config.address
    }

    /// Time for one connection, all steps together.
    pub fn connect_timeout(&self) -> Duration {
        self.config.connect_timeout
    }

    /// Opens a connection and proves it: name lookup, TCP, TLS and a `ping`, all within `connect_timeout`.
    ///
    /// The addresses of the name are tried in turn, each with an equal share of the time that is left.
    /// Cancel safe: dropping the future closes what was opened.
    pub async fn connect(&self) -> Result<UpstreamStream, ConnectError> {
        self.connect_by(Instant::now() + self.config.connect_timeout).await
    }

    async fn connect_by(&self, deadline: Instant) -> Result<UpstreamStream, ConnectError> {
        self.certificates(deadline).await?;
        let addresses = self.resolve(deadline).await?;
        self.connect_to_any(&addresses, deadline).await
    }

    /// First step: looks the upstream's name up. Never empty.
    pub async fn resolve(&self, deadline: Instant) -> Result<Vec<SocketAddr>, ConnectError> {
        let lookup = dial::resolve(&self.config.address);
        self.within(deadline, Phase::Resolve, lookup).await.map_err(|failure| self.error(None, failure))
    }

    /// Second step: opens a TCP connection to one of the addresses.
    pub async fn dial(&self, address: SocketAddr, deadline: Instant) -> Result<TcpStream, ConnectError> {
        let tcp = self.within(deadline, Phase::Connect, dial::tcp(address, self.config.tcp_keepalive)).await;
        tcp.map_err(|failure| self.error(Some(address), failure.at(address)))
    }

    /// Third step: TLS, with our certificate. Proves nothing about it yet.
    pub async fn handshake(
        &self,
        address: SocketAddr,
        tcp: TcpStream,
        deadline: Instant,
    ) -> Result<UpstreamStream, ConnectError> {
        let started = Instant::now();
        let (made_with, generation) = self.certificates(deadline).await?;
        let connector = TlsConnector::from(Arc::clone(&made_with.config));
        let handshake = async {
            let tls = connector.connect(made_with.server_name.clone(), tcp).await;
            tls.map_err(|cause| error::of_handshake(cause, &made_with))
        };
        let tls = self.within(deadline, Phase::Handshake, handshake).await;
        let tls = tls.map_err(|failure| self.error(Some(address), failure))?;
        let handshake = HandshakeFacts::of(&tls, started.elapsed());
        Ok(UpstreamStream { tls, made_with, generation, address, handshake })
    }

    /// Fourth step: proves the connection with a `ping`.
    pub async fn prove(&self, stream: &mut UpstreamStream, deadline: Instant) -> Result<(), ConnectError> {
        let ping = rawdoc! { "ping": 1, "$db": "admin" };
        let proof = async {
            let answer = exchange::ask(&mut stream.tls, &ping).await;
            answer.map_err(|cause| error::of_proof(cause, &stream.made_with))
        };
        let proof = self.within(deadline, Phase::Proof, proof).await;
        proof.map(|_| ()).map_err(|failure| self.error(Some(stream.address), failure))
    }

    /// The current set and its generation. While the first one is being asked for, waits for that.
    async fn certificates(&self, deadline: Instant) -> Result<(Arc<ClientTls>, u64), ConnectError> {
        if let Some(current) = self.current_set() {
            return Ok(current);
        }
        let mut first_set = self.first_set.subscribe();
        let asked = first_set.wait_for(|known| !matches!(known, FirstSet::Awaited));
        let cause = match tokio::time::timeout_at(deadline, asked).await {
            Ok(Ok(known)) => known.cause(),
            _ => None,
        };
        // It may have come meanwhile.
        self.current_set().ok_or_else(|| self.error(None, Failure::NoCertificate { cause }))
    }

    fn current_set(&self) -> Option<(Arc<ClientTls>, u64)> {
        let current = self.current.load();
        Some((Arc::clone(current.tls.as_ref()?), current.generation))
    }

    async fn connect_to_any(
        &self,
        addresses: &[SocketAddr],
        deadline: Instant,
    ) -> Result<UpstreamStream, ConnectError> {
        let mut failures = Vec::new();
        for (index, &address) in addresses.iter().enumerate() {
            let now = Instant::now();
            let left = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
            let share = now + deadline.saturating_duration_since(now) / left;
            match self.connect_to(address, share).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failures.push((address, error.into_failure())),
            }
        }
        let (address, failure) = error::most_telling(failures, self.config.connect_timeout);
        Err(self.error(address, failure))
    }

    async fn connect_to(&self, address: SocketAddr, deadline: Instant) -> Result<UpstreamStream, ConnectError> {
        let tcp = self.dial(address, deadline).await?;
        let mut stream = self.handshake(address, tcp, deadline).await?;
        self.prove(&mut stream, deadline).await?;
        Ok(stream)
    }

    async fn within<T>(
        &self,
        deadline: Instant,
        phase: Phase,
        step: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let limit = self.config.connect_timeout;
        tokio::time::timeout_at(deadline, step).await.unwrap_or(Err(Failure::TimedOut { phase, limit }))
    }

    fn error(&self, address: Option<SocketAddr>, failure: Failure) -> ConnectError {
        ConnectError::new(Arc::clone(&self.current.load().target), address, failure)
    }
}

impl Current {
    fn new(upstream: &UpstreamConfig, tls: Option<ClientTls>, generation: u64) -> Self {
        let target = Arc::new(Target::new(upstream, tls.as_ref()));
        Self { tls: tls.map(Arc::new), target, generation }
    }
}

impl FirstSet {
    fn cause(&self) -> Option<Arc<ClientTlsError>> {
        match self {
            Self::Failed(cause) => Some(Arc::clone(cause)),
            Self::Awaited | Self::There => None,
        }
    }
}

impl UpstreamStream {
    /// The certificate that the server showed, in this handshake or in the one whose session was taken up.
    pub fn server_certificate(&self) -> Option<CertificateFacts> {
        let leaf = self.tls.get_ref().1.peer_certificates()?.first()?;
        CertificateFacts::from_der(leaf).ok()
    }
}

impl HandshakeFacts {
    fn of(tls: &TlsStream<TcpStream>, duration: Duration) -> Self {
        let session = tls.get_ref().1;
        Self {
            version: match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "unknown",
            },
            // rustls has names of its own for the suites of TLS 1.3.
            cipher_suite: match session.negotiated_cipher_suite().map(|suite| suite.suite()) {
                Some(CipherSuite::TLS13_AES_128_GCM_SHA256) => "TLS_AES_128_GCM_SHA256",
                Some(CipherSuite::TLS13_AES_256_GCM_SHA384) => "TLS_AES_256_GCM_SHA384",
                Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256) => "TLS_CHACHA20_POLY1305_SHA256",
                Some(suite) => suite.as_str().unwrap_or("unknown"),
                None => "unknown",
            },
            key_exchange: session.negotiated_key_exchange_group().and_then(|group| group.name().as_str()),
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
            duration,
        }
    }
}
