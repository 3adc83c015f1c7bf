//! What can go wrong. Every message says where, what, and what to do next; none repeats a byte of
//! what a store holds.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};

/// A store could not do what it was asked.
///
/// `place` names the slot: a path, a keychain item, a table. No variant means "no tokens": an
/// empty slot is not an error, and a slot that could not be read is never called empty.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The slot is not in the state that the caller expected. Nothing was changed.
    #[error("{place} was changed by someone else in the meantime; load it again and repeat")]
    Conflict {
        /// The slot.
        place: String,
    },
    /// What the slot holds is no token record, or no longer one.
    #[error("{place} is damaged: {reason}; restore a backup, or clear it and sign in again")]
    Corrupt {
        /// The slot.
        place: String,
        /// What is wrong with it, and where in it.
        reason: String,
    },
    /// The system refused access.
    #[error("{place}: access denied; {advice}")]
    Denied {
        /// The slot.
        place: String,
        /// What to do.
        advice: String,
    },
    /// Others can read or replace what the slot holds.
    #[error("{place} is not private: {reason}; {advice}")]
    Exposed {
        /// The slot, or the directory that it lies in.
        place: String,
        /// Who can get at it.
        reason: String,
        /// What to do.
        advice: String,
    },
    /// What should be an age identity or recipient is none.
    #[error("{place} is not a usable age key: {reason}")]
    InvalidKey {
        /// The file, or where else it came from.
        place: String,
        /// What is wrong with it, and where in it.
        reason: String,
    },
    /// These tokens cannot be stored by any store. Nothing was changed.
    #[error("these tokens cannot be saved in {place}: {reason}")]
    InvalidTokens {
        /// The slot.
        place: String,
        /// What is wrong with them.
        reason: String,
    },
    /// The system failed.
    #[error("cannot {action} {place}")]
    Io {
        /// What was being done, as a verb: "read", "write".
        action: &'static str,
        /// The slot.
        place: String,
        /// What the system said. Shared, so that all who wait for one refresh can be told.
        source: Arc<io::Error>,
    },
    /// The record is there and the key that opens it is not.
    #[error("the age key for {place} is missing: {reason}; {advice}")]
    KeyMissing {
        /// The slot, or the place where the key should be.
        place: String,
        /// What was looked for.
        reason: String,
        /// What to do.
        advice: String,
    },
    /// The slot or its key has to be unlocked first.
    #[error("{place} is locked; {advice}")]
    Locked {
        /// What is locked.
        place: String,
        /// What to do.
        advice: String,
    },
    /// A newer version of this crate wrote the record. It is never overwritten.
    #[error(
        "{place} was written by a newer tokenkeep (record version {found}, this one knows {known}); \
         upgrade this program"
    )]
    NewerVersion {
        /// The slot.
        place: String,
        /// The version that the record names.
        found: u64,
        /// The newest version that this crate reads.
        known: u64,
    },
    /// There is no room for the record, or for the one that a refresh would end with.
    #[error("there is no room for new tokens in {place}: {reason}")]
    NoSpace {
        /// The slot, or its directory.
        place: String,
        /// How much room there is, how much it takes, and what to do.
        reason: String,
    },
    /// There is something else where the record's file should be.
    #[error("{place} is a {found}, not a regular file; move it away or name another path")]
    NotAFile {
        /// The path.
        place: String,
        /// What is there.
        found: &'static str,
    },
    /// The slot can be read and never written.
    #[error("{place} is read-only: {reason}")]
    ReadOnly {
        /// The slot.
        place: String,
        /// Why.
        reason: String,
    },
    /// What a server holds is older than what this process has seen there, or is gone: a backup of it
    /// was put back, or somebody tampers with it. A refresh token in it may have been spent long ago.
    #[error(
        "{place} went back to an earlier state than this process has seen; find out who did that, then \
         clear it and sign in again"
    )]
    RolledBack {
        /// The slot.
        place: String,
    },
    /// Somebody else did not let go, or did not answer, in time.
    #[error("{place}: {reason}; {advice}")]
    Timeout {
        /// What was waited for.
        place: String,
        /// For how long, and for whom.
        reason: String,
        /// What to do.
        advice: String,
    },
    /// A record or a file is larger than it may be.
    #[error("{place} is too large: it may have at most {limit} bytes")]
    TooLarge {
        /// The slot.
        place: String,
        /// How many bytes it may have.
        limit: usize,
    },
    /// The store cannot be reached.
    #[error("{place} is unavailable: {reason}; {advice}")]
    Unavailable {
        /// The store.
        place: String,
        /// What is missing.
        reason: String,
        /// What to do.
        advice: String,
    },
    /// The record is sound as far as can be told, and this key does not open it.
    #[error("{place} cannot be decrypted: {reason}; {advice}")]
    Undecryptable {
        /// The slot, or the protected key.
        place: String,
        /// What was tried.
        reason: String,
        /// What to do.
        advice: String,
    },
}

impl StoreError {
    /// Sorts what the system said about a file into what the user can do about it.
    pub(crate) fn io(action: &'static str, place: impl Into<String>, source: io::Error) -> Self {
        let place = place.into();
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Denied {
                place,
                advice: format!(
                    "check its owner and permissions, and those of the directories above (cannot {action})"
                ),
            },
            io::ErrorKind::ReadOnlyFilesystem => {
                Self::ReadOnly { place, reason: "its file system is mounted read-only".into() }
            }
            _ => Self::Io { action, place, source: Arc::new(source) },
        }
    }
}

impl StoreError {
    /// Returns whether the same call may succeed later although nobody changes what the store holds: the
    /// store cannot be reached, is locked, is full, or did not answer in time.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Io { .. }
                | Self::Locked { .. }
                | Self::NoSpace { .. }
                | Self::Timeout { .. }
                | Self::Unavailable { .. }
        )
    }

    /// Returns whether tokens that were read before are still served after this error: it says nothing about
    /// the record, or only that it is an earlier one.
    pub(crate) fn keeps_cached_tokens(&self) -> bool {
        self.is_transient() || matches!(self, Self::Denied { .. } | Self::RolledBack { .. })
    }
}

/// No valid token can be handed out.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The record is a copy made by [`backup`](crate::transfer::backup). It is never refreshed: two live
    /// copies of a rotating refresh token revoke each other.
    #[error("these tokens are a backup, which is never refreshed; restore it first")]
    IsBackup,
    /// The server rejected the refresh token. The record says so to every process, and until the store
    /// holds others the server is asked again only by [`TokenManager::refresh`](crate::TokenManager::refresh),
    /// at most every 30 seconds.
    #[error("these tokens cannot be refreshed any more ({reason}); sign in again")]
    LoginRequired {
        /// What the server said.
        reason: String,
    },
    /// There is nobody to ask for new tokens.
    #[error("this program was not told how to refresh; sign in again")]
    NoRefresher,
    /// Tokens were refreshed and could not be saved. They are served from memory until they expire, and
    /// lost with this process: the stored refresh token is spent. Nothing is refreshed from them.
    #[error("refreshed tokens could not be saved yet; mend that before this program ends")]
    NotSaved(#[source] StoreError),
    /// The refresh failed, and it is not the refresh token's fault.
    #[error("{0}; {advice}", advice = .0.advice())]
    Refresh(RefreshFailure),
    /// The server rejected the refresh token, and somebody may have spent it without being able to
    /// save its successor.
    #[error("the refresh token may have been spent {by}; sign in again")]
    RefreshTokenSpent {
        /// Who may have spent it, and when.
        by: SpentBy,
    },
    /// The store failed. Whether there are tokens is not known.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There are tokens, and the access token is expired or about to be.
    #[error("the access token has expired; refresh it or sign in again")]
    TokenExpired,
    /// The slot is empty.
    #[error("there are no tokens; sign in first")]
    TokenNotFound,
}

/// Who may have spent a refresh token without saving its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpentBy {
    /// A process that died, or lost what came back, between sending the token and saving its answer.
    DeadProcess {
        /// When it was about to send the token, by its clock.
        at: DateTime<Utc>,
    },
    /// A request of this process whose answer was lost.
    LostAnswer {
        /// When it was sent.
        at: DateTime<Utc>,
    },
}

impl fmt::Display for SpentBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (who, at) = match self {
            Self::DeadProcess { at } => ("by an unfinished refresh at", at),
            Self::LostAnswer { at } => ("by a request whose answer was lost at", at),
        };
        write!(f, "{who} {}", at.to_rfc3339_opts(SecondsFormat::Secs, true))
    }
}

/// How a refresh failed. The text is for people, and holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefreshFailure {
    /// The token was sent, or may have been, and no answer came that can be read whole: a timeout, a
    /// broken connection, an answer of a gateway. It is tried once more; if the first try had reached the
    /// server, one that rotates its tokens may refuse the second.
    #[error("the answer to the refresh was lost ({reason})")]
    Ambiguous {
        /// What happened.
        reason: String,
    },
    /// The request is wrong, whatever the token: an unknown client, a wrong grant, a wrong URL. Signing
    /// in again would not help.
    #[error("the refresh is set up wrong ({reason})")]
    Misconfigured {
        /// What happened.
        reason: String,
        /// Whether it is certain that the server did not spend the refresh token.
        unspent: bool,
    },
    /// The server says that this refresh token is no longer good: `invalid_grant`.
    #[error("the refresh token was rejected ({reason})")]
    Rejected {
        /// What happened.
        reason: String,
    },
    /// The server could not be reached, or asks to wait: no connection, 429, 503. Of these, 503 proves
    /// nothing about the token.
    #[error("the refresh failed for now ({reason})")]
    Transient {
        /// What happened.
        reason: String,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
        /// Whether it is certain that the server did not spend the refresh token.
        unspent: bool,
    },
}

impl RefreshFailure {
    /// Says that the answer was lost.
    #[must_use]
    pub fn ambiguous(reason: impl Into<String>) -> Self {
        Self::Ambiguous { reason: reason.into() }
    }

    /// Says that the request is wrong, whatever the token, and that it did not spend the token.
    #[must_use]
    pub fn misconfigured(reason: impl Into<String>) -> Self {
        Self::Misconfigured { reason: reason.into(), unspent: true }
    }

    /// Says that the server no longer accepts the refresh token.
    #[must_use]
    pub fn rejected(reason: impl Into<String>) -> Self {
        Self::Rejected { reason: reason.into() }
    }

    /// Says that the token was not spent, and that it may work later.
    #[must_use]
    pub fn transient(reason: impl Into<String>) -> Self {
        Self::Transient { reason: reason.into(), retry_after: None, unspent: true }
    }

    /// Says that it is not certain whether the server spent the token.
    #[must_use]
    pub fn maybe_spent(mut self) -> Self {
        if let Self::Misconfigured { unspent, .. } | Self::Transient { unspent, .. } = &mut self {
            *unspent = false;
        }
        self
    }

    /// Returns whether this failure proves that the request which it ended did not spend the refresh
    /// token. A rejection proves it: the server had stopped accepting the token before.
    #[must_use]
    pub fn proves_unspent(&self) -> bool {
        match self {
            Self::Ambiguous { .. } => false,
            Self::Misconfigured { unspent, .. } | Self::Transient { unspent, .. } => *unspent,
            Self::Rejected { .. } => true,
        }
    }

    fn advice(&self) -> &'static str {
        match self {
            Self::Ambiguous { .. } | Self::Transient { .. } => "try again later",
            Self::Misconfigured { .. } => "see how the provider is set up here",
            Self::Rejected { .. } => "sign in again",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_state_is_not_transient_and_keeps_what_is_cached() {
        let place = || "here".to_owned();
        let locked = StoreError::Locked { place: place(), advice: String::new() };
        let rolled_back = StoreError::RolledBack { place: place() };
        let denied = StoreError::Denied { place: place(), advice: String::new() };
        let conflict = StoreError::Conflict { place: place() };
        for (error, transient, keeps) in [
            (locked, true, true),
            (rolled_back, false, true),
            (denied, false, true),
            (conflict, false, false),
        ] {
            assert_eq!(error.is_transient(), transient, "{error:?}");
            assert_eq!(error.keeps_cached_tokens(), keeps, "{error:?}");
        }
    }
}
