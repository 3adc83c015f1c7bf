//! What may be true of each user's tokens, judged from when everything began and ended.
//!
//! Times are microseconds of one clock, taken before an order is sent and after its answer came, so
//! that what the judge calls impossible is impossible, and not just unlikely.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::keychain::Keychain;

/// When something happened.
pub(super) type Time = u64;

/// A session at the server: one login and its rotations.
pub(super) type SessionId = usize;

/// Still under way.
pub(super) const OPEN: Time = Time::MAX;

/// How long a spend may still be on its way after the logout that ended its session: it was begun
/// before that.
const LATE: Time = 20_000_000;

/// How many events of a user are kept for the one who has to find out what went wrong.
const EVENTS: usize = 120;

pub(super) struct Session {
    pub(super) user: usize,
    /// The generation that the server accepts; none once it revoked the session.
    pub(super) live: Option<u32>,
    /// Who spent the generation before that.
    pub(super) spender: Option<Spender>,
    /// Whether it was lost because its spender was killed.
    pub(super) lost: bool,
    /// When which generation had been seen.
    seen: VecDeque<(Time, u32)>,
}

/// One life of a process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Spender {
    pub(super) process: usize,
    pub(super) life: u32,
}

/// A login, or a logout if it is of nothing.
struct Content {
    number: u64,
    what: Option<SessionId>,
    begin: Time,
    end: Time,
    /// Whether it is known to have taken effect.
    certain: bool,
}

/// An order that was not answered yet.
struct Open {
    begin: Time,
    order: String,
    /// Whether a migration ran at some time while this did.
    moved: bool,
}

#[derive(Default)]
pub(super) struct User {
    contents: Vec<Content>,
    open: BTreeMap<u64, Open>,
    events: VecDeque<String>,
    /// Whether the tokens may be in either place just now, or in both.
    pub(super) moving: bool,
    /// When they had last arrived in another place.
    pub(super) arrived: Time,
    /// Whether somebody signed in, or out, while they were.
    pub(super) login_while_moving: bool,
    pub(super) logout_while_moving: bool,
    /// Who has it to themselves.
    pub(super) taken: bool,
    /// Which of its two places is in use.
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

    /// Ends an order; tells when it began, and whether a migration ran meanwhile.
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

    /// Begins to replace what is there.
    pub(super) fn write(&mut self, number: u64, what: Option<SessionId>, begin: Time) {
        self.contents.push(Content { number, what, begin, end: OPEN, certain: false });
    }

    pub(super) fn written(&mut self, number: u64, end: Time, certain: bool) {
        let content = self.contents.iter_mut().find(|content| content.number == number);
        let content = content.expect("it was begun");
        (content.end, content.certain) = (end, certain);
        self.forget(end);
    }

    /// Notes what is known to be there.
    pub(super) fn settle(&mut self, number: u64, what: Option<SessionId>, now: Time) {
        self.contents.push(Content { number, what, begin: now, end: now, certain: true });
        self.forget(now);
    }

    /// Whether this may have been there at some time between these.
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

    /// Whether what was there at some time between these took longer than that to be put there: an
    /// access token may have expired on the way.
    pub(super) fn may_be_late(&self, from: Time, to: Time, by: Time) -> bool {
        self.contents.iter().any(|content| {
            content.what.is_some()
                && content.end.min(to).saturating_sub(content.begin) > by
                && self.may_hold(content.what, from, to)
        })
    }

    /// Forgets what nobody will ask about any more.
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

    /// Notes that this generation was in the slot.
    pub(super) fn see(&mut self, now: Time, generation: u32) {
        if self.seen.back().is_none_or(|last| last.1 < generation) {
            if self.seen.len() == 512 {
                self.seen.pop_front();
            }
            self.seen.push_back((now, generation));
        }
    }

    /// The newest generation that had been seen before then.
    pub(super) fn seen_before(&self, time: Time) -> Option<u32> {
        self.seen.iter().rev().find(|seen| seen.0 < time).map(|seen| seen.1)
    }
}

/// Who lets orders through to a process.
#[derive(Default)]
pub(super) struct Gate {
    /// How many orders it works on.
    pub(super) at_work: usize,
    /// Whether it takes no more, because it is about to end.
    pub(super) closed: bool,
}

#[derive(Default)]
pub(super) struct World {
    pub(super) users: Vec<User>,
    pub(super) sessions: Vec<Session>,
    /// Lives that ended by a kill.
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

/// What the server does with a refresh token.
pub(super) enum Verdict {
    Rotated { generation: u32 },
    Rejected,
}

impl World {
    /// `sealed` of the users begin in their second place.
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

    /// Whether it is the keychain's fault, and not ours, that an order failed which was given then: it
    /// need not answer in time on a machine that has a lot to do, and it may crash.
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

    /// Spends a refresh token, once; the second time it ends the session.
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
            self.fail(Some(user), &format!("{event}, which was signed out long before"));
        }
        let session = &mut self.sessions[id];
        if session.live == Some(generation) {
            session.live = Some(generation + 1);
            session.spender = Some(by);
            self.refreshes += 1;
            return Verdict::Rotated { generation: generation + 1 };
        }
        // The recovery's one try, after a process died that may have spent it.
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
            self.fail(Some(user), &format!("{event}, which was spent, and nobody had died"));
        }
        Verdict::Rejected
    }

    /// Judges an access token that somebody got between these times, and maybe before it was saved.
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
            return self.fail(Some(user), &format!("{token} is no token of ours"));
        };
        let (id, generation) = (id as SessionId, generation as u32);
        if self.sessions[id].user != user {
            return self.fail(Some(user), &format!("{token} is another user's"));
        }
        if !self.users[user].may_hold(Some(id), from, to) {
            return self.fail(Some(user), &format!("{token} was brought back from the dead"));
        }
        let seen = self.sessions[id].seen_before(from);
        if seen.is_some_and(|seen| seen > generation) {
            return self.fail(Some(user), &format!("{token} is older than what was there"));
        }
        // Who just refreshed it hands it out even if it is not saved yet.
        let session = &mut self.sessions[id];
        if by.is_none() || by != session.spender.map(|spender| spender.process) {
            session.see(to, generation);
        }
    }

    /// Judges that somebody found nothing between these times.
    pub(super) fn judge_nothing(&mut self, user: usize, from: Time, to: Time) {
        if !self.users[user].may_hold(None, from, to) {
            self.fail(Some(user), "the tokens are gone, and nobody signed out");
        }
    }

    /// Judges that the refresh token may be spent.
    pub(super) fn judge_spent(&mut self, user: usize, from: Time, to: Time) {
        let is_lost = |(id, session): (usize, &Session)| {
            session.user == user && session.lost && self.users[user].may_hold(Some(id), from, to)
        };
        if !self.sessions.iter().enumerate().rev().any(is_lost) {
            self.fail(Some(user), "a session was given up that no kill has cost");
        }
    }
}

impl World {
    /// How often the keychain had to be started again.
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
