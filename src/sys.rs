//! Leaf helpers: the clock, work that blocks, and wiping.

pub(crate) mod blocking;
pub(crate) mod clock;
pub(crate) mod wipe;
