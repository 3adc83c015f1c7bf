//! set, get, status, list, refresh: what is done with the tokens of one slot.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::process::ExitCode;

use serde_json::json;
use tokenkeep::chrono::{DateTime, TimeDelta, Timelike, Utc};
use tokenkeep::secrecy::{ExposeSecret, SecretString};
use tokenkeep::store::{MAX_RECORD, Record};
use tokenkeep::tokens::Freshness;
use tokenkeep::{AuthError, AuthTokens, StoreError, TokenManager};
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use crate::arguments::{Field, Get};
use crate::context::Context;
use crate::describe::{describe, doubts, moment, span, warnings};
use crate::failure::{Code, DONE, Failure, Outcome};
use crate::profile::Profile;
use crate::provider::Provider;
use crate::refreshing::{access_token, with_refresh};
use crate::target::Target;

pub(super) async fn set(context: &Context) -> Outcome {
    let target = Target::of(context)?;
    let manager = target.manager(context)?;
    let tokens = if io::stdin().is_terminal() {
        let prompt = "Access token, or a record in one line: ";
        let terminal = context.terminal.clone();
        let typed = spawn_blocking(move || terminal.ask_hidden(prompt)).await;
        let typed = typed.map_err(io::Error::other)?.map_err(|error| match error.kind() {
            io::ErrorKind::Other => Failure::usage(error.to_string()),
            _ => error.into(),
        })?;
        #[expect(clippy::disallowed_methods, reason = "this is where it comes in")]
        read(typed.expose_secret().as_bytes(), "what was typed")?
    } else {
        read_input()?
    };
    let now = Utc::now();
    let tokens = dated(tokens, now);
    let is_expired = tokens.freshness(now) == Freshness::Expired;
    let next = match tokens.refresh_token {
        Some(_) => "`tokenkeep refresh` gets a new one",
        None => "sign in again",
    };
    // If the very refresh token is there already, and is in doubt, it stays in doubt.
    let _ = manager.get_tokens().await;
    manager.set_tokens(tokens).await?;
    context.terminal.say_to_person(&format!("stored in {}", manager.store()));
    target.warn_of_plaintext(context);
    if is_expired {
        context.terminal.say(&format!("note: this access token has expired; {next}"));
    }
    DONE
}

/// Fixes when the access token expires, as far as it or what came with it says so. How old it is, nobody
/// says: so its own date counts, and not for how long it was good once.
fn dated(mut tokens: AuthTokens, now: DateTime<Utc>) -> AuthTokens {
    if tokens.expires_at.is_none() && tokens.obtained_at.is_none() {
        // The answer of a provider, as it came: RFC 6749, 5.1.
        #[expect(clippy::disallowed_methods, reason = "a number of seconds is no secret")]
        let seconds = tokens.extra("expires_in").map(|text| text.expose_secret().parse::<f64>());
        let seconds = seconds.and_then(Result::ok).filter(|seconds| (0.0..1e10).contains(seconds));
        let given = seconds.and_then(|seconds| TimeDelta::try_seconds(seconds as i64));
        tokens.expires_at = match given {
            Some(lifetime) => now.checked_add_signed(lifetime),
            None => tokens.expiry(),
        };
    }
    tokens
}

/// Reads a record, or a bare access token. What is given is wrong, and not what is kept.
fn read(text: &[u8], place: &str) -> Result<AuthTokens, Failure> {
    AuthTokens::from_text(text, place).map_err(|error| match error {
        // There is nothing to restore or to clear, as there is in a store.
        StoreError::Corrupt { reason, .. } => {
            Failure::usage(format!("{place} holds no tokens: {reason}"))
        }
        error => Failure::usage(Failure::from(error).message()),
    })
}

fn read_input() -> Result<AuthTokens, Failure> {
    // One byte more than fits, to see that it is too long; and no growing, which leaves copies.
    let mut input = Zeroizing::new(vec![0; MAX_RECORD + 1]);
    let mut filled = 0;
    let mut stdin = unbuffered_input()?;
    while filled < input.len() {
        match stdin.read(&mut input[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(Failure::usage(format!("cannot read standard input: {error}")));
            }
        }
    }
    read(&input[..filled], "standard input")
}

/// Standard input, past the standard library's buffer, which is never wiped.
fn unbuffered_input() -> io::Result<File> {
    let stdin = io::stdin();
    #[cfg(unix)]
    let input = std::os::fd::AsFd::as_fd(&stdin).try_clone_to_owned();
    #[cfg(windows)]
    let input = std::os::windows::io::AsHandle::as_handle(&stdin).try_clone_to_owned();
    input.map(File::from)
}

pub(super) async fn get(context: &Context, get: &Get) -> Outcome {
    if get.header && get.field != Field::Access {
        return Err(Failure::usage(
            "a header has the access token, and --field names something else; leave out one of them",
        ));
    }
    let manager = Target::of(context)?.manager(context)?;
    // Before all is saved: if it cannot be, the access token is good all the same.
    with_refresh(context, &manager, print(context, &manager, get)).await
}

#[expect(clippy::disallowed_methods, reason = "printing them is what it is for")]
async fn print(context: &Context, manager: &TokenManager, get: &Get) -> Outcome {
    match get.field {
        Field::Access => {
            let token = access_token(manager).await?;
            if !get.header {
                context.terminal.print(token.expose_secret())?;
                return DONE;
            }
            if !token.expose_secret().bytes().all(|byte| byte.is_ascii_graphic()) {
                let reason =
                    "the access token has characters that a header cannot contain; sign in again";
                return Err(Failure::new(Code::Unreadable, reason));
            }
            let header = Zeroizing::new(["Authorization: Bearer ", token.expose_secret()].concat());
            context.terminal.print(&header)?;
        }
        Field::Refresh => {
            let tokens = manager.get_tokens().await?.ok_or(AuthError::TokenNotFound)?;
            let token = tokens.refresh_token.ok_or_else(Failure::no_refresh_token)?;
            context.terminal.print(token.expose_secret())?;
        }
        Field::Json => {
            let tokens = manager.get_tokens().await?.ok_or(AuthError::TokenNotFound)?;
            let record: SecretString = in_seconds(tokens).to_record("standard output")?;
            context.terminal.print(record.expose_secret())?;
        }
    }
    DONE
}

/// The same, with times as people and other programs write them.
fn in_seconds(mut tokens: AuthTokens) -> AuthTokens {
    let times = [&mut tokens.expires_at, &mut tokens.obtained_at, &mut tokens.refresh_expires_at];
    for time in times.into_iter().flatten() {
        *time = time.with_nanosecond(0).unwrap_or(*time);
    }
    tokens
}

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
    warnings.extend(doubts(&*store, found, &target.client()).await);
    let refresher = target.profile.as_ref().and_then(|profile| profile.provider.as_ref());
    // Nothing can be replaced in the environment.
    let refresher = refresher.filter(|_| target.url.env_prefix().is_none());
    let client = refresher.map(Provider::client_name);
    let prospect = found.map(|record| Prospect::of(record, client.as_deref(), now));
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
        value["warnings"] = json!(warnings);
        context.terminal.print(&value.to_string())?;
    }
    let tokens = tokens?;
    if !json {
        let mut text = format!("store    {store}\n");
        text += &format!("tokens   {}\n", sentence(tokens.as_ref(), prospect));
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

/// What `get` does with tokens, as far as that can be told without a refresh.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Prospect {
    HandsOut,
    RefreshesFirst,
    Refuses,
}

impl Prospect {
    /// As the manager decides it; `client` is who refreshes, if somebody does.
    fn of(record: &Record, client: Option<&str>, now: DateTime<Utc>) -> Self {
        let tokens = &record.tokens;
        let is_asked = |client: &str| {
            let Record { tokens, refresh, .. } = record;
            let Some(token) = &tokens.refresh_token else { return false };
            let is_rejected =
                refresh.rejection.as_ref().is_some_and(|rejected| rejected.is_for(token, client));
            let is_held =
                || refresh.throttle.as_ref().is_some_and(|it| it.holds(client, now).is_some());
            !tokens.is_backup() && !is_rejected && !is_held()
        };
        match (tokens.freshness(now), client) {
            (Freshness::Due | Freshness::Expiring | Freshness::Expired, Some(client))
                if is_asked(client) =>
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

/// The state of the tokens for people.
fn sentence(tokens: Option<&AuthTokens>, prospect: Option<Prospect>) -> String {
    let Some(tokens) = tokens else { return "none".into() };
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

pub(super) fn list(context: &Context, json: bool) -> Outcome {
    if context.slot.is_given() {
        return Err(Failure::usage("this lists all profiles; `tokenkeep status` is about one"));
    }
    let profiles = Profile::all()?;
    if json {
        let rows = profiles.iter().map(|(name, profile)| match profile {
            Ok(profile) => {
                json!({ "profile": name, "store": profile.store.to_text(), "error": null })
            }
            Err(failure) => json!({ "profile": name, "store": null, "error": failure.message() }),
        });
        context.terminal.print(&json!(rows.collect::<Vec<_>>()).to_string())?;
        return DONE;
    }
    if profiles.is_empty() {
        context.terminal.say("there are no profiles; `tokenkeep init` makes one");
    }
    // A table for people, and tabs for everything else.
    let is_table = io::stdout().is_terminal();
    let width = profiles.iter().map(|(name, _)| name.len()).max().filter(|_| is_table);
    let (width, gap) = width.map_or((0, "\t"), |width| (width, "  "));
    for (name, profile) in &profiles {
        let store = match profile {
            Ok(profile) if is_table => for_shell(profile.store.to_text()),
            Ok(profile) => profile.store.to_text(),
            Err(failure) => failure.message().to_owned(),
        };
        context.terminal.print(&format!("{name:width$}{gap}{store}"))?;
    }
    DONE
}

/// As a shell takes it for one word: people paste what they see.
fn for_shell(text: String) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:,@%+=".contains(&byte);
    if text.bytes().all(is_plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

pub(super) async fn refresh(context: &Context) -> Outcome {
    let target = Target::of(context)?;
    let manager = target.manager(context)?;
    let refreshed = with_refresh(context, &manager, async {
        manager.refresh().await.map_err(|error| match error {
            AuthError::NoRefresher => Failure::usage(
                "this profile has no [oauth2] to refresh with; add token_url and client_id to its \
                 file, or sign in again and give the new tokens to `tokenkeep set`",
            ),
            error => error.into(),
        })
    })
    .await?;
    context.terminal.say(&format!("refreshed: {}", sentence(Some(&refreshed), None)));
    DONE
}
