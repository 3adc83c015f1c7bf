//! Tokens of other programs: what is found, what becomes of it, and what stays.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::home::{Home, done};
use crate::token_server::{Act, TokenServer};

const GO: &str = r#"{"access_token":"canary-a","token_type":"Bearer","refresh_token":"canary-r","expiry":"2099-11-22T12:00:00+02:00"}"#;
const TWO: &str = r#"{"claudeAiOauth":{"accessToken":"canary-a","refreshToken":"canary-r","expiresAt":4098052800000},"mcpOAuth":{"k":{"serverName":"docs","serverUrl":"https://docs.example","accessToken":"canary-b","refreshToken":"canary-s","expiresAt":4098052800000}}}"#;

fn home(name: &str, content: &str) -> Home {
    let home = Home::new();
    home.write(name, content);
    home
}

fn status(home: &Home, line: &str) -> Value {
    serde_json::from_str(&home.run(line).out).unwrap()
}

#[test]
fn an_import_is_a_copy_that_is_served_and_never_refreshed() {
    let home = home("token.json", GO);
    let said = home.run("migrate --profile work --from import:auto:token.json");
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.err.contains("as a backup") && said.err.contains("--take-over"), "{}", said.err);
    assert_eq!(fs::read_to_string(home.path("token.json")).unwrap(), GO, "a copy changes nothing");
    assert_eq!(home.run("get --profile work").line(), "canary-a");
    let status = status(&home, "status --profile work --json");
    assert_eq!((&status["backup"], &status["state"]), (&json!(true), &json!("fresh")));
    assert_eq!(status["expires_at"], "2099-11-22T10:00:00Z");
    // The same copy again, and then with newer tokens.
    home.run("migrate --profile work --from import:auto:token.json").ok();
    home.write("token.json", GO.replace("canary-a", "canary-b"));
    home.run("migrate --profile work --from import:auto:token.json").ok();
    assert_eq!(home.run("get --profile work").line(), "canary-b");
    // One that has expired says how it becomes live.
    home.write("token.json", GO.replace("2099", "2020"));
    home.run("migrate --profile work --from import:auto:token.json").ok();
    let said = home.run("get --profile work").failed(4);
    assert!(said.contains("is a copy") || said.contains("are a copy"), "{said}");
    assert!(said.contains("--take-over"), "{said}");
    // No lock and no other file appears beside the file of another program.
    let names = fs::read_dir(home.directory()).unwrap();
    let names: Vec<_> = names.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.starts_with("token.json.")), "{names:?}");
}

#[test]
fn a_file_of_tokens_alone_is_removed_when_it_is_taken_over_and_any_other_stays() {
    for (content, is_removed) in [
        (GO.to_owned(), true),
        (GO.replacen('{', r#"{"theme":"dark","#, 1), false),
        (TWO.to_owned(), false),
    ] {
        let home = home("tokens", &content);
        let mut line = "migrate --profile work --take-over --from import:auto:tokens".to_owned();
        if content == TWO {
            line += " --account claude-code";
        }
        let said = home.run(&line);
        assert_eq!(said.code, 0, "{}", said.err);
        assert_eq!(home.path("tokens").exists(), !is_removed, "{content}");
        if is_removed {
            assert!(said.err.contains("removed file "), "{}", said.err);
        } else {
            assert!(said.err.contains("stays as it is"), "{}", said.err);
            assert!(said.err.contains("to sign out there: "), "{}", said.err);
            assert_eq!(fs::read_to_string(home.path("tokens")).unwrap(), content);
            // The field is kept with its type, also here.
            let record = home.run("get --profile work --field json").ok();
            assert_eq!(record.contains("\"theme\": \"dark\""), content.contains("theme"));
        }
        assert_eq!(status(&home, "status --profile work --json")["backup"], false);
    }
}

#[test]
fn a_link_to_a_file_of_tokens_is_followed_and_stays() {
    let home = home("real.json", GO);
    std::os::unix::fs::symlink(home.path("real.json"), home.path("token.json")).unwrap();
    home.run("migrate --profile work --take-over --from import:golang:token.json").ok();
    assert_eq!(fs::read_to_string(home.path("token.json")).unwrap(), GO);
}

#[test]
fn a_file_that_others_can_read_is_taken_with_a_warning_and_one_they_can_change_is_refused() {
    let home = home("token.json", GO);
    let mode = |mode| {
        fs::set_permissions(home.path("token.json"), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(0o644);
    let said = home.run("migrate --profile work --from import:auto:token.json");
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.err.contains("was not private"), "{}", said.err);
    mode(0o666);
    let said = home.run("migrate --profile other --from import:auto:token.json").failed(5);
    assert!(said.contains("others can write to it"), "{said}");
}

#[test]
fn of_several_accounts_one_is_chosen_or_each_becomes_a_profile() {
    let home = home("tokens", TWO);
    let said = home.run("migrate --profile work --from import:auto:tokens").failed(2);
    assert!(said.contains("holds 2 accounts: claude-code, docs"), "{said}");
    assert!(said.contains("--account") && said.contains("--all"), "{said}");
    assert!(!said.contains("canary"), "{said}");
    let said = home.run("migrate --profile work --from import:auto:tokens --account x").failed(2);
    assert!(said.contains("no account of this name"), "{said}");
    home.run("migrate --profile work --from import:auto:tokens --account docs").ok();
    assert_eq!(home.run("get --profile work").line(), "canary-b");
    home.run("migrate --all --from import:auto:tokens").ok();
    assert_eq!(home.run("get --profile claude-code-claude-code").line(), "canary-a");
    assert_eq!(home.run("get --profile claude-code-docs").line(), "canary-b");
}

#[test]
fn two_accounts_with_one_refresh_token_are_not_both_taken_over() {
    let home = home("tokens", &TWO.replace("canary-s", "canary-r"));
    let said = home.run("migrate --all --take-over --from import:auto:tokens").failed(2);
    assert!(said.contains("share one refresh token"), "{said}");
    home.run("migrate --all --from import:auto:tokens").ok();
}

#[test]
fn a_dry_run_shows_what_becomes_of_each_field_and_does_nothing() {
    let home = home("token.json", &GO.replacen('{', r#"{"theme":"dark","#, 1));
    let said = home.run("migrate --profile work --from import:auto:token.json --dry-run");
    assert_eq!(said.code, 0, "{}", said.err);
    for line in [
        "access_token   access token",
        "refresh_token  refresh token",
        "expiry         expiry of the access token",
        "token_type     field of the tokens",
        "theme          kept with the tokens",
        "for a new profile work",
    ] {
        assert!(said.err.contains(line), "{line}: {}", said.err);
    }
    assert!(!said.err.contains("canary"), "{}", said.err);
    assert!(!home.path("config/profiles/work.toml").exists());
    assert!(!home.path("state").exists() && !home.path("config").exists());
}

#[test]
fn the_provider_of_the_file_becomes_that_of_the_profile_and_its_secret_is_sealed() {
    let server = TokenServer::start();
    let file = json!({
        "type": "authorized_user", "client_id": "app", "client_secret": "canary-secret",
        "refresh_token": "canary-r", "token_uri": server.token_url(),
    });
    let home = home("adc.json", &file.to_string());
    home.run("migrate --profile work --from import:auto:adc.json --take-over").ok();
    let path = home.path("config/profiles/work.toml");
    let profile = fs::read_to_string(&path).unwrap();
    let expected = format!(
        "[oauth2]\ntoken_url = \"{}\"\nclient_id = \"app\"\nclient_secret = \"record\"\n",
        server.token_url()
    );
    assert!(profile.ends_with(&expected), "{profile}");
    assert!(
        !fs::read_dir(home.directory()).unwrap().any(|it| it.unwrap().file_name() == "adc.json")
    );
    server.script([
        Act::answer(200, r#"{"access_token":"new-a","expires_in":1,"refresh_token":"new-r"}"#),
        Act::answer(200, r#"{"access_token":"new-b","expires_in":3600}"#),
    ]);
    // A refresh token alone is enough. The secret is sent, and it stays for the next refresh.
    home.run("refresh --profile work").ok();
    home.run("refresh --profile work").ok();
    assert_eq!(home.run("get --profile work").line(), "new-b");
    for request in server.requests() {
        let sent = format!("{request:?}");
        // base64 of app:canary-secret
        assert!(sent.contains("YXBwOmNhbmFyeS1zZWNyZXQ="), "{sent}");
    }
    assert_eq!(server.calls(), 2);
    // It comes out nowhere.
    for line in ["get --field json", "get --field client_secret", "status", "status --json"] {
        let shown = home.run(&format!("{line} --profile work"));
        assert!(!format!("{}{}", shown.out, shown.err).contains("canary-secret"), "{line}");
    }
    let mut exec = home.command();
    let environment = done(exec.args(["exec", "--profile", "work", "--", "env"]), "").ok();
    assert!(environment.contains("WORK_ACCESS_TOKEN=new-b"), "{environment}");
    assert!(!environment.contains("canary-secret"), "{environment}");
    // New tokens do not lose it.
    home.feed("set --profile work", "another").ok();
    home.feed("set --profile work", r#"{"access_token":"","refresh_token":"r"}"#).ok();
    server.script([Act::answer(200, r#"{"access_token":"new-c","expires_in":3600}"#)]);
    assert_eq!(home.run("get --profile work").line(), "new-c");
}

#[test]
fn without_a_secret_in_the_record_the_error_says_so() {
    let server = TokenServer::start();
    let home = Home::signed_in();
    let path = home.path("config/profiles/default.toml");
    let text = fs::read_to_string(&path).unwrap();
    let url = server.token_url();
    let oauth2 = format!(
        "[oauth2]\ntoken_url = \"{url}\"\nclient_id = \"app\"\nclient_secret = \"record\"\n"
    );
    fs::write(&path, text + &oauth2).unwrap();
    let said = home.run("refresh").failed(1);
    assert!(
        said.contains("the client secret is kept with the tokens, and there is none with them"),
        "{said}"
    );
    assert_eq!(server.calls(), 0);
}

#[test]
fn a_lifetime_is_dated_only_if_told_so() {
    let answer = r#"{"access_token":"canary-a","refresh_token":"canary-r","expires_in":3600}"#;
    let home = home("tokens.json", answer);
    let line = "migrate --profile work --from import:auto:tokens.json";
    let said = home.run(line).failed(6);
    assert!(said.contains("its expires_in counts from a time that it does not name"), "{said}");
    assert_eq!(fs::read_to_string(home.path("tokens.json")).unwrap(), answer);
    for (at, expected) in [
        ("2099-01-01T00:00:00Z", "2099-01-01T01:00:00Z"),
        ("2099-01-01T02:00:00+02:00", "2099-01-01T01:00:00Z"),
    ] {
        home.run(&format!("{line} --obtained-at {at}")).ok();
        let status = status(&home, "status --profile work --json");
        assert_eq!(status["expires_at"], expected);
    }
    home.run(&format!("{line} --obtained-at file")).ok();
    assert_eq!(status(&home, "status --profile work --json")["state"], "fresh");
    let said = home.run(&format!("{line} --obtained-at yesterday")).failed(2);
    assert!(said.contains("--obtained-at takes a date"), "{said}");
}

#[test]
fn an_expiry_that_cannot_be_read_is_refused_by_name_whatever_takes_the_file() {
    for (content, name) in [
        (r#"{"access_token":"canary","expiry":"soon"}"#, "expiry"),
        (r#"{"access_token":"canary","expires_at":"2030-01-01T00:00:00"}"#, "expires_at"),
        (r#"{"access_token":"canary","expiresOn":[1]}"#, "expiresOn"),
    ] {
        let home = home("tokens.json", content);
        home.run("init").ok();
        let to = "--to age:out.age?identity=config/keys/default.txt";
        for line in [
            format!("migrate --from plaintext:tokens.json {to}"),
            format!("migrate --from import:auto:tokens.json {to}"),
            "get --store plaintext:tokens.json".into(),
        ] {
            let said = home.run(&line).failed(6);
            assert!(said.contains(&format!("its {name} ")), "{line}: {said}");
            assert!(!said.contains("canary") && !said.contains("damaged"), "{line}: {said}");
            assert!(!said.contains("clear"), "{line}: {said}");
        }
        let said = home.feed("set", content).failed(2);
        assert!(said.contains(&format!("its {name} ")), "{said}");
        assert_eq!(fs::read_to_string(home.path("tokens.json")).unwrap(), content);
    }
}

#[test]
fn a_move_of_a_go_token_keeps_its_expiry() {
    let home = home("token.json", &GO.replace("2099", "2020"));
    home.run("init").ok();
    let store = "age:out.age?identity=config/keys/default.txt";
    home.run(&format!("migrate --from plaintext:token.json --to {store}")).ok();
    let said = home.run(&format!("get --store {store}")).failed(4);
    assert!(said.contains("has expired"), "{said}");
}

#[test]
fn the_file_of_another_program_is_called_what_it_is_and_not_removed() {
    let codex = r#"{"OPENAI_API_KEY":null,"tokens":{"access_token":"canary","refresh_token":"r"},"last_refresh":"2026-01-01T00:00:00Z"}"#;
    let home = home("auth.json", codex);
    for line in [
        "get --store plaintext:auth.json",
        "status --store plaintext:auth.json",
        "clear --store plaintext:auth.json",
        "backup --store plaintext:auth.json --to plaintext:copy.json",
        "get --store age:auth.json?identity=key.txt",
        "clear --store age:auth.json?identity=key.txt",
    ] {
        let said = home.run(line);
        assert_eq!(said.code, 6, "{line}: {}", said.err);
        let text = format!("{}{}", said.out, said.err);
        assert!(text.contains("it is a file of Codex"), "{line}: {text}");
        assert!(text.contains("import:codex:"), "{line}: {text}");
        assert!(!text.contains("damaged") && !text.contains("canary"), "{line}: {text}");
    }
    assert_eq!(fs::read_to_string(home.path("auth.json")).unwrap(), codex);
    let said = home.feed("set --store plaintext:auth.json", "token").failed(6);
    assert!(said.contains("it is a file of Codex"), "{said}");
    assert_eq!(fs::read_to_string(home.path("auth.json")).unwrap(), codex);
}

#[test]
fn import_lists_what_is_in_the_usual_places_without_a_secret() {
    let home = Home::new();
    let none = home.run("import");
    assert_eq!((none.code, none.out.as_str()), (0, ""));
    home.write(".claude/.credentials.json", TWO);
    home.write(
        ".codex/auth.json",
        r#"{"OPENAI_API_KEY":null,"tokens":{"access_token":"canary","refresh_token":"r","account_id":"me"},"last_refresh":"2026-01-01T00:00:00Z"}"#,
    );
    home.write(".aws/sso/cache/abc.json", r#"{"startUrl":"https://d.awsapps.com/start","region":"eu-west-1","accessToken":"canary","expiresAt":"2020-11-22T10:00:00UTC"}"#);
    home.write(
        ".aws/sso/cache/client.json",
        r#"{"clientId":"c","clientSecret":"canary","expiresAt":"2020-11-22T10:00:00Z"}"#,
    );
    home.write(".config/gh/hosts.yml", "github.com:\n    oauth_token: gho_canary\n    user: me\n");
    home.write("token.json", GO);
    let shown = home.run("import");
    assert_eq!(shown.code, 0, "{}", shown.err);
    for line in [
        "Claude Code: ",
        "  docs: an access token that expires at 2099-",
        "Codex: ",
        "  me: an access token whose expiry is not known, a refresh token",
        "that expired at 2020-11-22 10:00:00 UTC, no refresh token",
        "tokenkeep migrate --from import:golang:",
        "gh): ",
    ] {
        assert!(shown.out.contains(line), "{line}: {}", shown.out);
    }
    let all: Value = serde_json::from_str(&home.run("import --json").ok()).unwrap();
    let formats: Vec<_> = all.as_array().unwrap().iter().map(|it| &it["format"]).collect();
    assert_eq!(formats, ["codex", "claude-code", "aws-sso", "gh", "golang"]);
    assert_eq!(all[1]["accounts"].as_array().unwrap().len(), 2);
    for text in [&shown.out, &shown.err, &all.to_string()] {
        assert!(!text.contains("canary"), "{text}");
    }
}

#[test]
fn an_import_is_only_a_source() {
    let home = home("token.json", GO);
    for line in [
        "get --store import:auto:token.json",
        "status --store import:auto:token.json",
        "init --store import:auto:token.json",
        "migrate --from plaintext:x.json --to import:auto:token.json",
        "backup --store plaintext:x.json --to import:auto:token.json",
        "restore --store plaintext:x.json --from import:auto:token.json",
    ] {
        let said = home.run(line).failed(2);
        assert!(said.contains("import: is only a source"), "{line}: {said}");
    }
    home.write("config/profiles/work.toml", "store = \"import:auto:/token.json\"\n");
    let said = home.run("get --profile work").failed(2);
    assert!(said.contains("line 1: import: is only a source"), "{said}");
    for (line, words) in [
        ("migrate --from import:token.json --profile a", "import: needs FORMAT:PATH"),
        ("migrate --from import:word:token.json --profile a", "FORMAT is auto, "),
        ("migrate --from import:codex:token.json --profile a", "it is not a file of Codex"),
        ("migrate --from import:auto:none.json --profile a", "holds no tokens"),
        ("migrate --from plaintext:a --to plaintext:b --take-over", "--take-over is only for"),
        ("migrate --from plaintext:a --to plaintext:b --account x", "--account is only for"),
        ("migrate --from plaintext:a --all --to plaintext:b", "cannot be used with `--from`"),
        ("migrate", "`--to <URL>` is missing"),
    ] {
        let said = home.run(line);
        assert!(said.code != 0 && said.err.contains(words), "{line}: {}", said.err);
    }
}

#[test]
fn the_target_keeps_other_tokens_and_another_store() {
    let home = Home::signed_in();
    home.write("token.json", GO.replace("canary-a", "canary-b"));
    for option in ["", " --take-over"] {
        let line = format!("migrate --profile default --from import:auto:token.json{option}");
        home.run(&line).failed(7);
        let line = format!("{line} --to plaintext:other.json");
        let said = home.run(&line).failed(7);
        assert!(said.contains("has another store"), "{said}");
    }
    assert!(home.path("token.json").exists());
    assert_eq!(home.run("get").line(), "canary-a");
}

#[test]
fn a_backup_of_another_session_is_not_replaced_by_an_import() {
    let home = home("token.json", GO);
    home.run("init").ok();
    home.feed("set", "the-only-one").ok();
    home.run("backup --to plaintext:copy.json").ok();
    let before = fs::read(home.path("copy.json")).unwrap();
    for option in ["", " --take-over", " --dry-run"] {
        let line =
            format!("migrate --from import:auto:token.json --to plaintext:copy.json{option}");
        let said = home.run(&line);
        assert_eq!(said.code, 7, "{line}: {}", said.err);
        assert!(said.err.contains("holds other tokens"), "{line}: {}", said.err);
    }
    assert_eq!(fs::read(home.path("copy.json")).unwrap(), before);
    assert_eq!(fs::read_to_string(home.path("token.json")).unwrap(), GO);
    // A profile is not made in vain.
    home.run("migrate --profile work --from import:auto:token.json --to plaintext:copy.json")
        .failed(7);
    assert!(!home.path("config/profiles/work.toml").exists());
}

#[test]
fn tokens_are_not_given_to_a_profile_of_another_provider() {
    let server = TokenServer::start();
    for (token_uri, client) in [("https://oauth2.example/token", "app"), ("", "another")] {
        let home = Home::new();
        home.run("init --profile work").ok();
        let path = home.path("config/profiles/work.toml");
        let store = fs::read_to_string(&path).unwrap();
        let url = server.token_url();
        fs::write(&path, format!("{store}[oauth2]\ntoken_url = \"{url}\"\nclient_id = \"app\"\n"))
            .unwrap();
        let uri = if token_uri.is_empty() { &url } else { token_uri };
        let file = json!({
            "type": "authorized_user", "client_id": client, "client_secret": "s",
            "refresh_token": "canary-r", "token_uri": uri,
        });
        home.write("adc.json", file.to_string());
        let line = "migrate --profile work --from import:auto:adc.json --take-over";
        let said = home.run(line).failed(7);
        assert!(said.contains("are of another provider or client"), "{said}");
        assert!(home.path("adc.json").exists());
    }
    assert_eq!(server.calls(), 0);
}

#[test]
fn what_names_the_provider_and_the_account_is_kept_when_the_file_is_removed() {
    let file = r#"{"client_id":"cid","client_secret":"canary","refresh_token":"r","type":"authorized_user","token_uri":"http://evil.example/t","account":"me@example"}"#;
    let home = home("adc.json", file);
    let said = home.run("migrate --profile work --from import:auto:adc.json --take-over");
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.err.contains("WARNING: the profile gets no provider"), "{}", said.err);
    assert!(said.err.contains("nothing refreshes them here yet"), "{}", said.err);
    assert!(!home.path("adc.json").exists());
    for (name, value) in
        [("client_id", "cid"), ("token_uri", "http://evil.example/t"), ("account", "me@example")]
    {
        assert_eq!(home.run(&format!("get --profile work --field {name}")).line(), value);
    }
    home.run("get --profile work --field client_secret").failed(2);
}

#[test]
fn accounts_whose_names_look_alike_become_different_profiles() {
    let hosts = "github.com:\n    users:\n        a.b:\n            oauth_token: gho_1\n        a-b:\n            oauth_token: gho_2\n        jürgen:\n            oauth_token: gho_3\n        jörgen:\n            oauth_token: gho_4\n";
    let home = home("hosts.yml", hosts);
    let tokens = |home: &Home| {
        let mut tokens = Vec::new();
        for line in home.run("list").ok().lines() {
            let name = line.split('\t').next().unwrap();
            tokens.push((name.to_owned(), home.run(&format!("get --profile {name}")).line()));
        }
        tokens
    };
    home.run("migrate --all --from import:auto:hosts.yml").ok();
    let first = tokens(&home);
    let mut all: Vec<_> = first.iter().map(|(_, token)| token.as_str()).collect();
    all.sort_unstable();
    assert_eq!(all, ["gho_1", "gho_2", "gho_3", "gho_4"]);
    home.run("migrate --all --from import:auto:hosts.yml").ok();
    assert_eq!(tokens(&home), first);
}

#[test]
fn one_account_that_cannot_be_taken_stops_no_other() {
    let home = home("tokens", TWO);
    home.run("init --profile claude-code-claude-code").ok();
    home.feed("set --profile claude-code-claude-code", "mine").ok();
    let said = home.run("migrate --all --from import:auto:tokens");
    assert_eq!(said.code, 1, "{}", said.err);
    let expected = "1 of the accounts were not taken: claude-code\n";
    assert!(said.err.ends_with(expected), "{}", said.err);
    assert_eq!(home.run("get --profile claude-code-docs").line(), "canary-b");
    assert_eq!(home.run("get --profile claude-code-claude-code").line(), "mine");
}

#[test]
fn of_two_take_overs_at_once_one_has_the_tokens() {
    for _ in 0..5 {
        let home = home("token.json", GO);
        let take = |name: &str| {
            let line = format!(
                "migrate --take-over --from import:auto:token.json --to plaintext:{name}.json"
            );
            home.run(&line).code
        };
        let codes = std::thread::scope(|scope| {
            let other = scope.spawn(|| take("one"));
            [take("two"), other.join().unwrap()]
        });
        let live = ["one", "two"].iter().filter(|it| home.path(format!("{it}.json")).exists());
        assert_eq!(
            (live.count(), codes.iter().filter(|it| **it == 0).count()),
            (1, 1),
            "{codes:?}"
        );
    }
}

#[test]
fn a_take_over_whose_file_cannot_be_removed_says_that_the_tokens_are_in_both_places() {
    let home = Home::new();
    home.write("theirs/token.json", GO);
    fs::hard_link(home.path("theirs/token.json"), home.path("theirs/other.json")).unwrap();
    let line = "migrate --take-over --from import:auto:theirs/token.json --to plaintext:a.json";
    let said = home.run(line);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.err.contains("stays as it is"), "{}", said.err);
    assert!(home.path("theirs/token.json").exists() && home.path("a.json").exists());
}

#[test]
fn files_of_other_programs_are_neither_damaged_nor_removed_whatever_they_are() {
    let contents: [&[u8]; 10] = [
        b"\x80\x04\x95canary",
        b"SQLite format 3\0canary",
        b"machine h\nlogin l password canary\n",
        b"<?xml version=\"1.0\"?><plist>canary</plist>",
        b"-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n",
        b"{\"a\":\"canary\"}\n{\"b\":1}\n",
        b"{ // a comment\n \"token\": \"canary\" }\n",
        b"a;b\ncanary;c\n",
        b"canary-canary-canary-canary-0123456789\n",
        b"{\"version\":3,\"tokens\":{\"a\":\"canary\"}}",
    ];
    for content in contents {
        let home = Home::new();
        home.write("theirs", content);
        for line in ["get", "status", "clear"] {
            let done = home.run(&format!("{line} --store plaintext:theirs"));
            let text = format!("{}{}", done.out, done.err);
            assert_eq!(done.code, 6, "{line} {content:?}: {text}");
            assert!(!text.contains("damaged") && !text.contains("canary"), "{line}: {text}");
            assert!(!text.contains("clear it"), "{line}: {text}");
        }
        assert_eq!(fs::read(home.path("theirs")).unwrap(), content);
    }
}

#[test]
fn thousands_of_accounts_or_fields_end_soon_and_are_refused() {
    let entry = r#"{"scopes":["x"],"token":{"access_token":"a","expires_at":1900000000}}"#;
    let hosts: String = (0..30_000)
        .map(|user| format!("        u{user}:\n            oauth_token: gho_{user}\n"))
        .collect();
    let fields: Vec<String> =
        (0..60_000).map(|host| format!(r#""h{host}":{{"identitytoken":"r"}}"#)).collect();
    for content in [
        format!("[{}]", vec![entry; 30_000].join(",")),
        format!("github.com:\n    users:\n{hosts}"),
        format!(r#"{{"auths":{{{}}}}}"#, fields.join(",")),
    ] {
        let home = home("tokens", &content);
        let said = home.run("migrate --profile work --from import:auto:tokens").failed(6);
        assert!(said.contains("more than "), "{said}");
    }
}

#[test]
fn tokens_of_one_issuer_are_not_given_to_a_profile_of_another() {
    let server = TokenServer::start();
    let codex = r#"{"OPENAI_API_KEY":null,"tokens":{"access_token":"canary","refresh_token":"r"},"last_refresh":"2026-01-01T00:00:00Z"}"#;
    let home = home("auth.json", codex);
    home.run("init --profile work").ok();
    let path = home.path("config/profiles/work.toml");
    let store = fs::read_to_string(&path).unwrap();
    let url = server.token_url();
    fs::write(&path, format!("{store}[oauth2]\ntoken_url = \"{url}\"\nclient_id = \"app\"\n"))
        .unwrap();
    let said =
        home.run("migrate --profile work --from import:auto:auth.json --take-over").failed(7);
    assert!(said.contains("are of another provider or client"), "{said}");
    assert!(home.path("auth.json").exists());
}

#[test]
fn a_backup_of_tokens_that_were_imported_once_is_a_backup_like_any_other() {
    let home = home("token.json", GO);
    let import = "migrate --from import:auto:token.json --to plaintext:copy.json";
    home.run(import).ok();
    home.run(import).ok();
    home.run("restore --store plaintext:live.json --from plaintext:copy.json").ok();
    home.run("backup --store plaintext:live.json --to plaintext:copy.json").ok();
    home.run(import).failed(7);
}

#[test]
fn a_secret_of_a_client_under_another_name_comes_out_nowhere() {
    let file = r#"{"access_token":"a","expires_at":4000000000,"clientSecret":"canary-1","client":{"client_secret":"canary-2"},"consumer_secret":"canary-3"}"#;
    let home = home("tokens.json", file);
    home.run("migrate --profile work --take-over --from import:auto:tokens.json").ok();
    assert!(home.path("tokens.json").exists());
    for line in [
        "get --field json",
        "get --field clientSecret",
        "get --field client",
        "get --field consumer_secret",
    ] {
        let shown = home.run(&format!("{line} --profile work"));
        assert!(!format!("{}{}", shown.out, shown.err).contains("canary"), "{line}: {}", shown.out);
    }
}

#[test]
fn one_remote_without_tokens_hinders_no_other_and_a_name_holds_no_secret() {
    let conf = "[a]\ntype = drive\ntoken = {\"access_token\":\"tok\",\"expiry\":\"2099-01-01T00:00:00Z\"}\n[b]\ntoken = {\"access_token\":\"\",\"expiry\":\"0001-01-01T00:00:00Z\"}\n";
    let home = home("rclone.conf", conf);
    home.run("migrate --profile a --from import:auto:rclone.conf").ok();
    assert_eq!(home.run("get --profile a").line(), "tok");
    let servers = r#"{"k":{"server_name":"","server_url":"https://user:canary@mcp.example/x?api_key=canary","client_id":"c","access_token":"a","refresh_token":"r","expires_at":null},"l":{"server_name":"two","server_url":"https://two.example","refresh_token":"s"}}"#;
    home.write(".codex/.credentials.json", servers);
    let shown = home.run("import");
    assert!(shown.out.contains("  https://mcp.example/x: "), "{}", shown.out);
    assert!(shown.out.contains("  two: no access token, a refresh token"), "{}", shown.out);
    assert!(!shown.out.contains("canary"), "{}", shown.out);
}
