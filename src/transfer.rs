//! Tokens on their way from one store to another.

use std::time::Duration;

use crate::clock::{Patience, Timer};
use crate::error::StoreError;
use crate::store::{Expect, Lease, Revision, Stored, TokenStore};
use crate::tokens::AuthTokens;

/// How long a transfer waits for a refresh to end, which takes seconds. It is longer than a lease on a
/// server lasts whose holder was killed in the middle of one.
const LEASE_WAIT: Duration = Duration::from_secs(75);

/// For how long a lease is to last from each step on. A step takes milliseconds, and at worst what a
/// server has for its answer.
const STEP: Duration = Duration::from_secs(20);

/// How often a migration begins again because the source changed under it. Each time means that
/// somebody signed in at that very moment.
const ATTEMPTS: usize = 5;

/// What [`migrate`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migration {
    /// Whether tokens were moved. Otherwise the source was empty, and an earlier run had moved
    /// them.
    pub moved: bool,
    /// Why the tokens should be replaced by a new sign-in: others could read them where they were.
    pub warning: Option<String>,
}

/// Whether [`restore`] may replace a record that is newer than the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// A newer record, or one whose age is not known, is an error.
    IfOlder,
    /// Any record is replaced that can be read.
    Always,
}

/// Tokens could not be moved or copied. One side at least has them; what was interrupted can be run
/// again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// Somebody else is refreshing these tokens, and did not get done.
    #[error("{place} is being refreshed by another process; try again")]
    Busy {
        /// The slot.
        place: String,
    },
    /// The source changed each time.
    #[error("{place} keeps changing; stop the programs that use it, and try again")]
    Changing {
        /// The source.
        place: String,
    },
    /// There is nothing to move or copy.
    #[error("{place} holds no tokens")]
    Empty {
        /// The source.
        place: String,
    },
    /// Only what [`backup`] made can be restored: any other record may be in use where it is.
    #[error("{place} is no backup; use migrate to move live tokens")]
    NotABackup {
        /// The source.
        place: String,
    },
    /// The target holds a newer record than the backup, or one whose age is not known.
    #[error(
        "{place} holds newer tokens than the backup; overwrite them explicitly if that is meant"
    )]
    Newer {
        /// The target.
        place: String,
    },
    /// The target holds other tokens.
    #[error(
        "{place} holds other tokens already; find out which are the live ones before you clear either"
    )]
    Occupied {
        /// The target.
        place: String,
    },
    /// Source and target are one slot.
    #[error("{from} and {to} are the same slot")]
    SameSlot {
        /// The source.
        from: String,
        /// The target.
        to: String,
    },
    /// A store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The target did not give back what was just saved in it.
    #[error("{place} did not keep what was saved in it; the source is unchanged")]
    Unverified {
        /// The target.
        place: String,
    },
}

/// Moves tokens from one slot to another.
///
/// The target is written, read back and compared before the source is cleared, and the source is
/// cleared only if it is unchanged; a login at that moment is moved too, and a logout wins. While
/// it runs, nobody refreshes these tokens.
///
/// Killed at any point, it leaves the tokens on one side at least, and maybe on both; run again, it
/// completes. Do that before anybody uses them: a refresh or a logout on one side does nothing to a
/// copy on the other.
///
/// A source that others can read is moved all the same, and [`Migration::warning`] says so.
///
/// # Errors
///
/// Any [`TransferError`] but [`NotABackup`](TransferError::NotABackup) and
/// [`Newer`](TransferError::Newer).
///
/// # Cancellation
///
/// Dropping the future is like killing it.
pub async fn migrate(
    from: &dyn TokenStore,
    to: &dyn TokenStore,
) -> Result<Migration, TransferError> {
    migrate_by(from, to, &Timer::default()).await
}

async fn migrate_by(
    from: &dyn TokenStore,
    to: &dyn TokenStore,
    timer: &Timer,
) -> Result<Migration, TransferError> {
    refuse_same_slot(from, to)?;
    // In the same order whichever way the tokens go, so that two migrations do not wait for each
    // other.
    let (mut from_lease, mut to_lease);
    if from.slot() < to.slot() {
        (from_lease, to_lease) = lease_both(from, to, timer).await?;
    } else {
        (to_lease, from_lease) = lease_both(to, from, timer).await?;
    }
    let migration = migrate_leased(from, to, &mut *from_lease, &mut *to_lease).await?;
    // The tokens have moved, and dropping a lease gives it up as well.
    let _ = (from_lease.release().await, to_lease.release().await);
    Ok(migration)
}

async fn migrate_leased(
    from: &dyn TokenStore,
    to: &dyn TokenStore,
    from_lease: &mut dyn Lease,
    to_lease: &mut dyn Lease,
) -> Result<Migration, TransferError> {
    let mut saved: Option<Revision> = None;
    for _ in 0..ATTEMPTS {
        let (stored, warning) = load_source(from).await?;
        let Some(Stored { tokens, revision }) = stored else {
            match saved {
                // A logout came in between.
                Some(saved) => to.clear(Expect::Unchanged(saved)).await?,
                // The run that cleared the source may have been killed before that was whole or durable.
                None if to.load().await?.is_some() => match from.clear(Expect::Absent).await {
                    Err(StoreError::Conflict { .. }) => continue,
                    Ok(()) | Err(StoreError::ReadOnly { .. }) => {}
                    Err(error) => return Err(error.into()),
                },
                None => return Err(TransferError::Empty { place: from.to_string() }),
            }
            return Ok(Migration { moved: false, warning });
        };
        // That this refresh token may have been spent must not be forgotten on the way.
        if let Some(intent) = from_lease.intent().await? {
            to_lease.write_intent(&intent).await?;
        }
        let expect = saved.map_or(Expect::Absent, Expect::Unchanged);
        saved = Some(save_verified(to, &tokens, expect).await?);
        match from.clear(Expect::Unchanged(revision)).await {
            Ok(()) => {
                // It says nothing about any other token.
                let _ = from_lease.remove_intent().await;
                return Ok(Migration { moved: true, warning });
            }
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(TransferError::Changing { place: from.to_string() })
}

/// Copies tokens, and marks the copy as one: it is never refreshed, because two live copies of a
/// rotating refresh token revoke each other. [`restore`] makes it live again.
///
/// A backup that is there already is replaced.
///
/// # Errors
///
/// [`TransferError::Empty`] if there is nothing to copy, [`TransferError::Occupied`] if the target
/// holds live tokens, and what keeps a store from doing its part.
pub async fn backup(from: &dyn TokenStore, to: &dyn TokenStore) -> Result<(), TransferError> {
    refuse_same_slot(from, to)?;
    let source = load(from).await?;
    let expect = match to.load().await? {
        None => Expect::Absent,
        Some(there) if there.tokens.is_backup() => Expect::Unchanged(there.revision),
        Some(_) => return Err(TransferError::Occupied { place: to.to_string() }),
    };
    save_verified(to, &source.tokens.with_backup(true), expect).await.map(drop)
}

/// Copies the tokens of a backup into a slot, where they are live again. The backup stays.
///
/// # Errors
///
/// [`TransferError::NotABackup`] if the source was not made by [`backup`],
/// [`TransferError::Newer`] if the target holds newer tokens and `overwrite` does not say that this
/// is meant, and what keeps a store from doing its part.
pub async fn restore(
    from: &dyn TokenStore,
    to: &dyn TokenStore,
    overwrite: Overwrite,
) -> Result<(), TransferError> {
    refuse_same_slot(from, to)?;
    let source = load(from).await?.tokens;
    if !source.is_backup() {
        return Err(TransferError::NotABackup { place: from.to_string() });
    }
    let tokens = source.with_backup(false);
    let expect = match to.load().await? {
        None => Expect::Absent,
        // Saved again, because who saved them may have been killed before that was durable.
        Some(there) if there.tokens == tokens => Expect::Unchanged(there.revision),
        Some(there) if there.tokens.is_backup() => {
            return Err(TransferError::Occupied { place: to.to_string() });
        }
        Some(there) if overwrite == Overwrite::Always || is_older(&there.tokens, &tokens) => {
            Expect::Unchanged(there.revision)
        }
        Some(_) => return Err(TransferError::Newer { place: to.to_string() }),
    };
    save_verified(to, &tokens, expect).await.map(drop)
}

fn refuse_same_slot(from: &dyn TokenStore, to: &dyn TokenStore) -> Result<(), TransferError> {
    if from.slot() == to.slot() {
        return Err(TransferError::SameSlot { from: from.to_string(), to: to.to_string() });
    }
    Ok(())
}

fn is_older(there: &AuthTokens, than: &AuthTokens) -> bool {
    there.obtained_at.zip(than.obtained_at).is_some_and(|(there, than)| there < than)
}

async fn load(store: &dyn TokenStore) -> Result<Stored, TransferError> {
    store.load().await?.ok_or_else(|| TransferError::Empty { place: store.to_string() })
}

/// Loads a source even if others can read it, and says so.
async fn load_source(
    from: &dyn TokenStore,
) -> Result<(Option<Stored>, Option<String>), TransferError> {
    match from.load().await {
        Err(StoreError::Exposed { place, reason, .. }) => {
            let warning = format!(
                "{place} was not private: {reason}; sign in again, so that what others may have \
                 read is worth nothing"
            );
            Ok((from.load_exposed().await?, Some(warning)))
        }
        loaded => Ok((loaded?, None)),
    }
}

/// Saves, reads back and compares. The very same record may be there already, from a run that was
/// interrupted, perhaps before it was durable: then it is saved again.
async fn save_verified(
    to: &dyn TokenStore,
    tokens: &AuthTokens,
    expect: Expect,
) -> Result<Revision, TransferError> {
    match to.save(tokens, expect).await {
        Ok(_) => {}
        Err(error @ StoreError::Conflict { .. }) => match to.load().await? {
            Some(found) if found.tokens == *tokens => {
                to.save(tokens, Expect::Unchanged(found.revision)).await?;
            }
            Some(_) => return Err(TransferError::Occupied { place: to.to_string() }),
            None => return Err(error.into()),
        },
        Err(error) => return Err(error.into()),
    }
    match to.load().await? {
        Some(found) if found.tokens == *tokens => Ok(found.revision),
        _ => Err(TransferError::Unverified { place: to.to_string() }),
    }
}

/// Takes one lease and then the other, and holds on to the first one meanwhile: a lease on a server ends
/// by itself. So if both are of one slot, by two ways to it, the second one is never had.
async fn lease_both(
    one: &dyn TokenStore,
    other: &dyn TokenStore,
    timer: &Timer,
) -> Result<(Box<dyn Lease>, Box<dyn Lease>), TransferError> {
    let mut first = lease(one, timer).await?;
    let mut patience = Patience::new(LEASE_WAIT);
    loop {
        let second = other.try_lease().await?;
        if !first.renew(STEP).await? {
            return Err(busy(one));
        }
        match second {
            Some(second) => return Ok((first, second)),
            None if patience.wait(timer).await => {}
            None => return Err(busy(other)),
        }
    }
}

async fn lease(store: &dyn TokenStore, timer: &Timer) -> Result<Box<dyn Lease>, TransferError> {
    let mut patience = Patience::new(LEASE_WAIT);
    loop {
        if let Some(lease) = store.try_lease().await? {
            return Ok(lease);
        }
        if !patience.wait(timer).await {
            return Err(busy(store));
        }
    }
}

fn busy(store: &dyn TokenStore) -> TransferError {
    TransferError::Busy { place: store.to_string() }
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;

    use super::*;
    use crate::store::Intent;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn what_an_interrupted_run_left_is_saved_again_because_it_may_not_be_durable() {
        let (from, to) = (MemoryStore::new(), MemoryStore::new());
        let tokens = AuthTokens::new("mine");
        from.save(&tokens, Expect::Absent).await.unwrap();
        let left = to.save(&tokens, Expect::Absent).await.unwrap();
        assert!(migrate(&from, &to).await.unwrap().moved);
        let moved = to.load().await.unwrap().unwrap();
        assert_eq!(moved.tokens, tokens);
        assert_ne!(moved.revision, left);
    }

    #[tokio::test]
    async fn a_slot_under_refresh_is_waited_for_and_no_longer_than_the_deadline() {
        let store = MemoryStore::new();
        let held = store.try_lease().await.unwrap().unwrap();
        // Time passes at each turn of the other tasks.
        let timer = Timer::new(|_| tokio::task::yield_now());
        let busy = lease(&store, &timer).await;
        assert!(matches!(busy, Err(TransferError::Busy { .. })));
        let (lease, _) = tokio::join!(lease(&store, &timer), held.release());
        lease.unwrap();
    }

    /// One of several ways to a slot whose lease ends by itself.
    #[derive(Clone, Debug)]
    struct Way {
        name: &'static str,
        slot: MemoryStore,
        /// Who has the lease, and until when.
        hold: Arc<Mutex<Option<(&'static str, Duration)>>>,
        now: Arc<Mutex<Duration>>,
    }

    impl Way {
        const LEASE: Duration = Duration::from_secs(30);

        fn new(name: &'static str) -> Self {
            Self { name, slot: MemoryStore::new(), hold: Arc::default(), now: Arc::default() }
        }

        /// Time passes when somebody waits.
        fn timer(&self) -> Timer {
            let now = self.now.clone();
            Timer::new(move |time| {
                *now.lock().unwrap() += time;
                std::future::ready(())
            })
        }

        fn now(&self) -> Duration {
            *self.now.lock().unwrap()
        }
    }

    impl fmt::Display for Way {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.name)
        }
    }

    #[async_trait]
    impl TokenStore for Way {
        async fn load(&self) -> Result<Option<Stored>, StoreError> {
            self.slot.load().await
        }

        async fn save(&self, tokens: &AuthTokens, expect: Expect) -> Result<Revision, StoreError> {
            self.slot.save(tokens, expect).await
        }

        async fn clear(&self, expect: Expect) -> Result<(), StoreError> {
            self.slot.clear(expect).await
        }

        async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
            let mut hold = self.hold.lock().unwrap();
            if hold.is_some_and(|(_, until)| until > self.now()) {
                return Ok(None);
            }
            *hold = Some((self.name, self.now() + Self::LEASE));
            Ok(Some(Box::new(self.clone())))
        }
    }

    #[async_trait]
    impl Lease for Way {
        async fn intent(&self) -> Result<Option<Intent>, StoreError> {
            Ok(None)
        }

        async fn write_intent(&mut self, _intent: &Intent) -> Result<(), StoreError> {
            Ok(())
        }

        async fn remove_intent(&mut self) -> Result<(), StoreError> {
            Ok(())
        }

        async fn renew(&mut self, time: Duration) -> Result<bool, StoreError> {
            let mut hold = self.hold.lock().unwrap();
            let Some((name, until)) = hold.as_mut().filter(|(name, _)| *name == self.name) else {
                return Ok(false);
            };
            assert!(*until > self.now(), "{name} held on to it");
            *until = (*until).max(self.now() + time);
            Ok(true)
        }

        async fn release(self: Box<Self>) -> Result<(), StoreError> {
            *self.hold.lock().unwrap() = None;
            Ok(())
        }
    }

    #[tokio::test]
    async fn nothing_moves_from_a_slot_onto_itself_by_another_way() {
        let one = Way::new("one");
        let tokens = AuthTokens::new("mine");
        let saved = one.save(&tokens, Expect::Absent).await.unwrap();
        for name in ["another", "way"] {
            let other = Way { name, ..one.clone() };
            assert_ne!(one.slot(), other.slot());
            let busy = migrate_by(&one, &other, &one.timer()).await.unwrap_err();
            assert!(matches!(busy, TransferError::Busy { .. }), "{busy}");
            assert_eq!(one.load().await.unwrap().unwrap().revision, saved);
            *one.hold.lock().unwrap() = None;
        }
    }

    #[tokio::test]
    async fn a_lease_that_passed_on_while_the_other_was_waited_for_moves_nothing() {
        let (from, to) = (Way::new("a"), Way::new("b"));
        let tokens = AuthTokens::new("mine");
        from.save(&tokens, Expect::Absent).await.unwrap();
        *to.hold.lock().unwrap() = Some(("somebody", Duration::MAX));
        // This process is stopped while it waits, and meanwhile somebody refreshes.
        let (hold, free) = (from.hold.clone(), to.hold.clone());
        let timer = Timer::new(move |_| {
            *hold.lock().unwrap() = Some(("somebody", Duration::MAX));
            *free.lock().unwrap() = None;
            std::future::ready(())
        });
        let busy = migrate_by(&from, &to, &timer).await.unwrap_err();
        assert!(matches!(&busy, TransferError::Busy { place } if place == "a"), "{busy}");
        assert_eq!(from.load().await.unwrap().unwrap().tokens, tokens);
        assert!(to.load().await.unwrap().is_none());
    }
}
