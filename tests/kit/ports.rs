//! Free TCP ports for programs that cannot say themselves which one they took.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};

/// Below what Linux gives to outgoing connections (from 32768 on): a server that is stopped and started again on its
/// port must not find it taken by some client in between.
const FIRST: u16 = 15_000;
const COUNT: u16 = 15_000;

/// A port on the loopback address that nothing listens on now. Another program may take it first: try again then.
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

/// The first of so many ports in a row on the loopback address that nothing listens on now.
pub fn free_in_a_row(count: u16) -> anyhow::Result<u16> {
    for _ in 0..1_000 {
        let first = free()?;
        if (first..first + count).all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()) {
            return Ok(first);
        }
    }
    anyhow::bail!("no {count} free ports in a row")
}
