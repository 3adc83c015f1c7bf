//! A model of each user's tokens. It decides which answers are possible, from the start and end of all
//! orders.
//!
//! Times are microseconds of one clock. They are taken before an order is sent and after its answer has
//! arrived. So an answer that the model rejects is impossible, and not only unlikely.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::keychain::Keychain;

/// The time of an event.
pub(super) type Time = u64;

/// A session at the server: a login and its rotations.
pub(super) type SessionId = usize;

/// The end of an order that is not finished.
pub(super) const OPEN: Time = Time::MAX;

/// How long after a logout a refresh that began before it may still spend the refresh token.
const LATE: Time = 20_000_000;

/// The number of events of a user that are kept for the message of a failure.
const EVENTS: usize = 120;

pub(super) struct Session {
    pub(super) user: usize,
    /// The generation that the server accepts. `None` once the server has ended the session.
    pub(super) live: Option<u32>,
    /// The process that spent the generation before that.
    pub(super) spender: Option<Spender>,
    /// Whether the session was lost because its spender was killed.
    pub(super) lost: bool,
    /// The generations that were seen, with their times.
    seen: VecDeque<(Time, u32)>,
}

/// One life of a process, between its start and its end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Spender {
    pub(super) process: usize,
    pub(super) life: u32,
}

/// A login, or a logout if `what` is `None`.
struct Content {
    number: u64,
    what: Option<SessionId>,
    begin: Time,
    end: Time,
    /// Whether it certainly took effect.
    certain: bool,
}

/// An order without an answer so far.
struct Open {
    begin: Time,
    order: String,
    /// Whether a migration ran at some time during the order.
    moved: bool,
}

#[derive(Default)]
pub(super) struct User {
    contents: Vec<Content>,
    open: BTreeMap<u64, Open>,
    events: VecDeque<String>,
    /// Whether the tokens may now be in either place, or in both.
    pub(super) moving: bool,
    /// When the tokens last arrived in another place.
    pub(super) arrived: Time,
    /// Whether a client signed in, or out, during the move.
    pub(super) login_while_moving: bool,
    pub(super) logout_while_moving: bool,
    /// Whether an admin has reserved this user.
    pub(super) taken: bool,
    /// The place that is in use, 0 or 1.
    pub(super) at: usize,
}

impl User {
    pub(super) fn note(&mut self, now: Time, event: &str) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(format!("{:.6} {event}", now as f64 / 1e6));
    }

    pub(super) fn begin(&mut self, number: u64, now: Time, order: &str) {
        let moved = self.moving;
        self.open.insert(number, Open { begin: now, order: order.to_owned(), moved });
    }

    /// Ends an order. Returns when it began, and whether a migration ran during it.
    pub(super) fn end(&mut self, number: u64) -> (Time, bool) {
        let open = self.open.remove(&number).expect("it was begun");
        (open.begin, open.moved)
    }

    pub(super) fn is_signing_in(&self) -> bool {
        self.open.values().any(|open| open.order.starts_with("login"))
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn start_moving(&mut self) {
        self.moving = true;
        self.login_while_moving = self.is_signing_in();
        self.logout_while_moving = self.open.values().any(|open| open.order.starts_with("logout"));
        for open in self.open.values_mut() {
            open.moved = true;
        }
    }

    /// Begins a login or a logout.
    pub(super) fn write(&mut self, number: u64, what: Option<SessionId>, begin: Time) {
        self.contents.push(Content { number, what, begin, end: OPEN, certain: false });
    }

    pub(super) fn written(&mut self, number: u64, end: Time, certain: bool) {
        let content = self.contents.iter_mut().find(|content| content.number == number);
        let content = content.expect("it was begun");
        (content.end, content.certain) = (end, certain);
        self.forget(end);
    }

    /// Records the session that is certainly in the slot now.
    pub(super) fn settle(&mut self, number: u64, what: Option<SessionId>, now: Time) {
        self.contents.push(Content { number, what, begin: now, end: now, certain: true });
        self.forget(now);
    }

    /// Reports whether the slot may have held this session at some time between `from` and `to`.
    pub(super) fn may_hold(&self, what: Option<SessionId>, from: Time, to: Time) -> bool {
        self.contents.iter().filter(|content| content.what == what && content.begin <= to).any(
            |content| {
                let is_over = |later: &Content| {
                    later.certain && later.begin > content.end && later.end < from
                };
                !self.contents.iter().any(is_over)
            },
        )
    }

    /// Reports whether the slot may have held a session between `from` and `to` whose login took longer
    /// than `by`, so that its access token may have expired before it was saved.
    pub(super) fn may_be_late(&self, from: Time, to: Time, by: Time) -> bool {
        self.contents.iter().any(|content| {
            content.what.is_some()
                && content.end.min(to).saturating_sub(content.begin) > by
                && self.may_hold(content.what, from, to)
        })
    }

    /// Removes old entries that no later answer can be about.
    fn forget(&mut self, now: Time) {
        let oldest = self.open.values().map(|open| open.begin).min().unwrap_or(now).min(now);
        let horizon = oldest.saturating_sub(LATE + 5_000_000);
        let Some(last) = self
            .contents
            .iter()
            .filter(|content| content.certain && content.end < horizon)
            .map(|content| content.begin)
            .max()
        else {
            return;
        };
        self.contents.retain(|content| content.end >= last);
    }

    pub(super) fn describe(&self) -> String {
        let mut text = format!("at {} moving {} taken {}\n", self.at, self.moving, self.taken);
        for content in &self.contents {
            let Content { what, begin, end, certain, .. } = content;
            let _ = writeln!(text, "  held {what:?} from {begin} to {end}, certain {certain}");
        }
        for open in self.open.values() {
            let _ = writeln!(text, "  open since {}: {}", open.begin, open.order);
        }
        for event in &self.events {
            let _ = writeln!(text, "  {event}");
        }
        text
    }
}

impl Session {
    pub(super) fn new(user: usize) -> Self {
        Self { user, live: Some(0), spender: None, lost: false, seen: VecDeque::new() }
    }

    /// Records that this generation was in the slot.
    pub(super) fn see(&mut self, now: Time, generation: u32) {
        if self.seen.back().is_none_or(|last| last.1 < generation) {
            if self.seen.len() == 512 {
                self.seen.pop_front();
            }
            self.seen.push_back((now, generation));
        }
    }

    /// Returns the newest generation that was seen before this time.
    pub(super) fn seen_before(&self, time: Time) -> Option<u32> {
        self.seen.iter().rev().find(|seen| seen.0 < time).map(|seen| seen.1)
    }
}

/// Decides whether a process gets orders.
#[derive(Default)]
pub(super) struct Gate {
    /// The number of orders that the process works on.
    pub(super) at_work: usize,
    /// Whether it gets no more orders, because it is about to end.
    pub(super) closed: bool,
}

#[derive(Default)]
pub(super) struct World {
    pub(super) users: Vec<User>,
    pub(super) sessions: Vec<Session>,
    /// The lives of processes that ended by a kill.
    pub(super) killed: std::collections::HashSet<(usize, u32)>,
    pub(super) processes: Vec<Gate>,
    pub(super) failures: Vec<String>,
    pub(super) errors: BTreeMap<String, u64>,
    pub(super) operations: u64,
    pub(super) refreshes: u64,
    pub(super) kills: u64,
    pub(super) ends: u64,
    pub(super) spent_by_kills: u64,
    pub(super) retries_after_kills: u64,
    pub(super) logins: u64,
    pub(super) logouts: u64,
    pub(super) migrations: u64,
    pub(super) interrupted_migrations: u64,
    pub(super) restores: u64,
    pub(super) ended: bool,
    pub(super) keychain: Option<Arc<Keychain>>,
    began: Option<Instant>,
}

/// The decision of the server about a refresh token.
pub(super) enum Verdict {
    Rotated { generation: u32 },
    Rejected,
}

impl World {
    /// With a keychain, the first user starts in the second place, which is in the keychain.
    pub(super) fn new(
        users: usize,
        processes: usize,
        keychain: Option<Arc<Keychain>>,
        began: Instant,
    ) -> Self {
        let sealed = usize::from(keychain.is_some());
        let mut world = Self { keychain, began: Some(began), ..Self::default() };
        world.users.resize_with(users, User::default);
        world.processes.resize_with(processes, Gate::default);
        for (number, user) in world.users.iter_mut().enumerate() {
            user.at = usize::from(number < sealed || number % 2 == 1);
            user.settle(u64::MAX, None, 0);
        }
        world
    }

    pub(super) fn fail(&mut self, user: Option<usize>, what: &str) {
        let state = user.map_or_else(String::new, |user| {
            format!("\nuser {user}: {}", self.users[user].describe())
        });
        if self.failures.len() < 20 {
            self.failures.push(format!("{what}{state}"));
        }
        self.ended = true;
    }

    /// Reports whether the keychain may be the cause of this error, for an order that was given at `since`.
    /// The keychain may be too slow on a busy machine, and it may crash.
    pub(super) fn is_keychains_fault(&self, user: usize, kind: &str, since: Time) -> bool {
        let (Some(keychain), Some(began)) = (&self.keychain, self.began) else { return false };
        match kind {
            _ if user != 0 => false,
            "Timeout" | "Store.Timeout" => true,
            "Unavailable" | "Store.Unavailable" => {
                keychain.was_away(began + Duration::from_micros(since))
            }
            _ => false,
        }
    }

    pub(super) fn sign_in(&mut self, user: usize) -> SessionId {
        self.sessions.push(Session::new(user));
        self.logins += 1;
        self.sessions.len() - 1
    }

    /// Spends a refresh token. The second use of a token ends the session.
    pub(super) fn spend(
        &mut self,
        now: Time,
        by: Spender,
        id: SessionId,
        generation: u32,
    ) -> Verdict {
        let user = self.sessions[id].user;
        let event = format!("process {}.{} spends {id}-{generation}", by.process, by.life);
        self.users[user].note(now, &event);
        if !self.users[user].may_hold(Some(id), now.saturating_sub(LATE), now) {
            self.fail(Some(user), &format!("{event}, long after it was signed out"));
        }
        let session = &mut self.sessions[id];
        if session.live == Some(generation) {
            session.live = Some(generation + 1);
            session.spender = Some(by);
            self.refreshes += 1;
            return Verdict::Rotated { generation: generation + 1 };
        }
        // One more try is allowed after a process was killed that may have spent the token.
        let newest = session.seen.back().map_or(0, |seen| seen.1);
        let is_excused = session.lost
            || (session.live == Some(generation + 1)
                && newest <= generation
                && session.spender.is_some_and(|it| self.killed.contains(&(it.process, it.life))));
        let session = &mut self.sessions[id];
        session.live = None;
        if is_excused {
            if session.lost {
                self.retries_after_kills += 1;
            } else {
                self.spent_by_kills += 1;
            }
            session.lost = true;
        } else {
            self.fail(Some(user), &format!("{event}, which was spent without a kill"));
        }
        Verdict::Rejected
    }

    /// Checks an access token that a client received between these times. It may not have been saved yet.
    pub(super) fn judge_token(
        &mut self,
        user: usize,
        token: &str,
        from: Time,
        to: Time,
        by: Option<usize>,
    ) {
        let mut parts = token.split('-').skip(1).map(str::parse::<u64>);
        let (Some(Ok(id)), Some(Ok(generation))) = (parts.next(), parts.next()) else {
            return self.fail(Some(user), &format!("{token} is not a token of this test"));
        };
        let (id, generation) = (id as SessionId, generation as u32);
        if self.sessions[id].user != user {
            return self.fail(Some(user), &format!("{token} is another user's"));
        }
        if !self.users[user].may_hold(Some(id), from, to) {
            return self.fail(Some(user), &format!("{token} came back after it was replaced"));
        }
        let seen = self.sessions[id].seen_before(from);
        if seen.is_some_and(|seen| seen > generation) {
            return self.fail(Some(user), &format!("{token} is older than one seen before"));
        }
        // The process that refreshed the token may return it before it is saved.
        let session = &mut self.sessions[id];
        if by.is_none() || by != session.spender.map(|spender| spender.process) {
            session.see(to, generation);
        }
    }

    /// Checks an answer that there were no tokens between these times.
    pub(super) fn judge_nothing(&mut self, user: usize, from: Time, to: Time) {
        if !self.users[user].may_hold(None, from, to) {
            self.fail(Some(user), "the tokens are gone, and no client signed out");
        }
    }

    /// Checks an answer that the refresh token may be spent.
    pub(super) fn judge_spent(&mut self, user: usize, from: Time, to: Time) {
        let is_lost = |(id, session): (usize, &Session)| {
            session.user == user && session.lost && self.users[user].may_hold(Some(id), from, to)
        };
        if !self.sessions.iter().enumerate().rev().any(is_lost) {
            self.fail(Some(user), "a session counts as spent, although no kill has lost it");
        }
    }
}

impl World {
    /// Returns how often the keychain was started again.
    pub(super) fn crashes(&self) -> usize {
        self.keychain.as_ref().map_or(0, |keychain| keychain.restarts())
    }

    pub(super) fn summary(&self) -> String {
        format!(
            "{} operations, {} refreshes, {} logins, {} logouts; {} migrations, {} of them interrupted; \
             {} backups restored; {} kills, {} orderly ends; {} sessions spent by kills, {} more tries \
             of those; {} crashes of the keychain; errors: {:?}",
            self.operations,
            self.refreshes,
            self.logins,
            self.logouts,
            self.migrations,
            self.interrupted_migrations,
            self.restores,
            self.kills,
            self.ends,
            self.spent_by_kills,
            self.retries_after_kills,
            self.crashes(),
            self.errors,
        )
    }
}
