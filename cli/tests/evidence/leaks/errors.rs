//! Every kind of failure, with a secret in the part that is wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{Scene, text};
use crate::figures::figure;
use crate::token_server::Act;

fn record(expires: &str) -> String {
    let (access, refresh) = (text("mine"), text("my refresh"));
    format!(r#"{{"access_token":"{access}","refresh_token":"{refresh}","expires_at":"{expires}"}}"#)
}

#[test]
fn no_failure_shows_a_secret() {
    let scene = Scene::new();
    on_the_command_line(&scene);
    in_a_profile(&scene);
    in_a_record(&scene);
    in_a_key(&scene);
    from_a_provider(&scene);
    in_the_state_of_things(&scene);
    let failures: Vec<i32> =
        scene.codes.borrow().iter().copied().filter(|&code| code != 0).collect();
    assert_eq!(failures, [1, 2, 3, 4, 5, 6, 7, 8, 126, 127]);
    let files = scene.assert_files_show_nothing();
    let tried = format!("{} runs, with each exit code; {files} files", scene.runs.get());
    figure("leaks in errors", tried, "0 secrets shown");
}

/// Secrets in the place of names: exit code 2.
fn on_the_command_line(scene: &Scene) {
    let (stray, key) = (text("stray"), scene.keys[0].clone());
    let url = |start: &str| format!("{start}{stray}");
    for arguments in [
        &[stray.as_str()][..],
        &["get", &stray],
        &["get", &url("--")],
        &["get", "--field", &stray],
        &["get", &url("--field=")],
        &["get", &url("--header=")],
        &["set", &stray],
        &["login", "--device", &stray],
        &["status", "--profile", &stray],
        &["status", "--store", &stray],
        &["status", "--store", &url("https://me:")],
        &["status", "--store", &format!("postgres://me:{stray}@host/db")],
        &["status", "--store", &url("memory:")],
        &["status", "--store", &url("plaintext:x?identity=")],
        &["status", "--store", &format!("age:x?{stray}={stray}")],
        &["status", "--store", &format!("age:x?identity={key}")],
        &["backup", "--to", "x", "--recipient", &key],
        &["backup", "--to", &key],
        &["restore", "--from", &key],
        &["restore", "--from", "x", "--identity", &key],
        &["migrate", "--to", &url("ftp://")],
        &["migrate", "--from", &format!("age:{key}"), "--to", "age:x"],
        &["keygen", "-o", &key],
        &["rekey", "--identity", &key],
        &["rekey", "--recipient", &key],
        &["rekey", "--remove-recipient", &stray],
        &["exec", "--prefix", &format!("{stray}-"), "--", "true"],
        &["completions", &stray],
    ] {
        let done = scene.run(&mut scene.tokenkeep(arguments), "");
        assert!(done.code != 0, "{arguments:?}: {}", done.err);
        scene.assert_shows_nothing("standard output", &done.out);
    }
    for variable in ["TOKENKEEP_STORE", "TOKENKEEP_PROFILE"] {
        scene.ends(2, scene.tokenkeep(&["get"]).env(variable, &stray), "");
    }
}

/// Secrets in a profile's file: exit code 2.
fn in_a_profile(scene: &Scene) {
    let (stray, store) = (text("stray"), format!("store = \"{}\"\n", scene.age("tokens")));
    let oauth2 =
        format!("{store}[oauth2]\nclient_id = \"app\"\ntoken_url = \"https://x.example/\"\n");
    for wrong in [
        stray.clone(),
        format!("store = {stray}"),
        format!("store = \"{stray}\""),
        format!("store = \"https://me:{stray}@x.example/\""),
        format!("{store}{stray} = 1\n"),
        format!("{store}access_token = \"{stray}\"\n"),
        format!("{store}moving_to = \"{stray}\"\n"),
        format!("{store}oauth2 = \"{stray}\"\n"),
        format!("{oauth2}client_secret = \"{stray}\"\n"),
        format!("{oauth2}{stray} = \"{stray}\"\n"),
        format!("{oauth2}redirect_port = \"{stray}\"\n"),
        format!("{oauth2}redirect_uri = \"http://x.example/{stray}\"\n"),
        format!("{oauth2}scopes = \"{stray}\"\n"),
        format!("{oauth2}revocation_url = \"http://x.example/{stray}\"\n"),
        format!("{oauth2}device_authorization_url = \"https://me:{stray}@x.example/\"\n"),
        format!(
            "{store}[oauth2]\nclient_id = \"a\"\ntoken_url = \"https://{stray}:x@y.example\"\n"
        ),
    ] {
        scene.home.write("config/profiles/wrong.toml", wrong);
        for command in ["get", "login", "refresh"] {
            scene.fails(2, &[command, "--profile", "wrong"], "");
        }
        scene.quiet(&["list"], "");
        let doctor = scene.run(&mut scene.tokenkeep(&["doctor"]), "");
        scene.assert_shows_nothing("doctor", &doctor.out);
        fs::remove_file(scene.home.path("config/profiles/wrong.toml")).unwrap();
    }
}

/// Secrets in damaged records (exit code 6), and in the input of `set` (exit code 2).
fn in_a_record(scene: &Scene) {
    let (mine, good) = (text("mine"), record("2099-01-01T00:00:00Z"));
    let store = scene.plaintext("broken");
    let quoted = |field: &str| format!(r#"{{"access_token":"{mine}","{field}":"{mine}"}}"#);
    for damaged in [
        good[..good.len() / 2].to_owned(),
        good.replace(',', &format!(", {mine} ,")),
        format!("{good}{mine}"),
        format!("[\"{mine}\"]"),
        format!("\"{mine}\""),
        format!(r#"{{"access_token":["{mine}"]}}"#),
        format!(r#"{{"access_token":"{mine}","access_token":"{mine}"}}"#),
        format!(r#"{{"access_token":"{mine}","{mine}":1,"{mine}":2}}"#),
        format!(r#"{{"access_token":"{mine}\q"}}"#),
        format!(r#"{{"access_token":"{mine}","extra":"{mine}"}}"#),
        format!(r#"{{"access_token":"{mine}","extra":{{"a":"{mine}"}},"a":"{mine}"}}"#),
        quoted("backup"),
        quoted("expires_at"),
        quoted("expiry"),
    ] {
        scene.home.write("plain/broken.json", &damaged);
        for command in ["get", "status", "refresh", "exec"] {
            let more = if command == "exec" { &["--", "true"][..] } else { &[] };
            scene.fails(6, &[&[command, "--store", &store], more].concat(), "");
        }
        scene.fails(6, &["migrate", "--from", &store, "--to", &scene.age("never")], "");
        // `set` could take other input as a bare token.
        if damaged.starts_with('{') {
            scene.fails(2, &["set"], &damaged);
        }
        // A record that cannot be read is not overwritten.
        scene.fails(6, &["set", "--store", &store], &good);
    }
    scene.home.write("plain/broken.json", [mine.as_bytes(), b"\xff\xfe"].concat());
    scene.fails(6, &["get", "--store", &store], "");
    scene.home.write("plain/broken.json", format!(r#"{{"version":3,"access_token":"{mine}"}}"#));
    scene.fails(6, &["get", "--store", &store], "");
    scene.fails(2, &["set"], &mine.repeat(2000));
    scene.fails(2, &["set"], &format!("{mine} {mine}"));
    scene.fails(2, &["set"], &scene.keys[0]);
    fs::remove_file(scene.home.path("plain/broken.json")).unwrap();
}

/// Invalid keys, and keys of others: exit codes 5 and 6.
fn in_a_key(scene: &Scene) {
    scene.quiet(&["set"], &record("2099-01-01T00:00:00Z"));
    let key = fs::read(scene.home.path("config/keys/key.txt")).unwrap();
    scene.home.write("config/keys/key.txt", &scene.keys[1]);
    scene.fails(6, &["get"], "");
    for wrong in [
        text("stray"),
        format!("{}b", scene.keys[0]),
        scene.keys[0][..50].to_owned(),
        format!("{} {}", scene.keys[0], scene.keys[0]),
        format!("AGE-SECRET-KEY-1{}", text("stray")),
    ] {
        scene.home.write("config/keys/key.txt", wrong);
        let done = scene.run(&mut scene.tokenkeep(&["get"]), "");
        assert!(done.code != 0 && done.out.is_empty(), "{}", done.err);
    }
    scene.home.write("config/keys/key.txt", &key);
    // A wrong passphrase.
    scene.quiet(&["backup", "--to", "sealed.age", "--passphrase"], "");
    let mut restore = scene.tokenkeep(&["restore", "--from", "sealed.age", "--overwrite"]);
    scene.ends(6, restore.env("TOKENKEEP_PASSPHRASE", text("stray")), "");
    let mut restore = scene.tokenkeep(&["restore", "--from", "sealed.age", "--overwrite"]);
    scene.ends(5, restore.env("TOKENKEEP_PASSPHRASE", ""), "");
}

/// A provider whose answers contain a secret in the wrong place: exit codes 1 and 4.
fn from_a_provider(scene: &Scene) {
    let echo = text("echo");
    let says = |status: u16, body: &str| Act::answer(status, &body.replace("ECHO", &echo));
    for act in [
        says(400, r#"{"error":"ECHO"}"#),
        says(400, r#"{"error":"invalid_request","error_description":"ECHO","error_uri":"ECHO"}"#),
        says(401, r#"{"error":"invalid_client","error_description":"ECHO"}"#),
        says(400, "ECHO"),
        says(404, "ECHO"),
        says(503, "ECHO"),
        says(200, "ECHO"),
        says(200, r#"{"access_token":["ECHO"],"refresh_token":"ECHO"#),
        says(200, r#"{"refresh_token":"ECHO"}"#),
        says(200, r#"{"access_token":"ECHO","access_token":"ECHO"}"#),
        says(307, "ECHO").header("Location", &format!("https://x.example/{echo}")),
        says(429, "ECHO").header("Retry-After", &echo),
        says(200, "ECHO").header("Content-Encoding", &echo),
        Act::BreakOff,
        Act::DropAnswer,
        Act::DropRequest,
    ] {
        scene.quiet(&["login", "--device"], "");
        scene.server.script([act]);
        let refreshed = scene.run(&mut scene.tokenkeep(&["refresh"]), "");
        // A lost request or answer is tried again, so the exit code differs.
        assert!(refreshed.out.is_empty(), "{}", refreshed.err);
    }
    scene.server.script([says(400, r#"{"error":"invalid_grant","error_description":"ECHO"}"#)]);
    scene.fails(4, &["refresh"], "");
    // The words of the provider are for the person who signs in. Its codes are shown if they are registered.
    for (code, exit) in [("access_denied", 4), ("invalid_scope", 1)] {
        let body = format!(r#"{{"error":"{code}","error_uri":"ECHO","interval":"ECHO"}}"#);
        scene.server.script([says(400, "ECHO"), says(200, "ECHO"), says(400, &body)]);
        scene.fails(exit, &["login", "--device"], "");
    }
}

/// Other failures: exit codes 3, 4, 5, 7, 8, 126 and 127.
fn in_the_state_of_things(scene: &Scene) {
    let store = scene.plaintext("other");
    scene.fails(3, &["get", "--store", &store], "");
    scene.quiet(&["set", "--store", &store], &record("2020-01-01T00:00:00Z"));
    scene.fails(4, &["get", "--store", &store], "");
    scene.fails(4, &["status", "--store", &store], "");
    scene.fails(7, &["init"], "");
    scene.fails(7, &["migrate", "--from", &store, "--to", &scene.age("tokens")], "");
    let path = scene.home.path("plain/other.json");
    fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    scene.fails(5, &["get", "--store", &store], "");
    scene.fails(127, &["exec", "--", "there/is/no/such/program"], "");
    scene.fails(126, &["exec", "--", "/"], "");
    // The process is killed after the server has received the refresh token.
    scene.quiet(&["login", "--device"], "");
    let held = scene.server.hold();
    let mut killed = scene.tokenkeep(&["refresh"]).spawn().unwrap();
    held.wait();
    killed.kill().unwrap();
    killed.wait().unwrap();
    held.release();
    scene.server.script([Act::error(400, "invalid_grant")]);
    scene.fails(8, &["refresh"], "");
}
