//! Signing in through real proxies.
//!
//! Loopback addresses have no proxy, so the test provider has another address of this machine.
#![cfg(target_os = "linux")]

use std::fs;

use crate::forward_proxy::{ForwardProxy, NOT_LOOPBACK, free_address};
use crate::home::{Done, Home, done};
use crate::issuing::{Authority, VALID};
use crate::login::by_device;
use crate::support::available;
use crate::token_server::TokenServer;

/// The password and how it is written in a URL.
const PASSWORD: (&str, &str) = ("canary1", "canary%31");

struct World {
    server: TokenServer,
    home: Home,
    authority: Authority,
}

impl World {
    fn new() -> Self {
        let authority = Authority::new("ours");
        let issued = authority.issue(NOT_LOOPBACK, VALID);
        let server = TokenServer::start_with_certificate(NOT_LOOPBACK, &issued);
        let home = by_device(&server);
        home.write("roots.pem", authority.pem());
        Self { server, home, authority }
    }

    /// Runs a command with these variables and no other proxy.
    fn run(&self, line: &str, variables: &[(&str, &str)]) -> Done {
        let mut command = self.home.command();
        command.args(line.split(' ')).env_remove("SSL_CERT_DIR");
        command.env("SSL_CERT_FILE", self.home.path("roots.pem"));
        for name in ["HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        done(command.envs(variables.iter().copied()), "")
    }
}

fn has_proxies(test: &str) -> bool {
    available(test, "tinyproxy") && available(test, "microsocks") && available(test, "python3")
}

#[test]
fn each_kind_of_proxy_carries_a_sign_in_and_a_refresh() {
    if !has_proxies("each_kind_of_proxy_carries_a_sign_in_and_a_refresh") {
        return;
    }
    let world = World::new();
    let (plain, socks) = (ForwardProxy::tinyproxy(""), ForwardProxy::microsocks(None));
    let closed = ForwardProxy::tinyproxy(&format!("BasicAuth me {}", PASSWORD.0));
    let closed_socks = ForwardProxy::microsocks(Some(("me", PASSWORD.0)));
    let issued = world.authority.issue("localhost", VALID);
    let tls = ForwardProxy::with_tls(&plain, &issued.certificate, &issued.key);
    let user = format!("me:{}@", PASSWORD.1);
    for (variable, scheme, user, proxy, logged) in [
        ("HTTPS_PROXY", "http://", "", &plain, &plain),
        ("https_proxy", "", "", &plain, &plain),
        ("ALL_PROXY", "http://", &*user, &closed, &closed),
        ("HTTPS_PROXY", "socks5://", "", &socks, &socks),
        ("all_proxy", "socks5h://", "", &socks, &socks),
        ("HTTPS_PROXY", "socks5h://", &*user, &closed_socks, &closed_socks),
        ("HTTPS_PROXY", "https://", "", &tls, &plain),
    ] {
        let host = if scheme == "https://" { "localhost" } else { "127.0.0.1" };
        let url = format!("{scheme}{user}{host}:{}", proxy.address.port());
        let variables = [(variable, &*url)];
        let (log, requests) = (logged.log().len(), world.server.requests().len());
        let login = world.run("login", &variables);
        assert!(login.code == 0 && !login.err.contains("canary"), "{url}: {login:?}");
        world.run("refresh", &variables).ok();
        assert_eq!(world.server.requests().len(), requests + 3, "{url}");
        let server = world.server.url("").replace("https://", "");
        let seen = logged.log()[log..].to_owned();
        assert!(seen.contains(&server), "{url}: {seen}");
        for asked in seen.lines().filter(|line| line.contains("Request (")) {
            assert!(asked.contains(&format!(": CONNECT {server} HTTP/1.1")), "{asked}");
        }
    }
}

#[test]
fn a_proxy_that_fails_is_named_with_its_port_and_nothing_is_sent() {
    if !has_proxies("a_proxy_that_fails_is_named_with_its_port_and_nothing_is_sent") {
        return;
    }
    let world = World::new();
    let (plain, socks) = (ForwardProxy::tinyproxy(""), ForwardProxy::microsocks(None));
    let strict = ForwardProxy::tinyproxy("ConnectPort 1");
    let closed = ForwardProxy::tinyproxy(&format!("BasicAuth me {}", PASSWORD.0));
    let closed_socks = ForwardProxy::microsocks(Some(("me", PASSWORD.0)));
    let nothing = free_address();
    let (wants, wrong) =
        ("wants a user and a password", "does not accept the user and the password");
    for (scheme, user, proxy, expected) in [
        ("http", "", nothing, "refused the connection"),
        ("http", "me:canary@", nothing, "or correct HTTPS_PROXY"),
        ("socks5", "", nothing, "refused the connection"),
        ("http", "", closed.address, wants),
        ("http", "me:canary@", closed.address, "check the user and the password in HTTPS_PROXY"),
        ("socks5", "", closed_socks.address, wants),
        ("socks5h", "me:canary@", closed_socks.address, wrong),
        ("http", "", strict.address, "does not connect to 0.0.0.0:"),
        // It waits for the rest of a line.
        ("https", "", plain.address, "opened no connection to 0.0.0.0:"),
        ("http", "", socks.address, "check whether it allows that"),
    ] {
        let url = format!("{scheme}://{user}{proxy}");
        let said = world.run("login", &[("HTTPS_PROXY", &url)]).failed(1);
        assert!(said.starts_with(&format!("tokenkeep: the proxy {proxy} ")), "{url}: {said}");
        assert!(said.contains(expected), "{url}: {said}");
    }
    assert_eq!(world.server.requests().len(), 0);
    // The proxy cannot reach the server.
    let home = world.home.path("config/profiles/default.toml");
    let profile = fs::read_to_string(&home).unwrap();
    let server = world.server.url("");
    for (host, scheme, proxy, expected) in [
        (
            nothing.to_string().replace("127.0.0.1", "0.0.0.0"),
            "http",
            &plain,
            "does not connect to ",
        ),
        (
            nothing.to_string().replace("127.0.0.1", "0.0.0.0"),
            "socks5",
            &socks,
            "(connection refused)",
        ),
        ("nowhere.invalid".to_owned(), "http", &plain, "does not connect to nowhere.invalid"),
        ("nowhere.invalid".to_owned(), "socks5h", &socks, "does not connect to nowhere.invalid"),
        ("nowhere.invalid".to_owned(), "socks5", &socks, "nowhere.invalid cannot be resolved"),
    ] {
        fs::write(&home, profile.replace(&server, &format!("https://{host}"))).unwrap();
        let url = format!("{scheme}://{}", proxy.address);
        let said = world.run("login", &[("HTTPS_PROXY", &url)]).failed(1);
        assert!(said.contains(expected), "{url}: {said}");
        let is_local = scheme == "socks5" && host == "nowhere.invalid";
        assert_eq!(said.contains(&format!("the proxy {} ", proxy.address)), !is_local, "{said}");
    }
}

#[test]
fn a_proxy_is_used_only_where_it_is_asked_for() {
    let world = World::new();
    let dead = format!("http://me:canary@{}", free_address());
    let proxy = ("HTTPS_PROXY", &*dead);
    world.run("login", &[proxy]).failed(1);
    world.run("login", &[proxy, ("NO_PROXY", "a.example,0.0.0.0/8")]).ok();
    world.run("login", &[("HTTP_PROXY", &dead), ("http_proxy", &dead)]).ok();
    let wrong = world.run("login", &[("ALL_PROXY", "canary://x")]).failed(1);
    assert!(wrong.contains("ALL_PROXY is not the URL of a proxy; write "), "{wrong}");
    let path = world.home.path("config/profiles/default.toml");
    let profile = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{profile}proxy = true\n")).unwrap();
    let said = world.run("login", &[proxy]).failed(2);
    assert!(said.contains("proxy takes only `false`"), "{said}");
    fs::write(&path, format!("{profile}proxy = false\n")).unwrap();
    world.run("login", &[proxy]).ok();

    // This machine has no proxy.
    let local = TokenServer::start();
    let home = by_device(&local);
    let mut command = home.command();
    done(command.arg("login").env("ALL_PROXY", &dead), "").ok();
}

#[test]
fn a_bucket_is_reached_through_the_proxy_unless_its_url_turns_it_off() {
    let world = World::new();
    world.home.run("keygen -o key.txt").ok();
    let proxy = free_address();
    let dead = format!("http://me:canary@{proxy}");
    let get = |more: &str| {
        let url =
            format!("s3://tokens/a.age?identity=key.txt&endpoint=https://nowhere.invalid{more}");
        let variables = [
            ("ALL_PROXY", &*dead),
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "canary"),
        ];
        world.run(&format!("get --store {url}"), &variables).failed(5)
    };
    let said = get("");
    assert!(said.contains(&format!("the proxy {proxy} refused the connection")), "{said}");
    let said = get("&proxy=off");
    assert!(
        said.contains("nowhere.invalid cannot be reached") && !said.contains("proxy"),
        "{said}"
    );
}
