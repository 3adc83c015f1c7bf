//! One of the servers in a URL, and a connection to it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::{CancelToken, Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::failure::explain;
use super::{password, tls};
use crate::error::StoreError;
use crate::net::loopback::is_loopback;

/// How long one address of a server may take to accept a connection, which is one round trip.
const CONNECT: Duration = Duration::from_secs(3);

/// How soon an idle connection sends a keepalive. Load balancers drop an idle connection after some minutes.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// How long a request to cancel a statement may take.
const CANCEL: Duration = Duration::from_secs(3);

pub(super) struct Server {
    config: Config,
    host: String,
    port: u16,
}

impl Server {
    /// Makes a server. A connection to another machine uses TLS.
    pub(super) fn new(
        host: &Host,
        port: u16,
        user: &str,
        database: &str,
        wanted: TargetSessionAttrs,
    ) -> Self {
        let mut config = Config::new();
        config.user(user).dbname(database).port(port).application_name("tokenkeep");
        config.connect_timeout(CONNECT).keepalives_idle(KEEPALIVE).target_session_attrs(wanted);
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
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            _ => {
                let tls = tls::configured(place.to_owned(), roots.cloned()).await?;
                Some(MakeRustlsConnect::new(tls))
            }
        };
        let failed = |error| explain(&error, place);
        Ok(if let Some(tls) = tls {
            let (client, connection) = config.connect(tls.clone()).await.map_err(failed)?;
            let carrier = tokio::spawn(connection).abort_handle();
            Link { client, carrier, tls: Some(tls) }
        } else {
            let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
            let carrier = tokio::spawn(connection).abort_handle();
            Link { client, carrier, tls: None }
        })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A connection, and the task that does its I/O.
pub(super) struct Link {
    pub(super) client: Client,
    carrier: AbortHandle,
    tls: Option<MakeRustlsConnect>,
}

impl Link {
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Asks the server to cancel the statement that is running. A statement that waits for a lock does not
    /// notice that its client has gone.
    pub(super) fn cancel(&self) {
        if !self.is_closed() {
            tokio::spawn(cancel(self.client.cancel_token(), self.tls.clone()));
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Otherwise the task would wait for answers that are no longer needed.
        self.carrier.abort();
    }
}

async fn cancel(token: CancelToken, tls: Option<MakeRustlsConnect>) {
    let cancelled = async {
        match tls {
            Some(tls) => token.cancel_query(tls).await,
            None => token.cancel_query(NoTls).await,
        }
    };
    // If the server cannot be reached, it will notice the lost connection by itself.
    let _ = timeout(CANCEL, cancelled).await;
}
