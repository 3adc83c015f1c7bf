use std::time::Instant;

use super::*;

fn private_dir() -> tempfile::TempDir {
    let mut private = tempfile::Builder::new();
    #[cfg(unix)]
    private.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    private.prefix("tokenkeep").tempdir().unwrap()
}

fn read(path: &Path, limit: usize) -> Result<Bytes, StoreError> {
    read_whole(File::open(path).unwrap(), path, limit)
}

#[test]
fn a_file_of_exactly_the_maximum_size_is_read() {
    let dir = private_dir();
    let path = dir.path().join("file");
    for size in [0_usize, 1, 1000] {
        std::fs::write(&path, vec![b'x'; size]).unwrap();
        assert_eq!(read(&path, size).unwrap().len(), size);
        let refused = size.checked_sub(1).map(|limit| read(&path, limit).unwrap_err());
        assert!(!refused.is_some_and(|error| !matches!(error, StoreError::TooLarge { .. })));
    }
}

/// The system reports 0 as the size of such a file, but the file has content.
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_is_longer_than_its_reported_size_is_read_whole_or_refused() {
    let path = Path::new("/proc/version");
    let whole = std::fs::read(path).unwrap();
    assert_eq!(path.metadata().unwrap().len(), 0);
    for limit in [whole.len(), whole.len() + 1, 1 << 16] {
        assert_eq!(*read(path, limit).unwrap(), whole);
    }
    for limit in [0, 1, whole.len() - 1] {
        let error = read(path, limit).unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { .. }), "{limit}: {error}");
    }
}

#[test]
fn a_lock_is_released_even_if_a_child_process_still_has_its_file_open() {
    let dir = private_dir();
    let file = PrivateFile::new(dir.path().join("tokens"), 100);
    let try_lock = || file.open_to_remove().unwrap().try_lock_beside(".lease").unwrap();
    for gives_up in [|locked: FileLock| drop(locked), |locked: FileLock| locked.unlock().unwrap()] {
        let locked = try_lock().unwrap();
        let inherited = locked.0.try_clone().unwrap();
        assert!(try_lock().is_none());
        gives_up(locked);
        assert!(try_lock().is_some());
        drop(inherited);
    }
}

#[test]
fn a_writer_gives_up_after_a_while_if_another_holds_the_lock() {
    let dir = private_dir();
    let mut file = PrivateFile::new(dir.path().join("tokens"), 100);
    assert_eq!(file.lock_wait, Duration::from_secs(10));
    file.lock_wait = Duration::from_millis(20);
    let held = file.lock().unwrap();
    let began = Instant::now();
    let error = file.lock().unwrap_err();
    assert!(matches!(error, StoreError::Timeout { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(held);
    file.lock().unwrap().replace(b"new").unwrap();
}

#[test]
fn a_private_file_is_created_once_and_replaced_and_removed() {
    let dir = private_dir();
    let file = PrivateFile::new(dir.path().join("below/secret"), 100);
    assert!(file.read().unwrap().is_none());
    file.remove().unwrap();
    assert!(file.create(b"one").unwrap());
    assert!(!file.create(b"two").unwrap());
    assert_eq!(file.read_trusted().unwrap().unwrap(), b"one");
    file.replace(b"two").unwrap();
    assert_eq!(file.read_trusted().unwrap().unwrap(), b"two");
    file.sync().unwrap();
    file.remove().unwrap();
    assert!(file.read_trusted().unwrap().is_none());
}

#[cfg(unix)]
#[test]
fn a_file_with_settings_may_be_a_link_and_readable_by_others_but_not_writable_by_them() {
    use std::os::unix::fs::PermissionsExt;

    let dir = private_dir();
    let config = dir.path().join("config/profiles");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(dir.path().join("target"), b"settings").unwrap();
    let path = config.join("settings");
    std::os::unix::fs::symlink(dir.path().join("target"), &path).unwrap();
    let read = || PrivateFile::new(&path, 100).read_trusted();
    let set = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for directory in [&*config, config.parent().unwrap()] {
        set(directory, 0o755);
    }
    for (path, allowed, refused) in [
        (&*dir.path().join("target"), 0o644, 0o646),
        (&*config, 0o1777, 0o777),
        (config.parent().unwrap(), 0o755, 0o757),
    ] {
        set(path, refused);
        let error = read().unwrap_err();
        assert!(matches!(error, StoreError::Exposed { .. }), "{error}");
        set(path, allowed);
        assert_eq!(read().unwrap().unwrap(), b"settings");
    }
    assert!(matches!(PrivateFile::new(&path, 100).read(), Err(StoreError::Exposed { .. })));
}

#[test]
fn many_files_are_written_under_one_lock_and_leftovers_of_a_killed_writer_are_removed() {
    let dir = private_dir();
    let path = dir.path().join("config/profiles");
    let directory = LockedDirectory::lock(&path).unwrap();
    std::fs::write(path.join("a.tmp"), b"what a killed process left").unwrap();
    assert!(directory.create("a", b"one").unwrap());
    assert!(!directory.create("a", b"two").unwrap());
    std::thread::scope(|scope| {
        let directory = &directory;
        for name in ["a", "b"] {
            scope.spawn(move || directory.replace(name, b"new").unwrap());
        }
    });
    directory.sync().unwrap();
    directory.remove("b").unwrap();
    directory.remove("b").unwrap();
    let mut names: Vec<_> =
        std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [".lock", "a"]);
    assert_eq!(std::fs::read(path.join("a")).unwrap(), b"new");
}

#[test]
fn a_name_that_leads_out_of_a_locked_directory_is_refused() {
    let dir = private_dir();
    let directory = LockedDirectory::lock(dir.path().join("profiles")).unwrap();
    for name in ["", ".", "..", "../a", "below/a", "/a", "a/", ".lock"] {
        assert!(directory.replace(name, b"").is_err(), "{name}");
        assert!(directory.create(name, b"").is_err(), "{name}");
        assert!(directory.remove(name).is_err(), "{name}");
    }
}
