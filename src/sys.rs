//! Helpers: the clock, blocking work, directories, and wiping.

pub(crate) mod blocking;
pub(crate) mod clock;
#[cfg(feature = "keychain")]
pub(crate) mod directories;
pub(crate) mod wipe;
