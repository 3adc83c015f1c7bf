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
fn a_file_is_read_if_it_has_exactly_as_many_bytes_as_it_may_have() {
    let dir = private_dir();
    let path = dir.path().join("file");
    for size in [0_usize, 1, 1000] {
        std::fs::write(&path, vec![b'x'; size]).unwrap();
        assert_eq!(read(&path, size).unwrap().len(), size);
        let refused = size.checked_sub(1).map(|limit| read(&path, limit).unwrap_err());
        assert!(!refused.is_some_and(|error| !matches!(error, StoreError::TooLarge { .. })));
    }
}

/// The size of such a file is 0 when one asks for it, and then it has content.
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_grows_while_it_is_read_is_read_whole_or_refused() {
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
fn a_lock_is_given_up_although_a_child_process_still_has_its_file() {
    let dir = private_dir();
    let file = PrivateFile::new(&dir.path().join("tokens"), 100);
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
fn a_writer_gives_up_on_a_lock_that_somebody_holds_for_too_long() {
    let dir = private_dir();
    let mut file = PrivateFile::new(&dir.path().join("tokens"), 100);
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
