//! Answers to a sign-in: by device while it polls, and by browser at the redirect.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Stdio};

use serde_json::{Value, json};

use super::{EXPIRED, answer, error, home, record, tokens};
use crate::home::Home;
use crate::token_server::{Act, TokenServer};

/// A sign-in by device: the answer with the codes, and those to the polls before there are tokens.
struct Device {
    name: &'static str,
    codes: Value,
    polls: Vec<Vec<u8>>,
    code: i32,
    says: Vec<&'static str>,
    requests: usize,
}

/// Returns the answer with the codes, of which these fields have other values. `null` removes a field.
fn codes(changes: &Value) -> Value {
    let mut codes = json!({
        "device_code": "canary-device",
        "expires_in": 600,
        "interval": 1,
        "user_code": "WDJB-MJHT",
        "verification_uri": "https://issuer.example/device",
    });
    let all = codes.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => all.remove(name),
            value => all.insert(name.clone(), value.clone()),
        };
    }
    codes
}

/// A sign-in in which these answers come before the tokens.
fn goes_on(name: &'static str, polls: Vec<Vec<u8>>) -> Device {
    let requests = polls.len() + 1;
    Device { name, codes: codes(&json!({})), polls, code: 0, says: vec!["WDJB-MJHT"], requests }
}

/// A sign-in that begins with these codes.
fn begins(name: &'static str, changes: &Value, says: Vec<&'static str>) -> Device {
    Device { name, codes: codes(changes), polls: Vec::new(), code: 0, says, requests: 1 }
}

/// A sign-in that ends at this answer.
fn ends(name: &'static str, poll: Vec<u8>, code: i32, says: &'static str) -> Device {
    Device { code, says: vec![says], ..goes_on(name, vec![poll]) }.with_requests(1)
}

impl Device {
    fn with_requests(self, requests: usize) -> Self {
        Self { requests, ..self }
    }

    fn check(&self) {
        let name = self.name;
        let server = TokenServer::start();
        let home = home(&server, EXPIRED);
        server.script_at("/device", [Act::Raw(answer(200, "", self.codes.to_string()))]);
        server.script(self.polls.iter().cloned().map(Act::Raw));
        if self.code == 0 {
            server.script([Act::Raw(tokens(&json!({})))]);
        }
        let login = home.run("login --device");
        assert_eq!(login.code, self.code, "{name}: {login:?}");
        for words in &self.says {
            assert!(login.err.contains(words), "{name}: {words}: {login:?}");
        }
        // What the provider says is shown here, and no secret.
        assert!(!login.err.contains("canary-"), "{name}: {login:?}");
        assert_eq!(server.calls(), self.requests, "{name}");
        let expected = if self.code == 0 { "canary-new-r" } else { "canary-old-r" };
        assert_eq!(record(&home)["refresh_token"], expected, "{name}");
    }
}

#[test]
fn a_sign_in_by_device_goes_on_until_there_are_tokens_or_a_refusal() {
    let pending = || error(400, "authorization_pending");
    let page = |status| answer(status, "Content-Type: text/html\r\n", "<html>canary</html>");
    let complete = "https://issuer.example/device?user_code=WDJB-MJHT";
    let rows = [
        goes_on("pending", vec![pending()]),
        goes_on("pending with 428, as Google", vec![error(428, "authorization_pending")]),
        goes_on("pending with 200, as GitHub", vec![error(200, "authorization_pending")]),
        goes_on("slow_down", vec![error(400, "slow_down")]),
        goes_on("slow_down with 429, as Auth0", vec![error(429, "slow_down")]),
        goes_on("one 503", vec![page(503)]),
        goes_on("one 502", vec![page(502)]),
        goes_on("one 403", vec![page(403)]),
        goes_on("one page with 200", vec![page(200)]),
        goes_on("no answer", vec![Vec::new()]),
        goes_on("an answer that breaks off", vec![b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()]),
        goes_on("Retry-After", vec![answer(503, "Retry-After: 2\r\n", "")]),
        begins("an interval that is a string", &json!({ "interval": "1" }), vec![]),
        begins("an interval that is a float", &json!({ "interval": 1.0 }), vec![]),
        begins("no interval", &json!({ "interval": null }), vec![]),
        begins("a negative interval", &json!({ "interval": -1 }), vec![]),
        begins("a lifetime that is a string", &json!({ "expires_in": "600" }), vec![]),
        begins("a lifetime that is a float", &json!({ "expires_in": 600.5 }), vec![]),
        begins("no lifetime", &json!({ "expires_in": null }), vec![]),
        begins(
            "verification_url, as Google",
            &json!({ "verification_uri": null, "verification_url": "https://issuer.example/g" }),
            vec!["https://issuer.example/g"],
        ),
        begins(
            "verification_uri_complete",
            &json!({ "verification_uri_complete": complete }),
            vec![complete, "WDJB-MJHT"],
        ),
        begins(
            "a link with a fragment",
            &json!({ "verification_uri": "https://issuer.example/#/device" }),
            vec!["https://issuer.example/#/device"],
        ),
        ends("access_denied", error(400, "access_denied"), 4, "the sign-in was declined"),
        ends(
            "authorization_declined, as Microsoft",
            error(400, "authorization_declined"),
            4,
            "the sign-in was declined",
        ),
        ends("expired_token", error(400, "expired_token"), 4, "nobody signed in"),
        ends("code_expired, as Microsoft", error(400, "code_expired"), 4, "nobody signed in"),
        ends("invalid_client", error(401, "invalid_client"), 1, "invalid_client"),
        ends(
            "invalid_grant",
            error(400, "invalid_grant"),
            4,
            "sign in again with `tokenkeep login",
        ),
        ends(
            "incorrect_device_code, as GitHub",
            error(400, "incorrect_device_code"),
            4,
            "sign in again with `tokenkeep login",
        ),
        ends("interaction_required", error(400, "interaction_required"), 4, "sign in again"),
    ];
    // Most of the time a row waits for its next poll.
    std::thread::scope(|scope| {
        for row in rows {
            scope.spawn(move || row.check());
        }
    });
}

#[test]
fn slow_down_holds_for_all_later_polls() {
    let server = TokenServer::start();
    let home = home(&server, EXPIRED);
    server.script_at("/device", [Act::Raw(answer(200, "", codes(&json!({})).to_string()))]);
    let pending = || Act::Raw(error(400, "authorization_pending"));
    server.script([Act::Raw(error(429, "slow_down")), pending(), Act::Raw(tokens(&json!({})))]);
    let start = std::time::Instant::now();
    home.run("login --device").ok();
    // 6 s before each of the two polls after it (RFC 8628, 3.5).
    assert!(start.elapsed() >= std::time::Duration::from_secs(12), "{:?}", start.elapsed());
}

/// A sign-in by browser that waits at its port.
struct Browser {
    login: Child,
    says: BufReader<ChildStderr>,
    /// The redirect URI without `http://`, and the state.
    address: String,
    path: String,
    state: String,
}

impl Browser {
    fn start(home: &Home) -> Self {
        let mut login = home.command();
        login.args(["login", "--browser"]).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut login = login.spawn().unwrap();
        let mut says = BufReader::new(login.stderr.take().unwrap());
        let mut text = String::new();
        while !text.contains("redirect_uri=") {
            assert!(says.read_line(&mut text).unwrap() > 0, "{text}");
        }
        let value = |name: &str| {
            let rest = text.split(&format!("{name}=")).nth(1).unwrap();
            rest.split(['&', '\n', ' ']).next().unwrap().replace("%3A", ":").replace("%2F", "/")
        };
        let redirect = value("redirect_uri");
        let (address, path) = redirect.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let state = value("state");
        Self { login, says, address: address.into(), path: format!("/{path}"), state }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).unwrap()
    }

    /// Sends a request as a browser does, which keeps its connection open.
    fn send(&self, query: &str, headers: &str) -> TcpStream {
        let mut stream = self.connect();
        let (path, address) = (&self.path, &self.address);
        let query = query.replace("STATE", &self.state);
        write!(stream, "GET {path}?{query} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n").unwrap();
        stream
    }

    fn visit(&self, query: &str, headers: &str) -> String {
        read_all(self.send(query, headers))
    }

    /// Waits for the end. Returns the exit code and what else was said.
    fn end(mut self) -> (i32, String) {
        let mut said = String::new();
        self.says.read_to_string(&mut said).unwrap();
        (self.login.wait().unwrap().code().unwrap(), said)
    }
}

fn read_all(mut stream: TcpStream) -> String {
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

/// Returns a server that accepts the code `right`, and a home.
fn browser_scene(answers: Vec<Vec<u8>>) -> (TokenServer, Home) {
    let server = TokenServer::start();
    let home = home(&server, EXPIRED);
    server.script(answers.into_iter().map(Act::Raw));
    (server, home)
}

#[test]
fn a_callback_is_served_whatever_else_the_browser_sends() {
    let cookies = format!("Cookie: x={}\r\n", "y".repeat(32 << 10));
    for (name, query, headers) in [
        ("plain", "code=right&state=STATE", ""),
        ("32 KB of cookies", "code=right&state=STATE", &*cookies),
        ("more parameters", "x=&code=right&session_state=z&state=STATE&scope=a+b", ""),
    ] {
        let (server, home) = browser_scene(vec![tokens(&json!({}))]);
        let browser = Browser::start(&home);
        let page = browser.visit(query, headers);
        assert!(page.starts_with("HTTP/1.1 200 "), "{name}: {page}");
        let (code, said) = browser.end();
        assert_eq!(code, 0, "{name}: {said}");
        assert_eq!(server.requests()[0].form["code"], "right", "{name}");
        assert_eq!(record(&home)["refresh_token"], "canary-new-r", "{name}");
    }
}

#[test]
fn hundreds_of_idle_connections_do_not_delay_the_callback() {
    let (_server, home) = browser_scene(vec![tokens(&json!({}))]);
    let browser = Browser::start(&home);
    let idle: Vec<_> = (0..300).map(|_| browser.connect()).collect();
    let start = std::time::Instant::now();
    let page = browser.visit("code=right&state=STATE", "");
    // One idle connection may last 10 s.
    assert!(start.elapsed() < std::time::Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
    drop(idle);
    let (code, said) = browser.end();
    assert_eq!(code, 0, "{said}");
}

#[test]
fn a_callback_of_something_else_ends_nothing() {
    let (server, home) = browser_scene(vec![tokens(&json!({}))]);
    let browser = Browser::start(&home);
    for query in [
        "code=wrong&state=canary",
        "code=wrong",
        "state=STATE",
        "code=wrong&code=right&state=STATE",
        "code=wrong&state=canary&state=STATE",
    ] {
        let page = browser.visit(query, "");
        assert!(page.starts_with("HTTP/1.1 4"), "{query}: {page}");
    }
    assert_eq!(server.calls(), 0);
    browser.visit("code=right&state=STATE", "");
    assert_eq!(browser.end().0, 0);
    assert_eq!(server.requests()[0].form["code"], "right");
}

#[test]
fn an_error_at_the_callback_ends_the_sign_in_with_its_reason_also_without_state() {
    for (query, exit, says) in [
        ("error=access_denied&state=STATE", 4, "the sign-in was declined"),
        ("error=account_selection_required&state=STATE", 4, "remove prompt=none"),
        (
            "error=consent_required&state=STATE",
            4,
            "if it is there; sign in again with `tokenkeep login",
        ),
        ("error=interaction_required&state=STATE", 4, "remove prompt=none"),
        ("error=login_required&state=STATE", 4, "with login_required, as if it may ask nothing"),
        ("error=access_denied", 1, "without the state of this sign-in says access_denied"),
        ("error=access_denied&state=", 1, "without the state of this sign-in says access_denied"),
        ("error=AADSTS65004", 1, "says an error code that is not registered"),
        ("error=access-denied", 1, "says an error code that is not registered"),
        ("error=ACCESS_DENIED&state=", 1, "says an error code that is not registered"),
        ("error=invalid_scope", 1, "invalid_scope"),
        ("error=server_error&state=STATE", 1, "server_error"),
    ] {
        let (server, home) = browser_scene(Vec::new());
        let browser = Browser::start(&home);
        browser.visit(query, "");
        let (code, said) = browser.end();
        assert_eq!(code, exit, "{query}: {said}");
        assert!(said.contains(says), "{query}: {said}");
        assert_eq!(server.calls(), 0, "{query}");
        assert_eq!(record(&home)["refresh_token"], "canary-old-r", "{query}");
    }
}

#[test]
fn the_page_says_done_after_the_code_was_exchanged_and_not_before() {
    for (answer, exit, says) in [
        (tokens(&json!({})), 0, "Thank you"),
        (error(400, "invalid_grant"), 4, "You are not signed in"),
    ] {
        let server = TokenServer::start();
        let home = home(&server, EXPIRED);
        let held = server.hold_with(answer);
        let browser = Browser::start(&home);
        let mut page = browser.send("code=right&state=STATE", "");
        held.wait();
        page.set_nonblocking(true).unwrap();
        let early = page.read(&mut [0; 1]).map_err(|error| error.kind());
        assert_eq!(early, Err(ErrorKind::WouldBlock), "the page says nothing yet");
        page.set_nonblocking(false).unwrap();
        held.release();
        let page = read_all(page);
        assert!(page.contains(says), "{page}");
        assert_eq!(browser.end().0, exit, "{page}");
    }
}

#[test]
fn a_sign_in_without_a_refresh_token_says_what_to_add() {
    let (_server, home) = browser_scene(vec![tokens(&json!({ "refresh_token": null }))]);
    let browser = Browser::start(&home);
    browser.visit("code=right&state=STATE", "");
    let (code, said) = browser.end();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("offline_access") && said.contains("access_type"), "{said}");
}
