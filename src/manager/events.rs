use std::time::SystemTime;

use tokio::sync::broadcast::{self, error::RecvError};

use crate::error::{AuthError, StoreError};

/// Something that happened to the tokens of a [`TokenManager`](crate::TokenManager). No event holds
/// a secret.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The tokens are gone: a logout, here or elsewhere.
    Cleared,
    /// The refresh token is of no use any more; somebody has to sign in.
    LoginRequired {
        /// [`AuthError::LoginRequired`] or [`AuthError::RefreshTokenSpent`].
        error: AuthError,
    },
    /// A refresh failed. The tokens are as they were.
    RefreshFailed {
        /// How it failed.
        error: AuthError,
        /// When it may be tried again, if that was decided.
        retry_at: Option<SystemTime>,
    },
    /// There are new tokens, from the server or from another process.
    Refreshed,
    /// Refreshed tokens could not be saved. They are served from memory, and saving them is tried
    /// again.
    SaveFailed {
        /// What the store said.
        error: StoreError,
    },
    /// New tokens were saved.
    Saved,
    /// New tokens were saved, sealed to the recipients that were known when the refresh began: the key, or a
    /// list of recipients, could no longer be read.
    SavedWithEarlierKey {
        /// Why not.
        error: StoreError,
    },
}

/// What happens to the tokens of a [`TokenManager`](crate::TokenManager) from the moment of its
/// [`subscribe`](crate::TokenManager::subscribe) on.
#[derive(Debug)]
pub struct Events(pub(super) broadcast::Receiver<Event>);

impl Events {
    /// Waits for the next event: `None` when the last clone of the manager is gone. Who listens too
    /// slowly misses the oldest ones.
    ///
    /// # Cancellation
    ///
    /// A dropped wait takes no event with it.
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
