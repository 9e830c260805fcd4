//! From a name to a TCP connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};

use super::connect_error::ConnectFailure;
use crate::config::HostPort;

/// Addresses of one name that are tried; more would leave none of them time enough.
const ADDRESSES_MAX: usize = 16;

/// Between keepalive probes, as drivers set it; the system's default finds a dead peer after eleven minutes only.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// The addresses of `host`, each once, in the resolver's order; never empty.
///
/// A name goes to the system's resolver on a thread of its own, which goes on for its own time when this is dropped.
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

/// A connection without Nagle's delay: messages are small and each waits for its answer.
pub(super) async fn tcp(address: SocketAddr, keepalive: Option<Duration>) -> Result<TcpStream, ConnectFailure> {
    let connected = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        if let Some(idle) = keepalive {
            let probes = TcpKeepalive::new().with_time(idle).with_interval(KEEPALIVE_INTERVAL);
            SockRef::from(&stream).set_tcp_keepalive(&probes)?;
        }
        Ok(stream)
    };
    connected.await.map_err(|cause| ConnectFailure::Unreachable { attempts: vec![(address, cause)] })
}
