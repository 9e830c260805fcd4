//! Takes over the new clients of a TCP port from another process that listens on it with `SO_REUSEPORT`.
//!
//! The kernel gives each new client to one of the sockets of a port. A client in the queue of a socket that closes is
//! lost, so the older process must get none by then. A program of one instruction makes the kernel choose the younger
//! socket from the start. The older process accepts what it has in its queue, and can close it at any later time.

use std::io;

use socket2::SockRef;
use tokio::net::TcpListener;

use super::socket::BACKLOG;

/// Begins to listen, and directs all new clients to this socket. Returns its new registration with the runtime: in the
/// first one, the socket may already have been reported as closed, because it did not listen.
pub(super) fn tcp(listener: &TcpListener) -> io::Result<TcpListener> {
    let socket = SockRef::from(listener).try_clone()?;
    socket.listen(BACKLOG)?;
    #[cfg(target_os = "linux")]
    linux::direct_to_second_socket(&socket)?;
    TcpListener::from_std(socket.into())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;

    use nix::libc::{sock_filter, sock_fprog};
    use nix::sys::socket::{setsockopt, sockopt};
    use socket2::Socket;

    /// `BPF_RET | BPF_K` of classic BPF: returns a constant. libc has these with a wider type than that of the field.
    const RETURN_CONSTANT: u16 = 0x06;

    /// Directs new clients to the second socket of the port, in the order in which the sockets began to listen.
    ///
    /// Without a second socket, the kernel ignores the program: it falls back to its hash. When the first socket
    /// closes, the second one takes its place, which is the same as without a program.
    pub(super) fn direct_to_second_socket(socket: &Socket) -> io::Result<()> {
        let mut program = [sock_filter { code: RETURN_CONSTANT, jt: 0, jf: 0, k: 1 }];
        let program = sock_fprog { len: 1, filter: program.as_mut_ptr() };
        setsockopt(socket, sockopt::AttachReusePortCbpf, &program).map_err(|error| {
            io::Error::other(format!(
                "the kernel or the sandbox refuses SO_ATTACH_REUSEPORT_CBPF ({}), which reuse_port needs; set \
                 reuse_port = false",
                error.desc()
            ))
        })
    }
}
