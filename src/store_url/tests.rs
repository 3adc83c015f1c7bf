use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> StoreUrl {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[cfg(not(all(feature = "object-store", feature = "postgres")))]
#[tokio::test]
async fn a_url_of_a_store_that_is_not_built_in_is_an_error() {
    #[cfg(not(feature = "object-store"))]
    let url = parsed("s3://tokens/alice.age?identity=/key.txt");
    #[cfg(feature = "object-store")]
    let url = parsed("postgres://app@db.example/app?slot=alice&identity=/key.txt");
    let error = url.prepare_server().await.unwrap_err().to_string();
    assert!(error.contains("built without it"), "{error}");
}

#[cfg(unix)]
#[test]
fn each_form_of_url_is_the_same_after_it_was_read_and_written() {
    for text in [
        "keychain:axiomtrade/alice@example.com",
        "keychain-item:other program/alice",
        "age:/home/me/tokens.age?identity=/home/me/key.txt",
        "age:/a?identity=/b&recipient=age1xyz&recipient=age1abc&recipients=/c",
        "age:/a?identity=keychain:axiomtrade/alice",
        "age:/a?identity=credential:tokens.key",
        "age:/100%25 sure%3F?identity=/b%26c",
        "plaintext:/tmp/tokens.json",
        "plaintext:/tmp/tokens.json?trust_group=1000",
        "age:/a?identity=/b&recipient=age1xyz&trust_group=0",
        "memory:",
        "env:AXIOM",
        "postgres://app@db.example:5432/app?slot=axiom/alice&identity=/etc/app/key.txt",
        "postgres://a%40b@10.0.0.1,10.0.0.2:6432/d%2Fb?slot=1&sslrootcert=/ca.pem&identity=/k",
        "postgres://me@%2Frun%2Fpostgresql/db?slot=a&identity=credential:key&recipient=age1",
        "s3://tokens/axiom/alice.age?identity=/etc/app/key.txt",
        "s3://a.b/c%3Fd?endpoint=http://127.0.0.1:9000&identity=credential:key",
        "gs://a_b/c?identity=/k&recipient=age1",
        "s3://a/b?endpoint=https://s3.example&proxy=off&identity=/k",
        "az://tokens/a b?identity=/k",
    ] {
        assert_eq!(parsed(text).to_text(), text);
    }
}

#[cfg(unix)]
#[test]
fn a_printed_url_has_no_query() {
    let url = parsed("age:/a?identity=/secret/place");
    assert_eq!(format!("{url} {url:?}"), "age:/a StoreUrl(age:/a)");
    assert_eq!(url.identity_path(), Some(Path::new("/secret/place")));
    let url = parsed("postgres://me@host/db?slot=a/b&identity=/secret/place&sslrootcert=/ca");
    assert_eq!(url.to_string(), "postgres://host/db?slot=a/b");
}

#[test]
fn relative_paths_and_the_home_directory_are_resolved() {
    let here = std::env::current_dir().unwrap();
    assert_eq!(parsed("plaintext:tokens.json").path(), Some(here.join("tokens.json")));
    let home = std::env::home_dir().unwrap();
    assert_eq!(parsed("plaintext:~/tokens.json").path(), Some(home.join("tokens.json")));
}

#[test]
fn the_error_for_a_wrong_url_explains_it_and_does_not_quote_it() {
    for (text, expected) in [
        ("canary", "it has no scheme"),
        ("CANARY:x", "its scheme is unknown"),
        ("vault:canary", "the scheme `vault` is unknown"),
        ("postgres://me:canary@host/db", "it contains a password"),
        ("s3://canary?identity=/k", "it needs BUCKET/OBJECT"),
        ("s3://ca@nary/a?identity=/k", "it needs BUCKET/OBJECT"),
        ("s3://canary/a//b?identity=/k", "it needs BUCKET/OBJECT"),
        ("s3://canary/../b?identity=/k", "it needs BUCKET/OBJECT"),
        ("s3://canary/a", "needs identity=PATH"),
        ("s3://canary/a?identity=/k&slot=b", "an option is unknown"),
        ("s3://canary/a?identity=/k&endpoint=ftp://a", "an endpoint is https://HOST"),
        ("s3://a/b?identity=/k&proxy=http://canary@c", "proxy takes only `off`"),
        ("s3://canary/a?identity=/k&endpoint=https://a:canary@c", "an endpoint is https://HOST"),
        ("s3://a/b?identity=/k&endpoint=https:///a:canary@c", "an endpoint is https://HOST"),
        ("s3://canary/a.trial?identity=/k", "may not end with .trial"),
        ("age:/canary", "needs identity=PATH"),
        ("age:/canary?identity=/canary", "the same file"),
        ("age:?identity=/canary", "a path is missing"),
        ("age:/a?identity=/b&canary=1", "an option is unknown"),
        ("age:/a?identity=/b&identity=/canary", "given twice"),
        ("age:/a?passphrase=canary", "an option is unknown"),
        ("age:/a?identity=AGE-SECRET-KEY-1CANARY", "a secret key is given"),
        ("plaintext:age-secret-key-1canary", "a secret key is given"),
        ("age:/a?identity=/b&recipient=AGE-SECRET-KEY-1CANARY", "a secret key is given"),
        ("keychain:canary/AGE-SECRET-KEY-1CANARY", "a secret key is given"),
        ("plaintext:/canary?identity=/b", "an option is unknown; use only trust_group"),
        ("age:/a?identity=/b&slot=canary", "an option is unknown"),
        ("postgres:canary", "needs USER@HOST"),
        ("postgres://canary/db?slot=a&identity=/b", "needs USER@HOST"),
        ("postgres://canary@host?slot=a&identity=/b", "needs USER@HOST"),
        ("postgres://canary@host/a/b?slot=a&identity=/b", "needs USER@HOST"),
        ("postgres://canary@host/db?identity=/b", "needs slot=NAME"),
        ("postgres://canary@host/db?slot=a", "needs identity=PATH"),
        ("postgres://canary@host:port/db?slot=a&identity=/b", "needs USER@HOST"),
        ("postgres://me%3Acanary@host/db?slot=a&identity=/b", "it contains a password"),
        ("postgres://me@host/db?slot=a%0Acanary&identity=/b", "a slot's name"),
        ("plaintext:", "a path is missing"),
        ("plaintext:/canary%2", "two hexadecimal digits"),
        ("plaintext:/canary%ff", "not UTF-8"),
        ("keychain:canary", "needs SERVICE/ACCOUNT"),
        ("keychain:canary/a/b", "needs SERVICE/ACCOUNT"),
        ("keychain-item:canary", "needs SERVICE/ACCOUNT"),
        ("memory:canary", "takes nothing"),
        ("env:", "takes a prefix"),
        ("env:CANARY-1", "takes a prefix"),
    ] {
        let error = text.parse::<StoreUrl>().unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(expected), "{text}: {shown}");
        assert!(!shown.to_lowercase().contains("canary"), "{shown}");
    }
}

#[cfg(unix)]
#[test]
fn a_password_behind_an_escaped_slash_is_refused_and_not_printed() {
    for text in [
        "plaintext:%2F/me:canary@host/db",
        "plaintext:%2F/me:canary%3F@host/db",
        "plaintext:~///me:canary@host/db",
        "age:/a?identity=//me:canary@host/db",
        "age:/a?identity=/b&recipients=/%2fme:canary@host/db",
    ] {
        let error = text.parse::<StoreUrl>().map(|url| url.to_text()).unwrap_err().to_string();
        assert!(error.contains("it contains a password") && !error.contains("canary"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn a_url_shows_no_character_that_a_terminal_obeys_and_names_the_same_path() {
    let url = parsed("plaintext:/a\u{1b}[2J\u{9b}\u{202e}\u{200b}\u{e000}\n/zoë");
    let text = url.to_text();
    assert_eq!(text, "plaintext:/a%1B[2J%C2%9B%E2%80%AE%E2%80%8B%EE%80%80%0A/zoë");
    assert_eq!(url.to_string(), text);
    assert_eq!(parsed(&text), url);
}

#[cfg(all(feature = "keychain", feature = "object-store", feature = "postgres"))]
#[test]
fn no_store_shows_a_character_that_a_terminal_obeys() {
    const HIDDEN: &str = "%E2%80%AE%E2%80%8B";

    for text in [
        "plaintext:/a*",
        "age:/a*?identity=/b*",
        "age:/a?identity=/b*",
        "age:/a?identity=credential:b*",
        "age:/a?identity=keychain:b*/c*",
        "keychain:a*/b*",
        "keychain-item:a*/b*",
        "postgres://a@db.example/b*?slot=c*&identity=/d*",
        "s3://bucket/a*?identity=/b*",
    ] {
        let shown = parsed(&text.replace('*', HIDDEN)).open().unwrap().to_string();
        assert!(!shown.contains(is_hidden), "{shown:?}");
        assert!(shown.contains(r"\u{202e}\u{200b}"), "{shown}");
    }
}

#[cfg(unix)]
#[test]
fn a_path_that_is_not_utf_8_has_no_url() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let (latin, sound) = (Path::new(OsStr::from_bytes(b"/caf\xe9")), Path::new("/key.txt"));
    for made in [
        StoreUrl::age_file(latin, sound),
        StoreUrl::age_file(sound, latin),
        parsed("age:/a?identity=/b").with_identity(latin, Vec::new()),
        parsed("plaintext:/a").with_identity(sound, Vec::new()),
    ] {
        assert!(!made.unwrap_err().to_string().contains('\u{fffd}'));
    }
}

proptest! {
    #[cfg(feature = "keychain")]
    #[test]
    fn a_keychain_url_with_any_names_is_the_same_after_it_was_written_and_read(
        service in "[^\0]{1,20}",
        account in "[^\0]{1,20}",
    ) {
        if let Ok(url) = StoreUrl::keychain(&service, &account) {
            prop_assert_eq!(parsed(&url.to_text()), url);
        }
    }

    #[cfg(unix)]
    #[test]
    fn an_age_url_with_any_paths_is_the_same_after_it_was_written_and_read(
        path in "/{1,3}[^\0]{1,20}",
        identity in "/{0,3}[^\0]{1,20}",
        recipients in proptest::collection::vec(".{0,10}", 0..3),
    ) {
        let url = StoreUrl::age_file(Path::new(&path), Path::new(&identity)).unwrap();
        let url = url.with_identity(Path::new(&identity), recipients).unwrap();
        match url.to_text().parse::<StoreUrl>() {
            Ok(read) => prop_assert_eq!(read, url),
            Err(error) => {
                let error = error.to_string();
                prop_assert!(
                    error.ends_with("the same file") || error.contains("a password"),
                    "{}: {}", url.to_text(), error
                );
            }
        }
    }

    #[test]
    fn no_text_makes_it_panic_and_a_value_is_the_same_after_a_round_trip(text in ".{0,60}") {
        for scheme in ["", "age:", "age:/x?identity=", "keychain:", "plaintext:", "env:"] {
            if let Ok(url) = format!("{scheme}{text}").parse::<StoreUrl>() {
                prop_assert_eq!(parsed(&url.to_text()), url);
            }
        }
    }
}
