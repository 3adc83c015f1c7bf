//! The failures of an exchange with a provider, and what they mean for a refresh.
//!
//! Of a server's answer, an error contains only the status and a registered error code.

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use crate::error::RefreshFailure;
use crate::printable::one_line;

/// Signing in, revoking, or setting up a provider failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OAuth2Error {
    /// The person declined the sign-in, or the provider's policy did.
    #[error("the sign-in was declined; start it again, and allow it this time")]
    Declined,
    /// A setting cannot be used.
    #[error("{setting} {reason}")]
    InvalidSetting {
        /// The name of the setting.
        setting: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The request or the answer is wrong: an unknown client, a wrong URL, a redirect, an answer that
    /// cannot be read.
    #[error("{}", one_line(.reason))]
    Misconfigured {
        /// What happened, and what to check.
        reason: String,
    },
    /// What was pasted is not an answer to this sign-in.
    #[error(
        "this is not the answer to this sign-in; paste the whole address of the page on which the browser ended"
    )]
    NotThisSignIn,
    /// The [one-time URL](super::BrowserSignIn::one_time_url) of a sign-in was opened a second time.
    #[error(
        "this sign-in was opened twice, perhaps by somebody else who uses this machine, and has ended; sign in again"
    )]
    OpenedTwice,
    /// The provider ended this sign-in, and another one may succeed: the code has expired or was used
    /// (`invalid_grant`), or the provider wants to ask the person something (`login_required`,
    /// `interaction_required`, `consent_required`).
    #[error("{}; sign in again", one_line(.reason))]
    SignInRequired {
        /// What happened.
        reason: String,
    },
    /// Nobody signed in before the deadline.
    #[error("nobody signed in before the deadline; start the sign-in again")]
    TimedOut,
    /// A temporary failure: the provider could not be reached, or cannot answer the request now.
    #[error("{}; try again later", one_line(.reason))]
    Unavailable {
        /// What happened.
        reason: String,
        /// How long the server asked to wait (`Retry-After`).
        retry_after: Option<Duration>,
    },
}

/// How one exchange failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// The server answered with this status, without tokens, and without an error code that counts.
    Answered { status: u16, reason: String, retry_after: Option<Duration> },
    /// The request or a part of it was sent, and no complete answer came.
    NoAnswer { reason: String },
    /// The server or a proxy does not accept this client, by its certificate or its user. It did not look at the
    /// request.
    NotAdmitted { reason: String },
    /// The answer is not HTTP.
    NotHttp { reason: String },
    /// The permit ended before anything was sent.
    NotPermitted(RefreshFailure),
    /// Nothing was sent.
    NotSent { reason: String },
    /// The server answered with an error code.
    Refused { code: String, reason: String, retry_after: Option<Duration> },
    /// The server answered with a success, but its answer cannot be used.
    Unreadable { reason: String },
    /// No request can be made for this URL.
    Unsendable { reason: String },
}

impl Failed {
    /// Adds what it may mean that a client is refused which has obtained tokens: its settings were right once.
    pub(super) fn in_a_session(mut self) -> Self {
        if let Self::Refused { code, reason, .. } = &mut self
            && matches!(&**code, "invalid_client" | "unauthorized_client")
        {
            *reason += ", which may have changed or expired; if they are right, the provider may have ended \
                        the session: sign in again";
        }
        self
    }

    /// Returns the error of a sign-in by a person, which can be started again.
    pub(super) fn of_a_sign_in(self) -> OAuth2Error {
        // GitHub has two codes of its own for a device code that is over or was never valid.
        let is_over = |code: &str| {
            needs_a_sign_in(code)
                || matches!(code, "bad_verification_code" | "incorrect_device_code")
        };
        if let Self::Refused { code, .. } = &self {
            match &**code {
                // The second ones are Microsoft's.
                "access_denied" | "authorization_declined" => return OAuth2Error::Declined,
                "expired_token" | "code_expired" => return OAuth2Error::TimedOut,
                _ => {}
            }
        }
        let may_succeed = matches!(&self, Self::Refused { code, .. } if is_over(code));
        match self.into() {
            OAuth2Error::Misconfigured { reason } if may_succeed => {
                OAuth2Error::SignInRequired { reason }
            }
            error => error,
        }
    }

    /// Returns how long the server asked to wait.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Answered { retry_after, .. } | Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Returns whether the same exchange may succeed later.
    pub(super) fn is_temporary(&self) -> bool {
        match self {
            Self::Answered { retry_after: Some(_), .. } => true,
            // A 403 without an error code comes from a gateway, such as a bot filter.
            Self::Answered { status, .. } => matches!(status, 403 | 408 | 425 | 429 | 500..=599),
            Self::NoAnswer { .. } | Self::NotPermitted(_) | Self::NotSent { .. } => true,
            Self::Refused { code, retry_after, .. } => {
                is_temporary(code) || is_unknown_with_a_wait(code, *retry_after)
            }
            Self::NotAdmitted { .. }
            | Self::NotHttp { .. }
            | Self::Unreadable { .. }
            | Self::Unsendable { .. } => false,
        }
    }
}

fn is_temporary(code: &str) -> bool {
    // The first is Slack's.
    matches!(code, "ratelimited" | "server_error" | "slow_down" | "temporarily_unavailable")
}

/// Returns whether a server asks to wait, and gives no reason for which waiting would not help.
fn is_unknown_with_a_wait(code: &str, retry_after: Option<Duration>) -> bool {
    retry_after.is_some() && !is_known(code)
}

/// Returns whether only signing in again helps after this error code: the refresh token has ended, or the
/// provider wants to ask the user something.
pub(super) fn needs_a_sign_in(code: &str) -> bool {
    matches!(
        code,
        // RFC 6749, 5.2.
        "invalid_grant"
            // OpenID Connect Core, 3.1.2.6.
            | "account_selection_required" | "consent_required" | "interaction_required" | "login_required"
            // GitHub.
            | "bad_refresh_token"
            // RFC 6750, 3.1, and RFC 8628, 3.5, at the token endpoint too.
            | "expired_token" | "invalid_token"
            // Slack.
            | "account_inactive" | "invalid_auth" | "invalid_refresh_token" | "token_expired" | "token_revoked"
            // Auth0.
            | "mfa_required"
    )
}

/// Returns whether the code decides what a failure means. Such a code can repeat no secret: it is a fixed word.
pub(super) fn is_known(code: &str) -> bool {
    needs_a_sign_in(code)
        || is_temporary(code)
        || matches!(
            code,
            "access_denied"
                | "authorization_declined"
                | "authorization_pending"
                | "code_expired"
                | "invalid_client"
                | "invalid_request"
                | "invalid_scope"
                | "unauthorized_client"
                | "unsupported_grant_type"
                | "unsupported_token_type"
        )
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered { reason, .. }
            | Self::NoAnswer { reason }
            | Self::NotAdmitted { reason }
            | Self::NotHttp { reason }
            | Self::NotSent { reason }
            | Self::Refused { reason, .. }
            | Self::Unreadable { reason }
            | Self::Unsendable { reason } => f.write_str(reason),
            Self::NotPermitted(failure) => failure.fmt(f),
        }
    }
}

impl std::error::Error for Failed {}

/// Decides what a failure means for the refresh token. This is the only list of the failures which prove that
/// the server did not spend it.
///
/// A server checks the client before it checks the token. So the four codes about the client and the form of
/// the request prove that the token is unspent. So does 429, because a server sends it before it does any
/// work. Any other status can come from a gateway, even after the server behind it has spent the token.
impl From<Failed> for RefreshFailure {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::NotPermitted(failure) => failure,
            Failed::NotSent { reason } => Self::transient(reason),
            Failed::NotAdmitted { reason } | Failed::Unsendable { reason } => {
                Self::misconfigured(reason)
            }
            Failed::NoAnswer { reason } | Failed::Unreadable { reason } => Self::ambiguous(reason),
            Failed::NotHttp { reason } => Self::misconfigured(reason).maybe_spent(),
            Failed::Answered { status, reason, retry_after } => match status {
                429 => Self::Transient { reason, retry_after, unspent: true },
                403 | 503 => Self::Transient { reason, retry_after, unspent: false },
                // An ambiguous failure would be tried again at once, and a misconfigured one would be blamed on
                // the settings.
                _ if retry_after.is_some() => {
                    Self::Transient { reason, retry_after, unspent: false }
                }
                300..=399 | 408 | 425 | 500..=599 => Self::ambiguous(reason),
                status => Self::misconfigured(reason).with_status(status).maybe_spent(),
            },
            Failed::Refused { code, reason, retry_after } => match code.as_str() {
                code if needs_a_sign_in(code) => Self::rejected(reason),
                "invalid_client"
                | "invalid_request"
                | "unauthorized_client"
                | "unsupported_grant_type" => Self::misconfigured(reason),
                code if is_temporary(code) || is_unknown_with_a_wait(code, retry_after) => {
                    Self::Transient { reason, retry_after, unspent: false }
                }
                _ => Self::misconfigured(reason).maybe_spent(),
            },
        }
    }
}

impl From<Failed> for OAuth2Error {
    fn from(failed: Failed) -> Self {
        let reason = failed.to_string();
        match &failed {
            failed if failed.is_temporary() => {
                Self::Unavailable { reason, retry_after: failed.retry_after() }
            }
            _ => Self::Misconfigured { reason },
        }
    }
}

/// The most characters of an error code. All registered codes are shorter.
const LONGEST_CODE: usize = 48;

/// Returns the text if it looks like an error code.
///
/// RFC 6749 (5.2) allows nearly every character, so a server could put a token there. All codes that IANA has
/// registered consist of lower-case letters and `_`. Almost no token does.
pub(super) fn error_code(text: &str) -> Option<&str> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    (!text.is_empty() && text.len() <= LONGEST_CODE && text.bytes().all(fits)).then_some(text)
}
