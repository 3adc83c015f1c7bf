//! The table of a provider's answers: what comes over the wire, and what becomes of it.
//!
//! Each row is one thing that a provider was seen to do. It runs `tokenkeep` with an access token that has expired,
//! and looks at the exit code, at the tokens that the store holds afterwards, at what standard error says, and at
//! the number of requests that the server got.
#![cfg(unix)]

mod compressed;
mod drips;
mod odd_waits;
mod refreshes;
mod sign_ins;
mod sign_outs;
pub(crate) mod waits;
mod words;

use serde_json::{Value, json};
use tokenkeep::chrono::DateTime;

use crate::home::{Done, Home};
use crate::token_server::{Act, TokenServer};

/// What a row begins with.
pub(super) const EXPIRED: &str = r#"{"access_token":"canary-old-a","refresh_token":"canary-old-r",
    "expires_at":"2020-01-01T00:00:00Z","version":2,
    "extra":{"id_token":"canary-i","instance_url":"https://eu.example","realmId":7,"scope":"read write"}}"#;

/// One thing that a provider does.
#[derive(Default)]
pub(super) struct Row {
    pub(super) name: String,
    /// The answers of the token endpoint, each from its status line on. Further requests get new tokens.
    pub(super) answers: Vec<Vec<u8>>,
    /// The command line; `get` if it is empty.
    pub(super) line: &'static str,
    pub(super) code: i32,
    /// For each JSON pointer into the record, the value there afterwards. `null` is no value, and `lifetime`
    /// is the time from `obtained_at` to `expires_at` in seconds.
    pub(super) kept: Vec<(&'static str, Value)>,
    /// What standard error says, beside other things.
    pub(super) says: Vec<&'static str>,
    /// What it does not say.
    pub(super) says_not: Vec<&'static str>,
    pub(super) requests: usize,
}

/// Returns a row in which the new tokens are kept, after one request.
pub(super) fn kept(name: impl Into<String>, answer: Vec<u8>) -> Row {
    Row {
        name: name.into(),
        answers: vec![answer],
        kept: vec![
            ("/access_token", json!("canary-new-a")),
            ("/refresh_token", json!("canary-new-r")),
        ],
        requests: 1,
        ..Row::default()
    }
}

/// Returns a row in which the old tokens are kept, after one request.
pub(super) fn failed(
    name: impl Into<String>,
    answer: Vec<u8>,
    code: i32,
    says: Vec<&'static str>,
) -> Row {
    Row {
        name: name.into(),
        answers: vec![answer],
        code,
        kept: vec![
            ("/access_token", json!("canary-old-a")),
            ("/refresh_token", json!("canary-old-r")),
        ],
        says,
        requests: 1,
        ..Row::default()
    }
}

/// Returns an answer as it goes over the wire. Its body has no length: it ends with the connection.
pub(super) fn answer(status: u16, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status} Whatever\r\nConnection: close\r\n{headers}\r\n");
    [head.as_bytes(), body.as_ref()].concat()
}

/// Returns the fields of an answer with new tokens.
pub(super) fn fields() -> Value {
    json!({
        "access_token": "canary-new-a",
        "expires_in": 3600,
        "refresh_token": "canary-new-r",
        "token_type": "Bearer",
    })
}

/// Returns an answer with new tokens, of which these fields have other values. `null` removes a field.
pub(super) fn tokens(changes: &Value) -> Vec<u8> {
    answer(200, "Content-Type: application/json\r\n", fields_with(changes))
}

/// Returns the body of an answer with new tokens, of which these fields have other values.
pub(super) fn fields_with(changes: &Value) -> String {
    let mut body = fields();
    let all = body.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => all.remove(name),
            value => all.insert(name.clone(), value.clone()),
        };
    }
    body.to_string()
}

/// Returns an answer with an error code.
pub(super) fn error(status: u16, code: &str) -> Vec<u8> {
    let body = json!({ "error": code, "error_description": "canary" }).to_string();
    answer(status, "Content-Type: application/json\r\n", body)
}

/// Returns a home whose profile names this server, with that record in its store, which is a plain file.
pub(super) fn home(server: &TokenServer, record: &str) -> Home {
    let home = Home::new();
    let store = format!("plaintext:{}", home.path("tokens.json").display());
    let table = format!(
        "store = \"{store}\"\n[oauth2]\nclient_id = \"app\"\ntoken_url = \"{}\"\n\
         device_authorization_url = \"{}\"\nauthorization_url = \"{}\"\nrevocation_url = \"{}\"\n",
        server.token_url(),
        server.url("/device"),
        server.url("/authorize"),
        server.url("/revoke"),
    );
    home.write("config/profiles/default.toml", table);
    home.write("tokens.json", record);
    home
}

/// Returns the record in the store of a home, or `null`.
pub(super) fn record(home: &Home) -> Value {
    std::fs::read(home.path("tokens.json"))
        .ok()
        .map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap())
}

fn at<'a>(record: &'a Value, pointer: &str) -> &'a Value {
    record.pointer(pointer).unwrap_or(&Value::Null)
}

fn lifetime(record: &Value) -> Value {
    let date = |name: &str| DateTime::parse_from_rfc3339(record[name].as_str()?).ok();
    let lifetime = date("expires_at").zip(date("obtained_at"));
    lifetime.map_or(Value::Null, |(expiry, obtained)| json!((expiry - obtained).num_seconds()))
}

/// Runs all rows, and fails with all that are wrong.
pub(super) fn check(rows: impl IntoIterator<Item = Row>) {
    let mut wrong = Vec::new();
    let mut rows = rows.into_iter().peekable();
    assert!(rows.peek().is_some());
    for row in rows {
        let server = TokenServer::start();
        server.script(row.answers.iter().cloned().map(Act::Raw));
        let home = home(&server, EXPIRED);
        let done = home.run(if row.line.is_empty() { "get" } else { row.line });
        compare(&row, &done, &record(&home), server.calls(), &mut wrong);
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn compare(row: &Row, done: &Done, record: &Value, requests: usize, wrong: &mut Vec<String>) {
    let name = &row.name;
    let mut differs = |what: &str, is: String, expected: String| {
        if is != expected {
            wrong.push(format!("{name}: {what} is {is} and not {expected}; {done:?}"));
        }
    };
    differs("the exit code", done.code.to_string(), row.code.to_string());
    differs("the number of requests", requests.to_string(), row.requests.to_string());
    for (pointer, expected) in &row.kept {
        let is =
            if *pointer == "lifetime" { lifetime(record) } else { at(record, pointer).clone() };
        differs(pointer, is.to_string(), expected.to_string());
    }
    let said = |words: &str| done.err.contains(words).to_string();
    for words in &row.says {
        differs(&format!("that `{words}` is said"), said(words), "true".to_owned());
    }
    for words in row.says_not.iter().chain(&["canary"]) {
        differs(&format!("that `{words}` is said"), said(words), "false".to_owned());
    }
}
