//! Measures the keychain store. It needs a real keychain, which `scripts/bench` starts.

mod floor;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs};

use age::x25519::Identity;
use criterion::{Criterion, criterion_group};
use tokenkeep::store::Precondition;
use tokenkeep::stores::{AgeFileStore, KeychainStore};
use tokenkeep::{AgeKey, TokenStore};
use tokenkeep_benches::{Home, TOKEN, fill, note_memory, run};
use tokio::runtime::Runtime;
use zbus_secret_service_keyring_store::Store;

use crate::floor::{open, tokens};

const SERVICE: &str = "tokenkeep-benches";

fn stores(runtime: &Runtime) -> (KeychainStore, AgeFileStore) {
    let state = env::var("XDG_STATE_HOME").expect("scripts/bench sets it");
    let keychain = KeychainStore::new(SERVICE, "alice").unwrap();
    runtime.block_on(keychain.save(&tokens().into(), Precondition::Anything)).unwrap();
    let key_file = Path::new(&state).join("keys/key.txt");
    let key = if key_file.exists() {
        AgeKey::identity_file(&key_file)
    } else {
        runtime.block_on(AgeKey::create_identity_file(&key_file)).unwrap()
    };
    let age = AgeFileStore::new(Path::new(&state).join("records/tokens.age"), key);
    runtime.block_on(age.save(&tokens().into(), Precondition::Anything)).unwrap();
    (keychain, age)
}

/// Measures the first load of a process. Each round starts this program again, and names what to measure.
fn first_open(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let _ = stores(&runtime);
    let mut group = criterion.benchmark_group("keychain");
    for what in ["floor: a bare read and an age open", "tokenkeep: first load"] {
        group.sample_size(30).bench_function(what, |bencher| {
            bencher.iter_custom(|rounds| (0..rounds).map(|_| timed_in_a_process(what)).sum());
        });
    }
}

fn timed_in_a_process(what: &str) -> Duration {
    let mut process = Command::new(env::current_exe().unwrap());
    let output = process.env("TOKENKEEP_TIME_ONCE", what).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Duration::from_nanos(String::from_utf8(output.stdout).unwrap().trim().parse().unwrap())
}

/// Measures one first load, and prints its time in nanoseconds.
fn time_once(what: &str) {
    let runtime = Runtime::new().unwrap();
    let state = env::var("XDG_STATE_HOME").unwrap();
    let began = Instant::now();
    if what.starts_with("floor") {
        let store: Arc<keyring_core::CredentialStore> = Store::new().unwrap();
        let entry = store.build(&format!("tokenkeep:{SERVICE}"), "alice", None).unwrap();
        let secret = String::from_utf8(entry.get_secret().unwrap()).unwrap();
        let identity: Identity = secret.trim().parse().unwrap();
        let record = Path::new(&state).join(format!("tokenkeep/{SERVICE}/alice.age"));
        open(&identity, &fs::read(record).unwrap());
    } else {
        let store = KeychainStore::new(SERVICE, "alice").unwrap();
        runtime.block_on(store.load()).unwrap().unwrap();
    }
    println!("{}", began.elapsed().as_nanos());
}

/// Measures later saves and loads. They use the age file, and do not ask the keychain again.
fn later(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let (keychain, age) = stores(&runtime);
    let both: [(&str, &dyn TokenStore); 2] = [("age file", &age), ("keychain", &keychain)];
    for (name, store) in both {
        let tokens = tokens();
        criterion.bench_function(&format!("later/save: {name}"), |bencher| {
            bencher.to_async(&runtime).iter(|| async {
                store.save(&tokens.clone().into(), Precondition::Anything).await.unwrap()
            });
        });
        criterion.bench_function(&format!("later/load: {name}"), |bencher| {
            bencher.to_async(&runtime).iter(|| async { store.load().await.unwrap().unwrap() });
        });
    }
}

/// Measures whole commands that read from a keychain.
fn commands(criterion: &mut Criterion) {
    let home = Home::new();
    let bus = env::var("DBUS_SESSION_BUS_ADDRESS").expect("scripts/bench starts one");
    let on_the_bus = |mut command: Command| {
        command.env("DBUS_SESSION_BUS_ADDRESS", &bus);
        command
    };
    run(&mut on_the_bus(home.tokenkeep(&["init", "--store", "keychain:tokenkeep-benches/bob"])));
    fill(&mut on_the_bus(home.tokenkeep(&["set"])), TOKEN);
    let attributes = ["service", SERVICE, "username", "carol"];
    let mut store = on_the_bus(home.command("secret-tool"));
    fill(store.args(["store", "--label", "tokenkeep-benches"]).args(attributes), TOKEN);

    let programs: [(&str, &dyn Fn() -> Command); 3] = [
        ("tokenkeep get, keychain", &|| home.tokenkeep(&["get"])),
        ("secret-tool lookup", &|| {
            let mut tool = home.command("secret-tool");
            tool.arg("lookup").args(attributes);
            tool
        }),
        ("Python keyring get", &|| {
            let mut python =
                home.command(concat!(env!("CARGO_MANIFEST_DIR"), "/target/keyring/bin/python"));
            python.args(["-m", "keyring", "get", SERVICE, "carol"]);
            python
        }),
    ];
    let mut group = criterion.benchmark_group("get");
    for (name, program) in programs {
        group.sample_size(30).bench_function(name, |bencher| {
            bencher.iter(|| run(&mut on_the_bus(program())));
        });
        note_memory(env!("CARGO_BIN_EXE_peak"), name, &on_the_bus(program()));
    }
}

criterion_group!(benches, first_open, later, commands);

fn main() {
    match env::var("TOKENKEEP_TIME_ONCE") {
        Ok(what) => time_once(&what),
        Err(_) => {
            benches();
            Criterion::default().configure_from_args().final_summary();
        }
    }
}
