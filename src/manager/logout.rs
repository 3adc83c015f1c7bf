//! A logout that also revokes the tokens at the provider.

use std::future::Future;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::slot::{Slot, SlotGuard, release};
use crate::error::StoreError;
use crate::record::Intent;
use crate::store::{Lease, Precondition, Stored};
use crate::sys::clock::PollUntil;
use crate::tokens::AuthTokens;

/// The result of [`TokenManager::revoke_and_clear`](crate::TokenManager::revoke_and_clear): which tokens the
/// provider may still accept.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Logout<E> {
    /// The errors of `revoke`. The provider may accept the tokens of each failed call until they expire.
    pub not_revoked: Vec<E>,
    /// Whether a refresh was still running, in this process or in another one. Its new tokens are not saved,
    /// and the provider may accept them until they expire.
    pub refresh_under_way: bool,
    /// When an earlier refresh began, if that refresh was interrupted. The provider may have issued tokens
    /// that no process received. It accepts them until they expire.
    pub cut_off: Option<DateTime<Utc>>,
    /// The error of the store, if the slot could not be read or its lease could not be taken. Tokens that
    /// could not be read were not revoked.
    pub unknown: Option<StoreError>,
}

/// Revokes the tokens at the provider and empties the slot.
///
/// `is_idle` says that no refresh runs in this process. `limit` is how long to wait for a refresh of another
/// process.
pub(super) async fn revoke_and_clear<R, E>(
    slot: &Slot,
    is_idle: bool,
    limit: Duration,
    revoke: impl Fn(AuthTokens) -> R,
) -> Result<Logout<E>, StoreError>
where
    R: Future<Output = Result<(), E>>,
{
    let (pending, lease) = slot.revoke_pending().unzip();
    let lease = match lease.flatten() {
        Some(lease) => Ok(Some(lease)),
        // The caller has waited for the refresh of this process already.
        None if !is_idle => slot.try_lease().await,
        None => lease_within(slot, limit).await,
    };
    let mut logout = Logout {
        not_revoked: Vec::new(),
        refresh_under_way: !is_idle || matches!(lease, Ok(None)),
        cut_off: None,
        unknown: lease.as_ref().err().cloned(),
    };

    let mut guard = slot.lock_for_logout().await;
    let loaded = guard.load().await.unwrap_or_else(|error| {
        logout.unknown = Some(error);
        None
    });
    // While this call holds the lease, no refresh is running. So an intent in the record is of a refresh that
    // was interrupted. If tokens are pending, the intent is that of their own refresh.
    if let (None, Ok(Some(_)), Some(stored)) = (&pending, &lease, &loaded) {
        logout.cut_off = stored.record.intent().map(Intent::at);
    }
    let mut seen: Vec<AuthTokens> = Vec::new();
    let found = loaded.as_ref().map(|stored| stored.record.tokens.clone());
    for tokens in [found, pending].into_iter().flatten() {
        revoke_once(&revoke, tokens, &mut seen, &mut logout).await;
    }
    guard.forget();
    let cleared = clear_or_revoke(&mut guard, loaded, &revoke, &mut seen, &mut logout).await;
    if let Ok(Some(lease)) = lease {
        release(lease).await;
    }
    cleared?;
    guard.install_empty().await;
    Ok(logout)
}

/// Takes the lease, so that no refresh gets new tokens while the old ones are revoked. Returns `None` if
/// another holder has the lease until the limit is over.
async fn lease_within(slot: &Slot, limit: Duration) -> Result<Option<Box<dyn Lease>>, StoreError> {
    let mut poll = PollUntil::new(limit);
    loop {
        if let Some(lease) = slot.try_lease().await? {
            return Ok(Some(lease));
        }
        if !poll.wait(slot.timer()).await {
            return Ok(None);
        }
    }
}

/// Empties the slot if it still holds the revoked tokens. Otherwise revokes the tokens that it holds now, and
/// empties it in any case.
async fn clear_or_revoke<R, E>(
    guard: &mut SlotGuard<'_>,
    revoked: Option<Stored>,
    revoke: &impl Fn(AuthTokens) -> R,
    seen: &mut Vec<AuthTokens>,
    logout: &mut Logout<E>,
) -> Result<(), StoreError>
where
    R: Future<Output = Result<(), E>>,
{
    if let Some(revoked) = revoked {
        if guard.clear(Precondition::Unchanged(revoked.revision)).await.is_ok() {
            return Ok(());
        }
        if let Ok(Some(there)) = guard.load().await {
            revoke_once(revoke, there.record.tokens, seen, logout).await;
        }
    }
    guard.clear(Precondition::Anything).await
}

/// Revokes tokens, unless `seen` contains them.
async fn revoke_once<R, E>(
    revoke: &impl Fn(AuthTokens) -> R,
    tokens: AuthTokens,
    seen: &mut Vec<AuthTokens>,
    logout: &mut Logout<E>,
) where
    R: Future<Output = Result<(), E>>,
{
    if seen.contains(&tokens) {
        return;
    }
    seen.push(tokens.clone());
    if let Err(error) = revoke(tokens).await {
        logout.not_revoked.push(error);
    }
}
