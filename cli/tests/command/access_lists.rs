//! Files on Windows are private: only their owner and the system have access.
#![cfg(windows)]

use std::fs::{self, OpenOptions};
use std::os::windows::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use tokenkeep::migrate;
use tokenkeep::secrecy::SecretString;
use tokenkeep::store::Precondition;
use tokenkeep::stores::{AgeFileStore, MemoryStore, PlaintextStore};
use tokenkeep::{AgeKey, AuthTokens, StoreError, TokenStore};
use windows_permissions::constants::{SeObjectType, SecurityInformation};
use windows_permissions::wrappers::{GetSecurityInfo, SetSecurityInfo};
use windows_permissions::{LocalBox, SecurityDescriptor};

use crate::support::{Actor, output, scratch};

const SOUND: &str = r#"{"access_token":"canary-a"}"#;
const IDENTITY: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
const RECIPIENT: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

const READ_CONTROL: u32 = 0x2_0000;
const WRITE_DAC: u32 = 0x4_0000;
const FILE_FLAG_BACKUP_SEMANTICS: u32 = 0x0200_0000;

/// Gives the owner and the system full access to a file or directory, and others what `entry` allows.
fn share(path: &Path, entry: &str) {
    let mut file = OpenOptions::new()
        .access_mode(READ_CONTROL | WRITE_DAC)
        .custom_flags(FILE_FLAG_BACKUP_SEMANTICS)
        .open(path)
        .unwrap();
    let kind = SeObjectType::SE_FILE_OBJECT;
    let before = GetSecurityInfo(&file, kind, SecurityInformation::Owner).unwrap();
    let owner = before.owner().unwrap();
    let list = format!("D:P(A;;FA;;;SY)(A;;FA;;;{owner}){entry}");
    let list: LocalBox<SecurityDescriptor> = list.parse().unwrap();
    let parts = SecurityInformation::Dacl | SecurityInformation::ProtectedDacl;
    SetSecurityInfo(&mut file, kind, parts, None, None, list.dacl(), None).unwrap();
}

const READABLE: &str = "(A;;FR;;;WD)";
const WRITABLE: &str = "(A;;FRFW;;;WD)";
const ALL_OF_IT: &str = "(A;;FA;;;WD)";
const PRIVATE: &str = "";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn exposed(store: &impl TokenStore, words: &[&str]) {
    let error = store.load().await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, StoreError::Exposed { .. }), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is in {text:?}");
    }
    assert!(!text.contains("canary"), "{text}");
    let error =
        store.save(&AuthTokens::new("new").into(), Precondition::Anything).await.unwrap_err();
    assert!(matches!(error, StoreError::Exposed { .. }), "{error}");
}

#[tokio::test]
async fn a_file_that_everyone_can_read_is_refused_with_the_commands_that_fix_it() {
    let dir = scratch();
    let path = dir.path().join("tokens.json");
    fs::write(&path, SOUND).unwrap();
    let store = PlaintextStore::new(&path);
    store.load().await.unwrap().unwrap();
    for entry in [READABLE, WRITABLE, ALL_OF_IT] {
        share(&path, entry);
        let fix = format!("`icacls \"{}\" /remove:g *S-1-1-0`", text(&path));
        exposed(&store, &["Everyone can read it", &fix]).await;
        assert_eq!(fs::read_to_string(&path).unwrap(), SOUND);
    }
    share(&path, PRIVATE);
    store.load().await.unwrap().unwrap();
}

#[test]
fn the_command_prints_no_content_of_a_file_that_everyone_can_read() {
    let dir = scratch();
    let path = dir.path().join("tokens.json");
    fs::write(&path, SOUND).unwrap();
    share(&path, READABLE);
    let store = format!("plaintext:{}", text(&path));
    for order in ["get", "get --field json", "status"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tokenkeep"));
        let output = output(command.args(order.split(' ')).args(["--store", &store]));
        assert_eq!(output.status.code(), Some(5), "{order}: {output:?}");
        let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(printed.contains("Everyone can read it"), "{order}: {printed}");
        assert!(!printed.contains("canary"), "{order}: {printed}");
    }
}

#[tokio::test]
async fn a_key_that_everyone_can_read_is_refused() {
    let dir = scratch();
    let key = dir.path().join("key.txt");
    fs::write(&key, IDENTITY).unwrap();
    assert_eq!(AgeKey::identity_file(&key).recipients().await.unwrap(), [RECIPIENT]);
    for entry in [READABLE, WRITABLE] {
        share(&key, entry);
        let error = AgeKey::identity_file(&key).recipients().await.unwrap_err();
        assert!(matches!(error, StoreError::Exposed { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_list_of_recipients_may_be_read_by_everyone_and_written_by_nobody_else() {
    let dir = scratch();
    let list = dir.path().join("list.txt");
    fs::write(&list, RECIPIENT).unwrap();
    let store = || {
        let key = AgeKey::custom("own", || Ok(SecretString::from(IDENTITY)));
        let key = key.with_recovery_recipients_file(&list);
        AgeFileStore::new(dir.path().join("tokens.age"), key)
    };
    share(&list, WRITABLE);
    let error = store().save(&AuthTokens::new("a").into(), Precondition::Absent).await.unwrap_err();
    assert!(matches!(error, StoreError::Exposed { .. }), "{error}");
    assert!(error.to_string().contains("Everyone can write to it"), "{error}");
    share(&list, READABLE);
    store().save(&AuthTokens::new("a").into(), Precondition::Absent).await.unwrap();
}

#[tokio::test]
async fn a_directory_in_which_everyone_can_replace_files_is_refused() {
    let dir = scratch();
    let shared = dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    share(&shared, ALL_OF_IT);
    for name in ["tokens.json", "mine/tokens.json"] {
        let store = PlaintextStore::new(shared.join(name));
        let error =
            store.save(&AuthTokens::new("a").into(), Precondition::Absent).await.unwrap_err();
        assert!(matches!(error, StoreError::Exposed { .. }), "{error}");
        let words = ["Everyone can replace", "icacls", text(&shared)];
        assert!(words.iter().all(|word| error.to_string().contains(word)), "{error}");
    }
    assert_eq!(fs::read_dir(&shared).unwrap().count(), 0);
    exposed(&PlaintextStore::new(shared.join("tokens.json")), &["Everyone can replace"]).await;
    // A directory that everyone can read, but not write to, does not expose private files.
    share(&shared, "(A;;FRFX;;;WD)");
    let store = PlaintextStore::new(shared.join("tokens.json"));
    store.save(&AuthTokens::new("a").into(), Precondition::Absent).await.unwrap();
    store.load().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_directory_above_that_everyone_can_replace_is_refused() {
    let dir = scratch();
    let (shared, mine) = (dir.path().join("shared"), dir.path().join("shared/mine"));
    fs::create_dir_all(&mine).unwrap();
    share(&shared, PRIVATE);
    let (store, key) = (PlaintextStore::new(mine.join("tokens.json")), mine.join("key.txt"));
    store.save(&AuthTokens::new("a").into(), Precondition::Absent).await.unwrap();
    fs::write(&key, IDENTITY).unwrap();
    AgeKey::identity_file(&key).recipients().await.unwrap();
    share(&shared, ALL_OF_IT);
    exposed(&store, &["Everyone can replace", text(&shared)]).await;
    let error = AgeKey::identity_file(&key).recipients().await.unwrap_err();
    assert!(error.to_string().contains("Everyone can replace"), "{error}");
    share(&shared, PRIVATE);
    store.load().await.unwrap().unwrap();
}

#[tokio::test]
async fn an_exposed_source_is_moved_with_a_warning() {
    let dir = scratch();
    let path = dir.path().join("tokens.json");
    fs::write(&path, SOUND).unwrap();
    share(&path, READABLE);
    let to = MemoryStore::new();
    let warning = migrate(&PlaintextStore::new(&path), &to).await.unwrap().warning.unwrap();
    assert!(warning.contains("was not private") && !warning.contains("canary"), "{warning}");
    assert!(to.load().await.unwrap().is_some() && !path.exists());
}

/// On Windows, a new file inherits access for others from its directory. Wine gives it by the umask, so
/// `scripts/test-windows` also runs this test with umask 000.
#[test]
fn a_file_created_in_a_shared_directory_is_private_or_not_written() {
    let dir = scratch();
    share(dir.path(), PRIVATE);
    let (key, shared) = (dir.path().join("key.txt"), dir.path().join("shared"));
    fs::write(&key, IDENTITY).unwrap();
    share(&key, PRIVATE);
    fs::create_dir(&shared).unwrap();
    share(&shared, "(A;OICI;FRFX;;;WD)");
    for directory in [shared.clone(), shared.join("new")] {
        let path = directory.join("tokens.age");
        let store = format!("age:{}?identity={}", text(&path), text(&key));
        let answer = Actor::start(&store).ask("save a absent");
        assert!(answer == "ok saved" || answer.starts_with("error Exposed"), "{answer}");
        assert_eq!(path.exists(), answer == "ok saved");
        for entry in fs::read_dir(&directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            assert!(!is_for_everyone(&path), "{}", path.display());
        }
    }
}

fn is_for_everyone(path: &Path) -> bool {
    let mut options = OpenOptions::new();
    options.access_mode(READ_CONTROL).custom_flags(FILE_FLAG_BACKUP_SEMANTICS);
    let (kind, parts) = (SeObjectType::SE_FILE_OBJECT, SecurityInformation::Dacl);
    let list = GetSecurityInfo(&options.open(path).unwrap(), kind, parts).unwrap();
    list.as_sddl().unwrap().to_str().unwrap().contains(";WD)")
}

#[tokio::test]
async fn directories_and_devices_are_not_accepted_as_files() {
    let dir = scratch();
    let error = PlaintextStore::new(dir.path()).load().await.unwrap_err();
    assert!(matches!(error, StoreError::NotAFile { found: "directory", .. }), "{error}");
    for device in ["NUL", r"\\.\pipe\tokenkeep-none"] {
        let error = PlaintextStore::new(device).load().await.unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }), "{device}: {error}");
    }
}

#[tokio::test]
async fn a_missing_drive_is_not_an_empty_slot() {
    let store = PlaintextStore::new(r"Q:\tokens\tokens.json");
    for error in [
        store.load().await.map(drop).unwrap_err(),
        store.save(&AuthTokens::new("a").into(), Precondition::Absent).await.map(drop).unwrap_err(),
        store.clear(Precondition::Anything).await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    }
}

/// Opens a file as virus scanners and backup programs do. Until it is closed, other programs can read it,
/// but cannot replace or remove it.
fn occupy(path: &Path) -> fs::File {
    const FILE_SHARE_READ: u32 = 1;
    OpenOptions::new().read(true).share_mode(FILE_SHARE_READ).open(path).unwrap()
}

#[test]
fn a_save_waits_for_a_program_that_has_the_file_open() {
    let dir = scratch();
    let path = dir.path().join("tokens.json");
    let mut actor = Actor::start(&format!("plaintext:{}", text(&path)));
    assert_eq!(actor.ask("save a absent"), "ok saved");
    let occupied = occupy(&path);
    actor.send("save b last");
    // The new record is written to a temporary file, which cannot replace the old record yet.
    let patience = Instant::now();
    while !temporary(dir.path()).is_some_and(|length| length > 0) {
        assert!(patience.elapsed().as_secs() < 20, "it did not wait");
        std::thread::yield_now();
    }
    drop(occupied);
    assert_eq!(actor.answer().as_deref(), Some("ok saved"));
    assert_eq!(actor.ask("load"), "ok b");
}

#[test]
fn a_save_that_waits_too_long_fails_and_changes_nothing() {
    let dir = scratch();
    let path = dir.path().join("tokens.json");
    let mut actor = Actor::start(&format!("plaintext:{}", text(&path)));
    assert_eq!(actor.ask("save a absent"), "ok saved");
    let _occupied = occupy(&path);
    for order in ["save b last", "clear"] {
        let answer = actor.ask(order);
        assert!(answer.starts_with("error ") && answer.contains(text(&path)), "{answer}");
        assert_eq!(actor.ask("load"), "ok a");
    }
    assert_eq!(temporary(dir.path()), None);
}

/// Returns the length of the temporary file of a save, if there is one.
fn temporary(dir: &Path) -> Option<u64> {
    let mut entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let entry = entries.find(|entry| entry.path().extension().is_some_and(|it| it == "tmp"))?;
    fs::metadata(entry.path()).ok().map(|metadata| metadata.len())
}

#[test]
fn a_store_url_with_a_drive_is_read_and_written_again() {
    for url in [
        r"age:C:\Users\me\tokens.age?identity=D:\keys\key.txt",
        r"plaintext:C:\a b\tokens.json",
        r"age:\\server\share\a%3Fb?identity=keychain:axiomtrade/alice",
    ] {
        assert_eq!(url.parse::<tokenkeep::StoreUrl>().unwrap().to_text(), url);
    }
}
