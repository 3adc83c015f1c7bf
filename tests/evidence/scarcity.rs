//! No room, no right to write, no descriptors: what a machine runs out of.

use std::fs;
use std::process::Command;

use crate::figures::figure;
use crate::scenes::{Done, Scene};
use crate::stages::{ON_FILES, replacing};
use crate::support::{available, skip};

/// Runs the command of a scene after a line of shell has changed what it can have.
fn limited(scene: &Scene, limit: &str) -> Done {
    scene.fresh();
    let mut shell = scene.program("sh");
    shell.args(["-c", &format!("{limit} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_tokenkeep")]);
    shell.args(scene.arguments());
    scene.play_in(shell)
}

/// That it failed by itself and said so, with nothing lost or left, and can be run again.
fn check_failed(scene: &Scene, done: &Done, at: &str) {
    let found = scene.look();
    // What the bus is talked to with panics in threads of its own, which are survived; what they write may
    // come before, between and after.
    let said = done.err.find("tokenkeep: ");
    assert!([Some(1), Some(5)].contains(&done.code), "{}, {at}: {done:?}", scene.name);
    assert!(said.is_some() && !done.err.contains("canary"), "{at}: {done:?}");
    assert!(!done.err.contains("'main' panicked"), "{at}: {done:?}");
    assert!(scene.may_be(&found), "{}, {at}: {found:?}", scene.name);
    assert!(scene.exposed().is_empty(), "{at}: {:?}", scene.exposed());
}

#[test]
fn a_command_whose_files_may_not_grow_says_so_and_is_not_killed() {
    let mut tried = 0;
    for stage in ON_FILES {
        let scene = stage();
        let done = limited(&scene, "ulimit -f 0");
        tried += 1;
        if done.code == Some(0) {
            // What only removes writes nothing.
            assert!(scene.is_done(&scene.look()), "{}: {done:?}", scene.name);
            continue;
        }
        check_failed(&scene, &done, "no room");
        assert!(scene.litter().is_empty(), "{}: {:?}", scene.name, scene.litter());
        let wrong = scene.complete();
        assert!(wrong.is_empty(), "{}: {wrong:?}", scene.name);
    }
    figure("file size limit", format!("{tried} commands"), "0 lost, 0 killed");
}

#[test]
fn an_error_that_cannot_be_written_down_keeps_its_exit_code() {
    let scene = replacing();
    let done = limited(&scene, "rm -r \"$TOKENKEEP_CONFIG_DIR\" && exec 2>/dev/full");
    assert_eq!(done.code, Some(2), "{done:?}");
}

#[test]
fn a_command_without_descriptors_says_so_and_leaves_the_old_tokens() {
    let mut tried = 0;
    for stage in ON_FILES {
        let scene = stage();
        for descriptors in 4..40 {
            let done = limited(&scene, &format!("ulimit -n {descriptors}"));
            if done.code == Some(0) {
                assert!(descriptors > 5, "{}: {descriptors} were enough", scene.name);
                break;
            }
            // The loader has not enough to load it.
            if done.code == Some(127) {
                continue;
            }
            tried += 1;
            let at = format!("{descriptors} descriptors");
            if done.err.contains("of the profiles did not move") {
                continue;
            }
            check_failed(&scene, &done, &at);
            let wrong = scene.complete();
            assert!(wrong.is_empty(), "{}, {at}: {wrong:?}", scene.name);
        }
    }
    figure("too few descriptors", format!("{tried} runs"), "0 lost, 0 panics");
}

/// A file system of its own, for as long as it is needed.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn new(scene: &Scene, options: &str) -> Option<Self> {
        let at = scene.root().join("state");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("mode=700,{options}"), "tokenkeep"])
            .arg(&at)
            .output()
            .unwrap();
        mount.status.success().then_some(Self(at))
    }

    fn remount(&self, how: &str) {
        let options = format!("remount,{how}");
        let done = Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap();
        assert!(done.success(), "{options}");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_and_a_read_only_one_leave_the_old_tokens_and_tell_which_file() {
    let test = "scarcity::a_full_disk_and_a_read_only_one_leave_the_old_tokens_and_tell_which_file";
    if !available(test, "mount") {
        return;
    }
    let scene = replacing();
    scene.fresh();
    let record = scene.root().join("state/tokenkeep/default.age");
    let Some(mounted) = Mounted::new(&scene, "size=64k") else {
        return skip(test, "mounting is not allowed here");
    };
    assert_eq!(scene.play_another("set", crate::scenes::OLD).code, Some(0));
    let fill = mounted.0.join("fill");
    fs::write(&fill, vec![0; 64 * 1024]).expect_err("there is no room for that");
    let full = scene.play_plainly();
    assert_eq!(full.code, Some(1), "{full:?}");
    assert!(
        full.err.contains(record.to_str().unwrap()) && full.err.contains("No space"),
        "{full:?}"
    );
    assert_eq!(scene.look(), ["old"]);
    assert!(scene.litter().is_empty(), "{:?}", scene.litter());
    fs::remove_file(&fill).unwrap();

    mounted.remount("ro");
    let refused = scene.play_plainly();
    assert_eq!(refused.code, Some(5), "{refused:?}");
    assert!(refused.err.contains(mounted.0.to_str().unwrap()), "{refused:?}");
    assert!(refused.err.contains("read-only"), "{refused:?}");
    assert_eq!(scene.look(), ["old"]);
    mounted.remount("rw");
    assert_eq!(scene.complete(), [""; 0]);
}
