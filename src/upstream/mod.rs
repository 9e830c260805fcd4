//! Where bytes leave: one proven mutual-TLS connection to one mongod or mongos.
//!
//! A connection is proven when mongod has answered a `ping` on it. mongod judges a client certificate only after the TLS
//! handshake and then closes without a word, so the handshake alone proves nothing; and it must not be `hello`, because
//! the client's own hello has to be the first of its connection. Where the gateway authenticates, it has, before anybody
//! gets the connection.
//!
//! Refuses to retry, to share a connection among clients, and to log: it returns what happened, once, with all there is to say about it.

mod authentication;
mod client_identity;
mod connect_error;
mod dial;
mod explain;
mod health;
mod hello_stream;
mod members;
mod own_commands;
mod peak_demand;
mod probe;
mod proven_connection;
mod spare_connections;
mod srv;
#[cfg(test)]
pub(crate) mod test_server;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bson::rawdoc;
use rustls::{CipherSuite, HandshakeKind, ProtocolVersion};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::config::{EndpointConfig, HostPort};
use crate::identity::CertificateFacts;
use crate::tls::{TlsStream, UpstreamTls, UpstreamTlsError, parse_server_name};

pub use authentication::{Authenticated, MongoUser, Users};
pub use client_identity::{CertificateGeneration, ClientIdentity};
pub use connect_error::{ConnectError, ConnectFailure, Phase, REASONS, ServerCertificateRejection};
pub use health::{HealthSnapshot, UpstreamHealth};
pub use hello_stream::HelloStream;
pub use members::{host_port, member_name, tracker};
pub use own_commands::OwnCommandError;
pub use probe::{Probe, ServerFacts, ServerRole, identify, probe};
pub use proven_connection::{HelloReplayError, ProvenConnection};
pub use spare_connections::SpareConnections;
pub use srv::{SrvError, SrvFailure, SrvSeeds, seeds};

use authentication::AuthenticationError;
use explain::target::Target;

/// Makes connections to one server of an upstream, with one client identity.
///
/// Shared by all workers: connecting takes `&self`, and what is shared behind it (the TLS sessions to resume) is locked
/// only within a handshake.
#[derive(Debug)]
pub struct Connector {
    config: EndpointConfig,
    identity: Arc<ClientIdentity>,
    fitted: ArcSwap<EndpointTls>,
    /// The number of a [`Users`].
    users: AtomicU8,
    authenticated: ArcSwapOption<Authenticated>,
}

/// The current certificates as this server is shown them: with its name to verify, and the sessions to resume with it.
#[derive(Debug)]
struct EndpointTls {
    /// What they were made from; `None` until the first set is there.
    of: Option<Arc<CertificateGeneration>>,
    /// `Err` where they could not be.
    tls: Option<Result<Arc<UpstreamTls>, Arc<UpstreamTlsError>>>,
    target: Arc<Target>,
}

/// A proven connection: nothing is on its way in either direction, and no client's byte was sent on it.
///
/// Dropping it closes the socket.
#[derive(Debug)]
pub struct UpstreamStream {
    /// The socket and its TLS session; `into_parts` takes them apart.
    pub tls: TlsStream<TcpStream>,
    /// The certificates that it was made with.
    pub made_with: Arc<UpstreamTls>,
    /// Which set of certificates that was, counted from 0.
    pub generation: u64,
    /// The address, of those that the name has, that answered.
    pub address: SocketAddr,
    /// What was agreed on.
    pub handshake: HandshakeFacts,
    /// The user that it is authenticated as, where the gateway authenticates.
    pub user: Option<Arc<MongoUser>>,
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
    /// Prepares the connections to `endpoint`; fails where its name is none that a certificate could have.
    pub fn new(endpoint: &EndpointConfig, identity: Arc<ClientIdentity>) -> Result<Self, UpstreamTlsError> {
        parse_server_name(endpoint)?;
        let fitted = ArcSwap::from_pointee(EndpointTls::new(endpoint, identity.current()));
        Ok(Self {
            config: endpoint.clone(),
            identity,
            fitted,
            users: AtomicU8::default(),
            authenticated: ArcSwapOption::empty(),
        })
    }

    /// Whether connections for clients are authenticated.
    pub fn authenticates(&self) -> bool {
        self.config.authentication.is_some()
    }

    /// Says what the server knows of users.
    pub fn expect_users(&self, users: Users) {
        self.users.store(users as u8, Ordering::Relaxed);
    }

    /// What the server knows of users.
    pub fn users(&self) -> Users {
        Users::from_number(self.users.load(Ordering::Relaxed))
    }

    /// Whether the connections that it makes now have their user, as far as that is known.
    pub fn has_user(&self) -> bool {
        let generation = self.identity.generation();
        self.authenticated.load().as_ref().is_some_and(|seen| seen.generation == generation && seen.user.is_ok())
    }

    /// What the last authentication came to; `None` before the first.
    pub fn authenticated(&self) -> Option<Arc<Authenticated>> {
        self.authenticated.load_full()
    }

    /// What connections are made with now: certificates, authorities, and what handshakes showed.
    ///
    /// `None` as long as the SPIFFE Workload API has given nothing.
    pub fn tls(&self) -> Option<Arc<UpstreamTls>> {
        self.fitted().tls.clone()?.ok()
    }

    /// Who it is that connects.
    pub fn identity(&self) -> &Arc<ClientIdentity> {
        &self.identity
    }

    /// The current certificates, fitted to this server if they are not yet.
    fn fitted(&self) -> Arc<EndpointTls> {
        let (fitted, current) = (self.fitted.load_full(), self.identity.current());
        let generation = |set: &Option<Arc<CertificateGeneration>>| set.as_ref().map(|set| set.generation);
        if generation(&fitted.of) == generation(&current) {
            return fitted;
        }
        // Two workers may do so at the same moment; either is good.
        let fitted = Arc::new(EndpointTls::new(&self.config, current));
        self.fitted.store(Arc::clone(&fitted));
        fitted
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

    /// Opens a connection for a client and proves it: name lookup, TCP, TLS, a `ping`, and authentication where the gateway
    /// authenticates; all within `connect_timeout`.
    ///
    /// The addresses of the name are tried in turn, each with an equal share of the time that is left.
    /// Cancel safe: dropping the future closes what was opened.
    pub async fn connect(&self) -> Result<UpstreamStream, ConnectError> {
        let deadline = Instant::now() + self.config.connect_timeout;
        let mut stream = self.connect_by(deadline).await?;
        if self.authenticates() && self.users() != Users::None {
            self.authenticate(&mut stream, deadline).await?;
        }
        if !stream.tls.is_quiet() {
            let cause = OwnCommandError::Malformed("more than was asked for");
            return Err(self.error(Some(stream.address), ConnectFailure::Proof { cause }));
        }
        Ok(stream)
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
        let handshake = async {
            let tls = TlsStream::connect(Arc::clone(&made_with.config), made_with.server_name.clone(), tcp).await;
            tls.map_err(|cause| connect_error::of_handshake(cause, &made_with))
        };
        let tls = self.within(deadline, Phase::Handshake, handshake).await;
        let tls = tls.map_err(|failure| self.error(Some(address), failure))?;
        let handshake = HandshakeFacts::of(&tls, started.elapsed());
        Ok(UpstreamStream { tls, made_with, generation, address, handshake, user: None })
    }

    /// Fourth step: proves the connection with a `ping`.
    pub async fn prove(&self, stream: &mut UpstreamStream, deadline: Instant) -> Result<(), ConnectError> {
        let ping = rawdoc! { "ping": 1, "$db": "admin" };
        let proof = async {
            let answer = own_commands::ask(&mut stream.tls, &ping).await;
            answer.map_err(|cause| connect_error::of_proof(cause, &stream.made_with))
        };
        let proof = self.within(deadline, Phase::Proof, proof).await;
        proof.map(|_| ()).map_err(|failure| self.error(Some(stream.address), failure))
    }

    /// Fifth step: authenticates a proven connection with its certificate.
    ///
    /// Where the server may have no users yet, it stays without one if mongod does not know it: whoever asks for no more than
    /// what the server is, as drivers do until it can be read from, is served, and mongod refuses the rest.
    pub async fn authenticate(&self, stream: &mut UpstreamStream, deadline: Instant) -> Result<(), ConnectError> {
        let (address, generation) = (stream.address, stream.generation);
        let authentication = async { Ok(authentication::authenticate(stream).await) };
        let outcome = self.within(deadline, Phase::Authentication, authentication).await;
        let error = |failure| self.error(Some(address), failure);
        let user = match outcome.map_err(error)? {
            Ok(user) => Ok(Arc::new(user)),
            Err(AuthenticationError::NoUser(_)) if self.users() == Users::Awaited => return Ok(()),
            Err(AuthenticationError::NoUser(failure) | AuthenticationError::Other(failure)) => Err(error(failure)),
        };
        let seen = match &user {
            Ok(user) => Ok(Arc::clone(user)),
            Err(error) if error.is_user_failure() => Err(error.to_string()),
            Err(_) => return user.map(|_| ()),
        };
        self.authenticated.store(Some(Arc::new(Authenticated { generation, user: seen })));
        stream.user = Some(user?);
        Ok(())
    }

    /// The current set and its generation. While the first one is being asked for, waits for that.
    async fn certificates(&self, deadline: Instant) -> Result<(Arc<UpstreamTls>, u64), ConnectError> {
        let set = self.identity.set_by(deadline).await;
        let set = set.map_err(|cause| self.error(None, ConnectFailure::NoCertificate { cause }))?;
        match &self.fitted().tls {
            Some(Ok(tls)) => Ok((Arc::clone(tls), set.generation)),
            Some(Err(cause)) => Err(self.error(None, ConnectFailure::NoCertificate { cause: Some(Arc::clone(cause)) })),
            None => Err(self.error(None, ConnectFailure::NoCertificate { cause: None })),
        }
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
        let (address, failure) = connect_error::most_telling(failures, self.config.connect_timeout);
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
        step: impl Future<Output = Result<T, ConnectFailure>>,
    ) -> Result<T, ConnectFailure> {
        let limit = self.config.connect_timeout;
        tokio::time::timeout_at(deadline, step).await.unwrap_or(Err(ConnectFailure::TimedOut { phase, limit }))
    }

    fn error(&self, address: Option<SocketAddr>, failure: ConnectFailure) -> ConnectError {
        ConnectError::new(Arc::clone(&self.fitted().target), address, failure)
    }
}

impl EndpointTls {
    fn new(endpoint: &EndpointConfig, of: Option<Arc<CertificateGeneration>>) -> Self {
        let tls = of.as_ref().map(|set| set.tls.for_endpoint(endpoint).map(Arc::new).map_err(Arc::new));
        let known = tls.as_ref().and_then(|tls| tls.as_ref().ok());
        let target = Arc::new(Target::new(endpoint, known.map(Arc::as_ref)));
        Self { of, tls, target }
    }
}

impl UpstreamStream {
    /// The certificate that the server showed, in this handshake or in the one whose session was taken up.
    pub fn server_certificate(&self) -> Option<CertificateFacts> {
        let leaf = self.tls.session().facts().peer_certificates()?.first()?;
        CertificateFacts::from_der(leaf).ok()
    }
}

impl HandshakeFacts {
    fn of(tls: &TlsStream<TcpStream>, duration: Duration) -> Self {
        let session = tls.session().facts();
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
