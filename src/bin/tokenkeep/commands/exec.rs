use std::process::Command;

use super::{Outcome, Target, finish};
use crate::arguments::{self, Slot};
use crate::failure::{Code, Failure};
use crate::harden::Limits;
use crate::terminal::PASSPHRASE_VARIABLE;

pub(super) async fn exec(slot: &Slot, exec: arguments::Exec, limits: Limits) -> Outcome {
    let target = Target::of(slot)?;
    let manager = target.manager()?;
    let prefix = match exec.prefix {
        Some(prefix) => prefix,
        None => {
            let name = target.profile.as_ref().map_or("tokenkeep", |profile| &profile.name);
            name.to_uppercase().replace('-', "_")
        }
    };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if !prefix.bytes().all(fits) || !prefix.starts_with(|first: char| !first.is_ascii_digit()) {
        return Err(Failure::usage(
            "the prefix has letters, digits and _, and does not begin with a digit; give --prefix",
        ));
    }

    let mut words = exec.command.into_iter();
    let program = words.next().expect("clap requires one");
    let mut command = Command::new(&program);
    command.args(words);
    // What this program was given to open the store is nobody else's business.
    command.env_remove(PASSPHRASE_VARIABLE);
    let provider = target.profile.as_ref().and_then(|profile| profile.provider.as_ref());
    if let Some(variable) = provider.and_then(|provider| provider.client_secret_env.as_ref()) {
        command.env_remove(variable);
    }
    if let Some(prefix) = target.url.env_prefix() {
        command.env_remove(format!("{prefix}_REFRESH_TOKEN"));
    }
    let token = manager.get_access_token().await?;
    #[expect(clippy::disallowed_methods, reason = "handing it over is what it is for")]
    command.env(format!("{prefix}_ACCESS_TOKEN"), token.expose_secret());
    let refresh_variable = format!("{prefix}_REFRESH_TOKEN");
    if exec.with_refresh_token {
        let token = manager.get_refresh_token().await?;
        #[expect(clippy::disallowed_methods, reason = "it was asked for")]
        command.env(refresh_variable, token.expose_secret());
    } else {
        command.env_remove(refresh_variable);
    }
    // From then on nobody could save anything any more.
    finish(&manager).await?;
    crate::terminal::stop_working();
    run(command, limits).map_err(|error| {
        let program = program.to_string_lossy();
        Failure::new(Code::Other, format!("cannot run {program}: {error}"))
    })
}

/// Takes this process's place.
#[cfg(unix)]
fn run(mut command: Command, limits: Limits) -> std::io::Result<std::process::ExitCode> {
    use std::os::unix::process::CommandExt;

    limits.restore();
    Err(command.exec())
}

#[cfg(not(unix))]
fn run(mut command: Command, _limits: Limits) -> std::io::Result<std::process::ExitCode> {
    let code = command.status()?.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.unwrap_or(1).into())
}
