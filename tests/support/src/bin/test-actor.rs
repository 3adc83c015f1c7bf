//! A process for the tests. It reads orders for one store from standard input, one on each line, and answers
//! each with one line.
//!
//! `test-actor [--allow-prompts] [--with-network] [--without-runtime] STORE_URL [KILL_AT]`: with the number
//! `KILL_AT`, the process kills itself at that operation of a store.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "it is part of the tests, and its tokens are made up"
)]

use std::fmt;
use std::io::{self, BufRead, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::task::{Context, Wake};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tokenkeep::{
    AgeKey, AuthTokens, RefreshFailure, StoreError, StoreUrl, TokenManager, TokenStore,
    async_trait, chrono, conformance,
};

use tokenkeep::oauth2::OAuth2Client;
use tokenkeep::refresh::{RefreshPermit, TokenRefresher};
use tokenkeep::store::{Intent, Lease, Precondition, Record, Revision, Stored};

use tokenkeep::transfer::{
    Overwrite, TransferError, backup, migrate, rekey, restore, wait_for_lease,
};
use tokio::sync::mpsc::UnboundedReceiver;

type Store = Arc<dyn TokenStore>;
type Answer = Result<String, Box<dyn std::error::Error>>;

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut given = |option: &str| {
        let count = arguments.len();
        arguments.retain(|argument| argument != option);
        arguments.len() < count
    };
    ALLOW_PROMPTS.store(given("--allow-prompts"), Ordering::SeqCst);
    let with_network = given("--with-network");
    if given("--without-runtime") {
        return block_on(run(arguments, None));
    }
    // Only one thread blocks at a time, so that each system call has the same number in each run.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let mut lines = None;
    if with_network {
        runtime.enable_all();
        // Between two lines, background tasks continue.
        let (send, receive) = tokio::sync::mpsc::unbounded_channel();
        thread::spawn(move || io::stdin().lines().all(|line| send.send(line.unwrap()).is_ok()));
        lines = Some(receive);
    }
    runtime.max_blocking_threads(1).build().unwrap().block_on(run(arguments, lines));
}

/// A minimal executor without tokio.
fn block_on(future: impl Future<Output = ()>) {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Arc::new(Unpark(thread::current())).into();
    let mut future = std::pin::pin!(future);
    while future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        thread::park();
    }
}

/// Carries out the orders. If `lines` is `None`, this thread reads them from standard input itself.
async fn run(arguments: Vec<String>, mut lines: Option<UnboundedReceiver<String>>) {
    let mut arguments = arguments.into_iter();
    let url = arguments.next().expect("a store");
    let kill_at: i64 = arguments.next().map_or(-1, |number| number.parse().unwrap());
    KILL_AT.store(kill_at, Ordering::SeqCst);

    let mut actor = Actor {
        store: open(&url),
        url,
        manager: std::cell::OnceCell::new(),
        lease: None,
        last: None,
    };
    loop {
        let line = match &mut lines {
            Some(lines) => lines.recv().await,
            None => io::stdin().lines().next().map(Result::unwrap),
        };
        let Some(line) = line else { break };
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match actor.act(&words).await {
            Ok(done) => format!("ok {done}"),
            Err(error) => {
                let debug = format!("{error:?}");
                let kind = debug.split([' ', '(', '{']).next().unwrap();
                let kind = if kind == "Store" {
                    debug.split(['(', ' ', '{']).nth(1).unwrap()
                } else {
                    kind
                };
                format!("error {kind}: {error}")
            }
        };
        println!("{answer}");
        io::stdout().flush().unwrap();
    }
}

struct Actor {
    url: String,
    store: Store,
    manager: std::cell::OnceCell<TokenManager>,
    lease: Option<Box<dyn Lease>>,
    last: Option<Revision>,
}

impl Actor {
    /// Returns a manager that refreshes at the server of the test, and in which the process can be killed.
    fn manager(&self) -> &TokenManager {
        self.manager.get_or_init(|| {
            let server = std::env::var("TEST_SERVER").expect("a server");
            let ask = move |current: AuthTokens| {
                let server = server.clone();
                async move {
                    live_on();
                    let asked = tokio::task::spawn_blocking(move || ask(&server, &current)).await;
                    live_on();
                    asked.unwrap()
                }
            };
            TokenManager::builder().store(killing(&self.store)).refresh_with(ask).build()
        })
    }

    async fn act(&mut self, words: &[&str]) -> Answer {
        match words {
            ["load"] => {
                let stored = self.store.load().await?;
                self.last = stored.as_ref().map(|stored| stored.revision.clone());
                Ok(stored.map_or_else(|| "none".into(), |stored| describe(&stored.record.tokens)))
            }
            ["save", name, precondition] => {
                let precondition = match (*precondition, &self.last) {
                    ("absent", _) => Precondition::Absent,
                    ("last", Some(revision)) => Precondition::Unchanged(revision.clone()),
                    ("anything", _) => Precondition::Anything,
                    _ => panic!("unknown expectation {precondition}"),
                };
                self.last = Some(self.store.save(&tokens(name).into(), precondition).await?);
                Ok("saved".into())
            }
            // Tokens whose access token has expired.
            ["save-expired", name] => {
                let tokens = tokens(name).with_expires_at(chrono::DateTime::UNIX_EPOCH);
                self.store.save(&tokens.clone().into(), Precondition::Anything).await?;
                Ok("saved".into())
            }
            // A record of about this many bytes.
            ["fill", bytes] => {
                let tokens = AuthTokens::new("x".repeat(bytes.parse()?));
                self.store.save(&tokens.clone().into(), Precondition::Anything).await?;
                Ok("saved".into())
            }
            ["access"] => {
                let token = self.manager().get_access_token().await?;
                Ok(token.expose_secret().to_owned())
            }
            ["refresh"] => {
                let tokens = self.manager().refresh().await?;
                Ok(tokens.access_token.expose_secret().to_owned())
            }
            ["clear", "last"] => {
                let last = self.last.clone().expect("a revision");
                self.store.clear(Precondition::Unchanged(last)).await?;
                Ok("cleared".into())
            }
            ["clear"] => {
                self.store.clear(Precondition::Anything).await?;
                Ok("cleared".into())
            }
            ["lease"] => {
                self.lease = self.store.try_lease().await?;
                Ok(if self.lease.is_some() { "leased" } else { "taken" }.into())
            }
            ["reserve"] => {
                self.lease.as_mut().expect("a lease").reserve().await?;
                Ok("reserved".into())
            }
            ["intent"] => {
                let mut stored = self.store.load().await?.expect("a record");
                let token = stored.record.tokens.refresh_token.as_ref().expect("a refresh token");
                stored.record.refresh.intent = Some(Intent::new(token, chrono::Utc::now()));
                let precondition = Precondition::Unchanged(stored.revision);
                self.last = Some(self.store.save(&stored.record, precondition).await?);
                Ok("written".into())
            }
            ["has-intent"] => {
                let stored = self.store.load().await?;
                Ok(stored.is_some_and(|it| it.record.intent().is_some()).to_string())
            }
            // Increments a number in the slot. Repeats an increment after a conflict with another process.
            ["increment", times] => {
                for _ in 0..times.parse::<u32>()? {
                    while !increment(&self.store).await? {}
                }
                Ok("counted".into())
            }
            // Refreshes at a provider, without the store.
            ["provider", url] => {
                let client = OAuth2Client::new(url, "app")?;
                let tokens = client.refresh(tokens("any"), &RefreshPermit::unlimited()).await?;
                Ok(describe(&tokens))
            }
            ["probe"] => {
                let before = Instant::now();
                let state = tokenkeep::keychain::probe_keychain().await;
                assert!(
                    before.elapsed() < Duration::from_secs(2),
                    "its documentation promises this limit"
                );
                Ok(state.to_string())
            }
            // Answers with the URL of the store and why it was chosen.
            ["open-default", allowed @ ..] => {
                let allow = tokenkeep::store_url::DefaultStoreOptions {
                    key_file: allowed.contains(&"key-file"),
                    prompts: allowed.contains(&"prompts"),
                };
                let opened = tokenkeep::open_default("program", "alice", allow).await?;
                self.store = opened.store;
                Ok(format!("{} {}", opened.url, opened.chosen))
            }
            ["open-default-of", service, account] => {
                let (account, allow) = (
                    account.replace("%20", " "),
                    tokenkeep::store_url::DefaultStoreOptions::default(),
                );
                let opened = tokenkeep::open_default(service, &account, allow).await?;
                self.store = opened.store;
                Ok(format!("{} {}", opened.url, opened.chosen))
            }
            ["conformance"] => {
                let url = self.url.clone();
                conformance::check(move || open(&url)).await;
                Ok("conforms".into())
            }
            ["migrate", to] => {
                let migration = migrate(&killing(&self.store), &killing(&open(to))).await?;
                Ok(if migration.moved { "moved" } else { "nothing to move" }.into())
            }
            ["backup", to] => {
                backup(&killing(&self.store), &killing(&open(to))).await?;
                Ok("copied".into())
            }
            ["restore", to] => {
                let (from, to) = (killing(&self.store), killing(&open(to)));
                restore(&from, &to, Overwrite::IfOlder).await?;
                Ok("restored".into())
            }
            ["rekey", identity] => {
                let url: StoreUrl = self.url.parse()?;
                let (named, identity) = (url.identity_path().unwrap(), Path::new(identity));
                let key = AgeKey::identity_file(identity);
                let both = AgeKey::identity_file(named).with_identities_of(key.clone());
                let [old, both, new] = [
                    killing(&self.store),
                    killing(&url.open_with_key(both)?),
                    killing(&url.open_with_key(key)?),
                ];
                let mut lease = wait_for_lease(&new).await?;
                let repoint = async {
                    live_on();
                    Ok::<_, TransferError>(())
                };
                rekey(&mut *lease, &old, &both, &new, repoint).await?;
                lease.release().await?;
                Ok("rekeyed".into())
            }
            _ => panic!("unknown command {words:?}"),
        }
    }
}

/// Refreshes at the server of the test. Sends a line with the refresh token, and reads a line.
fn ask(server: &str, current: &AuthTokens) -> Result<AuthTokens, RefreshFailure> {
    let lost = |error: io::Error| RefreshFailure::ambiguous(error.to_string());
    let connection = TcpStream::connect(server);
    let mut connection =
        connection.map_err(|error| RefreshFailure::transient(error.to_string()))?;
    let token = current.refresh_token.as_ref().expect("a refresh token").expose_secret();
    connection.write_all(format!("{token}\n").as_bytes()).map_err(lost)?;
    let mut answer = String::new();
    io::BufReader::new(connection).read_line(&mut answer).map_err(lost)?;
    match *answer.trim_end().split(' ').collect::<Vec<_>>() {
        ["ok", access, refresh, expires] => {
            Ok(AuthTokens::new(access).with_refresh_token(refresh).with_expires_at(
                chrono::DateTime::from_timestamp(expires.parse().unwrap(), 0).unwrap(),
            ))
        }
        [""] => Err(RefreshFailure::ambiguous("no answer")),
        _ if answer.contains("rejected") => Err(RefreshFailure::rejected("invalid_grant")),
        _ => Err(RefreshFailure::transient(answer)),
    }
}

async fn increment(store: &Store) -> Result<bool, StoreError> {
    let (count, precondition) = match store.load().await? {
        None => (0, Precondition::Absent),
        Some(stored) => {
            let text = stored.record.tokens.access_token.expose_secret().to_owned();
            (text.parse::<u32>().unwrap(), Precondition::Unchanged(stored.revision))
        }
    };
    match store.save(&AuthTokens::new((count + 1).to_string()).into(), precondition).await {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn tokens(name: &str) -> AuthTokens {
    AuthTokens::new(name).with_refresh_token(format!("refresh-{name}"))
}

fn describe(tokens: &AuthTokens) -> String {
    let access = tokens.access_token.expose_secret();
    // For a large token, only its length is shown.
    let access = if access.len() > 100 { &access.len().to_string() } else { access };
    if tokens.is_backup() { format!("backup of {access}") } else { access.to_owned() }
}

fn open(url: &str) -> Store {
    let mut url = url.parse::<StoreUrl>().expect("a store URL");
    if ALLOW_PROMPTS.load(Ordering::SeqCst) {
        url = url.allow_prompts();
    }
    url.open().expect("a store")
}

static ALLOW_PROMPTS: AtomicBool = AtomicBool::new(false);

/// How many operations are left before the kill. The beginning and the end of each count separately.
static KILL_AT: AtomicI64 = AtomicI64::new(-1);

fn live_on() {
    if KILL_AT.fetch_sub(1, Ordering::SeqCst) == 0 {
        die();
    }
}

#[cfg(unix)]
fn die() {
    let this = rustix::process::getpid();
    rustix::process::kill_process(this, rustix::process::Signal::KILL).unwrap();
}

/// No destructor runs, as on Unix.
#[cfg(windows)]
fn die() {
    std::process::abort();
}

fn killing(store: &Store) -> Killing {
    Killing(store.clone())
}

/// A store in which the process is killed before or after an operation.
#[derive(Debug)]
struct Killing(Store);

impl fmt::Display for Killing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl TokenStore for Killing {
    async fn load(&self) -> Result<Option<Stored>, StoreError> {
        live_on();
        let loaded = self.0.load().await;
        live_on();
        loaded
    }

    async fn save(
        &self,
        record: &Record,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        live_on();
        let saved = self.0.save(record, precondition).await;
        live_on();
        saved
    }

    async fn clear(&self, precondition: Precondition) -> Result<(), StoreError> {
        live_on();
        let cleared = self.0.clear(precondition).await;
        live_on();
        cleared
    }

    async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
        live_on();
        let lease = self.0.try_lease().await?;
        live_on();
        Ok(lease.map(|lease| Box::new(KillingLease(lease)) as _))
    }

    async fn load_exposed(&self) -> Result<Option<Stored>, StoreError> {
        self.0.load_exposed().await
    }

    fn slot(&self) -> String {
        self.0.slot()
    }
}

#[derive(Debug)]
struct KillingLease(Box<dyn Lease>);

#[async_trait]
impl Lease for KillingLease {
    async fn reserve(&mut self) -> Result<(), StoreError> {
        live_on();
        let reserved = self.0.reserve().await;
        live_on();
        reserved
    }

    fn take_warning(&mut self) -> Option<StoreError> {
        self.0.take_warning()
    }

    fn time_left(&self) -> Option<Duration> {
        self.0.time_left()
    }

    async fn renew(&mut self, time: Duration) -> Result<bool, StoreError> {
        live_on();
        let renewed = self.0.renew(time).await;
        live_on();
        renewed
    }

    async fn release(self: Box<Self>) -> Result<(), StoreError> {
        live_on();
        let released = self.0.release().await;
        live_on();
        released
    }
}
