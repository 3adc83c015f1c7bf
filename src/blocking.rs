//! Work that blocks, kept off the threads that run tasks.

use tokio::runtime::Handle;

use crate::error::StoreError;

/// Runs `work` on the runtime's blocking pool, or right here where no runtime is in charge.
///
/// Once started it runs to its end, even if the caller's future is dropped: that is what makes a
/// cancelled write happen whole or not at all.
pub(crate) async fn run<T: Send + 'static>(
    place: &str,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let Ok(runtime) = Handle::try_current() else {
        return work();
    };
    match runtime.spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StoreError::Unavailable {
                place: place.to_owned(),
                reason: "the runtime is shutting down".into(),
                advice: "finish with the store before the runtime ends".into(),
            }),
        },
    }
}

/// Waits, without asking for a runtime with a timer.
pub(crate) async fn pause(place: &str, time: std::time::Duration) -> Result<(), StoreError> {
    run(place, move || {
        std::thread::sleep(time);
        Ok(())
    })
    .await
}
