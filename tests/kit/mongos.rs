//! A fake mongos over mutual TLS: it replies to hello as a mongos does, and forwards all other commands to a real
//! mongod.
//!
//! The package that has the tests' mongod has no mongos. For a driver and a gateway, the reply to hello makes the
//! difference, and it is reproduced exactly. The behaviour of a sharded cluster is not.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::{ALL_VERSIONS, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::certificates::Wanted;
use super::mongod::Mongod;
use super::raw;
use super::raw::{Connection, OP_MSG, OP_QUERY, OP_REPLY};

/// Request ID of all replies, so that the replies to all clients have the same bytes.
const REQUEST_ID: i32 = 4711;
/// The longest accepted message in bytes.
const MESSAGE_MAX: usize = 48_000_000;

/// A running fake mongos. Dropping it closes all its connections.
pub struct Mongos {
    port: u16,
    stop: Arc<Stop>,
}

#[derive(Default)]
struct Stop {
    is_over: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

/// What the connections of one fake mongos share.
struct Service {
    tls: Arc<ServerConfig>,
    behind: Arc<Mongod>,
    number: i32,
}

impl Mongos {
    /// Starts a fake mongos in front of `behind`. `number` identifies it in its replies.
    pub fn start(behind: &Arc<Mongod>, number: i32) -> anyhow::Result<Self> {
        let service = Arc::new(Service { tls: server_config(behind)?, behind: Arc::clone(behind), number });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let stop = Arc::<Stop>::default();
        let stopped = Arc::clone(&stop);
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if stopped.is_over.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(open) = socket.try_clone() {
                    stopped.open.lock().unwrap_or_else(PoisonError::into_inner).push(open);
                }
                let service = Arc::clone(&service);
                thread::spawn(move || service.serve(socket));
            }
        });
        Ok(Self { port, stop })
    }

    /// Name of the member: `localhost:port`.
    pub fn name(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Mongos {
    fn drop(&mut self) {
        self.stop.is_over.store(true, Ordering::Relaxed);
        // Wakes the accepting thread, which then ends.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        for socket in self.stop.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Service {
    /// Serves one connection until it ends.
    fn serve(&self, socket: TcpStream) -> anyhow::Result<()> {
        let mut client = StreamOwned::new(ServerConnection::new(Arc::clone(&self.tls))?, socket);
        let mut mongod: Option<Connection> = None;
        loop {
            let request = read_message(&mut client)?;
            if let Some(hello) = hello_of(&request) {
                self.answer_hello(&mut client, &request, &hello)?;
                continue;
            }
            let mongod = match &mut mongod {
                Some(mongod) => mongod,
                None => mongod.insert(self.behind.connect()?),
            };
            mongod.send(&request)?;
            if !expects_no_reply(&request) {
                client.write_all(&mongod.reply()?.bytes)?;
                client.flush()?;
            }
        }
    }

    /// Replies once, or repeatedly until the connection ends if the client requests a stream. The topology never
    /// changes, so a client that waits for a change gets its reply after `maxAwaitTimeMS`.
    fn answer_hello(&self, client: &mut impl Write, request: &[u8], hello: &Document) -> anyhow::Result<()> {
        let max_await = hello.get_i32("maxAwaitTimeMS").ok().map(u64::try_from).transpose()?;
        let streams = max_await.is_some() && flags(request) & raw::EXHAUST_ALLOWED != 0;
        let mut reply = self.reply(request, hello)?;
        if streams {
            reply[16..20].copy_from_slice(&raw::MORE_TO_COME.to_le_bytes());
        }
        loop {
            if let Some(max_await) = max_await {
                thread::park_timeout(Duration::from_millis(max_await));
            }
            client.write_all(&reply)?;
            client.flush()?;
            if !streams {
                return Ok(());
            }
            // Each reply of a stream responds to the previous one.
            reply[8..12].copy_from_slice(&REQUEST_ID.to_le_bytes());
        }
    }

    /// The reply of a mongos 6.0, with a constant time.
    fn reply(&self, request: &[u8], hello: &Document) -> anyhow::Result<Vec<u8>> {
        let is_primary = if hello.contains_key("hello") { "isWritablePrimary" } else { "ismaster" };
        let document = doc! {
            is_primary: true,
            "msg": "isdbgrid",
            "topologyVersion": { "processId": ObjectId::from_bytes([7; 12]), "counter": 0_i64 },
            "maxBsonObjectSize": 16_777_216,
            "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
            "localTime": DateTime::from_millis(1_700_000_000_000),
            "logicalSessionTimeoutMinutes": 30,
            "connectionId": self.number,
            "maxWireVersion": 17,
            "minWireVersion": 0,
            "ok": 1.0,
        };
        let document = raw::encode(&document);
        let (op_code, body) = if op_code(request)? == OP_MSG {
            (OP_MSG, [&[0; 5][..], &document].concat())
        } else {
            // Flags, cursor ID, starting point, number of documents.
            let head = [&8_i32.to_le_bytes()[..], &[0; 12], &1_i32.to_le_bytes()];
            (OP_REPLY, [&head.concat()[..], &document].concat())
        };
        let mut reply = raw::message(op_code, REQUEST_ID, &body);
        reply[8..12].copy_from_slice(&request[4..8]);
        Ok(reply)
    }
}

fn server_config(behind: &Mongod) -> anyhow::Result<Arc<ServerConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(behind.pki.ca_der())?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let (certificate, key) = behind.pki.issue("mongos", &Wanted::server())?.der();
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(ALL_VERSIONS)?;
    Ok(Arc::new(builder.with_client_cert_verifier(clients).with_single_cert(vec![certificate], key)?))
}

fn read_message(client: &mut impl Read) -> anyhow::Result<Vec<u8>> {
    let mut message = vec![0; 16];
    client.read_exact(&mut message)?;
    let length = message.first_chunk().map_or(0, |length| i32::from_le_bytes(*length));
    let length = usize::try_from(length)?;
    anyhow::ensure!((16..=MESSAGE_MAX).contains(&length), "a message of {length} bytes");
    message.resize(length, 0);
    client.read_exact(&mut message[16..])?;
    Ok(message)
}

/// The command, if it is a hello. Assumes that the body section comes first, as in all drivers.
fn hello_of(request: &[u8]) -> Option<Document> {
    let document = match op_code(request).ok()? {
        OP_MSG => request.get(21..)?,
        OP_QUERY => {
            // Flags, namespace, number to skip, number to return.
            let name = request.get(20..)?.iter().position(|byte| *byte == 0)?;
            request.get(20 + name + 9..)?
        }
        _ => return None,
    };
    let command = Document::from_reader(document).ok()?;
    let (name, _) = command.iter().next()?;
    ["hello", "ismaster", "isMaster"].contains(&name.as_str()).then_some(command)
}

fn expects_no_reply(request: &[u8]) -> bool {
    flags(request) & raw::MORE_TO_COME != 0
}

/// The flags of an `OP_MSG`; 0 for other messages.
fn flags(request: &[u8]) -> u32 {
    let flags = request.get(16..20).and_then(<[u8]>::first_chunk).map_or(0, |flags| u32::from_le_bytes(*flags));
    if op_code(request).is_ok_and(|code| code == OP_MSG) { flags } else { 0 }
}

fn op_code(message: &[u8]) -> anyhow::Result<i32> {
    let code = message.get(12..16).and_then(<[u8]>::first_chunk).context("a message without a header")?;
    Ok(i32::from_le_bytes(*code))
}
