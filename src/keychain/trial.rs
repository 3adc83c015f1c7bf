//! A trial of the keychain, before a program relies on it.

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{Item, Kind};
use crate::error::StoreError;

/// The lock file of the trial, in this user's state directory. No file of a slot can have this name.
pub(super) const LOCK: &str = ".keychain-trial.lock";

/// The content of the trial's item. It is no secret. Like a key, it is one line of ASCII.
const CONTENT: &[u8] = b"tokenkeep: this item is only a trial, and can be deleted";

/// Makes an item in the keychain, reads it, and removes it.
///
/// Some keychains look usable, and then ask the user before each access. Without prompts, this fails there, and
/// leaves no item.
pub(crate) fn try_item(prompts: bool) -> Result<(), StoreError> {
    // An item of a slot has a service, so none has this name.
    let (service, account) = (String::new(), "trial".into());
    let item = Item { service, account, kind: Kind::Trial, prompts };
    let held = item.lock()?;
    item.write_under(&held, Zeroizing::new(CONTENT.to_vec()))?;
    let read = item.read_under(&held);
    let removed = item.delete_under(&held, |_| Ok::<_, StoreError>(()));
    match read? {
        Some(read) if bool::from(read.ct_eq(CONTENT)) => removed?,
        _ => Err(item.lost("nothing else was put into it")),
    }
}
