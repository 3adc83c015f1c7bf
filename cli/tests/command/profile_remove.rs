//! `profile remove` removes all that belongs to the profile, and nothing that belongs to others.

use std::fs;
use std::path::{Path, PathBuf};

use crate::home::{Home, SEED, done};
#[cfg(unix)]
use crate::support::can_trace;

/// Returns all files of a home, except the lock that all profiles share.
fn files(home: &Home) -> Vec<PathBuf> {
    files_in(&home.path(""))
}

fn files_in(directory: &Path) -> Vec<PathBuf> {
    fn below(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                below(&path, found);
            } else if !path.ends_with("profiles/.lock") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    below(directory, &mut found);
    found.sort();
    found
}

/// Writes the file of a profile, as a person would.
fn write_profile(home: &Home, name: &str, store: &str) {
    fs::create_dir_all(home.path("config/profiles")).unwrap();
    let text = format!("store = {}\n", serde_json::Value::from(store));
    fs::write(home.path(format!("config/profiles/{name}.toml")), text).unwrap();
}

fn here(home: &Home) -> String {
    home.path("").display().to_string().trim_end_matches(['/', '\\']).to_owned()
}

#[test]
fn removing_a_profile_removes_all_of_its_files_and_no_others() {
    let home = Home::signed_in();
    let others = files(&home);
    home.run("keygen -o config/keys/work.txt").ok();
    home.run("init --profile work --store age:w.age?identity=config/keys/work.txt").ok();
    home.feed("set --profile work", SEED).ok();
    // The slot has a lease file, which must be removed too.
    home.run("status --profile work").ok();
    fs::write(home.path("w.age.lease"), "").unwrap();
    let removed = home.run("profile remove work");
    for said in [
        "removed the profile work",
        "there are no tokens any more in age file ",
        "work.txt is deleted",
    ] {
        assert!(removed.err.contains(said), "{removed:?}");
    }
    removed.ok();
    assert_eq!(files(&home), others);
    assert_eq!(home.run("get").line(), "canary-a");
    home.run("get --profile work").failed(2);
    // A new profile of the same name works at the same place.
    home.run("init --profile work --store plaintext:w.age").ok();
    home.run("get --profile work").failed(3);
}

#[test]
fn files_that_stay_are_named_and_a_missing_key_is_not_mentioned() {
    let home = Home::new();
    // A file that is not a lock has the name of the lock.
    home.run("keygen -o config/keys/moved.txt").ok();
    home.run("init --profile moved --store age:a.age?identity=config/keys/moved.txt").ok();
    home.feed("set --profile moved", SEED).ok();
    home.run("migrate --profile moved --to plaintext:p.json").ok();
    let lock = home.path("p.json.lock");
    fs::write(&lock, "somebody else's").unwrap();
    let removed = home.run("profile remove moved");
    for said in
        ["moved.txt stays: an earlier store", "p.json.lock stays: it is not a lock of tokenkeep"]
    {
        assert!(removed.err.contains(said), "{removed:?}");
    }
    removed.ok();
    assert_eq!(fs::read_to_string(&lock).unwrap(), "somebody else's");
    assert!(home.path("config/keys/moved.txt").exists());

    home.run("keygen -o gone.txt").ok();
    home.run("init --profile gone --store age:g.age?identity=gone.txt").ok();
    fs::remove_file(home.path("gone.txt")).unwrap();
    let removed = home.run("profile remove gone");
    assert!(!removed.err.contains("the key "), "{removed:?}");
    removed.ok();
    assert!(!home.path("gone.txt.lock").exists());
}

#[test]
fn only_what_belongs_to_the_profile_is_removed_from_each_kind_of_store() {
    let home = Home::new();
    home.run("keygen -o key.txt").ok();
    let untouched = files(&home);
    for store in ["plaintext:p.json", "age:a.age?identity=own.txt"] {
        // First without tokens, then with tokens.
        for tokens in [None, Some(SEED)] {
            if store.starts_with("age") {
                home.run("keygen -o own.txt").ok();
            }
            home.run(&format!("init --profile p --store {store}")).ok();
            if let Some(tokens) = tokens {
                home.feed("set --profile p", tokens).ok();
            }
            home.run("profile remove p").ok();
            assert_eq!(files(&home), untouched, "{store}");
        }
    }

    // Others may use a slot on a server. This server cannot be reached, so the profile stays.
    let server = format!("postgres://me@127.0.0.1:1/db?slot=a&identity={}/key.txt", here(&home));
    write_profile(&home, "server", &server);
    let said = home.run("profile remove server").failed(5);
    assert!(said.contains("to remove this name alone, delete "), "{said}");
    assert!(said.contains("server.toml"), "{said}");
    fs::remove_file(home.path("config/profiles/server.toml")).unwrap();

    // Environment variables and the keys of a service manager are not tokenkeep's to remove.
    write_profile(&home, "env", "env:APP");
    home.run("profile remove env").ok();
    write_profile(&home, "env", "env:APP");
    let mut remove = home.command();
    remove.args(["profile", "remove", "env"]).env("APP_ACCESS_TOKEN", "canary");
    let removed = done(&mut remove, "");
    assert!(removed.err.contains("environment variables APP_* stay as they are"), "{removed:?}");
    assert!(!removed.err.contains("canary"));
    removed.ok();
    write_profile(&home, "none", "memory:");
    home.run("profile remove none").ok();
    write_profile(&home, "service", &format!("age:{}/s.age?identity=credential:k", here(&home)));
    let removed = home.run("profile remove service");
    assert!(removed.err.contains("the key credential:k stays"), "{removed:?}");
    removed.ok();
    assert_eq!(files(&home), untouched);
}

#[cfg(unix)]
#[test]
fn a_key_of_another_profile_is_not_removed_under_any_path() {
    use std::os::unix::fs::symlink;

    let home = Home::new();
    let here = here(&home);
    home.run("keygen -o keys/k.txt").ok();
    symlink("keys", home.path("also")).unwrap();
    symlink("keys/k.txt", home.path("link.txt")).unwrap();
    fs::hard_link(home.path("keys/k.txt"), home.path("hard.txt")).unwrap();
    home.run("init --profile ours --store age:ours.age?identity=keys/k.txt").ok();
    home.feed("set --profile ours", SEED).ok();
    let ours = files(&home);
    for key in ["keys/k.txt", "keys/../keys/./k.txt", "also/k.txt", "link.txt", "hard.txt"] {
        for text in [
            format!("store = 'age:{here}/theirs.age?identity={here}/{key}'\n"),
            format!("moving_to = 'age:{here}/t.age?identity={here}/{key}'\nstore = 'env:APP'\n"),
        ] {
            fs::write(home.path("config/profiles/theirs.toml"), text).unwrap();
            let said = home.run("profile remove ours").failed(7);
            assert!(said.contains("the profile theirs has the same key, "), "{key}: {said}");
            assert!(said.contains("keys/k.txt; --keep-key leaves it"), "{key}: {said}");
            // Removing the other profile fails too.
            home.run("profile remove theirs").failed(7);
            fs::remove_file(home.path("config/profiles/theirs.toml")).unwrap();
            assert_eq!(files(&home), ours, "nothing is removed");
        }
    }
    // Two paths of one missing key file also count as the same key.
    write_profile(&home, "a", &format!("age:{here}/a.age?identity={here}/keys/none.txt"));
    write_profile(&home, "b", &format!("age:{here}/b.age?identity={here}/also/../also/none.txt"));
    home.run("profile remove a").failed(7);
    fs::remove_file(home.path("config/profiles/a.toml")).unwrap();
    fs::remove_file(home.path("config/profiles/b.toml")).unwrap();

    home.run("init --profile theirs --store age:theirs.age?identity=keys/k.txt").ok();
    home.feed("set --profile theirs", "canary-theirs").ok();
    home.run("profile remove ours --keep-key").ok();
    assert_eq!(home.run("get --profile theirs").line(), "canary-theirs");
    assert!(!home.path("ours.age").exists());
    fs::remove_file(home.path("hard.txt")).unwrap();
    home.run("profile remove theirs").ok();
    assert!(!home.path("keys/k.txt").exists());
}

#[test]
fn tokens_that_another_profile_names_are_not_removed() {
    let home = Home::new();
    let here = here(&home);
    home.run("init --profile ours --store plaintext:sub/t.json").ok();
    home.feed("set --profile ours", SEED).ok();
    for text in [
        format!("store = 'plaintext:{here}/sub/../sub/t.json'\n"),
        format!("store = 'age:{here}/sub/t.json?identity={here}/k.txt'\n"),
        format!("moving_to = 'plaintext:{here}/sub/t.json'\nstore = 'env:APP'\n"),
    ] {
        fs::write(home.path("config/profiles/theirs.toml"), text).unwrap();
        for line in ["profile remove ours", "profile remove ours --keep-key"] {
            let said = home.run(line).failed(7);
            assert!(said.contains("the profile theirs has the same tokens, in "), "{said}");
            assert!(said.contains("ours.toml"), "{said}");
        }
    }
    // A profile that cannot be read may name the same tokens.
    fs::write(home.path("config/profiles/theirs.toml"), "store = canary").unwrap();
    let said = home.run("profile remove ours").failed(2);
    assert!(said.contains("theirs.toml, line 1") && said.contains("delete its file"), "{said}");
    assert_eq!(home.run("get --profile ours").line(), "canary-a");
    fs::remove_file(home.path("config/profiles/theirs.toml")).unwrap();
    home.run("profile remove ours").ok();
}

#[test]
fn an_unknown_or_unreadable_profile_is_an_error_that_names_the_next_step() {
    let home = Home::signed_in();
    let before = files(&home);
    let said = home.run("profile remove none").failed(2);
    assert!(said.contains("none.toml does not exist") && said.contains("tokenkeep list"), "{said}");
    home.run("profile remove No/Name").failed(2);
    for line in ["profile remove default --profile default", "--store env:A profile remove default"]
    {
        assert!(home.run(line).failed(2).contains("leave it out"), "{line}");
    }
    assert!(home.run("profile remove").failed(2).contains("`<NAME>` is missing"));
    assert_eq!(files(&home), before);
    assert!(!home.path("config/profiles/none.toml").exists());
    fs::write(home.path("config/profiles/broken.toml"), "canary").unwrap();
    let said = home.run("profile remove broken").failed(2);
    assert!(said.contains("broken.toml, line 1: this is not TOML; fix that"), "{said}");
    assert!(home.path("config/profiles/broken.toml").exists());
    // If there is no directory of profiles, none is created.
    let empty = Home::new();
    empty.run("profile remove none").failed(2);
    assert!(!empty.path("config").exists());
}

#[cfg(unix)]
#[test]
fn a_key_that_may_open_more_than_the_profile_stays_and_is_named() {
    let home = Home::new();
    home.run("keygen -o one.txt").ok();
    home.run("keygen -o two.txt").ok();
    let both = [home.path("one.txt"), home.path("two.txt")].map(|path| fs::read(path).unwrap());
    fs::write(home.path("both.txt"), both.concat()).unwrap();
    fs::set_permissions(home.path("both.txt"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    std::os::unix::fs::symlink("one.txt", home.path("link.txt")).unwrap();
    for (key, why) in [("both.txt", "it holds several keys"), ("link.txt", "it is a link")] {
        home.run(&format!("init --profile p --store age:p.age?identity={key}")).ok();
        home.feed("set --profile p", SEED).ok();
        let removed = home.run("profile remove p");
        let said = format!("{key} stays, because {why}; delete it if nothing else needs it");
        assert!(removed.err.contains(&said), "{removed:?}");
        removed.ok();
        assert!(home.path(key).exists() && home.path("one.txt").exists());
        assert!(!home.path("p.age").exists() && !home.path("config/profiles/p.toml").exists());
    }
    // A file that a passphrase protects holds one key.
    let mut keygen = home.command();
    keygen
        .args(["keygen", "-o", "locked.txt", "--passphrase"])
        .env("TOKENKEEP_PASSPHRASE", "canary");
    done(&mut keygen, "").ok();
    home.run("init --profile p --store age:p.age?identity=locked.txt").ok();
    let mut set = home.command();
    set.args(["set", "--profile", "p"]).env("TOKENKEEP_PASSPHRASE", "canary");
    done(&mut set, SEED).ok();
    // The passphrase is not asked for.
    home.run("profile remove p").ok();
    assert!(!home.path("locked.txt").exists() && !home.path("p.age").exists());
}

#[test]
fn tokens_that_another_process_has_locked_are_not_removed() {
    let home = Home::signed_in();
    for suffix in ["lease", "lock"] {
        let path = home.path(format!("state/tokenkeep/default.age.{suffix}"));
        let lock = fs::File::options().create(true).append(true).open(&path).unwrap();
        lock.lock().unwrap();
        let said = home.run("profile remove default").failed(7);
        assert!(said.contains(&format!("default.age.{suffix}; repeat this")), "{said}");
        drop(lock);
        assert_eq!(home.run("get").line(), "canary-a");
    }
    home.run("profile remove default").ok();
    assert_eq!(files(&home), Vec::<PathBuf>::new());
}

#[test]
fn the_copy_of_an_unfinished_migration_is_removed_if_it_is_the_profiles() {
    let home = Home::signed_in();
    let profile = home.path("config/profiles/default.toml");
    let text = fs::read_to_string(&profile).unwrap();
    let moving = format!("moving_to = 'plaintext:{}/copy.json'\n{text}", here(&home));
    // The target has received other tokens since, so they stay.
    home.feed("set --store plaintext:copy.json", "canary-other").ok();
    fs::write(&profile, &moving).unwrap();
    home.run("profile remove default").ok();
    assert_eq!(home.run("get --store plaintext:copy.json").line(), "canary-other");
    home.run("clear --store plaintext:copy.json").ok();

    let home = Home::signed_in();
    let profile = home.path("config/profiles/default.toml");
    let text = fs::read_to_string(&profile).unwrap();
    home.run("migrate --to plaintext:copy.json --keep-source").ok();
    let moving = format!("moving_to = 'plaintext:{}/copy.json'\n{text}", here(&home));
    fs::write(&profile, &moving).unwrap();
    home.run("profile remove default").ok();
    assert_eq!(files(&home), Vec::<PathBuf>::new());
}

#[cfg(unix)]
#[test]
fn a_removal_killed_at_any_step_is_completed_by_the_next_run() {
    if !can_trace("profile_remove::a_removal_killed_at_any_step_is_completed_by_the_next_run") {
        return;
    }
    let mut killed = 0;
    for call in ["unlink", "unlinkat", "fsync"] {
        for nth in 1.. {
            let home = Home::signed_in();
            let mut strace = home.wrapped("strace");
            strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
            strace.args(["-e", &format!("inject={call}:signal=SIGKILL:when={nth}")]);
            strace.args([env!("CARGO_BIN_EXE_tokenkeep"), "profile", "remove", "default"]);
            let outcome = done(&mut strace, "");
            let at = format!("killed at {call} {nth}: {outcome:?}");
            if home.path("config/profiles/default.toml").exists() {
                home.run("profile remove default").ok();
            }
            assert_eq!(files(&home), Vec::<PathBuf>::new(), "{at}");
            home.run("profile remove default").failed(2);
            if outcome.code == 0 {
                break;
            }
            killed += 1;
        }
    }
    assert!(killed > 8, "{killed}");
}

#[cfg(unix)]
#[test]
fn a_file_that_cannot_be_removed_is_named_and_the_next_run_completes() {
    if !can_trace(
        "profile_remove::a_file_that_cannot_be_removed_is_named_and_the_next_run_completes",
    ) {
        return;
    }
    for name in ["default.age", "default.age.lock", "default.txt", "default.toml"] {
        let home = Home::signed_in();
        let mut strace = home.wrapped("strace");
        strace.args(["-f", "-qq", "-o", "calls", "-e", "trace=unlinkat", "-P", name]);
        strace.args(["-e", "inject=unlinkat:error=EACCES"]);
        strace.args([env!("CARGO_BIN_EXE_tokenkeep"), "profile", "remove", "default"]);
        let said = done(&mut strace, "").failed(5);
        assert!(said.contains(name), "{name}: {said}");
        fs::remove_file(home.path("calls")).unwrap();
        home.run("profile remove default").ok();
        assert_eq!(files(&home), Vec::<PathBuf>::new(), "{name}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_keychain_loses_the_key_of_the_profile_and_keeps_a_shared_key() {
    use crate::session::Session;
    use crate::support::available;

    let test = "profile_remove::the_keychain_loses_the_key_of_the_profile_and_keeps_a_shared_key";
    let parts = ["dbus-daemon", "gnome-keyring-daemon", "gdbus", "secret-tool"];
    if !parts.iter().all(|program| available(test, program)) {
        return;
    }
    let mut session = Session::with_keychain();
    let state = session.state();
    let run = |session: &Session, line: &str, input: &str| {
        let mut command = session.command(env!("CARGO_BIN_EXE_tokenkeep"));
        let config = session.state().join("config");
        done(command.args(line.split(' ')).env("TOKENKEEP_CONFIG_DIR", config), input)
    };
    let holds = |session: &Session, service: &str, account: &str| {
        let mut lookup = session.command("secret-tool");
        done(lookup.args(["lookup", "service", service, "username", account]), "").code == 0
    };
    let shared = format!("age:{}/s.age?identity=keychain:app/shared", state.display());
    run(&session, "init --profile own --store keychain:app/own", "").ok();
    run(&session, &format!("init --profile shared --store {shared}"), "").ok();
    run(&session, "set --profile own", SEED).ok();
    run(&session, "set --profile shared", SEED).ok();
    assert!(holds(&session, "tokenkeep:app", "own") && holds(&session, "app", "shared"));

    session.lock_keychain();
    let said = run(&session, "profile remove own", "").failed(5);
    assert!(said.contains("the tokens are removed and their key is not"), "{said}");
    assert!(state.join("config/profiles/own.toml").exists());
    session.start_keychain();
    run(&session, "profile remove own", "").ok();
    assert!(!holds(&session, "tokenkeep:app", "own"));
    let removed = run(&session, "profile remove shared", "");
    assert!(removed.err.contains("the key keychain:app/shared stays"), "{removed:?}");
    removed.ok();
    assert!(holds(&session, "app", "shared") && !state.join("s.age").exists());
    // The lock of the shared key stays, and so do the locks of the keychain.
    let kept = [".keychain-trial.lock", ".keychain.lock", "app/shared.shared-key.lock"];
    assert_eq!(files_in(&state), kept.map(|file| state.join("tokenkeep").join(file)));
}
