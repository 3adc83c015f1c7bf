//! A full disk, a read-only disk, file size limits, and too few descriptors.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tokenkeep::chrono::{SecondsFormat, TimeDelta, Utc};
use tokenkeep::store::Precondition;

use crate::figures::figure;
use crate::scenes::{Done, LONG_AGO, Scene, block_on};
use crate::stages::{ON_FILES, getting, replacing};
use crate::support::{available, skip};

/// Sets a scene up, and runs its command after this line of shell, which limits what it can use.
fn limited(scene: &Scene, limit: &str) -> Done {
    scene.fresh();
    limited_as_it_is(scene, limit)
}

fn limited_as_it_is(scene: &Scene, limit: &str) -> Done {
    let mut shell = scene.program("sh");
    shell.args(["-c", &format!("{limit} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_tokenkeep")]);
    shell.args(scene.arguments());
    scene.play_in(shell)
}

/// Fails unless the command reported an error itself, lost no tokens, and exposed no file.
fn check_failed(scene: &Scene, done: &Done, at: &str) {
    let found = scene.look();
    // The library for the bus may panic in its own threads, which the command survives. The output of
    // these panics may come before, between and after the message.
    let said = done.err.find("tokenkeep: ");
    assert!([Some(1), Some(5)].contains(&done.code), "{}, {at}: {done:?}", scene.name);
    assert!(said.is_some() && !done.err.contains("canary"), "{at}: {done:?}");
    assert!(!done.err.contains("'main' panicked"), "{at}: {done:?}");
    assert!(scene.may_be(&found), "{}, {at}: {found:?}", scene.name);
    assert!(scene.exposed().is_empty(), "{at}: {:?}", scene.exposed());
}

#[test]
fn a_file_size_limit_is_reported_and_kills_no_command() {
    let mut tried = 0;
    for stage in ON_FILES {
        let scene = stage();
        let done = limited(&scene, "ulimit -f 0");
        tried += 1;
        if done.code == Some(0) {
            // A command that only removes files writes nothing.
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
fn an_error_that_cannot_be_printed_keeps_its_exit_code() {
    let scene = replacing();
    let done = limited(&scene, "rm -r \"$TOKENKEEP_CONFIG_DIR\" && exec 2>/dev/full");
    assert_eq!(done.code, Some(2), "{done:?}");
}

#[test]
fn a_command_with_too_few_descriptors_fails_and_keeps_the_old_tokens() {
    let mut tried = 0;
    for stage in ON_FILES {
        let scene = stage();
        for descriptors in 4..40 {
            let done = limited(&scene, &format!("ulimit -n {descriptors}"));
            if done.code == Some(0) {
                assert!(descriptors > 5, "{}: {descriptors} were enough", scene.name);
                break;
            }
            // The loader has too few descriptors to start the program.
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

/// A file system that is mounted until this value is dropped.
struct Mounted(PathBuf);

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

    /// Mounts a file over itself.
    fn over_itself(file: &Path) -> Option<Self> {
        let mount = Command::new("mount").arg("--bind").args([file, file]).output().unwrap();
        mount.status.success().then(|| Self(file.to_owned()))
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
fn a_full_or_read_only_disk_is_named_and_the_old_tokens_stay() {
    let test = "scarcity::a_full_or_read_only_disk_is_named_and_the_old_tokens_stay";
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
    assert_eq!(full.code, Some(5), "{full:?}");
    let said = format!("there is no room for new tokens in {}: it takes up to ", record.display());
    assert!(full.err.contains(&said), "{full:?}");
    let left = "bytes, and its file system has 0 bytes left; free ";
    assert!(full.err.contains(left), "{full:?}");
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

/// Something that prevents the save of new tokens, but not of the intent.
struct Obstacle<'a> {
    /// A line of shell that makes the obstacle for one command.
    limit: &'a str,
    put: &'a dyn Fn(),
    remove: &'a dyn Fn(),
    /// Part of the message of the command.
    said: &'a str,
}

impl Obstacle<'_> {
    /// Fails if a refresh token is sent with the obstacle, or not sent after its removal.
    fn check(&self, scene: &Scene) {
        let server = scene.server.as_ref().unwrap();
        let asked = server.calls();
        let run = || {
            (self.put)();
            let done = limited_as_it_is(scene, self.limit);
            assert!(done.err.contains(self.said), "{}: {done:?}", self.said);
            assert_eq!(server.calls(), asked, "{}: {done:?}", self.said);
            assert_eq!(scene.look(), ["old"], "{}", self.said);
            assert!(scene.litter().is_empty(), "{}: {:?}", self.said, scene.litter());
            (self.remove)();
            done
        };
        // This token is due. The server accepts it for 10 more minutes.
        let soon = Utc::now() + TimeDelta::minutes(10);
        scene.issue(&soon.to_rfc3339_opts(SecondsFormat::Secs, true));
        let due = run();
        assert_eq!(due.code, Some(0), "{}: {due:?}", self.said);
        assert_eq!(due.out.trim_end(), fs::read_to_string(scene.aside("issued")).unwrap());
        assert!(due.err.starts_with("warning: these tokens were not refreshed: "), "{due:?}");

        scene.issue(LONG_AGO);
        let expired = run();
        assert_eq!(expired.code, Some(5), "{}: {expired:?}", self.said);
        assert_eq!(expired.out, "");
        let refreshed = scene.play_plainly();
        assert_eq!(refreshed.code, Some(0), "{}: {refreshed:?}", self.said);
        assert_eq!(server.calls(), asked + 1, "{}: {refreshed:?}", self.said);
        assert_eq!(scene.look(), ["new"], "{}", self.said);
    }
}

#[test]
fn a_refresh_token_is_not_sent_where_the_next_one_may_not_fit_into_a_file() {
    let scene = getting();
    scene.fresh();
    // 64 means 32 or 64 KiB, depending on the shell. The record has less than 1 KiB.
    let said = "bytes, and the limit on the size of a file is ";
    Obstacle { limit: "ulimit -f 64", put: &|| {}, remove: &|| {}, said }.check(&scene);
}

#[test]
fn a_refresh_token_is_not_sent_where_the_next_one_may_not_fit_on_the_disk() {
    let test = "scarcity::a_refresh_token_is_not_sent_where_the_next_one_may_not_fit_on_the_disk";
    if !available(test, "mount") {
        return;
    }
    let scene = getting();
    scene.fresh();
    {
        let Some(mounted) = Mounted::new(&scene, "size=96k") else {
            return skip(test, "mounting is not allowed here");
        };
        let fill = mounted.0.join("fill");
        // There is space for this record twice, but not for a record of the maximum size.
        let put = || {
            fs::write(&fill, vec![0; 56 * 1024]).unwrap();
            save_again(&scene);
        };
        let remove = || fs::remove_file(&fill).unwrap();
        let said = " bytes left; free ";
        Obstacle { limit: ":", put: &put, remove: &remove, said }.check(&scene);
    }
    {
        let mounted = Mounted::new(&scene, "size=1m,nr_inodes=16").unwrap();
        let fill = mounted.0.join("fill");
        let put = || {
            lease_once(&scene);
            fs::create_dir(&fill).unwrap();
            let file = |number: usize| fs::write(fill.join(number.to_string()), []);
            assert!((0..16).any(|number| file(number).is_err()), "there are more inodes");
        };
        let remove = || fs::remove_dir_all(&fill).unwrap();
        let said = "its file system has no free inode; remove files";
        Obstacle { limit: ":", put: &put, remove: &remove, said }.check(&scene);
    }
}

/// Replaces the record with itself.
fn save_again(scene: &Scene) {
    let store = scene.store_of("default").unwrap().open().unwrap();
    let there = block_on(store.load()).unwrap().unwrap();
    block_on(store.save(&there.record, Precondition::Unchanged(there.revision))).unwrap();
}

/// Creates the lock files, which are not removed later.
fn lease_once(scene: &Scene) {
    let store = scene.store_of("default").unwrap().open().unwrap();
    let lease = block_on(store.try_lease()).unwrap().expect("nobody has it");
    block_on(lease.release()).unwrap();
}

#[test]
fn a_refresh_token_is_not_sent_where_the_record_cannot_be_replaced() {
    let test = "scarcity::a_refresh_token_is_not_sent_where_the_record_cannot_be_replaced";
    if !available(test, "mount") {
        return;
    }
    let scene = getting();
    scene.fresh();
    let record = scene.root().join("state/tokenkeep/default.age");
    let mounted = RefCell::new(Mounted::over_itself(&record));
    if mounted.borrow().is_none() {
        return skip(test, "mounting is not allowed here");
    }
    let put = || drop(mounted.replace(Mounted::over_itself(&record)));
    let remove = || drop(mounted.take());
    remove();
    let said = "it is a mount point, so that it cannot be replaced";
    Obstacle { limit: ":", put: &put, remove: &remove, said }.check(&scene);
}
