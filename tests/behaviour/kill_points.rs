//! Transfers that are killed at every store operation, and run again. `cli/tests/evidence/kills.rs` kills
//! them at system calls.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tokenkeep::{AgeKey, AuthTokens, TokenStore};

use tokenkeep::store::Precondition;

use tokenkeep::stores::PlaintextStore;

use crate::support::{Actor, program, scratch};

struct Slots {
    dir: tempfile::TempDir,
    plaintext: String,
    age: String,
    from: PathBuf,
}

impl Slots {
    /// Creates a plaintext file with tokens, and names an age file that does not exist yet.
    async fn new() -> Self {
        let dir = scratch();
        let key = dir.path().join("key.txt");
        AgeKey::create_identity_file(&key).await.unwrap();
        let from = dir.path().join("from/tokens.json");
        let to = dir.path().join("to/tokens.age");
        let tokens = AuthTokens::new("mine").with_refresh_token("refresh-mine");
        PlaintextStore::new(&from)
            .save(&tokens.clone().into(), Precondition::Absent)
            .await
            .unwrap();
        Self {
            plaintext: format!("plaintext:{}", from.display()),
            age: format!("age:{}?identity={}", to.display(), key.display()),
            from,
            dir,
        }
    }

    /// Checks what must hold at any time: at least one of the two stores has the tokens, and each file is
    /// private.
    fn check(&self, at: &str) {
        let sides = [&self.plaintext, &self.age].map(|store| Actor::start(store).ask("load"));
        for side in &sides {
            assert!(["ok none", "ok mine"].contains(&side.as_str()), "{at}: {sides:?}");
        }
        assert!(sides.contains(&"ok mine".to_owned()), "{at}: the tokens are lost");
        #[cfg(unix)]
        for directory in ["from", "to"] {
            use std::os::unix::fs::MetadataExt;

            let Ok(entries) = fs::read_dir(self.dir.path().join(directory)) else { continue };
            for entry in entries {
                let metadata = entry.unwrap().metadata().unwrap();
                assert_eq!(metadata.mode() & 0o077, 0, "{at}");
            }
        }
    }

    /// Runs the migration again. Checks that the tokens are moved, and that no temporary file is left.
    fn check_completed(&self, at: &str) {
        let mut actor = Actor::start(&self.plaintext);
        let answer = actor.ask(&format!("migrate {}", self.age));
        assert!(["ok moved", "ok nothing to move"].contains(&answer.as_str()), "{at}: {answer}");
        assert_eq!(actor.ask("load"), "ok none", "{at}");
        assert_eq!(Actor::start(&self.age).ask("load"), "ok mine", "{at}");
        assert!(!self.from.exists(), "{at}");
        for directory in ["from", "to"] {
            for entry in fs::read_dir(self.dir.path().join(directory)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(!name.ends_with(".tmp") && !name.ends_with(".intent"), "{at}: {name}");
            }
        }
    }
}

#[tokio::test]
async fn a_migration_killed_at_any_store_operation_completes_when_run_again() {
    for kill_at in 0.. {
        let slots = Slots::new().await;
        let mut command = Command::new(program("test-actor"));
        let mut actor = Actor::spawn(command.arg(&slots.plaintext).arg(kill_at.to_string()));
        actor.send(&format!("migrate {}", slots.age));
        let answer = actor.answer();
        let at = format!("killed at operation {kill_at}");
        slots.check(&at);
        slots.check_completed(&at);
        if answer.is_some() {
            assert!(kill_at > 8, "it was killed {kill_at} times");
            return;
        }
    }
}

#[tokio::test]
async fn a_backup_or_restore_killed_at_any_store_operation_completes_when_run_again() {
    for kill_at in 0.. {
        let slots = Slots::new().await;
        let killed = |from: &str, order: &str| {
            let mut command = Command::new(program("test-actor"));
            let mut actor = Actor::spawn(command.arg(from).arg(kill_at.to_string()));
            actor.send(order);
            actor.answer().is_none()
        };
        let order = format!("backup {}", slots.age);
        let backup_killed = killed(&slots.plaintext, &order);
        assert_eq!(Actor::start(&slots.plaintext).ask(&order), "ok copied", "{kill_at}");
        assert_eq!(Actor::start(&slots.plaintext).ask("load"), "ok mine");
        assert_eq!(Actor::start(&slots.age).ask("load"), "ok backup of mine");

        assert_eq!(Actor::start(&slots.plaintext).ask("clear"), "ok cleared");
        let order = format!("restore {}", slots.plaintext);
        let restore_killed = killed(&slots.age, &order);
        assert_eq!(Actor::start(&slots.age).ask(&order), "ok restored", "{kill_at}");
        assert_eq!(Actor::start(&slots.plaintext).ask("load"), "ok mine");
        assert_eq!(Actor::start(&slots.age).ask("load"), "ok backup of mine");
        if !backup_killed && !restore_killed {
            assert!(kill_at > 4, "it was killed {kill_at} times");
            return;
        }
    }
}
