//! One task at a time, whose result any number of callers share.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, RuntimeFlavor};
use tokio::sync::watch::{self, Receiver};

use crate::sys::clock::Timer;

/// How long a running runtime may take until it begins a task that was spawned on it.
const START_LIMIT: Duration = Duration::from_millis(500);

/// Runs one task at a time. Callers join the task that is running, or start one.
///
/// A task belongs to no caller. It continues if all callers drop their futures.
pub(super) struct SingleFlight<T>(Arc<Mutex<Option<Running<T>>>>);

/// A task that was running a moment ago.
#[derive(Clone)]
pub(super) struct Running<T> {
    /// `None` while the task runs.
    outcome: Receiver<Option<T>>,
    /// Whether its runtime has begun the task.
    has_begun: Arc<AtomicBool>,
    /// The thread that started it.
    starter: ThreadId,
}

/// How a task ended, for a caller that waited.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome<T> {
    /// The task ended with this result.
    Done(T),
    /// The task never ends, because its runtime has ended.
    Lost,
    /// The runtime of the task seems not to be driven: no thread runs it.
    NotDriven,
}

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone + Send + Sync + 'static> SingleFlight<T> {
    /// Returns the task that is running.
    pub(super) fn running(&self) -> Option<Running<T>> {
        self.lock().as_ref().filter(|task| task.is_running()).cloned()
    }

    /// Joins the task that is running, or starts `task`, which then continues without its callers.
    ///
    /// `afterwards` runs after the callers have got the result. The next task may run at the same time.
    pub(super) fn join_or_start(
        &self,
        task: impl Future<Output = T> + Send + 'static,
        afterwards: impl Future<Output = ()> + Send + 'static,
    ) -> Running<T> {
        let mut current = self.lock();
        if let Some(running) = current.as_ref().filter(|task| task.is_running()) {
            return running.clone();
        }
        let (sender, outcome) = watch::channel(None);
        let starter = thread::current().id();
        let running = Running { outcome, has_begun: Arc::default(), starter };
        *current = Some(running.clone());
        drop(current);
        let (flight, has_begun) = (Self(self.0.clone()), running.has_begun.clone());
        spawn(async move {
            has_begun.store(true, Ordering::SeqCst);
            let outcome = task.await;
            // The result must not be kept here: tokens must not stay in memory after a logout.
            *flight.lock() = None;
            // An error means that no caller waits any more.
            let _ = sender.send(Some(outcome));
            afterwards.await;
        });
        running
    }

    /// Waits until no task is running.
    pub(super) async fn idle(&self) {
        if let Some(mut running) = self.running() {
            // An error means that the runtime has ended, so no task is running.
            let _ = running.outcome.wait_for(Option::is_some).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> Running<T> {
    /// Waits until the task ends, for `limit` at most. A task ends long before that, except if its runtime
    /// exists but is no longer driven.
    pub(super) async fn outcome(mut self, timer: &Timer, limit: Duration) -> Outcome<T> {
        if self.is_stuck().await {
            return Outcome::NotDriven;
        }
        let ended = self.outcome.wait_for(Option::is_some);
        match timer.within(limit, ended).await {
            Some(Ok(outcome)) => Outcome::Done(outcome.clone().expect("it has ended")),
            Some(Err(_)) => Outcome::Lost,
            None => Outcome::NotDriven,
        }
    }

    fn is_running(&self) -> bool {
        self.outcome.has_changed().is_ok() && self.outcome.borrow().is_none()
    }

    /// Returns whether the runtime of this task is blocked while this future is polled. That happens if the
    /// caller blocks the thread of a current-thread runtime to wait for this future. A runtime that is driven
    /// begins the task before it polls this future again.
    async fn is_stuck(&mut self) -> bool {
        let is_alone = Handle::try_current().is_ok_and(|runtime| {
            runtime.runtime_flavor() == RuntimeFlavor::CurrentThread
                || runtime.metrics().num_workers() == 1
        });
        // A caller on another thread does not block that runtime.
        if !is_alone || self.starter != thread::current().id() {
            return false;
        }
        // Wait twice, because this process may have been stopped meanwhile. The default timer measures real
        // time, on a thread that needs no runtime.
        for _ in 0..2 {
            let ended = self.outcome.wait_for(Option::is_some);
            let waited = Timer::default().within(START_LIMIT, ended).await;
            if waited.is_some() || self.has_begun.load(Ordering::SeqCst) {
                return false;
            }
        }
        true
    }
}

/// Spawns a task on the current runtime, or on its own thread if there is no runtime.
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = Handle::try_current() {
        if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
            runtime.spawn(task);
        } else {
            // A task that is spawned on a worker is the next task of that worker, and no other worker takes
            // it. But this worker may be about to block.
            let workers = runtime.clone();
            runtime.spawn_blocking(move || drop(workers.spawn(task)));
        }
        return;
    }
    let run = move || {
        // This enables I/O and time for the refresher, if the program was built with these features of tokio.
        if let Ok(runtime) = Builder::new_current_thread().enable_all().build() {
            runtime.block_on(task);
        }
    };
    // If no thread can be started, the task is dropped, and the callers get `Outcome::Lost`.
    let _ = thread::Builder::new().name("tokenkeep-refresh".into()).spawn(run);
}

#[cfg(test)]
mod tests {
    use std::future;
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::Notify;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    async fn outcome<T: Clone>(running: Running<T>) -> Outcome<T> {
        running.outcome(&Timer::default(), LIMIT).await
    }

    #[tokio::test]
    async fn all_callers_during_a_task_get_its_outcome() {
        let (flight, go) = (SingleFlight::default(), Arc::new(Notify::new()));
        let runs = Arc::new(AtomicUsize::new(0));
        let join = || {
            let (runs, go) = (runs.clone(), go.clone());
            let task = async move {
                go.notified().await;
                runs.fetch_add(1, Ordering::SeqCst) + 1
            };
            flight.join_or_start(task, future::ready(()))
        };
        let callers = [join(), join(), flight.running().unwrap()];
        go.notify_one();
        for caller in callers {
            assert_eq!(outcome(caller).await, Outcome::Done(1));
        }
        assert!(flight.running().is_none());
        go.notify_one();
        assert_eq!(outcome(join()).await, Outcome::Done(2));
    }

    #[tokio::test]
    async fn a_task_continues_after_its_callers_are_dropped() {
        let (flight, ended) = (SingleFlight::default(), Arc::new(Notify::new()));
        let task = {
            let ended = ended.clone();
            async move { ended.notify_one() }
        };
        drop(flight.join_or_start(task, future::ready(())));
        ended.notified().await;
        flight.idle().await;
        assert!(flight.running().is_none());
    }

    #[tokio::test]
    async fn neither_callers_nor_the_next_task_wait_for_the_work_after_a_task() {
        let flight = SingleFlight::default();
        let first = flight.join_or_start(future::ready(1), future::pending());
        assert_eq!(outcome(first).await, Outcome::Done(1));
        flight.idle().await;
        let second = flight.join_or_start(future::ready(2), future::ready(()));
        assert_eq!(outcome(second).await, Outcome::Done(2));
    }

    #[tokio::test]
    async fn the_outcome_of_a_task_is_dropped_after_use() {
        let (flight, brought) = (SingleFlight::default(), Arc::new(()));
        let running = flight.join_or_start(future::ready(brought.clone()), future::ready(()));
        drop(outcome(running).await);
        // Wait until the task itself has ended.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(Arc::strong_count(&brought), 1);
    }

    #[test]
    fn a_task_is_lost_with_its_runtime_and_another_one_can_start() {
        let (flight, threads) = (SingleFlight::default(), tokio::runtime::Runtime::new().unwrap());
        let lost =
            threads.block_on(async { flight.join_or_start(future::pending(), future::ready(())) });
        threads.shutdown_background();
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            assert_eq!(outcome(lost).await, Outcome::Lost);
            let next = flight.join_or_start(future::ready(1), future::ready(()));
            assert_eq!(outcome(next).await, Outcome::Done(1));
        });
    }

    #[tokio::test]
    async fn a_task_that_does_not_end_in_time_counts_as_not_driven() {
        let flight = SingleFlight::<()>::default();
        let running = flight.join_or_start(future::pending(), future::ready(()));
        tokio::task::yield_now().await;
        let timer = Timer::new(|_| future::ready(()));
        assert_eq!(running.outcome(&timer, LIMIT).await, Outcome::NotDriven);
    }

    #[test]
    fn without_a_runtime_a_task_runs_on_its_own_thread() {
        let flight = SingleFlight::default();
        let task = async { thread::current().name().map(str::to_owned) };
        let mut running = flight.join_or_start(task, future::ready(()));
        let runtime = Builder::new_current_thread().build().unwrap();
        let name = runtime.block_on(running.outcome.wait_for(Option::is_some)).unwrap().clone();
        assert_eq!(name, Some(Some("tokenkeep-refresh".into())));
    }
}
