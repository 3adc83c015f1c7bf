//! Answers that ask all processes to wait.

use tokenkeep::chrono::{DateTime, TimeDelta, Utc};

use super::{EXPIRED, answer, home, tokens};
use crate::home::{Done, Home, done};
use crate::support::can_fake_time;
use crate::token_server::{Act, TokenServer};

/// Runs a command line as if it were that many seconds later.
pub(crate) fn later(home: &Home, seconds: i64, line: &str) -> Done {
    let mut faketime = home.wrapped("faketime");
    faketime.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").args(["-f", &format!("+{seconds}s")]);
    faketime.arg(crate::support::program("tokenkeep")).args(line.split(' '));
    done(&mut faketime, "")
}

/// The three forms of a date (RFC 9110, 5.6.7).
fn dates(at: DateTime<Utc>) -> [String; 3] {
    ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"]
        .map(|form| at.format(form).to_string())
}

/// Waits of a server, and the seconds after which each is over.
pub(super) fn check(waits: impl IntoIterator<Item = (String, i64)>) {
    let mut wrong = Vec::new();
    for (wait, over) in waits {
        for status in [429, 503] {
            let server = TokenServer::start();
            let home = home(&server, EXPIRED);
            let busy = answer(status, &format!("Retry-After: {wait}\r\n"), "<html>canary</html>");
            server.script([Act::Raw(busy), Act::Raw(tokens(&serde_json::json!({})))]);
            let codes: Vec<_> = (0..20).map(|_| home.run("get").code).collect();
            let before = server.calls();
            let later = later(&home, over + 30, "get");
            let after = server.calls();
            if (before, after, later.code) != (1, 2, 0) || codes != [1; 20] {
                let name = format!("{status} {wait:?}");
                wrong.push(format!("{name}: {before}, {after} requests; {codes:?}, {later:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_wait_is_kept_whatever_the_answer_is_unless_waiting_does_not_help() {
    let test = "provider_answers::waits::a_wait_is_kept_whatever_the_answer_is_unless_waiting_does_not_help";
    if !can_fake_time(test) {
        return;
    }
    let page = "<html>canary</html>";
    for (status, body) in [
        (400, page),
        (400, r#"{"error":"too_many_requests"}"#),
        (404, page),
        (408, ""),
        (425, ""),
        (500, page),
        (500, r#"{"error":"invalid_client"}"#),
        (502, page),
        (504, page),
        (302, ""),
        (200, page),
        (204, ""),
    ] {
        let server = TokenServer::start();
        let home = home(&server, EXPIRED);
        let busy = answer(status, "Retry-After: 120\r\n", body);
        server.script([Act::Raw(busy), Act::Raw(tokens(&serde_json::json!({})))]);
        for _ in 0..20 {
            home.run("get").failed(1);
        }
        let early = later(&home, 90, "get").failed(1);
        assert!(early.contains(&format!("answered {status}")), "{status} {body}: {early}");
        assert_eq!(server.calls(), 1, "{status} {body}");
        let later = later(&home, 150, "get");
        assert_eq!(later.line(), "canary-new-a", "{status} {body}");
        assert_eq!(server.calls(), 2, "{status} {body}");
    }
    for (status, code, exit) in [(400, "invalid_grant", 4), (401, "invalid_client", 1)] {
        let server = TokenServer::start();
        let home = home(&server, EXPIRED);
        let body = format!(r#"{{"error":"{code}"}}"#);
        server.script([Act::Raw(answer(status, "Retry-After: 120\r\n", body))]);
        let said = home.run("get").failed(exit);
        assert!(said.contains(code), "{said}");
        assert!(home.run("status --json").out.contains("\"waits_until\":null"));
    }
}

#[test]
fn a_wait_is_kept_by_all_processes_and_ends_when_it_is_over() {
    let test = "provider_answers::waits::a_wait_is_kept_by_all_processes_and_ends_when_it_is_over";
    if !can_fake_time(test) {
        return;
    }
    let waits = [
        ("120", 120),
        (" 120 ", 120),
        // The longest wait is 1 hour.
        ("999999", 3600),
        // A time that is over is a short wait.
        ("Sat, 01 Jan 2000 00:00:00 GMT", 60),
    ];
    check(waits.map(|(wait, over)| (wait.to_owned(), over)));
    check(dates(Utc::now() + TimeDelta::seconds(120)).map(|date| (date, 120)));
}
