//! All examples of the token management document that this crate was created from, in the same order.
//!
//! docs/from-axiomtrade-rs.md lists the intended differences.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "these are tests, and their tokens are made up"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokenkeep::chrono::{Duration, Utc};
use tokenkeep::stores::{EnvStore, PlaintextStore};
use tokenkeep::transfer::{backup, migrate};
use tokenkeep::{AuthError, AuthTokens, TokenManager};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Stands for the `AuthClient` of the document, which sends requests to a server.
struct AuthClient;

struct LoginResult {
    tokens: AuthTokens,
}

impl AuthClient {
    fn new() -> Self {
        Self
    }

    async fn login(&self, _email: &str, _password: &str) -> Result<LoginResult, AuthError> {
        Ok(LoginResult { tokens: sample("from login", 60) })
    }

    async fn refresh_tokens(&self) -> Result<AuthTokens, AuthError> {
        Ok(sample("from refresh", 60))
    }
}

fn sample(access_token: &str, minutes: i64) -> AuthTokens {
    AuthTokens::new(access_token)
        .with_refresh_token("refresh_token_value")
        .with_expires_at(Utc::now() + Duration::minutes(minutes))
}

fn scratch() -> tempfile::TempDir {
    let mut scratch = tempfile::Builder::new();
    #[cfg(unix)]
    scratch.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    scratch.prefix("tokenkeep-document").tempdir().unwrap()
}

#[tokio::test]
async fn access_tokens_are_sent_with_requests() -> Outcome {
    let token_manager = TokenManager::new(None);
    token_manager.set_tokens(sample("access", 60)).await?;
    let token = token_manager.get_access_token().await?;
    assert_eq!(
        format!("Authorization: Bearer {}", token.expose_secret()),
        "Authorization: Bearer access"
    );
    Ok(())
}

#[tokio::test]
async fn refresh_tokens_are_exchanged_for_new_tokens() -> Outcome {
    let new_tokens = AuthClient::new().refresh_tokens().await?;
    assert_eq!(new_tokens.access_token.expose_secret(), "from refresh");
    Ok(())
}

#[test]
fn the_token_structure_has_the_three_fields() {
    let tokens = sample("access", 60);
    assert_eq!(tokens.access_token.expose_secret(), "access");
    assert_eq!(tokens.refresh_token.unwrap().expose_secret(), "refresh_token_value");
    assert!(tokens.expires_at.unwrap() > Utc::now());
}

#[tokio::test]
async fn a_manager_is_created_in_memory_or_on_a_file() -> Outcome {
    let dir = scratch();

    // In-memory token storage
    let token_manager = TokenManager::new(None);
    assert_eq!(token_manager.get_tokens().await?, None);

    // Persistent token storage
    let storage_path = dir.path().join("tokens.json");
    let token_manager = TokenManager::new(Some(storage_path.clone()));
    token_manager.set_tokens(sample("kept", 60)).await?;
    let reopened = TokenManager::new(Some(storage_path));
    assert_eq!(reopened.get_access_token().await?.expose_secret(), "kept");
    Ok(())
}

/// The environment of a running process cannot be changed safely, so this test runs itself again in a process
/// with another environment.
#[tokio::test]
async fn a_manager_is_created_from_environment_variables() -> Outcome {
    const THIS: &str = "a_manager_is_created_from_environment_variables";
    const DONE: &str = "tokens loaded from the environment";

    if std::env::var_os("SEED_CHILD").is_some() {
        let manager = TokenManager::from_env()?.expect("the variables are set");
        assert_eq!(manager.get_access_token().await?.expose_secret(), "your_access_token_here");
        assert_eq!(manager.get_refresh_token().await?.expose_secret(), "your_refresh_token_here");
        // The first read returns the tokens, and they cannot be changed.
        assert!(matches!(manager.set_tokens(sample("new", 60)).await, Err(AuthError::Store(_))));
        assert!(matches!(manager.clear().await, Err(AuthError::Store(_))));
        let other = TokenManager::from_env_with_prefix("OTHER")?.expect("it is set");
        assert_eq!(other.get_access_token().await?.expose_secret(), "other");
        assert!(matches!(other.get_refresh_token().await, Err(AuthError::TokenNotFound)));
        assert!(TokenManager::from_env_with_prefix("EMPTY")?.is_none());
        assert!(TokenManager::from_env_with_prefix("ABSENT")?.is_none());
        assert!(matches!(TokenManager::from_env_with_prefix("HALF"), Err(AuthError::Store(_))));
        let shown = format!("{manager:?} {:?}", EnvStore::new("AXIOM"));
        assert!(!shown.contains("_here"), "{shown}");
        println!("{DONE}");
        return Ok(());
    }

    let output = std::process::Command::new(std::env::current_exe()?)
        .args(["--exact", THIS, "--nocapture"])
        .env("SEED_CHILD", "1")
        .env("AXIOM_ACCESS_TOKEN", "your_access_token_here")
        .env("AXIOM_REFRESH_TOKEN", "your_refresh_token_here")
        .env("OTHER_ACCESS_TOKEN", " other\n")
        .env("EMPTY_ACCESS_TOKEN", "")
        .env("HALF_REFRESH_TOKEN", "alone")
        .output()?;
    let printed = String::from_utf8(output.stdout)?;
    assert!(output.status.success() && printed.contains(DONE), "{printed}");
    Ok(())
}

#[test]
fn from_env_works_outside_a_runtime() {
    // It is no error that the variables are not set.
    assert!(TokenManager::from_env_with_prefix("TOKENKEEP_ABSENT").unwrap().is_none());
}

#[tokio::test]
async fn tokens_are_set() -> Outcome {
    let token_manager = TokenManager::new(None);
    let tokens = AuthTokens::new("eyJhbGciOiJIUzI1NiIs...")
        .with_refresh_token("refresh_token_value")
        .with_expires_at(Utc::now() + Duration::hours(1));

    token_manager.set_tokens(tokens).await?;
    assert!(token_manager.get_tokens().await?.is_some());
    Ok(())
}

#[tokio::test]
async fn tokens_are_retrieved() -> Outcome {
    let token_manager = TokenManager::new(None);
    token_manager.set_tokens(sample("access", 60)).await?;

    // Get complete token structure
    if let Some(tokens) = token_manager.get_tokens().await? {
        assert_eq!(format!("{:?}", tokens.access_token), "AccessToken([REDACTED])");
    }

    // Get individual tokens
    let access_token = token_manager.get_access_token().await?;
    let refresh_token = token_manager.get_refresh_token().await?;
    assert_eq!(access_token.expose_secret(), "access");
    assert_eq!(refresh_token.expose_secret(), "refresh_token_value");
    Ok(())
}

#[tokio::test]
async fn tokens_are_validated_with_buffers_of_5_and_15_minutes() -> Outcome {
    let token_manager = TokenManager::new(None);
    // The token is obtained 1 hour before its expiry. For such a lifetime the buffers are not shortened.
    for (left, expired, due) in [(16, false, false), (14, false, true), (4, true, true)] {
        let tokens =
            sample("access", left).with_obtained_at(Utc::now() - Duration::minutes(60 - left));
        token_manager.set_tokens(tokens).await?;
        assert_eq!(token_manager.is_expired().await?, expired, "{left} minutes left");
        assert_eq!(token_manager.needs_refresh().await?, due, "{left} minutes left");
    }
    Ok(())
}

#[tokio::test]
async fn clearing_removes_tokens_from_memory_and_the_file() -> Outcome {
    let dir = scratch();
    let path = dir.path().join("tokens.json");
    let token_manager = TokenManager::new(Some(path.clone()));
    token_manager.set_tokens(sample("access", 60)).await?;
    assert!(path.exists());

    token_manager.clear().await?;
    assert!(!path.exists());
    assert_eq!(token_manager.get_tokens().await?, None);
    Ok(())
}

#[tokio::test]
async fn files_have_the_json_of_the_document() -> Outcome {
    let dir = scratch();
    let path = dir.path().join("tokens.json");
    let json = r#"{
  "access_token": "eyJhbGciOiJIUzI1NiIs...",
  "refresh_token": "refresh_token_value",
  "expires_at": "2024-01-15T10:30:00Z"
}"#;
    std::fs::write(&path, json)?;
    set_token_file_permissions(&path)?;
    let token_manager = TokenManager::new(Some(path.clone()));
    let tokens = token_manager.get_tokens().await?.expect("it loads as it is");
    assert_eq!(tokens.expires_at, Some("2024-01-15T10:30:00Z".parse()?));

    // A new file starts with the same lines.
    token_manager.set_tokens(tokens).await?;
    let written = std::fs::read_to_string(&path)?;
    let head = json.trim_end_matches("\n}");
    assert!(written.starts_with(head), "{written}");
    Ok(())
}

#[tokio::test]
async fn the_program_chooses_its_storage_location() -> Outcome {
    let dir = scratch();

    // User-specific storage: any directory that the platform names. It need not exist.
    let config_dir = dir.path().join(".config");
    let user_specific = config_dir.join("axiomtrade").join("tokens.json");

    // Application-specific storage
    let application_specific = dir.path().join("config/tokens.json");

    // Temporary storage: in a directory of its own, because everybody can create files in `/tmp`
    let own = std::env::temp_dir().join(format!("axiom_tokens-{}", std::process::id()));
    let temporary = own.join("axiom_tokens.json");

    for storage_path in [user_specific, application_specific, temporary] {
        let token_manager = TokenManager::new(Some(storage_path.clone()));
        token_manager.set_tokens(sample("access", 60)).await?;
        assert!(storage_path.exists());
        token_manager.clear().await?;
    }
    std::fs::remove_dir_all(own).unwrap();
    Ok(())
}

#[tokio::test]
async fn a_refresh_is_checked_for_and_done_by_hand() -> Outcome {
    let (token_manager, auth_client) = (TokenManager::new(None), AuthClient::new());
    let old = sample("old", 10).with_obtained_at(Utc::now() - Duration::minutes(50));
    token_manager.set_tokens(old).await?;

    if token_manager.needs_refresh().await? {
        let new_tokens = auth_client.refresh_tokens().await?;
        token_manager.set_tokens(new_tokens).await?;
    }
    assert_eq!(token_manager.get_access_token().await?.expose_secret(), "from refresh");
    Ok(())
}

/// A function of the document. Files of this crate have this mode from the first byte on.
#[cfg(unix)]
fn set_token_file_permissions(path: &Path) -> Result<(), std::io::Error> {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    let mut perms = fs::metadata(path)?.permissions();
    perms.set_mode(0o600); // Read/write for owner only
    fs::set_permissions(path, perms)?;
    Ok(())
}

#[cfg(not(unix))]
fn set_token_file_permissions(_path: &Path) -> Result<(), std::io::Error> {
    Ok(())
}

#[cfg(unix)]
#[tokio::test]
async fn token_files_are_private_by_default() -> Outcome {
    use std::os::unix::fs::MetadataExt;

    let dir = scratch();
    let path = dir.path().join("tokens.json");
    TokenManager::new(Some(path.clone())).set_tokens(sample("access", 60)).await?;
    assert_eq!(std::fs::metadata(&path)?.mode() & 0o777, 0o600);
    Ok(())
}

#[tokio::test]
async fn each_error_can_be_recognised() -> Outcome {
    let token_manager = TokenManager::new(None);
    let outcome = |result: Result<_, AuthError>| match result {
        Ok(_token) => "use token for API request",
        Err(AuthError::TokenNotFound) => "log in",
        Err(AuthError::TokenExpired) => "refresh or re-authenticate",
        Err(e) => {
            eprintln!("Token error: {e}");
            "something else"
        }
    };
    assert_eq!(outcome(token_manager.get_access_token().await), "log in");
    token_manager.set_tokens(sample("access", 1)).await?;
    assert_eq!(outcome(token_manager.get_access_token().await), "use token for API request");
    token_manager.set_tokens(sample("access", -1)).await?;
    assert_eq!(outcome(token_manager.get_access_token().await), "refresh or re-authenticate");
    Ok(())
}

#[tokio::test]
async fn a_manager_is_shared_across_tasks() -> Outcome {
    let manager = Arc::new(TokenManager::new(None));
    let manager_clone = Arc::clone(&manager);

    manager.set_tokens(sample("access", 60)).await?;
    let tokens = tokio::spawn(async move {
        // Safe concurrent access
        manager_clone.get_tokens().await
    });
    assert!(tokens.await??.is_some());
    Ok(())
}

#[tokio::test]
async fn the_integration_example_runs() -> Outcome {
    let dir = scratch();
    let storage_path = dir.path().join("tokens.json");

    // The first run logs in, and the second run finds the tokens.
    for logged_in in [false, true] {
        // Create token manager with persistent storage
        let token_manager = TokenManager::new(Some(storage_path.clone()));

        // Check if we have valid tokens
        assert_eq!(token_manager.is_expired().await?, !logged_in);
        if token_manager.is_expired().await? {
            // Need to authenticate
            let auth_client = AuthClient::new();
            let login_result = auth_client.login("user@example.com", "password").await?;
            token_manager.set_tokens(login_result.tokens).await?;
        } else if token_manager.needs_refresh().await? {
            // Refresh tokens proactively
            let auth_client = AuthClient::new();
            let new_tokens = auth_client.refresh_tokens().await?;
            token_manager.set_tokens(new_tokens).await?;
        }

        // Use tokens for API requests
        let access_token = token_manager.get_access_token().await?;
        assert_eq!(access_token.expose_secret(), "from login");
    }
    Ok(())
}

/// Complete token lifecycle management
struct TokenLifecycleManager {
    token_manager: TokenManager,
    auth_client: AuthClient,
}

impl TokenLifecycleManager {
    async fn ensure_valid_tokens(&self) -> Result<(), AuthError> {
        if self.token_manager.is_expired().await? {
            // Re-authenticate required
            return Err(AuthError::TokenExpired);
        }

        if self.token_manager.needs_refresh().await? {
            // Proactive refresh
            let new_tokens = self.auth_client.refresh_tokens().await?;
            self.token_manager.set_tokens(new_tokens).await?;
        }

        Ok(())
    }

    async fn get_valid_access_token(&self) -> Result<String, AuthError> {
        self.ensure_valid_tokens().await?;
        Ok(self.token_manager.get_access_token().await?.expose_secret().to_owned())
    }
}

#[tokio::test]
async fn the_lifecycle_manager_runs() -> Outcome {
    let lifecycle = TokenLifecycleManager {
        token_manager: TokenManager::new(None),
        auth_client: AuthClient::new(),
    };
    assert!(matches!(lifecycle.get_valid_access_token().await, Err(AuthError::TokenExpired)));

    lifecycle.token_manager.set_tokens(sample("good", 60)).await?;
    assert_eq!(lifecycle.get_valid_access_token().await?, "good");

    let due = sample("due", 10).with_obtained_at(Utc::now() - Duration::minutes(50));
    lifecycle.token_manager.set_tokens(due).await?;
    assert_eq!(lifecycle.get_valid_access_token().await?, "from refresh");

    // The manager has both of these methods.
    lifecycle.token_manager.ensure_valid_tokens().await?;
    let token = lifecycle.token_manager.get_valid_access_token().await?;
    assert_eq!(token.expose_secret(), "from refresh");
    Ok(())
}

/// Migrate tokens between storage locations by hand, as the document does.
async fn migrate_tokens(old_path: &Path, new_path: &Path) -> Outcome {
    let old_manager = TokenManager::new(Some(old_path.to_path_buf()));

    if let Some(tokens) = old_manager.get_tokens().await? {
        let new_manager = TokenManager::new(Some(new_path.to_path_buf()));
        new_manager.set_tokens(tokens).await?;
        old_manager.clear().await?;
    }

    Ok(())
}

#[tokio::test]
async fn tokens_are_migrated() -> Outcome {
    let dir = scratch();
    let paths: Vec<PathBuf> = ["a", "b", "c"].iter().map(|name| dir.path().join(name)).collect();
    TokenManager::new(Some(paths[0].clone())).set_tokens(sample("access", 60)).await?;
    migrate_tokens(&paths[0], &paths[1]).await?;
    // The same in one call, which can be killed at any point.
    migrate(&PlaintextStore::new(&paths[1]), &PlaintextStore::new(&paths[2])).await?;

    assert!(!paths[0].exists() && !paths[1].exists());
    let moved = TokenManager::new(Some(paths[2].clone())).get_access_token().await?;
    assert_eq!(moved.expose_secret(), "access");
    Ok(())
}

/// Create token backup by hand, as the document does.
async fn backup_tokens(manager: &TokenManager, backup_path: &Path) -> Outcome {
    if let Some(tokens) = manager.get_tokens().await? {
        let backup_manager = TokenManager::new(Some(backup_path.to_path_buf()));
        backup_manager.set_tokens(tokens).await?;
    }
    Ok(())
}

#[tokio::test]
async fn tokens_are_backed_up() -> Outcome {
    let dir = scratch();
    let manager = TokenManager::new(None);
    manager.set_tokens(sample("access", 60)).await?;
    let (by_hand, marked) = (dir.path().join("by-hand.json"), dir.path().join("marked.json"));
    backup_tokens(&manager, &by_hand).await?;
    // The same as a copy that is marked as a backup.
    backup(manager.store(), &PlaintextStore::new(&marked)).await?;

    for path in [by_hand, marked] {
        let copy = TokenManager::new(Some(path)).get_access_token().await?;
        assert_eq!(copy.expose_secret(), "access");
    }
    assert!(manager.get_tokens().await?.is_some());
    Ok(())
}
