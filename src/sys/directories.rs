use std::path::PathBuf;

use etcetera::base_strategy::{BaseStrategy, choose_native_strategy};

use crate::error::StoreError;

/// Returns the directory `tokenkeep` in the platform's directory for this user's configuration:
/// `$XDG_CONFIG_HOME` or `~/.config`, `%APPDATA%`, `~/Library/Preferences`.
///
/// # Errors
///
/// [`StoreError::Unavailable`] if this user has no home directory.
pub fn config_directory() -> Result<PathBuf, StoreError> {
    Ok(strategy()?.config_dir().join("tokenkeep"))
}

/// Returns the directory `tokenkeep` in the platform's directory for the state of this user's programs:
/// `$XDG_STATE_HOME` or `~/.local/state`, `%LOCALAPPDATA%`, `~/Library/Application Support`.
///
/// # Errors
///
/// [`StoreError::Unavailable`] if this user has no home directory.
pub fn state_directory() -> Result<PathBuf, StoreError> {
    let strategy = strategy()?;
    let directory = strategy.state_dir().unwrap_or_else(|| {
        // On Windows, the cache directory is `%LOCALAPPDATA%`, which does not roam to other machines.
        if cfg!(windows) { strategy.cache_dir() } else { strategy.data_dir() }
    });
    Ok(directory.join("tokenkeep"))
}

fn strategy() -> Result<impl BaseStrategy, StoreError> {
    choose_native_strategy().map_err(|_| StoreError::Unavailable {
        place: "this user's directory for the state of programs".into(),
        reason: "there is no home directory".into(),
        advice: "set HOME, or name a path".into(),
    })
}
