//! Every store keeps the contract.

#![cfg(feature = "conformance")]
use tokenkeep::{AgeFileStore, AgeKey, MemoryStore, PlaintextStore, conformance};

#[tokio::test]
async fn memory() {
    let slot = MemoryStore::new();
    conformance::check(|| slot.clone()).await;
}
#[tokio::test(flavor = "multi_thread")]
async fn plaintext() {
    let dir = tempfile::tempdir().unwrap();
    conformance::check(|| PlaintextStore::new(dir.path().join("new/tokens.json"))).await;
}
#[tokio::test(flavor = "multi_thread")]
async fn age() {
    let dir = tempfile::tempdir().unwrap();
    let key = AgeKey::create_identity_file(dir.path().join("keys/key.txt")).await.unwrap();
    conformance::check(|| AgeFileStore::new(dir.path().join("new/tokens.age"), key.clone())).await;
}
