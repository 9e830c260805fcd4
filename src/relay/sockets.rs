//! Reads from sockets into shared buffers.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use crate::relay::scratch::READ_BYTES;

/// Copies `kept` to the front of `buffer` and reads behind it. Returns both together; only `kept` at the end of the
/// stream.
pub(super) fn kept_and_read<'b>(
    kept: &[u8],
    socket: &mut (impl AsyncRead + Unpin),
    buffer: &'b mut [u8],
    cx: &mut Context<'_>,
) -> Poll<io::Result<&'b mut [u8]>> {
    let end = buffer.len().min(kept.len() + READ_BYTES);
    let mut read = ReadBuf::new(&mut buffer[..end]);
    read.put_slice(kept);
    match Pin::new(socket).poll_read(cx, &mut read) {
        Poll::Ready(Ok(())) => {
            let filled = read.filled().len();
            Poll::Ready(Ok(&mut buffer[..filled]))
        }
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Pending => Poll::Pending,
    }
}

/// Keeps `rest` in `kept`, whose memory is freed when there is none.
pub(super) fn keep(kept: &mut Vec<u8>, rest: &[u8]) {
    if rest.is_empty() {
        *kept = Vec::new();
    } else {
        kept.clear();
        kept.extend_from_slice(rest);
    }
}
