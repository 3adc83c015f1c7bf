//! The session bus, whose it is, and the objects on it.

use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::process::geteuid;
use zbus::Address;
use zbus::address::transport::{Transport, UnixSocket};
use zbus::blocking::{Connection, Proxy, proxy};
use zbus::proxy::CacheProperties;

use crate::keychain::state::KeychainState;

/// The name of the program that provides the Secret Service.
pub(super) const NAME: &str = "org.freedesktop.secrets";

pub(super) const COLLECTION: &str = "org.freedesktop.Secret.Collection";

/// Returns the address of the session bus, unless it is the bus of another user.
///
/// After `su` or `sudo`, `$DBUS_SESSION_BUS_ADDRESS` and `$XDG_RUNTIME_DIR` can still name the bus of the
/// user before. It refuses everybody but root. Root is refused here: its keys would go to the other user's
/// keychain, and the records would not.
pub(super) fn session() -> Result<Address, KeychainState> {
    let address = Address::session().map_err(|_| KeychainState::NoBus)?;
    if is_other_users(&address) { Err(KeychainState::OtherUsersBus) } else { Ok(address) }
}

fn is_other_users(address: &Address) -> bool {
    let Transport::Unix(unix) = address.transport() else { return false };
    let UnixSocket::File(path) = unix.path() else { return false };
    match path.metadata() {
        Ok(socket) => socket.uid() != geteuid().as_raw(),
        // A directory above it is closed to this user, as the runtime directories of others are.
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

/// Returns what the failure of a connection means for the keychain. Where nothing listens, there is no bus.
pub(super) fn state_after(error: &zbus::Error) -> KeychainState {
    use io::ErrorKind::{
        BrokenPipe, ConnectionRefused, ConnectionReset, InvalidInput, NotFound, PermissionDenied,
        UnexpectedEof,
    };

    match error {
        zbus::Error::Address(_) | zbus::Error::Unsupported => KeychainState::NoBus,
        zbus::Error::Connection(error, _) | zbus::Error::InputOutput(error) => match error.kind() {
            // Nothing can listen at a path that is too long, which is an invalid input.
            ConnectionRefused | InvalidInput | NotFound => KeychainState::NoBus,
            PermissionDenied => KeychainState::OtherUsersBus,
            // The bus hung up before it was asked anything. `dbus-daemon` does so to other users.
            BrokenPipe | ConnectionReset | UnexpectedEof => KeychainState::OtherUsersBus,
            _ => KeychainState::NotAnswering,
        },
        // The bus rejected this user.
        zbus::Error::Handshake(_) => KeychainState::OtherUsersBus,
        _ => KeychainState::NotAnswering,
    }
}

/// Makes a proxy for an object of the provider.
pub(super) fn proxy<'a>(
    connection: &Connection,
    path: &'a str,
    interface: &'static str,
) -> zbus::Result<Proxy<'a>> {
    proxy_of(connection, NAME, path, interface)
}

/// Makes a proxy without a cache. A proxy with one would first read all properties and subscribe to their
/// changes.
pub(super) fn proxy_of<'a>(
    connection: &Connection,
    name: &'static str,
    path: &'a str,
    interface: &'static str,
) -> zbus::Result<Proxy<'a>> {
    proxy::Builder::new(connection)
        .destination(name)?
        .path(path)?
        .interface(interface)?
        .cache_properties(CacheProperties::No)
        .build()
}
