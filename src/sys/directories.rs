use std::path::PathBuf;

use etcetera::base_strategy::{BaseStrategy, choose_native_strategy};

use crate::error::StoreError;

/// Returns the directory `tokenkeep` in the platform's directory for this user's configuration:
/// `$XDG_CONFIG_HOME` or `~/.config`, `%APPDATA%`, `~/Library/Preferences`.
///
/// # Errors
///
/// [`StoreError::Unavailable`] if this user has no home directory, or one whose path is not absolute or not
/// UTF-8 text. A relative `$XDG_CONFIG_HOME` is ignored, as the XDG specification says.
pub fn config_directory() -> Result<PathBuf, StoreError> {
    Ok(usable(strategy()?.config_dir(), "XDG_CONFIG_HOME")?.join("tokenkeep"))
}

/// Returns the directory `tokenkeep` in the platform's directory for the state of this user's programs:
/// `$XDG_STATE_HOME` or `~/.local/state`, `%LOCALAPPDATA%`, `~/Library/Application Support`.
///
/// # Errors
///
/// [`StoreError::Unavailable`] if this user has no home directory, or one whose path is not absolute or not
/// UTF-8 text. A relative `$XDG_STATE_HOME` is ignored, as the XDG specification says.
pub fn state_directory() -> Result<PathBuf, StoreError> {
    let strategy = strategy()?;
    let directory = strategy.state_dir().unwrap_or_else(|| {
        // On Windows, the cache directory is `%LOCALAPPDATA%`, which does not roam to other machines.
        if cfg!(windows) { strategy.cache_dir() } else { strategy.data_dir() }
    });
    Ok(usable(directory, "XDG_STATE_HOME")?.join("tokenkeep"))
}

/// Returns the directory, if a store URL can name it. Otherwise the tokens would be in another directory the
/// next time: a relative path depends on the working directory, and a text has other characters for what is
/// not UTF-8.
fn usable(directory: PathBuf, variable: &str) -> Result<PathBuf, StoreError> {
    let reason = if directory.to_str().is_none() {
        "it is not UTF-8 text"
    } else if directory.is_absolute() {
        return Ok(directory);
    } else {
        "it is not an absolute path"
    };
    let named = std::env::var_os(variable).filter(|it| !it.is_empty() && directory.starts_with(it));
    Err(StoreError::Unavailable {
        place: format!("the directory that ${} names", named.map_or("HOME", |_| variable)),
        reason: reason.into(),
        advice: "set the variable to such a path, or name a store".into(),
    })
}

fn strategy() -> Result<impl BaseStrategy, StoreError> {
    choose_native_strategy().map_err(|_| StoreError::Unavailable {
        place: "this user's directory for the state of programs".into(),
        reason: "there is no home directory".into(),
        advice: "set HOME, or name a path".into(),
    })
}
