//! The steps of a migration.

use super::Event::{Forget, Store};
use super::steps::Steps;
use super::{At, Configuration, LOGOUT, ONE_COPY, State};

impl Configuration {
    /// Adds the next step of a migration from the first slot to the second. Both slots are files.
    pub(super) fn migrate(&self, steps: &mut Steps, who: usize) {
        let (from, me, name) = (steps.from, steps.from.processes[who], u8::try_from(who).unwrap());
        let [source, target] = from.slots;
        let go = |at: At| move |state: &mut State| state.processes[who].at = at;
        let clears_early = self.breaks("the source is cleared before the copy is read");
        match me.at {
            At::Idle if me.refreshes_left == 0 => {}
            At::Idle => steps.add(who, "begins", go(At::TakeLease)),
            At::TakeLease if self.breaks("a migration takes no lease") => {
                steps.add(who, "takes no lease", go(At::Load));
            }
            At::TakeLease if source.holder.is_some() || target.holder.is_some() => {}
            At::TakeLease => steps.add(who, "takes both leases", |state| {
                state.slots.iter_mut().for_each(|slot| slot.holder = Some(name));
                state.processes[who].at = At::Load;
            }),
            At::Load => {
                steps.event(Store, who, "fails to load", go(At::Release));
                steps.add(who, "loads the source", |state| {
                    let me = &mut state.processes[who];
                    (me.at, me.source, me.is_unchanged[0]) = (At::SaveCopy, source.record, true);
                    if source.record.is_none() {
                        // After a logout, the copy of this run is removed again.
                        if me.copy.is_some() {
                            self.write(state, 1, Some(who), None);
                        }
                        self.finish(state, who);
                    }
                });
            }
            At::SaveCopy => {
                let mut record = me.source.unwrap();
                let may_save = match target.record {
                    _ if me.copy.is_some() => me.is_unchanged[1],
                    there => there.is_none_or(|there| there.tokens == record.tokens),
                };
                if !may_save {
                    return steps.add(who, "finds other tokens in the target", go(At::Release));
                }
                if self.breaks("a migration drops the intent") {
                    record.intent = None;
                }
                let saved = |state: &mut State| {
                    let me = &mut state.processes[who];
                    me.at = if clears_early { At::ClearSource } else { At::VerifyCopy };
                    me.copy = Some(record);
                };
                steps.write((who, "saves the copy"), 1, Some(record), saved, go(At::Release));
                steps.event(Forget, who, "saves a copy that is not kept", saved);
            }
            At::VerifyCopy => {
                steps.event(Store, who, "fails to load", go(At::Release));
                let is_kept = target.record == me.copy;
                steps.add(who, "reads the copy back", |state| match is_kept {
                    true if clears_early => self.finish(state, who),
                    true => state.processes[who].at = At::ClearSource,
                    false => state.processes[who].at = At::Release,
                });
            }
            At::ClearSource if !me.is_unchanged[0] => {
                steps.add(who, "meets a conflict", |state| {
                    state.processes[who].at = At::Load;
                    if self.breaks("a migration ignores a conflict") {
                        self.finish(state, who);
                    }
                });
            }
            At::ClearSource => {
                let cleared = |state: &mut State| match clears_early {
                    true => state.processes[who].at = At::VerifyCopy,
                    false => self.finish(state, who),
                };
                steps.write((who, "clears the source"), 0, None, cleared, go(At::Release));
            }
            _ => steps.add(who, "releases both leases", |state| state.end(who)),
        }
    }

    fn finish(&self, state: &mut State, who: usize) {
        (state.processes[who].at, state.processes[who].refreshes_left) = (At::Release, 0);
        match state.slots.iter().filter(|slot| slot.record.is_some()).count() {
            2 => state.violate(ONE_COPY),
            1 if state.is_signed_out => state.violate(LOGOUT),
            _ => {}
        }
    }
}
