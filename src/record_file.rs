//! One record in one file: what the plaintext, age and keychain stores have in common.

use std::sync::{Arc, Mutex, PoisonError};

use crate::blocking;
use crate::error::StoreError;
use crate::file::{Content, Exposure, FileSlot};
use crate::format::Format;
use crate::store::{Expect, Lease, Revision, Stored};
use crate::tokens::AuthTokens;

/// Implements [`TokenStore`](crate::TokenStore) for a store that has its [`RecordFile`] in a field.
macro_rules! keep_in_record_file {
    ($store:ty, $file:tt) => {
        const _: () = {
            use crate::error::StoreError;
            use crate::file::Exposure;
            use crate::store::{Expect, Lease, Revision, Stored, TokenStore};
            use crate::tokens::AuthTokens;

            #[async_trait::async_trait]
            impl TokenStore for $store {
                async fn load(&self) -> Result<Option<Stored>, StoreError> {
                    self.$file.load(Exposure::Refused).await
                }

                async fn save(
                    &self,
                    tokens: &AuthTokens,
                    expect: Expect,
                ) -> Result<Revision, StoreError> {
                    self.$file.save(tokens, expect).await
                }

                async fn clear(&self, expect: Expect) -> Result<(), StoreError> {
                    self.$file.clear(expect).await
                }

                async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
                    self.$file.try_lease().await
                }

                async fn load_exposed(&self) -> Result<Option<Stored>, StoreError> {
                    self.$file.load(Exposure::Accepted).await
                }

                fn slot(&self) -> String {
                    self.$file.slot()
                }
            }
        };
    };
}

pub(crate) use keep_in_record_file;

#[derive(Debug)]
pub(crate) struct RecordFile<F> {
    inner: Arc<Inner<F>>,
}

#[derive(Debug)]
struct Inner<F> {
    slot: Arc<FileSlot>,
    format: F,
    /// Held by a write until it is over, even if its caller gave up: otherwise a logout could be
    /// overtaken by the login that was abandoned before it. A read waits for it, and does not
    /// hold it.
    order: Arc<tokio::sync::Mutex<()>>,
    /// The last revision that was read or written here, and so is known to be sound: an
    /// unconditional save need not decode it again to know that it may be overwritten.
    sound: Mutex<Option<Revision>>,
}

impl<F: Format> RecordFile<F> {
    pub(crate) fn new(path: &std::path::Path, format: F) -> Self {
        let slot = Arc::new(FileSlot::new(path, format.limit()));
        Self {
            inner: Arc::new(Inner { slot, format, order: Arc::default(), sound: Mutex::default() }),
        }
    }

    #[cfg(feature = "keychain")]
    pub(crate) fn path(&self) -> &std::path::Path {
        self.inner.slot.path()
    }

    pub(crate) fn place(&self) -> String {
        self.inner.slot.place()
    }

    pub(crate) fn slot(&self) -> String {
        self.inner.slot.canonical().display().to_string()
    }

    pub(crate) async fn load(&self, exposure: Exposure) -> Result<Option<Stored>, StoreError> {
        drop(self.inner.order.lock().await);
        self.run(move |inner| {
            let Some(content) = inner.slot.read(exposure)? else { return Ok(None) };
            inner.decode(content).map(Some)
        })
        .await
    }

    pub(crate) async fn save(
        &self,
        tokens: &AuthTokens,
        expect: Expect,
    ) -> Result<Revision, StoreError> {
        let tokens = tokens.clone();
        let turn = self.inner.order.clone().lock_owned().await;
        self.run(move |inner| {
            let _turn = turn;
            inner.format.prepare()?;
            let place = inner.slot.place();
            let revision = inner.slot.replace(
                &expect,
                |current| inner.inspect(current),
                |first| inner.format.encode(&tokens, &place, first),
            )?;
            inner.remember(&revision);
            Ok(revision)
        })
        .await
    }

    pub(crate) async fn clear(&self, expect: Expect) -> Result<(), StoreError> {
        let turn = self.inner.order.clone().lock_owned().await;
        self.run(move |inner| {
            let _turn = turn;
            let keeps_a_key = inner.format.keeps_a_key();
            if keeps_a_key && expect != Expect::Anything {
                // Who moves tokens away comes back if this fails, and must find them as they were. A
                // logout takes the record away in any case.
                inner.format.can_forget()?;
            }
            let forget = keeps_a_key.then_some(|| inner.format.forget());
            inner.slot.remove(&expect, |current| inner.inspect(current), forget)
        })
        .await
    }

    pub(crate) async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
        self.run(|inner| inner.slot.try_lease()).await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner<F>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = self.inner.clone();
        blocking::run(&self.inner.slot.place(), move || work(&inner)).await
    }
}

impl<F: Format> Inner<F> {
    fn decode(&self, content: Content) -> Result<Stored, StoreError> {
        let tokens = self.format.decode(&content.bytes, &self.slot.place())?;
        self.remember(&content.revision);
        Ok(Stored { tokens, revision: content.revision })
    }

    /// Refuses what cannot be read, so that it is not overwritten.
    fn inspect(&self, content: &Content) -> Result<(), StoreError> {
        let sound = self.sound.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if sound.as_ref() == Some(&content.revision) {
            return Ok(());
        }
        self.format.decode(&content.bytes, &self.slot.place()).map(drop)
    }

    fn remember(&self, revision: &Revision) {
        *self.sound.lock().unwrap_or_else(PoisonError::into_inner) = Some(revision.clone());
    }
}
