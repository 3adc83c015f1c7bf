use std::fmt;

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
    /// It did not answer in time.
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

    /// Tells whether there is no keychain here, as opposed to one that is locked or slow.
    #[must_use]
    pub fn is_absent(self) -> bool {
        matches!(self, Self::NoBus | Self::NoDefaultCollection | Self::NoProvider)
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
