//! Measures whole commands: the time and the memory of each call in a script.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use tokenkeep_benches::{Home, TokenServer, durable_replace, note, note_memory, run};
use wait4::Wait4;

const LATER: &str = "2099-01-01T00:00:00Z";
const LONG_AGO: &str = "2000-01-01T00:00:00Z";

/// Returns the CPU time of these processes, after they have ended.
fn cpu_time(children: Vec<std::process::Child>) -> Duration {
    let used = children.into_iter().map(|mut child| {
        let done = child.wait4().unwrap();
        assert!(done.status.success());
        done.rusage.utime + done.rusage.stime
    });
    used.sum()
}

/// Returns a home whose default profile is an age file with tokens.
fn signed_in() -> Home {
    let home = Home::new();
    run(&mut home.tokenkeep(&["init"]));
    home.sign_in("default", LATER);
    home
}

fn get(criterion: &mut Criterion) {
    let home = signed_in();
    let (key, file) = ("config/keys/default.txt", "state/tokenkeep/default.age");
    let mut group = criterion.benchmark_group("get");
    note("limit of memory", 12e6);
    let mut measure = |name: &str, command: &dyn Fn() -> Command| {
        group.bench_function(name, |bencher| bencher.iter(|| run(&mut command())));
        note_memory(env!("CARGO_BIN_EXE_peak"), name, &command());
    };
    measure("tokenkeep get", &|| home.tokenkeep(&["get"]));
    measure("age -d -i", &|| {
        let mut age = home.command("age");
        age.args(["-d", "-i", key, file]);
        age
    });
}

fn profiles(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("profiles");
    for count in [10, 100_000] {
        let home = signed_in();
        let directory = home.path("config/profiles");
        let profile = fs::read_to_string(directory.join("default.toml")).unwrap();
        for number in 1..count {
            fs::write(directory.join(format!("p{number}.toml")), &profile).unwrap();
        }
        group.bench_function(format!("get one of {count}"), |bencher| {
            bencher.iter(|| run(&mut home.tokenkeep(&["get", "--profile", "default"])));
        });
    }
}

/// Returns a home with many profiles. Each has a plaintext file. There is one key for the migration.
fn plaintext_profiles(count: usize) -> Home {
    let home = Home::new();
    run(&mut home.tokenkeep(&["keygen", "-o", "key.txt"]));
    run(&mut home.tokenkeep(&["init", "--store", "plaintext:state/p0.json", "--profile", "p0"]));
    home.sign_in("p0", LATER);
    let profile = fs::read_to_string(home.path("config/profiles/p0.toml")).unwrap();
    for number in 1..count {
        let profile = profile.replace("p0.json", &format!("p{number}.json"));
        fs::write(home.path(&format!("config/profiles/p{number}.toml")), profile).unwrap();
        let record = home.path(&format!("state/p{number}.json"));
        // `copy` keeps the permissions.
        fs::copy(home.path("state/p0.json"), record).unwrap();
    }
    home
}

fn migrate(criterion: &mut Criterion) {
    const COUNT: usize = 1_000;

    let mut group = criterion.benchmark_group("migrate");
    group.sample_size(10);
    group.bench_function("floor: 1000 durable replaces", |bencher| {
        bencher.iter_batched(
            || (Home::new(), vec![b'x'; 700]),
            |(home, bytes)| {
                for number in 0..COUNT {
                    durable_replace(&home.path(&format!("{number}")), &bytes);
                }
                home
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("tokenkeep migrate --all, 1000 profiles", |bencher| {
        bencher.iter_batched(
            || plaintext_profiles(COUNT),
            |home| {
                let to = "age:state/{profile}.age?identity=key.txt";
                run(&mut home.tokenkeep(&["migrate", "--all", "--to", to]));
                home
            },
            BatchSize::PerIteration,
        );
    });
}

/// Starts many processes at once. Their shared tokens are fresh or expired.
fn processes(criterion: &mut Criterion) {
    const COUNT: usize = 64;

    let server = TokenServer::start();
    let home = signed_in();
    let profile = home.path("config/profiles/default.toml");
    let mut text = fs::read_to_string(&profile).unwrap();
    text += &format!("[oauth2]\ntoken_url = \"{}\"\nclient_id = \"app\"\n", server.url);
    fs::write(&profile, text).unwrap();
    let all = || (0..COUNT).map(|_| home.tokenkeep(&["get"]).spawn().unwrap()).collect::<Vec<_>>();

    let mut group = criterion.benchmark_group("processes");
    group.sample_size(10);
    let kinds = [("fresh", LATER, 0), ("expired", LONG_AGO, 1)];
    let once = |expires_at, calls| {
        home.sign_in("default", expires_at);
        let (before, began) = (server.calls(), Instant::now());
        let used = cpu_time(all());
        assert_eq!(server.calls() - before, calls);
        (began.elapsed(), used)
    };
    for (name, expires_at, calls) in kinds {
        group.bench_function(format!("64 gets, {name}"), |bencher| {
            bencher.iter_custom(|rounds| (0..rounds).map(|_| once(expires_at, calls).0).sum());
        });
    }
    // The two kinds are measured in turns, so that other load of the machine affects both alike.
    let mut used = [Vec::new(), Vec::new()];
    for _ in 0..50 {
        for (used, (_, expires_at, calls)) in used.iter_mut().zip(kinds) {
            used.push(once(expires_at, calls).1);
        }
    }
    for (mut used, (name, ..)) in used.into_iter().zip(kinds) {
        used.sort();
        note(&format!("cpu of 64 {name}"), used[used.len() / 2].as_secs_f64());
    }
}

criterion_group!(benches, get, profiles, migrate, processes);
criterion_main!(benches);
