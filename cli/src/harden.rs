//! Hardening of a process that holds secrets.

use std::alloc::System;
#[cfg(unix)]
use std::sync::Arc;

use zeroizing_alloc::ZeroAlloc;

/// Wipes all freed memory, also that of dependencies that do not wipe it.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

/// The limits that this process was started with. Programs that it starts get them back.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    #[cfg(unix)]
    core: rustix::process::Rlimit,
}

/// Turns off core dumps. On Linux, also prevents debuggers and other processes from reading this
/// process's memory. A file that reaches its size limit causes an error and does not end the
/// process.
#[cfg(unix)]
pub(crate) fn harden() -> Limits {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    // A child process inherits ignored signals, but not handlers. So this signal gets a handler.
    // Its flag is never read: the write fails anyway.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
    let core = getrlimit(Resource::Core);
    // If the system refuses, there is no alternative.
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
    /// Restores the limits before another program replaces this process.
    #[cfg(unix)]
    pub(crate) fn restore(self) {
        let _ = rustix::process::setrlimit(rustix::process::Resource::Core, self.core);
    }

    /// Returns whether programs that this process starts leave core dumps.
    #[cfg(unix)]
    pub(crate) fn dumps_core(self) -> bool {
        self.core.current != Some(0)
    }
}
