//! One file for each command, or for a few that belong together.

mod backup;
mod doctor;
mod exec;
mod init;
mod keys;
mod login;
mod migrate;
mod tokens;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::CommandFactory;
use serde_json::{Value, json};
use tokenkeep::chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use tokenkeep::{AuthTokens, StoreUrl, TokenManager, TokenStore};

use crate::arguments::{Cli, Command, Slot};
use crate::failure::Failure;
use crate::harden::Limits;
use crate::profile::Profile;
use crate::provider::refresher_of;
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
        Command::List(json) => tokens::list(json.json),
        Command::Refresh => tokens::refresh(slot).await,
        Command::Clear(clear) => login::clear(slot, &clear).await,
        Command::Migrate(migrate) => migrate::migrate(slot, &migrate).await,
        Command::Backup(backup) => backup::backup(slot, &backup).await,
        Command::Restore(restore) => backup::restore(slot, &restore).await,
        Command::Keygen(keygen) => keys::keygen(&keygen).await,
        Command::Rekey(rekey) => keys::rekey(slot, &rekey).await,
        Command::Doctor(json) => doctor::doctor(limits, json.json).await,
        Command::Exec(exec) => exec::exec(slot, exec, limits).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tokenkeep", &mut script);
            terminal::print(&String::from_utf8_lossy(&script))?;
            DONE
        }
        Command::Man => {
            terminal::print(&manual()?)?;
            DONE
        }
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

    fn manager(&self) -> Result<TokenManager, Failure> {
        let builder = TokenManager::builder().store(self.open()?);
        let refresher = self.profile.as_ref().and_then(refresher_of);
        Ok(match refresher {
            Some(refresher) => builder.refresher(refresher).build(),
            None => builder.build(),
        })
    }
}

/// How long a command that refreshed waits for what it could not save at once.
const SAVING: Duration = Duration::from_secs(10);

/// The end of a command that may have refreshed: says if the new tokens are about to be lost.
async fn finish(manager: &TokenManager) -> Result<(), Failure> {
    Ok(manager.shutdown(SAVING).await?)
}

fn open(url: &StoreUrl) -> Result<Arc<dyn TokenStore>, Failure> {
    let protected =
        url.identity_path().map_or_else(|| url.to_string(), |path| path.display().to_string());
    let url = if terminal::prompts_allowed() { url.clone().allow_prompts() } else { url.clone() };
    Ok(url.open_with_passphrase(move || terminal::ask_passphrase(&protected))?)
}

/// One page for the command and all below it.
fn manual() -> std::io::Result<String> {
    use clap_mangen::Man;

    let mut page = Vec::new();
    let mut command = Cli::command();
    command.build();
    let man = Man::new(command.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        // Its description and options become parts of a section of its own.
        let mut section = Vec::new();
        let man = Man::new(command.clone());
        man.render_description_section(&mut section)?;
        man.render_options_section(&mut section)?;
        let section = String::from_utf8_lossy(&section).replace(".SH ", ".SS ");
        let name = command.get_name().to_uppercase();
        page.extend_from_slice(format!(".SH \"{name}\"\n{section}").as_bytes());
    }
    man.render_extra_section(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// What may be said about tokens: nothing of what they are.
fn describe(tokens: Option<&AuthTokens>, now: DateTime<Utc>) -> Value {
    let Some(tokens) = tokens else { return json!({ "state": "none" }) };
    let date = |date: Option<DateTime<Utc>>| {
        date.map(|date| date.to_rfc3339_opts(SecondsFormat::Secs, true))
    };
    json!({
        "state": format!("{:?}", tokens.freshness(now)).to_lowercase(),
        "expires_at": date(tokens.expiry()),
        "refresh_due_at": date(tokens.refresh_due()),
        "obtained_at": date(tokens.obtained_at),
        "has_refresh_token": tokens.refresh_token.is_some(),
        "backup": tokens.is_backup(),
    })
}

/// A span of time as people say it: the largest unit alone.
fn span(delta: TimeDelta) -> String {
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
