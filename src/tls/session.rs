//! A TLS session with an upstream, without its socket: turns records into plaintext, and plaintext into records.
//!
//! Uses the unbuffered interface of rustls: the session has no read and write buffers of its own. An idle connection
//! therefore keeps no buffers, and the connections of a worker share theirs. The session keeps only the beginning of an
//! incomplete record.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{ClientConfig, CommonState};

/// The most that a session keeps of incomplete input: a handshake message of 64 KiB, which is the limit of rustls's
/// buffered interface, and one record.
pub const KEPT_BYTES_MAX: usize = 64 * 1024 + RECORD_BYTES_MAX;

/// The longest record, header included (RFC 8446 § 5.2; records of TLS 1.2 are no longer).
pub const RECORD_BYTES_MAX: usize = 5 + 16 * 1024 + 2048;

/// Plaintext bytes of one record, and an upper bound of what any cipher suite adds to them.
const FRAGMENT_BYTES: usize = 16 * 1024;
const RECORD_OVERHEAD: usize = 32;

/// One TLS session with an upstream, from its first byte on.
pub struct TlsSession {
    tls: UnbufferedClientConnection,
    /// Incomplete input. It has to precede the next input.
    kept: Vec<u8>,
    /// Whether the server sent `close_notify`.
    is_closed: bool,
    /// Whether nothing more can be encrypted: the gateway sent `close_notify`, or an error occurred. After an error,
    /// rustls no longer has the input of that error and must not read on.
    is_over: bool,
}

/// A reusable buffer of TLS records that are ready to be sent.
///
/// Its capacity grows to the most that it ever contained.
#[derive(Debug, Default)]
pub struct Records {
    bytes: Vec<u8>,
    filled: usize,
}

impl Records {
    /// The records to send.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }

    /// Empties the buffer and keeps its capacity.
    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// Lets `write` append at most `bytes` bytes. `write` returns how many it appended.
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
    /// A session before its handshake. A first [`open`](Self::open) of empty input returns the records to send.
    ///
    /// `config` contains the gateway's client certificate and verifies the server's; `name` is sent as SNI and
    /// verified.
    pub fn new(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, rustls::Error> {
        let tls = UnbufferedClientConnection::new(config, name)?;
        Ok(Self { tls, kept: Vec::new(), is_closed: false, is_over: false })
    }

    /// What rustls knows of the session: certificates, version, cipher suite.
    pub fn facts(&self) -> &CommonState {
        &self.tls
    }

    /// Incomplete input, to be put in front of the bytes that are read next; at most [`KEPT_BYTES_MAX`].
    pub fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// Whether messages can still be sent and received: neither side has sent `close_notify`, and no error occurred.
    pub fn is_open(&self) -> bool {
        !self.is_closed && !self.is_over
    }

    /// Decrypts the records in `input` in place, and passes their plaintext to `plain` piece by piece. `input` begins
    /// with what was [`kept`](Self::kept). Records that the session itself sends in response are appended to `answer`.
    ///
    /// Returns `true` once the server has sent `close_notify`; later input is ignored. After an error the session has
    /// ended, and only `answer` may still be sent.
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
            // The alert, if there is one: rustls returns pending output before it reads.
            while self.tls.wants_write()
                && let Ok(ConnectionState::EncodeTlsData(data)) = self.tls.process_tls_records(&mut []).state
            {
                encode(data, answer);
            }
            (self.kept, self.is_closed, self.is_over) = (Vec::new(), true, true);
        }
        opened
    }

    /// Reads the records in `input`, and returns how many of its bytes were consumed.
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
                // The caller sends `answer`.
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

    /// Encrypts `plain` and appends the records to `sealed`. The handshake must be complete.
    ///
    /// Fails if the keys are exhausted, after an error, and after [`close`](Self::close).
    pub fn seal(&mut self, plain: &[u8], sealed: &mut Records) -> io::Result<()> {
        let bytes = plain.len() + (plain.len() / FRAGMENT_BYTES + 1) * RECORD_OVERHEAD;
        self.write(bytes, sealed, |traffic, room| traffic.encrypt(plain, room))
    }

    /// Appends a `close_notify` alert to `sealed`, once. Nothing can be encrypted afterwards.
    #[expect(clippy::redundant_closure_for_method_calls, reason = "the method alone is of one lifetime only")]
    pub fn close(&mut self, sealed: &mut Records) {
        // The session has ended even if the alert could not be encrypted.
        let _ = self.write(RECORD_OVERHEAD, sealed, |traffic, room| traffic.queue_close_notify(room));
        self.is_over = true;
    }

    /// Lets `write` append records of about `bytes` bytes to `sealed`, after the records that the session itself sends.
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

/// An error of rustls as an I/O error.
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

    /// Both sides of a session; `trusted` says whether the client trusts the server's certificate.
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

    /// The records that a server sends now.
    fn records_of(server: &mut ServerConnection) -> Vec<u8> {
        let mut sent = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut sent).unwrap();
        }
        sent
    }

    fn receive(server: &mut ServerConnection, mut records: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        while !records.is_empty() {
            server.read_tls(&mut records).unwrap();
            server.process_new_packets().unwrap();
            let _ = server.reader().read_to_end(&mut plain);
        }
        plain
    }

    /// Opens `arrived` in pieces of `bytes` bytes, like a reader of a socket.
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
        let mut sent = Records::default();
        session.open(&mut [], |_| {}, &mut sent).unwrap();
        while session.facts().is_handshaking() || server.is_handshaking() {
            receive(&mut server, sent.as_slice());
            sent.clear();
            let reply = records_of(&mut server);
            open_in_pieces(&mut session, &reply, bytes, &mut sent);
        }
        receive(&mut server, sent.as_slice());
        (session, server)
    }

    #[test]
    fn input_in_pieces_of_any_size_is_decrypted() {
        let long: Vec<u8> = (0_u32..100_000).map(|n| n.to_le_bytes()[0]).collect();
        for (version, bytes) in
            BOTH.into_iter().flat_map(|version| [1, 7, 1000, 64 * 1024].map(|bytes| (version, bytes)))
        {
            let (mut session, mut server) = shake_hands(version, bytes);
            let mut sealed = Records::default();
            for message in [b"ping".as_slice(), &long, b"", b"!"] {
                sealed.clear();
                session.seal(message, &mut sealed).unwrap();
                assert_eq!(receive(&mut server, sealed.as_slice()), message);
                server.writer().write_all(message).unwrap();
                let reply = records_of(&mut server);
                let mut answer = Records::default();
                assert_eq!(open_in_pieces(&mut session, &reply, bytes, &mut answer), (message.to_vec(), false));
                assert_eq!((session.kept(), answer.as_slice()), (b"".as_slice(), b"".as_slice()), "{bytes}");
            }
        }
    }

    #[test]
    fn a_key_update_is_accepted_and_answered() {
        let (mut session, mut server) = shake_hands(&TLS13, 1000);
        for round in 0..3 {
            server.refresh_traffic_keys().unwrap();
            server.writer().write_all(b"with new keys").unwrap();
            let (reply, mut sealed) = (records_of(&mut server), Records::default());
            let (plain, closed) = open_in_pieces(&mut session, &reply, 5, &mut sealed);
            assert_eq!((plain.as_slice(), closed), (b"with new keys".as_slice(), false), "{round}");
            session.seal(b"and back", &mut sealed).unwrap();
            assert_eq!(receive(&mut server, sealed.as_slice()), b"and back");
        }
    }

    #[test]
    fn close_notify_is_sent_once_and_received() {
        for version in BOTH {
            let (mut session, mut server) = shake_hands(version, 1000);
            let mut sealed = Records::default();
            session.seal(b"last", &mut sealed).unwrap();
            session.close(&mut sealed);
            let length = sealed.as_slice().len();
            session.close(&mut sealed);
            assert_eq!(sealed.as_slice().len(), length);
            assert!(session.seal(b"more", &mut sealed).is_err());
            assert_eq!(receive(&mut server, sealed.as_slice()), b"last");
            assert!(server.process_new_packets().unwrap().peer_has_closed());

            server.send_close_notify();
            let reply = records_of(&mut server);
            assert!(open_in_pieces(&mut session, &reply, 3, &mut Records::default()).1);
            assert!(session.open(&mut [1, 2, 3], |_| {}, &mut sealed).unwrap());
            assert_eq!(session.kept(), b"");
        }
    }

    #[test]
    fn an_untrusted_server_receives_an_alert() {
        for version in BOTH {
            let (mut session, mut server) = ends(version, false);
            let mut sent = Records::default();
            session.open(&mut [], |_| {}, &mut sent).unwrap();
            receive(&mut server, sent.as_slice());
            sent.clear();
            let mut reply = records_of(&mut server);
            let error = session.open(&mut reply, |_| {}, &mut sent).unwrap_err();
            assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error:?}");
            server.read_tls(&mut sent.as_slice()).unwrap();
            let received = server.process_new_packets().unwrap_err();
            assert!(matches!(received, rustls::Error::AlertReceived(_)), "{received:?}");
        }
    }

    #[test]
    fn a_failed_session_reads_and_sends_nothing_more() {
        // Two messages in one record, the first of them invalid; and a message interrupted by a record of another type.
        let twice = [22, 3, 3, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        let torn = [22, 3, 3, 0, 4, 2, 0, 0, 9, 23, 3, 3, 0, 1, 0];
        let endless: Vec<u8> =
            [22, 3, 3, 0, 4, 2, 1, 0, 0].into_iter().chain([22, 3, 3, 0, 1, 0].repeat(60_000)).collect();
        for hostile in [twice.as_slice(), &torn, &endless] {
            let (mut session, _server) = ends(&TLS13, true);
            let mut sent = Records::default();
            session.open(&mut [], |_| {}, &mut sent).unwrap();
            let mut failed = false;
            for piece in hostile.chunks(1000) {
                let mut input = [session.kept(), piece].concat();
                failed |= session.open(&mut input, |_| {}, &mut sent).is_err();
            }
            assert!(failed && session.kept().is_empty());
            sent.clear();
            session.close(&mut sent);
            assert!(session.seal(b"more", &mut sent).is_err());
            assert_eq!(sent.as_slice(), b"");
        }
    }

    #[test]
    fn a_modified_record_ends_the_session() {
        let (mut session, mut server) = shake_hands(&TLS13, 1000);
        server.writer().write_all(b"secret").unwrap();
        let mut reply = records_of(&mut server);
        *reply.last_mut().unwrap() ^= 1;
        let mut plain = Vec::new();
        let result = session.open(&mut reply, |bytes| plain.extend_from_slice(bytes), &mut Records::default());
        assert_eq!((result, plain), (Err(rustls::Error::DecryptError), Vec::new()));
    }
}
