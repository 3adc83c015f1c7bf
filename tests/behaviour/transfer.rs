//! Transfers of tokens between stores.

#[cfg(unix)]
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokenkeep::chrono::{DateTime, Utc};
use tokenkeep::refresh::interrupted_refresh;
use tokenkeep::store::{Intent, Lease, Precondition, Record, RefreshState, Revision, Stored};
use tokenkeep::stores::{AgeFileStore, EnvStore, MemoryStore, PlaintextStore};
use tokenkeep::transfer::{Overwrite, TransferError, backup, migrate, restore};
use tokenkeep::{AgeKey, AuthTokens, StoreError, TokenStore, async_trait};

use crate::support::scratch;

fn tokens(name: &str) -> AuthTokens {
    AuthTokens::new(name)
        .with_refresh_token(format!("refresh-{name}"))
        .with_extra("scope", "x".into())
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

async fn found(store: &impl TokenStore) -> Option<AuthTokens> {
    store.load().await.unwrap().map(|stored| stored.record.tokens)
}

#[tokio::test]
async fn a_migration_moves_everything_and_leaves_nothing() {
    let dir = scratch();
    let from = PlaintextStore::new(dir.path().join("tokens.json"));
    let key = AgeKey::create_identity_file(dir.path().join("key.txt")).await.unwrap();
    let to = AgeFileStore::new(dir.path().join("tokens.age"), key);
    from.save(&tokens("mine").into(), Precondition::Absent).await.unwrap();
    let migration = migrate(&from, &to).await.unwrap();
    assert!(migration.moved && migration.warning.is_none());
    assert_eq!((found(&from).await, found(&to).await), (None, Some(tokens("mine"))));
    assert!(!dir.path().join("tokens.json").exists());
    // Both leases are free again.
    from.try_lease().await.unwrap().unwrap();
    to.try_lease().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_migration_that_is_run_again_moves_nothing() {
    let (from, to) = (MemoryStore::new(), MemoryStore::new());
    to.save(&tokens("mine").into(), Precondition::Absent).await.unwrap();
    assert!(!migrate(&from, &to).await.unwrap().moved);
    assert_eq!(found(&to).await, Some(tokens("mine")));
    let error = migrate(&from, &MemoryStore::new()).await.unwrap_err();
    assert!(matches!(error, TransferError::Empty { .. }), "{error}");
}

#[tokio::test]
async fn other_tokens_in_the_target_are_not_overwritten() {
    let (from, to) = (MemoryStore::new(), MemoryStore::new());
    from.save(&tokens("mine").into(), Precondition::Absent).await.unwrap();
    to.save(&tokens("theirs").into(), Precondition::Absent).await.unwrap();
    let error = migrate(&from, &to).await.unwrap_err();
    assert!(matches!(error, TransferError::Occupied { .. }), "{error}");
    assert_eq!(found(&from).await, Some(tokens("mine")));
    assert_eq!(found(&to).await, Some(tokens("theirs")));
}

#[cfg(unix)]
#[tokio::test]
async fn two_spellings_of_one_slot_are_refused() {
    let dir = scratch();
    let mut private = fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut private, 0o700);
    private.create(dir.path().join("real")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("real"), dir.path().join("link")).unwrap();
    let path = dir.path().join("real/tokens.json");
    let key = AgeKey::create_identity_file(dir.path().join("key.txt")).await.unwrap();
    let store = PlaintextStore::new(&path);
    store.save(&tokens("mine").into(), Precondition::Absent).await.unwrap();
    let spellings: Vec<Box<dyn TokenStore>> = vec![
        Box::new(PlaintextStore::new(&path)),
        Box::new(PlaintextStore::new(dir.path().join("real/../real/./tokens.json"))),
        Box::new(PlaintextStore::new(dir.path().join("link/tokens.json"))),
        Box::new(AgeFileStore::new(&path, key)),
    ];
    for other in spellings {
        for result in [
            migrate(&store, &*other).await.map(drop),
            migrate(&*other, &store).await.map(drop),
            backup(&store, &*other).await.map(drop),
            restore(&store, &*other, Overwrite::Always).await,
        ] {
            assert!(matches!(result, Err(TransferError::SameSlot { .. })), "{other}: {result:?}");
        }
    }
    assert_eq!(found(&store).await, Some(tokens("mine")));
    let slot = MemoryStore::new();
    let error = migrate(&slot, &slot.clone()).await.unwrap_err();
    assert!(matches!(error, TransferError::SameSlot { .. }), "{error}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_source_that_others_can_read_is_moved_with_a_warning() {
    use std::os::unix::fs::PermissionsExt;

    let dir = scratch();
    let shared = dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    let path = shared.join("tokens.json");
    for (file_mode, dir_mode) in [(0o644, 0o700), (0o600, 0o777)] {
        fs::write(&path, r#"{"access_token":"canary","refresh_token":"r","expires_at":null}"#)
            .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(file_mode)).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(dir_mode)).unwrap();
        let to = MemoryStore::new();
        let migration = migrate(&PlaintextStore::new(&path), &to).await.unwrap();
        let warning = migration.warning.unwrap();
        assert!(
            warning.contains("was not private") && warning.contains("sign in again"),
            "{warning}"
        );
        assert!(!warning.contains("canary"));
        assert_eq!(found(&to).await.unwrap().access_token.expose_secret(), "canary");
        assert!(!path.exists());
    }
}

#[tokio::test]
async fn a_read_only_source_is_not_moved() {
    let error = migrate(&EnvStore::new("NO_SUCH_PREFIX"), &MemoryStore::new()).await.unwrap_err();
    assert!(matches!(error, TransferError::Store(StoreError::ReadOnly { .. })), "{error}");
}

#[tokio::test]
async fn a_migration_moves_the_intent_with_the_tokens() {
    let (from, to) = (MemoryStore::new(), MemoryStore::new());
    let record = in_doubt("mine");
    from.save(&record, Precondition::Absent).await.unwrap();
    assert!(migrate(&from, &to).await.unwrap().moved);
    assert_eq!(from.load().await.unwrap(), None);
    assert_eq!(to.load().await.unwrap().unwrap().record, record);
    assert_eq!(interrupted_refresh(&to).await.unwrap(), Some(at(1)));
}

/// Returns a record of tokens whose refresh was interrupted.
fn in_doubt(name: &str) -> Record {
    let mut refresh = RefreshState::default();
    refresh.intent = Some(Intent::new(&tokens(name).refresh_token.unwrap(), at(1)));
    Record::new(tokens(name)).with_refresh(refresh)
}

#[tokio::test]
async fn a_backup_of_tokens_in_doubt_has_a_warning_and_keeps_the_doubt() {
    let (live, copy) = (MemoryStore::new(), MemoryStore::new());
    live.save(&tokens("mine").into(), Precondition::Anything).await.unwrap();
    assert_eq!(backup(&live, &copy).await.unwrap().warning, None);
    live.save(&in_doubt("mine"), Precondition::Anything).await.unwrap();
    let warning = backup(&live, &copy).await.unwrap().warning.unwrap();
    assert!(warning.contains("may have been spent"), "{warning}");
    // The doubt is kept in the copy, and in the restored record.
    live.clear(Precondition::Anything).await.unwrap();
    restore(&copy, &live, Overwrite::IfOlder).await.unwrap();
    assert_eq!(live.load().await.unwrap().unwrap().record.tokens, tokens("mine"));
    assert_eq!(interrupted_refresh(&live).await.unwrap(), Some(at(1)));
    // A restore over the same tokens keeps a doubt that arose after the backup.
    let (live, copy) = (MemoryStore::new(), MemoryStore::new());
    live.save(&tokens("mine").into(), Precondition::Anything).await.unwrap();
    backup(&live, &copy).await.unwrap();
    live.save(&in_doubt("mine"), Precondition::Anything).await.unwrap();
    restore(&copy, &live, Overwrite::IfOlder).await.unwrap();
    assert_eq!(interrupted_refresh(&live).await.unwrap(), Some(at(1)));
}

#[tokio::test]
async fn a_running_refresh_does_not_count_as_interrupted() {
    let store = MemoryStore::new();
    assert_eq!(interrupted_refresh(&store).await.unwrap(), None);
    store.save(&in_doubt("mine"), Precondition::Anything).await.unwrap();
    let lease = store.try_lease().await.unwrap().unwrap();
    assert_eq!(interrupted_refresh(&store).await.unwrap(), None);
    lease.release().await.unwrap();
    assert_eq!(interrupted_refresh(&store).await.unwrap(), Some(at(1)));
    // An intent about another token says nothing.
    let foreign = Record::new(tokens("other")).with_refresh(in_doubt("mine").refresh);
    store.save(&foreign, Precondition::Anything).await.unwrap();
    assert_eq!(interrupted_refresh(&store).await.unwrap(), None);
}

/// A source that is changed while it is being read.
#[derive(Debug)]
struct Busy {
    inner: MemoryStore,
    happens: Happens,
    done: AtomicBool,
}

#[derive(Debug, PartialEq)]
enum Happens {
    Login,
    LoginEachTime,
    Logout,
}

impl std::fmt::Display for Busy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("busy")
    }
}

#[async_trait]
impl TokenStore for Busy {
    async fn load(&self) -> Result<Option<Stored>, StoreError> {
        let loaded = self.inner.load().await;
        let again = self.happens == Happens::LoginEachTime;
        if again || !self.done.swap(true, Ordering::SeqCst) {
            match self.happens {
                Happens::Logout => self.inner.clear(Precondition::Anything).await?,
                _ => drop(self.inner.save(&tokens("newer").into(), Precondition::Anything).await?),
            }
        }
        loaded
    }

    async fn save(
        &self,
        record: &Record,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        self.inner.save(record, precondition).await
    }

    async fn clear(&self, precondition: Precondition) -> Result<(), StoreError> {
        self.inner.clear(precondition).await
    }

    async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
        self.inner.try_lease().await
    }
}

async fn busy(happens: Happens) -> Busy {
    let inner = MemoryStore::new();
    inner.save(&tokens("older").into(), Precondition::Absent).await.unwrap();
    Busy { inner, happens, done: AtomicBool::new(false) }
}

#[tokio::test]
async fn a_login_during_a_migration_is_moved_too() {
    let (from, to) = (busy(Happens::Login).await, MemoryStore::new());
    assert!(migrate(&from, &to).await.unwrap().moved);
    assert_eq!((found(&from).await, found(&to).await), (None, Some(tokens("newer"))));
}

#[tokio::test]
async fn a_logout_during_a_migration_wins() {
    let (from, to) = (busy(Happens::Logout).await, MemoryStore::new());
    assert!(!migrate(&from, &to).await.unwrap().moved);
    assert_eq!((found(&from).await, found(&to).await), (None, None));
}

#[tokio::test]
async fn a_source_that_keeps_changing_is_an_error_and_keeps_its_tokens() {
    let (from, to) = (busy(Happens::LoginEachTime).await, MemoryStore::new());
    let error = migrate(&from, &to).await.unwrap_err();
    assert!(matches!(error, TransferError::Changing { .. }), "{error}");
    assert_eq!(found(&from.inner).await, Some(tokens("newer")));
}

/// A target whose saves succeed, but lose the refresh token.
#[derive(Debug, Default)]
struct Forgetful(MemoryStore);

impl std::fmt::Display for Forgetful {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("forgetful")
    }
}

#[async_trait]
impl TokenStore for Forgetful {
    async fn load(&self) -> Result<Option<Stored>, StoreError> {
        self.0.load().await
    }

    async fn save(
        &self,
        record: &Record,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        let mut less = record.clone();
        less.tokens.refresh_token = None;
        self.0.save(&less, precondition).await
    }

    async fn clear(&self, precondition: Precondition) -> Result<(), StoreError> {
        self.0.clear(precondition).await
    }

    async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
        self.0.try_lease().await
    }
}

#[tokio::test]
async fn a_target_that_does_not_keep_the_tokens_is_detected_before_the_source_is_cleared() {
    let from = MemoryStore::new();
    from.save(&tokens("mine").into(), Precondition::Absent).await.unwrap();
    let error = migrate(&from, &Forgetful::default()).await.unwrap_err();
    assert!(matches!(error, TransferError::Unverified { .. }), "{error}");
    assert_eq!(found(&from).await, Some(tokens("mine")));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_migrations_in_opposite_directions_do_not_wait_for_each_other_forever() {
    let dir = scratch();
    let (a, b) = (dir.path().join("a.json"), dir.path().join("b.json"));
    let open = || (Arc::new(PlaintextStore::new(&a)), Arc::new(PlaintextStore::new(&b)));
    let (store, _) = open();
    store.save(&tokens("mine").into(), Precondition::Absent).await.unwrap();
    let there = tokio::spawn({
        let (a, b) = open();
        async move {
            for _ in 0..20 {
                drop(migrate(&a, &b).await);
            }
        }
    });
    let back = tokio::spawn({
        let (a, b) = open();
        async move {
            for _ in 0..20 {
                drop(migrate(&b, &a).await);
            }
        }
    });
    there.await.unwrap();
    back.await.unwrap();
    let (a, b) = open();
    let sides = [found(&*a).await, found(&*b).await];
    assert_eq!(sides.iter().flatten().count(), 1, "the tokens are in one place");
    assert!(sides.contains(&Some(tokens("mine"))));
}

#[tokio::test]
async fn a_backup_is_marked_and_can_be_repeated_and_restored() {
    let (live, copy) = (MemoryStore::new(), MemoryStore::new());
    live.save(&tokens("one").with_obtained_at(at(1)).into(), Precondition::Absent).await.unwrap();
    backup(&live, &copy).await.unwrap();
    assert!(found(&copy).await.unwrap().is_backup());
    assert!(!found(&live).await.unwrap().is_backup());

    live.save(&tokens("two").with_obtained_at(at(2)).into(), Precondition::Anything).await.unwrap();
    backup(&live, &copy).await.unwrap();
    live.clear(Precondition::Anything).await.unwrap();
    for _ in 0..2 {
        restore(&copy, &live, Overwrite::IfOlder).await.unwrap();
        assert_eq!(found(&live).await, Some(tokens("two").with_obtained_at(at(2))));
    }
    assert!(found(&copy).await.unwrap().is_backup());
}

#[tokio::test]
async fn a_backup_does_not_overwrite_live_tokens() {
    let (live, other) = (MemoryStore::new(), MemoryStore::new());
    live.save(&tokens("mine").into(), Precondition::Absent).await.unwrap();
    other.save(&tokens("theirs").into(), Precondition::Absent).await.unwrap();
    let error = backup(&live, &other).await.unwrap_err();
    assert!(matches!(error, TransferError::Occupied { .. }), "{error}");
    let error = backup(&MemoryStore::new(), &other).await.unwrap_err();
    assert!(matches!(error, TransferError::Empty { .. }), "{error}");
    assert_eq!(found(&other).await, Some(tokens("theirs")));
}

#[tokio::test]
async fn newer_tokens_are_overwritten_only_if_the_caller_asks_for_it() {
    let (live, copy) = (MemoryStore::new(), MemoryStore::new());
    live.save(&tokens("old").with_obtained_at(at(1)).into(), Precondition::Absent).await.unwrap();
    backup(&live, &copy).await.unwrap();
    for newer in [tokens("new").with_obtained_at(at(2)), tokens("of unknown age")] {
        live.save(&newer.clone().into(), Precondition::Anything).await.unwrap();
        let error = restore(&copy, &live, Overwrite::IfOlder).await.unwrap_err();
        assert!(matches!(error, TransferError::Newer { .. }), "{error}");
        assert_eq!(found(&live).await, Some(newer));
    }
    restore(&copy, &live, Overwrite::Always).await.unwrap();
    assert_eq!(found(&live).await, Some(tokens("old").with_obtained_at(at(1))));
    live.save(&tokens("older").with_obtained_at(at(0)).into(), Precondition::Anything)
        .await
        .unwrap();
    restore(&copy, &live, Overwrite::IfOlder).await.unwrap();
}

#[tokio::test]
async fn only_a_backup_is_restored_and_only_into_a_live_slot() {
    let (one, other) = (MemoryStore::new(), MemoryStore::new());
    one.save(&tokens("live").into(), Precondition::Absent).await.unwrap();
    let error = restore(&one, &other, Overwrite::Always).await.unwrap_err();
    assert!(matches!(error, TransferError::NotABackup { .. }), "{error}");
    backup(&one, &other).await.unwrap();
    let third = MemoryStore::new();
    one.save(&tokens("another").into(), Precondition::Anything).await.unwrap();
    backup(&one, &third).await.unwrap();
    let error = restore(&other, &third, Overwrite::Always).await.unwrap_err();
    assert!(matches!(error, TransferError::Occupied { .. }), "{error}");
}
