//! An issuer of tokens: keys, tokens, and an HTTPS server with a CA of its own that publishes the keys.
//!
//! The test decides what it answers and when: it can rotate keys, refuse, stay silent, or demand a bearer token.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use crate::kit::certificates::{Pki, Wanted};
use crate::token_keys::{TokenKey, key_set, kubernetes_claims};

/// Longer than any limit of the gateway, so that a silent server is the gateway's problem.
const SILENCE: Duration = Duration::from_secs(30);

/// What the server answers.
#[derive(Debug, Clone, PartialEq)]
pub enum IssuerAnswer {
    /// This document.
    Keys(Value),
    /// This HTTP status, as `503 Service Unavailable`.
    Status(&'static str),
    /// Nothing: the connection stays open.
    Silence,
}

/// A running issuer. Dropping it ends the server.
pub struct TokenIssuer {
    pki: Pki,
    address: SocketAddr,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
    /// Signs the tokens; published from the start.
    pub key: TokenKey,
}

struct State {
    answer: Mutex<IssuerAnswer>,
    /// A request without this token is answered with 401.
    bearer: Mutex<Option<String>>,
    asked: AtomicUsize,
    ends: AtomicBool,
}

impl TokenIssuer {
    /// An issuer with one RSA key, `rsa-1`.
    pub fn start() -> anyhow::Result<Self> {
        let pki = Pki::new()?;
        let (certificate, key) = pki.issue("issuer", &Wanted::server())?.der();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let key = TokenKey::rsa("rsa-1");
        let state = Arc::new(State {
            answer: Mutex::new(IssuerAnswer::Keys(key_set([&key]))),
            bearer: Mutex::default(),
            asked: AtomicUsize::new(0),
            ends: AtomicBool::new(false),
        });
        let (served, config) = (Arc::clone(&state), Arc::new(config));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if served.ends.load(Ordering::SeqCst) {
                    return;
                }
                let (served, config) = (Arc::clone(&served), Arc::clone(&config));
                std::thread::spawn(move || {
                    // A gateway that gives up, or that does not trust the certificate, is part of the tests.
                    let _ = served.serve(stream, config);
                });
            }
        });
        Ok(Self { pki, address, state, thread: Some(thread), key })
    }

    /// The claim `iss` of its tokens, which is no address that anything connects to.
    pub const NAME: &'static str = "https://issuer.example";

    /// The address of its keys.
    pub fn jwks_url(&self) -> String {
        format!("https://127.0.0.1:{}/openid/v1/jwks", self.address.port())
    }

    /// The CA of its server.
    pub fn ca_file(&self) -> PathBuf {
        self.pki.ca_file()
    }

    /// A directory of its own, for files of the test.
    pub fn directory(&self) -> &Path {
        self.pki.directory()
    }

    /// Changes what the server answers from now on.
    pub fn answer(&self, answer: IssuerAnswer) {
        *self.state.answer.lock().unwrap() = answer;
    }

    /// Publishes these keys.
    pub fn publish<'a>(&self, keys: impl IntoIterator<Item = &'a TokenKey>) {
        self.answer(IssuerAnswer::Keys(key_set(keys)));
    }

    /// Demands a bearer token.
    pub fn demand(&self, bearer: &str) {
        *self.state.bearer.lock().unwrap() = Some(bearer.to_owned());
    }

    /// The number of requests so far.
    pub fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }

    /// The claims of a service account's token for `audience` that was issued now and is valid for `seconds`.
    pub fn claims(audience: &str, namespace: &str, account: &str, seconds: u64) -> Value {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        kubernetes_claims(Self::NAME, audience, (namespace, account), now, seconds)
    }

    /// A token with [`TokenIssuer::claims`].
    pub fn token(&self, audience: &str, namespace: &str, account: &str, seconds: u64) -> String {
        self.key.token(&Self::claims(audience, namespace, account, seconds))
    }

    /// Tables of a configuration that takes its tokens for `audience`.
    pub fn configuration(&self, audience: &str) -> String {
        format!(
            "[[token_issuer]]\nissuer = {:?}\naudiences = [{audience:?}]\njwks_url = {:?}\nca_file = {:?}\n\
             trust_domain = \"cluster.local\"\n",
            Self::NAME,
            self.jwks_url(),
            self.ca_file().display().to_string()
        )
    }
}

impl State {
    fn serve(&self, stream: TcpStream, config: Arc<ServerConfig>) -> anyhow::Result<()> {
        stream.set_read_timeout(Some(SILENCE))?;
        let mut stream = StreamOwned::new(ServerConnection::new(config)?, stream);
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") && request.len() < 64 * 1024 {
            let mut bytes = [0; 4096];
            let length = stream.read(&mut bytes)?;
            anyhow::ensure!(length > 0, "the client left");
            request.extend_from_slice(&bytes[..length]);
        }
        self.asked.fetch_add(1, Ordering::SeqCst);
        let request = String::from_utf8_lossy(&request).into_owned();
        let bearer = self.bearer.lock().unwrap().clone();
        let is_allowed = bearer.is_none_or(|bearer| request.contains(&format!("Bearer {bearer}\r\n")));
        let answer =
            if is_allowed { self.answer.lock().unwrap().clone() } else { IssuerAnswer::Status("401 Unauthorized") };
        let (status, body) = match answer {
            IssuerAnswer::Keys(keys) => ("200 OK", keys.to_string()),
            IssuerAnswer::Status(status) => (status, String::new()),
            IssuerAnswer::Silence => {
                // Until the client gives up.
                let _ = stream.read(&mut [0; 1]);
                return Ok(());
            }
        };
        write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
        stream.conn.send_close_notify();
        stream.flush()?;
        Ok(())
    }
}

impl Drop for TokenIssuer {
    fn drop(&mut self) {
        self.state.ends.store(true, Ordering::SeqCst);
        // Wakes the accept loop.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
