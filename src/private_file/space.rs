//! The room on a file system: how much is free, how much is missing, and how to reserve it.

use std::fs::File;
use std::io;

use rustix::process::geteuid;

/// How much of a file system is free.
pub(super) struct Space {
    pub(super) free: u64,
    block: u64,
    pub(super) has_no_inode: bool,
}

impl Space {
    /// Returns how much of the file system is free, or `None` if it does not report that.
    pub(super) fn of(dir: &File) -> Option<Self> {
        let there = rustix::fs::fstatvfs(dir).ok().filter(|there| there.f_blocks > 0)?;
        // Some blocks are kept for root.
        let blocks = if geteuid().is_root() { there.f_bfree } else { there.f_bavail };
        Some(Self {
            free: blocks.saturating_mul(there.f_frsize),
            block: there.f_frsize.max(1),
            has_no_inode: there.f_files > 0 && there.f_favail == 0,
        })
    }

    /// Returns how many bytes a file of that size takes on the disk.
    pub(super) fn round_up(&self, size: usize) -> u64 {
        (size as u64).div_ceil(self.block).saturating_mul(self.block)
    }
}

/// Allocates room on the disk for the first `size` bytes of the file.
pub(super) fn allocate(file: &mut File, size: usize) -> io::Result<()> {
    use std::io::Write;

    use rustix::io::Errno;

    #[cfg(not(any(target_os = "netbsd", target_os = "openbsd", target_os = "dragonfly")))]
    loop {
        let flags = rustix::fs::FallocateFlags::empty();
        match rustix::fs::fallocate(&*file, flags, 0, size as u64) {
            Err(Errno::INTR) => {}
            // Not every file system supports it.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => break,
            allocated => return Ok(allocated?),
        }
    }
    file.write_all(&vec![0; size])?;
    // Some file systems report a lack of space only now.
    file.sync_all()
}

/// Returns a text that says how much room files of these sizes need, how much there is, and what to do.
pub(super) fn missing(dir: &File, sizes: &[usize], error: &io::Error) -> String {
    let largest = sizes.iter().copied().max().unwrap_or_default() as u64;
    if error.kind() == io::ErrorKind::FileTooLarge {
        return match rustix::process::getrlimit(rustix::process::Resource::Fsize).current {
            Some(limit) => format!(
                "it takes up to {largest} bytes, and the limit on the size of a file is {limit} bytes; \
                 raise it (`ulimit -f`) by {} bytes",
                largest.saturating_sub(limit)
            ),
            None => format!(
                "it takes up to {largest} bytes, and its file system takes no file of that size; use \
                 another one"
            ),
        };
    }
    if error.kind() == io::ErrorKind::QuotaExceeded {
        return format!(
            "the quota of this user is used up, and it takes up to {largest} bytes; remove files, or \
             ask for more"
        );
    }
    let Some(space) = Space::of(dir) else {
        return format!("it takes up to {largest} bytes, and there are not as many; remove files");
    };
    if space.has_no_inode {
        return "its file system has no free inode; remove files".to_owned();
    }
    let needed: u64 = sizes.iter().map(|size| space.round_up(*size)).sum();
    match needed.checked_sub(space.free) {
        Some(missing @ 1..) => format!(
            "it takes up to {needed} bytes, and its file system has {} bytes left; free {missing} \
             bytes at least",
            space.free
        ),
        _ => format!(
            "its file system says that it is full, with {} bytes left; free some space",
            space.free
        ),
    }
}
