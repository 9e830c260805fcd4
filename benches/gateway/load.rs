//! The load: raw `OP_MSG` with one request in flight per connection, as drivers do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bson::{RawDocumentBuf, rawdoc};
use hdrhistogram::Histogram;
use mongate::wire::header::{HEADER_BYTES, Header};
use mongate::wire::op_msg;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// The kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// A ping.
    RoundTrip,
    /// An insert of this number of bytes.
    Insert(usize),
    /// A find to which the stub upstream replies with this number of bytes.
    Find(usize),
    /// A find of one document by its `_id`, in a real collection.
    Lookup,
    /// A find whose reply has all documents of a real collection, with this number of bytes.
    Batch(usize),
    /// Connect, hello, ping, close. Its latency ends with the reply to the hello.
    Connection,
    /// The same. Its latency ends with the reply to the ping.
    FirstCommand,
}

/// One load that is put on a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scenario {
    /// Name in the table.
    pub(crate) name: &'static str,
    /// Kind of operation.
    pub(crate) work: Work,
    /// Number of concurrent busy connections.
    pub(crate) connections: usize,
    /// Number of additional open, idle connections.
    pub(crate) idle_connections: usize,
}

impl Scenario {
    /// A scenario without idle connections.
    pub(crate) const fn new(name: &'static str, work: Work, connections: usize) -> Self {
        Self { name, work, connections, idle_connections: 0 }
    }
}

/// Address of a subject, and how to connect to it.
#[derive(Clone)]
pub(crate) struct Target {
    /// `host:port`.
    pub(crate) address: String,
    /// TLS configuration and server name; used for direct connections to the upstream.
    pub(crate) tls: Option<(Arc<ClientConfig>, &'static str)>,
}

/// Result of a load.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Number of completed operations.
    pub(crate) operations: u64,
    /// Duration of the load.
    pub(crate) elapsed: Duration,
    /// Latency of each operation in nanoseconds.
    pub(crate) latencies: Histogram<u64>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection of the load.
pub(crate) struct Connection(Box<dyn Stream>);

impl Target {
    /// Connects, with TLS if configured.
    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        let socket =
            TcpStream::connect(&self.address).await.with_context(|| format!("cannot reach {}", self.address))?;
        socket.set_nodelay(true)?;
        let Some((tls, name)) = &self.tls else { return Ok(Connection(Box::new(socket))) };
        let connector = TlsConnector::from(Arc::clone(tls));
        Ok(Connection(Box::new(connector.connect(ServerName::try_from(*name)?, socket).await?)))
    }
}

impl Connection {
    /// Sends one request and reads the body of its reply into `buffer`; fails if the reply is an error.
    pub(crate) async fn ask(&mut self, request: &[u8], buffer: &mut Vec<u8>) -> anyhow::Result<()> {
        self.0.write_all(request).await?;
        self.0.flush().await?;
        let mut head = [0; HEADER_BYTES];
        self.0.read_exact(&mut head).await?;
        let header = Header::parse(head)?;
        buffer.resize(header.length as usize - HEADER_BYTES, 0);
        self.0.read_exact(buffer).await?;
        // A body has flags, section kind and length, then the fields. The first field of an error is `ok: 0.0`.
        ensure!(
            !buffer[9..].starts_with(b"\x01ok\0\0\0\0\0\0\0\0\0"),
            "error reply: {}",
            String::from_utf8_lossy(buffer)
        );
        Ok(())
    }
}

impl Work {
    /// Encodes the request of one operation.
    pub(crate) fn request(self) -> Vec<u8> {
        match self {
            Self::RoundTrip => message(&rawdoc! { "ping": 1, "$db": "shop" }),
            Self::Connection | Self::FirstCommand => message(&rawdoc! { "hello": 1, "$db": "admin" }),
            Self::Find(bytes) => {
                let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
                message(&rawdoc! { "find": "orders", "filter": { "bytes": bytes }, "singleBatch": true, "$db": "shop" })
            }
            Self::Lookup => {
                message(&rawdoc! { "find": "customers", "filter": { "_id": 7 }, "limit": 1, "$db": "shop" })
            }
            Self::Batch(_) => {
                message(&rawdoc! { "find": "archive", "batchSize": 1000, "singleBatch": true, "$db": "shop" })
            }
            Self::Insert(bytes) => insert(bytes),
        }
    }

    /// Bytes of payload per operation; 0 if results are given per operation and not per MB.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Insert(bytes) | Self::Find(bytes) | Self::Batch(bytes) => bytes,
            Self::RoundTrip | Self::Connection | Self::FirstCommand | Self::Lookup => 0,
        }
    }
}

/// Encodes a command with request id 1.
pub(crate) fn message(body: &RawDocumentBuf) -> Vec<u8> {
    op_msg::encode(1, 0, body)
}

/// Encodes an insert whose documents are in a document sequence and have at most 1 MB each, as drivers send it.
fn insert(bytes: usize) -> Vec<u8> {
    const DOCUMENT: usize = 1_000_000;
    let body = rawdoc! { "insert": "orders", "$db": "shop" };
    let mut documents = Vec::new();
    let mut left = bytes;
    while left > 0 {
        let size = left.min(DOCUMENT);
        documents.extend_from_slice(rawdoc! { "text": "x".repeat(size) }.as_bytes());
        left -= size;
    }
    let mut sequence = vec![1];
    sequence.extend_from_slice(&u32::try_from(4 + 10 + documents.len()).unwrap_or(u32::MAX).to_le_bytes());
    sequence.extend_from_slice(b"documents\0");
    sequence.extend_from_slice(&documents);
    let mut message = message(&body);
    message.extend_from_slice(&sequence);
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    message[..4].copy_from_slice(&length.to_le_bytes());
    message
}

/// Puts the load on `target` for `time`. Every connection does at least one operation.
pub(crate) async fn run(target: &Target, scenario: Scenario, time: Duration) -> anyhow::Result<Outcome> {
    let connects = matches!(scenario.work, Work::Connection | Work::FirstCommand);
    let wanted = if connects { 0 } else { scenario.connections };
    let mut open = greet(target, wanted).await?;
    let began = Instant::now();
    let end = began + time;
    let mut tasks = JoinSet::new();
    for _ in 0..scenario.connections {
        let connection = open.pop();
        let target = target.clone();
        tasks.spawn_local(async move {
            match connection {
                Some(connection) => repeat(connection, scenario.work, end).await,
                None => reconnect_repeatedly(&target, scenario.work, end).await,
            }
        });
    }
    let mut latencies = histogram()?;
    while let Some(done) = tasks.join_next().await {
        latencies.add(done??)?;
    }
    Ok(Outcome { operations: latencies.len(), elapsed: began.elapsed(), latencies })
}

/// Opens `count` connections and sends hello on each.
pub(crate) async fn greet(target: &Target, count: usize) -> anyhow::Result<Vec<Connection>> {
    let (hello, mut buffer, mut open) = (Work::Connection.request(), Vec::new(), Vec::new());
    for _ in 0..count {
        let mut connection = target.connect().await?;
        connection.ask(&hello, &mut buffer).await?;
        open.push(connection);
    }
    Ok(open)
}

fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new(3)?)
}

async fn repeat(mut connection: Connection, work: Work, end: Instant) -> anyhow::Result<Histogram<u64>> {
    let (request, mut buffer, mut latencies) = (work.request(), Vec::new(), histogram()?);
    loop {
        let began = Instant::now();
        connection.ask(&request, &mut buffer).await?;
        latencies.record(u64::try_from(began.elapsed().as_nanos())?)?;
        if Instant::now() >= end {
            return Ok(latencies);
        }
    }
}

async fn reconnect_repeatedly(target: &Target, work: Work, end: Instant) -> anyhow::Result<Histogram<u64>> {
    let (hello, ping) = (Work::Connection.request(), Work::RoundTrip.request());
    let (mut buffer, mut latencies) = (Vec::new(), histogram()?);
    loop {
        let began = Instant::now();
        let mut connection = target.connect().await?;
        connection.ask(&hello, &mut buffer).await?;
        let greeted = began.elapsed();
        connection.ask(&ping, &mut buffer).await?;
        let time = if work == Work::FirstCommand { began.elapsed() } else { greeted };
        latencies.record(u64::try_from(time.as_nanos())?)?;
        drop(connection);
        if Instant::now() >= end {
            return Ok(latencies);
        }
    }
}
