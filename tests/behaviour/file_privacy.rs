//! Only the user can access the files, and a file that others can access is refused.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use tokenkeep::{AgeKey, AuthTokens, StoreError, TokenStore};

use tokenkeep::store::Precondition;

use tokenkeep::stores::{AgeFileStore, PlaintextStore};

use crate::support::{Actor, scratch, skip};

const SOUND: &str = r#"{"access_token":"canary-a"}"#;

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

async fn exposed(store: &impl TokenStore, words: &[&str]) {
    let error = store.load().await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, StoreError::Exposed { .. }), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
    let error =
        store.save(&AuthTokens::new("new").into(), Precondition::Anything).await.unwrap_err();
    assert!(matches!(error, StoreError::Exposed { .. }), "{error}");
}

#[tokio::test]
async fn files_and_directories_are_private_whatever_the_umask() {
    let dir = scratch();
    let key = dir.path().join("keys/deep/key.txt");
    AgeKey::create_identity_file(&key).await.unwrap();
    let path = dir.path().join("new/deep/tokens.age");
    let store = format!("age:{}?identity={}", path.display(), key.display());
    // The most permissive umask.
    let script = "umask 000; exec \"$0\" \"$1\"";
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", script]).arg(crate::support::program("test-actor")).arg(&store);
    let mut actor = Actor::spawn(&mut shell);
    assert_eq!(actor.ask("save a absent"), "ok saved");
    assert_eq!(actor.ask("lease"), "ok leased");
    assert_eq!(actor.ask("reserve"), "ok reserved");
    assert_eq!(actor.ask("intent"), "ok written");
    let parent = path.parent().unwrap();
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(parent).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(mode(&entry.path()), 0o600, "{:?}", entry.path());
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    let next = names.remove(1);
    assert!(next.starts_with("tokens.age.") && next.ends_with(".next"), "{next}");
    assert_eq!(names, ["tokens.age", "tokens.age.lease", "tokens.age.lock"]);
    for directory in [parent, parent.parent().unwrap(), key.parent().unwrap()] {
        assert_eq!(mode(directory), 0o700, "{directory:?}");
    }
    assert_eq!(mode(&key), 0o600);
}

#[tokio::test]
async fn a_file_that_others_can_read_is_refused_with_the_command_that_fixes_it() {
    let dir = scratch();
    let path = dir.path().join("tokens.json");
    fs::write(&path, SOUND).unwrap();
    for bits in [0o644, 0o640, 0o604, 0o622, 0o601] {
        chmod(&path, bits);
        let fix = format!("chmod 600 {}", path.display());
        exposed(&PlaintextStore::new(&path), &[&fix, &format!("mode {bits:04o}")]).await;
        assert_eq!(fs::read_to_string(&path).unwrap(), SOUND);
    }
    chmod(&path, 0o600);
    PlaintextStore::new(&path).load().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_link_is_refused_and_so_is_a_file_with_two_names() {
    let dir = scratch();
    let (path, link, other) =
        (dir.path().join("tokens.json"), dir.path().join("link"), dir.path().join("other"));
    fs::write(&path, SOUND).unwrap();
    chmod(&path, 0o600);
    symlink(&path, &link).unwrap();
    exposed(&PlaintextStore::new(&link), &["is a symbolic link"]).await;
    let error = PlaintextStore::new(&link).clear(Precondition::Anything).await.unwrap_err();
    assert!(matches!(error, StoreError::Exposed { .. }), "{error}");
    // A dangling link does not count as an empty slot either.
    fs::remove_file(&link).unwrap();
    symlink(dir.path().join("nothing"), &link).unwrap();
    exposed(&PlaintextStore::new(&link), &["is a symbolic link"]).await;

    fs::hard_link(&path, &other).unwrap();
    exposed(&PlaintextStore::new(&path), &["second name"]).await;
    fs::remove_file(&other).unwrap();
    PlaintextStore::new(&path).load().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_lock_file_that_is_a_link_is_refused() {
    let dir = scratch();
    let victim = dir.path().join("victim");
    symlink(&victim, dir.path().join("tokens.json.lock")).unwrap();
    let store = PlaintextStore::new(dir.path().join("tokens.json"));
    let error = store.save(&AuthTokens::new("a").into(), Precondition::Absent).await.unwrap_err();
    assert!(matches!(error, StoreError::Exposed { .. }), "{error}");
    assert!(!victim.exists());
}

#[tokio::test]
async fn a_directory_that_others_can_write_to_is_refused_with_the_command_that_fixes_it() {
    let dir = scratch();
    let shared = dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    for bits in [0o777, 0o702] {
        chmod(&shared, bits);
        // Nothing is created in it, and no directory either.
        for name in ["tokens.json", "mine/tokens.json"] {
            let store = PlaintextStore::new(shared.join(name));
            exposed(&store, &["chmod go-w", shared.to_str().unwrap()]).await;
            assert_eq!(fs::read_dir(&shared).unwrap().count(), 0);
        }
    }
}

#[tokio::test]
async fn in_a_directory_like_tmp_a_record_needs_a_directory_of_its_own() {
    let dir = scratch();
    let shared = dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    chmod(&shared, 0o1777);
    exposed(&PlaintextStore::new(shared.join("tokens.json")), &["a directory of your own in it"])
        .await;
    assert_eq!(fs::read_dir(&shared).unwrap().count(), 0);
    let store = PlaintextStore::new(shared.join("mine/tokens.json"));
    store.save(&AuthTokens::new("a").into(), Precondition::Absent).await.unwrap();
    assert_eq!(mode(&shared.join("mine")), 0o700);
}

#[tokio::test]
async fn a_directory_that_is_a_dangling_link_is_an_error_and_not_an_empty_slot() {
    let dir = scratch();
    // Like a volume that is not mounted.
    symlink(dir.path().join("not-mounted"), dir.path().join("volume")).unwrap();
    for path in ["volume/tokens.json", "volume/deeper/tokens.json"] {
        let store = PlaintextStore::new(dir.path().join(path));
        for result in [
            store.load().await.map(drop),
            store.save(&AuthTokens::new("a").into(), Precondition::Absent).await.map(drop),
            store.clear(Precondition::Anything).await,
        ] {
            assert!(matches!(result, Err(StoreError::Unavailable { .. })), "{result:?}");
        }
    }
}

#[tokio::test]
async fn a_slot_behind_a_link_to_a_directory_may_be_empty() {
    let dir = scratch();
    fs::create_dir(dir.path().join("real")).unwrap();
    chmod(&dir.path().join("real"), 0o700);
    symlink(dir.path().join("real"), dir.path().join("link")).unwrap();
    let store = PlaintextStore::new(dir.path().join("link/new/tokens.json"));
    assert!(store.load().await.unwrap().is_none());
    store.clear(Precondition::Anything).await.unwrap();
    store.save(&AuthTokens::new("a").into(), Precondition::Absent).await.unwrap();
    assert!(dir.path().join("real/new/tokens.json").exists());
}

#[tokio::test]
async fn a_file_or_directory_of_another_user_is_refused() {
    let test = "file_privacy::a_file_or_directory_of_another_user_is_refused";
    if !rustix::process::geteuid().is_root() {
        return skip(test, "only root can give files away");
    }
    let dir = scratch();
    let theirs = dir.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    let path = theirs.join("tokens.json");
    fs::write(&path, SOUND).unwrap();
    chmod(&path, 0o600);
    std::os::unix::fs::chown(&path, Some(1234), None).unwrap();
    exposed(&PlaintextStore::new(&path), &["belongs to user 1234"]).await;

    // Root creates nothing in another user's directory, not even a directory.
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::chown(&theirs, Some(1234), None).unwrap();
    for path in [path, theirs.join("deeper/tokens.json")] {
        let error = PlaintextStore::new(&path)
            .save(&AuthTokens::new("a").into(), Precondition::Absent)
            .await;
        assert!(matches!(error, Err(StoreError::Exposed { .. })), "{error:?}");
    }
    assert_eq!(
        fs::read_dir(&theirs).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count(),
        0
    );
}

#[tokio::test]
async fn leftovers_of_a_killed_writer_are_removed_by_the_next_save_or_clear() {
    let dir = scratch();
    let path = dir.path().join("tokens.json");
    // The first name is that of an earlier version. The last two are files of others.
    let own = ["tokens.json.tmp", "tokens.json.0123456789abcdef.tmp"];
    let others = ["tokens.json.notes.tmp", "other.0123456789abcdef.tmp"];
    let leave = || {
        for name in own.iter().chain(&others) {
            fs::write(dir.path().join(name), "half a rec").unwrap();
        }
    };
    let check = || {
        assert!(own.iter().all(|name| !dir.path().join(name).exists()));
        assert!(others.iter().all(|name| dir.path().join(name).exists()));
    };
    let store = PlaintextStore::new(&path);
    leave();
    store.save(&AuthTokens::new("a").into(), Precondition::Absent).await.unwrap();
    check();
    leave();
    store.clear(Precondition::Anything).await.unwrap();
    assert!(!path.exists());
    check();
    // The same without a record.
    leave();
    store.clear(Precondition::Anything).await.unwrap();
    check();
}

#[tokio::test]
async fn loading_creates_nothing() {
    let dir = scratch();
    let key = AgeKey::identity_file(dir.path().join("no/key.txt"));
    assert!(PlaintextStore::new(dir.path().join("no/a.json")).load().await.unwrap().is_none());
    assert!(AgeFileStore::new(dir.path().join("no/a.age"), key).load().await.unwrap().is_none());
    assert!(PlaintextStore::new(dir.path().join("a.json")).load().await.unwrap().is_none());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_relative_path_is_resolved_when_the_store_is_created() {
    let dir = scratch();
    let key = dir.path().join("key.txt");
    AgeKey::create_identity_file(&key).await.unwrap();
    let mut command = std::process::Command::new(crate::support::program("test-actor"));
    command.arg("plaintext:tokens.json").current_dir(dir.path());
    let mut actor = Actor::spawn(&mut command);
    assert_eq!(actor.ask("save a absent"), "ok saved");
    assert!(dir.path().join("tokens.json").exists());
    let shown = PlaintextStore::new("tokens.json").to_string();
    assert!(shown.contains(std::env::current_dir().unwrap().to_str().unwrap()), "{shown}");
}
