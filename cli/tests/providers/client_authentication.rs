//! Clients that prove who they are by a signature, and clients that act without a person.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::home::Home;
use crate::real_provider::{Make, RealProvider};
use crate::visits::{at_each, home_of, home_with, login, oidc_provider, run, tokens};

const WITH_SECRET: &str = "client_secret_env = \"APP_SECRET\"\n";

/// Writes the private key of the client, and returns the settings that name it.
fn with_key(provider: &RealProvider, home: &Home, algorithm: &str) -> String {
    let path = home.path(format!("{algorithm}.pem"));
    fs::write(&path, &provider.keys[algorithm]).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    format!(
        "client_assertion_key = \"{}\"\nclient_assertion_key_id = \"key-{algorithm}\"\n\
         client_assertion_algorithm = \"{algorithm}\"\n",
        path.display()
    )
}

fn service(provider: &RealProvider, client: &str, more: &str) -> String {
    format!(
        "[oauth2]\ngrant_type = \"client_credentials\"\nclient_id = \"{client}\"\ntoken_url = \"{}\"\n{more}",
        provider.token_url()
    )
}

#[test]
fn a_client_that_signs_its_requests_signs_in_refreshes_and_revokes() {
    let test =
        "client_authentication::a_client_that_signs_its_requests_signs_in_refreshes_and_revokes";
    let Some(provider) = oidc_provider(test) else { return };
    let keys = Home::new();
    for algorithm in ["ES256", "RS256", "EdDSA"] {
        let home = home_of(&provider, "jwt", &with_key(&provider, &keys, algorithm));
        login(&provider, &home, "--browser").ok();
        // An assertion is accepted once, so each request has one of its own.
        for _ in 0..3 {
            let (_, before) = tokens(&home);
            run(&home, "refresh").ok();
            assert_ne!(tokens(&home).1, before, "{algorithm}");
        }
        let (access, _) = tokens(&home);
        run(&home, "clear --revoke").ok();
        assert!(!provider.accepts(&access), "{algorithm}");
    }
    let home = home_of(&provider, "jwt", &with_key(&provider, &keys, "ES256"));
    login(&provider, &home, "--device").ok();
    run(&home, "refresh").ok();
}

#[test]
fn a_key_of_somebody_else_is_refused_and_never_shown() {
    let test = "client_authentication::a_key_of_somebody_else_is_refused_and_never_shown";
    let Some(provider) = oidc_provider(test) else { return };
    let (keys, other) = (Home::new(), RealProvider::start(Make::OidcProvider));
    let home = home_with(&service(&provider, "service-jwt", &with_key(&other, &keys, "ES256")));
    let refused = home.run("get").failed(1);
    assert!(refused.contains("invalid_client"), "{refused}");
    assert!(!refused.contains("PRIVATE"), "{refused}");
}

#[test]
fn a_service_gets_tokens_without_a_person_and_asks_once_for_all_processes() {
    let test = "client_authentication::a_service_gets_tokens_without_a_person_and_asks_once_for_all_processes";
    at_each(test, |provider| {
        let home = home_with(&service(provider, "service-basic", WITH_SECRET));
        let all: Vec<_> = std::thread::scope(|scope| {
            let processes: Vec<_> =
                (0..8).map(|_| scope.spawn(|| run(&home, "get").line())).collect();
            processes.into_iter().map(|process| process.join().unwrap()).collect()
        });
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "{provider:?}: one token for all");
        assert_eq!(provider.calls(), 1, "{provider:?}");
        run(&home, "refresh").ok();
        assert_ne!(run(&home, "get").line(), all[0], "{provider:?}");
        assert_eq!(provider.calls(), 2, "{provider:?}");
        // There is no refresh token, and nobody has to sign in.
        home.run("get --field refresh").failed(3);
    });
}

#[test]
fn a_service_that_signs_gets_tokens() {
    let Some(provider) = oidc_provider("client_authentication::a_service_that_signs_gets_tokens")
    else {
        return;
    };
    let keys = Home::new();
    let home = home_with(&service(&provider, "service-jwt", &with_key(&provider, &keys, "ES256")));
    let first = home.run("get").line();
    assert_eq!(home.run("get").line(), first);
    home.run("refresh").ok();
    assert_ne!(home.run("get").line(), first);
}
