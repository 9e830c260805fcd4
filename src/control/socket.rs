//! Binds the control socket.

use std::io;
use std::path::PathBuf;

use tokio::net::UnixListener;

use super::log_level::RunningLevel;
use crate::config::Config;
use crate::listener::{BindError, BoundSocket, bind_path};
use crate::telemetry::logs::LevelSwitch;

/// Only the user of the gateway, and root.
const MODE: u32 = 0o600;

/// Why the control socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ControlBindError {
    /// Another process listens there.
    #[error("control.socket: another process listens on {}; stop it or choose another path", .0.display())]
    InUse(PathBuf),
    /// The path is a file of another type.
    #[error("control.socket: {} exists and is not a socket; remove it or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The directory is missing, or the user may not write there.
    #[error(
        "control.socket: cannot listen on {}: {cause}; the directory must exist, and the user of the gateway must be \
         able to write there",
        path.display()
    )]
    System {
        /// As configured.
        path: PathBuf,
        /// From the system.
        cause: io::Error,
    },
}

/// The bound control socket, and what it controls by itself. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    /// Keeps the file.
    pub(super) bound: BoundSocket,
    pub(super) listener: UnixListener,
    pub(super) path: PathBuf,
    pub(super) level: RunningLevel,
}

impl ControlSocket {
    /// Binds `control.socket`; `None` if it is not configured. Needs a tokio runtime with I/O.
    ///
    /// If another gateway listens there and a listener has `reuse_port`, this one has a temporary path until
    /// [`take_over`](Self::take_over).
    pub fn bind(config: &Config, level: LevelSwitch) -> Result<Option<Self>, ControlBindError> {
        let Some(path) = config.control.socket.clone() else { return Ok(None) };
        let reuse_port = config.listeners.values().any(|listener| listener.reuse_port);
        let bound = bind_path("control", &path, MODE, reuse_port).map_err(|error| match error {
            BindError::SocketInUse { path, .. } => ControlBindError::InUse(path),
            BindError::NotASocket { path, .. } => ControlBindError::NotASocket(path),
            BindError::Address { cause, .. } => ControlBindError::System { path: path.clone(), cause },
            other => ControlBindError::System { path: path.clone(), cause: io::Error::other(other) },
        })?;
        let listener = bound.socket.try_clone().and_then(|socket| UnixListener::from_std(socket.into()));
        match listener {
            Ok(listener) => Ok(Some(Self { bound, listener, path, level: RunningLevel::new(level) })),
            Err(cause) => Err(ControlBindError::System { path, cause }),
        }
    }

    /// Moves the socket to its path, where it replaces that of a gateway that ends.
    pub fn take_over(&mut self) -> Result<(), ControlBindError> {
        self.bound.take_over_path().map_err(|cause| ControlBindError::System { path: self.path.clone(), cause })
    }
}
