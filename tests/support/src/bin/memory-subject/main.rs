//! A process whose memory the tests read. It does with one store what its arguments say, drops all values,
//! and waits.
//!
//! `memory-subject STORE_URL DO…`. A secret `NAME` is in the variable `MASKED_NAME` in a masked form. So an
//! unmasked secret in memory is one that an operation left. `bare-…` calls only a dependency, with the same
//! secrets. Secrets that it leaves are not left by this crate.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "it is part of the tests, and its tokens are made up"
)]

mod bare;
mod log;

use std::io::{Read, Write};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokenkeep::oauth2::OAuth2Client;
use tokenkeep::secrecy::{ExposeSecret, SecretString};
use tokenkeep::store::Precondition;
use tokenkeep::transfer::{Overwrite, backup, migrate, restore};
use tokenkeep::{AuthTokens, StoreUrl, TokenManager, TokenStore, chrono};

fn main() {
    if std::env::var_os("LOG_EVERYTHING").is_some() {
        log::to_standard_error();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        // Threads stay alive, because the test reads their stacks too.
        .thread_keep_alive(std::time::Duration::from_secs(600))
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let url = &arguments[0];
        // All operations use one store, as in a program.
        let store = open(url);
        for order in &arguments[1..] {
            let (verb, object) = order.split_once('=').unwrap_or((order, ""));
            tokio::spawn(act(store.clone(), verb.to_owned(), object.to_owned())).await.unwrap();
        }
    });
    println!("done");
    std::io::stdout().flush().unwrap();
    // Wait until the test has read the memory.
    let _ = std::fs::File::open("/dev/stdin").unwrap().read(&mut [0]);
}

async fn act(store: Arc<dyn TokenStore>, verb: String, object: String) {
    match verb.as_str() {
        "save" => drop(store.save(&tokens().into(), Precondition::Anything).await.unwrap()),
        "load" => drop(store.load().await.unwrap().expect("tokens")),
        "clear" => store.clear(Precondition::Anything).await.unwrap(),
        "migrate" => assert!(migrate(&store, &open(&object)).await.unwrap().moved),
        "backup" => drop(backup(&store, &open(&object)).await.unwrap()),
        "restore" => restore(&open(&object), &store, Overwrite::Always).await.unwrap(),
        "get" => {
            let manager = TokenManager::builder().store(store).build();
            drop(manager.get_access_token().await.unwrap());
        }
        "refresh" => {
            let refresh = |_: AuthTokens| async { Ok(refreshed()) };
            let manager = TokenManager::builder().store(store).refresh_with(refresh).build();
            drop(manager.refresh().await.unwrap());
            manager.shutdown(std::time::Duration::from_secs(5)).await.unwrap();
        }
        "oauth2" => {
            let client = OAuth2Client::new(&object, "app").unwrap();
            let client = client.with_secret(secret("CLIENT"));
            let manager = TokenManager::builder().store(store).refresher(client).build();
            drop(manager.refresh().await.unwrap());
            manager.shutdown(std::time::Duration::from_secs(5)).await.unwrap();
        }
        "browser" => {
            let client = OAuth2Client::new(&object, "app").unwrap();
            let authorize = object.replace("/token", "/authorize");
            let client = client.with_authorization_url(&authorize).unwrap();
            let sign_in = client.sign_in_by_browser(0).await.unwrap();
            println!("{}", sign_in.url());
            drop(sign_in.tokens().await.unwrap());
        }
        "panic" => {
            let panicking = |_: AuthTokens| async { panic!("a refresher that panics") };
            let manager = TokenManager::builder().store(store).refresh_with(panicking).build();
            eprintln!("{:?}", manager.refresh().await.unwrap_err());
        }
        "leave" => leave(),
        bare => bare::call(bare, &object).await,
    }
}

/// Leaves each kind of secret in memory, to check that the tests find it.
fn leave() {
    let text = |name| secret(name).expose_secret().to_owned();
    Box::leak(text("ACCESS").into_boxed_str());
    Box::leak(BASE64_STANDARD.encode(format!("a{}", text("REFRESH"))).into_boxed_str());
    leave_on_the_stack(text("CLIENT").as_bytes());
    let key: Vec<u8> = bech32(&text("IDENTITY"));
    Box::leak(key.into_boxed_slice());
    // The allocator overwrites the beginning of freed memory.
    drop(text("ID"));
}

#[inline(never)]
fn leave_on_the_stack(text: &[u8]) {
    // Deep enough that later calls do not overwrite it.
    let mut frame = [0_u8; 8192];
    for (index, byte) in text.iter().enumerate() {
        frame[4096 + 2 * index] = b"0123456789abcdef"[usize::from(byte >> 4)];
        frame[4096 + 2 * index + 1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
    std::hint::black_box(&frame);
}

/// Returns the bytes of an identity.
fn bech32(identity: &str) -> Vec<u8> {
    let digits = &identity["AGE-SECRET-KEY-1".len()..identity.len() - 6];
    let (mut bytes, mut held, mut bits) = (Vec::with_capacity(32), 0_u32, 0);
    for digit in digits.chars() {
        held = held << 5 | "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L".find(digit).unwrap() as u32;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    bytes
}

fn open(url: &str) -> Arc<dyn TokenStore> {
    let url: StoreUrl = url.parse().expect("a store URL");
    url.open_with_passphrase(|| Ok(secret("PASSPHRASE"))).expect("a store")
}

fn tokens() -> AuthTokens {
    AuthTokens::new(secret("ACCESS"))
        .with_refresh_token(secret("REFRESH"))
        .with_extra("id_token", secret("ID"))
        .with_expires_at(chrono::DateTime::from_timestamp(4_000_000_000, 0).unwrap())
}

fn refreshed() -> AuthTokens {
    AuthTokens::new(secret("ACCESS_2")).with_refresh_token(secret("REFRESH_2"))
}

/// Unmasks a secret into a buffer of its exact size.
fn secret(name: &str) -> SecretString {
    let masked = std::env::var(format!("MASKED_{name}")).unwrap();
    let mut text = String::with_capacity(masked.len() / 2);
    for index in (0..masked.len()).step_by(2) {
        let byte = u8::from_str_radix(&masked[index..index + 2], 16).unwrap();
        text.push(char::from(!byte));
    }
    SecretString::from(text.into_boxed_str())
}
