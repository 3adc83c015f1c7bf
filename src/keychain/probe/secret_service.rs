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

/// Some providers keep what is forgotten at logout in a collection of this name; it is never locked.
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
            // The client unlocks what it needs; but it makes no default collection.
            return match default_collection(connection)? {
                KeychainState::Locked => Ok(KeychainState::Available),
                state => Ok(state),
            };
        }
        // First, because some providers raise their prompt when they are searched while locked.
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
            // Some providers do not find what is locked, so it may be there.
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

/// Having no address, or nobody at it, is to have no bus. Anything else is a bus that is not well.
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

/// The bus knows how to start a provider, and could not.
fn is_not_started(error: &zbus::Error) -> bool {
    let name = match error {
        zbus::Error::MethodError(name, ..) => name.as_str(),
        _ => return false,
    };
    name == "org.freedesktop.DBus.Error.ServiceUnknown"
        || name.starts_with("org.freedesktop.DBus.Error.Spawn.")
}

/// Somebody has the name, or would be started to take it.
fn has_provider(connection: &Connection) -> zbus::Result<bool> {
    let bus = DBusProxy::new(connection)?;
    Ok(bus.name_has_owner(NAME.try_into()?)?
        || bus.list_activatable_names()?.iter().any(|name| name.as_str() == NAME))
}

/// Whether anything is unlocked that an item could be in.
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

/// Asks only what it is asked: a proxy that keeps properties reads all of them first, and subscribes
/// to their changes.
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
