//! What a slot holds: tokens, and what is known about refreshing them.

pub(crate) mod codec;
mod intent;
mod refresh_state;

pub use self::intent::{Intent, InvalidIntent};
pub use self::refresh_state::{RefreshState, Rejection, Throttle};
use crate::tokens::AuthTokens;

/// The most bytes that the tokens of one record may have, in any store: 64 KiB. The largest real sets of
/// tokens are some 20 KB.
pub const MAX_RECORD: usize = 64 * 1024;

/// The most bytes that the [`RefreshState`] of a record has. It takes about 1 KB.
pub(crate) const MAX_STATE: usize = 4 * 1024;

/// The most bytes of a record with its [`RefreshState`]: there is always room for an intent, also beside the
/// largest tokens.
pub(crate) const MAX_STORED: usize = MAX_RECORD + MAX_STATE;

/// What a slot holds: tokens, and what every process must know about refreshing them.
///
/// The two are compared apart: that somebody is refreshing tokens makes no other tokens of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The tokens.
    pub tokens: AuthTokens,
    /// What is known about refreshing them.
    pub refresh: RefreshState,
}

impl Record {
    /// Makes a record of tokens of which nothing else is known.
    #[must_use]
    pub fn new(tokens: AuthTokens) -> Self {
        Self { tokens, refresh: RefreshState::default() }
    }

    /// Sets what is known about refreshing them.
    #[must_use]
    pub fn with_refresh(mut self, refresh: RefreshState) -> Self {
        self.refresh = refresh;
        self
    }

    /// Returns the intent to send the very refresh token that this record holds: a refresh is under way, or
    /// was interrupted and may have spent it.
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
