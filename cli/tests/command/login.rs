//! Signing in and out with the command, at a test provider.
#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use crate::home::{Home, done};
use crate::token_server::{Act, TokenServer, fetch};

/// Returns a home with a profile that names this server. `more` are more settings of the profile.
pub(crate) fn home(server: &TokenServer, more: &str) -> Home {
    let home = Home::new();
    home.run("init").ok();
    let path = home.path("config/profiles/default.toml");
    let store = fs::read_to_string(&path).unwrap();
    let url = |path: &str| server.url(path);
    fs::write(
        &path,
        format!(
            "{store}[oauth2]\ntoken_url = \"{}\"\nclient_id = \"app\"\nrevocation_url = \"{}\"\n\
             authorization_url = \"{}\"\nscopes = [\"read\", \"offline_access\"]\n{more}",
            url("/token"),
            url("/revoke"),
            url("/authorize")
        ),
    )
    .unwrap();
    home
}

pub(crate) fn by_device(server: &TokenServer) -> Home {
    home(server, &format!("device_authorization_url = \"{}\"\n", server.url("/device")))
}

#[test]
fn a_sign_in_by_device_keeps_the_tokens() {
    let server = TokenServer::start();
    let home = by_device(&server);
    let login = home.run("login");
    let said: Vec<_> = login.err.lines().collect();
    let first =
        format!("open {} on any device, and type the code WDJB-MJHT", server.url("/device"));
    assert_eq!(said[0], first);
    assert!(said[1].starts_with("signed in; the tokens are in age file ") && said.len() == 2);
    assert!(login.out.is_empty() && !login.err.contains("canary"), "{login:?}");
    login.ok();
    assert_eq!(home.run("get").line(), "access-canary-2");
    assert_eq!(home.run("get --field refresh").line(), "refresh-canary-2");
    let record: serde_json::Value =
        serde_json::from_str(&home.run("get --field json").ok()).unwrap();
    assert_eq!(record["extra"]["id_token"], "id-canary");
    assert!(record["expires_at"].is_string());
    assert_eq!(server.requests()[0].form["scope"], "read offline_access");
}

#[test]
fn a_sign_in_by_browser_keeps_the_tokens() {
    let server = TokenServer::start();
    let home = by_device(&server);
    let mut login = home.command();
    let mut login = login
        .args(["login", "--browser"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(login.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let url = line.trim_end().strip_prefix("open this in a browser: ").unwrap();
    let (_, back, _) = fetch(url);
    assert_eq!(fetch(&back.unwrap()).0, 200);
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert!(login.wait().unwrap().success(), "{rest}");
    assert!(rest.starts_with("signed in; ") && !rest.contains("canary"), "{rest}");
    assert_eq!(home.run("get").line(), "access-canary-2");
}

/// Runs `login` with these arguments. Returns what it does after it has printed the URL, and `feed` has returned what
/// goes into standard input.
fn login_and(
    home: &Home,
    arguments: &str,
    environment: &[(&str, &str)],
    feed: impl FnOnce(&str) -> String,
) -> (bool, String) {
    let mut command = home.command();
    command.args(arguments.split(' ')).envs(environment.iter().copied());
    let mut login = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(login.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let url = line.trim_end().rsplit_once(": ").unwrap_or_default().1;
    let input = feed(url);
    // The command may have ended.
    let _ = login.stdin.take().unwrap().write_all(input.as_bytes());
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert!(!rest.contains("canary"), "{rest}");
    (login.wait().unwrap().success(), line + &rest)
}

#[test]
fn a_pasted_address_comes_through_standard_input() {
    let server = TokenServer::start();
    for more in ["", "redirect_uri = \"https://app.example/back\"\n"] {
        let home = home(&server, more);
        let (done, said) = login_and(&home, "login --paste", &[], |url| {
            format!("{}\r\nmore", fetch(url).1.unwrap())
        });
        assert!(done, "{said}");
        home.run("get").ok();
    }
    let home = home(&server, "");
    let (done, said) = login_and(&home, "login --paste", &[], |_| "code=a&state=b\n".to_owned());
    assert!(
        !done && said.contains("tokenkeep: this is not the answer to this sign-in; paste"),
        "{said}"
    );
    home.run("get").failed(3);
}

#[test]
fn standard_input_is_not_read_unless_that_was_asked_for() {
    let server = TokenServer::start();
    let home = home(&server, "");
    let (done, said) = login_and(&home, "login", &[], |url| {
        fetch(&fetch(url).1.unwrap());
        "code=canary&state=canary\n".to_owned()
    });
    assert!(done, "{said}");
    let elsewhere = self::home(&server, "redirect_uri = \"com.example.app:/back\"\n");
    assert!(elsewhere.run("login").failed(2).contains("with --paste and the address of the page"));
}

#[test]
fn a_browser_is_opened_only_if_that_was_asked_for() {
    let server = TokenServer::start();
    let home = home(&server, "client_secret_env = \"APP_SECRET\"\n");
    // A browser that follows both redirects. Its environment and its arguments are recorded.
    let browser = "#!/bin/sh\necho \"$#\" \"$1\" > opened; env > environment\n\
                   exec python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1])' \"$1\"\n";
    home.write("browser", browser);
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(home.path("browser"), executable).unwrap();
    let program = home.path("browser");
    let environment = [
        ("BROWSER", program.to_str().unwrap()),
        ("APP_SECRET", "secret-canary"),
        ("no_proxy", "*"),
    ];
    let (done, said) = login_and(&home, "login --browser --open", &environment, |_| String::new());
    assert!(done && !said.contains("WARNING"), "{said}");
    let opened = fs::read_to_string(home.path("opened")).unwrap();
    // No part of the sign-in is among the arguments, which other users can see.
    assert!(opened.starts_with("1 http://127.0.0.1:") && !opened.contains("state"), "{opened}");
    assert!(!fs::read_to_string(home.path("environment")).unwrap().contains("canary"));

    fs::remove_file(home.path("opened")).unwrap();
    let (done, _) = login_and(&home, "login", &environment, |url| {
        fetch(&fetch(url).1.unwrap());
        String::new()
    });
    assert!(done && !home.path("opened").exists());
    let missing = [("BROWSER", "/no/such/browser:"), ("APP_SECRET", "a")];
    let (done, said) = login_and(&home, "login --open", &missing, |url| {
        fetch(&fetch(url).1.unwrap());
        String::new()
    });
    assert!(
        done && said.contains("WARNING: no browser could be opened; open the URL yourself"),
        "{said}"
    );
}

#[test]
fn a_sign_in_that_somebody_else_opened_first_ends_and_says_so() {
    let server = TokenServer::start();
    let home = home(&server, "");
    // The first one stands for another user who sees the arguments.
    let browser = "#!/bin/sh\npython3 - \"$1\" > page <<'END'\n\
        import sys, urllib.error, urllib.request\n\
        class Stays(urllib.request.HTTPRedirectHandler):\n    def redirect_request(self, *_):\n        return None\n\
        for _ in range(2):\n    try:\n        urllib.request.build_opener(Stays).open(sys.argv[1])\n    \
        except urllib.error.HTTPError as answer:\n        print(answer.code, answer.read().decode())\nEND\n";
    home.write("browser", browser);
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(home.path("browser"), executable).unwrap();
    let mut login = home.command();
    login.args(["login", "--open"]).env("BROWSER", home.path("browser")).env("no_proxy", "*");
    let said = done(&mut login, "");
    assert_eq!(said.code, 4, "{said:?}");
    let end = "opened twice, perhaps by somebody else who uses this machine, and has ended; sign in again with \
               `tokenkeep login --profile default`\n";
    assert!(said.err.ends_with(end), "{said:?}");
    home.run("get").failed(3);
}

#[test]
fn the_complete_url_is_shown_and_the_one_without_the_code_is_opened() {
    let server = TokenServer::start();
    // The token endpoint stands for the device endpoint, because its answers can be scripted.
    let home = home(&server, &format!("device_authorization_url = \"{}\"\n", server.token_url()));
    let answer = r##"{"device_code":"d","user_code":"WDJB","verification_url":"https://i.example/device",
        "verification_uri_complete":"https://i.example/#code=WDJB","interval":1}"##;
    server.script([Act::answer(200, answer), Act::answer(200, r#"{"access_token":"a"}"#)]);
    home.write("browser", "#!/bin/sh\necho \"$1\" > opened\n");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(home.path("browser"), executable).unwrap();
    let mut login = home.command();
    login.args(["login", "--open"]).env("BROWSER", home.path("browser"));
    let said = done(&mut login, "");
    let lines: Vec<_> = said.err.lines().collect();
    assert_eq!(lines[0], "open https://i.example/device on any device, and type the code WDJB");
    assert_eq!(lines[1], "or open https://i.example/#code=WDJB and check that it shows this code");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let opened = loop {
        // The browser may still be starting when the command ends.
        let opened = fs::read_to_string(home.path("opened")).unwrap_or_default();
        if opened.ends_with('\n') {
            break opened;
        }
        assert!(std::time::Instant::now() < deadline, "nothing was opened");
        std::thread::yield_now();
    };
    // Other users can see the arguments of a program.
    assert_eq!(opened.trim_end(), "https://i.example/device");
}

#[test]
fn a_sign_in_without_a_refresh_token_says_what_to_add() {
    let server = TokenServer::start();
    let home =
        home(&server, &format!("device_authorization_url = \"{}\"\n", server.url("/device")));
    let path = home.path("config/profiles/default.toml");
    let text = fs::read_to_string(&path).unwrap();
    for (scopes, advice) in [
        ("\"read\", \"offline_access\"", "this client may not be allowed to have one"),
        ("\"read\"", "many providers need offline_access in scopes, and Google needs access_type"),
    ] {
        fs::write(&path, text.replace("\"read\", \"offline_access\"", scopes)).unwrap();
        server.script([Act::answer(200, r#"{"access_token":"a","expires_in":60}"#)]);
        let login = home.run("login");
        assert_eq!(login.code, 0, "{login:?}");
        let warning = login.err.lines().last().unwrap();
        assert!(warning.starts_with("WARNING: the provider issued no refresh token"), "{warning}");
        assert!(warning.contains(advice), "{warning}");
    }
    assert!(!home.run("login").err.contains("WARNING"));
}

#[test]
fn a_declined_sign_in_is_reported_and_the_old_tokens_stay() {
    let server = TokenServer::start();
    let home = by_device(&server);
    home.run("login").ok();
    server.device_hears(["access_denied"]);
    let login = home.run("login");
    assert_eq!(login.code, 4, "{login:?}");
    assert!(login.err.ends_with(
        "tokenkeep: the sign-in was declined; start it again, and allow it this time\n"
    ));
    assert_eq!(home.run("get").line(), "access-canary-2");
}

#[test]
fn an_unusable_store_is_reported_before_the_sign_in_starts() {
    let server = TokenServer::start();
    let home = by_device(&server);
    fs::create_dir_all(home.path("state/tokenkeep")).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(home.path("state/tokenkeep"), private).unwrap();
    let record = home.path("state/tokenkeep/default.age");
    fs::write(&record, "canary").unwrap();
    fs::set_permissions(&record, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    home.run("login").failed(6);
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn the_tokens_go_where_the_profile_says_when_they_arrive() {
    let server = TokenServer::start();
    let home = home(&server, "");
    let sign_in = |meanwhile: &dyn Fn()| {
        login_and(&home, "login --paste", &[], |url| {
            let address = fetch(url).1.unwrap();
            meanwhile();
            address
        })
    };
    assert!(sign_in(&|| ()).0);
    // Migrated: neither are the tokens lost, nor is the old store filled again.
    let moved = home.path("moved.json");
    let (done, said) = sign_in(&|| {
        home.run(&format!("migrate --to plaintext:{}", moved.display())).ok();
    });
    assert!(done && said.contains("the tokens are in plaintext file "), "{said}");
    assert_eq!(home.run("get").line(), "access-canary-4");
    assert!(!home.record().exists());
    // Another client.
    let path = home.path("config/profiles/default.toml");
    let text = fs::read_to_string(&path).unwrap();
    let (done, said) = sign_in(&|| fs::write(&path, text.replace("\"app\"", "\"b\"")).unwrap());
    assert!(!done && said.contains("names another client or provider; sign in again"), "{said}");
    fs::write(&path, &text).unwrap();
    assert_eq!(home.run("get").line(), "access-canary-4");
    // Removed.
    let (done, said) = sign_in(&|| {
        home.run("profile remove default").ok();
    });
    assert!(!done && said.contains("the profile default was removed meanwhile"), "{said}");
    assert!(said.contains("the new tokens are not saved"), "{said}");
    assert!(!moved.exists() && !path.exists());
}

#[test]
fn a_store_that_cannot_be_written_is_reported_before_the_sign_in_starts() {
    let server = TokenServer::start();
    let home = by_device(&server);
    home.run("login").ok();
    let asked = server.requests().len();
    let state = home.path("state/tokenkeep");
    let mode =
        |mode| fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(mode));
    mode(0o500).unwrap();
    if fs::File::create(state.join("x")).is_ok() {
        // Root may write everywhere. A file in the place of the key cannot be read by it either.
        fs::remove_file(state.join("x")).unwrap();
        fs::remove_file(home.path("config/keys/default.txt")).unwrap();
        fs::remove_file(home.record()).unwrap();
    }
    let login = home.run("login");
    mode(0o700).unwrap();
    login.failed(5);
    assert_eq!(server.requests().len(), asked);
}

#[test]
fn the_clients_secret_comes_from_the_variable_that_the_profile_names() {
    let server = TokenServer::start();
    server.require_client("app", "secret-canary", true);
    let device = format!("device_authorization_url = \"{}\"\n", server.url("/device"));
    let home = home(&server, &format!("client_secret_env = \"APP_SECRET\"\n{device}"));
    let login = |secret: Option<&str>| {
        let mut command = home.command();
        command.arg("login").env_remove("APP_SECRET");
        done(command.envs(secret.map(|secret| ("APP_SECRET", secret))), "")
    };
    for unusable in [None, Some("")] {
        assert!(
            login(unusable)
                .failed(2)
                .contains("client_secret_env of this profile names is not set")
        );
    }
    assert_eq!(server.requests().len(), 0);
    assert!(login(Some("canary-wrong")).failed(1).contains("answered 401 invalid_client"));
    login(Some("secret-canary")).ok();
    // Fresh tokens need no secret.
    assert_eq!(home.run("get").line(), "access-canary-2");
}

#[test]
fn an_expired_token_is_refreshed_at_the_provider_that_the_profile_names() {
    let server = TokenServer::start();
    server.require_client("app", "secret-canary", true);
    let home = home(&server, "client_secret_env = \"APP_SECRET\"\n");
    let (access, refresh) = server.issue();
    let expired = format!(
        r#"{{"access_token":"{access}","refresh_token":"{refresh}","expires_at":"2020-01-01T00:00:00Z"}}"#
    );
    home.feed("set", &expired).ok();
    assert!(
        home.run("get").failed(1).contains("client_secret_env of this profile names is not set")
    );
    assert_eq!(server.calls(), 0);
    let mut get = home.command();
    get.arg("get").env("APP_SECRET", "secret-canary");
    assert_eq!(done(&mut get, "").line(), "access-canary-2");
    assert_eq!(home.run("get --field refresh").line(), "refresh-canary-2");
    assert_eq!(server.received(), [refresh]);
}

#[test]
fn clear_revokes_the_tokens_only_with_revoke() {
    let server = TokenServer::start();
    let home = by_device(&server);
    home.run("login").ok();
    home.run("clear --revoke").ok();
    assert!(server.is_revoked("access-canary-2") && server.is_revoked("refresh-canary-2"));
    home.run("get").failed(3);
    // Without tokens, there is nothing to revoke, and `clear` succeeds.
    home.run("clear --revoke").ok();

    home.run("login").ok();
    home.run("clear").ok();
    assert!(!server.is_revoked("refresh-canary-4"));
    home.run("get").failed(3);
}

#[test]
fn a_failed_revocation_still_removes_the_tokens_and_says_that_they_may_be_accepted() {
    let server = TokenServer::start();
    let home = by_device(&server);
    home.run("login").ok();
    let path = home.path("config/profiles/default.toml");
    // Use the token endpoint for revocation, because its answers can be scripted.
    let text = fs::read_to_string(&path).unwrap().replace("/revoke\"", "/token\"");
    fs::write(&path, text).unwrap();
    server.script([Act::answer(503, "canary")]);
    let said = home.run("clear --revoke").failed(1);
    assert!(said.contains("the tokens are removed here, and may be accepted until"), "{said}");
    assert!(
        said.contains("settings of the provider: ") && said.ends_with("answered 503\n"),
        "{said}"
    );
    home.run("get").failed(3);
}

#[test]
fn clear_removes_nothing_if_the_profile_says_not_how_to_revoke() {
    let server = TokenServer::start();
    let home = by_device(&server);
    home.run("login").ok();
    let path = home.path("config/profiles/default.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("revocation_url", "#")).unwrap();
    let said = home.run("clear --revoke").failed(2);
    assert!(
        said.contains("nothing is removed") && said.contains("has no revocation_url"),
        "{said}"
    );
    assert!(said.contains("`tokenkeep clear` without --revoke"), "{said}");
    assert_eq!(home.run("get").line(), "access-canary-2");
    home.run("clear").ok();
    home.run("get").failed(3);
}

#[test]
fn clear_reports_that_it_could_not_revoke_tokens_that_it_could_not_read() {
    let server = TokenServer::start();
    let home = by_device(&server);
    home.run("login").ok();
    fs::write(home.record(), "damaged").unwrap();
    let said = home.run("clear --revoke").failed(6);
    assert!(said.contains("the tokens are removed here, and may be accepted until"), "{said}");
    assert!(said.contains("is damaged"), "{said}");
    home.run("get").failed(3);
    // If the client secret is not set, `clear` still removes the tokens.
    home.run("login").ok();
    let path = home.path("config/profiles/default.toml");
    let text = fs::read_to_string(&path).unwrap() + "client_secret_env = \"NO_SUCH_VARIABLE\"\n";
    fs::write(&path, text).unwrap();
    let said = home.run("clear --revoke").failed(2);
    assert!(said.contains("the tokens are removed here, and may be accepted until"), "{said}");
    home.run("get").failed(3);
}

#[test]
fn login_and_revoke_fail_if_the_profile_names_no_provider() {
    let home = Home::new();
    home.run("init").ok();
    assert!(home.run("login").failed(2).contains("names no provider; add [oauth2]"));
    assert!(home.run("clear --revoke").failed(2).contains("names no provider"));
    assert!(home.run("login --store plaintext:x.json").failed(2).contains("no provider"));
    let path = home.path("config/profiles/default.toml");
    let store = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{store}[oauth2]\nclient_id = \"app\"\n")).unwrap();
    assert!(
        home.run("login")
            .failed(2)
            .contains("line 2: oauth2 needs client_id, and token_url or issuer")
    );
    let text =
        format!("{store}[oauth2]\nclient_id = \"app\"\ntoken_url = \"https://x.example/\"\n");
    fs::write(&path, text).unwrap();
    assert!(home.run("login").failed(2).contains("authorization_url is not set"));
    assert!(home.run("login --device").failed(2).contains("device_authorization_url is not set"));
}

#[test]
fn the_error_about_an_unusable_setting_names_file_and_line() {
    let home = Home::new();
    home.run("init").ok();
    let path = home.path("config/profiles/default.toml");
    let store = fs::read_to_string(&path).unwrap();
    let good = "client_id = \"app\"\ntoken_url = \"https://issuer.example/token\"\n";
    for (wrong, words) in [
        ("revocation_url = \"http://issuer.example/canary\"", "revocation_url must begin with"),
        ("authorization_url = \"canary\"", "authorization_url is not a URL"),
        ("device_authorization_url = \"https://me:canary@x.example/\"", "a user or a password"),
        ("redirect_port = 65536", "wrong type"),
        (
            "redirect_uri = \"http://issuer.example/canary\"",
            "redirect_uri is http, so its host must be",
        ),
        ("redirect_port = 8912\nredirect_uri = \"http://127.0.0.1/\"", "redirect_uri is set too"),
        ("redirect_port = \"canary\"", "wrong type"),
        ("scopes = [\"read\", 5]", "wrong type"),
        ("client_secret_in_body = \"canary\"", "wrong type"),
        ("client_secret = \"canary\"", "client_secret takes only \"record\""),
        ("secret = \"canary\"", "unknown setting; oauth2 has audience, "),
    ] {
        fs::write(&path, format!("{store}[oauth2]\n{good}{wrong}\n")).unwrap();
        let message = home.run("get").failed(2);
        assert!(message.contains("default.toml, line 5: "), "{wrong}: {message}");
        assert!(message.contains(words), "{wrong}: {message}");
    }
    let good = "client_id = \"app\"\ntoken_url = \"https://issuer.example/token\"\n\
                redirect_port = 8912\nclient_secret_in_body = true\n";
    fs::write(&path, format!("{store}[oauth2]\n{good}")).unwrap();
    home.run("get").failed(3);
}

#[test]
fn login_accepts_only_a_server_whose_certificate_is_trusted() {
    let (server, certificate) = TokenServer::start_with_tls();
    let (_, other) = TokenServer::start_with_tls();
    let home = by_device(&server);
    let login = |trusted: &str| {
        fs::write(home.path("roots.pem"), trusted).unwrap();
        let mut command = home.command();
        command
            .arg("login")
            .env("SSL_CERT_FILE", home.path("roots.pem"))
            .env_remove("SSL_CERT_DIR");
        done(&mut command, "")
    };
    assert!(login(&other).failed(1).contains("has a self-signed certificate; "));
    assert!(login("").failed(1).contains("no root certificates"));
    assert_eq!(server.requests().len(), 0);
    login(&certificate).ok();
    assert_eq!(home.run("get").line(), "access-canary-2");
}
