//! The functions that the fuzz targets call.

use std::sync::LazyLock;

use tokenkeep::StoreUrl;

use crate::profile::Profile;

/// Contains every character that needs an escape, in the URL or in TOML.
static ELSEWHERE: LazyLock<StoreUrl> = LazyLock::new(|| {
    "age:/el%25se \"where\\%0A?identity=/key%23".parse().expect("it is a store URL")
});

/// Reads the text of a profile and changes it as the command does. Checks that the rest of the text
/// stays. Returns why the text cannot be read.
pub fn profile(text: &str) -> Result<(), String> {
    let read = |text: &str| Profile::parse("default", "/default.toml".into(), text.to_owned());
    let profile = read(text).map_err(|failure| format!("{failure:?}"))?;
    let change = |text: String| {
        let changed = read(&text).unwrap_or_else(|failure| panic!("{text}\n{}", failure.message()));
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
    Ok(())
}
