//! One record in one file: what the plaintext, age and keychain stores have in common.

mod file_lease;
mod format;
#[cfg(feature = "age")]
mod sealed;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::StoreError;
use crate::private_file::{Content, Exposure, FileSlot, Successor};
use crate::record::Record;
use crate::store::{Expect, Lease, Revision, Stored};
use crate::sys::blocking;
use crate::sys::wipe::Bytes;

use self::file_lease::FileLease;
pub(crate) use self::format::{Format, Plain};
#[cfg(feature = "age")]
pub(crate) use self::sealed::Sealed;

/// Implements [`TokenStore`](crate::TokenStore) for a store that has its [`RecordFile`] in a field.
macro_rules! keep_in_record_file {
    ($store:ty, $file:tt) => {
        const _: () = {
            use crate::error::StoreError;
            use crate::private_file::Exposure;
            use crate::record::Record;
            use crate::store::{Expect, Lease, Revision, Stored, TokenStore};

            #[async_trait::async_trait]
            impl TokenStore for $store {
                async fn load(&self) -> Result<Option<Stored>, StoreError> {
                    self.$file.load(Exposure::Refused).await
                }

                async fn save(
                    &self,
                    record: &Record,
                    expect: Expect,
                ) -> Result<Revision, StoreError> {
                    self.$file.save(record, expect).await
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
pub(crate) struct RecordFile<F: Format> {
    inner: Arc<Inner<F>>,
}

#[derive(Debug)]
struct Inner<F: Format> {
    slot: Arc<FileSlot>,
    format: F,
    /// Held by a write until it is over, even if its caller gave up: otherwise a logout could be
    /// overtaken by the login that was abandoned before it. A read waits for it, and does not
    /// hold it.
    order: Arc<tokio::sync::Mutex<()>>,
    /// The last revision that was read or written here, and so is known to be sound: an
    /// unconditional save need not decode it again to know that it may be overwritten.
    sound: Mutex<Option<Revision>>,
    /// What the holder of the lease reserved for the record that its refresh ends with.
    reserved: Mutex<Option<Reserved<F::Sealer>>>,
    /// What went wrong in a save that used it.
    warning: Mutex<Option<StoreError>>,
}

#[derive(Debug)]
struct Reserved<S> {
    successor: Successor,
    sealer: S,
}

impl<F: Format> RecordFile<F> {
    pub(crate) fn new(path: &std::path::Path, format: F) -> Self {
        let slot = Arc::new(FileSlot::new(path, format.limit()));
        Self {
            inner: Arc::new(Inner {
                slot,
                format,
                order: Arc::default(),
                sound: Mutex::default(),
                reserved: Mutex::default(),
                warning: Mutex::default(),
            }),
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
            let mut found = inner.slot.read(exposure)?;
            loop {
                let Some(content) = found else { return Ok(None) };
                let revision = content.revision.clone();
                let error = match inner.decode(content) {
                    Ok(stored) => return Ok(Some(stored)),
                    Err(error) => error,
                };
                // Nothing is locked here. A logout takes the key along, and a login after it makes
                // another one: then this says nothing about what is there now.
                found = inner.slot.read(exposure)?;
                if found.as_ref().is_some_and(|found| found.revision == revision) {
                    return Err(error);
                }
            }
        })
        .await
    }

    pub(crate) async fn save(
        &self,
        record: &Record,
        expect: Expect,
    ) -> Result<Revision, StoreError> {
        let record = record.clone();
        let turn = self.inner.order.clone().lock_owned().await;
        self.run(move |inner| {
            let _turn = turn;
            // A refresh ends with a record that has no intent, over the one that has it.
            let ends_a_refresh =
                record.refresh.intent.is_none() && matches!(expect, Expect::Unchanged(_));
            let reserved = if ends_a_refresh { lock(&inner.reserved).take() } else { None };
            match reserved {
                Some(reserved) => inner.save_reserved(&record, &expect, reserved),
                None => inner.save(&record, &expect),
            }
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
        let inner = self.inner.clone();
        self.run(move |_| {
            // What could not be sealed afterwards is better not begun.
            inner.format.prepare()?;
            let locked = inner.slot.try_lease()?;
            Ok(locked.map(|locked| Box::new(FileLease::new(inner, locked)) as _))
        })
        .await
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
    fn save(&self, record: &Record, expect: &Expect) -> Result<Revision, StoreError> {
        self.format.prepare()?;
        let place = self.slot.place();
        let revision = self.slot.replace(
            expect,
            None,
            |current| self.inspect(current),
            |first| self.format.encode(record, &place, first),
        )?;
        self.remember(&revision);
        Ok(revision)
    }

    /// Saves the record that ends a refresh. Its tokens may exist nowhere else: a key that cannot be read
    /// any more must not cost them.
    fn save_reserved(
        &self,
        record: &Record,
        expect: &Expect,
        mut reserved: Reserved<F::Sealer>,
    ) -> Result<Revision, StoreError> {
        let (prepared, mut warning) = (self.format.prepare(), None);
        let mut saved = self.replace_reserved(expect, &mut reserved, |place, first, sealer| {
            let encoded = prepared.and_then(|()| self.format.encode(record, place, first));
            encoded.or_else(|error| {
                let encoded = self.format.encode_reserved(record, place, sealer)?;
                warning = Some(error);
                Ok(encoded)
            })
        });
        if let Err(error @ StoreError::NoSpace { .. }) = &saved {
            // There may be more recipients by now than when room was reserved.
            warning = Some(error.clone());
            saved = self.replace_reserved(expect, &mut reserved, |place, _, sealer| {
                self.format.encode_reserved(record, place, sealer)
            });
        }
        match &saved {
            Ok(revision) => {
                self.remember(revision);
                *lock(&self.warning) = warning;
            }
            Err(_) if reserved.successor.is_usable() => *lock(&self.reserved) = Some(reserved),
            Err(_) => {}
        }
        saved
    }

    fn replace_reserved(
        &self,
        expect: &Expect,
        reserved: &mut Reserved<F::Sealer>,
        encode: impl FnOnce(&str, bool, &F::Sealer) -> Result<Bytes, StoreError>,
    ) -> Result<Revision, StoreError> {
        let (place, Reserved { successor, sealer }) = (self.slot.place(), reserved);
        self.slot.replace(
            expect,
            Some(successor),
            |current| self.inspect(current),
            |first| encode(&place, first, sealer),
        )
    }

    fn reserve(&self) -> Result<(), StoreError> {
        // What an earlier call reserved would take the room of this one.
        drop(lock(&self.reserved).take());
        let (sealer, size) = self.format.reserve(&self.slot.place())?;
        let successor = self.slot.reserve(size)?;
        *lock(&self.reserved) = Some(Reserved { successor, sealer });
        Ok(())
    }

    fn decode(&self, content: Content) -> Result<Stored, StoreError> {
        let mut record = self.format.decode(&content.bytes, &self.slot.place())?;
        self.remember(&content.revision);
        if record.refresh.intent.is_none() {
            let left = content.intent.as_ref().and_then(|text| str::from_utf8(text).ok());
            record.refresh.intent = left.and_then(|text| text.parse().ok());
            // One about another token says nothing.
            record.refresh.intent = record.intent().cloned();
        }
        Ok(Stored { record, revision: content.revision })
    }

    /// Refuses what cannot be read, so that it is not overwritten.
    fn inspect(&self, content: &Content) -> Result<(), StoreError> {
        let sound = lock(&self.sound).clone();
        if sound.as_ref() == Some(&content.revision) {
            return Ok(());
        }
        self.format.decode(&content.bytes, &self.slot.place()).map(drop)
    }

    fn remember(&self, revision: &Revision) {
        *lock(&self.sound) = Some(revision.clone());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::codec;
    use crate::tokens::AuthTokens;

    /// A format in which somebody signs out, and maybe in again, between a look at the record and one
    /// at its key.
    #[derive(Debug)]
    struct Interrupted {
        path: std::path::PathBuf,
        /// What is in the slot afterwards.
        login: Mutex<Option<Option<AuthTokens>>>,
    }

    impl Format for Interrupted {
        type Sealer = ();

        fn reserve(&self, _: &str) -> Result<((), usize), StoreError> {
            Ok(((), self.limit()))
        }

        fn encode(&self, record: &Record, place: &str, _: bool) -> Result<Bytes, StoreError> {
            codec::encode(record, place)
        }

        fn encode_reserved(&self, _: &Record, _: &str, (): &()) -> Result<Bytes, StoreError> {
            unreachable!("nothing is reserved here")
        }

        fn decode(&self, bytes: &[u8], place: &str) -> Result<Record, StoreError> {
            let Some(login) = self.login.lock().unwrap().take() else {
                return codec::decode(bytes, place);
            };
            match login {
                Some(tokens) => {
                    std::fs::write(&self.path, &*codec::encode(&Record::new(tokens), place)?)
                }
                None => std::fs::remove_file(&self.path),
            }
            .unwrap();
            let (reason, advice) = ("it was taken along".into(), "none".into());
            Err(StoreError::KeyMissing { place: place.to_owned(), reason, advice })
        }

        fn limit(&self) -> usize {
            crate::record::MAX_RECORD
        }
    }

    #[tokio::test]
    async fn a_logout_that_takes_the_key_along_while_somebody_reads_is_no_missing_key() {
        let mut private = tempfile::Builder::new();
        #[cfg(unix)]
        private.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let dir = private.prefix("tokenkeep").tempdir().unwrap();
        for login in [None, Some(AuthTokens::new("the next login's"))] {
            let path = dir.path().join("tokens.json");
            let format = Interrupted { path: path.clone(), login: Mutex::new(None) };
            let file = RecordFile::new(&path, format);
            file.save(&AuthTokens::new("the first login's").into(), Expect::Anything)
                .await
                .unwrap();
            *file.inner.format.login.lock().unwrap() = Some(login.clone());
            let loaded = file.load(Exposure::Refused).await.unwrap();
            assert_eq!(loaded.map(|stored| stored.record.tokens), login);
        }
    }
}
