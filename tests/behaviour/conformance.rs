//! Every store keeps the contract. The test of the keychain store is in `keychain`.

use std::sync::Arc;

use tokenkeep::{AgeKey, TokenStore, conformance};

use tokenkeep::stores::{AgeFileStore, MemoryStore, PlaintextStore};

use crate::support::{block_on, scratch};

#[tokio::test]
async fn the_memory_store_conforms() {
    let slot = MemoryStore::new();
    conformance::check(|| slot.clone()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plaintext_store_conforms() {
    let dir = scratch();
    conformance::check(|| PlaintextStore::new(dir.path().join("new/tokens.json"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_age_file_store_conforms() {
    let dir = scratch();
    let key = AgeKey::create_identity_file(dir.path().join("keys/key.txt")).await.unwrap();
    conformance::check(|| AgeFileStore::new(dir.path().join("new/tokens.age"), key.clone())).await;
}

#[tokio::test]
async fn a_trait_object_of_a_store_conforms() {
    let dir = scratch();
    conformance::check(|| {
        Arc::new(PlaintextStore::new(dir.path().join("tokens.json"))) as Arc<dyn TokenStore>
    })
    .await;
}

#[tokio::test]
async fn a_boxed_store_conforms() {
    let slot = MemoryStore::new();
    conformance::check(|| Box::new(slot.clone()) as Box<dyn TokenStore>).await;
}

#[test]
fn a_file_store_works_without_any_runtime() {
    let dir = scratch();
    let check = conformance::check(|| PlaintextStore::new(dir.path().join("tokens.json")));
    block_on(check);
}
