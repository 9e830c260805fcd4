//! The first bytes of a client: is this MongoDB at all?
//!
//! Nothing is done for a client before it has said something, so that probes cost nothing.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

use crate::wire::header::{HEADER_BYTES, Header};

/// How long a client may take for its first header. A driver sends its hello at once; what stays silent so long is not
/// one, and would hold a place of `max_connections` for nothing.
const OPENING_DEADLINE: Duration = Duration::from_secs(30);

/// Read at once, so that a usual hello takes one system call.
const OPENING_BYTES_MAX: usize = 2048;

/// What a client opened with.
#[derive(Debug)]
pub enum Opening {
    /// A MongoDB message starts here: its header, and everything read so far.
    Message(Header, Vec<u8>),
    /// A TLS handshake record.
    Tls,
    /// An HTTP request.
    Http,
    /// Something else, or a header with a length that cannot be.
    Unknown,
    /// Not a single byte, then the end: a probe.
    Nothing,
    /// Less than a header, then the end or silence.
    Unfinished,
    /// The socket failed.
    Failed(io::Error),
}

/// What the first bytes are, as soon as they tell; `None` while they could still become several things.
fn recognise(bytes: &[u8]) -> Option<Opening> {
    const METHODS: [&[u8]; 8] = [b"GET ", b"POST", b"HEAD", b"PUT ", b"DELE", b"OPTI", b"PATC", b"CONN"];
    // A handshake record of any TLS version. Read as a message length it is over 66,000: no driver opens with that.
    if matches!(bytes, [0x16, 0x03, 1..=4, ..]) {
        return Some(Opening::Tls);
    }
    if METHODS.iter().any(|method| bytes.starts_with(method)) {
        return Some(Opening::Http);
    }
    match Header::parse(*bytes.first_chunk::<HEADER_BYTES>()?) {
        Ok(header) => Some(Opening::Message(header, Vec::new())),
        Err(_) => Some(Opening::Unknown),
    }
}

/// Reads the first bytes of a client, within 30 s.
///
/// When this is dropped, the bytes read so far are lost.
pub async fn read_opening(client: &mut (impl AsyncRead + Unpin)) -> Opening {
    let mut bytes = Vec::with_capacity(OPENING_BYTES_MAX);
    let deadline = Instant::now() + OPENING_DEADLINE;
    loop {
        match timeout_at(deadline, client.read_buf(&mut bytes)).await {
            Ok(Ok(0)) | Err(_) if bytes.is_empty() => return Opening::Nothing,
            Ok(Ok(0)) | Err(_) => return Opening::Unfinished,
            Ok(Err(error)) if bytes.is_empty() && error.kind() == io::ErrorKind::ConnectionReset => {
                return Opening::Nothing;
            }
            Ok(Err(error)) => return Opening::Failed(error),
            Ok(Ok(_)) => {}
        }
        match recognise(&bytes) {
            Some(Opening::Message(header, _)) => return Opening::Message(header, bytes),
            Some(other) => return other,
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    async fn opening_of(bytes: &[u8], cut: usize) -> String {
        let (mut client, mut gateway) = tokio::io::duplex(4096);
        let bytes = bytes.to_vec();
        let write = async move {
            for piece in bytes.chunks(cut) {
                let _ = client.write_all(piece).await;
            }
        };
        let (opening, ()) = tokio::join!(read_opening(&mut gateway), write);
        format!("{opening:?}").split(['(', ' ']).next().unwrap_or_default().to_owned()
    }

    async fn check(bytes: &[u8], expected: &str) {
        for cut in [1, 5, 4096] {
            assert_eq!(opening_of(bytes, cut).await, expected, "{bytes:?} in pieces of {cut}");
        }
    }

    #[tokio::test]
    async fn what_speaks_is_recognised_by_its_first_bytes() {
        let hello = [58, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xDD, 7, 0, 0, 0, 0, 0, 0];
        check(&hello, "Message").await;
        // A message of 790 bytes starts as SSL 3.0 did.
        check(&[&[0x16, 0x03, 0, 0][..], &hello[4..]].concat(), "Message").await;
        check(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "Tls").await;
        check(b"GET / HTTP/1.1\r\n", "Http").await;
        check(b"POST /x HTTP/1.1\r\n", "Http").await;
        check(b"SSH-2.0-OpenSSH_9.2p1\r\n", "Unknown").await;
        check(&[0; 16], "Unknown").await;
        check(&hello[..15], "Unfinished").await;
        check(&[], "Nothing").await;
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_at_the_deadline() {
        let (mut client, mut gateway) = tokio::io::duplex(64);
        assert!(matches!(read_opening(&mut gateway).await, Opening::Nothing));
        client.write_all(&[58, 0, 0]).await.unwrap();
        assert!(matches!(read_opening(&mut gateway).await, Opening::Unfinished));
    }
}
