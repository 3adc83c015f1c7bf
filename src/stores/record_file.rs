//! One record in one file: the common part of the plaintext, age and keychain stores.
//!
//! The lock on `NAME.lease` is the lease of the record `NAME`. While there is no record, `NAME.throttle` is what the
//! holders of the lease were told by a server that asked to wait. Earlier builds wrote an intent to
//! `NAME.intent`, by way of `NAME.intent.tmp`. Such an intent is still read, and the next write removes the
//! file.

mod file_lease;
mod format;
#[cfg(feature = "age")]
mod sealed;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::StoreError;
use crate::private_file::{Exposure, FileLock, LockedFile, Opened, PrivateFile, ReservedRoom};
use crate::record::{MAX_STATE, Record, RefreshState, Throttle, codec};
use crate::store::{Lease, Precondition, Revision, Stored};
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
            use crate::store::{Lease, Precondition, Revision, Stored, TokenStore};

            #[async_trait::async_trait]
            impl TokenStore for $store {
                async fn load(&self) -> Result<Option<Stored>, StoreError> {
                    self.$file.load(Exposure::Refused).await
                }

                async fn save(
                    &self,
                    record: &Record,
                    precondition: Precondition,
                ) -> Result<Revision, StoreError> {
                    self.$file.save(record, precondition).await
                }

                async fn clear(&self, precondition: Precondition) -> Result<(), StoreError> {
                    self.$file.clear(precondition).await
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

/// The content of a slot.
struct Found {
    record: Bytes,
    earlier_intent: Option<Bytes>,
}

/// The endings of the files next to the record.
const LEASE: &str = ".lease";
const THROTTLE: &str = ".throttle";
const EARLIER_INTENT: &str = ".intent";
const EARLIER_INTENT_BEING_WRITTEN: &str = ".intent.tmp";

/// The most bytes of an intent of an earlier build. It has about 130.
const MAX_EARLIER_INTENT: usize = 1024;

#[derive(Debug)]
pub(crate) struct RecordFile<F: Format> {
    inner: Arc<Inner<F>>,
}

#[derive(Debug)]
struct Inner<F: Format> {
    file: Arc<PrivateFile>,
    format: F,
    /// Held by a write until it is finished, even if its future was dropped. Otherwise a dropped login could
    /// undo a later logout. A read waits for this lock, but does not hold it.
    order: Arc<tokio::sync::Mutex<()>>,
    /// The last revision that was read or written here, so it can be read. A save does not decode it again to
    /// know that it may be overwritten.
    sound: Mutex<Option<Revision>>,
    /// The reservation of the holder of the lease, for saving the new tokens.
    reserved: Mutex<Option<Reserved<F::Sealer>>>,
    /// What went wrong in a save that succeeded because of the reservation.
    warning: Mutex<Option<StoreError>>,
}

#[derive(Debug)]
struct Reserved<S> {
    room: ReservedRoom,
    sealer: S,
}

impl<F: Format> RecordFile<F> {
    pub(crate) fn new(path: &std::path::Path, format: F) -> Self {
        let file = Arc::new(PrivateFile::new(path, format.limit()));
        Self {
            inner: Arc::new(Inner {
                file,
                format,
                order: Arc::default(),
                sound: Mutex::default(),
                reserved: Mutex::default(),
                warning: Mutex::default(),
            }),
        }
    }

    /// Trusts all members of a group.
    ///
    /// # Panics
    ///
    /// Panics if the store was used before.
    pub(crate) fn with_trusted_group(mut self, group: Option<u32>) -> Self {
        let inner = Arc::get_mut(&mut self.inner).expect("a store is set up before it is used");
        let file = Arc::get_mut(&mut inner.file).expect("a store is set up before it is used");
        file.trust_group(group);
        self
    }

    #[cfg(feature = "keychain")]
    pub(crate) fn path(&self) -> &std::path::Path {
        self.inner.file.path()
    }

    pub(crate) fn place(&self) -> String {
        self.inner.file.place()
    }

    pub(crate) fn slot(&self) -> String {
        self.inner.file.canonical().display().to_string()
    }

    pub(crate) async fn load(&self, exposure: Exposure) -> Result<Option<Stored>, StoreError> {
        drop(self.inner.order.lock().await);
        self.run(move |inner| {
            let mut found = inner.read(exposure)?;
            loop {
                let Some(Found { record, earlier_intent }) = found else {
                    inner.format.forget_record();
                    return Ok(None);
                };
                let error =
                    match inner.decode(&record, earlier_intent.as_deref().map(Vec::as_slice)) {
                        Ok(stored) => return Ok(Some(stored)),
                        Err(error) => error,
                    };
                // Nothing is locked here. A logout removes the key, and a login after it makes another one.
                // So the record is read again: if it has changed, the error is about an earlier record.
                found = inner.read(exposure)?;
                if found.as_ref().is_some_and(|found| found.record == record) {
                    return Err(error);
                }
            }
        })
        .await
    }

    pub(crate) async fn save(
        &self,
        record: &Record,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        let record = record.clone();
        let turn = self.inner.order.clone().lock_owned().await;
        self.run(move |inner| {
            let _turn = turn;
            // A refresh ends with a save of a record without an intent, over the record with the intent.
            let ends_a_refresh = record.refresh.intent.is_none()
                && matches!(precondition, Precondition::Unchanged(_));
            let reserved = if ends_a_refresh { lock(&inner.reserved).take() } else { None };
            match reserved {
                Some(reserved) => inner.save_reserved(&record, &precondition, reserved),
                None => inner.save(&record, &precondition),
            }
        })
        .await
    }

    pub(crate) async fn clear(&self, precondition: Precondition) -> Result<(), StoreError> {
        let turn = self.inner.order.clone().lock_owned().await;
        self.run(move |inner| {
            let _turn = turn;
            let keeps_a_key = inner.format.keeps_a_key();
            if keeps_a_key && precondition != Precondition::Anything {
                // A migration is repeated if this fails, so the record must stay readable. A logout removes
                // the record in any case.
                inner.format.can_forget()?;
            }
            inner.format.forget_record();
            inner.clear(&precondition, keeps_a_key)
        })
        .await
    }

    pub(crate) async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
        let inner = self.inner.clone();
        self.run(move |_| {
            // If the new tokens could not be sealed, the refresh must not begin.
            inner.format.prepare()?;
            let opened = inner.file.open_to_remove()?;
            let lock = opened.try_lock_beside(LEASE)?;
            if lock.is_some() {
                remove_reserved(&opened);
            }
            drop(opened);
            Ok(lock.map(|lock| Box::new(FileLease::new(inner, lock)) as _))
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner<F>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = self.inner.clone();
        blocking::run(&self.inner.file.place(), move || work(&inner)).await
    }
}

impl<F: Format> Inner<F> {
    fn read(&self, exposure: Exposure) -> Result<Option<Found>, StoreError> {
        let Some(opened) = self.file.open(exposure)? else { return Ok(None) };
        let Some(record) = opened.read()? else { return Ok(None) };
        let earlier_intent = opened.read_beside(EARLIER_INTENT, MAX_EARLIER_INTENT);
        Ok(Some(Found { record, earlier_intent }))
    }

    fn save(&self, record: &Record, precondition: &Precondition) -> Result<Revision, StoreError> {
        self.format.prepare()?;
        let locked = self.file.lock()?;
        let is_first = self.check(&locked, precondition)?;
        let bytes = self.format.encode(record, &self.file.place(), is_first)?;
        locked.replace(&bytes)?;
        Ok(self.saved(&locked, &bytes))
    }

    /// Saves the new tokens of a refresh. They may exist nowhere else, so a key that can no longer be read
    /// must not make this fail.
    fn save_reserved(
        &self,
        record: &Record,
        precondition: &Precondition,
        mut reserved: Reserved<F::Sealer>,
    ) -> Result<Revision, StoreError> {
        let saved = self.fill_reserved(record, precondition, &mut reserved);
        if saved.is_err() && reserved.room.is_usable() {
            *lock(&self.reserved) = Some(reserved);
        }
        let (revision, warning) = saved?;
        *lock(&self.warning) = warning;
        Ok(revision)
    }

    fn fill_reserved(
        &self,
        record: &Record,
        precondition: &Precondition,
        Reserved { room, sealer }: &mut Reserved<F::Sealer>,
    ) -> Result<(Revision, Option<StoreError>), StoreError> {
        let (prepared, place) = (self.format.prepare(), self.file.place());
        let locked = self.file.lock_reserved(room)?;
        let is_first = self.check(&locked, precondition)?;
        let encoded = prepared.and_then(|()| self.format.encode(record, &place, is_first));
        let (mut bytes, mut warning) = match encoded {
            Ok(bytes) => (bytes, None),
            Err(error) => (self.format.encode_reserved(record, &place, sealer)?, Some(error)),
        };
        match locked.replace_with(room, &bytes) {
            Err(error @ StoreError::NoSpace { .. }) => {
                // There may be more recipients now than when room was reserved.
                bytes = self.format.encode_reserved(record, &place, sealer)?;
                locked.replace_with(room, &bytes)?;
                warning = Some(error);
            }
            replaced => replaced?,
        }
        Ok((self.saved(&locked, &bytes), warning))
    }

    fn saved(&self, locked: &LockedFile<'_>, bytes: &[u8]) -> Revision {
        // The record contains the intent and the throttle, if there are any.
        locked.remove_beside(EARLIER_INTENT);
        locked.remove_beside(THROTTLE);
        // It was replaced. What is there now is decoded when it is read.
        self.format.forget_record();
        let revision = Revision::of(bytes);
        self.remember(&revision);
        revision
    }

    /// Empties the slot. With `Anything`, the record is removed without being read.
    fn clear(&self, precondition: &Precondition, keeps_a_key: bool) -> Result<(), StoreError> {
        let beside = [EARLIER_INTENT, EARLIER_INTENT_BEING_WRITTEN, THROTTLE];
        if !keeps_a_key && self.file.is_absent(&beside)? {
            // An empty slot needs no lock. The process that emptied it may have been killed before that was
            // durable.
            self.file.sync_absence()?;
            return self.compare(precondition, None);
        }
        let opened = self.file.open_to_remove()?;
        // Another program's file is not ours to remove, and gets no lock. One that cannot be read may be ours.
        if let Ok(Some(bytes)) = opened.read()
            && let Some(error) = self.format.foreign(&bytes, &self.file.place())
        {
            return Err(error);
        }
        let locked = opened.lock()?;
        if *precondition == Precondition::Anything {
            locked.check_removable()?;
        } else {
            self.compare(precondition, locked.read()?.as_deref().map(Vec::as_slice))?;
        }
        // The reservation of a holder of the lease stays. If nobody holds the lease, the reservation was left
        // behind, and is removed too.
        let lease: Option<FileLock> = locked.try_lock_beside(LEASE).ok().flatten();
        if lease.is_some() {
            remove_reserved(&locked);
        }
        locked.remove()?;
        locked.remove_beside(THROTTLE);
        // The intent is removed last, because a record without it would look as if its token were unspent.
        locked.remove_beside(EARLIER_INTENT);
        // This is also done if there was nothing to remove: see above.
        locked.sync("remove")?;
        if keeps_a_key { self.format.forget() } else { Ok(()) }
    }

    fn reserve(&self) -> Result<(), StoreError> {
        // The reservation of an earlier call would take the room of this one.
        drop(lock(&self.reserved).take());
        let (sealer, size) = self.format.reserve(&self.file.place())?;
        // The intent is saved first, while the present record is still there.
        let room = self.file.reserve(size, MAX_STATE)?;
        *lock(&self.reserved) = Some(Reserved { room, sealer });
        Ok(())
    }

    /// Reads the throttle of the empty slot. The caller has the lease.
    fn throttle(&self) -> Result<Option<Throttle>, StoreError> {
        let opened = self.file.open(Exposure::Refused)?;
        let kept = opened.and_then(|opened| opened.read_beside(THROTTLE, MAX_STATE));
        Ok(kept.and_then(|bytes| codec::decode_state(&bytes).throttle))
    }

    /// Keeps the throttle of the empty slot. The caller has the lease.
    fn keep_throttle(&self, throttle: Throttle) -> Result<(), StoreError> {
        let locked = self.file.lock()?;
        if locked.read()?.is_some() {
            return Ok(());
        }
        let state = RefreshState { throttle: Some(throttle), ..RefreshState::default() };
        locked.write_beside(THROTTLE, &codec::encode_state(&state))
    }

    fn decode(&self, bytes: &[u8], earlier_intent: Option<&[u8]>) -> Result<Stored, StoreError> {
        let revision = Revision::of(bytes);
        let mut record = self.format.decode(bytes, &revision, &self.file.place())?;
        self.remember(&revision);
        if record.refresh.intent.is_none() {
            let left = earlier_intent.and_then(|text| str::from_utf8(text).ok());
            record.refresh.intent = left.and_then(|text| text.parse().ok());
            // An intent to send another token is ignored.
            record.refresh.intent = record.intent().cloned();
        }
        Ok(Stored { record, revision })
    }

    /// Reads the record under the write lock, and fails if it must not be overwritten. Returns whether the
    /// slot is empty.
    fn check(
        &self,
        locked: &LockedFile<'_>,
        precondition: &Precondition,
    ) -> Result<bool, StoreError> {
        let current = locked.read()?;
        let compared = self.compare(precondition, current.as_deref().map(Vec::as_slice));
        if compared.is_err() && current.is_some() {
            // After a conflict, the caller may rely on the record that is there. The process that saved it
            // may have been killed before it was durable.
            locked.sync("write")?;
        }
        compared?;
        if current.is_none() {
            locked.sync_above()?;
        }
        Ok(current.is_none())
    }

    fn compare(
        &self,
        precondition: &Precondition,
        current: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let current = current.map(|bytes| (Revision::of(bytes), bytes));
        if let Some((revision, bytes)) = &current {
            // A record that cannot be read is not overwritten.
            let sound = lock(&self.sound).clone();
            if sound.as_ref() != Some(revision) {
                self.format.decode(bytes, revision, &self.file.place())?;
            }
        }
        let is_as_expected = match (current, precondition) {
            (Some((current, _)), Precondition::Unchanged(revision)) => current == *revision,
            (Some(_), Precondition::Anything)
            | (None, Precondition::Absent | Precondition::Anything) => true,
            (Some(_), Precondition::Absent) | (None, Precondition::Unchanged(_)) => false,
        };
        if is_as_expected { Ok(()) } else { Err(StoreError::Conflict { place: self.file.place() }) }
    }

    fn remember(&self, revision: &Revision) {
        *lock(&self.sound) = Some(revision.clone());
    }
}

/// Removes the files that killed holders of the lease left behind. The caller has the lease, so no other
/// process uses them.
fn remove_reserved(opened: &Opened<'_>) {
    opened.remove_reserved();
    opened.remove_beside(EARLIER_INTENT_BEING_WRITTEN);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::codec;
    use crate::tokens::AuthTokens;

    /// A format that simulates a logout, and maybe a login, after the record was read and before its key is.
    #[derive(Debug)]
    struct Interrupted {
        path: std::path::PathBuf,
        /// The content of the slot afterwards.
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

        fn decode(&self, bytes: &[u8], _: &Revision, place: &str) -> Result<Record, StoreError> {
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
    async fn a_logout_that_removes_the_key_during_a_load_is_not_a_missing_key() {
        let mut private = tempfile::Builder::new();
        #[cfg(unix)]
        private.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let dir = private.prefix("tokenkeep").tempdir().unwrap();
        for login in [None, Some(AuthTokens::new("the next login's"))] {
            let path = dir.path().join("tokens.json");
            let format = Interrupted { path: path.clone(), login: Mutex::new(None) };
            let file = RecordFile::new(&path, format);
            file.save(&AuthTokens::new("the first login's").into(), Precondition::Anything)
                .await
                .unwrap();
            *file.inner.format.login.lock().unwrap() = Some(login.clone());
            let loaded = file.load(Exposure::Refused).await.unwrap();
            assert_eq!(loaded.map(|stored| stored.record.tokens), login);
        }
    }
}
