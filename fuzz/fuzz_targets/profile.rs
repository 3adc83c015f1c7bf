//! A profile of the command: its text, and the same after the command changed it.
#![no_main]
#![allow(dead_code, reason = "these are files of the command, which uses the rest")]

#[path = "../../src/bin/tokenkeep/draft.rs"]
mod draft;
#[path = "../../src/bin/tokenkeep/failure.rs"]
mod failure;
#[path = "../../src/bin/tokenkeep/profile.rs"]
mod profile;
#[path = "../../src/bin/tokenkeep/provider.rs"]
mod provider;
#[path = "../../src/bin/tokenkeep/side_by_side.rs"]
mod side_by_side;
/// What a failure would be shown on.
mod terminal {
    pub(crate) fn say(_: &str) {}
}

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tokenkeep::StoreUrl;
use tokenkeep_fuzz::assert_hidden;
use tokio::runtime::{Builder, Runtime};

use self::profile::Profile;

/// What many profiles would be written on.
fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().build()
}

/// With all that has to be escaped, in the URL or in TOML.
static ELSEWHERE: LazyLock<StoreUrl> = LazyLock::new(|| {
    "age:/el%25se \"where\\%0A?identity=/key%23".parse().expect("it is a store URL")
});

fuzz_target!(|text: &str| {
    let read = |text: &str| Profile::parse("default", "/default.toml".into(), text.to_owned());
    let profile = match read(text) {
        Ok(profile) => profile,
        Err(failure) => return assert_hidden(&format!("{failure:?}"), text.as_bytes()),
    };
    let change = |text: String| {
        let changed = read(&text).unwrap_or_else(|failure| panic!("{text}\n{}", failure.message()));
        // Whatever else is in it stays.
        assert_eq!(format!("{:?}", changed.provider), format!("{:?}", profile.provider));
        changed
    };
    let moved = change(profile.with_store(&ELSEWHERE));
    assert!(moved.store == *ELSEWHERE && moved.moving_to.is_none());
    let moving = change(profile.with_move(&ELSEWHERE));
    assert!(moving.store == profile.store && moving.moving_to.as_ref() == Some(&ELSEWHERE));
    for profile in [&profile, &moving] {
        let ended = change(profile.without_move());
        assert!(ended.store == profile.store && ended.moving_to.is_none());
    }
});
