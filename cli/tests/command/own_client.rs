//! Clients that get tokens for themselves, that authenticate themselves with a key, and parameters beyond the
//! standard.
#![cfg(unix)]

use std::fs;
use std::process::Command;
use std::thread;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::home::{Home, done};
use crate::provider_answers::waits::later;
use crate::support::{available, can_fake_time};
use crate::token_server::{Act, TokenServer, fetch};

/// Returns a home with a profile that has these lines in its `[oauth2]`.
fn home(server: &TokenServer, lines: &str) -> Home {
    let home = Home::new();
    home.run("init").ok();
    let path = home.path("config/profiles/default.toml");
    let store = fs::read_to_string(&path).unwrap();
    let token_url = server.token_url();
    let oauth2 = format!("[oauth2]\ntoken_url = \"{token_url}\"\nclient_id = \"app\"\n{lines}");
    fs::write(&path, format!("{store}{oauth2}")).unwrap();
    home
}

const TOKEN: &str = r#"{"access_token":"own-canary","token_type":"Bearer","expires_in":3600}"#;

#[test]
fn an_own_client_needs_no_sign_in_and_20_processes_make_one_request() {
    let server = TokenServer::start();
    let home = home(
        &server,
        "grant_type = \"client_credentials\"\nclient_secret_env = \"APP_SECRET\"\nscopes = [\"a\", \"b\"]\n\
         audience = \"https://api.example\"\nresource = \"https://mcp.example/a\"\n",
    );
    server.script([Act::answer(200, TOKEN)]);
    let get = || {
        let mut get = home.command();
        done(get.arg("get").env("APP_SECRET", "secret-canary"), "").line()
    };
    thread::scope(|scope| {
        let all: Vec<_> = (0..20).map(|_| scope.spawn(get)).collect();
        for one in all {
            assert_eq!(one.join().unwrap(), "own-canary");
        }
    });
    assert_eq!(server.calls(), 1);
    let form = &server.requests()[0].form;
    for (name, value) in [
        ("grant_type", "client_credentials"),
        ("scope", "a b"),
        ("audience", "https://api.example"),
        ("resource", "https://mcp.example/a"),
    ] {
        assert_eq!(form.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!form.contains_key("refresh_token"));
    // `login` replaces the token, and needs nobody at a browser.
    server.script([Act::answer(200, &TOKEN.replace("own-canary", "second-canary"))]);
    let mut login = home.command();
    let login = done(login.arg("login").env("APP_SECRET", "secret-canary"), "");
    assert!(login.err.starts_with("signed in; the tokens are in "), "{login:?}");
    login.ok();
    assert_eq!(get(), "second-canary");
    let mut device = home.command();
    let device = done(device.args(["login", "--device"]).env("APP_SECRET", "secret-canary"), "");
    assert!(device.failed(2).contains("nobody signs in"));
    assert_eq!(server.calls(), 2);
}

#[test]
fn an_own_client_sends_the_secret_that_is_kept_with_the_tokens() {
    let server = TokenServer::start();
    server.require_client("app", "secret-canary", true);
    let home = Home::new();
    let store = format!("plaintext:{}", home.path("tokens.json").display());
    let token_url = server.token_url();
    home.write(
        "config/profiles/default.toml",
        format!(
            "store = \"{store}\"\n[oauth2]\ntoken_url = \"{token_url}\"\nclient_id = \"app\"\n\
             grant_type = \"client_credentials\"\nclient_secret = \"record\"\n"
        ),
    );
    home.write(
        "tokens.json",
        r#"{"access_token":"old","refresh_token":null,"expires_at":"2020-01-01T00:00:00Z","version":2,
            "client_secret":"secret-canary\r\n"}"#,
    );
    for line in ["get", "refresh", "login", "refresh"] {
        server.script([Act::answer(200, TOKEN)]);
        home.run(line).ok();
    }
    assert_eq!(server.calls(), 4);
    for request in server.requests() {
        let basic = &request.headers["authorization"];
        assert_eq!(basic, "Basic YXBwOnNlY3JldC1jYW5hcnk=");
    }
    home.run("clear").ok();
    let said = home.run("get").failed(1);
    assert!(
        said.contains("the client secret is kept with the tokens, and there is none"),
        "{said}"
    );
    assert_eq!(server.calls(), 4);
}

#[test]
fn a_server_that_asks_an_own_client_to_wait_is_asked_by_one_process_until_the_wait_is_over() {
    let test = "own_client::a_server_that_asks_an_own_client_to_wait_is_asked_by_one_process_until_the_wait_is_over";
    if !can_fake_time(test) {
        return;
    }
    for status in [429, 500, 503] {
        let server = TokenServer::start();
        let home = home(&server, "grant_type = \"client_credentials\"\n");
        let busy = Act::answer(status, "canary").header("Retry-After", "120");
        server.script([busy, Act::answer(200, TOKEN)]);
        let get = || {
            let said = home.run("get").failed(1);
            assert!(said.contains(&format!("answered {status}")), "{said}");
        };
        thread::scope(|scope| (0..20).for_each(|_| drop(scope.spawn(get))));
        (0..20).for_each(|_| get());
        later(&home, 90, "get").failed(1);
        assert_eq!(server.calls(), 1, "{status}");
        let said = home.run("login").failed(1);
        assert!(said.contains("the provider asked to wait until"), "{said}");
        assert_eq!(server.calls(), 1, "{status}");
        let status = home.run("status");
        assert_eq!(status.code, 4, "{}", status.out);
        assert!(status.out.contains("the provider asked to wait until"), "{}", status.out);
        let status: serde_json::Value =
            serde_json::from_str(&home.run("status --json").out).unwrap();
        assert!(status["waits_until"].is_string(), "{status}");
        assert_eq!(later(&home, 150, "get").line(), "own-canary", "{status}");
        assert_eq!(server.calls(), 2, "{status}");
    }
}

#[test]
fn an_own_client_with_a_wrong_secret_says_so_and_has_no_tokens() {
    let server = TokenServer::start();
    server.require_client("app", "secret-canary", true);
    let home =
        home(&server, "grant_type = \"client_credentials\"\nclient_secret_env = \"APP_SECRET\"\n");
    let mut get = home.command();
    let failed = done(get.arg("get").env("APP_SECRET", "wrong-canary"), "").failed(1);
    assert!(failed.contains("401 invalid_client"), "{failed}");
    // What `get` will do is not known before it does it.
    let status = home.run("status");
    assert_eq!(status.code, 0);
    assert!(status.out.contains("none yet; `get` obtains them"), "{}", status.out);
}

/// Makes a key with openssl, in a private file of this home. Returns the path of its public key.
fn make_key(home: &Home, arguments: &[&str]) -> std::path::PathBuf {
    let made = Command::new("openssl").arg("genpkey").args(arguments).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    home.write("key.pem", &made.stdout);
    let public = home.path("public.pem");
    let mut extract = Command::new("openssl");
    extract.args(["pkey", "-pubout", "-in"]).arg(home.path("key.pem")).arg("-out").arg(&public);
    assert!(extract.status().unwrap().success());
    public
}

/// Returns the two numbers of a signature as DER.
fn der(signature: &[u8]) -> Vec<u8> {
    let integer = |digits: &[u8]| {
        let start = digits.iter().position(|&digit| digit != 0).unwrap();
        let mut number = digits[start..].to_vec();
        if number[0] >= 0x80 {
            number.insert(0, 0);
        }
        let mut der = vec![2, u8::try_from(number.len()).unwrap()];
        der.extend(number);
        der
    };
    let (r, s) = signature.split_at(signature.len() / 2);
    let both = [integer(r), integer(s)].concat();
    [vec![0x30, u8::try_from(both.len()).unwrap()], both].concat()
}

#[test]
fn a_client_with_a_key_signs_an_assertion_for_each_request() {
    if !available("own_client::a_client_with_a_key_signs_an_assertion_for_each_request", "openssl")
    {
        return;
    }
    let rsa: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
    let pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32"];
    for (key, algorithm, alg, options) in [
        (rsa, "", "RS256", &[][..]),
        (rsa, "client_assertion_algorithm = \"PS256\"\n", "PS256", &pss[..]),
        (&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], "", "ES256", &[]),
    ] {
        let server = TokenServer::start();
        let home = home(
            &server,
            &format!(
                "client_assertion_key = \"~/key.pem\"\nclient_assertion_key_id = \"k1\"\n{algorithm}"
            ),
        );
        let public = make_key(&home, key);
        let (access, refresh) = server.issue();
        let expired = format!(
            r#"{{"access_token":"{access}","refresh_token":"{refresh}","expires_at":"2020-01-01T00:00:00Z"}}"#
        );
        home.feed("set", &expired).ok();
        home.run("get").ok();
        home.run("refresh").ok();
        let requests = server.requests();
        let assertions: Vec<_> =
            requests.iter().map(|request| request.form["client_assertion"].clone()).collect();
        assert_eq!(assertions.len(), 2);
        assert_ne!(assertions[0], assertions[1], "each request has one of its own");
        let form = &requests[0].form;
        assert_eq!(form["client_id"], "app");
        assert!(!form.contains_key("client_secret"));
        assert!(!requests[0].headers.contains_key("authorization"));
        assert_eq!(
            form["client_assertion_type"],
            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        );
        let (signed, signature) = assertions[0].rsplit_once('.').unwrap();
        let (header, claims) = signed.split_once('.').unwrap();
        let json = |part: &str| -> serde_json::Value {
            serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
        };
        assert_eq!(json(header), serde_json::json!({"alg": alg, "kid": "k1", "typ": "JWT"}));
        assert_eq!(json(claims)["aud"], server.token_url());
        // Another program verifies the signature.
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
        let signature = if alg == "ES256" { der(&signature) } else { signature };
        home.write("signature", signature);
        home.write("signed", signed);
        let mut verify = Command::new("openssl");
        verify.args(["dgst", "-sha256", "-verify"]).arg(public).args(options);
        verify.arg("-signature").arg(home.path("signature")).arg(home.path("signed"));
        let verified = verify.output().unwrap();
        assert!(verified.status.success(), "{alg}: {verified:?}");
    }
}

#[test]
fn a_key_that_is_missing_readable_by_others_or_no_key_is_named_and_not_shown() {
    let server = TokenServer::start();
    let home = home(
        &server,
        "grant_type = \"client_credentials\"\nclient_assertion_key = \"~/key.pem\"\n",
    );
    assert!(home.run("get").failed(1).contains("key.pem does not exist"));
    home.write("key.pem", "canary");
    assert!(home.run("get").failed(1).contains("is not a private key in PEM"));
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(home.path("key.pem"), readable).unwrap();
    assert!(home.run("get").failed(1).contains("is not private"));
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn parameters_are_sent_with_the_request_that_they_are_for() {
    let server = TokenServer::start();
    let urls = format!(
        "authorization_url = \"{}\"\ndevice_authorization_url = \"{}\"\n",
        server.url("/authorize"),
        server.url("/device")
    );
    let home = home(
        &server,
        &format!(
            "{urls}resource = [\"https://mcp.example/a\"]\naudience = \"api\"\n\
             refresh_scopes = [\"read\"]\n\
             [oauth2.authorize_parameters]\naccess_type = \"offline\"\nmax_age = 3600\n\
             [oauth2.device_parameters]\nshow = true\n\
             [oauth2.token_parameters]\ntenant = [\"t1\"]\n"
        ),
    );
    home.run("login --device").ok();
    home.run("refresh").ok();
    let mut login = home.command();
    let mut login = crate::support::start(
        login.args(["login", "--browser"]).stderr(std::process::Stdio::piped()),
    );
    let mut said = std::io::BufReader::new(login.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    let url = line[line.find("http").unwrap()..].trim().to_owned();
    let (_, back, _) = fetch(&url);
    fetch(&back.unwrap());
    assert!(login.wait().unwrap().success());
    let requests = server.requests();
    let sent = |index: usize, name: &str| {
        let request = &requests[index];
        request.form.get(name).or_else(|| request.query.get(name)).map(String::as_str)
    };
    // For a device code, for its tokens, for a refresh, at the browser, for the tokens of its code.
    let paths: Vec<_> = requests.iter().map(|request| request.path.as_str()).collect();
    assert_eq!(paths, ["/device", "/token", "/token", "/authorize", "/token"]);
    let all = |name: &str| [0, 1, 2, 3, 4].map(|index| sent(index, name));
    let mcp = Some("https://mcp.example/a");
    assert_eq!(all("resource"), [mcp; 5]);
    assert_eq!(all("audience"), [Some("api"), None, None, Some("api"), None]);
    assert_eq!(all("show"), [Some("true"), None, None, None, None]);
    assert_eq!(all("tenant"), [None, Some("t1"), Some("t1"), None, Some("t1")]);
    assert_eq!(all("access_type"), [None, None, None, Some("offline"), None]);
    assert_eq!(all("max_age"), [None, None, None, Some("3600"), None]);
    assert_eq!(sent(2, "scope"), Some("read"));
}

#[test]
fn the_error_about_a_parameter_names_the_line_and_not_the_value() {
    let server = TokenServer::start();
    for (lines, line, says) in [
        ("[oauth2.token_parameters]\nclient_id = \"canary\"\n", 5, "is sent anyway"),
        ("[oauth2.authorize_parameters]\nstate = \"canary\"\n", 5, "is sent anyway"),
        ("[oauth2.device_parameters]\n\"a b\" = \"canary\"\n", 5, "letters, digits"),
        ("[oauth2.token_parameters]\na = \"canary\\n\"\n", 5, "control character"),
        ("[oauth2.token_parameters]\na = 1.5\n", 6, "a parameter is a text"),
        ("resource = \"canary\"\n", 5, "not an absolute URI"),
        ("grant_type = \"canary\"\n", 5, "can only be \"client_credentials\""),
        ("client_assertion_key_id = \"canary\"\n", 2, "names no client_assertion_key"),
        ("client_assertion_key = \"canary\"\n", 5, "not a whole path"),
    ] {
        let home = home(&server, lines);
        let error = home.run("get").failed(2);
        assert!(error.contains(&format!("default.toml, line {line}: ")), "{error}");
        assert!(error.contains(says), "{error}");
    }
}

#[cfg(not(target_vendor = "apple"))]
#[test]
fn the_key_of_a_client_can_be_an_item_of_the_keychain() {
    let name = "own_client::the_key_of_a_client_can_be_an_item_of_the_keychain";
    let parts = ["dbus-daemon", "gnome-keyring-daemon", "gdbus", "secret-tool", "openssl"];
    if !parts.iter().all(|program| available(name, program)) {
        return;
    }
    let (server, session) = (TokenServer::start(), crate::session::Session::with_keychain());
    let store_key = "openssl genpkey -algorithm ED25519 | \
                     secret-tool store --label key service app username client-key";
    session.output("sh", &["-c", store_key]);
    let home = Home::new();
    home.write(
        "config/profiles/default.toml",
        format!(
            "store = \"keychain:tokenkeep/own\"\n[oauth2]\ntoken_url = \"{}\"\nclient_id = \"app\"\n\
             grant_type = \"client_credentials\"\nclient_assertion_key = \"keychain:app/client-key\"\n",
            server.token_url()
        ),
    );
    server.script([Act::answer(200, TOKEN)]);
    let mut get = session.command(crate::support::program("tokenkeep"));
    get.env("TOKENKEEP_CONFIG_DIR", home.path("config"));
    assert_eq!(done(get.arg("get"), "").line(), "own-canary");
    let assertion = &server.requests()[0].form["client_assertion"];
    let header = BASE64_URL_SAFE_NO_PAD.decode(assertion.split('.').next().unwrap()).unwrap();
    assert_eq!(header, br#"{"alg":"EdDSA","typ":"JWT"}"#);
}
