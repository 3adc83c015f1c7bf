//! The client of axiomtrade-rs with this crate. It signs in and makes requests. If many tasks need new
//! tokens, they are refreshed once.
//!
//! Run it with `cargo run --example axiom`. It starts its own server, and keeps its tokens in a temporary
//! directory, which is removed at the end. The client is in `client.rs`, the server in `server.rs`.

#![allow(clippy::print_stdout, reason = "an example prints its results")]

mod client;
mod server;

use std::error::Error;
use std::time::Duration;

use client::AuthClient;
use server::{EMAIL, PASSWORD, Server};
use tokenkeep::stores::{AgeFileStore, PlaintextStore};
use tokenkeep::transfer::{backup, migrate};
use tokenkeep::{AccessToken, AgeKey, AuthError, TokenManager, TokenStore};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut scratch = tempfile::Builder::new();
    #[cfg(unix)] // a store refuses a directory that other users can write to
    scratch.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    let scratch = scratch.prefix("tokenkeep-axiom-").tempdir()?;
    let dir = scratch.path();

    let server = Server::start();
    let client = AuthClient::new(server.origin())?;
    let old_place = || PlaintextStore::new(dir.join("tokens.json"));
    let manager = keep_in(old_place(), &client, &server);

    // The first call logs in. The second one finds the tokens.
    integrate(&manager, &client, &server).await?;
    integrate(&keep_in(old_place(), &client, &server), &client, &server).await?;

    println!("\n16 minutes later");
    server.turn_clock(Duration::from_secs(16 * 60));
    let before = manager.get_tokens().await?.ok_or("there are no tokens")?;
    match client.get("portfolio", &before.access_token).await {
        Err(error) => println!("  the old token    {}", without_port(&error.to_string(), &server)),
        Ok(_) => return Err("the old token is still accepted".into()),
    }
    let lifecycle = TokenLifecycleManager { token_manager: manager, auth_client: client.clone() };
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let lifecycle = lifecycle.clone();
            tokio::spawn(async move { lifecycle.get_valid_access_token().await })
        })
        .collect();
    let mut tokens = Vec::new();
    for task in tasks {
        tokens.push(task.await??);
    }
    let is_one = tokens.iter().all(|token| *token == tokens[0]);
    println!("  tasks            {}, and all have the same token: {is_one}", tokens.len());
    println!("  refreshes        {}", server.refreshes());
    println!("  /portfolio       {}", lifecycle.portfolio().await?);
    // A new manager knows only the file.
    let saved = TokenManager::builder().store(old_place()).build().get_tokens().await?;
    let saved = saved.ok_or("there are no tokens")?;
    println!("  rotated, saved   {}", saved.refresh_token != before.refresh_token);

    println!("\nmoving to an age file");
    let key = AgeKey::create_identity_file(dir.join("keys/key.txt")).await?;
    let new_place = AgeFileStore::new(dir.join("state/tokens.age"), key.clone());
    println!("  moved            {}", migrate(&old_place(), &new_place).await?.moved);
    let copy = AgeFileStore::new(dir.join("backup.age"), key);
    backup(&new_place, &copy).await?;
    let is_marked = copy.load().await?.is_some_and(|stored| stored.record.tokens.is_backup());
    println!("  backup, marked   {is_marked}");
    let manager = keep_in(new_place, &client, &server);
    let lifecycle = TokenLifecycleManager { token_manager: manager, auth_client: client };
    server.turn_clock(Duration::from_secs(16 * 60));
    println!("  /portfolio       {}", lifecycle.portfolio().await?);
    println!("  refreshes        {}", server.refreshes());

    println!("\nlogging out");
    lifecycle.token_manager.clear().await?;
    match lifecycle.ensure_valid_tokens().await {
        Err(error) => println!("  from now on      {error}"),
        Ok(()) => return Err("there are still tokens".into()),
    }
    Ok(())
}

/// Returns a manager with this store. It sets `clock` so that this example need not wait for 16 minutes.
fn keep_in(store: impl TokenStore, client: &AuthClient, server: &Server) -> TokenManager {
    let clock = server.clone();
    TokenManager::builder()
        .store(store)
        .refresher(client.clone())
        .clock(move || clock.now())
        .build()
}

/// Signs in if there are no usable tokens, and makes a request.
async fn integrate(
    token_manager: &TokenManager,
    auth_client: &AuthClient,
    server: &Server,
) -> Result<(), Box<dyn Error>> {
    println!("starting on {}", file_name(token_manager));
    // There is no need to call `is_expired`: an expired token is refreshed without a password.
    let access_token = match token_manager.get_access_token().await {
        Err(
            AuthError::TokenNotFound
            | AuthError::LoginRequired { .. }
            | AuthError::RefreshTokenSpent { .. },
        ) => {
            let pending = auth_client.login(EMAIL, PASSWORD).await?;
            let code = server.mailed_code(); // here a person reads their mail
            let login_result = pending.enter_code(&code).await?;
            token_manager.set_tokens(login_result.tokens).await?;
            println!("  logged in        as {EMAIL}");
            token_manager.get_access_token().await?
        }
        // If the store cannot be read or the server cannot be reached, do not ask for a password.
        other => other?,
    };
    println!("  access token     {access_token:?}");
    println!("  /portfolio       {}", auth_client.get("portfolio", &access_token).await?);
    Ok(())
}

/// The lifecycle manager of axiomtrade-rs. Each method calls the `TokenManager`.
#[derive(Clone)]
struct TokenLifecycleManager {
    token_manager: TokenManager,
    auth_client: AuthClient,
}

impl TokenLifecycleManager {
    async fn ensure_valid_tokens(&self) -> Result<(), AuthError> {
        self.token_manager.ensure_valid_tokens().await
    }

    async fn get_valid_access_token(&self) -> Result<AccessToken, AuthError> {
        self.token_manager.get_valid_access_token().await
    }

    async fn portfolio(&self) -> Result<String, Box<dyn Error>> {
        let token = self.get_valid_access_token().await?;
        Ok(self.auth_client.get("portfolio", &token).await?)
    }
}

fn file_name(manager: &TokenManager) -> String {
    let place = manager.store().to_string();
    place.rsplit(['/', '\\']).next().unwrap_or_default().to_owned()
}

/// Replaces the origin of the server, because its port changes with each run.
fn without_port(text: &str, server: &Server) -> String {
    text.replace(server.origin(), "the server")
}
