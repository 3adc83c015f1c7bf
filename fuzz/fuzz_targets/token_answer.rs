//! Reads the answer of a token endpoint to a refresh. The first line contains the status, the time at which
//! the request was sent, and the value of `Retry-After`. The rest is the body.
#![no_main]

use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use tokenkeep::fuzzing::{refresh, retry_after};
use tokenkeep::oauth2::OAuth2Client;
use tokenkeep::{AuthTokens, RefreshFailure, RefreshToken};
use tokenkeep_fuzz::{
    assert_ages, assert_hidden, assert_redacted, assert_round_trip, now, split_line, words,
};

fuzz_target!(|data: &[u8]| {
    let (line, body) = split_line(data);
    let [status, sent, wait] = words(line);
    if let Some(wait) = retry_after(wait.as_bytes(), now()) {
        assert!(wait <= Duration::from_secs(3600));
    }
    let status = status.parse().unwrap_or(200);
    let sent = Duration::from_secs(sent.parse().unwrap_or_default());
    let sent = SystemTime::UNIX_EPOCH.checked_add(sent).unwrap_or(SystemTime::UNIX_EPOCH);
    let client = OAuth2Client::new("https://issuer.example/token", "app").expect("it is a URL");
    let answered = refresh(&client.with_clock(move || sent), (status, body));
    match &answered {
        Ok(tokens) => {
            let obtained = tokens.obtained_at.expect("the answer has a time");
            assert!(tokens.expires_at.is_none_or(|expiry| expiry >= obtained));
            assert_round_trip(tokens);
            assert_redacted(tokens);
            assert_ages(tokens);
        }
        Err(error) => assert_hidden(&format!("{error} {error:?}"), body),
    }
    assert_nothing_is_lost(&answered, status, body);
});

/// Asserts that tokens in an answer are always found, unless it is a failure with an error. When the answer is read,
/// the old token is spent already.
fn assert_nothing_is_lost(answered: &Result<AuthTokens, RefreshFailure>, status: u16, body: &[u8]) {
    let Ok(fields) = serde_json::from_slice::<serde_json::Value>(body) else { return };
    if status != 200 && fields.get("error").is_some() {
        return;
    }
    let token =
        |name: &str| fields.get(name)?.as_str().map(str::trim).filter(|text| is_token(text));
    let Some(access_token) = token("access_token") else { return };
    // A field that is there twice is not used. With escapes, a name can be written in many ways.
    let times = |name: &[u8]| body.windows(name.len()).filter(|window| *window == name).count();
    if times(b"\"access_token\"") > 1 || times(b"\"refresh_token\"") > 1 || body.contains(&b'\\') {
        return;
    }
    let tokens = answered.as_ref().unwrap_or_else(|error| panic!("its tokens are lost: {error}"));
    assert_eq!(tokens.access_token.expose_secret(), access_token);
    let kept = tokens.refresh_token.as_ref().map(RefreshToken::expose_secret);
    // An inner object may have the refresh token.
    if ["authed_user", "data"].iter().any(|name| fields.get(name).is_some()) {
        return;
    }
    if fields.get("refresh_token").is_none_or(serde_json::Value::is_string) {
        assert_eq!(kept, token("refresh_token"));
    }
}

/// Returns whether a text can be a token. Some servers write a word or stars where there is none.
fn is_token(text: &str) -> bool {
    let words = ["", "null", "undefined", "none", "false"];
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        && !words.contains(&text.to_ascii_lowercase().as_str())
        && text.bytes().any(|byte| byte != b'*')
}
