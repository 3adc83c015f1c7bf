//! Opens a URL in a browser.

use std::process::{Child, Command, Stdio};
use std::{io, thread};

use crate::context::Context;
use crate::provider::Provider;
use crate::terminal::PASSPHRASE_VARIABLE;

const FAILED: &str = "WARNING: no browser could be opened; open the URL yourself";

/// Opens a URL in a browser: with `$BROWSER`, or else as the desktop does. No shell reads the URL. Warns if it
/// cannot be opened.
pub(super) fn open(context: &Context, provider: &Provider, url: &str) {
    let secret = provider.client_secret_env.as_deref();
    let candidates = candidates(std::env::var("BROWSER").ok().as_deref(), url);
    let started = candidates.iter().find_map(|words| start(words, secret).ok());
    let terminal = context.terminal.clone();
    let Some(mut child) = started else { return terminal.say(FAILED) };
    // Some of these programs end at once, and others when the browser does.
    let waiting = thread::Builder::new().spawn(move || {
        if !child.wait().is_ok_and(|status| status.success()) {
            terminal.say(FAILED);
        }
    });
    // Without the thread, only the warning is missing.
    drop(waiting);
}

/// Returns the commands to try, each with its arguments.
///
/// As for other programs, `$BROWSER` is a list of commands with colons between them, and `%s` in a command stands for
/// the URL. On Windows it is one program, because a path has a colon there.
fn candidates(browser: Option<&str>, url: &str) -> Vec<Vec<String>> {
    let words = |command: &str| -> Vec<String> {
        let mut words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        if words.iter().any(|word| word.contains("%s")) {
            words.iter_mut().for_each(|word| *word = word.replace("%s", url));
        } else if !words.is_empty() {
            words.push(url.to_owned());
        }
        words
    };
    let own = browser.filter(|browser| !browser.trim().is_empty());
    match own {
        Some(program) if cfg!(windows) => vec![vec![program.to_owned(), url.to_owned()]],
        Some(list) => list.split(':').map(words).filter(|words| !words.is_empty()).collect(),
        None if cfg!(windows) => vec![words("rundll32 url.dll,FileProtocolHandler")],
        None if cfg!(target_os = "macos") => vec![words("open")],
        None => vec![words("xdg-open")],
    }
}

fn start(words: &[String], secret: Option<&str>) -> io::Result<Child> {
    let (program, arguments) = words.split_first().expect("a command has a program");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // The browser does not need the secrets that open the store or authenticate the client.
    command.env_remove(PASSPHRASE_VARIABLE);
    if let Some(variable) = secret {
        command.env_remove(variable);
    }
    // Ctrl-C at this terminal must not end the browser.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_variable_is_a_list_of_commands_and_no_shell_reads_the_url() {
        let url = "https://issuer.example/?a=$(b)&c;d";
        let own = |list: &str| candidates(Some(list), url);
        assert_eq!(own("firefox"), [["firefox", url]]);
        assert_eq!(
            own("one -n:two --url=%s -x"),
            [vec!["one", "-n", url], vec!["two", &format!("--url={url}"), "-x"]]
        );
        assert_eq!(own("a::b"), [["a", url], ["b", url]]);
        assert!(own(":").is_empty());
        for unset in [None, Some(""), Some(" ")] {
            let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
            assert_eq!(candidates(unset, url), [[program, url]]);
        }
    }
}
