//! The memory of another process.

use std::fmt;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::canaries::{Found, Search};

/// The heaps of threads are of this size, in glibc on 64 bits.
const ARENA: usize = 64 * 1024 * 1024;

/// A part of a secret in a process's memory.
pub(crate) struct Left {
    pub(crate) found: Found,
    /// What the memory is for: the heap, a stack, a file.
    pub(crate) region: String,
}

impl fmt::Debug for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Found { name, form, at, length } = &self.found;
        write!(f, "{length} bytes of {name} ({form}) at {at:#x} in {}", self.region)
    }
}

/// Looks through all memory that was written to for what is left of the secrets.
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
        // What nobody can write to holds what the file holds.
        if words[1].starts_with("r-") && words[4] != "0" {
            continue;
        }
        let region = match words.get(5) {
            Some(&"[heap]") => "the heap".to_owned(),
            Some(name) => (*name).to_owned(),
            // A thread's stack stands on pages that nobody may touch. So does an arena that comes after
            // another one, but those begin at multiples of their size.
            None if guard == start && start % ARENA != 0 => "a thread's stack".to_owned(),
            None => "the heap".to_owned(),
        };
        let mut bytes = vec![0; end - start];
        // What the kernel keeps for itself cannot be read.
        if !words[1].starts_with('r') || memory.read_exact_at(&mut bytes, start as u64).is_err() {
            continue;
        }
        read += bytes.len();
        for mut found in search.find_long(&bytes) {
            found.at += start;
            // What the system put there before the process began.
            let is_given = environment.contains(&found.at);
            let region = if is_given { "the environment".to_owned() } else { region.clone() };
            left.push(Left { found, region });
        }
    }
    assert!(read > 100_000, "{read} bytes is no process");
    left
}

/// Where the environment lies that the process was started with.
fn environment(pid: u32) -> Range<usize> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name of the program, which comes second, may have blanks.
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let mut addresses = rest.split(' ').skip(47).map(|word| word.parse().unwrap());
    addresses.next().unwrap()..addresses.next().unwrap()
}
