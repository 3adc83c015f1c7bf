//! Helpers: the clock, blocking work, directories, text of other programs, and wiping.

pub(crate) mod blocking;
pub(crate) mod clock;
#[cfg(feature = "keychain")]
pub(crate) mod directories;
#[cfg(any(feature = "object-store", feature = "postgres"))]
pub(crate) mod printable;
pub(crate) mod wipe;
