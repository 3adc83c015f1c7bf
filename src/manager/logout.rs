//! A logout that the provider is told of.

use std::future::Future;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::slot::{Slot, SlotGuard, release};
use crate::error::StoreError;
use crate::record::Intent;
use crate::store::{Lease, Precondition, Stored};
use crate::sys::clock::PollUntil;
use crate::tokens::AuthTokens;

/// What may be left at the provider after a logout:
/// [`TokenManager::revoke_and_clear`](crate::TokenManager::revoke_and_clear).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Logout<E> {
    /// Why tokens could not be revoked. They may be accepted until they expire.
    pub not_revoked: Vec<E>,
    /// Whether a refresh was still under way, here or in another process. What it brings is not saved, and
    /// may be accepted until it expires.
    pub refresh_under_way: bool,
    /// When an earlier refresh began that was cut off. It may have brought tokens that nobody has, and that are
    /// accepted until they expire.
    pub cut_off: Option<DateTime<Utc>>,
    /// Why it is not known what the slot held, or whether a refresh is under way. What it held was not revoked.
    pub unknown: Option<StoreError>,
}

/// Revokes the tokens at the provider and empties the slot.
///
/// `is_idle` says whether no refresh runs in this process, and `limit` is how long to wait for one of
/// another.
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
        // What this process itself does not end is not waited for a second time.
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
    // Under the lease, an intent is of a refresh that has ended. That of tokens to be saved is their own.
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

/// Takes the lease, so that no refresh brings new tokens while the old ones are revoked: `None` if
/// somebody else has it all the time.
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

/// Empties the slot if it still holds what was revoked; else revokes what it holds by now, and empties it
/// whatever it holds.
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

/// Revokes tokens, unless they were revoked already.
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
