//! Power cuts after every operation of a command, with every state that a file system may then have.
//!
//! `record.rs` runs the real command under `strace`. It records each operation on files, and when the
//! command sent a request, wrote its last output, and exited. `disk.rs` computes the states that these
//! operations may leave on a disk. `known_bad.rs` shows that it finds operations that are known to lose
//! data. `scene.rs` cuts the power after each operation, and runs the checks on each possible state: the
//! old or the new record is complete, what the command has reported is true, and the next command works.

mod disk;
mod keys;
mod killed;
mod known_bad;
mod record;
mod saves;
mod scene;
mod transfers;

use std::path::Path;
use std::sync::{Arc, LazyLock};

use tokenkeep::{AuthTokens, StoreError, StoreUrl, TokenStore};

use tokenkeep::store::Precondition;

use self::scene::Scene;

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
});

fn block_on<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.block_on(future)
}

/// Returns tokens that take several sectors of a disk.
fn tokens(name: &str) -> AuthTokens {
    AuthTokens::new(access_token(name)).with_refresh_token(format!("refresh-{name}"))
}

fn access_token(name: &str) -> String {
    format!("{name}.{}", "x".repeat(1200))
}

/// Returns the same tokens as `set` reads them.
fn record(name: &str) -> String {
    let access = access_token(name);
    format!(r#"{{"access_token":"{access}","refresh_token":"refresh-{name}","expires_at":null}}"#)
}

fn open(url: &str) -> Arc<dyn TokenStore> {
    url.parse::<StoreUrl>().unwrap().open().unwrap()
}

/// Returns the name of the tokens in a store. Fails if they are not complete.
fn load(url: &str) -> Option<String> {
    try_load(url).unwrap()
}

fn try_load(url: &str) -> Result<Option<String>, StoreError> {
    let stored = block_on(open(url).load())?;
    Ok(stored.map(|stored| {
        let text = stored.record.tokens.access_token.expose_secret();
        let name = text.split('.').next().unwrap();
        let whole = tokens(name);
        assert_eq!(stored.record.tokens.access_token, whole.access_token);
        assert_eq!(stored.record.tokens.refresh_token, whole.refresh_token);
        if stored.record.tokens.is_backup() { format!("backup of {name}") } else { name.to_owned() }
    }))
}

fn save(url: &str, name: &str) {
    block_on(open(url).save(&tokens(name).into(), Precondition::Anything)).unwrap();
}

/// Fails unless the next save succeeds and leaves no temporary files.
fn goes_on(scene: &Scene, url: &str) {
    save(url, "later");
    assert_eq!(load(url).as_deref(), Some("later"));
    assert_eq!(remains(scene), Vec::<&Path>::new());
}

/// Returns the files that an interrupted write may leave beside a slot. The temporary file of a profile
/// holds no secret, and the next change replaces it.
fn remains(scene: &Scene) -> Vec<std::path::PathBuf> {
    let is_remains = |path: &std::path::PathBuf| {
        path.extension().is_some_and(|it| it == "tmp" || it == "next" || it == "intent")
            && !path.ends_with("profiles/default.toml.tmp")
    };
    scene.found().into_keys().filter(is_remains).collect()
}
