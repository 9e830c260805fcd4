//! Answers requests on the control socket.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::log_level::RunningLevel;
use super::protocol::{LINE_MAX, Reloaded, Reply, Request};
use super::socket::ControlSocket;
use crate::config::LogLevel;
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::tasks::Tasks;

/// Clients at the same time. Further ones are closed without a reply.
const CLIENTS_MAX: usize = 8;

/// Time for a client to send its request, and again to read the reply.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after the system had no descriptor for a client.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The longest `for_seconds`.
const FOR_MAX: u64 = 24 * 60 * 60;

/// Log messages of this module.
const CONTROL_LISTENING: &str = "control socket listening";
const REQUEST_REFUSED: &str = "control request refused";
const LEVEL_CHANGED: &str = "log level changed";
const RELOAD_REQUESTED: &str = "reload requested through the control socket";
const DRAIN_REQUESTED: &str = "draining; requested through the control socket";

/// What the gateway does for a client of the control socket.
pub trait Actions: Send + Sync + 'static {
    /// Reads all files again and waits for the end. `None` if that takes too long, or the gateway is shutting down.
    fn reload(&self) -> impl Future<Output = Option<Vec<Reloaded>>> + Send;

    /// Begins the shutdown. Returns at once.
    fn drain(&self);
}

struct Server<A> {
    actions: A,
    level: RunningLevel,
    drain: DrainWatch,
}

/// The process that asks.
#[derive(Debug, Clone, Copy)]
struct Peer {
    uid: u32,
    pid: Option<i32>,
}

impl ControlSocket {
    /// Serves until the process stops, also during the drain. Each client is one of `tasks`.
    pub async fn serve(self, actions: impl Actions, tasks: Tasks, drain: DrainWatch) {
        tracing::info!(socket = %self.path.display(), "{CONTROL_LISTENING}");
        // The file of the socket is removed at the end.
        let Self { listener, level, bound: _bound, .. } = self;
        let server = Arc::new(Server { actions, level, drain: drain.clone() });
        let places = Arc::new(Semaphore::new(CLIENTS_MAX));
        let accepting = async {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                let server = Arc::clone(&server);
                tasks.spawn("control client", async move {
                    let drain = server.drain.clone();
                    tokio::select! {
                        _ = server.answer(stream) => {}
                        () = drain.stopped() => {}
                    }
                    drop(place);
                });
            }
        };
        tokio::select! {
            () = accepting => {}
            () = server.level.follow() => {}
            () = drain.stopped() => {}
        }
    }
}

impl<A: Actions> Server<A> {
    /// Answers the one request of a client.
    async fn answer(&self, mut stream: UnixStream) -> io::Result<()> {
        let peer = stream.peer_cred()?;
        let peer = Peer { uid: peer.uid(), pid: peer.pid() };
        let reply = if may_control(peer.uid, rustix::process::geteuid().as_raw()) {
            match timeout(CLIENT_TIMEOUT, read_request(&mut stream)).await {
                Ok(Ok(request)) => self.obey(request, peer).await,
                Ok(Err(sentence)) => Reply::error(sentence),
                // A silent client ends without a reply.
                Err(_) => return Ok(()),
            }
        } else {
            Reply::error("only root and the user of the gateway may control it")
        };
        if let Reply::Error { error } = &reply {
            tracing::warn!(uid = peer.uid, pid = peer.pid, error, "{REQUEST_REFUSED}");
        }
        let mut line = serde_json::to_vec(&reply)?;
        line.push(b'\n');
        timeout(CLIENT_TIMEOUT, stream.write_all(&line)).await?
    }

    async fn obey(&self, request: Request, peer: Peer) -> Reply {
        match request {
            Request::LogLevel { level: Some(level), for_seconds } => self.change_level(&level, for_seconds, peer),
            Request::LogLevel { level: None, for_seconds: Some(_) } => Reply::error("a time needs a level"),
            Request::LogLevel { level: None, for_seconds: None } => self.level(),
            Request::Reload {} => {
                tracing::info!(uid = peer.uid, pid = peer.pid, "{RELOAD_REQUESTED}");
                self.actions.reload().await.map_or_else(
                    || Reply::error("the reload has not ended in time, or the gateway is shutting down; see its log"),
                    |files| Reply::Reloaded { files },
                )
            }
            Request::Drain {} => {
                tracing::info!(uid = peer.uid, pid = peer.pid, "{DRAIN_REQUESTED}");
                self.actions.drain();
                Reply::Draining {}
            }
        }
    }

    fn change_level(&self, name: &str, for_seconds: Option<u64>, peer: Peer) -> Reply {
        let Some(level) = LogLevel::from_name(name) else {
            return Reply::error("the level must be error, warn, info, debug or trace");
        };
        if for_seconds.is_some_and(|seconds| !(1..=FOR_MAX).contains(&seconds)) {
            return Reply::error("the time must be 1s to 24h");
        }
        self.level.change(level, for_seconds.map(Duration::from_secs), |previous| {
            let (log_level, previous) = (level.name(), previous.name());
            tracing::warn!(log_level, previous, for_seconds, uid = peer.uid, pid = peer.pid, "{LEVEL_CHANGED}");
        });
        self.level()
    }

    fn level(&self) -> Reply {
        let state = self.level.state();
        let left = state.until.map(|until| until.saturating_duration_since(Instant::now()));
        Reply::LogLevel {
            level: state.level.name().to_owned(),
            configured: self.level.configured().name().to_owned(),
            // Rounded up: a level that ends soon is not one that stays.
            for_seconds: left.map(|left| left.as_secs() + u64::from(left.subsec_nanos() > 0)),
        }
    }
}

/// The mode of the socket says the same; this holds if it has been changed.
fn may_control(uid: u32, own: u32) -> bool {
    uid == 0 || uid == own
}

/// Reads one line. The error is a sentence that repeats nothing of what the client sent.
async fn read_request(stream: &mut UnixStream) -> Result<Request, String> {
    let mut line = Vec::new();
    let read = BufReader::new(stream.take(LINE_MAX)).read_until(b'\n', &mut line).await;
    if read.is_err() || line.last() != Some(&b'\n') {
        return Err(format!("a request is one line of at most {LINE_MAX} bytes"));
    }
    serde_json::from_slice(&line).map_err(|_| "the request is none that this version of the gateway knows".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_the_own_user_may_control() {
        assert!(may_control(0, 10) && may_control(10, 10) && may_control(0, 0));
        assert!(!may_control(11, 10) && !may_control(10, 0));
    }

    async fn sent(bytes: Vec<u8>) -> Result<Request, String> {
        let (mut client, mut server) = UnixStream::pair().unwrap();
        let write = async move {
            let _ = client.write_all(&bytes).await;
            let _ = client.shutdown().await;
        };
        let read = async move {
            let request = read_request(&mut server).await;
            drop(server);
            request
        };
        tokio::join!(write, read).1
    }

    #[tokio::test]
    async fn a_request_is_one_bounded_line_that_is_known() {
        let level = br#"{"command": "log-level", "level": "debug", "for_seconds": 60}"#;
        let line = [level.as_slice(), b"\n"].concat();
        let expected = Request::LogLevel { level: Some("debug".to_owned()), for_seconds: Some(60) };
        assert_eq!(sent(line).await, Ok(expected));
        assert_eq!(sent(b"{\"command\": \"reload\"}\n".to_vec()).await, Ok(Request::Reload {}));
        for hostile in [
            level.to_vec(),
            Vec::new(),
            b"\n".to_vec(),
            b"\xff\0\n".to_vec(),
            b"{\"command\": \"halt\"}\n".to_vec(),
            b"{\"command\": \"reload\", \"more\": 1}\n".to_vec(),
            vec![b'['; 200_000],
            [vec![b'['; 60_000], b"\n".to_vec()].concat(),
        ] {
            assert!(sent(hostile).await.is_err());
        }
    }
}
