//! Clients: each gives one process one order after the other.

use std::thread;
use std::time::{Duration, SystemTime};

use super::model::{Time, World};
use super::{LAZINESS, PATIENCE, Random, Soak, USERS, server};

/// Of 1000 orders, those from this number on are logins and logouts.
const LOGIN: u64 = 986;

/// A caller that has waited this long for another process may get an error about the timeout.
const BRIEFLY: Time = 5_000_000;

/// If an order takes longer, the machine is slow: half of the life of a token is over when it arrives.
const SLOW: Time = 1_500_000;

/// An order, and its times.
pub(super) struct Asked {
    pub(super) user: usize,
    pub(super) begin: Time,
    /// The earliest time whose state the answer may show.
    pub(super) from: Time,
    pub(super) to: Time,
    /// The process that was asked, if it may know newer tokens than the store has.
    pub(super) by: Option<usize>,
    /// Whether the tokens were being moved during the order.
    pub(super) moved: bool,
    /// The token must not have expired before this time of the wall clock.
    pub(super) good_at: Option<SystemTime>,
}

pub(super) fn run(soak: &Soak, process: usize, mut random: Random) {
    // A user whose tokens were missing or spent. This client may sign the user in.
    let mut signed_out = None;
    while !soak.is_over() {
        thread::sleep(Duration::from_millis(random.below(30)));
        let (user, manager) = (random.index(USERS), random.index(3));
        let (kind, amount) = (random.below(1000), random.below(8) + 1);
        let signs_in = random.below(3) == 0;
        let (user, kind) = match signed_out.take() {
            Some(user) if signs_in => (user, LOGIN),
            _ => (user, kind),
        };
        let mut world = soak.world();
        // Choose a user who is not reserved by an admin.
        let user = loop {
            let mut users = (0..USERS).map(|add| (user + add) % USERS);
            match users.find(|&user| !world.users[user].taken) {
                Some(user) if !world.processes[process].closed => break user,
                _ if world.ended => return,
                _ => world = soak.changed.wait_timeout(world, PATIENCE).unwrap().0,
            }
        };
        let (number, place) = (soak.number(), USERS * world.users[user].at + user);
        let begin = soak.now();
        let mut session = None;
        // Only one client at a time signs a user in.
        let kind = if kind == LOGIN && world.users[user].is_signing_in() { 0 } else { kind };
        let order = match kind {
            0..500 => format!("access {place} {manager} {amount}"),
            500..580 => format!("give-up {place} {manager} {}", amount * 2),
            580..800 => format!("refresh {place} {manager}"),
            800..880 => format!("invalidate {place} {manager}"),
            880..LOGIN => format!("load {place}"),
            LOGIN..996 => {
                let new = world.sign_in(user);
                world.users[user].login_while_moving |= world.users[user].moving;
                world.users[user].write(number, Some(new), begin);
                session = Some(new);
                format!("login {place} {manager} {}", server::tokens(new, 0))
            }
            _ => {
                world.logouts += 1;
                world.users[user].logout_while_moving |= world.users[user].moving;
                world.users[user].write(number, None, begin);
                format!("logout {place} {manager}")
            }
        };
        let writes = kind >= LOGIN;
        world.users[user].begin(number, begin, &order);
        world.processes[process].at_work += 1;
        drop(world);
        let good_at = (!order.starts_with("load")).then(SystemTime::now);
        let answer = soak.ask(process, Some(user), &order);

        let mut world = soak.world();
        let to = soak.now();
        let (_, moved) = world.users[user].end(number);
        let answered = answer.as_deref().unwrap_or("died");
        let event = format!("process {process} {order} since {begin}: {answered}");
        world.users[user].note(to, &event);
        world.processes[process].at_work -= 1;
        world.operations += 1;
        if writes {
            soak.log(&event);
            let is_done = answer.as_ref().is_some_and(|answer| answer.starts_with("ok "));
            // A migration also moves a new login. But a logout may come after the tokens have left.
            world.users[user].written(number, to, is_done && (session.is_some() || !moved));
        }
        let mut from = begin.saturating_sub(if manager == 2 { LAZINESS } else { 0 });
        if user == 0 {
            // While the keychain does not answer, a manager returns its last token until that expires.
            from = from.saturating_sub(LAZINESS + server::LIFETIME.as_micros() as Time);
        }
        let moved = moved || from < world.users[user].arrived;
        let by = good_at.map(|_| process);
        let asked = Asked { user, begin, from, to, by, moved, good_at };
        if let Some(answer) = &answer {
            // An `access` order has one answer for each task, other orders have one.
            let answers = answer.strip_prefix("ok ").filter(|_| kind < 500).unwrap_or(answer);
            for answer in answers.split('\t') {
                asked.judge(&mut world, answer);
                let is_out = ["error TokenNotFound", "error RefreshTokenSpent"];
                if is_out.iter().any(|out| answer.starts_with(out)) {
                    signed_out = Some(user);
                }
            }
        }
        drop(world);
        soak.changed.notify_all();
    }
}

impl Asked {
    /// Judges one answer.
    pub(super) fn judge(&self, world: &mut World, answer: &str) {
        let &Self { user, from, to, .. } = self;
        if let Some(error) = answer.strip_prefix("error ") {
            let kind = error.split(':').next().unwrap();
            *world.errors.entry(kind.to_owned()).or_default() += 1;
            match kind {
                "Refresh.Transient" => {}
                _ if world.is_keychains_fault(user, kind, self.begin) => {}
                "RefreshTokenSpent" => world.judge_spent(user, from, to),
                "TokenExpired" if self.is_slow(world) => {}
                "Store.Timeout" if self.to - self.begin >= BRIEFLY => {}
                "TokenNotFound" => self.judge_nothing(world),
                _ => world.fail(Some(user), &format!("unexpected error: {error}")),
            }
            return;
        }
        match answer.strip_prefix("ok ") {
            Some("gave up" | "signed in" | "signed out") => {}
            Some("none") => self.judge_nothing(world),
            Some(token) => {
                world.judge_token(user, token, from, to, self.by);
                let is_bad = self.good_at.is_some_and(|at| server::expiry(token) < at);
                if is_bad && !self.is_slow(world) {
                    world.fail(Some(user), &format!("{token} had expired when it was asked for"));
                }
            }
            None => world.fail(Some(user), &format!("unexpected answer: {answer}")),
        }
    }

    /// Reports whether an access token may have expired before it was saved, or before the caller got it.
    fn is_slow(&self, world: &World) -> bool {
        self.to - self.begin > SLOW || world.users[self.user].may_be_late(self.from, self.to, SLOW)
    }

    fn judge_nothing(&self, world: &mut World) {
        // During a migration, the tokens may already be gone from one place, or not yet be at the other.
        if !self.moved {
            world.judge_nothing(self.user, self.from, self.to);
        }
    }
}
