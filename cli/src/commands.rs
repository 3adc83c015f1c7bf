//! The commands: one file for each, or for a few that belong together.

mod backup;
mod clear;
mod doctor;
mod exec;
mod get;
mod import;
mod init;
mod keygen;
mod list;
mod login;
mod manual;
mod migrate;
mod profile_remove;
mod refresh;
mod rekey;
mod set;
mod status;

use clap::CommandFactory;

use crate::arguments::{Cli, Command, ProfileCommand};
use crate::context::Context;
use crate::failure::{DONE, Outcome};

pub(crate) async fn run(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Init(init) => init::init(context, &init).await,
        Command::Login(login) => login::login(context, &login).await,
        Command::Set => set::set(context).await,
        Command::Get(get) => get::get(context, &get).await,
        Command::Status(json) => status::status(context, json.json).await,
        Command::List(json) => list::list(context, json.json),
        Command::Profile(ProfileCommand::Remove(remove)) => {
            profile_remove::remove(context, &remove).await
        }
        Command::Refresh => refresh::refresh(context).await,
        Command::Clear(clear) => clear::clear(context, &clear).await,
        Command::Migrate(migrate) => migrate::migrate(context, &migrate).await,
        Command::Backup(backup) => backup::backup(context, &backup).await,
        Command::Restore(restore) => backup::restore(context, &restore).await,
        Command::Import(json) => import::list(context, json.json).await,
        Command::Keygen(keygen) => keygen::keygen(context, &keygen).await,
        Command::Rekey(rekey) => rekey::rekey(context, &rekey).await,
        Command::Doctor(json) => doctor::doctor(context, json.json).await,
        Command::Exec(exec) => exec::exec(context, exec).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tokenkeep", &mut script);
            context.terminal.print(&String::from_utf8_lossy(&script))?;
            DONE
        }
        Command::Man => manual::man(context),
    }
}
