//! exec: runs a program with the access token in its environment.

use std::io;
use std::process::{Command, ExitCode};

use tokenkeep::AuthTokens;

use crate::arguments;
use crate::context::Context;
use crate::failure::{Code, Failure, Outcome};
use crate::harden::Limits;
use crate::refreshing::good_tokens;
use crate::target::Target;
use crate::terminal::PASSPHRASE_VARIABLE;

pub(super) async fn exec(context: &Context, exec: arguments::Exec) -> Outcome {
    let target = Target::of(context)?;
    let manager = target.manager(context)?;
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
    // The program does not need the secrets that open the store or authenticate the client.
    command.env_remove(PASSPHRASE_VARIABLE);
    let provider = target.profile.as_ref().and_then(|profile| profile.provider.as_ref());
    if let Some(variable) = provider.and_then(|provider| provider.client_secret_env.as_ref()) {
        command.env_remove(variable);
    }
    if let Some(prefix) = target.url.env_prefix() {
        command.env_remove(format!("{prefix}_REFRESH_TOKEN"));
    }
    // All work is finished before the program replaces this process. After that, nothing could be
    // saved.
    let tokens = good_tokens(context, &manager).await?;
    hand_over(&tokens, &prefix, exec.with_refresh_token, &mut command)
        .map_err(|failure| failure.within(&target.url.to_string()))?;
    drop(tokens);
    context.terminal.stop_working();
    run(command, context.limits).map_err(|error| {
        let code = match error.kind() {
            io::ErrorKind::NotFound => Code::NotFound,
            _ => Code::NotExecutable,
        };
        Failure::new(code, format!("cannot run {}: {error}", program.to_string_lossy()))
    })
}

#[expect(clippy::disallowed_methods, reason = "handing them over is what it is for")]
fn hand_over(
    tokens: &AuthTokens,
    prefix: &str,
    with_refresh_token: bool,
    command: &mut Command,
) -> Result<(), Failure> {
    command.env(format!("{prefix}_ACCESS_TOKEN"), tokens.access_token.expose_secret());
    let refresh_variable = format!("{prefix}_REFRESH_TOKEN");
    if with_refresh_token {
        let token = tokens.refresh_token.as_ref().ok_or_else(Failure::no_refresh_token)?;
        command.env(refresh_variable, token.expose_secret());
    } else {
        command.env_remove(refresh_variable);
    }
    Ok(())
}

/// Replaces this process with the program.
#[cfg(unix)]
fn run(mut command: Command, limits: Limits) -> io::Result<ExitCode> {
    use std::os::unix::process::CommandExt;

    limits.restore();
    Err(command.exec())
}

#[cfg(not(unix))]
fn run(mut command: Command, _limits: Limits) -> io::Result<ExitCode> {
    let Some(code) = command.status()?.code() else { return Ok(ExitCode::FAILURE) };
    // Most Windows exit codes do not fit in an `ExitCode`. `exit` takes them all.
    u8::try_from(code).map(ExitCode::from).or_else(|_| std::process::exit(code))
}
