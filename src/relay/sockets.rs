//! Reads into shared buffers: what polling a socket needs, and no decision.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use crate::relay::scratch::READ_BYTES;

/// Puts `kept` at the front of `buffer` and reads behind it; what is there then, or `kept` alone at the end.
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

/// Keeps `rest` for later; gives the memory back when there is none.
pub(super) fn keep(kept: &mut Vec<u8>, rest: &[u8]) {
    if rest.is_empty() {
        *kept = Vec::new();
    } else {
        kept.clear();
        kept.extend_from_slice(rest);
    }
}
