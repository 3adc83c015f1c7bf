//! The exact text of the command's help, and of its errors about wrong usage.
//!
//! `TRYCMD=overwrite cargo test -p tokenkeep-cli --test help` records the current text.

#[test]
fn help_and_usage_are_as_recorded() {
    // The snapshots leave out the drive.
    let nowhere = if cfg!(windows) { "C:/nonexistent/tokenkeep" } else { "/nonexistent/tokenkeep" };
    trycmd::TestCases::new()
        .case("tests/help/*.trycmd")
        .env("TOKENKEEP_CONFIG_DIR", nowhere)
        .env("XDG_STATE_HOME", nowhere)
        .env("TOKENKEEP_PROFILE", "")
        .env("TOKENKEEP_STORE", "")
        .env("NO_COLOR", "1");
}
