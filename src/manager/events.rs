use std::time::SystemTime;

use chrono::{DateTime, Utc};
use tokio::sync::broadcast::{self, error::RecvError};

use crate::error::{AuthError, StoreError};

/// Something that happened to the tokens of a [`TokenManager`](crate::TokenManager). No event contains a
/// secret.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The slot was emptied: a logout, in this process or in another one.
    Cleared,
    /// The refresh token no longer works. Somebody has to sign in again.
    LoginRequired {
        /// [`AuthError::LoginRequired`] or [`AuthError::RefreshTokenSpent`].
        error: AuthError,
    },
    /// A refresh failed. The tokens are unchanged.
    RefreshFailed {
        /// How it failed.
        error: AuthError,
        /// When the next try is allowed, if that is known.
        retry_at: Option<SystemTime>,
    },
    /// There are new tokens, from the server or from another process.
    Refreshed,
    /// Saving refreshed tokens failed. They are served from memory, and saving is tried again.
    SaveFailed {
        /// The error of the store.
        error: StoreError,
    },
    /// New tokens were saved.
    Saved,
    /// New tokens were saved, sealed to the recipients that were known when the refresh began. The key, or a
    /// list of recipients, could no longer be read.
    SavedWithEarlierKey {
        /// Why it could not be read.
        error: StoreError,
    },
    /// The refresh token expires soon: see [`AuthTokens::sign_in_due`](crate::AuthTokens::sign_in_due). It is
    /// published once for each refresh token. If the provider does not renew it with a refresh, somebody has
    /// to sign in before that time.
    SignInDue {
        /// When the refresh token expires.
        at: DateTime<Utc>,
    },
}

/// The events of a [`TokenManager`](crate::TokenManager) since the call of
/// [`subscribe`](crate::TokenManager::subscribe).
#[derive(Debug)]
pub struct Events(pub(super) broadcast::Receiver<Event>);

impl Events {
    /// Waits for the next event and returns it. Returns `None` after the last clone of the manager was
    /// dropped. A receiver that is too slow misses the oldest events.
    ///
    /// # Cancel safety
    ///
    /// No event is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }
}
