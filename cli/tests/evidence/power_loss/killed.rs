//! A command is killed, a second command reports success, and then the power is cut.
//!
//! The second command sees changes that the killed command did not make durable. It must make them
//! durable before it reports success.

use std::cell::Cell;
use std::fs;

use super::record::Stage;
use super::scene::{Done, Moment, Scene};
use super::transfers::{self, a_moved_profile, check_move};
use super::{block_on, load, open, record, save};
use crate::support::can_trace;

#[test]
fn tokens_that_a_killed_migration_had_saved_are_durable_before_the_source_is_cleared() {
    if !can_trace("power_loss::tokens_that_a_killed_migration_had_saved_are_durable") {
        return;
    }
    let mut home = transfers::home(|home| save(&home.plaintext("from/tokens.json"), "mine"));
    let from = home.plaintext("from/tokens.json");
    let to = home.age("new/directory/tokens.age", "one.txt");
    let order = format!("migrate --from {from} --to {to}");
    home.record(&home.command(&order), "");
    home.kill(
        |home| {
            home.record(&home.command(&order), "");
        },
        |home, moment| check_move(home, &from, &to, moment.1 >= Stage::Said),
    );
}

#[test]
fn a_clear_after_a_killed_clear_is_durable() {
    if !can_trace("power_loss::a_clear_after_a_killed_clear_is_durable") {
        return;
    }
    let mut home = Scene::new(|home| save(&home.plaintext("tokens.json"), "mine"));
    let url = home.plaintext("tokens.json");
    let order = format!("clear --store {url}");
    home.record(&home.command(&order), "");
    home.kill(
        |home| {
            home.record(&home.command(&order), "");
        },
        |_, moment| {
            let found = load(&url);
            assert!(found.is_none() || moment.1 < Stage::Said, "{found:?}");
        },
    );
}

#[test]
fn a_save_into_directories_that_a_killed_save_made_is_durable() {
    if !can_trace("power_loss::a_save_into_directories_that_a_killed_save_made_is_durable") {
        return;
    }
    let mut home = Scene::new(|_| {});
    let url = home.plaintext("several/new/directories/tokens.json");
    let order = format!("set --store {url}");
    home.record(&home.command(&order), &record("mine"));
    home.kill(
        |home| {
            home.record(&home.command(&order), &record("mine"));
        },
        |_, moment| {
            let found = load(&url);
            assert!(found.is_some() || moment.1 < Stage::Said);
        },
    );
}

#[test]
fn a_restore_after_a_killed_restore_is_durable() {
    if !can_trace("power_loss::a_restore_after_a_killed_restore_is_durable") {
        return;
    }
    let mut home = transfers::home(|home| {
        let (from, to) = (home.plaintext("tokens.json"), home.age("backup.age", "one.txt"));
        save(&from, "mine");
        block_on(tokenkeep::transfer::backup(&open(&from), &open(&to))).unwrap();
        block_on(open(&from).clear(tokenkeep::store::Precondition::Anything)).unwrap();
    });
    let (from, to) = (home.age("backup.age", "one.txt"), home.age("new/tokens.age", "two.txt"));
    let order = format!("restore --store {to} --from {from}");
    home.record(&home.command(&order), "");
    home.kill(
        |home| {
            home.record(&home.command(&order), "");
        },
        |_, moment| {
            let found = load(&to);
            assert!(found.is_some() || moment.1 < Stage::Said);
        },
    );
}

/// If the key were not durable, the tokens would be sealed to a lost key.
#[test]
fn a_key_and_a_profile_of_a_killed_init_are_durable_once_tokens_are() {
    if !can_trace("power_loss::a_key_and_a_profile_of_a_killed_init_are_durable") {
        return;
    }
    let mut home = Scene::new(|_| {});
    home.record(&home.command("init"), "");
    home.kill(
        |home| {
            let again = home.try_record(&home.command("init"), "");
            assert!([Some(0), Some(7)].contains(&again.code), "{again:?}");
            home.record(&home.command("set"), &record("mine"));
        },
        |home, moment| {
            if moment >= Moment(3, Stage::Ended) {
                assert!(home.tokenkeep("get").ok().starts_with("mine."));
            }
        },
    );
}

#[test]
fn a_profile_that_a_killed_migration_had_not_yet_changed_finds_the_tokens() {
    if !can_trace("power_loss::a_profile_that_a_killed_migration_had_not_yet_changed") {
        return;
    }
    let (home, [from, to], order) = a_moved_profile();
    let refused = |again: &Done| {
        let refused = again.err.contains("the same slot");
        assert!(refused || again.code == Some(0), "{again:?}");
        refused
    };
    let promised = Cell::new(true);
    home.kill(
        // If the profile already names the target, the second command fails and reports nothing.
        |home| promised.set(!refused(&home.try_record(&home.command(&order), ""))),
        |home, moment| {
            let profile =
                fs::read_to_string(home.path("etc/config/profiles/default.toml")).unwrap();
            let is_known = load(&from).is_some() || (profile.contains(&to) && load(&to).is_some());
            assert!(is_known, "no profile or command finds the tokens: {profile}");
            if moment.1 == Stage::Ended && promised.get() {
                assert!(home.tokenkeep("get").ok().starts_with("mine."));
            }
        },
    );
}

#[test]
fn a_rekey_after_a_killed_rekey_leaves_a_record_that_the_profile_opens() {
    if !can_trace("power_loss::a_rekey_after_a_killed_rekey_leaves_a_record") {
        return;
    }
    let mut home = Scene::new(|home| {
        home.tokenkeep("init").ok();
        home.run(home.command("set"), &record("mine")).ok();
        home.tokenkeep("keygen -o new.txt").ok();
    });
    home.record(&home.command("rekey --identity new.txt"), "");
    home.kill(
        |home| {
            home.record(&home.command("rekey --identity new.txt"), "");
        },
        |home, _| assert!(home.tokenkeep("get").ok().starts_with("mine.")),
    );
}
