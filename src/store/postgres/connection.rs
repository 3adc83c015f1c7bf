//! The connection to a server, made when it is needed and again when it was lost.

use std::error::Error as _;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, NoTls, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{password, tls};
use crate::error::StoreError;
use crate::loopback::is_loopback;

/// How long one answer of the server may take, connecting included. A good server needs milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long one address of a server may take to accept a connection, which is one way there and back.
const CONNECT: Duration = Duration::from_secs(3);

/// Whether a statement is sent once more if the connection turns out to be lost.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// It may have been executed.
    Never,
    /// It changes nothing.
    Once,
}

pub(super) struct Connection {
    /// In the order in which they are tried.
    servers: Vec<Server>,
    user: String,
    database: String,
    roots: Option<PathBuf>,
    client: Mutex<Option<Arc<Client>>>,
}

/// One of the servers that a URL names.
struct Server {
    config: Config,
    host: String,
    port: u16,
}

impl Connection {
    pub(super) fn new(url: &str) -> Result<Self, StoreError> {
        let invalid = |reason: &str| StoreError::Unavailable {
            // Not quoted: it may hold a password.
            place: "PostgreSQL".into(),
            reason: reason.to_owned(),
            advice: "name it like postgres://USER@HOST:PORT/DATABASE".into(),
        };
        if url.contains('?') {
            return Err(invalid("its URL has options"));
        }
        let config: Config =
            url.parse().map_err(|_| invalid("its URL is not one of a database"))?;
        if config.get_password().is_some() {
            return Err(invalid("its URL carries a password, which belongs in $PGPASSFILE"));
        }
        let (Some(user), Some(database)) = (config.get_user(), config.get_dbname()) else {
            return Err(invalid("its URL lacks a user or a database"));
        };
        let (hosts, ports) = (config.get_hosts(), config.get_ports());
        let servers: Vec<Server> = (hosts.iter().enumerate())
            .map(|(index, host)| {
                let port = *ports.get(index).or(ports.first()).unwrap_or(&5432);
                let mut server = Server::new(host, port, user, database);
                if hosts.len() > 1 {
                    server.config.target_session_attrs(TargetSessionAttrs::ReadWrite);
                }
                server
            })
            .collect();
        if servers.is_empty() {
            return Err(invalid("its URL lacks a host"));
        }
        let (user, database) = (user.to_owned(), database.to_owned());
        Ok(Self { servers, user, database, roots: None, client: Mutex::default() })
    }

    pub(super) fn trust(&mut self, path: PathBuf) {
        self.roots = Some(path);
    }

    /// Names the database, and nothing else.
    pub(super) fn url(&self) -> String {
        format!("postgres://{}/{}", self.hosts(), self.database)
    }

    /// The servers, for people.
    fn hosts(&self) -> String {
        let names: Vec<String> = self.servers.iter().map(ToString::to_string).collect();
        names.join(",")
    }

    /// Sends a statement, and waits for its rows.
    pub(super) async fn query(
        &self,
        statement: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
        again: Again,
    ) -> Result<Vec<Row>, StoreError> {
        let work = async {
            let sent = self.client().await?.query_typed(statement, parameters).await;
            match sent {
                Err(error) if error.is_closed() && again == Again::Once => {
                    let client = self.client().await?;
                    client.query_typed(statement, parameters).await
                }
                sent => sent,
            }
            .map_err(|error| self.explain(&error))
        };
        let answer = timeout(DEADLINE, work).await.unwrap_or_else(|_| {
            Err(StoreError::Timeout {
                place: self.to_string(),
                reason: format!("it did not answer within {} seconds", DEADLINE.as_secs()),
                advice: "see whether it is up, and whether the way to it is".into(),
            })
        });
        if matches!(answer, Err(StoreError::ReadOnly { .. } | StoreError::Timeout { .. })) {
            // Whatever holds it up, or whoever can be written to by now: the next one begins anew.
            *self.client.lock().await = None;
        }
        answer
    }

    /// Returns the connection, or makes one.
    async fn client(&self) -> Result<Arc<Client>, StoreError> {
        let mut kept = self.client.lock().await;
        if let Some(client) = kept.as_ref().filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        Ok(kept.insert(Arc::new(self.connect().await?)).clone())
    }

    /// Connects to the first server that will do. One that is not there, or only pretends to be, leaves
    /// time for the next one, and for what is then asked of it.
    async fn connect(&self) -> Result<Client, StoreError> {
        let share = DEADLINE / u32::try_from(self.servers.len() + 1).unwrap_or(u32::MAX);
        let mut failures = Vec::new();
        for server in &self.servers {
            let failure = match timeout(share, self.connect_to(server)).await {
                Ok(Ok(client)) => return Ok(client),
                Ok(Err(StoreError::Unavailable { reason, .. })) => reason,
                Ok(Err(error)) => return Err(error),
                Err(_) => "it did not answer in time".into(),
            };
            failures.push(match self.servers.len() {
                1 => failure,
                _ => format!("{server}: {failure}"),
            });
        }
        Err(self.unavailable(failures.join("; "), "see whether it is up"))
    }

    async fn connect_to(&self, server: &Server) -> Result<Client, StoreError> {
        let mut config = server.config.clone();
        let Server { host, port, .. } = server;
        let password = password::find(host, *port, &self.database, &self.user).await?;
        if let Some(password) = password {
            config.password(password.as_bytes());
        }
        if config.get_ssl_mode() == SslMode::Disable {
            let connected = config.connect(NoTls).await;
            let (client, connection) = connected.map_err(|error| self.explain(&error))?;
            tokio::spawn(connection);
            Ok(client)
        } else {
            let tls = tls::configured(self.to_string(), self.roots.clone()).await?;
            let connected = config.connect(MakeRustlsConnect::new(tls)).await;
            let (client, connection) = connected.map_err(|error| self.explain(&error))?;
            tokio::spawn(connection);
            Ok(client)
        }
    }

    /// Says what went wrong, without what was sent.
    fn explain(&self, error: &tokio_postgres::Error) -> StoreError {
        let place = self.to_string();
        let Some(said) = error.as_db_error() else {
            let why = error.source().map(|source| format!(" ({source})")).unwrap_or_default();
            return self.unavailable(format!("{error}{why}"), "see whether it is up");
        };
        let code = said.code();
        if [SqlState::INVALID_PASSWORD, SqlState::INVALID_AUTHORIZATION_SPECIFICATION]
            .contains(code)
        {
            let advice = "put the password of this user in the file that $PGPASSFILE names";
            return StoreError::Denied { place, advice: advice.into() };
        }
        match *code {
            SqlState::INSUFFICIENT_PRIVILEGE => StoreError::Denied {
                place,
                advice: "grant SELECT, INSERT and UPDATE on the table tokenkeep to this user"
                    .into(),
            },
            SqlState::READ_ONLY_SQL_TRANSACTION => StoreError::ReadOnly {
                place,
                reason: "the server is a standby, or was made read-only".into(),
            },
            SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_COLUMN => self.unavailable(
                "it has no table tokenkeep of the form that this program knows".into(),
                "make it with `tokenkeep init`, or with the SQL that README shows",
            ),
            _ => self.unavailable(
                format!("{} ({})", said.message(), code.code()),
                "see what the server's log says",
            ),
        }
    }

    fn unavailable(&self, reason: String, advice: &str) -> StoreError {
        let (place, advice) = (self.to_string(), advice.to_owned());
        StoreError::Unavailable { place, reason, advice }
    }
}

impl Server {
    fn new(host: &Host, port: u16, user: &str, database: &str) -> Self {
        let mut config = Config::new();
        config.user(user).dbname(database).port(port);
        config.application_name("tokenkeep").connect_timeout(CONNECT);
        let (host, is_local) = match host {
            Host::Tcp(name) => {
                config.host(name);
                (name.clone(), is_loopback(name) || is_loopback(&format!("[{name}]")))
            }
            #[cfg(unix)]
            Host::Unix(path) => {
                config.host_path(path);
                (path.display().to_string(), true)
            }
        };
        config.ssl_mode(if is_local { SslMode::Disable } else { SslMode::Require });
        Self { config, host, port }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
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
