//! Saving, refreshing and clearing.

use std::fs;

use tokenkeep::chrono::Utc;
use tokenkeep::store::{Intent, Precondition};
use tokenkeep::{AuthError, RefreshFailure, TokenManager};

use super::record::Stage;
use super::scene::Scene;
use super::{block_on, goes_on, load, open, record, remains, save, tokens};
use crate::support::can_trace;
use crate::token_server::TokenServer;

const RECORD: &str = "var/state/tokenkeep/default.age";
const KEY: &str = "etc/config/keys/default.txt";

/// Returns a home with a profile that names an age file.
fn home() -> Scene {
    Scene::new(|home| {
        home.tokenkeep("init").ok();
    })
}

/// Runs `set`, and checks the tokens after each power cut.
fn set(mut home: Scene, line: &str, url: &str, old: Option<&str>) {
    home.record(&home.command(line), &record("new"));
    home.cut_power(|home, moment| {
        let found = load(url);
        if moment.1 >= Stage::Said {
            assert_eq!(found.as_deref(), Some("new"));
        } else {
            assert!(found.as_deref() == old || found.as_deref() == Some("new"), "{found:?}");
        }
        goes_on(home, url);
    });
}

#[test]
fn a_first_save_is_complete_or_missing_and_durable_once_the_command_has_said_so() {
    if can_trace("power_loss::a_first_save_is_complete_or_missing") {
        let home = home();
        let url = home.age(RECORD, KEY);
        set(home, "set", &url, None);
        let home = Scene::new(|_| {});
        let url = home.plaintext("several/new/directories/tokens.json");
        set(home, &format!("set --store {url}"), &url, None);
    }
}

#[test]
fn a_save_leaves_the_old_record_or_the_new_one() {
    if can_trace("power_loss::a_save_leaves_the_old_record_or_the_new_one") {
        let home = Scene::new(|home| {
            home.tokenkeep("init").ok();
            save(&home.age(RECORD, KEY), "old");
            // Files of writers that were killed before. The second name is of an earlier version.
            for left in ["0123456789abcdef.tmp", "tmp"] {
                fs::write(home.path(&format!("{RECORD}.{left}")), "half of a rec").unwrap();
            }
        });
        let url = home.age(RECORD, KEY);
        set(home, "set", &url, Some("old"));
        let home = Scene::new(|home| save(&home.plaintext("tokens.json"), "old"));
        let url = home.plaintext("tokens.json");
        set(home, &format!("set --store {url}"), &url, Some("old"));
    }
}

#[test]
fn a_clear_is_durable_once_the_command_has_said_so() {
    if !can_trace("power_loss::a_clear_is_durable_once_the_command_has_said_so") {
        return;
    }
    let mut home = Scene::new(|home| {
        let url = home.plaintext("tokens.json");
        save(&url, "old");
        block_on(async {
            let stored = open(&url).load().await.unwrap().unwrap();
            let mut record = stored.record;
            record.refresh.intent =
                record.tokens.refresh_token.as_ref().map(|token| Intent::new(token, Utc::now()));
            open(&url).save(&record, Precondition::Anything).await.unwrap();
        });
        for left in ["0123456789abcdef.tmp", "0123456789abcdef.next", "tmp"] {
            fs::copy(home.path("tokens.json"), home.path(&format!("tokens.json.{left}"))).unwrap();
        }
    });
    let url = home.plaintext("tokens.json");
    home.record(&home.command(&format!("clear --store {url}")), "");
    home.cut_power(|home, moment| {
        let found = load(&url);
        if moment.1 >= Stage::Said {
            assert_eq!(found, None);
            // Files of an interrupted write contain tokens too.
            assert!(remains(home).is_empty(), "{:?}", remains(home));
        } else {
            assert!([None, Some("old")].contains(&found.as_deref()), "{found:?}");
        }
        home.tokenkeep(&format!("clear --store {url}")).ok();
        assert!(load(&url).is_none() && remains(home).is_empty());
        goes_on(home, &url);
    });
}

/// Once the refresh token has been sent, it may be spent. A process that finds this token must find its
/// intent too.
#[test]
fn a_refresh_token_that_may_be_spent_has_an_intent_until_the_new_tokens_are_saved() {
    if !can_trace("power_loss::a_refresh_token_that_may_be_spent_has_an_intent") {
        return;
    }
    let server = TokenServer::start();
    let (access, refresh) = server.issue();
    let mut home = Scene::new(|home| {
        home.tokenkeep("init").ok();
        let profile = home.path("etc/config/profiles/default.toml");
        let store = fs::read_to_string(&profile).unwrap();
        let url = server.token_url();
        let text = format!("{store}[oauth2]\ntoken_url = \"{url}\"\nclient_id = \"app\"\n");
        fs::write(&profile, text).unwrap();
        let record = format!(
            r#"{{"access_token":"{access}","refresh_token":"{refresh}","expires_at":"2020-01-01T00:00:00Z"}}"#
        );
        home.run(home.command("set"), &record).ok();
        // A process was killed after it had allocated space for its new tokens.
        fs::write(home.path(&format!("{RECORD}.0123456789abcdef.next")), [0; 2000]).unwrap();
    });
    assert_eq!(home.record(&home.command("get"), ""), "access-canary-2\n");
    let url = home.age(RECORD, KEY);
    let (mut spent, mut with_intent) = (0, 0);
    home.cut_power(|home, moment| {
        if moment.1 >= Stage::Said {
            assert!(remains(home).is_empty(), "{:?}", remains(home));
        }
        let record = block_on(open(&url).load()).unwrap().expect("one of the records").record;
        let has_intent = record.intent().is_some();
        let found = record.tokens;
        let is_new = found.access_token.expose_secret() == "access-canary-2";
        assert!(is_new || found.access_token.expose_secret() == access);
        assert!(is_new || moment.1 < Stage::Said);
        if moment.1 >= Stage::Asked {
            // A server with rotation rejects the old token.
            let rejects = |_| async { Err(RefreshFailure::rejected("invalid_grant")) };
            let manager = TokenManager::builder().store(open(&url)).refresh_with(rejects).build();
            match block_on(manager.get_access_token()) {
                Ok(token) => assert!(is_new && token.expose_secret() == "access-canary-2"),
                Err(AuthError::RefreshTokenSpent { .. }) if !is_new => spent += 1,
                other => panic!("{other:?}"),
            }
        } else {
            with_intent += usize::from(has_intent);
        }
        block_on(open(&url).save(&tokens("later").into(), Precondition::Anything)).unwrap();
        assert_eq!(load(&url).as_deref(), Some("later"));
    });
    // Both kinds of states must occur.
    assert!(spent > 0 && with_intent > 0, "{spent}, {with_intent}");
    assert_eq!(server.calls(), 1);
}
