//! The key of a fleet is changed in steps, and a machine is killed at each step.

use std::fs;
use std::path::{Path, PathBuf};

use tokenkeep::store::Precondition;
use tokenkeep::{AgeKey, AuthTokens, StoreUrl, TokenStore};

use crate::postgres_server::can_serve;
use crate::world::World;

/// Identity files with the old identity, with both, and with the new one.
async fn identity_files(world: &World) -> [PathBuf; 3] {
    let path = |name: &str| world.dir.path().join(name);
    let (old, both, new) = (path("key.txt"), path("both.txt"), path("new.txt"));
    AgeKey::create_identity_file(&new).await.unwrap();
    // As docs/fleets.md has it.
    fs::copy(&old, &both).unwrap();
    let text = [fs::read(&old).unwrap(), fs::read(&new).unwrap()].concat();
    fs::write(&both, text).unwrap();
    [old, both, new]
}

fn url_with(world: &World, identity: &Path) -> String {
    let url = world.url.parse::<StoreUrl>().unwrap();
    url.with_identity(identity, Vec::new()).unwrap().to_text()
}

/// The name of the tokens, as a process that has just started reads them.
async fn read(url: &str) -> String {
    let store = url.parse::<StoreUrl>().unwrap().open().unwrap();
    let stored = store.load().await.unwrap_or_else(|error| panic!("{url}: {error}"));
    stored.expect("tokens").record.tokens.access_token.expose_secret().to_owned()
}

async fn sign_in(url: &str, name: &str) {
    let store = url.parse::<StoreUrl>().unwrap().open().unwrap();
    store.save(&AuthTokens::new(name).into(), Precondition::Anything).await.unwrap();
}

#[tokio::test]
async fn a_machine_killed_at_any_step_of_a_rekey_leaves_a_record_that_all_of_its_fleet_accept() {
    let test = "rekey::a_machine_killed_at_any_step_of_a_rekey_leaves_a_record_that_all_of_its_fleet_accept";
    // What a server is makes no difference here, and PostgreSQL is the fastest.
    if !can_serve(test) {
        return;
    }
    let world = World::on_postgres().await;
    let files = identity_files(&world).await;
    let urls = [0, 1, 2].map(|number| url_with(&world, &files[number]));
    let mut killed = 0;
    for step in 0..2 {
        // In each step, a machine may have the key from before the step or from after it.
        let (before, after) = (&urls[step], &urls[step + 1]);
        for kill_at in 0.. {
            world.delete();
            sign_in(if step == 0 { before } else { &urls[1] }, "start").await;
            let command = format!("rekey {}", files[step + 1].display());
            let mut actor = world.actor_on(before, kill_at);
            actor.send(&command);
            let survived = actor.answer().is_some();
            for url in [before, after] {
                assert_eq!(read(url).await, "start", "step {step}, killed at {kill_at}");
            }
            // The lease of a machine that is lost ends by itself.
            world.give_up_lease();
            let answer = world.actor_on(before, -1).ask(&command);
            assert_eq!(answer, "ok rekeyed", "step {step}, killed at {kill_at}");
            // What either kind of machine saves now, both accept.
            for (name, writer) in [("before", before), ("after", after)] {
                sign_in(writer, name).await;
                for reader in [before, after] {
                    assert_eq!(read(reader).await, name);
                }
            }
            if survived {
                break;
            }
            killed += 1;
        }
    }
    assert!(killed > 20, "{killed}");
    // After the last step on each machine, nothing is left for the old identity.
    world.actor_on(&urls[1], -1).ask(&format!("rekey {}", files[2].display()));
    let old = urls[0].parse::<StoreUrl>().unwrap().open().unwrap();
    let refused = old.load().await.unwrap_err();
    assert!(refused.to_string().contains("is not authentic"), "{refused}");
}
