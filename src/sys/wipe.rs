//! Wipes buffers when they are dropped, and stacks, which no destructor wipes.

use zeroize::{Zeroize, Zeroizing};

/// Bytes that are wiped on drop.
pub(crate) type Bytes = Zeroizing<Vec<u8>>;

/// How many bytes of the stack below the caller are wiped. `age`, SHA-256 and serde use much less. The
/// smallest stack of a thread is several times larger.
const DEPTH: usize = 24 * 1024;

/// Runs work with secrets, and then overwrites the part of this thread's stack that the work used.
///
/// Ciphers and digests keep blocks of their input in local variables. After that, a thread of a pool may
/// wait for hours with the tokens on its stack.
pub(crate) fn with_wiped_stack<T>(work: impl FnOnce() -> T) -> T {
    let done = not_inlined(work);
    wipe();
    done
}

/// Runs the work. It is not inlined, so that its frame and all frames below it are where [`wipe`]'s frame is.
#[inline(never)]
fn not_inlined<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[inline(never)]
fn wipe() {
    // `zeroize` writes words, and the compiler must not remove these writes. It could remove plain writes to
    // memory that is not read again. It must not join two of these writes either.
    let mut frame = [0_u64; DEPTH / size_of::<u64>()];
    frame.zeroize();
}
