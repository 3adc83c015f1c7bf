//! The command line. Secrets have no place in it.

mod blank;
mod examples;
mod init;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

pub(crate) use self::init::Init;
use crate::failure::Failure;
use crate::terminal::Terminal;

/// Keeps auth tokens in the OS keychain, in an age-encrypted file or, only if you say so, in
/// plaintext.
///
/// Secrets go in through standard input and come out through standard output. Everything else goes
/// to standard error.
#[derive(Parser)]
#[command(name = "tokenkeep", version, bin_name = "tokenkeep", max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) selection: SelectionArguments,
    /// Show what the provider says when it refuses something. `login` always does
    #[arg(short, long, global = true, display_order = LAST)]
    pub(crate) verbose: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The place of an option in a help, after all others but `--help`.
const LAST: usize = 900;

/// Each line fits in 80 columns, so that no terminal of that width breaks it.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0 done
  1 anything else
  2 wrong usage, wrong input or wrong profile
  3 no tokens
  4 expired, or sign-in required
  5 store locked, denied, exposed or unavailable, or its key missing
  6 corrupt, undecryptable, rolled back, or of a newer version
  7 conflict
  8 sign in again: a refresh that was cut off may have spent the refresh token";

/// Which tokens a command is about.
#[derive(Args, Clone)]
pub(crate) struct SelectionArguments {
    /// The profile. Without it: `$TOKENKEEP_PROFILE`, or else "default"
    #[arg(long, global = true, value_name = "NAME", value_hint = ValueHint::Other)]
    pub(crate) profile: Option<String>,
    /// A store instead of a profile: keychain:SERVICE/ACCOUNT, age:PATH?identity=PATH, plaintext:PATH,
    /// env:PREFIX. `tokenkeep man` lists all. Without it: `$TOKENKEEP_STORE`. For `init`, the store that the
    /// profile names
    #[arg(long, global = true, value_name = "URL", value_hint = ValueHint::Other)]
    pub(crate) store: Option<String>,
    /// Let the keychain ask you to unlock it. It waits for up to 2 minutes
    #[arg(long, global = true)]
    pub(crate) allow_prompt: bool,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Set up a profile: choose where its tokens are kept, and where to sign in
    ///
    /// With a provider, this also writes the `[oauth2]` table of the profile. A profile that exists and has no such
    /// table gets one; nothing else of it is changed.
    #[command(after_help = examples::INIT)]
    Init(Init),
    /// Sign in at the provider that the profile's `[oauth2]` names
    ///
    /// Without an option, this signs in with a device code if the profile has a
    /// `device_authorization_url`, and in a browser if it has none. Open the URL that is printed, or let
    /// `--open` do it.
    ///
    /// The browser may be on another machine, for example if this one is used over ssh. Then it ends on a
    /// page that cannot be reached. Paste the address of that page. It is not shown.
    #[command(after_help = examples::LOGIN)]
    Login(Login),
    /// Save tokens from standard input: JSON, or an access token alone
    #[command(after_help = examples::SET)]
    Set,
    /// Print a valid access token; refresh it first if it is due
    #[command(after_help = examples::GET)]
    Get(Get),
    /// Show where the tokens are, how they are protected, and when they expire
    #[command(after_help = examples::STATUS)]
    Status(Json),
    /// List the profiles
    #[command(after_help = examples::LIST)]
    List(Json),
    /// Remove a profile
    #[command(subcommand)]
    Profile(ProfileCommand),
    /// Refresh the tokens now
    #[command(after_help = examples::REFRESH)]
    Refresh,
    /// Sign out: remove the tokens
    #[command(after_help = examples::CLEAR)]
    Clear(Clear),
    /// List the tokens that other programs keep on this machine
    ///
    /// It looks into the usual places, prints no secret and changes nothing. `migrate --from import:…` takes
    /// tokens from there.
    #[command(after_help = examples::IMPORT)]
    Import(Json),
    /// Move tokens to another store
    ///
    /// With `--from import:FORMAT:PATH`, the tokens are those of another program. They are copied as a backup,
    /// which is never refreshed, because a refresh would sign out the other program. With `--take-over` they are
    /// live here. FORMAT is the name of a form, or `auto`. `tokenkeep man` lists all forms.
    #[command(after_help = examples::MIGRATE)]
    Migrate(Migrate),
    /// Copy tokens to a backup, which is never refreshed
    #[command(after_help = examples::BACKUP)]
    Backup(Backup),
    /// Put the tokens of a backup back into use
    #[command(after_help = examples::RESTORE)]
    Restore(Restore),
    /// Create an age identity: a secret key
    #[command(after_help = examples::KEYGEN)]
    Keygen(Keygen),
    /// Change which keys can open the tokens of a profile
    #[command(after_help = examples::REKEY)]
    Rekey(Rekey),
    /// Check the keychain, age files and every profile on this machine
    #[command(after_help = examples::DOCTOR)]
    Doctor(Json),
    /// Run a command with the access token in its environment
    ///
    /// The token is in `PREFIX_ACCESS_TOKEN`. The prefix is the profile's name in capitals. The command
    /// and its children see the variable. On Linux every process of the same user can see it while they
    /// run. If the command can read from a pipe, prefer `tokenkeep get`.
    ///
    /// It exits with the status of the command. It exits with 127 if there is no such command, and with 126
    /// if the command cannot be run.
    #[command(after_help = examples::EXEC)]
    Exec(Exec),
    /// Print completions for a shell
    #[command(after_help = examples::COMPLETIONS)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Show the manual page; into a pipe or a file, print its source for `man`
    #[command(after_help = examples::MAN)]
    Man,
}

#[derive(Subcommand)]
pub(crate) enum ProfileCommand {
    /// Remove a profile, its tokens, its key and its locks
    ///
    /// The tokens are removed as `clear` removes them. The provider is not told. To end the session there
    /// too, run `clear --revoke` first. The key is deleted for good. Backups that are sealed to it cannot
    /// be opened any more. A key that may belong to something else is kept and named: a link, a file
    /// with several keys, a file of another user, `identity=keychain:` and `identity=credential:`.
    ///
    /// Nothing is removed if another profile has the same tokens or the same key, or if the tokens are on
    /// a server that other machines use too. `clear` those first. This asks nothing. If it is
    /// interrupted, run it again.
    #[command(after_help = examples::REMOVE)]
    Remove(Remove),
}

#[derive(Args)]
pub(crate) struct Remove {
    /// The profile
    #[arg(value_name = "NAME", value_hint = ValueHint::Other)]
    pub(crate) name: String,
    /// Leave the key where it is
    #[arg(long)]
    pub(crate) keep_key: bool,
}

#[derive(Args)]
pub(crate) struct Json {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct Login {
    /// Sign in with a code, on any device
    #[arg(long, conflicts_with = "browser")]
    pub(crate) device: bool,
    /// Sign in with a browser
    #[arg(long)]
    pub(crate) browser: bool,
    /// Open no port for the browser. Ask for the address of the page on which it ends, or read it from
    /// standard input, where it must belong to the URL that this run prints
    #[arg(long, conflicts_with = "device")]
    pub(crate) paste: bool,
    /// Open the URL in a browser: with `$BROWSER`, or else as the desktop does
    #[arg(long)]
    pub(crate) open: bool,
}

#[derive(Args)]
pub(crate) struct Clear {
    /// Revoke the tokens at the provider too. They are removed here even if that fails
    #[arg(long)]
    pub(crate) revoke: bool,
}

#[derive(Args)]
pub(crate) struct Get {
    /// What to print: `access`, `refresh`, `id` for the ID token, `json` for the whole record, or the name of
    /// another field that the provider sent, such as `scope`. Only the access token is refreshed, and has to
    /// be valid
    #[arg(long, value_name = "NAME", value_parser = Field::parse, default_value = "access")]
    pub(crate) field: Field,
    /// Print the access token as an Authorization header, for `curl -H @-`
    #[arg(long)]
    pub(crate) header: bool,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Field {
    /// The access token, if it is valid.
    Access,
    /// The refresh token.
    Refresh,
    /// The ID token.
    Id,
    /// The whole record, valid or not.
    Json,
    /// Another value that the provider sent.
    Extra(String),
}

impl Field {
    fn parse(name: &str) -> Result<Self, &'static str> {
        Ok(match blank::written(name)? {
            "access" | "access_token" => Self::Access,
            "refresh" | "refresh_token" => Self::Refresh,
            "id" | "id_token" => Self::Id,
            "json" => Self::Json,
            // A provider may send a field that has the name of one of these.
            name => Self::Extra(name.strip_prefix("extra.").unwrap_or(name).to_owned()),
        })
    }
}

#[derive(Args)]
pub(crate) struct Migrate {
    /// The store that the tokens are in, or import:FORMAT:PATH. Without it: the store of the profile
    #[arg(long, value_name = "URL")]
    pub(crate) from: Option<String>,
    /// The store that the tokens move to. The profile then names it. With --all, {profile} stands for
    /// the name of each profile. For an import it may be left out: the store of the profile, or the one
    /// that `init` would choose
    #[arg(long, value_name = "URL")]
    pub(crate) to: Option<String>,
    /// Move every profile. For an import, make a profile of each account
    #[arg(long)]
    pub(crate) all: bool,
    /// For an import: the account, if there are several
    #[arg(long, value_name = "NAME", conflicts_with = "all")]
    pub(crate) account: Option<String>,
    /// For an import: make the tokens live here. The other program is signed out by the next refresh
    #[arg(long)]
    pub(crate) take_over: bool,
    /// For an import: when the tokens were obtained, if their file does not say it. A date, or `file` for the
    /// time at which the file was written
    #[arg(long, value_name = "TIME")]
    pub(crate) obtained_at: Option<String>,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Keep the tokens at the source too. If the refresh token rotates, only one of the two stays valid
    #[arg(long)]
    pub(crate) keep_source: bool,
}

#[derive(Args)]
pub(crate) struct Backup {
    /// The file to write, or a store URL
    #[arg(long, value_name = "FILE|URL", value_hint = ValueHint::FilePath)]
    pub(crate) to: String,
    /// Seal it to this age recipient. May be repeated
    #[arg(long, value_name = "AGE1...", conflicts_with = "passphrase")]
    pub(crate) recipient: Vec<String>,
    /// Seal it to a passphrase. The command asks for it
    #[arg(long)]
    pub(crate) passphrase: bool,
    /// Replace anything that is there, also tokens that are in use. An earlier backup at a store URL is
    /// replaced without this option
    #[arg(long)]
    pub(crate) overwrite: bool,
}

#[derive(Args)]
pub(crate) struct Restore {
    /// The file that `backup` wrote, or a store URL
    #[arg(long, value_name = "FILE|URL", value_hint = ValueHint::FilePath)]
    pub(crate) from: String,
    /// The identity file that opens it. Without it, the command asks for a passphrase
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) identity: Option<PathBuf>,
    /// Replace tokens that are newer than the backup
    #[arg(long)]
    pub(crate) overwrite: bool,
}

#[derive(Args)]
pub(crate) struct Keygen {
    /// The file to write. Without it, the secret key goes to standard output
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// Protect the file with a passphrase. The command asks for it
    #[arg(long, requires = "output")]
    pub(crate) passphrase: bool,
}

#[derive(Args)]
pub(crate) struct Rekey {
    /// The identity file that opens the tokens from now on. Without it, the present one stays
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) identity: Option<PathBuf>,
    /// Add a recovery recipient. May be repeated
    #[arg(long, value_name = "AGE1...")]
    pub(crate) recipient: Vec<String>,
    /// Remove a recovery recipient. May be repeated
    #[arg(long, value_name = "AGE1...")]
    pub(crate) remove_recipient: Vec<String>,
}

#[derive(Args)]
pub(crate) struct Exec {
    /// The first part of the names of the variables
    #[arg(long)]
    pub(crate) prefix: Option<String>,
    /// Pass the refresh token too, as `PREFIX_REFRESH_TOKEN`
    #[arg(long)]
    pub(crate) with_refresh_token: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<OsString>,
}

/// Reads the arguments of this process.
pub(crate) fn read() -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&blank::refused(Cli::command()).try_get_matches()?)
}

/// Reports what is wrong with the command line. It does not repeat the arguments: one of them may be a token
/// that was given by mistake, and standard error often ends in a log.
pub(crate) fn report(error: &clap::Error, terminal: &Terminal) -> ExitCode {
    use clap::error::{ContextKind, ErrorKind};

    let is_of_exec = || {
        let usage = error.get(ContextKind::Usage);
        usage.is_some_and(|usage| usage.to_string().contains("tokenkeep exec "))
    };
    let wrong = match error.kind() {
        ErrorKind::ArgumentConflict => conflict(error),
        ErrorKind::InvalidSubcommand => "there is no such command".into(),
        ErrorKind::InvalidUtf8 => "an argument is not UTF-8 text".into(),
        ErrorKind::InvalidValue => {
            let option = names(error, ContextKind::InvalidArg).join(" and ");
            format!("{option} has no value, or one that is not allowed")
        }
        ErrorKind::ValueValidation => {
            let option = names(error, ContextKind::InvalidArg).join(" and ");
            format!("{option} is blank; give it a value, or leave it out")
        }
        ErrorKind::MissingRequiredArgument if is_of_exec() => {
            "the command to run is missing; put it after `--`: `tokenkeep exec -- CMD`".into()
        }
        ErrorKind::MissingRequiredArgument => {
            format!("{} is missing", names(error, ContextKind::InvalidArg).join(" and "))
        }
        ErrorKind::MissingSubcommand => "a command is missing".into(),
        ErrorKind::NoEquals
        | ErrorKind::TooFewValues
        | ErrorKind::TooManyValues
        | ErrorKind::WrongNumberOfValues => "an option has too many values, or too few".into(),
        ErrorKind::UnknownArgument if is_of_exec() && !is_option(error) => {
            "put `--` before the command to run: `tokenkeep exec -- CMD`".into()
        }
        ErrorKind::UnknownArgument => {
            "an argument is unknown; give secrets through standard input, never as arguments".into()
        }
        // These are help and version, which were asked for.
        _ => {
            return match show(error, terminal) {
                Ok(()) => u8::try_from(error.exit_code()).unwrap_or(2).into(),
                Err(failed) => Failure::from(failed).report(terminal),
            };
        }
    };
    // These are the names of what there is, and not what was given. The most similar one is the last.
    let suggested = [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg];
    let suggested = suggested.into_iter().find_map(|kind| names(error, kind).pop());
    let meant = suggested.map(|name| format!(" (did you mean {name}?)")).unwrap_or_default();
    Failure::usage(format!("{wrong}{meant}; see `tokenkeep COMMAND --help`")).report(terminal)
}

/// Shows the help or the version.
fn show(error: &clap::Error, terminal: &Terminal) -> io::Result<()> {
    if error.use_stderr() {
        // The exit code says that something is missing.
        let _ = error.print();
        return Ok(());
    }
    let text = error.render();
    if console::colors_enabled() {
        return terminal.print_styled(&text.ansi().to_string());
    }
    terminal.print(&text.to_string())
}

/// Reports which options exclude each other. It names options and repeats no values.
fn conflict(error: &clap::Error) -> String {
    use clap::error::ContextKind;

    let given = names(error, ContextKind::InvalidArg).join(" and ");
    let other = names(error, ContextKind::PriorArg).join(" and ");
    if other.is_empty() || given == other {
        format!("{given} is given twice")
    } else {
        format!("{given} cannot be used with {other}; leave out one of them")
    }
}

/// Returns whether what clap does not know looks like an option.
fn is_option(error: &clap::Error) -> bool {
    use clap::error::{ContextKind, ContextValue};

    let unknown = error.get(ContextKind::InvalidArg);
    matches!(unknown, Some(ContextValue::String(unknown)) if unknown.starts_with('-'))
}

/// The names that clap gives of this kind.
fn names(error: &clap::Error, kind: clap::error::ContextKind) -> Vec<String> {
    use clap::error::ContextValue;

    let names = match error.get(kind) {
        Some(ContextValue::String(name)) => std::slice::from_ref(name),
        Some(ContextValue::Strings(names)) => names,
        _ => &[],
    };
    names.iter().map(|name| format!("`{name}`")).collect()
}
