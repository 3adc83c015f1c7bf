use std::collections::HashMap;
use std::time::Duration;

use zbus::blocking::Connection;
use zbus::blocking::connection::Builder;
use zbus::blocking::fdo::DBusProxy;
use zbus::zvariant::OwnedObjectPath;

use super::bus::{self, COLLECTION, NAME, proxy};
use super::kwallet;
use crate::keychain::state::KeychainState;

const PATH: &str = "/org/freedesktop/secrets";
const SERVICE: &str = "org.freedesktop.Secret.Service";
const ITEM: &str = "org.freedesktop.Secret.Item";
const PROMPT: &str = "org.freedesktop.Secret.Prompt";

/// A collection of this name is lost when the user logs out. It is never locked. Some providers have it.
const FORGETFUL: &str = "/org/freedesktop/secrets/collection/session";

/// The path of no object.
const NONE: &str = "/";

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
            return Ok(default_collection(connection)?.with_prompts());
        }
        // This is checked first, because some providers raise a prompt if they are searched while locked.
        match any_collection(connection)? {
            KeychainState::Available => {}
            state => return Ok(state),
        }
        let wanted = HashMap::from([("service", service), ("username", account)]);
        let proxy = proxy(connection, PATH, SERVICE)?;
        let (unlocked, locked): (Vec<OwnedObjectPath>, Vec<OwnedObjectPath>) =
            proxy.call("SearchItems", &wanted)?;
        for item in &locked {
            let collection = item.rsplit_once('/').map_or(item.as_str(), |(parent, _)| parent);
            if !is_locked(connection, collection, COLLECTION)? {
                return Ok(KeychainState::ConfirmsAccess);
            }
            if !unlock(connection, collection)? {
                return Ok(KeychainState::Locked);
            }
        }
        if unlocked.is_empty() && locked.is_empty() {
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
    let address = match bus::session() {
        Ok(address) => address,
        Err(state) => return state,
    };
    let connected = Builder::address(address).and_then(|bus| bus.method_timeout(timeout).build());
    let connection = match connected {
        Ok(connection) => connection,
        Err(error) => return bus::state_after(&error),
    };
    match has_provider(&connection)
        .and_then(|has| if has { question(&connection) } else { Ok(KeychainState::NoProvider) })
    {
        Ok(state) => state,
        Err(error) if is_not_started(&error) => KeychainState::NoProvider,
        Err(_) => KeychainState::NotAnswering,
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

/// Returns whether a collection in which an item could be is unlocked. If none is, unlocks the default
/// collection if that raises no prompt.
fn any_collection(connection: &Connection) -> zbus::Result<KeychainState> {
    let service = proxy(connection, PATH, SERVICE)?;
    let collections: Vec<OwnedObjectPath> = service.get_property("Collections")?;
    let mut collections = collections.iter().filter(|path| path.as_str() != FORGETFUL).peekable();
    if collections.peek().is_none() {
        return default_collection(connection);
    }
    for collection in collections {
        if !is_locked(connection, collection, COLLECTION)? {
            return Ok(KeychainState::Available);
        }
    }
    Ok(match default_collection(connection)? {
        KeychainState::Available | KeychainState::ConfirmsAccess => KeychainState::Available,
        // The item may be in another collection.
        _ => KeychainState::Locked,
    })
}

/// Returns whether a new item can be made. Unlocks the collection for it if that raises no prompt.
fn default_collection(connection: &Connection) -> zbus::Result<KeychainState> {
    let service = proxy(connection, PATH, SERVICE)?;
    let default: OwnedObjectPath = service.call("ReadAlias", &"default")?;
    Ok(match default.as_str() {
        NONE => KeychainState::NoDefaultCollection,
        FORGETFUL => KeychainState::VolatileCollection,
        path if is_locked(connection, path, COLLECTION)? && !unlock(connection, path)? => {
            KeychainState::Locked
        }
        path if confirms_access(connection, path) => KeychainState::ConfirmsAccess,
        _ => KeychainState::Available,
    })
}

/// Returns whether there is a locked item in an unlocked collection. Such a provider asks the user before a
/// program may read an item.
///
/// An item that cannot be looked at may just have been removed, so it proves nothing.
fn confirms_access(connection: &Connection, collection: &str) -> bool {
    let first = || {
        let collection = proxy(connection, collection, COLLECTION)?;
        let items: Vec<OwnedObjectPath> = collection.get_property("Items")?;
        items.first().map_or(Ok(false), |item| is_locked(connection, item, ITEM))
    };
    first().unwrap_or(false)
}

/// Unlocks a collection if that raises no prompt. Returns whether it is unlocked.
///
/// `Unlock` itself asks nobody: if the user has to be asked, it returns a prompt, which is shown only when it
/// is called. KWallet returns one also for a wallet that is open.
fn unlock(connection: &Connection, collection: &str) -> zbus::Result<bool> {
    let service = proxy(connection, PATH, SERVICE)?;
    let objects = vec![OwnedObjectPath::try_from(collection)?];
    let (unlocked, prompt): (Vec<OwnedObjectPath>, OwnedObjectPath) =
        match service.call("Unlock", &objects) {
            // It cannot be unlocked in this way.
            Err(zbus::Error::MethodError(..)) => return Ok(false),
            answer => answer?,
        };
    if prompt.as_str() == NONE {
        return Ok(unlocked == objects);
    }
    let prompt = proxy(connection, prompt.as_str(), PROMPT)?;
    if !kwallet::is_open(connection, collection)? {
        // If this fails, the provider removes the prompt when this connection ends.
        let _ = prompt.call::<_, _, ()>("Dismiss", &());
        return Ok(false);
    }
    prompt.call::<_, _, ()>("Prompt", &"")?;
    kwallet::wait_until(|| Ok(!is_locked(connection, collection, COLLECTION)?))
}

fn is_locked(connection: &Connection, path: &str, interface: &'static str) -> zbus::Result<bool> {
    proxy(connection, path, interface)?.get_property("Locked")
}
