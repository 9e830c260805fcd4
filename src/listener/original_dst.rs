//! The destination of a connection before the kernel redirected it to the listener (`SO_ORIGINAL_DST`).

use std::io;
use std::net::SocketAddr;

use socket2::Socket;

/// The address that the client of an accepted `socket` connected to. `None` if that is the listener's address, or the
/// kernel has no record of a redirection.
///
/// Never the listener's own address: a client that connected directly has no other destination.
pub(super) fn original_destination(socket: &Socket) -> Option<SocketAddr> {
    let local = canonical(socket.local_addr().ok()?.as_socket()?);
    // On a dual-stack socket, an IPv4 client was redirected by IPv4 rules.
    let original = query_kernel(socket, local.is_ipv4());
    redirected(original.ok()?, local)
}

fn redirected(original: SocketAddr, local: SocketAddr) -> Option<SocketAddr> {
    let original = canonical(original);
    // Port 0 and the unspecified address are no destinations. A kernel with connection tracking does not return them.
    let is_elsewhere = (original.ip(), original.port()) != (local.ip(), local.port());
    (is_elsewhere && original.port() != 0 && !original.ip().is_unspecified()).then_some(original)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(target_os = "linux")]
fn query_kernel(socket: &Socket, is_ipv4: bool) -> io::Result<SocketAddr> {
    let original = if is_ipv4 { socket.original_dst_v4() } else { socket.original_dst_v6() };
    original?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn query_kernel(_: &Socket, _: bool) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn check(original: &str, local: &str, expected: Option<&str>) {
        let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(redirected(parse(original), parse(local)), expected.map(parse), "{original} at {local}");
    }

    #[test]
    fn the_listeners_own_address_is_no_redirection() {
        check("10.0.0.1:27017", "127.0.0.1:15017", Some("10.0.0.1:27017"));
        check("[2001:db8::1]:27017", "[::1]:15017", Some("[2001:db8::1]:27017"));
        check("[::ffff:10.0.0.1]:27017", "127.0.0.1:15017", Some("10.0.0.1:27017"));
        // Another port of the same host is another destination.
        check("127.0.0.1:27017", "127.0.0.1:15017", Some("127.0.0.1:27017"));
        check("127.0.0.1:15017", "127.0.0.1:15017", None);
        check("[::ffff:127.0.0.1]:15017", "127.0.0.1:15017", None);
        check("0.0.0.0:27017", "127.0.0.1:15017", None);
        check("10.0.0.1:0", "127.0.0.1:15017", None);
    }

    /// Holds on kernels with and without connection tracking.
    #[test]
    fn a_client_that_connects_directly_has_no_original_destination() {
        for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let port = listener.local_addr().unwrap().port();
            let host = if address.starts_with("[::1]") { "::1" } else { "127.0.0.1" };
            let _client = TcpStream::connect((host, port)).unwrap();
            let accepted = Socket::from(listener.accept().unwrap().0);
            assert_eq!(original_destination(&accepted), None, "{address}");
        }
    }
}
