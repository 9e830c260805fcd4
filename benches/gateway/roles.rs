//! The roles in which the benchmark starts itself as a child process: the stub upstream, and the TCP copy without TLS.
//!
//! They are separate processes, so that they share no event loop with the load or the subject.

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

/// Environment variable with the role of a child process.
pub(crate) const ROLE: &str = "MONGATE_BENCH_ROLE";

/// Buffer size of the copy per direction.
const COPY_BYTES: usize = 64 * 1024;

/// Runs the role that the environment names and does not return except with an error. Returns at once if it names none.
pub(crate) fn run_if_child() -> anyhow::Result<()> {
    let Ok(role) = env::var(ROLE) else { return Ok(()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    match role.split_once(' ') {
        Some(("upstream", certificates)) => local.block_on(&runtime, upstream(Path::new(certificates))),
        Some(("copy", target)) => local.block_on(&runtime, copy(target)),
        _ => anyhow::bail!("{ROLE} has no known role: {role:?}"),
    }
}

/// Prints the addresses of a role to standard output, for the parent process.
fn announce(listeners: &[&TcpListener]) -> anyhow::Result<()> {
    let addresses = listeners.iter().map(|listener| Ok(listener.local_addr()?.to_string()));
    let addresses = addresses.collect::<anyhow::Result<Vec<_>>>()?;
    writeln!(std::io::stdout(), "listening {}", addresses.join(" "))?;
    Ok(())
}

async fn upstream(certificates: &Path) -> anyhow::Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(server_config(certificates)?));
    let (tls, plain) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    announce(&[&tls, &plain])?;
    let replies = Arc::new(Replies::default());
    loop {
        tokio::select! {
            accepted = tls.accept() => {
                let (socket, _) = accepted?;
                let (acceptor, replies) = (acceptor.clone(), Arc::clone(&replies));
                socket.set_nodelay(true)?;
                spawn_local(async move {
                    if let Ok(stream) = acceptor.accept(socket).await {
                        let suite = stream.get_ref().1.negotiated_cipher_suite();
                        let suite = suite.map(|suite| format!("{:?}", suite.suite())).unwrap_or_default();
                        let _ = serve(stream, &replies, suite).await;
                    }
                });
            }
            accepted = plain.accept() => {
                let (socket, _) = accepted?;
                let replies = Arc::clone(&replies);
                socket.set_nodelay(true)?;
                spawn_local(async move { serve(socket, &replies, "none".to_owned()).await });
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

/// The prepared replies of the stub upstream.
struct Replies {
    hello: Vec<u8>,
    ok: Vec<u8>,
    small: Vec<u8>,
    large: Vec<u8>,
}

/// Sizes of the replies to a find, in bytes. The stub upstream sends the large one if the filter asks for more than the
/// small one.
pub(crate) const SMALL_REPLY: usize = 64 * 1024;
pub(crate) const LARGE_REPLY: usize = 16 * 1024 * 1024;

impl Default for Replies {
    fn default() -> Self {
        let batch = |bytes: usize| batch_of(rawdoc! { "text": "x".repeat(bytes - 200) });
        Self {
            hello: reply_to_1(&rawdoc! {
                "isWritablePrimary": true, "maxBsonObjectSize": 16_777_216, "maxMessageSizeBytes": 48_000_000,
                "maxWriteBatchSize": 100_000, "minWireVersion": 0, "maxWireVersion": 17, "ok": 1.0
            }),
            ok: reply_to_1(&rawdoc! { "n": 1, "ok": 1.0 }),
            small: batch(SMALL_REPLY),
            large: batch(LARGE_REPLY),
        }
    }
}

fn batch_of(document: RawDocumentBuf) -> Vec<u8> {
    reply_to_1(&rawdoc! { "cursor": { "id": 0_i64, "ns": "shop.orders", "firstBatch": [document] }, "ok": 1.0 })
}

fn reply_to_1(body: &RawDocumentBuf) -> Vec<u8> {
    op_msg::encode(1, 1, body)
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    replies: &Replies,
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
        let reply = replies.to(&message, &suite).context("the request has no command")?;
        // Only `responseTo` differs between the replies.
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

impl Replies {
    fn to<'a>(&'a self, message: &[u8], suite: &'a [u8]) -> Option<&'a [u8]> {
        let length = u32::from_le_bytes(*message.get(5..)?.first_chunk()?) as usize;
        let body = RawDocument::from_bytes(message.get(5..5 + length)?).ok()?;
        let (name, _) = body.iter().next()?.ok()?;
        Some(match name.as_str() {
            "hello" | "isMaster" | "buildInfo" => &self.hello,
            "find" => {
                // A find without a size asks for the cipher suite of the connection.
                let Ok(bytes) = body.get_document("filter").ok()?.get_i32("bytes") else { return Some(suite) };
                if usize::try_from(bytes).ok()? > SMALL_REPLY { &self.large } else { &self.small }
            }
            _ => &self.ok,
        })
    }
}

/// Copies each connection to `target` without TLS and without parsing: the lower bound for the cost of a proxy.
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
