//! A SPIFFE Workload API on a unix domain socket, like that of the SPIRE agent. The test controls what it sends and
//! when.
//!
//! It serves `FetchX509SVID` and `FetchJWTBundles`, on a thread of its own. The messages are defined here from the
//! specification, so that the gateway's client is not tested against its own definitions.
//!
//! Spec: SPIFFE Workload API § 5 (X.509-SVID Profile), § 6 (JWT-SVID Profile); SPIFFE Workload Endpoint § 5 (the
//! `workload.spiffe.io` metadata).

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use futures::Stream;
use futures::stream;
use serde_json::Value;
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
const FETCH_JWT_BUNDLES: &str = "/SpiffeWorkloadAPI/FetchJWTBundles";

/// A running Workload API. Dropping it ends it and removes its socket.
pub struct WorkloadApi {
    socket: PathBuf,
    /// Directory of the socket, unless the caller chose its path.
    directory: Option<TempDir>,
    script: watch::Sender<Script>,
    asked: Arc<AtomicUsize>,
    asked_for_bundles: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The answer to all current and future calls of one method.
#[derive(Clone)]
pub enum Answer<T = Set> {
    /// This message. Open streams receive it immediately.
    Set(T),
    /// `PermissionDenied`, with the message of the SPIRE agent for a workload without a registration entry.
    Denied,
    /// No answer: the call stays open.
    Silence,
}

/// One message of the stream.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Set {
    /// The SVIDs. The first is the default.
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<Svid>,
    /// Revocation lists (CRLs) in DER.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub crl: Vec<Vec<u8>>,
    /// CA certificates of other trust domains in DER, concatenated, by the SPIFFE ID of the trust domain.
    #[prost(map = "string, bytes", tag = "3")]
    pub federated_bundles: HashMap<String, Vec<u8>>,
}

/// One X.509 SVID.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Svid {
    /// `spiffe://…`
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    /// The certificate and its issuers in DER, concatenated.
    #[prost(bytes = "vec", tag = "2")]
    pub chain: Vec<u8>,
    /// The key: PKCS#8 in DER.
    #[prost(bytes = "vec", tag = "3")]
    pub key: Vec<u8>,
    /// The CA certificates of the trust domain in DER, concatenated.
    #[prost(bytes = "vec", tag = "4")]
    pub bundle: Vec<u8>,
    /// Hint of the operator.
    #[prost(string, tag = "5")]
    pub hint: String,
}

/// The keys of JWT-SVIDs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Bundles {
    /// JSON Web Key Sets, by the SPIFFE ID of the trust domain.
    #[prost(map = "string, bytes", tag = "1")]
    pub bundles: HashMap<String, Vec<u8>>,
}

/// The request, which has no fields.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct FetchRequest {}

#[derive(Clone)]
struct Script {
    answer: Answer,
    bundles: Answer<Bundles>,
    /// Streams that were opened with a lower number end.
    generation: usize,
}

impl Set {
    /// One certificate with its key, and the CA of `pki` as the CA of its trust domain.
    pub fn of(pki: &Pki, spiffe_id: &str, issued: &Issued) -> Self {
        let (certificate, key) = issued.der();
        let svid = Svid {
            spiffe_id: spiffe_id.to_owned(),
            chain: certificate.to_vec(),
            key: key.secret_der().to_vec(),
            bundle: pki.ca_der().to_vec(),
            hint: String::new(),
        };
        Self { svids: vec![svid], ..Self::default() }
    }
}

impl Bundles {
    /// One key set for each trust domain.
    pub fn of<'a>(key_sets: impl IntoIterator<Item = (&'a str, Value)>) -> Self {
        let entry = |(domain, keys): (&str, Value)| (format!("spiffe://{domain}"), keys.to_string().into_bytes());
        Self { bundles: key_sets.into_iter().map(entry).collect() }
    }
}

impl WorkloadApi {
    /// Starts a Workload API in a directory of its own.
    pub fn start(answer: Answer) -> anyhow::Result<Self> {
        let directory = scratch::directory("workload-api")?;
        let socket = directory.path().join("agent.sock");
        let mut api = Self::start_at(&socket, answer)?;
        api.directory = Some(directory);
        Ok(api)
    }

    /// Starts a Workload API at a path that must not exist.
    pub fn start_at(socket: &Path, answer: Answer) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(socket)?
        };
        let script = watch::Sender::new(Script { answer, bundles: Answer::Silence, generation: 0 });
        let (asked, asked_for_bundles) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let service = Endpoint {
            certificates: Method {
                script: script.subscribe(),
                asked: Arc::clone(&asked),
                pick: |script| &script.answer,
            },
            bundles: Method {
                script: script.subscribe(),
                asked: Arc::clone(&asked_for_bundles),
                pick: |script| &script.bundles,
            },
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    served = Server::builder().serve_with_incoming(service, arrivals(listener)) => {
                        served.expect("a unix domain socket accepts connections");
                    }
                    _ = stopped => {}
                }
            });
            // Dropping the runtime cuts the streams, as if the agent was killed.
        });
        let (socket, directory, stop, thread) = (socket.to_owned(), None, Some(stop), Some(thread));
        Ok(Self { socket, directory, script, asked, asked_for_bundles, stop, thread })
    }

    /// Path of the socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sets the answer to all future and waiting calls for certificates.
    pub fn answer(&self, answer: Answer) {
        self.script.send_modify(|script| script.answer = answer);
    }

    /// Sets the answer to all future and waiting calls for the keys of JWT-SVIDs. At the start there is none.
    pub fn answer_bundles(&self, answer: Answer<Bundles>) {
        self.script.send_modify(|script| script.bundles = answer);
    }

    /// Ends all open streams orderly, as an agent that restarts. Later calls get the same answer as before.
    pub fn end_streams(&self) {
        self.script.send_modify(|script| script.generation += 1);
    }

    /// Number of calls for certificates so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Number of calls for the keys of JWT-SVIDs so far.
    pub fn asked_for_bundles(&self) -> usize {
        self.asked_for_bundles.load(Ordering::Relaxed)
    }
}

impl Drop for WorkloadApi {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has already been printed. Repeating it here would hide a panic of the test.
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

/// The gRPC service.
#[derive(Clone)]
struct Endpoint {
    certificates: Method<Set>,
    bundles: Method<Bundles>,
}

/// One method, whose stream has messages of the type `T`.
struct Method<T> {
    script: watch::Receiver<Script>,
    asked: Arc<AtomicUsize>,
    pick: fn(&Script) -> &Answer<T>,
}

impl<T> Clone for Method<T> {
    fn clone(&self) -> Self {
        Self { script: self.script.clone(), asked: Arc::clone(&self.asked), pick: self.pick }
    }
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
            Ok(match request.uri().path() {
                FETCH_X509_SVID => {
                    Grpc::new(ProstCodec::default()).server_streaming(endpoint.certificates, request).await
                }
                FETCH_JWT_BUNDLES => Grpc::new(ProstCodec::default()).server_streaming(endpoint.bundles, request).await,
                _ => Status::unimplemented("not a method of this agent").into_http(),
            })
        })
    }
}

impl<T: prost::Message + Clone + Default + Sync + 'static> ServerStreamingService<FetchRequest> for Method<T> {
    type Response = T;
    type ResponseStream = BoxStream<T>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<FetchRequest>) -> Self::Future {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let (mut script, pick) = (self.script.clone(), self.pick);
        Box::pin(async move {
            if request.metadata().get("workload.spiffe.io").is_none_or(|value| value != "true") {
                return Err(Status::invalid_argument("security header missing from request"));
            }
            script.mark_changed();
            let generation = {
                let current = script.borrow();
                // The agent denies a new call immediately, and an open stream in its trailers.
                if matches!(pick(&current), Answer::Denied) {
                    return Err(denied());
                }
                current.generation
            };
            let answers = stream::unfold(Some((script, generation)), move |state| async move {
                let (script, generation) = state?;
                next_answer(script, generation, pick).await
            });
            Ok(Response::new(Box::pin(answers) as Self::ResponseStream))
        })
    }
}

type State = Option<(watch::Receiver<Script>, usize)>;

/// The next message of a stream and the state after it; `None` when the stream has ended.
async fn next_answer<T: Clone>(
    mut script: watch::Receiver<Script>,
    generation: usize,
    pick: fn(&Script) -> &Answer<T>,
) -> Option<(Result<T, Status>, State)> {
    loop {
        script.changed().await.ok()?;
        let current = script.borrow_and_update().clone();
        if current.generation != generation {
            return None;
        }
        match pick(&current) {
            Answer::Set(message) => return Some((Ok(message.clone()), Some((script, generation)))),
            Answer::Denied => return Some((Err(denied()), None)),
            Answer::Silence => {}
        }
    }
}

fn denied() -> Status {
    Status::permission_denied("no identity issued")
}
