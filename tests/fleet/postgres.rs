//! Tests of PostgreSQL only: access rights, connections, and changes by an operator.

use std::path::Path;
use std::process::Command;

use tokenkeep::{AgeKey, AuthTokens, StoreError, StoreUrl, TokenStore, conformance};

use tokenkeep::store::Precondition;

use tokenkeep::stores::PostgresStore;

use crate::postgres_server::{PostgresServer, can_serve};
use crate::support::{Actor, block_on, program, scratch};
use crate::world::{Engine, World, eventually};

#[tokio::test]
async fn a_user_needs_only_the_documented_rights_and_the_error_names_missing_ones() {
    if !can_serve("a_user_needs_only_the_documented_rights_and_the_error_names_missing_ones") {
        return;
    }
    let world = World::on_postgres().await;
    let Engine::Postgres(_, database) = &world.engine else { unreachable!("it is PostgreSQL") };
    database.sql("CREATE ROLE app LOGIN");
    let key = AgeKey::identity_file(world.dir.path().join("key.txt"));
    let address = database.address("app", "127.0.0.1");
    let store = || PostgresStore::new(&address, "fleet", key.clone()).unwrap();

    let denied = store().load().await.unwrap_err();
    assert!(matches!(denied, StoreError::Denied { .. }), "{denied}");
    assert!(denied.to_string().contains("grant SELECT, INSERT and UPDATE"), "{denied}");
    store().create_table().await.expect("the table exists");

    database.sql("GRANT SELECT, INSERT, UPDATE ON tokenkeep TO app");
    conformance::check(store).await;

    database.sql("ALTER ROLE app SET default_transaction_read_only = on");
    let tokens = AuthTokens::new("access");
    let read_only = store().save(&tokens.clone().into(), Precondition::Anything).await.unwrap_err();
    assert!(matches!(read_only, StoreError::ReadOnly { .. }), "{read_only}");
    assert!(matches!(store().try_lease().await, Err(StoreError::ReadOnly { .. })));
    assert!(store().load().await.unwrap().is_none());

    database.sql("DROP TABLE tokenkeep");
    let missing = store().load().await.unwrap_err();
    assert!(missing.to_string().contains("create it with `tokenkeep init`"), "{missing}");
    database.sql("ALTER ROLE app RESET default_transaction_read_only");
    assert!(matches!(store().create_table().await, Err(StoreError::Denied { .. })));
}

#[test]
fn the_table_can_be_created_without_any_runtime() {
    if !can_serve("the_table_can_be_created_without_any_runtime") {
        return;
    }
    let server = PostgresServer::start();
    let database = block_on(server.database());
    assert_eq!(database.sql("SELECT count(*) FROM tokenkeep"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_with_a_higher_isolation_level_gets_conflicts_like_any_other() {
    if !can_serve("a_role_with_a_higher_isolation_level_gets_conflicts_like_any_other") {
        return;
    }
    let world = World::on_postgres().await;
    let Engine::Postgres(_, database) = &world.engine else { unreachable!("it is PostgreSQL") };
    for isolation in ["repeatable read", "serializable"] {
        database
            .sql(&format!("ALTER ROLE postgres SET default_transaction_isolation = '{isolation}'"));
        conformance::check(|| world.open()).await;
    }
}

#[tokio::test]
async fn an_abandoned_statement_is_cancelled() {
    if !can_serve("an_abandoned_statement_is_cancelled") {
        return;
    }
    let world = World::on_postgres().await;
    let Engine::Postgres(_, database) = &world.engine else { unreachable!("it is PostgreSQL") };
    let tokens = world.sign_in(60).await;
    let (store, login) = (world.open(), AuthTokens::new("a login that was given up"));
    let held_up = "SELECT count(*) FROM pg_stat_activity \
                   WHERE application_name = 'tokenkeep' AND wait_event_type = 'Lock'";
    let somebody = database.begin("SELECT 1 FROM tokenkeep FOR UPDATE");
    let error = store.save(&login.clone().into(), Precondition::Anything).await.unwrap_err();
    assert!(matches!(error, StoreError::Timeout { .. }), "{error}");
    let is_given_up = async || (database.sql(held_up) == "0").then_some(());
    eventually("the statement is given up", is_given_up).await;
    drop(somebody);
    assert_eq!(
        store.load().await.unwrap().unwrap().record.tokens,
        tokens,
        "the abandoned save was done later"
    );
    store.save(&login.clone().into(), Precondition::Anything).await.unwrap();
}

#[tokio::test]
async fn a_call_on_a_silent_connection_succeeds_on_another_one() {
    if !can_serve("a_call_on_a_silent_connection_succeeds_on_another_one") {
        return;
    }
    let world = World::on_postgres().await;
    let Engine::Postgres(_, database) = &world.engine else { unreachable!("it is PostgreSQL") };
    let (tokens, store) = (world.sign_in(60).await, world.open());
    let backends = "SELECT pid FROM pg_stat_activity WHERE application_name = 'tokenkeep'";
    store.load().await.unwrap();
    for backend in database.sql(backends).lines() {
        let stopped = Command::new("kill").args(["-STOP", backend]).status().unwrap();
        assert!(stopped.success());
    }
    assert_eq!(store.load().await.unwrap().unwrap().record.tokens, tokens);
    store.clear(Precondition::Anything).await.unwrap();
    for backend in database.sql(backends).lines() {
        let _ = Command::new("kill").args(["-CONT", backend]).status().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_at_once_get_all_of_their_answers() {
    if !can_serve("many_calls_at_once_get_all_of_their_answers") {
        return;
    }
    let world = World::on_postgres().await;
    let store = world.open();
    let tokens = AuthTokens::new("x".repeat(60_000));
    store.save(&tokens.clone().into(), Precondition::Anything).await.unwrap();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let store = store.clone();
        calls.spawn(async move { store.load().await.map(|stored| stored.unwrap().record.tokens) });
    }
    for loaded in calls.join_all().await {
        assert_eq!(loaded.unwrap(), tokens);
    }
}

#[tokio::test]
async fn a_slot_without_a_name_is_refused() {
    let dir = scratch();
    let key = AgeKey::create_identity_file(dir.path().join("key.txt")).await.unwrap();
    for slot in ["", "canary\n"] {
        let refused = PostgresStore::new("postgres://me@host/db", slot, key.clone()).unwrap_err();
        assert!(refused.to_string().contains("empty or contains control"), "{refused}");
    }
}

#[tokio::test]
async fn the_password_comes_from_the_password_file_and_the_error_for_a_wrong_one_names_it() {
    if !can_serve(
        "the_password_comes_from_the_password_file_and_the_error_for_a_wrong_one_names_it",
    ) {
        return;
    }
    let world = World::on_postgres().await;
    let Engine::Postgres(server, database) = &world.engine else {
        unreachable!("it is PostgreSQL")
    };
    database.sql("CREATE ROLE app LOGIN PASSWORD 'canary:\\'");
    database.sql("GRANT SELECT, INSERT, UPDATE ON tokenkeep TO app");
    server.write("pg_hba.conf", "host all postgres all trust\nhost all all all scram-sha-256\n");
    database.sql("SELECT pg_reload_conf()");
    let url = world.url.replace("postgres@", "app@");
    let ask = |passwords: &Path| {
        let mut command = Command::new(program("test-actor"));
        Actor::spawn(command.args(["--with-network", &url]).env("PGPASSFILE", passwords))
            .ask("load")
    };
    let passwords = world.dir.path().join("passwords");
    let write = |text: &str, mode: u32| {
        std::fs::write(&passwords, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&passwords, mode).unwrap();
    };
    let port = server.port();
    write(&format!("# ours\n*:{port}:*:app:canary\\:\\\\\n"), 0o600);
    assert_eq!(ask(&passwords), "ok none");
    for (text, mode, expected) in [
        ("*:*:*:app:another canary", 0o600, "$PGPASSFILE"),
        ("*:*:*:other:canary", 0o600, "$PGPASSFILE"),
        ("*:*:*:app:canary\\:\\\\", 0o644, "chmod"),
    ] {
        write(text, mode);
        let answer = ask(&passwords);
        assert!(answer.starts_with("error ") && answer.contains(expected), "{answer}");
        assert!(!answer.contains("canary"), "{answer}");
    }
}

#[tokio::test]
async fn a_missing_database_has_its_own_error() {
    if !can_serve("a_missing_database_has_its_own_error") {
        return;
    }
    let world = World::on_postgres().await;
    let Engine::Postgres(_, database) = &world.engine else { unreachable!("it is PostgreSQL") };
    let key = AgeKey::create_identity_file(world.dir.path().join("other.txt")).await.unwrap();
    let address = database.address("postgres", "127.0.0.1") + "none";
    let error = PostgresStore::new(&address, "fleet", key).unwrap().load().await.unwrap_err();
    assert!(
        error.to_string().ends_with("has no such database; create it with `createdb`"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_works_behind_a_pooler_with_transaction_pooling() {
    let test = "a_store_works_behind_a_pooler_with_transaction_pooling";
    if !can_serve(test) {
        return;
    }
    let mut world = World::on_postgres().await;
    let Engine::Postgres(server, _) = &world.engine else { unreachable!("it is PostgreSQL") };
    let pooler = server.start_pooler();
    let pooled = pooler.url(server, &world.url);
    let url = pooled.parse::<StoreUrl>().unwrap();
    conformance::check(|| url.open().unwrap()).await;

    world.url = pooled;
    world.sign_in(-1).await;
    let hosts: Vec<Actor> = (0..16).map(|_| world.actor()).collect();
    world.one_refreshes(hosts);
}

#[tokio::test]
async fn a_server_on_another_machine_must_prove_its_name() {
    if !can_serve("a_server_on_another_machine_must_prove_its_name") {
        return;
    }
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (certificate, key) = authority.sign("localhost");
    let mut server = PostgresServer::start();
    let database = server.database().await;
    let dir = scratch();
    let age = AgeKey::create_identity_file(dir.path().join("key.txt")).await.unwrap();
    let trusted = dir.path().join("trusted.pem");
    std::fs::write(&trusted, &authority.certificate).unwrap();
    // `localhost` counts as a name, because a resolver decides about its address.
    let store = |host: &str| {
        let address = database.address("postgres", host);
        let store = PostgresStore::new(&address, "fleet", age.clone()).unwrap();
        store.with_root_certificates(&trusted)
    };

    // A server without TLS is refused, also at an address of this machine: it may be a tunnel.
    for host in ["localhost", "127.0.0.1"] {
        assert!(matches!(store(host).load().await, Err(StoreError::Unavailable { .. })), "{host}");
    }

    server.write("server.crt", &certificate);
    server.write("server.key", &key);
    server.restart_with("ssl = on\nunix_socket_directories = ''\n");
    conformance::check(|| store("localhost")).await;
    // The certificate is only for `localhost`, and not for other names of this machine.
    let name = Command::new("hostname").output().unwrap();
    let name = String::from_utf8(name.stdout).unwrap();
    for host in [name.trim(), "127.0.0.1"] {
        let wrong = store(host).load().await.unwrap_err();
        assert!(wrong.to_string().contains("certificate"), "{host}: {wrong}");
    }
    // A certificate of another authority is refused.
    std::fs::write(&trusted, &stranger.certificate).unwrap();
    let wrong = store("localhost").load().await.unwrap_err();
    assert!(wrong.to_string().contains("certificate"), "{wrong}");
    // The system does not trust the certificate either.
    let address = database.address("postgres", "localhost");
    let wrong = PostgresStore::new(&address, "fleet", age.clone()).unwrap().load().await;
    assert!(matches!(wrong, Err(StoreError::Unavailable { .. })), "{wrong:?}");
    std::fs::write(&trusted, "canary").unwrap();
    let wrong = store("localhost").load().await.unwrap_err().to_string();
    assert!(wrong.contains("holds no certificates") && !wrong.contains("canary"), "{wrong}");
}

#[tokio::test]
async fn the_server_that_accepts_writes_is_found_among_several() {
    if !can_serve("the_server_that_accepts_writes_is_found_among_several") {
        return;
    }
    let world = World::on_postgres().await;
    let Engine::Postgres(primary, database) = &world.engine else {
        unreachable!("it is PostgreSQL")
    };
    let standby = primary.start_standby();
    let hosts = |one: &PostgresServer, other: &PostgresServer| {
        let hosts = format!("127.0.0.1:{},127.0.0.1:{}", one.port(), other.port());
        world.url.replace(&format!("127.0.0.1:{}", primary.port()), &hosts)
    };
    world.sign_in(60).await;
    let mut host = world.actor_on(&hosts(&standby, primary), -1);
    assert!(host.ask("refresh").starts_with("ok access-"), "the second server is used");

    // The standby server takes over, while the host is still connected to the first server.
    let tokens = world.stored().await;
    let url = world.url.replace(&format!(":{}/", primary.port()), &format!(":{}/", standby.port()));
    let behind = url.parse::<StoreUrl>().unwrap().open().unwrap();
    let has_followed =
        async || (behind.load().await.unwrap().unwrap().record.tokens == tokens).then_some(());
    eventually("the standby server has the tokens", has_followed).await;
    database.sql("ALTER SYSTEM SET default_transaction_read_only = on");
    database.sql("SELECT pg_reload_conf()");
    standby.promote();
    assert!(host.ask("refresh").starts_with("error ReadOnly"));
    let answer = host.ask("refresh");
    assert!(answer.starts_with("ok access-"), "{answer}");
    assert_eq!((world.provider.calls(), world.provider.replays()), (2, 0));

    // A server that accepts connections and never answers leaves enough time for the other one.
    primary.freeze();
    assert_eq!(world.actor_on(&hosts(primary, &standby), -1).ask("load"), answer);
    let away = world.actor_on(&hosts(primary, primary), -1).ask("load");
    assert!(away.starts_with("error Unavailable"), "{away}");
    assert!(away.contains("did not answer in time; 127.0.0.1"), "{away}");
}

#[tokio::test]
async fn a_row_that_the_operator_of_the_table_replaced_is_refused() {
    if !can_serve("a_row_that_the_operator_of_the_table_replaced_is_refused") {
        return;
    }
    let world = World::on_postgres().await;
    let Engine::Postgres(_, database) = &world.engine else { unreachable!("it is PostgreSQL") };
    let store = world.open();
    let tokens = AuthTokens::new("canary").with_refresh_token("canary refresh");
    store.save(&tokens.clone().into(), Precondition::Anything).await.unwrap();
    let held =
        database.sql("SELECT encode(record, 'escape') || coalesce(holder, '') FROM tokenkeep");
    assert!(!held.is_empty() && !held.contains("canary"), "{held}");
    world.open_other().save(&tokens.clone().into(), Precondition::Anything).await.unwrap();

    let put = |record: &str| {
        database.sql(&format!("UPDATE tokenkeep SET record = {record} WHERE slot = 'fleet'"));
    };
    for (record, expected) in [
        ("(SELECT record FROM tokenkeep WHERE slot = 'other')", "is not authentic"),
        ("'canary'", "its format is unknown"),
        ("substr(record, 1, length(record) - 1)", "is not authentic"),
        (
            "set_byte(record, length(record) - 1, get_byte(record, length(record) - 1) # 1)",
            "is not authentic",
        ),
        (
            "substr(record, 1, position('\\x0a' IN record)) || \
             'age-encryption.org/v1\n-> scrypt rF0/NwblUHHTpgQgRpe5CQ 30\n\
             gUjEymFKMVXQEKdMMHL24oYexjE3TIC0O0zGSqJ2aUY\n--- canary'",
            "it is not sealed to age keys only",
        ),
        ("decode(repeat('00', 200000), 'hex')", "is too large"),
    ] {
        database.sql("DELETE FROM tokenkeep WHERE slot = 'fleet'");
        // Like a process that has just started.
        let store = world.open();
        store.save(&tokens.clone().into(), Precondition::Anything).await.unwrap();
        put(record);
        for error in [
            store.load().await.unwrap_err(),
            world.open().load().await.unwrap_err(),
            world.open().save(&tokens.clone().into(), Precondition::Anything).await.unwrap_err(),
        ] {
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(expected) && !shown.contains("canary"), "{record}: {shown}");
        }
        store.clear(Precondition::Anything).await.unwrap();
        assert!(world.open().load().await.unwrap().is_none());
    }
    database.sql("ALTER TABLE tokenkeep DROP COLUMN holder");
    assert!(matches!(store.load().await, Err(StoreError::Unavailable { .. })));
}

#[tokio::test]
async fn with_tls_a_server_may_ask_for_the_password_itself() {
    if !can_serve("with_tls_a_server_may_ask_for_the_password_itself") {
        return;
    }
    let authority = Authority::new();
    let (certificate, key) = authority.sign("localhost");
    let mut server = PostgresServer::start();
    let database = server.database().await;
    let dir = scratch();
    let [identity, roots, passwords] =
        ["key.txt", "roots.pem", "passwords"].map(|name| dir.path().join(name));
    AgeKey::create_identity_file(&identity).await.unwrap();
    std::fs::write(&roots, &authority.certificate).unwrap();
    std::fs::write(&passwords, "*:*:*:*:canary\n").unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&passwords, private).unwrap();
    server.write("server.crt", &certificate);
    server.write("server.key", &key);
    let mut rules = String::from("host all postgres all trust\n");
    for method in ["password", "md5"] {
        database.sql(&format!(
            "SET password_encryption = md5; CREATE ROLE app_{method} LOGIN PASSWORD 'canary'; \
             GRANT SELECT, INSERT, UPDATE ON tokenkeep TO app_{method}"
        ));
        rules += &format!("hostssl all app_{method} all {method}\n");
    }
    server.write("pg_hba.conf", &rules);
    server.restart_with("ssl = on\nunix_socket_directories = ''\n");
    for method in ["password", "md5"] {
        let address = database.address(&format!("app_{method}"), "localhost");
        let url = format!(
            "{address}?slot=fleet&identity={}&sslrootcert={}",
            identity.display(),
            roots.display()
        );
        let mut command = Command::new(program("test-actor"));
        let command = command.args(["--with-network", &url]).env("PGPASSFILE", &passwords);
        let mut actor = Actor::spawn(command);
        assert_eq!(actor.ask("load"), "ok none", "{method}");
        // What it sends has limits there too.
        database.sql(
            "INSERT INTO tokenkeep VALUES ('fleet', 'r', decode(repeat('00', 2000000), 'hex'), 1)",
        );
        let refused = actor.ask("load");
        assert!(refused.contains("it sent more than an answer"), "{refused}");
        database.sql("DELETE FROM tokenkeep");
        assert_eq!(actor.ask("load"), "ok none", "{method}");
    }
}

/// A certificate authority for the servers.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    certificate: String,
}

impl Authority {
    fn new() -> Self {
        let mut parameters = rcgen::CertificateParams::default();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(parameters, key), certificate }
    }

    /// Returns a certificate for a name, and its key.
    fn sign(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}
