//! Reads from an open file or directory on Windows what its access list allows others to do.

use std::fs::File;
use std::io;

use windows_permissions::constants::{AceFlags, AceType, SeObjectType, SecurityInformation};
use windows_permissions::utilities::current_process_sid;
use windows_permissions::wrappers::{
    ConvertSecurityDescriptorToStringSecurityDescriptor, GetSecurityInfo, SetSecurityInfo,
};
use windows_permissions::{LocalBox, SecurityDescriptor};

/// Access rights, with the numbers of the system.
pub(super) mod right {
    pub(crate) const READ_DATA: u32 = 0x1;
    /// For a directory: to add a file.
    pub(crate) const WRITE_DATA: u32 = 0x2;
    /// For a directory: to add a directory.
    pub(crate) const APPEND_DATA: u32 = 0x4;
    pub(crate) const READ_EA: u32 = 0x8;
    pub(crate) const DELETE_CHILD: u32 = 0x40;
    pub(crate) const READ_ATTRIBUTES: u32 = 0x80;
    pub(crate) const DELETE: u32 = 0x1_0000;
    pub(crate) const READ_CONTROL: u32 = 0x2_0000;
    pub(crate) const WRITE_DAC: u32 = 0x4_0000;
    pub(crate) const WRITE_OWNER: u32 = 0x8_0000;
    pub(crate) const SYNCHRONIZE: u32 = 0x10_0000;
    pub(crate) const GENERIC_ALL: u32 = 0x1000_0000;
    pub(crate) const GENERIC_WRITE: u32 = 0x4000_0000;
    pub(crate) const GENERIC_READ: u32 = 0x8000_0000;
}

/// The accounts that can access every file in any case: the system, its administrators, and the installer of
/// its updates.
const RULERS: [&str; 3] =
    ["S-1-5-18", "S-1-5-32-544", "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"];

/// The entries that stand for the owner of a file.
const STAND_FOR_THE_OWNER: [&str; 2] = ["S-1-3-0", "S-1-3-4"];

const EVERYONE: &str = "S-1-1-0";

/// The owner of a file or directory, and the rights of all others, except those of [`RULERS`].
pub(super) struct Access {
    owner: Option<String>,
    grants: Vec<(String, u32)>,
}

impl Access {
    /// Reads the owner and the access list. The handle needs `READ_CONTROL`.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let parts = SecurityInformation::Owner | SecurityInformation::Dacl;
        Self::read(&*GetSecurityInfo(file, SeObjectType::SE_FILE_OBJECT, parts)?)
    }

    fn read(descriptor: &SecurityDescriptor) -> io::Result<Self> {
        let owner = descriptor.owner().map(ToString::to_string);
        // Without a list, everybody may do everything. `dacl` panics if there is no list, so the text form is
        // checked first.
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
            // An entry with `InheritOnly` grants nothing here. Denied rights are not subtracted from granted
            // ones: for that, one would have to know the members of each group.
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

    /// Returns the others who have at least one of these rights.
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

/// Returns whether this is the user of this process, the system, or an administrator.
pub(super) fn is_trusted(who: &str) -> io::Result<bool> {
    Ok(RULERS.contains(&who) || current_process_sid()?.to_string() == who)
}

/// Allows only the owner, the system and its administrators to access a file or directory. The handle needs
/// `READ_CONTROL` and `WRITE_DAC`.
pub(super) fn make_private(file: &mut File) -> io::Result<()> {
    let access = Access::of(file)?;
    let owner = access.owner().ok_or_else(|| io::Error::other("it belongs to nobody"))?;
    // New files in a directory inherit these entries.
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
    fn the_owner_the_system_and_its_administrators_are_not_listed_as_others() {
        // As in a profile, with an entry that stands for the owner, and without entries.
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
    fn others_are_listed_with_the_rights_that_they_have() {
        let access = access("D:(A;;FA;;;SY)(A;ID;0x1200a9;;;WD)(A;;0x1301bf;;;AU)(A;;FR;;;WD)");
        assert_eq!(access.others_who_may(right::READ_DATA), ["S-1-1-0", "S-1-5-11"]);
        assert_eq!(access.others_who_may(right::DELETE), ["S-1-5-11"]);
        assert!(access.others_who_may(right::DELETE_CHILD | right::WRITE_DAC).is_empty());
    }

    #[test]
    fn an_entry_that_is_only_for_inheritance_grants_nothing_on_the_directory_itself() {
        // As at the root of a drive.
        let access = access("D:(A;OICIIO;0x1301bf;;;AU)(A;CI;0x1200ad;;;AU)(A;OICIIO;GA;;;CO)");
        assert!(access.others_who_may(right::WRITE_DATA | right::GENERIC_ALL).is_empty());
        assert_eq!(access.others_who_may(right::APPEND_DATA), ["S-1-5-11"]);
    }

    #[test]
    fn a_right_denied_to_one_group_is_not_taken_from_the_others() {
        let access = access("D:(D;;FA;;;BG)(A;;FR;;;WD)");
        assert_eq!(access.others_who_may(u32::MAX), [EVERYONE]);
    }

    #[test]
    fn without_an_access_list_everyone_has_access() {
        assert_eq!(access("").others_who_may(right::READ_DATA), [EVERYONE]);
    }
}
