//! A service without a keychain. It gets its age key from systemd, and keeps its tokens in its state
//! directory.
//!
//! ```ini
//! [Service]
//! ExecStart=/usr/local/bin/headless
//! LoadCredential=tokens.key:/etc/headless/key.txt
//! StateDirectory=headless
//! StateDirectoryMode=0700
//! ```
//!
//! To run it without systemd: `mkdir -m 700 credentials`, `age-keygen -o credentials/tokens.key`, then
//! `CREDENTIALS_DIRECTORY=credentials STATE_DIRECTORY=state cargo run --example headless`. If there are no
//! tokens yet, it reads a record from standard input.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints its results")]

use std::error::Error;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use tokenkeep::{AgeKey, AuthError, AuthTokens, TokenManager};

use tokenkeep::store::MAX_RECORD;

use tokenkeep::stores::AgeFileStore;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("headless: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprint!(": {error}");
                cause = error.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let state = std::env::var_os("STATE_DIRECTORY").map_or_else(|| "state".into(), PathBuf::from);
    let store = AgeFileStore::new(state.join("tokens.age"), AgeKey::credential("tokens.key"));
    let manager = TokenManager::builder().store(store).build();

    if manager.get_tokens().await?.is_none() {
        let mut record = Vec::with_capacity(MAX_RECORD); // a buffer that grows leaves copies in memory
        std::io::stdin().read_to_end(&mut record)?;
        manager.set_tokens(AuthTokens::from_record(&record, "standard input")?).await?;
        println!("took the tokens from standard input");
    }
    match manager.get_access_token().await {
        // A real service would send the token here.
        Ok(token) => println!("{token:?} from {}", manager.store()),
        Err(AuthError::TokenExpired) => println!("the token in {} has expired", manager.store()),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
