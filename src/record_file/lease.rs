use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::{Inner, lock};
use crate::blocking;
use crate::error::StoreError;
use crate::file::Locked;
use crate::format::Format;
use crate::store::Lease;

/// A lock on the slot's lease file. It lasts until it is given up, or the process ends.
pub(super) struct FileLease<F: Format> {
    inner: Arc<Inner<F>>,
    /// Held by whatever a dropped future left running, too: the lease is not given up before that
    /// is over.
    held: Arc<Held<F>>,
    order: Arc<Mutex<()>>,
}

struct Held<F: Format> {
    inner: Arc<Inner<F>>,
    lock: Locked,
    /// From then on, what is reserved is the next holder's.
    is_released: AtomicBool,
}

impl<F: Format> FileLease<F> {
    pub(super) fn new(inner: Arc<Inner<F>>, lock: Locked) -> Self {
        let held =
            Arc::new(Held { inner: inner.clone(), lock, is_released: AtomicBool::new(false) });
        Self { inner, held, order: Arc::default() }
    }
}

impl<F: Format> Drop for Held<F> {
    fn drop(&mut self) {
        // First what exists only under the lock.
        self.give_up();
    }
}

impl<F: Format> Held<F> {
    fn give_up(&self) {
        if !self.is_released.swap(true, Ordering::SeqCst) {
            drop(lock(&self.inner.reserved).take());
            lock(&self.inner.warning).take();
        }
    }
}

impl<F: Format> fmt::Debug for FileLease<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileLease({})", self.inner.slot.path().display())
    }
}

#[async_trait]
impl<F: Format> Lease for FileLease<F> {
    async fn reserve(&mut self) -> Result<(), StoreError> {
        let (inner, held) = (self.inner.clone(), self.held.clone());
        let turn = self.order.clone().lock_owned().await;
        blocking::run(&self.inner.slot.place(), move || {
            let _held = (held, turn);
            inner.reserve()
        })
        .await
    }

    fn take_warning(&mut self) -> Option<StoreError> {
        lock(&self.inner.warning).take()
    }

    async fn release(self: Box<Self>) -> Result<(), StoreError> {
        let _turn = self.order.lock().await;
        self.held.give_up();
        self.held
            .lock
            .unlock()
            .map_err(|error| StoreError::io("unlock", self.inner.slot.place(), error))
    }
}
