//! What the import takes over of one file, in one line for each account.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use chrono::SecondsFormat;
use secrecy::ExposeSecret;
use serde_json::Value;
use tokenkeep::import::{self, Account, Format, Options, Source};

/// The fields that say when tokens expire. A test names the expiry that follows from them.
const TIMES: [&str; 7] = [
    "expires_at",
    "expires_in",
    "expiresAt",
    "expiry",
    "expiry_date",
    "refresh_expires_in",
    "token_received_at",
];

/// The fields that name the provider or the account, which a line shows in another place.
const NAMES: [&str; 12] = [
    "account",
    "clientId",
    "client_id",
    "environment",
    "home_account_id",
    "issuer",
    "realm",
    "server_name",
    "target",
    "token_uri",
    "token_url",
    "type",
];

/// Fails if a file is not recognised, or if something else is taken over than these accounts. A file that may be
/// deleted must be taken over whole.
#[track_caller]
pub(crate) fn assert_taken(file: &Path, format: Format, accounts: &[&str]) {
    let (import, text) = imported(file);
    let file = file.display();
    assert_eq!(import.format, format, "{file}: {text}");
    let lines: Vec<_> = import.accounts.iter().map(line).collect();
    assert_eq!(lines, accounts, "{file}: {text}");
    if import.is_only_tokens {
        let json: Value = serde_json::from_str(&text).unwrap();
        let extras = import.accounts.iter().flat_map(|account| account.tokens.extras());
        let extras: String = extras.map(|(_, value)| value.expose_secret()).collect();
        let lost = lost(&json, "", &(lines.concat() + &extras));
        assert!(lost.is_empty(), "{file}: {lost:?} would be lost: {text}");
    }
}

/// Returns what the import makes of a file, which it must recognise, and the text of the file.
#[track_caller]
pub(crate) fn imported(file: &Path) -> (Source, String) {
    let bytes = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let text = String::from_utf8(bytes.clone()).unwrap();
    let import = Source::parse(&bytes, &Options::default())
        .unwrap_or_else(|error| panic!("{}: {error}: {text}", file.display()));
    assert_eq!(import::recognize(&bytes), Some(import.format), "{}", file.display());
    (import, text)
}

fn line(account: &Account) -> String {
    let Account { name, tokens, provider, .. } = account;
    let mut line = format!("{name}:");
    let mut add = |name: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            write!(line, " {name}={value}").unwrap();
        }
    };
    let time = |time: chrono::DateTime<_>| time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    add("access", Some(tokens.access_token.expose_secret()));
    add("refresh", tokens.refresh_token.as_ref().map(|token| token.expose_secret()));
    add("expires", tokens.expires_at.map(time).as_deref());
    add("refresh_expires", tokens.refresh_expires_at.map(time).as_deref());
    add("obtained", tokens.obtained_at.map(time).as_deref());
    for (name, value) in tokens.extras().filter(|(name, _)| !NAMES.contains(name)) {
        add(name, Some(value.expose_secret()));
    }
    add("client_id", provider.client_id.as_deref());
    add("client_secret", tokens.client_secret().map(|secret| secret.expose_secret()));
    add("token_url", provider.token_url.as_deref());
    add("issuer", provider.issuer.as_deref());
    line
}

/// Returns the names of the values in a file that do not occur in what was taken over.
fn lost(value: &Value, name: &str, taken: &str) -> Vec<String> {
    let within = |(inner, value): (&String, &Value)| lost(value, inner, taken);
    let is_taken = |text: &str| TIMES.contains(&name) || taken.contains(text);
    match value {
        Value::Null => Vec::new(),
        Value::Array(_) if TIMES.contains(&name) => Vec::new(),
        Value::Array(values) => values.iter().flat_map(|value| lost(value, name, taken)).collect(),
        Value::Object(fields) => fields.iter().flat_map(within).collect(),
        Value::String(text) if is_taken(text) => Vec::new(),
        Value::Bool(_) | Value::Number(_) if is_taken(&value.to_string()) => Vec::new(),
        Value::String(_) | Value::Bool(_) | Value::Number(_) => vec![name.to_owned()],
    }
}
