//! Replies to a rejected client in its own protocol (MongoDB, TLS or HTTP), then closes the connection.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::wire::error_reply::CommandError;
use crate::wire::header::Header;

/// How long a client may take to send the rest of its first message and to read the reply. This is generous for a hello
/// of a few kilobytes; after it the connection is closed.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(5);

/// How many bytes of the client are read and discarded. Closing a socket with unread bytes would reset the connection,
/// and the client would lose the reply.
const DISCARD_BYTES_MAX: u64 = 48_000_000;

/// A TLS alert record: fatal, `handshake_failure`.
///
/// Spec: RFC 8446 § 6.
const TLS_ALERT: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x28];

/// Response to a browser or an HTTP health check.
const HTTP_RESPONSE: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n\
     This port speaks the MongoDB wire protocol, not HTTP. mongate serves HTTP on its administration port.\r\n";

/// Replies with `error` to the message whose header is `request`, then closes the connection.
///
/// `received` is the number of bytes of the message read so far, with its header. Gives up silently after five seconds.
pub async fn refuse<C>(client: &mut C, request: &Header, received: usize, error: &CommandError)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let reply = error.reply_to(request);
    let rest = u64::from(request.length).saturating_sub(received as u64);
    let _ = timeout(REFUSAL_DEADLINE, async {
        discard(client, rest).await?;
        write_and_close(client, &reply).await
    })
    .await;
}

/// Sends a TLS alert to a client that begins TLS on a plaintext port, then closes the connection.
pub async fn refuse_tls<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C) {
    final_reply(client, &TLS_ALERT).await;
}

/// Sends an HTTP 400 response to an HTTP client, then closes the connection.
pub async fn refuse_http<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C) {
    final_reply(client, HTTP_RESPONSE.as_bytes()).await;
}

/// Writes `reply` and closes the connection so that the client can read it. Gives up silently after five seconds.
pub async fn final_reply<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C, reply: &[u8]) {
    let _ = timeout(REFUSAL_DEADLINE, write_and_close(client, reply)).await;
}

/// Reads until the client has closed: closing with unread bytes would reset the connection before the reply is read.
async fn write_and_close<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C, reply: &[u8]) -> io::Result<()> {
    client.write_all(reply).await?;
    client.shutdown().await?;
    discard(client, DISCARD_BYTES_MAX).await
}

/// Reads and discards up to `bytes` bytes, or until the end of the stream.
async fn discard(client: &mut (impl AsyncRead + Unpin), bytes: u64) -> io::Result<()> {
    tokio::io::copy(&mut client.take(bytes), &mut tokio::io::sink()).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::header::OpCode;

    #[tokio::test]
    async fn a_client_reads_the_reply_after_sending_its_whole_message() {
        let (mut client, mut gateway) = tokio::io::duplex(64);
        let header = Header { length: 100_000, request_id: 9, response_to: 0, op_code: OpCode::MSG };
        let error = CommandError { code: 6, code_name: "HostUnreachable", message: "gone".to_owned() };
        let talk = async move {
            client.write_all(&vec![0; 100_000 - 16]).await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let ((), answer) = tokio::join!(refuse(&mut gateway, &header, 16, &error), talk);
        assert_eq!(answer, error.reply_to(&header));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_finishes_its_message_is_disconnected() {
        let (_client, mut gateway) = tokio::io::duplex(64);
        let header = Header { length: 100, request_id: 9, response_to: 0, op_code: OpCode::MSG };
        let error = CommandError { code: 6, code_name: "HostUnreachable", message: "gone".to_owned() };
        refuse(&mut gateway, &header, 16, &error).await;
    }
}
