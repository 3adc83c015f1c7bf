//! Keys, records that are sealed to them, and profiles that name both.

use std::fs;

use tokenkeep::AgeKey;

use super::record::Stage;
use super::scene::{Moment, Scene};
use super::{block_on, goes_on, load, record, save, try_load};
use crate::support::can_trace;

#[test]
fn a_key_is_complete_or_missing_and_durable_once_the_command_has_said_so() {
    if !can_trace("power_loss::a_key_is_complete_or_missing") {
        return;
    }
    let mut home = Scene::new(|_| {});
    home.record(&home.command("keygen -o keys/new/key.txt"), "");
    home.cut_power(|home, moment| {
        let path = home.path("keys/new/key.txt");
        assert!(path.exists() || moment.1 < Stage::Said, "the command has reported the key");
        if !path.exists() {
            home.tokenkeep("keygen -o keys/new/key.txt").ok();
        }
        assert_eq!(block_on(AgeKey::identity_file(&path).recipients()).unwrap().len(), 1);
        // The key can seal a record, and open it.
        save(&home.age("tokens.age", "keys/new/key.txt"), "mine");
        assert_eq!(load(&home.age("tokens.age", "keys/new/key.txt")).as_deref(), Some("mine"));
    });
}

#[test]
fn a_new_profile_is_durable_or_a_second_init_makes_it() {
    if !can_trace("power_loss::a_new_profile_is_durable_or_a_second_init_makes_it") {
        return;
    }
    let mut home = Scene::new(|_| {});
    home.record(&home.command("init"), "");
    home.cut_power(|home, moment| {
        if moment.1 >= Stage::Said {
            // There are no tokens, but there is a profile.
            assert_eq!(home.tokenkeep("get").code, Some(3));
        } else {
            let again = home.tokenkeep("init");
            assert!([Some(0), Some(7)].contains(&again.code), "{again:?}");
        }
        home.run(home.command("set"), &record("mine")).ok();
        assert!(home.tokenkeep("get").ok().starts_with("mine."));
    });
}

/// Cuts the power at any moment after `set`. No command may assume that the disk has meanwhile saved the
/// changes of an earlier command.
#[test]
fn tokens_are_durable_together_with_their_profile_and_their_key() {
    if !can_trace("power_loss::tokens_are_durable_together_with_their_profile_and_their_key") {
        return;
    }
    let mut home = Scene::new(|_| {});
    home.record(&home.command("init"), "");
    home.record(&home.command("set"), &record("mine"));
    home.record(&home.command("keygen -o new/key.txt"), "");
    home.record(&home.command("rekey --identity new/key.txt"), "");
    home.cut_power_from(Moment(2, Stage::Ended), |home, _| {
        assert!(home.tokenkeep("get").ok().starts_with("mine."));
    });
}

#[test]
fn the_store_that_a_program_had_chosen_is_found_again_with_its_tokens() {
    if !can_trace("power_loss::the_store_that_a_program_had_chosen_is_found_again") {
        return;
    }
    let mut home = Scene::new(|_| {});
    let orders = "open-default key-file\nsave mine absent\n";
    let said = home.record(&home.actor("memory:"), orders);
    assert!(said.ends_with("ok saved\n"), "{said}");
    home.cut_power(|home, moment| {
        let orders = "open-default key-file\nload\nsave later anything\nload\n";
        let said = home.run(home.actor("memory:"), orders).ok();
        let said: Vec<_> = said.lines().collect();
        assert!(said[0].starts_with("ok age:"), "{said:?}");
        let is_there = said[1] == "ok mine";
        assert!(is_there || (said[1] == "ok none" && moment.1 < Stage::Said), "{said:?}");
        assert_eq!(said[2..], ["ok saved", "ok later"]);
    });
}

#[test]
fn the_key_that_a_profile_names_opens_the_file_at_any_time_of_a_rekey() {
    if !can_trace("power_loss::the_key_that_a_profile_names_opens_the_file_at_any_time_of_a_rekey")
    {
        return;
    }
    let mut home = Scene::new(|home| {
        home.tokenkeep("init").ok();
        home.run(home.command("set"), &record("mine")).ok();
        home.tokenkeep("keygen -o new.txt").ok();
    });
    let sealed = "var/state/tokenkeep/default.age";
    let old = home.age(sealed, "etc/config/keys/default.txt");
    let new = home.age(sealed, "new.txt");
    home.record(&home.command("rekey --identity new.txt"), "");
    home.cut_power(|home, moment| {
        assert!(home.tokenkeep("get").ok().starts_with("mine."));
        if moment.1 < Stage::Said {
            home.tokenkeep("rekey --identity new.txt").ok();
            assert!(home.tokenkeep("get").ok().starts_with("mine."));
        }
        try_load(&old).unwrap_err();
        let profile = fs::read_to_string(home.path("etc/config/profiles/default.toml")).unwrap();
        assert!(profile.contains("new.txt"), "{profile}");
        assert_eq!(load(&new).as_deref(), Some("mine"));
        goes_on(home, &new);
    });
}
