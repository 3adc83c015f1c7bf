//! Eight replicas share one expired token. One of them refreshes it, and all of them get the new token.
//!
//! Run it with `cargo run --features postgres --example fleet -- STORE_URL`. The store is one that several
//! machines can share: `postgres://app@db.example/app?slot=demo&identity=key.txt` (feature `postgres`), or
//! `s3://BUCKET/demo?identity=key.txt` (feature `object-store`). Without `STORE_URL`, the replicas share a
//! store in the memory of this process.

#![allow(clippy::print_stdout, reason = "an example prints its results")]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokenkeep::chrono::Utc;
use tokenkeep::refresh::RefreshPolicy;
use tokenkeep::store::Precondition;
use tokenkeep::{AuthTokens, StoreUrl, TokenManager, TokenStore};

const REPLICAS: usize = 8;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned());
    let url: StoreUrl = url.parse()?;
    url.prepare_server().await?;
    let store = url.open()?;
    let expired = AuthTokens::new("expired")
        .with_refresh_token("refresh 0")
        .with_expires_at(Utc::now() - Duration::from_secs(60));
    store.save(&expired.clone().into(), Precondition::Anything).await?;

    let refreshes = Arc::new(AtomicUsize::new(0));
    let replicas: Vec<_> = (0..REPLICAS)
        .map(|_| {
            // In a real fleet, each replica is on its own machine and opens the slot itself.
            let store = if url.is_shared() { url.open() } else { Ok(store.clone()) };
            let refreshes = refreshes.clone();
            tokio::spawn(async move {
                let manager = TokenManager::builder()
                    .store(store?)
                    // The jitter keeps the token from being due on all replicas at the same moment.
                    .policy(RefreshPolicy::default().jitter(Duration::from_secs(300)))
                    .refresh_with(move |_| {
                        let number = refreshes.fetch_add(1, Ordering::SeqCst) + 1;
                        async move {
                            Ok(AuthTokens::new(format!("access {number}"))
                                .with_refresh_token(format!("refresh {number}"))
                                .with_expires_at(Utc::now() + Duration::from_secs(3600)))
                        }
                    })
                    .build();
                Ok::<_, Box<dyn Error + Send + Sync>>(manager.get_access_token().await?)
            })
        })
        .collect();
    let mut tokens = Vec::new();
    for replica in replicas {
        tokens.push(replica.await?.map_err(|error| error as Box<dyn Error>)?);
    }
    let have_the_same = tokens.iter().all(|token| *token == tokens[0]);
    println!("{REPLICAS} replicas on {url}: {} refresh", refreshes.load(Ordering::SeqCst));
    println!("all of them have the same token: {have_the_same}");
    store.clear(Precondition::Anything).await?;
    Ok(())
}
