//! One of the servers in a URL, and a connection to it.

use std::fmt;
use std::future::poll_fn;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::lookup_host;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{CancelToken, Client, Config, Error, NoTls, Row};

use super::failure::{explain, unavailable};
use super::limits::{Limited, Limits, Refusal};
use super::password;
use super::socket::{Address, not_reached};
use super::tls::Tls;
use crate::error::StoreError;
use crate::net::loopback::is_loopback;

/// How long a request to cancel a statement may take.
const CANCEL: Duration = Duration::from_secs(3);

const IS_READ_ONLY: &str = "SHOW transaction_read_only";

pub(super) struct Server {
    config: Config,
    at: Host,
    host: String,
    port: u16,
    /// Whether a server that accepts no writes is passed over.
    must_write: bool,
}

impl Server {
    /// Makes a server. A connection to another machine uses TLS.
    pub(super) fn new(
        host: &Host,
        port: u16,
        user: &str,
        database: &str,
        must_write: bool,
    ) -> Self {
        let mut config = Config::new();
        config.user(user).dbname(database).application_name("tokenkeep");
        let (name, is_local) = match host {
            Host::Tcp(name) => {
                (name.clone(), is_loopback(name) || is_loopback(&format!("[{name}]")))
            }
            #[cfg(unix)]
            Host::Unix(path) => (path.display().to_string(), true),
        };
        config.ssl_mode(if is_local { SslMode::Disable } else { SslMode::Require });
        Self { config, at: host.clone(), host: name, port, must_write }
    }

    /// Connects to the server. `place` names the database in errors.
    ///
    /// Call it on the runtime of this crate, because it spawns the task of the connection. A runtime of the
    /// program may end, or have no I/O.
    pub(super) async fn connect(
        &self,
        place: &str,
        roots: Option<&PathBuf>,
    ) -> Result<Link, StoreError> {
        let mut config = self.config.clone();
        let [user, database] =
            [config.get_user(), config.get_dbname()].map(Option::unwrap_or_default);
        if let Some(password) = password::find(&self.host, self.port, database, user).await? {
            config.password(password.as_bytes());
        }
        // Certificates are named for a server that has one, also behind a tunnel on this machine.
        if roots.is_some() && matches!(self.at, Host::Tcp(_)) {
            config.ssl_mode(SslMode::Require);
        }
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            _ => Some(Tls::to(self.host.clone(), place.to_owned(), roots.cloned()).await?),
        };
        let mut failed =
            unavailable(place, "its name has no address", "check the name of its host");
        for address in self.addresses(place).await? {
            match self.connect_to(address, &config, tls.clone(), place).await {
                Ok(link) => return Ok(link),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn addresses(&self, place: &str) -> Result<Vec<Address>, StoreError> {
        match &self.at {
            Host::Tcp(name) => {
                let found = lookup_host((&**name, self.port)).await;
                Ok(found.map_err(|error| not_reached(place, &error))?.map(Address::Tcp).collect())
            }
            #[cfg(unix)]
            Host::Unix(path) => Ok(vec![Address::Unix(path.clone(), self.port)]),
        }
    }

    async fn connect_to(
        &self,
        address: Address,
        config: &Config,
        tls: Option<Tls>,
        place: &str,
    ) -> Result<Link, StoreError> {
        let limits = Limits::new(tls.is_some());
        let failed = |error: Error| match limits.refusal() {
            Some(refusal) => refusal.explain(place),
            None => explain(&error, place),
        };
        let socket = address.connect(place).await?;
        let (client, carrier) = if let Some(tls) = &tls {
            let tls = tls.limited(limits.clone());
            let (client, connection) = config.connect_raw(socket, tls).await.map_err(failed)?;
            (client, tokio::spawn(carry(connection)))
        } else {
            let socket = Limited::new(socket, limits.clone());
            let (client, connection) = config.connect_raw(socket, NoTls).await.map_err(failed)?;
            (client, tokio::spawn(carry(connection)))
        };
        let carrier = carrier.abort_handle();
        let link = Link { client, carrier, limits: limits.clone(), address, tls };
        if self.must_write {
            let row = link.query(IS_READ_ONLY, &[]).await.map_err(failed)?;
            if !row.is_some_and(|row| matches!(row.try_get(0), Ok("off"))) {
                return Err(unavailable(place, "it accepts no writes", "name a server that does"));
            }
        }
        Ok(link)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The parameters of a statement.
pub(super) type Parameters<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

/// A connection, and the task that does its I/O.
pub(super) struct Link {
    client: Client,
    carrier: AbortHandle,
    limits: Arc<Limits>,
    address: Address,
    tls: Option<Tls>,
}

impl Link {
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Sends a statement, and returns its row. A second row is an error.
    pub(super) async fn query(
        &self,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Option<Row>, Error> {
        let _running = self.limits.begin();
        let answer = self.client.query_typed_opt(statement, parameters).await;
        // The driver would keep the types that a server makes up as long as the connection.
        self.client.clear_type_cache();
        answer
    }

    /// Returns why this connection was ended, if the server sent what is refused.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.limits.refusal()
    }

    /// Asks the server to cancel the statement that is running. A statement that waits for a lock does not
    /// notice that its client has gone.
    pub(super) fn cancel(&self) {
        if !self.is_closed() {
            let (address, tls) = (self.address.clone(), self.tls.clone());
            tokio::spawn(cancel(self.client.cancel_token(), address, tls));
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Otherwise the task would wait for answers that are no longer needed.
        self.carrier.abort();
    }
}

/// Does the I/O of a connection until it ends.
///
/// The driver can do this itself, but would then log the notices of the server, whatever they contain.
async fn carry<S, T>(mut connection: tokio_postgres::Connection<S, T>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(_)) = poll_fn(|context| connection.poll_message(context)).await {}
}

async fn cancel(token: CancelToken, address: Address, tls: Option<Tls>) {
    let cancelled = async move {
        // Nobody sees the error.
        let place = String::new();
        let socket = address.connect(&place).await.ok()?;
        match tls {
            Some(tls) => token.cancel_query_raw(socket, tls.connector()).await.ok(),
            None => token.cancel_query_raw(socket, NoTls).await.ok(),
        }
    };
    // If the server cannot be reached, it will notice the lost connection by itself.
    let _ = timeout(CANCEL, cancelled).await;
}
