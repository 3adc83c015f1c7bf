//! The command's help, and what it says to wrong usage, word for word.
//!
//! `TRYCMD=overwrite cargo test -p tokenkeep-cli --test help` writes what it says now.

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
