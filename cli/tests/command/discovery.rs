//! A provider that is named by its issuer: its URLs are found, kept beside the profile, and needed by no refresh.
#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::home::{Home, done};
use crate::provider_answers::waits::later;
use crate::support::can_fake_time;
use crate::token_server::{Act, TokenServer, fetch};

const PLACE: &str = "/.well-known/openid-configuration";

fn publishing() -> TokenServer {
    let server = TokenServer::start();
    server.publish(PLACE, 200, &server.metadata(&server.url("")));
    server
}

/// Makes a profile by `init --issuer`, with these options besides.
fn init(home: &Home, server: &TokenServer, more: &str) {
    home.run(&format!("init --issuer {} --client-id app{more}", server.url(""))).ok();
}

fn kept(home: &Home) -> std::path::PathBuf {
    home.path("config/profiles/default.metadata.json")
}

fn profile(home: &Home) -> String {
    fs::read_to_string(home.path("config/profiles/default.toml")).unwrap()
}

/// Adds settings of the provider to the profile.
fn add(home: &Home, settings: &str) {
    let text = profile(home).replace("[oauth2]\n", &format!("[oauth2]\n{settings}"));
    home.write("config/profiles/default.toml", text);
}

/// Signs in by browser.
fn sign_in(home: &Home) {
    let mut login = home.command();
    let login = login.arg("login").stdin(Stdio::null()).stderr(Stdio::piped());
    let mut login = login.spawn().unwrap();
    let mut said = BufReader::new(login.stderr.take().unwrap()).lines();
    let url = said.by_ref().map(Result::unwrap).find_map(|line| {
        let start = line.find("http://")?;
        Some(line[start..].to_owned())
    });
    let (_, back, _) = fetch(&url.unwrap());
    assert_eq!(fetch(&back.unwrap()).0, 200);
    let rest: Vec<_> = said.map(Result::unwrap).collect();
    assert!(login.wait().unwrap().success(), "{rest:?}");
}

fn save_expired(home: &Home, server: &TokenServer) {
    let (access, refresh) = server.issue();
    let expired = format!(
        r#"{{"access_token":"{access}","refresh_token":"{refresh}","expires_at":"2020-01-01T00:00:00Z"}}"#
    );
    home.feed("set", &expired).ok();
}

#[test]
fn two_options_are_enough_to_sign_in_and_no_later_command_needs_discovery() {
    let (home, server) = (Home::new(), publishing());
    init(&home, &server, "");
    let text = profile(&home);
    let expected = format!(
        "\n\n[oauth2]\nissuer = \"{}\"\nclient_id = \"app\"\nscopes = [\"openid\", \"offline_access\"]\n\n\
         [oauth2.authorize_parameters]\nprompt = \"consent\"\n",
        server.url("")
    );
    assert!(text.starts_with("store = \"age:") && text.ends_with(&expected), "{text}");
    assert_eq!(kept(&home).metadata().unwrap().permissions().mode() & 0o777, 0o600);
    sign_in(&home);
    assert_eq!(home.run("get").line(), "access-canary-2");

    // From here on the issuer answers nothing.
    let looked_up = server.looked_up().len();
    server.publish(PLACE, 503, "");
    home.run("refresh").ok();
    save_expired(&home, &server);
    home.run("get").ok();
    home.run("exec -- true").ok();
    home.run("status").ok();
    home.run("list").ok();
    home.run("doctor").ok();
    home.run("migrate --to plaintext:there/tokens.json").ok();
    home.run("refresh").ok();
    assert!(profile(&home).contains("issuer = "));
    home.run("clear --revoke").ok();
    assert_eq!(server.looked_up().len(), looked_up);
}

#[test]
fn an_issuer_that_cannot_be_discovered_leaves_no_profile_and_no_key() {
    let (home, server) = (Home::new(), TokenServer::start());
    let line = format!("init --issuer {} --client-id app", server.url(""));
    let said = home.run(&line).failed(1);
    assert!(said.contains("has no metadata"), "{said}");
    server.publish(PLACE, 200, &server.metadata(&server.url("/")));
    assert!(home.run(&line).failed(1).contains("write the issuer with it"));
    server.publish(PLACE, 503, "canary");
    assert!(home.run(&line).failed(1).contains("try again later"));
    assert!(!home.path("config").exists() && !home.path("state").exists());
}

#[test]
fn login_fetches_the_metadata_anew_and_uses_the_kept_one_if_that_fails() {
    let (home, server) = (Home::new(), publishing());
    init(&home, &server, "");
    let first = fs::read_to_string(kept(&home)).unwrap();
    let moved = server.metadata(&server.url("")).replace("/revoke\"", "/moved\"");
    server.publish(PLACE, 200, &moved);
    sign_in(&home);
    let second = fs::read_to_string(kept(&home)).unwrap();
    assert!(first.contains("/revoke\"") && second.contains("/moved\""), "{second}");

    server.publish(PLACE, 503, "canary");
    let login = home.run("login --device");
    assert!(
        login.err.starts_with("warning: the metadata of an earlier sign-in is used: "),
        "{login:?}"
    );
    login.ok();
    assert_eq!(fs::read_to_string(kept(&home)).unwrap(), second);
}

#[test]
fn a_profile_written_by_hand_fetches_the_metadata_once_when_a_refresh_needs_it() {
    let (home, server) = (Home::new(), publishing());
    home.run("init").ok();
    let issuer = server.url("");
    let text = format!("{}[oauth2]\nissuer = \"{issuer}\"\nclient_id = \"app\"\n", profile(&home));
    home.write("config/profiles/default.toml", text);
    save_expired(&home, &server);
    home.run("list").ok();
    // `get` would refresh these tokens.
    home.run("status").ok();
    let said = home.run("doctor");
    assert!(said.out.contains("because its metadata is not kept"), "{said:?}");
    assert_eq!(said.code, 1);
    assert!(server.looked_up().is_empty());

    server.publish(PLACE, 503, "");
    assert!(home.run("get").failed(1).contains("answered 503"));
    assert_eq!(server.calls(), 0);
    server.publish(PLACE, 200, &server.metadata(&issuer));
    home.run("refresh").ok();
    assert!(kept(&home).exists());
    let looked_up = server.looked_up().len();
    home.run("refresh").ok();
    home.run("doctor").ok();
    assert_eq!(server.looked_up().len(), looked_up);

    // The kept metadata is of one issuer only.
    let other = publishing();
    let text = profile(&home).replace(&issuer, &other.url(""));
    home.write("config/profiles/default.toml", text);
    let said = home.run("doctor");
    assert!(said.out.contains("it is of another issuer") && said.code == 1, "{said:?}");
    save_expired(&home, &other);
    home.run("get").ok();
    assert_eq!((other.looked_up().len(), other.calls()), (1, 1));
    assert_eq!(server.looked_up().len(), looked_up);
}

#[test]
fn a_wait_at_the_discovery_is_kept_by_all_processes_and_ends_when_it_is_over() {
    let test =
        "discovery::a_wait_at_the_discovery_is_kept_by_all_processes_and_ends_when_it_is_over";
    if !can_fake_time(test) {
        return;
    }
    for status in [404, 429, 500, 503] {
        let (home, server) = (Home::new(), publishing());
        home.run("init").ok();
        let issuer = server.url("");
        let text =
            format!("{}[oauth2]\nissuer = \"{issuer}\"\nclient_id = \"app\"\n", profile(&home));
        home.write("config/profiles/default.toml", text);
        save_expired(&home, &server);
        let busy = Act::answer(status, "<html>canary</html>").header("Retry-After", "120");
        server.script_at(PLACE, [busy]);
        for _ in 0..20 {
            let said = home.run("get").failed(1);
            assert!(said.contains(&format!("answered {status}")), "{said}");
        }
        later(&home, 90, "get").failed(1);
        assert_eq!((server.looked_up().len(), server.calls()), (1, 0), "{status}");
        later(&home, 150, "get").ok();
        assert_eq!((server.looked_up().len(), server.calls()), (2, 1), "{status}");
    }
}

#[test]
fn a_sign_out_of_a_profile_written_by_hand_finds_the_revocation_endpoint() {
    let (home, server) = (Home::new(), publishing());
    home.run("init").ok();
    let issuer = server.url("");
    let text = format!("{}[oauth2]\nissuer = \"{issuer}\"\nclient_id = \"app\"\n", profile(&home));
    home.write("config/profiles/default.toml", text);
    let (access, refresh) = server.issue();
    home.feed("set", &format!(r#"{{"access_token":"{access}","refresh_token":"{refresh}"}}"#)).ok();
    server.publish(PLACE, 404, "");
    let said = home.run("clear --revoke").failed(1);
    assert!(said.contains("the tokens are removed here") && said.contains("no metadata"), "{said}");
    home.run("get").failed(3);

    let (access, refresh) = server.issue();
    home.feed("set", &format!(r#"{{"access_token":"{access}","refresh_token":"{refresh}"}}"#)).ok();
    server.publish(PLACE, 200, &server.metadata(&issuer));
    home.run("clear --revoke").ok();
    assert!(server.is_revoked(&refresh));
}

#[test]
fn urls_that_the_profile_writes_win_over_those_of_the_issuer() {
    let (home, server) = (Home::new(), TokenServer::start());
    let metadata = server.metadata(&server.url("")).replace("/token\"", "/elsewhere\"");
    server.publish(PLACE, 200, &metadata.replace("/device\"", "/elsewhere\""));
    init(&home, &server, "");
    home.run("login --device").failed(1);
    let urls = format!(
        "token_url = \"{}\"\ndevice_authorization_url = \"{}\"\n",
        server.url("/token"),
        server.url("/device")
    );
    add(&home, &urls);
    home.run("login").ok();
    home.run("refresh").ok();
}

#[test]
fn a_secret_goes_where_the_issuer_accepts_it_unless_the_profile_says_otherwise() {
    let (home, server) = (Home::new(), TokenServer::start());
    server.require_client("app", "secret-canary", false);
    let methods = r#"{"token_endpoint_auth_methods_supported":["client_secret_post"],"#;
    server.publish(PLACE, 200, &server.metadata(&server.url("")).replacen('{', methods, 1));
    init(&home, &server, " --client-secret-env APP_SECRET");
    assert!(profile(&home).contains("client_secret_env = \"APP_SECRET\"\n"));
    let login = || {
        let mut command = home.command();
        done(command.args(["login", "--device"]).env("APP_SECRET", "secret-canary"), "")
    };
    login().ok();
    add(&home, "client_secret_in_body = false\n");
    assert!(login().failed(1).contains("invalid_client"));
}

#[test]
fn kept_metadata_that_others_can_write_is_refused_and_damaged_metadata_is_fetched_again() {
    let (home, server) = (Home::new(), publishing());
    init(&home, &server, "");
    save_expired(&home, &server);
    fs::set_permissions(kept(&home), fs::Permissions::from_mode(0o666)).unwrap();
    let said = home.run("get").failed(5);
    assert!(said.contains("default.metadata.json"), "{said}");
    fs::set_permissions(kept(&home), fs::Permissions::from_mode(0o600)).unwrap();
    let looked_up = server.looked_up().len();
    home.write("config/profiles/default.metadata.json", "canary");
    home.run("get").ok();
    assert_eq!(server.looked_up().len(), looked_up + 1);
    assert!(fs::read_to_string(kept(&home)).unwrap().contains("token_endpoint"));
}

#[test]
fn metadata_that_cannot_be_kept_is_used_with_a_warning() {
    let (home, server) = (Home::new(), publishing());
    init(&home, &server, "");
    save_expired(&home, &server);
    fs::remove_file(kept(&home)).unwrap();
    // A directory has the name.
    fs::create_dir(home.path("config/profiles/default.metadata.json.tmp")).unwrap();
    let got = home.run("get");
    assert!(
        got.err.contains("warning: the metadata of ") && got.err.contains("cannot be kept"),
        "{got:?}"
    );
    assert_eq!(got.line(), "access-canary-2");
}

#[test]
fn removing_a_profile_removes_the_metadata_of_its_issuer() {
    let (home, server) = (Home::new(), publishing());
    init(&home, &server, " --profile work");
    assert!(home.path("config/profiles/work.metadata.json").exists());
    home.run("profile remove work").ok();
    let left: Vec<_> = fs::read_dir(home.path("config/profiles")).unwrap().collect();
    assert_eq!(left.len(), 1, "the lock alone: {left:?}");
}

#[test]
fn a_provider_is_added_to_a_profile_that_has_none_and_nothing_else_changes() {
    let (home, server) = (Home::signed_in(), publishing());
    // As an editor may leave it.
    let before = profile(&home).trim_end().to_owned() + " # mine";
    home.write("config/profiles/default.toml", &before);
    init(&home, &server, " --scope read --scope openid --scope read");
    let text = profile(&home);
    assert!(text.starts_with(&format!("{before}\n\n[oauth2]\nissuer = ")), "{text}");
    assert!(text.contains("scopes = [\"read\", \"openid\", \"offline_access\"]\n"), "{text}");
    assert!(kept(&home).exists());
    assert_eq!(home.run("get").line(), "canary-a");

    let line = format!("init --issuer {} --client-id app", server.url(""));
    let said = home.run(&line).failed(7);
    assert!(said.contains("has a provider already; change its [oauth2] in "), "{said}");
    let said = home.run(&format!("{line} --store plaintext:x.json")).failed(7);
    assert!(said.contains("exists already"), "{said}");
    assert_eq!(profile(&home), text);
}

#[test]
fn init_finds_the_issuer_of_a_server_with_protected_resources() {
    const DOCUMENT: &str = "/.well-known/oauth-protected-resource/mcp";

    let (home, server) = (Home::new(), publishing());
    let resource = server.url("/mcp");
    let publish = |issuers: &str| {
        let text = format!(r#"{{"resource":"{resource}","authorization_servers":{issuers}}}"#);
        server.publish(DOCUMENT, 200, &text);
    };
    let line = format!("init --resource {resource} --client-id app");
    publish("[]");
    assert!(home.run(&line).failed(2).contains("names no issuer; "));
    publish(r#"["https://a.example","https://xn--80a.example"]"#);
    let said = home.run(&line).failed(2);
    assert!(said.contains("with --issuer: https://a.example https://xn--80a.example"), "{said}");
    assert!(!home.path("config").exists());
    publish(&format!(r#"["{}"]"#, server.url("")));
    let made = home.run(&line);
    assert!(
        made.err.contains(&format!("{resource} accepts tokens of {}\n", server.url(""))),
        "{made:?}"
    );
    made.ok();
    let text = profile(&home);
    let settings = format!("issuer = \"{}\"\nresource = \"{resource}\"\n", server.url(""));
    assert!(text.contains(&settings), "{text}");
}

#[test]
fn init_registers_a_client_at_an_issuer_that_allows_it() {
    let (home, server) = (Home::new(), publishing());
    let line = format!("init --issuer {} --register", server.url(""));
    assert!(home.run(&line).failed(2).contains("registers no clients by itself"));
    let field = format!(r#"{{"registration_endpoint":"{}","#, server.url("/register"));
    let metadata = server.metadata(&server.url("")).replacen('{', &field, 1);
    server.publish(PLACE, 200, &metadata);
    server.publish("/register", 400, r#"{"error":"invalid_client_metadata"}"#);
    assert!(home.run(&line).failed(1).contains("answered 400 invalid_client_metadata"));
    assert!(!home.path("config/profiles/default.toml").exists());
    server.publish("/register", 201, r#"{"client_id":"it is \"new\""}"#);
    home.run(&line).ok();
    let text = profile(&home);
    assert!(text.contains("client_id = \"it is \\\"new\\\"\"\n"), "{text}");
    assert!(text.contains("redirect_port = 8417\n"), "{text}");
    let sent = server.requests().pop().unwrap().body;
    assert!(sent.contains(r#"["http://127.0.0.1:8417/callback"]"#), "{sent}");
    assert!(sent.contains(r#""scope":"openid offline_access""#), "{sent}");
}

#[test]
fn init_registers_no_client_in_vain() {
    let server = publishing();
    let field = format!(r#"{{"registration_endpoint":"{}","#, server.url("/register"));
    let metadata = server.metadata(&server.url("")).replacen('{', &field, 1);
    server.publish(PLACE, 200, &metadata);
    server.publish("/register", 201, r#"{"client_id":"new"}"#);
    let init = format!("init --issuer {} --register", server.url(""));
    type Spoil = fn(&Home);
    let rows: [(&str, &str, Spoil); 9] = [
        ("no store URL", " --store canary", |_| ()),
        ("an unusable key", " --store age:there/tokens.age?identity=key.txt", |home| {
            home.write("key.txt", "canary");
        }),
        ("a record without its key", "", |home| {
            home.run("init").ok();
            assert_eq!(done(home.command().arg("set"), "canary-a").code, 0);
            fs::remove_dir_all(home.path("config")).unwrap();
        }),
        ("a profile that exists", " --store plaintext:tokens.json", |home| {
            home.run("init").ok();
        }),
        // Root may write everywhere, but not into a file as if it was a directory.
        ("no directory for profiles", "", |home| {
            home.run("init").ok();
            fs::remove_dir_all(home.path("config/profiles")).unwrap();
            home.write("config/profiles", "");
        }),
        ("a store that cannot be written", " --store env:CANARY", |_| ()),
        ("a profile whose key is gone", "", |home| {
            home.run("init").ok();
            assert_eq!(done(home.command().arg("set"), "canary-a").code, 0);
            fs::remove_dir_all(home.path("config/keys")).unwrap();
        }),
        ("a profile whose record is damaged", "", |home| {
            home.run("init").ok();
            assert_eq!(done(home.command().arg("set"), "canary-a").code, 0);
            fs::write(home.record(), "canary").unwrap();
        }),
        ("a link to a read-only profile", "", |home| {
            home.run("init").ok();
            let (path, target) =
                (home.path("config/profiles/default.toml"), home.path("there.toml"));
            fs::rename(&path, &target).unwrap();
            std::os::unix::fs::symlink(&target, path).unwrap();
            let read_only = PermissionsExt::from_mode(0o400);
            fs::set_permissions(target, read_only).unwrap();
        }),
    ];
    for (name, options, spoil) in rows {
        let home = Home::new();
        spoil(&home);
        let failed = home.run(&format!("{init}{options}"));
        assert_ne!(failed.code, 0, "{name}: {failed:?}");
        let asked = server.requests();
        let registers = |body: &str| body.contains("redirect_uris");
        assert!(!asked.iter().any(|request| registers(&request.body)), "{name}: {failed:?}");
    }
    // What cannot be known before leaves a key, which the next run uses.
    let home = Home::new();
    server.publish("/register", 400, r#"{"error":"invalid_client_metadata"}"#);
    home.run(&init).failed(1);
    let key = fs::read(home.path("config/keys/default.txt")).unwrap();
    assert!(!home.path("config/profiles/default.metadata.json").exists());
    server.publish("/register", 201, r#"{"client_id":"new"}"#);
    home.run(&init).ok();
    assert_eq!(fs::read(home.path("config/keys/default.txt")).unwrap(), key);
}

#[test]
fn init_says_what_is_wrong_with_the_options_of_a_provider() {
    let home = Home::new();
    for (options, words) in [
        ("--client-id app", "name it with --provider, --issuer or --resource"),
        ("--scope read", "name it with --provider, --issuer or --resource"),
        ("--provider --client-id app", "name it with --provider, --issuer or --resource"),
        ("--provider github", "needs --client-id"),
        ("--issuer https://a.example", "needs --client-id"),
        (
            "--provider canary --client-id a",
            "that provider is not known; --provider takes atlassian, ",
        ),
        ("--issuer HTTPS://a.example --client-id a", "issuer is not written as URLs are"),
        ("--issuer https://a.example --client-id a\u{1}", "--client-id has a blank"),
        ("--issuer https://a.example --client-id a --scope ä", "--scope contains"),
        ("--provider google --client-id a", "Google has a secret"),
        ("--provider spotify --client-id a --domain b", "Spotify has one domain"),
        ("--provider okta --client-id a", "Okta needs --domain org.okta.com/oauth2/default"),
        ("--provider okta --client-id a --domain a@canary", "--domain takes a host"),
        ("--provider okta --client-id a --domain :canary", "not a URL"),
        ("--issuer https://a.example?canary --client-id a", "issuer has a query"),
        ("--issuer http://a.example --client-id a", "issuer must begin with https://"),
        ("--resource canary --client-id a", "resource is not a URL"),
        ("--provider github --client-id a --client-secret-env can-ary", "the name of a variable"),
        ("--provider github --register", "registers no clients by itself"),
        ("--issuer https://a.example --register --client-id a", "cannot be used with"),
        ("--provider github --client-id a --issuer https://a.example", "cannot be used with"),
    ] {
        let said = home.run(&format!("init {options}")).failed(2);
        assert!(said.contains(words), "{options}: {said}");
    }
    assert!(!home.path("config").exists());
}

#[test]
fn urls_that_the_profile_writes_are_enough_without_the_issuer() {
    let (home, server) = (Home::new(), TokenServer::start());
    home.run("init").ok();
    let provider = format!(
        "[oauth2]\nissuer = \"{}\"\nclient_id = \"app\"\ntoken_url = \"{}\"\n",
        server.url(""),
        server.url("/token"),
    );
    let with_device = format!("device_authorization_url = \"{}\"\n", server.url("/device"));
    home.write("config/profiles/default.toml", profile(&home) + &provider + &with_device);
    for (status, text) in [(404, ""), (503, "canary")] {
        server.publish(PLACE, status, text);
        let login = home.run("login");
        let said = "warning: only the URLs in the profile are used: ";
        assert!(login.err.starts_with(said), "{login:?}");
        login.ok();
        let looked_up = server.looked_up().len();
        home.run("refresh").ok();
        assert_eq!(server.looked_up().len(), looked_up);
    }
    // Nothing says where to sign in.
    home.write("config/profiles/default.toml", profile(&home).replace(&with_device, ""));
    assert!(home.run("login").failed(1).contains("answered 503"));
}

#[test]
fn an_issuer_that_offers_no_sign_in_is_named_as_such() {
    let (home, server) = (Home::new(), TokenServer::start());
    let (issuer, token) = (server.url(""), server.url("/token"));
    let metadata =
        format!(r#"{{"issuer":"{issuer}","token_endpoint":"{token}","scopes_supported":"a"}}"#);
    server.publish(PLACE, 200, &metadata);
    let made = home.run(&format!("init --issuer {issuer} --client-id app"));
    assert!(made.err.contains("WARNING: the issuer offers no sign-in"), "{made:?}");
    made.ok();
    assert!(home.run("login").failed(2).contains("the issuer offers no sign-in"));
    let browser = format!(r#","authorization_endpoint":"{}"}}"#, server.url("/authorize"));
    server.publish(PLACE, 200, &metadata.replace('}', &browser));
    let said = home.run("login --device").failed(2);
    assert!(said.contains("no metadata of the issuer names one that can be used"), "{said}");
    save_expired(&home, &server);
    home.run("get").ok();
}

#[test]
fn metadata_that_cannot_be_read_is_fetched_again_and_old_metadata_is_named() {
    let (home, server) = (Home::new(), publishing());
    init(&home, &server, "");
    save_expired(&home, &server);
    home.write("config/profiles/default.metadata.json", " ".repeat(2 << 20));
    home.run("status");
    home.run("list").ok();
    home.run("get").ok();
    fs::remove_file(kept(&home)).unwrap();
    fs::create_dir(kept(&home)).unwrap();
    home.run("status").ok();
    let refreshed = home.run("refresh");
    assert!(refreshed.err.contains("cannot be kept"), "{refreshed:?}");
    refreshed.ok();
    fs::remove_dir(kept(&home)).unwrap();

    let moved = server.metadata(&server.url("")).replace("/token\"", "/gone\"");
    server.publish(PLACE, 200, &moved);
    save_expired(&home, &server);
    home.run("refresh");
    save_expired(&home, &server);
    let said = home.run("refresh").failed(1);
    assert!(said.contains("answered 404") && said.contains("`tokenkeep login` fetches"), "{said}");
}

#[test]
fn a_sign_in_that_does_not_succeed_leaves_the_kept_metadata_as_it_is() {
    let (home, server) = (Home::new(), publishing());
    init(&home, &server, "");
    sign_in(&home);
    let before = fs::read(kept(&home)).unwrap();
    let moved = server.metadata(&server.url("")).replace("/revoke", "/moved");
    server.publish(PLACE, 200, &moved);
    // It has no terminal, and its input is not an answer.
    assert_eq!(done(home.command().args(["login", "--paste"]), "code=a").code, 2);
    assert_eq!(fs::read(kept(&home)).unwrap(), before);
    sign_in(&home);
    assert!(fs::read_to_string(kept(&home)).unwrap().contains("/moved"));
}
