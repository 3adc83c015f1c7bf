//! Every store of a fleet behaves like any other store.

use tokenkeep::{AgeKey, AuthTokens, StoreUrl, TokenStore, conformance};

use tokenkeep::store::Precondition;

use tokenkeep::stores::{AgeFileStore, PlaintextStore};

use tokenkeep::transfer::{TransferError, migrate};

use crate::session::Session;
use crate::support::{Actor, available, program};
use crate::world::{World, on_each_engine};

#[tokio::test(flavor = "multi_thread")]
async fn each_store_conforms() {
    let test = "contract::each_store_conforms";
    on_each_engine(test, async |world: World| {
        conformance::check(|| world.open()).await;
        // The same in its own process.
        assert_eq!(world.actor().ask("conformance"), "ok conforms");
    })
    .await;
}

#[tokio::test]
async fn tokens_move_to_a_server_and_back_from_every_kind_of_file() {
    let test = "contract::tokens_move_to_a_server_and_back_from_every_kind_of_file";
    on_each_engine(test, async |world: World| {
        let key = AgeKey::create_identity_file(world.dir.path().join("own.txt")).await.unwrap();
        let files: [Box<dyn TokenStore>; 2] = [
            Box::new(PlaintextStore::new(world.dir.path().join("a/tokens.json"))),
            Box::new(AgeFileStore::new(world.dir.path().join("b/tokens.age"), key)),
        ];
        let (shared, other) = (world.open(), world.open_other());
        for file in files {
            let tokens = AuthTokens::new("access").with_refresh_token("refresh");
            file.save(&tokens.clone().into(), Precondition::Absent).await.unwrap();
            assert!(migrate(&file, &shared).await.unwrap().moved);
            assert!(file.load().await.unwrap().is_none());
            assert!(migrate(&shared, &other).await.unwrap().moved);
            assert!(migrate(&other, &file).await.unwrap().moved);
            assert!(other.load().await.unwrap().is_none());
            assert!(shared.load().await.unwrap().is_none());
            assert_eq!(file.load().await.unwrap().unwrap().record.tokens, tokens);
        }
        assert!(migrate(&shared, &world.open()).await.is_err(), "they are one slot");
    })
    .await;
}

#[tokio::test]
async fn a_migration_killed_at_any_step_is_completed_by_the_next_one() {
    let test = "contract::a_migration_killed_at_any_step_is_completed_by_the_next_one";
    on_each_engine(test, async |world: World| {
        let file = world.dir.path().join("tokens.json");
        let plaintext = PlaintextStore::new(&file);
        let tokens = AuthTokens::new("access").with_refresh_token("refresh");
        let at_server =
            || async { world.open().load().await.unwrap().map(|found| found.record.tokens) };
        let at_home = || async { plaintext.load().await.unwrap().map(|found| found.record.tokens) };
        let urls = [format!("plaintext:{}", file.display()), world.url.clone()];
        let mut killed = 0;
        for (from, to) in [(0, 1), (1, 0)] {
            for kill_at in 0.. {
                plaintext.clear(Precondition::Anything).await.unwrap();
                world.open().clear(Precondition::Anything).await.unwrap();
                let server = world.open();
                let source = [&plaintext as &dyn TokenStore, &server][from];
                source.save(&tokens.clone().into(), Precondition::Absent).await.unwrap();
                let command = format!("migrate {}", urls[to]);
                let mut actor = world.actor_on(&urls[from], kill_at);
                actor.send(&command);
                let survived = actor.answer().is_some();
                let found = [at_home().await, at_server().await];
                assert!(found.contains(&Some(tokens.clone())), "killed at {kill_at}");

                // The lease of a lost machine ends by itself.
                world.give_up_lease();
                let answer = world.actor_on(&urls[from], -1).ask(&command);
                assert!(answer.starts_with("ok ") || survived, "killed at {kill_at}: {answer}");
                let mut found = [at_home().await, at_server().await];
                found.rotate_left(from);
                assert_eq!(found, [None, Some(tokens.clone())], "killed at {kill_at}");
                if survived {
                    break;
                }
                killed += 1;
            }
        }
        assert!(killed > 20, "{killed}");
    })
    .await;
}

#[tokio::test]
async fn tokens_move_from_the_keychain_to_a_server_and_back() {
    let test = "contract::tokens_move_from_the_keychain_to_a_server_and_back";
    if !available(test, "gnome-keyring-daemon") || !available(test, "dbus-daemon") {
        return;
    }
    on_each_engine(test, async |world: World| {
        let session = Session::with_keychain();
        let keychain = "keychain:tokenkeep-test/alice";
        let actor = |url: &str| {
            Actor::spawn(session.command(program("test-actor")).args(["--with-network", url]))
        };
        let mut local = actor(keychain);
        assert_eq!(local.ask("save one anything"), "ok saved");
        assert_eq!(local.ask(&format!("migrate {}", world.url)), "ok moved");
        assert_eq!(local.ask("load"), "ok none");
        assert_eq!(world.stored().await.access_token.expose_secret(), "one");
        let mut shared = actor(&world.url);
        assert_eq!(shared.ask(&format!("migrate {keychain}")), "ok moved");
        assert_eq!(shared.ask("load"), "ok none");
        assert_eq!(local.ask("load"), "ok one");
        // The key of the slot can be in the keychain too. It is created with the first record.
        let (url, _) = world.url.split_once("identity=").unwrap();
        let mut keyed = actor(&format!("{url}identity=keychain:tokenkeep-test/fleet"));
        assert_eq!(keyed.ask("clear"), "ok cleared");
        assert_eq!(keyed.ask("save two anything"), "ok saved");
        assert_eq!(keyed.ask("load"), "ok two");
    })
    .await;
}

#[tokio::test]
async fn tokens_move_from_one_kind_of_server_to_another() {
    let test = "contract::tokens_move_from_one_kind_of_server_to_another";
    // `on_each_engine` uses only one of these kinds of servers in each process.
    if !crate::bucket_server::can_serve_s3(test) || !crate::postgres_server::can_serve(test) {
        return;
    }
    let (database, bucket) = (World::on_postgres().await, World::on_s3().await);
    let tokens = AuthTokens::new("access").with_refresh_token("refresh");
    database.open().save(&tokens.clone().into(), Precondition::Absent).await.unwrap();
    assert!(migrate(&database.open(), &bucket.open()).await.unwrap().moved);
    assert!(database.open().load().await.unwrap().is_none());
    assert!(migrate(&bucket.open(), &database.open()).await.unwrap().moved);
    assert_eq!(database.stored().await, tokens);
}

#[tokio::test]
async fn a_slot_with_the_wrong_key_is_an_error_and_keeps_its_record() {
    let test = "contract::a_slot_with_the_wrong_key_is_an_error_and_keeps_its_record";
    on_each_engine(test, async |world: World| {
        world.sign_in(60).await;
        let before = world.stored().await;
        let identity = world.dir.path().join("other.txt");
        AgeKey::create_identity_file(&identity).await.unwrap();
        let url = world.url.replace("key.txt", "other.txt").parse::<StoreUrl>().unwrap();
        let wrong = url.open().unwrap();
        let tokens = AuthTokens::new("access");
        for error in [
            wrong.load().await.unwrap_err(),
            wrong.save(&tokens.clone().into(), Precondition::Anything).await.unwrap_err(),
        ] {
            assert!(error.to_string().contains("other.txt"), "{error}");
        }
        assert_eq!(world.stored().await, before);
    })
    .await;
}

#[tokio::test]
async fn a_migration_from_a_slot_to_itself_through_another_url_is_refused() {
    if !crate::postgres_server::can_serve(
        "a_migration_from_a_slot_to_itself_through_another_url_is_refused",
    ) {
        return;
    }
    let world = World::on_postgres().await;
    let tokens = world.sign_in(60).await;
    let (url, _proxy) = world.url_by_a_proxy();
    let (one, other) = (world.open(), url.parse::<StoreUrl>().unwrap().open().unwrap());
    assert_ne!(one.slot(), other.slot());
    assert_eq!(other.load().await.unwrap().unwrap().record.tokens, tokens);
    // The lease is held through the first URL, so it cannot be taken through the second one.
    let refused = migrate(&one, &other).await.unwrap_err();
    assert!(matches!(refused, TransferError::Busy { .. }), "{refused}");
    assert_eq!(world.stored().await, tokens, "nothing is lost");
}
