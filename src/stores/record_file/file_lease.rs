use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::{Format, Inner, lock};
use crate::error::StoreError;
use crate::private_file::FileLock;
use crate::record::Throttle;
use crate::store::Lease;
use crate::sys::blocking;

/// A lock on the slot's lease file. It lasts until it is given up, or the process ends.
pub(super) struct FileLease<F: Format> {
    inner: Arc<Inner<F>>,
    /// Also held by work that a dropped future left running. The lease is not given up before that work is
    /// finished.
    held: Arc<Held<F>>,
    order: Arc<Mutex<()>>,
}

struct Held<F: Format> {
    inner: Arc<Inner<F>>,
    lock: FileLock,
    /// After the release, a reservation belongs to the next holder.
    is_released: AtomicBool,
}

impl<F: Format> FileLease<F> {
    pub(super) fn new(inner: Arc<Inner<F>>, lock: FileLock) -> Self {
        let held =
            Arc::new(Held { inner: inner.clone(), lock, is_released: AtomicBool::new(false) });
        Self { inner, held, order: Arc::default() }
    }
}

impl<F: Format> FileLease<F> {
    /// Runs work that is finished before the lease is given up, even if its future is dropped.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner<F>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (inner, held) = (self.inner.clone(), self.held.clone());
        let turn = self.order.clone().lock_owned().await;
        blocking::run(&self.inner.file.place(), move || {
            let _held = (held, turn);
            work(&inner)
        })
        .await
    }
}

impl<F: Format> Drop for Held<F> {
    fn drop(&mut self) {
        // The reservation is dropped before the lock, because it may exist only under the lock.
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
        write!(f, "FileLease({})", self.inner.file.path().display())
    }
}

#[async_trait]
impl<F: Format> Lease for FileLease<F> {
    async fn reserve(&mut self) -> Result<(), StoreError> {
        self.run(|inner| inner.reserve()).await
    }

    async fn throttle(&mut self) -> Option<Throttle> {
        self.run(|inner| inner.throttle()).await.ok()?
    }

    async fn keep_throttle(&mut self, throttle: &Throttle) -> Result<(), StoreError> {
        let throttle = throttle.clone();
        // A dropped login must not be undone.
        let write = self.inner.order.clone().lock_owned().await;
        self.run(move |inner| {
            let _write = write;
            inner.keep_throttle(throttle)
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
            .map_err(|error| StoreError::io("unlock", self.inner.file.place(), error))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::task::{Context, Waker};

    use super::super::RecordFile;
    use super::*;
    use crate::record::codec;
    use crate::record::{MAX_STORED, Record};
    use crate::store::{Precondition, Revision};
    use crate::sys::wipe::Bytes;
    use crate::tokens::AuthTokens;

    /// A format whose `reserve` waits for the test.
    #[derive(Debug)]
    struct Slow {
        begun: Sender<()>,
        goes_on: Mutex<Receiver<()>>,
    }

    impl Format for Slow {
        type Sealer = ();

        fn reserve(&self, _: &str) -> Result<((), usize), StoreError> {
            self.begun.send(()).unwrap();
            self.goes_on.lock().unwrap().recv().unwrap();
            Ok(((), MAX_STORED))
        }

        fn encode(&self, record: &Record, place: &str, _: bool) -> Result<Bytes, StoreError> {
            codec::encode(record, place)
        }

        fn encode_reserved(
            &self,
            record: &Record,
            place: &str,
            (): &(),
        ) -> Result<Bytes, StoreError> {
            codec::encode(record, place)
        }

        fn decode(&self, bytes: &[u8], _: &Revision, place: &str) -> Result<Record, StoreError> {
            codec::decode(bytes, place)
        }

        fn limit(&self) -> usize {
            MAX_STORED
        }
    }

    #[tokio::test]
    async fn a_dropped_call_keeps_the_lease_until_its_work_has_ended() {
        let mut private = tempfile::Builder::new();
        #[cfg(unix)]
        private.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let dir = private.prefix("tokenkeep").tempdir().unwrap();
        let ((begun, has_begun), (go_on, goes_on)) = (channel(), channel());
        let format = Slow { begun, goes_on: Mutex::new(goes_on) };
        let file = RecordFile::new(&dir.path().join("tokens.json"), format);
        file.save(&AuthTokens::new("a").into(), Precondition::Absent).await.unwrap();
        let mut lease = file.try_lease().await.unwrap().unwrap();
        let mut reserve = lease.reserve();
        assert!(reserve.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        has_begun.recv().unwrap();
        drop(reserve);
        drop(lease);
        assert!(file.try_lease().await.unwrap().is_none(), "it is still at work");
        go_on.send(()).unwrap();
        let next = loop {
            if let Some(next) = file.try_lease().await.unwrap() {
                break next;
            }
            tokio::task::yield_now().await;
        };
        // Its reservation was removed too.
        let names = std::fs::read_dir(dir.path()).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 3, "the record and the two locks: {names:?}");
        next.release().await.unwrap();
    }
}
