//! The connection to a database. It is made when it is needed, and again after it was lost.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::{Config, Row};

use super::failure::{explain, unavailable};
use super::server::{Link, Parameters, Server};
use crate::error::StoreError;

/// How long one answer of the server may take, including connecting. A healthy server needs milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long an answer may take on a connection that was used before. A load balancer may have dropped an idle
/// connection without closing it.
const DEADLINE_IF_KEPT: Duration = Duration::from_secs(3);

/// Whether a statement is sent again if the connection was lost.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// Never, because it may have been executed.
    Never,
    /// Once, because it changes nothing.
    Once,
}

pub(super) struct Connection {
    /// The servers, in the order in which they are tried.
    servers: Vec<Server>,
    database: String,
    roots: Option<PathBuf>,
    link: Mutex<Option<Arc<Link>>>,
}

/// The result of sending a statement.
enum Sent {
    Answered(Option<Row>),
    Failed(tokio_postgres::Error),
    NoAnswer,
}

impl Connection {
    pub(super) fn new(url: &str) -> Result<Self, StoreError> {
        let invalid = |reason: &str| StoreError::Unavailable {
            // The URL is not quoted, because it may contain a password.
            place: "PostgreSQL".into(),
            reason: reason.to_owned(),
            advice: "write postgres://USER@HOST:PORT/DATABASE".into(),
        };
        if url.contains('?') {
            return Err(invalid("its URL has options"));
        }
        let config: Config =
            url.parse().map_err(|_| invalid("its URL is not that of a database"))?;
        if config.get_password().is_some() {
            return Err(invalid("its URL contains a password, which belongs in $PGPASSFILE"));
        }
        let (Some(user), Some(database)) = (config.get_user(), config.get_dbname()) else {
            return Err(invalid("its URL has no user or no database"));
        };
        let (hosts, ports) = (config.get_hosts(), config.get_ports());
        let servers: Vec<Server> = (hosts.iter().enumerate())
            .map(|(index, host)| {
                let port = *ports.get(index).or(ports.first()).unwrap_or(&5432);
                Server::new(host, port, user, database, hosts.len() > 1)
            })
            .collect();
        if servers.is_empty() {
            return Err(invalid("its URL has no host"));
        }
        let database = database.to_owned();
        Ok(Self { servers, database, roots: None, link: Mutex::default() })
    }

    pub(super) fn trust(&mut self, path: PathBuf) {
        self.roots = Some(path);
    }

    /// Returns the URL of the database, without the user.
    pub(super) fn url(&self) -> String {
        format!("postgres://{}/{}", self.hosts(), self.database)
    }

    /// Returns the names of the servers, for people.
    fn hosts(&self) -> String {
        let names: Vec<String> = self.servers.iter().map(ToString::to_string).collect();
        names.join(",")
    }

    /// Sends a statement, and waits for its row. No statement of this crate has more than one.
    pub(super) async fn query(
        &self,
        statement: &str,
        parameters: Parameters<'_>,
        again: Again,
    ) -> Result<Option<Row>, StoreError> {
        let (began, mut again) = (Instant::now(), again);
        let left = || DEADLINE.saturating_sub(began.elapsed());
        loop {
            let (link, is_kept) =
                timeout(left(), self.link()).await.unwrap_or_else(|_| Err(self.no_answer()))?;
            let may_repeat = is_kept && again == Again::Once;
            let limit = if may_repeat { left().min(DEADLINE_IF_KEPT) } else { left() };
            let sent = send(&link, statement, parameters, limit).await;
            let is_lost = match &sent {
                Sent::Answered(_) => false,
                Sent::Failed(error) => error.is_closed() && link.refusal().is_none(),
                Sent::NoAnswer => true,
            };
            let is_usable = match &sent {
                Sent::Answered(_) => true,
                Sent::Failed(error) => error.as_db_error().is_some(),
                Sent::NoAnswer => false,
            };
            let answer = self.row(sent, &link);
            if !is_usable || matches!(answer, Err(StoreError::ReadOnly { .. })) {
                // The connection is lost, its server sent what makes no sense, or is read-only now. The next
                // call connects again.
                self.give_up(&link).await;
            }
            if !is_lost || !may_repeat {
                return answer;
            }
            again = Again::Never;
        }
    }

    fn row(&self, sent: Sent, link: &Link) -> Result<Option<Row>, StoreError> {
        match (sent, link.refusal()) {
            (Sent::Answered(row), _) => Ok(row),
            (Sent::Failed(_), Some(refusal)) => Err(refusal.explain(&self.to_string())),
            (Sent::Failed(error), None) => Err(explain(&error, &self.to_string())),
            (Sent::NoAnswer, _) => Err(self.no_answer()),
        }
    }

    fn no_answer(&self) -> StoreError {
        StoreError::Timeout {
            place: self.to_string(),
            reason: "it did not answer in time".into(),
            advice: "check whether it is running, and the network".into(),
        }
    }

    /// Returns the connection, and whether it existed before. Connects if there is none.
    async fn link(&self) -> Result<(Arc<Link>, bool), StoreError> {
        let mut kept = self.link.lock().await;
        if let Some(link) = kept.as_ref().filter(|link| !link.is_closed()) {
            return Ok((link.clone(), true));
        }
        Ok((kept.insert(Arc::new(self.connect().await?)).clone(), false))
    }

    /// Drops a connection, so that no later call uses it.
    async fn give_up(&self, link: &Arc<Link>) {
        link.cancel();
        self.link.lock().await.take_if(|kept| Arc::ptr_eq(kept, link));
    }

    /// Connects to the first usable server. Each server gets an equal share of the deadline. One share is
    /// left for the statement.
    async fn connect(&self) -> Result<Link, StoreError> {
        let share = DEADLINE / u32::try_from(self.servers.len() + 1).unwrap_or(u32::MAX);
        let (place, mut failures) = (self.to_string(), Vec::new());
        for server in &self.servers {
            let connected = timeout(share, server.connect(&place, self.roots.as_ref())).await;
            let connected = connected.unwrap_or_else(|_| {
                Err(unavailable(&place, "it did not answer in time", "check whether it is running"))
            });
            match connected {
                Ok(link) => return Ok(link),
                Err(StoreError::Unavailable { reason, .. }) if self.servers.len() > 1 => {
                    failures.push(format!("{server}: {reason}"));
                }
                Err(error) => return Err(error),
            }
        }
        Err(unavailable(&place, &failures.join("; "), "check whether one of them is running"))
    }
}

async fn send(link: &Link, statement: &str, parameters: Parameters<'_>, limit: Duration) -> Sent {
    match timeout(limit, link.query(statement, parameters)).await {
        Ok(Ok(row)) => Sent::Answered(row),
        Ok(Err(error)) => Sent::Failed(error),
        Err(_) => Sent::NoAnswer,
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({self})")
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgreSQL database {} at {}", self.database, self.hosts())
    }
}
