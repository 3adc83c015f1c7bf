//! The output that README and docs/ show is what the programs print.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{example, output, scratch};

const PROJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Returns the fenced block of this page that begins with the line `first`, without that line.
#[cfg(unix)]
fn block(page: &str, first: &str) -> String {
    let text = fs::read_to_string(Path::new(PROJECT).join(page)).unwrap();
    let block = text.split("```").find_map(|block| block.split_once(&format!("{first}\n")));
    block.unwrap_or_else(|| panic!("{page} has a block that begins with {first}")).1.to_owned()
}

/// Removes what differs between two runs: the random names of temporary directories, the time until an
/// expiry, and recipients.
#[cfg(unix)]
pub(crate) fn without_chance(text: &str) -> String {
    let mut plain = text.to_owned();
    for (before, chance) in [
        ("tokenkeep-quickstart-", char::is_alphanumeric as fn(char) -> bool),
        ("tokenkeep-tour-", char::is_alphanumeric),
        ("due in ", char::is_numeric),
        ("expire in ", char::is_numeric),
        ("expires in ", char::is_numeric),
        ("age1", char::is_alphanumeric),
    ] {
        let mut parts = plain.split(before);
        let mut without = parts.next().unwrap().to_owned();
        for part in parts {
            without += before;
            without += part.trim_start_matches(chance);
        }
        plain = without;
    }
    plain
}

#[cfg(unix)]
#[test]
fn the_readme_shows_what_the_tour_prints() {
    let output = Command::new(Path::new(PROJECT).join("scripts/tour"))
        .arg(Path::new(env!("CARGO_BIN_EXE_tokenkeep")).parent().unwrap())
        .output()
        .unwrap();
    let printed = without_chance(&String::from_utf8(output.stdout).unwrap());
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    let shown = without_chance(&block("README.md", "$ scripts/tour"));
    assert_eq!(printed.trim_end(), shown.trim_end());
}

#[cfg(unix)]
#[test]
fn the_tour_says_that_it_builds_and_finds_the_program_in_any_target_directory() {
    use std::os::unix::fs::PermissionsExt;

    let dir = scratch();
    // Replaces cargo, which would take minutes. It prints the path of the program as cargo does.
    let elsewhere = dir.path().join("a target/debug");
    fs::create_dir_all(&elsewhere).unwrap();
    let program = elsewhere.join("tokenkeep");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_tokenkeep"), &program).unwrap();
    let artifact = serde_json::json!({
        "reason": "compiler-artifact", "filenames": [program], "executable": program, "fresh": false
    });
    let cargo = dir.path().join("cargo");
    let script = format!(
        "#!/bin/sh\necho \"   Compiling into $CARGO_TARGET_DIR\" >&2\nprintf '%s\\n' \
         '{{\"reason\":\"compiler-artifact\",\"executable\":null}}' '{artifact}' \
         '{{\"reason\":\"build-finished\",\"success\":true}}'\n"
    );
    fs::write(&cargo, script).unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let output = Command::new(Path::new(PROJECT).join("scripts/tour"))
        .current_dir(dir.path())
        .env("PATH", path)
        .env("CARGO_TARGET_DIR", "a target")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.starts_with("Building the command; "), "{said}");
    // The path is relative to the current directory, as for cargo.
    let target = dir.path().join("a target");
    assert!(said.contains(&format!("Compiling into {}", target.display())), "{said}");
    let printed = without_chance(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(
        printed.trim_end(),
        without_chance(&block("README.md", "$ scripts/tour")).trim_end()
    );
}

#[cfg(unix)]
#[test]
fn the_guide_shows_what_the_quickstart_prints() {
    // The umask decides about the permissions of the plaintext file.
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 022; exec \"$0\""]).arg(example("quickstart"));
    let output = shell.env("TMPDIR", "/tmp").output().unwrap();
    assert!(output.status.success());
    let printed = without_chance(&String::from_utf8(output.stdout).unwrap());
    let shown = block("docs/guide.md", "$ cargo run --example quickstart");
    assert_eq!(printed, without_chance(&shown));
}

#[test]
fn the_quickstart_reads_a_given_file_and_does_not_change_it() {
    let dir = scratch();
    let path = dir.path().join("mine.json");
    let json = r#"{"access_token":"canary","refresh_token":"canary","expires_at":null}"#;
    fs::write(&path, json).unwrap();
    let output = output(Command::new(example("quickstart")).arg(&path));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && printed.contains("Fresh, and has no expiry"), "{printed}");
    assert!(!printed.contains("canary"));
    assert_eq!(fs::read_to_string(&path).unwrap(), json);
}

#[test]
fn the_headless_example_runs_on_a_credentials_directory() {
    let dir = scratch();
    let credentials = dir.path().join("credentials");
    let run = |input: &str| {
        fs::write(dir.path().join("input"), input).unwrap();
        let mut command = Command::new(example("headless"));
        command
            .env("CREDENTIALS_DIRECTORY", &credentials)
            .env("STATE_DIRECTORY", dir.path().join("state"))
            .stdin(fs::File::open(dir.path().join("input")).unwrap());
        let output = output(&mut command);
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let record = fs::read_to_string(Path::new(PROJECT).join("examples/tokens.json"));
    let missing = run(&record.unwrap());
    assert!(missing.contains("LoadCredential=tokens.key:/path/to/key.txt"), "{missing}");

    let make = tokenkeep::AgeKey::create_identity_file(credentials.join("tokens.key"));
    crate::support::block_on(make).unwrap();
    let broken = run("{");
    assert!(broken.contains("standard input is damaged: it ends too early"), "{broken}");
    let first = run(r#"{"access_token":"canary"}"#);
    assert!(first.contains("took the tokens from standard input"), "{first}");
    let second = run("");
    assert!(second.starts_with("AccessToken([REDACTED]) from age file"), "{second}");
    assert!(!first.contains("canary"));
}
