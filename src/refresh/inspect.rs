//! What a slot shows about refreshes, without refreshing its tokens.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::error::StoreError;
use crate::record::Intent;
use crate::store::TokenStore;
use crate::sys::clock::Timer;

/// Returns when the last refresh of the tokens in a slot began, if that refresh was interrupted.
///
/// It was interrupted if its process ended before it saved the answer. The refresh token may then be spent. A
/// refresh that is still running is not interrupted.
///
/// # Errors
///
/// The errors of [`TokenStore::load`] and [`TokenStore::is_leased`].
///
/// # Cancel safety
///
/// A dropped call changes nothing.
pub async fn interrupted_refresh(
    store: &dyn TokenStore,
) -> Result<Option<DateTime<Utc>>, StoreError> {
    let intent = async || -> Result<_, StoreError> {
        let stored = store.load().await?;
        Ok(stored.and_then(|stored| stored.record.intent().map(Intent::at)))
    };
    if intent().await?.is_none() {
        return Ok(None);
    }
    // Another caller of this function may hold the lease for a moment.
    let timer = Timer::default();
    for look in 0..LOOKS {
        if look > 0 {
            timer.sleep(PAUSE).await;
        }
        if !store.is_leased().await? {
            // The holder may have finished its refresh since the intent was read.
            return intent().await;
        }
    }
    Ok(None)
}

/// How often the lease is looked at, and the pause in between. Together they are longer than another call of
/// this function holds the lease, and shorter than most refreshes do.
const LOOKS: usize = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// Checks whether a refresh could replace the tokens in a slot now.
///
/// It checks whether there is room for the largest record, whether the lock can be taken, and whether the
/// keys that the record is sealed to can be read. It changes nothing in the slot. While a refresh is
/// running, it returns `Ok` at once, because that refresh has checked the slot.
///
/// # Errors
///
/// The error that a refresh would fail with, and what to do about it.
///
/// # Cancel safety
///
/// A dropped call changes nothing.
pub async fn check_replaceable(store: &dyn TokenStore) -> Result<(), StoreError> {
    let Some(mut lease) = store.try_lease().await? else { return Ok(()) };
    let checked = lease.reserve().await;
    let _ = lease.release().await;
    checked
}
