use std::fmt;

/// Whether the OS keychain can be used now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeychainState {
    /// It exists and is unlocked.
    Available,
    /// It exists and is locked. Using it would raise a prompt.
    Locked,
    /// There is no session bus, as over ssh, in a container or in a service.
    NoBus,
    /// There is a Secret Service, but it has no default collection.
    NoDefaultCollection,
    /// There is a session bus, but no program on it provides the Secret Service.
    NoProvider,
    /// It did not answer in time.
    NotAnswering,
}

impl KeychainState {
    /// Returns what to do to make the keychain usable, or `None` if it can be used.
    #[must_use]
    pub fn advice(self) -> Option<&'static str> {
        match self {
            Self::Available => None,
            Self::Locked => Some("unlock the keychain, for instance by signing in to the desktop"),
            Self::NoBus => {
                Some("run in a desktop session, or use `dbus-run-session`, or an age file")
            }
            Self::NoDefaultCollection => {
                Some("create a default keyring, for instance with seahorse, or use an age file")
            }
            Self::NoProvider => {
                Some("install and start gnome-keyring or KWallet, or use an age file")
            }
            Self::NotAnswering => Some("restart the keychain's service, or sign in again"),
        }
    }

    /// Returns whether there is no keychain. A locked or slow keychain is not absent.
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
