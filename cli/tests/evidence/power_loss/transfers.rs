//! Power cuts while tokens are moved and copied.

use tokenkeep::AgeKey;

use tokenkeep::migrate;

use super::record::Stage;
use super::scene::Scene;
use super::{block_on, goes_on, load, open, remains, save};
use crate::support::can_trace;

/// Returns a home with two keys.
pub(super) fn home(prepare: impl FnOnce(&Scene)) -> Scene {
    Scene::new(|home| {
        for key in ["one.txt", "two.txt"] {
            block_on(AgeKey::create_identity_file(home.path(key))).unwrap();
        }
        prepare(home);
    })
}

/// Fails unless at least one store has the tokens and the move can be completed.
pub(super) fn check_move(home: &Scene, from: &str, to: &str, is_done: bool) {
    let sides = [load(from), load(to)];
    let mine = Some("mine".to_owned());
    assert!(sides.iter().all(|side| side.is_none() || *side == mine), "{sides:?}");
    assert!(sides.contains(&mine), "the tokens are lost");
    if is_done {
        assert_eq!(sides, [None, mine.clone()]);
    }
    block_on(migrate(&open(from), &open(to))).unwrap();
    assert_eq!([load(from), load(to)], [None, mine]);
    goes_on(home, to);
}

#[test]
fn moved_tokens_are_in_at_least_one_store_and_the_move_completes() {
    if !can_trace("power_loss::moved_tokens_are_in_at_least_one_store_and_the_move_completes") {
        return;
    }
    type Url = fn(&Scene) -> String;
    let plaintext: Url = |home| home.plaintext("from/tokens.json");
    let [one, two]: [Url; 2] = [
        |home| home.age("from/tokens.age", "one.txt"),
        |home| home.age("new/directory/tokens.age", "two.txt"),
    ];
    let new_plaintext: Url = |home| home.plaintext("new/directory/tokens.json");
    for (from, to) in [(plaintext, two), (one, new_plaintext), (one, two)] {
        let mut home = home(|home| save(&from(home), "mine"));
        let (from, to) = (from(&home), to(&home));
        home.record(&home.command(&format!("migrate --from {from} --to {to}")), "");
        home.cut_power(|home, moment| check_move(home, &from, &to, moment.1 >= Stage::Said));
    }
}

/// Returns a scene that moves the tokens of a profile, the source and the target, and the command line.
pub(super) fn a_moved_profile() -> (Scene, [String; 2], String) {
    let mut home = Scene::new(|home| {
        home.tokenkeep("keygen -o one.txt").ok();
        home.tokenkeep("init --store plaintext:tokens.json").ok();
        save(&home.plaintext("tokens.json"), "mine");
    });
    let (from, to) = (home.plaintext("tokens.json"), home.age("new/tokens.age", "one.txt"));
    let order = format!("migrate --to {to}");
    home.record(&home.command(&order), "");
    (home, [from, to], order)
}

#[test]
fn a_profile_names_the_tokens_that_were_moved_or_the_move_completes() {
    if !can_trace("power_loss::a_profile_names_the_tokens_that_were_moved") {
        return;
    }
    let (home, [from, to], order) = a_moved_profile();
    home.cut_power(|home, moment| {
        if moment.1 < Stage::Ended {
            let again = home.tokenkeep(&order);
            // If the second run fails, the profile already names the target.
            assert!(again.code == Some(0) || again.err.contains("the same slot"), "{again:?}");
        }
        assert!(home.tokenkeep("get").ok().starts_with("mine."));
        assert_eq!([load(&from), load(&to)], [None, Some("mine".into())]);
        goes_on(home, &to);
    });
}

#[test]
fn a_backup_is_complete_or_missing_and_its_source_stays() {
    if !can_trace("power_loss::a_backup_is_complete_or_missing") {
        return;
    }
    for earlier in [None, Some("backup of earlier")] {
        let mut home = home(|home| {
            let (from, to) =
                (home.plaintext("tokens.json"), home.age("away/backup.age", "one.txt"));
            if earlier.is_some() {
                save(&from, "earlier");
                block_on(tokenkeep::transfer::backup(&open(&from), &open(&to))).unwrap();
            }
            save(&from, "mine");
        });
        let (from, to) = (home.plaintext("tokens.json"), home.age("away/backup.age", "one.txt"));
        let order = format!("backup --store {from} --to {to}");
        home.record(&home.command(&order), "");
        home.cut_power(|home, moment| {
            assert_eq!(load(&from).as_deref(), Some("mine"));
            let copy = load(&to);
            let is_done = copy.as_deref() == Some("backup of mine");
            assert!(is_done || (copy.as_deref() == earlier && moment.1 < Stage::Said), "{copy:?}");
            home.tokenkeep(&order).ok();
            assert_eq!(load(&to).as_deref(), Some("backup of mine"));
            assert!(remains(home).is_empty(), "{:?}", remains(home));
        });
    }
}

#[test]
fn restored_tokens_are_complete_or_missing_and_the_backup_stays() {
    if !can_trace("power_loss::restored_tokens_are_complete_or_missing") {
        return;
    }
    let mut home = home(|home| {
        let (from, to) = (home.plaintext("tokens.json"), home.age("backup.age", "one.txt"));
        save(&from, "mine");
        block_on(tokenkeep::transfer::backup(&open(&from), &open(&to))).unwrap();
        block_on(open(&from).clear(tokenkeep::store::Precondition::Anything)).unwrap();
    });
    let (from, to) = (home.age("backup.age", "one.txt"), home.age("new/tokens.age", "two.txt"));
    let order = format!("restore --store {to} --from {from}");
    home.record(&home.command(&order), "");
    home.cut_power(|home, moment| {
        assert_eq!(load(&from).as_deref(), Some("backup of mine"));
        let found = load(&to);
        let is_done = found.as_deref() == Some("mine");
        assert!(is_done || (found.is_none() && moment.1 < Stage::Said), "{found:?}");
        home.tokenkeep(&order).ok();
        assert_eq!(load(&to).as_deref(), Some("mine"));
        goes_on(home, &to);
    });
}
