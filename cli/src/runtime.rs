//! The runtime of the command's futures.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// Makes a runtime with two threads, one of them for blocking calls. Nothing runs in parallel with
/// anything else, so each run makes its system calls in the same order.
pub(crate) fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().max_blocking_threads(1).build()
}
