//! Moves tokens from a plaintext `tokens.json` to an age file, and opens the age file in a second process.
//!
//! Run it with `cargo run --example quickstart [TOKENS_JSON]`. It copies the file to a temporary directory,
//! which is removed at the end.

#![allow(clippy::print_stdout, reason = "an example prints its results")]

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

use tokenkeep::chrono::Utc;
use tokenkeep::migrate;
use tokenkeep::stores::{AgeFileStore, PlaintextStore};
use tokenkeep::{AgeKey, TokenManager};

const SAMPLE: &str = include_str!("tokens.json");

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("--open") => open(Path::new(&arguments[2])).await,
        path => show(path).await,
    }
}

/// The first process: moves the tokens.
async fn show(path: Option<&str>) -> Result<(), Box<dyn Error>> {
    let mut scratch = tempfile::Builder::new();
    #[cfg(unix)] // a store refuses a directory that other users can write to
    scratch.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    let scratch = scratch.prefix("tokenkeep-quickstart-").tempdir()?;
    let dir = scratch.path();
    let json = path.map_or_else(|| Ok(SAMPLE.to_owned()), fs::read_to_string)?;
    fs::write(dir.join("tokens.json"), json)?; // readable by every user, like most such files

    let plaintext = PlaintextStore::new(dir.join("tokens.json"));
    let key = AgeKey::create_identity_file(dir.join("keys/key.txt")).await?;
    let sealed = AgeFileStore::new(dir.join("state/tokens.age"), key);

    println!("moving  {plaintext}");
    println!("to      {sealed}");
    let migration = migrate(&plaintext, &sealed).await?;
    if let Some(warning) = migration.warning {
        println!("warning {warning}");
    }

    println!("\na second process opens it:");
    let status = Command::new(std::env::current_exe()?).arg("--open").arg(dir).status()?;
    if !status.success() {
        return Err("the second process failed".into());
    }

    println!("\non disk:");
    for directory in ["", "keys", "state"] {
        let mut entries = fs::read_dir(dir.join(directory))?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries.iter().filter(|entry| entry.path().is_file()) {
            let content = String::from_utf8_lossy(&fs::read(entry.path())?).into_owned();
            let start = content.split([':', '\n']).next().unwrap_or_default();
            let name = Path::new(directory).join(entry.file_name()).display().to_string();
            println!("{}", format!("{} {name:<22} {start}", mode(entry)?).trim_end());
        }
    }
    Ok(())
}

/// The second process: it knows only the two paths.
async fn open(dir: &Path) -> Result<(), Box<dyn Error>> {
    let key = AgeKey::identity_file(dir.join("keys/key.txt"));
    let store = AgeFileStore::new(dir.join("state/tokens.age"), key);
    let manager = TokenManager::builder().store(store).build();

    let tokens = manager.get_tokens().await?.ok_or("there are no tokens")?;
    println!("{tokens:#?}");
    let freshness = tokens.freshness(Utc::now());
    match tokens.expiry() {
        Some(expiry) => println!("{freshness:?}, expires {expiry}"),
        None => println!("{freshness:?}, and has no expiry"),
    }
    Ok(())
}

#[cfg(unix)]
fn mode(entry: &fs::DirEntry) -> std::io::Result<String> {
    use std::os::unix::fs::MetadataExt;
    Ok(format!("{:04o}", entry.metadata()?.mode() & 0o7777))
}

#[cfg(not(unix))]
fn mode(_entry: &fs::DirEntry) -> std::io::Result<String> {
    Ok("    ".into())
}
