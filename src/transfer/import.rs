//! Taking tokens from another program.

use secrecy::{ExposeSecret, SecretString};

use super::{ATTEMPTS, TransferError, load_source, refuse_same_slot, save_verified};
use crate::error::StoreError;
use crate::record::Record;
use crate::store::{Precondition, Revision, Stored, TokenStore};
use crate::tokens::AuthTokens;

/// What [`import`] makes of the tokens of another program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Import {
    /// A copy that is marked as a backup: its access token can be used, and it is never refreshed. Two live copies
    /// of a rotating refresh token revoke each other.
    Copy,
    /// Live tokens. The other program is signed out as soon as they are refreshed. The source is removed if that is
    /// possible and nothing else is in it.
    TakeOver,
}

/// What [`import`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Imported {
    /// Whether the source was removed.
    pub removed: bool,
    /// Why the source stays, if the tokens were taken over: how to sign out in the other program.
    pub stays: Option<String>,
    /// Why the user should sign in again: others could read the tokens in the source.
    pub warning: Option<String>,
}

/// Copies the tokens of another program, or takes them over.
///
/// The target is written, read back and compared before the source is removed. The source is removed only if it is
/// unchanged. An earlier copy of the same account in the target is
/// replaced. A run that was killed can be repeated.
///
/// # Errors
///
/// [`TransferError::Empty`] if there is nothing to import, [`TransferError::Occupied`] if the target holds other
/// tokens that are live, [`TransferError::Changing`] if the source changes meanwhile, and the errors of the stores.
///
/// # Security
///
/// The caller decides whether the target may be in plaintext. A refresh token that two programs use is revoked by
/// many providers: see [`Import`].
///
/// # Cancel safety
///
/// Dropping the future has the same effect as killing the process.
pub async fn import(
    from: &dyn TokenStore,
    to: &dyn TokenStore,
    kind: Import,
) -> Result<Imported, TransferError> {
    refuse_same_slot(from, to)?;
    let is_copy = kind == Import::Copy;
    let origin = from.to_string();
    let mut saved: Option<Revision> = None;
    for _ in 0..ATTEMPTS {
        let (source, warning) = load_source(from).await?;
        let there = to.load().await?;
        let Some(Stored { mut record, revision }) = source else {
            // Another process has just taken these tokens over, and they must not be live twice.
            if let Some(saved) = saved {
                to.clear(Precondition::Unchanged(saved)).await?;
            }
            return Err(TransferError::Empty { place: origin });
        };
        record.tokens = record.tokens.with_backup(is_copy);
        if is_copy {
            record.tokens = record.tokens.with_extra(IMPORTED_FROM, origin.as_str().into());
        }
        let precondition = match there {
            None => Precondition::Absent,
            Some(there)
                if is_copy_of(&there.record.tokens, from)
                    || saved.as_ref() == Some(&there.revision) =>
            {
                Precondition::Unchanged(there.revision)
            }
            // The target's record knows what happened to the tokens since an earlier run.
            Some(there) if !is_copy && there.record.tokens == record.tokens => {
                record.refresh = there.record.refresh;
                Precondition::Unchanged(there.revision)
            }
            Some(_) => return Err(TransferError::Occupied { place: to.to_string() }),
        };
        saved = Some(save_verified(to, &record, precondition).await?);
        let mut imported = Imported { removed: false, stays: None, warning };
        if is_copy {
            return Ok(imported);
        }
        match from.clear(Precondition::Unchanged(revision)).await {
            Ok(()) => imported.removed = true,
            Err(StoreError::Conflict { .. }) => continue,
            Err(StoreError::ReadOnly { reason, .. }) => imported.stays = Some(reason),
            // The tokens are live here. The user has to know that they are there too.
            Err(error) => imported.stays = Some(error.to_string()),
        }
        return Ok(imported);
    }
    Err(TransferError::Changing { place: origin })
}

/// Where a copy of another program's tokens comes from. It is one of its other fields.
const IMPORTED_FROM: &str = "imported_from";

/// What is live, or a backup of what was live, is no longer the copy that an import made.
pub(super) fn forget_origin(record: &mut Record) {
    if record.tokens.extra(IMPORTED_FROM).is_some() {
        record.tokens.retain_extras(|name| name != IMPORTED_FROM);
    }
}

/// Returns whether these tokens are a copy that [`import`] made of the same account of this source. [`import`] replaces
/// such a copy, and no other backup, which may be the only one.
#[must_use]
pub fn is_copy_of(tokens: &AuthTokens, source: &dyn TokenStore) -> bool {
    let origin = source.to_string();
    #[expect(clippy::disallowed_methods, reason = "the place that it comes from is no secret")]
    let is_same = |from: &SecretString| from.expose_secret() == origin;
    tokens.is_backup() && tokens.extra(IMPORTED_FROM).is_some_and(is_same)
}
