//! Time that passes when a test says so.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use tokenkeep::chrono::{DateTime, Utc};
use tokenkeep::manager::TokenManagerBuilder;
use tokenkeep::{TokenManager, TokenStore};

/// A clock that stands still until it is turned. Who waits by it goes on then.
#[derive(Clone)]
pub(crate) struct Clock(Arc<Mutex<State>>);

struct State {
    now: Duration,
    /// By when they wake, and a number of their own.
    waiting: BTreeMap<(Duration, u64), Waker>,
    count: u64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let now = Duration::from_secs(1_800_000_000);
        Self(Arc::new(Mutex::new(State { now, waiting: BTreeMap::new(), count: 0 })))
    }

    pub(crate) fn forward(&self, seconds: u64) {
        self.forward_by(Duration::from_secs(seconds));
    }

    pub(crate) fn forward_by(&self, time: Duration) {
        let mut state = self.0.lock().unwrap();
        state.now += time;
        let now = state.now;
        let later = state.waiting.split_off(&(now, u64::MAX));
        for waker in std::mem::replace(&mut state.waiting, later).into_values() {
            waker.wake();
        }
    }

    pub(crate) fn back(&self, seconds: u64) {
        self.0.lock().unwrap().now -= Duration::from_secs(seconds);
    }

    pub(crate) fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.0.lock().unwrap().now
    }

    pub(crate) fn date(&self) -> DateTime<Utc> {
        self.now().into()
    }

    pub(crate) fn in_minutes(&self, minutes: u64) -> DateTime<Utc> {
        (self.now() + Duration::from_secs(60 * minutes)).into()
    }

    fn sleep(&self, time: Duration) -> Sleep {
        let mut state = self.0.lock().unwrap();
        state.count += 1;
        let place = (state.now + time, state.count);
        Sleep { clock: self.clone(), place }
    }

    pub(crate) fn builder(&self) -> TokenManagerBuilder {
        let (clock, timer) = (self.clone(), self.clone());
        TokenManager::builder().clock(move || clock.now()).timer(move |time| timer.sleep(time))
    }

    pub(crate) fn manager(&self, store: impl TokenStore) -> TokenManager {
        self.builder().store(store).build()
    }
}

struct Sleep {
    clock: Clock,
    place: (Duration, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.clock.0.lock().unwrap();
        if state.now >= self.place.0 {
            return Poll::Ready(());
        }
        state.waiting.insert(self.place, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Ok(mut state) = self.clock.0.lock() {
            state.waiting.remove(&self.place);
        }
    }
}
