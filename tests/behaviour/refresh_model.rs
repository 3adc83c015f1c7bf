//! Refreshes, crashes, logins, logouts, full disks and lost answers, in thousands of random orders.
//!
//! Each "process" is a manager with its own runtime, which the test runs one step at a time. A crash drops
//! the runtime, and its tasks end where they are. In half of the worlds the slot is a file, whose lease ends
//! with its holder. In the others it is a shared slot, whose lease ends at a deadline. Some of the shared
//! slots refuse a save by a process whose lease passed to another one. The provider and the slot check the
//! invariants at each call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokenkeep::{
    AuthError, AuthTokens, RefreshFailure, StoreError, TokenManager, TokenRefresher, TokenStore,
    async_trait,
};

use tokenkeep::refresh::RefreshPermit;

use tokenkeep::store::{Intent, Lease, Precondition, Record, Revision, Stored};

use tokenkeep::stores::MemoryStore;
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;

use crate::clock::Clock;

const PROCESSES: usize = 3;
const STEPS: usize = 500;
const WORLDS: u64 = 1500;

/// A random number generator. The same seed gives the same world.
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

/// A token: the number of its session, and how often it was rotated.
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

/// The state that all processes share, and the record of what has happened.
struct Shared {
    clock: Clock,
    random: Mutex<Random>,
    /// The live token of each session, or `None` after the session was revoked.
    live: Mutex<BTreeMap<u32, Option<u32>>>,
    /// The sessions that the user ended.
    ended: Mutex<BTreeSet<u32>>,
    /// Tokens that may be sent again: their holder died, the answer was lost, or the lease passed on.
    excused: Mutex<BTreeSet<Token>>,
    /// The lease of a shared slot. `None` if the slot is a file.
    lease: Option<Mutex<Holder>>,
    /// Whether the shared slot refuses a save by a process whose lease passed to another one.
    is_fenced: bool,
    /// The tokens that each process spent, and whose successors it has not saved.
    spending: Mutex<[Vec<Token>; PROCESSES]>,
    /// The violations that were found. The manager would take a panic for a failure of the refresher.
    violations: Mutex<Vec<String>>,
    /// Whether random faults happen.
    faults: Mutex<bool>,
    refreshes: Mutex<u32>,
    /// Whether all events are printed.
    is_traced: bool,
}

/// The lease of a shared slot: its number, its holder, and when it ends.
#[derive(Default)]
struct Holder {
    number: u64,
    process: usize,
    until: Option<SystemTime>,
    /// Whether the holder has sent a token since it took or renewed the lease.
    has_sent: bool,
    /// The last lease that each process took and has not dropped. It may have ended.
    given: [Option<u64>; PROCESSES],
}

impl Shared {
    /// Returns whether a random fault happens now, with a probability of 1 in `one_in`.
    fn happens(&self, one_in: u64) -> bool {
        *self.faults.lock().unwrap() && self.random.lock().unwrap().below(one_in) == 0
    }

    #[expect(clippy::print_stdout, reason = "the test harness shows it if the test fails")]
    fn note(&self, line: impl FnOnce() -> String) {
        if self.is_traced {
            println!("{}", line());
        }
    }

    /// Ends the lease as if its holder was stopped after it sent a token. Without a send it does nothing.
    fn end_lease(&self) {
        let Some(lease) = &self.lease else { return };
        let mut holder = lease.lock().unwrap();
        if holder.until.is_some() && holder.has_sent {
            holder.until = Some(self.clock.now());
            self.note(|| format!("the lease {} has ended", holder.number));
        }
    }

    fn check(&self, holds: bool, violation: impl FnOnce() -> String) {
        if !holds {
            let violation = violation();
            self.note(|| format!("VIOLATION: {violation}"));
            self.violations.lock().unwrap().push(violation);
        }
    }

    /// Checks that a spent token in the slot has an intent, so that the next process knows of the doubt.
    fn check_told(&self, record: &Record) {
        let (session, generation) = token(&record.tokens);
        let is_live = self.live.lock().unwrap()[&session] == Some(generation);
        let is_ended = self.ended.lock().unwrap().contains(&session);
        self.check(is_live || is_ended || record.intent().is_some(), || {
            format!("no intent says that {session}.{generation} may be spent")
        });
    }

    /// Checks the error of a caller: a plain "sign in again" is right only if the user ended the session.
    fn check_answer<T>(&self, answer: Result<T, AuthError>) {
        if let Err(AuthError::LoginRequired { reason }) = answer {
            let session = reason.split('.').next().unwrap().parse().unwrap();
            let is_ended = self.ended.lock().unwrap().contains(&session);
            self.check(is_ended, || format!("the error does not say that {reason} may be spent"));
        }
    }

    fn sign_in(&self) -> AuthTokens {
        let mut live = self.live.lock().unwrap();
        let session = u32::try_from(live.len()).unwrap();
        live.insert(session, Some(0));
        tokens((session, 0), &self.clock)
    }
}

/// The provider, used by one process.
struct Provider {
    shared: Arc<Shared>,
    slot: MemoryStore,
    process: usize,
}

impl Provider {
    /// Rotates a refresh token that reaches the provider, or rejects it.
    fn receive(&self, (session, generation): Token) -> Result<(), RefreshFailure> {
        let shared = &self.shared;
        let mut live = shared.live.lock().unwrap();
        if live[&session] == Some(generation) {
            live.insert(session, Some(generation + 1));
            drop(live);
            if let Some(lease) = &shared.lease {
                let mut holder = lease.lock().unwrap();
                holder.has_sent |= holder.process == self.process;
            }
            shared.spending.lock().unwrap()[self.process].push((session, generation));
            *shared.refreshes.lock().unwrap() += 1;
            return Ok(());
        }
        let excused = shared.excused.lock().unwrap().contains(&(session, generation));
        shared.check(live[&session].is_none() || excused, || {
            format!("{session}.{generation} was spent twice while its holder lives")
        });
        live.insert(session, None);
        Err(RefreshFailure::rejected(name((session, generation))))
    }
}

#[async_trait]
impl TokenRefresher for Provider {
    async fn refresh(
        &self,
        current: AuthTokens,
        permit: &RefreshPermit,
    ) -> Result<AuthTokens, RefreshFailure> {
        let shared = &self.shared;
        // Other processes may take many steps while this one connects.
        let connecting = if shared.happens(8) { 20 } else { 1 };
        for _ in 0..connecting {
            yield_now().await;
        }
        permit.check()?;
        if shared.happens(8) {
            return Err(RefreshFailure::transient("429"));
        }
        if shared.happens(30) {
            let retry_after = Some(Duration::from_secs(90));
            return Err(RefreshFailure::Transient {
                reason: "429".into(),
                retry_after,
                unspent: true,
            });
        }
        if shared.happens(12) {
            return Err(RefreshFailure::ambiguous("lost on the way there"));
        }
        if shared.happens(20) {
            return Err(RefreshFailure::transient("503").maybe_spent());
        }
        let (session, generation) = token(&current);
        let received = self.receive((session, generation));
        let (process, accepted) = (self.process, received.is_ok());
        shared.note(|| format!("{process} sends {session}.{generation}, accepted: {accepted}"));
        if let Ok(Some(there)) = self.slot.load().await {
            shared.check_told(&there.record);
        }
        received?;
        let mut answer = Answer { shared, spent: Some((session, generation)) };
        let answering = if shared.happens(4) { 20 } else { 1 };
        for _ in 0..answering {
            yield_now().await;
        }
        if shared.happens(10) {
            return Err(RefreshFailure::ambiguous("lost on the way back"));
        }
        if shared.happens(20) {
            return Err(RefreshFailure::transient("503").maybe_spent());
        }
        answer.spent = None;
        Ok(tokens((session, generation + 1), &shared.clock))
    }
}

/// An answer on its way. It is lost if it is dropped, at the deadline or in a crash.
struct Answer<'a> {
    shared: &'a Shared,
    spent: Option<Token>,
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        self.shared.excused.lock().unwrap().extend(self.spent);
    }
}

/// The slot, used by one process.
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

impl Slot {
    /// Returns whether the lease of this process passed to another one that has it now. A slot on a server
    /// then refuses to save, because the tokens of the new holder are the later ones.
    fn is_overtaken(&self) -> bool {
        let Some(lease) = self.shared.lease.as_ref().filter(|_| self.shared.is_fenced) else {
            return false;
        };
        let holder = lease.lock().unwrap();
        let is_held = holder.until.is_some_and(|until| self.shared.clock.now() < until);
        is_held && holder.given[self.process].is_some_and(|given| given != holder.number)
    }

    fn failed(&self) -> StoreError {
        StoreError::Io {
            action: "use",
            place: "slot".into(),
            source: Arc::new(std::io::ErrorKind::StorageFull.into()),
        }
    }
}

#[async_trait]
impl TokenStore for Slot {
    async fn load(&self) -> Result<Option<Stored>, StoreError> {
        yield_now().await;
        if self.shared.happens(20) {
            return Err(self.failed());
        }
        let loaded = self.inner.load().await;
        yield_now().await;
        loaded
    }

    async fn save(
        &self,
        record: &Record,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        yield_now().await;
        let (session, generation) = token(&record.tokens);
        // The manager does not repeat a failed login, so a login does not fail here.
        let is_refresh = generation > 0 || precondition != Precondition::Anything;
        if is_refresh && self.shared.happens(6) {
            return Err(self.failed());
        }
        if is_refresh && self.is_overtaken() {
            return Err(StoreError::Conflict { place: "slot".into() });
        }
        let before = self.inner.load().await?.map(|stored| token(&stored.record.tokens));
        let saved = self.inner.save(record, precondition).await;
        self.shared.note(|| {
            let (intent, done) = (record.intent().map(Intent::at), saved.is_ok());
            let process = self.process;
            format!("{process} saves {session}.{generation}, intent {intent:?}, done: {done}")
        });
        let revision = saved?;
        if is_refresh {
            self.shared.check(before.is_some(), || "a cleared slot was filled again".to_owned());
            let is_newer = before.is_some_and(|it| it.0 == session && it.1 <= generation);
            self.shared
                .check(is_newer, || format!("{session}.{generation} was saved over {before:?}"));
            self.shared.check_told(record);
            if before.is_some_and(|it| it.1 < generation) {
                self.shared.spending.lock().unwrap()[self.process].clear();
            }
            if self.shared.happens(8) {
                return Err(StoreError::Conflict { place: "slot".into() });
            }
            if self.shared.happens(10) {
                return Err(self.failed());
            }
        }
        yield_now().await;
        Ok(revision)
    }

    async fn clear(&self, precondition: Precondition) -> Result<(), StoreError> {
        yield_now().await;
        self.inner.clear(precondition).await
    }

    async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
        yield_now().await;
        let Some(lease) = &self.shared.lease else { return self.inner.try_lease().await };
        let mut holder = lease.lock().unwrap();
        let now = self.shared.clock.now();
        if let Some(until) = holder.until {
            if now < until {
                return Ok(None);
            }
            let spent = self.shared.spending.lock().unwrap()[holder.process].clone();
            self.shared.excused.lock().unwrap().extend(spent);
        }
        let until = now + Duration::from_secs(30);
        holder.number += 1;
        let number = holder.number;
        holder.given[self.process] = Some(number);
        (holder.process, holder.until, holder.has_sent) = (self.process, Some(until), false);
        self.shared.note(|| format!("{} takes the lease {number}", self.process));
        let (shared, process) = (self.shared.clone(), self.process);
        Ok(Some(Box::new(SharedLease { shared, process, number, until })))
    }
}

/// A lease that ends at a deadline, like that of a server. Dropping it does not end it.
struct SharedLease {
    shared: Arc<Shared>,
    process: usize,
    number: u64,
    until: SystemTime,
}

impl Drop for SharedLease {
    fn drop(&mut self) {
        let lease = self.shared.lease.as_ref().expect("a shared slot");
        lease.lock().unwrap().given[self.process].take_if(|given| *given == self.number);
    }
}

impl std::fmt::Debug for SharedLease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedLease")
    }
}

impl SharedLease {
    /// Returns the lease, or `None` if it has passed to another process.
    fn holder(&self) -> Option<std::sync::MutexGuard<'_, Holder>> {
        let holder = self.shared.lease.as_ref().expect("a shared slot").lock().unwrap();
        (holder.number == self.number).then_some(holder)
    }
}

#[async_trait]
impl Lease for SharedLease {
    fn time_left(&self) -> Option<Duration> {
        Some(self.until.duration_since(self.shared.clock.now()).unwrap_or_default())
    }

    async fn renew(&mut self, time: Duration) -> Result<bool, StoreError> {
        yield_now().await;
        let until = self.shared.clock.now() + time + Duration::from_secs(5);
        let Some(mut holder) = self.holder() else { return Ok(false) };
        self.shared.note(|| format!("the lease {} is renewed for {time:?}", self.number));
        (holder.until, holder.has_sent) = (Some(until), false);
        drop(holder);
        self.until = until;
        Ok(true)
    }

    async fn release(self: Box<Self>) -> Result<(), StoreError> {
        yield_now().await;
        self.shared.note(|| format!("the lease {} is released", self.number));
        if let Some(mut holder) = self.holder() {
            holder.until = None;
        }
        Ok(())
    }
}

struct Process {
    runtime: Runtime,
    manager: TokenManager,
}

impl Process {
    fn start(slot: &MemoryStore, shared: &Arc<Shared>, process: usize) -> Self {
        let store = Slot { inner: slot.clone(), shared: shared.clone(), process };
        let provider = Provider { shared: shared.clone(), slot: slot.clone(), process };
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

fn play(seed: u64, is_traced: bool) -> u32 {
    let shared = Arc::new(Shared {
        clock: Clock::new(),
        random: Mutex::new(Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)),
        live: Mutex::default(),
        ended: Mutex::default(),
        excused: Mutex::default(),
        lease: seed.is_multiple_of(2).then(Mutex::default),
        is_fenced: seed.is_multiple_of(8),
        spending: Mutex::default(),
        violations: Mutex::default(),
        faults: Mutex::new(true),
        refreshes: Mutex::default(),
        is_traced,
    });
    let slot = MemoryStore::new();
    let mut processes: Vec<Process> =
        (0..PROCESSES).map(|number| Process::start(&slot, &shared, number)).collect();
    let below = |bound| shared.random.lock().unwrap().below(bound);
    for _ in 0..STEPS {
        let number = usize::try_from(below(PROCESSES as u64)).unwrap();
        let process = &processes[number];
        let manager = process.manager.clone();
        let told = shared.clone();
        let choice = below(60);
        shared.note(|| format!("{} process {number} does {choice}", shared.clock.date()));
        match choice {
            0 => {
                let tokens = shared.sign_in();
                process.run(async move { manager.set_tokens(tokens).await });
            }
            1 => process.run(async move { manager.clear().await }),
            2..=5 => {
                process.run(async move { told.check_answer(manager.get_access_token().await) });
            }
            6 => process.run(async move { told.check_answer(manager.refresh().await) }),
            12 | 14 => process.run(async move { manager.get_refresh_token().await }),
            // The user ends the session at the provider.
            13 if below(3) == 0 => {
                if let Ok(Some(there)) = crate::support::block_on(slot.load()) {
                    let (session, _) = token(&there.record.tokens);
                    if shared.live.lock().unwrap().insert(session, None).flatten().is_some() {
                        shared.ended.lock().unwrap().insert(session);
                    }
                }
            }
            7 => {
                if let Some(token) = manager.cached_access_token() {
                    manager.invalidate(&token);
                }
            }
            // A rekey does the same.
            11 => {
                let slot = slot.clone();
                process.run(async move {
                    if let Ok(Some(there)) = slot.load().await {
                        let _ =
                            slot.save(&there.record, Precondition::Unchanged(there.revision)).await;
                    }
                });
            }
            15..=17 => shared.end_lease(),
            8 => shared.clock.forward(below(40)),
            9 => shared.clock.forward(61 * 60),
            10 => {
                // A crash: the tasks of the process end before another process takes a step.
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

/// Lets all tasks end without faults, and checks the slot and the answers.
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
            Ok(_) => assert!(is_live, "a token of a dead session was returned"),
            Err(AuthError::LoginRequired { .. } | AuthError::RefreshTokenSpent { .. }) => {
                assert!(!is_live, "a live session was reported as dead");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn no_order_of_events_spends_a_token_twice_or_loses_tokens_or_a_doubt() {
    let mut refreshes = 0;
    for seed in 1..=WORLDS {
        let played = std::panic::catch_unwind(|| play(seed, false));
        refreshes += played.unwrap_or_else(|_| {
            // Pauses are random, so the second run can differ from the first.
            let again = std::panic::catch_unwind(|| play(seed, true));
            panic!("in world {seed}, and again: {}", again.is_err());
        });
    }
    assert!(u64::from(refreshes) > WORLDS, "only {refreshes} refreshes in {WORLDS} worlds");
}
