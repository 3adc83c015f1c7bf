//! The numbers of the tests, for the table that `scripts/evidence` prints.

use std::fmt::Display;
use std::fs;
use std::path::Path;

/// Writes one row of the table: what was tried, how often, and what was found.
pub(crate) fn figure(row: &str, tried: impl Display, found: impl Display) {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("evidence");
    fs::create_dir_all(&directory).unwrap();
    let file = directory.join(row.replace(' ', "-"));
    fs::write(file, format!("| {row} | {tried} | {found} |\n")).unwrap();
}
