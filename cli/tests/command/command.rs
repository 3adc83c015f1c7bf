//! The `tokenkeep` command, as people and scripts use it.

use std::fs;
#[cfg(target_os = "linux")]
use std::io::Write;
#[cfg(target_os = "linux")]
use std::path::PathBuf;
#[cfg(unix)]
use std::process::Command;
use std::process::Stdio;

use crate::home::{Done, Home, SEED, done};
#[cfg(target_os = "linux")]
use crate::support::scratch;
use crate::support::start;
#[cfg(unix)]
use crate::support::{available, can_trace};

/// A JWT with these claims.
fn jwt(claims: &str) -> String {
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;

    let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.c2ln", part(r#"{"alg":"HS256"}"#), part(claims))
}

#[test]
fn version_shows_the_name_of_the_command_and_not_of_the_package() {
    let version = concat!("tokenkeep ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(Home::new().run("--version").ok(), version);
}

#[test]
fn the_expiry_of_a_jwt_comes_from_its_claims() {
    let home = Home::signed_in();
    let now = tokenkeep::chrono::Utc::now().timestamp();
    let (old, lately) = (now - 30 * 86400, now - 1800);
    let dead = jwt(&format!(r#"{{"iat":{old},"exp":{}}}"#, old + 3600));
    let alive = jwt(&format!(r#"{{"iat":{lately},"exp":{}}}"#, lately + 3600));
    for (input, note) in [
        (
            dead.clone(),
            "note: this access token has expired; sign in again, and give the new tokens to `tokenkeep set --profile default`\n",
        ),
        (
            format!(r#"{{"access_token":"{dead}","refresh_token":"r"}}"#),
            "note: this access token has expired; `tokenkeep refresh` gets a new one\n",
        ),
    ] {
        let set = home.feed("set", &input);
        assert_eq!(set.err, note);
        set.ok();
        home.run("get").failed(4);
        assert!(home.run("status").out.contains("expired 29 days ago"));
    }
    home.feed("set", &alive).ok();
    assert!(home.run("status").out.contains("expire in 29 minutes"));
    home.run("get").ok();
}

#[test]
fn the_expiry_of_a_token_answer_comes_from_its_expires_in() {
    let home = Home::signed_in();
    for (lifetime, expected) in [
        ("3600", "expire in 59 minutes"),
        ("\"7200\"", "expire in 1 hour"),
        ("3600.5", "expire in 59 minutes"),
        ("0", "expired"),
        ("-5", "expired"),
    ] {
        let answer = format!(r#"{{"access_token":"canary-b","expires_in":{lifetime}}}"#);
        home.feed("set", &answer).ok();
        let status = home.run("status").out;
        assert!(status.contains(expected), "{lifetime}: {status}");
    }
    // If the answer has an `expires_at`, `expires_in` is ignored.
    let both = r#"{"access_token":"b","expires_in":5,"expires_at":"2099-01-01T00:00:00Z"}"#;
    home.feed("set", both).ok();
    assert!(home.run("status").out.contains("2099-01-01"));
}

#[test]
fn tokens_go_in_and_come_out() {
    let home = Home::signed_in();
    assert_eq!(home.run("get").line(), "canary-a");
    assert_eq!(home.run("get --field refresh").line(), "canary-r");
    assert_eq!(home.run("get --header").line(), "Authorization: Bearer canary-a");
    let record: serde_json::Value =
        serde_json::from_str(&home.run("get --field json").ok()).unwrap();
    assert_eq!(record["refresh_token"], "canary-r");
    home.feed("set", " canary-bare\n").ok();
    assert_eq!(home.run("get").line(), "canary-bare");
    assert!(home.run("get --field refresh").failed(3).contains("no refresh token"));
    home.run("clear").ok();
    home.run("get").failed(3);
    assert_eq!(home.run("status").code, 3);
    home.run("clear").ok();
}

#[cfg(unix)]
#[test]
fn get_prints_a_whole_line_into_a_pipe_for_each_field() {
    let home = Home::signed_in();
    for (options, begins) in [
        ("", "canary-a"),
        ("--header", "Authorization: Bearer canary-a"),
        ("--field access", "canary-a"),
        ("--field refresh", "canary-r"),
    ] {
        let mut shell = home.wrapped("bash");
        let line = format!("set -e; read -r line < <(\"$0\" get {options}); printf %s \"$line\"");
        shell.args(["-c", &line, env!("CARGO_BIN_EXE_tokenkeep")]);
        let read = done(&mut shell, "").ok();
        assert!(read.starts_with(begins), "{options}: {read}");
        assert_eq!(home.run(format!("get {options}").trim_end()).line(), read);
    }
    let record = home.run("get --field json").ok();
    assert!(record.ends_with("}\n") && !record.ends_with("\n\n"), "{record}");
}

/// Runs each command when it succeeds, and in the most common states.
///
/// `TRYCMD=overwrite` records the current output, as it does for the other files of `tests/help`.
#[cfg(unix)]
#[test]
fn a_session_reads_as_recorded() {
    let home = Home::new();
    fs::write(home.path("tokens.json"), SEED).unwrap();
    let readable_by_all = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(home.path("tokens.json"), readable_by_all).unwrap();
    let mut transcript = String::new();
    for (line, input) in [
        ("init", ""),
        ("list", ""),
        ("list --json", ""),
        ("status", ""),
        ("get", ""),
        ("set", SEED),
        ("status", ""),
        ("get", ""),
        ("get --field refresh", ""),
        ("get --header", ""),
        ("exec -- sh -c echo", ""),
        ("refresh", ""),
        ("keygen -o escrow.txt", ""),
        ("rekey --identity escrow.txt", ""),
        ("backup --to plaintext:backup.json", ""),
        ("backup --to plaintext:tokens.json", ""),
        ("migrate --to plaintext:moved.json --dry-run", ""),
        ("migrate --to plaintext:moved.json", ""),
        ("status", ""),
        ("doctor", ""),
        ("clear", ""),
        ("restore --from plaintext:backup.json", ""),
        ("set", "{"),
        ("migrate --from plaintext:tokens.json --to plaintext:moved.json", ""),
        ("set", &SEED.replace("2099", "2020")),
        ("get", ""),
        ("clear", ""),
    ] {
        let done = home.feed(line, input);
        // The rest of the output depends on the machine.
        let out = done.out.split("system\t").next().unwrap();
        transcript += &format!("$ tokenkeep {line}\n{out}");
        if !out.is_empty() && !out.ends_with('\n') {
            transcript += "(no newline)\n";
        }
        transcript += &format!("{}? {}\n\n", done.err, done.code);
    }
    let transcript = transcript.replace(home.directory().to_str().unwrap(), "HOME");
    let transcript = crate::readme::without_chance(&transcript);
    let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/help/session.txt");
    if std::env::var_os("TRYCMD").is_some_and(|value| value == "overwrite") {
        fs::write(recorded, &transcript).unwrap();
    }
    assert_eq!(transcript, fs::read_to_string(recorded).unwrap());
}

#[test]
fn input_that_is_not_a_token_is_refused_and_the_old_tokens_stay() {
    let home = Home::signed_in();
    for input in [
        "",
        "  \n",
        "canary canary",
        "canary\u{e9}",
        "\"canary\"",
        "AGE-SECRET-KEY-1CANARY",
        "{\"access_token\":\"canary",
        "{\"access_token\":5}",
        "{\"access_token\":\"canary\",\"expiry\":\"canary\"}",
        "{\"access_token\":\"canary\",\"expires_in\":true}",
        "Bearer canary",
        "CANARY=canary",
        "<html>canary</html>",
        "{\"access_token\":\"canary\",\"version\":99}",
        "{\"access_token\":\"canary\",\"expires_at\":\"canary\"}",
        &"canary".repeat(20_000),
    ] {
        // The error is about the input, and not about the store.
        let message = home.feed("set", input).failed(2);
        assert!(message.contains("standard input"), "{message}");
    }
    #[cfg(unix)]
    {
        let directory = fs::File::open(home.path("")).unwrap();
        let output = home.command().arg("set").stdin(directory).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.starts_with("tokenkeep: cannot read standard input: "), "{said}");
    }
    assert_eq!(home.run("get").line(), "canary-a");
}

#[cfg(unix)]
#[test]
fn exit_codes_tell_what_is_wrong() {
    use std::os::unix::fs::PermissionsExt;

    let home = Home::signed_in();
    home.feed("set", &SEED.replace("2099", "2020")).ok();
    home.run("get").failed(4);
    home.run("exec -- true").failed(4);
    assert_eq!(home.run("status").code, 4);
    home.run("init").failed(7);

    let record = home.record();
    fs::set_permissions(&record, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(home.run("get").failed(5).contains("chmod 600"));
    let status = home.run("status");
    assert!(status.out.contains("warning  ") && status.out.contains("chmod 600"), "{status:?}");
    fs::set_permissions(&record, fs::Permissions::from_mode(0o600)).unwrap();

    let sealed = fs::read(&record).unwrap();
    fs::write(&record, &sealed[..100]).unwrap();
    home.run("get").failed(6);
    home.feed("set", SEED).failed(6);
    assert_eq!(home.run("doctor").code, 1);
    fs::write(&record, sealed).unwrap();

    fs::rename(home.path("config/keys/default.txt"), home.path("elsewhere")).unwrap();
    home.run("get").failed(5);
    home.run("refresh").failed(5);
    fs::rename(home.path("elsewhere"), home.path("config/keys/default.txt")).unwrap();
    assert!(home.run("refresh").failed(2).contains("no [oauth2]"));
}

#[cfg(unix)]
#[test]
fn init_pins_an_age_file_where_there_is_no_keychain_and_says_why() {
    use std::os::unix::fs::MetadataExt;

    let home = Home::new();
    let init = home.run("init");
    assert_eq!((init.code, init.out.as_str(), init.err.lines().count()), (0, "", 2), "{init:?}");
    assert!(init.err.starts_with("age:") && init.err.contains("no bus"), "{init:?}");
    for file in ["config/profiles/default.toml", "config/keys/default.txt"] {
        assert_eq!(fs::metadata(home.path(file)).unwrap().mode() & 0o777, 0o600, "{file}");
    }
    assert_eq!(fs::metadata(home.path("config/profiles")).unwrap().mode() & 0o777, 0o700);
    // A key that an interrupted `init` left behind is used.
    fs::remove_file(home.path("config/profiles/default.toml")).unwrap();
    let key = fs::read(home.path("config/keys/default.txt")).unwrap();
    home.run("init").ok();
    assert_eq!(fs::read(home.path("config/keys/default.txt")).unwrap(), key);
}

#[cfg(target_os = "linux")]
#[test]
fn init_pins_the_keychain_if_it_works_and_nothing_if_it_is_locked() {
    let test = "command::init_pins_the_keychain_if_it_works_and_nothing_if_it_is_locked";
    let parts = ["dbus-daemon", "gnome-keyring-daemon", "gdbus"];
    if !parts.iter().all(|program| available(test, program)) {
        return;
    }
    let session = crate::session::Session::with_keychain();
    let run = |line: &str, input: &str| {
        let mut command = session.command(env!("CARGO_BIN_EXE_tokenkeep"));
        let config = session.state().join("config");
        done(command.args(line.split(' ')).env("TOKENKEEP_CONFIG_DIR", config), input)
    };
    let init = run("init", "");
    assert!(init.err.starts_with("keychain:tokenkeep/default, because"), "{init:?}");
    run("set", SEED).ok();
    assert_eq!(run("get", "").line(), "canary-a");
    let doctor = run("doctor", "").ok();
    assert!(doctor.contains("keychain\tworks"), "{doctor}");

    session.lock_keychain();
    let locked = run("init --profile other", "").failed(5);
    assert!(locked.contains("the keychain is locked"), "{locked}");
    assert!(!session.state().join("config/profiles/other.toml").exists());
    let doctor = run("doctor", "");
    assert_eq!(doctor.code, 1, "{doctor:?}");
    assert!(doctor.out.contains("keychain\tlocked"), "{doctor:?}");

    // `clear` removes the tokens, and says that it could not remove their key.
    let cleared = run("clear", "").failed(5);
    assert!(cleared.contains("the tokens are removed and their key is not"), "{cleared}");
    assert!(cleared.contains("--allow-prompt"), "{cleared}");
    run("get", "").failed(3);
}

#[test]
fn only_one_of_eight_inits_at_the_same_time_succeeds() {
    let home = Home::new();
    let children: Vec<_> = (0..8)
        .map(|n| {
            let store = format!("plaintext:{n}.json");
            let mut command = home.command();
            start(command.args(["init", "--store", &store]).stderr(Stdio::null()))
        })
        .collect();
    let codes: Vec<i32> =
        children.into_iter().map(|mut child| child.wait().unwrap().code().unwrap()).collect();
    assert_eq!(codes.iter().filter(|&&code| code == 0).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|&&code| code == 7).count(), 7, "{codes:?}");
}

#[test]
fn plaintext_is_used_only_on_request_and_always_with_a_warning() {
    let home = Home::new();
    let init = home.run("init --store plaintext:tokens.json");
    assert!(init.err.contains("WARNING: plaintext"), "{init:?}");
    home.feed("set", SEED).ok();
    for _ in 0..2 {
        let status = home.run("status").ok();
        assert!(status.contains("warning  the tokens are in plaintext"), "{status}");
    }
    let status: serde_json::Value = serde_json::from_str(&home.run("status --json").ok()).unwrap();
    assert_eq!(status["warnings"].as_array().unwrap().len(), 1);
    assert_eq!(status["state"], "fresh");
    assert_eq!(status["has_refresh_token"], true);
}

#[test]
fn status_says_when_tokens_and_key_share_a_disk_and_shows_no_secret() {
    let home = Home::signed_in();
    let status = home.run("status").ok();
    assert!(status.contains("on the same disk"), "{status}");
    assert!(status.contains("fresh; due in ") && !status.contains("canary"), "{status}");
    for line in ["status --json", "list", "list --json", "doctor", "doctor --json"] {
        let done = home.run(line);
        assert!(!done.out.contains("canary") && !done.err.contains("canary"), "{done:?}");
    }
}

#[test]
fn doctor_finds_a_refresh_that_was_cut_off_and_asks_for_no_passphrase() {
    let home = Home::signed_in();
    assert!(home.run("doctor").ok().contains("default\tfresh, expires in 7"));
    let intent = format!("{}.intent", home.record().display());
    let left = tokenkeep::store::Intent::new(&"canary-r".into(), tokenkeep::chrono::Utc::now());
    fs::write(&intent, left.to_string()).unwrap();
    let doctor = home.run("doctor");
    assert_eq!(doctor.code, 1, "{doctor:?}");
    assert!(doctor.out.contains("a refresh was cut off"), "{doctor:?}");
    let report: serde_json::Value = serde_json::from_str(&home.run("doctor --json").out).unwrap();
    assert!(report["profiles"][0]["fix"].as_str().unwrap().contains("sign in again"));
    assert_eq!(report["profiles"][0]["tokens"]["state"], "fresh");
    fs::remove_file(&intent).unwrap();

    let mut keygen = home.command();
    let keygen = keygen.args(["keygen", "-o", "locked.txt", "--passphrase"]);
    done(keygen.env("TOKENKEEP_PASSPHRASE", "canary"), "").ok();
    home.run("init --profile locked --store age:locked.age?identity=locked.txt").ok();
    let mut set = home.command();
    let set = set.args(["set", "--profile", "locked"]).env("TOKENKEEP_PASSPHRASE", "canary");
    done(set, SEED).ok();
    assert!(home.run("doctor").ok().contains("locked by a passphrase, which was not asked for"));
}

#[test]
fn the_error_about_an_unusable_profile_names_file_and_line() {
    let home = Home::signed_in();
    let path = home.path("config/profiles/default.toml");
    let good = fs::read_to_string(&path).unwrap();
    for (text, line, words) in [
        (format!("{good}\nsecret = \"canary\"\n"), 3, "unknown setting"),
        (
            format!("{good}[oauth2]\nclient_secret = \"c4n4ry\"\n"),
            3,
            "client_secret takes only \"record\"",
        ),
        (format!("{good}[oauth2]\nclient_id = 5\n"), 3, "wrong type"),
        (
            format!("{good}[oauth2]\nclient_id = \"app\"\n"),
            2,
            "needs client_id, and token_url or issuer",
        ),
        (format!("{good}canary canary\n"), 2, "not TOML"),
        (format!("{good}{good}"), 2, "stands here twice"),
        ("store = \"plaintext:tokens.json\"\n".into(), 1, "a relative path"),
        ("store = \"age:/t?identity=k.txt\"\n".into(), 1, "a relative path"),
        ("store = 5\n".into(), 1, "wrong type"),
        ("store = \"vault:\"\n".into(), 1, "the scheme `vault` is unknown"),
        ("# nothing\n".into(), 1, "there is no `store`"),
    ] {
        fs::write(&path, &text).unwrap();
        let message = home.run("get").failed(2);
        assert!(message.contains(&format!("default.toml, line {line}: ")), "{text}: {message}");
        assert!(message.contains(words), "{text}: {message}");
    }
    let oauth2 = "[oauth2]\ntoken_url = \"https://issuer.example/token\"\nclient_id = \"app\"\n\
                  client_secret_env = \"APP_CLIENT_SECRET\"\nscopes = [\"offline_access\"]\n";
    fs::write(&path, format!("# mine\n{good}{oauth2}")).unwrap();
    assert_eq!(home.run("get").line(), "canary-a");
    // A migration changes only the line of the store.
    home.run("migrate --to plaintext:tokens.json").ok();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("# mine\nstore = \"plaintext:") && text.ends_with(oauth2), "{text}");
}

#[cfg(unix)]
#[test]
fn a_profile_that_others_can_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt;

    let home = Home::signed_in();
    let path = home.path("config/profiles/default.toml");
    // The sticky bit protects the files in a directory. On a file it protects nothing.
    for mode in [0o602, 0o1666] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert!(home.run("get").failed(5).contains("others can write to it"));
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    home.run("get").ok();
    // Others could replace the profile if they could write to its directories.
    for directory in ["config/profiles", "config"] {
        let directory = home.path(directory);
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
        let fix = format!("chmod go-w {}`", directory.display());
        for command in ["get", "status", "init --profile other --store plaintext:o.json"] {
            assert!(home.run(command).failed(5).contains(&fix));
        }
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o1777)).unwrap();
        home.run("get").ok();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    }
    assert!(!home.path("config/profiles/other.toml").exists());
    // Only root can change the owner.
    if std::os::unix::fs::chown(&path, Some(65534), None).is_ok() {
        let theirs = "belongs to user 65534";
        assert!(home.run("get").failed(5).contains(theirs));
        // Nothing is created in a directory of another user.
        let directory = home.path("theirs");
        fs::create_dir(&directory).unwrap();
        std::os::unix::fs::chown(&directory, Some(65534), None).unwrap();
        for config in ["theirs", "theirs/below"] {
            let mut init = home.command();
            init.env("TOKENKEEP_CONFIG_DIR", home.path(config));
            init.args(["init", "--store", "plaintext:tokens.json"]);
            assert!(done(&mut init, "").failed(5).contains(theirs));
        }
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    }
}

#[cfg(unix)]
#[test]
fn exec_replaces_its_process_and_passes_only_the_requested_secrets() {
    let home = Home::signed_in();
    let profile = home.path("config/profiles/default.toml");
    let text = fs::read_to_string(&profile).unwrap();
    fs::write(&profile, format!("{text}[oauth2]\ntoken_url = \"https://x.example\"\nclient_id = \"app\"\nclient_secret_env = \"APP_SECRET\"\n")).unwrap();
    let exec = |options: &[&str], script: &str| {
        let mut command = home.command();
        command
            .arg("exec")
            .args(options)
            .args(["--", "sh", "-c", script])
            .env("TOKENKEEP_PASSPHRASE", "canary-p")
            .env("APP_SECRET", "canary-s")
            .env("DEFAULT_REFRESH_TOKEN", "canary-old");
        done(&mut command, "")
    };
    let environment = exec(&[], "env").ok();
    assert!(environment.contains("DEFAULT_ACCESS_TOKEN=canary-a\n"), "{environment}");
    assert_eq!(environment.matches("canary").count(), 1, "{environment}");
    let mut from_environment = home.command();
    from_environment
        .args(["exec", "--store", "env:AXIOM", "--", "env"])
        .env("AXIOM_ACCESS_TOKEN", "canary-a")
        .env("AXIOM_REFRESH_TOKEN", "canary-r");
    let environment = done(&mut from_environment, "").ok();
    assert!(!environment.contains("canary-r"), "{environment}");
    let environment = exec(&["--prefix", "AXIOM", "--with-refresh-token"], "env").ok();
    assert!(environment.contains("AXIOM_ACCESS_TOKEN=canary-a\n"), "{environment}");
    assert!(environment.contains("AXIOM_REFRESH_TOKEN=canary-r\n"), "{environment}");

    assert_eq!(exec(&[], "exit 42").code, 42);
    let mut command = home.command();
    let mut child = command
        .args(["exec", "--", "sh", "-c", "echo $$; ulimit -c; cat /proc/$$/cmdline"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (pid, mut output) = (child.id(), String::new());
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut output).unwrap();
    child.wait().unwrap();
    assert!(output.starts_with(&format!("{pid}\n")), "{output}");
    assert!(!output.contains("canary"), "{output}");
    // tokenkeep turns off core dumps for itself. The program has the original limit.
    let own = Command::new("sh").args(["-c", "ulimit -c"]).output().unwrap().stdout;
    assert_eq!(output.lines().nth(1), String::from_utf8(own).unwrap().lines().next());

    exec(&["--prefix", "1A"], "true").failed(2);
    let mut missing = home.command();
    let missing = done(missing.args(["exec", "--", "no-such-program"]), "");
    assert!(missing.failed(127).contains("cannot run no-such-program"));
}

#[test]
fn a_backup_opens_only_with_the_key_or_passphrase_it_was_sealed_to() {
    let home = Home::signed_in();
    let recipient = home.run("keygen -o escrow.txt").ok();
    let recipient = recipient.trim_end();
    home.run(&format!("backup --to sealed.age --recipient {recipient}")).ok();
    let passphrase = |line: &str, value: &str| {
        let mut command = home.command();
        done(command.args(line.split(' ')).env("TOKENKEEP_PASSPHRASE", value), "")
    };
    passphrase("backup --to locked.age --passphrase", "canary-p").ok();
    home.run("backup --to plaintext:plain.json").ok();
    home.run("backup --to unsaid.age").failed(2);
    home.run(&format!("backup --to plaintext:x.json --recipient {recipient}")).failed(2);
    home.run("restore --from plaintext:plain.json --identity escrow.txt").failed(2);
    assert!(!home.path("unsaid.age").exists());
    assert!(!fs::read_to_string(home.path("sealed.age")).is_ok_and(|text| text.contains("canary")));

    let restored = |done: Done| {
        done.ok();
        assert_eq!(home.run("get").line(), "canary-a");
        home.run("clear").ok();
    };
    home.run("clear").ok();
    restored(home.run("restore --from sealed.age --identity escrow.txt"));
    restored(passphrase("restore --from locked.age", "canary-p"));
    restored(home.run("restore --from plaintext:plain.json"));
    passphrase("restore --from locked.age", "canary-wrong").failed(6);
    home.run("restore --from sealed.age --identity config/keys/default.txt").failed(6);

    // Newer tokens are overwritten only with `--overwrite`.
    home.feed("set", "canary-newer").ok();
    home.run("restore --from sealed.age --identity escrow.txt").failed(7);
    assert_eq!(home.run("get").line(), "canary-newer");
    restored(home.run("restore --from sealed.age --identity escrow.txt --overwrite"));
}

#[test]
fn a_sealed_backup_is_replaced_only_with_overwrite() {
    let home = Home::signed_in();
    let recipient = home.run("keygen -o escrow.txt").ok();
    let order = format!("backup --to sealed.age --recipient {}", recipient.trim_end());
    home.run(&order).ok();
    let before = fs::read(home.path("sealed.age")).unwrap();
    assert!(home.run(&order).failed(7).contains("--overwrite"));
    assert_eq!(fs::read(home.path("sealed.age")).unwrap(), before);
    home.run(&format!("{order} --overwrite")).ok();
    assert_ne!(fs::read(home.path("sealed.age")).unwrap(), before);
    // If there are no tokens to copy, the old backup stays.
    let before = fs::read(home.path("sealed.age")).unwrap();
    home.run("clear").ok();
    home.run(&format!("{order} --overwrite")).failed(3);
    assert_eq!(fs::read(home.path("sealed.age")).unwrap(), before);
}

#[test]
fn a_secret_in_the_wrong_argument_is_not_repeated() {
    let home = Home::signed_in();
    for line in [
        "set canary-a",
        "canary-a",
        "get --canary-a",
        "get --field canary-a",
        "keygen -o key.txt --passphrase=canary-a",
        "rekey --identity AGE-SECRET-KEY-1canary",
        "restore --from x.age --identity AGE-SECRET-KEY-1canary",
        "keygen -o AGE-SECRET-KEY-1canary",
        "backup --to postgres://me:canary@host/db --recipient age1x",
        "restore --from s3://me:canary@bucket/key",
        "get --store age:/x?identity=AGE-SECRET-KEY-1canary",
        "migrate --to postgres://me:canary@host/db",
    ] {
        home.run(line).failed(2);
    }
    let empty = |line: &str| {
        let mut command = home.command();
        done(command.args(line.split(' ')).env("TOKENKEEP_PASSPHRASE", ""), "")
    };
    assert!(empty("backup --to x.age --passphrase").failed(1).contains("is empty"));
    assert!(empty("keygen -o k.txt --passphrase").failed(1).contains("is empty"));
    assert!(!home.path("x.age").exists() && !home.path("k.txt").exists());
}

#[test]
fn two_slots_are_never_confused() {
    let home = Home::signed_in();
    home.run("init --profile other --store plaintext:other.json").ok();
    home.feed("set --profile other", "canary-other").ok();
    let with_variable = |line: &str| {
        let mut command = home.command();
        done(command.args(line.split(' ')).env("TOKENKEEP_STORE", "plaintext:other.json"), "")
    };
    // The command line takes precedence over the environment.
    assert_eq!(with_variable("get").line(), "canary-other");
    assert_eq!(with_variable("get --profile default").line(), "canary-a");
    with_variable("clear --profile none").failed(2);
    home.run("get --profile other --store plaintext:x.json").failed(2);
    // Tokens in `memory:` would be lost at once.
    for line in ["set", "init --profile new", "clear"] {
        home.feed(&format!("{line} --store memory:"), SEED).failed(2);
    }
    home.run("migrate --to memory:").failed(2);
    home.run("backup --to memory:").failed(2);
    assert_eq!(home.run("get").line(), "canary-a");
    // If the source is empty, the profile does not change to a target that has tokens.
    home.run("clear").ok();
    home.run("migrate --to plaintext:other.json").failed(3);
    home.run("get").failed(3);
}

#[test]
fn a_dry_run_has_the_exit_code_of_the_real_run() {
    let home = Home::signed_in();
    home.feed("set --store plaintext:other.json", "canary-other").ok();
    for (target, code) in [("plaintext:new.json", 0), ("plaintext:other.json", 7)] {
        for option in [" --dry-run", ""] {
            let done = home.run(&format!("migrate --to {target}{option}"));
            assert_eq!(done.code, code, "{target}{option}: {done:?}");
        }
    }
    home.run("migrate --to plaintext:new.json --dry-run").failed(2);
    home.run("clear").ok();
    home.run("migrate --to plaintext:newer.json --dry-run").failed(3);
}

#[cfg(unix)]
#[test]
fn a_closed_pipe_causes_no_error_message() {
    let home = Home::new();
    for order in ["completions bash", "man", "--help"] {
        let script = format!("{} {order} | true", env!("CARGO_BIN_EXE_tokenkeep"));
        let done = done(home.wrapped("sh").args(["-c", &script]), "");
        assert_eq!(done.err, "", "{order}");
    }
}

#[cfg(unix)]
#[test]
fn age_accepts_the_keys_that_keygen_makes() {
    if !available("command::age_accepts_the_keys_that_keygen_makes", "age-keygen") {
        return;
    }
    let home = Home::new();
    let recipient = home.run("keygen -o key.txt").ok();
    let printed = done(home.wrapped("age-keygen").args(["-y", "key.txt"]), "").ok();
    assert_eq!(printed, recipient);
    assert!(home.run("keygen -o key.txt").failed(1).contains("it exists"));
    let printed = home.run("keygen");
    let recipient = done(home.wrapped("age-keygen").arg("-y"), &printed.out).ok();
    assert_eq!(printed.err, format!("Public key: {recipient}"));
}

#[test]
fn migrate_also_changes_the_profile() {
    let home = Home::signed_in();
    home.run("migrate --to plaintext:tokens.json --dry-run").ok();
    assert!(home.record().exists() && !home.path("tokens.json").exists());
    home.run("migrate --to plaintext:tokens.json").ok();
    assert!(!home.record().exists());
    assert_eq!(home.run("get").line(), "canary-a");
    // The source is given with `--from`, so the profile does not change.
    home.run("migrate --from plaintext:tokens.json --to plaintext:other.json").ok();
    home.run("get").failed(3);
    home.run("migrate --from plaintext:other.json --to plaintext:tokens.json --keep-source").ok();
    assert_eq!(home.run("get").line(), "canary-a");
    assert!(home.path("other.json").exists());
    home.run("migrate --to plaintext:tokens.json").failed(2);
}

#[cfg(unix)]
#[test]
fn rekey_adds_removes_and_replaces_keys() {
    if !available("command::rekey_adds_removes_and_replaces_keys", "age") {
        return;
    }
    let home = Home::signed_in();
    let escrow = home.run("keygen -o escrow.txt").ok().trim_end().to_owned();
    let new = home.run("keygen -o new.txt").ok().trim_end().to_owned();
    let opens = |key: &str| {
        let record = home.record();
        let arguments = ["-d", "-i", key, record.to_str().unwrap()];
        done(home.wrapped("age").args(arguments), "").code == 0
    };
    let sealed_to = home.run(&format!("rekey --recipient {escrow}")).ok();
    assert!(sealed_to.ends_with(&format!("{escrow}\n")) && sealed_to.lines().count() == 2);
    assert!(opens("config/keys/default.txt") && opens("escrow.txt") && !opens("new.txt"));
    assert_eq!(home.run("rekey --identity new.txt").ok(), format!("{new}\n{escrow}\n"));
    assert!(!opens("config/keys/default.txt") && opens("escrow.txt") && opens("new.txt"));
    assert_eq!(home.run(&format!("rekey --remove-recipient {escrow}")).ok(), format!("{new}\n"));
    assert!(!opens("escrow.txt") && opens("new.txt"));
    assert_eq!(home.run("get").line(), "canary-a");
    home.run("rekey --identity missing.txt").failed(5);
    home.run("rekey --recipient canary").failed(2);
    home.run(&format!("rekey --remove-recipient {escrow}")).failed(2);
    // A store that a profile names can only be rekeyed through the profile.
    let named = format!("age:{}?identity=new.txt", home.record().display());
    let said = home.run(&format!("rekey --store {named} --identity escrow.txt")).failed(2);
    assert!(said.contains("the profile default names this store"), "{said}");
    // Without a profile, the same command succeeds a second time.
    let order = "rekey --store age:other.age?identity=config/keys/default.txt --identity new.txt";
    home.feed("set --store age:other.age?identity=config/keys/default.txt", SEED).ok();
    home.run(order).ok();
    home.run(order).ok();
    assert_eq!(home.run("get").line(), "canary-a");
}

#[cfg(unix)]
#[test]
fn a_rekey_killed_at_any_system_call_leaves_a_record_that_its_profile_opens() {
    let test = "command::a_rekey_killed_at_any_system_call_leaves_a_record_that_its_profile_opens";
    if !can_trace(test) {
        return;
    }
    let mut killed = Vec::new();
    for call in ["openat", "write", "fsync", "?rename", "renameat", "unlinkat"] {
        for nth in 1.. {
            let home = Home::signed_in();
            let new = home.run("keygen -o new.txt").ok();
            let inject = format!("inject={call}:signal=SIGKILL:when={nth}");
            let mut strace = home.wrapped("strace");
            strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
            strace.args(["-e", &inject, env!("CARGO_BIN_EXE_tokenkeep")]);
            let outcome = done(strace.args(["rekey", "--identity", "new.txt"]), "");
            let at = format!("killed at {call} {nth}: {outcome:?}");
            assert_eq!(home.run("get").out, "canary-a\n", "{at}");
            assert_eq!(home.run("rekey --identity new.txt").ok(), new, "{at}");
            assert_eq!(home.run("get").out, "canary-a\n", "{at}");
            // In the end, the old key does not open the record.
            let record = home.record();
            let old = format!("age:{}?identity=config/keys/default.txt", record.display());
            home.run(&format!("get --store {old}")).failed(6);
            if outcome.code == 0 {
                break;
            }
            assert!(nth < 200, "{at}");
            killed.push(call);
        }
    }
    for call in ["openat", "fsync", "renameat"] {
        assert!(killed.contains(&call), "{killed:?}");
    }
}

#[cfg(unix)]
#[test]
fn reading_an_age_file_needs_no_bus_and_no_network() {
    if !can_trace("command::reading_an_age_file_needs_no_bus_and_no_network") {
        return;
    }
    let home = Home::signed_in();
    let trace = home.path("trace");
    let mut strace = home.wrapped("strace");
    strace.args(["-f", "-qq", "-e", "trace=socket,connect", "-o", trace.to_str().unwrap()]);
    assert_eq!(done(strace.args([env!("CARGO_BIN_EXE_tokenkeep"), "get"]), "").line(), "canary-a");
    assert_eq!(fs::read_to_string(trace).unwrap(), "");
}

#[cfg(target_os = "linux")]
#[test]
fn it_leaves_no_core_dumps() {
    let home = Home::signed_in();
    let mut child = home.command().arg("set").stdin(Stdio::piped()).spawn().unwrap();
    let limits = format!("/proc/{}/limits", child.id());
    // It turns off core dumps before it reads its input, for which it waits.
    let is_hardened = || {
        fs::read_to_string(&limits)
            .unwrap()
            .lines()
            .any(|line| line.starts_with("Max core file size        0  "))
    };
    let patience = std::time::Instant::now();
    while !is_hardened() {
        assert!(patience.elapsed().as_secs() < 20, "core dumps are on");
        std::thread::yield_now();
    }
    child.stdin.take().unwrap().write_all(b"canary-new").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(home.run("get").line(), "canary-new");
}

#[cfg(target_os = "linux")]
#[test]
fn no_process_of_the_same_user_can_inspect_it() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    let test = "command::no_process_of_the_same_user_can_inspect_it";
    if !rustix::process::geteuid().is_root() {
        return crate::support::skip(test, "only root can see the difference from outside");
    }
    if !available(test, "setpriv") {
        return;
    }
    let dir = scratch();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("tokenkeep");
    crate::support::copy_command(&program);
    let mut child = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["set", "--store", "plaintext:/nonexistent/tokens.json"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    // The files of a process in /proc belong to its user, and to root once the process is not dumpable.
    let process = PathBuf::from(format!("/proc/{}", child.id()));
    let is_closed = || {
        fs::read_to_string(process.join("comm")).unwrap() == "tokenkeep\n"
            && fs::metadata(process.join("environ")).unwrap().uid() == 0
    };
    let patience = std::time::Instant::now();
    while !is_closed() {
        assert!(patience.elapsed().as_secs() < 20, "other processes can inspect it");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[cfg(unix)]
#[test]
fn completions_load_in_each_shell() {
    let home = Home::new();
    for (shell, check) in [
        ("bash", "source ./completions && complete -p tokenkeep"),
        (
            "zsh",
            "autoload -U compinit && compinit -u && source ./completions && whence -w _tokenkeep",
        ),
        ("fish", "source ./completions; and complete -c tokenkeep | grep -c migrate"),
    ] {
        if !available("command::completions_load_in_each_shell", shell) {
            continue;
        }
        fs::write(home.path("completions"), home.run(&format!("completions {shell}")).ok())
            .unwrap();
        let loaded = done(home.wrapped(shell).args(["-c", check]), "");
        assert!(loaded.code == 0 && loaded.err.is_empty(), "{shell}: {loaded:?}");
    }
}

#[cfg(unix)]
#[test]
fn the_manual_page_is_rendered_without_warnings() {
    if !available("command::the_manual_page_is_rendered_without_warnings", "man") {
        return;
    }
    let home = Home::new();
    fs::write(home.path("tokenkeep.1"), home.run("man").ok()).unwrap();
    let mut man = home.wrapped("man");
    let arguments = ["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-P", "cat", "./tokenkeep.1"];
    let rendered = done(man.env("LC_ALL", "C.UTF-8").env("MANWIDTH", "80").args(arguments), "");
    assert!(rendered.code == 0 && rendered.err.is_empty(), "{rendered:?}");
    // A bold letter is printed twice, with a backspace between.
    let mut page = String::new();
    for character in rendered.out.chars() {
        match character {
            '\u{8}' => drop(page.pop()),
            other => page.push(other),
        }
    }
    let all = [
        "--header",
        "--keep-source",
        "--remove-recipient",
        "EXIT STATUS",
        "TOKENKEEP_PASSPHRASE",
        "BACKUP",
        "DOCTOR",
    ];
    for words in all {
        assert!(page.contains(words), "{words} is in {page}");
    }
}
