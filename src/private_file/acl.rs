//! What a Windows access list lets others do with a file or directory, read from its open handle.

use std::fs::File;
use std::io;

use windows_permissions::constants::{AceFlags, AceType, SeObjectType, SecurityInformation};
use windows_permissions::wrappers::{
    ConvertSecurityDescriptorToStringSecurityDescriptor, GetSecurityInfo, SetSecurityInfo,
};
use windows_permissions::{LocalBox, SecurityDescriptor};

/// Access rights, as the system numbers them.
pub(super) mod right {
    pub(crate) const READ_DATA: u32 = 0x1;
    /// For a directory: to add a file.
    pub(crate) const WRITE_DATA: u32 = 0x2;
    /// For a directory: to add a directory.
    #[cfg(any(feature = "age", test))]
    pub(crate) const APPEND_DATA: u32 = 0x4;
    pub(crate) const READ_EA: u32 = 0x8;
    pub(crate) const DELETE_CHILD: u32 = 0x40;
    pub(crate) const READ_ATTRIBUTES: u32 = 0x80;
    #[cfg(any(feature = "age", test))]
    pub(crate) const DELETE: u32 = 0x1_0000;
    pub(crate) const READ_CONTROL: u32 = 0x2_0000;
    pub(crate) const WRITE_DAC: u32 = 0x4_0000;
    pub(crate) const WRITE_OWNER: u32 = 0x8_0000;
    pub(crate) const SYNCHRONIZE: u32 = 0x10_0000;
    pub(crate) const GENERIC_ALL: u32 = 0x1000_0000;
    pub(crate) const GENERIC_WRITE: u32 = 0x4000_0000;
    pub(crate) const GENERIC_READ: u32 = 0x8000_0000;
}

/// Who can get at everything in any case: the system, its administrators, and what installs its
/// updates.
const RULERS: [&str; 3] =
    ["S-1-5-18", "S-1-5-32-544", "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"];

/// The entry that stands for the owner of the file.
const STAND_FOR_THE_OWNER: [&str; 2] = ["S-1-3-0", "S-1-3-4"];

const EVERYONE: &str = "S-1-1-0";

/// Who owns something, and what those may do who neither own it nor rule the system.
pub(super) struct Access {
    owner: Option<String>,
    grants: Vec<(String, u32)>,
}

impl Access {
    /// Reads it; the handle needs `READ_CONTROL`.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let parts = SecurityInformation::Owner | SecurityInformation::Dacl;
        Self::read(&*GetSecurityInfo(file, SeObjectType::SE_FILE_OBJECT, parts)?)
    }

    fn read(descriptor: &SecurityDescriptor) -> io::Result<Self> {
        let owner = descriptor.owner().map(ToString::to_string);
        // No list at all lets everybody do everything. `dacl` panics when it is told of none, so
        // this asks in another way first.
        let text = ConvertSecurityDescriptorToStringSecurityDescriptor(
            descriptor,
            SecurityInformation::Dacl,
        )?;
        let is_open = text.to_string_lossy().contains("NO_ACCESS_CONTROL");
        let list = if is_open { None } else { descriptor.dacl() };
        let Some(list) = list else {
            return Ok(Self { owner, grants: vec![(EVERYONE.into(), u32::MAX)] });
        };
        let mut grants = Vec::new();
        for entry in (0..list.len()).filter_map(|index| list.get_ace(index)) {
            // An entry that is only there to be inherited grants nothing here. What is denied is
            // not taken off what is granted: that would need to know who is in which group.
            let denies = matches!(
                entry.ace_type(),
                AceType::ACCESS_DENIED_ACE_TYPE
                    | AceType::ACCESS_DENIED_CALLBACK_ACE_TYPE
                    | AceType::ACCESS_DENIED_CALLBACK_OBJECT_ACE_TYPE
                    | AceType::ACCESS_DENIED_OBJECT_ACE_TYPE
            );
            if denies || entry.flags().contains(AceFlags::InheritOnly) {
                continue;
            }
            let who = entry.sid().map_or_else(|| EVERYONE.to_owned(), ToString::to_string);
            let is_trusted = RULERS.contains(&who.as_str())
                || STAND_FOR_THE_OWNER.contains(&who.as_str())
                || owner.as_ref() == Some(&who);
            if !is_trusted {
                grants.push((who, entry.mask().bits()));
            }
        }
        Ok(Self { owner, grants })
    }

    pub(super) fn owner(&self) -> Option<&str> {
        self.owner.as_deref()
    }

    /// Those among the others who have any of these rights; nobody is an empty list.
    pub(super) fn others_who_may(&self, rights: u32) -> Vec<&str> {
        let mut others: Vec<&str> = Vec::new();
        for (who, granted) in &self.grants {
            if granted & rights != 0 && !others.contains(&who.as_str()) {
                others.push(who);
            }
        }
        others
    }
}

/// Whether this is the system or an administrator.
pub(super) fn rules_the_system(who: &str) -> bool {
    RULERS.contains(&who)
}

/// Takes a file or directory away from everybody but its owner and those who rule the system. The
/// handle needs `READ_CONTROL` and `WRITE_DAC`.
pub(super) fn make_private(file: &mut File) -> io::Result<()> {
    let access = Access::of(file)?;
    let owner = access.owner().ok_or_else(|| io::Error::other("it belongs to nobody"))?;
    // What will be put into a directory inherits this.
    let flags = if file.metadata()?.is_dir() { "OICI" } else { "" };
    let entries = ["SY", "BA", owner].map(|who| format!("(A;{flags};FA;;;{who})")).concat();
    let descriptor: LocalBox<SecurityDescriptor> = format!("D:P{entries}").parse()?;
    let parts = SecurityInformation::Dacl | SecurityInformation::ProtectedDacl;
    let (kind, list) = (SeObjectType::SE_FILE_OBJECT, descriptor.dacl());
    SetSecurityInfo(file, kind, parts, None, None, list, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: &str = "S-1-5-21-1-2-3-1001";

    fn access(list: &str) -> Access {
        let descriptor: LocalBox<SecurityDescriptor> = format!("O:{ME}{list}").parse().unwrap();
        Access::read(&descriptor).unwrap()
    }

    #[test]
    fn the_owner_the_system_and_its_administrators_are_no_others() {
        // As in a profile, and as a list that names the owner by what stands for it.
        for list in [
            format!("D:(A;ID;FA;;;SY)(A;ID;FA;;;BA)(A;ID;FA;;;{ME})"),
            "D:P(A;;FA;;;S-1-3-4)(A;;FA;;;SY)".into(),
            "D:P".into(),
        ] {
            let access = access(&list);
            assert_eq!(access.owner(), Some(ME));
            assert!(access.others_who_may(u32::MAX).is_empty(), "{list}");
        }
    }

    #[test]
    fn others_who_are_granted_something_are_named_with_what_it_is() {
        let access = access("D:(A;;FA;;;SY)(A;ID;0x1200a9;;;WD)(A;;0x1301bf;;;AU)(A;;FR;;;WD)");
        assert_eq!(access.others_who_may(right::READ_DATA), ["S-1-1-0", "S-1-5-11"]);
        assert_eq!(access.others_who_may(right::DELETE), ["S-1-5-11"]);
        assert!(access.others_who_may(right::DELETE_CHILD | right::WRITE_DAC).is_empty());
    }

    #[test]
    fn what_is_only_inherited_further_down_grants_nothing_here() {
        // As at the root of a drive.
        let access = access("D:(A;OICIIO;0x1301bf;;;AU)(A;CI;0x1200ad;;;AU)(A;OICIIO;GA;;;CO)");
        assert!(access.others_who_may(right::WRITE_DATA | right::GENERIC_ALL).is_empty());
        assert_eq!(access.others_who_may(right::APPEND_DATA), ["S-1-5-11"]);
    }

    #[test]
    fn what_is_denied_to_one_says_nothing_of_the_others() {
        let access = access("D:(D;;FA;;;BG)(A;;FR;;;WD)");
        assert_eq!(access.others_who_may(u32::MAX), [EVERYONE]);
    }

    #[test]
    fn no_list_at_all_is_open_to_everyone() {
        assert_eq!(access("").others_who_may(right::READ_DATA), [EVERYONE]);
    }
}
