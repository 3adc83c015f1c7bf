//! An exhaustive model of the refresh protocol.
//!
//! A configuration has one slot (two in a migration), a lease, two or three processes, a provider, and a
//! small number of failures. A breadth-first search visits every state that these can reach, and checks the
//! invariants in each. A second test breaks one rule of the protocol at a time. Each time an invariant must
//! fail.
//!
//! The model has the lease, the intent, every send and every answer, each load, save and clear of a refresh
//! and of a migration, and how each can fail. It also has logins, logouts, rekeys, kills, writes that arrive
//! late, leases that lapse, and a provider that rotates, that has a grace period, or that does not rotate.
//!
//! The model does not have the code of the crate, time and pauses, the access token, throttles, backups, and
//! how a store keeps its promises. `refresh_model.rs` runs the code itself.
//!
//! A process does not store a revision. It stores whether the slot is unchanged since it last knew it, which
//! is what `Unchanged(revision)` compares. A stopped process is one that takes its next step late, so it needs
//! no state of its own. A partition is a series of failed loads and saves. After the check of the permit,
//! a request reaches the provider at once or never.

mod migration;
mod steps;

use std::collections::HashMap;

const SENT_ONCE: &str = "one process at a time sends a refresh token, and no other process sends it while its \
                         successor is unsaved";
const KNOWN: &str =
    "a spent refresh token is sent only by a process that knows that it may be spent";
const TOLD: &str = "a spent refresh token in a slot has an intent";
const PLAIN: &str = "a plain \"sign in again\" is reported only if no earlier send left a doubt";
const GIVEN_UP: &str = "a session that still works is not given up";
const LOGOUT: &str = "a logout is never undone";
const LOGIN: &str = "a login is never overwritten by an older refresh";
const KEPT: &str = "a rotated refresh token that was received is saved, unless its process dies or somebody \
                    signs in or out";
const SOMEWHERE: &str =
    "no failure deletes tokens: they are in at least one slot until somebody signs out";
const ONE_COPY: &str = "a migration that is done leaves one copy";
const STUCK: &str = "every refresh ends once there are no more failures";

/// An event. A configuration limits how often it can happen.
#[derive(Clone, Copy)]
enum Event {
    /// An answer of the provider is lost, or is a 429 or a 503.
    Network,
    Crash,
    /// A load fails, or a save fails. A save that failed may have been done.
    Store,
    /// A save fails, and its write reaches the server later.
    Late,
    /// The deadline of a shared slot's lease passes while its holder still runs.
    Lapse,
    Login,
    Logout,
    /// The record is sealed to another key. Any other program that rewrites the same tokens does the same.
    Rekey,
    /// The user ends the session at the provider.
    Revoke,
    /// A save reports success, and nothing is saved.
    Forget,
}
use Event::{Crash, Forget, Lapse, Late, Login, Logout, Network, Rekey, Revoke, Store};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Provider {
    Rotates,
    /// Also accepts the previous refresh token while its successor is unused.
    HasGracePeriod,
    DoesNotRotate,
}

struct Configuration {
    name: &'static str,
    /// Whether the lease has a deadline and writes can be late. Otherwise the slot is a file.
    is_shared: bool,
    provider: Provider,
    processes: usize,
    /// How many refreshes each process starts.
    refreshes: u8,
    migrates: bool,
    events: &'static [(Event, u8)],
    /// The minimum number of states. If there are fewer, something in the model no longer happens.
    at_least: usize,
    /// The rule of the protocol that this configuration breaks on purpose.
    mutation: Option<&'static str>,
}

/// An access token and a refresh token. Each login starts a family, and each refresh increases the number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Tokens {
    family: u8,
    number: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Record {
    tokens: Tokens,
    /// The process that wrote the intent for these tokens.
    intent: Option<u8>,
    is_rejected: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Slot {
    record: Option<Record>,
    holder: Option<u8>,
    /// A write that is on its way to the server.
    late: Option<Record>,
}

/// The next step of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum At {
    #[default]
    Idle,
    TakeLease,
    Load,
    SaveIntent,
    Send,
    SaveSuccessor,
    LoadAfterConflict,
    LoadAfterRejection,
    /// The value says whether the refresh token was rejected.
    EndIntent(bool),
    SaveCopy,
    VerifyCopy,
    ClearSource,
    Release,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Process {
    at: At,
    refreshes_left: u8,
    /// The tokens that were due, and under the lease the tokens that are sent.
    tokens: Tokens,
    successor: Option<Tokens>,
    /// For each slot, whether it is unchanged since this process last read or wrote it.
    is_unchanged: [bool; 2],
    /// Whether the refresh token may be spent: there was an intent, or an answer is missing.
    has_doubt: bool,
    has_sent: bool,
    asked_again: bool,
    lease_lapsed: bool,
    /// The record that a migration moves, and the one that it saved in the target.
    source: Option<Record>,
    copy: Option<Record>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Family {
    /// The number of the refresh token that is accepted.
    Live(u8),
    /// The provider ended the session because a refresh token was sent twice.
    Reused,
    #[default]
    Revoked,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    slots: [Slot; 2],
    processes: [Process; 3],
    families: [Family; 3],
    logins: u8,
    /// Each family before this one was ended by a login or a logout.
    current: u8,
    is_signed_out: bool,
    events_left: [u8; 10],
    violated: Option<&'static str>,
}

/// Stands for everything outside the processes of the model.
const OUTSIDE: usize = 9;

#[derive(Clone, Copy)]
struct Step {
    who: usize,
    what: &'static str,
    is_event: bool,
}

impl Configuration {
    fn breaks(&self, rule: &str) -> bool {
        self.mutation == Some(rule)
    }

    fn start(&self) -> State {
        let mut state = State { logins: 1, ..State::default() };
        state.families[0] = Family::Live(0);
        state.slots[0].record = Some(Record::default());
        for process in &mut state.processes[..self.processes] {
            process.refreshes_left = self.refreshes;
        }
        if self.migrates {
            state.processes[self.processes].refreshes_left = 1;
        }
        for (event, times) in self.events {
            state.events_left[*event as usize] = *times;
        }
        state
    }

    fn write(&self, state: &mut State, slot: usize, who: Option<usize>, record: Option<Record>) {
        state.slots[slot].record = record;
        self.change_version(state, slot);
        for (number, process) in state.processes.iter_mut().enumerate() {
            process.is_unchanged[slot] = who == Some(number);
        }
        // A migration is checked when it is done.
        let is_copy = self.migrates && who == Some(self.processes);
        if record.is_some_and(|record| record.tokens.family < state.current) && !is_copy {
            state.violate(if state.is_signed_out { LOGOUT } else { LOGIN });
        }
    }

    /// A late write compares the version of the whole row, and the lease is part of the row.
    fn change_version(&self, state: &mut State, slot: usize) {
        if !self.breaks("late writes compare nothing") {
            state.slots[slot].late = None;
        }
    }

    fn same_refresh_token(&self, one: Tokens, other: Tokens) -> bool {
        one == other || (self.provider == Provider::DoesNotRotate && one.family == other.family)
    }

    fn is_live(&self, state: &State, tokens: Tokens) -> bool {
        let Family::Live(number) = state.families[usize::from(tokens.family)] else { return false };
        self.same_refresh_token(tokens, Tokens { number, ..tokens })
    }

    /// Returns the invariant that fails in this state, if any. Each step checks further invariants.
    fn check(&self, state: &State) -> Option<&'static str> {
        let mut records = state.slots.iter().filter_map(|slot| slot.record);
        let is_told = |record: Record| {
            let family = state.families[usize::from(record.tokens.family)];
            let is_plain = family == Family::Revoked || self.is_live(state, record.tokens);
            is_plain || record.intent.is_some()
        };
        if state.violated.is_some() {
            return state.violated;
        }
        if !records.clone().all(is_told) {
            return Some(TOLD);
        }
        let is_lost = !records.any(|record| record.tokens.family >= state.current);
        (is_lost && !state.is_signed_out).then_some(SOMEWHERE)
    }

    /// Visits every state and returns their number, or the invariant that fails and the steps to it.
    fn explore(&self) -> Result<usize, (&'static str, String)> {
        let start = self.start();
        let (mut states, mut parents) = (vec![start], vec![None]);
        let mut numbers = HashMap::from([(start, 0)]);
        // For each state, the states from which one step without a failure leads to it.
        let mut before: Vec<Vec<usize>> = vec![Vec::new()];
        let mut number = 0;
        while number < states.len() {
            let from = states[number];
            for (step, state) in self.steps(&from) {
                let next = *numbers.entry(state).or_insert(states.len());
                if next == states.len() {
                    states.push(state);
                    parents.push(Some((number, step)));
                    before.push(Vec::new());
                    if let Some(violated) = self.check(&state) {
                        return Err((violated, trace(&parents, next)));
                    }
                }
                if !step.is_event {
                    before[next].push(number);
                }
            }
            number += 1;
        }
        // From each state, steps without a failure lead to one in which no process is at work.
        let is_quiet = |state: &State| state.processes.iter().all(|process| process.at == At::Idle);
        let mut ends: Vec<bool> = states.iter().map(is_quiet).collect();
        let mut open: Vec<usize> = (0..states.len()).filter(|number| ends[*number]).collect();
        while let Some(number) = open.pop() {
            for earlier in &before[number] {
                if !std::mem::replace(&mut ends[*earlier], true) {
                    open.push(*earlier);
                }
            }
        }
        match ends.iter().position(|ends| !ends) {
            Some(stuck) => Err((STUCK, trace(&parents, stuck))),
            None => Ok(states.len()),
        }
    }
}

impl State {
    fn violate(&mut self, invariant: &'static str) {
        self.violated.get_or_insert(invariant);
    }

    fn free(&mut self, slot: usize, who: usize) {
        let holder = &mut self.slots[slot].holder;
        *holder = holder.filter(|holder| usize::from(*holder) != who);
    }

    /// A refresh ends, or its process dies: its leases are free, and its memory is gone. In a shared slot the
    /// lease of a dead process ends later. That is the same as a next holder that begins later.
    fn end(&mut self, who: usize) {
        (0..2).for_each(|slot| self.free(slot, who));
        let refreshes_left = self.processes[who].refreshes_left;
        self.processes[who] = Process { refreshes_left, ..Process::default() };
    }
}

/// The steps from the start to a state.
fn trace(parents: &[Option<(usize, Step)>], mut number: usize) -> String {
    let mut lines = Vec::new();
    while let Some((parent, Step { who, what, .. })) = parents[number] {
        lines.push(if who == OUTSIDE { what.into() } else { format!("process {who} {what}") });
        number = parent;
    }
    lines.reverse();
    lines.join("\n")
}

fn configuration(
    name: &'static str,
    events: &'static [(Event, u8)],
    at_least: usize,
) -> Configuration {
    Configuration {
        name,
        is_shared: name.starts_with("shared"),
        provider: Provider::Rotates,
        processes: 2,
        refreshes: if name.starts_with("migration") { 1 } else { 2 },
        migrates: name.starts_with("migration"),
        events,
        at_least,
        mutation: None,
    }
}

fn configurations() -> Vec<Configuration> {
    let of = configuration;
    let three = of("file: three processes", &[(Network, 1), (Crash, 1), (Store, 1)], 9_000);
    let late = of("shared: late", &[(Late, 2), (Lapse, 1), (Login, 1), (Logout, 2)], 30_000);
    let constant = of("shared: no rotation", &[(Lapse, 1), (Network, 1), (Store, 1)], 50_000);
    let grace = of("shared: grace period", &[(Lapse, 1), (Network, 2), (Store, 1)], 60_000);
    vec![
        of("file: kills", &[(Network, 2), (Crash, 2)], 10_000),
        of("file: failures", &[(Store, 3), (Network, 1), (Crash, 1), (Rekey, 1)], 60_000),
        of(
            "file: logins",
            &[(Login, 1), (Logout, 1), (Rekey, 1), (Store, 1), (Network, 1)],
            120_000,
        ),
        of("file: revoked", &[(Revoke, 1), (Network, 1), (Crash, 1), (Store, 1)], 20_000),
        Configuration { processes: 3, refreshes: 1, ..three },
        of("shared: stops", &[(Lapse, 2), (Network, 1), (Crash, 1)], 80_000),
        of("shared: partitions", &[(Lapse, 1), (Store, 2), (Late, 1), (Rekey, 1)], 100_000),
        Configuration { refreshes: 1, ..late },
        Configuration { provider: Provider::DoesNotRotate, ..constant },
        Configuration { provider: Provider::HasGracePeriod, ..grace },
        of("migration: kills", &[(Crash, 2), (Store, 2), (Forget, 1), (Network, 1)], 20_000),
        of("migration: logins", &[(Login, 1), (Logout, 1), (Rekey, 1), (Network, 1)], 5_000),
    ]
}

#[test]
fn the_protocol_keeps_every_invariant_in_every_order_of_steps() {
    for config in configurations() {
        match config.explore() {
            Ok(states) => {
                assert!(states >= config.at_least, "{}: only {states} states", config.name);
            }
            Err((invariant, trace)) => panic!("{}: violated: {invariant}\n{trace}", config.name),
        }
    }
}

#[test]
fn each_broken_rule_violates_an_invariant() {
    let expected = [
        ("a conflict is taken for success", "file: failures", KEPT),
        ("a stored rejection forgets the doubt", "file: kills", PLAIN),
        ("a failed load is taken for a logout", "file: failures", KEPT),
        ("no intent is written", "file: kills", TOLD),
        ("the intent of another holder is dropped", "shared: stops", TOLD),
        ("a 503 removes the intent", "file: kills", TOLD),
        ("a rejection removes an earlier intent", "file: kills", TOLD),
        ("late writes compare nothing", "shared: late", LOGOUT),
        ("the lease is never released", "migration: logins", STUCK),
        ("the lease is not kept while unsaved", "file: failures", SENT_ONCE),
        ("a logout of an empty slot writes nothing", "shared: late", LOGOUT),
        ("a migration drops the intent", "migration: kills", TOLD),
        ("a migration ignores a conflict", "migration: logins", ONE_COPY),
        ("a migration takes no lease", "migration: kills", TOLD),
        ("the permit is not checked", "shared: stops", SENT_ONCE),
        ("a refresh starts from unsaved tokens", "file: failures", TOLD),
        ("a refresh starts from unsaved tokens", "shared: no rotation", SENT_ONCE),
        ("a rejection is reported after a failed load", "file: logins", GIVEN_UP),
        ("the source is cleared before the copy is read", "migration: kills", SOMEWHERE),
        ("the successor is saved with Anything", "file: logins", LOGIN),
        ("tokens read before the lease are sent", "file: kills", KNOWN),
    ];
    for (mutation, name, invariant) in expected {
        let config = configurations().into_iter().find(|config| config.name == name).unwrap();
        let found = Configuration { mutation: Some(mutation), ..config }.explore();
        let violated = found.err().map(|(violated, _)| violated);
        assert_eq!(violated, Some(invariant), "{name}: {mutation}");
    }
}
