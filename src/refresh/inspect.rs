//! What can be told of a slot without refreshing its tokens.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::error::StoreError;
use crate::record::Intent;
use crate::store::TokenStore;
use crate::sys::clock::Timer;

/// Returns when the last refresh of the tokens in a slot began, if it was interrupted: the process that began
/// it ended before it saved the answer, so the refresh token may have been spent. A refresh that is under way is not
/// interrupted.
///
/// # Errors
///
/// What keeps the slot from being read, or its lease from being taken for a moment.
///
/// # Cancellation
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
    // Others who only look have the lease for a moment each.
    let timer = Timer::default();
    for look in 0..LOOKS {
        if look > 0 {
            timer.sleep(PAUSE).await;
        }
        if !store.is_leased().await? {
            // Its holder may have come to an end in between.
            return intent().await;
        }
    }
    Ok(None)
}

/// How often, and how far apart, the lease is looked at: long enough to tell a refresh, which takes the time of
/// an answer, from somebody who looks as well.
const LOOKS: usize = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// Checks whether the tokens in a slot could be replaced now, as a refresh does: whether there is room for
/// the largest record, whether its lock can be had, whether the keys that it is sealed to can be read. Nothing
/// in the slot is changed. While a refresh is under way, that refresh has checked it.
///
/// # Errors
///
/// What would keep a refresh from beginning, and what to do about it.
///
/// # Cancellation
///
/// A dropped call changes nothing.
pub async fn check_replaceable(store: &dyn TokenStore) -> Result<(), StoreError> {
    let Some(mut lease) = store.try_lease().await? else { return Ok(()) };
    let checked = lease.reserve().await;
    let _ = lease.release().await;
    checked
}
