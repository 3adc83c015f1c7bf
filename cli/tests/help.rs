//! The exact text of the command's help, and of its errors about wrong usage.
//!
//! `TRYCMD=overwrite cargo test -p tokenkeep-cli --test help` records the current text.

#[test]
fn help_and_usage_are_as_recorded() {
    trycmd::TestCases::new()
        .case("tests/help/*.trycmd")
        .env("TOKENKEEP_CONFIG_DIR", "/nonexistent/tokenkeep")
        .env("XDG_STATE_HOME", "/nonexistent/tokenkeep")
        .env("TOKENKEEP_PROFILE", "")
        .env("TOKENKEEP_STORE", "")
        .env("NO_COLOR", "1");
}
