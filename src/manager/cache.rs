//! The state of a slot in memory, and how long it is trusted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use chrono::{DateTime, Utc};

use super::snapshot::Snapshot;
use crate::refresh::RefreshPolicy;
use crate::store::Stored;
use crate::sys::clock::{self, random};
use crate::tokens::{AccessToken, AuthTokens, RefreshToken};

/// The last known state of a slot. It never calls a store: it holds the state that was installed last.
///
/// Readers take no lock.
pub(super) struct Cache {
    /// `None` while the state of the store is not known.
    snapshot: ArcSwapOption<Snapshot>,
    /// The current access token, if a server refused it. It is locked while a snapshot is installed, so that
    /// no refusal is lost between two snapshots of one token.
    refused: Mutex<Option<AccessToken>>,
    /// The refresh token that [`Installed::sign_in_due`] was about.
    expiring: Mutex<Option<RefreshToken>>,
    policy: RefreshPolicy,
    recheck: Duration,
    has_refresher: bool,
}

/// The result of [`Cache::install`].
pub(super) struct Installed {
    pub(super) snapshot: Arc<Snapshot>,
    /// Whether there were tokens before, and there are none now.
    pub(super) is_cleared: bool,
    /// When the refresh token expires, if a sign-in is due. It is returned once for each refresh token.
    pub(super) sign_in_due: Option<DateTime<Utc>>,
}

impl Cache {
    /// `recheck` is how long a snapshot is trusted before the store is loaded again.
    pub(super) fn new(policy: RefreshPolicy, recheck: Duration, has_refresher: bool) -> Self {
        Self {
            snapshot: ArcSwapOption::empty(),
            refused: Mutex::default(),
            expiring: Mutex::default(),
            policy,
            recheck,
            has_refresher,
        }
    }

    /// Returns the access token, if it can be returned without loading the store.
    ///
    /// This is the fast path: no lock, no allocation, no await.
    pub(super) fn cached(&self, now: SystemTime) -> Option<AccessToken> {
        self.snapshot.load().as_ref()?.cached(now).cloned()
    }

    /// Returns the access token, if it does not count as expired.
    pub(super) fn unexpired(&self, now: SystemTime) -> Option<AccessToken> {
        let loaded = self.snapshot.load();
        let snapshot = loaded.as_ref()?;
        let cached = snapshot.cached(now);
        cached.or_else(|| snapshot.access().filter(|_| snapshot.is_good(now))).cloned()
    }

    /// Returns the snapshot that was installed last.
    pub(super) fn latest(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.load_full()
    }

    /// Returns the snapshot that was installed last, if it is recent enough to be used without a reload.
    pub(super) fn recent(&self, now: SystemTime) -> Option<Arc<Snapshot>> {
        self.latest().filter(|snapshot| snapshot.is_recent(now))
    }

    /// Returns the snapshot that was installed last, if its access token can be returned while the store
    /// cannot be reached. Without a refresher, that is until it counts as expired; with one, until its true
    /// expiry.
    pub(super) fn usable(&self, now: SystemTime) -> Option<Arc<Snapshot>> {
        self.latest().filter(|snapshot| {
            if self.has_refresher { snapshot.is_accepted(now) } else { snapshot.is_good(now) }
        })
    }

    /// Installs the state that the store holds.
    pub(super) fn install(&self, stored: Option<Stored>, now: SystemTime) -> Installed {
        let random = if self.policy.jitter.is_zero() { 0.0 } else { random() };
        let mut refused = self.refused();
        let previous = self.latest();
        let had_tokens = previous.as_ref().is_some_and(|previous| previous.stored.is_some());
        let is_cleared = had_tokens && stored.is_none();
        let access = stored.as_ref().map(|stored| &stored.record.tokens.access_token);
        let is_refused = refused.as_ref().is_some_and(|refused| access == Some(refused));
        if !is_refused {
            *refused = None;
        }
        let snapshot = Arc::new(Snapshot::new(
            stored,
            previous.as_deref(),
            is_refused,
            now,
            self.recheck,
            &self.policy,
            random,
        ));
        self.snapshot.store(Some(snapshot.clone()));
        let sign_in_due = snapshot.tokens().and_then(|tokens| self.newly_due(tokens, now));
        Installed { snapshot, is_cleared, sign_in_due }
    }

    /// Returns when the refresh token expires, if a sign-in is due and this was not returned before.
    fn newly_due(&self, tokens: &AuthTokens, now: SystemTime) -> Option<DateTime<Utc>> {
        let is_due = tokens.sign_in_due()? <= clock::date(now) && !tokens.is_backup();
        let mut expiring = self.expiring.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_due || expiring.as_ref() == tokens.refresh_token.as_ref() {
            return None;
        }
        expiring.clone_from(&tokens.refresh_token);
        tokens.refresh_expires_at
    }

    /// Trusts this snapshot for another `recheck`, unless another snapshot was installed meanwhile. Returns
    /// the snapshot that is installed now.
    pub(super) fn trust_again(&self, kept: &Arc<Snapshot>, now: SystemTime) -> Arc<Snapshot> {
        let longer = Arc::new(kept.for_longer(now, self.recheck));
        self.snapshot.rcu(|current| match current {
            Some(current) if Arc::ptr_eq(current, kept) => Some(longer.clone()),
            // There was a login or a logout meanwhile.
            changed => changed.clone(),
        });
        self.latest().unwrap_or(longer)
    }

    /// Marks the access token as refused, if it is the current one. While the state of the store is not
    /// known, every token counts as the current one.
    pub(super) fn invalidate(&self, token: &AccessToken) {
        let mut refused = self.refused();
        if self.snapshot.load().as_ref().is_some_and(|snapshot| !snapshot.holds(token)) {
            return; // it is no longer the current one
        }
        *refused = Some(token.clone());
        self.snapshot.rcu(|current| {
            current.as_ref().map(|snapshot| match snapshot.refused(token) {
                Some(refused) => Arc::new(refused),
                None => snapshot.clone(),
            })
        });
    }

    /// Drops the snapshot, because the store is about to change or cannot be read.
    pub(super) fn forget(&self) {
        self.snapshot.store(None);
    }

    fn refused(&self) -> MutexGuard<'_, Option<AccessToken>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Revision;

    const RECHECK: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    /// Tokens that expire after an hour.
    fn stored(access: &str) -> Option<Stored> {
        let mut tokens = AuthTokens::new(access).with_refresh_token("refresh");
        tokens.expires_at = Some(clock::date(at(3600)));
        Some(Stored { record: tokens.into(), revision: Revision::new([1]) })
    }

    fn cache(has_refresher: bool) -> Cache {
        Cache::new(RefreshPolicy::default(), RECHECK, has_refresher)
    }

    fn token(access: &str) -> AccessToken {
        AccessToken::from(access)
    }

    #[test]
    fn a_fresh_token_is_served_from_memory_for_30_seconds() {
        let cache = cache(true);
        assert!(cache.cached(at(0)).is_none() && cache.recent(at(0)).is_none());
        cache.install(stored("one"), at(0));
        for (second, is_recent) in [(0, true), (29, true), (30, false), (3000, false)] {
            assert_eq!(cache.cached(at(second)).is_some(), is_recent, "{second}");
            assert_eq!(cache.recent(at(second)).is_some(), is_recent, "{second}");
        }
        // If the clock was set back, the age of the snapshot is unknown.
        let earlier = at(0) - Duration::from_secs(1);
        assert!(cache.cached(earlier).is_none() && cache.recent(earlier).is_none());
        cache.forget();
        assert!(cache.cached(at(0)).is_none() && cache.latest().is_none());
    }

    #[test]
    fn a_due_token_is_not_served_from_the_cache_and_does_not_count_as_expired() {
        let cache = cache(true);
        cache.install(stored("one"), at(2700));
        assert!(cache.cached(at(2700)).is_none());
        assert_eq!(cache.unexpired(at(3299)), Some(token("one")));
        assert_eq!(cache.unexpired(at(3300)), None);
    }

    #[test]
    fn a_token_is_usable_until_its_true_expiry_if_there_is_a_refresher() {
        for (has_refresher, last) in [(false, 3299), (true, 3599)] {
            let cache = cache(has_refresher);
            assert!(cache.usable(at(0)).is_none());
            cache.install(stored("one"), at(0));
            assert!(cache.usable(at(last)).is_some(), "{has_refresher}");
            assert!(cache.usable(at(last + 1)).is_none(), "{has_refresher}");
            cache.invalidate(&token("one"));
            assert!(cache.usable(at(0)).is_none(), "{has_refresher}");
        }
    }

    #[test]
    fn a_refusal_holds_until_the_token_is_replaced() {
        let cache = cache(true);
        cache.install(stored("one"), at(0));
        cache.invalidate(&token("another"));
        assert!(cache.cached(at(1)).is_some(), "it is not about the current one");
        cache.invalidate(&token("one"));
        assert!(cache.cached(at(1)).is_none() && cache.unexpired(at(1)).is_none());
        // The store still holds the refused token.
        assert!(cache.install(stored("one"), at(2)).snapshot.wants_refresh(at(2)));
        assert!(!cache.install(stored("two"), at(3)).snapshot.wants_refresh(at(3)));
        // The token is back, because somebody saved it again.
        assert!(!cache.install(stored("one"), at(4)).snapshot.wants_refresh(at(4)));
    }

    #[test]
    fn a_refusal_while_the_cache_is_empty_holds_for_the_next_snapshot_with_that_token() {
        let cache = cache(true);
        cache.invalidate(&token("one"));
        assert!(cache.install(stored("one"), at(0)).snapshot.wants_refresh(at(0)));
        cache.forget();
        cache.invalidate(&token("one"));
        assert!(!cache.install(stored("two"), at(0)).snapshot.wants_refresh(at(0)));
    }

    #[test]
    fn each_refresh_token_that_expires_soon_is_reported_once() {
        let cache = cache(true);
        let with_expiry = |token: &str| {
            let mut stored = stored("one").unwrap();
            stored.record.tokens.refresh_token = Some(token.into());
            stored.record.tokens.obtained_at = Some(clock::date(at(0)));
            stored.record.tokens.refresh_expires_at = Some(clock::date(at(4000)));
            stored
        };
        let mut backup = with_expiry("backup");
        backup.record.tokens = backup.record.tokens.with_backup(true);
        for (stored, second, is_reported) in [
            (with_expiry("one"), 2999, false),
            (with_expiry("one"), 3000, true),
            (with_expiry("one"), 3001, false),
            (with_expiry("one"), 5000, false),
            // The server has issued another one.
            (with_expiry("two"), 2000, false),
            (with_expiry("two"), 5000, true),
            (backup, 5000, false),
            (stored("one").unwrap(), 5000, false),
        ] {
            let due = cache.install(Some(stored), at(second)).sign_in_due;
            assert_eq!(due, is_reported.then_some(clock::date(at(4000))), "{second}");
        }
    }

    #[test]
    fn missing_tokens_count_as_cleared_only_if_the_cache_had_some() {
        let cache = cache(true);
        assert!(!cache.install(None, at(0)).is_cleared);
        assert!(!cache.install(stored("one"), at(0)).is_cleared);
        assert!(cache.install(None, at(0)).is_cleared);
        assert!(!cache.install(None, at(0)).is_cleared);
        cache.install(stored("one"), at(0));
        cache.forget();
        assert!(!cache.install(None, at(0)).is_cleared);
    }

    #[test]
    fn a_snapshot_is_not_trusted_again_after_it_was_replaced() {
        let cache = cache(true);
        let kept = cache.install(stored("one"), at(0)).snapshot;
        cache.trust_again(&kept, at(60));
        assert_eq!(cache.cached(at(89)), Some(token("one")));
        let current = cache.trust_again(&kept, at(90));
        assert!(
            current.holds(&token("one")) && cache.cached(at(91)).is_none(),
            "it is another one"
        );
        cache.install(stored("two"), at(100));
        assert!(cache.trust_again(&kept, at(100)).holds(&token("two")));
        // A snapshot that was dropped meanwhile is not installed again.
        cache.forget();
        assert!(cache.trust_again(&kept, at(100)).holds(&token("one")));
        assert!(cache.latest().is_none());
    }
}
