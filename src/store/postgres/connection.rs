//! The connection to a server, made when it is needed and again when it was lost.

use std::error::Error as _;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, NoTls, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::password;
use crate::error::StoreError;
use crate::loopback::is_loopback;

/// How long one answer of the server may take, connecting included. A good server needs milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);

/// Whether a statement is sent once more if the connection turns out to be lost.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// It may have been executed.
    Never,
    /// It changes nothing.
    Once,
}

pub(super) struct Connection {
    config: Config,
    user: String,
    database: String,
    /// The hosts, for people.
    hosts: String,
    roots: Option<PathBuf>,
    client: Mutex<Option<Arc<Client>>>,
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
        let mut config: Config =
            url.parse().map_err(|_| invalid("its URL is not one of a database"))?;
        if config.get_password().is_some() {
            return Err(invalid("its URL carries a password, which belongs in $PGPASSFILE"));
        }
        let (Some(user), Some(database)) = (config.get_user(), config.get_dbname()) else {
            return Err(invalid("its URL lacks a user or a database"));
        };
        let (user, database) = (user.to_owned(), database.to_owned());
        let ports = config.get_ports();
        let hosts: Vec<String> = (config.get_hosts().iter().enumerate())
            .map(|(index, host)| {
                let port = ports.get(index).or(ports.first()).unwrap_or(&5432);
                format!("{}:{port}", host_name(host))
            })
            .collect();
        if hosts.is_empty() {
            return Err(invalid("its URL lacks a host"));
        }
        config.ssl_mode(if is_local(&config) { SslMode::Disable } else { SslMode::Require });
        config.application_name("tokenkeep").connect_timeout(DEADLINE);
        if hosts.len() > 1 {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let (hosts, client) = (hosts.join(","), Mutex::default());
        Ok(Self { config, user, database, hosts, roots: None, client })
    }

    pub(super) fn trust(&mut self, path: PathBuf) {
        self.roots = Some(path);
    }

    /// Names the database, and nothing else.
    pub(super) fn url(&self) -> String {
        format!("postgres://{}/{}", self.hosts, self.database)
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
        if let Ok(rows) = timeout(DEADLINE, work).await {
            return rows;
        }
        // Whatever holds it up: the next one begins anew.
        *self.client.lock().await = None;
        Err(StoreError::Timeout {
            place: self.to_string(),
            reason: format!("it did not answer within {} seconds", DEADLINE.as_secs()),
            advice: "see whether it is up, and whether the way to it is".into(),
        })
    }

    /// Returns the connection, or makes one.
    async fn client(&self) -> Result<Arc<Client>, StoreError> {
        let mut kept = self.client.lock().await;
        if let Some(client) = kept.as_ref().filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        let mut config = self.config.clone();
        if let Some(password) = password::find(&config, &self.user, &self.database).await? {
            config.password(password.as_bytes());
        }
        let client = if config.get_ssl_mode() == SslMode::Disable {
            let connected = config.connect(NoTls).await;
            let (client, connection) = connected.map_err(|error| self.explain(&error))?;
            tokio::spawn(connection);
            client
        } else {
            let connected = config.connect(MakeRustlsConnect::new(self.tls()?)).await;
            let (client, connection) = connected.map_err(|error| self.explain(&error))?;
            tokio::spawn(connection);
            client
        };
        Ok(kept.insert(Arc::new(client)).clone())
    }

    fn tls(&self) -> Result<ClientConfig, StoreError> {
        let failed = |reason: String| StoreError::Unavailable {
            place: self.to_string(),
            reason,
            advice: "name a PEM file with the certificate of whoever signs the server's".into(),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(error.to_string()))?;
        let Some(path) = &self.roots else {
            let builder = builder.with_platform_verifier();
            let builder = builder.map_err(|_| {
                failed("the certificates that this system trusts cannot be read".into())
            })?;
            return Ok(builder.with_no_client_auth());
        };
        let unreadable = || failed(format!("{} holds no certificates", path.display()));
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path).map_err(|_| unreadable())? {
            let certificate = certificate.map_err(|_| unreadable())?;
            roots.add(certificate).map_err(|_| unreadable())?;
        }
        if roots.is_empty() {
            return Err(unreadable());
        }
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }

    /// Says what went wrong, without what was sent.
    fn explain(&self, error: &tokio_postgres::Error) -> StoreError {
        let place = self.to_string();
        let unavailable = |reason: String, advice: &str| {
            let (place, advice) = (self.to_string(), advice.to_owned());
            StoreError::Unavailable { place, reason, advice }
        };
        let Some(said) = error.as_db_error() else {
            let why = error.source().map(|source| format!(" ({source})")).unwrap_or_default();
            return unavailable(format!("{error}{why}"), "see whether it is up");
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
            SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_COLUMN => unavailable(
                "it has no table tokenkeep of the form that this program knows".into(),
                "make it with `tokenkeep init`, or with the SQL that README shows",
            ),
            _ => unavailable(
                format!("{} ({})", said.message(), code.code()),
                "see what the server's log says",
            ),
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({self})")
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgreSQL database {} at {}", self.database, self.hosts)
    }
}

/// Tells whether every host is this machine.
fn is_local(config: &Config) -> bool {
    config.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => is_loopback(name) || is_loopback(&format!("[{name}]")),
        #[cfg(unix)]
        Host::Unix(_) => true,
    })
}

pub(super) fn host_name(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        Host::Unix(path) => path.display().to_string(),
    }
}
