//! Operations that are known to lose data. `disk.rs` must show the loss.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::disk::{Disk, Operation, Tree};

const OLD: &[u8] = &[b'o'; 1000];
const NEW: &[u8] = &[b'n'; 1100];

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    New,
    Nothing,
    Old,
    Torn,
}
use Found::{New, Nothing, Old, Torn};

fn found(tree: &Tree) -> Found {
    match tree.get(&PathBuf::from("dir/record")) {
        None => Nothing,
        Some(content) if content.as_deref() == Some(OLD) => Old,
        Some(content) if content.as_deref() == Some(NEW) => New,
        Some(_) => Torn,
    }
}

/// Returns what may be found at any moment, and at the end.
fn run(tree: &Tree, operations: &[Operation]) -> (BTreeSet<Found>, BTreeSet<Found>) {
    let mut disk = Disk::of(tree);
    let mut ever: BTreeSet<_> = disk.states().iter().map(found).collect();
    for operation in operations {
        disk.apply(operation);
        ever.extend(disk.states().iter().map(found));
    }
    (ever, disk.states().iter().map(found).collect())
}

fn with_old() -> Tree {
    Tree::from([("dir".into(), None), ("dir/record".into(), Some(OLD.to_vec()))])
}

fn create() -> Operation {
    Operation::CreateFile("dir/tmp".into())
}

fn write(path: &str) -> Operation {
    Operation::Write { path: path.into(), offset: 0, bytes: NEW.to_vec() }
}

fn sync(path: &str) -> Operation {
    Operation::Sync(path.into())
}

fn rename() -> Operation {
    Operation::Rename { from: "dir/tmp".into(), to: "dir/record".into() }
}

#[test]
fn a_record_that_is_synced_renamed_and_synced_again_is_the_old_one_and_then_the_new_one() {
    let whole = [create(), write("dir/tmp"), sync("dir/tmp"), rename(), sync("dir")];
    assert_eq!(run(&with_old(), &whole), ([New, Old].into(), [New].into()));
}

#[test]
fn a_rename_before_the_file_is_synced_is_found_to_tear_the_record() {
    let never = [create(), write("dir/tmp"), rename(), sync("dir")];
    assert_eq!(run(&with_old(), &never).1, [New, Torn].into());
    let late = [create(), write("dir/tmp"), rename(), sync("dir/record"), sync("dir")];
    assert_eq!(run(&with_old(), &late), ([New, Old, Torn].into(), [New].into()));
}

#[test]
fn allocated_space_tears_a_record_unless_it_is_cut_before_the_file_is_synced() {
    let take = || Operation::Allocate { path: "dir/tmp".into(), length: 2 * NEW.len() };
    let cut = || Operation::SetLength { path: "dir/tmp".into(), length: NEW.len() };
    let (file, directory) = (|| sync("dir/tmp"), || sync("dir"));
    let whole = [create(), take(), write("dir/tmp"), cut(), file(), rename(), directory()];
    assert_eq!(run(&with_old(), &whole), ([New, Old].into(), [New].into()));
    let uncut = [create(), take(), write("dir/tmp"), file(), rename(), directory()];
    assert_eq!(run(&with_old(), &uncut).1, [Torn].into());
    let late = [create(), take(), write("dir/tmp"), file(), cut(), rename(), directory()];
    assert_eq!(run(&with_old(), &late).1, [New, Torn].into());
    // Space that is allocated after the write.
    let mut disk = Disk::of(&with_old());
    for operation in [create(), write("dir/tmp"), file(), directory(), take()] {
        disk.apply(&operation);
    }
    let lengths = disk.states().into_iter().map(|state| state[&PathBuf::from("dir/tmp")].clone());
    let lengths: BTreeSet<_> = lengths.map(|content| content.unwrap().len()).collect();
    assert_eq!(lengths, [NEW.len(), 2 * NEW.len()].into());
}

#[test]
fn a_directory_that_is_not_synced_is_found_to_lose_the_new_record() {
    let unnamed = [create(), write("dir/tmp"), sync("dir/tmp"), rename()];
    assert_eq!(run(&with_old(), &unnamed).1, [New, Old].into());
    let too_early = [create(), write("dir/tmp"), sync("dir/tmp"), sync("dir"), rename()];
    assert_eq!(run(&with_old(), &too_early).1, [New, Old].into());
}

#[test]
fn a_record_that_is_overwritten_in_place_is_found_torn() {
    let cut = Operation::SetLength { path: "dir/record".into(), length: 0 };
    let in_place = [cut, write("dir/record"), sync("dir/record")];
    let (ever, at_the_end) = run(&with_old(), &in_place);
    assert_eq!(ever, [New, Old, Torn].into());
    assert_eq!(at_the_end, [New].into());
}

#[test]
fn a_record_that_is_removed_before_it_is_replaced_is_found_missing() {
    let remove = Operation::Remove("dir/record".into());
    let gap = [create(), write("dir/tmp"), sync("dir/tmp"), remove, rename(), sync("dir")];
    assert_eq!(run(&with_old(), &gap), ([New, Nothing, Old].into(), [New].into()));
}

#[test]
fn a_new_directory_whose_own_name_is_not_synced_is_found_to_lose_the_record() {
    let directory = Operation::CreateDirectory("dir".into());
    let save = [create(), write("dir/tmp"), sync("dir/tmp"), rename(), sync("dir")];
    let mut all = vec![directory];
    all.extend(save);
    assert_eq!(run(&Tree::new(), &all).1, [New, Nothing].into());
    all.insert(1, sync(""));
    assert_eq!(run(&Tree::new(), &all).1, [New].into());
}

#[test]
fn a_removal_that_is_not_synced_is_found_undone() {
    let remove = Operation::Remove("dir/record".into());
    assert_eq!(run(&with_old(), std::slice::from_ref(&remove)).1, [Nothing, Old].into());
    assert_eq!(run(&with_old(), &[remove, sync("dir")]).1, [Nothing].into());
}

#[test]
fn a_second_name_and_a_name_used_twice_are_either_there_or_not() {
    let link = Operation::Link { from: "dir/record".into(), to: "dir/copy".into() };
    let mut disk = Disk::of(&with_old());
    disk.apply(&link);
    assert_eq!(disk.states().len(), 2);
    disk.apply(&Operation::Remove("dir/copy".into()));
    assert_eq!(disk.states().len(), 2);
    disk.apply(&sync("dir"));
    assert_eq!(disk.states(), [with_old()].into());
}
