//! Tokens on their way from one store to another.

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::error::StoreError;
use crate::sys::clock::{PollUntil, Timer};
use chrono::SecondsFormat;

use crate::record::Record;
use crate::store::{Lease, Precondition, Revision, Stored, TokenStore};
use crate::tokens::AuthTokens;

/// How long a transfer waits for a refresh to end, which takes seconds. It is longer than a lease on a
/// server lasts whose holder was killed in the middle of one, and than such a holder is waited for.
const LEASE_WAIT: Duration = Duration::from_secs(100);

/// For how long a lease is to last from each step on. A step takes milliseconds, and at worst what a
/// server has for its answer.
const STEP: Duration = Duration::from_secs(20);

/// How often a migration or a rekey begins again because the slot changed under it. Each time means that
/// somebody signed in at that very moment.
const ATTEMPTS: usize = 5;

/// What [`migrate`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migration {
    /// Whether tokens were moved. If not, the source was empty, because an earlier run moved them.
    pub moved: bool,
    /// Why the tokens should be replaced by a new sign-in: others could read them where they were, or a refresh of
    /// them was cut off.
    pub warning: Option<String>,
}

/// What [`backup`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backup {
    /// Why the copy may be worth nothing: the refresh token in it may have been spent.
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
/// # Security
///
/// Neither store is asked how it protects its tokens: a target in plaintext is up to the caller. At the
/// provider nothing changes, so a copy of the tokens can still be used.
///
/// # Errors
///
/// Any [`TransferError`] but [`NotABackup`](TransferError::NotABackup) and
/// [`Newer`](TransferError::Newer).
///
/// # Cancel safety
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
    let mut copied = None;
    let migration = migrate_leased(from, to, &mut *from_lease, &mut *to_lease, &mut copied).await;
    let is_given_up =
        matches!(migration, Err(TransferError::Busy { .. } | TransferError::Changing { .. }));
    if let Some(copied) = copied.filter(|_| is_given_up) {
        take_back(from, to, copied).await;
    }
    // Whatever came of it: a lease on a server would stay taken for a while. Where it cannot be given up,
    // dropping it does.
    let _ = (from_lease.release().await, to_lease.release().await);
    migration
}

async fn migrate_leased(
    from: &dyn TokenStore,
    to: &dyn TokenStore,
    from_lease: &mut dyn Lease,
    to_lease: &mut dyn Lease,
    copied: &mut Option<Revision>,
) -> Result<Migration, TransferError> {
    for _ in 0..ATTEMPTS {
        let (stored, warning) = load_source(from).await?;
        let Some(Stored { record, revision }) = stored else {
            match copied.clone() {
                // A logout came in between.
                Some(copied) => to.clear(Precondition::Unchanged(copied)).await?,
                // The run that cleared the source may have been killed before that was whole or durable.
                None if to.load().await?.is_some() => {
                    match from.clear(Precondition::Absent).await {
                        Err(StoreError::Conflict { .. }) => continue,
                        Ok(()) | Err(StoreError::ReadOnly { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                None => return Err(TransferError::Empty { place: from.to_string() }),
            }
            return Ok(Migration { moved: false, warning });
        };
        keep(from, from_lease).await?;
        keep(to, to_lease).await?;
        let precondition = copied.clone().map_or(Precondition::Absent, Precondition::Unchanged);
        *copied = Some(save_verified(to, &record, precondition).await?);
        // Once the lease has passed, somebody may be refreshing the tokens where they were.
        keep(from, from_lease).await?;
        match from.clear(Precondition::Unchanged(revision)).await {
            Ok(()) => {
                let warning = warning.or_else(|| doubt(&record));
                return Ok(Migration { moved: true, warning });
            }
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(TransferError::Changing { place: from.to_string() })
}

/// Makes sure that a lease lasts for what comes next.
async fn keep(store: &dyn TokenStore, lease: &mut dyn Lease) -> Result<(), TransferError> {
    if lease.renew(STEP).await? { Ok(()) } else { Err(busy(store)) }
}

/// Removes a copy of what stays where it was, so that there are not two.
async fn take_back(from: &dyn TokenStore, to: &dyn TokenStore, copied: Revision) {
    // If it cannot be removed, the next run says that there are others.
    if let Ok(Some(_)) = from.load().await {
        let _ = to.clear(Precondition::Unchanged(copied)).await;
    }
}

/// Says that a refresh token may have been spent, if its record does.
fn doubt(record: &Record) -> Option<String> {
    let at = record.intent()?.at().to_rfc3339_opts(SecondsFormat::Secs, true);
    Some(format!(
        "the refresh token may have been spent: a refresh began at {at} and its answer was not saved"
    ))
}

/// Copies tokens, and marks the copy as one: it is never refreshed, because two live copies of a
/// rotating refresh token revoke each other. [`restore`] makes it live again.
///
/// A backup that is there already is replaced. What is known about refreshing goes along: if a refresh of
/// these tokens was interrupted, the copy says so too, and [`Backup::warning`] does.
///
/// # Errors
///
/// [`TransferError::Empty`] if there is nothing to copy, [`TransferError::Occupied`] if the target
/// holds live tokens, and what keeps a store from doing its part.
///
/// # Security
///
/// A target in plaintext is up to the caller. At the
/// provider nothing changes, so a copy of the tokens can still be used.
///
/// # Cancel safety
///
/// The copy may be there all the same; made again, it is replaced.
pub async fn backup(from: &dyn TokenStore, to: &dyn TokenStore) -> Result<Backup, TransferError> {
    refuse_same_slot(from, to)?;
    let source = load(from).await?;
    let precondition = match to.load().await? {
        None => Precondition::Absent,
        Some(there) if there.record.tokens.is_backup() => Precondition::Unchanged(there.revision),
        Some(_) => return Err(TransferError::Occupied { place: to.to_string() }),
    };
    let mut record = source.record;
    record.tokens = record.tokens.with_backup(true);
    let warning = doubt(&record)
        .map(|doubt| format!("{doubt}; make the backup again once a refresh has succeeded"));
    save_verified(to, &record, precondition).await?;
    Ok(Backup { warning })
}

/// Copies the tokens of a backup into a slot, where they are live again. The backup stays.
///
/// # Errors
///
/// [`TransferError::NotABackup`] if the source was not made by [`backup`],
/// [`TransferError::Newer`] if the target holds newer tokens and `overwrite` does not say that this
/// is meant, and what keeps a store from doing its part.
///
/// # Security
///
/// A target in plaintext is up to the caller. At the
/// provider nothing changes, so a copy of the tokens can still be used.
///
/// # Cancel safety
///
/// The tokens may be there all the same, each way whole; run again, it completes.
pub async fn restore(
    from: &dyn TokenStore,
    to: &dyn TokenStore,
    overwrite: Overwrite,
) -> Result<(), TransferError> {
    refuse_same_slot(from, to)?;
    let mut record = load(from).await?.record;
    if !record.tokens.is_backup() {
        return Err(TransferError::NotABackup { place: from.to_string() });
    }
    record.tokens = record.tokens.with_backup(false);
    let tokens = &record.tokens;
    let precondition = match to.load().await? {
        None => Precondition::Absent,
        // Saved again, because who saved them may have been killed before that was durable.
        Some(there) if there.record.tokens == *tokens => {
            // It knows what became of them since the backup was made.
            if there.record.intent().is_some() {
                record.refresh = there.record.refresh;
            }
            Precondition::Unchanged(there.revision)
        }
        Some(there) if there.record.tokens.is_backup() => {
            return Err(TransferError::Occupied { place: to.to_string() });
        }
        Some(there) if overwrite == Overwrite::Always || is_older(&there.record.tokens, tokens) => {
            Precondition::Unchanged(there.revision)
        }
        Some(_) => return Err(TransferError::Newer { place: to.to_string() }),
    };
    save_verified(to, &record, precondition).await.map(drop)
}

/// Seals a record to other keys. `old`, `both` and `new` are three ways to one slot: through the keys that it
/// has, through all that open it before and afterwards, and through the keys that it is to have.
///
/// First it is sealed to both. Then `repoint` makes everything that names the old keys name the new ones, durably,
/// such as a configuration file. Then it is sealed to the new keys alone. So at every moment whatever names the
/// keys opens the record. Killed at any point and run again, it completes, also if the old keys no longer open the
/// record by then.
///
/// `old` is what names the keys now, and durably: an earlier run may have changed that, and may have been killed
/// before it was durable. After a power failure the keys of that time would be named again.
///
/// `lease` is one of this slot, of [`wait_for_lease`] through `new`. A refresh that another process began before
/// would save its result for the old keys. Whatever names the keys may have changed while the lease was waited
/// for: read it again first.
///
#[cfg_attr(feature = "age", doc = "```")]
#[cfg_attr(not(feature = "age"), doc = "```ignore")]
/// use tokenkeep::stores::AgeFileStore;
/// use tokenkeep::transfer::{TransferError, rekey, wait_for_lease};
/// use tokenkeep::AgeKey;
///
/// # async fn example(path: &std::path::Path, recovery: &str) -> Result<(), TransferError> {
/// let key = || AgeKey::identity_file("/etc/app/key.txt");
/// let old = AgeFileStore::new(path, key());
/// let new = AgeFileStore::new(path, key().with_recovery_recipient(recovery)?);
/// let mut lease = wait_for_lease(&new).await?;
/// // Both keys are in the new set already, and nothing names them but this program.
/// rekey(&mut *lease, &old, &new, &new, async { Ok::<_, TransferError>(()) }).await?;
/// lease.release().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`TransferError::Empty`] if there is no record, [`TransferError::Busy`] if the lease has passed to another
/// holder, [`TransferError::Changing`] if the record changes each time, the error of `repoint`, and what keeps
/// the store from its part.
///
/// # Security
///
/// What was sealed to the old keys before, such as a backup, stays open to them. If they are known to others,
/// sign in again too.
///
/// # Cancel safety
///
/// Dropping the future is like killing it.
pub async fn rekey<E: From<TransferError>>(
    lease: &mut dyn Lease,
    old: &dyn TokenStore,
    both: &dyn TokenStore,
    new: &dyn TokenStore,
    repoint: impl Future<Output = Result<(), E>>,
) -> Result<(), E> {
    keep(new, lease).await?;
    // Also if an earlier run has done that: it may have been killed before it was durable.
    match reseal(old, both).await {
        Ok(()) => drop(load(new).await?),
        Err(error) => {
            // An earlier run, or another machine that has the same slot, may have sealed it to the new keys alone.
            let is_sealed = new.load().await.is_ok_and(|stored| stored.is_some());
            if !is_sealed {
                return Err(error.into());
            }
        }
    }
    repoint.await?;
    keep(new, lease).await?;
    let Err(error) = reseal(new, new).await else { return Ok(()) };
    // A process that still has the old keys may have saved a login for those alone.
    reseal(old, both).await.map_err(|_| error)?;
    keep(new, lease).await?;
    reseal(new, new).await?;
    Ok(())
}

/// Reads a record through one way to its slot, and saves it through another.
async fn reseal(from: &dyn TokenStore, to: &dyn TokenStore) -> Result<(), TransferError> {
    for _ in 0..ATTEMPTS {
        let stored = load(from).await?;
        match to.save(&stored.record, Precondition::Unchanged(stored.revision)).await {
            Err(StoreError::Conflict { .. }) => {}
            saved => return Ok(saved.map(drop)?),
        }
    }
    Err(TransferError::Changing { place: from.to_string() })
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
    record: &Record,
    precondition: Precondition,
) -> Result<Revision, TransferError> {
    let is_it = |there: &Stored| there.record.tokens == record.tokens;
    match to.save(record, precondition).await {
        Ok(_) => {}
        Err(error @ StoreError::Conflict { .. }) => match to.load().await? {
            Some(found) if is_it(&found) => {
                to.save(record, Precondition::Unchanged(found.revision)).await?;
            }
            Some(_) => return Err(TransferError::Occupied { place: to.to_string() }),
            None => return Err(error.into()),
        },
        Err(error) => return Err(error.into()),
    }
    match to.load().await? {
        Some(found) if is_it(&found) && found.record.intent() == record.intent() => {
            Ok(found.revision)
        }
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
    let mut poll = PollUntil::new(LEASE_WAIT);
    let failed = loop {
        match other.try_lease().await {
            Ok(Some(second)) => return Ok((first, second)),
            Ok(None) => {}
            Err(error) => break error.into(),
        }
        if let Err(error) = keep(one, &mut *first).await {
            break error;
        }
        if !poll.wait(timer).await {
            break busy(other);
        }
    };
    let _ = first.release().await;
    Err(failed)
}

/// Waits until nobody refreshes the tokens of a slot, and keeps it so until the lease is released: for
/// [`rekey`], and for a program that changes how they are kept.
///
/// # Errors
///
/// [`TransferError::Busy`] if somebody is refreshing them for longer than a minute and a half, and what
/// keeps the store from giving a lease.
///
/// # Cancel safety
///
/// A dropped wait takes no lease.
pub async fn wait_for_lease(store: &dyn TokenStore) -> Result<Box<dyn Lease>, TransferError> {
    lease(store, &Timer::default()).await
}

async fn lease(store: &dyn TokenStore, timer: &Timer) -> Result<Box<dyn Lease>, TransferError> {
    let mut poll = PollUntil::new(LEASE_WAIT);
    loop {
        if let Some(lease) = store.try_lease().await? {
            return Ok(lease);
        }
        if !poll.wait(timer).await {
            return Err(busy(store));
        }
    }
}

fn busy(store: &dyn TokenStore) -> TransferError {
    TransferError::Busy { place: store.to_string() }
}
