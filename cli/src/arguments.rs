//! The command line. Secrets have no place in it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

use crate::failure::Failure;

/// Keeps auth tokens behind the OS keychain, in an age-encrypted file or, by explicit choice, in
/// plaintext.
///
/// Secrets go in through standard input and out through standard output; everything else is said
/// on standard error.
#[derive(Parser)]
#[command(version, bin_name = "tokenkeep", max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) slot: Slot,
    #[command(subcommand)]
    pub(crate) command: Command,
}

pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0 done                    4 expired, or sign-in required
  1 anything else           5 store locked, denied, exposed or unavailable, or its key missing
  2 wrong usage or profile  6 corrupt, undecryptable, rolled back, or of a newer version
  3 no tokens               7 conflict
  8 the refresh token may have been spent by a refresh that was cut off: sign in again";

/// Which tokens a command is about.
#[derive(Args)]
pub(crate) struct Slot {
    /// The profile, which `init` makes; else `$TOKENKEEP_PROFILE`, else "default"
    #[arg(long, global = true, value_name = "NAME", value_hint = ValueHint::Other)]
    pub(crate) profile: Option<String>,
    /// A store, instead of a profile (for `init`, its store): keychain:SERVICE/ACCOUNT,
    /// age:PATH?identity=PATH, plaintext:PATH, env:PREFIX; `tokenkeep man` has all of them; else
    /// `$TOKENKEEP_STORE`
    #[arg(long, global = true, value_name = "URL", value_hint = ValueHint::Other)]
    pub(crate) store: Option<String>,
    /// Let the keychain ask you to unlock it, and wait up to 2 minutes for that
    #[arg(long, global = true)]
    pub(crate) allow_prompt: bool,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Probe, choose and pin a store for a profile; say which and why
    Init,
    /// Sign in at the provider that the profile's `[oauth2]` names
    ///
    /// Without an option, by device if the profile has a `device_authorization_url`, and else by
    /// browser. No browser is opened: open the URL that is printed.
    Login(Login),
    /// Store tokens from standard input: the JSON of a record, or a bare access token
    Set,
    /// Print a valid access token
    Get(Get),
    /// Say where the tokens are, how they are protected, and when they expire
    Status(Json),
    /// List the profiles
    List(Json),
    /// Refresh the tokens
    Refresh,
    /// Remove the tokens: a logout
    Clear(Clear),
    /// Move tokens to another store
    Migrate(Migrate),
    /// Copy tokens; the copy is marked as one, and never refreshed
    Backup(Backup),
    /// Make the tokens of a backup live again
    Restore(Restore),
    /// Make an age identity
    Keygen(Keygen),
    /// Change who can open what an identity file seals
    Rekey(Rekey),
    /// Check the keychain, age files and every profile on this machine
    Doctor(Json),
    /// Run a command with the access token in its environment
    ///
    /// The token is in `PREFIX_ACCESS_TOKEN`; the prefix is the profile's name in capitals. A
    /// variable is seen by the command, by each of its children, and on Linux by every process of
    /// the same user while they run. Prefer `tokenkeep get` in a pipe where the command can read
    /// from one.
    ///
    /// It ends as the command does; with 127 if there is no such command, and with 126 if it cannot be
    /// run.
    Exec(Exec),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

#[derive(Args)]
pub(crate) struct Json {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct Login {
    /// With a code, on any device
    #[arg(long, conflicts_with = "browser")]
    pub(crate) device: bool,
    /// In a browser on this machine
    #[arg(long)]
    pub(crate) browser: bool,
}

#[derive(Args)]
pub(crate) struct Clear {
    /// Tell the provider first that they are no longer used; if that fails, nothing is removed
    #[arg(long)]
    pub(crate) revoke: bool,
}

#[derive(Args)]
pub(crate) struct Get {
    /// What to print
    #[arg(long, value_enum, default_value_t = Field::Access)]
    pub(crate) field: Field,
    /// Print an Authorization header, for `curl -H @-`
    #[arg(long, conflicts_with = "field")]
    pub(crate) header: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Field {
    /// The access token, if it is valid
    Access,
    /// The refresh token
    Refresh,
    /// The whole record, valid or not
    Json,
}

#[derive(Args)]
pub(crate) struct Migrate {
    /// Where the tokens are; without it, the profile's store
    #[arg(long, value_name = "URL")]
    pub(crate) from: Option<String>,
    /// Where they go; a profile that was moved follows. With --all, {profile} stands for its name
    #[arg(long, value_name = "URL")]
    pub(crate) to: String,
    /// Move every profile
    #[arg(long, conflicts_with = "from")]
    pub(crate) all: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Leave the tokens at the source too. If they rotate, only one of the two stays good
    #[arg(long)]
    pub(crate) keep_source: bool,
}

#[derive(Args)]
pub(crate) struct Backup {
    /// The file to write, or a store URL
    #[arg(long, value_name = "FILE|URL", value_hint = ValueHint::FilePath)]
    pub(crate) to: String,
    /// Seal it to this age recipient; may be repeated
    #[arg(long, value_name = "AGE1...", conflicts_with = "passphrase")]
    pub(crate) recipient: Vec<String>,
    /// Seal it to a passphrase, which is asked for
    #[arg(long)]
    pub(crate) passphrase: bool,
    /// Replace whatever is there, live tokens too. An earlier backup at a store URL is replaced
    /// without it
    #[arg(long)]
    pub(crate) overwrite: bool,
}

#[derive(Args)]
pub(crate) struct Restore {
    /// The file that `backup` wrote, or a store URL
    #[arg(long, value_name = "FILE|URL", value_hint = ValueHint::FilePath)]
    pub(crate) from: String,
    /// The identity file that opens it; without one, a passphrase is asked for
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) identity: Option<PathBuf>,
    /// Replace tokens that are newer than the backup
    #[arg(long)]
    pub(crate) overwrite: bool,
}

#[derive(Args)]
pub(crate) struct Keygen {
    /// The file to write; without one, the secret key goes to standard output
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// Protect the file with a passphrase, which is asked for
    #[arg(long, requires = "output")]
    pub(crate) passphrase: bool,
}

#[derive(Args)]
pub(crate) struct Rekey {
    /// The identity file whose key opens the record from now on; without it, the present one stays
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) identity: Option<PathBuf>,
    /// Add a recovery recipient; may be repeated
    #[arg(long, value_name = "AGE1...")]
    pub(crate) recipient: Vec<String>,
    /// Remove a recovery recipient; may be repeated
    #[arg(long, value_name = "AGE1...")]
    pub(crate) remove_recipient: Vec<String>,
}

#[derive(Args)]
pub(crate) struct Exec {
    /// The first part of the variables' names
    #[arg(long)]
    pub(crate) prefix: Option<String>,
    /// Pass the refresh token too, in `PREFIX_REFRESH_TOKEN`
    #[arg(long)]
    pub(crate) with_refresh_token: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<OsString>,
}

/// Says what is wrong with the command line, without repeating what stands in it: a token is soon
/// given as an argument by mistake, and standard error is soon in a log.
pub(crate) fn report(error: &clap::Error) -> ExitCode {
    use clap::error::{ContextKind, ContextValue, ErrorKind};

    let wrong = match error.kind() {
        ErrorKind::InvalidSubcommand => "there is no such command",
        ErrorKind::InvalidUtf8 => "an argument is not UTF-8 text",
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            "an option has a value that it cannot have"
        }
        ErrorKind::NoEquals
        | ErrorKind::TooFewValues
        | ErrorKind::TooManyValues
        | ErrorKind::WrongNumberOfValues => "an option has too many values, or too few",
        ErrorKind::UnknownArgument => {
            "an argument is unknown here; secrets go in through standard input, never as arguments"
        }
        _ => {
            // These name options, and nothing that was given to them.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(2).into();
        }
    };
    // These are the names of what there is, and not what was given.
    let suggested = [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg];
    let suggested = suggested.into_iter().find_map(|kind| match error.get(kind)? {
        ContextValue::String(one) => Some(one),
        // The most similar one is the last.
        ContextValue::Strings(some) => some.last(),
        _ => None,
    });
    let meant = suggested.map(|name| format!(" (is `{name}` meant?)")).unwrap_or_default();
    Failure::usage(format!("{wrong}{meant}; see `tokenkeep COMMAND --help`")).report()
}
