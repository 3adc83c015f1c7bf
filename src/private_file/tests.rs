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
    let slot = FileSlot::new(&dir.path().join("tokens"), 100);
    for gives_up in [|locked: Locked| drop(locked), |locked: Locked| locked.unlock().unwrap()] {
        let locked = slot.try_lease().unwrap().unwrap();
        let inherited = locked.0.try_clone().unwrap();
        assert!(slot.try_lease().unwrap().is_none());
        gives_up(locked);
        assert!(slot.try_lease().unwrap().is_some());
        drop(inherited);
    }
}

#[test]
fn a_writer_gives_up_on_a_lock_that_somebody_holds_for_too_long() {
    let dir = private_dir();
    let mut slot = FileSlot::new(&dir.path().join("tokens"), 100);
    assert_eq!(slot.lock_wait, Duration::from_secs(10));
    slot.lock_wait = Duration::from_millis(20);
    let (parent, name) = slot.split().unwrap();
    let held = slot.lock(&Dir::create(parent).unwrap(), name).unwrap();
    let write = || {
        slot.replace(&Expect::Anything, None, |_| Ok(()), |_| Ok(Zeroizing::new(b"new".to_vec())))
    };
    let began = Instant::now();
    let error = write().unwrap_err();
    assert!(matches!(error, StoreError::Timeout { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(held);
    write().unwrap();
}
