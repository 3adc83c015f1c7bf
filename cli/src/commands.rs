//! One file for each command, or for a few that belong together.

mod backup;
mod doctor;
mod exec;
mod init;
mod keys;
mod login;
mod manual;
mod migrate;
mod remove;
mod tokens;

use std::process::ExitCode;
use std::sync::Arc;

use clap::CommandFactory;
use serde_json::{Value, json};
use tokenkeep::chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use tokenkeep::store::Record;
use tokenkeep::{AuthTokens, StoreError, StoreUrl, TokenManager, TokenRefresher, TokenStore};

use crate::arguments::{Cli, Command, ProfileCommand, Slot};
use crate::failure::{Code, Failure};
use crate::harden::Limits;
use crate::profile::Profile;
use crate::slot::Named;
use crate::terminal;

type Outcome = Result<ExitCode, Failure>;

const DONE: Outcome = Ok(ExitCode::SUCCESS);

pub(crate) async fn run(cli: Cli, limits: Limits) -> Outcome {
    let slot = &cli.slot;
    if slot.allow_prompt {
        terminal::allow_prompts();
    }
    match cli.command {
        Command::Init => init::init(slot).await,
        Command::Login(login) => login::login(slot, &login).await,
        Command::Set => tokens::set(slot).await,
        Command::Get(get) => tokens::get(slot, &get).await,
        Command::Status(json) => tokens::status(slot, json.json).await,
        Command::List(json) => tokens::list(slot, json.json),
        Command::Profile(ProfileCommand::Remove(remove)) => remove::remove(slot, &remove).await,
        Command::Refresh => tokens::refresh(slot).await,
        Command::Clear(clear) => login::clear(slot, &clear).await,
        Command::Migrate(migrate) => migrate::migrate(slot, &migrate).await,
        Command::Backup(backup) => backup::backup(slot, &backup).await,
        Command::Restore(restore) => backup::restore(slot, &restore).await,
        Command::Keygen(keygen) => keys::keygen(&keygen).await,
        Command::Rekey(rekey) => keys::rekey(slot, &rekey).await,
        Command::Doctor(json) => doctor::doctor(slot, limits, json.json).await,
        Command::Exec(exec) => exec::exec(slot, exec, limits).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tokenkeep", &mut script);
            terminal::print(&String::from_utf8_lossy(&script))?;
            DONE
        }
        Command::Man => manual::man(),
    }
}

/// The store that a command is about, and the profile if it was named by one.
struct Target {
    url: StoreUrl,
    profile: Option<Profile>,
}

impl Target {
    fn of(slot: &Slot) -> Result<Self, Failure> {
        match slot.named()? {
            Named::Store(url) => Ok(Self { url, profile: None }),
            Named::Profile(name) => {
                let profile = Profile::load(&name)?;
                Ok(Self { url: profile.store.clone(), profile: Some(profile) })
            }
        }
    }

    fn open(&self) -> Result<Arc<dyn TokenStore>, Failure> {
        open(&self.url)
    }

    /// Warns if tokens were put in plaintext into a place that the command line names.
    fn warn_of_plaintext(&self) {
        if self.profile.is_none() {
            warn_of_plaintext(&self.url);
        }
    }

    /// Names who refreshes, as a record remembers it.
    fn client(&self) -> String {
        let provider = self.profile.as_ref().and_then(|profile| profile.provider.as_ref());
        provider.map(TokenRefresher::client).unwrap_or_default()
    }

    fn manager(&self) -> Result<TokenManager, Failure> {
        let builder = TokenManager::builder().store(self.open()?);
        let provider = self.profile.as_ref().and_then(|profile| profile.provider.clone());
        Ok(match provider {
            Some(provider) => builder.refresher(provider).build(),
            None => builder.build(),
        })
    }
}

/// Finds out whether tokens that are to be saved there could be sealed. Nobody is asked for a passphrase.
async fn check_key(url: &StoreUrl) -> Result<(), StoreError> {
    match as_prompts_are_allowed(url).check_key().await {
        Err(StoreError::Locked { .. }) if !url.uses_keychain() => Ok(()),
        checked => checked,
    }
}

/// What is in the way of the next refresh: it was interrupted, or the provider rejected the refresh token.
/// `client` is who refreshes.
async fn doubts(store: &dyn TokenStore, record: Option<&Record>, client: &str) -> Vec<String> {
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

fn open(url: &StoreUrl) -> Result<Arc<dyn TokenStore>, Failure> {
    let protected =
        url.identity_path().map_or_else(|| url.to_string(), |path| path.display().to_string());
    let opened = as_prompts_are_allowed(url)
        .open_with_passphrase(move || terminal::ask_passphrase(&protected));
    opened.map_err(not_openable)
}

/// Nothing was read yet: a key that is none stands in the URL itself.
fn not_openable(error: StoreError) -> Failure {
    match error {
        StoreError::InvalidKey { .. } => Failure::usage(Failure::from(error).message()),
        error => error.into(),
    }
}

fn as_prompts_are_allowed(url: &StoreUrl) -> StoreUrl {
    if terminal::prompts_allowed() { url.clone().allow_prompts() } else { url.clone() }
}

fn no_refresh_token() -> Failure {
    Failure::new(Code::NoTokens, "there is no refresh token; the server issued none")
}

/// What may be said about tokens: nothing of what they are.
fn describe(tokens: Option<&AuthTokens>, now: DateTime<Utc>) -> Value {
    let date = |date: Option<DateTime<Utc>>| {
        date.map(|date| date.to_rfc3339_opts(SecondsFormat::Secs, true))
    };
    json!({
        "state": tokens.map_or("none".into(), |it| format!("{:?}", it.freshness(now)).to_lowercase()),
        "expires_at": date(tokens.and_then(AuthTokens::expiry)),
        "refresh_due_at": date(tokens.and_then(AuthTokens::refresh_due)),
        "obtained_at": date(tokens.and_then(|tokens| tokens.obtained_at)),
        "has_refresh_token": tokens.is_some_and(|tokens| tokens.refresh_token.is_some()),
        "backup": tokens.is_some_and(AuthTokens::is_backup),
    })
}

/// A moment as people read it.
pub(crate) fn moment(date: DateTime<Utc>) -> String {
    date.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Warns of a place that was named just now. A profile's own was warned of when it was made.
fn warn_of_plaintext(url: &StoreUrl) {
    if url.is_plaintext() {
        terminal::say(PLAINTEXT);
    }
}

const PLAINTEXT: &str = "WARNING: plaintext. Any program of this user, and anyone who gets the disk or a backup \
                         of it, can read the tokens.";

/// A span of time as people say it: the largest unit alone.
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
