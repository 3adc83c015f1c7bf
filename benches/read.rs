//! Measures reads of a fresh token in memory. A program does this before each request.

use std::fs;
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_async::time::SystemTimeSource;
use aws_smithy_runtime::client::identity::IdentityCache;
use aws_smithy_runtime_api::client::identity::http::Token;
use aws_smithy_runtime_api::client::identity::{
    Identity, IdentityFuture, ResolveCachedIdentity, ResolveIdentity, SharedIdentityResolver,
};
use aws_smithy_runtime_api::client::runtime_components::{
    RuntimeComponents, RuntimeComponentsBuilder,
};
use aws_smithy_types::config_bag::ConfigBag;
use criterion::{Criterion, criterion_group, criterion_main};
use google_cloud_auth::credentials::user_account;
use tokenkeep::chrono::{TimeDelta, Utc};
use tokenkeep::{AuthTokens, TokenManager};
use tokenkeep_benches::{TOKEN, TokenServer};
use tokio::runtime::Runtime;
use tokio::sync::RwLock;
use yup_oauth2::{ApplicationSecret, InstalledFlowAuthenticator, InstalledFlowReturnMethod};

/// Longer than the whole run, so that no read reloads the store.
const FOR_EVER: Duration = Duration::from_secs(1_000_000);

fn manager(runtime: &Runtime) -> TokenManager {
    let manager = TokenManager::builder().recheck_after(FOR_EVER).build();
    let tokens = AuthTokens::new(TOKEN)
        .with_refresh_token("refresh")
        .with_expires_at(Utc::now() + TimeDelta::hours(12));
    runtime.block_on(manager.set_tokens(tokens)).unwrap();
    manager
}

/// The least work of any read: load the token and look at the clock.
fn floor(criterion: &mut Criterion) {
    let slot = ArcSwapOption::from_pointee((TOKEN, SystemTime::now() + FOR_EVER));
    criterion.bench_function("read/floor: arc_swap load and SystemTime::now", |bencher| {
        bencher.iter(|| {
            let cached = slot.load();
            let (token, expiry) = **cached.as_ref().unwrap();
            black_box((SystemTime::now() < expiry).then_some(token))
        });
    });
}

fn ours(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let manager = manager(&runtime);
    criterion.bench_function("read/tokenkeep: get_access_token", |bencher| {
        bencher.to_async(&runtime).iter(|| async { manager.get_access_token().await.unwrap() });
    });
    criterion.bench_function("read/tokenkeep: cached_access_token", |bencher| {
        bencher.iter(|| manager.cached_access_token().unwrap());
    });
}

/// The way of axiomtrade-rs: a lock of tokio around the tokens, and a copy of them.
fn seed(criterion: &mut Criterion) {
    #[derive(Clone)]
    struct Tokens {
        access_token: String,
        _refresh_token: String,
        expires_at: tokenkeep::chrono::DateTime<Utc>,
    }

    let runtime = Runtime::new().unwrap();
    let tokens = Arc::new(RwLock::new(Some(Tokens {
        access_token: TOKEN.into(),
        _refresh_token: "refresh".into(),
        expires_at: Utc::now() + TimeDelta::hours(12),
    })));
    criterion.bench_function("read/RwLock<Option<tokens>> and a clone", |bencher| {
        bencher.to_async(&runtime).iter(|| async {
            let tokens = tokens.read().await.clone().unwrap();
            assert!(Utc::now() + TimeDelta::minutes(5) < tokens.expires_at);
            tokens.access_token
        });
    });
}

fn aws(criterion: &mut Criterion) {
    #[derive(Debug)]
    struct Fixed;

    impl ResolveIdentity for Fixed {
        fn resolve_identity<'a>(
            &'a self,
            _: &'a RuntimeComponents,
            _: &'a ConfigBag,
        ) -> IdentityFuture<'a> {
            let expiry = Some(SystemTime::now() + FOR_EVER);
            IdentityFuture::ready(Ok(Identity::new(Token::new(TOKEN, expiry), expiry)))
        }
    }

    let runtime = Runtime::new().unwrap();
    let components = RuntimeComponentsBuilder::for_tests()
        .with_time_source(Some(SystemTimeSource::new()))
        .with_sleep_impl(Some(TokioSleep::new()))
        .build()
        .unwrap();
    let cache = IdentityCache::lazy().build();
    let resolver = SharedIdentityResolver::new(Fixed);
    let config = ConfigBag::base();
    criterion.bench_function("read/aws-smithy-runtime: resolve_cached_identity", |bencher| {
        bencher.to_async(&runtime).iter(|| async {
            let identity = cache.resolve_cached_identity(resolver.clone(), &components, &config);
            identity.await.unwrap()
        });
    });
}

fn yup(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens.json");
    let stored = serde_json::json!([{
        "scopes": ["email"],
        "token": {
            "access_token": TOKEN,
            "refresh_token": "refresh",
            "expires_at": [2099, 1, 0, 0, 0, 0, 0, 0, 0],
            "id_token": null,
        },
    }]);
    fs::write(&file, stored.to_string()).unwrap();
    let method = InstalledFlowReturnMethod::Interactive;
    let builder = InstalledFlowAuthenticator::builder(ApplicationSecret::default(), method);
    let authenticator = runtime.block_on(builder.persist_tokens_to_disk(file).build()).unwrap();
    criterion.bench_function("read/yup-oauth2: token", |bencher| {
        bencher
            .to_async(&runtime)
            .iter(|| async { authenticator.token(&["email"]).await.unwrap() });
    });
}

fn google(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let server = TokenServer::start();
    let _inside = runtime.enter();
    let account = serde_json::json!({
        "type": "authorized_user",
        "client_id": "app",
        "client_secret": "secret",
        "refresh_token": "refresh",
        "token_uri": server.url,
    });
    let credentials = user_account::Builder::new(account).build().unwrap();
    criterion.bench_function("read/google-cloud-auth: headers", |bencher| {
        bencher
            .to_async(&runtime)
            .iter(|| async { credentials.headers(http::Extensions::new()).await.unwrap() });
    });
}

/// Measures the same number of reads by 1 to 8 threads. More threads must not take longer.
fn threads(criterion: &mut Criterion) {
    const READS: u64 = 40_000;

    let runtime = Runtime::new().unwrap();
    let manager = manager(&runtime);
    let mut group = criterion.benchmark_group("threads");
    for threads in [1, 2, 4, 8] {
        group.bench_function(threads.to_string(), |bencher| {
            bencher.iter_custom(|rounds| {
                let start = Arc::new(Barrier::new(threads as usize + 1));
                let readers: Vec<_> = (0..threads)
                    .map(|_| {
                        let (manager, start) = (manager.clone(), start.clone());
                        thread::spawn(move || {
                            start.wait();
                            for _ in 0..rounds * READS / threads {
                                black_box(manager.cached_access_token());
                            }
                        })
                    })
                    .collect();
                start.wait();
                let began = Instant::now();
                for reader in readers {
                    reader.join().unwrap();
                }
                began.elapsed()
            });
        });
    }
}

fn install_provider(_: &mut Criterion) {
    rustls::crypto::ring::default_provider().install_default().unwrap();
}

criterion_group!(benches, install_provider, floor, ours, seed, aws, yup, google, threads);
criterion_main!(benches);
