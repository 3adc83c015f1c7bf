//! Refreshing with the command, from many processes and from ones that are killed.
#![cfg(unix)]

use std::process::Stdio;

use crate::command::{Home, done};
use crate::login::home;
use crate::support::can_trace;
use crate::token_server::{Act, TokenServer};

/// A home whose access token has expired.
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

#[test]
fn refresh_replaces_the_tokens_and_says_how_long_they_are_good_for() {
    let server = TokenServer::start();
    let home = expired(&server);
    let refreshed = home.run("refresh");
    assert!(refreshed.err.starts_with("refreshed: fresh; due in 44 minutes"), "{refreshed:?}");
    assert!(!refreshed.err.contains("canary"), "{refreshed:?}");
    assert_eq!(refreshed.ok(), "");
    assert_eq!(home.run("get").ok(), "access-canary-2");
    // It does so even if they are fresh.
    home.run("refresh").ok();
    assert_eq!(home.run("get").ok(), "access-canary-3");
    assert_eq!(server.calls(), 2);
}

#[test]
fn exec_hands_over_a_refreshed_token() {
    let server = TokenServer::start();
    let home = expired(&server);
    let mut exec = home.command();
    exec.args(["exec", "--prefix", "APP", "--", "sh", "-c", "printf %s $APP_ACCESS_TOKEN"]);
    assert_eq!(done(&mut exec, "").ok(), "access-canary-2");
    assert_eq!(home.run("get").ok(), "access-canary-2");
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
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "access-canary-2");
    }
    assert_eq!(server.calls(), 1);
    assert!(!server.has_ended_a_session());
}

#[test]
fn a_command_killed_with_its_answer_on_the_way_is_told_of_by_the_next_one() {
    let server = TokenServer::start();
    let home = expired(&server);
    let held = server.hold();
    let mut killed = home.command().arg("get").stdout(Stdio::null()).spawn().unwrap();
    held.wait();
    assert!(!home.run("status").out.contains("cut off"), "it is under way");
    killed.kill().unwrap();
    killed.wait().unwrap();
    // The request was carried out all the same.
    held.release();
    server.wait_for_issued(2);
    assert!(home.run("status").out.contains("a refresh was cut off"));
    let said = home.run("get").failed(8);
    assert!(
        said.contains("the refresh token may have been spent by an unfinished refresh at 20"),
        "{said}"
    );
    assert!(said.contains("sign in again"), "{said}");
    // Nothing was deleted, and a new sign-in mends it.
    assert!(home.run("get --field refresh").ok().starts_with("refresh-canary-"));
    expire(&server, &home);
    assert!(!home.run("status").out.contains("cut off"), "it is mended");
    home.run("get").ok();
}

#[test]
fn rekey_waits_for_a_refresh_and_what_came_of_it_is_sealed_to_the_new_keys() {
    if !can_trace("rekey_waits_for_a_refresh_and_what_came_of_it_is_sealed_to_the_new_keys") {
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
    // It is as far as it can come once it asks for the lease.
    let calls = || std::fs::read_to_string(home.path("calls")).unwrap_or_default();
    while !calls().contains("default.age.lease") {
        assert!(rekey.try_wait().unwrap().is_none(), "it waits");
    }
    held.release();
    let refreshed = refreshing.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(refreshed.stdout).unwrap(), "access-canary-2");
    assert!(rekey.wait().unwrap().success());
    assert_eq!(home.run("get").ok(), "access-canary-2");
    let record = home.path("state/tokenkeep/default.age");
    for key in ["config/keys/default.txt", "escrow.txt"] {
        let url = format!("age:{}?identity={key}", record.display());
        home.run(&format!("get --store {url}")).failed(6);
    }
}

#[test]
fn what_the_server_says_decides_about_the_exit_code() {
    let server = TokenServer::start();
    let home = expired(&server);
    server.script([Act::error(429, "slow_down")]);
    assert!(home.run("get").failed(1).contains("try again later"));
    server.script([Act::error(400, "invalid_grant")]);
    assert!(home.run("get").failed(4).contains("sign in again"));
    // The next process does not ask again.
    assert!(home.run("get").failed(4).contains("sign in again"));
    // No server is asked for what is no longer there.
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
