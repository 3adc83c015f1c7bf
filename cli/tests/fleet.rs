//! The command, the fleet example and the SQL of docs/fleets.md, with a real server.

#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "these are tests, and their tokens are made up"
)]

use std::process::Command;

use tokenkeep::stores::PostgresStore;
use tokenkeep::{AgeKey, conformance};

use tokenkeep_test_support::example;
use tokenkeep_test_support::fleet::{Engine, World, on_each_engine};
use tokenkeep_test_support::home::{Done, Home, done};
use tokenkeep_test_support::postgres_server::can_serve;

fn run(home: &Home, arguments: &[&str], input: &str) -> Done {
    done(home.command().args(arguments), input)
}

/// Runs a command that must succeed, and returns what it prints.
fn ok(home: &Home, arguments: &[&str], input: &str) -> String {
    let done = run(home, arguments, input);
    assert_eq!(done.code, 0, "{done:?}");
    done.out + &done.err
}

#[tokio::test]
async fn the_command_keeps_a_profile_on_a_server() {
    let test = "the_command_keeps_a_profile_on_a_server";
    on_each_engine(test, async |world: World| {
        let (home, other) = (Home::new(), Home::new());
        let record =
            r#"{"access_token":"one","refresh_token":"r","expires_at":"2099-01-01T00:00:00Z"}"#;
        let made = ok(&home, &["init", "--store", &world.url], "");
        assert!(made.contains("because you named it") && made.contains("run the server"), "{made}");
        ok(&home, &["set"], record);
        // Another machine only needs the same key.
        ok(&other, &["init", "--store", &world.url], "");
        assert_eq!(ok(&other, &["get"], "").trim_end(), "one");
        let status = ok(&other, &["status"], "");
        assert!(status.contains("fresh"), "{status}");
        let found = run(&other, &["doctor"], "");
        assert!(found.out.contains("fresh, expires in"), "{found:?}");

        let file = format!("plaintext:{}", home.directory().join("tokens.json").display());
        ok(&home, &["migrate", "--to", &file], "");
        assert_eq!(run(&other, &["get"], "").code, 3, "no tokens");
        ok(&home, &["migrate", "--to", &world.url], "");
        assert_eq!(ok(&other, &["get"], "").trim_end(), "one");

        let before = world.back_up();
        ok(&other, &["clear"], "");
        assert_eq!(run(&home, &["get"], "").code, 3);
        world.restore(&before);
        assert_eq!(ok(&home, &["get"], "").trim_end(), "one", "a new process cannot know");

        let listed = ok(&home, &["list"], "");
        let url = listed.trim_end().split_once('\t').unwrap().1;
        assert_eq!(ok(&other, &["get", "--store", url], "").trim_end(), "one");
        // Others may use the slot, so `profile remove` does not clear it.
        let remove = ["profile", "remove", "default", "--keep-key"];
        let refused = run(&home, &remove, "");
        assert_eq!(refused.code, 7, "{refused:?}");
        assert!(refused.err.contains("`tokenkeep clear --profile default` first"), "{refused:?}");
        assert_eq!(ok(&other, &["get"], "").trim_end(), "one");
        ok(&home, &["clear"], "");
        ok(&home, &remove, "");
        assert_eq!(run(&home, &["get"], "").code, 2, "no profile");
        assert_eq!(run(&other, &["get"], "").code, 3, "no tokens");
    })
    .await;
}

#[tokio::test]
async fn init_names_a_server_that_cannot_be_reached_and_makes_no_profile() {
    let test = "init_names_a_server_that_cannot_be_reached_and_makes_no_profile";
    on_each_engine(test, async |mut world: World| {
        let home = Home::new();
        world.stop();
        let refused = run(&home, &["init", "--store", &world.url], "");
        let text = refused.err;
        assert_eq!(refused.code, 5, "{text}");
        assert!(text.contains("PostgreSQL database") || text.contains("://tokens/fleet"), "{text}");
        assert!(run(&home, &["list"], "").out.is_empty());
        world.go_on();
        ok(&home, &["init", "--store", &world.url], "");
    })
    .await;
}

#[tokio::test]
async fn the_key_of_a_fleet_is_changed_and_every_machine_can_always_read() {
    let test = "the_key_of_a_fleet_is_changed_and_every_machine_can_always_read";
    on_each_engine(test, async |world: World| {
        let machines = [Home::new(), Home::new()];
        let record = |name: &str| {
            format!(r#"{{"access_token":"{name}","expires_at":"2099-01-01T00:00:00Z"}}"#)
        };
        let path = |name: &str| world.dir.path().join(name).display().to_string();
        let [old, both, new] = ["key.txt", "both.txt", "new.txt"].map(path);
        AgeKey::create_identity_file(&new).await.unwrap();
        let texts = [&old, &new].map(|path| std::fs::read(path).unwrap());
        std::fs::copy(&old, &both).unwrap();
        std::fs::write(&both, texts.concat()).unwrap();
        for machine in &machines {
            ok(machine, &["init", "--store", &world.url], "");
        }
        ok(&machines[0], &["set"], &record("start"));
        // As in docs/fleets.md: each step runs on all machines before the next step begins.
        let steps = [["rekey", "--identity", &both], ["rekey", "--identity", &new]];
        for (number, step) in steps.iter().enumerate() {
            for (turn, machine) in machines.iter().enumerate() {
                ok(machine, step, "");
                for writer in &machines {
                    // Every machine can read what any machine saves.
                    let name = format!("{number}{turn}");
                    ok(writer, &["set"], &record(&name));
                    for reader in &machines {
                        assert_eq!(ok(reader, &["get"], "").trim_end(), name, "{step:?}");
                    }
                }
            }
        }
        let old = world.open().load().await.unwrap_err();
        assert!(old.to_string().contains("is not authentic"), "{old}");

        // A machine that missed all steps only needs the new key.
        let late = Home::new();
        ok(&late, &["init", "--store", &world.url], "");
        assert_eq!(run(&late, &["get"], "").code, 6);
        ok(&late, &["rekey", "--identity", &new], "");
        assert_eq!(ok(&late, &["get"], "").trim_end(), "11");
    })
    .await;
}

#[tokio::test]
async fn a_fleet_in_one_process_refreshes_once() {
    let test = "a_fleet_in_one_process_refreshes_once";
    on_each_engine(test, async |world: World| {
        let shown = Command::new(example("fleet")).arg(&world.url).output().unwrap();
        let text = String::from_utf8([&shown.stdout[..], &shown.stderr].concat()).unwrap();
        assert!(text.contains(": 1 refresh\nall of them have the same token: true\n"), "{text}");
    })
    .await;
}

#[tokio::test]
async fn the_sql_of_the_fleets_page_makes_the_table() {
    if !can_serve("the_sql_of_the_fleets_page_makes_the_table") {
        return;
    }
    let world = World::on_postgres().await;
    let Engine::Postgres(_, database) = &world.engine else { unreachable!("it is PostgreSQL") };
    let page = include_str!("../../docs/fleets.md");
    let (_, sql) = page.split_once("```sql\n").unwrap();
    let (sql, _) = sql.split_once("```").unwrap();
    database.sql("DROP TABLE tokenkeep; CREATE ROLE app LOGIN");
    database.sql(sql);
    let key = AgeKey::identity_file(world.dir.path().join("key.txt"));
    let address = database.address("app", "127.0.0.1");
    conformance::check(|| PostgresStore::new(&address, "fleet", key.clone()).unwrap()).await;
}
