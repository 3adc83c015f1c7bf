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

/// Returns whether this is root, or the user of this process.
pub(super) fn is_trusted(user: u32) -> bool {
    user == geteuid().as_raw() || is_root(user)
}

/// Returns whether this user is root. In a user namespace that has no number for root, as in the sandboxes of
/// Flatpak and bubblewrap, the files of root show the same user as all others without a number.
pub(super) fn is_root(user: u32) -> bool {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if user == UNMAPPED {
        let map = read("/proc/self/uid_map");
        return map.is_some_and(|map| shows_root_as_unmapped(&map));
    }
    user == ROOT
}

/// Returns whether the map of a user namespace has no number for root, so that root is shown as
/// [`UNMAPPED`]. If that number is the one of a real user, it is never taken for root. Each line has the first
/// number inside, the first number outside, and how many there are.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn shows_root_as_unmapped(map: &str) -> bool {
    let mut is_mapped = false;
    for line in map.lines() {
        let numbers: Vec<u64> = line.split_whitespace().flat_map(str::parse).collect();
        let [inside, outside, count] = numbers[..] else { return false };
        is_mapped = true;
        // Sandboxes are often two namespaces. Then 0 outside is this user in the first one, and not root.
        let is_root = (inside, outside) == (u64::from(ROOT), u64::from(ROOT));
        if is_root || (inside..inside + count).contains(&u64::from(UNMAPPED)) {
            return false;
        }
    }
    is_mapped
}

/// Returns whether only this user can be in this group: it is the first group of the user, and the files of
/// accounts name nobody else in it but root. Distributions make such a group for each user, and then set the
/// umask to 002.
///
/// A user who is not in `/etc/passwd` comes from a directory service or a container runtime. Then others may
/// come from there too, and have the same group. Group 0 is never private: container runtimes give it to users
/// without an account.
pub(super) fn is_private_group(group: u32) -> bool {
    let (Some(users), Some(groups)) = (read("/etc/passwd"), read("/etc/group")) else {
        return false;
    };
    group != ROOT && is_private(group, geteuid().as_raw(), &users, &groups)
}

fn is_private(group: u32, us: u32, users: &str, groups: &str) -> bool {
    let users: Vec<User<'_>> = users.lines().filter_map(User::parse).collect();
    let mut in_it = users.iter().filter(|user| user.group == group);
    let is_first_of_us = users.iter().any(|user| user.number == us && user.group == group);
    let is_ours = |user: &User<'_>| user.number == us || user.number == ROOT;
    let is_our_name = |name: &str| users.iter().any(|user| user.name == name && is_ours(user));
    let mut rows = groups.lines().filter_map(members_of(group)).peekable();
    is_first_of_us
        && in_it.all(is_ours)
        && rows.peek().is_some()
        && rows.all(|members| members.split(',').all(|name| name.is_empty() || is_our_name(name)))
}

/// A line of `/etc/passwd`: `NAME:PASSWORD:UID:GID:…`.
struct User<'a> {
    name: &'a str,
    number: u32,
    /// The number of the user's first group.
    group: u32,
}

impl<'a> User<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let mut numbers = fields.skip(1).map_while(|field| field.parse().ok());
        Some(Self { name, number: numbers.next()?, group: numbers.next()? })
    }
}

/// Returns a function that takes a line of `/etc/group`, `NAME:PASSWORD:GID:MEMBER,MEMBER`, and returns the
/// members if it is about this group.
fn members_of(group: u32) -> impl for<'a> Fn(&'a str) -> Option<&'a str> {
    move |line| {
        let mut fields = line.split(':').skip(2);
        (fields.next()?.parse() == Ok(group)).then(|| fields.next().unwrap_or_default())
    }
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
    fn a_group_is_private_if_it_is_the_first_one_of_this_user_and_of_nobody_else() {
        for (group, expected) in [
            (1000, true),
            // These are not the first group of this user.
            (51, false),
            (52, false),
            (50, false),
            (53, false),
            (1001, false),
            (100, false),
            // No file names it.
            (7777, false),
        ] {
            assert_eq!(is_private(group, 1000, USERS, GROUPS), expected, "{group}");
        }
        // This group has another member, and that one is of two users.
        assert!(!is_private(1001, 1001, USERS, GROUPS));
        assert!(!is_private(100, 1002, &format!("{USERS}x:x:1003:100::/:/bin/sh\n"), GROUPS));
        assert!(is_private(100, 1002, USERS, GROUPS));
        // The file of groups must name it, and each of its lines counts.
        assert!(!is_private(1000, 1000, USERS, "you:x:1001:me\n"));
        assert!(!is_private(1000, 1000, USERS, &format!("{GROUPS}again:x:1000:you\n")));
        assert!(is_private(1000, 1000, USERS, &format!("{GROUPS}again:x:1000:me,root\n")));
        // As on macOS and with a directory service: this user is in no file.
        assert!(!is_private(20, 501, "root:*:0:0::/:/bin/sh\n", "staff:*:20:root\n"));
        assert!(!is_private(100, 12345, USERS, GROUPS));
        assert!(!is_private_group(0));
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[test]
    fn an_unmapped_user_is_root_only_where_neither_has_a_number() {
        assert!(!shows_root_as_unmapped("         0          0 4294967295\n"));
        // As in a sandbox, and in a container with few numbers.
        assert!(shows_root_as_unmapped("1000 1000 1\n"));
        assert!(shows_root_as_unmapped("1000 0 1\n") && !shows_root_as_unmapped("0 0 1\n"));
        assert!(shows_root_as_unmapped("0 1000 1\n"));
        // As in containers that have a user of that number, nobody.
        assert!(!shows_root_as_unmapped("0 1000 1\n1 100000 65536\n"));
        assert!(!shows_root_as_unmapped("0 1000000 65536\n"));
        assert!(!shows_root_as_unmapped("0 1000000 65534\n65534 0 1\n"));
        assert!(!shows_root_as_unmapped("") && !shows_root_as_unmapped("garbage\n"));
        assert!(is_root(0) && !is_root(1234));
    }
}
