//! Reads the answers of a provider to a sign-in on another device. The answers are separated by empty lines.
//! The first line of each is its status.
#![no_main]

use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use tokenkeep::fuzzing::{Answer, sign_in_by_device};
use tokenkeep::oauth2::OAuth2Client;
use tokenkeep_fuzz::{assert_hidden, assert_redacted, assert_round_trip, split_line};

fuzz_target!(|data: &[u8]| {
    let mut answers: Vec<Answer> = Vec::new();
    let mut rest = data;
    while !rest.is_empty() {
        let end = rest.windows(2).position(|end| end == b"\n\n").unwrap_or(rest.len());
        let (status, body) = split_line(&rest[..end]);
        answers.push((status.parse().unwrap_or(200), body));
        rest = &rest[(end + 2).min(rest.len())..];
    }
    let client = OAuth2Client::new("https://issuer.example/token", "app").expect("it is a URL");
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    match sign_in_by_device(&client.with_clock(move || then), &answers) {
        Ok((url, code, tokens)) => {
            // A terminal obeys control characters, so none may be printed.
            assert!(url.starts_with("https://") || url.starts_with("http://"), "{url}");
            assert!(url.bytes().all(|byte| byte.is_ascii_graphic()), "{url:?}");
            assert!(!code.is_empty() && code.len() <= 64 && !code.contains(char::is_control));
            match tokens {
                Ok(tokens) => {
                    assert_round_trip(&tokens);
                    assert_redacted(&tokens);
                }
                Err(error) => assert_hidden(&format!("{error} {error:?}"), data),
            }
        }
        Err(error) => assert_hidden(&format!("{error} {error:?}"), data),
    }
});
