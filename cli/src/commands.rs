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

use clap::CommandFactory;

use crate::arguments::{Cli, Command, ProfileCommand};
use crate::failure::{DONE, Outcome};
use crate::harden::Limits;
use crate::terminal;

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
