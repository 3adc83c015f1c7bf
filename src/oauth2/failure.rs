//! The failures of an exchange with a provider, and what they mean for a refresh.
//!
//! Of a server's answer, an error contains only the status and a registered error code.

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
    },
}

/// How one exchange failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// The server answered with this status and without an error code that counts.
    Answered { status: u16, reason: String, retry_after: Option<Duration> },
    /// The request or a part of it was sent, and no complete answer came.
    NoAnswer { reason: String },
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

    /// Returns the error of a sign-in, which can be started again.
    pub(super) fn of_a_sign_in(self) -> OAuth2Error {
        // GitHub has two codes of its own for a device code that is over or was never valid.
        let is_over = |code: &str| {
            needs_a_sign_in(code)
                || matches!(code, "bad_verification_code" | "incorrect_device_code")
        };
        let may_succeed = matches!(&self, Self::Refused { code, .. } if is_over(code));
        match self.into() {
            OAuth2Error::Misconfigured { reason } if may_succeed => {
                OAuth2Error::SignInRequired { reason }
            }
            error => error,
        }
    }

    /// Returns whether the same exchange may succeed later.
    pub(super) fn is_temporary(&self) -> bool {
        match self {
            // A 403 without an error code comes from a gateway, such as a bot filter.
            Self::Answered { status, .. } => matches!(status, 403 | 408 | 429 | 500..=599),
            Self::NoAnswer { .. } | Self::NotPermitted(_) | Self::NotSent { .. } => true,
            Self::Refused { code, .. } => is_temporary(code),
            Self::NotHttp { .. } | Self::Unreadable { .. } | Self::Unsendable { .. } => false,
        }
    }
}

fn is_temporary(code: &str) -> bool {
    // The first is Slack's.
    matches!(code, "ratelimited" | "server_error" | "slow_down" | "temporarily_unavailable")
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
            Failed::Unsendable { reason } => Self::misconfigured(reason),
            Failed::NoAnswer { reason } | Failed::Unreadable { reason } => Self::ambiguous(reason),
            Failed::NotHttp { reason } => Self::misconfigured(reason).maybe_spent(),
            Failed::Answered { status, reason, retry_after } => match status {
                429 => Self::Transient { reason, retry_after, unspent: true },
                403 | 503 => Self::Transient { reason, retry_after, unspent: false },
                300..=399 | 408 | 500..=599 => Self::ambiguous(reason),
                status => Self::misconfigured(reason).with_status(status).maybe_spent(),
            },
            Failed::Refused { code, reason, retry_after } => match code.as_str() {
                code if needs_a_sign_in(code) => Self::rejected(reason),
                "invalid_client"
                | "invalid_request"
                | "unauthorized_client"
                | "unsupported_grant_type" => Self::misconfigured(reason),
                code if is_temporary(code) => {
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
            // The second ones are Microsoft's.
            Failed::Refused { code, .. }
                if matches!(&**code, "access_denied" | "authorization_declined") =>
            {
                Self::Declined
            }
            Failed::Refused { code, .. } if matches!(&**code, "expired_token" | "code_expired") => {
                Self::TimedOut
            }
            failed if failed.is_temporary() => Self::Unavailable { reason },
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

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use zeroize::Zeroizing;

    use super::super::http::Reply;
    use super::super::{Answer, unreadable};
    use super::*;

    /// What a failure means for the refresh token.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Says {
        Ambiguous,
        MisconfiguredAndUnspent,
        MisconfiguredAndMaybeSpent,
        Rejected,
        TransientAndUnspent,
        TransientAndMaybeSpent,
    }

    use Says::*;

    fn says(failed: Failed) -> Says {
        let failure = RefreshFailure::from(failed);
        match (&failure, failure.proves_unspent()) {
            (RefreshFailure::Ambiguous { .. }, false) => Ambiguous,
            (RefreshFailure::Misconfigured { .. }, true) => MisconfiguredAndUnspent,
            (RefreshFailure::Misconfigured { .. }, false) => MisconfiguredAndMaybeSpent,
            (RefreshFailure::Rejected { .. }, true) => Rejected,
            (RefreshFailure::Transient { .. }, true) => TransientAndUnspent,
            (RefreshFailure::Transient { .. }, false) => TransientAndMaybeSpent,
            _ => panic!("{failure:?}"),
        }
    }

    /// Returns how a refresh fails with this answer, or `None` if it succeeds.
    fn failed(status: u16, body: &str) -> Option<Failed> {
        let status = StatusCode::from_u16(status).unwrap();
        let retry_after = Some(Duration::from_secs(7));
        let reply = Reply { status, retry_after, body: Zeroizing::new(body.into()) };
        match reply.judge("issuer.example") {
            Err(failed) => Some(failed),
            Ok(body) => match serde_json::from_slice::<Answer>(&body) {
                Ok(_) => None,
                Err(_) => Some(unreadable("issuer.example")),
            },
        }
    }

    fn code(code: &str) -> String {
        format!(r#"{{"error":"{code}"}}"#)
    }

    #[test]
    fn each_answer_says_whether_the_refresh_token_may_be_spent() {
        let page = "<html>no</html>";
        for (status, body, expected) in [
            // A success without tokens.
            (200, "", Ambiguous),
            (200, page, Ambiguous),
            (200, r#"{"access_token":"#, Ambiguous),
            (200, r#"["a"]"#, Ambiguous),
            (200, r#"{"token_type":"bearer"}"#, Ambiguous),
            (200, r#"{"access_token":""}"#, Ambiguous),
            (200, r#"{"error":"","data":{}}"#, Ambiguous),
            (400, r#"{"error":""}"#, MisconfiguredAndMaybeSpent),
            (200, r#"{"access_token":null,"refresh_token":"r"}"#, Ambiguous),
            (204, "", Ambiguous),
            // A redirect, and answers of gateways, with any content.
            (301, "", Ambiguous),
            (302, "", Ambiguous),
            (303, "", Ambiguous),
            (307, "", Ambiguous),
            (308, &code("invalid_client"), Ambiguous),
            (408, "", Ambiguous),
            (500, &code("invalid_client"), Ambiguous),
            (501, "", Ambiguous),
            (502, page, Ambiguous),
            (504, page, Ambiguous),
            (520, page, Ambiguous),
            (599, "", Ambiguous),
            // Temporary failures. Only 429 proves that the token is unspent.
            (429, &code("slow_down"), TransientAndUnspent),
            (429, page, TransientAndUnspent),
            (503, page, TransientAndMaybeSpent),
            (503, &code("temporarily_unavailable"), TransientAndMaybeSpent),
            (403, page, TransientAndMaybeSpent),
            (403, r#"{"message":"no"}"#, TransientAndMaybeSpent),
            // Failures that signing in again would not fix.
            (404, page, MisconfiguredAndMaybeSpent),
            (404, &code("invalid_grant"), Rejected),
            (500, &code("invalid_grant"), Rejected),
            (400, page, MisconfiguredAndMaybeSpent),
            (401, "", MisconfiguredAndMaybeSpent),
            (405, "", MisconfiguredAndMaybeSpent),
        ] {
            let failed = failed(status, body).unwrap_or_else(|| panic!("{status} {body}"));
            assert_eq!(says(failed), expected, "{status} {body}");
        }
        assert!(failed(200, r#"{"access_token":"a"}"#).is_none());
    }

    #[test]
    fn each_error_code_says_whether_the_refresh_token_may_be_spent() {
        for (name, expected) in [
            ("invalid_client", MisconfiguredAndUnspent),
            ("invalid_request", MisconfiguredAndUnspent),
            ("unauthorized_client", MisconfiguredAndUnspent),
            ("unsupported_grant_type", MisconfiguredAndUnspent),
            ("access_denied", MisconfiguredAndMaybeSpent),
            ("account_selection_required", Rejected),
            ("consent_required", Rejected),
            ("expired_token", Rejected),
            ("interaction_required", Rejected),
            ("invalid_refresh_token", Rejected),
            ("invalid_token", Rejected),
            ("login_required", Rejected),
            ("token_expired", Rejected),
            ("token_revoked", Rejected),
            ("ratelimited", TransientAndMaybeSpent),
            ("invalid_scope", MisconfiguredAndMaybeSpent),
            ("not a code", MisconfiguredAndMaybeSpent),
            ("bad_refresh_token", Rejected),
            ("invalid_grant", Rejected),
            ("server_error", TransientAndMaybeSpent),
            ("slow_down", TransientAndMaybeSpent),
            ("temporarily_unavailable", TransientAndMaybeSpent),
        ] {
            // Some providers send an error with status 200.
            for status in [200, 400, 401, 403] {
                let failed = failed(status, &code(name)).unwrap();
                assert_eq!(says(failed), expected, "{status} {name}");
            }
        }
    }

    #[test]
    fn a_token_that_was_not_sent_is_unspent_and_a_lost_answer_is_ambiguous() {
        let reason = String::new;
        assert_eq!(says(Failed::NotSent { reason: reason() }), TransientAndUnspent);
        let ended = RefreshFailure::transient(reason());
        assert_eq!(says(Failed::NotPermitted(ended)), TransientAndUnspent);
        assert_eq!(says(Failed::Unsendable { reason: reason() }), MisconfiguredAndUnspent);
        assert_eq!(says(Failed::NoAnswer { reason: reason() }), Ambiguous);
        assert_eq!(says(Failed::NotHttp { reason: reason() }), MisconfiguredAndMaybeSpent);
    }

    #[test]
    fn a_client_that_is_refused_now_is_told_both_possible_reasons() {
        for name in ["invalid_client", "unauthorized_client"] {
            let failed = || failed(401, &code(name)).unwrap();
            let refresh = RefreshFailure::from(failed().in_a_session()).to_string();
            assert!(refresh.contains("check the client's id and secret"), "{refresh}");
            assert!(refresh.contains("sign in again"), "{refresh}");
            // At a sign-in, only the settings can be wrong.
            let sign_in = OAuth2Error::from(failed()).to_string();
            assert!(!sign_in.contains("sign in again"), "{sign_in}");
        }
    }

    #[test]
    fn the_wait_that_a_server_asks_for_is_in_the_failure() {
        for (status, body) in
            [(429, ""), (503, ""), (403, ""), (400, &*code("temporarily_unavailable"))]
        {
            let failure = RefreshFailure::from(failed(status, body).unwrap());
            let RefreshFailure::Transient { retry_after, .. } = failure else {
                panic!("{failure:?}");
            };
            assert_eq!(retry_after, Some(Duration::from_secs(7)), "{status}");
        }
    }

    #[test]
    fn a_failed_sign_in_says_to_wait_or_to_check_the_settings() {
        for (status, body, waits) in [
            (408, "", true),
            (429, "", true),
            (500, "", true),
            (503, "", true),
            (400, &*code("server_error"), true),
            (403, "", true),
            (307, "", false),
            (404, "", false),
            (400, &*code("invalid_client"), false),
            (200, "", false),
        ] {
            let error = OAuth2Error::from(failed(status, body).unwrap());
            let is_right = match error {
                OAuth2Error::Unavailable { .. } => waits,
                OAuth2Error::Misconfigured { .. } => !waits,
                _ => false,
            };
            assert!(is_right, "{status} {body}: {error:?}");
        }
    }

    #[test]
    fn a_refresh_that_a_status_ends_says_which() {
        for (status, body, expected) in [
            (404, "<html>no</html>", Some(404)),
            (404, r#"{"error":"invalid_client"}"#, Some(404)),
            (400, "<html>no</html>", Some(400)),
            (400, r#"{"error":"invalid_client"}"#, None),
        ] {
            let failure = RefreshFailure::from(failed(status, body).unwrap());
            let RefreshFailure::Misconfigured { status: said, .. } = failure else {
                panic!("{failure:?}")
            };
            assert_eq!(said, expected, "{status} {body}");
        }
    }

    #[test]
    fn text_that_does_not_look_like_an_error_code_is_not_shown() {
        assert_eq!(error_code("invalid_grant"), Some("invalid_grant"));
        assert_eq!(error_code(&"a".repeat(48)).map(str::len), Some(48));
        let long = "a".repeat(49);
        for text in ["", "refresh-canary-1", "eyJhbGciOiJIUzI1NiJ9", "a b", "\u{1b}[2J", &long] {
            assert_eq!(error_code(text), None, "{text}");
        }
    }
}
