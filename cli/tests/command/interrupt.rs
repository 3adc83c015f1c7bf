//! Signals during a refresh, and a store that cannot be reached when the new tokens are saved.
#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader, Lines, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::home::{Home, done};
use crate::refresh_command::{expire, expired, sign_in_for};
use crate::support::available;
use crate::token_server::{Act, TokenServer};

/// A command that was started, and the lines of its standard error.
struct Running {
    child: Child,
    says: Lines<BufReader<ChildStderr>>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let says = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, says }
    }

    fn get(home: &Home) -> Self {
        Self::start(with_default_signals(home).arg("get"))
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn hear(&mut self, words: &str) {
        let line = self.says.next().unwrap().unwrap();
        assert!(line.contains(words), "{line}");
    }

    /// Waits for the command, and returns its exit status and its standard output.
    fn end(mut self) -> (ExitStatus, String) {
        let mut printed = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
        (self.child.wait().unwrap(), printed)
    }
}

/// A store that was moved away: its original path, and its current path.
struct Away(PathBuf, PathBuf);

impl Away {
    fn take(home: &Home) -> Self {
        let away = Self(home.record(), home.path("state/aside"));
        fs::create_dir(&away.1).unwrap();
        away.exchange();
        away
    }

    fn bring_back(self) {
        self.exchange();
        fs::remove_dir(self.1).unwrap();
    }

    /// Swaps both paths atomically. A record that is missing for a moment would mean "signed out".
    fn exchange(&self) {
        use rustix::fs::{CWD, RenameFlags, renameat_with};

        renameat_with(CWD, &self.0, CWD, &self.1, RenameFlags::EXCHANGE).unwrap();
    }
}

/// Returns the command with default signal handling, also if the tests themselves ignore signals.
fn with_default_signals(home: &Home) -> Command {
    const START: &str = "import os, signal, sys
for number in signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM:
    signal.signal(number, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])";
    let mut command = home.wrapped("python3");
    command.args(["-c", START, env!("CARGO_BIN_EXE_tokenkeep")]);
    command
}

#[test]
fn a_signal_waits_for_a_refresh_and_its_result_is_kept() {
    if !available("interrupt::a_signal_waits_for_a_refresh_and_its_result_is_kept", "python3") {
        return;
    }
    let server = TokenServer::start();
    let home = expired(&server);
    for (nth, signal) in [Signal::INT, Signal::TERM, Signal::HUP].into_iter().enumerate() {
        let held = server.hold();
        let mut running = Running::get(&home);
        held.wait();
        running.send(signal);
        // A parent process may send the signal of the terminal a second time.
        running.send(signal);
        running.hear("finishing a refresh");
        // If a terminal is closed, its shell and the terminal itself send SIGHUP.
        running.send(Signal::HUP);
        held.release();
        let (status, printed) = running.end();
        assert_eq!(status.signal(), Some(signal.as_raw()), "{printed}");
        assert_eq!(printed, "", "after a signal, no token is printed");
        let refreshed = format!("access-canary-{}", 2 * (nth + 1));
        assert_eq!(home.run("get").line(), refreshed);
        assert_eq!(server.calls(), nth + 1);
        expire(&server, &home);
    }
    assert!(!server.has_ended_a_session());
}

#[test]
fn a_second_signal_ends_a_command_at_once() {
    if !available("interrupt::a_second_signal_ends_a_command_at_once", "python3") {
        return;
    }
    let server = TokenServer::start();
    let home = expired(&server);
    let held = server.hold();
    let mut running = Running::get(&home);
    held.wait();
    running.send(Signal::INT);
    running.hear("once more ends this at once");
    // A second signal that comes very soon counts as a copy of the first, so it is repeated.
    while running.child.try_wait().unwrap().is_none() {
        running.send(Signal::TERM);
        std::thread::yield_now();
    }
    assert_eq!(running.end().0.signal(), Some(Signal::TERM.as_raw()));
    held.release();
    server.wait_for_issued(2);
    home.run("get").failed(8);
}

#[test]
fn sigquit_does_not_wait_for_a_refresh() {
    let test = "interrupt::sigquit_does_not_wait_for_a_refresh";
    if !available(test, "python3") {
        return;
    }
    let server = TokenServer::start();
    let home = expired(&server);
    let held = server.hold();
    let running = Running::get(&home);
    held.wait();
    running.send(Signal::QUIT);
    assert_eq!(running.end().0.signal(), Some(Signal::QUIT.as_raw()));
    held.release();
}

#[test]
fn a_signal_that_is_ignored_at_the_start_stays_ignored() {
    let server = TokenServer::start();
    let home = expired(&server);
    let held = server.hold();
    let mut nohup = home.wrapped("sh");
    let program = env!("CARGO_BIN_EXE_tokenkeep");
    nohup.args(["-c", &format!("trap '' HUP; exec {program} get")]);
    let running = Running::start(&mut nohup);
    held.wait();
    running.send(Signal::HUP);
    held.release();
    let (status, printed) = running.end();
    assert_eq!((status.code(), printed.as_str()), (Some(0), "access-canary-2\n"));
}

#[test]
fn a_program_that_exec_starts_has_the_original_signal_handling() {
    if !available(
        "interrupt::a_program_that_exec_starts_has_the_original_signal_handling",
        "python3",
    ) {
        return;
    }
    let server = TokenServer::start();
    let home = expired(&server);
    let mut exec = with_default_signals(&home);
    exec.args(["exec", "--", "sh", "-c", "echo started; kill -INT $$; echo goes on"]);
    let (status, printed) = Running::start(&mut exec).end();
    assert_eq!((status.signal(), printed.as_str()), (Some(Signal::INT.as_raw()), "started\n"));
    assert_eq!(server.calls(), 1);
}

#[test]
fn tokens_that_cannot_be_saved_are_reported_and_saved_once_the_store_is_back() {
    let server = TokenServer::start();
    let home = expired(&server);
    let held = server.hold();
    let mut running = Running::start(home.command().arg("get"));
    held.wait();
    let away = Away::take(&home);
    held.release();
    running.hear("the new tokens could not be saved yet, which is tried again: ");
    away.bring_back();
    let (status, printed) = running.end();
    assert_eq!((status.code(), printed.as_str()), (Some(0), "access-canary-2\n"));
    assert_eq!(home.run("get").line(), "access-canary-2");
    assert_eq!(server.calls(), 1);
}

#[test]
fn a_signal_waits_for_tokens_that_are_not_saved_yet() {
    let test = "interrupt::a_signal_waits_for_tokens_that_are_not_saved_yet";
    if !available(test, "python3") {
        return;
    }
    let server = TokenServer::start();
    let home = expired(&server);
    let held = server.hold();
    let mut running = Running::get(&home);
    held.wait();
    let away = Away::take(&home);
    held.release();
    running.hear("the new tokens could not be saved yet, which is tried again: ");
    running.send(Signal::TERM);
    running.hear("finishing a refresh");
    away.bring_back();
    let (status, printed) = running.end();
    // The token that is printed before the exit is accepted.
    assert_eq!(
        (status.signal(), printed.as_str()),
        (Some(Signal::TERM.as_raw()), "access-canary-2\n")
    );
    assert_eq!(home.run("get").line(), "access-canary-2");
}

#[test]
fn an_accepted_token_that_could_not_be_refreshed_is_printed_with_a_warning() {
    let server = TokenServer::start();
    let home = expired(&server);
    let access = sign_in_for(&server, &home, 10);
    server.script([Act::answer(503, "canary"), Act::answer(503, "canary")]);
    let got = done(home.command().arg("get"), "");
    assert_eq!((got.code, got.out.trim_end()), (0, &*access));
    let expected = "warning: these tokens were not refreshed: the refresh failed temporarily (";
    assert!(got.err.starts_with(expected) && got.err.lines().count() == 1, "{}", got.err);
    assert!(!got.err.contains("canary"), "{}", got.err);
}
