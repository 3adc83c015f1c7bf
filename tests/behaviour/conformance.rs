//! Every store keeps the contract. The keychain store's run is in `keychain`.

use std::sync::Arc;

use tokenkeep::{AgeFileStore, AgeKey, MemoryStore, PlaintextStore, TokenStore, conformance};

use crate::support::scratch;

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
async fn a_store_conforms_behind_a_trait_object_too() {
    let dir = scratch();
    conformance::check(|| {
        Arc::new(PlaintextStore::new(dir.path().join("tokens.json"))) as Arc<dyn TokenStore>
    })
    .await;
}

#[tokio::test]
async fn a_store_conforms_in_a_box_too() {
    let slot = MemoryStore::new();
    conformance::check(|| Box::new(slot.clone()) as Box<dyn TokenStore>).await;
}

#[test]
fn a_file_store_works_without_any_runtime() {
    let dir = scratch();
    let check = conformance::check(|| PlaintextStore::new(dir.path().join("tokens.json")));
    block_on(check);
}

/// The smallest executor there is; it knows nothing of tokio.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    use std::task::{Context, Poll, Wake, Waker};

    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park();
    }
}
