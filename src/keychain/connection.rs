//! The connection to the platform's keychain.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;

use keyring_core::CredentialStore;

use crate::sys::wipe;

type Made = keyring_core::Result<Arc<CredentialStore>>;

/// Whether the state of the keychain is checked first, over a bus. The connection can be made meanwhile.
const IS_ASKED_FIRST: bool = cfg!(all(unix, not(target_vendor = "apple")));

/// A connection. It is made when it is needed, or a little earlier. Making it raises no prompt.
pub(super) struct Connection {
    made: Option<Arc<CredentialStore>>,
    being_made: Option<Receiver<Made>>,
    /// Whether `being_made` was started for an earlier call.
    is_old: bool,
    make: fn() -> Made,
}

impl Default for Connection {
    fn default() -> Self {
        Self { made: None, being_made: None, is_old: false, make: platform }
    }
}

#[cfg(test)]
#[cfg(all(unix, not(target_vendor = "apple")))]
impl Connection {
    pub(super) fn made_by(make: fn() -> Made) -> Self {
        Self { make, ..Self::default() }
    }
}

impl Connection {
    /// Returns a connection of the same kind that is not made yet.
    pub(super) fn anew(&self) -> Self {
        Self { made: None, being_made: None, is_old: false, make: self.make }
    }

    /// Starts to make the connection, on a thread of its own.
    pub(super) fn begin(&mut self) {
        match self.being_made.as_ref().map(Receiver::try_recv) {
            // The earlier attempt may hang. Then another one would hang too.
            Some(Err(TryRecvError::Empty)) => {
                self.is_old = true;
                return;
            }
            Some(Ok(Ok(keychain))) => self.made = Some(keychain),
            // The earlier attempt failed.
            Some(Ok(Err(_)) | Err(TryRecvError::Disconnected)) | None => {}
        }
        self.being_made = None;
        if self.made.is_some() || !IS_ASKED_FIRST {
            return;
        }
        let (reply, being_made) = mpsc::sync_channel(1);
        let make = self.make;
        let run = move || {
            // If the keychain cannot be used, nothing receives this.
            let _ = reply.send(wipe::with_wiped_stack(make));
        };
        let thread = thread::Builder::new().name("tokenkeep-keychain-connect".into());
        if thread.spawn(run).is_ok() {
            (self.being_made, self.is_old) = (Some(being_made), false);
        }
    }

    /// Waits until the connection is made.
    pub(super) fn get(&mut self) -> Made {
        if let Some(made) = &self.made {
            return Ok(made.clone());
        }
        // The keychain answers now. So an older attempt that has not finished will hang.
        let being_made = self.being_made.take().filter(|_| !self.is_old);
        let made = match being_made.and_then(|being_made| being_made.recv().ok()) {
            Some(made) => made?,
            None => (self.make)()?,
        };
        Ok(self.made.insert(made).clone())
    }
}

#[cfg(all(unix, not(target_vendor = "apple")))]
fn platform() -> Made {
    Ok(zbus_secret_service_keyring_store::Store::new()?)
}

#[cfg(target_os = "macos")]
fn platform() -> Made {
    Ok(apple_native_keyring_store::keychain::Store::new()?)
}

#[cfg(windows)]
fn platform() -> Made {
    Ok(windows_native_keyring_store::Store::new()?)
}

#[cfg(not(any(all(unix, not(target_vendor = "apple")), target_os = "macos", windows)))]
fn platform() -> Made {
    // The state of the keychain is asked first, and says so.
    Err(keyring_core::Error::NotSupportedByStore("no keychain is known for this platform".into()))
}

#[cfg(test)]
#[cfg(all(unix, not(target_vendor = "apple")))]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn mock() -> Made {
        Ok(keyring_core::mock::Store::new()?)
    }

    fn refused() -> Made {
        Err(keyring_core::Error::NoEntry)
    }

    /// Starts to make the connection, and waits until that has finished.
    fn settled(mut connection: Connection) -> Connection {
        connection.begin();
        let made = connection.being_made.take().unwrap().recv().unwrap();
        let (reply, again) = mpsc::sync_channel(1);
        reply.send(made).unwrap();
        connection.being_made = Some(again);
        connection
    }

    #[test]
    fn a_connection_is_made_once_and_kept() {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let mut connection = Connection::made_by(|| {
            MADE.fetch_add(1, Ordering::SeqCst);
            mock()
        });
        for _ in 0..3 {
            connection.begin();
            connection.get().unwrap();
        }
        assert_eq!(MADE.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_connection_that_failed_before_it_was_needed_is_made_again() {
        let mut connection = settled(Connection::made_by(refused));
        connection.make = mock;
        connection.begin();
        connection.get().unwrap();
    }

    #[test]
    fn a_connection_that_was_made_before_it_was_needed_is_used() {
        let mut connection = settled(Connection::made_by(mock));
        connection.make = refused;
        connection.begin();
        connection.get().unwrap();
    }

    #[test]
    fn a_connecting_thread_that_hangs_is_not_waited_for_and_is_the_only_one() {
        static STUCK: Mutex<()> = Mutex::new(());
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let held = STUCK.lock().unwrap();
        let mut connection = Connection::made_by(|| {
            MADE.fetch_add(1, Ordering::SeqCst);
            drop(STUCK.lock());
            refused()
        });
        for _ in 0..3 {
            connection.begin();
        }
        connection.make = mock;
        connection.get().unwrap();
        drop(held);
        assert!(MADE.load(Ordering::SeqCst) <= 1);
    }

    #[test]
    fn the_failure_of_a_connection_that_is_needed_is_returned() {
        let mut connection = Connection::made_by(refused);
        connection.begin();
        assert!(matches!(connection.get(), Err(keyring_core::Error::NoEntry)));
    }
}
