//! What can go wrong between this program and a provider, and what it means for a refresh.
//!
//! Of what a server sent, only its status and a registered error code are ever repeated.

use std::fmt;
use std::time::Duration;

use crate::error::RefreshFailure;

/// Signing in, revoking, or setting up a provider failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OAuth2Error {
    /// The person, or the provider's policy, said no.
    #[error("the sign-in was declined; start it again, and allow it this time")]
    Declined,
    /// A setting cannot be used.
    #[error("{setting} {reason}")]
    InvalidSetting {
        /// Which one.
        setting: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The request is wrong, or the answer is: an unknown client, a wrong URL, a redirect, an answer
    /// that cannot be read.
    #[error("{reason}")]
    Misconfigured {
        /// What happened, and what to look at.
        reason: String,
    },
    /// Nobody signed in while there was time.
    #[error("nobody signed in while there was time; start it again")]
    TimedOut,
    /// The provider could not be reached, or cannot do it now.
    #[error("{reason}; try again later")]
    Unavailable {
        /// What happened.
        reason: String,
    },
}

/// How one exchange failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// The server does not do it now: 429, 5xx.
    Busy { reason: String, retry_after: Option<Duration> },
    /// The request was sent, or part of it, and no whole answer came.
    NoAnswer { reason: String },
    /// Nothing was sent.
    NotSent { reason: String },
    /// The server says why not, with an error code.
    Refused { code: String, reason: String },
    /// The answer is none that this protocol has.
    Wrong { reason: String },
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy { reason, .. }
            | Self::NoAnswer { reason }
            | Self::NotSent { reason }
            | Self::Refused { reason, .. }
            | Self::Wrong { reason } => f.write_str(reason),
        }
    }
}

impl std::error::Error for Failed {}

impl From<Failed> for RefreshFailure {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Busy { reason, retry_after } => {
                Self::Transient { reason, retry_after, unspent: false }
            }
            Failed::NoAnswer { reason } => Self::Ambiguous { reason },
            Failed::NotSent { reason } => Self::transient(reason),
            Failed::Refused { code, reason } => match code.as_str() {
                // The second is GitHub's.
                "invalid_grant" | "bad_refresh_token" => Self::Rejected { reason },
                "server_error" | "slow_down" | "temporarily_unavailable" => {
                    Self::transient(reason).maybe_spent()
                }
                _ => Self::misconfigured(reason).maybe_spent(),
            },
            Failed::Wrong { reason } => Self::misconfigured(reason).maybe_spent(),
        }
    }
}

impl From<Failed> for OAuth2Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Busy { reason, .. }
            | Failed::NoAnswer { reason }
            | Failed::NotSent { reason } => Self::Unavailable { reason },
            Failed::Refused { code, reason } => match code.as_str() {
                "access_denied" => Self::Declined,
                "expired_token" => Self::TimedOut,
                "server_error" | "slow_down" | "temporarily_unavailable" => {
                    Self::Unavailable { reason }
                }
                _ => Self::Misconfigured { reason },
            },
            Failed::Wrong { reason } => Self::Misconfigured { reason },
        }
    }
}

/// Longer than any that is registered.
const LONGEST_CODE: usize = 48;

/// Lets an error code through if it looks like one.
///
/// RFC 6749 (5.2) allows nearly every character, so that a server could put a token there. All codes
/// that IANA has registered are of lower-case letters and `_`, and hardly any token is.
pub(super) fn error_code(text: &str) -> Option<&str> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    (!text.is_empty() && text.len() <= LONGEST_CODE && text.bytes().all(fits)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_look_like_an_error_code_is_not_repeated() {
        assert_eq!(error_code("invalid_grant"), Some("invalid_grant"));
        assert_eq!(error_code(&"a".repeat(48)).map(str::len), Some(48));
        let long = "a".repeat(49);
        for text in ["", "refresh-canary-1", "eyJhbGciOiJIUzI1NiJ9", "a b", "\u{1b}[2J", &long] {
            assert_eq!(error_code(text), None, "{text}");
        }
    }
}
