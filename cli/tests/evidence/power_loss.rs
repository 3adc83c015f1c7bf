//! The power goes: at every moment of every command, and with every choice that a file system has
//! in what it kept.
//!
//! `record.rs` runs the real command under `strace` and notes each operation on its files, and the
//! moments at which it sent a refresh token, said that it was done, and ended. `disk.rs` knows what a
//! disk may have kept of these operations; `known_bad.rs` shows that it finds what is known to lose
//! data. `scene.rs` cuts the power after each operation, and puts each state of the disk that is then
//! possible in front of the checks: what was there is there, or what came after it, whole; what a
//! command has promised is so; and from wherever it was cut, work goes on.

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

/// Tokens that take several sectors of a disk.
fn tokens(name: &str) -> AuthTokens {
    AuthTokens::new(access_token(name)).with_refresh_token(format!("refresh-{name}"))
}

fn access_token(name: &str) -> String {
    format!("{name}.{}", "x".repeat(1200))
}

/// The same as the command reads it.
fn record(name: &str) -> String {
    let access = access_token(name);
    format!(r#"{{"access_token":"{access}","refresh_token":"refresh-{name}","expires_at":null}}"#)
}

fn open(url: &str) -> Arc<dyn TokenStore> {
    url.parse::<StoreUrl>().unwrap().open().unwrap()
}

/// The name of the tokens in a store; they have to be whole.
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

/// That the next save goes through and leaves nothing but itself behind.
fn goes_on(scene: &Scene, url: &str) {
    save(url, "later");
    assert_eq!(load(url).as_deref(), Some("later"));
    assert_eq!(remains(scene), Vec::<&Path>::new());
}

/// What an interrupted write may leave beside a slot. The draft of a profile holds no secret, and the
/// next one takes its place.
fn remains(scene: &Scene) -> Vec<std::path::PathBuf> {
    let is_remains = |path: &std::path::PathBuf| {
        path.extension().is_some_and(|it| it == "tmp" || it == "next" || it == "intent")
            && !path.ends_with("profiles/default.toml.tmp")
    };
    scene.found().into_keys().filter(is_remains).collect()
}
