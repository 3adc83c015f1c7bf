//! The numbers of the tests, for the table that `scripts/evidence` prints.

use std::fmt::Display;
use std::fs;

/// Writes one row of the table: what was tried, how often, and what was found.
pub fn figure(row: &str, tried: impl Display, found: impl Display) {
    // The tests run from target/PROFILE/deps.
    let this = std::env::current_exe().unwrap();
    let directory = this.ancestors().nth(3).unwrap().join("tmp/evidence");
    fs::create_dir_all(&directory).unwrap();
    let file = directory.join(row.replace(' ', "-"));
    fs::write(file, format!("| {row} | {tried} | {found} |\n")).unwrap();
}
