//! Listening sockets that the service manager passes (socket activation): assigns them to the addresses of listeners.
//!
//! The service manager holds the sockets while the gateway restarts, so that clients wait in the kernel's queue and
//! none is refused. If it passes any socket, it has to pass one for every address: a listener that binds its own
//! address would lose this, and a socket that no listener uses would keep its clients waiting for ever.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use socket2::{Socket, Type};

use super::socket::{BindError, BoundSocket, bind};
use crate::config::{ListenAddress, ListenerConfig};
use crate::lifecycle::service_manager::PassedSocket;

/// The passed sockets that no listener has taken yet.
#[derive(Debug)]
pub struct PassedSockets {
    sockets: Vec<(String, Socket)>,
    /// Whether the service manager passed any.
    are_used: bool,
}

impl PassedSockets {
    /// Checks that each socket has the name of one of `listeners`, and that it listens.
    pub fn new<'a>(
        passed: Vec<PassedSocket>,
        listeners: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<Self, BindError> {
        let mut sockets = Vec::new();
        for PassedSocket { name, socket } in passed {
            if !listeners.clone().any(|listener| listener == name) {
                let listeners = listeners.collect::<Vec<_>>().join(", ");
                return Err(BindError::PassedName { name, listeners });
            }
            let socket = Socket::from(socket);
            if !socket.r#type().is_ok_and(|kind| kind == Type::STREAM) || !socket.is_listener().unwrap_or(false) {
                return Err(BindError::PassedKind { name });
            }
            sockets.push((name, socket));
        }
        Ok(Self { are_used: !sockets.is_empty(), sockets })
    }

    /// The passed sockets of a listener, in the order of its addresses. Binds them if the service manager passed no
    /// socket at all, to any listener.
    pub fn open(&mut self, config: &ListenerConfig) -> Result<Vec<BoundSocket>, BindError> {
        if !self.are_used {
            return bind(config);
        }
        config.addresses().iter().map(|address| self.take(config, address)).collect()
    }

    fn take(&mut self, config: &ListenerConfig, address: &ListenAddress) -> Result<BoundSocket, BindError> {
        let (listener, wanted) = (config.name.clone(), address.to_string());
        let is_it = |(name, socket): &(String, Socket)| *name == config.name && is_at(socket, address);
        if let Some(index) = self.sockets.iter().position(is_it) {
            let (_, socket) = self.sockets.swap_remove(index);
            check_mode(config, address)?;
            socket.set_nonblocking(true).map_err(|cause| BindError::address(&listener, address, cause))?;
            return Ok(BoundSocket { socket, address: address.clone(), file: None, is_passed: true });
        }
        let named = self.sockets.iter().filter(|(name, _)| *name == config.name);
        let others: Vec<_> = named.map(|(_, socket)| shown_address(socket)).collect();
        Err(if others.is_empty() {
            BindError::NotPassed { listener, address: wanted }
        } else {
            BindError::PassedAddress { listener, address: wanted, passed: others.join(" and ") }
        })
    }

    /// Checks that listeners have taken all sockets.
    pub fn finish(self) -> Result<(), BindError> {
        match self.sockets.into_iter().next() {
            None => Ok(()),
            Some((listener, socket)) => Err(BindError::PassedTooMany { listener, address: shown_address(&socket) }),
        }
    }
}

/// A socket of the service manager lets every user connect, unless its unit says otherwise.
fn check_mode(config: &ListenerConfig, address: &ListenAddress) -> Result<(), BindError> {
    let (ListenAddress::Unix(path), permitted) = (address, config.socket_permissions) else { return Ok(()) };
    let failed = |cause| BindError::address(&config.name, address, cause);
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    // The system asks for the permission to write, and for no other.
    if mode & 0o222 & !permitted == 0 {
        return Ok(());
    }
    Err(BindError::PassedMode { listener: config.name.clone(), path: path.clone(), mode, permitted })
}

/// Whether the socket is bound to `address`. The path of a unix domain socket may have been bound with another name of
/// the same directory.
fn is_at(socket: &Socket, address: &ListenAddress) -> bool {
    let Ok(bound) = socket.local_addr() else { return false };
    match address {
        ListenAddress::Tcp(address) => bound.as_socket().is_some_and(|bound| is_same(bound, *address)),
        ListenAddress::Unix(path) => bound.as_pathname().is_some_and(|bound| is_same_file(bound, path)),
    }
}

/// Without the flow label of IPv6, which is no part of an address.
fn is_same(a: SocketAddr, b: SocketAddr) -> bool {
    let scope = |address| match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    };
    (a.ip(), a.port(), scope(a)) == (b.ip(), b.port(), scope(b))
}

fn is_same_file(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn shown_address(socket: &Socket) -> String {
    let Ok(bound) = socket.local_addr() else { return "an unknown address".to_owned() };
    match (bound.as_socket(), bound.as_pathname()) {
        (Some(address), _) => address.to_string(),
        (_, Some(path)) => format!("unix:{}", path.display()),
        _ => "an address that is neither TCP nor the path of a unix domain socket".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::super::socket::tests::config;
    use super::*;

    fn passed(name: &str, socket: impl Into<OwnedFd>) -> PassedSocket {
        PassedSocket { name: name.to_owned(), socket: socket.into() }
    }

    fn tcp() -> (ListenerConfig, TcpListener) {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        (config(ListenAddress::Tcp(socket.local_addr().unwrap())), socket)
    }

    /// Opens one listener, `orders`, with these sockets.
    fn open(config: &ListenerConfig, sockets: Vec<PassedSocket>) -> Result<Vec<BoundSocket>, String> {
        let opened = PassedSockets::new(sockets, ["orders"].into_iter()).and_then(|mut passed| {
            let opened = passed.open(config)?;
            passed.finish()?;
            Ok(opened)
        });
        opened.map_err(|error| error.to_string())
    }

    #[test]
    fn a_passed_socket_is_used_and_stays_when_the_gateway_closes_it() {
        let (config, socket) = tcp();
        let kept = socket.try_clone().unwrap();
        let opened = open(&config, vec![passed("orders", socket)]).unwrap();
        assert_eq!((opened.len(), &opened[0].address), (1, &config.address));
        drop(opened);
        std::net::TcpStream::connect(kept.local_addr().unwrap()).unwrap();
    }

    #[test]
    fn the_file_of_a_passed_unix_socket_stays_and_may_be_reached_by_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.sock");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        let socket = UnixListener::bind(&path).unwrap();
        let config = config(ListenAddress::Unix(link.join("m.sock")));
        drop(open(&config, vec![passed("orders", socket)]).unwrap());
        assert!(path.exists());
    }

    #[test]
    fn a_passed_unix_socket_may_be_open_to_no_more_users_than_configured() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.sock");
        let socket = UnixListener::bind(&path).unwrap();
        let with = |mode: u32, permitted: u32| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let config = ListenerConfig { socket_permissions: permitted, ..config(ListenAddress::Unix(path.clone())) };
            open(&config, vec![passed("orders", socket.try_clone().unwrap())]).map(|opened| opened.len())
        };
        let error = with(0o666, 0o700).unwrap_err();
        assert!(error.contains("has the mode 0666") && error.contains("SocketMode=0700"), "{error}");
        assert!(with(0o660, 0o700).is_err() && with(0o606, 0o660).is_err());
        assert_eq!([with(0o660, 0o660), with(0o755, 0o700), with(0o600, 0o777)], [Ok(1), Ok(1), Ok(1)]);
    }

    #[test]
    fn without_passed_sockets_the_gateway_binds_its_addresses() {
        let opened = open(&config(ListenAddress::Tcp("127.0.0.1:0".parse().unwrap())), Vec::new()).unwrap();
        assert!(!opened[0].is_passed);
    }

    #[test]
    fn sockets_that_do_not_fit_the_configuration_are_errors_with_a_remedy() {
        let check = |config: &ListenerConfig, sockets: Vec<PassedSocket>, expected: &[&str]| {
            let error = open(config, sockets).unwrap_err();
            assert!(expected.iter().all(|part| error.contains(part)), "{error}");
        };
        let (config, socket) = tcp();
        let address = config.address.to_string();
        let own = || passed("orders", socket.try_clone().unwrap());
        let (_, other) = tcp();
        let other_address = other.local_addr().unwrap().to_string();
        let other = || other.try_clone().unwrap();
        let wrong = ["listener.orders.address is", &address, &other_address, "ListenStream="];
        check(&config, vec![passed("orders", other())], &wrong);
        check(&config, vec![own(), passed("orders", other())], &["a further socket", &other_address, "ListenStream="]);
        let unknown = ["\"mongate.socket\"", "FileDescriptorName=", ": orders"];
        check(&config, vec![passed("mongate.socket", other())], &unknown);
        let client = std::net::TcpStream::connect(&address).unwrap();
        check(&config, vec![passed("orders", client)], &["not a listening stream socket", "Accept=no"]);
        check(&config, vec![passed("orders", UnixDatagram::unbound().unwrap())], &["not a listening stream socket"]);
        check(&config, vec![passed("orders", tempfile::tempfile().unwrap())], &["not a listening stream socket"]);
        let dual_stack = ListenerConfig { address: "0.0.0.0:27017".parse().unwrap(), ..config.clone() };
        check(&dual_stack, vec![own()], &["0.0.0.0:27017", &address]);
        // Another listener has a socket, and this one has none.
        let mut of_both = PassedSockets::new(vec![own()], ["orders", "reports"].into_iter()).unwrap();
        let reports = ListenerConfig { name: "reports".to_owned(), ..config.clone() };
        let error = of_both.open(&reports).unwrap_err().to_string();
        assert!(error.contains("FileDescriptorName=reports") && error.contains(&address), "{error}");
    }
}
