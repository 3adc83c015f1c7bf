//! A command that waits for a person, and the person.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use crate::home::{Done, Home, done};
use crate::real_provider::{Make, RealProvider, SECRET};

/// Runs a test at each server that is installed.
pub(crate) fn at_each(test: &str, run: impl Fn(&RealProvider)) {
    for make in Make::ALL {
        if make.is_here(test) {
            run(&RealProvider::start(make));
        }
    }
}

/// Starts `oidc-provider`, if it is installed.
pub(crate) fn oidc_provider(test: &str) -> Option<RealProvider> {
    Make::OidcProvider.is_here(test).then(|| RealProvider::start(Make::OidcProvider))
}

/// Returns a home whose profile has this `[oauth2]` table.
pub(crate) fn home_with(table: &str) -> Home {
    let home = Home::new();
    home.run("init").ok();
    let path = home.path("config/profiles/default.toml");
    let store = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{store}{table}")).unwrap();
    home
}

/// Returns a home with a profile for a client of the server. `more` are more settings.
pub(crate) fn home_of(provider: &RealProvider, client: &str, more: &str) -> Home {
    home_with(&provider.table(client, more))
}

/// Returns a command with the client's secret, which trusts the private authority of the server.
pub(crate) fn command(home: &Home, line: &str) -> Command {
    let mut command = home.command();
    command.args(line.split(' ')).env("APP_SECRET", SECRET);
    command
}

pub(crate) fn run(home: &Home, line: &str) -> Done {
    done(&mut command(home, line), "")
}

/// Runs a command that prints a URL, and maybe a code. Then `visit` gets both.
pub(crate) fn sign_in(
    login: &mut Command,
    visit: impl FnOnce(&str, Option<&str>) -> String,
) -> (Done, String) {
    let login = login.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = login.spawn().unwrap();
    let mut says = BufReader::new(child.stderr.take().unwrap());
    let mut err = String::new();
    let url = loop {
        let read = says.read_line(&mut err).unwrap();
        if let Some(url) = err.split_whitespace().find(|word| word.starts_with("http")) {
            break Some(url.to_owned());
        }
        if read == 0 {
            break None;
        }
    };
    let code = err.split([' ', '\n']).find(|word| is_code(word)).map(str::to_owned);
    let page = url.map_or_else(String::new, |url| visit(&url, code.as_deref()));
    says.read_to_string(&mut err).unwrap();
    let ended = child.wait_with_output().unwrap();
    let out = String::from_utf8(ended.stdout).unwrap();
    (Done { code: ended.status.code().unwrap_or(-1), out, err }, page)
}

/// Returns whether a word looks like `BCDF-GHJK`, which both servers print.
fn is_code(word: &str) -> bool {
    word.len() == 9
        && word
            .split('-')
            .all(|part| part.len() == 4 && part.bytes().all(|byte| byte.is_ascii_uppercase()))
}

/// Signs in with `tokenkeep login`, and allows everything.
pub(crate) fn login(provider: &RealProvider, home: &Home, how: &str) -> Done {
    let mut login = command(home, &format!("login {how}"));
    sign_in(&mut login, |url, code| provider.visit(url, code)).0
}

/// Returns the access token and the refresh token of a home.
pub(crate) fn tokens(home: &Home) -> (String, String) {
    (home.run("get").line(), home.run("get --field refresh").line())
}

/// Puts tokens into another home, whose access token has expired.
pub(crate) fn expired_copy(provider: &RealProvider, client: &str, refresh: &str) -> Home {
    let home = home_of(provider, client, "");
    let tokens = format!(
        r#"{{"access_token":"old","refresh_token":"{refresh}","expires_at":"2020-01-01T00:00:00Z"}}"#
    );
    home.feed("set", &tokens).ok();
    home
}
