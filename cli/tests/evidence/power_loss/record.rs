//! Runs the real command under `strace`, and reads its operations on the files below a directory.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::disk::{Disk, Operation};

/// The progress of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Stage {
    Running,
    /// The command is about to send the first byte of a request to a server.
    Asked,
    /// The command is about to write its last output.
    Said,
    /// The command is about to exit.
    Ended,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Does(Operation),
    Reaches(Stage),
}

/// Calls that change no file. `mmap` may change one, so it is checked separately.
const READING: &[&str] = &[
    "access",
    "chdir",
    "close",
    "epoll_ctl",
    "execve",
    "faccessat",
    "faccessat2",
    "fadvise64",
    "fcntl",
    "flock",
    "fstat",
    "fstatfs",
    "getcwd",
    "getdents64",
    "lstat",
    "newfstatat",
    "pread64",
    "read",
    "readlink",
    "readlinkat",
    "stat",
    "statfs",
    "statx",
];

/// Runs a program, and returns what it did below `root`, which has the content of `disk`.
pub(crate) fn record(
    root: &Path,
    disk: &Disk,
    command: &Command,
    input: &str,
) -> (Output, Vec<Step>) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut traced = Command::new("strace");
    traced
        .args(["-f", "-yy", "-xx", "-s", "1000000", "-e", "signal=none"])
        .args(["-e", "trace=%file,%desc,%net,prctl,exit_group"])
        // With `prctl`, the command would hide its descriptors from strace.
        .args(["-e", "inject=prctl:retval=0", "-o"])
        .arg(log.path())
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(command.get_current_dir().unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => traced.env(name, value),
            None => traced.env_remove(name),
        };
    }
    let mut child = traced.spawn().unwrap();
    // The program may exit before it has read all input.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let log = fs::read_to_string(log.path()).unwrap();
    (output, Log::new(root, disk.clone()).read(&log))
}

struct Log<'a> {
    root: &'a Path,
    disk: Disk,
    /// The position of each descriptor that was opened for writing.
    positions: BTreeMap<String, usize>,
    steps: Vec<Step>,
}

impl<'a> Log<'a> {
    fn new(root: &'a Path, disk: Disk) -> Self {
        Self { root, disk, positions: BTreeMap::new(), steps: Vec::new() }
    }

    fn read(mut self, log: &str) -> Vec<Step> {
        // The unfinished call of each thread. Calls of other threads may come before its end.
        let mut unfinished = BTreeMap::new();
        for line in log.lines() {
            let (thread, line) = line.split_once(' ').unwrap();
            let line = line.trim_start();
            if line.starts_with("+++") {
                continue;
            }
            if let Some(begun) = line.strip_suffix(" <unfinished ...>") {
                self.begins(begun);
                unfinished.insert(thread, begun);
            } else if let Some(resumed) = line.strip_prefix("<... ") {
                let begun = unfinished.remove(thread).expect("a call that began");
                let rest = resumed.split_once("resumed>").unwrap().1;
                self.ends(&format!("{begun}{rest}"));
            } else {
                self.begins(line);
                self.ends(line);
            }
        }
        // Only the last output reports success.
        let last = self.steps.iter().rposition(|step| matches!(step, Step::Reaches(Stage::Said)));
        let mut index = 0;
        self.steps.retain(|step| {
            index += 1;
            !matches!(step, Step::Reaches(Stage::Said)) || Some(index - 1) == last
        });
        self.steps
    }

    /// Reads the calls that count from their start, because others may receive their data: output,
    /// requests, and the exit.
    fn begins(&mut self, line: &str) {
        let Some((call, arguments)) = line.split_once('(') else { return };
        let sends = ["write", "writev", "sendto", "sendmsg"].contains(&call);
        let has_asked = self.steps.iter().any(|step| matches!(step, Step::Reaches(Stage::Asked)));
        let to = arguments.split_once('<').map(|(number, to)| (number, unescaped(to)));
        match to {
            Some(("1" | "2", _)) if sends => self.steps.push(Step::Reaches(Stage::Said)),
            Some((_, to)) if sends && to.starts_with("TCP:") && !has_asked => {
                self.steps.push(Step::Reaches(Stage::Asked));
            }
            _ if call == "exit_group" => self.steps.push(Step::Reaches(Stage::Ended)),
            _ => {}
        }
    }

    /// Reads the calls that change files, if they succeeded.
    fn ends(&mut self, line: &str) {
        let Some((call, rest)) = line.split_once('(') else { panic!("{line}") };
        let Some((arguments, result)) = rest.rsplit_once(" = ") else { panic!("{line}") };
        if result.starts_with(['-', '?']) {
            return;
        }
        let arguments = arguments.trim_end().strip_suffix(')').expect("its arguments end");
        let words: Vec<&str> = arguments.split(", ").collect();
        let in_root = words.iter().any(|word| self.names_root(word));
        // The path is relative to a directory, except in the plain form of a call.
        let at = |index: usize| self.path(words[index], words[index + 1]);
        let plain = |index: usize| self.path("", words[index]);
        let operation = match call {
            "open" | "creat" | "openat2" if in_root => panic!("not read here: {line}"),
            "openat" => {
                let Some(path) = at(0) else { return };
                self.opens(path, words[2], result);
                return;
            }
            "write" => {
                let Some(path) = self.descriptor(words[0]) else { return };
                let number = words[0].split('<').next().unwrap();
                let offset = self.positions.get_mut(number).expect("it was opened for writing");
                let mut bytes = text(words[1]);
                bytes.truncate(result.parse().unwrap());
                *offset += bytes.len();
                Operation::Write { path, offset: *offset - bytes.len(), bytes }
            }
            "lseek" => {
                let Some(_) = self.descriptor(words[0]) else { return };
                let number = words[0].split('<').next().unwrap();
                // Descriptors that were opened for reading have no position here.
                if let Some(offset) = self.positions.get_mut(number) {
                    *offset = result.parse().unwrap();
                }
                return;
            }
            "ftruncate" => {
                let Some(path) = self.descriptor(words[0]) else { return };
                Operation::SetLength { path, length: words[1].parse().unwrap() }
            }
            "fallocate" => {
                let Some(path) = self.descriptor(words[0]) else { return };
                assert!(words[1] == "0", "not read here: {line}");
                let [offset, length] = [2, 3].map(|index| words[index].parse::<usize>().unwrap());
                Operation::Allocate { path, length: offset + length }
            }
            "fsync" | "fdatasync" => {
                let Some(path) = self.descriptor(words[0]) else { return };
                Operation::Sync(path)
            }
            "mkdir" | "mkdirat" => {
                let path = if call == "mkdir" { plain(0) } else { at(0) };
                let Some(path) = path else { return };
                Operation::CreateDirectory(path)
            }
            "unlink" | "unlinkat" => {
                let path = if call == "unlink" { plain(0) } else { at(0) };
                let Some(path) = path else { return };
                assert!(!line.contains("AT_REMOVEDIR"), "not read here: {line}");
                Operation::Remove(path)
            }
            "link" | "linkat" | "rename" | "renameat" | "renameat2" => {
                let is_plain = call == "link" || call == "rename";
                let paths = if is_plain { (plain(0), plain(1)) } else { (at(0), at(2)) };
                let (Some(from), Some(to)) = paths else {
                    assert!(paths == (None, None), "across the root: {line}");
                    return;
                };
                assert!(!line.contains("RENAME_EXCHANGE"), "not read here: {line}");
                if call.starts_with("link") {
                    Operation::Link { from, to }
                } else {
                    Operation::Rename { from, to }
                }
            }
            "mmap" if !(line.contains("MAP_SHARED") && line.contains("PROT_WRITE")) => return,
            call if READING.contains(&call) => return,
            _ => {
                assert!(!in_root, "an unknown call may change files: {line}");
                return;
            }
        };
        self.does(operation);
    }

    fn opens(&mut self, path: PathBuf, flags: &str, result: &str) {
        let has = |flag: &str| flags.split('|').any(|set| set == flag);
        assert!(!has("O_APPEND") && !has("O_TMPFILE"), "not read here: {flags}");
        if has("O_WRONLY") || has("O_RDWR") {
            self.positions.insert(result.split('<').next().unwrap().to_owned(), 0);
        }
        if has("O_CREAT") && !self.disk.has(&path) {
            self.does(Operation::CreateFile(path));
        } else if has("O_TRUNC") {
            self.does(Operation::SetLength { path, length: 0 });
        }
    }

    fn does(&mut self, operation: Operation) {
        self.disk.apply(&operation);
        self.steps.push(Step::Does(operation));
    }

    /// Returns the path of `name`, relative to the root. `name` may be relative to `directory`. Returns
    /// `None` if the path is not below the root.
    fn path(&self, directory: &str, name: &str) -> Option<PathBuf> {
        let name = PathBuf::from(String::from_utf8(text(name)).unwrap());
        let directory = directory.split_once('<').map(|(_, path)| unescaped(path));
        let from = directory.as_deref().map_or("", |path| path.trim_end_matches('>'));
        let path = Path::new(from).join(name);
        assert!(path.is_absolute(), "it is not known where {} is", path.display());
        path.strip_prefix(self.root).ok().map(Path::to_owned)
    }

    /// Returns the path of a descriptor relative to the root, or `None` if it is not below the root.
    fn descriptor(&self, word: &str) -> Option<PathBuf> {
        let path = unescaped(word.split_once('<')?.1);
        let path = path.strip_suffix('>').unwrap_or_else(|| panic!("it has no name: {path}"));
        Path::new(path).strip_prefix(self.root).ok().map(Path::to_owned)
    }

    fn names_root(&self, word: &str) -> bool {
        !word.starts_with("AT_FDCWD") && unescaped(word).contains(self.root.to_str().unwrap())
    }
}

/// Returns the bytes of a string that `strace -xx` shows completely.
fn text(word: &str) -> Vec<u8> {
    let quoted = word.strip_prefix('"').and_then(|word| word.strip_suffix('"'));
    bytes(quoted.unwrap_or_else(|| panic!("not a whole string: {word}")))
}

fn unescaped(word: &str) -> String {
    String::from_utf8_lossy(&bytes(word)).into_owned()
}

fn bytes(word: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once("\\x") {
        bytes.extend_from_slice(before.as_bytes());
        bytes.push(u8::from_str_radix(&after[..2], 16).unwrap());
        rest = &after[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(log: &str) -> String {
        let empty = Disk::of(&BTreeMap::new());
        format!("{:?}", Log::new(Path::new("/home"), empty).read(log))
    }

    #[test]
    fn a_call_that_another_thread_interrupts_counts_when_it_is_done() {
        let log = r#"7 mkdirat(3</home>, "\x64" <unfinished ...>
8 openat(AT_FDCWD</>, "/home/f", O_WRONLY|O_CREAT|O_EXCL, 0600) = 4</home/f>
8 write(4</home/f>, "\x61\x2c\x20", 3) = 2
8 write(4</home/f>, "\x62", 1) = 1
8 write(1<pipe:[5]>, "\x61", 1) = 1
7 <... mkdirat resumed>, 0700) = 0
7 fsync(3</home>) = 0
8 unlink("/home/f") = -1 EIO (Input/output error)
8 openat(AT_FDCWD</home>, "/elsewhere", O_WRONLY|O_CREAT|O_TRUNC, 0600) = 5</elsewhere>
8 write(1<pipe:[5]>, "\x61", 1) = 1
8 exit_group(0) = ?
7 +++ exited with 0 +++"#;
        let steps = "[Does(CreateFile(\"f\")), \
             Does(Write { path: \"f\", offset: 0, bytes: [97, 44] }), \
             Does(Write { path: \"f\", offset: 2, bytes: [98] }), \
             Does(CreateDirectory(\"d\")), Does(Sync(\"\")), Reaches(Said), Reaches(Ended)]";
        assert_eq!(read(log), steps);
    }

    #[test]
    #[should_panic(expected = "an unknown call may change files: pwrite64")]
    fn a_call_that_is_not_known_is_an_error() {
        read("7 pwrite64(4<\\x2f\\x68\\x6f\\x6d\\x65\\x2f\\x66>, \"\\x61\", 1, 9) = 1");
    }

    #[test]
    fn a_write_starts_at_the_position_that_lseek_has_set() {
        let log = r#"7 openat(AT_FDCWD</>, "/home/f", O_WRONLY|O_CREAT|O_EXCL, 0600) = 4</home/f>
7 fallocate(4</home/f>, 0, 0, 9) = 0
7 write(4</home/f>, "\x61", 1) = 1
7 lseek(4</home/f>, 0, SEEK_SET) = 0
7 write(4</home/f>, "\x62\x63", 2) = 2
7 ftruncate(4</home/f>, 2) = 0"#;
        let steps = "[Does(CreateFile(\"f\")), Does(Allocate { path: \"f\", length: 9 }), \
             Does(Write { path: \"f\", offset: 0, bytes: [97] }), \
             Does(Write { path: \"f\", offset: 0, bytes: [98, 99] }), \
             Does(SetLength { path: \"f\", length: 2 })]";
        assert_eq!(read(log), steps);
    }

    #[test]
    #[should_panic(expected = "not read here: fallocate")]
    fn punching_a_hole_is_not_read_as_an_allocation() {
        read("7 fallocate(4</home/f>, FALLOC_FL_PUNCH_HOLE, 0, 9) = 0");
    }

    #[test]
    #[should_panic(expected = "an unknown call may change files: mmap")]
    fn a_shared_writable_mapping_is_an_error() {
        read("7 mmap(NULL, 9, PROT_READ|PROT_WRITE, MAP_SHARED, 4</home/f>, 0) = 0x7f00");
    }
}
