//! Which users are root, and which groups have no other member.

use std::fs::File;
use std::io::Read;

use rustix::process::geteuid;

const ROOT: u32 = 0;

/// The user that the kernel shows for one without a number in this user namespace. Linux's default
/// (`/proc/sys/kernel/overflowuid`).
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNMAPPED: u32 = 65534;

/// The maximum size of a file of accounts, in bytes. A larger one names thousands of users.
const MAX_ACCOUNTS: u64 = 1 << 20;

/// Returns whether this user is root. In a user namespace that has no number for root, as in the sandboxes of
/// Flatpak and bubblewrap, the files of root show the same user as all others without a number.
pub(super) fn is_root(user: u32) -> bool {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if user == UNMAPPED {
        return !is_root_mapped(&read("/proc/self/uid_map").unwrap_or_default());
    }
    user == ROOT
}

/// Returns whether the map of a user namespace has a number for root outside. Each line has the first number
/// inside, the first number outside, and how many there are. Without a map, all numbers are as outside.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn is_root_mapped(map: &str) -> bool {
    let mut outside = map.lines().map(|line| line.split_whitespace().nth(1));
    map.trim().is_empty() || outside.any(|first| first == Some("0"))
}

/// Returns whether a user other than root and this one is in this group, or may be. A group that
/// `/etc/group` does not name comes from a directory service, and may have any members.
pub(super) fn others_in_group(group: u32) -> bool {
    let (Some(users), Some(groups)) = (read("/etc/passwd"), read("/etc/group")) else {
        return true;
    };
    others_in(group, geteuid().as_raw(), &users, &groups)
}

fn others_in(group: u32, us: u32, users: &str, groups: &str) -> bool {
    let number = |field: Option<&&str>| field.and_then(|text| text.parse::<u32>().ok());
    let is_other = |user: Option<u32>| user.is_none_or(|user| user != ROOT && user != us);
    let mut is_known = false;
    for line in groups.lines() {
        // NAME:PASSWORD:GID:MEMBER,MEMBER
        let fields: Vec<&str> = line.split(':').collect();
        if number(fields.get(2)) != Some(group) {
            continue;
        }
        is_known = true;
        let members = fields.get(3).copied().unwrap_or_default();
        for member in members.split(',').map(str::trim).filter(|member| !member.is_empty()) {
            let user = users.lines().find_map(|line| {
                // NAME:PASSWORD:UID:GID:…
                let fields: Vec<&str> = line.split(':').collect();
                (fields.first() == Some(&member)).then(|| number(fields.get(2)))
            });
            if is_other(user.flatten()) {
                return true;
            }
        }
    }
    let has_it_first = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        number(fields.get(3)) == Some(group) && is_other(number(fields.get(2)))
    };
    !is_known || users.lines().any(has_it_first)
}

fn read(path: &str) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_ACCOUNTS).read_to_string(&mut text).ok()?;
    (text.len() < MAX_ACCOUNTS as usize).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "\
root:x:0:0:root:/root:/bin/sh
me:x:1000:1000:Me:/home/me:/bin/sh
you:x:1001:1001::/home/you:/bin/sh
guest:x:1002:100::/home/guest:/bin/sh
";

    const GROUPS: &str = "\
root:x:0:
me:x:1000:
you:x:1001:me
both:x:50:me,you
mine:x:51:me,root
empty:x:52:
users:x:100:
ghost:x:53:nobody-knows
";

    #[test]
    fn a_group_is_private_if_only_this_user_and_root_are_in_it() {
        for (group, expected) in [
            (0, false),
            (1000, false),
            (51, false),
            (52, false),
            // It is the first group of another user.
            (1001, true),
            (100, true),
            (50, true),
            (53, true),
            // No file names it.
            (7777, true),
        ] {
            assert_eq!(others_in(group, 1000, USERS, GROUPS), expected, "{group}");
        }
        assert!(others_in(1000, 1001, USERS, GROUPS));
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[test]
    fn root_has_a_number_unless_the_map_leaves_it_out() {
        assert!(is_root_mapped("         0          0 4294967295\n"));
        // As in a container of another user's, which maps numbers from 100000 on, and in a sandbox.
        assert!(!is_root_mapped("0 1000 1\n1 100000 65536\n"));
        assert!(!is_root_mapped("1000 1000 1\n"));
        assert!(is_root_mapped(""));
        assert!(is_root(0) && !is_root(1234));
    }
}
