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

/// For each call. The first one may start the provider; the others take a millisecond.
const TIMEOUT: Duration = Duration::from_millis(1200);

pub(super) fn probe() -> KeychainState {
    ask(default_collection)
}

pub(super) fn state_of(service: &str, account: &str, making: bool) -> KeychainState {
    ask(|connection| {
        let wanted = HashMap::from([("service", service), ("username", account)]);
        let proxy = Proxy::new(connection, NAME, PATH, SERVICE)?;
        let (unlocked, locked): (Vec<OwnedObjectPath>, Vec<OwnedObjectPath>) =
            proxy.call("SearchItems", &wanted)?;
        if !locked.is_empty() {
            return Ok(KeychainState::Locked);
        }
        if making && unlocked.is_empty() {
            return default_collection(connection);
        }
        Ok(KeychainState::Available)
    })
}

fn ask(question: impl FnOnce(&Connection) -> zbus::Result<KeychainState>) -> KeychainState {
    let connection = match Builder::session().and_then(|bus| bus.method_timeout(TIMEOUT).build()) {
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
        Ok(true) => question(&connection).unwrap_or(KeychainState::NotAnswering),
        Ok(false) => KeychainState::NoProvider,
        Err(_) => KeychainState::NotAnswering,
    }
}

/// Somebody has the name, or would be started to take it.
fn has_provider(connection: &Connection) -> zbus::Result<bool> {
    let bus = DBusProxy::new(connection)?;
    Ok(bus.name_has_owner(NAME.try_into()?)?
        || bus.list_activatable_names()?.iter().any(|name| name.as_str() == NAME))
}

fn default_collection(connection: &Connection) -> zbus::Result<KeychainState> {
    let service = Proxy::new(connection, NAME, PATH, SERVICE)?;
    let default: OwnedObjectPath = service.call("ReadAlias", &"default")?;
    if default.as_str() == "/" {
        return Ok(KeychainState::NoDefaultCollection);
    }
    let collection = Proxy::new(connection, NAME, default, COLLECTION)?;
    let locked: bool = collection.get_property("Locked")?;
    Ok(if locked { KeychainState::Locked } else { KeychainState::Available })
}
