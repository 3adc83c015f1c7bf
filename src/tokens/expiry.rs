use chrono::{DateTime, TimeDelta, Utc};

use super::{AuthTokens, jwt};

/// How long before its true expiry a token counts as expired: 5 minutes, and at most 1/9 of its lifetime. So
/// a request that starts now arrives before the token expires.
pub const EXPIRY_BUFFER: TimeDelta = TimeDelta::minutes(5);

/// How long before its true expiry a token is due to be refreshed: 15 minutes, and at most 1/3 of its
/// lifetime. For lifetimes of 45 minutes and more, both buffers have their full length.
pub const REFRESH_BUFFER: TimeDelta = TimeDelta::minutes(15);

/// How long before the refresh token's own expiry somebody should sign in again: 3 days, so that a weekend is
/// no excuse, and at most 1/4 of the refresh token's life.
pub const SIGN_IN_BUFFER: TimeDelta = TimeDelta::days(3);

const SHORTEST_SHARE_SIGN_IN: i32 = 4;
const SHORTEST_SHARE_EXPIRY: i32 = 9;
const SHORTEST_SHARE_REFRESH: i32 = 3;

/// How long before its true expiry a token counts as expired, and how long before it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Buffers {
    pub(crate) expiry: TimeDelta,
    pub(crate) refresh: TimeDelta,
}

impl Buffers {
    /// The default buffers.
    const DEFAULT: Self = Self { expiry: EXPIRY_BUFFER, refresh: REFRESH_BUFFER };

    /// Converts a duration. One that is too long becomes the longest possible.
    pub(crate) fn delta(time: std::time::Duration) -> TimeDelta {
        TimeDelta::from_std(time).unwrap_or(TimeDelta::MAX)
    }
}

/// The phases of a token's life, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Freshness {
    /// Valid, and not due yet.
    Fresh,
    /// Valid, and due to be refreshed.
    Due,
    /// In the expiry buffer: it counts as expired, but the server still accepts it.
    Expiring,
    /// Past its true expiry.
    Expired,
}

impl AuthTokens {
    /// Returns the true expiry of the access token, in UTC.
    ///
    /// If there is no `expires_at` and the access token is a JWT, the expiry comes from its claims. If `exp`,
    /// `iat` and [`obtained_at`](Self::obtained_at) are known, it is `obtained_at + (exp - iat)`, so a clock
    /// that differs from the server's does not matter. Otherwise it is `exp`. An opaque token without an
    /// `expires_at` has no expiry.
    ///
    /// # Security
    ///
    /// The claims are read but **not verified**. They decide only when to refresh.
    #[must_use]
    pub fn expiry(&self) -> Option<DateTime<Utc>> {
        Schedule::of(self).map(|schedule| schedule.expiry)
    }

    /// Returns when a refresh becomes due, in UTC: [`REFRESH_BUFFER`] before the true expiry. Returns `None`
    /// for a token without expiry.
    #[must_use]
    pub fn refresh_due(&self) -> Option<DateTime<Utc>> {
        Schedule::of(self).map(|schedule| schedule.due)
    }

    /// Returns when somebody should sign in again, in UTC: [`SIGN_IN_BUFFER`] before the refresh token's own
    /// expiry, and at most a quarter of its life. Returns `None` if it has no known expiry.
    ///
    /// Many providers renew the refresh token with each refresh. Then this time moves on.
    #[must_use]
    pub fn sign_in_due(&self) -> Option<DateTime<Utc>> {
        self.refresh_token.as_ref()?;
        let expiry = self.refresh_expires_at?;
        let life = self
            .refresh_obtained_at
            .or(self.obtained_at)
            .and_then(|obtained| positive(expiry.signed_duration_since(obtained)));
        let buffer =
            life.map_or(SIGN_IN_BUFFER, |life| SIGN_IN_BUFFER.min(life / SHORTEST_SHARE_SIGN_IN));
        Some(expiry.checked_sub_signed(buffer).unwrap_or(DateTime::<Utc>::MIN_UTC))
    }

    /// Takes over the refresh token of earlier tokens, and its expiry. If these tokens say when it expires,
    /// that counts.
    pub(crate) fn keep_refresh_token(&mut self, earlier: &Self) {
        if self.refresh_token.is_some() && self.refresh_token != earlier.refresh_token {
            return; // It is another one.
        }
        self.refresh_token.clone_from(&earlier.refresh_token);
        if std::mem::take(&mut self.refresh_never_expires) {
            return;
        }
        self.refresh_expires_at = self.refresh_expires_at.or(earlier.refresh_expires_at);
        if self.refresh_expires_at.is_some() {
            self.refresh_obtained_at = earlier.refresh_obtained_at.or(earlier.obtained_at);
        }
    }

    /// Takes over the access token of earlier tokens, and its expiry, if there is only a new refresh token.
    pub(crate) fn keep_access_token(&mut self, earlier: &Self) {
        self.refresh_obtained_at = self.obtained_at;
        self.access_token = earlier.access_token.clone();
        self.expires_at = earlier.expires_at;
        self.obtained_at = earlier.obtained_at;
    }

    /// Returns the phase of the access token's life at `now`.
    #[must_use]
    pub fn freshness(&self, now: DateTime<Utc>) -> Freshness {
        if !self.has_access_token() {
            return Freshness::Expired;
        }
        Schedule::of(self).map_or(Freshness::Fresh, |schedule| schedule.freshness(now))
    }

    /// Returns whether the access token counts as expired at `now`: [`EXPIRY_BUFFER`] before its true expiry.
    #[must_use]
    pub fn is_expired(&self, now: DateTime<Utc>) -> bool {
        self.freshness(now) >= Freshness::Expiring
    }

    /// Returns whether a refresh is due at `now`: [`REFRESH_BUFFER`] before the true expiry.
    #[must_use]
    pub fn needs_refresh(&self, now: DateTime<Utc>) -> bool {
        self.freshness(now) >= Freshness::Due
    }
}

/// The three points in time of a token's life, calculated once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) due: DateTime<Utc>,
    expiring: DateTime<Utc>,
    expiry: DateTime<Utc>,
    /// How long the token was valid when it was obtained, if that is known.
    pub(crate) lifetime: Option<TimeDelta>,
}

impl Schedule {
    /// Returns `None` for a token without expiry.
    pub(crate) fn of(tokens: &AuthTokens) -> Option<Self> {
        Self::with(tokens, Buffers::DEFAULT)
    }

    /// Like [`of`](Self::of), with other buffers.
    pub(crate) fn with(tokens: &AuthTokens, buffers: Buffers) -> Option<Self> {
        #[expect(clippy::disallowed_methods, reason = "only the dates among its claims are kept")]
        let claims = jwt::claims(tokens.access_token.expose_secret());
        let claimed_lifetime =
            claims.exp.zip(claims.iat).and_then(|(exp, iat)| positive(exp - iat));
        let by_our_clock = tokens
            .obtained_at
            .zip(claimed_lifetime)
            .and_then(|(obtained, lifetime)| obtained.checked_add_signed(lifetime));
        let expiry = tokens.expires_at.or(by_our_clock).or(claims.exp)?;

        let lifetime = tokens
            .obtained_at
            .and_then(|obtained| positive(expiry - obtained))
            .or(claimed_lifetime);
        let before_expiry = |buffer: TimeDelta, share: i32| {
            let buffer = lifetime.map_or(buffer, |lifetime| buffer.min(lifetime / share));
            expiry.checked_sub_signed(buffer).unwrap_or(DateTime::<Utc>::MIN_UTC)
        };
        let expiring = before_expiry(buffers.expiry, SHORTEST_SHARE_EXPIRY);
        // A token that counts as expired is always due.
        let due = before_expiry(buffers.refresh, SHORTEST_SHARE_REFRESH).min(expiring);
        Some(Self { due, expiring, expiry, lifetime })
    }

    pub(crate) fn freshness(&self, now: DateTime<Utc>) -> Freshness {
        if now < self.due {
            Freshness::Fresh
        } else if now < self.expiring {
            Freshness::Due
        } else if now < self.expiry {
            Freshness::Expiring
        } else {
            Freshness::Expired
        }
    }
}

fn positive(delta: TimeDelta) -> Option<TimeDelta> {
    (delta > TimeDelta::zero()).then_some(delta)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use proptest::prelude::*;

    use super::*;

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000, 0).unwrap() + TimeDelta::minutes(minutes)
    }

    fn jwt(claims: &str) -> String {
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.c2ln", part(r#"{"alg":"HS256"}"#), part(claims))
    }

    #[test]
    fn a_token_of_unknown_or_long_lifetime_is_due_15_minutes_early_and_expired_5() {
        let unknown = AuthTokens::new("opaque").with_expires_at(at(60));
        for tokens in [unknown.clone(), unknown.with_obtained_at(at(0))] {
            assert_eq!(tokens.freshness(at(44)), Freshness::Fresh);
            assert_eq!(tokens.freshness(at(45)), Freshness::Due);
            assert!(!tokens.is_expired(at(54)));
            assert_eq!(tokens.freshness(at(55)), Freshness::Expiring);
            assert!(tokens.is_expired(at(55)));
            assert_eq!(tokens.freshness(at(60)), Freshness::Expired);
        }
    }

    #[test]
    fn a_ten_minute_token_is_fresh_when_it_is_new() {
        let tokens = AuthTokens::new("opaque").with_obtained_at(at(0)).with_expires_at(at(10));
        assert_eq!(tokens.freshness(at(0)), Freshness::Fresh);
        assert_eq!(tokens.freshness(at(6)), Freshness::Fresh);
        assert_eq!(tokens.freshness(at(7)), Freshness::Due);
        assert_eq!(tokens.freshness(at(9)), Freshness::Expiring);
        assert_eq!(tokens.freshness(at(10)), Freshness::Expired);
    }

    #[test]
    fn a_missing_expiry_comes_from_the_claims() {
        let exp = at(60).timestamp();
        let tokens = AuthTokens::new(jwt(&format!(r#"{{"sub":"me","exp":{exp}}}"#)));
        assert_eq!(tokens.expiry(), Some(at(60)));
    }

    #[test]
    fn a_server_clock_far_behind_ours_does_not_make_a_new_token_expired() {
        let (iat, exp) = (at(-600).timestamp(), at(-585).timestamp());
        let tokens = AuthTokens::new(jwt(&format!(r#"{{"iat":{iat},"exp":{exp}}}"#)))
            .with_obtained_at(at(0));
        assert_eq!(tokens.expiry(), Some(at(15)));
        assert_eq!(tokens.freshness(at(0)), Freshness::Fresh);
        assert_eq!(tokens.freshness(at(10)), Freshness::Due);
    }

    #[test]
    fn an_expiry_from_the_server_takes_precedence_over_the_claims() {
        let exp = at(60).timestamp();
        let tokens = AuthTokens::new(jwt(&format!(r#"{{"exp":{exp}}}"#))).with_expires_at(at(5));
        assert_eq!(tokens.expiry(), Some(at(5)));
    }

    #[test]
    fn an_opaque_token_without_expiry_stays_fresh() {
        let tokens = AuthTokens::new("opaque");
        assert_eq!(tokens.expiry(), None);
        assert_eq!(tokens.freshness(DateTime::<Utc>::MAX_UTC), Freshness::Fresh);
    }

    #[test]
    fn an_expiry_before_the_token_was_obtained_is_expired() {
        let tokens = AuthTokens::new("opaque").with_obtained_at(at(10)).with_expires_at(at(0));
        assert_eq!(tokens.freshness(at(10)), Freshness::Expired);
    }

    #[test]
    fn a_sign_in_is_due_three_days_or_a_quarter_of_its_life_before_the_refresh_token_expires() {
        const DAY: i64 = 24 * 60;
        let mut tokens = AuthTokens::new("a").with_refresh_token("r").with_obtained_at(at(0));
        assert_eq!(tokens.sign_in_due(), None);
        for (life, due) in [(180 * DAY, 177 * DAY), (8, 6), (0, -3 * DAY), (-8, -8 - 3 * DAY)] {
            tokens.refresh_expires_at = Some(at(life));
            assert_eq!(tokens.sign_in_due(), Some(at(due)), "{life}");
        }
        tokens.refresh_expires_at = Some(DateTime::<Utc>::MIN_UTC);
        assert_eq!(tokens.sign_in_due(), Some(DateTime::<Utc>::MIN_UTC));
        tokens.refresh_token = None;
        assert_eq!(tokens.sign_in_due(), None);
    }

    #[test]
    fn a_refresh_token_that_stays_keeps_its_expiry_and_its_age() {
        let mut first = AuthTokens::new("a").with_refresh_token("r").with_obtained_at(at(0));
        first.refresh_expires_at = Some(at(400));
        // The server does not repeat the refresh token, or repeats the same one.
        for token in [None, Some("r".into())] {
            let mut second = AuthTokens::new("b").with_obtained_at(at(200));
            second.refresh_token = token;
            second.keep_refresh_token(&first);
            let mut third = AuthTokens::new("c").with_obtained_at(at(299));
            third.keep_refresh_token(&second);
            assert_eq!(third.refresh_token, Some("r".into()));
            assert_eq!(third.refresh_expires_at, Some(at(400)));
            assert_eq!(third.sign_in_due(), Some(at(300)), "its life began with the sign-in");
            // The server may say it again, or say something new.
            let mut fourth = AuthTokens::new("d").with_obtained_at(at(310));
            fourth.refresh_expires_at = Some(at(800));
            fourth.keep_refresh_token(&third);
            assert_eq!(fourth.sign_in_due(), Some(at(600)));
            // It may also say that it does not expire, and then say nothing.
            let mut fifth = AuthTokens::new("e").with_obtained_at(at(320));
            fifth.refresh_never_expires = true;
            fifth.keep_refresh_token(&fourth);
            let mut sixth = AuthTokens::new("f").with_obtained_at(at(330));
            sixth.keep_refresh_token(&fifth);
            assert_eq!((sixth.refresh_token, sixth.refresh_expires_at), (Some("r".into()), None));
        }
        // Nothing is known about another one.
        let mut other = AuthTokens::new("b").with_refresh_token("s").with_obtained_at(at(200));
        other.keep_refresh_token(&first);
        assert_eq!((other.refresh_expires_at, other.refresh_obtained_at), (None, None));
    }

    fn any_time() -> impl Strategy<Value = DateTime<Utc>> {
        let (first, last) = (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC);
        prop_oneof![
            Just(first),
            Just(last),
            (first.timestamp()..=last.timestamp())
                .prop_map(|secs| DateTime::from_timestamp(secs, 0).unwrap()),
        ]
    }

    fn any_buffer() -> impl Strategy<Value = TimeDelta> {
        let delta = |seconds| Buffers::delta(Duration::from_secs(seconds));
        prop_oneof![0..100_000_u64, any::<u64>()].prop_map(delta)
    }

    proptest! {
        #[test]
        fn the_schedule_is_correct_for_the_first_and_last_dates(
            expires in any_time(),
            obtained in proptest::option::of(any_time()),
            now in any_time(),
            later in any_time(),
        ) {
            let mut tokens = AuthTokens::new("opaque").with_expires_at(expires);
            tokens.obtained_at = obtained;
            let (now, later) = (now.min(later), now.max(later));
            prop_assert!(tokens.freshness(now) <= tokens.freshness(later));
            prop_assert_eq!(tokens.freshness(now) == Freshness::Expired, now >= expires);
        }

        #[test]
        fn under_any_policy_a_token_only_grows_older(
            expires in any_time(),
            obtained in proptest::option::of(any_time()),
            // Often one that is given out expired, or that lives for a moment.
            lifetime in proptest::option::of(-1..3_i64),
            expiry in any_buffer(),
            refresh in any_buffer(),
            now in any_time(),
        ) {
            let mut tokens = AuthTokens::new("opaque").with_expires_at(expires);
            tokens.obtained_at = match lifetime {
                Some(lifetime) => expires.checked_sub_signed(TimeDelta::nanoseconds(lifetime)),
                None => obtained,
            };
            let schedule = Schedule::with(&tokens, Buffers { expiry, refresh }).unwrap();
            prop_assert!(schedule.due <= schedule.expiring && schedule.expiring <= expires);
            prop_assert_eq!(schedule.expiry, expires);
            // A known lifetime is never spent waiting for a refresh that is due at once.
            if let Some(obtained) = tokens.obtained_at.filter(|obtained| *obtained < expires) {
                prop_assert_eq!(schedule.lifetime, Some(expires - obtained));
                prop_assert!(schedule.freshness(obtained) == Freshness::Fresh);
            }
            let mut moments = [schedule.due, schedule.expiring, expires, now].map(|moment| {
                let step = TimeDelta::nanoseconds(1);
                [moment.checked_sub_signed(step), Some(moment), moment.checked_add_signed(step)]
            }).into_iter().flatten().flatten().collect::<Vec<_>>();
            moments.sort_unstable();
            prop_assert!(moments.is_sorted_by_key(|moment| schedule.freshness(*moment)));
        }

        #[test]
        fn no_claims_make_it_panic(exp in any::<f64>(), iat in any::<i64>(), obtained in any_time()) {
            let claims = format!(r#"{{"exp":{exp:e},"iat":{iat}}}"#);
            let tokens = AuthTokens::new(jwt(&claims)).with_obtained_at(obtained);
            // Whatever comes out, the schedule is in order.
            if let Some(schedule) = Schedule::of(&tokens) {
                prop_assert!(schedule.due <= schedule.expiring && schedule.expiring <= schedule.expiry);
            }
        }
    }
}
