//! Says no to a client in words that it understands, before a conversation has begun.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::wire::error_reply::CommandError;
use crate::wire::header::Header;

/// How long a client may take to send the rest of its first message and to take the answer. Generous for a hello of a
/// few kilobytes; a client that needs longer is cut.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(5);

/// How much is read away for the client's sake, so that our closing does not reset the connection under the answer.
const DISCARD_BYTES_MAX: u64 = 48_000_000;

/// The alert record of a TLS server that will not shake hands: fatal, `handshake_failure`.
///
/// Spec: RFC 8446 § 6.
const TLS_ALERT: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x28];

/// For whoever points a browser or a health check at the port.
const HTTP_ANSWER: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n\
     This port takes the MongoDB wire protocol, not HTTP. mongate's own pages are on its administration port.\r\n";

/// Answers the message that starts with `request` with `error`, then ends the connection.
///
/// `received` are the bytes read of it so far, header included. Gives up quietly after a few seconds.
pub async fn refuse<C>(client: &mut C, request: &Header, received: usize, error: &CommandError)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let answer = error.reply_to(request);
    let rest = u64::from(request.length).saturating_sub(received as u64);
    let _ = timeout(REFUSAL_DEADLINE, async {
        discard(client, rest).await?;
        say_and_close(client, &answer).await
    })
    .await;
}

/// Tells a TLS client that this port does not speak TLS.
pub async fn refuse_tls<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C) {
    final_reply(client, &TLS_ALERT).await;
}

/// Tells an HTTP client that this port does not speak HTTP.
pub async fn refuse_http<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C) {
    final_reply(client, HTTP_ANSWER.as_bytes()).await;
}

/// Writes `words` and ends the connection so that the client gets to read them. Gives up quietly after a few seconds.
pub async fn final_reply<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C, words: &[u8]) {
    let _ = timeout(REFUSAL_DEADLINE, say_and_close(client, words)).await;
}

/// Closing with unread bytes would reset the connection and take the words with it: reads until the client has closed.
async fn say_and_close<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C, words: &[u8]) -> io::Result<()> {
    client.write_all(words).await?;
    client.shutdown().await?;
    discard(client, DISCARD_BYTES_MAX).await
}

/// Reads away up to `bytes`, or to the end.
async fn discard(client: &mut (impl AsyncRead + Unpin), bytes: u64) -> io::Result<()> {
    tokio::io::copy(&mut client.take(bytes), &mut tokio::io::sink()).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::header::OpCode;

    #[tokio::test]
    async fn a_client_reads_the_answer_after_sending_all_of_its_message() {
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
    async fn a_client_that_never_finishes_is_cut() {
        let (_client, mut gateway) = tokio::io::duplex(64);
        let header = Header { length: 100, request_id: 9, response_to: 0, op_code: OpCode::MSG };
        let error = CommandError { code: 6, code_name: "HostUnreachable", message: "gone".to_owned() };
        refuse(&mut gateway, &header, 16, &error).await;
    }
}
