//! What the command's futures run on.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// Two threads, one for what blocks: nothing is done at once with anything else, and so each run
/// makes its system calls in the same order.
pub(crate) fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().max_blocking_threads(1).build()
}
