//! Free TCP ports for programs that cannot choose a free port and report it.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};

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
