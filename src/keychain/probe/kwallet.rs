//! Wallets of KWallet that are open.
//!
//! After a desktop login, the wallet is open: `pam_kwallet` opened it with the user's password. Its collection
//! stays locked all the same until a client unlocks it. `Unlock` returns a prompt, but no dialog comes of that
//! prompt: it is complete within a millisecond. kwalletd5 5.103 does so. A dialog does come if the wallet is
//! closed, or if "Prompt when an application accesses an open wallet" is on in KWallet's settings.

use std::thread;
use std::time::{Duration, Instant};

use zbus::blocking::Connection;
use zbus::blocking::fdo::DBusProxy;

use super::bus::{COLLECTION, NAME, proxy, proxy_of};

/// The names that KWallet has on the bus, and its object.
const KWALLET: [(&str, &str); 2] =
    [("org.kde.kwalletd5", "/modules/kwalletd5"), ("org.kde.kwalletd6", "/modules/kwalletd6")];

/// How long an open wallet may take to be unlocked. It was 1 ms on an idle machine.
const PATIENCE: Duration = Duration::from_secs(1);

/// The pause between two looks. A signal would say it too, but a blocking wait for one has no deadline.
const POLL: Duration = Duration::from_millis(2);

/// Returns whether the provider is KWallet and has the wallet of this collection open.
pub(super) fn is_open(connection: &Connection, collection: &str) -> zbus::Result<bool> {
    let bus = DBusProxy::new(connection)?;
    let provider = bus.get_name_owner(NAME.try_into()?)?;
    for (name, object) in KWALLET {
        if bus.get_name_owner(name.try_into()?).is_ok_and(|owner| owner == provider) {
            // The label of a collection is the name of its wallet.
            let wallet: String =
                proxy(connection, collection, COLLECTION)?.get_property("Label")?;
            return proxy_of(connection, name, object, "org.kde.KWallet")?.call("isOpen", &wallet);
        }
    }
    Ok(false)
}

/// Waits for a condition. Returns whether it came true.
pub(super) fn wait_until(holds: impl Fn() -> zbus::Result<bool>) -> zbus::Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    while !holds()? {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        thread::sleep(POLL);
    }
    Ok(true)
}
