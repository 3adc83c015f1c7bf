//! A clock that a test controls.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use tokenkeep::chrono::{DateTime, Utc};
use tokenkeep::manager::TokenManagerBuilder;
use tokenkeep::{TokenManager, TokenStore};

/// A clock that stands still until a test moves it. Then tasks that wait for that time continue.
#[derive(Clone)]
pub struct Clock(Arc<Mutex<State>>);

struct State {
    now: Duration,
    /// The waiting tasks, by the time at which they wake and a unique number.
    waiting: BTreeMap<(Duration, u64), Waker>,
    count: u64,
}

impl Clock {
    /// Moves the clock to this minute, counted from its start.
    pub fn forward_to_minute(&self, minute: u64) {
        let begin = 1_800_000_000 + minute * 60;
        let now = self.now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        self.forward(begin - now);
    }

    pub fn new() -> Self {
        let now = Duration::from_secs(1_800_000_000);
        Self(Arc::new(Mutex::new(State { now, waiting: BTreeMap::new(), count: 0 })))
    }

    pub fn forward(&self, seconds: u64) {
        self.forward_by(Duration::from_secs(seconds));
    }

    pub fn forward_by(&self, time: Duration) {
        let mut state = self.0.lock().unwrap();
        state.now += time;
        let now = state.now;
        let later = state.waiting.split_off(&(now, u64::MAX));
        for waker in std::mem::replace(&mut state.waiting, later).into_values() {
            waker.wake();
        }
    }

    pub fn back(&self, seconds: u64) {
        self.0.lock().unwrap().now -= Duration::from_secs(seconds);
    }

    pub fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.0.lock().unwrap().now
    }

    pub fn date(&self) -> DateTime<Utc> {
        self.now().into()
    }

    pub fn in_minutes(&self, minutes: u64) -> DateTime<Utc> {
        (self.now() + Duration::from_secs(60 * minutes)).into()
    }

    fn sleep(&self, time: Duration) -> Sleep {
        let mut state = self.0.lock().unwrap();
        state.count += 1;
        let place = (state.now + time, state.count);
        Sleep { clock: self.clone(), place }
    }

    pub fn builder(&self) -> TokenManagerBuilder {
        let (clock, timer) = (self.clone(), self.clone());
        TokenManager::builder().clock(move || clock.now()).timer(move |time| timer.sleep(time))
    }

    pub fn manager(&self, store: impl TokenStore) -> TokenManager {
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
