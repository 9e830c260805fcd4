//! TCP connect, and what is sent before TLS.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use super::failure::ConnectFailure;
use crate::lifecycle::descriptors;

/// Time between keepalive probes, as drivers set it. With the system's default, a dead peer is found after 11 minutes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long after the first keepalive probe a peer that acknowledges nothing is given up: nine probes.
const UNACKNOWLEDGED_TIME: Duration = Duration::from_secs(90);

/// Opens a TCP connection, and sends `first`, which may be empty. Disables Nagle's algorithm: messages are small, and
/// each of them waits for a reply.
pub(super) async fn tcp(
    address: SocketAddr,
    keepalive: Option<Duration>,
    first: io::Result<Vec<u8>>,
) -> Result<TcpStream, ConnectFailure> {
    let connected = async {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if descriptors::is_one_of_the_last(&socket) {
            return Err(Errno::MFILE.into());
        }
        let mut stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        if let Some(idle) = keepalive {
            let probes = TcpKeepalive::new().with_time(idle).with_interval(KEEPALIVE_INTERVAL);
            let socket = SockRef::from(&stream);
            socket.set_tcp_keepalive(&probes)?;
            // Probes are only sent while no data is unacknowledged; this limits that case, and a closed window.
            socket.set_tcp_user_timeout(Some(idle + UNACKNOWLEDGED_TIME))?;
        }
        stream.write_all(&first?).await?;
        Ok(stream)
    };
    connected.await.map_err(|cause| ConnectFailure::Unreachable { attempts: vec![(address, cause)] })
}
