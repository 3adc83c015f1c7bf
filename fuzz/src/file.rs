//! A file that a target reads. It is in a private directory of this process.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub struct File(PathBuf);

impl File {
    /// Returns a file with this name, and creates its directory in `$TMPDIR`. The caller of the program
    /// removes `$TMPDIR`.
    pub fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("tokenkeep-fuzz-{}", std::process::id()));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).expect("it is new");
        Self(directory.join(name))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn write(&self, bytes: &[u8]) {
        let mut options = fs::OpenOptions::new();
        let options = options.create(true).truncate(true).write(true).mode(0o600);
        let mut file = options.open(&self.0).expect("the directory is ours");
        std::io::Write::write_all(&mut file, bytes).expect("there is room");
    }

    pub fn remove(&self) {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }
}
