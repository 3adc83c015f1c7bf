//! man: one manual page for the command and all its subcommands.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Seek, Write};
use std::process;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::arguments::{Cli, EXIT_CODES};
use crate::context::Context;
use crate::failure::{DONE, Outcome};
use crate::terminal;

/// The maximum width of text, on any terminal.
const WIDEST: u16 = 100;

const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "AWS_*, GOOGLE_*, AZURE_*",
        "The credentials of buckets, as the tools of these providers read them.",
    ),
    (
        "BROWSER",
        "What `login --open` runs: commands with colons between them, in which %s stands for the URL.",
    ),
    ("CREDENTIALS_DIRECTORY", "Where systemd puts the key of identity=credential:NAME."),
    ("NO_COLOR", "If it is set, nothing is coloured."),
    ("PGPASSFILE", "Where the passwords of PostgreSQL servers are; else ~/.pgpass."),
    (
        "TOKENKEEP_CONFIG_DIR",
        "An absolute path: where profiles are, and the keys that init makes; else tokenkeep in XDG_CONFIG_HOME. The \
         tokens stay in tokenkeep in XDG_STATE_HOME.",
    ),
    (
        "TOKENKEEP_PASSPHRASE",
        "The passphrase of whatever needs one. If it is set, nobody is asked.",
    ),
    ("TOKENKEEP_PROFILE", "The profile, if neither --profile nor --store is given."),
    ("TOKENKEEP_STORE", "The store, if neither --profile nor --store is given."),
];

const OTHER_CODES: &str = "
  126, 127 what `exec` was to run cannot be run, or is not there
`status` exits as `get` would, without a refresh: 0 also where `get` would refresh
the tokens first. `doctor` exits with 1 if there is anything to fix.";

const FILES: &[(&str, &str)] = &[
    ("~/.config/tokenkeep/profiles/NAME.toml", "A profile."),
    (
        "~/.config/tokenkeep/profiles/NAME.metadata.json",
        "The URLs of its provider, if it names an issuer. `login` fetches them anew.",
    ),
    ("~/.config/tokenkeep/keys/NAME.txt", "The key of a profile whose tokens are in an age file."),
    ("~/.local/state/tokenkeep/NAME.age", "Those tokens."),
    ("~/.local/state/tokenkeep/SERVICE/ACCOUNT.age", "Tokens whose key is in the keychain."),
    (
        "PATH.lock, PATH.lease",
        "Beside any file of tokens: what keeps two processes from writing or refreshing it at once. They \
         are empty, and stay until `profile remove`.",
    ),
    (
        "PATH.RANDOM.tmp, PATH.RANDOM.next",
        "For the time of a write and of a refresh: what becomes the file of tokens, and is as secret as \
         that. What a killed process leaves of them, the next write or refresh removes.",
    ),
];

const STORES: &[(&str, &str)] = &[
    ("keychain:SERVICE/ACCOUNT", "A file that is sealed to a key in the keychain."),
    (
        "age:PATH?identity=KEY",
        "A file that is sealed to a key. KEY is the path of an identity file, keychain:SERVICE/ACCOUNT \
         or credential:NAME. Further options are &recipient=AGE1... (may be repeated) and \
         &recipients=PATH, for who else can open it.",
    ),
    ("plaintext:PATH", "A file that any program of this user can read."),
    (
        "import:FORMAT:PATH",
        "Tokens of another program, as the source of migrate. FORMAT is auto, aws-sso, claude-code, codex, docker, gh, \
         golang, google, google-auth-library, kubelogin, msal, rclone, rmcp, token-response or yup-oauth2. PATH may be \
         keychain-item:SERVICE/ACCOUNT.",
    ),
    ("env:PREFIX", "PREFIX_ACCESS_TOKEN and PREFIX_REFRESH_TOKEN; read-only."),
    (
        "keychain-item:SERVICE/ACCOUNT",
        "What another program keeps in the keychain; to move it away.",
    ),
    (
        "postgres://USER@HOST/DATABASE?slot=NAME&identity=KEY",
        "A row of a table, for many machines. &sslrootcert=PATH names the certificates to trust.",
    ),
    (
        "s3://BUCKET/PATH?identity=KEY, gs:, az:",
        "An object of a bucket, for many machines. &endpoint=URL is for a server that is not the \
         provider's. &proxy=off ignores the proxy of the environment.",
    ),
    (
        "In a URL with a file",
        "&trust_group=GID trusts all members of a group: they may write to the directories of its files.",
    ),
    ("In a path", "%25, %3F, %26 and %23 stand for %, ?, & and #. ~/ is the home directory."),
];

const JSON: &[(&str, &str)] = &[
    (
        "status",
        "profile, store, state (none, fresh, due, expiring, expired or unknown), expires_at, \
         refresh_due_at, obtained_at, refresh_expires_at, has_refresh_token, backup, waits_until, \
         warnings, error.",
    ),
    ("list", "An array of profile, store, error."),
    (
        "import",
        "An array of place, format, url, accounts, error. An account has name and tokens, and tokens what status has.",
    ),
    (
        "doctor",
        "backends, profiles and system, arrays of name, state, how, fix; of a profile also tokens.",
    ),
];

const LISTS: &[(&str, &[(&str, &str)])] =
    &[("ENVIRONMENT", ENVIRONMENT), ("STORES", STORES), ("JSON", JSON), ("FILES", FILES)];

const PROFILE: &str = "\
store = \"keychain:tokenkeep/default\"

[oauth2]
token_url = \"https://issuer.example/token\"
client_id = \"the-client\"
# All others may be left out. issuer = \"https://issuer.example\" stands for all URLs.
authorization_url = \"https://issuer.example/authorize\"
device_authorization_url = \"https://issuer.example/device\"
revocation_url = \"https://issuer.example/revoke\"
scopes = [\"read\"]
redirect_uri = \"http://127.0.0.1/callback\"  # any port, unless it names one
expires_after = 7200              # seconds, if the provider states no lifetime
client_secret_env = \"A_VARIABLE\"  # its name, not the secret; or client_secret = \"record\"
client_secret_in_body = false";

/// Shows the page on a terminal, and prints its source to anything else.
pub(super) fn man(context: &Context) -> Outcome {
    let source = source()?;
    if !io::stdout().is_terminal() {
        context.terminal.print(&source)?;
    } else if !show(&source).unwrap_or(false) {
        context.terminal.print(&text())?;
    }
    DONE
}

/// Shows the page with the system's `man`, which uses the user's pager. Returns whether that
/// worked.
fn show(source: &str) -> io::Result<bool> {
    /// A shell adds this to the number of the signal that ended a pager.
    const BY_SIGNAL: i32 = 128;

    // A file, because its position shows afterwards whether `man` read it. Where manual pages are
    // not installed, some systems have a `man` that only prints a notice.
    let mut file = tempfile::tempfile()?;
    file.write_all(source.as_bytes())?;
    file.rewind()?;
    let mut read = file.try_clone()?;
    // Ctrl-C is for the pager. A child process inherits ignored signals, but not handlers. So these
    // signals get a handler.
    #[cfg(unix)]
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGQUIT] {
        signal_hook::flag::register(signal, std::sync::Arc::default())?;
    }
    let mut man = process::Command::new("man");
    // `man` does not need the secret that opens a store.
    man.args(["-l", "-"]).env_remove(terminal::PASSPHRASE_VARIABLE).stdin(file);
    let status = man.status()?;
    let was_shown = status.code().is_none_or(|code| code == 0 || code > BY_SIGNAL);
    Ok(was_shown && read.stream_position()? > 0)
}

/// Returns the page as plain text: the help of all commands, and the sections that no help
/// contains.
fn text() -> String {
    let mut command = Cli::command().after_help("");
    command.build();
    let mut text = command.render_long_help().to_string();
    for (name, mut command) in subcommands(&command) {
        let help = command.render_long_help();
        write!(text, "\n\n{name}\n\n{help}").expect("a String takes everything");
    }
    let columns = console::Term::stdout().size().1.clamp(40, WIDEST).into();
    let entries = |text: &mut String, title: &str, entries: &[(&str, &str)]| {
        write!(text, "\n\n{title}\n").expect("a String takes everything");
        for (name, meaning) in entries {
            let meaning = wrapped(meaning, columns, "      ");
            write!(text, "  {name}\n{meaning}").expect("a String takes everything");
        }
    };
    write!(text, "\n\nEXIT STATUS\n{}", exit_status()).expect("a String takes everything");
    for (title, list) in LISTS {
        entries(&mut text, title, list);
    }
    write!(text, "\n\nPROFILES\n{PROFILE}").expect("a String takes everything");
    text
}

/// Breaks a text into lines of at most `columns` columns. Each line begins with the margin.
fn wrapped(text: &str, columns: usize, margin: &str) -> String {
    let (mut lines, mut line) = (String::new(), margin.to_owned());
    for word in text.split(' ') {
        if line.len() > margin.len() && line.len() + 1 + word.len() > columns {
            lines += &line;
            lines.push('\n');
            margin.clone_into(&mut line);
        }
        if line.len() > margin.len() {
            line.push(' ');
        }
        line += word;
    }
    lines + &line + "\n"
}

/// Returns all commands except `help`, each with its name in capitals. Leaves out what all commands
/// have in common.
fn subcommands(command: &Command) -> Vec<(String, Command)> {
    let mut all = Vec::new();
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        let below: Vec<_> = subcommands(command);
        let name = command.get_name().to_uppercase();
        // A command that contains commands does nothing by itself.
        if !below.is_empty() {
            all.extend(below.into_iter().map(|(below, it)| (format!("{name} {below}"), it)));
            continue;
        }
        let command = command.clone().mut_args(|argument| {
            let is_common = argument.is_global_set() || argument.get_id() == "help";
            argument.hide(is_common)
        });
        all.push((name, command));
    }
    all
}

/// Returns the exit codes without their heading, and the codes that only some commands have.
fn exit_status() -> String {
    let codes = EXIT_CODES.split_once('\n').map_or(EXIT_CODES, |(_, codes)| codes);
    format!("{codes}{OTHER_CODES}")
}

fn source() -> io::Result<String> {
    let mut page = Vec::new();
    let mut command = Cli::command().after_help("");
    command.build();
    let man = Man::new(command.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    for (name, command) in subcommands(&command) {
        let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let has_options = command.get_arguments().any(|argument| !argument.is_hide_set());
        // The description and the options of a command become parts of its own section.
        let mut section = Vec::new();
        let man = Man::new(command);
        man.render_description_section(&mut section)?;
        if has_options {
            man.render_options_section(&mut section)?;
        }
        let section = String::from_utf8_lossy(&section).replace(".SH ", ".SS ");
        page.extend_from_slice(format!(".SH \"{name}\"\n{section}").as_bytes());
        if let Some((_, examples)) = examples.split_once('\n') {
            let mut part = Roff::new();
            verbatim(&mut part, "SS", "EXAMPLES", examples);
            page.extend_from_slice(part.render().as_bytes());
        }
    }
    let mut rest = Roff::new();
    verbatim(&mut rest, "SH", "EXIT STATUS", &exit_status());
    for (title, entries) in LISTS {
        list(&mut rest, title, entries);
    }
    verbatim(&mut rest, "SH", "PROFILES", PROFILE);
    page.extend_from_slice(rest.render().as_bytes());
    Ok(String::from_utf8_lossy(&page).into_owned())
}

fn list(page: &mut Roff, title: &str, entries: &[(&str, &str)]) {
    page.control("SH", [title]);
    for (name, meaning) in entries {
        page.control("TP", []).text([bold(*name)]).text([roman(*meaning)]);
    }
}

fn verbatim(page: &mut Roff, macro_name: &str, title: &str, text: &str) {
    page.control(macro_name, [title]).control("nf", []);
    for line in text.lines() {
        page.text([roman(line)]);
    }
    page.control("fi", []);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    #[test]
    fn the_profile_that_is_shown_is_one() {
        let profile = Profile::parse("default", "/default.toml".into(), PROFILE.to_owned());
        assert!(profile.unwrap().provider.is_some());
    }
}
