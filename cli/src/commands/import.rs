//! import: tokens that other programs keep. `import` lists them, and `migrate --from import:…` takes them over.

mod names;
mod places;
mod plan;
mod provider;
mod take;

use serde_json::json;
use tokenkeep::chrono::Utc;
use tokenkeep::import::Source;
use tokenkeep::stores::ImportStore;
use tokenkeep::tokens::Freshness;
use tokenkeep::{AuthTokens, StoreError, StoreUrl};

use self::places::Place;
pub(super) use self::take::take;
use crate::context::Context;
use crate::describe::{describe, for_shell, moment};
use crate::failure::{DONE, Failure, Outcome};

/// Lists the tokens of other programs in the usual places of this machine.
pub(super) async fn list(context: &Context, json: bool) -> Outcome {
    if context.selection.is_given() {
        return Err(Failure::usage(
            "this looks for tokens of other programs; `tokenkeep status` is about a profile",
        ));
    }
    let mut rows = Vec::new();
    for place in places::usual() {
        let Some(url) = place.url(place.format) else { continue };
        let found = match opened(context, &url) {
            Ok(store) => store.source().await,
            Err(failure) => return Err(failure),
        };
        match &found {
            Ok(None) => continue,
            // Without a keychain there is nothing in it.
            Err(StoreError::Unavailable { .. }) if place.is_item() => continue,
            _ => {}
        }
        if json {
            rows.push(as_json(&place, found));
            continue;
        }
        match found {
            Ok(Some(source)) => say_source(context, &place, &source)?,
            Ok(None) => {}
            Err(error) => context.terminal.say(&error.to_string()),
        }
        rows.push(serde_json::Value::Null);
    }
    if json {
        context.terminal.print_json(&json!(rows))?;
    } else if rows.is_empty() {
        context.terminal.say(
            "there are none in the usual places; `tokenkeep migrate --from import:auto:PATH` takes them from any file",
        );
    }
    DONE
}

fn say_source(context: &Context, place: &Place, source: &Source) -> Result<(), Failure> {
    let url = place.url(Some(source.format)).map(|url| url.to_text()).unwrap_or_default();
    context.terminal.print(&format!("{}: {place}", source.format.program()))?;
    for account in &source.accounts {
        context.terminal.print(&format!("  {}: {}", account.name, in_words(&account.tokens)))?;
    }
    let choice = if source.accounts.len() > 1 { " --account NAME" } else { "" };
    context
        .terminal
        .print(&format!("  take it: tokenkeep migrate --from {}{choice}", for_shell(url)))?;
    Ok(())
}

fn as_json(place: &Place, found: Result<Option<Source>, StoreError>) -> serde_json::Value {
    let now = Utc::now();
    match found {
        Ok(Some(source)) => json!({
            "place": place.to_string(),
            "format": source.format.name(),
            "url": place.url(Some(source.format)).map(|url| url.to_text()),
            "accounts": source.accounts.iter().map(|account| json!({
                "name": account.name,
                "tokens": describe(Some(&account.tokens), now),
            })).collect::<Vec<_>>(),
            "error": null,
        }),
        Ok(None) => serde_json::Value::Null,
        Err(error) => json!({
            "place": place.to_string(),
            "format": place.format.map(tokenkeep::import::Format::name),
            "accounts": [],
            "error": error.to_string(),
        }),
    }
}

/// Returns what there is, without secrets.
fn in_words(tokens: &AuthTokens) -> String {
    let now = Utc::now();
    let access = match (tokens.has_access_token(), tokens.expiry()) {
        (false, _) => "no access token".into(),
        (true, None) => "an access token whose expiry is not known".into(),
        (true, Some(expiry)) if tokens.freshness(now) == Freshness::Expired => {
            format!("an access token that expired at {}", moment(expiry))
        }
        (true, Some(expiry)) => format!("an access token that expires at {}", moment(expiry)),
    };
    let refresh =
        if tokens.refresh_token.is_some() { "a refresh token" } else { "no refresh token" };
    format!("{access}, {refresh}")
}

/// Opens the file or the item of another program.
fn opened(context: &Context, url: &StoreUrl) -> Result<ImportStore, Failure> {
    let url =
        if context.selection.allow_prompt { url.clone().allow_prompts() } else { url.clone() };
    Ok(url.import().expect("it is the URL of an import")?)
}
