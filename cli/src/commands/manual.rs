//! The manual page: one for the command and all below it.

use clap::CommandFactory;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::arguments::{Cli, EXIT_CODES};

const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "AWS_*, GOOGLE_*, AZURE_*",
        "The credentials of buckets, as the tools of these providers read them.",
    ),
    ("CREDENTIALS_DIRECTORY", "Where systemd puts the key of identity=credential:NAME."),
    ("NO_COLOR", "If it is set, nothing is coloured."),
    ("PGPASSFILE", "Where the passwords of PostgreSQL servers are; else ~/.pgpass."),
    (
        "TOKENKEEP_CONFIG_DIR",
        "Where profiles are, and the keys that init makes; else tokenkeep in XDG_CONFIG_HOME. The \
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
`status` says 0, 3, 4, 5 or 6 of the tokens, and `doctor` 1 if there is anything to mend.";

const FILES: &[(&str, &str)] = &[
    ("~/.config/tokenkeep/profiles/NAME.toml", "A profile."),
    ("~/.config/tokenkeep/keys/NAME.txt", "The key of a profile whose tokens are in an age file."),
    ("~/.local/state/tokenkeep/NAME.age", "Those tokens."),
    ("~/.local/state/tokenkeep/SERVICE/ACCOUNT.age", "Tokens whose key is in the keychain."),
    (
        "PATH.lock, PATH.lease",
        "Beside any file of tokens: what keeps two processes from writing or refreshing it at once. They \
         are empty, and stay.",
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
         provider's.",
    ),
    ("In a path", "%25, %3F, %26 and %23 stand for %, ?, & and #. ~/ is the home directory."),
];

const JSON: &[(&str, &str)] = &[
    (
        "status",
        "profile, store, state (none, fresh, due, expiring, expired or unknown), expires_at, \
         refresh_due_at, obtained_at, has_refresh_token, backup, warnings, error.",
    ),
    ("list", "An array of profile, store, error."),
    (
        "doctor",
        "backends, profiles and system, arrays of name, state, how, mend; of a profile also tokens.",
    ),
];

const PROFILE: &str = "\
store = \"keychain:tokenkeep/default\"

[oauth2]
token_url = \"https://issuer.example/token\"
client_id = \"the-client\"
# All others may be left out.
authorization_url = \"https://issuer.example/authorize\"
device_authorization_url = \"https://issuer.example/device\"
revocation_url = \"https://issuer.example/revoke\"
scopes = [\"read\"]
redirect_port = 8080              # 0, any, unless it is given
client_secret_env = \"A_VARIABLE\"  # its name, not the secret
client_secret_in_body = false";

pub(super) fn manual() -> std::io::Result<String> {
    let mut page = Vec::new();
    let mut command = Cli::command().after_help("");
    command.build();
    let man = Man::new(command.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        // What all have in common was said above.
        let command = command.clone().mut_args(|argument| {
            let is_common = argument.is_global_set() || argument.get_id() == "help";
            argument.hide(is_common)
        });
        let name = command.get_name().to_uppercase();
        let has_options = command.get_arguments().any(|argument| !argument.is_hide_set());
        // Its description and options become parts of a section of its own.
        let mut section = Vec::new();
        let man = Man::new(command);
        man.render_description_section(&mut section)?;
        if has_options {
            man.render_options_section(&mut section)?;
        }
        let section = String::from_utf8_lossy(&section).replace(".SH ", ".SS ");
        page.extend_from_slice(format!(".SH \"{name}\"\n{section}").as_bytes());
    }
    let mut rest = Roff::new();
    // Without its own heading.
    let codes = EXIT_CODES.split_once('\n').map_or(EXIT_CODES, |(_, codes)| codes);
    verbatim(&mut rest, "EXIT STATUS", &format!("{codes}{OTHER_CODES}"));
    list(&mut rest, "ENVIRONMENT", ENVIRONMENT);
    list(&mut rest, "STORES", STORES);
    list(&mut rest, "JSON", JSON);
    list(&mut rest, "FILES", FILES);
    verbatim(&mut rest, "PROFILES", PROFILE);
    page.extend_from_slice(rest.render().as_bytes());
    Ok(String::from_utf8_lossy(&page).into_owned())
}

fn list(page: &mut Roff, title: &str, entries: &[(&str, &str)]) {
    page.control("SH", [title]);
    for (name, meaning) in entries {
        page.control("TP", []).text([bold(*name)]).text([roman(*meaning)]);
    }
}

fn verbatim(page: &mut Roff, title: &str, text: &str) {
    page.control("SH", [title]).control("nf", []);
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
