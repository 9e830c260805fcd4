//! Servers inside a test: TLS with rustls, and as much of mongod as a connection needs to be proven.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bson::oid::ObjectId;
use bson::raw::cstr;
use bson::{RawDocumentBuf, rawdoc};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use super::client_identity::ClientIdentity;
use super::connect_error::ConnectError;
use super::connector::Connector;
use super::stream::UpstreamStream;
use crate::config::EndpointConfig;
use crate::tls::test_pki::{CertificateAuthority, Folder, IssuedCertificate};
use crate::wire::header::Header;
use crate::wire::op_msg::encode;

pub(crate) const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
pub(crate) const ONLY_12: &[&SupportedProtocolVersion] = &[&TLS12];
pub(crate) const ONLY_13: &[&SupportedProtocolVersion] = &[&TLS13];

/// What a test server does with a connection.
pub(crate) enum Behaviour {
    /// TLS, then replies like a mongod.
    Mongod,
    /// As `Mongod`, except for the commands that this function replies to.
    Replies(fn(&str) -> Option<RawDocumentBuf>),
    /// As `Mongod`, and on each notification a reply that was not asked for, on all connections.
    Unasked(Arc<Notify>),
    /// As `Mongod`, with a topologyVersion in its hello. It replies to each hello at once, and says in `asked` for how
    /// long it was asked to wait.
    Awaitable,
    /// As `Mongod`, except that a hello must have `loadBalanced: true`, as at a mongos' port for load balancers.
    LoadBalancerPort,
    /// As `Replies`, but with an error to each command that declares no API version.
    RequiresApi(fn(&str) -> Option<RawDocumentBuf>),
    /// TLS, then these bytes in reply to any request, then the connection is closed.
    ReplyWith(Vec<u8>),
    /// TLS, then no reply.
    Silent,
    /// TLS, then the connection is closed, as mongod does if it rejects a client certificate.
    CloseAfterHandshake,
    /// No TLS: these bytes, then the connection is closed.
    Plain(&'static [u8]),
    /// No TLS, no reply.
    PlainSilent,
}

/// The configuration of a test: an upstream `orders` and its server.
pub(crate) struct TestUpstream {
    pub(crate) folder: Folder,
    pub(crate) ca: CertificateAuthority,
    pub(crate) server: IssuedCertificate,
    pub(crate) client: IssuedCertificate,
    pub(crate) clients: Option<CertificateAuthority>,
    pub(crate) versions: &'static [&'static SupportedProtocolVersion],
    pub(crate) behaviour: Behaviour,
    pub(crate) change: fn(&mut EndpointConfig),
}

impl TestUpstream {
    pub(crate) fn new() -> Self {
        let ca = CertificateAuthority::new("Acme CA");
        Self {
            folder: Folder::new(),
            server: ca.issue("mongod", &["127.0.0.1", "mongo.test"]),
            client: ca.issue("svc-a", &[]),
            ca,
            clients: None,
            versions: BOTH,
            behaviour: Behaviour::Mongod,
            change: |_| {},
        }
    }

    /// The configuration of the upstream, and its server.
    pub(crate) async fn listen(self) -> (EndpointConfig, TestServer) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut upstream = self.folder.upstream(address.port(), &self.client, &self.ca.pem);
        (self.change)(&mut upstream);
        let config = self.server.server(self.clients.as_ref(), self.versions);
        (upstream, TestServer { listener, address, config, behaviour: self.behaviour, _files: self.folder })
    }

    /// A connector to the server, and the server.
    pub(crate) async fn start(self) -> (Connector, TestServer) {
        let (upstream, server) = self.listen().await;
        (connector_to(&upstream), server)
    }

    pub(crate) async fn connect(self) -> Result<UpstreamStream, ConnectError> {
        let (connector, server) = self.start().await;
        server.during(connector.connect(None)).await
    }

    pub(crate) async fn fail(self) -> ConnectError {
        self.connect().await.unwrap_err()
    }
}

/// A listening server.
pub(crate) struct TestServer {
    pub(crate) listener: TcpListener,
    pub(crate) address: SocketAddr,
    config: Arc<ServerConfig>,
    behaviour: Behaviour,
    _files: Folder,
}

impl TestServer {
    /// Serves all connections until `client` has finished; then they are closed.
    pub(crate) async fn during<T>(&self, client: impl Future<Output = T>) -> T {
        tokio::select! {
            result = client => result,
            () = Box::pin(self.serve()) => unreachable!("the server does not end"),
        }
    }

    async fn serve(&self) {
        let mut open = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => open.push(self.serve_one(accepted.unwrap().0)),
                // The client checks how a connection ends.
                Some(_) = open.next() => {}
            }
        }
    }

    async fn serve_one(&self, mut tcp: TcpStream) -> io::Result<()> {
        match self.behaviour {
            Behaviour::Plain(answer) => return tcp.write_all(answer).await,
            Behaviour::PlainSilent => return std::future::pending().await,
            _ => {}
        }
        let mut tls = TlsAcceptor::from(Arc::clone(&self.config)).accept(tcp).await?;
        match &self.behaviour {
            Behaviour::CloseAfterHandshake => return Ok(()),
            Behaviour::Silent => return std::future::pending().await,
            _ => {}
        }
        loop {
            let mut head = [0; 16];
            if let Behaviour::Unasked(now) = &self.behaviour {
                tokio::select! {
                    biased;
                    read = tls.read_exact(&mut head) => drop(read?),
                    () = now.notified() => {
                        tls.write_all(&encode(9, 77, &rawdoc! { "secret": 1 })).await?;
                        tls.flush().await?;
                        continue;
                    }
                }
            } else {
                tls.read_exact(&mut head).await?;
            }
            let header = Header::parse(head).unwrap();
            let mut rest = vec![0; header.length as usize - 16];
            tls.read_exact(&mut rest).await?;
            let reply = match &self.behaviour {
                Behaviour::ReplyWith(bytes) => bytes.clone(),
                Behaviour::Replies(reply_to) => {
                    let reply = reply_to(&command_of(&rest[5..])).unwrap_or_else(|| reply_of(&rest[5..]));
                    encode(9, header.request_id, &reply)
                }
                Behaviour::Awaitable => encode(9, header.request_id, &awaitable_reply_of(&rest[5..])),
                Behaviour::LoadBalancerPort if is_hello_without_load_balancer(&rest[5..]) => {
                    encode(9, header.request_id, &rawdoc! { "ok": 0.0, "errmsg": "no load balancing", "code": 354 })
                }
                Behaviour::RequiresApi(reply_to) => {
                    let reply = if declares_api(&rest[5..]) {
                        reply_to(&command_of(&rest[5..])).unwrap_or_else(|| reply_of(&rest[5..]))
                    } else {
                        rawdoc! { "ok": 0.0, "errmsg": "The apiVersion parameter is required", "code": 498_870 }
                    };
                    encode(9, header.request_id, &reply)
                }
                _ => encode(9, header.request_id, &reply_of(&rest[5..])),
            };
            tls.write_all(&reply).await?;
            tls.flush().await?;
            if matches!(self.behaviour, Behaviour::ReplyWith(_)) {
                return Ok(());
            }
        }
    }
}

fn awaitable_reply_of(body: &[u8]) -> RawDocumentBuf {
    let mut reply = reply_of(body);
    if command_of(body) == "hello" {
        let version = rawdoc! { "processId": ObjectId::from_bytes([7; 12]), "counter": 6_i64 };
        reply.append(cstr!("topologyVersion"), version);
        let asked = RawDocumentBuf::from_bytes(body.to_vec()).unwrap().get_i64("maxAwaitTimeMS");
        if let Ok(asked) = asked {
            reply.append(cstr!("asked"), asked);
        }
    }
    reply
}

fn command_of(body: &[u8]) -> String {
    let body = RawDocumentBuf::from_bytes(body.to_vec()).unwrap();
    let (command, _) = body.iter().next().unwrap().unwrap();
    command.as_str().to_owned()
}

fn is_hello_without_load_balancer(body: &[u8]) -> bool {
    let body = RawDocumentBuf::from_bytes(body.to_vec()).unwrap();
    body.get_i32("hello").is_ok() && !body.get_bool("loadBalanced").unwrap_or(false)
}

fn declares_api(body: &[u8]) -> bool {
    let body = RawDocumentBuf::from_bytes(body.to_vec()).unwrap();
    body.get_str("apiVersion").is_ok_and(|version| version == "1")
}

fn reply_of(body: &[u8]) -> RawDocumentBuf {
    match command_of(body).as_str() {
        "ping" => rawdoc! { "ok": 1.0 },
        "hello" => rawdoc! { "isWritablePrimary": true, "setName": "rs0", "maxWireVersion": 17, "ok": 1.0 },
        "buildInfo" => rawdoc! { "version": "6.0.5", "ok": 1.0 },
        other => rawdoc! { "ok": 0.0, "errmsg": format!("no such command: {other}"), "code": 59 },
    }
}

/// A connector to `endpoint` with the certificates in its files.
pub(crate) fn connector_to(endpoint: &EndpointConfig) -> Connector {
    Connector::new(endpoint, Arc::new(ClientIdentity::new(endpoint).unwrap())).unwrap()
}
