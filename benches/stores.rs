//! Measures saving and loading, against the least work that does the same durably.

mod floor;

use std::fs;
use std::io::Write;
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use age::secrecy::SecretString;
use age::x25519::Identity;
use age::{Encryptor, Recipient};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use tokenkeep::store::Precondition;
use tokenkeep::stores::{AgeFileStore, PlaintextStore};
use tokenkeep::{AgeKey, TokenStore};
use tokenkeep_benches::{durable_replace as replace, scratch};
use tokio::runtime::Runtime;

use crate::floor::{open, tokens};

/// Returns the bytes that a store writes for `tokens`.
#[expect(clippy::disallowed_methods, reason = "the floors are measured with the bytes of a record")]
fn record() -> Vec<u8> {
    use age::secrecy::ExposeSecret;

    tokens().to_record("here").unwrap().expose_secret().as_bytes().to_vec()
}

fn seal(recipient: &dyn Recipient, plain: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::new();
    let encryptor = Encryptor::with_recipients(iter::once(recipient)).unwrap();
    let mut writer = encryptor.wrap_output(&mut sealed).unwrap();
    writer.write_all(plain).unwrap();
    writer.finish().unwrap();
    sealed
}

/// Returns a store that holds the tokens, its file, and the file of its key.
fn age_store(runtime: &Runtime, dir: &Path) -> (AgeFileStore, PathBuf, PathBuf) {
    let (file, key_file) = (dir.join("state/tokens.age"), dir.join("keys/key.txt"));
    let key = runtime.block_on(AgeKey::create_identity_file(&key_file)).unwrap();
    let store = AgeFileStore::new(&file, key);
    runtime.block_on(store.save(&tokens().into(), Precondition::Absent)).unwrap();
    (store, file, key_file)
}

fn save(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let dir = scratch();
    let (bytes, identity) = (record(), Identity::generate());

    criterion.bench_function("save/floor: a durable replace", |bencher| {
        let path = dir.path().join("floor");
        bencher.iter(|| replace(&path, &bytes));
    });
    criterion.bench_function("save/tokenkeep: plaintext", |bencher| {
        let (store, tokens) = (PlaintextStore::new(dir.path().join("tokens.json")), tokens());
        bencher.to_async(&runtime).iter(|| async {
            store.save(&tokens.clone().into(), Precondition::Anything).await.unwrap()
        });
    });
    criterion.bench_function("save/floor: a bare age seal and a durable replace", |bencher| {
        let (path, recipient) = (dir.path().join("floor.age"), identity.to_public());
        bencher.iter(|| replace(&path, &seal(&recipient, &bytes)));
    });
    let (store, ..) = age_store(&runtime, dir.path());
    criterion.bench_function("save/tokenkeep: age", |bencher| {
        let tokens = tokens();
        bencher.to_async(&runtime).iter(|| async {
            store.save(&tokens.clone().into(), Precondition::Anything).await.unwrap()
        });
    });
}

fn load(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let dir = scratch();
    let (store, file, key_file) = age_store(&runtime, dir.path());
    let identity: Identity =
        fs::read_to_string(key_file).unwrap().lines().find_map(|line| line.parse().ok()).unwrap();
    criterion.bench_function("load/floor: a read and a bare age open", |bencher| {
        bencher.iter(|| open(&identity, &fs::read(&file).unwrap()));
    });
    // A store must not block the threads that run tasks, so it needs the blocking pool.
    let (identity, file) = (Arc::new(identity), Arc::new(file));
    criterion.bench_function("load/floor: the same on the blocking pool", |bencher| {
        bencher.to_async(&runtime).iter(|| {
            let (identity, file) = (identity.clone(), file.clone());
            async move {
                let work = move || open(&*identity, &fs::read(&*file).unwrap());
                tokio::task::spawn_blocking(work).await.unwrap()
            }
        });
    });
    criterion.bench_function("load/tokenkeep: age", |bencher| {
        bencher.to_async(&runtime).iter(|| async { store.load().await.unwrap().unwrap() });
    });
}

/// Measures an identity that a passphrase protects. The passphrase takes time only at the first use.
fn passphrase(criterion: &mut Criterion) {
    let passphrase = || SecretString::from("correct horse battery staple");
    let runtime = Runtime::new().unwrap();
    let dir = scratch();
    let (file, key_file) = (dir.path().join("tokens.age"), dir.path().join("key.age"));
    runtime.block_on(AgeKey::create_protected_identity_file(&key_file, passphrase())).unwrap();
    let store = || {
        let key = AgeKey::identity_file(&key_file).with_passphrase(move || Ok(passphrase()));
        AgeFileStore::new(&file, key)
    };
    let bytes = record();
    let mut group = criterion.benchmark_group("passphrase");
    group.sample_size(10);

    // `age` chooses a work factor that takes about 1 s on this machine.
    group.bench_function("floor: age with scrypt, and a durable replace", |bencher| {
        let path = dir.path().join("floor.age");
        bencher.iter(|| {
            replace(&path, &seal(&age::scrypt::Recipient::new(passphrase()), &bytes));
        });
    });
    group.bench_function("tokenkeep: save", |bencher| {
        let (store, tokens) = (store(), tokens());
        runtime.block_on(store.save(&tokens.clone().into(), Precondition::Anything)).unwrap();
        bencher.to_async(&runtime).iter(|| async {
            store.save(&tokens.clone().into(), Precondition::Anything).await.unwrap()
        });
    });
    group.bench_function("floor: one scrypt at work factor 17", |bencher| {
        let mut recipient = age::scrypt::Recipient::new(passphrase());
        recipient.set_work_factor(17);
        let sealed = seal(&recipient, b"identity");
        let mut identity = age::scrypt::Identity::new(passphrase());
        identity.set_max_work_factor(17);
        bencher.iter(|| open(&identity, &sealed));
    });
    group.bench_function("tokenkeep: first load", |bencher| {
        bencher.to_async(&runtime).iter_batched(
            store,
            |store| async move { store.load().await.unwrap().unwrap() },
            BatchSize::PerIteration,
        );
    });
}

criterion_group!(benches, save, load, passphrase);
criterion_main!(benches);
