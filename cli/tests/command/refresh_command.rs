//! Refreshes by the command: from many processes, and from processes that are killed.
#![cfg(unix)]

use std::process::Stdio;

use crate::home::{Home, done};
use crate::login::home;
use crate::support::can_trace;
use crate::token_server::{Act, TokenServer};

/// Returns a home whose access token has expired.
pub(crate) fn expired(server: &TokenServer) -> Home {
    let home = home(server, "");
    expire(server, &home);
    home
}

pub(crate) fn expire(server: &TokenServer, home: &Home) {
    let (access, refresh) = server.issue();
    let record = format!(
        r#"{{"access_token":"{access}","refresh_token":"{refresh}","expires_at":"2020-01-01T00:00:00Z"}}"#
    );
    home.feed("set", &record).ok();
}

/// Signs in with an access token that lives 1 hour and expires in `minutes`. Returns the token.
pub(crate) fn sign_in_for(server: &TokenServer, home: &Home, minutes: i64) -> String {
    use tokenkeep::chrono::TimeDelta;

    let (access, refresh) = server.issue();
    let expiry = tokenkeep::chrono::Utc::now() + TimeDelta::minutes(minutes);
    let record = format!(
        r#"{{"access_token":"{access}","refresh_token":"{refresh}","obtained_at":"{}","expires_at":"{}"}}"#,
        (expiry - TimeDelta::hours(1)).to_rfc3339(),
        expiry.to_rfc3339()
    );
    home.feed("set", &record).ok();
    access
}

#[test]
fn refresh_replaces_the_tokens_and_says_how_long_they_are_good_for() {
    let server = TokenServer::start();
    let home = expired(&server);
    let refreshed = home.run("refresh");
    assert!(refreshed.err.starts_with("refreshed: fresh; due in 44 minutes"), "{refreshed:?}");
    assert!(!refreshed.err.contains("canary"), "{refreshed:?}");
    assert_eq!(refreshed.ok(), "");
    assert_eq!(home.run("get").line(), "access-canary-2");
    // Fresh tokens are refreshed too.
    home.run("refresh").ok();
    assert_eq!(home.run("get").line(), "access-canary-3");
    assert_eq!(server.calls(), 2);
}

#[test]
fn get_and_status_agree_on_expired_tokens_that_are_never_refreshed() {
    // A JSON Web Token whose `exp` is in 2020.
    const EXPIRED: &str = "eyJhbGciOiJub25lIn0.eyJleHAiOjE1Nzc4MzY4MDB9.c2ln";
    let server = TokenServer::start();
    let home = expired(&server);
    home.run("backup --to plaintext:b.json").ok();
    let provider = std::fs::read_to_string(home.path("config/profiles/default.toml")).unwrap();
    let provider = &provider[provider.find("[oauth2]").unwrap()..];
    let backup = home.path("b.json").display().to_string();
    for (name, store) in [("backup", format!("plaintext:{backup}")), ("env", "env:APP".to_owned())]
    {
        let path = home.path(format!("config/profiles/{name}.toml"));
        std::fs::write(path, format!("store = '{store}'\n{provider}")).unwrap();
        let run = |line: &str| {
            let mut command = home.command();
            command.args(line.split(' ')).args(["--profile", name]);
            command.env("APP_ACCESS_TOKEN", EXPIRED).env("APP_REFRESH_TOKEN", "canary");
            done(&mut command, "")
        };
        let said = run("get").failed(4);
        assert!(said.contains("the access token has expired"), "{said}");
        assert_eq!(run("status").code, 4);
    }
    assert_eq!(server.calls(), 0);
}

#[test]
fn status_says_what_get_does_with_a_token_that_is_about_to_expire() {
    let server = TokenServer::start();
    let home = home(&server, "");
    // With a provider, `get` refreshes the token first.
    for minutes in [3, 12, -3] {
        sign_in_for(&server, &home, minutes);
        let status = home.run("status");
        assert!(status.out.contains("; `get` refreshes them first"), "{status:?}");
        assert!(home.run("get").line().starts_with("access-canary-"));
        assert_eq!(status.code, 0, "{status:?}");
    }
    // If the refresh token was rejected, `get` uses the access token until it expires.
    for (minutes, code) in [(3, 0), (-3, 4)] {
        let access = sign_in_for(&server, &home, minutes);
        server.script([Act::error(400, "invalid_grant")]);
        home.run("get");
        let (status, got) = (home.run("status"), home.run("get"));
        assert_eq!((status.code, got.code), (code, code), "{status:?} {got:?}");
        assert_eq!(status.out.contains("; `get` uses them until then"), code == 0, "{status:?}");
        assert_eq!(got.out.trim_end() == access, code == 0, "{got:?}");
    }
    let calls = server.calls();

    // Without a provider, the token counts as expired, but no message says that it has expired.
    let profile = home.path("config/profiles/default.toml");
    let text = std::fs::read_to_string(&profile).unwrap();
    std::fs::write(&profile, text.split("[oauth2]").next().unwrap()).unwrap();
    sign_in_for(&server, &home, 3);
    let status = home.run("status");
    assert_eq!(status.code, 4, "{status:?}");
    assert!(status.out.contains("about to expire, in 2 minutes"), "{status:?}");
    assert!(status.out.contains("; `get` counts them as expired"), "{status:?}");
    for line in ["get", "get --header", "exec -- true"] {
        let said = home.run(line).failed(4);
        assert!(said.contains("is about to expire, in 2 minutes (20"), "{said}");
        assert!(!said.contains("has expired"), "{said}");
    }
    sign_in_for(&server, &home, 12);
    assert_eq!((home.run("status").code, home.run("get").code), (0, 0));
    sign_in_for(&server, &home, -3);
    assert_eq!(home.run("status").code, 4);
    assert!(home.run("get").failed(4).contains("has expired"));
    assert_eq!(server.calls(), calls, "the server is not called");
}

#[test]
fn exec_hands_over_a_refreshed_token() {
    let server = TokenServer::start();
    let home = expired(&server);
    let mut exec = home.command();
    exec.args(["exec", "--prefix", "APP", "--", "sh", "-c", "printf %s $APP_ACCESS_TOKEN"]);
    assert_eq!(done(&mut exec, "").ok(), "access-canary-2");
    assert_eq!(home.run("get").line(), "access-canary-2");
    assert_eq!(server.calls(), 1);
}

#[test]
fn sixteen_commands_with_an_expired_token_make_one_call() {
    let server = TokenServer::start();
    let home = expired(&server);
    let children: Vec<_> = (0..16)
        .map(|_| home.command().arg("get").stdout(Stdio::piped()).spawn().unwrap())
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "access-canary-2\n");
    }
    assert_eq!(server.calls(), 1);
    assert!(!server.has_ended_a_session());
}

#[test]
fn the_next_command_reports_one_that_was_killed_during_its_refresh() {
    let server = TokenServer::start();
    let home = expired(&server);
    let held = server.hold();
    let mut killed = home.command().arg("get").stdout(Stdio::null()).spawn().unwrap();
    held.wait();
    assert!(!home.run("status").out.contains("cut off"), "it is under way");
    killed.kill().unwrap();
    killed.wait().unwrap();
    // The server answers the request although the client is gone.
    held.release();
    server.wait_for_issued(2);
    assert!(home.run("status").out.contains("a refresh was cut off"));
    let said = home.run("get").failed(8);
    assert!(
        said.contains("the refresh token may have been spent by an unfinished refresh at 20"),
        "{said}"
    );
    assert!(said.contains("sign in again"), "{said}");
    // The tokens are still there, and a new sign-in fixes the state.
    assert!(home.run("get --field refresh").ok().starts_with("refresh-canary-"));
    expire(&server, &home);
    assert!(!home.run("status").out.contains("cut off"), "it is fixed");
    home.run("get").ok();
}

#[test]
fn rekey_waits_for_a_refresh_and_seals_the_new_tokens_to_the_new_keys() {
    if !can_trace("rekey_waits_for_a_refresh_and_seals_the_new_tokens_to_the_new_keys") {
        return;
    }
    let server = TokenServer::start();
    let home = expired(&server);
    let escrow = home.run("keygen -o escrow.txt").ok().trim_end().to_owned();
    home.run("keygen -o new.txt").ok();
    home.run(&format!("rekey --recipient {escrow}")).ok();
    let held = server.hold();
    let refreshing = home.command().arg("get").stdout(Stdio::piped()).spawn().unwrap();
    held.wait();
    let mut rekey = home.wrapped("strace");
    rekey.args(["-f", "-qq", "-o", "calls", "-e", "trace=openat", env!("CARGO_BIN_EXE_tokenkeep")]);
    rekey.args(["rekey", "--identity", "new.txt", "--remove-recipient", &escrow]);
    let mut rekey = rekey.stdout(Stdio::null()).spawn().unwrap();
    // Once `rekey` opens the lease, it waits.
    let calls = || std::fs::read_to_string(home.path("calls")).unwrap_or_default();
    while !calls().contains("default.age.lease") {
        assert!(rekey.try_wait().unwrap().is_none(), "it waits");
    }
    held.release();
    let refreshed = refreshing.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(refreshed.stdout).unwrap(), "access-canary-2\n");
    assert!(rekey.wait().unwrap().success());
    assert_eq!(home.run("get").line(), "access-canary-2");
    let record = home.path("state/tokenkeep/default.age");
    for key in ["config/keys/default.txt", "escrow.txt"] {
        let url = format!("age:{}?identity={key}", record.display());
        home.run(&format!("get --store {url}")).failed(6);
    }
}

#[test]
fn the_answer_of_the_server_decides_the_exit_code() {
    let server = TokenServer::start();
    let home = expired(&server);
    server.script([Act::error(429, "slow_down")]);
    assert!(home.run("get").failed(1).contains("try again later"));
    server.script([Act::error(400, "invalid_grant")]);
    assert!(home.run("get").failed(4).contains("sign in again"));
    // The next process does not ask again.
    assert!(home.run("get").failed(4).contains("sign in again"));
    // Without tokens, the server is not called.
    home.run("clear").ok();
    home.run("get").failed(3);
    home.run("refresh").failed(3);
    assert_eq!(server.calls(), 2);
}

#[test]
fn without_a_provider_refresh_says_what_is_missing() {
    let home = Home::signed_in();
    assert!(home.run("refresh").failed(2).contains("add token_url and client_id"));
}

#[test]
fn after_any_unclear_answer_the_next_process_says_that_the_token_may_be_spent() {
    type Named = (&'static str, fn() -> Act);

    let answers: [Named; 13] = [
        ("408", || Act::answer(408, "")),
        ("500", || Act::answer(500, "<html>")),
        ("502", || Act::answer(502, "<html>")),
        ("503", || Act::answer(503, "")),
        ("504", || Act::answer(504, "")),
        ("a 200 that cannot be read", || Act::answer(200, "<html>")),
        ("a 200 without tokens", || Act::answer(200, "{}")),
        ("an empty access token", || Act::answer(200, r#"{"access_token":""}"#)),
        ("one that is too large", || Act::answer(200, &"x".repeat(100_000))),
        ("a redirect", || Act::answer(307, "").header("Location", "https://elsewhere.example/")),
        ("an HTML 403", || Act::answer(403, "<html>")),
        ("an HTML 404", || Act::answer(404, "<html>")),
        ("server_error", || Act::error(400, "server_error")),
    ];
    for (name, answer) in answers {
        let server = TokenServer::start();
        let home = expired(&server);
        // The server has rotated the token, but gives this answer.
        server.spend();
        server.script([answer()]);
        let first = home.run("get");
        assert!([1, 8].contains(&first.code), "{name}: {first:?}");
        let calls = server.calls();
        assert!((1..=2).contains(&calls), "{name}: {calls}");
        assert!(home.run("status").out.contains("a refresh was cut off"), "{name}");
        let said = home.run("get").failed(8);
        assert!(said.contains("the refresh token may have been spent"), "{name}: {said}");
        // The next `get` fails the same way, and does not call the server.
        let calls = server.calls();
        home.run("get").failed(8);
        assert_eq!(server.calls(), calls, "{name}");
    }
}

#[test]
fn an_answer_that_proves_the_token_unspent_leaves_no_doubt() {
    let answers: [fn() -> Act; 5] = [
        || Act::error(429, "slow_down"),
        || Act::error(401, "invalid_client"),
        || Act::error(400, "unauthorized_client"),
        || Act::error(400, "unsupported_grant_type"),
        || Act::error(400, "invalid_request"),
    ];
    for answer in answers {
        let server = TokenServer::start();
        let home = expired(&server);
        server.script([answer()]);
        home.run("get").failed(1);
        assert!(!home.run("status").out.contains("cut off"));
        server.script([Act::error(400, "invalid_grant")]);
        assert!(home.run("get").failed(4).contains("sign in again"));
    }
}

#[test]
fn a_lost_answer_is_requested_once_more_for_servers_with_a_grace_period() {
    let server = TokenServer::start();
    let home = expired(&server);
    server.script([Act::answer(502, "<html>")]);
    assert_eq!(home.run("get").line(), "access-canary-2");
    assert_eq!(server.calls(), 2);
    assert!(!home.run("status").out.contains("cut off"));
}

#[test]
fn no_process_calls_a_server_that_asked_to_wait() {
    let server = TokenServer::start();
    let home = expired(&server);
    server.script([Act::error(429, "slow_down").header("Retry-After", "120")]);
    for line in ["get", "get", "exec -- true", "refresh"] {
        assert!(home.run(line).failed(1).contains("answered 429"), "{line}");
    }
    assert_eq!(server.calls(), 1);
    // The wait does not hold for another client.
    let profile = home.path("config/profiles/default.toml");
    let text = std::fs::read_to_string(&profile).unwrap();
    let other = text.replace("client_id = \"", "client_id = \"other-");
    assert_ne!(text, other);
    std::fs::write(&profile, other).unwrap();
    assert_eq!(home.run("get").line(), "access-canary-2");
}

#[test]
fn a_refused_refresh_token_is_sent_once_by_any_number_of_processes() {
    let server = TokenServer::start();
    let home = expired(&server);
    server.script([Act::error(400, "invalid_grant")]);
    for line in ["get", "get", "refresh", "exec -- true"] {
        assert!(home.run(line).failed(4).contains("sign in again"), "{line}");
    }
    assert_eq!(server.calls(), 1);
    let status = home.run("status");
    assert!(status.out.contains("the refresh token was rejected at "), "{status:?}");
    let doctor = home.run("doctor");
    assert_eq!(doctor.code, 1);
    assert!(doctor.out.contains("the refresh token was rejected at "), "{doctor:?}");
    // After a new sign-in, `get` works again.
    expire(&server, &home);
    home.run("get").ok();
}

#[test]
fn tokens_that_arrive_expired_are_refreshed_only_once_in_30_s() {
    let server = TokenServer::start();
    let home = expired(&server);
    let expired_at_once = || {
        Act::Change(|mut answer| {
            answer["expires_in"] = 0.into();
            answer
        })
    };
    server.script([expired_at_once(), expired_at_once()]);
    assert_eq!(home.run("get").line(), "access-canary-2");
    for _ in 0..10 {
        home.run("get").failed(4);
    }
    assert_eq!(server.calls(), 1);
    // `refresh` always calls the server.
    home.run("refresh").ok();
    assert_eq!(server.calls(), 2);
}

#[test]
fn a_refused_refresh_does_not_withhold_an_access_token_that_is_still_accepted() {
    let server = TokenServer::start();
    let home = expired(&server);
    // 3 minutes before its true expiry, it counts as expired, but the server accepts it.
    let access = sign_in_for(&server, &home, 3);
    server.script([Act::error(400, "invalid_grant")]);
    for _ in 0..2 {
        let got = home.run("get");
        assert_eq!((got.code, got.out.trim_end()), (0, &*access), "{got:?}");
        assert!(got.err.contains("sign in again"), "{got:?}");
    }
    home.run("refresh").failed(4);
    assert_eq!(server.calls(), 1);
}

#[test]
fn a_backup_of_tokens_in_doubt_warns_and_restores_the_doubt() {
    let server = TokenServer::start();
    let home = expired(&server);
    server.spend();
    server.script([Act::answer(500, ""), Act::answer(500, "")]);
    home.run("get").failed(1);
    let backup = home.run("backup --to plaintext:copy.json");
    assert!(backup.err.contains("warning: the refresh token may have been spent"));
    backup.ok();
    home.run("clear").ok();
    home.run("restore --from plaintext:copy.json").ok();
    assert!(home.run("status").out.contains("a refresh was cut off"));
    home.run("get").failed(8);
}

#[cfg(target_os = "linux")]
#[test]
fn clear_with_revoke_waits_for_a_refresh_and_revokes_the_new_tokens() {
    let server = TokenServer::start();
    let home = expired(&server);
    let held = server.hold();
    let refreshing = home.command().arg("get").stdout(Stdio::piped()).spawn().unwrap();
    let stream = held.wait();
    let clearing = home.command().args(["clear", "--revoke"]).spawn().unwrap();
    // `clear` waits for the lease: it opens the file again and again.
    let opened = || {
        let files = std::fs::read_dir(format!("/proc/{}/fd", clearing.id())).ok()?;
        let links = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        Some(links.map(|link| link.display().to_string()).collect::<Vec<_>>())
    };
    while !opened().is_some_and(|files| files.iter().any(|it| it.ends_with(".age.lease"))) {
        std::thread::yield_now();
    }
    assert!(!server.is_revoked("refresh-canary-1"), "nothing is revoked during a refresh");
    drop(stream);
    held.release();
    let refreshed = refreshing.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(refreshed.stdout).unwrap(), "access-canary-2\n");
    assert!(clearing.wait_with_output().unwrap().status.success());
    home.run("get").failed(3);
    assert!(server.is_revoked("refresh-canary-2"), "the new refresh token is not revoked");
}
