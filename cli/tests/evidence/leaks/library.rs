//! The library: all of its log lines, and the `Debug` and `Display` of its types.

use std::process::Stdio;

use tokenkeep::{AgeKey, AuthTokens, RefreshFailure, StoreUrl, TokenManager, TokenStore};

use tokenkeep::oauth2::OAuth2Client;

use tokenkeep::store::{Intent, Precondition, Stored};

use tokenkeep::stores::{
    AgeFileStore, BucketStore, EnvStore, KeychainStore, MemoryStore, PlaintextStore, PostgresStore,
};

use tokenkeep::tower::BearerLayer;

use super::{Scene, text};
use crate::canaries::hex;
use crate::figures::figure;
use crate::session::Session;
use crate::support::{available, program};

fn tokens() -> AuthTokens {
    AuthTokens::new(text("mine"))
        .with_refresh_token(text("my refresh"))
        .with_extra("id_token", text("extra").as_str().into())
}

#[tokio::test]
async fn no_public_type_shows_a_secret_when_it_is_printed() {
    let scene = Scene::new();
    let path = |name: &str| scene.home.path(name);
    let key = AgeKey::create_protected_identity_file(path("own.txt"), text("PASSPHRASE").into());
    let key = key.await.unwrap();
    let (sealed, memory) = (AgeFileStore::new(path("own.age"), key.clone()), MemoryStore::new());
    sealed.save(&tokens().into(), Precondition::Absent).await.unwrap();
    memory.save(&tokens().into(), Precondition::Absent).await.unwrap();
    let stored: Stored = sealed.load().await.unwrap().unwrap();
    let client = OAuth2Client::new(&scene.server.token_url(), "app").unwrap();
    let client = client.with_secret(text("CLIENT").into());
    let client = client.with_device_authorization_url(&scene.server.url("/device")).unwrap();
    let client = client.with_authorization_url(&scene.server.url("/authorize")).unwrap();
    let (device, browser) =
        (client.sign_in_by_device().await.unwrap(), client.sign_in_by_browser(0).await.unwrap());
    let failing = |_: AuthTokens| async { Err(RefreshFailure::rejected("no")) };
    let manager = TokenManager::builder().store(memory.clone()).refresh_with(failing).build();
    let mut events = manager.subscribe();
    let failed = manager.refresh().await.unwrap_err();
    let event = events.next().await;
    let refreshing = TokenManager::builder()
        .store(AgeFileStore::new(path("own.age"), key.clone()))
        .refresher(client.clone())
        .build();
    scene.server.script([crate::token_server::Act::answer(400, &text("echo"))]);
    let failed_too = refreshing.refresh().await.unwrap_err();
    let token = &stored.record.tokens.refresh_token.clone().unwrap();
    let intent = Intent::new(token, tokenkeep::chrono::Utc::now());
    let url: StoreUrl = scene.age("tokens").parse().unwrap();
    let layer = BearerLayer::new(manager.clone()).with_origin("https://api.example").unwrap();
    let wrong = format!("https://me:{}@x.example", text("stray"));
    let (bad_url, bad_origin, bad_endpoint) = (
        wrong.parse::<StoreUrl>().unwrap_err(),
        BearerLayer::new(manager.clone()).with_origin(&wrong).unwrap_err(),
        OAuth2Client::new(&wrong, "app").unwrap_err(),
    );
    let damaged = AuthTokens::from_record(format!("{{\"{}", text("mine")).as_bytes(), "here");
    let damaged = damaged.unwrap_err();
    let conflict = memory.save(&tokens().into(), Precondition::Absent).await.unwrap_err();
    let record = tokens().to_record("here").unwrap();
    let not_a_recipient = key_without_clones().with_recovery_recipient(&scene.keys[0]).unwrap_err();
    let keychain = KeychainStore::new("a", "b").unwrap();
    let (plain, env) = (PlaintextStore::new(path("x.json")), EnvStore::new("X"));
    let database = PostgresStore::new("postgres://me@127.0.0.1/x", "x", key.clone()).unwrap();
    let bucket = BucketStore::new("s3://x/y", key.clone()).unwrap();
    let (bad_database, bad_bucket) = (
        PostgresStore::new(&format!("postgres://me:{}@x/y", text("stray")), "x", key.clone()),
        BucketStore::new(&format!("s3://me:{}@x/y", text("stray")), key.clone()),
    );
    let (bad_database, bad_bucket) = (bad_database.unwrap_err(), bad_bucket.unwrap_err());

    macro_rules! assert_shows_nothing {
        ($($value:expr),* $(,)?) => {
            [$((stringify!($value), format!("{:?} {:#?}", $value, $value))),*]
        };
    }
    let debug = assert_shows_nothing![
        stored,
        stored.record.tokens,
        stored.record.tokens.access_token,
        token,
        stored.revision,
        sealed,
        memory,
        key,
        client,
        device,
        browser,
        manager,
        failed,
        event,
        failed_too,
        intent,
        url,
        layer,
        bad_url,
        bad_origin,
        bad_endpoint,
        damaged,
        conflict,
        record,
        not_a_recipient,
        keychain,
        plain,
        env,
        database,
        bucket,
        bad_database,
        bad_bucket,
        Precondition::Unchanged(stored.revision.clone()),
        TokenManager::builder(),
        refreshing,
    ];
    let display = [
        sealed.to_string(),
        memory.to_string(),
        key.to_string(),
        failed.to_string(),
        failed_too.to_string(),
        intent.to_string(),
        url.to_string(),
        bad_url.to_string(),
        bad_origin.to_string(),
        bad_endpoint.to_string(),
        damaged.to_string(),
        conflict.to_string(),
        not_a_recipient.to_string(),
        keychain.to_string(),
        plain.to_string(),
        env.to_string(),
        database.to_string(),
        bucket.to_string(),
        bad_database.to_string(),
        bad_bucket.to_string(),
    ];
    for (what, shown) in &debug {
        scene.assert_shows_nothing(what, shown.as_bytes());
    }
    for shown in &display {
        scene.assert_shows_nothing("what is displayed", shown.as_bytes());
    }
    let values = format!("{} values", debug.len() + display.len());
    figure("leaks in Debug and Display", values, "0 secrets shown");
}

fn key_without_clones() -> AgeKey {
    AgeKey::identity_file("key.txt")
}

#[test]
fn nothing_in_the_process_logs_a_secret_at_any_level() {
    let scene = Scene::new();
    let masked = |name: &'static str| {
        let bytes: Vec<u8> = text(name).bytes().map(|byte| !byte).collect();
        hex(&bytes)
    };
    let mut lines = 0;
    let mut run = |subject: &mut std::process::Command, orders: &[&str]| {
        let names = [
            ("ACCESS", "mine"),
            ("ACCESS_2", "access"),
            ("CLIENT", "CLIENT"),
            ("ID", "extra"),
            ("PASSPHRASE", "PASSPHRASE"),
            ("REFRESH", "my refresh"),
            ("REFRESH_2", "refresh"),
        ];
        subject.envs(names.map(|(variable, name)| (format!("MASKED_{variable}"), masked(name))));
        subject.args(orders).env("LOG_EVERYTHING", "1").env("RUST_BACKTRACE", "full");
        let done = subject.stdin(Stdio::null()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        scene.assert_shows_nothing(&format!("the log of {orders:?}"), &done.stderr);
        scene.assert_shows_nothing(&format!("the output of {orders:?}"), &done.stdout);
        lines += done.stderr.split(|&byte| byte == b'\n').count();
        String::from_utf8(done.stderr).unwrap()
    };
    let subject = || scene.home.wrapped(program("memory-subject"));
    let (age, plain) = (scene.age("logged"), scene.plaintext("logged"));
    let orders = ["save", "load", "get", "refresh", "load", "panic"];
    for url in ["memory:", &age, &plain] {
        let log = run(subject().arg(url), &orders);
        assert!(log.contains("refresh"), "there is a log: {log}");
        assert!(log.contains("stack backtrace"), "there is a panic: {log}");
    }
    run(subject().arg(&plain), &[&format!("migrate={}", scene.age("logged-too"))]);
    scene.server.script([crate::token_server::Act::answer(
        200,
        &format!(
            r#"{{"access_token":"{}","refresh_token":"{}"}}"#,
            text("access"),
            text("refresh")
        ),
    )]);
    run(subject().arg("memory:"), &["save", &format!("oauth2={}", scene.server.token_url())]);
    if available("nothing_in_the_process_logs_a_secret_at_any_level", "gnome-keyring-daemon") {
        let session = Session::with_keychain();
        let mut subject = session.command(program("memory-subject"));
        let log = run(subject.arg("keychain:program/alice"), &["save", "load", "refresh"]);
        assert!(log.contains("zbus"), "there is a log of other crates: {log}");
    }
    for slot in scene.shared_slots("nothing_in_the_process_logs_a_secret_at_any_level") {
        let log = run(slot.to(&mut subject()).arg(&slot.url), &orders);
        let other = ["tokio_postgres", "object_store"];
        assert!(other.iter().any(|name| log.contains(name)), "other crates log: {log}");
    }
    figure("leaks in logs", format!("{lines} lines at TRACE, of all crates"), "0 secrets shown");
}
