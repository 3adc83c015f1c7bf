//! Tests of buckets only: conditional writes, connections, and changes by an operator.

use std::io::{Read, Write};
use std::process::Command;
use std::time::Duration;

use tokenkeep::chrono::Utc;
use tokenkeep::store::Precondition;
use tokenkeep::stores::BucketStore;
use tokenkeep::{AgeKey, AuthTokens, StoreError, StoreUrl, TokenManager, TokenStore, conformance};

use crate::bucket_server::{BucketServer, Protocol, can_serve_s3, in_environment};
use crate::google_server::GoogleServer;
use crate::provider::{Provider, minutes};
use crate::proxy::Way;
use crate::support::{Actor, block_on, program, scratch};
use crate::world::World;

fn tokens() -> AuthTokens {
    AuthTokens::new("canary").with_refresh_token("canary refresh")
}

#[tokio::test]
async fn the_error_for_a_missing_bucket_names_it() {
    let test = "bucket::the_error_for_a_missing_bucket_names_it";
    if !in_environment(test) {
        return;
    }
    let dir = scratch();
    let identity = dir.path().join("key.txt");
    AgeKey::create_identity_file(&identity).await.unwrap();
    for protocol in [Protocol::Azure, Protocol::S3] {
        if !protocol.is_here(test) {
            continue;
        }
        let server = BucketServer::start_empty(protocol);
        let url = server.url("fleet/alice.age", &identity).parse::<StoreUrl>().unwrap();
        for missing in [
            url.open().unwrap().save(&tokens().into(), Precondition::Anything).await.unwrap_err(),
            url.open().unwrap().load().await.unwrap_err(),
            url.prepare_server().await.unwrap_err(),
        ] {
            assert!(missing.to_string().contains("there is no bucket tokens"), "{missing}");
        }
        server.make_bucket();
        url.prepare_server().await.unwrap();
        assert!(url.open().unwrap().load().await.unwrap().is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conditional_requests_to_google_follow_its_documentation() {
    let test = "bucket::conditional_requests_to_google_follow_its_documentation";
    if !in_environment(test) {
        return;
    }
    let dir = scratch();
    let identity = dir.path().join("key.txt");
    AgeKey::create_identity_file(&identity).await.unwrap();
    let server = GoogleServer::start();
    let url = server.url("tokens", "fleet/alice.age", &identity).parse::<StoreUrl>().unwrap();
    conformance::check(|| url.open().unwrap()).await;
    let paths = ["/tokens/fleet%2Falice%2Eage", "/tokens/fleet%2Falice%2Eage%2Etrial"];
    assert_eq!(server.paths(), paths, "the object, and the object of the trial");

    let url = server.url("others", "fleet", &identity).parse::<StoreUrl>().unwrap();
    let missing = url.open().unwrap().load().await.unwrap_err();
    assert!(missing.to_string().contains("there is no bucket others"), "{missing}");
}

#[test]
fn conditional_writes_can_be_tested_without_any_runtime() {
    if !in_environment("bucket::conditional_writes_can_be_tested_without_any_runtime") {
        return;
    }
    let dir = scratch();
    let identity = dir.path().join("key.txt");
    block_on(AgeKey::create_identity_file(&identity)).unwrap();
    let server = GoogleServer::start();
    let url = server.url("tokens", "fleet", &identity).parse::<StoreUrl>().unwrap();
    block_on(url.prepare_server()).unwrap();
    assert_eq!(server.paths(), ["/tokens/fleet%2Etrial"]);
}

#[tokio::test]
async fn a_refresh_works_in_a_store_that_accepts_one_write_per_second() {
    if !in_environment("bucket::a_refresh_works_in_a_store_that_accepts_one_write_per_second") {
        return;
    }
    let dir = scratch();
    let identity = dir.path().join("key.txt");
    AgeKey::create_identity_file(&identity).await.unwrap();
    let server = GoogleServer::start_with_limit();
    let url = server.url("tokens", "fleet", &identity).parse::<StoreUrl>().unwrap();
    let provider = Provider::default();
    let store = url.open().unwrap();
    store
        .save(&provider.sign_in(minutes(Utc::now(), -1)).into(), Precondition::Absent)
        .await
        .unwrap();
    provider.issue_until(minutes(Utc::now(), 60));
    let manager = TokenManager::builder().store(store).refresher(provider.clone()).build();
    manager.get_access_token().await.unwrap();
    manager.shutdown(Duration::from_secs(60)).await.unwrap();
    let stored = url.open().unwrap().load().await.unwrap().unwrap();
    assert!(provider.accepts(&stored.record.tokens));
    assert_eq!((provider.calls(), provider.replays()), (1, 0));
}

#[tokio::test]
async fn a_404_from_a_server_that_is_no_store_is_not_an_empty_slot() {
    if !in_environment("bucket::a_404_from_a_server_that_is_no_store_is_not_an_empty_slot") {
        return;
    }
    let dir = scratch();
    let key = AgeKey::create_identity_file(dir.path().join("key.txt")).await.unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let _ = client.read(&mut [0; 4096]);
            // The path contains error codes, and some pages repeat the path.
            let page = "404 page not found: /tokens/NoSuchKey/BlobNotFound";
            let answer = format!("HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n", page.len());
            let _ = write!(client, "{answer}connection: close\r\n\r\n{page}");
        }
    });
    for scheme in ["az", "gs", "s3"] {
        let url = format!("{scheme}://tokens/NoSuchKey/BlobNotFound");
        let store = BucketStore::new(&url, key.clone()).unwrap().with_endpoint(&endpoint).unwrap();
        let error = store.load().await.unwrap_err();
        assert!(error.to_string().contains("check the endpoint"), "{error}");
    }
}

#[tokio::test]
async fn a_store_that_was_used_shows_no_credentials() {
    if !in_environment("bucket::a_store_that_was_used_shows_no_credentials") {
        return;
    }
    let dir = scratch();
    let key = AgeKey::create_identity_file(dir.path().join("key.txt")).await.unwrap();
    for scheme in ["az", "gs", "s3"] {
        let store = BucketStore::new(&format!("{scheme}://tokens/fleet"), key.clone()).unwrap();
        let store = store.with_endpoint("http://127.0.0.1:9").unwrap();
        store.load().await.unwrap_err();
        let shown = format!("{store:?} {store:#?}");
        let shown = format!("{shown} {:?}", TokenManager::builder().store(store));
        assert!(!shown.contains("made-up") && !shown.contains("Eby8vdM02"), "{shown}");
    }
}

#[tokio::test]
async fn invalid_environment_variables_are_errors_that_do_not_quote_them() {
    let dir = scratch();
    let identity = dir.path().join("key.txt");
    AgeKey::create_identity_file(&identity).await.unwrap();
    for (url, name, value) in [
        ("az://tokens/fleet", "AZURE_STORAGE_ENDPOINT", "https://me:canary@host"),
        ("az://tokens/fleet", "AZURE_STORAGE_ENDPOINT", "canary"),
        ("az://tokens/fleet", "AZURE_STORAGE_ACCOUNT_KEY", "canary!"),
        ("az://tokens/fleet", "AZURE_STORAGE_SAS_TOKEN", "canary"),
        ("az://tokens/fleet", "AZURE_CREDENTIAL_TYPE", "azure_cli"),
        ("gs://tokens/fleet", "GOOGLE_SERVICE_ACCOUNT_KEY", "\"canary\""),
        ("gs://tokens/fleet", "GOOGLE_SERVICE_ACCOUNT", "/nowhere/canary"),
        ("gs://tokens/fleet", "GOOGLE_BASE_URL", "https://h ost/canary"),
        ("s3://tokens/fleet", "AWS_ENDPOINT_URL", "https://me:canary@host"),
        ("s3://tokens/fleet", "AWS_ENDPOINT_URL_S3", "https://h ost/canary"),
        ("s3://tokens/fleet", "AWS_METADATA_ENDPOINT", "https://h ost/canary"),
        ("s3://tokens/fleet", "AWS_SECRET_ACCESS_KEY", "canary"),
    ] {
        let mut host = Command::new(program("test-actor"));
        host.args(["--with-network", &format!("{url}?identity={}", identity.display())]);
        host.env("AZURE_STORAGE_ACCOUNT_NAME", "account").env(name, value);
        let answer = Actor::spawn(&mut host).ask("load");
        assert!(answer.starts_with("error Unavailable: "), "{name}: {answer}");
        assert!(!answer.contains("canary"), "{name}: {answer}");
    }
}

#[tokio::test]
async fn a_store_without_conditional_writes_is_refused_at_the_first_write() {
    let test = "bucket::a_store_without_conditional_writes_is_refused_at_the_first_write";
    if !can_serve_s3(test) {
        return;
    }
    let world = World::on_s3().await;
    let server = world.bucket();
    server.proxy.set(Way::WithoutConditions);
    let store = world.open();
    let url = world.url.parse::<StoreUrl>().unwrap();
    for refused in [
        store.save(&tokens().into(), Precondition::Anything).await.unwrap_err(),
        store.try_lease().await.unwrap_err(),
        url.prepare_server().await.unwrap_err(),
    ] {
        assert!(refused.to_string().contains("does not support conditional writes"), "{refused}");
    }
    assert!(server.find_object("fleet").is_none(), "nothing was written");
    // Once the store keeps conditions, it can be used.
    server.proxy.set(Way::Open);
    url.prepare_server().await.unwrap();
    store.save(&tokens().into(), Precondition::Absent).await.unwrap();
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_found_to_be_done() {
    if !can_serve_s3("bucket::a_write_whose_answer_was_lost_is_found_to_be_done") {
        return;
    }
    let world = World::on_s3().await;
    let server = world.bucket();
    let store = world.open();
    store.save(&tokens().into(), Precondition::Absent).await.unwrap();
    server.proxy.set(Way::LosesAnswers);
    let revision =
        store.save(&AuthTokens::new("later").into(), Precondition::Anything).await.unwrap();
    store.clear(Precondition::Unchanged(revision)).await.unwrap();
    assert!(world.open().load().await.unwrap().is_none());
}

#[tokio::test]
async fn an_object_that_the_operator_of_a_bucket_replaced_is_refused() {
    let test = "bucket::an_object_that_the_operator_of_a_bucket_replaced_is_refused";
    if !can_serve_s3(test) {
        return;
    }
    let world = World::on_s3().await;
    let server = world.bucket();
    world.open_other().save(&tokens().into(), Precondition::Anything).await.unwrap();
    let other = server.object("other");
    for (object, expected) in [
        (other.clone(), "is not authentic"),
        (b"canary".to_vec(), "its format is unknown"),
        (b"tokenkeep-object/1\n{}\ncanary".to_vec(), "its revision or its fence is missing"),
        (other[..other.len() - 1].to_vec(), "is not authentic"),
        (vec![b'a'; 2_000_000], "is too large"),
    ] {
        world.delete();
        // Like a process that has just started.
        let store = world.open();
        store.save(&tokens().into(), Precondition::Anything).await.unwrap();
        let held = server.object("fleet");
        assert!(!held.windows(6).any(|bytes| bytes == b"canary"), "a secret is not sealed");
        server.put_object("fleet", &object);
        for error in [
            store.load().await.unwrap_err(),
            world.open().load().await.unwrap_err(),
            world.open().save(&tokens().into(), Precondition::Anything).await.unwrap_err(),
        ] {
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(expected) && !shown.contains("canary"), "{expected}: {shown}");
        }
    }
}

#[tokio::test]
async fn plain_http_to_another_machine_is_refused_whatever_the_environment_allows() {
    let dir = scratch();
    let key = AgeKey::create_identity_file(dir.path().join("key.txt")).await.unwrap();
    let test = "plain_http_to_another_machine_is_refused_whatever_the_environment_allows";
    if !in_environment(&format!("bucket::{test}")) {
        return;
    }
    for url in ["az://tokens/fleet", "gs://tokens/fleet", "s3://tokens/fleet"] {
        let store = BucketStore::new(url, key.clone()).unwrap();
        let store = store.with_endpoint("http://localhost:9").unwrap();
        let error = store.load().await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        assert!(error.to_string().contains("use https:"), "{url}: {error}");
    }
    // The endpoint of an emulator is in the environment.
    let url = format!("az://tokens/fleet?identity={}", dir.path().join("key.txt").display());
    let mut elsewhere = Command::new(program("test-actor"));
    elsewhere.args(["--with-network", &url]).env("AZURE_STORAGE_USE_EMULATOR", "true");
    elsewhere.env("AZURITE_BLOB_STORAGE_URL", "http://localhost:9");
    let answer = Actor::spawn(&mut elsewhere).ask("load");
    assert!(answer.contains("use https:"), "{answer}");
}

#[tokio::test]
async fn a_url_that_names_no_object_is_refused() {
    let dir = scratch();
    let key = AgeKey::create_identity_file(dir.path().join("key.txt")).await.unwrap();
    for url in [
        "",
        "canary",
        "s3://canary",
        "s3:///canary",
        "ftp://canary/a",
        "s3://canary/",
        "s3://a:canary@b/c",
        "s3://canary/slot.trial",
    ] {
        let error = BucketStore::new(url, key.clone()).unwrap_err();
        assert!(!error.to_string().contains("canary"), "{error}");
        assert!(error.to_string().contains("s3://BUCKET/KEY"), "{error}");
    }
}
