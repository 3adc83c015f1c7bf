//! Parses a store URL, as from a command line, the environment or a profile.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenkeep::{StoreError, StoreUrl};
use tokenkeep_fuzz::assert_hidden;

fuzz_target!(|text: &str| {
    let url: StoreUrl = match text.parse() {
        Ok(url) => url,
        Err(error) => return assert_hidden(&format!("{error} {error:?}"), text.as_bytes()),
    };
    let printed = url.to_text();
    assert!(!printed.chars().any(|character| character.is_ascii_control()), "{printed:?}");
    let again: StoreUrl = printed.parse().unwrap_or_else(|error| panic!("{printed}: {error}"));
    assert!(again == url, "{printed} is another store");
    assert_eq!(again.to_text(), printed);

    let shown = url.to_string();
    assert_eq!(printed.split('?').next(), Some(shown.as_str()), "the query is shown");
    assert_eq!(format!("{url:?}"), format!("StoreUrl({shown})"));
    for part in printed.split([':', '?', '&', '=']) {
        let authority = part.strip_prefix("//").and_then(|rest| rest.split('/').next());
        assert!(!authority.is_some_and(|it| it.contains('@') && it.contains(':')), "{printed}");
    }
    // Escapes are removed first, because their digits may stand before the text of a key:
    // `%1AGE-SECRET-KEY-`.
    let mut parts = printed.split('%');
    let mut text = parts.next().unwrap_or_default().to_owned();
    text.extend(parts.map(|part| format!("%{}", part.get(2..).expect("two digits follow"))));
    assert!(!text.to_ascii_uppercase().contains("AGE-SECRET-KEY-"), "{printed}");
    if let Err(error @ StoreError::InvalidKey { .. }) = url.open() {
        assert_hidden(&format!("{error} {error:?}"), text.as_bytes());
    }
});
