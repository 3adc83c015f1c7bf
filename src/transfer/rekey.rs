//! Seals a record to other keys.

#[cfg(doc)]
use super::wait_for_lease;
use super::{ATTEMPTS, TransferError, keep, load};
use crate::error::StoreError;
use crate::store::{Lease, Precondition, TokenStore};

/// Seals a record to other keys. `old`, `both` and `new` are three stores for one slot. `old` has the present
/// keys. `both` has all keys, present and future. `new` has the future keys. In a store of a fleet, `both` has all
/// identities too, because each one authenticates the record: `AgeKey::with_identities_of` makes such a key.
///
/// First the record is sealed to both. Then `repoint` durably changes everything that names the old keys,
/// such as a configuration file, to name the new keys. Then the record is sealed to the new keys alone. So
/// the keys that are named can open the record at every moment. If it is killed, run it again to complete it.
/// This works even if the old keys no longer open the record by then.
///
/// `old` must have the keys that are named now, and their names must be durable. An earlier run may have
/// changed the names, and may have been killed before the change was durable. A power failure would then
/// bring the earlier names back.
///
/// `lease` must be a lease on this slot, from [`wait_for_lease`] through `new`. Without it, a refresh that
/// another process began earlier would save its result for the old keys. The names of the keys may have
/// changed during the wait for the lease, so read them again before the call.
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
/// // The new set contains both keys already, and only this program names them.
/// rekey(&mut *lease, &old, &new, &new, async { Ok::<_, TransferError>(()) }).await?;
/// lease.release().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`TransferError::Empty`] if there is no record, [`TransferError::Busy`] if another holder has taken the
/// lease, [`TransferError::Changing`] if the record changes at each attempt, the error of `repoint`, and the
/// errors of the store.
///
/// # Security
///
/// Anything sealed to the old keys earlier, such as a backup, can still be opened with them. If others know
/// the old keys, sign in again too.
///
/// # Cancel safety
///
/// Dropping the future has the same effect as killing the process during the call.
pub async fn rekey<E: From<TransferError>>(
    lease: &mut dyn Lease,
    old: &dyn TokenStore,
    both: &dyn TokenStore,
    new: &dyn TokenStore,
    repoint: impl Future<Output = Result<(), E>>,
) -> Result<(), E> {
    keep(new, lease).await?;
    // Done even if an earlier run did it: that run may have been killed before the change was durable.
    if let Err(error) = reseal(old, both).await {
        let is_sealed_to_old = old.load().await.is_ok_and(|stored| stored.is_some());
        // Only a save that succeeded is durable. The record may have been replaced, and its name not.
        let again = if is_sealed_to_old {
            reseal(old, both).await
        } else {
            // An earlier run, or another machine with the same slot, sealed it to the new keys alone.
            reseal(new, new).await
        };
        again.map_err(|_| error)?;
    }
    drop(load(new).await?);
    repoint.await?;
    keep(new, lease).await?;
    let Err(error) = reseal(new, new).await else { return Ok(()) };
    // A process that still has the old keys may have saved a sign-in for the old keys alone.
    reseal(old, both).await.map_err(|_| error)?;
    keep(new, lease).await?;
    reseal(new, new).await?;
    Ok(())
}

/// Loads a record through one store of a slot, and saves it through another.
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
