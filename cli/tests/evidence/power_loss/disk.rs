//! The states that a file system may have after a power cut.
//!
//! The rules are weaker than those of any journal, so they include all states that ext4, XFS, btrfs or
//! ZFS may leave:
//!
//! - A file has its content of the last `fsync`. Each later change may be there or not, independent of
//!   earlier changes. Of a write, only the first sectors of 512 bytes may be there. The file may still
//!   have its new length, with zeros in the missing part. Allocated space also reads as zeros.
//! - A name in a directory refers to the file that it had at the directory's last `fsync`, or to any file
//!   that a later operation gave it, independent of other names. So after a rename, both names may be
//!   there, or the old name may be gone while the new name still has its old file. But a name that is
//!   replaced is never missing, and never refers to a file that it did not have.
//! - `fsync` of a file does not save its name. `fsync` of a directory does not save the directory's own
//!   name.
//!
//! Not included are disks that lose data after they have confirmed it, and permissions. If a rename
//! leaves two names, they are shown as two files, because no file system in use makes a link of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

const SECTOR: usize = 512;

/// The largest number of states at one point. A scene with more would take too long.
const MOST_STATES: usize = 1 << 16;

const ROOT: usize = 0;

/// An operation that changes a disk, or makes changes durable.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Allocate { path: PathBuf, length: usize },
    CreateDirectory(PathBuf),
    CreateFile(PathBuf),
    Link { from: PathBuf, to: PathBuf },
    Remove(PathBuf),
    Rename { from: PathBuf, to: PathBuf },
    SetLength { path: PathBuf, length: usize },
    Sync(PathBuf),
    Write { path: PathBuf, offset: usize, bytes: Vec<u8> },
}

/// The content of a disk. Files have a content, directories have `None`.
pub(crate) type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// A disk, with its durable content and the changes since.
#[derive(Clone)]
pub(crate) struct Disk {
    nodes: Vec<Node>,
}

#[derive(Clone)]
enum Node {
    /// For each name, the node at the last `fsync`, and after each later operation.
    Directory(BTreeMap<OsString, Vec<Option<usize>>>),
    File {
        now: Vec<u8>,
        synced: Vec<u8>,
        since: Vec<Change>,
    },
}

#[derive(Clone)]
enum Change {
    Length(usize),
    LengthAtLeast(usize),
    Write(usize, Vec<u8>),
}

impl Disk {
    /// Returns a disk on which all of this is durable.
    pub(crate) fn of(tree: &Tree) -> Self {
        let mut disk = Self { nodes: vec![Node::Directory(BTreeMap::new())] };
        for (path, content) in tree {
            let node = match content {
                None => Node::Directory(BTreeMap::new()),
                Some(bytes) => {
                    Node::File { now: bytes.clone(), synced: bytes.clone(), since: Vec::new() }
                }
            };
            disk.add(path, node);
            disk.apply(&Operation::Sync(path.parent().unwrap().to_owned()));
        }
        disk
    }

    pub(crate) fn has(&self, path: &Path) -> bool {
        self.find(path).is_some()
    }

    pub(crate) fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Allocate { path, length } => {
                self.change(path, Change::LengthAtLeast(*length));
            }
            Operation::CreateDirectory(path) => self.add(path, Node::Directory(BTreeMap::new())),
            Operation::CreateFile(path) => {
                self.add(path, Node::File { now: vec![], synced: vec![], since: vec![] });
            }
            Operation::Link { from, to } => {
                let node = self.at(from);
                self.name(to, Some(node));
            }
            Operation::Remove(path) => self.name(path, None),
            Operation::Rename { from, to } => {
                let node = self.at(from);
                self.name(to, Some(node));
                self.name(from, None);
            }
            Operation::SetLength { path, length } => self.change(path, Change::Length(*length)),
            Operation::Sync(path) => {
                let node = self.at(path);
                match &mut self.nodes[node] {
                    Node::Directory(names) => {
                        names.values_mut().for_each(|history| {
                            history.drain(..history.len() - 1);
                        });
                    }
                    Node::File { now, synced, since } => {
                        synced.clone_from(now);
                        since.clear();
                    }
                }
            }
            Operation::Write { path, offset, bytes } => {
                self.change(path, Change::Write(*offset, bytes.clone()));
            }
        }
    }

    /// Returns the content that a process sees before the power cut.
    pub(crate) fn now(&self) -> Tree {
        let contents = self.nodes.iter().map(|node| match node {
            Node::Directory(_) => None,
            Node::File { now, .. } => Some(now),
        });
        let contents: Vec<_> = contents.collect();
        let mut tree = Tree::new();
        let latest = |_, _: &OsStr, history: &[Option<usize>]| *history.last().unwrap();
        self.walk(ROOT, Path::new(""), &latest, &contents, &mut tree);
        tree
    }

    /// Returns all states that are possible after a power cut.
    pub(crate) fn states(&self) -> BTreeSet<Tree> {
        let mut names = BTreeMap::new();
        let mut files = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            match node {
                Node::Directory(entries) => {
                    for (name, history) in entries {
                        let distinct: BTreeSet<_> = history.iter().copied().collect();
                        names.insert((index, name.as_os_str()), Vec::from_iter(distinct));
                    }
                }
                Node::File { synced, since, .. } => {
                    files.insert(index, Vec::from_iter(contents(synced, since)));
                }
            }
        }
        let count: usize =
            names.values().map(Vec::len).chain(files.values().map(Vec::len)).product();
        assert!(count <= MOST_STATES, "{count} states at one point");
        let mut states = BTreeSet::new();
        for number in 0..count {
            let mut rest = number;
            let mut choose = |among: usize| {
                let chosen = rest % among;
                rest /= among;
                chosen
            };
            let referred: BTreeMap<_, _> =
                names.iter().map(|(name, values)| (*name, values[choose(values.len())])).collect();
            let mut held = vec![None; self.nodes.len()];
            for (index, contents) in &files {
                held[*index] = Some(&contents[choose(contents.len())]);
            }
            let refers =
                |directory, name: &OsStr, _: &[Option<usize>]| referred[&(directory, name)];
            let mut tree = Tree::new();
            self.walk(ROOT, Path::new(""), &refers, &held, &mut tree);
            states.insert(tree);
        }
        states
    }

    fn walk(
        &self,
        directory: usize,
        path: &Path,
        refers: &impl Fn(usize, &OsStr, &[Option<usize>]) -> Option<usize>,
        contents: &[Option<&Vec<u8>>],
        tree: &mut Tree,
    ) {
        let Node::Directory(names) = &self.nodes[directory] else { unreachable!() };
        for (name, history) in names {
            let Some(node) = refers(directory, name, history) else { continue };
            let path = path.join(name);
            let content = contents[node].cloned();
            let is_directory = content.is_none();
            tree.insert(path.clone(), content);
            if is_directory {
                self.walk(node, &path, refers, contents, tree);
            }
        }
    }

    fn find(&self, path: &Path) -> Option<usize> {
        path.iter().try_fold(ROOT, |directory, name| match &self.nodes[directory] {
            Node::Directory(names) => *names.get(name)?.last().unwrap(),
            Node::File { .. } => None,
        })
    }

    fn at(&self, path: &Path) -> usize {
        self.find(path).unwrap_or_else(|| panic!("there is no {}", path.display()))
    }

    fn add(&mut self, path: &Path, node: Node) {
        self.nodes.push(node);
        self.name(path, Some(self.nodes.len() - 1));
    }

    fn name(&mut self, path: &Path, node: Option<usize>) {
        let directory = self.at(path.parent().unwrap());
        let Node::Directory(names) = &mut self.nodes[directory] else { panic!("{path:?}") };
        names.entry(path.file_name().unwrap().into()).or_insert_with(|| vec![None]).push(node);
    }

    fn change(&mut self, path: &Path, change: Change) {
        let node = self.at(path);
        let Node::File { now, since, .. } = &mut self.nodes[node] else { panic!("{path:?}") };
        match &change {
            Change::Length(length) => now.resize(*length, 0),
            Change::LengthAtLeast(length) => now.resize(now.len().max(*length), 0),
            Change::Write(offset, bytes) => {
                let length = offset + bytes.len();
                write(now, *offset, bytes, length);
            }
        }
        since.push(change);
    }
}

/// Returns all contents that a file may have: each change is made or not, and a write up to any sector.
fn contents(synced: &[u8], since: &[Change]) -> BTreeSet<Vec<u8>> {
    let mut all = BTreeSet::from([synced.to_vec()]);
    for change in since {
        for mut content in all.clone() {
            match change {
                Change::Length(length) => {
                    content.resize(*length, 0);
                    all.insert(content);
                }
                Change::LengthAtLeast(length) => {
                    content.resize(content.len().max(*length), 0);
                    all.insert(content);
                }
                Change::Write(offset, bytes) => {
                    let end = offset + bytes.len();
                    let sectors = (offset / SECTOR..=end / SECTOR).map(|sector| sector * SECTOR);
                    for cut in sectors.chain([end]).map(|cut| cut.clamp(*offset, end)) {
                        for length in [cut, end] {
                            let mut content = content.clone();
                            write(&mut content, *offset, &bytes[..cut - offset], length);
                            all.insert(content);
                        }
                    }
                }
            }
        }
    }
    all
}

/// Writes bytes, and makes the file at least this long.
fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8], length: usize) {
    content.resize(content.len().max(length), 0);
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}
