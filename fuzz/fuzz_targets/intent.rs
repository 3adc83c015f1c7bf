//! The note of a refresh that is under way, as it is found beside a slot.
#![no_main]

use std::cell::LazyCell;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tokenkeep::{Intent, Lease, PlaintextStore, RefreshToken, TokenStore};
use tokenkeep_fuzz::{File, assert_hidden, wait};

static FILE: LazyLock<File> = LazyLock::new(|| File::new("tokens.json.intent"));

thread_local! {
    static LEASE: LazyCell<Box<dyn Lease>> = const { LazyCell::new(|| {
        let store = PlaintextStore::new(FILE.path().with_extension(""));
        wait(store.try_lease()).expect("the directory is ours").expect("nobody else has it")
    }) };
}

fuzz_target!(|data: &[u8]| {
    FILE.write(data);
    match LEASE.with(|lease| wait(lease.intent())) {
        Ok(note) => {
            let note = note.expect("there is a file");
            let text = note.to_string();
            assert!(text.is_ascii() && !text.contains('\n'), "{text:?}");
            assert_eq!(text.parse::<Intent>().expect("it was written so"), note);
            // Nobody finds a token for a digest.
            assert!(!note.is_for(&RefreshToken::from("another token")));
        }
        Err(error) => assert_hidden(&format!("{error} {error:?}"), data),
    }
    // Written down, a note knows its token and no other.
    if let Ok(token) = str::from_utf8(data) {
        let note = Intent::new(&RefreshToken::from(token), tokenkeep_fuzz::now());
        let read: Intent = note.to_string().parse().expect("it was written so");
        assert!(read == note && read.is_for(&RefreshToken::from(token)));
        assert!(!read.is_for(&RefreshToken::from(format!("{token}x"))));
        assert_hidden(&note.to_string(), data);
    }
});
