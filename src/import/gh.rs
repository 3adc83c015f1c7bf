//! The command of GitHub: `hosts.yml`. Its values in a keychain are encoded by `go-keyring`, and are tokens
//! alone.
//!
//! Source: <https://github.com/cli/cli> (`internal/config`). The file has two levels of hosts and users, so no
//! parser of YAML is needed: a line with more indentation belongs to the line above that has less.

use super::fields::Reason;
use super::text::{Content, Document, unquoted};
use super::{Account, Fate, Format, MOST_ACCOUNTS, Options, Read, Shape};
use crate::tokens::AuthTokens;
use crate::tokens::form::check_bare_token;

pub(super) const SHAPE: Shape = Shape {
    format: Format::Gh,
    name: "gh",
    program: "the command of GitHub (gh)",
    fits: |document| {
        bare_token(document).is_some()
            || lines(document)
                .iter()
                .any(|line| line.indent > 0 && ["oauth_token", "git_protocol"].contains(&line.name))
    },
    read,
    sign_out: "`gh auth logout --hostname HOST`",
};

/// What the tokens of GitHub begin with
/// (<https://github.blog/engineering/platform-security/behind-githubs-new-authentication-token-formats/>).
const PREFIXES: [&str; 6] = ["ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"];

/// Returns the token of a keychain item.
fn bare_token<'a>(document: &Document<'a>) -> Option<&'a str> {
    let Content::Other(text) = document.content else { return None };
    let is_one = PREFIXES.iter().any(|prefix| text.starts_with(prefix))
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_one.then_some(text)
}

struct Line<'a> {
    indent: usize,
    name: &'a str,
    value: &'a str,
}

fn lines<'a>(document: &Document<'a>) -> Vec<Line<'a>> {
    let Content::Other(text) = &document.content else { return Vec::new() };
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| {
            // The name may have a port.
            let (name, value) = line
                .trim()
                .split_once(": ")
                .or_else(|| Some((line.trim().strip_suffix(':')?, "")))?;
            let indent = line.len() - line.trim_start().len();
            Some(Line { indent, name, value: value.trim() })
        })
        .collect()
}

fn read(document: &Document<'_>, _: &Options) -> Result<Read, Reason> {
    if let Some(token) = bare_token(document) {
        document.trail.note("token".into(), Fate::AccessToken);
        let accounts = vec![Account::new("github", AuthTokens::new(token))];
        return Ok(Read { accounts, has_more: false });
    }
    let mut accounts: Vec<Account> = Vec::new();
    // The names of the lines above with less indentation.
    let mut above: Vec<(usize, String)> = Vec::new();
    for line in lines(document) {
        above.retain(|(indent, _)| *indent < line.indent);
        if line.name == "oauth_token" && !line.value.is_empty() {
            let host = above.first().map_or("github.com", |(_, name)| name.as_str());
            let user = above.last().filter(|_| above.len() > 2).map(|(_, name)| name.as_str());
            let place = above.iter().map(|(_, name)| format!("{name}.")).collect::<String>();
            let name = format!("{place}oauth_token");
            // A comment is not part of the value.
            let value = unquoted(line.value.split(" #").next().unwrap_or_default());
            if value.starts_with(['|', '>', '&', '*', '!']) {
                return Err(format!(
                    "its {name} is written in a way of YAML that is not read here"
                ));
            }
            check_bare_token(&value).map_err(|reason| format!("its {name} {reason}"))?;
            document.trail.note(name, Fate::AccessToken);
            let tokens = AuthTokens::new(value.as_ref());
            let name = user.map_or_else(|| host.to_owned(), |user| format!("{user}@{host}"));
            // The token of the active user stands twice: for the host, and for the user.
            accounts.retain(|other| other.tokens.access_token != tokens.access_token);
            if accounts.len() >= MOST_ACCOUNTS {
                return Err(format!("it holds more than {MOST_ACCOUNTS} accounts"));
            }
            accounts.push(Account::new(name, tokens.with_extra("host", host.into())));
        }
        above.push((line.indent, unquoted(line.name).into_owned()));
    }
    if accounts.is_empty() {
        return Err("it holds no tokens, because gh keeps them in the keychain; import them as \
                    import:gh:keychain-item:gh:HOST/USER"
            .into());
    }
    Ok(Read { accounts, has_more: true })
}
