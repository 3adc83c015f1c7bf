//! Small programs that make a library write its files.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use tokenkeep_test_support::{available, can_fake_time, output, scratch, skip};

/// When the writers run: 2020-11-22T09:00:00Z. The clock stands still, so each lifetime has an exact end.
const NOW: &str = "2020-11-22 09:00:00";

/// Returns the directory with the files of a script in Python, or `None` without the packages.
pub(crate) fn python(test: &str, script: &str) -> Option<TempDir> {
    (available(test, "programs-python") && can_fake_time(test)).then(|| {
        let files = scratch();
        let mut command = at_a_fixed_time();
        command.arg("programs-python").arg(writer(script)).arg(files.path());
        run(&mut command);
        files
    })
}

/// Returns the directory with the files of a script for Node.js, or `None` without the packages.
pub(crate) fn node(test: &str, script: &str) -> Option<TempDir> {
    /// It is beside the packages.
    const PACKAGES: &str = "programs-package.json";
    let here = available(test, "node") && available(test, PACKAGES) && can_fake_time(test);
    here.then(|| {
        let files = scratch();
        let mut command = at_a_fixed_time();
        command.arg("node").arg(writer(script)).arg(files.path()).arg(found(PACKAGES));
        run(&mut command);
        files
    })
}

/// Returns the directory with the files of a program in Go, or `None` without Debian's packages.
pub(crate) fn go(test: &str, program: &str) -> Option<TempDir> {
    const PACKAGES: &str = "/usr/share/gocode";
    let package = Path::new(PACKAGES).join("src/golang.org/x/oauth2");
    if !available(test, "go") {
        return None;
    }
    if !package.is_dir() {
        skip(test, &format!("there is no {}", package.display()));
        return None;
    }
    let files = scratch();
    let mut command = Command::new("go");
    command.arg("run").arg(writer(program)).arg(files.path());
    command.env("GO111MODULE", "off").env("GOPATH", PACKAGES).env("GOTOOLCHAIN", "local");
    command.env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go"));
    run(&mut command);
    Some(files)
}

/// Runs a program, which must succeed. Returns what it printed.
pub(crate) fn run(command: &mut Command) -> String {
    // Nothing is written beside the scripts.
    let output = output(command.env("PYTHONDONTWRITEBYTECODE", "1"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn writer(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("writers").join(name)
}

fn at_a_fixed_time() -> Command {
    let mut command = Command::new("faketime");
    command.args(["-f", NOW]).env("TZ", "UTC").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command
}

/// Returns the path of a file that is on `PATH`, without links.
fn found(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let mut files = std::env::split_paths(&path).map(|directory| directory.join(name));
    files.find(|file| file.is_file()).unwrap().canonicalize().unwrap()
}
