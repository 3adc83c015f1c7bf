//! The errors of the command: they come early, name the place, and say what to do.

use std::fs;

use crate::home::{Done, Home, SEED};

/// Returns a home whose key file was moved away.
#[cfg(unix)]
fn without_key() -> Home {
    let home = Home::signed_in();
    fs::rename(home.path("config/keys/default.txt"), home.path("aside.txt")).unwrap();
    home
}

fn json(done: &Done) -> serde_json::Value {
    serde_json::from_str(&done.out).unwrap_or_else(|error| panic!("{error}: {done:?}"))
}

fn profile(home: &Home) -> String {
    fs::read_to_string(home.path("config/profiles/default.toml")).unwrap()
}

#[test]
fn the_error_about_an_empty_slot_names_it() {
    let home = Home::new();
    home.run("init --store plaintext:tokens.json").ok();
    let place = home.path("tokens.json").display().to_string();
    for line in [
        "get",
        "get --field json",
        "exec -- true",
        "backup --to plaintext:b.json",
        "backup --overwrite --to plaintext:b.json",
        "migrate --to plaintext:m.json",
        "migrate --dry-run --to plaintext:m.json",
    ] {
        let said = home.run(line).failed(3);
        assert!(said.contains(&place), "{line}: {said}");
    }
    home.feed("set", "canary-a").ok();
    assert!(home.run("get --field refresh").failed(3).contains(&place));
}

#[test]
fn a_similar_word_is_suggested_and_an_unknown_word_is_not_repeated() {
    let home = Home::new();
    assert!(home.run("stauts").failed(2).contains("did you mean `status`?"));
    // Several commands are similar. The most similar one is suggested.
    assert!(home.run("refesh").failed(2).contains("did you mean `refresh`?"));
    assert!(home.run("get --heder").failed(2).contains("did you mean `--header`?"));
    for line in ["canary-token", "get --canary"] {
        let said = home.run(line).failed(2);
        assert!(!said.contains("canary") && !said.contains("meant"), "{said}");
    }
}

#[test]
fn exec_without_two_dashes_says_where_to_put_them() {
    let home = Home::new();
    for line in [
        "exec env",
        "exec ls -la",
        "exec --prefix APP env",
        "exec --profile default env -- x",
        "exec canary",
    ] {
        let said = home.run(line).failed(2);
        assert!(said.contains("put `--` before the command"), "{line}: {said}");
    }
    // A misspelled option gets no advice about `--`.
    let said = home.run("exec --prefx A -- env").failed(2);
    assert!(said.contains("did you mean `--prefix`?") && !said.contains("put `--`"), "{said}");
    assert!(home.run("exec").failed(2).contains("the command to run is missing"));
}

#[test]
fn options_that_do_not_go_together_are_refused_in_the_style_of_all_errors() {
    let home = Home::signed_in();
    for (line, words) in [
        ("get --field refresh --header", "--field names another value"),
        ("get --field json --header", "--field names another value"),
        ("get --header --header", "`--header` is given twice"),
        ("login --device --browser", "`--device` cannot be used with `--browser`"),
        ("backup --to b.age --passphrase --recipient age1x", "cannot be used with `--recipient"),
        ("backup", "`--to <FILE|URL>` is missing"),
        ("keygen --passphrase", "`--output <FILE>` is missing"),
        ("--profile default", "a command is missing"),
    ] {
        let said = home.run(line).failed(2);
        assert!(said.contains(words), "{line}: {said}");
    }
    let header = home.run("get --field access --header").line();
    assert_eq!(header, "Authorization: Bearer canary-a");
}

#[test]
fn input_without_tokens_says_what_is_wrong_with_it() {
    let home = Home::signed_in();
    let long = "a".repeat(70_000);
    for (input, words) in [
        ("", "it is empty"),
        ("\n", "it is empty"),
        (long.as_str(), "it is longer than 65536 bytes"),
        ("canary \u{1}", "it contains characters that no token has"),
    ] {
        let said = home.feed("set", input).failed(2);
        assert!(
            said.contains("standard input holds no tokens: ") && said.contains(words),
            "{said}"
        );
    }
    assert_eq!(home.run("get").line(), "canary-a");
}

#[test]
fn an_invalid_recipient_is_wrong_usage_in_every_command() {
    let home = Home::signed_in();
    let key = "config/keys/default.txt";
    for recipient in ["canary", "age1canary", "ssh-ed25519", "AGE-SECRET-KEY-1CANARY", ""] {
        for line in [
            format!("backup --to b.age --recipient {recipient}"),
            format!("rekey --recipient {recipient}"),
            format!("rekey --identity none.txt --recipient {recipient}"),
            format!("init --profile new --store age:n.age?identity={key}&recipient={recipient}"),
            format!("get --store age:n.age?identity={key}&recipient={recipient}"),
            format!("migrate --to age:n.age?identity={key}&recipient={recipient}"),
        ] {
            home.run(&line).failed(2);
        }
    }
    assert!(!home.path("b.age").exists() && !home.path("config/profiles/new.toml").exists());
    assert_eq!(home.run("get").line(), "canary-a");
}

#[cfg(unix)]
#[test]
fn output_that_cannot_be_written_is_an_error() {
    let home = Home::signed_in();
    for line in ["get", "status", "man"] {
        let full = std::process::Stdio::from(fs::File::create("/dev/full").unwrap());
        let output = home.command().arg(line).stdout(full).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with("tokenkeep: cannot write to standard output: "), "{said}");
    }
}

#[cfg(unix)]
#[test]
fn exec_has_the_exit_code_of_a_shell_if_it_cannot_run_the_program() {
    let home = Home::signed_in();
    fs::write(home.path("text"), "not executable").unwrap();
    assert!(home.run("exec -- ./text").failed(126).contains("cannot run ./text: "));
    assert!(home.run("exec -- ./none").failed(127).contains("cannot run ./none: "));
}

#[test]
fn init_checks_before_it_creates_anything() {
    let home = Home::new();
    home.run("init --profile No/Name --store plaintext:tokens.json").failed(2);
    home.run("init --profile ../x").failed(2);
    assert!(!home.path("config").exists() && !home.path("state").exists());

    // `init` does not replace a profile that cannot be read.
    fs::create_dir_all(home.path("config/profiles")).unwrap();
    fs::write(home.path("config/profiles/default.toml"), "canary canary").unwrap();
    let said = home.run("init").failed(2);
    assert!(said.contains("default.toml, line 1: this is not TOML"), "{said}");
    assert_eq!(profile(&home), "canary canary");
}

#[cfg(unix)]
#[test]
fn init_makes_no_key_if_the_existing_record_needs_another_one() {
    let home = without_key();
    fs::remove_file(home.path("config/profiles/default.toml")).unwrap();
    let said = home.run("init").failed(5);
    assert!(said.contains("default.txt does not; put that file back"), "{said}");
    assert!(!home.path("config/keys/default.txt").exists());
    fs::rename(home.path("aside.txt"), home.path("config/keys/default.txt")).unwrap();
    home.run("init").ok();
    assert_eq!(home.run("get").line(), "canary-a");
}

#[test]
fn status_reports_a_refresh_that_was_cut_off_and_a_damaged_record() {
    let home = Home::signed_in();
    let intent = home.path("state/tokenkeep/default.age.intent");
    for (token, is_shown) in [("canary-r", true), ("canary of another session", false)] {
        let left = tokenkeep::store::Intent::new(&token.into(), tokenkeep::chrono::Utc::now());
        fs::write(&intent, left.to_string()).unwrap();
        let shown = home.run("status").ok();
        assert_eq!(shown.contains("warning  a refresh was cut off"), is_shown, "{shown}");
    }
    // The warning also appears if the lease cannot be taken.
    let left = tokenkeep::store::Intent::new(&"canary-r".into(), tokenkeep::chrono::Utc::now());
    fs::write(&intent, left.to_string()).unwrap();
    let lease = home.path("state/tokenkeep/default.age.lease");
    let _ = fs::remove_file(&lease);
    fs::create_dir(&lease).unwrap();
    assert!(home.run("status").ok().contains("warning  a refresh was cut off"));
    fs::remove_dir(lease).unwrap();

    let there = json(&home.run("status --json"));
    home.run("clear").ok();
    let none = json(&home.run("status --json"));
    let keys = |value: &serde_json::Value| -> Vec<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(keys(&there), keys(&none), "they have the same shape");
    assert_eq!((&none["state"], &none["expires_at"]), (&"none".into(), &serde_json::Value::Null));

    fs::write(home.path("state/tokenkeep/default.age"), "canary").unwrap();
    let broken = home.run("status --json");
    assert_eq!(broken.code, 6, "{broken:?}");
    let report = json(&broken);
    assert_eq!(keys(&report), keys(&none));
    assert_eq!(report["state"], "unknown");
    assert!(report["error"].as_str().unwrap().contains("default.age"), "{broken:?}");
    assert!(!broken.out.contains("canary"), "{broken:?}");
}

#[cfg(unix)]
#[test]
fn status_has_the_exit_code_of_get_if_others_can_read_the_tokens() {
    use std::os::unix::fs::PermissionsExt;

    let home = Home::signed_in();
    let record = home.path("state/tokenkeep/default.age");
    fs::set_permissions(&record, fs::Permissions::from_mode(0o644)).unwrap();
    let status = home.run("status");
    assert_eq!(status.code, 5, "{status:?}");
    assert!(status.out.contains("tokens   fresh"), "{status:?}");
    assert!(status.out.contains("warning  "), "{status:?}");
    home.run("get").failed(5);
}

#[test]
fn list_always_shows_all_profiles() {
    let home = Home::signed_in();
    for line in ["list --profile default", "list --store plaintext:x.json"] {
        assert!(home.run(line).failed(2).contains("`tokenkeep status` is about one"));
    }
    fs::write(home.path("config/profiles/broken.toml"), "store = 5\n").unwrap();
    let rows = json(&home.run("list --json"));
    assert_eq!(rows[0]["store"], serde_json::Value::Null);
    assert!(rows[0]["error"].as_str().unwrap().contains("line 1"));
    assert_eq!(rows[1]["error"], serde_json::Value::Null);
}

#[cfg(unix)]
#[test]
fn a_store_that_list_prints_is_a_url_of_the_same_store() {
    use tokenkeep::StoreUrl;

    let home = Home::new();
    let root = home.path("").display().to_string();
    let (here, key) = (root.trim_end_matches('/'), "k%23 %3F'%26.txt");
    home.run("init --profile p0 --store plaintext:p.json").ok();
    let done =
        |arguments: &[&str], input: &str| crate::home::done(home.command().args(arguments), input);
    done(&["keygen", "-o", "k# ?'&.txt"], "").ok();
    let urls = [
        format!("plaintext:{here}/a b%3F%25%23%26c=\u{e4}$(x)'\".json"),
        format!("age:{here}/d e%3F%25%23%26f.age?identity={here}/{key}"),
        format!("age:{here}/g.age?identity={here}/{key}&recipients={here}/r%26 s"),
        format!("age:{here}/h.age?identity=keychain:my app/a%2Fb"),
        format!("age:{here}/i.age?identity=credential:k%26"),
        "keychain:my app/me%3F%26".to_owned(),
        "keychain-item:other app/me".to_owned(),
        "env:APP".to_owned(),
        format!(
            "postgres://a%40b@h:1,i:2/d%2F?slot=x/y z%26&sslrootcert={here}/c a&identity={here}/k"
        ),
        format!("s3://bucket/a b%3F.age?endpoint=https://h.example:9000&identity={here}/k"),
    ];
    for (n, url) in urls.iter().enumerate() {
        let text = format!("store = {}\n", serde_json::Value::from(&**url));
        let profile = home.path(format!("config/profiles/p{n}.toml"));
        fs::write(profile, text).unwrap();
    }
    let lines = home.run("list").ok();
    let rows = json(&home.run("list --json"));
    for (n, (url, line)) in urls.iter().zip(lines.lines()).enumerate() {
        let printed = line.split_once('\t').unwrap().1;
        assert_eq!(rows[n]["store"], printed);
        let same: StoreUrl = printed.parse().unwrap_or_else(|error| panic!("{printed}: {error}"));
        assert!(same == url.parse().unwrap(), "{printed}");
    }
    for (n, line) in lines.lines().take(2).enumerate() {
        let pasted = line.split_once('\t').unwrap().1;
        let token = format!("canary-{n}");
        home.feed(&format!("set --profile p{n}"), &token).ok();
        assert_eq!(done(&["get", "--store", pasted], "").line(), token);
    }
}

#[test]
fn every_command_line_that_names_a_plaintext_target_warns() {
    let home = Home::signed_in();
    home.run("backup --to plaintext:b.json").ok();
    for (line, input) in [
        ("init --profile plain --store plaintext:p.json", ""),
        ("set --store plaintext:s.json", "canary"),
        ("restore --from plaintext:b.json --store plaintext:r.json", ""),
        ("backup --overwrite --to plaintext:b.json", ""),
        ("migrate --to plaintext:m.json --dry-run", ""),
        ("migrate --to plaintext:k.json --keep-source", ""),
        ("migrate --from plaintext:s.json --to plaintext:t.json", ""),
        ("migrate --all --to plaintext:all/{profile}.json --dry-run", ""),
        ("migrate --all --to plaintext:all/{profile}.json", ""),
    ] {
        let done = home.feed(line, input);
        assert_eq!(done.err.matches("WARNING: plaintext. Any program").count(), 1, "{done:?}");
        done.ok();
    }
    // For the store that the profile names, `init` or `migrate` has warned before.
    let set = home.feed("set", SEED);
    assert_eq!(set.err, "");
    let moved = home.run("migrate --to age:back.age?identity=config/keys/default.txt");
    assert!(!moved.err.contains("WARNING"), "{moved:?}");
    // A migration that fails writes nothing, so it does not warn.
    assert!(!home.run("migrate --to plaintext:t.json").failed(7).contains("WARNING"));
}

#[test]
fn no_time_is_printed_with_fractions_of_a_second() {
    let home = Home::signed_in();
    let (time, at) = ("2099-01-01T00:00:00.123456789Z", "2098-12-31T23:59:59.987654321Z");
    let record = format!(
        r#"{{"access_token":"a","refresh_token":"r","expires_at":"{time}","obtained_at":"{at}","refresh_expires_at":"{time}"}}"#
    );
    for (record, part) in [
        (record.clone(), "2099-01-01"),
        (record.replace("2099", "2020").replace("2098", "2019"), "2020-01-01"),
        // Without `obtained_at`, `set` fills in the current time.
        ("a".to_owned(), ""),
    ] {
        home.feed("set", &record).ok();
        for line in ["status", "status --json", "get --field json", "doctor", "doctor --json"] {
            let done = home.run(line);
            let is_time = |window: &[u8]| {
                window[0] == b':' && window[3] == b'.' && window[4].is_ascii_digit()
            };
            assert!(!done.out.as_bytes().windows(5).any(is_time), "{line}: {}", done.out);
            assert!(line.starts_with("doctor") || done.out.contains(part), "{line}: {}", done.out);
        }
    }
}

#[test]
fn doctor_reports_what_would_make_the_next_save_or_refresh_fail() {
    let home = Home::new();
    home.run("keygen -o key.txt").ok();
    home.run("init --profile empty --store age:empty.age?identity=key.txt").ok();
    home.run("init --profile old --store plaintext:old.json").ok();
    home.feed("set --profile old", r#"{"access_token":"a","expires_at":"2020-01-01T00:00:00Z"}"#)
        .ok();
    fs::write(home.path("config/profiles/wrong.toml"), "store = 5\n").unwrap();
    let row = |name: &str| {
        let doctor = home.run("doctor");
        assert_eq!(doctor.code, 1);
        let rows: Vec<_> = doctor.out.lines().collect();
        let found = rows.iter().find(|row| row.starts_with(&format!("profiles\t{name}\t")));
        found.unwrap_or_else(|| panic!("{rows:?}")).to_string()
    };
    assert!(row("empty").contains("\tno tokens\t"));
    fs::rename(home.path("key.txt"), home.path("aside.txt")).unwrap();
    assert!(row("empty").contains("\tbroken\t") && row("empty").contains("key.txt"));
    assert!(
        row("old").contains("expired") && row("old").ends_with("to `tokenkeep set --profile old`")
    );
    assert!(row("wrong").contains("line 1: ") && row("wrong").ends_with("delete the file"));

    // With `--profile` or `--store`, only that one is checked.
    fs::rename(home.path("aside.txt"), home.path("key.txt")).unwrap();
    let one = home.run("doctor --profile empty").ok();
    assert_eq!(one.matches("profiles\t").count(), 1, "{one}");
    let one = home.run("doctor --store age:other.age?identity=none.txt");
    assert_eq!(one.code, 1);
    assert!(one.out.contains("none.txt") && !one.out.contains("wrong"), "{one:?}");
    home.run("doctor --profile wrong").failed(2);
}

#[test]
fn restore_checks_the_file_before_it_asks_for_a_passphrase() {
    let home = Home::signed_in();
    assert!(home.run("restore --from none.age").failed(3).contains("there is no file none.age"));
    home.run("backup --to plaintext:backup.json").ok();
    let said = home.run("restore --from backup.json").failed(2);
    assert!(said.contains("give plaintext:backup.json"), "{said}");
    home.feed("set", SEED).ok();
    let said = home.run("restore --from plaintext:backup.json").failed(7);
    assert!(said.contains("--overwrite"), "{said}");
    home.run("restore --overwrite --from plaintext:backup.json").ok();
}

#[test]
fn rekey_does_not_accept_a_record_as_an_identity() {
    let home = Home::signed_in();
    let said = home.run("rekey --identity state/tokenkeep/default.age").failed(6);
    assert!(said.contains("is not an identity file"), "{said}");
    assert_eq!(home.run("get").line(), "canary-a");
}

#[test]
fn a_dry_run_reports_what_would_make_the_real_run_fail() {
    let home = Home::signed_in();
    home.run("init --profile empty --store plaintext:empty.json").ok();
    let before = profile(&home);
    let mut targets = vec![
        ("env:AXIOM", 5, "cannot keep tokens in its environment"),
        ("age:new.age?identity=none.txt", 5, "none.txt"),
        ("age:new.age?identity=credential:none", 5, "credential none"),
        ("age:new.age?identity=config/keys/default.txt&recipients=none.txt", 5, "none.txt"),
    ];
    if cfg!(all(unix, not(target_vendor = "apple"))) {
        // Other systems always have a keychain.
        targets.push(("keychain:tokenkeep/none", 5, "dbus-run-session"));
    }
    for (target, code, words) in targets {
        for option in ["", " --dry-run"] {
            let said = home.run(&format!("migrate --to {target}{option}")).failed(code);
            assert!(said.contains(words), "{said}");
            // A move that was not started is not recorded in the profile.
            assert_eq!(profile(&home), before);
        }
    }
    let all = "migrate --all --to plaintext:all/{profile}.json";
    let shown = home.run(&format!("{all} --dry-run"));
    let (all_of_it, file) = (&shown.err, home.path("all").join("empty.json"));
    let expected = format!("would name plaintext file {}, as there is nothing", file.display());
    assert!(all_of_it.contains("would move from ") && all_of_it.contains(&expected), "{shown:?}");
    shown.ok();
    home.run(all).ok();
}

#[test]
fn the_same_tokens_in_both_stores_are_not_a_conflict() {
    let home = Home::signed_in();
    for _ in 0..2 {
        home.run("migrate --to plaintext:copy.json --keep-source").ok();
    }
    home.feed("set", "canary-other").ok();
    home.run("migrate --to plaintext:copy.json --keep-source").failed(7);
}

#[test]
fn clear_also_removes_the_copy_of_an_unfinished_migration() {
    let home = Home::signed_in();
    let store = profile(&home);
    let record_move = |store: &str| {
        let path = home.path("copy.json").display().to_string();
        let text = format!("moving_to = {:?}\n{store}", format!("plaintext:{path}"));
        fs::write(home.path("config/profiles/default.toml"), text).unwrap();
    };
    let copy = |tokens: &str| home.feed("set --store plaintext:copy.json", tokens);
    let copied = || home.run("get --store plaintext:copy.json").code;

    // Killed before it cleared the source.
    home.run("migrate --to plaintext:copy.json --keep-source").ok();
    record_move(&store);
    home.run("clear").ok();
    assert_eq!((home.run("get").code, copied()), (3, 3));
    assert_eq!(profile(&home), store);
    // Killed after it cleared the source.
    copy(SEED).ok();
    record_move(&store);
    home.run("clear").ok();
    assert_eq!(copied(), 3);
    assert_eq!(profile(&home), store);
    // The target has received other tokens since.
    home.feed("set", SEED).ok();
    copy("canary-other").ok();
    record_move(&store);
    home.run("clear").ok();
    assert_eq!((home.run("get").code, copied()), (3, 0));
    // A target that cannot be read may hold a copy: `clear` fails, and the move stays recorded.
    home.feed("set", SEED).ok();
    fs::write(home.path("copy.json"), "canary").unwrap();
    record_move(&store);
    let said = home.run("clear").failed(6);
    assert!(said.contains("may have left a copy of the tokens in plaintext file"), "{said}");
    home.run("get").failed(3);
    assert!(profile(&home).starts_with("moving_to = "));
    home.run("clear --store plaintext:copy.json").ok();
    home.run("clear").ok();
    assert_eq!(profile(&home), store);
}

#[cfg(unix)]
#[test]
fn a_sign_in_is_not_started_if_its_tokens_could_not_be_saved() {
    let server = crate::token_server::TokenServer::start();
    let home = crate::login::home(&server, "");
    fs::remove_file(home.path("config/keys/default.txt")).unwrap();
    let said = crate::home::done(home.command().args(["login", "--browser"]), "").failed(5);
    assert!(said.contains("default.txt"), "{said}");
    assert_eq!(server.requests().len(), 0);
}

#[cfg(unix)]
#[test]
fn restore_from_a_pipe_fails_and_does_not_wait() {
    let home = Home::signed_in();
    crate::support::make_pipe(&home.path("pipe"));
    let said = home.run("restore --from pipe").failed(6);
    assert!(said.contains("pipe"), "{said}");
}

#[cfg(unix)]
#[test]
fn a_move_whose_source_cannot_be_cleared_stays_recorded_and_clear_removes_the_copy() {
    let test = "a_move_whose_source_cannot_be_cleared_stays_recorded_and_clear_removes_the_copy";
    if !crate::support::can_trace(test) {
        return;
    }
    let home = Home::signed_in();
    let store = profile(&home);
    let mut migrate = home.wrapped("strace");
    migrate.args(["-f", "-qq", "-o", "calls", "-e", "trace=unlinkat"]);
    migrate.args(["-P", "default.age", "-e", "inject=unlinkat:error=EIO"]);
    migrate.args([env!("CARGO_BIN_EXE_tokenkeep"), "migrate", "--to", "plaintext:copy.json"]);
    crate::home::done(&mut migrate, "").failed(1);
    assert!(home.path("copy.json").exists() && profile(&home).starts_with("moving_to = "));
    home.run("clear").ok();
    assert!(!home.path("copy.json").exists());
    assert_eq!(profile(&home), store);
}

#[test]
fn an_option_without_effect_is_refused_and_an_empty_variable_is_ignored() {
    let home = Home::signed_in();
    for line in [
        "migrate --all --profile default --to plaintext:{profile}.json --dry-run",
        "migrate --from plaintext:a.json --profile default --to plaintext:b.json",
    ] {
        assert!(home.run(line).failed(2).contains("leave out one of them"));
    }
    let mut status = home.command();
    status.env("TOKENKEEP_CONFIG_DIR", "").env("XDG_CONFIG_HOME", home.path("other"));
    status.env("APPDATA", home.path("other"));
    let said = crate::home::done(status.arg("status"), "").failed(2);
    assert!(said.contains("there is no profile default"), "{said}");
}

#[cfg(unix)]
#[test]
fn status_does_not_hang_on_an_odd_file_in_place_of_an_intent_file() {
    for kind in crate::support::ODD_FILES {
        let home = Home::signed_in();
        crate::support::put_odd_file(kind, &home.record().with_extension("age.intent"));
        let began = std::time::Instant::now();
        home.run("status").ok();
        home.run("doctor");
        assert!(
            began.elapsed() < std::time::Duration::from_secs(20),
            "{kind}: {:?}",
            began.elapsed()
        );
    }
}
