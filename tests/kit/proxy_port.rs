//! A stand-in for mongod's `proxyPort`: it reads the PROXY header of each connection, and passes the rest to a real
//! mongod that requires TLS.
//!
//! The tests' mongod is older than that port. As mongod does, this closes a connection that begins with anything else.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, bail};

use super::mongod::Mongod;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What the header of a connection said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// `LOCAL`: the gateway itself.
    Gateway,
    /// `PROXY` for a TCP client.
    Client {
        /// Address of the client.
        source: SocketAddr,
        /// The address that the client connected to.
        destination: SocketAddr,
    },
    /// No header, or one that mongod does not accept.
    Invalid,
}

/// A running stand-in. It runs until the program ends.
pub struct ProxyPort {
    address: SocketAddr,
    told: Arc<Mutex<Vec<Told>>>,
}

impl ProxyPort {
    /// Starts a stand-in in front of `mongod`.
    pub fn start(mongod: &Mongod) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let told = Arc::new(Mutex::new(Vec::new()));
        let (seen, behind) = (Arc::clone(&told), mongod.address());
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let (seen, behind) = (Arc::clone(&seen), behind.clone());
                thread::spawn(move || {
                    let header = read_header(&socket);
                    let said = header.as_ref().map_or(Told::Invalid, |told| *told);
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push(said);
                    if header.is_ok() {
                        // A connection that breaks is no error of the stand-in.
                        drop(pass_on(&socket, &behind));
                    }
                });
            }
        });
        Ok(Self { address, told })
    }

    /// The address, as `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The headers of all connections so far.
    pub fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The sources of all clients so far, in the order of their connections.
    pub fn sources(&self) -> Vec<SocketAddr> {
        let source = |told: &Told| if let Told::Client { source, .. } = told { Some(*source) } else { None };
        self.told().iter().filter_map(source).collect()
    }
}

fn read_header(mut socket: &TcpStream) -> anyhow::Result<Told> {
    let mut head = [0; 16];
    socket.read_exact(&mut head)?;
    let ([signature @ .., command, family], length) = head.split_at(14) else { bail!("no header") };
    if signature != SIGNATURE {
        bail!("the connection begins with {signature:?}");
    }
    let mut rest = vec![0; usize::from(u16::from_be_bytes(length.try_into()?))];
    socket.read_exact(&mut rest)?;
    let port = |offset: usize| -> anyhow::Result<u16> {
        let bytes = rest.get(offset..offset + 2).context("the header is too short")?;
        Ok(u16::from_be_bytes(bytes.try_into()?))
    };
    match (command, family) {
        (0x20, 0x00) if rest.is_empty() => Ok(Told::Gateway),
        (0x21, 0x11) if rest.len() == 12 => {
            let ip = |offset: usize| -> anyhow::Result<Ipv4Addr> {
                Ok(<[u8; 4]>::try_from(&rest[offset..offset + 4])?.into())
            };
            let source = (ip(0)?, port(8)?).into();
            Ok(Told::Client { source, destination: (ip(4)?, port(10)?).into() })
        }
        (0x21, 0x21) if rest.len() == 36 => {
            let ip = |offset: usize| -> anyhow::Result<Ipv6Addr> {
                Ok(<[u8; 16]>::try_from(&rest[offset..offset + 16])?.into())
            };
            let source = (ip(0)?, port(32)?).into();
            Ok(Told::Client { source, destination: (ip(16)?, port(34)?).into() })
        }
        _ => bail!("command {command:#x}, family {family:#x}, {} bytes", rest.len()),
    }
}

/// Copies both directions until one of them ends.
fn pass_on(client: &TcpStream, behind: &str) -> anyhow::Result<()> {
    let server = TcpStream::connect(behind)?;
    let copy = |mut from: &TcpStream, mut to: &TcpStream| {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
    };
    thread::scope(|scope| {
        scope.spawn(|| copy(client, &server));
        copy(&server, client);
    });
    Ok(())
}
