//! Binds the listening sockets, TCP and unix domain sockets, with their options.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::config::{ListenAddress, ListenerConfig};

/// Length of the kernel's accept queue; Linux limits it to `net.core.somaxconn`.
pub(super) const BACKLOG: i32 = 4096;

/// Why a listener cannot be bound: a mistake in the configuration or on the machine.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is in use, does not belong to this machine, or needs a permission.
    #[error("listener.{listener}.address: cannot listen on {address}: {}", remedy(cause))]
    Address {
        /// Name of the listener.
        listener: String,
        /// As configured.
        address: String,
        /// From the system.
        cause: io::Error,
    },
    /// The path of the unix domain socket is a file of another type.
    #[error(
        "listener.{listener}.address: {} exists and is not a socket; remove it or choose another path",
        path.display()
    )]
    NotASocket {
        /// Name of the listener.
        listener: String,
        /// Path of the file.
        path: PathBuf,
    },
    /// Another process listens on this unix domain socket.
    #[error(
        "listener.{listener}.address: another process listens on {}; stop it or choose another path",
        path.display()
    )]
    SocketInUse {
        /// Name of the listener.
        listener: String,
        /// Path of the socket.
        path: PathBuf,
    },
    /// The service manager passed a socket that belongs to no listener.
    #[error(
        "the service manager passed a socket with the name {name:?}, which no listener has; set FileDescriptorName= of \
         its .socket unit to a listener: {listeners}"
    )]
    PassedName {
        /// Name of the socket.
        name: String,
        /// Names of all listeners.
        listeners: String,
    },
    /// The service manager passed something that no client can connect to.
    #[error(
        "listener.{name}: what the service manager passed with this name is not a listening stream socket; use \
         ListenStream= and Accept=no in its .socket unit"
    )]
    PassedKind {
        /// Name of the socket, which is that of a listener.
        name: String,
    },
    /// The service manager passed sockets, but none for this listener.
    #[error(
        "listener.{listener}.address: the service manager passed sockets, but none for this address; add a .socket \
         unit with FileDescriptorName={listener} and ListenStream= for {address}, or stop the other .socket units"
    )]
    NotPassed {
        /// Name of the listener.
        listener: String,
        /// As configured.
        address: String,
    },
    /// The service manager passed a socket for this listener that has another address.
    #[error(
        "listener.{listener}.address is {address}, but the socket that the service manager passed has the address \
         {passed}; make it equal to ListenStream= of the .socket unit"
    )]
    PassedAddress {
        /// Name of the listener.
        listener: String,
        /// As configured.
        address: String,
        /// Addresses of the passed sockets.
        passed: String,
    },
    /// More users may connect to the passed unix domain socket than to one that the gateway makes.
    #[error(
        "listener.{listener}.address: {} of the service manager has the mode {mode:04o}, and socket_permissions is \
         {permitted:04o}; set SocketMode={permitted:04o} in its .socket unit, or socket_permissions of the listener",
        path.display()
    )]
    PassedMode {
        /// Name of the listener.
        listener: String,
        /// Path of the socket.
        path: PathBuf,
        /// Of the file.
        mode: u32,
        /// As configured.
        permitted: u32,
    },
    /// The service manager passed a socket that is none of the addresses of its listener.
    #[error(
        "listener.{listener}: the service manager passed a further socket, at {address}; remove its ListenStream= from \
         the .socket unit, or add the address to the listener"
    )]
    PassedTooMany {
        /// Name of the listener.
        listener: String,
        /// Address of the socket.
        address: String,
    },
}

impl BindError {
    pub(super) fn address(listener: &str, address: &ListenAddress, cause: io::Error) -> Self {
        Self::Address { listener: listener.to_owned(), address: address.to_string(), cause }
    }
}

fn remedy(error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another process listens there: stop it or choose another address (for a hand-over, both need \
             reuse_port = true and the same user)"
        }
        io::ErrorKind::AddrNotAvailable => {
            "; no network interface of this machine has that address: choose another one"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 and directories of other users need a permission: grant it or choose another address"
        }
        io::ErrorKind::NotFound => "; the directory does not exist: create it first",
        _ => "",
    };
    format!("{error}{hint}")
}

/// A listening socket. The file of a unix domain socket is removed when this is dropped.
#[derive(Debug)]
pub struct BoundSocket {
    /// Non-blocking. With `reuse_port`, a TCP socket does not listen yet, and a unix domain socket has a temporary path
    /// if another process listens; see [`Listener::take_over`](super::Listener::take_over).
    pub socket: Socket,
    /// The bound address, with the port that the kernel chose when port 0 is configured.
    pub address: ListenAddress,
    pub(super) file: Option<SocketFile>,
    /// Whether the service manager passed it, and keeps it.
    pub(super) is_passed: bool,
}

impl BoundSocket {
    /// Moves the file of a unix domain socket to its path, where it replaces that of another process.
    pub fn take_over_path(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), SocketFile::replace)
    }
}

/// The file of a unix domain socket; removed when dropped, unless another process has replaced it.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Where the file belongs, while it has a temporary path.
    target: Option<PathBuf>,
    /// Device and inode.
    id: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path, target: Option<&Path>) -> io::Result<Self> {
        let id = file_id(path)?;
        Ok(Self { path: path.to_owned(), target: target.map(Path::to_owned), id })
    }

    /// Moves the file to its path, where it replaces the file of another process in one step: clients find a socket
    /// at any time.
    pub(super) fn replace(&mut self) -> io::Result<()> {
        let Some(target) = self.target.take() else { return Ok(()) };
        std::fs::rename(&self.path, &target)?;
        self.path = target;
        Ok(())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if file_id(&self.path).is_ok_and(|id| id == self.id) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn file_id(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Binds the address of a listener, or the addresses of its members in their configured order, and starts to listen.
pub(super) fn bind(config: &ListenerConfig) -> Result<Vec<BoundSocket>, BindError> {
    config.addresses().iter().map(|address| bind_one(config, address)).collect()
}

fn bind_one(config: &ListenerConfig, address: &ListenAddress) -> Result<BoundSocket, BindError> {
    let failed = |cause| BindError::address(&config.name, address, cause);
    match address {
        ListenAddress::Tcp(address) => bind_tcp(*address, config.reuse_port).map_err(failed),
        ListenAddress::Unix(path) => bind_path(&config.name, path, config.socket_permissions, config.reuse_port),
    }
}

/// Binds a unix domain socket at `path` with these permissions, and starts to listen. A stale file is removed. If
/// another process listens there, the socket has a temporary path with `reuse_port`, until
/// [`BoundSocket::take_over_path`]. Errors name the listener `name`.
pub fn bind_path(name: &str, path: &Path, permissions: u32, reuse_port: bool) -> Result<BoundSocket, BindError> {
    let failed = |cause| BindError::address(name, &ListenAddress::Unix(path.to_owned()), cause);
    let in_use = remove_stale(path, name);
    if reuse_port && matches!(in_use, Err(BindError::SocketInUse { .. })) {
        let temporary = path.with_added_extension("new");
        remove_stale(&temporary, name)?;
        return bind_unix(&temporary, Some(path), permissions).map_err(failed);
    }
    in_use?;
    bind_unix(path, None, permissions).map_err(failed)
}

fn bind_tcp(address: SocketAddr, reuse_port: bool) -> io::Result<BoundSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Without this, a restart would fail while old connections are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    if !reuse_port {
        socket.listen(BACKLOG)?;
    }
    let bound = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok(BoundSocket { socket, address: ListenAddress::Tcp(bound), file: None, is_passed: false })
}

/// Binds a socket at `path`, whose file will be moved to `target` if there is one.
fn bind_unix(path: &Path, target: Option<&Path>, permissions: u32) -> io::Result<BoundSocket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::new(path, target)?;
    // Set before `listen`, so that no client can connect before the mode is in effect.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(permissions))?;
    socket.listen(BACKLOG)?;
    let address = ListenAddress::Unix(target.unwrap_or(path).to_owned());
    Ok(BoundSocket { socket, address, file: Some(file), is_passed: false })
}

/// Removes the socket file that an earlier process left. Does not touch other files, or a socket in use.
fn remove_stale(path: &Path, listener: &str) -> Result<(), BindError> {
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket { listener: listener.to_owned(), path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let _ = std::fs::remove_file(path);
            Ok(())
        }
        _ => Err(BindError::SocketInUse { listener: listener.to_owned(), path: path.to_owned() }),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::{ListenerAuthentication, ListenerMode, ProxyProtocol, Topology};
    use std::net::Shutdown;
    use std::os::unix::net::UnixListener;

    pub(in super::super) fn config(address: ListenAddress) -> ListenerConfig {
        ListenerConfig {
            name: "orders".to_owned(),
            address,
            upstream: "orders".to_owned(),
            mode: ListenerMode::Plaintext,
            tls: None,
            principal: None,
            authentication: ListenerAuthentication::None,
            proxy_protocol: ProxyProtocol::Off,
            proxy_trusted: Vec::new(),
            proxy_identity_tlv: None,
            max_connections: 1,
            allow_remote_plaintext: false,
            socket_permissions: 0o640,
            reuse_port: false,
            idle_timeout: None,
            max_lifetime: None,
            half_close_timeout: None,
            tcp_keepalive: None,
            topology: Topology::Direct,
            intercept: false,
        }
    }

    fn unix(path: &Path) -> ListenerConfig {
        config(ListenAddress::Unix(path.to_owned()))
    }

    #[test]
    fn a_unix_socket_has_the_configured_mode_and_is_removed_when_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mongodb-27017.sock");
        let bound = bind(&unix(&path)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        UnixStream::connect(&path).unwrap();
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_but_a_socket_in_use_or_a_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let living = UnixListener::bind(&path).unwrap();
        assert!(matches!(bind(&unix(&path)), Err(BindError::SocketInUse { .. })));
        // A process that another test starts holds a copy of the socket until it executes, so dropping may be too late.
        Socket::from(living).shutdown(Shutdown::Both).unwrap();
        assert!(path.exists(), "the standard library does not remove the file");
        drop(bind(&unix(&path)).unwrap());
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&unix(&path)), Err(BindError::NotASocket { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn with_reuse_port_a_unix_socket_in_use_is_replaced_and_its_owner_does_not_remove_the_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let config = ListenerConfig { reuse_port: true, ..unix(&path) };
        let mut old = bind(&config).unwrap();
        let mut new = bind(&config).unwrap();
        assert_eq!(new[0].address, config.address);
        let connected_to = |socket: &Socket| {
            let _client = UnixStream::connect(&path).unwrap();
            socket.accept().is_ok()
        };
        assert!(connected_to(&old[0].socket), "the file is replaced later");
        new[0].file.as_mut().unwrap().replace().unwrap();
        assert!(connected_to(&new[0].socket));
        drop(old.pop());
        assert!(connected_to(&new[0].socket));
        drop(new.pop());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_port_is_shared_only_if_both_processes_allow_it() {
        let address = ListenAddress::Tcp("127.0.0.1:0".parse().unwrap());
        let shared = |address| ListenerConfig { reuse_port: true, ..config(address) };
        let first = bind(&shared(address)).unwrap();
        first[0].socket.listen(BACKLOG).unwrap();
        let address = first[0].address.clone();
        assert!(matches!(bind(&config(address.clone())), Err(BindError::Address { .. })));
        bind(&shared(address)).unwrap();
    }

    #[test]
    fn the_error_about_a_port_in_use_has_a_remedy() {
        let first = bind(&config(ListenAddress::Tcp("127.0.0.1:0".parse().unwrap()))).unwrap();
        let error = bind(&config(first[0].address.clone())).unwrap_err().to_string();
        assert!(error.contains("listener.orders.address") && error.contains("another process"), "{error}");
    }

    #[test]
    fn ipv6_loopback_is_bound() {
        let bound = bind(&config(ListenAddress::Tcp("[::1]:0".parse().unwrap()))).unwrap();
        let ListenAddress::Tcp(address) = bound[0].address else { panic!("asked for TCP") };
        std::net::TcpStream::connect(address).unwrap();
    }
}
