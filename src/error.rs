//! What can go wrong.
//!
//! Every message says what happened, at which place, and what to do next. No message repeats a byte of what a
//! store holds, and none contains a character that a terminal obeys or a reader cannot see.

#[cfg(test)]
mod tests;

use std::fmt::{self, Write as _};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};

pub use crate::printable::escape_hidden;
use crate::printable::{OneLine, one_line};

/// A call to a store failed.
///
/// `place` names the slot: a path, a keychain item, a table. An empty slot is not an error, so no variant
/// means "no tokens". A slot that cannot be read is never reported as empty.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The slot is not in the state that the caller expected. Nothing was changed.
    Conflict {
        /// The slot.
        place: String,
    },
    /// The slot holds a damaged record.
    Corrupt {
        /// The slot.
        place: String,
        /// What is wrong with it, and at which position.
        reason: String,
    },
    /// The operating system denied access.
    Denied {
        /// The slot.
        place: String,
        /// What to do.
        advice: String,
    },
    /// Other users can read or replace what the slot holds.
    Exposed {
        /// The slot, or the directory that contains it.
        place: String,
        /// Who has access.
        reason: String,
        /// What to do.
        advice: String,
    },
    /// A text is not a valid age identity or recipient.
    InvalidKey {
        /// The file, or the other place that the text came from.
        place: String,
        /// What is wrong with it, and at which position.
        reason: String,
    },
    /// No store can save these tokens. Nothing was changed.
    InvalidTokens {
        /// The slot.
        place: String,
        /// What is wrong with them.
        reason: String,
    },
    /// A system call failed.
    Io {
        /// The action that failed, as a verb: "read", "write".
        action: &'static str,
        /// The slot.
        place: String,
        /// The error of the system. It is shared, because every task that waits for one refresh gets it.
        source: Arc<io::Error>,
    },
    /// The record exists, but the key that opens it does not.
    KeyMissing {
        /// The slot, or the place where the key should be.
        place: String,
        /// Which key is missing.
        reason: String,
        /// What to do.
        advice: String,
    },
    /// The slot or its key is locked.
    Locked {
        /// What is locked.
        place: String,
        /// What to do.
        advice: String,
    },
    /// A newer version of this crate wrote the record. It is never overwritten.
    NewerVersion {
        /// The slot.
        place: String,
        /// The version that the record names.
        found: u64,
        /// The newest version that this crate reads.
        known: u64,
    },
    /// There is no room for the record, or for the new tokens of the next refresh.
    NoSpace {
        /// The slot, or its directory.
        place: String,
        /// How much room there is, how much is needed, and what to do.
        reason: String,
    },
    /// The slot holds something else than a record of this crate: the file of another program, for example. It is
    /// not changed, and not removed.
    NotARecord {
        /// The slot.
        place: String,
        /// What it is.
        reason: String,
        /// What to do.
        advice: String,
    },
    /// The path of the record is not a regular file.
    NotAFile {
        /// The path.
        place: String,
        /// What is there: "directory", for example.
        found: &'static str,
    },
    /// The record on a server was not written with this key: somebody who does not have the key wrote it, or
    /// it was changed, or it is the record of another slot. It was not decrypted, and no save overwrites it.
    NotAuthentic {
        /// The slot.
        place: String,
        /// What is missing.
        reason: String,
        /// What to do.
        advice: String,
    },
    /// The slot can be read but not written.
    ReadOnly {
        /// The slot.
        place: String,
        /// Why.
        reason: String,
    },
    /// The server holds an older state than this process has seen there, or nothing. Either a backup of the
    /// server was restored, or somebody tampers with it. Its refresh token may have been spent long ago.
    RolledBack {
        /// The slot.
        place: String,
    },
    /// A lock was not released in time, or there was no answer in time.
    Timeout {
        /// What the call waited for.
        place: String,
        /// How long it waited, and for which process or server.
        reason: String,
        /// What to do.
        advice: String,
    },
    /// A record or a file is larger than its limit.
    TooLarge {
        /// The slot.
        place: String,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The store cannot be reached.
    Unavailable {
        /// The store.
        place: String,
        /// What is missing.
        reason: String,
        /// What to do.
        advice: String,
    },
    /// The key does not open the record. As far as this program can see, the record is not damaged.
    Undecryptable {
        /// The slot, or the protected key.
        place: String,
        /// What was tried.
        reason: String,
        /// What to do.
        advice: String,
    },
}

/// Hidden characters are escaped, because a path or a server may contain them: see [`escape_hidden`].
impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = OneLine(f);
        match self {
            Self::Conflict { place } => write!(
                f,
                "{place} was changed in the meantime by another task or program; load it again and repeat"
            ),
            Self::Corrupt { place, reason } => write!(
                f,
                "{place} is damaged: {reason}; restore a backup, or clear it and sign in again"
            ),
            Self::Denied { place, advice } => write!(f, "{place}: access denied; {advice}"),
            Self::Exposed { place, reason, advice } => {
                write!(f, "{place} is not private: {reason}; {advice}")
            }
            Self::InvalidKey { place, reason } => {
                write!(f, "{place} is not a usable age key: {reason}")
            }
            Self::InvalidTokens { place, reason } => {
                write!(f, "these tokens cannot be saved in {place}: {reason}")
            }
            Self::Io { action, place, .. } => write!(f, "cannot {action} {place}"),
            Self::KeyMissing { place, reason, advice } => {
                write!(f, "the age key for {place} is missing: {reason}; {advice}")
            }
            Self::Locked { place, advice } => write!(f, "{place} is locked; {advice}"),
            Self::NewerVersion { place, found, known } => write!(
                f,
                "{place} was written by a newer tokenkeep (record version {found}, this one knows {known}); upgrade this program"
            ),
            Self::NoSpace { place, reason } => {
                write!(f, "there is no room for new tokens in {place}: {reason}")
            }
            Self::NotARecord { place, reason, advice } => {
                write!(f, "{place} holds no record of tokenkeep: {reason}; {advice}")
            }
            Self::NotAFile { place, found } => write!(
                f,
                "{place} is a {found}, not a regular file; move it away or name another path"
            ),
            Self::NotAuthentic { place, reason, advice } => {
                write!(f, "{place} is not authentic: {reason}; {advice}")
            }
            Self::ReadOnly { place, reason } => write!(f, "{place} is read-only: {reason}"),
            Self::RolledBack { place } => write!(
                f,
                "{place} went back to an earlier state than this process has seen; find out whether a backup of the server was restored, then clear it and sign in again"
            ),
            Self::Timeout { place, reason, advice } => write!(f, "{place}: {reason}; {advice}"),
            Self::TooLarge { place, limit } => {
                write!(f, "{place} is too large: it may have at most {limit} bytes")
            }
            Self::Unavailable { place, reason, advice } => {
                write!(f, "{place} is unavailable: {reason}; {advice}")
            }
            Self::Undecryptable { place, reason, advice } => {
                write!(f, "{place} cannot be decrypted: {reason}; {advice}")
            }
        }
    }
}

impl StoreError {
    /// Returns the variant for an I/O error on a file: each variant says what the user can do.
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
    /// Returns whether this is a temporary failure: the store cannot be reached, is locked, is full, or did
    /// not answer in time. The same call may succeed later, even if nobody changes the record.
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

    /// Returns whether tokens that were read before are still served after this error. They are if the error
    /// says nothing about the record, or only that it is an earlier one or that somebody else wrote it.
    pub(crate) fn keeps_cached_tokens(&self) -> bool {
        self.is_transient()
            || matches!(
                self,
                Self::Denied { .. } | Self::NotAuthentic { .. } | Self::RolledBack { .. }
            )
    }
}

/// There is no valid token to return.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The record is a copy made by [`backup`](crate::transfer::backup). It is never refreshed: if two copies
    /// of a rotating refresh token are used, the provider ends the session.
    #[error("these tokens are a backup, which is never refreshed; restore it first")]
    IsBackup,
    /// The server rejected the refresh token. The record says so, for every process. Until the store holds
    /// other tokens, only [`TokenManager::refresh`](crate::TokenManager::refresh) asks the server again, at
    /// most every 30 seconds.
    #[error("these tokens can no longer be refreshed ({}); sign in again", one_line(.reason))]
    LoginRequired {
        /// What the server said.
        reason: String,
    },
    /// The manager has no refresher.
    #[error(
        "no refresher is configured; set one with TokenManager::builder().refresher(…), or sign in again"
    )]
    NoRefresher,
    /// Tokens were refreshed, but saving them failed. They are served from memory until they expire. They are
    /// lost if this process ends first, because the stored refresh token is spent. They are not refreshed
    /// before they are saved.
    #[error(
        "refreshed tokens are not saved yet, and are lost if this program ends now; fix what keeps them from \
         being saved"
    )]
    NotSaved(#[source] StoreError),
    /// The refresh failed. The refresh token was not rejected.
    #[error("{0}; {advice}", advice = .0.advice())]
    Refresh(RefreshFailure),
    /// The server rejected the refresh token, and an earlier refresh may have spent it without saving its
    /// successor.
    #[error("the refresh token may have been spent {by}; sign in again")]
    RefreshTokenSpent {
        /// Which refresh may have spent it, and when.
        by: SpentBy,
    },
    /// The store failed. It is not known whether there are tokens.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There are tokens, but the access token counts as expired.
    #[error("the access token has expired; refresh it or sign in again")]
    TokenExpired,
    /// The slot is empty.
    #[error("there are no tokens; sign in first")]
    TokenNotFound,
}

/// Which refresh may have spent a refresh token without saving its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpentBy {
    /// A refresh of another process. That process ended, or lost the answer, after it sent the token and
    /// before it saved the answer.
    DeadProcess {
        /// When that process was about to send the token, by its clock.
        at: DateTime<Utc>,
    },
    /// A request of this process. Its answer was lost.
    LostAnswer {
        /// When the request was sent.
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

/// How a refresh failed. The text is for people, and contains no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefreshFailure {
    /// The token was sent, or may have been sent, and no complete answer came: a timeout, a broken
    /// connection, an answer of a gateway. The manager tries once more. If the first request reached the
    /// server, a server that rotates its tokens may reject the second.
    #[error("the answer to the refresh was lost ({})", one_line(.reason))]
    Ambiguous {
        /// What happened.
        reason: String,
    },
    /// The request is wrong with any token: an unknown client, a wrong grant, a wrong URL. Signing in again
    /// would not help.
    #[error("the refresh is misconfigured ({})", one_line(.reason))]
    Misconfigured {
        /// What happened.
        reason: String,
        /// The HTTP status, if it is what says that the request is wrong, such as 404.
        status: Option<u16>,
        /// Whether it is certain that the server did not spend the refresh token.
        unspent: bool,
    },
    /// The server no longer accepts this refresh token: `invalid_grant`.
    #[error("the refresh token was rejected ({})", one_line(.reason))]
    Rejected {
        /// What happened.
        reason: String,
    },
    /// A temporary failure: the server could not be reached, or asked to wait (429, 503, `Retry-After`). After
    /// any answer except a 429, the token may be spent.
    #[error("the refresh failed temporarily ({})", one_line(.reason))]
    Transient {
        /// What happened.
        reason: String,
        /// How long the server asked to wait.
        retry_after: Option<Duration>,
        /// Whether it is certain that the server did not spend the refresh token.
        unspent: bool,
    },
}

impl RefreshFailure {
    /// Makes an [`Ambiguous`](Self::Ambiguous) failure: the answer was lost.
    #[must_use]
    pub fn ambiguous(reason: impl Into<String>) -> Self {
        Self::Ambiguous { reason: reason.into() }
    }

    /// Makes a [`Misconfigured`](Self::Misconfigured) failure: the request is wrong with any token, and did
    /// not spend the token.
    #[must_use]
    pub fn misconfigured(reason: impl Into<String>) -> Self {
        Self::Misconfigured { reason: reason.into(), status: None, unspent: true }
    }

    /// Makes a [`Rejected`](Self::Rejected) failure: the server no longer accepts the refresh token.
    #[must_use]
    pub fn rejected(reason: impl Into<String>) -> Self {
        Self::Rejected { reason: reason.into() }
    }

    /// Makes a [`Transient`](Self::Transient) failure: the token was not spent, and the refresh may succeed
    /// later.
    #[must_use]
    pub fn transient(reason: impl Into<String>) -> Self {
        Self::Transient { reason: reason.into(), retry_after: None, unspent: true }
    }

    /// Adds the HTTP status to a [`Misconfigured`](Self::Misconfigured) failure.
    #[must_use]
    pub fn with_status(mut self, answered: u16) -> Self {
        if let Self::Misconfigured { status, .. } = &mut self {
            *status = Some(answered);
        }
        self
    }

    /// Adds that the server may have spent the token.
    #[must_use]
    pub fn maybe_spent(mut self) -> Self {
        if let Self::Misconfigured { unspent, .. } | Self::Transient { unspent, .. } = &mut self {
            *unspent = false;
        }
        self
    }

    /// Returns whether this failure proves that the failed request did not spend the refresh token. A
    /// rejection proves it: the server had stopped accepting the token before.
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
            Self::Misconfigured { .. } => "check the settings of the provider",
            Self::Rejected { .. } => "sign in again",
        }
    }
}
