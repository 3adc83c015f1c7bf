//! The failures of a keychain, and what the user can do about them.

use std::time::Duration;

use keyring_core::Error;

use super::state::KeychainState;
use crate::error::StoreError;

/// Why a call failed.
pub(super) enum Failure {
    /// An earlier call has not finished.
    Busy,
    /// This call did not finish in time.
    Deadline(Duration),
    /// The keychain returned an error.
    Keychain(Error),
    /// The keychain's client panicked.
    Panicked,
    /// The call was not made, because the keychain is in this state.
    State(KeychainState),
    /// No thread could be started for the call.
    Thread,
    /// It was not this process's turn in time.
    Turn(Duration),
}

impl Failure {
    /// Converts the failure into the error of a store. `keep` describes the item to keep, if there are
    /// several of this name. `prompts` says whether the user could be asked.
    ///
    /// The text of a `keyring_core::Error` can contain secret bytes. So only the text of the platform's own
    /// error is used.
    pub(super) fn explain(self, place: String, keep: &str, prompts: bool) -> StoreError {
        let unavailable = |place, reason: String, advice: &str| StoreError::Unavailable {
            place,
            reason,
            advice: advice.into(),
        };
        let stuck = "check whether it waits to be unlocked, or restart it";
        match self {
            Self::Busy => StoreError::Timeout {
                place,
                reason: "the keychain has not answered an earlier call yet".into(),
                advice: stuck.into(),
            },
            Self::Deadline(deadline) => StoreError::Timeout {
                place,
                reason: format!("the keychain did not answer within {deadline:?}"),
                advice: stuck.into(),
            },
            Self::Keychain(Error::Ambiguous(entries)) => unavailable(
                place,
                format!("the keychain holds {} items of this name", entries.len()),
                &format!("delete all of them but {keep}"),
            ),
            Self::Keychain(Error::TooLong(_, limit)) => {
                StoreError::TooLarge { place, limit: limit as usize }
            }
            Self::Keychain(Error::NoStorageAccess(error) | Error::PlatformFailure(error))
                if status(&*error).and_then(Status::of).is_some() =>
            {
                let status = status(&*error).and_then(Status::of);
                status.expect("it was there a moment ago").explain(place)
            }
            Self::Keychain(Error::NoStorageAccess(_)) => {
                Self::State(KeychainState::Locked).explain(place, keep, prompts)
            }
            Self::Keychain(Error::PlatformFailure(error)) => unavailable(
                place,
                format!("the keychain failed ({error})"),
                "start a keychain in this session, or use an age file",
            ),
            Self::Keychain(_) => unavailable(
                place,
                "the keychain has an item of this name, but cannot return its content".into(),
                "check the item in the system's own tool",
            ),
            Self::Panicked => unavailable(
                place,
                "the keychain's client panicked".into(),
                "try again, and report what it printed",
            ),
            Self::State(KeychainState::Locked) if prompts => StoreError::Locked {
                place,
                advice: "its prompt was not answered; try again, and answer it".into(),
            },
            Self::Turn(waited) => StoreError::Timeout {
                place,
                reason: format!("other processes have been using the keychain for {waited:?}"),
                advice: "see whether one of them is stopped or stuck".into(),
            },
            Self::State(state) => state.explain(place),
            Self::Thread => unavailable(
                place,
                "no thread could be started for the keychain".into(),
                "raise the limit on threads",
            ),
        }
    }
}

impl KeychainState {
    /// Returns the error of a call that is not possible in this state.
    pub(crate) fn explain(self, place: String) -> StoreError {
        let advice = self.advice().unwrap_or("try again").to_owned();
        match self {
            Self::ConfirmsAccess | Self::Locked => {
                StoreError::Locked { place, advice: format!("{advice}, or allow prompts") }
            }
            Self::NotAnswering => {
                StoreError::Timeout { place, reason: "the keychain does not answer".into(), advice }
            }
            Self::OtherUsersBus => StoreError::Unavailable {
                place,
                reason: "$DBUS_SESSION_BUS_ADDRESS or $XDG_RUNTIME_DIR names the session bus of another \
                         user"
                    .into(),
                advice,
            },
            state => StoreError::Unavailable {
                place,
                reason: format!("there is no usable keychain here ({state})"),
                advice,
            },
        }
    }
}

/// The meaning of a status code of macOS. `keyring_core` distinguishes only some of them.
#[cfg_attr(not(target_os = "macos"), allow(dead_code, reason = "only tests use all of it"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// The user dismissed the prompt.
    Cancelled,
    /// The user, or the item's access list, denies access to this program.
    Denied,
    /// Another program created the item at the same moment.
    Duplicate,
    /// The keychain is locked, and this session cannot show a prompt.
    NoInteraction,
    /// There is no default keychain.
    NoKeychain,
    /// The keychain cannot be written.
    ReadOnly,
}

impl Status {
    /// Returns the meaning of a code. The codes are in Apple's `SecBase.h` and `MacErrors.h`.
    fn of(code: i32) -> Option<Self> {
        Some(match code {
            -128 => Self::Cancelled,                // userCanceledErr
            -25293 | -25244 => Self::Denied,        // errSecAuthFailed, errSecInvalidOwnerEdit
            -25299 => Self::Duplicate,              // errSecDuplicateItem
            -25308 | -25315 => Self::NoInteraction, // errSecInteractionNotAllowed, …Required
            // errSecNotAvailable, …NoSuchKeychain, …InvalidKeychain, …NoDefaultKeychain
            -25291 | -25294 | -25295 | -25307 => Self::NoKeychain,
            -61 | -25292 => Self::ReadOnly, // wrPermErr, errSecReadOnly
            _ => return None,
        })
    }

    fn explain(self, place: String) -> StoreError {
        let denied = |place, advice: &str| StoreError::Denied { place, advice: advice.into() };
        let unavailable = |place, reason: &str, advice: &str| StoreError::Unavailable {
            place,
            reason: reason.into(),
            advice: advice.into(),
        };
        match self {
            Self::Cancelled => {
                denied(place, "the prompt was dismissed; try again, and allow the access")
            }
            Self::Denied => denied(
                place,
                "give the right password, or add this program to the item's access list in \
                 Keychain Access",
            ),
            Self::Duplicate => {
                unavailable(place, "another program made this item at the same moment", "try again")
            }
            Self::NoInteraction => StoreError::Locked {
                place,
                advice:
                    "run `security unlock-keychain` in this session, which cannot show a prompt, \
                         or sign in at the screen"
                        .into(),
            },
            Self::NoKeychain => unavailable(
                place,
                "this user has no default keychain",
                "create one in Keychain Access, or use an age file",
            ),
            Self::ReadOnly => {
                StoreError::ReadOnly { place, reason: "the keychain cannot be written".into() }
            }
        }
    }
}

/// Returns whether another program deleted the item after it was found and before it was used.
#[cfg(all(unix, not(target_vendor = "apple")))]
pub(super) fn is_gone(error: &Error) -> bool {
    use zbus::fdo::Error as Standard;

    let Error::PlatformFailure(platform) = error else { return false };
    let first: &(dyn std::error::Error + 'static) = &**platform;
    std::iter::successors(Some(first), |error| error.source()).any(|error| {
        if let Some(zbus::Error::MethodError(name, ..)) = error.downcast_ref() {
            return GONE.contains(&name.as_str());
        }
        matches!(
            error.downcast_ref(),
            Some(
                Standard::UnknownInterface(_)
                    | Standard::UnknownMethod(_)
                    | Standard::UnknownObject(_)
            )
        )
    })
}

/// The errors of D-Bus and the Secret Service for an object that no longer exists.
#[cfg(all(unix, not(target_vendor = "apple")))]
const GONE: [&str; 4] = [
    "org.freedesktop.DBus.Error.UnknownInterface",
    "org.freedesktop.DBus.Error.UnknownMethod",
    "org.freedesktop.DBus.Error.UnknownObject",
    "org.freedesktop.Secret.Error.NoSuchObject",
];

/// On other systems, an item is found and used in one call.
#[cfg(not(all(unix, not(target_vendor = "apple"))))]
pub(super) fn is_gone(_error: &Error) -> bool {
    false
}

/// Returns the status code in an error of the platform.
#[cfg(target_os = "macos")]
fn status(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Option<i32> {
    error.downcast_ref::<security_framework::base::Error>().map(|error| error.code())
}

#[cfg(not(target_os = "macos"))]
fn status(_error: &(dyn std::error::Error + Send + Sync + 'static)) -> Option<i32> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_failure_of_the_keychain_shows_the_content_of_an_item() {
        for error in [
            Error::BadEncoding(b"canary".to_vec()),
            Error::BadDataFormat(b"canary".to_vec(), "canary".into()),
            Error::BadStoreFormat("canary".into()),
            Error::Invalid("canary".into(), "canary".into()),
        ] {
            let error = Failure::Keychain(error).explain("here".into(), "that one", false);
            assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
        }
    }

    #[cfg(all(unix, not(target_vendor = "apple")))]
    #[test]
    fn only_the_errors_of_a_deleted_item_mean_that_it_is_gone() {
        let said = |name: &str| {
            let call =
                zbus::Message::method_call("/item", "GetSecret").unwrap().build(&()).unwrap();
            let name = zbus::names::OwnedErrorName::try_from(name).unwrap();
            let error = zbus::Error::MethodError(name, None, call);
            is_gone(&Error::PlatformFailure(Box::new(error)))
        };
        assert!(GONE.iter().all(|name| said(name)));
        assert!(!said("org.freedesktop.Secret.Error.NoSession"));
        assert!(!said("org.freedesktop.DBus.Error.ServiceUnknown"));
        let property = zbus::fdo::Error::UnknownObject("/item".into());
        assert!(is_gone(&Error::PlatformFailure(Box::new(property))));
        assert!(!is_gone(&Error::PlatformFailure("another".into())));
    }

    #[test]
    fn each_status_code_of_macos_becomes_the_right_error() {
        for (code, expected) in [
            (-128, "here: access denied; the prompt was dismissed"),
            (-25244, "here: access denied; give the right password"),
            (-25291, "here is unavailable: this user has no default keychain"),
            (-25292, "here is read-only"),
            (-25293, "here: access denied; give the right password"),
            (-25299, "here is unavailable: another program made this item"),
            (-25307, "here is unavailable: this user has no default keychain"),
            (-25308, "here is locked; run `security unlock-keychain`"),
        ] {
            let error = Status::of(code).expect("it is known").explain("here".into());
            assert!(error.to_string().starts_with(expected), "{code}: {error}");
        }
        // errSecItemNotFound is no failure. An unknown code is shown in the words of the system.
        assert_eq!(Status::of(-25300), None);
        assert_eq!(Status::of(-1), None);
    }

    #[test]
    fn each_state_has_its_own_error_text() {
        use std::collections::HashSet;

        let states = [
            KeychainState::ConfirmsAccess,
            KeychainState::Locked,
            KeychainState::NoBus,
            KeychainState::NoDefaultCollection,
            KeychainState::NoProvider,
            KeychainState::NotAnswering,
            KeychainState::OtherUsersBus,
            KeychainState::Unsupported,
            KeychainState::VolatileCollection,
        ];
        let texts: HashSet<String> =
            states.iter().map(|state| state.explain("here".into()).to_string()).collect();
        assert_eq!(texts.len(), states.len(), "{texts:?}");
    }
}
