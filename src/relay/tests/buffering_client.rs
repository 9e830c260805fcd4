//! A client whose stream holds written bytes until it is flushed, as a TLS session does.

use super::*;

/// Holds written bytes until it is flushed.
struct Buffering {
    pipe: DuplexStream,
    held: Vec<u8>,
}

/// Bytes that are held at most.
const HELD_BYTES_MAX: usize = 1000;

impl AsyncRead for Buffering {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Buffering {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.held.len() == HELD_BYTES_MAX && self.as_mut().poll_flush(cx)?.is_pending() {
            return Poll::Pending;
        }
        let taken = bytes.len().min(HELD_BYTES_MAX - self.held.len());
        self.held.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { pipe, held } = &mut *self;
        while !held.is_empty() {
            let Poll::Ready(written) = Pin::new(&mut *pipe).poll_write(cx, held)? else { return Poll::Pending };
            held.drain(..written);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.as_mut().poll_flush(cx)?.is_pending() {
            return Poll::Pending;
        }
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_buffering_client_gets_every_byte_before_a_drain_closes_it() {
    for (pipe_bytes, reply_bytes) in [(16, 10), (16, 40_000), (1 << 20, 10), (1 << 20, 40_000), (700, 5_000)] {
        let (mut client, pipe) = tokio::io::duplex(pipe_bytes);
        let (side, mut upstream) = upstream(0).await;
        let mut relay = Relay::new(
            Buffering { pipe, held: Vec::new() },
            side,
            OFF,
            stats(),
            Filters { tokens: None, policy: PolicyFilter::off(), handshake: HandshakeFilter::default() },
        );
        let (drain, renewal) = (Drain::new(), Renewal::new(Duration::from_mins(10)).watch());
        let watch = drain.watch();
        let reply = op_msg::encode(90, 5, &rawdoc! { "text": "x".repeat(reply_bytes), "ok": 1.0 });
        let script = async {
            client.write_all(&request(5, &doc! { "ping": 1, "$db": "admin" })).await.unwrap();
            read_message(&mut upstream).await;
            upstream.write_all(&reply).await.unwrap();
            upstream.flush().await.unwrap();
            tokio::task::yield_now().await;
            drain.begin();
            assert_eq!(read_message(&mut client).await, reply);
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        };
        let (turn, ()) = tokio::join!(relay.run(Vec::new(), &watch, &renewal), script);
        let RelayEvent::Ended(end) = turn else { unreachable!("{turn:?}") };
        is(&end, Side::Gateway, "drained");
    }
}
