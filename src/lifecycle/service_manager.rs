//! The service manager, usually systemd: what it passes to the process, and messages about the state of the process.
//!
//! The protocols are those of `sd_notify(3)`, `sd_watchdog_enabled(3)` and `sd_listen_fds(3)`. A process that was
//! started in another way has no socket for messages, and every message is dropped.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net as unix;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::net::UnixDatagram;
use tokio::time::timeout;

/// How long a message may wait for room in the queue of the service manager.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
const LISTEN_FD_NAMES: &str = "LISTEN_FDNAMES";

/// Log messages of this module.
const NOT_NOTIFIED: &str = "the service manager cannot be notified";

/// A listening socket that the service manager holds and passes.
#[derive(Debug)]
pub struct PassedSocket {
    /// `FileDescriptorName=` of the socket's unit.
    pub name: String,
    /// Closed on exec. Whether it is a listening socket is not checked.
    pub socket: OwnedFd,
}

/// What the service manager passes in environment variables. The default is nothing.
#[derive(Debug, Default)]
pub struct ServiceEnvironment {
    notify_socket: Option<OsString>,
    watchdog: Option<Duration>,
    /// Sockets, in the order of their descriptors.
    pub sockets: Vec<PassedSocket>,
}

/// The variables about passed sockets do not fit the open descriptors, or each other.
#[derive(Debug, thiserror::Error)]
#[error(
    "the sockets that LISTEN_FDS, LISTEN_FDNAMES and LISTEN_PID announce cannot be used: {0}; start the gateway from a \
     .socket unit, or without these variables"
)]
pub struct PassedSocketsError(#[from] io::Error);

impl ServiceEnvironment {
    /// Takes the variables out of the environment, so that no child process inherits them, and the descriptors that
    /// they announce.
    ///
    /// # Safety
    /// No other thread may run, because the environment changes. Must be called once: it makes itself the owner of the
    /// descriptors from 3 on that `LISTEN_FDS` counts.
    #[expect(unsafe_code, reason = "the environment is changed, and descriptors are numbers in it")]
    pub unsafe fn take() -> Result<Self, PassedSocketsError> {
        let notify_socket = env::var_os(NOTIFY_SOCKET).filter(|name| !name.is_empty());
        // SAFETY: the caller guarantees that no other thread reads the environment.
        let (watchdog, passed) = unsafe {
            env::remove_var(NOTIFY_SOCKET);
            let watchdog = sd_notify::watchdog_enabled_and_unset_env();
            let passed = sd_notify::listen_fds_with_names_and_unset_env().map(Iterator::collect::<Vec<_>>);
            env::remove_var(LISTEN_FD_NAMES);
            (watchdog, passed)
        };
        let own = |(descriptor, name)| {
            // SAFETY: sd_notify has set a flag of the descriptor, so it is open. The service manager passes it to this
            // process, and nothing else uses it.
            let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
            PassedSocket { name, socket }
        };
        let sockets = passed?.into_iter().map(own).collect();
        Ok(Self { notify_socket, watchdog: watchdog.filter(|limit| !limit.is_zero()), sockets })
    }
}

/// Sends messages to the service manager.
#[derive(Debug)]
pub struct ServiceManager {
    socket: Option<OsString>,
    watchdog: Option<Duration>,
    is_failing: AtomicBool,
}

impl ServiceManager {
    /// The service manager that passed `environment`.
    pub fn new(environment: &ServiceEnvironment) -> Self {
        let ServiceEnvironment { notify_socket, watchdog, .. } = environment;
        Self { socket: notify_socket.clone(), watchdog: *watchdog, is_failing: AtomicBool::new(false) }
    }

    /// Whether a service manager reads messages.
    pub fn is_present(&self) -> bool {
        self.socket.is_some()
    }

    /// The service manager ends the process if it gets no [`NotifyState::Watchdog`] for this time. `None` if it does
    /// not wait for any.
    pub fn watchdog_limit(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.is_present())
    }

    /// Sends one message, and waits up to 5 s for room in the queue of the service manager. The first of several
    /// failures in succession is logged.
    pub async fn notify(&self, states: &[NotifyState<'_>]) {
        let Some(name) = &self.socket else { return };
        let lines: Vec<_> = states.iter().map(ToString::to_string).collect();
        let message = lines.join("\n");
        match send(name, message.as_bytes()).await {
            Ok(()) => self.is_failing.store(false, Ordering::Relaxed),
            Err(_) if self.is_failing.swap(true, Ordering::Relaxed) => {}
            Err(error) => {
                tracing::warn!(
                    socket = %name.display(),
                    %error,
                    remedy = "let the process reach the socket, or start it without NOTIFY_SOCKET",
                    "{NOT_NOTIFIED}"
                );
            }
        }
    }
}

/// Connects for every message, because the service manager may have replaced its socket.
async fn send(name: &OsStr, message: &[u8]) -> io::Result<()> {
    let socket = unix::UnixDatagram::unbound()?;
    socket.connect_addr(&address(name)?)?;
    socket.set_nonblocking(true)?;
    let socket = UnixDatagram::from_std(socket)?;
    timeout(SEND_TIMEOUT, socket.send(message)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(())
}

fn address(name: &OsStr) -> io::Result<unix::SocketAddr> {
    match name.as_bytes() {
        [b'/', ..] => unix::SocketAddr::from_pathname(name),
        #[cfg(target_os = "linux")]
        [b'@', abstract_name @ ..] => {
            use std::os::linux::net::SocketAddrExt;
            unix::SocketAddr::from_abstract_name(abstract_name)
        }
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "NOTIFY_SOCKET is neither a path nor an abstract name")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;

    use super::*;

    fn manager(name: &str) -> ServiceManager {
        let notify_socket = Some(OsString::from(name));
        ServiceManager::new(&ServiceEnvironment { notify_socket, ..ServiceEnvironment::default() })
    }

    async fn check_received(receiver: unix::UnixDatagram, name: &str) {
        receiver.set_nonblocking(true).unwrap();
        let receiver = UnixDatagram::from_std(receiver).unwrap();
        let manager = manager(name);
        assert!(manager.is_present());
        manager.notify(&[NotifyState::Ready, NotifyState::Status("not ready")]).await;
        let mut message = [0; 100];
        let length = receiver.recv(&mut message).await.unwrap();
        assert_eq!(&message[..length], b"READY=1\nSTATUS=not ready", "{name}");
        assert!(!manager.is_failing.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn a_message_reaches_a_path_and_an_abstract_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        check_received(unix::UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap()).await;
        let name = format!("mongate-test-{}", std::process::id());
        let address = unix::SocketAddr::from_abstract_name(&name).unwrap();
        check_received(unix::UnixDatagram::bind_addr(&address).unwrap(), &format!("@{name}")).await;
    }

    #[tokio::test]
    async fn a_socket_that_cannot_be_reached_is_no_error() {
        for name in ["/nonexistent/notify", "@mongate-nobody-listens", "vsock:2:1", "relative"] {
            let manager = manager(name);
            manager.notify(&[NotifyState::Ready]).await;
            assert!(manager.is_failing.load(Ordering::Relaxed), "{name}");
        }
        let none = ServiceManager::new(&ServiceEnvironment::default());
        none.notify(&[NotifyState::Ready]).await;
        assert!(!none.is_failing.load(Ordering::Relaxed));
    }

    #[test]
    fn a_watchdog_without_a_socket_for_messages_is_ignored() {
        let watchdog = Some(Duration::from_secs(30));
        let environment = |notify_socket| ServiceEnvironment { notify_socket, watchdog, sockets: Vec::new() };
        assert_eq!(ServiceManager::new(&environment(None)).watchdog_limit(), None);
        assert_eq!(ServiceManager::new(&environment(Some("/n".into()))).watchdog_limit(), watchdog);
    }
}
