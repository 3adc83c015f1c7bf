//! The runtime for this crate's network I/O.
//!
//! It does not depend on the program's runtime: that may be without I/O or timers, may end, or may not exist.

use std::future::{Future, pending};
use std::io;
use std::panic;
use std::process;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::task::AbortHandle;

#[cfg(any(feature = "object-store", feature = "postgres"))]
use crate::error::StoreError;

const NAME: &str = "tokenkeep-io";

const ADVICE: &str = "raise the limits on threads and open files";

static OWN: Own = Own(Mutex::new(None));

/// Runs `future` on the runtime of this crate, and waits for it on any executor.
///
/// If this future is dropped, `future` is dropped soon after. A panic in `future` is resumed here.
pub(crate) async fn run<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> Result<T, NoRuntime> {
    let task = handle()?.spawn(future);
    let _guard = AbortOnDrop(task.abort_handle());
    task.await.map_err(|error| match error.try_into_panic() {
        Ok(panicked) => panic::resume_unwind(panicked),
        Err(_) => NoRuntime { reason: "it has ended".to_owned() },
    })
}

/// Returns the runtime of this crate. Starts it if this process has none yet.
pub(crate) fn handle() -> Result<Handle, NoRuntime> {
    OWN.handle(process::id())
}

/// The runtime of this crate cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("the thread for network I/O cannot be started ({reason}); {ADVICE}")]
pub(crate) struct NoRuntime {
    reason: String,
}

impl NoRuntime {
    /// Returns this as the error of a store.
    #[cfg(any(feature = "object-store", feature = "postgres"))]
    pub(crate) fn unavailable(self, place: &str) -> StoreError {
        StoreError::Unavailable {
            place: place.to_owned(),
            reason: format!("the thread for network I/O cannot be started ({})", self.reason),
            advice: ADVICE.to_owned(),
        }
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A runtime, and the id of the process that has its thread. After a fork, the child has no copy of that
/// thread.
struct Own(Mutex<Option<(u32, Handle)>>);

impl Own {
    fn handle(&self, process: u32) -> Result<Handle, NoRuntime> {
        let mut own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, handle)) = own.as_ref().filter(|(of, _)| *of == process) {
            return Ok(handle.clone());
        }
        let handle = start(thread::Builder::new())
            .map_err(|error| NoRuntime { reason: error.to_string() })?;
        *own = Some((process, handle.clone()));
        Ok(handle)
    }
}

fn start(thread: thread::Builder) -> io::Result<Handle> {
    let (send, made) = mpsc::sync_channel(1);
    // The thread owns the runtime from the start, because dropping a runtime in an async context panics.
    thread.name(NAME.to_owned()).spawn(move || {
        match Builder::new_current_thread().thread_name(NAME).enable_all().build() {
            Ok(runtime) => {
                // The thread that starts this one waits for this.
                let _ = send.send(Ok(runtime.handle().clone()));
                runtime.block_on(pending::<()>());
            }
            Err(error) => {
                let _ = send.send(Err(error));
            }
        }
    })?;
    made.recv().unwrap_or_else(|_| Err(io::Error::other("it ended at once")))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake, Waker};
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    struct Unpark(thread::Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    /// Waits like an executor without tokio.
    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut future = pin!(future);
        loop {
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(done) => return done,
                Poll::Pending => thread::park(),
            }
        }
    }

    /// Uses a socket and a timer.
    async fn exchange() -> u8 {
        tokio::time::timeout(Duration::from_secs(60), async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut one = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut other, _) = listener.accept().await.unwrap();
            one.write_u8(7).await.unwrap();
            other.read_u8().await.unwrap()
        })
        .await
        .unwrap()
    }

    #[test]
    fn it_works_without_any_runtime() {
        assert_eq!(block_on(run(exchange())).unwrap(), 7);
    }

    #[test]
    fn it_works_in_a_runtime_without_io_and_timers() {
        let bare = Builder::new_current_thread().build().unwrap();
        assert_eq!(bare.block_on(run(exchange())).unwrap(), 7);
    }

    #[test]
    fn it_works_in_a_runtime_whose_only_thread_waits_for_it() {
        let bare = Builder::new_current_thread().build().unwrap();
        assert_eq!(bare.block_on(async { block_on(run(exchange())) }).unwrap(), 7);
    }

    #[test]
    fn work_that_nobody_waits_for_is_dropped() {
        let (held, dropped) = mpsc::channel::<()>();
        let (started, is_started) = mpsc::channel();
        let mut work = Box::pin(run(async move {
            started.send(()).unwrap();
            pending::<()>().await;
            drop(held);
        }));
        assert!(work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        is_started.recv().unwrap();
        assert_eq!(dropped.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop(work);
        // The limit makes the test fail instead of hang.
        let dropped = dropped.recv_timeout(Duration::from_secs(60));
        assert_eq!(dropped, Err(mpsc::RecvTimeoutError::Disconnected));
    }

    #[test]
    fn a_panic_reaches_the_caller_and_ends_nothing_else() {
        let work = || block_on(run(async { panic!("canary") }));
        let panicked = panic::catch_unwind(|| drop(work())).unwrap_err();
        assert_eq!(panicked.downcast_ref(), Some(&"canary"));
        assert_eq!(block_on(run(exchange())).unwrap(), 7);
    }

    #[test]
    fn all_work_runs_on_one_thread_until_a_fork() {
        let own = Own(Mutex::new(None));
        let thread = |process| {
            let spawned = own.handle(process).unwrap().spawn(async { thread::current().id() });
            block_on(spawned).unwrap()
        };
        let first = thread(1);
        assert_eq!(thread(1), first);
        assert_ne!(thread(2), first);
    }

    /// Other systems reserve no memory for an unused stack.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_that_cannot_be_started_is_an_error() {
        start(thread::Builder::new().stack_size(1 << 60)).unwrap_err();
    }
}
