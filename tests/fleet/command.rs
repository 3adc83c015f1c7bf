//! The command, and the example and the SQL of docs/fleets.md, with a server.

use std::process::{Command, Output};

use tempfile::TempDir;
use tokenkeep::stores::PostgresStore;
use tokenkeep::{AgeKey, conformance};

use crate::postgres_server::can_serve;
use crate::support::{example, scratch};
use crate::world::{Engine, World, on_each_engine};

/// A home of the command's own.
struct Home(TempDir);

impl Home {
    fn run(&self, arguments: &[&str], input: &str) -> Output {
        use std::io::Write;
        use std::process::Stdio;

        let mut child = Command::new(env!("CARGO_BIN_EXE_tokenkeep"))
            .args(arguments)
            .env_remove("DBUS_SESSION_BUS_ADDRESS")
            .env("HOME", self.0.path())
            .env("TOKENKEEP_CONFIG_DIR", self.0.path().join("config"))
            .env("XDG_STATE_HOME", self.0.path().join("state"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// What it prints of a command that succeeds.
    fn ok(&self, arguments: &[&str], input: &str) -> String {
        let done = self.run(arguments, input);
        let text = [&done.stdout[..], &done.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        assert!(done.status.success(), "{arguments:?}: {text}");
        text
    }
}

#[tokio::test]
async fn the_command_keeps_a_profile_on_a_server() {
    let test = "command::the_command_keeps_a_profile_on_a_server";
    on_each_engine(test, async |world: World| {
        let (home, other) = (Home(scratch()), Home(scratch()));
        let record =
            r#"{"access_token":"one","refresh_token":"r","expires_at":"2099-01-01T00:00:00Z"}"#;
        let made = home.ok(&["init", "--store", &world.url], "");
        assert!(
            made.contains("because you named it") && made.contains("runs the server"),
            "{made}"
        );
        home.ok(&["set"], record);
        // Another machine, which needs the same key and nothing else.
        other.ok(&["init", "--store", &world.url], "");
        assert_eq!(other.ok(&["get"], "").trim_end(), "one");
        let status = other.ok(&["status"], "");
        assert!(status.contains("fresh"), "{status}");
        let found = other.run(&["doctor"], "");
        let found = String::from_utf8(found.stdout).unwrap();
        assert!(found.contains("fresh, expires in"), "{found}");

        let file = format!("plaintext:{}", home.0.path().join("tokens.json").display());
        home.ok(&["migrate", "--to", &file], "");
        assert_eq!(other.run(&["get"], "").status.code(), Some(3), "no tokens");
        home.ok(&["migrate", "--to", &world.url], "");
        assert_eq!(other.ok(&["get"], "").trim_end(), "one");

        let before = world.back_up();
        other.ok(&["clear"], "");
        assert_eq!(home.run(&["get"], "").status.code(), Some(3));
        world.restore(&before);
        assert_eq!(home.ok(&["get"], "").trim_end(), "one", "a new process cannot know");
    })
    .await;
}

#[tokio::test]
async fn the_command_says_which_server_is_away_and_makes_no_profile_for_it() {
    let test = "command::the_command_says_which_server_is_away_and_makes_no_profile_for_it";
    on_each_engine(test, async |mut world: World| {
        let home = Home(scratch());
        world.stop();
        let refused = home.run(&["init", "--store", &world.url], "");
        let text = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(5), "{text}");
        assert!(text.contains("PostgreSQL database") || text.contains("://tokens/fleet"), "{text}");
        assert!(home.run(&["list"], "").stdout.is_empty());
        world.go_on();
        home.ok(&["init", "--store", &world.url], "");
    })
    .await;
}

#[tokio::test]
async fn the_key_of_a_fleet_is_changed_while_all_of_its_machines_can_read() {
    let test = "command::the_key_of_a_fleet_is_changed_while_all_of_its_machines_can_read";
    on_each_engine(test, async |world: World| {
        let machines = [Home(scratch()), Home(scratch())];
        let record = |name: &str| {
            format!(r#"{{"access_token":"{name}","expires_at":"2099-01-01T00:00:00Z"}}"#)
        };
        let path = |name: &str| world.dir.path().join(name).display().to_string();
        let old = AgeKey::identity_file(path("key.txt")).recipients().await.unwrap().remove(0);
        let new = AgeKey::create_identity_file(path("new.txt")).await.unwrap();
        let new = new.recipients().await.unwrap().remove(0);
        for machine in &machines {
            machine.ok(&["init", "--store", &world.url], "");
        }
        machines[0].ok(&["set"], &record("start"));
        let identity = path("new.txt");
        // As docs/fleets.md has it: each step on each machine, before the next step on any.
        let steps = [
            vec!["rekey", "--recipient", &new],
            vec!["rekey", "--identity", &identity, "--recipient", &old],
            vec!["rekey", "--remove-recipient", &old, "--remove-recipient", &new],
        ];
        for (number, step) in steps.iter().enumerate() {
            for (turn, machine) in machines.iter().enumerate() {
                machine.ok(step, "");
                for writer in &machines {
                    // Whatever each of them saves, all can read.
                    let name = format!("{number}{turn}");
                    writer.ok(&["set"], &record(&name));
                    for reader in &machines {
                        assert_eq!(reader.ok(&["get"], ""), name, "{step:?}");
                    }
                }
            }
        }
        let old = world.open().load().await.unwrap_err();
        assert!(old.to_string().contains("sealed to other keys"), "{old}");

        // One that was left behind catches up with the new key alone.
        let late = Home(scratch());
        late.ok(&["init", "--store", &world.url], "");
        assert_eq!(late.run(&["get"], "").status.code(), Some(6));
        late.ok(&["rekey", "--identity", &identity], "");
        assert_eq!(late.ok(&["get"], ""), "21");
    })
    .await;
}

#[tokio::test]
async fn a_fleet_in_one_process_refreshes_once() {
    let test = "command::a_fleet_in_one_process_refreshes_once";
    on_each_engine(test, async |world: World| {
        let shown = Command::new(example("fleet")).arg(&world.url).output().unwrap();
        let text = String::from_utf8([&shown.stdout[..], &shown.stderr].concat()).unwrap();
        assert!(text.contains(": 1 refresh\nall of them have the same token: true\n"), "{text}");
    })
    .await;
}

#[tokio::test]
async fn the_sql_of_the_fleets_page_makes_the_table() {
    if !can_serve("command::the_sql_of_the_fleets_page_makes_the_table") {
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
