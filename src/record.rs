//! The record in a slot: tokens, and the state of their refresh.

pub(crate) mod codec;
mod fit;
mod intent;
mod refresh_state;

pub(crate) use self::fit::fitted;
pub use self::intent::{Intent, InvalidIntent};
pub use self::refresh_state::{RefreshState, Rejection, Throttle};
use crate::tokens::AuthTokens;

/// The limit for the tokens of one record, in any store: 64 KiB. The largest sets of tokens in practice have
/// about 20 KB.
pub const MAX_RECORD: usize = 64 * 1024;

/// The limit for the [`RefreshState`] of a record. It has about 1 KB.
pub(crate) const MAX_STATE: usize = 4 * 1024;

/// The limit for a record with its [`RefreshState`]. So there is always room for an intent, even with the
/// largest tokens.
pub(crate) const MAX_STORED: usize = MAX_RECORD + MAX_STATE;

/// All that is saved about one sign-in: the tokens, and what every process must know before it refreshes
/// them.
///
/// The two parts can be compared separately. A refresh that is running changes only the second part.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The tokens.
    pub tokens: AuthTokens,
    /// What every process must know before it refreshes them.
    pub refresh: RefreshState,
}

impl Record {
    /// Makes a record of tokens, with an empty [`RefreshState`].
    #[must_use]
    pub fn new(tokens: AuthTokens) -> Self {
        Self { tokens, refresh: RefreshState::default() }
    }

    /// Sets the [`RefreshState`].
    #[must_use]
    pub fn with_refresh(mut self, refresh: RefreshState) -> Self {
        self.refresh = refresh;
        self
    }

    /// Returns the intent to send the refresh token of this record, if there is one. Then a refresh is
    /// running, or it was interrupted and may have spent the token. An intent to send another token is not
    /// returned.
    #[must_use]
    pub fn intent(&self) -> Option<&Intent> {
        let token = self.tokens.refresh_token.as_ref()?;
        self.refresh.intent.as_ref().filter(|intent| intent.is_for(token))
    }
}

impl From<AuthTokens> for Record {
    fn from(tokens: AuthTokens) -> Self {
        Self::new(tokens)
    }
}
