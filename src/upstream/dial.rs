//! Name lookup and TCP connect.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};

use super::failure::ConnectFailure;
use crate::config::HostPort;

/// Addresses of one name that are tried. With more, none would have enough time.
const ADDRESSES_MAX: usize = 16;

/// Time between keepalive probes, as drivers set it. With the system's default, a dead peer is found after 11 minutes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long after the first keepalive probe a peer that acknowledges nothing is given up: nine probes.
const UNACKNOWLEDGED_TIME: Duration = Duration::from_secs(90);

/// The addresses of a host, without duplicates, in the order of the resolver; never empty.
///
/// The system's resolver runs on its own thread. Dropping the future does not stop that thread.
pub(super) async fn resolve(upstream: &HostPort) -> Result<Vec<SocketAddr>, ConnectFailure> {
    if let Ok(address) = upstream.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, upstream.port)]);
    }
    let found = lookup_host((upstream.host.as_str(), upstream.port)).await;
    let mut addresses = Vec::new();
    for address in found.map_err(|cause| ConnectFailure::NotResolvable { cause })? {
        if addresses.len() < ADDRESSES_MAX && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(ConnectFailure::NotResolvable { cause: io::Error::other("the name has no address") });
    }
    Ok(addresses)
}

/// Opens a TCP connection. Disables Nagle's algorithm: messages are small, and each of them waits for a reply.
pub(super) async fn tcp(address: SocketAddr, keepalive: Option<Duration>) -> Result<TcpStream, ConnectFailure> {
    let connected = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        if let Some(idle) = keepalive {
            let probes = TcpKeepalive::new().with_time(idle).with_interval(KEEPALIVE_INTERVAL);
            let socket = SockRef::from(&stream);
            socket.set_tcp_keepalive(&probes)?;
            // Probes are only sent while no data is unacknowledged; this limits that case, and a closed window.
            socket.set_tcp_user_timeout(Some(idle + UNACKNOWLEDGED_TIME))?;
        }
        Ok(stream)
    };
    connected.await.map_err(|cause| ConnectFailure::Unreachable { attempts: vec![(address, cause)] })
}
