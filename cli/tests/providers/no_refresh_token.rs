//! A sign-in that brings no refresh token.

use crate::visits::{home_with, login, oidc_provider};

#[test]
fn a_login_without_a_refresh_token_says_what_to_add() {
    let test = "no_refresh_token::a_login_without_a_refresh_token_says_what_to_add";
    let Some(provider) = oidc_provider(test) else { return };
    // This server issues a refresh token only if the person was asked.
    let home = home_with(&provider.table("public", "").replace("?prompt=consent", ""));
    let signed_in = login(&provider, &home, "--browser");
    assert!(signed_in.err.contains("offline_access"), "{signed_in:?}");
    signed_in.ok();
    home.run("get").line();
    home.run("get --field refresh").failed(3);
}
