//! A process of the soak test. It carries out orders from standard input in many tasks, on the stores of many
//! users.
//!
//! The first line names this process, the server and the URLs of the stores. Each further line is an order
//! with a number. It is answered by a line with the same number as soon as it is done.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "it is part of the tests, and its tokens are made up"
)]

use std::fmt::Debug;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokenkeep::{AuthTokens, RefreshFailure, StoreUrl, TokenManager, TokenStore, chrono};

use tokenkeep::refresh::RefreshPolicy;

use tokenkeep::transfer::{Overwrite, backup, migrate, restore};

type Answer = Result<String, Box<dyn std::error::Error + Send + Sync>>;

/// The number of managers of each slot in this process. They are independent of each other.
const MANAGERS: usize = 3;

/// The deadline of a refresh. It is so long that an answer does not count as lost on a very busy machine.
const PATIENCE: Duration = Duration::from_secs(200);

/// The last manager of each slot reads the store again only after this time, while its token is valid.
const RECHECK_OF_THE_LAZY: Duration = Duration::from_secs(1);

struct Place {
    store: Arc<dyn TokenStore>,
    managers: Vec<TokenManager>,
}

fn main() {
    let mut input = io::stdin().lock().lines();
    let first = input.next().expect("who this is").unwrap();
    let mut first = first.split('\t');
    let (who, server) = (first.next().unwrap().to_owned(), first.next().unwrap().to_owned());
    let places: Arc<Vec<Place>> = Arc::new(first.map(|url| open(&who, &server, url)).collect());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        // Idle threads end soon, so that they do not count as leaked.
        .thread_keep_alive(Duration::from_millis(100))
        .build()
        .unwrap();
    for line in input {
        let (line, places) = (line.unwrap(), places.clone());
        runtime.spawn(async move {
            let (number, order) = line.split_once(' ').unwrap();
            let words: Vec<&str> = order.split(' ').collect();
            let answer = told(act(&places, &words).await);
            // The line is written in one call, so that the lines of several tasks do not mix.
            io::stdout().lock().write_all(format!("{number} {answer}\n").as_bytes()).unwrap();
        });
    }
}

fn open(who: &str, server: &str, url: &str) -> Place {
    let store: Arc<dyn TokenStore> = url.parse::<StoreUrl>().unwrap().open().unwrap();
    let managers = (0..MANAGERS).map(|number| {
        let (who, server) = (who.to_owned(), server.to_owned());
        let refresh = move |current: AuthTokens| {
            let (who, server) = (who.clone(), server.clone());
            async move {
                tokio::task::spawn_blocking(move || ask(&who, &server, &current)).await.unwrap()
            }
        };
        let is_lazy = number == MANAGERS - 1;
        TokenManager::builder()
            .store(store.clone())
            .refresh_with(refresh)
            .policy(
                RefreshPolicy::default()
                    .refresh_before_expiry(Duration::from_millis(700))
                    .expired_before_expiry(Duration::from_millis(200))
                    .deadline(PATIENCE),
            )
            .recheck_after(if is_lazy { RECHECK_OF_THE_LAZY } else { Duration::ZERO })
            .build()
    });
    Place { managers: managers.collect(), store }
}

/// Refreshes at the server of the test. Sends a line with the refresh token, and reads a line.
fn ask(who: &str, server: &str, current: &AuthTokens) -> Result<AuthTokens, RefreshFailure> {
    let lost = |error: io::Error| RefreshFailure::ambiguous(error.to_string());
    let connection = TcpStream::connect(server);
    let mut connection =
        connection.map_err(|error| RefreshFailure::transient(error.to_string()))?;
    let token = current.refresh_token.as_ref().expect("a refresh token").expose_secret();
    connection.write_all(format!("{who} {token}\n").as_bytes()).map_err(lost)?;
    let mut answer = String::new();
    BufReader::new(connection).read_line(&mut answer).map_err(lost)?;
    match *answer.trim_end().split(' ').collect::<Vec<_>>() {
        ["ok", access, refresh, expires] => Ok(tokens(access, refresh, expires)),
        ["rejected"] => Err(RefreshFailure::rejected("invalid_grant")),
        ["busy"] => Err(RefreshFailure::transient("503")),
        _ => Err(RefreshFailure::ambiguous("no answer")),
    }
}

fn tokens(access: &str, refresh: &str, expires: &str) -> AuthTokens {
    let expires = chrono::DateTime::from_timestamp_millis(expires.parse().unwrap()).unwrap();
    AuthTokens::new(access).with_refresh_token(refresh).with_expires_at(expires)
}

async fn act(places: &[Place], words: &[&str]) -> Answer {
    let place = |number: &str| &places[number.parse::<usize>().unwrap()];
    let manager =
        |of: &str, number: &str| place(of).managers[number.parse::<usize>().unwrap()].clone();
    let token = |token: tokenkeep::AccessToken| token.expose_secret().to_owned();
    match *words {
        // This many tasks ask at once.
        ["access", of, number, tasks] => {
            let tasks = (0..tasks.parse::<u32>()?).map(|_| {
                let manager = manager(of, number);
                tokio::spawn(async move { manager.get_access_token().await })
            });
            let mut answers = Vec::new();
            for task in tasks.collect::<Vec<_>>() {
                answers.push(told(task.await.expect("no panic").map(token)));
            }
            Ok(answers.join("\t"))
        }
        ["give-up", of, number, after] => {
            let (manager, after) = (manager(of, number), Duration::from_millis(after.parse()?));
            match tokio::time::timeout(after, manager.get_access_token()).await {
                Ok(got) => Ok(token(got?)),
                Err(_) => {
                    // The refresh continues. The answer is sent only after it has ended.
                    manager.shutdown(PATIENCE).await?;
                    Ok("gave up".into())
                }
            }
        }
        ["invalidate", of, number] => {
            let manager = manager(of, number);
            let refused = manager.get_access_token().await?;
            manager.invalidate(&refused);
            Ok(token(manager.get_access_token().await?))
        }
        ["refresh", of, number] => Ok(token(manager(of, number).refresh().await?.access_token)),
        ["login", of, number, access, refresh, expires] => {
            manager(of, number).set_tokens(tokens(access, refresh, expires)).await?;
            Ok("signed in".into())
        }
        ["logout", of, number] => {
            manager(of, number).clear().await?;
            Ok("signed out".into())
        }
        ["load", of] => Ok(match place(of).store.load().await? {
            Some(stored) => stored.record.tokens.access_token.expose_secret().to_owned(),
            None => "none".into(),
        }),
        ["migrate", from, to] => {
            let migration = migrate(&place(from).store, &place(to).store).await?;
            Ok(if migration.moved { "moved" } else { "nothing to move" }.into())
        }
        ["backup", from, to] => {
            backup(&place(from).store, &place(to).store).await?;
            Ok("copied".into())
        }
        ["restore", from, to] => {
            restore(&place(from).store, &place(to).store, Overwrite::IfOlder).await?;
            Ok("restored".into())
        }
        ["report"] => Ok(report().await),
        ["shutdown"] => {
            for manager in places.iter().flat_map(|place| &place.managers) {
                manager.shutdown(PATIENCE).await?;
            }
            Ok("bye".into())
        }
        _ => panic!("unknown order {words:?}"),
    }
}

fn told<E: Debug + ToString>(answer: Result<String, E>) -> String {
    let error = match answer {
        Ok(done) => return format!("ok {done}"),
        Err(error) => error,
    };
    let debug = format!("{error:?}");
    let mut names = debug.split([' ', '(', '{']).filter(|name| !name.is_empty());
    let mut kind = names.next().unwrap().to_owned();
    if ["Refresh", "Store"].contains(&&*kind) {
        kind = format!("{kind}.{}", names.next().unwrap());
    }
    format!("error {kind}: {}", error.to_string().replace(['\n', '\t'], " "))
}

/// Returns the number of open descriptors, the number of threads, and the memory in KiB. First waits until
/// idle threads have ended.
async fn report() -> String {
    let count = |directory: &str| fs::read_dir(directory).map_or(0, Iterator::count);
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut last = (usize::MAX, Instant::now());
    loop {
        let threads = count("/proc/self/task");
        if threads != last.0 {
            last = (threads, Instant::now());
        }
        if last.1.elapsed() > Duration::from_millis(500) || Instant::now() > deadline {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let memory = memory.and_then(|memory| memory.split_whitespace().next()).unwrap_or("0");
    format!("{} {} {memory}", count("/proc/self/fd"), last.0)
}
