//! Spans and events of refreshes for `tracing` (feature `tracing`).
//!
//! Counters are fields named `monotonic_counter.…`. The OpenTelemetry layer turns them into metrics. No span
//! and no event contains a secret: a store shows its place, and an event shows what happened. Hidden characters are
//! escaped.

use std::fmt::Display;
use std::future::Future;

use tracing::{Instrument, debug, info, info_span, warn};

use super::events::Event;
use crate::printable::one_line;

/// Runs a refresh in a span of its own.
pub(super) fn refresh<R>(
    store: &impl Display,
    task: impl Future<Output = R>,
) -> impl Future<Output = R> {
    let store = store.to_string();
    task.instrument(info_span!("tokenkeep.refresh", store = %one_line(&store)))
}

/// Counts an event, and logs it.
pub(super) fn event(store: &impl Display, event: &Event) {
    let store = store.to_string();
    let store = one_line(&store);
    match event {
        Event::Cleared => debug!(%store, monotonic_counter.tokenkeep_cleared = 1, "cleared"),
        Event::LoginRequired { error } => {
            warn!(%store, %error, monotonic_counter.tokenkeep_login_required = 1, "login required");
        }
        Event::RefreshFailed { error, .. } => {
            warn!(%store, %error, monotonic_counter.tokenkeep_refresh_failed = 1, "refresh failed");
        }
        Event::Refreshed => info!(%store, monotonic_counter.tokenkeep_refreshed = 1, "refreshed"),
        Event::SaveFailed { error } => {
            warn!(%store, %error, monotonic_counter.tokenkeep_save_failed = 1, "save failed");
        }
        Event::SavedWithEarlierKey { error } => {
            warn!(%store, %error, monotonic_counter.tokenkeep_saved_with_earlier_key = 1, "saved with an earlier key");
        }
        Event::SignInDue { at } => {
            warn!(%store, %at, monotonic_counter.tokenkeep_sign_in_due = 1, "sign-in due");
        }
        Event::Saved => debug!(%store, monotonic_counter.tokenkeep_saved = 1, "saved"),
    }
}
