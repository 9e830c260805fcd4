//! The runtime of commands that ask a server once.

use std::io;

use tokio::runtime::Builder;

/// Runs a future that needs sockets or timers, on this thread.
pub(super) fn in_runtime<T>(work: impl Future<Output = T>) -> io::Result<T> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    // A name lookup that hangs in the system's resolver must not prevent the process from exiting.
    runtime.shutdown_background();
    Ok(result)
}
