use super::*;

#[test]
fn an_earlier_state_is_not_transient_and_keeps_what_is_cached() {
    let place = || "here".to_owned();
    let locked = StoreError::Locked { place: place(), advice: String::new() };
    let rolled_back = StoreError::RolledBack { place: place() };
    let denied = StoreError::Denied { place: place(), advice: String::new() };
    let conflict = StoreError::Conflict { place: place() };
    for (error, transient, keeps) in [
        (locked, true, true),
        (rolled_back, false, true),
        (denied, false, true),
        (conflict, false, false),
    ] {
        assert_eq!(error.is_transient(), transient, "{error:?}");
        assert_eq!(error.keeps_cached_tokens(), keeps, "{error:?}");
    }
}

#[test]
fn no_error_says_anything_that_a_terminal_obeys() {
    let evil = || "a\u{1b}[2J\n\u{202e}b".to_owned();
    let (place, reason, advice) = (evil, evil, evil);
    let failure = RefreshFailure::rejected(evil());
    let all: Vec<Box<dyn std::error::Error>> = vec![
        Box::new(StoreError::Conflict { place: place() }),
        Box::new(StoreError::Corrupt { place: place(), reason: reason() }),
        Box::new(StoreError::Denied { place: place(), advice: advice() }),
        Box::new(StoreError::NoSpace { place: place(), reason: reason() }),
        Box::new(StoreError::Timeout { place: place(), reason: reason(), advice: advice() }),
        Box::new(StoreError::io("read", place(), io::ErrorKind::Other.into())),
        Box::new(AuthError::LoginRequired { reason: reason() }),
        Box::new(AuthError::Refresh(RefreshFailure::ambiguous(reason()))),
        Box::new(AuthError::Refresh(RefreshFailure::misconfigured(reason()))),
        Box::new(AuthError::Refresh(RefreshFailure::transient(reason()))),
        Box::new(failure),
    ];
    for error in all {
        let said = error.to_string();
        assert!(said.contains(r"a\u{1b}[2J\n\u{202e}b"), "{said}");
        assert_eq!(one_line(&said), said);
    }
}
