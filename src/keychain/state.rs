use std::fmt;

/// Whether the OS keychain can be used now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeychainState {
    /// It exists and is unlocked.
    Available,
    /// It is unlocked, but asks the user before each program may read an item. KeePassXC does, by default.
    ConfirmsAccess,
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
    /// The address of the session bus is that of another user, as after `su`.
    OtherUsersBus,
    /// There is no keychain for this operating system.
    Unsupported,
    /// Its default collection is lost when the user logs out.
    VolatileCollection,
}

impl KeychainState {
    /// Returns what to do to make the keychain usable, or `None` if it can be used.
    #[must_use]
    pub fn advice(self) -> Option<&'static str> {
        match self {
            Self::Available => None,
            Self::ConfirmsAccess => Some(
                "it asks before each access; in KeePassXC, turn off \"Confirm when passwords are retrieved \
                 by clients\" in the settings of the Secret Service integration",
            ),
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
            Self::OtherUsersBus => Some(
                "sign in as this user, instead of using `su` or `sudo`; or use `dbus-run-session`, or an age \
                 file",
            ),
            Self::Unsupported => Some("use an age file"),
            Self::VolatileCollection => Some(
                "make another keyring the default one, for instance with seahorse, or use an age file",
            ),
        }
    }

    /// Returns whether there is no keychain. A locked or slow keychain is not absent. Nor is one that cannot
    /// be seen from the bus of another user.
    #[must_use]
    pub fn is_absent(self) -> bool {
        match self {
            Self::NoBus
            | Self::NoDefaultCollection
            | Self::NoProvider
            | Self::Unsupported
            | Self::VolatileCollection => true,
            Self::Available
            | Self::ConfirmsAccess
            | Self::Locked
            | Self::NotAnswering
            | Self::OtherUsersBus => false,
        }
    }

    /// Returns the state for a program whose user answers prompts.
    pub(crate) fn with_prompts(self) -> Self {
        match self {
            Self::ConfirmsAccess | Self::Locked => Self::Available,
            state => state,
        }
    }
}

impl fmt::Display for KeychainState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Available => "works",
            Self::ConfirmsAccess => "asks before each access",
            Self::Locked => "locked",
            Self::NoBus => "no bus",
            Self::NoDefaultCollection => "no default collection",
            Self::NoProvider => "no provider",
            Self::NotAnswering => "not answering",
            Self::OtherUsersBus => "the bus is another user's",
            Self::Unsupported => "this system has none",
            Self::VolatileCollection => "the default collection is lost at logout",
        })
    }
}
