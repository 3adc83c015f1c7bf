//! Refreshes with a store in a file, while others change that file or the files around it.

use std::fs;
#[cfg(unix)]
use std::path::Path;

use tokenkeep::chrono::Utc;
use tokenkeep::manager::{Event, Events};
use tokenkeep::secrecy::SecretString;
use tokenkeep::stores::AgeFileStore;
use tokenkeep::{AgeKey, AuthTokens, TokenManager, TokenStore};

use crate::provider::{Provider, minutes};
use crate::support::scratch;

const IDENTITY: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
const RECIPIENT: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

fn key() -> AgeKey {
    AgeKey::custom("a key for these tests", || Ok(SecretString::from(IDENTITY)))
}

/// Refreshes, and calls `meanwhile` while the answer is on its way.
async fn refresh_while(
    store: impl TokenStore,
    meanwhile: impl FnOnce(),
) -> (Provider, AuthTokens, Events) {
    let provider = Provider::default();
    let manager = TokenManager::builder().store(store).refresher(provider.clone()).build();
    let later = minutes(Utc::now(), 600);
    manager.set_tokens(provider.sign_in(later)).await.unwrap();
    let events = manager.subscribe();
    provider.hold();
    let refreshing = tokio::spawn(async move { manager.refresh().await });
    while provider.calls() == 0 {
        tokio::task::yield_now().await;
    }
    meanwhile();
    provider.let_through();
    let refreshed = refreshing.await.unwrap().unwrap();
    (provider, refreshed, events)
}

#[tokio::test]
async fn new_tokens_are_saved_with_a_warning_if_the_recipient_list_becomes_invalid() {
    let dir = scratch();
    let (path, list) = (dir.path().join("tokens.age"), dir.path().join("recovery.txt"));
    fs::write(&list, format!("{RECIPIENT}\n")).unwrap();
    let store = || AgeFileStore::new(&path, key().with_recovery_recipients_file(&list));
    let (provider, refreshed, mut events) =
        refresh_while(store(), || fs::write(&list, "no recipient\n").unwrap()).await;
    assert!(provider.accepts(&refreshed));
    let mut seen = Vec::new();
    while seen.last().is_none_or(|event| !matches!(event, Event::Refreshed)) {
        seen.push(events.next().await.unwrap());
    }
    let [Event::Saved, Event::SavedWithEarlierKey { error }, Event::Refreshed] = &seen[..] else {
        panic!("{seen:?}");
    };
    assert!(error.to_string().contains("recovery.txt"), "{error}");
    // The record can be opened, and has the latest tokens of the server.
    let stored = AgeFileStore::new(&path, key()).load().await.unwrap().unwrap();
    assert!(provider.accepts(&stored.record.tokens));
    assert_eq!(stored.record.intent(), None);
    // The next refresh fails before anything is sent.
    let next = TokenManager::builder().store(store()).refresher(provider.clone()).build();
    next.refresh().await.unwrap_err();
    assert_eq!(provider.calls(), 1);
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, Instant};

    use tokenkeep::refresh::interrupted_refresh;

    use tokenkeep::store::{Intent, Precondition};

    use tokenkeep::stores::PlaintextStore;

    use super::*;
    use crate::support::{ODD_FILES, put_odd_file};

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[tokio::test]
    async fn new_tokens_are_saved_even_if_others_can_now_write_to_the_directory() {
        let dir = scratch();
        let path = dir.path().join("tokens.json");
        let (provider, refreshed, _events) =
            refresh_while(PlaintextStore::new(&path), || set_mode(dir.path(), 0o777)).await;
        assert!(provider.accepts(&refreshed));
        let store = PlaintextStore::new(&path);
        store.load().await.unwrap_err();
        set_mode(dir.path(), 0o700);
        assert!(provider.accepts(&store.load().await.unwrap().unwrap().record.tokens));
    }

    /// An intent for the refresh token `canary-r`. An earlier version wrote it in a file beside the record.
    const OLD_INTENT: &str = "tokenkeep-intent/1 2026-11-01T12:00:00Z AAECAwQFBgcICQoLDA0ODw \
                              91uIC0Vm2GiaO3ny5uJbN2dvAl9raESz6PcM0WRSpsU\n";

    fn old_intent(path: &Path) -> std::path::PathBuf {
        path.with_file_name(format!("{}.intent", path.file_name().unwrap().display()))
    }

    async fn saved(path: &Path) -> PlaintextStore {
        let store = PlaintextStore::new(path);
        let tokens = AuthTokens::new("canary-a").with_refresh_token("canary-r");
        store.save(&tokens.into(), Precondition::Absent).await.unwrap();
        store
    }

    #[tokio::test]
    async fn an_intent_that_an_earlier_version_left_beside_the_record_moves_into_it() {
        let dir = scratch();
        let path = dir.path().join("tokens.json");
        let store = saved(&path).await;
        fs::write(old_intent(&path), OLD_INTENT).unwrap();
        set_mode(&old_intent(&path), 0o600);
        let stored = store.load().await.unwrap().unwrap();
        let at = stored.record.intent().map(Intent::at);
        assert_eq!(at, Some("2026-11-01T12:00:00Z".parse().unwrap()));
        assert!(interrupted_refresh(&store).await.unwrap().is_some());
        // The next save puts the intent in the record, and removes the file.
        store.save(&stored.record, Precondition::Unchanged(stored.revision)).await.unwrap();
        assert!(!old_intent(&path).exists());
        assert_eq!(store.load().await.unwrap().unwrap().record.intent().map(Intent::at), at);
    }

    #[tokio::test]
    async fn an_old_intent_about_another_token_is_ignored_and_a_login_removes_it() {
        let dir = scratch();
        let path = dir.path().join("tokens.json");
        let store = saved(&path).await;
        fs::write(old_intent(&path), OLD_INTENT).unwrap();
        let other = AuthTokens::new("canary-b").with_refresh_token("canary-s");
        store.save(&other.clone().into(), Precondition::Anything).await.unwrap();
        assert!(!old_intent(&path).exists());
        fs::write(old_intent(&path), OLD_INTENT).unwrap();
        let stored = store.load().await.unwrap().unwrap();
        assert!(stored.record.refresh.is_empty());
        store.clear(Precondition::Anything).await.unwrap();
        assert!(!old_intent(&path).exists());
    }

    #[tokio::test]
    async fn an_odd_file_in_the_place_of_an_old_intent_is_ignored() {
        for kind in ODD_FILES {
            let dir = scratch();
            let path = dir.path().join("tokens.json");
            let store = saved(&path).await;
            put_odd_file(kind, &old_intent(&path));
            let began = Instant::now();
            let stored = store.load().await.unwrap().unwrap();
            assert!(stored.record.refresh.is_empty(), "{kind}");
            let revision =
                store.save(&stored.record, Precondition::Unchanged(stored.revision)).await;
            store.try_lease().await.unwrap().unwrap().reserve().await.unwrap();
            store.clear(Precondition::Unchanged(revision.unwrap())).await.unwrap();
            assert_eq!(store.load().await.unwrap(), None, "{kind}");
            assert!(began.elapsed() < Duration::from_secs(5), "{kind}: {:?}", began.elapsed());
        }
    }
}
