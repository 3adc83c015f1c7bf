//! Reads the memory of a process that has dropped its secrets, and counts the copies that are left.

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
use crate::servers::{SharedSlot, shared_slots};
use crate::session::Session;
use crate::support::{available, program, scratch};
use crate::token_server::{Act, TokenServer, fetch};

/// An allocator that never reuses memory, for the processes that are read.
const ALLOCATOR: &str = "never_reuse.so";

/// The number of copies of each secret that are left on the heap.
type Copies = BTreeMap<&'static str, usize>;

#[test]
fn the_reader_finds_secrets_on_the_heap_and_on_the_stack_and_in_freed_memory() {
    const NAME: &str = "the_reader_finds_secrets_on_the_heap_and_on_the_stack_and_in_freed_memory";
    let Some(scene) = Scene::new(NAME) else { return };
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
fn stores_leave_no_secret_in_memory_except_one_copy_for_each_call_of_age() {
    const NAME: &str = "stores_leave_no_secret_in_memory_except_one_copy_for_each_call_of_age";
    let Some(scene) = Scene::new(NAME) else { return };
    let (memory, plain) = ("memory:".to_owned(), scene.url("plaintext", "tokens.json"));
    let (age, protected) = (scene.url("age", "tokens.age"), scene.protected("sealed.age"));
    let mut tally = Tally::default();
    let mut check = |url: &str, orders: &[&str], calls: usize| {
        let left = scene.run(url, orders);
        tally.check(&left, &scene.search, calls, url == protected, &format!("{url} {orders:?}"));
    };
    for (number, url) in [&memory, &plain, &age, &protected].into_iter().enumerate() {
        // The calls of age for this store. Only age files have any.
        let sealed = |calls: usize| if number < 2 { 0 } else { calls };
        let first: &[&str] = if *url == memory { &["save"] } else { &[] };
        let after = |order| [first, &[order]].concat();
        let backup = scene.url("age", &format!("backup-{number}"));
        let (backup, restore) = (format!("backup={backup}"), format!("restore={backup}"));
        let moved = format!("migrate={}", scene.url("age", &format!("moved-{number}")));
        let plain = format!("migrate={}", scene.url("plaintext", &format!("plain-{number}")));
        check(url, &["save"], sealed(1));
        check(url, &after("load"), sealed(1));
        check(url, &after("get"), sealed(1));
        // The old record is read twice, and sealed again with the intent. Then the new record is sealed.
        check(url, &after("refresh"), sealed(4));
        // The backup is sealed, and read back.
        check(url, &after(&backup), sealed(1) + 2);
        // The existing record is read, saved again, and read back.
        check(url, &after(&restore), sealed(3) + 1);
        check(url, &after(&moved), sealed(1) + 2);
        check(url, &["save", &plain], sealed(2));
        check(url, &["save", "load", "clear"], sealed(2));
    }
    let backup = format!("backup={}", scene.url("age", "backup"));
    for (order, calls) in [("load", 0), ("get", 0), ("backup=memory:", 0), (&*backup, 2)] {
        check("env:CANARY", &[order], calls);
    }
    if available(NAME, "gnome-keyring-daemon") {
        let session = Session::with_keychain();
        for (orders, calls) in [
            (&["save"][..], 1),
            (&["load"], 1),
            (&["get"], 1),
            (&["refresh"], 4),
            (&["backup=memory:"], 1),
            (&["save", "migrate=memory:"], 3),
        ] {
            let (left, search) = scene.run_in(&session, orders);
            tally.check(&left, &search, calls, false, &format!("keychain {orders:?}"));
        }
    }
    for slot in scene.shared_slots(NAME) {
        let mut check = |orders: &[&str], calls: usize| {
            let left = scene.run_at(&slot, &slot.url, orders);
            tally.check(&left, &scene.search, calls, false, &format!("{} {orders:?}", slot.url));
        };
        // A save first reads the old record, which holds the number of the change.
        check(&["save"], 1);
        check(&["load"], 1);
        check(&["get"], 1);
        // As for a file, and one more read before each of the two saves.
        check(&["refresh"], 6);
        check(&["backup=memory:"], 1);
        check(&["migrate=memory:"], 2);
        check(&["save", "load", "clear"], 3);
    }
    figure(
        "memory",
        format!("{} runs with 8 stores, no memory used twice", tally.runs),
        format!(
            "0 copies of our own, 0 on a stack; {} by age, 1 of each secret for each call",
            tally.by_age
        ),
    );
}

#[test]
fn age_leaves_one_copy_of_what_it_seals_and_one_of_what_it_opens() {
    const NAME: &str = "age_leaves_one_copy_of_what_it_seals_and_one_of_what_it_opens";
    let Some(scene) = Scene::new(NAME) else { return };
    let one = Copies::from([("ACCESS", 1), ("ID", 1), ("REFRESH", 1)]);
    let alone = |order: &str| copies(&scene.run("memory:", &[order]), &scene.search);
    assert_eq!(alone("bare-age-seal"), one);
    scene.run(&scene.url("age", "tokens.age"), &["save"]);
    assert_eq!(alone(&format!("bare-age-open={}", scene.path("tokens.age").display())), one);
}

#[test]
fn a_refresh_leaves_no_more_copies_than_its_libraries_alone() {
    const NAME: &str = "a_refresh_leaves_no_more_copies_than_its_libraries_alone";
    let Some(scene) = Scene::new(NAME) else { return };
    let server = TokenServer::start();
    let run = |order: &str| {
        server.script([scene.answer()]);
        scene.run("memory:", &["save", &format!("{order}={}", server.token_url())])
    };
    let alone = run("bare-oauth2");
    let floor = copies(&alone, &scene.search);
    let ours = run("oauth2");
    let copies = copies(&ours, &scene.search);
    // These secrets are part of the request or the answer, which pass through the libraries.
    for name in ["ACCESS_2", "CLIENT", "ID", "REFRESH_2"] {
        assert!(floor.contains_key(name), "{alone:?}");
    }
    for (name, count) in copies {
        assert!(count <= *floor.get(name).unwrap_or(&0), "{name}: {ours:?} and {alone:?}");
    }
    assert!(ours.iter().all(|left| left.region == "the heap"), "{ours:?}");
    // Only tokenkeep has had the old refresh token.
    assert!(ours.iter().all(|left| left.found.name != "REFRESH"), "{ours:?}");
}

#[test]
fn only_the_database_driver_leaves_copies_of_the_password() {
    const NAME: &str = "only_the_database_driver_leaves_copies_of_the_password";
    let Some(scene) = Scene::new(NAME) else { return };
    for slot in scene.shared_slots(NAME) {
        let Some((url, _)) = slot.url.strip_prefix("postgres:").and(slot.url.split_once('?'))
        else {
            continue;
        };
        let copies = |url: &str, order: &str| {
            let left = scene.run_at(&slot, url, &[order]);
            copies(&left, &scene.search).get("PASSWORD").copied().unwrap_or(0)
        };
        let alone = copies("memory:", &format!("bare-postgres={url}"));
        let ours = copies(&slot.url, "save");
        assert!(0 < alone && ours <= alone, "{ours} copies, and {alone} by the driver alone");
    }
}

#[test]
fn a_token_with_an_escape_leaves_only_the_copies_of_serde_json() {
    const NAME: &str = "a_token_with_an_escape_leaves_only_the_copies_of_serde_json";
    let Some(scene) = Scene::new(NAME) else { return };
    let (start, end) = scene.text("ACCESS").split_at(30);
    write(&scene.path("tokens.json"), format!(r#"{{"access_token":"{start}\/{end}"}}"#).as_bytes());
    let alone = copies(&scene.run("memory:", &["bare-serde-json"]), &scene.search);
    let ours = copies(&scene.run(&scene.url("plaintext", "tokens.json"), &["load"]), &scene.search);
    assert!(alone["ACCESS"] > 0);
    assert_eq!(ours, alone);
}

#[test]
fn a_sign_in_by_browser_leaves_no_more_copies_of_its_code_than_the_libraries_alone() {
    const NAME: &str =
        "a_sign_in_by_browser_leaves_no_more_copies_of_its_code_than_the_libraries_alone";
    let Some(scene) = Scene::new(NAME) else { return };
    let server = TokenServer::start();
    server.mark(|kind| Canary::new(kind).text);
    let run = |order: &str| {
        let left = scene.run("memory:", &[&format!("{order}={}", server.token_url())]);
        copies(&left, &scene.search).get("code").copied().unwrap_or(0)
    };
    server.script([scene.answer()]);
    let floor = run("bare-oauth2-code");
    let ours = run("browser");
    // One copy is the string that oauth2 received.
    assert!(0 < floor && ours <= floor, "{ours} copies, and {floor} by the libraries alone");
}

/// The numbers of all checks so far.
#[derive(Default)]
struct Tally {
    runs: usize,
    by_age: usize,
}

impl Tally {
    /// Fails if more is left than one copy of each token for each call of age, and one copy of an
    /// identity that age opened.
    fn check(&mut self, left: &[Left], search: &Search, calls: usize, opened: bool, what: &str) {
        let copies = copies(left, search);
        let count =
            |names: &[&str]| -> usize { names.iter().filter_map(|it| copies.get(it)).sum() };
        for names in [&["ACCESS", "ACCESS_2"][..], &["ID"], &["REFRESH", "REFRESH_2"]] {
            assert!(count(names) <= calls, "{what}: {left:?}");
        }
        assert!(count(&["IDENTITY"]) <= usize::from(opened), "{what}: {left:?}");
        assert_eq!(count(&["CLIENT", "KEY", "PASSPHRASE"]), 0, "{what}: {left:?}");
        let expected = ["the environment", "the heap"];
        assert!(left.iter().all(|left| expected.contains(&&*left.region)), "{what}: {left:?}");
        self.runs += 1;
        self.by_age += copies.values().sum::<usize>();
    }
}

/// Counts the copies on the heap by name. Two parts of one copy count once.
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

/// A directory with keys, and the secrets.
struct Scene {
    directory: TempDir,
    canaries: Vec<Canary>,
    search: Search,
}

impl Scene {
    /// Returns `None` if there is no C compiler.
    fn new(test: &str) -> Option<Self> {
        if !available(test, "cc") {
            return None;
        }
        let directory = scratch();
        let made = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-fno-builtin", "-o"])
            .arg(directory.path().join(ALLOCATOR))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/evidence/memory/never_reuse.c"))
            .status();
        assert!(made.unwrap().success());
        let identity = age::x25519::Identity::generate().to_string();
        let identity = tokenkeep::secrecy::ExposeSecret::expose_secret(&identity);
        write(&directory.path().join("key.txt"), identity.as_bytes());
        let names = [
            "ACCESS",
            "ACCESS_2",
            "CLIENT",
            "ID",
            "PASSPHRASE",
            "PASSWORD",
            "REFRESH",
            "REFRESH_2",
            "code",
        ];
        let mut canaries: Vec<Canary> = names.map(Canary::new).into();
        canaries.push(Canary::of("IDENTITY", identity));
        let search = Search::new(&canaries);
        Some(Self { directory, canaries, search })
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

    /// Returns the URL of an age file whose identity is sealed to the passphrase.
    fn protected(&self, name: &str) -> String {
        let identity = self.path("protected.txt");
        let mut recipient = age::scrypt::Recipient::new(self.text("PASSPHRASE").to_owned().into());
        recipient.set_work_factor(10);
        write(&identity, &age::encrypt(&recipient, self.text("IDENTITY").as_bytes()).unwrap());
        format!("age:{}?identity={}", self.path(name).display(), identity.display())
    }

    /// Returns the answer of a provider with the second tokens.
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

    /// Runs these orders on a store, and returns the secrets that the process leaves in its memory.
    fn run(&self, url: &str, orders: &[&str]) -> Vec<Left> {
        let mut command = Command::new(program("memory-subject"));
        let mut subject = self.start(command.arg(url).args(orders));
        let left = scan(subject.0.id(), &self.search);
        subject.end();
        left
    }

    /// Does the same with a store in this session's keychain, and also searches for its key, which the
    /// keychain holds.
    fn run_in(&self, session: &Session, orders: &[&str]) -> (Vec<Left>, Search) {
        let mut command = session.command(program("memory-subject"));
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

    fn shared_slots(&self, test: &str) -> Vec<SharedSlot> {
        shared_slots(test, &self.path("key.txt"), self.text("PASSWORD"), "made-up")
    }

    /// Does the same, with the environment that gives access to a slot on a server.
    fn run_at(&self, slot: &SharedSlot, url: &str, orders: &[&str]) -> Vec<Left> {
        let mut command = Command::new(program("memory-subject"));
        let mut subject = self.start(slot.to(&mut command).arg(url).args(orders));
        let left = scan(subject.0.id(), &self.search);
        subject.end();
        left
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
        // Another allocator would soon reuse the memory, and each run would find other parts.
        command.env("LD_PRELOAD", self.path(ALLOCATOR));
        Subject::start(command)
    }
}

fn write(path: &std::path::Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}

/// A process that has carried out its orders, and waits.
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
        assert_eq!(line, "done\n", "{command:?} has carried out its orders");
        subject
    }

    fn end(&mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
