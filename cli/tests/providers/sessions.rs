//! A whole session: signing in, refreshing with rotation, and signing out.

use std::collections::BTreeSet;

use crate::home::Home;
use crate::real_provider::{Make, RealProvider};
use crate::visits::{
    at_each, command, expired_copy, home_of, login, oidc_provider, run, sign_in, tokens,
};

const WITH_SECRET: &str = "client_secret_env = \"APP_SECRET\"\n";
const IN_BODY: &str = "client_secret_env = \"APP_SECRET\"\nclient_secret_in_body = true\n";

/// Refreshes three times. Then the tokens are revoked, and neither of them is accepted.
fn session_goes_on_until_it_is_revoked(provider: &RealProvider, home: &Home) {
    let mut spent = BTreeSet::new();
    for _ in 0..3 {
        let (access, refresh) = tokens(home);
        assert!(provider.accepts(&access), "{provider:?}");
        assert!(spent.insert(refresh), "{provider:?}: the refresh token is new each time");
        run(home, "refresh").ok();
    }
    let (access, refresh) = tokens(home);
    assert!(provider.accepts(&access), "{provider:?}");
    assert!(!spent.contains(&refresh), "{provider:?}");
    run(home, "clear --revoke").ok();
    assert!(!provider.accepts(&access), "{provider:?}");
    home.run("get").failed(3);
}

#[test]
fn a_session_of_a_browser_lasts_until_it_is_revoked() {
    at_each("sessions::a_session_of_a_browser_lasts_until_it_is_revoked", |provider| {
        for (client, more) in [("public", ""), ("basic", WITH_SECRET), ("post", IN_BODY)] {
            let home = home_of(provider, client, more);
            let signed_in = login(provider, &home, "--browser");
            assert!(signed_in.err.contains("signed in; "), "{provider:?} {client}: {signed_in:?}");
            signed_in.ok();
            session_goes_on_until_it_is_revoked(provider, &home);
        }
    });
}

#[test]
fn a_session_of_a_device_lasts_until_it_is_revoked() {
    at_each("sessions::a_session_of_a_device_lasts_until_it_is_revoked", |provider| {
        let home = home_of(provider, "public", "");
        login(provider, &home, "--device").ok();
        session_goes_on_until_it_is_revoked(provider, &home);
    });
}

#[test]
fn a_refresh_token_that_was_spent_or_revoked_means_to_sign_in_again() {
    let test = "sessions::a_refresh_token_that_was_spent_or_revoked_means_to_sign_in_again";
    at_each(test, |provider| {
        let home = home_of(provider, "public", "");
        login(provider, &home, "--browser").ok();
        let (_, spent) = tokens(&home);
        run(&home, "refresh").ok();
        let (access, current) = tokens(&home);

        let copy = expired_copy(provider, "public", &spent);
        assert!(copy.run("get").failed(4).contains("sign in again"), "{provider:?}");
        // It is not sent once more.
        copy.run("get").failed(4);
        match provider.make {
            // The server cannot know which of the two is the thief.
            Make::OidcProvider => {
                assert!(!provider.accepts(&access));
                run(&home, "refresh").failed(4);
            }
            Make::Authlib => {
                assert!(provider.accepts(&access));
                run(&home, "refresh").ok();
            }
        }
        login(provider, &home, "--browser").ok();
        let (_, revoked) = tokens(&home);
        run(&home, "clear --revoke").ok();
        assert_ne!(revoked, current);
        expired_copy(provider, "public", &revoked).run("get").failed(4);
    });
}

#[test]
fn a_person_who_declines_ends_the_sign_in_and_the_old_tokens_stay() {
    let test = "sessions::a_person_who_declines_ends_the_sign_in_and_the_old_tokens_stay";
    at_each(test, |provider| {
        let home = home_of(provider, "public", "");
        login(provider, &home, "--browser").ok();
        let before = tokens(&home);
        let mut again = command(&home, "login --browser");
        let (declined, page) = sign_in(&mut again, |url, _| provider.decline(url));
        assert_eq!(declined.code, 4, "{provider:?}: {declined:?}");
        assert!(declined.err.contains("the sign-in was declined"), "{provider:?}: {declined:?}");
        assert!(page.contains("You are not signed in"), "{provider:?}: {page}");
        assert_eq!(tokens(&home), before);
    });
}

#[test]
fn a_refresh_token_that_has_expired_means_to_sign_in_again() {
    let test = "sessions::a_refresh_token_that_has_expired_means_to_sign_in_again";
    let Some(provider) = oidc_provider(test) else { return };
    let home = home_of(&provider, "public", "");
    login(&provider, &home, "--browser").ok();
    provider.later(7000);
    run(&home, "refresh").ok();
    provider.later(7201);
    assert!(run(&home, "refresh").failed(4).contains("sign in again"));
}

#[test]
fn a_wrong_client_or_secret_is_a_fault_of_the_settings_and_loses_no_tokens() {
    let test = "sessions::a_wrong_client_or_secret_is_a_fault_of_the_settings_and_loses_no_tokens";
    at_each(test, |provider| {
        let home = home_of(provider, "basic", WITH_SECRET);
        login(provider, &home, "--browser").ok();
        let before = tokens(&home);
        let mut refresh = command(&home, "refresh");
        let refused = crate::home::done(refresh.env("APP_SECRET", "wrong"), "");
        assert!(refused.failed(1).contains("invalid_client"), "{provider:?}");
        assert_eq!(tokens(&home), before);
        run(&home, "refresh").ok();
    });
}

#[test]
fn a_session_with_tls_trusts_the_private_authority_and_no_other() {
    let test = "sessions::a_session_with_tls_trusts_the_private_authority_and_no_other";
    if !Make::OidcProvider.is_here(test) {
        return;
    }
    let (provider, other) = (RealProvider::start_with_tls(), RealProvider::start_with_tls());
    let home = home_of(&provider, "public", "");
    let run = |line: &str, authority: &RealProvider| {
        let mut command = command(&home, line);
        command.env("SSL_CERT_FILE", authority.certificate("ca.pem")).env_remove("SSL_CERT_DIR");
        sign_in(&mut command, |url, code| provider.visit(url, code)).0
    };
    let refused = run("login --device", &other);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("certificate"), "{refused:?}");
    run("login --browser", &provider).ok();
    let before = tokens(&home);
    assert_eq!(run("refresh", &other).code, 1);
    assert_eq!(tokens(&home), before);
    run("refresh", &provider).ok();
    assert_ne!(tokens(&home), before);
    run("clear --revoke", &provider).ok();
}

/// The library alone: eight callers share one refresh, and the token that it brings is the next to be sent.
#[tokio::test(flavor = "multi_thread")]
async fn callers_of_the_library_share_one_refresh() {
    use tokenkeep::oauth2::OAuth2Client;
    use tokenkeep::stores::MemoryStore;
    use tokenkeep::{AuthTokens, TokenManager, chrono};

    let Some(provider) = oidc_provider("sessions::callers_of_the_library_share_one_refresh") else {
        return;
    };
    let client = OAuth2Client::new(&provider.token_url(), "public")
        .unwrap()
        .with_authorization_url(&provider.authorization_url())
        .unwrap()
        .with_revocation_url(&provider.revocation_url())
        .unwrap()
        .with_scopes(["openid", "offline_access"]);
    let sign_in = client.sign_in_by_browser(0).await.unwrap();
    let url = sign_in.url().to_owned();
    let (tokens, page) = std::thread::scope(|scope| {
        let person = scope.spawn(|| provider.visit(&url, None));
        let runtime = tokio::runtime::Handle::current();
        let tokens = tokio::task::block_in_place(|| runtime.block_on(sign_in.tokens()));
        (tokens.unwrap(), person.join().unwrap())
    });
    assert!(page.starts_with("200 "), "{page}");

    let mut expired = AuthTokens::new("old");
    expired.refresh_token = tokens.refresh_token;
    expired.expires_at = Some(chrono::Utc::now() - chrono::TimeDelta::hours(1));
    let manager =
        TokenManager::builder().store(MemoryStore::new()).refresher(client.clone()).build();
    manager.set_tokens(expired).await.unwrap();
    let calls = provider.calls();
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let manager = manager.clone();
            tokio::spawn(async move { manager.get_valid_access_token().await.unwrap() })
        })
        .collect();
    let mut brought = Vec::new();
    for caller in callers {
        brought.push(caller.await.unwrap());
    }
    assert!(brought.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(provider.calls(), calls + 1);
    assert_ne!(manager.refresh().await.unwrap().access_token, brought[0]);
    let last = manager.get_tokens().await.unwrap().unwrap();
    client.revoke(&last).await.unwrap();
    manager.refresh().await.unwrap_err();
}
