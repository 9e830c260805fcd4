//! A relay between two pipes in memory, with TLS on the upstream side; only the relay's own turns are handed out to be counted.

use std::io::{Read, Write};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use mongate::config::{Action, Enforcement, PolicyConfig, RuleConfig, ToConfig, Values};
use mongate::lifecycle::drain::{Drain, DrainWatch};
use mongate::lifecycle::renewal::{Renewal, RenewalWatch};
use mongate::policy::{CallerFacts, Grounds, Policy};
use mongate::relay::{
    ConnectionStats, CursorBook, EffectivePolicy, Finding, HandshakeFilter, HoldBudget, PolicyFilter, PolicySource,
    Relay, Turn, UpstreamSide,
};
use mongate::telemetry::metrics::{ListenerMetrics, Metrics};
use mongate::telemetry::policy_metrics::PolicyMetrics;
use mongate::tls::{Records, Session};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

use super::kit::certificates::{Pki, Wanted};

/// What a pipe holds: more than any message here, so that one turn of the relay moves all of it.
const PIPE_BYTES: usize = 4 * 1024 * 1024;
/// A reply answers what its request was called.
const RESPONSE_TO: std::ops::Range<usize> = 8..12;
const REQUEST_ID: std::ops::Range<usize> = 4..8;

/// Whether a policy is in force, and of how many rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judged {
    No,
    By(usize),
}

/// Runs one turn of the relay, and may count it.
pub(crate) type Count<'a> = dyn FnMut(&mut dyn FnMut()) + 'a;

/// The relay, and what is at the far ends of its pipes.
pub(crate) struct Relayed {
    relaying: Pin<Box<dyn Future<Output = Turn>>>,
    client: DuplexStream,
    upstream: DuplexStream,
    session: ServerConnection,
    // Timers are made in it, though none is waited for.
    runtime: tokio::runtime::Runtime,
    received: Vec<u8>,
}

impl Relayed {
    /// Joins the pipes, with the handshake done.
    pub(crate) fn new(judged: Judged) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // The second of a process finds it installed.
        let _ = Metrics::install();
        let (near, session) = shake_hands()?;
        let (client, near_client) = duplex(PIPE_BYTES);
        let (upstream, socket) = duplex(PIPE_BYTES);
        let guard = match judged {
            Judged::No => PolicyFilter::off(),
            Judged::By(rules) => PolicyFilter::new(Box::new(Rules::new(rules)?)),
        };
        let record = ConnectionStats::new(Arc::new(ListenerMetrics::new("bench")));
        let terms = HandshakeFilter::default();
        let side = UpstreamSide { socket, session: near, generation: 0 };
        let (drain, renewal) = (Drain::new().watch(), Renewal::new(Duration::from_mins(1)).watch());
        let relaying = {
            let _entered = runtime.enter();
            Box::pin(carry(Relay::new(near_client, side, record, guard, terms), drain, renewal))
        };
        Ok(Self { relaying, client, upstream, session, runtime, received: vec![0; PIPE_BYTES] })
    }

    /// One request there, one reply back; fails where either does not arrive as it was sent.
    pub(crate) fn round_trip(&mut self, request: &[u8], reply: &[u8], count: &mut Count<'_>) -> anyhow::Result<()> {
        let mut reply = reply.to_vec();
        reply[RESPONSE_TO].copy_from_slice(&request[REQUEST_ID]);
        send(&mut self.client, request)?;
        self.turn(count)?;
        ensure!(self.take_request(request.len())? == request, "upstream did not receive what was sent");
        self.give_reply(&reply)?;
        self.turn(count)?;
        let length = receive(&mut self.client, &mut self.received)?;
        ensure!(self.received[..length] == reply, "the client did not receive what was answered");
        Ok(())
    }

    fn turn(&mut self, count: &mut Count<'_>) -> anyhow::Result<()> {
        let _entered = self.runtime.enter();
        let mut ended = false;
        let relaying = &mut self.relaying;
        count(&mut || ended = relaying.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
        ensure!(!ended, "the relay has ended");
        Ok(())
    }

    fn take_request(&mut self, length: usize) -> anyhow::Result<Vec<u8>> {
        let sealed = receive(&mut self.upstream, &mut self.received)?;
        let mut left = &self.received[..sealed];
        let mut request = vec![0; length];
        let mut filled = 0;
        while !left.is_empty() {
            self.session.read_tls(&mut left)?;
            self.session.process_new_packets()?;
            // An error says that there is no more for now; nothing, that there is no more room.
            while let Ok(count @ 1..) = self.session.reader().read(&mut request[filled..]) {
                filled += count;
            }
        }
        request.truncate(filled);
        Ok(request)
    }

    fn give_reply(&mut self, reply: &[u8]) -> anyhow::Result<()> {
        self.session.writer().write_all(reply)?;
        let mut sealed = Vec::new();
        while self.session.wants_write() {
            self.session.write_tls(&mut sealed)?;
        }
        send(&mut self.upstream, &sealed)
    }
}

async fn carry(mut relay: Relay<DuplexStream, DuplexStream>, drain: DrainWatch, renewal: RenewalWatch) -> Turn {
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

/// Both ends of a finished session, in which nothing waits.
pub(crate) fn shake_hands() -> anyhow::Result<(Session, ServerConnection)> {
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
    let mut client = Session::new(Arc::new(client), ServerName::try_from("localhost")?)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    server.set_buffer_limit(None);
    let (mut there, mut back) = (Records::default(), Vec::new());
    while client.facts().is_handshaking() || server.is_handshaking() {
        client.open(&mut back, |_| {}, &mut there).context("the client's side of the handshake")?;
        server.read_tls(&mut there.as_slice())?;
        there.clear();
        server.process_new_packets().context("the server's side of the handshake")?;
        back.clear();
        while server.wants_write() {
            server.write_tls(&mut back)?;
        }
    }
    Ok((client, server))
}

/// A policy that never changes.
struct Rules(EffectivePolicy);

impl Rules {
    fn new(count: usize) -> anyhow::Result<Self> {
        let values =
            |texts: &[&str]| Values { any: Some(texts.iter().map(|text| (*text).to_owned()).collect()), not: None };
        let rule = |number: usize| {
            // The last one lets everything below pass, so that none before it ends the search.
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
            RuleConfig { name: format!("rule-{number}"), action, dry_run: false, from: None, to: Some(vec![to]) }
        };
        let rules = (1..=count).map(rule).collect();
        let config = PolicyConfig {
            enforcement: Enforcement::Enforce,
            deny_javascript: false,
            known_commands: std::collections::BTreeMap::new(),
            rules,
        };
        let policy = Policy::compile(&config).map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
        let view = policy.view(&CallerFacts { principal: None, source: None, listener: "bench" });
        let beside = Grounds::WITHOUT_RULE.map(|grounds| policy.label(grounds).to_owned());
        let labels: Vec<String> = policy.rule_names().iter().cloned().chain(beside).collect();
        Ok(Self(EffectivePolicy {
            metrics: Arc::new(PolicyMetrics::new("bench", labels)),
            view: Arc::new(view),
            policy: Arc::new(policy),
            cursors: Arc::new(CursorBook::default()),
            caller: Arc::from(""),
            holding: HoldBudget::default(),
        }))
    }
}

impl PolicySource for Rules {
    fn version(&self) -> u64 {
        0
    }

    fn orders(&self) -> Option<EffectivePolicy> {
        Some(self.0.clone())
    }

    fn tell(&self, finding: &Finding<'_>) {
        panic!("nothing here is refused or audited: {finding:?}");
    }
}
