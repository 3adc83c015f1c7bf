use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};

use super::intent::{Fingerprint, Intent};
use crate::tokens::RefreshToken;

/// The longest time that a throttle holds, whatever a record says: 1 hour.
const LONGEST_THROTTLE: TimeDelta = TimeDelta::hours(1);

/// The most characters of a reason. The reasons of this crate have about 60.
const LONGEST_REASON: usize = 200;

/// What every process must know before it refreshes the tokens of a record.
///
/// It is saved with the tokens, but is not a part of them: two records can have the same tokens and different
/// refresh states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefreshState {
    /// The intent: a process is sending the refresh token, or it ended before it saved the answer.
    pub intent: Option<Intent>,
    /// The server asked to wait.
    pub throttle: Option<Throttle>,
    /// The server rejected the refresh token.
    pub rejection: Option<Rejection>,
}

impl RefreshState {
    /// Returns whether there is no intent, no throttle and no rejection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A span of time in which no refresh is sent to a server: it asked to wait, or it has just issued tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Throttle {
    pub(crate) from: DateTime<Utc>,
    pub(crate) until: DateTime<Utc>,
    /// The digest of the token URL and the client that have to wait.
    pub(crate) client: String,
    pub(crate) reason: Option<String>,
}

impl Throttle {
    /// Makes a throttle. `client` is the name that [`TokenRefresher::client`](crate::TokenRefresher::client)
    /// returns. `reason` is what the server said, or `None` if it has just issued tokens.
    #[must_use]
    pub fn new(
        from: DateTime<Utc>,
        until: DateTime<Utc>,
        client: &str,
        reason: Option<&str>,
    ) -> Self {
        Self { from, until, client: digest(client), reason: reason.map(shown) }
    }

    /// Returns until when the throttle holds for this client, or `None` if it does not hold at `now`.
    ///
    /// It holds for 1 hour at most. Before the time at which it was made, it does not hold, so that a clock
    /// that was set back stops no refresh.
    #[must_use]
    pub fn holds(&self, client: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let latest = self.from.checked_add_signed(LONGEST_THROTTLE);
        let until = latest.map_or(self.until, |latest| self.until.min(latest));
        (self.client == digest(client) && self.from <= now && now < until).then_some(until)
    }

    /// Returns when the throttle was made.
    #[must_use]
    pub fn from(&self) -> DateTime<Utc> {
        self.from
    }

    /// Returns what the server said, or `None` if it has just issued tokens.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

/// The fact that a server no longer accepts a refresh token. It contains a salted digest of the token, and
/// never the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub(crate) at: DateTime<Utc>,
    pub(crate) of: Fingerprint,
    pub(crate) reason: String,
}

impl Rejection {
    /// Makes a rejection: at `now`, the server told `client` that it does not accept `token`. `reason` is
    /// what the server said.
    ///
    /// # Panics
    ///
    /// Panics if the operating system gives no random bytes.
    #[must_use]
    pub fn new(token: &RefreshToken, client: &str, now: DateTime<Utc>, reason: &str) -> Self {
        Self { at: now, of: Fingerprint::new(token, client), reason: shown(reason) }
    }

    /// Returns whether this is a rejection of this token for this client.
    #[must_use]
    pub fn is_for(&self, token: &RefreshToken, client: &str) -> bool {
        self.of.is_of(token, client)
    }

    /// Returns when the server rejected the token.
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

/// The digest is stored because a URL may be long, and the room in a record is limited.
fn digest(client: &str) -> String {
    BASE64_STANDARD_NO_PAD.encode(Sha256::digest(client))
}

/// Returns a reason that is safe to print. Any program of the user can change a record in plaintext, so
/// control characters are removed and the length is limited.
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
    fn a_throttle_holds_for_its_client_and_time_and_at_most_an_hour() {
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
