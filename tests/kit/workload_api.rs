//! A SPIFFE Workload API on a unix socket, as SPIRE's agent offers it: what it hands out, and when, is the test's to say.
//!
//! Serves `FetchX509SVID` and nothing else, on a thread of its own. The messages are written down here as the
//! specification has them, so that the gateway's client is not tested against itself.
//!
//! Spec: SPIFFE Workload API § 5 (X.509-SVID Profile); SPIFFE Workload Endpoint § 5 (the `workload.spiffe.io` metadata).

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use futures::Stream;
use futures::stream;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::{oneshot, watch};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, BoxStream, Service, http};
use tonic::server::{Grpc, ServerStreamingService};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::certificates::{Issued, Pki};
use super::scratch;

const FETCH_X509_SVID: &str = "/SpiffeWorkloadAPI/FetchX509SVID";

/// A running Workload API; dropping it ends it, and its socket goes.
pub struct WorkloadApi {
    socket: PathBuf,
    /// Of the socket, unless that is at a path of the caller's.
    directory: Option<TempDir>,
    script: watch::Sender<Script>,
    asked: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What every stream answers from now on.
#[derive(Clone)]
pub enum Answer {
    /// This set; a stream that is open gets it at once.
    Set(Set),
    /// `PermissionDenied`, in the words of SPIRE's agent for a workload without a registration entry.
    Denied,
    /// Nothing at all: the call stays open.
    Silence,
}

/// What one message of the stream carries.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Set {
    /// The first is the default.
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<Svid>,
    /// Revocation lists, DER.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub crl: Vec<Vec<u8>>,
    /// Authorities of other trust domains by the domain's SPIFFE id, DER, one behind the other.
    #[prost(map = "string, bytes", tag = "3")]
    pub federated_bundles: HashMap<String, Vec<u8>>,
}

/// One certificate with what belongs to it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Svid {
    /// `spiffe://…`
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    /// DER, the certificate first and its issuers behind it.
    #[prost(bytes = "vec", tag = "2")]
    pub x509_svid: Vec<u8>,
    /// PKCS#8, DER.
    #[prost(bytes = "vec", tag = "3")]
    pub x509_svid_key: Vec<u8>,
    /// The authorities of its trust domain, DER, one behind the other.
    #[prost(bytes = "vec", tag = "4")]
    pub bundle: Vec<u8>,
    /// The operator's word about it.
    #[prost(string, tag = "5")]
    pub hint: String,
}

/// The request has no fields.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Nothing {}

#[derive(Clone)]
struct Script {
    answer: Answer,
    /// A stream that was opened under a lower number ends.
    generation: usize,
}

impl Set {
    /// One certificate with its key, and the authority of `pki` as its trust domain's.
    pub fn of(pki: &Pki, spiffe_id: &str, issued: &Issued) -> Self {
        let (certificate, key) = issued.der();
        let svid = Svid {
            spiffe_id: spiffe_id.to_owned(),
            x509_svid: certificate.to_vec(),
            x509_svid_key: key.secret_der().to_vec(),
            bundle: pki.ca_der().to_vec(),
            hint: String::new(),
        };
        Self { svids: vec![svid], ..Self::default() }
    }
}

impl WorkloadApi {
    /// Starts one in a directory of its own.
    pub fn start(answer: Answer) -> anyhow::Result<Self> {
        let directory = scratch::directory("workload-api")?;
        let socket = directory.path().join("agent.sock");
        let mut api = Self::start_at(&socket, answer)?;
        api.directory = Some(directory);
        Ok(api)
    }

    /// Starts one at a path, where none must be.
    pub fn start_at(socket: &Path, answer: Answer) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(socket)?
        };
        let script = watch::Sender::new(Script { answer, generation: 0 });
        let asked = Arc::new(AtomicUsize::new(0));
        let service = Endpoint { script: script.subscribe(), asked: Arc::clone(&asked) };
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    served = Server::builder().serve_with_incoming(service, arrivals(listener)) => {
                        served.expect("a unix socket goes on accepting");
                    }
                    _ = stopped => {}
                }
            });
            // Streams are cut here, as those of an agent that was killed.
        });
        Ok(Self { socket: socket.to_owned(), directory: None, script, asked, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Answers this from now on, those who are waiting included.
    pub fn answer(&self, answer: Answer) {
        self.script.send_modify(|script| script.answer = answer);
    }

    /// Ends every open stream in order, as an agent does that restarts; later calls are answered as before.
    pub fn end_streams(&self) {
        self.script.send_modify(|script| script.generation += 1);
    }

    /// How many calls there were so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for WorkloadApi {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; here it would hide the test's own.
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn arrivals(listener: UnixListener) -> impl Stream<Item = std::io::Result<tokio::net::UnixStream>> {
    stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    })
}

/// What calls come to.
#[derive(Clone)]
struct Endpoint {
    script: watch::Receiver<Script>,
    asked: Arc<AtomicUsize>,
}

impl Service<http::Request<Body>> for Endpoint {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let endpoint = self.clone();
        Box::pin(async move {
            if request.uri().path() != FETCH_X509_SVID {
                return Ok(Status::unimplemented("only FetchX509SVID").into_http());
            }
            Ok(Grpc::new(ProstCodec::default()).server_streaming(endpoint, request).await)
        })
    }
}

impl ServerStreamingService<Nothing> for Endpoint {
    type Response = Set;
    type ResponseStream = BoxStream<Set>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Nothing>) -> Self::Future {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut script = self.script.clone();
        Box::pin(async move {
            if request.metadata().get("workload.spiffe.io").is_none_or(|value| value != "true") {
                return Err(Status::invalid_argument("security header missing from request"));
            }
            script.mark_changed();
            let generation = match &*script.borrow() {
                // Told at once, as the agent does; a stream that is open already is told in its trailers.
                Script { answer: Answer::Denied, .. } => return Err(denied()),
                Script { generation, .. } => *generation,
            };
            let answers = stream::unfold(Some((script, generation)), async |state| {
                let (script, generation) = state?;
                next_answer(script, generation).await
            });
            Ok(Response::new(Box::pin(answers) as Self::ResponseStream))
        })
    }
}

type State = Option<(watch::Receiver<Script>, usize)>;

/// The next message of a stream and what is left of it; `None` once it is over.
async fn next_answer(mut script: watch::Receiver<Script>, generation: usize) -> Option<(Result<Set, Status>, State)> {
    loop {
        script.changed().await.ok()?;
        let current = script.borrow_and_update().clone();
        if current.generation != generation {
            return None;
        }
        match current.answer {
            Answer::Set(set) => return Some((Ok(set), Some((script, generation)))),
            Answer::Denied => return Some((Err(denied()), None)),
            Answer::Silence => {}
        }
    }
}

fn denied() -> Status {
    Status::permission_denied("no identity issued")
}
