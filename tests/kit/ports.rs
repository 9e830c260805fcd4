//! Free TCP ports for programs that cannot choose a free port and report it.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use tokio::net::TcpSocket;

/// Below the port range that Linux uses for outgoing connections (from 32768), so that a server that is restarted on
/// its port does not find it in use by a client.
const FIRST: u16 = 15_000;
const COUNT: u16 = 15_000;

/// A free port on the loopback address. Another program may take it before it is used; the caller then tries again.
pub fn free() -> anyhow::Result<u16> {
    for attempt in 0..1_000_u32 {
        let offset = RandomState::new().hash_one(attempt) % u64::from(COUNT);
        let port = FIRST + u16::try_from(offset)?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("no free port between {FIRST} and {}", FIRST + COUNT)
}

/// The first of `count` consecutive free ports on the loopback address.
pub fn free_in_a_row(count: u16) -> anyhow::Result<u16> {
    for _ in 0..1_000 {
        let first = free()?;
        if (first..first + count).all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()) {
            return Ok(first);
        }
    }
    anyhow::bail!("no {count} consecutive free ports")
}

/// An address at which every connection is refused: its port is taken by a socket that does not listen. No other
/// program can get the port while this value lives.
pub struct Refusing {
    address: SocketAddr,
    _socket: TcpSocket,
}

impl Refusing {
    /// Takes a port of the loopback address.
    pub fn new() -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Self { address: socket.local_addr()?, _socket: socket })
    }

    /// As `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }
}
