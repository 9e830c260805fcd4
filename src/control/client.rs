//! Asks a running gateway.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{LINE_MAX, Reply, Request};

/// Longer than a reload may take.
const TIMEOUT: Duration = Duration::from_secs(40);

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No process listens on the socket.
    #[error("no gateway listens on {}; start it with control.socket in its configuration", .0.display())]
    NotRunning(PathBuf),
    /// The user may not connect.
    #[error("no permission for {}; run this as root or as the user of the gateway", .0.display())]
    Denied(PathBuf),
    /// The gateway closed the connection, or does not answer.
    #[error("the gateway does not answer on {}: {cause}", socket.display())]
    NoReply {
        /// The socket.
        socket: PathBuf,
        /// From the system, or about the reply.
        cause: io::Error,
    },
}

/// Sends `request` to the gateway that listens on `socket`, and waits for the reply for at most 40 s. Blocks.
pub fn ask(socket: &Path, request: &Request) -> Result<Reply, AskError> {
    let stream = UnixStream::connect(socket).map_err(|cause| match cause.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AskError::NotRunning(socket.to_owned()),
        io::ErrorKind::PermissionDenied => AskError::Denied(socket.to_owned()),
        _ => AskError::NoReply { socket: socket.to_owned(), cause },
    })?;
    exchange(stream, request).map_err(|cause| AskError::NoReply { socket: socket.to_owned(), cause })
}

fn exchange(mut stream: UnixStream, request: &Request) -> io::Result<Reply> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut reply = String::new();
    BufReader::new(stream.take(LINE_MAX)).read_line(&mut reply)?;
    if reply.is_empty() {
        return Err(io::Error::other("it closed the connection; it may be busy with other requests"));
    }
    Ok(serde_json::from_str(&reply)?)
}
