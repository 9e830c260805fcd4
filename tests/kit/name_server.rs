//! A DNS server with SRV and TXT records that a test sets and changes. Other names do not exist.
//!
//! UDP only, one question at a time, and answers that fit into a datagram, which is what a resolver uses first.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Context;

const SRV: u16 = 33;
const TXT: u16 = 16;
/// `NXDOMAIN`.
const NO_SUCH_NAME: u8 = 3;

/// A running DNS server. It ends with the program.
#[derive(Debug)]
pub struct NameServer {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    zone: Zone,
    questions: usize,
}

/// TTL in seconds, and the data of all records, by name and type.
type Zone = BTreeMap<(String, u16), (u32, Vec<Vec<u8>>)>;

impl NameServer {
    /// Starts a server at this address, usually port 53 in a network namespace.
    pub fn start(address: &str) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind(address).with_context(|| format!("cannot serve DNS at {address}"))?;
        let state = Arc::<Mutex<State>>::default();
        let served = Arc::clone(&state);
        thread::spawn(move || {
            let mut question = [0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut question) {
                answer(&socket, &question[..length], client, &served);
            }
        });
        Ok(Self { state })
    }

    /// Sets the SRV records of `mongodb+srv://name`, each a host and a port.
    pub fn set_services(&self, name: &str, ttl_seconds: u32, services: &[(&str, u16)]) {
        let service = |(host, port): &(&str, u16)| {
            let mut data = vec![0, 0, 0, 5];
            data.extend(port.to_be_bytes());
            data.extend(encoded(host));
            data
        };
        self.set(format!("_mongodb._tcp.{name}"), SRV, ttl_seconds, services.iter().map(service).collect());
    }

    /// Sets the TXT records of a name.
    pub fn set_texts(&self, name: &str, texts: &[&str]) {
        let text = |text: &&str| {
            let length = u8::try_from(text.len()).expect("a text of at most 255 bytes");
            [&[length], text.as_bytes()].concat()
        };
        self.set(name.to_owned(), TXT, 60, texts.iter().map(text).collect());
    }

    /// Number of questions that the server has received.
    pub fn questions(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).questions
    }

    fn set(&self, name: String, kind: u16, ttl_seconds: u32, records: Vec<Vec<u8>>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.zone.insert((name, kind), (ttl_seconds, records));
    }
}

/// Encodes a name: labels with their lengths, and the root label at the end.
fn encoded(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a label of at most 63 bytes"));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn answer(socket: &UdpSocket, question: &[u8], client: SocketAddr, state: &Mutex<State>) {
    // The name begins after the 12 bytes of the header. Type and class follow.
    let Some(name_end) = question.iter().skip(12).position(|byte| *byte == 0).map(|position| position + 13) else {
        return;
    };
    let Some(kind) = question.get(name_end..name_end + 2) else { return };
    let Some(asked) = question.get(12..name_end + 4) else { return };
    let kind = u16::from_be_bytes([kind[0], kind[1]]);
    let records = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.questions += 1;
        state.zone.get(&(decoded(&question[12..name_end]), kind)).cloned()
    };
    let code = if records.is_some() { 0 } else { NO_SUCH_NAME };
    let (ttl_seconds, records) = records.unwrap_or_default();
    let mut reply = question[..2].to_vec();
    reply.extend([0x81, 0x80 | code, 0, 1]);
    reply.extend(u16::try_from(records.len()).expect("an answer that fits a datagram").to_be_bytes());
    reply.extend([0; 4]);
    reply.extend(asked);
    for data in records {
        // A pointer to the name in the question, at byte 12 of the message.
        reply.extend([0xC0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1]);
        reply.extend(ttl_seconds.to_be_bytes());
        reply.extend(u16::try_from(data.len()).expect("a short record").to_be_bytes());
        reply.extend(data);
    }
    // The client may be gone.
    let _ = socket.send_to(&reply, client);
}

fn decoded(mut labels: &[u8]) -> String {
    let mut name = Vec::new();
    while let [length @ 1..=63, rest @ ..] = labels {
        let Some((label, rest)) = rest.split_at_checked(usize::from(*length)) else { break };
        name.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        labels = rest;
    }
    name.join(".")
}
