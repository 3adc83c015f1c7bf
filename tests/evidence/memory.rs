//! What is left of secrets in the memory of a process that has dropped them, read from outside.
#![cfg(target_os = "linux")]

mod command;
mod reader;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use self::reader::{Left, scan};
use crate::canaries::{Canary, Search, hex};
use crate::figures::figure;
use crate::session::Session;
use crate::support::{available, example, scratch};
use crate::token_server::{Act, TokenServer, fetch};

/// How many copies of each secret are left on the heap.
type Copies = BTreeMap<&'static str, usize>;

#[test]
fn the_reader_finds_what_is_left_on_the_heap_and_on_the_stack_and_what_was_freed() {
    let scene = Scene::new();
    let left = scene.run("memory:", &["leave"]);
    let is_left = |name: &str, form: &str, region: &str| {
        left.iter()
            .any(|left| left.found.name == name && left.found.form == form && left.region == region)
    };
    assert!(is_left("ACCESS", "plain", "the heap"), "{left:?}");
    assert!(is_left("REFRESH", "base64", "the heap"), "{left:?}");
    assert!(is_left("ID", "plain", "the heap"), "freed: {left:?}");
    assert!(is_left("CLIENT", "hex", "a thread's stack"), "{left:?}");
    assert!(is_left("IDENTITY", "key", "the heap"), "{left:?}");
    assert!(!left.iter().any(|left| left.found.name == "PASSPHRASE"), "{left:?}");
}

#[test]
fn stores_leave_no_token_and_no_key_in_memory_but_what_age_leaves_on_the_heap() {
    let scene = Scene::new();
    let age = scene.run("memory:", &["bare-age-seal"]);
    // One call leaves one copy; no more than that may be left by any of ours.
    let floor = copies(&age, &scene.search);
    assert!(floor.values().all(|&count| count == 1) && floor.len() == 3, "{age:?}");

    let (mut scans, mut by_age) = (0, 0);
    for (place, url) in [
        ("memory", "memory:".to_owned()),
        ("env", "env:CANARY".to_owned()),
        ("plaintext", scene.url("plaintext", "tokens.json")),
        ("age", scene.url("age", "tokens.age")),
        ("protected", scene.protected("sealed.age")),
    ] {
        let other = |scheme: &str, name: &str| scene.url(scheme, &format!("{place}-{name}"));
        let to = |verb: &str, url: &str| format!("{verb}={url}");
        let (backup, moved) = (other("age", "backup"), other("age", "moved"));
        let plain = other("plaintext", "plain");
        // With each, how often age seals, and with it how many copies it may leave.
        let runs: Vec<(Vec<String>, usize)> = match place {
            "env" => vec![
                (vec!["load".into()], 0),
                (vec!["get".into()], 0),
                (vec![to("backup", "memory:")], 0),
                (vec![to("backup", &backup)], 1),
            ],
            _ => {
                let sealed = usize::from(place == "age" || place == "protected");
                let first = if place == "memory" { &["save"][..] } else { &[] };
                let after = |orders: &[&str], seals| {
                    (first.iter().chain(orders).map(|&order| order.to_owned()).collect(), seals)
                };
                vec![
                    (vec!["save".into()], sealed),
                    after(&["load"], 0),
                    after(&["get"], 0),
                    after(&["refresh"], sealed),
                    after(&[&to("backup", &backup)], 1),
                    after(&[&to("restore", &backup)], sealed),
                    after(&[&to("migrate", &moved)], 1),
                    (vec!["save".into(), to("migrate", &plain)], sealed),
                    (vec!["save".into(), "load".into(), "clear".into()], sealed),
                ]
            }
        };
        for (orders, seals) in runs {
            let orders: Vec<&str> = orders.iter().map(String::as_str).collect();
            let left = scene.run(&url, &orders);
            by_age += assert_left(&left, &scene.search, seals, &format!("{url} {orders:?}"));
            scans += 1;
        }
    }
    if available("stores_leave_no_token_and_no_key_in_memory", "gnome-keyring-daemon") {
        let session = Session::with_keychain();
        for (orders, seals) in [
            (&["save"][..], 1),
            (&["load"], 0),
            (&["get"], 0),
            (&["refresh"], 1),
            (&["backup=memory:"], 0),
            (&["save", "migrate=memory:"], 1),
        ] {
            let (left, search) = scene.run_in(&session, orders);
            by_age += assert_left(&left, &search, seals, &format!("keychain {orders:?}"));
            scans += 1;
        }
    }
    figure(
        "memory",
        format!("{scans} scans, with 6 stores"),
        format!("0 copies of our own, 0 on a stack; {by_age} by age, on the heap"),
    );
}

#[test]
fn what_is_sent_to_a_provider_leaves_no_more_than_its_libraries_do() {
    let scene = Scene::new();
    let server = TokenServer::start();
    let run = |order: &str| {
        server.script([scene.answer()]);
        scene.run("memory:", &["save", &format!("{order}={}", server.token_url())])
    };
    let alone = run("bare-oauth2");
    let floor = copies(&alone, &scene.search);
    let ours = run("oauth2");
    let copies = copies(&ours, &scene.search);
    // The request goes through both, and the answer comes through both.
    for name in ["ACCESS_2", "CLIENT", "ID", "REFRESH_2"] {
        assert!(floor.contains_key(name), "{alone:?}");
    }
    for (name, count) in copies {
        assert!(count <= *floor.get(name).unwrap_or(&0), "{name}: {ours:?} and {alone:?}");
    }
    assert!(ours.iter().all(|left| left.region == "the heap"), "{ours:?}");
    // This one is ours alone.
    assert!(ours.iter().all(|left| left.found.name != "REFRESH"), "{ours:?}");
}

#[test]
fn a_token_with_an_escape_leaves_what_serde_json_leaves_of_it() {
    let scene = Scene::new();
    let (start, end) = scene.text("ACCESS").split_at(30);
    write(&scene.path("tokens.json"), format!(r#"{{"access_token":"{start}\"{end}"}}"#).as_bytes());
    let alone = copies(&scene.run("memory:", &["bare-serde-json"]), &scene.search);
    let ours = copies(&scene.run(&scene.url("plaintext", "tokens.json"), &["load"]), &scene.search);
    assert_eq!(alone, Copies::from([("ACCESS", 1)]));
    assert_eq!(ours, alone);
}

#[test]
fn a_sign_in_by_browser_leaves_no_more_of_its_code_than_the_libraries_do() {
    let scene = Scene::new();
    let server = TokenServer::start();
    server.mark(|kind| Canary::new(kind).text);
    let run = |order: &str| {
        let left = scene.run("memory:", &[&format!("{order}={}", server.token_url())]);
        copies(&left, &scene.search).get("code").copied().unwrap_or(0)
    };
    server.script([scene.answer(), scene.answer(), scene.answer()]);
    // What is freed is soon overwritten, now more and now less of it.
    let floor = [(); 3].map(|()| run("bare-oauth2-code")).into_iter().max().unwrap();
    let ours = [(); 3].map(|()| run("browser")).into_iter().min().unwrap();
    assert!(0 < floor && ours <= floor, "{ours} copies, and {floor} by the libraries alone");
}

/// Asserts that nothing is left but one copy of each token for each time that age sealed them;
/// returns how many there are.
fn assert_left(left: &[Left], search: &Search, seals: usize, what: &str) -> usize {
    let copies = copies(left, search);
    for (name, &count) in &copies {
        let is_token = ["ACCESS", "ACCESS_2", "ID", "REFRESH", "REFRESH_2"].contains(name);
        assert!(is_token && count <= seals, "{what}: {left:?}");
    }
    let expected = ["the environment", "the heap"];
    assert!(left.iter().all(|left| expected.contains(&&*left.region)), "{what}: {left:?}");
    copies.values().sum()
}

/// Counts by name. What is torn in two is one copy.
fn copies(left: &[Left], search: &Search) -> Copies {
    let mut copies = Copies::new();
    let mut last: Option<&Left> = None;
    for this in left.iter().filter(|left| left.region == "the heap") {
        let found = &this.found;
        let length = search.length(found);
        let is_same = last.is_some_and(|last| {
            last.found.name == found.name
                && last.found.form == found.form
                && found.at + found.length <= last.found.at + length
        });
        if !is_same {
            *copies.entry(found.name).or_default() += 1;
            last = Some(this);
        }
    }
    copies
}

/// A directory with keys in it, and the secrets.
struct Scene {
    directory: TempDir,
    canaries: Vec<Canary>,
    search: Search,
}

impl Scene {
    fn new() -> Self {
        let directory = scratch();
        let identity = age::x25519::Identity::generate().to_string();
        let identity = secrecy::ExposeSecret::expose_secret(&identity);
        write(&directory.path().join("key.txt"), identity.as_bytes());
        let names =
            ["ACCESS", "ACCESS_2", "CLIENT", "ID", "PASSPHRASE", "REFRESH", "REFRESH_2", "code"];
        let mut canaries: Vec<Canary> = names.map(Canary::new).into();
        canaries.push(Canary::of("IDENTITY", identity));
        let search = Search::new(&canaries);
        Self { directory, canaries, search }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> &str {
        &self.canaries.iter().find(|canary| canary.name == name).unwrap().text
    }

    fn url(&self, scheme: &str, name: &str) -> String {
        let url = format!("{scheme}:{}", self.path(name).display());
        match scheme {
            "age" => format!("{url}?identity={}", self.path("key.txt").display()),
            _ => url,
        }
    }

    /// An age file whose identity is sealed to the passphrase.
    fn protected(&self, name: &str) -> String {
        let identity = self.path("protected.txt");
        let mut recipient = age::scrypt::Recipient::new(self.text("PASSPHRASE").to_owned().into());
        recipient.set_work_factor(10);
        write(&identity, &age::encrypt(&recipient, self.text("IDENTITY").as_bytes()).unwrap());
        format!("age:{}?identity={}", self.path(name).display(), identity.display())
    }

    /// What a provider answers that issues the second tokens.
    fn answer(&self) -> Act {
        Act::answer(
            200,
            &serde_json::json!({
                "access_token": self.text("ACCESS_2"),
                "id_token": self.text("ID"),
                "refresh_token": self.text("REFRESH_2"),
                "token_type": "Bearer",
            })
            .to_string(),
        )
    }

    /// What a process leaves that does this with the store.
    fn run(&self, url: &str, orders: &[&str]) -> Vec<Left> {
        let mut command = Command::new(example("memory-subject"));
        let mut subject = self.start(command.arg(url).args(orders));
        let left = scan(subject.0.id(), &self.search);
        subject.end();
        left
    }

    /// The same with a store in this session's keychain. Its key, which the keychain holds, is looked
    /// for too.
    fn run_in(&self, session: &Session, orders: &[&str]) -> (Vec<Left>, Search) {
        let mut command = session.command(example("memory-subject"));
        let mut subject = self.start(command.arg("keychain:program/alice").args(orders));
        let lookup = ["lookup", "service", "tokenkeep:program", "username", "alice"];
        let key = session.output("secret-tool", &lookup);
        let mut canaries = self.canaries.clone();
        canaries.extend((!key.is_empty()).then(|| Canary::of("KEY", &key)));
        let search = Search::new(&canaries);
        let left = scan(subject.0.id(), &search);
        subject.end();
        (left, search)
    }

    fn start(&self, command: &mut Command) -> Subject {
        for Canary { name, text } in &self.canaries {
            let masked: Vec<u8> = text.bytes().map(|byte| !byte).collect();
            command.env(format!("MASKED_{name}"), hex(&masked));
        }
        command.env("CANARY_ACCESS_TOKEN", self.text("ACCESS"));
        command.env("CANARY_REFRESH_TOKEN", self.text("REFRESH"));
        if command.get_args().next().is_some_and(|url| url != "env:CANARY") {
            command.env_remove("CANARY_ACCESS_TOKEN").env_remove("CANARY_REFRESH_TOKEN");
        }
        Subject::start(command)
    }
}

fn write(path: &std::path::Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}

/// A process that has done what it was told, and waits.
struct Subject(Child);

impl Subject {
    fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut subject = Self(child);
        let mut line = String::new();
        let mut output = BufReader::new(subject.0.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        if line.starts_with("http") {
            let (_, back, _) = fetch(line.trim_end());
            fetch(&back.unwrap());
            line.clear();
            output.read_line(&mut line).unwrap();
        }
        assert_eq!(line, "done\n", "{command:?} does what it is told");
        subject
    }

    fn end(&mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
