use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};

use super::intent::{Fingerprint, Intent};
use crate::tokens::RefreshToken;

/// No throttle holds for longer than this, whatever a record says: an hour.
const LONGEST_THROTTLE: TimeDelta = TimeDelta::hours(1);

/// The most characters of a reason. Those of this crate have some 60.
const LONGEST_REASON: usize = 200;

/// What every process must know about refreshing the tokens of a record. It is stored with them, and is no
/// part of them: two records of the same tokens hold the same tokens, whatever is known about refreshing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefreshState {
    /// The refresh token is being sent, or was sent by a process that ended before it saved the answer.
    pub intent: Option<Intent>,
    /// The server asked to wait.
    pub throttle: Option<Throttle>,
    /// The server rejected the refresh token.
    pub rejection: Option<Rejection>,
}

impl RefreshState {
    /// Returns whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A span of time in which a server is not asked to refresh: it asked to wait, or has just issued tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Throttle {
    pub(crate) from: DateTime<Utc>,
    pub(crate) until: DateTime<Utc>,
    /// The digest of the token URL and the client that were told to wait.
    pub(crate) client: String,
    pub(crate) reason: Option<String>,
}

impl Throttle {
    /// Makes one. `client` is what [`TokenRefresher::client`](crate::TokenRefresher::client) returns, and
    /// `reason` what the server said; none if it has just issued tokens.
    #[must_use]
    pub fn new(
        from: DateTime<Utc>,
        until: DateTime<Utc>,
        client: &str,
        reason: Option<&str>,
    ) -> Self {
        Self { from, until, client: digest(client), reason: reason.map(shown) }
    }

    /// Returns until when it holds for this client, if it does at `now`: not before it was made, because a
    /// clock that was set back must stop nobody, and for an hour at most.
    #[must_use]
    pub fn holds(&self, client: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let latest = self.from.checked_add_signed(LONGEST_THROTTLE);
        let until = latest.map_or(self.until, |latest| self.until.min(latest));
        (self.client == digest(client) && self.from <= now && now < until).then_some(until)
    }

    /// Returns when it was made.
    #[must_use]
    pub fn from(&self) -> DateTime<Utc> {
        self.from
    }

    /// Returns what the server said; none if it has just issued tokens.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

/// A server's word that it does not accept a refresh token any more. It holds a salted digest of the token
/// and never the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub(crate) at: DateTime<Utc>,
    pub(crate) of: Fingerprint,
    pub(crate) reason: String,
}

impl Rejection {
    /// Says that `client` was told at `now` that `token` is not accepted, and what the server said.
    ///
    /// # Panics
    ///
    /// If the operating system has no randomness to give.
    #[must_use]
    pub fn new(token: &RefreshToken, client: &str, now: DateTime<Utc>, reason: &str) -> Self {
        Self { at: now, of: Fingerprint::new(token, client), reason: shown(reason) }
    }

    /// Returns whether it is about this token, and was said to this client.
    #[must_use]
    pub fn is_for(&self, token: &RefreshToken, client: &str) -> bool {
        self.of.is_of(token, client)
    }

    /// Returns when the server said so.
    #[must_use]
    pub fn at(&self) -> DateTime<Utc> {
        self.at
    }

    /// Returns what the server said.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// A URL may be long, and a record has room for so much.
fn digest(client: &str) -> String {
    BASE64_STANDARD_NO_PAD.encode(Sha256::digest(client))
}

/// A reason as it may be shown: a record in plaintext can be changed by any program of its user.
pub(crate) fn shown(reason: &str) -> String {
    reason.chars().filter(|character| !character.is_control()).take(LONGEST_REASON).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn a_throttle_holds_in_its_span_for_its_client_and_for_an_hour_at_most() {
        let throttle = Throttle::new(at(100), at(200), "client", Some("429"));
        for (now, until) in [(99, None), (100, Some(200)), (199, Some(200)), (200, None)] {
            assert_eq!(throttle.holds("client", at(now)), until.map(at), "{now}");
        }
        assert_eq!(throttle.holds("other", at(100)), None);
        let long = Throttle::new(at(0), at(1_000_000), "", None);
        assert_eq!(long.holds("", at(3599)), Some(at(3600)));
        assert_eq!(long.holds("", at(3600)), None);
        let end = DateTime::<Utc>::MAX_UTC;
        assert_eq!(Throttle::new(end, end, "", None).holds("", end), None);
    }

    #[test]
    fn a_rejection_is_about_one_token_and_one_client() {
        let token = RefreshToken::from("canary");
        let rejection = Rejection::new(&token, "client", at(0), "invalid_grant");
        assert!(rejection.is_for(&token, "client"));
        assert!(!rejection.is_for(&token, "other") && !rejection.is_for(&token, ""));
        assert!(!rejection.is_for(&RefreshToken::from("other"), "client"));
        assert!(!format!("{rejection:?}").contains("canary"));
    }

    #[test]
    fn a_reason_cannot_write_to_the_terminal() {
        let throttle = Throttle::new(at(0), at(1), "", Some("\u{1b}[2Jbusy\n"));
        assert_eq!(throttle.reason(), Some("[2Jbusy"));
        assert_eq!(shown(&"x".repeat(1000)).len(), 200);
    }
}
