//! What this program does as a child of itself: the fast upstream, and the copy without TLS.
//!
//! Children, so that neither the load nor the subject runs on their event loop.

use std::env;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use bson::{RawDocument, RawDocumentBuf, rawdoc};
use mongate::wire::header::{HEADER_BYTES, Header};
use mongate::wire::op_msg;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::TlsAcceptor;

/// Says which role a child has.
pub(crate) const ROLE: &str = "MONGATE_BENCH_ROLE";

/// Bytes that the copy reads at a time, each way.
const COPY_BYTES: usize = 64 * 1024;

/// Plays the role that the environment names, if it names one; does not return then.
pub(crate) fn play() -> anyhow::Result<()> {
    let Ok(role) = env::var(ROLE) else { return Ok(()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    match role.split_once(' ') {
        Some(("upstream", certificates)) => local.block_on(&runtime, upstream(Path::new(certificates))),
        Some(("copy", target)) => local.block_on(&runtime, copy(target)),
        _ => anyhow::bail!("{ROLE} names no role"),
    }
}

/// Says on standard output where a role listens.
fn announce(ports: &[&TcpListener]) -> anyhow::Result<()> {
    let ports: Vec<_> = ports.iter().map(|listener| listener.local_addr().map(|address| address.to_string())).collect();
    let ports = ports.into_iter().collect::<Result<Vec<_>, _>>()?;
    writeln!(std::io::stdout(), "listening {}", ports.join(" "))?;
    Ok(())
}

async fn upstream(certificates: &Path) -> anyhow::Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(server_config(certificates)?));
    let (sealed, plain) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    announce(&[&sealed, &plain])?;
    let answers = Arc::new(Answers::default());
    loop {
        tokio::select! {
            arrived = sealed.accept() => {
                let (socket, _) = arrived?;
                let (acceptor, answers) = (acceptor.clone(), Arc::clone(&answers));
                socket.set_nodelay(true)?;
                spawn_local(async move {
                    if let Ok(stream) = acceptor.accept(socket).await {
                        let suite = stream.get_ref().1.negotiated_cipher_suite();
                        let suite = suite.map(|suite| format!("{:?}", suite.suite())).unwrap_or_default();
                        let _ = serve(stream, &answers, suite).await;
                    }
                });
            }
            arrived = plain.accept() => {
                let (socket, _) = arrived?;
                let answers = Arc::clone(&answers);
                socket.set_nodelay(true)?;
                spawn_local(async move { serve(socket, &answers, "none".to_owned()).await });
            }
        }
    }
}

fn server_config(certificates: &Path) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = CertificateDer::pem_file_iter(certificates.join("server.crt"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(certificates.join("server.key"))?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificates.join("ca.pem"))?)?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    Ok(ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)?)
}

/// Answers that are made once.
struct Answers {
    hello: Vec<u8>,
    ok: Vec<u8>,
    small: Vec<u8>,
    large: Vec<u8>,
}

/// What a find with a filter of so many bytes is answered with.
pub(crate) const SMALL_REPLY: usize = 64 * 1024;
pub(crate) const LARGE_REPLY: usize = 16 * 1024 * 1024;

impl Default for Answers {
    fn default() -> Self {
        let batch = |bytes: usize| batch_of(rawdoc! { "text": "x".repeat(bytes - 200) });
        Self {
            hello: answer(&rawdoc! {
                "isWritablePrimary": true, "maxBsonObjectSize": 16_777_216, "maxMessageSizeBytes": 48_000_000,
                "maxWriteBatchSize": 100_000, "minWireVersion": 0, "maxWireVersion": 17, "ok": 1.0
            }),
            ok: answer(&rawdoc! { "n": 1, "ok": 1.0 }),
            small: batch(SMALL_REPLY),
            large: batch(LARGE_REPLY),
        }
    }
}

fn batch_of(document: RawDocumentBuf) -> Vec<u8> {
    answer(&rawdoc! { "cursor": { "id": 0_i64, "ns": "shop.orders", "firstBatch": [document] }, "ok": 1.0 })
}

fn answer(body: &RawDocumentBuf) -> Vec<u8> {
    op_msg::encode(1, 1, body)
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answers: &Answers,
    suite: String,
) -> anyhow::Result<()> {
    let suite = batch_of(rawdoc! { "suite": suite });
    let mut message = Vec::new();
    loop {
        let mut head = [0; HEADER_BYTES];
        stream.read_exact(&mut head).await?;
        let header = Header::parse(head)?;
        message.resize(header.length as usize - HEADER_BYTES, 0);
        stream.read_exact(&mut message).await?;
        let reply = answers.to(&message, &suite).context("no command")?;
        // The ids of a reply are those of its request, as every connection has one request in flight.
        let mut first = [0; HEADER_BYTES];
        first.copy_from_slice(&reply[..HEADER_BYTES]);
        first[8..12].copy_from_slice(&header.request_id.to_le_bytes());
        if reply.len() < 1024 {
            let whole = [&first[..], &reply[HEADER_BYTES..]].concat();
            stream.write_all(&whole).await?;
        } else {
            stream.write_all(&first).await?;
            stream.write_all(&reply[HEADER_BYTES..]).await?;
        }
        stream.flush().await?;
    }
}

impl Answers {
    fn to<'a>(&'a self, message: &[u8], suite: &'a [u8]) -> Option<&'a [u8]> {
        let length = u32::from_le_bytes(*message.get(5..)?.first_chunk()?) as usize;
        let body = RawDocument::from_bytes(message.get(5..5 + length)?).ok()?;
        let (name, _) = body.iter().next()?.ok()?;
        Some(match name.as_str() {
            "hello" | "isMaster" | "buildInfo" => &self.hello,
            "find" => {
                // No bytes are asked of it: the question is how the connection is encrypted.
                let Ok(bytes) = body.get_document("filter").ok()?.get_i32("bytes") else { return Some(suite) };
                if usize::try_from(bytes).ok()? > SMALL_REPLY { &self.large } else { &self.small }
            }
            _ => &self.ok,
        })
    }
}

/// Copies each connection to `target`, without TLS and without looking: what no proxy can be cheaper than.
async fn copy(target: &str) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    announce(&[&listener])?;
    loop {
        let (mut client, _) = listener.accept().await?;
        let target = target.to_owned();
        client.set_nodelay(true)?;
        spawn_local(async move {
            let mut upstream = TcpStream::connect(&target).await?;
            upstream.set_nodelay(true)?;
            tokio::io::copy_bidirectional_with_sizes(&mut client, &mut upstream, COPY_BYTES, COPY_BYTES).await
        });
    }
}
