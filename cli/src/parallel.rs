//! Runs the same work for many items that mostly wait for a disk. Many waits at once take the disk
//! about as long as one.

use std::io;
use std::thread;

use crate::runtime::runtime;

/// The maximum number of threads, and how many items justify one thread.
const THREADS: usize = 16;
const WORTH_A_THREAD: usize = 8;

/// Does the work with each item. A few items are handled one after the other.
pub(crate) async fn for_each<T: Send>(
    all: &mut [T],
    work: impl AsyncFn(&mut T) + Sync,
) -> io::Result<()> {
    let threads = (all.len() / WORTH_A_THREAD).min(THREADS);
    if threads < 2 {
        for one in all {
            work(one).await;
        }
        return Ok(());
    }
    let share = all.len().div_ceil(threads);
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = all
            .chunks_mut(share)
            .map(|share| {
                thread::Builder::new().spawn_scoped(scope, move || {
                    runtime()?.block_on(async {
                        for one in share {
                            work(one).await;
                        }
                    });
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread?.join().unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
        })
    })
}
