//! Holders, crashes, logins, logouts, full disks and lost answers, in thousands of random orders.
//!
//! Each "process" is a manager with a runtime of its own, which runs only when it is told to, a step
//! at a time. A crash drops the runtime: its tasks end where they are, and its lease with them. What
//! must hold is checked at the provider and at the slot, at each call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use tokenkeep::{
    AuthError, AuthTokens, Expect, Lease, MemoryStore, Record, RefreshFailure, RefreshPermit,
    Revision, StoreError, Stored, TokenManager, TokenRefresher, TokenStore, async_trait,
};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;

use crate::clock::Clock;

const PROCESSES: usize = 3;
const STEPS: usize = 400;
const WORLDS: u64 = 1500;

/// A small generator; the same seed gives the same world.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

/// Which token: the session, and how often it was rotated.
type Token = (u32, u32);

fn name(token: Token) -> String {
    format!("{}.{}", token.0, token.1)
}

fn token(tokens: &AuthTokens) -> Token {
    let text = tokens.refresh_token.as_ref().expect("a refresh token").expose_secret();
    let (session, generation) = text.split_once('.').unwrap();
    (session.parse().unwrap(), generation.parse().unwrap())
}

fn tokens(token: Token, clock: &Clock) -> AuthTokens {
    AuthTokens::new(name(token))
        .with_refresh_token(name(token))
        .with_expires_at(clock.in_minutes(60))
}

/// What everybody shares, and what is known to have happened.
struct Shared {
    clock: Clock,
    random: Mutex<Random>,
    /// The live token of each session; none once it was revoked.
    live: Mutex<BTreeMap<u32, Option<u32>>>,
    /// Tokens whose successor may be lost: their holder died, or its answer did.
    excused: Mutex<BTreeSet<Token>>,
    /// What each process spent and has not saved a successor of.
    spending: Mutex<[Vec<Token>; PROCESSES]>,
    /// What must not happen and did. A panic would be taken for a refresher's failure.
    violations: Mutex<Vec<String>>,
    /// Whether anything goes wrong by itself.
    faults: Mutex<bool>,
    refreshes: Mutex<u32>,
}

impl Shared {
    /// Whether something happens that does so once in so many times.
    fn happens(&self, one_in: u64) -> bool {
        *self.faults.lock().unwrap() && self.random.lock().unwrap().below(one_in) == 0
    }

    fn check(&self, holds: bool, violation: impl FnOnce() -> String) {
        if !holds {
            self.violations.lock().unwrap().push(violation());
        }
    }

    fn sign_in(&self) -> AuthTokens {
        let mut live = self.live.lock().unwrap();
        let session = u32::try_from(live.len()).unwrap();
        live.insert(session, Some(0));
        tokens((session, 0), &self.clock)
    }
}

/// The provider, as one process sees it.
struct Provider(Arc<Shared>, usize);

#[async_trait]
impl TokenRefresher for Provider {
    async fn refresh(
        &self,
        current: AuthTokens,
        _permit: &RefreshPermit,
    ) -> Result<AuthTokens, RefreshFailure> {
        let Self(shared, process) = self;
        yield_now().await;
        if shared.happens(8) {
            return Err(RefreshFailure::transient("503"));
        }
        if shared.happens(12) {
            return Err(RefreshFailure::ambiguous("lost on the way there"));
        }
        let (session, generation) = token(&current);
        {
            let mut live = shared.live.lock().unwrap();
            let is_live = live[&session] == Some(generation);
            if !is_live {
                let excused = shared.excused.lock().unwrap().contains(&(session, generation));
                shared.check(live[&session].is_none() || excused, || {
                    format!("{session}.{generation} was spent twice while its holder lives")
                });
                live.insert(session, None);
                return Err(RefreshFailure::rejected("invalid_grant"));
            }
            live.insert(session, Some(generation + 1));
            shared.spending.lock().unwrap()[*process].push((session, generation));
            *shared.refreshes.lock().unwrap() += 1;
        }
        let mut answer = Answer { shared, spent: Some((session, generation)) };
        yield_now().await;
        if shared.happens(10) {
            return Err(RefreshFailure::ambiguous("lost on the way back"));
        }
        answer.spent = None;
        Ok(tokens((session, generation + 1), &shared.clock))
    }
}

/// An answer on its way: it is lost if it is dropped, at the deadline or in a crash.
struct Answer<'a> {
    shared: &'a Shared,
    spent: Option<Token>,
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        self.shared.excused.lock().unwrap().extend(self.spent);
    }
}

/// The slot, as one process sees it.
#[derive(Clone)]
struct Slot {
    inner: MemoryStore,
    shared: Arc<Shared>,
    process: usize,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slot")
    }
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("slot")
    }
}

#[async_trait]
impl TokenStore for Slot {
    async fn load(&self) -> Result<Option<Stored>, StoreError> {
        yield_now().await;
        let loaded = self.inner.load().await;
        yield_now().await;
        loaded
    }

    async fn save(&self, record: &Record, expect: Expect) -> Result<Revision, StoreError> {
        yield_now().await;
        let full = || StoreError::Io {
            action: "write",
            place: "slot".into(),
            source: Arc::new(std::io::ErrorKind::StorageFull.into()),
        };
        let (session, generation) = token(&record.tokens);
        // A login cannot be tried again by the manager, so it does not fail here.
        let is_rotation = generation > 0;
        if is_rotation && self.shared.happens(6) {
            return Err(full());
        }
        let before = self.inner.load().await?.map(|stored| token(&stored.record.tokens));
        let revision = self.inner.save(record, expect).await?;
        if is_rotation {
            self.shared.check(before.is_some(), || "a cleared slot was filled again".to_owned());
            let is_newer = before.is_some_and(|it| it.0 == session && it.1 <= generation);
            self.shared
                .check(is_newer, || format!("{session}.{generation} was saved over {before:?}"));
            self.shared.spending.lock().unwrap()[self.process].clear();
            if self.shared.happens(8) {
                return Err(StoreError::Conflict { place: "slot".into() });
            }
        }
        yield_now().await;
        Ok(revision)
    }

    async fn clear(&self, expect: Expect) -> Result<(), StoreError> {
        yield_now().await;
        self.inner.clear(expect).await
    }

    async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
        yield_now().await;
        self.inner.try_lease().await
    }
}

struct Process {
    runtime: Runtime,
    manager: TokenManager,
}

impl Process {
    fn start(slot: &MemoryStore, shared: &Arc<Shared>, process: usize) -> Self {
        let store = Slot { inner: slot.clone(), shared: shared.clone(), process };
        let provider = Provider(shared.clone(), process);
        let manager = shared.clock.builder().store(store).refresher(provider).build();
        Self { runtime: Builder::new_current_thread().build().unwrap(), manager }
    }

    fn step(&self) {
        self.runtime.block_on(yield_now());
    }

    fn run<R: Send + 'static>(&self, task: impl Future<Output = R> + Send + 'static) {
        self.runtime.spawn(task);
    }
}

fn play(seed: u64) -> u32 {
    let shared = Arc::new(Shared {
        clock: Clock::new(),
        random: Mutex::new(Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)),
        live: Mutex::default(),
        excused: Mutex::default(),
        spending: Mutex::default(),
        violations: Mutex::default(),
        faults: Mutex::new(true),
        refreshes: Mutex::default(),
    });
    let slot = MemoryStore::new();
    let mut processes: Vec<Process> =
        (0..PROCESSES).map(|number| Process::start(&slot, &shared, number)).collect();
    let below = |bound| shared.random.lock().unwrap().below(bound);
    for _ in 0..STEPS {
        let number = usize::try_from(below(PROCESSES as u64)).unwrap();
        let process = &processes[number];
        let manager = process.manager.clone();
        match below(60) {
            0 => {
                let tokens = shared.sign_in();
                process.run(async move { manager.set_tokens(tokens).await });
            }
            1 => process.run(async move { manager.clear().await }),
            2..=5 => process.run(async move { manager.get_access_token().await }),
            6 => process.run(async move { manager.refresh().await }),
            7 => {
                if let Some(token) = manager.cached_access_token() {
                    manager.invalidate(&token);
                }
            }
            // As a rekey does.
            11 => {
                let slot = slot.clone();
                process.run(async move {
                    if let Ok(Some(there)) = slot.load().await {
                        let _ = slot.save(&there.record, Expect::Unchanged(there.revision)).await;
                    }
                });
            }
            8 => shared.clock.forward(below(40)),
            9 => shared.clock.forward(61 * 60),
            10 => {
                // Its tasks end where they are, before anybody else goes on.
                let fresh = Process::start(&slot, &shared, number);
                drop(std::mem::replace(&mut processes[number], fresh));
                let spent = std::mem::take(&mut shared.spending.lock().unwrap()[number]);
                shared.excused.lock().unwrap().extend(spent);
            }
            _ => process.step(),
        }
    }
    settle(&shared, &slot, &processes);
    assert_eq!(*shared.violations.lock().unwrap(), Vec::<String>::new());
    *shared.refreshes.lock().unwrap()
}

/// Lets everything come to its end, and checks what is left.
fn settle(shared: &Arc<Shared>, slot: &MemoryStore, processes: &[Process]) {
    *shared.faults.lock().unwrap() = false;
    for _ in 0..300 {
        shared.clock.forward(2);
        processes.iter().for_each(Process::step);
    }
    shared.clock.forward(3600);
    let stored = crate::support::block_on(slot.load()).unwrap();
    let Some(stored) = stored else {
        for process in processes {
            let manager = process.manager.clone();
            let got = process.runtime.block_on(async move { manager.get_access_token().await });
            assert!(matches!(got, Err(AuthError::TokenNotFound)), "{got:?}");
        }
        return;
    };
    let (session, generation) = token(&stored.record.tokens);
    let is_live = shared.live.lock().unwrap()[&session] == Some(generation);
    for process in processes {
        let manager = process.manager.clone();
        let mut got = process.runtime.spawn(async move { manager.get_access_token().await });
        let got = process.runtime.block_on(async {
            loop {
                tokio::select! {
                    biased;
                    got = &mut got => return got.unwrap(),
                    () = yield_now() => shared.clock.forward(1),
                }
            }
        });
        match got {
            Ok(_) => assert!(is_live, "a dead session was said to be alive"),
            Err(AuthError::LoginRequired { .. } | AuthError::RefreshTokenSpent { .. }) => {
                assert!(!is_live, "a live session was given up");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn in_no_order_is_a_token_spent_twice_overwritten_or_brought_back() {
    let mut refreshes = 0;
    for seed in 1..=WORLDS {
        let played = std::panic::catch_unwind(|| play(seed));
        refreshes += played.unwrap_or_else(|_| panic!("in world {seed}"));
    }
    assert!(u64::from(refreshes) > WORLDS, "only {refreshes} refreshes in {WORLDS} worlds");
}
