//! Searches the memory of another process.

use std::fmt;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::canaries::{Found, Search};

/// The size of the heap of a thread in glibc on 64-bit systems.
const ARENA: usize = 64 * 1024 * 1024;

/// A part of a secret in a process's memory.
pub(crate) struct Left {
    pub(crate) found: Found,
    /// The kind of memory: the heap, a stack, or the name of a file.
    pub(crate) region: String,
}

impl fmt::Debug for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Found { name, form, at, length } = &self.found;
        write!(f, "{length} bytes of {name} ({form}) at {at:#x} in {}", self.region)
    }
}

/// Searches all memory of a process, except read-only parts of files, for parts of the secrets.
pub(crate) fn scan(pid: u32, search: &Search) -> Vec<Left> {
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let environment = environment(pid);
    let (mut left, mut read) = (Vec::new(), 0);
    let mut guard = 0;
    for line in maps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (start, end) = words[0].split_once('-').unwrap();
        let address = |text| usize::from_str_radix(text, 16).unwrap();
        let (start, end) = (address(start), address(end));
        if words[1].starts_with("---") {
            guard = end;
            continue;
        }
        // Read-only memory has the content of its file.
        if words[1].starts_with("r-") && words[4] != "0" {
            continue;
        }
        let region = match words.get(5) {
            Some(&"[heap]") => "the heap".to_owned(),
            Some(name) => (*name).to_owned(),
            // Guard pages come before the stack of a thread. They can also come before the heap of a
            // thread, but such a heap begins at a multiple of its size.
            None if guard == start && start % ARENA != 0 => "a thread's stack".to_owned(),
            None => "the heap".to_owned(),
        };
        let mut bytes = vec![0; end - start];
        // Some memory of the kernel cannot be read.
        if !words[1].starts_with('r') || memory.read_exact_at(&mut bytes, start as u64).is_err() {
            continue;
        }
        read += bytes.len();
        for mut found in search.find_long(&bytes) {
            found.at += start;
            // The kernel put the environment there when the process started.
            let is_given = environment.contains(&found.at);
            let region = if is_given { "the environment".to_owned() } else { region.clone() };
            left.push(Left { found, region });
        }
    }
    assert!(read > 100_000, "{read} bytes are too few for a process");
    left
}

/// Returns the addresses of the environment with which the process was started.
fn environment(pid: u32) -> Range<usize> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The second field is the name of the program, which may contain spaces.
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let mut addresses = rest.split(' ').skip(47).map(|word| word.parse().unwrap());
    addresses.next().unwrap()..addresses.next().unwrap()
}
