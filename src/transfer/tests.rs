//! Transfers in situations that are hard to produce with two real stores.

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::*;
use crate::record::Record;
use crate::stores::MemoryStore;

#[tokio::test]
async fn a_copy_of_an_interrupted_migration_is_saved_again_to_make_it_durable() {
    let (from, to) = (MemoryStore::new(), MemoryStore::new());
    let tokens = AuthTokens::new("mine");
    from.save(&tokens.clone().into(), Precondition::Absent).await.unwrap();
    let left = to.save(&tokens.clone().into(), Precondition::Absent).await.unwrap();
    assert!(migrate(&from, &to).await.unwrap().moved);
    let moved = to.load().await.unwrap().unwrap();
    assert_eq!(moved.record.tokens, tokens);
    assert_ne!(moved.revision, left);
}

#[tokio::test]
async fn a_transfer_waits_for_a_refresh_until_its_deadline() {
    let store = MemoryStore::new();
    let held = store.try_lease().await.unwrap().unwrap();
    // Time passes each time the other tasks run.
    let timer = Timer::new(|_| tokio::task::yield_now());
    let busy = lease(&store, &timer).await;
    assert!(matches!(busy, Err(TransferError::Busy { .. })));
    let (lease, _) = tokio::join!(lease(&store, &timer), held.release());
    lease.unwrap();
}

/// The holder of a lease, and when its lease ends.
type Hold = Arc<Mutex<Option<(&'static str, Duration)>>>;

/// One of several stores for a slot with a lease that expires.
#[derive(Clone, Debug)]
struct Way {
    name: &'static str,
    slot: MemoryStore,
    hold: Hold,
    now: Arc<Mutex<Duration>>,
    /// A lease that another holder takes during a write to this store.
    slows_down: Option<Hold>,
}

const SOMEBODY: (&str, Duration) = ("somebody", Duration::MAX);

impl Way {
    const LEASE: Duration = Duration::from_secs(30);

    fn new(name: &'static str) -> Self {
        let (slot, hold, now) = (MemoryStore::new(), Arc::default(), Arc::default());
        Self { name, slot, hold, now, slows_down: None }
    }

    /// Returns a timer: time passes when a task waits.
    fn timer(&self) -> Timer {
        let now = self.now.clone();
        Timer::new(move |time| {
            *now.lock().unwrap() += time;
            std::future::ready(())
        })
    }

    fn now(&self) -> Duration {
        *self.now.lock().unwrap()
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[async_trait]
impl TokenStore for Way {
    async fn load(&self) -> Result<Option<Stored>, StoreError> {
        self.slot.load().await
    }

    async fn save(
        &self,
        record: &Record,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        if let Some(hold) = &self.slows_down {
            *hold.lock().unwrap() = Some(SOMEBODY);
        }
        self.slot.save(record, precondition).await
    }

    async fn clear(&self, precondition: Precondition) -> Result<(), StoreError> {
        self.slot.clear(precondition).await
    }

    async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
        let mut hold = self.hold.lock().unwrap();
        if hold.is_some_and(|(_, until)| until > self.now()) {
            return Ok(None);
        }
        *hold = Some((self.name, self.now() + Self::LEASE));
        Ok(Some(Box::new(self.clone())))
    }
}

#[async_trait]
impl Lease for Way {
    async fn renew(&mut self, time: Duration) -> Result<bool, StoreError> {
        let mut hold = self.hold.lock().unwrap();
        let Some((name, until)) = hold.as_mut().filter(|(name, _)| *name == self.name) else {
            return Ok(false);
        };
        assert!(*until > self.now(), "{name} kept its lease after its end");
        *until = (*until).max(self.now() + time);
        Ok(true)
    }

    async fn release(self: Box<Self>) -> Result<(), StoreError> {
        self.hold.lock().unwrap().take_if(|(name, _)| *name == self.name);
        Ok(())
    }
}

#[tokio::test]
async fn a_migration_from_a_slot_to_itself_through_another_url_is_refused() {
    let one = Way::new("one");
    let tokens = AuthTokens::new("mine");
    let saved = one.save(&tokens.clone().into(), Precondition::Absent).await.unwrap();
    for name in ["another", "way"] {
        let other = Way { name, ..one.clone() };
        assert_ne!(one.slot(), other.slot());
        let busy = migrate_by(&one, &other, &one.timer()).await.unwrap_err();
        assert!(matches!(busy, TransferError::Busy { .. }), "{busy}");
        assert_eq!(one.load().await.unwrap().unwrap().revision, saved);
        assert_eq!(*one.hold.lock().unwrap(), None, "the lease was released");
    }
}

#[tokio::test]
async fn a_migration_is_undone_if_another_holder_takes_the_lease_of_the_source() {
    let (from, mut to) = (Way::new("a"), Way::new("b"));
    to.slows_down = Some(from.hold.clone());
    let tokens = AuthTokens::new("mine");
    let saved = from.save(&tokens.clone().into(), Precondition::Absent).await.unwrap();
    let busy = migrate(&from, &to).await.unwrap_err();
    assert!(matches!(&busy, TransferError::Busy { place } if place == "a"), "{busy}");
    assert!(to.load().await.unwrap().is_none());
    assert_eq!(from.load().await.unwrap().unwrap().revision, saved);
    // Without these obstacles the tokens are moved.
    (*from.hold.lock().unwrap(), to.slows_down) = (None, None);
    assert!(migrate(&from, &to).await.unwrap().moved);
    assert_eq!(to.load().await.unwrap().unwrap().record.tokens, tokens);
}

#[tokio::test]
async fn a_migration_that_moves_nothing_releases_both_leases() {
    let (from, to) = (Way::new("a"), Way::new("b"));
    let is_free = |way: &Way| way.hold.lock().unwrap().is_none();
    assert!(matches!(migrate(&from, &to).await, Err(TransferError::Empty { .. })));
    assert!(is_free(&from) && is_free(&to));
    from.save(&AuthTokens::new("mine").into(), Precondition::Absent).await.unwrap();
    to.save(&AuthTokens::new("others").into(), Precondition::Absent).await.unwrap();
    assert!(matches!(migrate(&from, &to).await, Err(TransferError::Occupied { .. })));
    assert!(is_free(&from) && is_free(&to));
    *to.hold.lock().unwrap() = Some(SOMEBODY);
    let busy = migrate_by(&from, &to, &to.timer()).await;
    assert!(matches!(busy, Err(TransferError::Busy { .. })));
    assert!(is_free(&from));
}

#[tokio::test]
async fn a_migration_moves_nothing_if_its_first_lease_ends_while_it_waits_for_the_second() {
    let (from, to) = (Way::new("a"), Way::new("b"));
    let tokens = AuthTokens::new("mine");
    from.save(&tokens.clone().into(), Precondition::Absent).await.unwrap();
    *to.hold.lock().unwrap() = Some(SOMEBODY);
    // This process is stopped during its wait, and another process refreshes meanwhile.
    let (hold, free) = (from.hold.clone(), to.hold.clone());
    let timer = Timer::new(move |_| {
        *hold.lock().unwrap() = Some(SOMEBODY);
        *free.lock().unwrap() = None;
        std::future::ready(())
    });
    let busy = migrate_by(&from, &to, &timer).await.unwrap_err();
    assert!(matches!(&busy, TransferError::Busy { place } if place == "a"), "{busy}");
    assert_eq!(from.load().await.unwrap().unwrap().record.tokens, tokens);
    assert!(to.load().await.unwrap().is_none());
}

#[cfg(feature = "age")]
mod rekeying {
    use std::future::{pending, ready};
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::key::AgeKey;
    use crate::stores::AgeFileStore;

    type Done = Result<(), TransferError>;

    /// An age file, and two keys.
    struct Sealed {
        _directory: tempfile::TempDir,
        path: PathBuf,
        recipients: [String; 2],
    }

    impl Sealed {
        async fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            // The directory below is created private. The temporary directory may not be private under a lax
            // umask.
            let private = directory.path().join("private");
            let mut recipients = [const { String::new() }; 2];
            for (number, recipient) in recipients.iter_mut().enumerate() {
                let key = AgeKey::create_identity_file(Self::key(&private, number)).await.unwrap();
                recipient.clone_from(&key.recipients().await.unwrap()[0]);
            }
            let sealed = Self { _directory: directory, path: private.join("record"), recipients };
            sealed.save(&sealed.by(0), "mine").await;
            sealed
        }

        fn key(directory: &Path, number: usize) -> PathBuf {
            directory.join(format!("key-{number}.txt"))
        }

        /// Returns a store for the record with one key.
        fn by(&self, number: usize) -> AgeFileStore {
            let directory = self.path.parent().unwrap();
            AgeFileStore::new(&self.path, AgeKey::identity_file(Self::key(directory, number)))
        }

        /// Returns a store that opens the record with the first key and seals it to both.
        fn by_both(&self) -> AgeFileStore {
            let key = AgeKey::identity_file(Self::key(self.path.parent().unwrap(), 0));
            let key = key.with_recovery_recipient(&self.recipients[1]).unwrap();
            AgeFileStore::new(&self.path, key)
        }

        async fn save(&self, store: &AgeFileStore, token: &str) {
            store.save(&AuthTokens::new(token).into(), Precondition::Anything).await.unwrap();
        }

        async fn rekey(&self, repoint: impl Future<Output = Done>) -> Done {
            let (old, both, new) = (self.by(0), self.by_both(), self.by(1));
            let mut lease = wait_for_lease(&new).await?;
            let done = rekey(&mut *lease, &old, &both, &new, repoint).await;
            lease.release().await?;
            done
        }

        /// Returns the tokens if that key opens the record.
        async fn opened_by(&self, number: usize) -> Option<AuthTokens> {
            let loaded = self.by(number).load().await;
            assert!(matches!(loaded, Ok(Some(_)) | Err(StoreError::Undecryptable { .. })));
            loaded.ok().flatten().map(|stored| stored.record.tokens)
        }
    }

    #[tokio::test]
    async fn both_keys_open_a_record_during_a_rekey_and_only_the_new_one_afterwards() {
        let sealed = Sealed::new().await;
        let mine = Some(AuthTokens::new("mine"));
        assert_eq!((sealed.opened_by(0).await, sealed.opened_by(1).await), (mine.clone(), None));
        let repoint = async {
            assert_eq!(sealed.opened_by(0).await, mine);
            assert_eq!(sealed.opened_by(1).await, mine);
            Ok(())
        };
        sealed.rekey(repoint).await.unwrap();
        assert_eq!((sealed.opened_by(0).await, sealed.opened_by(1).await), (None, mine));
    }

    #[tokio::test]
    async fn a_killed_rekey_is_completed_by_the_next_one_and_can_be_repeated() {
        let sealed = Sealed::new().await;
        tokio::select! {
            biased;
            _ = sealed.rekey(pending()) => unreachable!("it was never repointed"),
            () = async { while sealed.opened_by(1).await.is_none() {} } => {}
        }
        assert!(sealed.opened_by(0).await.is_some());
        sealed.rekey(ready(Ok(()))).await.unwrap();
        assert!(sealed.opened_by(0).await.is_none());
        sealed.rekey(ready(Ok(()))).await.unwrap();
        assert!(sealed.opened_by(1).await.is_some());
    }

    #[tokio::test]
    async fn the_old_key_still_opens_a_record_if_repoint_fails() {
        let sealed = Sealed::new().await;
        let failure = TransferError::Changing { place: "the profile".into() };
        sealed.rekey(ready(Err(failure))).await.unwrap_err();
        assert!(sealed.opened_by(0).await.is_some());
    }

    #[tokio::test]
    async fn a_login_with_the_old_key_during_a_rekey_is_sealed_to_the_new_one() {
        let sealed = Sealed::new().await;
        let repoint = async {
            sealed.save(&sealed.by(0), "signed in again").await;
            Ok(())
        };
        sealed.rekey(repoint).await.unwrap();
        let again = Some(AuthTokens::new("signed in again"));
        assert_eq!((sealed.opened_by(0).await, sealed.opened_by(1).await), (None, again));
    }

    #[tokio::test]
    async fn a_rekey_seals_nothing_if_another_holder_has_the_lease() {
        let sealed = Sealed::new().await;
        let mut lease = Way::new("ended");
        *lease.hold.lock().unwrap() = Some(SOMEBODY);
        let repoint = async { panic!("it was repointed") };
        let (old, both, new) = (sealed.by(0), sealed.by_both(), sealed.by(1));
        let busy: Done = rekey(&mut lease, &old, &both, &new, repoint).await;
        assert!(matches!(busy, Err(TransferError::Busy { .. })), "{busy:?}");
        assert!(sealed.opened_by(1).await.is_none());
    }
}
