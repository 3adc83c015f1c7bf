//! The same for many things that mostly wait for a disk, which takes many waits for one.

use std::io;
use std::thread;

use crate::runtime::runtime;

/// How many are done at once, and how many of them are worth a thread.
const THREADS: usize = 16;
const WORTH_A_THREAD: usize = 8;

/// Does the work with each, one after the other if they are few.
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
