//! Profiles that name an issuer, and no endpoint.

use std::fs;

use crate::home::{Done, Home};
use crate::real_provider::{Make, RealProvider};
use crate::visits::{at_each, home_with, login, oidc_provider, run, tokens};

/// `oidc-provider` issues a refresh token only if the person was asked.
const CONSENT: &str = "[oauth2.authorize_parameters]\nprompt = \"consent\"\n";

const OPENID: &str = "/.well-known/openid-configuration";
const RFC_8414: &str = "/.well-known/oauth-authorization-server";

fn init(home: &Home, issuer: &str) -> Done {
    run(
        home,
        &format!("init --issuer {issuer} --client-id public --scope openid --scope offline_access"),
    )
}

fn looks(provider: &RealProvider) -> usize {
    provider.requests(OPENID) + provider.requests(RFC_8414)
}

#[test]
fn a_profile_of_an_issuer_signs_in_refreshes_and_revokes() {
    at_each("discovery::a_profile_of_an_issuer_signs_in_refreshes_and_revokes", |provider| {
        for how in ["--browser", "--device"] {
            let home = Home::new();
            init(&home, &provider.issuer).ok();
            login(provider, &home, how).ok();
            let looked = looks(provider);
            for _ in 0..3 {
                let (_, before) = tokens(&home);
                run(&home, "refresh").ok();
                assert_ne!(tokens(&home).1, before, "{provider:?} {how}");
            }
            let (access, _) = tokens(&home);
            run(&home, "clear --revoke").ok();
            assert!(!provider.accepts(&access), "{provider:?} {how}");
            assert_eq!(looks(provider), looked, "{provider:?} {how}: only a sign-in looks again");
        }
    });
}

#[test]
fn an_issuer_that_differs_by_one_character_is_refused_and_leaves_nothing() {
    let test = "discovery::an_issuer_that_differs_by_one_character_is_refused_and_leaves_nothing";
    at_each(test, |provider| {
        let home = Home::new();
        let refused = init(&home, &format!("{}/", provider.issuer));
        assert_ne!(refused.code, 0, "{provider:?}: {refused:?}");
        assert!(refused.err.contains("issuer"), "{provider:?}: {refused:?}");
        assert!(!home.path("config/profiles/default.toml").exists(), "{provider:?}");
        assert!(!home.path("config/keys/default.txt").exists(), "{provider:?}");
    });
}

#[test]
fn a_profile_that_was_written_by_hand_looks_once() {
    at_each("discovery::a_profile_that_was_written_by_hand_looks_once", |provider| {
        let home = home_with(&format!(
            "[oauth2]\nissuer = \"{}\"\nclient_id = \"public\"\nscopes = [\"openid\", \"offline_access\"]\n{CONSENT}",
            provider.issuer
        ));
        login(provider, &home, "--browser").ok();
        let looked = looks(provider);
        run(&home, "refresh").ok();
        run(&home, "refresh").ok();
        assert_eq!(looks(provider), looked, "{provider:?}");
    });
}

/// The attack of RFC 9207: a page of one provider sends its code to the client of another one.
#[test]
fn a_code_of_another_issuer_is_not_exchanged() {
    let test = "discovery::a_code_of_another_issuer_is_not_exchanged";
    let Some(honest) = oidc_provider(test) else { return };
    let other = RealProvider::start(Make::OidcProvider);
    let home = home_with(&format!(
        "[oauth2]\nissuer = \"{}\"\nclient_id = \"public\"\nscopes = [\"openid\"]\nauthorization_url = \"{}\"\n",
        honest.issuer,
        other.authorization_url()
    ));
    let refused = login(&other, &home, "--browser");
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.err.contains("issuer"), "{refused:?}");
    assert_eq!((honest.calls(), other.calls()), (0, 0));
}

#[test]
fn an_endpoint_that_is_written_in_the_profile_wins() {
    let test = "discovery::an_endpoint_that_is_written_in_the_profile_wins";
    let Some(provider) = oidc_provider(test) else { return };
    let home = Home::new();
    init(&home, &provider.issuer).ok();
    let path = home.path("config/profiles/default.toml");
    let text = fs::read_to_string(&path).unwrap();
    let elsewhere = "[oauth2]\ntoken_url = \"http://127.0.0.1:1/token\"";
    fs::write(&path, text.replacen("[oauth2]", elsewhere, 1)).unwrap();
    let refused = login(&provider, &home, "--browser");
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("127.0.0.1:1"), "{refused:?}");
    assert_eq!(provider.calls(), 0);
}
