//! Whether the keychain can be used, found out without raising a prompt.

use std::fmt;

use crate::blocking;

/// Whether the OS keychain can be used now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeychainState {
    /// It is there and unlocked.
    Available,
    /// It is there and locked; using it would raise a prompt.
    Locked,
    /// There is no session bus to reach a Secret Service on: ssh, a container, a service.
    NoBus,
    /// There is a Secret Service without a default collection to keep anything in.
    NoDefaultCollection,
    /// There is a session bus, and nothing on it offers a Secret Service.
    NoProvider,
    /// It did not answer within 3 seconds.
    NotAnswering,
}

impl KeychainState {
    /// Says how to get to a keychain that can be used; nothing to do if it can be.
    #[must_use]
    pub fn advice(self) -> Option<&'static str> {
        match self {
            Self::Available => None,
            Self::Locked => Some("unlock the keychain, for instance by signing in to the desktop"),
            Self::NoBus => {
                Some("run in a desktop session, or use `dbus-run-session`, or an age file")
            }
            Self::NoDefaultCollection => {
                Some("make a default keyring, for instance with seahorse, or use an age file")
            }
            Self::NoProvider => {
                Some("install and start gnome-keyring or KWallet, or use an age file")
            }
            Self::NotAnswering => Some("restart the keychain's service, or sign in again"),
        }
    }
}

impl fmt::Display for KeychainState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Available => "works",
            Self::Locked => "locked",
            Self::NoBus => "no bus",
            Self::NoDefaultCollection => "no default collection",
            Self::NoProvider => "no provider",
            Self::NotAnswering => "not answering",
        })
    }
}

/// Finds out whether the keychain can be used, within 3 seconds and without raising a prompt.
pub async fn probe_keychain() -> KeychainState {
    let probed = blocking::run("keychain", || Ok(probe())).await;
    probed.unwrap_or(KeychainState::NotAnswering)
}

#[cfg(all(unix, not(target_vendor = "apple")))]
fn probe() -> KeychainState {
    super::worker::aside(secret_service::probe).unwrap_or(KeychainState::NotAnswering)
}

/// Credential Manager and the login keychain are part of their systems.
#[cfg(any(target_vendor = "apple", not(unix)))]
fn probe() -> KeychainState {
    KeychainState::Available
}

/// Tells whether getting at an item, or `making` it, would raise a prompt. The Secret Service's
/// client unlocks what it finds locked without being asked to.
#[cfg(all(unix, not(target_vendor = "apple")))]
pub(super) fn would_prompt(service: &str, account: &str, making: bool) -> bool {
    // If this cannot be found out, the call itself will say why.
    secret_service::would_prompt(service, account, making).unwrap_or(false)
}

/// The systems' own keychains tell that themselves.
#[cfg(any(target_vendor = "apple", not(unix)))]
pub(super) fn would_prompt(_service: &str, _account: &str, _making: bool) -> bool {
    false
}

#[cfg(all(unix, not(target_vendor = "apple")))]
mod secret_service {
    use std::collections::HashMap;
    use std::time::Duration;

    use zbus::blocking::connection::Builder;
    use zbus::blocking::fdo::DBusProxy;
    use zbus::blocking::{Connection, Proxy};
    use zbus::zvariant::OwnedObjectPath;

    use super::KeychainState;

    const NAME: &str = "org.freedesktop.secrets";
    const PATH: &str = "/org/freedesktop/secrets";
    const SERVICE: &str = "org.freedesktop.Secret.Service";
    const COLLECTION: &str = "org.freedesktop.Secret.Collection";

    /// For each of the few calls; together they stay within the worker's deadline.
    const TIMEOUT: Duration = Duration::from_millis(700);

    pub(super) fn probe() -> KeychainState {
        let connection = match connect() {
            Ok(connection) => connection,
            // Anything but having no address, or nobody at it, is a bus that is not well.
            Err(
                zbus::Error::Address(_)
                | zbus::Error::Connection(..)
                | zbus::Error::InputOutput(_)
                | zbus::Error::Unsupported,
            ) => return KeychainState::NoBus,
            Err(_) => return KeychainState::NotAnswering,
        };
        match has_provider(&connection) {
            Ok(true) => {}
            Ok(false) => return KeychainState::NoProvider,
            Err(_) => return KeychainState::NotAnswering,
        }
        state(&connection).unwrap_or(KeychainState::NotAnswering)
    }

    pub(super) fn would_prompt(service: &str, account: &str, making: bool) -> zbus::Result<bool> {
        let connection = connect()?;
        let wanted = HashMap::from([("service", service), ("username", account)]);
        let proxy = Proxy::new(&connection, NAME, PATH, SERVICE)?;
        let (unlocked, locked): (Vec<OwnedObjectPath>, Vec<OwnedObjectPath>) =
            proxy.call("SearchItems", &wanted)?;
        let is_to_be_made = making && unlocked.is_empty() && locked.is_empty();
        Ok(!locked.is_empty() || (is_to_be_made && state(&connection)? == KeychainState::Locked))
    }

    fn connect() -> zbus::Result<Connection> {
        Builder::session().and_then(|bus| bus.method_timeout(TIMEOUT).build())
    }

    /// Somebody has the name, or would be started to take it.
    fn has_provider(connection: &Connection) -> zbus::Result<bool> {
        let bus = DBusProxy::new(connection)?;
        Ok(bus.name_has_owner(NAME.try_into()?)?
            || bus.list_activatable_names()?.iter().any(|name| name.as_str() == NAME))
    }

    fn state(connection: &Connection) -> zbus::Result<KeychainState> {
        let service = Proxy::new(connection, NAME, PATH, SERVICE)?;
        let default: OwnedObjectPath = service.call("ReadAlias", &"default")?;
        if default.as_str() == "/" {
            return Ok(KeychainState::NoDefaultCollection);
        }
        let collection = Proxy::new(connection, NAME, default, COLLECTION)?;
        let locked: bool = collection.get_property("Locked")?;
        Ok(if locked { KeychainState::Locked } else { KeychainState::Available })
    }
}
