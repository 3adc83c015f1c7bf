//! A slot that several hosts share, and the provider of its tokens.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokenkeep::chrono::Utc;
use tokenkeep::store::Precondition;
use tokenkeep::{AgeKey, AuthTokens, StoreUrl, TokenStore};

use crate::bucket_server::{BucketServer, Protocol, in_environment, is_in_environment};
use crate::postgres_server::{Database, PostgresServer, can_serve};
use crate::provider::{Provider, minutes};
use crate::proxy::Proxy;
use crate::{Actor, program, scratch};

/// Waits for what a server or another process does in its own time. Panics if it takes longer than any lease
/// and any wait of this crate together.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    const PATIENCE: Duration = Duration::from_secs(150);

    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub struct World {
    pub engine: Engine,
    pub provider: Provider,
    /// The address of the provider for other processes.
    issuer: String,
    pub url: String,
    pub dir: TempDir,
}

/// The server with the slot. The name of the slot is `fleet`.
pub enum Engine {
    Bucket(BucketServer),
    Postgres(PostgresServer, Database),
}

/// Runs a test on each engine that is installed. Tests on buckets run in a process with credentials.
pub async fn on_each_engine(test: &str, check: impl AsyncFn(World)) {
    if !is_in_environment() && can_serve(test) {
        check(World::on_postgres().await).await;
    }
    if in_environment(test) {
        for protocol in [Protocol::Azure, Protocol::S3] {
            if protocol.is_here(test) {
                check(World::on_bucket(protocol).await).await;
            }
        }
    }
}

impl World {
    pub async fn on_postgres() -> Self {
        let server = PostgresServer::start();
        let database = server.database().await;
        Self::new(Engine::Postgres(server, database)).await
    }

    pub async fn on_s3() -> Self {
        Self::on_bucket(Protocol::S3).await
    }

    async fn on_bucket(protocol: Protocol) -> Self {
        Self::new(Engine::Bucket(BucketServer::start(protocol))).await
    }

    async fn new(engine: Engine) -> Self {
        let dir = scratch();
        let identity = dir.path().join("key.txt");
        AgeKey::create_identity_file(&identity).await.unwrap();
        let provider = Provider::default();
        let url = match &engine {
            Engine::Postgres(_, database) => database.url("fleet", &identity),
            Engine::Bucket(server) => server.url("fleet", &identity),
        };
        Self { engine, issuer: provider.listen(), provider, url, dir }
    }

    /// Opens the slot, as another process does.
    pub fn open(&self) -> Arc<dyn TokenStore> {
        self.url.parse::<StoreUrl>().unwrap().open().unwrap()
    }

    /// Opens another slot on the same server, with the same key.
    pub fn open_other(&self) -> Arc<dyn TokenStore> {
        let url = self.url.replace("slot=fleet", "slot=other").replace("/fleet?", "/other?");
        assert_ne!(url, self.url);
        url.parse::<StoreUrl>().unwrap().open().unwrap()
    }

    /// Signs in. The access token is valid for this many minutes, and later ones are valid for an hour.
    pub async fn sign_in(&self, good_for: i64) -> AuthTokens {
        let tokens = self.provider.sign_in(minutes(Utc::now(), good_for));
        self.open().save(&tokens.clone().into(), Precondition::Anything).await.unwrap();
        self.provider.issue_until(minutes(Utc::now(), 60));
        tokens
    }

    pub async fn stored(&self) -> AuthTokens {
        self.open().load().await.unwrap().expect("tokens").record.tokens
    }

    /// Starts a host of the fleet.
    pub fn actor(&self) -> Actor {
        Actor::spawn(&mut self.command(-1))
    }

    pub fn killed_at(&self, kill_at: i64) -> Actor {
        Actor::spawn(&mut self.command(kill_at))
    }

    /// Starts a host whose clock is wrong by this offset.
    pub fn actor_at(&self, offset: &str) -> Actor {
        let command = self.command(-1);
        let mut skewed = Command::new("faketime");
        skewed.args(["-f", offset]).arg(command.get_program()).args(command.get_args());
        // Timers use the monotonic clock, which is not changed.
        skewed.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("TEST_SERVER", &self.issuer);
        Actor::spawn(&mut skewed)
    }

    /// Returns another URL of the slot, and the proxy that can interrupt its connections.
    pub fn url_by_a_proxy(&self) -> (String, Proxy) {
        let (proxy, port) = match &self.engine {
            Engine::Postgres(server, _) => {
                (Proxy::of_bytes(([127, 0, 0, 1], server.port()).into()), server.port())
            }
            Engine::Bucket(server) => (Proxy::to(server.address()), server.proxy.address().port()),
        };
        let (direct, by_proxy) = (format!(":{port}"), format!(":{}", proxy.address().port()));
        let url = self.url.replace(&direct, &by_proxy);
        assert_ne!(url, self.url);
        (url, proxy)
    }

    /// Starts a host behind a proxy that can interrupt its connections.
    pub fn actor_behind_a_proxy(&self) -> (Actor, Proxy) {
        let (url, proxy) = self.url_by_a_proxy();
        (self.actor_on(&url, -1), proxy)
    }

    /// Starts a host that works on another store.
    pub fn actor_on(&self, url: &str, kill_at: i64) -> Actor {
        Actor::spawn(&mut self.command_on(url, kill_at))
    }

    fn command(&self, kill_at: i64) -> Command {
        self.command_on(&self.url, kill_at)
    }

    fn command_on(&self, url: &str, kill_at: i64) -> Command {
        let mut command = Command::new(program("test-actor"));
        command.args(["--with-network", url, &kill_at.to_string()]);
        command.env("TEST_SERVER", &self.issuer);
        command
    }

    /// Makes all of these hosts ask for the token at once, and checks that one of them refreshes it.
    pub fn one_refreshes(&self, mut hosts: Vec<Actor>) {
        for host in &mut hosts {
            host.send("access");
        }
        let first = hosts[0].answer().unwrap();
        assert!(first.starts_with("ok access-"), "{first}");
        for host in &mut hosts[1..] {
            assert_eq!(host.answer().unwrap(), first, "all hosts have the same token");
        }
        assert_eq!((self.provider.calls(), self.provider.replays()), (1, 0));
    }

    /// Returns a host that was stopped while it refreshed. Its lease has ended, the refresh token is spent,
    /// and only this host can get the new one.
    pub async fn stopped_in_mid_refresh(&self) -> Actor {
        self.sign_in(-1).await;
        self.provider.hold();
        let mut stopped = self.actor();
        stopped.send("access");
        self.provider.wait_for_calls(1);
        stopped.signal("STOP");
        self.provider.let_through();
        self.end_lease();
        stopped
    }

    /// Sets the end of the lease to now. If the holder may have new tokens, other processes still wait for it
    /// for some seconds.
    pub fn end_lease(&self) {
        match &self.engine {
            Engine::Postgres(_, database) => {
                database.sql("UPDATE tokenkeep SET lease_until = clock_timestamp()");
            }
            Engine::Bucket(server) => {
                server.edit("fleet", |head| head["lease"]["lasts_ms"] = 0.into());
            }
        }
    }

    /// Removes the lease, as if other processes had waited long enough for its holder.
    pub fn give_up_lease(&self) {
        match &self.engine {
            Engine::Postgres(_, database) => {
                database.sql("UPDATE tokenkeep SET holder = NULL, lease_until = NULL");
            }
            Engine::Bucket(server) => server.edit("fleet", |head| head["lease"] = Value::Null),
        }
    }

    pub fn bucket(&self) -> &BucketServer {
        match &self.engine {
            Engine::Bucket(server) => server,
            Engine::Postgres(..) => panic!("it is PostgreSQL"),
        }
    }

    /// Makes the server unreachable.
    pub fn stop(&mut self) {
        match &mut self.engine {
            Engine::Postgres(server, _) => server.stop(),
            Engine::Bucket(server) => server.stop(),
        }
    }

    pub fn go_on(&mut self) {
        match &mut self.engine {
            Engine::Postgres(server, _) => server.go_on(),
            Engine::Bucket(server) => server.go_on(),
        }
    }

    /// Makes a backup of the data of the server.
    pub fn back_up(&self) -> Vec<u8> {
        match &self.engine {
            Engine::Postgres(server, database) => server.dump(database).into_bytes(),
            Engine::Bucket(server) => server.object("fleet"),
        }
    }

    pub fn restore(&self, backup: &[u8]) {
        match &self.engine {
            Engine::Postgres(_, database) => {
                database.sql(std::str::from_utf8(backup).unwrap());
            }
            Engine::Bucket(server) => server.put_object("fleet", backup),
        }
    }

    /// Deletes the slot, as an operator can.
    pub fn delete(&self) {
        match &self.engine {
            Engine::Postgres(_, database) => {
                database.sql("DELETE FROM tokenkeep WHERE slot = 'fleet'");
            }
            Engine::Bucket(server) => server.delete_object("fleet"),
        }
    }
}
