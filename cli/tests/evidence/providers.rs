//! Each command with each program of Debian that provides a keychain: where the keychain can be used, and where
//! it would have to ask the user.

use std::io::Write;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use crate::figures::figure;
use crate::session::Session;
use crate::support::available;

/// No command may take longer. Nobody answers a dialog here.
const LIMIT: Duration = Duration::from_secs(20);

const PARTS: [&str; 9] = [
    "dbus-daemon",
    "dbus-monitor",
    "gdbus",
    "gnome-keyring-daemon",
    "keepassxc",
    "keepassxc-cli",
    "kwalletd5",
    "python3",
    "secret-tool",
];

/// A way to start a provider.
type Start = fn(&mut Session);

const PROVIDERS: [(&str, Start, Start); 3] = [
    ("gnome-keyring", Session::start_keychain, |session| {
        session.start_keychain();
        session.lock_keychain();
    }),
    ("KWallet", Session::start_kwallet, Session::start_closed_kwallet),
    (
        "KeePassXC",
        |session| session.start_keepassxc(false),
        |session| session.start_keepassxc(true),
    ),
];

fn run(session: &Session, arguments: &[&str], input: &str) -> Output {
    let mut command = session.command(env!("CARGO_BIN_EXE_tokenkeep"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().unwrap();
    // Not each command reads its input.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(start.elapsed() < LIMIT, "{arguments:?} took {:?}", start.elapsed());
    output
}

/// Returns whether the keychain still holds an item of this crate.
fn has_item(session: &Session, service: &str, account: &str) -> bool {
    let found = ["search", "--all", "service", service, "username", account];
    let found = session.command("secret-tool").args(found).output().unwrap();
    String::from_utf8_lossy(&[found.stdout, found.stderr].concat()).contains(service)
}

#[test]
fn each_provider_is_used_without_a_prompt_or_says_what_keeps_it_from_that() {
    let test = "providers::each_provider_is_used_without_a_prompt_or_says_what_keeps_it_from_that";
    if !PARTS.iter().all(|part| available(test, part)) {
        return;
    }
    let mut commands = 0;
    for (name, usable, asking) in PROVIDERS {
        let mut session = Session::without_keychain();
        usable(&mut session);
        let steps: [(&[&str], &str); 7] = [
            (&["init"], ""),
            (&["set"], "canary-a"),
            (&["get"], ""),
            (&["status"], ""),
            (&["doctor"], ""),
            (&["clear"], ""),
            (&["set"], "canary-b"),
        ];
        for (arguments, input) in steps {
            let output = run(&session, arguments, input);
            assert!(output.status.success(), "{name}: {arguments:?}: {output:?}");
            assert!(!has_item(&session, "tokenkeep:", "trial"), "{name}: the trial left its item");
            commands += 1;
        }

        asking(&mut session);
        let prompts = session.watch("org.freedesktop.Secret.Prompt", "Prompt");
        let steps: [(&[&str], i32); 4] =
            [(&["get"], 5), (&["--profile", "other", "init"], 5), (&["doctor"], 1), (&["set"], 5)];
        for (arguments, code) in steps {
            let output = run(&session, arguments, "canary-c");
            assert_eq!(output.status.code(), Some(code), "{name}: {arguments:?}: {output:?}");
            let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            let advice = if name == "KeePassXC" {
                "Confirm when passwords are retrieved by clients"
            } else {
                "unlock the keychain"
            };
            assert!(said.contains(advice), "{name}: {arguments:?}: {said}");
            commands += 1;
        }
        assert_eq!(prompts.calls(&session), 0, "{name}: a dialog could have appeared");
        // What was there stays, and is found again.
        usable(&mut session);
        let got = run(&session, &["get"], "");
        assert_eq!(got.stdout, b"canary-b\n", "{name}: {got:?}");
        commands += 1;
    }
    figure(
        "Secret Service providers",
        format!("{commands} commands with gnome-keyring, KWallet and KeePassXC, usable and asking"),
        "0 prompts, 0 items left by a trial, 0 tokens lost",
    );
}
