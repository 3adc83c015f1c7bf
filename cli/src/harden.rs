//! What a process that holds secrets does for itself.

use std::alloc::System;
#[cfg(unix)]
use std::sync::Arc;

use zeroizing_alloc::ZeroAlloc;

/// Wipes everything that is freed, also by dependencies that do not.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

/// The limits that this process was started with, for those that it starts.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    #[cfg(unix)]
    core: rustix::process::Rlimit,
}

/// Turns off core dumps, and on Linux also debuggers and other readers of this process's memory. A file
/// that may not grow is an error, and not the end.
#[cfg(unix)]
pub(crate) fn harden() -> Limits {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    // What is caught here is not passed on to what `exec` starts, as what is ignored would be. That
    // it was caught is of no interest: the write fails then.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
    let core = getrlimit(Resource::Core);
    // Where the system refuses, there is nothing else to try.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: core.maximum });
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    Limits { core }
}

#[cfg(not(unix))]
pub(crate) fn harden() -> Limits {
    Limits {}
}

impl Limits {
    /// Gives them back, before another program takes this one's place.
    #[cfg(unix)]
    pub(crate) fn restore(self) {
        let _ = rustix::process::setrlimit(rustix::process::Resource::Core, self.core);
    }

    /// Returns whether programs that are started from here leave core dumps.
    #[cfg(unix)]
    pub(crate) fn dumps_core(self) -> bool {
        self.core.current != Some(0)
    }
}
