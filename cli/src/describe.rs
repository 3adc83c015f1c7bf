//! Descriptions of tokens and stores. They contain no secret.

use std::path::Path;

use serde_json::{Value, json};
use tokenkeep::chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use tokenkeep::store::{Record, RefreshState};
use tokenkeep::{AuthTokens, StoreUrl, TokenStore};

use crate::failure::Failure;

/// Returns a description of tokens as JSON, without secrets.
pub(crate) fn describe(tokens: Option<&AuthTokens>, now: DateTime<Utc>) -> Value {
    let date = |date: Option<DateTime<Utc>>| {
        date.map(|date| date.to_rfc3339_opts(SecondsFormat::Secs, true))
    };
    json!({
        "state": tokens.map_or("none".into(), |it| format!("{:?}", it.freshness(now)).to_lowercase()),
        "expires_at": date(tokens.and_then(AuthTokens::expiry)),
        "refresh_due_at": date(tokens.and_then(AuthTokens::refresh_due)),
        "obtained_at": date(tokens.and_then(|tokens| tokens.obtained_at)),
        "refresh_expires_at": date(tokens.and_then(|tokens| tokens.refresh_expires_at)),
        "has_refresh_token": tokens.is_some_and(|tokens| tokens.refresh_token.is_some()),
        "backup": tokens.is_some_and(AuthTokens::is_backup),
    })
}

/// Returns what may prevent the next refresh: a refresh was interrupted, or the provider rejected
/// the refresh token. `client` is the client that refreshes.
pub(crate) async fn doubts(
    store: &dyn TokenStore,
    record: Option<&Record>,
    client: &str,
) -> Vec<String> {
    let Some(record) = record else { return Vec::new() };
    let (token, rejection) = (&record.tokens.refresh_token, &record.refresh.rejection);
    if let (Some(token), Some(rejection)) = (token, rejection)
        && rejection.is_for(token, client)
    {
        let at = rejection.at().to_rfc3339_opts(SecondsFormat::Secs, true);
        let doubt = match record.intent() {
            Some(_) => ", after a refresh was cut off that may have spent it",
            None => "",
        };
        return vec![format!(
            "the refresh token was rejected at {at} ({}){doubt}; sign in again",
            rejection.reason()
        )];
    }
    match tokenkeep::refresh::interrupted_refresh(store).await {
        Ok(Some(at)) => vec![format!(
            "a refresh was cut off at {}, and may have spent the refresh token; if the next one fails, sign \
             in again",
            at.to_rfc3339_opts(SecondsFormat::Secs, true)
        )],
        Err(error) if record.intent().is_some() => vec![format!(
            "a refresh was cut off, or is under way, which cannot be found out here: {}",
            Failure::from(error).message()
        )],
        _ => Vec::new(),
    }
}

/// Returns what is kept of an empty slot: until when the provider asked to wait.
pub(crate) async fn of_empty_slot(store: &dyn TokenStore) -> Record {
    let throttle = match store.try_lease().await {
        Ok(Some(mut lease)) => {
            let throttle = lease.throttle().await;
            // It is given up when it is dropped, too.
            let _ = lease.release().await;
            throttle
        }
        // Somebody is obtaining tokens, or nobody can.
        _ => None,
    };
    let mut refresh = RefreshState::default();
    refresh.throttle = throttle;
    Record::new(AuthTokens::new("")).with_refresh(refresh)
}

/// Returns until when the provider asked to wait, and what it said. `client` is the client that refreshes.
pub(crate) fn wait<'r>(
    record: &'r Record,
    client: &str,
    now: DateTime<Utc>,
) -> Option<(DateTime<Utc>, &'r str)> {
    let throttle = record.refresh.throttle.as_ref()?;
    // Without a reason, it has just issued tokens.
    Some((throttle.holds(client, now)?, throttle.reason()?))
}

/// Returns when the refresh token expires, if that is known.
pub(crate) fn refresh_expiry(tokens: &AuthTokens, now: DateTime<Utc>) -> Option<String> {
    tokens.refresh_token.as_ref()?;
    let expiry = tokens.refresh_expires_at?;
    let at = moment(expiry);
    Some(if expiry > now {
        format!("the refresh token expires in {} ({at})", span(expiry - now))
    } else {
        format!("the refresh token expired {} ago ({at})", span(now - expiry))
    })
}

/// Returns a warning if the refresh token expires soon.
pub(crate) fn sign_in_due(tokens: &AuthTokens, now: DateTime<Utc>) -> Option<String> {
    let is_due = tokens.sign_in_due()? <= now && !tokens.is_backup();
    let expiry = refresh_expiry(tokens, now).filter(|_| is_due)?;
    Some(if tokens.refresh_expires_at? > now {
        format!("{expiry}; if `tokenkeep refresh` does not renew it, sign in again")
    } else {
        format!("{expiry}; sign in again")
    })
}

/// Returns a weakness of a store. It is reported each time.
pub(crate) fn warnings(url: &StoreUrl) -> Option<String> {
    if url.is_plaintext() {
        let advice = "any program of this user can read them, and every backup contains them; move them with `tokenkeep migrate`";
        return Some(format!("the tokens are in plaintext: {advice}"));
    }
    let (data, key) = (url.path()?, url.identity_path()?);
    is_on_one_disk(&data, key).then(|| {
        "the tokens and their key are on the same disk, so a thief of the disk has both".to_owned()
    })
}

#[cfg(unix)]
fn is_on_one_disk(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;

    // The record may not exist yet, nor its directory.
    let device = |path: &Path| path.ancestors().find_map(|path| Some(path.metadata().ok()?.dev()));
    device(one) == device(other)
}

#[cfg(not(unix))]
fn is_on_one_disk(one: &Path, other: &Path) -> bool {
    one.components().next() == other.components().next()
}

/// Returns a time in a form for people.
pub(crate) fn moment(date: DateTime<Utc>) -> String {
    date.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Returns a duration in a form for people: only the largest unit.
pub(crate) fn span(delta: TimeDelta) -> String {
    let minutes = delta.num_minutes().abs();
    let (count, unit) = match minutes {
        0 => return "less than a minute".into(),
        1..60 => (minutes, "minute"),
        60..2880 => (minutes / 60, "hour"),
        2880..1_051_200 => (minutes / 1440, "day"),
        _ => (minutes / 525_600, "year"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// Quotes text so that a shell reads it as one word: people paste what they see.
pub(crate) fn for_shell(text: String) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:,@%+=".contains(&byte);
    if text.bytes().all(is_plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
