//! Measures 10,000 tasks that all find the token expired.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use tokenkeep::chrono::{TimeDelta, Utc};
use tokenkeep::{AuthTokens, TokenManager};
use tokio::runtime::Runtime;

/// How long a provider on a near server takes.
const LATENCY: Duration = Duration::from_millis(100);

async fn one_call(_: AuthTokens) -> Result<AuthTokens, tokenkeep::RefreshFailure> {
    tokio::time::sleep(LATENCY).await;
    Ok(AuthTokens::new("new").with_expires_at(Utc::now() + TimeDelta::hours(1)))
}

fn tasks(criterion: &mut Criterion) {
    const TASKS: usize = 10_000;

    let runtime = Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("tasks");
    group.sample_size(10);
    group.bench_function("floor: one call", |bencher| {
        bencher
            .to_async(&runtime)
            .iter(|| async { one_call(AuthTokens::new("old")).await.unwrap() });
    });
    group.bench_function("10000 tasks, expired", |bencher| {
        bencher.to_async(&runtime).iter_custom(|rounds| async move {
            let mut elapsed = Duration::ZERO;
            for _ in 0..rounds {
                let calls = Arc::new(AtomicUsize::new(0));
                let counted = calls.clone();
                let manager = TokenManager::builder()
                    .refresh_with(move |tokens| {
                        counted.fetch_add(1, Ordering::SeqCst);
                        one_call(tokens)
                    })
                    .build();
                let expired = AuthTokens::new("old")
                    .with_refresh_token("refresh")
                    .with_expires_at(Utc::now() - TimeDelta::hours(1));
                manager.set_tokens(expired).await.unwrap();
                let began = Instant::now();
                let tasks: Vec<_> = (0..TASKS)
                    .map(|_| {
                        let manager = manager.clone();
                        tokio::spawn(async move { manager.get_access_token().await.unwrap() })
                    })
                    .collect();
                for task in tasks {
                    task.await.unwrap();
                }
                elapsed += began.elapsed();
                assert_eq!(calls.load(Ordering::SeqCst), 1);
            }
            elapsed
        });
    });
}

criterion_group!(benches, tasks);
criterion_main!(benches);
