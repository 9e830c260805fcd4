//! Binds the listening sockets, TCP and unix domain sockets, with their options.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::config::{ListenAddress, ListenerConfig, Topology};

/// Length of the kernel's accept queue; Linux limits it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

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
}

fn remedy(error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "; another process listens there: stop it or choose another address",
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
    /// Non-blocking.
    pub socket: Socket,
    /// The bound address, with the port that the kernel chose when port 0 is configured.
    pub address: ListenAddress,
    pub(super) file: Option<SocketFile>,
}

/// The file of a unix domain socket; removed when dropped.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Binds the address of a listener, or the addresses of its members in their configured order, and starts to listen.
pub fn bind(config: &ListenerConfig) -> Result<Vec<BoundSocket>, BindError> {
    match &config.topology {
        Topology::Members(members) => {
            members.slots.iter().map(|slot| bind_one(config, &ListenAddress::Tcp(slot.address))).collect()
        }
        Topology::Direct | Topology::LoadBalanced(_) => Ok(vec![bind_one(config, &config.address)?]),
    }
}

fn bind_one(config: &ListenerConfig, address: &ListenAddress) -> Result<BoundSocket, BindError> {
    let failed = |cause| BindError::Address { listener: config.name.clone(), address: address.to_string(), cause };
    match address {
        ListenAddress::Tcp(address) => bind_tcp(*address).map_err(failed),
        ListenAddress::Unix(path) => {
            remove_stale(path, &config.name)?;
            bind_unix(path, config.socket_permissions).map_err(failed)
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<BoundSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Without this, a restart would fail while old connections are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let bound = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok(BoundSocket { socket, address: ListenAddress::Tcp(bound), file: None })
}

fn bind_unix(path: &Path, permissions: u32) -> io::Result<BoundSocket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile(path.to_owned());
    // Set before `listen`, so that no client can connect before the mode is in effect.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(permissions))?;
    socket.listen(BACKLOG)?;
    Ok(BoundSocket { socket, address: ListenAddress::Unix(path.to_owned()), file: Some(file) })
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
mod tests {
    use super::*;
    use crate::config::{ListenerMode, ProxyProtocol};
    use std::net::Shutdown;
    use std::os::unix::net::UnixListener;

    fn config(address: ListenAddress) -> ListenerConfig {
        ListenerConfig {
            name: "orders".to_owned(),
            address,
            upstream: "orders".to_owned(),
            mode: ListenerMode::Plaintext,
            tls: None,
            principal: None,
            proxy_protocol: ProxyProtocol::Off,
            proxy_trusted: Vec::new(),
            proxy_identity_tlv: None,
            max_connections: 1,
            allow_remote_plaintext: false,
            socket_permissions: 0o640,
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
