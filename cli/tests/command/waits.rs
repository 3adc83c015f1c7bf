//! A server that asks to wait is asked by no process until the wait is over.
#![cfg(unix)]

use std::process::Stdio;

use tokenkeep::chrono::{DateTime, TimeDelta, Utc};

use crate::home::{Done, Home, done};
use crate::refresh_command::{expired, sign_in_for};
use crate::support::can_fake_time;
use crate::token_server::{Act, TokenServer};

/// Runs `get` with a clock that is ahead by this many seconds.
fn get_after(home: &Home, seconds: i64) -> Done {
    let mut command = home.wrapped("faketime");
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command.args(["-f", &format!("+{seconds}s"), env!("CARGO_BIN_EXE_tokenkeep"), "get"]);
    done(&mut command, "")
}

/// Runs `get` in 20 processes at once, which all fail.
fn twenty_gets(home: &Home) {
    let children: Vec<_> = (0..20)
        .map(|_| {
            let mut get = home.command();
            get.arg("get").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
    }
}

#[test]
fn twenty_processes_ask_a_server_once_until_the_wait_is_over() {
    if !can_fake_time("waits::twenty_processes_ask_a_server_once_until_the_wait_is_over") {
        return;
    }
    let date = |form: &str| (Utc::now() + TimeDelta::seconds(120)).format(form).to_string();
    let forms: [(&str, String, i64); 11] = [
        ("seconds", "120".into(), 120),
        ("IMF-fixdate", date("%a, %d %b %Y %H:%M:%S GMT"), 120),
        ("RFC 850", date("%A, %d-%b-%y %H:%M:%S GMT"), 120),
        ("asctime", date("%a %b %e %H:%M:%S %Y"), 120),
        ("huge", "99999999".into(), 3600),
        ("beyond all numbers", "99999999999999999999999".into(), 3600),
        ("far away", "Fri, 31 Dec 9999 23:59:59 GMT".into(), 3600),
        ("over", "Sat, 01 Jan 2000 00:00:00 GMT".into(), 30),
        ("negative", "-5".into(), 30),
        ("garbage", "soon".into(), 30),
        ("empty", String::new(), 30),
    ];
    for status in [429, 503] {
        for (name, value, seconds) in &forms {
            let server = TokenServer::start();
            let home = expired(&server);
            server.script([Act::answer(status, "").header("Retry-After", value)]);
            twenty_gets(&home);
            assert_eq!(server.calls(), 1, "{status} {name}");
            // Some seconds have passed since the answer.
            let early = seconds - 25;
            let said = get_after(&home, early).failed(1);
            assert!(said.contains(&format!("answered {status}")), "{status} {name}: {said}");
            assert_eq!(server.calls(), 1, "{status} {name}");
            assert_eq!(get_after(&home, seconds + 1).line(), "access-canary-2", "{status} {name}");
            assert_eq!(server.calls(), 2, "{status} {name}");
        }
    }
}

#[test]
fn a_good_token_is_served_while_the_server_asks_to_wait() {
    let server = TokenServer::start();
    let home = expired(&server);
    let access = sign_in_for(&server, &home, 12);
    server.script([Act::error(429, "slow_down").header("Retry-After", "120")]);
    for _ in 0..5 {
        assert_eq!(home.run("get").line(), access);
    }
    assert_eq!(server.calls(), 1);
}

#[test]
fn status_shows_until_when_the_provider_asked_to_wait() {
    let server = TokenServer::start();
    let home = expired(&server);
    let status =
        || serde_json::from_str::<serde_json::Value>(&home.run("status --json").out).unwrap();
    assert!(status()["waits_until"].is_null());
    server.script([Act::error(429, "slow_down").header("Retry-After", "600")]);
    home.run("get").failed(1);
    let said = home.run("status");
    assert_eq!(said.code, 4, "{said:?}");
    let warning = "warning  the provider asked to wait until 2";
    assert!(said.out.contains(warning) && said.out.contains("answered 429"), "{said:?}");
    let until = status()["waits_until"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    let left = until - Utc::now();
    assert!(left > TimeDelta::seconds(500) && left <= TimeDelta::seconds(600), "{left}");
    // Another client did not get this answer.
    let path = home.path("config/profiles/default.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("client_id = \"", "client_id = \"other-")).unwrap();
    assert!(status()["waits_until"].is_null());
}
