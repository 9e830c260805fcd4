//! A TLS session towards an upstream, apart from its socket: records in and plaintext out, and the other way round.
//!
//! rustls's unbuffered interface: the session has no buffers of its own for what comes and goes, so that an idle connection
//! keeps none, and connections that take turns can share theirs. It keeps only the beginning of a record whose end has not
//! come.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{ClientConfig, CommonState};

/// What a session may keep of what has not ended yet: a handshake message of 64 KiB, which is rustls's own limit
/// elsewhere, in its records.
pub const KEPT_BYTES_MAX: usize = 64 * 1024 + RECORD_BYTES_MAX;

/// The longest record, header included (RFC 8446, 5.2; TLS 1.2 allows no more than this either).
pub const RECORD_BYTES_MAX: usize = 5 + 16 * 1024 + 2048;

/// Plaintext of one record, and more than what any cipher suite adds to it.
const FRAGMENT_BYTES: usize = 16 * 1024;
const RECORD_OVERHEAD: usize = 32;

/// One session, from its first byte on.
pub struct TlsSession {
    tls: UnbufferedClientConnection,
    /// What was not whole, at the front of the next input.
    kept: Vec<u8>,
    /// Whether the server has said goodbye.
    is_closed: bool,
    /// Whether nothing can be sealed any more: we have said goodbye, or there was an error. What rustls knows of the input that
    /// had the error is gone then, so that it must not be asked to read on.
    is_over: bool,
}

/// Records that are ready to be sent, in memory that is used again and again.
///
/// It grows to the most that was ever in it.
#[derive(Debug, Default)]
pub struct Records {
    bytes: Vec<u8>,
    filled: usize,
}

impl Records {
    /// What is to be sent.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }

    /// All of it has been dealt with.
    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// Lets `write` append at most `bytes`; it says how many it has.
    fn append<E>(&mut self, bytes: usize, write: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<(), E> {
        let end = self.filled + bytes;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.filled += write(self.bytes.get_mut(self.filled..end).unwrap_or_default())?;
        Ok(())
    }
}

impl TlsSession {
    /// A session that has not begun: the first [`open`](Self::open), of nothing, says what is to be sent.
    ///
    /// `config` holds our certificate and judges the server's; `name` is the server's, and what it is asked for by.
    pub fn new(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, rustls::Error> {
        let tls = UnbufferedClientConnection::new(config, name)?;
        Ok(Self { tls, kept: Vec::new(), is_closed: false, is_over: false })
    }

    /// What rustls knows of it: certificates, version, cipher suite.
    pub fn facts(&self) -> &CommonState {
        &self.tls
    }

    /// What has to stand before the bytes that are read next; at most [`KEPT_BYTES_MAX`].
    pub fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// Opens the records in `input`, which begins with what was [`kept`](Self::kept), and hands their plaintext to `plain`, piece by
    /// piece; what the session itself has to say to that goes to `answer`. Decrypts in place.
    ///
    /// `true` means that the server has said goodbye: nothing more comes, and what does is dropped. After an error the session is
    /// over, but for what is in `answer`.
    pub fn open(
        &mut self,
        input: &mut [u8],
        plain: impl FnMut(&[u8]),
        answer: &mut Records,
    ) -> Result<bool, rustls::Error> {
        if self.is_closed {
            return Ok(true);
        }
        let opened = self.read(input, plain, answer).and_then(|used| {
            let rest = input.get(used..).unwrap_or_default();
            if rest.len() > KEPT_BYTES_MAX {
                return Err(rustls::Error::General("a handshake message of more than 64 KiB".to_owned()));
            }
            if rest.is_empty() || self.is_closed {
                self.kept = Vec::new();
            } else {
                self.kept.clear();
                self.kept.extend_from_slice(rest);
            }
            Ok(self.is_closed)
        });
        if opened.is_err() {
            // Its alert, if there is one: what waits to be sent comes before anything is read.
            while self.tls.wants_write()
                && let Ok(ConnectionState::EncodeTlsData(data)) = self.tls.process_tls_records(&mut []).state
            {
                encode(data, answer);
            }
            (self.kept, self.is_closed, self.is_over) = (Vec::new(), true, true);
        }
        opened
    }

    /// Reads the records in `input`, and returns how many bytes of it are done with.
    fn read(
        &mut self,
        input: &mut [u8],
        mut plain: impl FnMut(&[u8]),
        answer: &mut Records,
    ) -> Result<usize, rustls::Error> {
        let mut used = 0;
        loop {
            let rest = input.get_mut(used..).unwrap_or_default();
            let UnbufferedStatus { mut discard, state } = self.tls.process_tls_records(rest);
            let mut is_done = false;
            match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        plain(record.payload);
                    }
                }
                ConnectionState::EncodeTlsData(data) => encode(data, answer),
                // Whoever has `answer` sends it.
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.is_closed = true,
                _ => is_done = true,
            }
            used += discard;
            if is_done {
                return Ok(used);
            }
        }
    }

    /// Seals `plain` behind what is in `sealed` already. Only of a session whose handshake is over.
    ///
    /// Fails when the keys may not be used any longer, and after an error or our goodbye.
    pub fn seal(&mut self, plain: &[u8], sealed: &mut Records) -> io::Result<()> {
        let bytes = plain.len() + (plain.len() / FRAGMENT_BYTES + 1) * RECORD_OVERHEAD;
        self.write(bytes, sealed, |traffic, room| traffic.encrypt(plain, room))
    }

    /// Says goodbye, once; nothing can be sealed after it.
    #[expect(clippy::redundant_closure_for_method_calls, reason = "the method alone is of one lifetime only")]
    pub fn close(&mut self, sealed: &mut Records) {
        // Where it cannot be said, the session is over all the same.
        let _ = self.write(RECORD_OVERHEAD, sealed, |traffic, room| traffic.queue_close_notify(room));
        self.is_over = true;
    }

    /// Has `write` append records to `sealed`, behind what the session itself has to say; they take about so many `bytes`.
    fn write(
        &mut self,
        mut bytes: usize,
        sealed: &mut Records,
        write: impl Fn(&mut WriteTraffic<'_, ClientConnectionData>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> io::Result<()> {
        while !self.is_over {
            match self.tls.process_tls_records(&mut self.kept).state.map_err(invalid)? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    match sealed.append(bytes, |room| write(&mut traffic, room)) {
                        Ok(()) => return Ok(()),
                        Err(EncryptError::InsufficientSize(error)) => bytes = error.required_size,
                        Err(error @ EncryptError::EncryptExhausted) => return Err(io::Error::other(error)),
                    }
                }
                ConnectionState::EncodeTlsData(data) => encode(data, sealed),
                ConnectionState::TransmitTlsData(data) => data.done(),
                _ => break,
            }
        }
        Err(io::ErrorKind::NotConnected.into())
    }
}

impl fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSession").field("kept", &self.kept.len()).finish_non_exhaustive()
    }
}

fn encode<D>(mut data: EncodeTlsData<'_, D>, into: &mut Records) {
    let mut needed = 512;
    while let Err(EncodeError::InsufficientSize(error)) = into.append(needed, |room| data.encode(room)) {
        needed = error.required_size;
    }
}

/// What rustls refuses, as an error of a stream.
pub(super) fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::version::{TLS12, TLS13};
    use rustls::{RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion};

    use super::*;

    const BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

    /// Both ends; `trusted` says whether the client knows the server's authority.
    fn ends(version: &'static SupportedProtocolVersion, trusted: bool) -> (TlsSession, ServerConnection) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let certificate = CertificateDer::from(made.cert.der().to_vec());
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let known = if trusted { certificate.clone() } else { CertificateDer::from(other.cert.der().to_vec()) };
        let mut roots = RootCertStore::empty();
        roots.add(known).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        server.set_buffer_limit(None);
        (TlsSession::new(Arc::new(client), name).unwrap(), server)
    }

    /// What a server has to say now.
    fn said_by(server: &mut ServerConnection) -> Vec<u8> {
        let mut said = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut said).unwrap();
        }
        said
    }

    fn tell(server: &mut ServerConnection, mut records: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        while !records.is_empty() {
            server.read_tls(&mut records).unwrap();
            server.process_new_packets().unwrap();
            let _ = server.reader().read_to_end(&mut plain);
        }
        plain
    }

    /// Opens `arrived`, so many bytes at a time, as a reader of a socket would.
    fn open_in_pieces(session: &mut TlsSession, arrived: &[u8], bytes: usize, answer: &mut Records) -> (Vec<u8>, bool) {
        let (mut plain, mut closed) = (Vec::new(), false);
        for piece in arrived.chunks(bytes) {
            let mut input = [session.kept(), piece].concat();
            closed |= session.open(&mut input, |bytes| plain.extend_from_slice(bytes), answer).unwrap();
        }
        (plain, closed)
    }

    fn shake_hands(version: &'static SupportedProtocolVersion, bytes: usize) -> (TlsSession, ServerConnection) {
        let (mut session, mut server) = ends(version, true);
        let mut there = Records::default();
        session.open(&mut [], |_| {}, &mut there).unwrap();
        while session.facts().is_handshaking() || server.is_handshaking() {
            tell(&mut server, there.as_slice());
            there.clear();
            let back = said_by(&mut server);
            open_in_pieces(&mut session, &back, bytes, &mut there);
        }
        tell(&mut server, there.as_slice());
        (session, server)
    }

    #[test]
    fn what_comes_in_any_pieces_is_whole_in_the_end() {
        let long: Vec<u8> = (0_u32..100_000).map(|n| n.to_le_bytes()[0]).collect();
        for (version, bytes) in
            BOTH.into_iter().flat_map(|version| [1, 7, 1000, 64 * 1024].map(|bytes| (version, bytes)))
        {
            let (mut session, mut server) = shake_hands(version, bytes);
            let mut sealed = Records::default();
            for message in [b"ping".as_slice(), &long, b"", b"!"] {
                sealed.clear();
                session.seal(message, &mut sealed).unwrap();
                assert_eq!(tell(&mut server, sealed.as_slice()), message);
                server.writer().write_all(message).unwrap();
                let back = said_by(&mut server);
                let mut answer = Records::default();
                assert_eq!(open_in_pieces(&mut session, &back, bytes, &mut answer), (message.to_vec(), false));
                assert_eq!((session.kept(), answer.as_slice()), (b"".as_slice(), b"".as_slice()), "{bytes}");
            }
        }
    }

    #[test]
    fn new_keys_are_taken_and_answered() {
        let (mut session, mut server) = shake_hands(&TLS13, 1000);
        for round in 0..3 {
            server.refresh_traffic_keys().unwrap();
            server.writer().write_all(b"with new keys").unwrap();
            let (back, mut sealed) = (said_by(&mut server), Records::default());
            let (plain, closed) = open_in_pieces(&mut session, &back, 5, &mut sealed);
            assert_eq!((plain.as_slice(), closed), (b"with new keys".as_slice(), false), "{round}");
            session.seal(b"and back", &mut sealed).unwrap();
            assert_eq!(tell(&mut server, sealed.as_slice()), b"and back");
        }
    }

    #[test]
    fn a_goodbye_is_said_once_and_understood() {
        for version in BOTH {
            let (mut session, mut server) = shake_hands(version, 1000);
            let mut sealed = Records::default();
            session.seal(b"last", &mut sealed).unwrap();
            session.close(&mut sealed);
            let length = sealed.as_slice().len();
            session.close(&mut sealed);
            assert_eq!(sealed.as_slice().len(), length);
            assert!(session.seal(b"more", &mut sealed).is_err());
            assert_eq!(tell(&mut server, sealed.as_slice()), b"last");
            assert!(server.process_new_packets().unwrap().peer_has_closed());

            server.send_close_notify();
            let back = said_by(&mut server);
            assert!(open_in_pieces(&mut session, &back, 3, &mut Records::default()).1);
            assert!(session.open(&mut [1, 2, 3], |_| {}, &mut sealed).unwrap());
            assert_eq!(session.kept(), b"");
        }
    }

    #[test]
    fn a_server_that_is_not_trusted_is_told_why() {
        for version in BOTH {
            let (mut session, mut server) = ends(version, false);
            let mut there = Records::default();
            session.open(&mut [], |_| {}, &mut there).unwrap();
            tell(&mut server, there.as_slice());
            there.clear();
            let mut back = said_by(&mut server);
            let refused = session.open(&mut back, |_| {}, &mut there).unwrap_err();
            assert!(matches!(refused, rustls::Error::InvalidCertificate(_)), "{refused:?}");
            server.read_tls(&mut there.as_slice()).unwrap();
            let told = server.process_new_packets().unwrap_err();
            assert!(matches!(told, rustls::Error::AlertReceived(_)), "{told:?}");
        }
    }

    #[test]
    fn a_session_that_failed_takes_and_says_nothing_more() {
        // Two messages in one record, of which the first is refused; and one that is cut short by another kind of record.
        let twice = [22, 3, 3, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        let torn = [22, 3, 3, 0, 4, 2, 0, 0, 9, 23, 3, 3, 0, 1, 0];
        let endless: Vec<u8> =
            [22, 3, 3, 0, 4, 2, 1, 0, 0].into_iter().chain([22, 3, 3, 0, 1, 0].repeat(60_000)).collect();
        for hostile in [twice.as_slice(), &torn, &endless] {
            let (mut session, _server) = ends(&TLS13, true);
            let mut said = Records::default();
            session.open(&mut [], |_| {}, &mut said).unwrap();
            let mut failed = false;
            for piece in hostile.chunks(1000) {
                let mut input = [session.kept(), piece].concat();
                failed |= session.open(&mut input, |_| {}, &mut said).is_err();
            }
            assert!(failed && session.kept().is_empty());
            said.clear();
            session.close(&mut said);
            assert!(session.seal(b"more", &mut said).is_err());
            assert_eq!(said.as_slice(), b"");
        }
    }

    #[test]
    fn what_was_changed_on_the_way_ends_the_session() {
        let (mut session, mut server) = shake_hands(&TLS13, 1000);
        server.writer().write_all(b"secret").unwrap();
        let mut back = said_by(&mut server);
        *back.last_mut().unwrap() ^= 1;
        let mut plain = Vec::new();
        let changed = session.open(&mut back, |bytes| plain.extend_from_slice(bytes), &mut Records::default());
        assert_eq!((changed, plain), (Err(rustls::Error::DecryptError), Vec::new()));
    }
}
