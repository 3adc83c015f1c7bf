//! Moving, copying and rekeying the tokens of a slot.

mod import;
mod rekey;
#[cfg(test)]
mod tests;

use std::time::Duration;

use chrono::SecondsFormat;

use self::import::forget_origin;
pub use self::import::{Import, Imported, import, is_copy_of};
pub use self::rekey::rekey;
use crate::error::StoreError;
use crate::printable::one_line;
use crate::record::Record;
use crate::store::{Lease, Precondition, Revision, Stored, TokenStore};
use crate::sys::clock::{PollUntil, Timer};
use crate::tokens::AuthTokens;

/// How long a transfer waits for a refresh to end. A refresh takes seconds. If its process was killed, a
/// lease on a server lasts longer, but less than this. So does the wait for such a lease.
const LEASE_WAIT: Duration = Duration::from_secs(100);

/// How long a lease must last from the start of each step. A step takes milliseconds, or at worst as long as
/// a server may take to answer.
const STEP: Duration = Duration::from_secs(20);

/// How often a migration or a rekey is tried when the slot changes during it. Each change means a sign-in at
/// that very moment.
const ATTEMPTS: usize = 5;

/// What [`migrate`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migration {
    /// Whether tokens were moved. If `false`, the source was empty because an earlier run had moved them.
    pub moved: bool,
    /// Why the user should sign in again: others could read the tokens in the source, or a refresh of them
    /// was interrupted.
    pub warning: Option<String>,
}

/// What [`backup`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backup {
    /// Why the copy may be worthless: its refresh token may have been spent.
    pub warning: Option<String>,
}

/// Whether [`restore`] may replace a record that is newer than the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// Fails if the record in the target is newer, or if its age is not known.
    IfOlder,
    /// Replaces any record that can be read.
    Always,
}

/// An error while tokens were moved or copied. At least one side still has the tokens. An interrupted run can
/// be repeated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// Another process is refreshing these tokens and did not finish in time.
    #[error("{} is being refreshed by another process; try again", one_line(.place))]
    Busy {
        /// The slot.
        place: String,
    },
    /// The source changed at each attempt.
    #[error("{} keeps changing; stop the programs that use it, and try again", one_line(.place))]
    Changing {
        /// The source.
        place: String,
    },
    /// There is nothing to move or copy.
    #[error("{} holds no tokens", one_line(.place))]
    Empty {
        /// The source.
        place: String,
    },
    /// The source was not made by [`backup`]. Other records may still be in use where they are, so they are
    /// not restored.
    #[error("{} is no backup; use migrate to move live tokens", one_line(.place))]
    NotABackup {
        /// The source.
        place: String,
    },
    /// The target holds a record that is newer than the backup, or a record whose age is not known.
    #[error("{} holds newer tokens than the backup; overwrite them explicitly if that is meant", one_line(.place))]
    Newer {
        /// The target.
        place: String,
    },
    /// The target holds other tokens.
    #[error("{} holds other tokens already; find out which are the live ones before you clear either", one_line(.place))]
    Occupied {
        /// The target.
        place: String,
    },
    /// Source and target are one slot.
    #[error("{} and {} are the same slot", one_line(.from), one_line(.to))]
    SameSlot {
        /// The source.
        from: String,
        /// The target.
        to: String,
    },
    /// A store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The target did not return the record that was just saved in it.
    #[error("{} did not keep what was saved in it; the source is unchanged", one_line(.place))]
    Unverified {
        /// The target.
        place: String,
    },
}

/// Moves tokens from one slot to another.
///
/// The target is written, read back and compared before the source is cleared. The source is cleared only if
/// it is unchanged. A sign-in during the migration is moved too. A sign-out during the migration wins. These
/// tokens are not refreshed while the migration runs.
///
/// If it is killed, the tokens are on at least one side, and maybe on both. Run it again to complete it. Do
/// so before any program uses the tokens: a refresh or a sign-out on one side does not change a copy on the
/// other.
///
/// A source that others can read is moved too. [`Migration::warning`] then says so.
///
/// # Security
///
/// The protection of the stores is not checked: the caller decides whether the target may be in plaintext.
/// Nothing changes at the provider, so a copy of the tokens can still be used.
///
/// # Errors
///
/// Any [`TransferError`] except [`NotABackup`](TransferError::NotABackup) and
/// [`Newer`](TransferError::Newer).
///
/// # Cancel safety
///
/// Dropping the future has the same effect as killing the process during the migration.
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
    // The order does not depend on the direction, so two migrations never wait for each other.
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
    // Released after success and failure: a lease on a server would stay taken for a while. If the release
    // fails, dropping the lease gives it up.
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
                // A sign-out happened during the migration.
                Some(copied) => to.clear(Precondition::Unchanged(copied)).await?,
                // The run that cleared the source may have been killed before the removal was complete or
                // durable.
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
        // If the lease was lost, another process may be refreshing the tokens in the source.
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

/// Renews a lease so that it lasts for the next step. Fails if the lease was lost.
async fn keep(store: &dyn TokenStore, lease: &mut dyn Lease) -> Result<(), TransferError> {
    if lease.renew(STEP).await? { Ok(()) } else { Err(busy(store)) }
}

/// Removes the copy in the target if the source still has the tokens, so that there are not two copies.
async fn take_back(from: &dyn TokenStore, to: &dyn TokenStore, copied: Revision) {
    // If it cannot be removed, the next run reports that the target holds other tokens.
    if let Ok(Some(_)) = from.load().await {
        let _ = to.clear(Precondition::Unchanged(copied)).await;
    }
}

/// Returns a warning that the refresh token may have been spent, if the record has an intent.
fn doubt(record: &Record) -> Option<String> {
    let at = record.intent()?.at().to_rfc3339_opts(SecondsFormat::Secs, true);
    Some(format!(
        "the refresh token may have been spent: a refresh began at {at} and its answer was not saved"
    ))
}

/// Copies tokens, and marks the copy as a backup. A backup is never refreshed: two live copies of a rotating
/// refresh token revoke each other. [`restore`] makes it live again.
///
/// An existing backup in the target is replaced. The state of the refresh is copied too. If a refresh of
/// these tokens was interrupted, the copy records this, and [`Backup::warning`] says so.
///
/// # Errors
///
/// [`TransferError::Empty`] if there is nothing to copy, [`TransferError::Occupied`] if the target
/// holds live tokens, and the errors of the stores.
///
/// # Security
///
/// The caller decides whether the target may be in plaintext. Nothing changes at the provider, so a copy of
/// the tokens can still be used.
///
/// # Cancel safety
///
/// If the future is dropped, the copy may still be made. Making it again replaces it.
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
    forget_origin(&mut record);
    let warning = doubt(&record)
        .map(|doubt| format!("{doubt}; make the backup again once a refresh has succeeded"));
    save_verified(to, &record, precondition).await?;
    Ok(Backup { warning })
}

/// Copies the tokens of a backup into a slot and makes them live again. The backup stays.
///
/// # Errors
///
/// [`TransferError::NotABackup`] if the source was not made by [`backup`],
/// [`TransferError::Newer`] if the target holds newer tokens and `overwrite` is not [`Overwrite::Always`],
/// and the errors of the stores.
///
/// # Security
///
/// The caller decides whether the target may be in plaintext. Nothing changes at the provider, so a copy of
/// the tokens can still be used.
///
/// # Cancel safety
///
/// If the future is dropped, the tokens may still be restored, but never in part. Run it again to complete
/// it.
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
    forget_origin(&mut record);
    let tokens = &record.tokens;
    let precondition = match to.load().await? {
        None => Precondition::Absent,
        // Saved again: the process that saved them may have been killed before they were durable.
        Some(there) if there.record.tokens == *tokens => {
            // The target's record knows what happened to the tokens since the backup.
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

/// Loads a source even if others can read it. The second value is then a warning.
async fn load_source(
    from: &dyn TokenStore,
) -> Result<(Option<Stored>, Option<String>), TransferError> {
    match from.load().await {
        Err(StoreError::Exposed { place, reason, .. }) => {
            let warning = format!(
                "{place} was not private: {reason}; sign in again, so that what others may have \
                 read is worth nothing"
            );
            let warning = one_line(&warning).into_owned();
            Ok((from.load_exposed().await?, Some(warning)))
        }
        loaded => Ok((loaded?, None)),
    }
}

/// Saves, reads back and compares. An interrupted run may have saved the same record already, perhaps not
/// durably. It is then saved again.
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

/// Takes one lease and then the other. The first is renewed meanwhile, because a lease on a server expires.
/// So if both stores are for one slot, the second lease is never granted.
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

/// Takes the lease of a slot after any running refresh has ended. The tokens are not refreshed until the
/// lease is released. Use it for [`rekey`], or in a program that changes how the tokens are kept.
///
/// # Errors
///
/// [`TransferError::Busy`] if another process holds the lease for longer than 100 s, and the errors of the
/// store.
///
/// # Cancel safety
///
/// If the future is dropped, no lease is taken.
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
