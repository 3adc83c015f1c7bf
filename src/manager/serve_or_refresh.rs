//! What a caller of `get_access_token` gets. It is the table in README.

use std::time::SystemTime;

use super::snapshot::Snapshot;
use crate::error::AuthError;
use crate::tokens::Freshness;

/// When a manager refreshes tokens that are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refreshing {
    /// Never: it has no refresher.
    Never,
    /// Before it returns them.
    First,
    /// In the background, after it returned them. Tokens that count as expired are refreshed first.
    InBackground,
}

/// What the manager does for a caller of `get_access_token`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// The token counts as expired, and there is no refresher.
    Expired,
    /// There are no tokens.
    NotFound,
    /// The token is refreshed, and the caller waits up to a limit. If the refresh takes longer or fails, the
    /// old token is returned, because the server still accepts it.
    RefreshWithLimit,
    /// The token is refreshed first, because the server no longer accepts it.
    RefreshFirst,
    /// The token is returned, and refreshed in the background.
    RefreshInBackground,
    /// The token is returned.
    Return,
}

impl Access {
    pub(super) fn decide(snapshot: &Snapshot, now: SystemTime, refreshing: Refreshing) -> Self {
        if snapshot.stored.is_none() {
            return Self::NotFound;
        }
        if !snapshot.wants_refresh(now) {
            return Self::Return;
        }
        let (is_good, is_accepted) = (snapshot.is_good(now), snapshot.is_accepted(now));
        match refreshing {
            Refreshing::Never if is_good => Self::Return,
            Refreshing::Never => Self::Expired,
            Refreshing::InBackground if is_good => Self::RefreshInBackground,
            _ if is_accepted => Self::RefreshWithLimit,
            _ => Self::RefreshFirst,
        }
    }

    /// Returns whether the token is refreshed, before or after it is returned.
    pub(super) fn is_refreshed(self) -> bool {
        matches!(self, Self::RefreshWithLimit | Self::RefreshFirst | Self::RefreshInBackground)
    }
}

/// Returns whether the current state of the slot answers the caller after a failed refresh. It does if the
/// server accepts the token, or if the slot is empty by now.
pub(super) fn serves_after(current: &Snapshot, now: SystemTime, error: &AuthError) -> bool {
    // A token that was just refreshed is returned even if a server refused it: there is no better one.
    let is_just_refreshed = matches!(error, AuthError::TokenExpired);
    current.stored.is_none()
        || current.is_accepted(now)
        || (is_just_refreshed && current.freshness(now) < Freshness::Expired)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::RefreshFailure;
    use crate::refresh::RefreshPolicy;
    use crate::store::{Revision, Stored};
    use crate::sys::clock;
    use crate::tokens::AuthTokens;

    const EXPIRY: u64 = 3600;
    const DUE: u64 = EXPIRY - 15 * 60;
    const EXPIRING: u64 = EXPIRY - 5 * 60;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn snapshot(stored: Option<Stored>, is_refused: bool) -> Snapshot {
        let (recheck, policy) = (Duration::from_secs(30), RefreshPolicy::default());
        Snapshot::new(stored, None, is_refused, at(0), recheck, &policy, 0.0)
    }

    fn stored() -> Option<Stored> {
        let mut tokens = AuthTokens::new("access").with_refresh_token("refresh");
        tokens.expires_at = Some(clock::date(at(EXPIRY)));
        Some(Stored { record: tokens.into(), revision: Revision::new([1]) })
    }

    #[test]
    fn each_caller_gets_what_the_table_in_readme_says() {
        use Access::{
            Expired, NotFound, RefreshFirst, RefreshInBackground, RefreshWithLimit, Return,
        };
        let (token, refused, absent) =
            (snapshot(stored(), false), snapshot(stored(), true), snapshot(None, false));
        for (row, snapshot, second, never, first, in_background) in [
            ("fresh", &token, 0, Return, Return, Return),
            ("fresh to the last", &token, DUE - 1, Return, Return, Return),
            ("due", &token, DUE, Return, RefreshWithLimit, RefreshInBackground),
            (
                "due to the last",
                &token,
                EXPIRING - 1,
                Return,
                RefreshWithLimit,
                RefreshInBackground,
            ),
            ("within 5 minutes", &token, EXPIRING, Expired, RefreshWithLimit, RefreshWithLimit),
            ("its last second", &token, EXPIRY - 1, Expired, RefreshWithLimit, RefreshWithLimit),
            ("expired", &token, EXPIRY, Expired, RefreshFirst, RefreshFirst),
            ("refused", &refused, 0, Expired, RefreshFirst, RefreshFirst),
            ("absent", &absent, 0, NotFound, NotFound, NotFound),
        ] {
            let decide = |refreshing| Access::decide(snapshot, at(second), refreshing);
            assert_eq!(decide(Refreshing::Never), never, "{row}");
            assert_eq!(decide(Refreshing::First), first, "{row}");
            assert_eq!(decide(Refreshing::InBackground), in_background, "{row}");
        }
    }

    #[test]
    fn after_a_failed_refresh_a_token_is_served_until_its_true_expiry() {
        let failed = AuthError::Refresh(RefreshFailure::transient("busy"));
        let (token, refused, absent) =
            (snapshot(stored(), false), snapshot(stored(), true), snapshot(None, false));
        for (row, current, second, error, serves) in [
            ("due", &token, DUE, &failed, true),
            ("its last second", &token, EXPIRY - 1, &failed, true),
            ("expired", &token, EXPIRY, &failed, false),
            ("refused", &refused, 0, &failed, false),
            ("refused, just refreshed", &refused, 0, &AuthError::TokenExpired, true),
            ("expired, just refreshed", &token, EXPIRY, &AuthError::TokenExpired, false),
            ("signed out", &absent, 0, &failed, true),
        ] {
            assert_eq!(serves_after(current, at(second), error), serves, "{row}");
        }
    }
}
