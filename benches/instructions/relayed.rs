//! A relay between two in-memory pipes, with TLS on the upstream side. Only polling the relay is counted, not the ends
//! of the pipes.

use std::io::{Read, Write};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use mongate::config::{Action, Enforcement, PolicyConfig, RuleConfig, ToConfig, Values};
use mongate::lifecycle::drain::{Drain, DrainWatch};
use mongate::lifecycle::renewal::{Renewal, RenewalWatch};
use mongate::policy::{CallerFacts, Policy, SessionOwner};
use mongate::relay::{
    ConnectionStats, CursorBook, CursorCaller, EffectivePolicy, Filters, Finding, HandshakeFilter, HoldBudget, Limits,
    PolicyFilter, PolicySource, Relay, RelayEvent, SessionMapping, UpstreamSide, counter_labels,
};
use mongate::telemetry::metrics::{ListenerMetrics, Metrics};
use mongate::telemetry::policy_metrics::PolicyMetrics;
use mongate::tls::{Records, TlsSession};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

use super::kit::certificates::{Pki, Wanted};

/// Capacity of a pipe: larger than every message here, so that the relay never waits for an end.
const PIPE_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of a reply's `responseTo`, which is the id of its request.
const RESPONSE_TO: std::ops::Range<usize> = 8..12;
/// Bytes of a request's id.
const REQUEST_ID: std::ops::Range<usize> = 4..8;

/// The listener of a relay.
const LISTENER: &str = "bench";

/// The policy of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rules {
    /// No policy is in force.
    Off,
    /// A policy with this number of rules is in force.
    Count(usize),
}

/// Whether the relay wants to be polled again: the turn of a connection ends before a long message does.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs one poll of the relay, and may count it.
pub(crate) type Count<'a> = dyn FnMut(&mut dyn FnMut()) + 'a;

/// A relay, and the ends of its pipes: the client's, and the server's with its TLS session.
pub(crate) struct Relayed {
    relaying: Pin<Box<dyn Future<Output = RelayEvent<DuplexStream>>>>,
    client: DuplexStream,
    upstream: DuplexStream,
    session: ServerConnection,
    // The relay creates timers in this runtime. The runtime itself never runs.
    runtime: tokio::runtime::Runtime,
    received: Vec<u8>,
    maps_sessions: bool,
    woken: Arc<Woken>,
    waker: Waker,
}

impl Relayed {
    /// Connects the pipes and completes the TLS handshake.
    pub(crate) fn new(rules: Rules) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Fails for the second relay of a process, because the recorder is already installed.
        let _ = Metrics::install();
        let (near, session) = shake_hands()?;
        let (client, near_client) = duplex(PIPE_BYTES);
        let (upstream, socket) = duplex(PIPE_BYTES);
        let policy_filter = match rules {
            Rules::Off => PolicyFilter::off(),
            Rules::Count(count) => PolicyFilter::new(Box::new(FixedPolicy::new(count)?)),
        };
        let stats = ConnectionStats::new(Arc::new(ListenerMetrics::new("bench")));
        let filters = Filters { tokens: None, policy: policy_filter, handshake: HandshakeFilter::default() };
        let upstream_side = UpstreamSide { socket, session: near, generation: 0 };
        let (drain, renewal) = (Drain::new().watch(), Renewal::new(Duration::from_mins(1)).watch());
        let relaying = {
            let _entered = runtime.enter();
            let relay = Relay::new(near_client, upstream_side, Limits::default(), stats, filters);
            Box::pin(run(relay, drain, renewal))
        };
        let woken = Arc::new(Woken::default());
        Ok(Self {
            waker: Waker::from(Arc::clone(&woken)),
            woken,
            relaying,
            client,
            upstream,
            session,
            runtime,
            received: vec![0; PIPE_BYTES],
            maps_sessions: rules != Rules::Off,
        })
    }

    /// Sends one request and one reply through the relay. Fails if one of them does not arrive unchanged, except for
    /// the session id of the request under a policy.
    pub(crate) fn round_trip(&mut self, request: &[u8], reply: &[u8], count: &mut Count<'_>) -> anyhow::Result<()> {
        let mut reply = reply.to_vec();
        reply[RESPONSE_TO].copy_from_slice(&request[REQUEST_ID]);
        send(&mut self.client, request)?;
        self.poll_relay(count)?;
        let mut expected = request.to_vec();
        if self.maps_sessions {
            map_session(&mut expected);
        }
        ensure!(self.take_request(request.len())? == expected, "the upstream did not receive the request unchanged");
        self.give_reply(&reply)?;
        self.poll_relay(count)?;
        let length = receive(&mut self.client, &mut self.received)?;
        ensure!(self.received[..length] == reply, "the client did not receive the reply unchanged");
        Ok(())
    }

    /// Polls the relay until it waits for one of its ends.
    fn poll_relay(&mut self, count: &mut Count<'_>) -> anyhow::Result<()> {
        let _entered = self.runtime.enter();
        let mut ended = false;
        let relaying = &mut self.relaying;
        loop {
            self.woken.0.store(false, Ordering::Relaxed);
            count(&mut || ended = relaying.as_mut().poll(&mut Context::from_waker(&self.waker)).is_ready());
            ensure!(!ended, "the relay has ended");
            if !self.woken.0.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
    }

    fn take_request(&mut self, length: usize) -> anyhow::Result<Vec<u8>> {
        let encrypted = receive(&mut self.upstream, &mut self.received)?;
        let mut left = &self.received[..encrypted];
        let mut request = vec![0; length];
        let mut filled = 0;
        while !left.is_empty() {
            self.session.read_tls(&mut left)?;
            self.session.process_new_packets()?;
            // An error means that there is no more plaintext for now; 0 means that the buffer is full.
            while let Ok(count @ 1..) = self.session.reader().read(&mut request[filled..]) {
                filled += count;
            }
        }
        request.truncate(filled);
        Ok(request)
    }

    fn give_reply(&mut self, reply: &[u8]) -> anyhow::Result<()> {
        self.session.writer().write_all(reply)?;
        let mut encrypted = Vec::new();
        while self.session.wants_write() {
            self.session.write_tls(&mut encrypted)?;
        }
        send(&mut self.upstream, &encrypted)
    }
}

/// Replaces the session id of a request as the relay does.
fn map_session(request: &mut [u8]) {
    const HEAD: &[u8] = b"lsid\0\x1e\0\0\0\x05id\0\x10\0\0\0\x04";
    let Some(at) = request.windows(HEAD.len()).position(|bytes| bytes == HEAD) else { return };
    if let Some(id) = request[at + HEAD.len()..].first_chunk_mut() {
        *id = SessionOwner::listener(LISTENER).id_in_mongod(id);
    }
}

async fn run(
    mut relay: Relay<DuplexStream, DuplexStream>,
    drain: DrainWatch,
    renewal: RenewalWatch,
) -> RelayEvent<DuplexStream> {
    relay.run(Vec::new(), &drain, &renewal).await
}

fn send(pipe: &mut DuplexStream, bytes: &[u8]) -> anyhow::Result<()> {
    match pin!(pipe).poll_write(&mut Context::from_waker(Waker::noop()), bytes) {
        Poll::Ready(Ok(count)) if count == bytes.len() => Ok(()),
        other => bail!("a pipe did not take {} bytes at once: {other:?}", bytes.len()),
    }
}

fn receive(pipe: &mut DuplexStream, buffer: &mut [u8]) -> anyhow::Result<usize> {
    let mut into = ReadBuf::new(buffer);
    match pin!(pipe).poll_read(&mut Context::from_waker(Waker::noop()), &mut into) {
        Poll::Ready(Ok(())) => Ok(into.filled().len()),
        other => bail!("nothing came through a pipe: {other:?}"),
    }
}

/// Returns both ends of a TLS session after the handshake, without pending data.
pub(crate) fn shake_hands() -> anyhow::Result<(TlsSession, ServerConnection)> {
    let pki = Pki::new()?;
    let (certificate, key) = pki.issue("server", &Wanted::server())?.der();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    server.send_tls13_tickets = 0;
    let mut roots = RootCertStore::empty();
    roots.add(pki.ca_der())?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut client = TlsSession::new(Arc::new(client), ServerName::try_from("localhost")?)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    server.set_buffer_limit(None);
    let (mut to_server, mut to_client) = (Records::default(), Vec::new());
    while client.facts().is_handshaking() || server.is_handshaking() {
        client.open(&mut to_client, |_| {}, &mut to_server).context("the client's side of the handshake")?;
        server.read_tls(&mut to_server.as_slice())?;
        to_server.clear();
        server.process_new_packets().context("the server's side of the handshake")?;
        to_client.clear();
        while server.wants_write() {
            server.write_tls(&mut to_client)?;
        }
    }
    Ok((client, server))
}

/// A policy source whose policy never changes.
struct FixedPolicy(EffectivePolicy);

impl FixedPolicy {
    fn new(count: usize) -> anyhow::Result<Self> {
        let values =
            |texts: &[&str]| Values { any: Some(texts.iter().map(|text| (*text).to_owned()).collect()), not: None };
        let rule = |number: usize| {
            // The last rule allows the benchmarked commands, so that none before it ends the search.
            let is_last = number == count;
            let to = if is_last {
                ToConfig { databases: values(&["shop", "admin"]), ..ToConfig::default() }
            } else {
                ToConfig {
                    databases: values(&["shop"]),
                    collections: values(&[&format!("c-{number}"), &format!("d-{number}.*")]),
                    ..ToConfig::default()
                }
            };
            let action = if number.is_multiple_of(3) && !is_last { Action::Deny } else { Action::Allow };
            RuleConfig {
                name: format!("rule-{number}"),
                action,
                dry_run: false,
                expires: None,
                reason: None,
                from: None,
                to: Some(vec![to]),
            }
        };
        let rules = (1..=count).map(rule).collect();
        let config = PolicyConfig {
            enforcement: Enforcement::Enforce,
            deny_javascript: false,
            known_commands: std::collections::BTreeMap::new(),
            rules,
        };
        let policy = Policy::compile(&config, std::time::SystemTime::now())
            .map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
        let view = policy.view(&CallerFacts { principal: None, source: None, listener: LISTENER });
        Ok(Self(EffectivePolicy {
            metrics: Arc::new(PolicyMetrics::new("bench", counter_labels(&policy))),
            view: Arc::new(view),
            policy: Arc::new(policy),
            cursors: Arc::new(CursorBook::default()),
            caller: CursorCaller { name: Arc::from(""), source: None, has_sources: false },
        }))
    }
}

impl PolicySource for FixedPolicy {
    fn version(&self) -> u64 {
        0
    }

    fn effective_policy(&self) -> Option<EffectivePolicy> {
        Some(self.0.clone())
    }

    fn session_mapping(&self) -> Option<SessionMapping> {
        Some(SessionMapping {
            owner: SessionOwner::listener(LISTENER),
            hold_budget: HoldBudget::default(),
            caller: LISTENER.into(),
        })
    }

    fn log_finding(&self, finding: &Finding<'_>) {
        panic!("a command was denied or audited: {finding:?}");
    }
}
