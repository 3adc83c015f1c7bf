//! Wiping: buffers when they are dropped, and stacks, which no destructor wipes.

use zeroize::{Zeroize, Zeroizing};

/// Bytes that are wiped on drop.
pub(crate) type Bytes = Zeroizing<Vec<u8>>;

/// How deep below the caller it is wiped. What `age`, SHA-256 and serde take is a fraction of it, and
/// the smallest stack of a thread in use is several times as large.
const DEPTH: usize = 24 * 1024;

/// Does something with secrets, and then overwrites the part of this thread's stack that it had.
///
/// Ciphers and digests keep blocks of what they work on in local variables. A thread of a pool may
/// wait for hours after that, with the tokens on its stack.
pub(crate) fn with_wiped_stack<T>(work: impl FnOnce() -> T) -> T {
    let done = not_inlined(work);
    wipe();
    done
}

/// Not inlined, so that its frame, and all below it, lies where [`wipe`]'s does.
#[inline(never)]
fn not_inlined<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[inline(never)]
fn wipe() {
    // In words: the compiler may not leave a write out, as it may a plain one to what nobody reads,
    // and so may not join two of them either.
    let mut frame = [0_u64; DEPTH / size_of::<u64>()];
    frame.zeroize();
}
