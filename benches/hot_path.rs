//! Reads a fresh token COUNT times: `hot-path WHAT COUNT`. Prints the number of allocations.
//!
//! To count instructions, run it with two different counts. The difference does not contain the work that is
//! done once.

use std::env;
use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use allocation_counter::measure;
use arc_swap::ArcSwapOption;
use tokenkeep::chrono::{TimeDelta, Utc};
use tokenkeep::{AuthTokens, TokenManager};
use tokenkeep_benches::TOKEN;

const HOURS: Duration = Duration::from_secs(12 * 3600);

fn manager() -> TokenManager {
    let manager = TokenManager::builder().recheck_after(HOURS).build();
    let expires_at = Utc::now() + TimeDelta::from_std(HOURS).unwrap();
    let tokens = AuthTokens::new(TOKEN).with_refresh_token("refresh").with_expires_at(expires_at);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(manager.set_tokens(tokens)).unwrap();
    manager
}

/// Returns the output of a future that is ready at its first poll.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("the future is not ready"),
    }
}

fn main() {
    let arguments: Vec<_> = env::args().collect();
    let (what, reads) = (arguments[1].as_str(), arguments[2].parse::<u64>().unwrap());
    let manager = manager();
    let slot = ArcSwapOption::from_pointee((TOKEN, SystemTime::now() + HOURS));
    let read: &dyn Fn() = match what {
        "floor" => &|| {
            let cached = slot.load();
            let (token, expiry) = **cached.as_ref().unwrap();
            black_box((SystemTime::now() < expiry).then_some(token));
        },
        "get_access_token" => &|| {
            black_box(at_once(manager.get_access_token()).unwrap());
        },
        "cached_access_token" => &|| {
            black_box(manager.cached_access_token().unwrap());
        },
        _ => panic!("unknown"),
    };
    read(); // does the work that is needed once for each thread
    let allocated = measure(|| (0..reads).for_each(|_| read()));
    println!("{}", allocated.count_total);
}
