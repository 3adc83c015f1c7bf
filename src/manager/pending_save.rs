//! Refreshed tokens that are not saved yet. Until they are saved, the store holds the spent ones.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::StoreError;
use crate::record::{Intent, Record};
use crate::store::{Lease, Revision, Stored};
use crate::tokens::AuthTokens;

/// The new tokens that are not saved yet, if there are any.
///
/// Each method takes the lock, reads, decides and writes. Only a refresh puts tokens here without the lock
/// of the slot.
#[derive(Default)]
pub(super) struct PendingSave(Mutex<Option<NewTokens>>);

/// New tokens that may be only in the memory of this process. While they are not saved, their lease keeps
/// other processes from sending the old refresh token a second time.
///
/// They are served until their true expiry, and they are not refreshed. An earlier save may have succeeded
/// although its answer was lost. Then other processes have these tokens too.
pub(super) struct NewTokens {
    /// The record, with a revision that no store gave it.
    stored: Stored,
    /// The revision that the save replaces.
    base: Revision,
    /// The tokens at that revision. They were spent to get the new ones.
    spent: AuthTokens,
    /// The intent that was saved before they were spent.
    intent: Option<Intent>,
    /// `None` while it is being renewed.
    lease: Option<Box<dyn Lease>>,
    /// Why they are not saved yet.
    error: Option<StoreError>,
}

/// What the slot holds now, compared with the pending tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotState {
    /// The pending tokens. An earlier save succeeded, and its answer was lost.
    Ours,
    /// The tokens that were spent. They may be sealed to another key by now, or changed by another program.
    Spent,
    /// Other tokens, or nothing: there was a login or a logout.
    Others,
}

/// What a load of the slot means for the pending tokens.
pub(super) enum Resolved {
    /// They are still to be saved. They are served as if the slot held them.
    Pending(Box<Stored>),
    /// There is nothing to save. If tokens were pending until now, this is their lease.
    Over(Option<Box<dyn Lease>>),
}

impl PendingSave {
    /// Puts in new tokens.
    pub(super) fn put(&self, new: NewTokens) {
        *self.lock() = Some(new);
    }

    pub(super) fn is_some(&self) -> bool {
        self.lock().is_some()
    }

    /// Returns whether the pending tokens have this revision.
    pub(super) fn is_about(&self, revision: &Revision) -> bool {
        self.lock().as_ref().is_some_and(|new| new.stored.revision == *revision)
    }

    /// Returns the pending tokens as if they were stored, with a revision that no store gave them.
    pub(super) fn stored(&self) -> Option<Stored> {
        self.lock().as_ref().map(|new| new.stored.clone())
    }

    /// Returns the record to save, and the revision that it replaces.
    pub(super) fn next_save(&self) -> Option<(Record, Revision)> {
        self.lock().as_ref().map(|new| (new.stored.record.clone(), new.base.clone()))
    }

    /// Compares the pending tokens with the slot. If the slot holds the spent tokens, its revision becomes
    /// the one to replace. Returns `None` if nothing is pending.
    pub(super) fn compare(&self, there: Option<&Stored>) -> Option<SlotState> {
        self.lock().as_mut().map(|new| new.compare(there))
    }

    /// Decides after a load whether the tokens are still to be saved. If not, they are dropped.
    pub(super) fn resolve(&self, there: Option<&Stored>) -> Resolved {
        // Compare and take under one lock. A refresh on another thread may put new tokens here at any moment,
        // and the earlier load says nothing about those.
        let mut pending = self.lock();
        if let Some(new) = pending.as_mut()
            && new.compare(there) == SlotState::Spent
        {
            return Resolved::Pending(Box::new(new.stored.clone()));
        }
        // An earlier save succeeded, or there was a login or a logout elsewhere.
        Resolved::Over(pending.take().and_then(|new| new.lease))
    }

    /// Keeps the error of a failed save. Returns whether it was the first failure.
    pub(super) fn fail(&self, error: &StoreError) -> bool {
        let mut pending = self.lock();
        pending.as_mut().is_some_and(|new| new.error.replace(error.clone()).is_none())
    }

    /// Returns why the tokens are not saved, or `otherwise` if no save has failed yet. Returns `None` if
    /// nothing is pending.
    pub(super) fn error_or(&self, otherwise: StoreError) -> Option<StoreError> {
        self.lock().as_ref().map(|new| new.error.clone().unwrap_or(otherwise))
    }

    /// Takes the lease, to renew it.
    pub(super) fn take_lease(&self) -> Option<Box<dyn Lease>> {
        self.lock().as_mut().and_then(|new| new.lease.take())
    }

    /// Puts a lease back after it was renewed. Returns it if there are no pending tokens that need it.
    pub(super) fn give_back(&self, lease: Box<dyn Lease>) -> Option<Box<dyn Lease>> {
        match self.lock().as_mut() {
            Some(new) if new.lease.is_none() => new.lease.replace(lease),
            _ => Some(lease),
        }
    }

    /// Returns the tokens and takes their lease, for a logout. Both happen under one lock.
    pub(super) fn revoke(&self) -> Option<(AuthTokens, Option<Box<dyn Lease>>)> {
        self.lock().as_mut().map(|new| (new.tokens().clone(), new.lease.take()))
    }

    /// Drops the tokens, and returns their lease.
    pub(super) fn end(&self) -> Option<Box<dyn Lease>> {
        self.lock().take().and_then(|new| new.lease)
    }

    fn lock(&self) -> MutexGuard<'_, Option<NewTokens>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NewTokens {
    /// `spent` are the tokens that were refreshed. `base` is the revision that holds them, and `intent` is
    /// the intent in it.
    pub(super) fn new(
        record: Record,
        base: Revision,
        spent: AuthTokens,
        intent: Option<Intent>,
        lease: Box<dyn Lease>,
    ) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);

        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let revision = Revision::new(format!("unsaved {count}").into_bytes());
        let stored = Stored { record, revision };
        Self { stored, base, spent, intent, lease: Some(lease), error: None }
    }

    fn tokens(&self) -> &AuthTokens {
        &self.stored.record.tokens
    }

    fn compare(&mut self, there: Option<&Stored>) -> SlotState {
        let Some(there) = there else { return SlotState::Others };
        let tokens = &there.record.tokens;
        if is_one_answer(tokens, self.tokens()) {
            SlotState::Ours
        } else if self.is_still_spent(tokens) {
            self.rebase(there);
            SlotState::Spent
        } else {
            SlotState::Others
        }
    }

    /// Returns whether these are the tokens that were spent. Another program may have changed their other
    /// fields.
    fn is_still_spent(&self, there: &AuthTokens) -> bool {
        // If the server does not rotate the refresh token, another access token is a later answer.
        let is_rotated = self.tokens().refresh_token != self.spent.refresh_token;
        is_of_one_refresh(there, &self.spent)
            && (is_rotated || there.access_token == self.spent.access_token)
    }

    /// Makes a later revision the one to replace. It still holds the spent tokens.
    ///
    /// If that record has the intent of another holder, the doubt is kept. The lease had passed to that
    /// holder, and it was about to send the same token. A server that got the token twice may have revoked
    /// the new tokens too.
    fn rebase(&mut self, there: &Stored) {
        self.base = there.revision.clone();
        let theirs = there.record.intent().filter(|theirs| Some(*theirs) != self.intent.as_ref());
        if let (Some(theirs), Some(token)) = (theirs, &self.stored.record.tokens.refresh_token) {
            self.stored.record.refresh.intent = Some(Intent::new(token, theirs.at()));
        }
    }
}

/// Returns whether two records are the same answer of the server.
fn is_one_answer(one: &AuthTokens, other: &AuthTokens) -> bool {
    one.access_token == other.access_token && is_of_one_refresh(one, other)
}

/// Returns whether two records hold the same refresh token. If both have none, compares the access tokens.
pub(super) fn is_of_one_refresh(one: &AuthTokens, other: &AuthTokens) -> bool {
    one.is_backup() == other.is_backup()
        && match (&one.refresh_token, &other.refresh_token) {
            (Some(one), Some(other)) => one == other,
            (None, None) => one.access_token == other.access_token,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;
    use chrono::DateTime;

    use super::*;

    /// A lease that counts its holders.
    #[derive(Debug)]
    struct Held(#[expect(dead_code, reason = "it is counted")] Arc<()>);

    #[async_trait]
    impl Lease for Held {
        async fn release(self: Box<Self>) -> Result<(), StoreError> {
            Ok(())
        }
    }

    fn tokens(access: &str, refresh: &str) -> AuthTokens {
        AuthTokens::new(access).with_refresh_token(refresh)
    }

    fn stored(tokens: AuthTokens, revision: u8) -> Stored {
        Stored { record: Record::new(tokens), revision: Revision::new([revision]) }
    }

    fn intent(tokens: &AuthTokens, second: i64) -> Intent {
        let at = DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap();
        Intent::new(tokens.refresh_token.as_ref().unwrap(), at)
    }

    /// New tokens, for which `spent` was spent, and the counter of those who hold their lease.
    fn pending(spent: &AuthTokens, new: AuthTokens) -> (PendingSave, Arc<()>) {
        pending_with(spent, new, intent(spent, 1))
    }

    fn pending_with(spent: &AuthTokens, new: AuthTokens, own: Intent) -> (PendingSave, Arc<()>) {
        let (pending, count) = (PendingSave::default(), Arc::new(()));
        let (record, base) = (Record::new(new), Revision::new([1]));
        let lease = Box::new(Held(count.clone()));
        pending.put(NewTokens::new(record, base, spent.clone(), Some(own), lease));
        (pending, count)
    }

    #[test]
    fn the_content_of_a_slot_is_ours_or_spent_or_of_others() {
        let (old, new) = (tokens("old", "1"), tokens("new", "2"));
        for (there, expected) in [
            (Some(new.clone()), SlotState::Ours),
            (Some(old.clone()), SlotState::Spent),
            (Some(tokens("touched", "1")), SlotState::Spent),
            (Some(tokens("later", "2")), SlotState::Others),
            (Some(tokens("new", "3")), SlotState::Others),
            (Some(old.clone().with_backup(true)), SlotState::Others),
            (None, SlotState::Others),
        ] {
            let (pending, _) = pending(&old, new.clone());
            let there = there.map(|there| stored(there, 2));
            assert_eq!(pending.compare(there.as_ref()), Some(expected), "{there:?}");
        }
        assert_eq!(PendingSave::default().compare(None), None);
    }

    #[test]
    fn without_rotation_another_access_token_is_a_later_answer() {
        let (old, new) = (tokens("old", "1"), tokens("new", "1"));
        for (there, expected) in [
            (new.clone(), SlotState::Ours),
            (old.clone(), SlotState::Spent),
            (tokens("later", "1"), SlotState::Others),
        ] {
            let (pending, _) = pending(&old, new.clone());
            assert_eq!(pending.compare(Some(&stored(there, 2))), Some(expected));
        }
    }

    #[test]
    fn a_save_replaces_the_revision_seen_last_and_keeps_the_doubt_of_others() {
        let (old, new) = (tokens("old", "1"), tokens("new", "2"));
        let own = intent(&old, 1);
        let (pending, _) = pending_with(&old, new.clone(), own.clone());
        assert_eq!(pending.next_save().unwrap().1, Revision::new([1]));
        // The intent of this process itself is not a doubt.
        let mut there = stored(old.clone(), 2);
        there.record.refresh.intent = Some(own);
        pending.compare(Some(&there));
        let (record, base) = pending.next_save().unwrap();
        assert_eq!((record.refresh.intent, base), (None, Revision::new([2])));
        let theirs = intent(&old, 7);
        there.record.refresh.intent = Some(theirs.clone());
        pending.compare(Some(&there));
        let doubt = pending.next_save().unwrap().0.refresh.intent.unwrap();
        assert_eq!(doubt.at(), theirs.at());
        assert!(doubt.is_for(new.refresh_token.as_ref().unwrap()));
    }

    #[test]
    fn new_tokens_stay_pending_only_while_the_slot_holds_the_spent_ones() {
        let (old, new) = (tokens("old", "1"), tokens("new", "2"));
        for there in [None, Some(new.clone()), Some(tokens("login", "9"))] {
            let (pending, count) = pending(&old, new.clone());
            let spent = stored(old.clone(), 2);
            let Resolved::Pending(kept) = pending.resolve(Some(&spent)) else { panic!() };
            assert_eq!(kept.record.tokens, new);
            assert!(pending.is_about(&kept.revision));
            let there = there.map(|there| stored(there, 3));
            let Resolved::Over(lease) = pending.resolve(there.as_ref()) else { panic!() };
            assert!(lease.is_some() && !pending.is_some());
            drop(lease);
            assert_eq!(Arc::strong_count(&count), 1);
        }
        assert!(matches!(PendingSave::default().resolve(None), Resolved::Over(None)));
    }

    #[test]
    fn only_the_first_failure_is_reported_as_new_and_the_last_one_is_the_error() {
        let error = |place: &str| StoreError::Conflict { place: place.into() };
        let place =
            |pending: &PendingSave| pending.error_or(error("none")).map(|it| it.to_string());
        let (pending, _) = pending(&tokens("old", "1"), tokens("new", "2"));
        assert!(place(&pending).unwrap().contains("none"));
        assert!(pending.fail(&error("first")));
        assert!(!pending.fail(&error("second")));
        assert!(place(&pending).unwrap().contains("second"));
        pending.end();
        assert!(!pending.fail(&error("third")) && place(&pending).is_none());
    }

    #[test]
    fn a_lease_is_given_back_only_to_pending_tokens_without_a_lease() {
        let (old, new) = (tokens("old", "1"), tokens("new", "2"));
        let (pending, count) = pending(&old, new.clone());
        let lease = pending.take_lease().unwrap();
        assert!(pending.take_lease().is_none());
        assert!(pending.give_back(lease).is_none());
        let another = Box::new(Held(count.clone()));
        assert!(pending.give_back(another).is_some(), "it has one");
        let (revoked, lease) = pending.revoke().unwrap();
        assert!(revoked == new && pending.is_some());
        // There was a login or a logout while the lease was taken.
        assert!(pending.end().is_none());
        drop(pending.give_back(lease.unwrap()).expect("nobody keeps it"));
        assert_eq!(Arc::strong_count(&count), 1);
    }
}
