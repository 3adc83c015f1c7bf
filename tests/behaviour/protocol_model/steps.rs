//! All steps that are possible in a state: the steps of a refresh, and events from outside.

use super::Event::{Crash, Lapse, Late, Login, Logout, Network, Rekey, Revoke, Store};
use super::{
    At, Configuration, Event, Family, GIVEN_UP, KEPT, KNOWN, OUTSIDE, PLAIN, Process, Provider,
    Record, SENT_ONCE, Slot, State, Step, Tokens,
};

/// The steps that are possible in a state.
pub(super) struct Steps<'a> {
    config: &'a Configuration,
    pub(super) from: &'a State,
    found: Vec<(Step, State)>,
}

impl Steps<'_> {
    pub(super) fn add(&mut self, who: usize, what: &'static str, change: impl FnOnce(&mut State)) {
        let mut state = *self.from;
        change(&mut state);
        self.found.push((Step { who, what, is_event: false }, state));
    }

    pub(super) fn event(
        &mut self,
        event: Event,
        who: usize,
        what: &'static str,
        change: impl Fn(&mut State),
    ) {
        let mut state = *self.from;
        if let Some(left) = state.events_left[event as usize].checked_sub(1) {
            state.events_left[event as usize] = left;
            change(&mut state);
            self.found.push((Step { who, what, is_event: true }, state));
        }
    }

    /// Adds a save or a clear, and each way in which it can fail.
    pub(super) fn write(
        &mut self,
        (who, what): (usize, &'static str),
        slot: usize,
        record: Option<Record>,
        done: impl Fn(&mut State),
        failed: impl Fn(&mut State),
    ) {
        let config = self.config;
        self.add(who, what, |state| {
            config.write(state, slot, Some(who), record);
            done(state);
        });
        self.event(Store, who, "fails to write, and nothing is written", &failed);
        self.event(Store, who, "writes, and gets an error all the same", |state| {
            config.write(state, slot, None, record);
            failed(state);
        });
        if config.is_shared {
            self.event(Late, who, "abandons a write that is on its way", |state| {
                state.slots[slot].late = record;
                failed(state);
            });
        }
    }
}

impl Configuration {
    /// Returns every step that is possible, and the state that it leads to.
    pub(super) fn steps(&self, from: &State) -> Vec<(Step, State)> {
        let mut steps = Steps { config: self, from, found: Vec::new() };
        let migration = self.processes;
        // An interrupted migration is run again before a process uses the tokens, as its documentation asks.
        let is_half_moved = self.migrates
            && from.slots.iter().all(|slot| slot.record.is_some())
            && from.slots.iter().any(|slot| slot.holder.map(usize::from) != Some(migration));
        for who in 0..self.processes {
            if !is_half_moved || !matches!(from.processes[who].at, At::Idle | At::TakeLease) {
                self.refresh(&mut steps, who);
            }
        }
        if self.migrates {
            self.migrate(&mut steps, migration);
        }
        if !is_half_moved {
            self.sign_in_or_out(&mut steps);
        }
        for who in 0..3 {
            if from.processes[who].at != At::Idle {
                steps.event(Crash, who, "is killed", |state| state.end(who));
            }
        }
        for slot in 0..2 {
            if let Some(record) = from.slots[slot].late {
                steps.add(OUTSIDE, "a late write arrives", |state| {
                    if record.tokens.family > state.current {
                        (state.current, state.is_signed_out) = (record.tokens.family, false);
                    }
                    self.write(state, slot, None, Some(record));
                    state.slots[slot].late = None;
                });
            }
            if let (Some(holder), true) = (from.slots[slot].holder, self.is_shared) {
                let holder = usize::from(holder);
                steps.event(Lapse, holder, "does nothing until its lease has lapsed", |state| {
                    state.slots[slot].holder = None;
                    state.processes[holder].lease_lapsed = true;
                });
            }
        }
        if from.slots[0].record.is_some() {
            steps.event(Rekey, OUTSIDE, "the record is sealed to another key", |state| {
                self.write(state, 0, None, state.slots[0].record);
            });
        }
        if let Some(Family::Live(_)) = from.families.get(usize::from(from.current)) {
            steps.event(Revoke, OUTSIDE, "the provider ends the session", |state| {
                state.families[usize::from(state.current)] = Family::Revoked;
            });
        }
        steps.found
    }

    fn sign_in_or_out(&self, steps: &mut Steps) {
        let login = |state: &mut State| {
            let tokens = Tokens { family: state.logins, number: 0 };
            state.families[usize::from(state.logins)] = Family::Live(0);
            state.logins += 1;
            Some(Record { tokens, ..Record::default() })
        };
        // Once a migration is done, its source is no longer used.
        if !self.migrates || steps.from.processes[self.processes].refreshes_left > 0 {
            steps.event(Login, OUTSIDE, "somebody signs in", |state| {
                (state.current, state.is_signed_out) = (state.logins, false);
                let record = login(state);
                self.write(state, 0, None, record);
            });
            steps.event(Logout, OUTSIDE, "somebody signs out", |state| {
                (state.current, state.is_signed_out) = (state.logins, true);
                let writes_nothing = self.breaks("a logout of an empty slot writes nothing");
                if state.slots[0].record.is_some() || !writes_nothing {
                    self.write(state, 0, None, None);
                }
            });
        }
        if self.is_shared && steps.from.events_left[Late as usize] > 0 {
            steps.event(Login, OUTSIDE, "somebody abandons a login that is on its way", |state| {
                state.events_left[Late as usize] -= 1;
                state.slots[0].late = login(state);
            });
        }
    }

    /// Adds the next step of a refresh.
    fn refresh(&self, steps: &mut Steps, who: usize) {
        let (from, me, name) = (steps.from, steps.from.processes[who], u8::try_from(who).unwrap());
        // In a migration, the second process uses the target.
        let slot = usize::from(self.migrates && who == 1);
        let Slot { record: there, holder, .. } = from.slots[slot];
        let holds_lease = holder == Some(name);
        let go = |at: At| move |state: &mut State| state.processes[who].at = at;
        match me.at {
            At::Idle => {
                if let (Some(record), Some(left)) = (there, me.refreshes_left.checked_sub(1)) {
                    steps.add(who, "finds due tokens", |state| {
                        let me = &mut state.processes[who];
                        (me.at, me.refreshes_left, me.tokens) =
                            (At::TakeLease, left, record.tokens);
                    });
                }
            }
            At::TakeLease if holder.is_some() => {}
            At::TakeLease => steps.add(who, "takes the lease", |state| {
                state.slots[slot].holder = Some(name);
                self.change_version(state, slot);
                let me = &mut state.processes[who];
                (me.at, me.lease_lapsed) = (At::Load, false);
            }),
            At::Load => {
                steps.event(Store, who, "fails to load", go(At::Release));
                let Some(record) = there else {
                    return steps.add(who, "finds an empty slot", go(At::Release));
                };
                if record.tokens != me.tokens
                    && !self.breaks("tokens read before the lease are sent")
                {
                    return steps.add(who, "finds newer tokens", go(At::Release));
                }
                steps.add(who, "loads", |state| {
                    let me = &mut state.processes[who];
                    (me.at, me.is_unchanged[slot]) = (At::SaveIntent, true);
                    me.has_doubt = record.intent.is_some();
                    if record.is_rejected {
                        me.at = At::Release;
                        me.has_doubt &= !self.breaks("a stored rejection forgets the doubt");
                        self.tell_sign_in_again(state, who);
                    } else if self.breaks("no intent is written") {
                        me.at = At::Send;
                    }
                });
            }
            At::SaveIntent => match there.filter(|_| me.is_unchanged[slot]) {
                _ if !holds_lease => steps.add(who, "has lost its lease", go(At::TakeLease)),
                None => steps.add(who, "meets a conflict", go(At::Load)),
                Some(record) => {
                    let record = Some(Record { intent: Some(name), ..record });
                    let step = (who, "saves the intent");
                    steps.write(step, slot, record, go(At::Send), go(At::Release));
                }
            },
            At::Send => {
                let is_unchecked = self.breaks("the permit is not checked")
                    || (self.breaks("a refresh starts from unsaved tokens")
                        && me.successor.is_some());
                if holds_lease || is_unchecked {
                    return self.send(steps, who);
                }
                let next = if me.has_sent { At::Release } else { At::TakeLease };
                steps.add(who, "may no longer send", go(next));
            }
            At::SaveSuccessor => {
                if !me.is_unchanged[slot] && self.breaks("a conflict is taken for success") {
                    return steps.add(who, "meets a conflict", |state| self.give_up(state, who));
                }
                if !me.is_unchanged[slot] && !self.breaks("the successor is saved with Anything") {
                    return steps.add(who, "meets a conflict", go(At::LoadAfterConflict));
                }
                let intent = me.has_doubt.then_some(name);
                let record =
                    me.successor.map(|tokens| Record { tokens, intent, is_rejected: false });
                let failed = |state: &mut State| {
                    if self.breaks("the lease is not kept while unsaved") {
                        state.free(slot, who);
                    }
                    if self.breaks("a refresh starts from unsaved tokens") {
                        let me = &mut state.processes[who];
                        (me.at, me.tokens) = (At::Send, me.successor.unwrap());
                    }
                };
                steps.write((who, "saves the successor"), slot, record, go(At::Release), failed);
            }
            At::LoadAfterConflict => {
                steps.event(Store, who, "fails to load", |state| {
                    if self.breaks("a failed load is taken for a logout") {
                        self.give_up(state, who);
                    }
                });
                match there {
                    Some(record) if Some(record.tokens) == me.successor => {
                        steps.add(who, "finds its own successor", go(At::Release));
                    }
                    Some(record) if record.tokens == me.tokens => {
                        // The other holder may have sent the token too, and the successor may be revoked.
                        let has_doubt = record.intent.is_some_and(|intent| intent != name)
                            && !self.breaks("the intent of another holder is dropped");
                        steps.add(who, "finds the tokens that it sent", |state| {
                            let me = &mut state.processes[who];
                            (me.at, me.is_unchanged[slot]) = (At::SaveSuccessor, true);
                            me.has_doubt = has_doubt;
                        });
                    }
                    _ => {
                        steps.add(who, "finds a login or logout", |state| self.give_up(state, who));
                    }
                }
            }
            At::LoadAfterRejection => {
                steps.event(Store, who, "fails to load", |state| {
                    state.processes[who].at = At::Release;
                    if self.breaks("a rejection is reported after a failed load") {
                        self.tell_sign_in_again(state, who);
                    }
                });
                let is_same =
                    there.is_some_and(|record| self.same_refresh_token(record.tokens, me.tokens));
                if !is_same {
                    return steps.add(who, "finds other tokens, or none", go(At::Release));
                }
                steps.add(who, "reports that a sign-in is needed", |state| {
                    self.tell_sign_in_again(state, who);
                    state.processes[who].at = At::EndIntent(true);
                });
            }
            At::EndIntent(is_rejected) => match there.filter(|_| me.is_unchanged[slot]) {
                None => steps.add(who, "meets a conflict", go(At::Release)),
                Some(record) => {
                    let keeps =
                        me.has_doubt && !self.breaks("a rejection removes an earlier intent");
                    let intent = record.intent.filter(|_| keeps);
                    let record = Some(Record { intent, is_rejected, ..record });
                    let step = (who, "saves what the answer proves");
                    steps.write(step, slot, record, go(At::Release), go(At::Release));
                }
            },
            _ => steps.add(who, "releases the lease", |state| {
                if holds_lease {
                    self.change_version(state, slot);
                }
                state.end(who);
                if self.breaks("the lease is never released") {
                    state.slots[slot].holder = holder;
                }
            }),
        }
    }

    fn send(&self, steps: &mut Steps, who: usize) {
        let send = |state: &mut State| {
            let tokens = state.processes[who].tokens;
            let is_sent_elsewhere = state.processes.iter().enumerate().any(|(number, other)| {
                let is_sending = number != who && other.has_sent && !other.lease_lapsed;
                is_sending && self.same_refresh_token(other.tokens, tokens)
            });
            if is_sent_elsewhere {
                state.violate(SENT_ONCE);
            }
            state.processes[who].has_sent = true;
        };
        let ambiguous = |state: &mut State| {
            send(state);
            let me = &mut state.processes[who];
            me.at = if me.asked_again { At::Release } else { At::Send };
            (me.has_doubt, me.asked_again) = (true, true);
        };
        let unavailable = |state: &mut State| {
            send(state);
            let me = &mut state.processes[who];
            (me.at, me.has_doubt) = (At::Release, true);
            if self.breaks("a 503 removes the intent") {
                (me.at, me.has_doubt) = (At::EndIntent(false), false);
            }
        };
        steps.add(who, "sends, and gets an answer", |state| {
            send(state);
            let successor = self.receive(state, who);
            let me = &mut state.processes[who];
            me.at = At::LoadAfterRejection;
            if successor.is_some() {
                (me.at, me.successor, me.has_doubt) = (At::SaveSuccessor, successor, false);
            }
        });
        steps.event(Network, who, "sends, and the request is lost", ambiguous);
        steps.event(Network, who, "sends, and the answer is lost", |state| {
            self.receive(state, who);
            ambiguous(state);
        });
        steps.event(Network, who, "sends, and gets a 503 before anything was done", unavailable);
        steps.event(Network, who, "sends, and gets a 503 after it was done", |state| {
            self.receive(state, who);
            unavailable(state);
        });
        steps.event(Network, who, "sends, and gets a 429", |state| {
            send(state);
            let me = &mut state.processes[who];
            me.at = if me.has_doubt { At::Release } else { At::EndIntent(false) };
        });
    }

    fn tell_sign_in_again(&self, state: &mut State, who: usize) {
        let Process { tokens, has_doubt, .. } = state.processes[who];
        let is_replaced = tokens.family < state.current && !state.is_signed_out;
        if is_replaced || self.is_live(state, tokens) {
            state.violate(GIVEN_UP);
        }
        if !has_doubt && state.families[usize::from(tokens.family)] != Family::Revoked {
            state.violate(PLAIN);
        }
    }

    /// A process ends without saving its successor.
    fn give_up(&self, state: &mut State, who: usize) {
        state.processes[who].at = At::Release;
        let successor = state.processes[who].successor.unwrap();
        let is_there = |tokens| self.same_refresh_token(tokens, successor);
        let mut records = state.slots.iter().filter_map(|slot| slot.record);
        let is_saved = records.any(|record| is_there(record.tokens));
        if successor.family >= state.current && self.is_live(state, successor) && !is_saved {
            state.violate(KEPT);
        }
    }

    /// The provider receives a refresh token, and rotates it or rejects it.
    fn receive(&self, state: &mut State, who: usize) -> Option<Tokens> {
        let Process { tokens, has_doubt, .. } = state.processes[who];
        let family = usize::from(tokens.family);
        let Family::Live(live) = state.families[family] else { return None };
        if self.is_live(state, tokens) {
            state.families[family] = Family::Live(live + 1);
            return Some(Tokens { number: live + 1, ..tokens });
        }
        if self.provider == Provider::HasGracePeriod && tokens.number + 1 == live {
            return Some(Tokens { number: live, ..tokens });
        }
        if !has_doubt {
            state.violate(KNOWN);
        }
        state.families[family] = Family::Reused;
        None
    }
}
