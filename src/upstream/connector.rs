//! Makes connections to one server of an upstream.
//!
//! A connection is proven when mongod has answered a `ping` on it: mongod verifies a client certificate only after the
//! TLS handshake and then closes the connection without a message, so the handshake alone proves nothing. The command
//! must not be `hello`, because the client's own hello has to be the first of its connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bson::rawdoc;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::authentication::{self, AuthenticationError, AuthenticationResult, Users};
use super::client_endpoints::{ClientEndpoints, proxy_header};
use super::client_identity::ClientIdentity;
use super::connect_error::ConnectError;
use super::diagnosis;
use super::dial;
use super::endpoint_tls::EndpointTls;
use super::failure::{ConnectFailure, Phase, furthest};
use super::name_lookup::NameLookup;
use super::own_commands::{self, OwnCommandError, declared};
use super::server_error_codes::is_not_served;
use super::stream::{HandshakeFacts, UpstreamStream};
use crate::config::{EndpointConfig, HostPort, SendProxy};
use crate::tls::{UpstreamTls, UpstreamTlsError, parse_server_name};

/// Makes connections to one server of an upstream, with one client identity.
///
/// Shared by all workers: connecting takes `&self`. The shared TLS sessions are locked only during a handshake.
#[derive(Debug)]
pub struct Connector {
    config: EndpointConfig,
    identity: Arc<ClientIdentity>,
    endpoint_tls: ArcSwap<EndpointTls>,
    lookup: NameLookup,
    /// The number of a [`Users`].
    users: AtomicU8,
    authenticated: ArcSwapOption<AuthenticationResult>,
    /// Whether the last authentication has failed.
    refuses_user: Arc<AtomicBool>,
    /// Whether the server was last seen to require an API version (`requireApiVersion`).
    requires_api: AtomicBool,
}

impl Connector {
    /// Prepares connections to `endpoint`. Fails if no certificate can contain its server name.
    pub fn new(endpoint: &EndpointConfig, identity: Arc<ClientIdentity>) -> Result<Self, UpstreamTlsError> {
        parse_server_name(endpoint)?;
        let endpoint_tls = ArcSwap::from_pointee(EndpointTls::new(endpoint, identity.current()));
        Ok(Self {
            config: endpoint.clone(),
            lookup: NameLookup::new(identity.lookups().clone()),
            identity,
            endpoint_tls,
            users: AtomicU8::default(),
            authenticated: ArcSwapOption::empty(),
            refuses_user: Arc::default(),
            requires_api: AtomicBool::new(false),
        })
    }

    /// Opens a connection that a client may use and proves it: name lookup, TCP, TLS, a `ping`, and authentication if
    /// the gateway authenticates, all within `connect_timeout`.
    ///
    /// With `send_proxy`, the server receives the addresses of `client`, which is `None` if no client is known or if it
    /// has no IP address. Tries the addresses of the name in turn, each with an equal share of the remaining time.
    /// Cancel safe: dropping the future closes the connection.
    pub async fn connect(&self, client: Option<&ClientEndpoints>) -> Result<UpstreamStream, ConnectError> {
        let deadline = Instant::now() + self.config.connect_timeout;
        let mut stream = self.connect_proven(client, deadline).await?;
        if self.authenticates() && self.users() != Users::None {
            self.authenticate(&mut stream, deadline).await?;
        }
        self.quiet(stream)
    }

    /// As [`Connector::connect`], for a client that authenticates itself: the gateway does not authenticate.
    pub async fn connect_without_user(&self, client: Option<&ClientEndpoints>) -> Result<UpstreamStream, ConnectError> {
        let deadline = Instant::now() + self.config.connect_timeout;
        self.quiet(self.connect_proven(client, deadline).await?)
    }

    /// The server must not have sent more than it was asked for.
    fn quiet(&self, stream: UpstreamStream) -> Result<UpstreamStream, ConnectError> {
        if !stream.tls.is_quiet() {
            let cause = OwnCommandError::Malformed("unexpected data after the reply");
            return Err(self.error(Some(stream.address), ConnectFailure::Proof { cause }));
        }
        Ok(stream)
    }

    /// Opens a connection of the gateway's own and proves it, without authentication.
    pub(super) async fn connect_unauthenticated(&self, deadline: Instant) -> Result<UpstreamStream, ConnectError> {
        self.connect_proven(None, deadline).await
    }

    async fn connect_proven(
        &self,
        client: Option<&ClientEndpoints>,
        deadline: Instant,
    ) -> Result<UpstreamStream, ConnectError> {
        self.certificates(deadline).await?;
        let addresses = self.resolve(deadline).await?;
        self.connect_to_any(&addresses, client, deadline).await
    }

    pub(super) async fn connect_to_any(
        &self,
        addresses: &[SocketAddr],
        client: Option<&ClientEndpoints>,
        deadline: Instant,
    ) -> Result<UpstreamStream, ConnectError> {
        let mut failures = Vec::new();
        for (index, &address) in addresses.iter().enumerate() {
            let now = Instant::now();
            let left = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
            let share = now + deadline.saturating_duration_since(now) / left;
            match self.connect_to(address, client, share).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failures.push((address, error.into_failure())),
            }
        }
        let (address, failure) = furthest(failures, self.config.connect_timeout);
        Err(self.error(address, failure))
    }

    async fn connect_to(
        &self,
        address: SocketAddr,
        client: Option<&ClientEndpoints>,
        deadline: Instant,
    ) -> Result<UpstreamStream, ConnectError> {
        let tcp = self.dial(address, client, deadline).await?;
        let mut stream = self.handshake(address, tcp, deadline).await?;
        self.prove(&mut stream, deadline).await?;
        Ok(stream)
    }

    /// First step: looks up the name of the server. Never returns an empty list.
    pub async fn resolve(&self, deadline: Instant) -> Result<Vec<SocketAddr>, ConnectError> {
        let lookup = self.lookup.addresses(&self.config.address);
        self.within(deadline, Phase::Resolve, lookup).await.map_err(|failure| self.error(None, failure))
    }

    /// Second step: opens a TCP connection to one of the addresses, and sends the PROXY header if `send_proxy` is set.
    /// The header names `client`, or the gateway itself.
    pub async fn dial(
        &self,
        address: SocketAddr,
        client: Option<&ClientEndpoints>,
        deadline: Instant,
    ) -> Result<TcpStream, ConnectError> {
        let header = match self.config.send_proxy {
            SendProxy::Off => Ok(Vec::new()),
            SendProxy::V2 => proxy_header(client),
        };
        let dialled = dial::tcp(address, self.config.tcp_keepalive, header);
        let tcp = self.within(deadline, Phase::Connect, dialled).await;
        tcp.map_err(|failure| self.error(Some(address), failure.at(address)))
    }

    /// Third step: the TLS handshake, with the gateway's client certificate. Does not prove that mongod accepts it.
    pub async fn handshake(
        &self,
        address: SocketAddr,
        tcp: TcpStream,
        deadline: Instant,
    ) -> Result<UpstreamStream, ConnectError> {
        let started = Instant::now();
        let (made_with, generation) = self.certificates(deadline).await?;
        let handshake = async {
            let (tls, record) = made_with.connect(tcp).await;
            let tls = tls.map_err(|cause| diagnosis::of_handshake(cause, &record, &made_with))?;
            Ok((tls, record))
        };
        let tls = self.within(deadline, Phase::Handshake, handshake).await;
        let (tls, record) = tls.map_err(|failure| self.error(Some(address), failure))?;
        let handshake = HandshakeFacts::of(&tls, started.elapsed());
        let declares_api = self.requires_api.load(Ordering::Relaxed);
        Ok(UpstreamStream { tls, made_with, generation, address, handshake, record, user: None, declares_api })
    }

    /// Fourth step: proves the connection with a `ping`. An error in reply proves TLS and the client certificate as
    /// well, unless it says that the server does not serve this connection.
    pub async fn prove(&self, stream: &mut UpstreamStream, deadline: Instant) -> Result<(), ConnectError> {
        let ping = declared(rawdoc! { "ping": 1, "$db": "admin" }, stream.declares_api);
        let proof = async {
            match own_commands::run(&mut stream.tls, &ping).await {
                Ok(_) => Ok(stream.declares_api),
                // A server that objects to anything else may be an older one at the same address.
                Err(error @ OwnCommandError::Refused { code, .. }) if !is_not_served(code) => Ok(error.requires_api()),
                Err(cause) => Err(diagnosis::of_proof(cause, &stream.record)),
            }
        };
        let proof = self.within(deadline, Phase::Proof, proof).await;
        let requires_api = proof.map_err(|failure| self.error(Some(stream.address), failure))?;
        stream.declares_api = requires_api;
        self.requires_api.store(requires_api, Ordering::Relaxed);
        Ok(())
    }

    /// Fifth step: authenticates a proven connection with its client certificate.
    ///
    /// If the server may have no users yet and does not know this one, the connection stays unauthenticated. A driver
    /// that only asks for the state of the server is served, and mongod refuses everything else.
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
        self.refuses_user.store(seen.is_err(), Ordering::Relaxed);
        self.authenticated.store(Some(Arc::new(AuthenticationResult { generation, user: seen })));
        stream.user = Some(user?);
        Ok(())
    }

    /// Whether the server has refused the user of the last connection: clients cannot be served until it takes one.
    pub fn refuses_user(&self) -> &Arc<AtomicBool> {
        &self.refuses_user
    }

    /// Whether connections for clients are authenticated.
    pub fn authenticates(&self) -> bool {
        self.config.authentication.is_some()
    }

    /// Sets what is known about the server's users.
    pub fn expect_users(&self, users: Users) {
        self.users.store(users as u8, Ordering::Relaxed);
    }

    /// What is known about the server's users.
    pub fn users(&self) -> Users {
        Users::from_number(self.users.load(Ordering::Relaxed))
    }

    /// Whether the last authentication with the current certificate set succeeded.
    pub fn has_user(&self) -> bool {
        let generation = self.identity.generation();
        self.authenticated.load().as_ref().is_some_and(|seen| seen.generation == generation && seen.user.is_ok())
    }

    /// The result of the last authentication; `None` before the first.
    pub fn authenticated(&self) -> Option<Arc<AuthenticationResult>> {
        self.authenticated.load_full()
    }

    /// The current TLS configuration; `None` until the SPIFFE Workload API has provided a certificate set.
    pub fn tls(&self) -> Option<Arc<UpstreamTls>> {
        self.endpoint_tls().tls.clone()?.ok()
    }

    /// The client identity of the connections.
    pub fn identity(&self) -> &Arc<ClientIdentity> {
        &self.identity
    }

    /// Name of the upstream in the configuration.
    pub fn upstream(&self) -> &str {
        &self.config.name
    }

    /// The configured address.
    pub fn address(&self) -> &HostPort {
        &self.config.address
    }

    /// Time for one connection, all steps together.
    pub fn connect_timeout(&self) -> Duration {
        self.config.connect_timeout
    }

    /// The current certificate set, configured for this server.
    fn endpoint_tls(&self) -> Arc<EndpointTls> {
        let (known, current) = (self.endpoint_tls.load_full(), self.identity.current());
        if known.is_made_from(current.as_deref()) {
            return known;
        }
        // Two workers may do this at once; both results are equally good.
        let renewed = Arc::new(EndpointTls::new(&self.config, current));
        self.endpoint_tls.store(Arc::clone(&renewed));
        renewed
    }

    /// The current certificate set and its generation. Waits for the first set until `deadline`.
    async fn certificates(&self, deadline: Instant) -> Result<(Arc<UpstreamTls>, u64), ConnectError> {
        let set = self.identity.set_by(deadline).await;
        let set = set.map_err(|cause| self.error(None, ConnectFailure::NoCertificate { cause }))?;
        match &self.endpoint_tls().tls {
            Some(Ok(tls)) => Ok((Arc::clone(tls), set.generation)),
            Some(Err(cause)) => Err(self.error(None, ConnectFailure::NoCertificate { cause: Some(Arc::clone(cause)) })),
            None => Err(self.error(None, ConnectFailure::NoCertificate { cause: None })),
        }
    }

    /// Runs one step until `deadline`.
    pub(super) async fn within<T>(
        &self,
        deadline: Instant,
        phase: Phase,
        step: impl Future<Output = Result<T, ConnectFailure>>,
    ) -> Result<T, ConnectFailure> {
        let limit = self.config.connect_timeout;
        tokio::time::timeout_at(deadline, step).await.unwrap_or(Err(ConnectFailure::TimedOut { phase, limit }))
    }

    pub(super) fn error(&self, address: Option<SocketAddr>, failure: ConnectFailure) -> ConnectError {
        ConnectError::new(&self.endpoint_tls().target, address, failure)
    }
}
