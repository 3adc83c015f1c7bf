//! Servers that send too much, too slowly, or what a terminal obeys, and servers that ask for a password.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::bucket_server::ENVIRONMENT;
use crate::figures::figure;
use crate::hostile_server::{Act, HTTP, HostileServer, POSTGRES};
use crate::support::{Actor, program, scratch};

/// The most memory of a process, in bytes. It has about 20 MB with a server that does no harm.
const MEMORY: u64 = 100_000_000;

/// The most time. The deadline of a server is 10 s and that of a provider 15 s, and the machine is busy.
const TIME: Duration = Duration::from_secs(60);

/// The most characters of an error: its own text, and 200 of the server.
const TEXT: usize = 1000;

const PASSWORD: &str = "canary-password";

/// What came of one server.
struct Outcome {
    memory: u64,
    time: Duration,
    text: String,
}

#[test]
fn no_server_fills_the_memory_takes_long_gets_a_password_or_controls_a_terminal() {
    let dir = scratch();
    let (identity, passwords) = (dir.path().join("key.txt"), dir.path().join("passwords"));
    let made = Command::new(program("tokenkeep")).args(["keygen", "-o"]).arg(&identity).output();
    assert!(made.unwrap().status.success());
    fs::write(&passwords, format!("*:*:*:*:{PASSWORD}\n")).unwrap();
    fs::set_permissions(&passwords, PermissionsExt::from_mode(0o600)).unwrap();

    let places = [(postgres as Place, POSTGRES), (bucket, HTTP), (provider, HTTP)];
    let met: Vec<(&Act, Outcome)> = thread::scope(|scope| {
        let start = |(place, acts): (Place, &'static [Act])| {
            let (identity, passwords) = (&identity, &passwords);
            acts.iter()
                .map(move |act| (act, scope.spawn(move || meet(act, place, identity, passwords))))
        };
        let running: Vec<_> = places.into_iter().flat_map(start).collect();
        running.into_iter().map(|(act, met)| (act, met.join().unwrap())).collect()
    });
    for (act, Outcome { memory, time, text }) in &met {
        let name = act.name;
        assert!(text.starts_with("error ") && text.contains(act.says), "{name}: {text}");
        assert!(!text.contains("was sent"), "{name}: {text}");
        let is_plain = |character: char| !character.is_control() && character.is_ascii();
        assert!(text.chars().all(|it| is_plain(it) || it == '…'), "{name}: {text:?}");
        assert!(text.chars().count() < TEXT, "{name}: {text}");
        assert!(!text.contains(PASSWORD), "{name}: {text}");
        assert!(*memory < MEMORY, "{name}: {memory} bytes of memory: {text}");
        assert!(*time < TIME, "{name}: {time:?}: {text}");
    }
    let most = |of: fn(&Outcome) -> u64| met.iter().map(|(_, met)| of(met)).max().unwrap();
    figure(
        "hostile servers",
        format!("{} answers of PostgreSQL, of buckets and of providers", met.len()),
        format!(
            "at most {} MB of memory, {} s, {} characters of text; 0 passwords sent",
            most(|met| met.memory / 1_000_000),
            most(|met| met.time.as_secs()),
            most(|met| met.text.chars().count() as u64)
        ),
    );
}

/// Returns the store to open, and what to do with it.
type Place = fn(&HostileServer, &Path) -> (String, String);

fn postgres(server: &HostileServer, identity: &Path) -> (String, String) {
    let (address, identity) = (server.address(), identity.display());
    (format!("postgres://me@{address}/db?slot=a&identity={identity}"), "load".into())
}

fn bucket(server: &HostileServer, identity: &Path) -> (String, String) {
    let (address, identity) = (server.address(), identity.display());
    (format!("s3://tokens/a?endpoint=http://{address}&identity={identity}"), "load".into())
}

fn provider(server: &HostileServer, _: &Path) -> (String, String) {
    ("memory:".into(), format!("provider http://{}/token", server.address()))
}

/// Uses a server in a process, and looks at that process from outside.
fn meet(act: &Act, place: Place, identity: &Path, passwords: &Path) -> Outcome {
    let server = HostileServer::start(act);
    let (url, order) = place(&server, identity);
    let mut command = Command::new(program("test-actor"));
    let command = command.args(["--with-network", &url]).envs(ENVIRONMENT);
    let mut actor = Actor::spawn(command.env("PGPASSFILE", passwords));
    let begun = Instant::now();
    let text = actor.ask(&order);
    Outcome { memory: actor.peak_memory(), time: begun.elapsed(), text }
}
