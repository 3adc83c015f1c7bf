//! Runs blocking work on threads that run no tasks.

use std::panic;
use std::thread;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::error::StoreError;
use crate::sys::wipe;

/// Runs `work` on the runtime's blocking pool, or on a thread of its own if there is no tokio runtime.
///
/// Work that was started runs to its end, even if the caller's future is dropped. So a dropped write happens
/// completely or not at all.
pub(crate) async fn run<T: Send + 'static>(
    place: &str,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let unavailable = |reason: &str, advice: &str| StoreError::Unavailable {
        place: place.to_owned(),
        reason: reason.to_owned(),
        advice: advice.to_owned(),
    };
    let work = || wipe::with_wiped_stack(work);
    let joined = if let Ok(runtime) = Handle::try_current() {
        runtime.spawn_blocking(work).await.map_err(|error| error.try_into_panic().ok())
    } else {
        let (done, joined) = oneshot::channel();
        let work = panic::AssertUnwindSafe(work);
        let run = move || {
            // If the caller gave up, nothing receives this.
            let _ = done.send(panic::catch_unwind(work));
        };
        if thread::Builder::new().name("tokenkeep".into()).spawn(run).is_err() {
            return Err(unavailable("no thread could be started", "raise the limit on threads"));
        }
        joined.await.map_or(Err(None), |caught| caught.map_err(Some))
    };
    match joined {
        Ok(done) => done,
        Err(Some(panicked)) => panic::resume_unwind(panicked),
        Err(None) => Err(unavailable(
            "the runtime is shutting down",
            "finish with the store before the runtime ends",
        )),
    }
}
