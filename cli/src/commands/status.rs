//! status: shows where the tokens are, and what `get` would do with them.

use std::process::ExitCode;

use serde_json::json;
use tokenkeep::chrono::{DateTime, SecondsFormat, Utc};
use tokenkeep::store::Record;
use tokenkeep::tokens::Freshness;
use tokenkeep::{AuthTokens, StoreError};

use crate::context::Context;
use crate::describe::{
    describe, doubts, moment, of_empty_slot, refresh_expiry, sign_in_due, span, wait, warnings,
};
use crate::failure::{Code, Failure, Outcome};
use crate::provider::Provider;
use crate::target::Target;

pub(super) async fn status(context: &Context, json: bool) -> Outcome {
    let target = Target::of(context)?;
    let store = target.open(context)?;
    let (loaded, exposed) = match store.load().await {
        Err(error @ StoreError::Exposed { .. }) => (store.load_exposed().await, Some(error)),
        loaded => (loaded, None),
    };
    let now = Utc::now();
    let record = loaded.map(|stored| stored.map(|stored| stored.record)).map_err(Failure::from);
    let found = record.as_ref().ok().and_then(Option::as_ref);
    let exposed = exposed.map(|error| Failure::from(error).message().to_owned());
    let mut warnings: Vec<String> = exposed.iter().cloned().chain(warnings(&target.url)).collect();
    let doubts = doubts(&*store, found, &target.client()).await;
    // A doubt says to sign in already.
    let due = found.filter(|_| doubts.is_empty()).and_then(|it| sign_in_due(&it.tokens, now));
    warnings.extend(doubts.iter().chain(&due).map(|warning| context.advised(warning)));
    // A client that acts for itself has no tokens before `get` obtains the first ones.
    let obtains = target.refreshes_at().filter(|it| it.is_own_client && matches!(record, Ok(None)));
    let empty = match obtains {
        Some(_) => Some(of_empty_slot(&*store).await),
        None => None,
    };
    let wait = found.or(empty.as_ref()).and_then(|record| wait(record, &target.client(), now));
    let waits_until = wait.map(|(until, _)| until.to_rfc3339_opts(SecondsFormat::Secs, true));
    warnings.extend(wait.map(|(until, reason)| {
        format!(
            "the provider asked to wait until {}, and is not asked before ({reason})",
            moment(until)
        )
    }));
    let prospect = match (found, &empty) {
        (Some(record), _) => Some(Prospect::of(record, target.refreshes_at(), now)),
        (None, Some(_)) if wait.is_some() => Some(Prospect::Refuses),
        (None, Some(_)) => Some(Prospect::RefreshesFirst),
        (None, None) => None,
    };
    let tokens = record.map(|record| record.map(|record| record.tokens));
    let found = tokens.as_ref().ok().and_then(Option::as_ref);
    if json {
        let mut value = describe(found, now);
        if tokens.is_err() {
            value["state"] = json!("unknown");
        }
        value["error"] = json!(tokens.as_ref().err().map(Failure::message).or(exposed.as_deref()));
        value["profile"] = json!(target.profile.as_ref().map(|profile| &profile.name));
        value["store"] = json!(target.url.to_string());
        value["waits_until"] = json!(waits_until);
        value["warnings"] = json!(warnings);
        context.terminal.print_json(&value)?;
    }
    let tokens = tokens?;
    if !json {
        let mut text = format!("store    {store}\n");
        text += &format!("tokens   {}\n", sentence(tokens.as_ref(), prospect));
        if let Some(expiry) = tokens.as_ref().and_then(|tokens| refresh_expiry(tokens, now)) {
            text += &format!("refresh  {expiry}\n");
        }
        for warning in &warnings {
            text += &format!("warning  {warning}\n");
        }
        context.terminal.print(&text)?;
    }
    if exposed.is_some() {
        return Ok(Code::Inaccessible.into());
    }
    Ok(match prospect {
        None => Code::NoTokens.into(),
        Some(Prospect::HandsOut | Prospect::RefreshesFirst) => ExitCode::SUCCESS,
        Some(Prospect::Refuses) => Code::Expired.into(),
    })
}

/// What `get` does with tokens, as far as this is known without a refresh.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Prospect {
    HandsOut,
    RefreshesFirst,
    Refuses,
}

impl Prospect {
    /// Decides as the manager does. `provider` is the one that refreshes, if there is one.
    fn of(record: &Record, provider: Option<&Provider>, now: DateTime<Utc>) -> Self {
        let tokens = &record.tokens;
        let is_asked = |provider: &Provider| {
            let Record { tokens, refresh, .. } = record;
            let (client, token) = (provider.client_name(), tokens.refresh_token.as_ref());
            let is_rejected = token
                .zip(refresh.rejection.as_ref())
                .is_some_and(|(token, rejected)| rejected.is_for(token, &client));
            let is_held =
                || refresh.throttle.as_ref().is_some_and(|it| it.holds(&client, now).is_some());
            let has_grant = token.is_some() || provider.is_own_client;
            has_grant && !tokens.is_backup() && !is_rejected && !is_held()
        };
        match (tokens.freshness(now), provider) {
            (Freshness::Due | Freshness::Expiring | Freshness::Expired, Some(provider))
                if is_asked(provider) =>
            {
                Self::RefreshesFirst
            }
            (Freshness::Fresh | Freshness::Due, _) | (Freshness::Expiring, Some(_)) => {
                Self::HandsOut
            }
            (Freshness::Expiring, None) | (Freshness::Expired, _) => Self::Refuses,
        }
    }
}

/// Returns the state of the tokens in words for people.
pub(super) fn sentence(tokens: Option<&AuthTokens>, prospect: Option<Prospect>) -> String {
    let Some(tokens) = tokens else {
        return match prospect {
            Some(Prospect::RefreshesFirst) => "none yet; `get` obtains them".into(),
            _ => "none".into(),
        };
    };
    let now = Utc::now();
    let freshness = tokens.freshness(now);
    let at = tokens.expiry().map(moment).unwrap_or_default();
    let mut text = match (freshness, tokens.expiry(), tokens.refresh_due()) {
        (Freshness::Fresh, Some(expiry), Some(due)) => {
            format!("fresh; due in {}, expire in {} ({at})", span(due - now), span(expiry - now))
        }
        (Freshness::Due, Some(expiry), _) => {
            format!("due; expire in {} ({at})", span(expiry - now))
        }
        (Freshness::Expiring, Some(expiry), _) => {
            format!("about to expire, in {} ({at})", span(expiry - now))
        }
        (Freshness::Expired, Some(expiry), _) => {
            format!("expired {} ago ({at})", span(now - expiry))
        }
        (Freshness::Expired, None, _) => "there is no access token".to_owned(),
        _ => "fresh; they have no expiry".to_owned(),
    };
    text += match (prospect, freshness) {
        (Some(Prospect::RefreshesFirst), _) => "; `get` refreshes them first",
        (Some(Prospect::Refuses), Freshness::Expiring) => "; `get` counts them as expired",
        (Some(Prospect::HandsOut), Freshness::Expiring) => "; `get` uses them until then",
        _ => "",
    };
    if tokens.refresh_token.is_none() {
        text += "; there is no refresh token";
    }
    if tokens.is_backup() {
        text += "; this is a backup, which is never refreshed";
    }
    text
}
