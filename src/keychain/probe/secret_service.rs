use std::collections::HashMap;
use std::io;
use std::time::Duration;

use zbus::blocking::connection::Builder;
use zbus::blocking::fdo::DBusProxy;
use zbus::blocking::{Connection, Proxy, proxy};
use zbus::proxy::CacheProperties;
use zbus::zvariant::{ObjectPath, OwnedObjectPath};

use crate::keychain::state::KeychainState;

const NAME: &str = "org.freedesktop.secrets";
const PATH: &str = "/org/freedesktop/secrets";
const SERVICE: &str = "org.freedesktop.Secret.Service";
const COLLECTION: &str = "org.freedesktop.Secret.Collection";

/// A collection of this name is lost when the user logs out. It is never locked. Some providers have it.
const FORGETFUL: &str = "/org/freedesktop/secrets/collection/session";

pub(super) fn probe(timeout: Duration) -> KeychainState {
    ask(timeout, default_collection)
}

pub(super) fn state_of(
    service: &str,
    account: &str,
    prompts: bool,
    timeout: Duration,
) -> KeychainState {
    ask(timeout, |connection| {
        if prompts {
            // The client unlocks a collection, but does not create a default collection.
            return match default_collection(connection)? {
                KeychainState::Locked => Ok(KeychainState::Available),
                state => Ok(state),
            };
        }
        // This is checked first, because some providers raise a prompt if they are searched while locked.
        match unlocked_collection(connection)? {
            KeychainState::Available => {}
            state => return Ok(state),
        }
        let wanted = HashMap::from([("service", service), ("username", account)]);
        let proxy = proxy(connection, PATH, SERVICE)?;
        let (unlocked, locked): (Vec<OwnedObjectPath>, Vec<OwnedObjectPath>) =
            proxy.call("SearchItems", &wanted)?;
        if !locked.is_empty() {
            return Ok(KeychainState::Locked);
        }
        if unlocked.is_empty() {
            // Some providers do not find a locked item, so it may exist.
            return default_collection(connection);
        }
        Ok(KeychainState::Available)
    })
}

fn ask(
    timeout: Duration,
    question: impl FnOnce(&Connection) -> zbus::Result<KeychainState>,
) -> KeychainState {
    let connection = match Builder::session().and_then(|bus| bus.method_timeout(timeout).build()) {
        Ok(connection) => connection,
        Err(error) if is_nobody_there(&error) => return KeychainState::NoBus,
        Err(_) => return KeychainState::NotAnswering,
    };
    match has_provider(&connection)
        .and_then(|has| if has { question(&connection) } else { Ok(KeychainState::NoProvider) })
    {
        Ok(state) => state,
        Err(error) if is_not_started(&error) => KeychainState::NoProvider,
        Err(_) => KeychainState::NotAnswering,
    }
}

/// Returns whether there is no bus: it has no address, or nothing listens there. Any other error means that
/// a bus exists and fails.
fn is_nobody_there(error: &zbus::Error) -> bool {
    let is_nobody = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
    };
    match error {
        zbus::Error::Address(_) | zbus::Error::Unsupported => true,
        zbus::Error::Connection(error, _) | zbus::Error::InputOutput(error) => is_nobody(error),
        _ => false,
    }
}

/// Returns whether the bus tried to start a provider and failed.
fn is_not_started(error: &zbus::Error) -> bool {
    let name = match error {
        zbus::Error::MethodError(name, ..) => name.as_str(),
        _ => return false,
    };
    name == "org.freedesktop.DBus.Error.ServiceUnknown"
        || name.starts_with("org.freedesktop.DBus.Error.Spawn.")
}

/// Returns whether a provider is running, or can be started by the bus.
fn has_provider(connection: &Connection) -> zbus::Result<bool> {
    let bus = DBusProxy::new(connection)?;
    Ok(bus.name_has_owner(NAME.try_into()?)?
        || bus.list_activatable_names()?.iter().any(|name| name.as_str() == NAME))
}

/// Returns whether a collection in which an item could be is unlocked.
fn unlocked_collection(connection: &Connection) -> zbus::Result<KeychainState> {
    let service = proxy(connection, PATH, SERVICE)?;
    let collections: Vec<OwnedObjectPath> = service.get_property("Collections")?;
    let mut state = KeychainState::NoDefaultCollection;
    for collection in collections.iter().filter(|path| path.as_str() != FORGETFUL) {
        if !is_locked(connection, collection)? {
            return Ok(KeychainState::Available);
        }
        state = KeychainState::Locked;
    }
    Ok(state)
}

fn default_collection(connection: &Connection) -> zbus::Result<KeychainState> {
    let service = proxy(connection, PATH, SERVICE)?;
    let default: OwnedObjectPath = service.call("ReadAlias", &"default")?;
    if default.as_str() == "/" {
        return Ok(KeychainState::NoDefaultCollection);
    }
    let is_locked = is_locked(connection, &default)?;
    Ok(if is_locked { KeychainState::Locked } else { KeychainState::Available })
}

fn is_locked(connection: &Connection, collection: &ObjectPath<'_>) -> zbus::Result<bool> {
    proxy(connection, collection.as_str(), COLLECTION)?.get_property("Locked")
}

/// Makes a proxy without a cache. A proxy with one would first read all properties and subscribe to their
/// changes.
fn proxy<'a>(
    connection: &Connection,
    path: &'a str,
    interface: &'static str,
) -> zbus::Result<Proxy<'a>> {
    proxy::Builder::new(connection)
        .destination(NAME)?
        .path(path)?
        .interface(interface)?
        .cache_properties(CacheProperties::No)
        .build()
}
