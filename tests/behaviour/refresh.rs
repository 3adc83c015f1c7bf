//! Refreshes in one process: each refresh token is sent once, whatever happens.

use std::sync::Arc;
use std::time::Duration;

use tokenkeep::chrono::TimeDelta;
use tokenkeep::{AuthError, AuthTokens, RefreshFailure, StoreError, TokenStore};

use tokenkeep::error::SpentBy;

use tokenkeep::refresh::RefreshPolicy;

use tokenkeep::store::Precondition;

use tokenkeep::stores::MemoryStore;

use crate::clock::Clock;
use crate::faulty_store::Faulty;
use crate::provider::{Step, minutes};
use crate::support::is_alone;
use crate::world::{World, access, drain, settle, transient};

#[tokio::test]
async fn a_fresh_token_is_served_and_one_that_is_due_is_refreshed_first() {
    let world = World::new().await;
    world.clock.forward(44 * 60);
    assert_eq!(world.access().await.unwrap(), "access-1");
    assert_eq!(world.provider.calls(), 0);
    world.clock.forward(60);
    assert_eq!(world.access().await.unwrap(), "access-2");
    assert_eq!(world.access().await.unwrap(), "access-2");
    assert_eq!(world.provider.calls(), 1);
    // The memory and the store have the latest tokens of the server.
    assert!(world.provider.accepts(&world.stored().await.unwrap()));
    assert!(world.provider.accepts(&world.manager.get_tokens().await.unwrap().unwrap()));
    assert_eq!(world.stored().await.unwrap().obtained_at, Some(world.clock.date()));
}

#[tokio::test]
async fn ten_thousand_tasks_that_ask_at_once_make_one_call() {
    let world = World::new().await;
    world.clock.forward(61 * 60);
    world.provider.hold();
    let tasks: Vec<_> = (0..10_000)
        .map(|_| {
            let manager = world.manager.clone();
            tokio::spawn(async move { access(&manager).await })
        })
        .collect();
    while world.provider.calls() == 0 {
        tokio::task::yield_now().await;
    }
    // Let all tasks run until they wait.
    for _ in 0..10 {
        settle().await;
    }
    world.provider.let_through();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), "access-2");
    }
    assert_eq!((world.provider.calls(), world.provider.replays()), (1, 0));
}

#[tokio::test]
async fn a_cancelled_caller_does_not_lose_the_rotated_token() {
    // The caller is dropped at each point where it waits.
    for polls in 0.. {
        let world = World::new().await;
        world.clock.forward(61 * 60);
        let manager = world.manager.clone();
        let mut call = Box::pin(async move { access(&manager).await.unwrap() });
        let mut done = false;
        for _ in 0..polls {
            done = std::future::poll_fn(|context| {
                std::task::Poll::Ready(call.as_mut().poll(context).is_ready())
            })
            .await;
            if done {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(call);
        settle().await;
        // The refresh has either not begun, or it is done and saved.
        let stored = world.stored().await.unwrap();
        assert!(world.provider.accepts(&stored), "dropped after {polls} polls");
        assert_eq!(world.access().await.unwrap(), "access-2");
        assert_eq!(world.provider.calls(), 1, "dropped after {polls} polls");
        if done {
            assert!(polls > 2, "it was dropped at {polls} points");
            return;
        }
    }
}

#[tokio::test]
async fn a_valid_token_is_served_while_its_refresh_fails() {
    let world = World::new().await;
    let mut events = world.manager.subscribe();
    for (minute, step) in [
        (45, transient()),
        (48, Step::Fail(RefreshFailure::misconfigured("404"))),
        (59, transient()),
    ] {
        world.clock.forward_to_minute(minute);
        world.provider.script([step]);
        assert_eq!(world.access().await.unwrap(), "access-1", "minute {minute}");
        assert_eq!(drain(&mut events).await, ["RefreshFailed"]);
    }
    // From the true expiry on, no token is served.
    world.clock.forward(60);
    world.provider.script([transient()]);
    assert!(matches!(world.access().await, Err(AuthError::Refresh(_))));
    assert!(world.provider.accepts(&world.stored().await.unwrap()), "nothing was deleted");
    world.clock.forward(60);
    assert_eq!(world.access().await.unwrap(), "access-2");
}

#[tokio::test]
async fn a_refresh_token_that_expires_soon_is_announced_once() {
    const DAY: u64 = 24 * 60;
    let world = World::new().await;
    let mut tokens = world.stored().await.unwrap();
    tokens.expires_at = None;
    tokens.refresh_expires_at = Some(world.clock.date() + TimeDelta::days(60));
    world.manager.set_tokens(tokens).await.unwrap();
    let mut events = world.manager.subscribe();
    for (day, is_announced) in [(1, false), (56, false), (57, true), (58, false), (61, false)] {
        world.clock.forward_to_minute(day * DAY + 1);
        world.access().await.unwrap();
        let expected: &[&str] = if is_announced { &["SignInDue"] } else { &[] };
        assert_eq!(drain(&mut events).await, expected, "day {day}");
    }
}

#[tokio::test]
async fn after_a_failure_the_next_request_waits() {
    let world = World::new().await;
    world.clock.forward(61 * 60);
    world.provider.script([
        transient(),
        transient(),
        Step::Fail(RefreshFailure::Transient {
            reason: "429".into(),
            retry_after: Some(Duration::from_secs(90)),
            unspent: true,
        }),
    ]);
    // The pauses after the failures are 1 s, 2 s, and the 90 s that the server asks for.
    for (pause, calls) in [(0, 1), (0, 1), (1, 2), (1, 2), (1, 3), (89, 3)] {
        world.clock.forward(pause);
        assert!(matches!(world.access().await, Err(AuthError::Refresh(_))));
        assert_eq!(world.provider.calls(), calls);
    }
    world.clock.forward(1);
    assert_eq!(world.access().await.unwrap(), "access-2");
}

#[tokio::test]
async fn refreshes_that_no_caller_forced_are_thirty_seconds_apart() {
    let world = World::new().await;
    world.clock.forward(61 * 60);
    // The new tokens of the server have already expired by our clock.
    world.provider.issue_until(minutes(world.clock.date(), -60));
    let first = world.access().await;
    assert_eq!(first.unwrap(), "access-2", "the caller that waited gets the new token");
    for _ in 0..100 {
        assert!(matches!(world.access().await, Err(AuthError::TokenExpired)));
    }
    assert_eq!(world.provider.calls(), 1);
    world.clock.forward(30);
    let _ = world.access().await;
    assert_eq!(world.provider.calls(), 2);
    // A forced refresh does not wait for that.
    world.manager.refresh().await.unwrap();
    assert_eq!(world.provider.calls(), 3);
}

#[tokio::test]
async fn a_forced_refresh_replaces_even_a_fresh_token() {
    let world = World::new().await;
    let refreshed = world.manager.refresh().await.unwrap();
    assert_eq!(refreshed.access_token.expose_secret(), "access-2");
    assert!(world.provider.accepts(&refreshed));
}

#[tokio::test]
async fn many_callers_with_a_refused_token_make_one_refresh() {
    let world = World::new().await;
    let refused = world.manager.get_access_token().await.unwrap();
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let (manager, refused) = (world.manager.clone(), refused.clone());
            tokio::spawn(async move {
                manager.invalidate(&refused);
                access(&manager).await
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), "access-2");
    }
    // A late refusal is about a token that is no longer the current one.
    world.manager.invalidate(&refused);
    assert_eq!(world.access().await.unwrap(), "access-2");
    assert_eq!((world.provider.calls(), world.provider.replays()), (1, 0));
}

#[tokio::test]
async fn a_refused_token_is_not_served_even_if_the_refresh_fails() {
    let world = World::new().await;
    let refused = world.manager.get_access_token().await.unwrap();
    world.manager.invalidate(&refused);
    assert_eq!(world.manager.cached_access_token().map(|_| ()), None);
    world.provider.script([transient()]);
    assert!(matches!(world.access().await, Err(AuthError::Refresh(_))));
    // Another load does not make the token valid again.
    world.clock.forward(31);
    assert_eq!(world.access().await.unwrap(), "access-2");
}

#[tokio::test]
async fn a_rejected_refresh_token_fails_fast_for_all_until_new_tokens_arrive() {
    let world = World::new().await;
    let mut events = world.manager.subscribe();
    world.clock.forward(61 * 60);
    world.provider.script([Step::Fail(RefreshFailure::rejected("invalid_grant"))]);
    for _ in 0..100 {
        let error = world.access().await.unwrap_err();
        assert!(matches!(&error, AuthError::LoginRequired { .. }), "{error}");
        assert!(error.to_string().contains("sign in again"), "{error}");
    }
    world.clock.forward(24 * 3600);
    assert!(matches!(world.access().await, Err(AuthError::LoginRequired { .. })));
    assert_eq!(world.provider.calls(), 1);
    assert_eq!(drain(&mut events).await, ["LoginRequired"]);
    assert!(world.stored().await.is_some(), "nothing is deleted because a refresh failed");
    // A login in another process. This process gets no message about it.
    world.other().set_tokens(world.provider.sign_in(world.clock.in_minutes(60))).await.unwrap();
    assert_eq!(world.access().await.unwrap(), "access-2");
    assert_eq!(world.provider.calls(), 1);
}

#[tokio::test]
async fn a_token_that_another_process_refreshed_is_adopted() {
    let world = World::new().await;
    let other = world.other();
    world.clock.forward(50 * 60);
    // Both processes have seen that the token is due.
    assert!(world.manager.needs_refresh().await.unwrap() && other.needs_refresh().await.unwrap());
    assert_eq!(access(&other).await.unwrap(), "access-2");
    assert_eq!(world.access().await.unwrap(), "access-2");
    assert_eq!((world.provider.calls(), world.provider.replays()), (1, 0));
}

#[tokio::test]
async fn a_caller_that_waits_for_the_refresh_of_another_process_takes_its_tokens() {
    let world = World::new().await;
    let other = world.other();
    world.clock.forward(61 * 60);
    world.provider.hold();
    let first = world.ask();
    settle().await;
    let second = tokio::spawn(async move { access(&other).await });
    settle().await;
    world.provider.let_through();
    assert_eq!(first.await.unwrap().unwrap(), "access-2");
    // The other process reads the store again after its pause.
    settle().await;
    while !second.is_finished() {
        world.clock.forward(1);
        settle().await;
    }
    assert_eq!(second.await.unwrap().unwrap(), "access-2");
    assert_eq!((world.provider.calls(), world.provider.replays()), (1, 0));
}

#[tokio::test]
async fn a_caller_waits_for_a_stuck_holder_only_for_a_limited_time() {
    let world = World::new().await;
    let _stuck = world.store.inner.try_lease().await.unwrap().unwrap();
    world.clock.forward(61 * 60);
    let waiting = world.ask();
    let begin = world.clock.now();
    while !waiting.is_finished() {
        settle().await;
        world.clock.forward_by(Duration::from_millis(250));
    }
    let error = waiting.await.unwrap().unwrap_err();
    assert!(matches!(error, AuthError::Store(StoreError::Timeout { .. })), "{error}");
    let waited = world.clock.now().duration_since(begin).unwrap();
    assert!((100..=220).contains(&waited.as_secs()), "{waited:?}");
    assert_eq!(world.provider.calls(), 0);
}

#[tokio::test]
async fn a_server_that_does_not_rotate_keeps_its_refresh_token() {
    let world = World::new().await;
    world.provider.script([Step::KeepRefreshToken]);
    let refreshed = world.manager.refresh().await.unwrap();
    assert_eq!(refreshed.access_token.expose_secret(), "access-2");
    assert_eq!(refreshed.refresh_token.unwrap().expose_secret(), "refresh-1");
    assert_eq!(world.manager.refresh().await.unwrap().access_token.expose_secret(), "access-3");
}

#[tokio::test]
async fn after_a_lost_answer_the_token_is_sent_once_more_and_then_reported_as_spent() {
    let world = World::new().await;
    world.clock.forward(61 * 60);
    // The request is lost on the way to the server.
    world.provider.script([Step::Fail(RefreshFailure::ambiguous("the connection broke"))]);
    assert_eq!(world.access().await.unwrap(), "access-2");
    assert_eq!(world.provider.calls(), 2);
    // The answer is lost on the way back. The second request sends a spent token, and the error says so.
    world.provider.script([Step::LoseAnswer]);
    let error = world.manager.refresh().await.unwrap_err();
    let at = world.clock.date();
    assert!(
        matches!(error, AuthError::RefreshTokenSpent { by: SpentBy::LostAnswer { at: when } } if when == at),
        "{error}"
    );
    assert!(error.to_string().contains("a request whose answer was lost"), "{error}");
    assert_eq!(world.provider.calls(), 4);
}

#[tokio::test]
async fn a_rejection_after_two_lost_answers_is_reported_as_a_spent_token() {
    let world = World::new().await;
    world.clock.forward(61 * 60);
    let lost = || Step::Fail(RefreshFailure::ambiguous("the connection broke"));
    world.provider.script([lost(), lost()]);
    let at = world.clock.date();
    assert!(matches!(world.access().await, Err(AuthError::Refresh(_))));
    world.clock.forward(10);
    world.provider.script([Step::Fail(RefreshFailure::rejected("invalid_grant"))]);
    let error = world.access().await.unwrap_err();
    assert!(
        matches!(error, AuthError::RefreshTokenSpent { by: SpentBy::LostAnswer { at: when } } if when == at),
        "{error}"
    );
}

#[tokio::test]
async fn a_refresher_that_hangs_or_panics_is_an_error() {
    let world = World::new().await;
    world.clock.forward(61 * 60);
    world.provider.script([Step::Panic, Step::Panic]);
    let error = world.access().await.unwrap_err();
    assert!(error.to_string().contains("the refresher panicked"), "{error}");

    world.clock.forward(60);
    world.provider.script([Step::Hang, Step::Hang]);
    let waiting = world.ask();
    for calls in [3, 4] {
        settle().await;
        assert_eq!(world.provider.calls(), calls);
        world.clock.forward(30);
        // The refresh waits for 1 s more, because the process may have been stopped.
        settle().await;
        world.clock.forward(1);
    }
    let error = waiting.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("no answer within "), "{error}");
    world.clock.forward(60);
    assert_eq!(world.access().await.unwrap(), "access-2");
}

#[tokio::test]
async fn a_token_that_is_still_accepted_is_served_while_the_server_hangs() {
    // A token that is due, and one that counts as expired.
    for minutes in [46, 57] {
        let world = World::new().await;
        world.clock.forward(minutes * 60);
        world.provider.script([Step::Hang, Step::Hang]);
        let waiting = world.ask();
        settle().await;
        assert!(!waiting.is_finished());
        world.clock.forward(5);
        assert_eq!(waiting.await.unwrap().unwrap(), "access-1");
        // The refresh continues without its caller, and no other caller starts another one.
        let second = world.ask();
        settle().await;
        world.clock.forward(5);
        assert_eq!(second.await.unwrap().unwrap(), "access-1");
        assert_eq!(world.provider.calls(), 1);
    }
}

#[tokio::test]
async fn a_token_that_expires_during_its_refresh_is_not_served() {
    let world = World::new().await;
    world.clock.forward(60 * 60 - 3);
    world.provider.hold();
    let waiting = world.ask();
    settle().await;
    world.clock.forward(5);
    settle().await;
    assert!(!waiting.is_finished());
    world.provider.let_through();
    assert_eq!(waiting.await.unwrap().unwrap(), "access-2");
    assert_eq!(world.provider.calls(), 1);
}

#[tokio::test]
async fn an_answer_just_after_the_deadline_is_used() {
    let world = World::new().await;
    world.clock.forward(61 * 60);
    world.provider.hold();
    let waiting = world.ask();
    settle().await;
    // The answer comes just after the deadline.
    world.clock.forward(31);
    settle().await;
    world.provider.let_through();
    assert_eq!(waiting.await.unwrap().unwrap(), "access-2");
    assert_eq!((world.provider.calls(), world.provider.replays()), (1, 0));
}

#[tokio::test]
async fn an_answer_without_a_token_is_requested_once_more_and_changes_nothing() {
    let world = World::new().await;
    let empty = || Step::Answer(AuthTokens::new(""));
    world.provider.script([empty(), empty()]);
    let error = world.manager.refresh().await.unwrap_err();
    assert!(matches!(error, AuthError::Refresh(RefreshFailure::Ambiguous { .. })), "{error}");
    assert_eq!(world.provider.calls(), 2);
    assert!(world.intent().await.is_some(), "the token may be spent");
    assert_eq!(world.access().await.unwrap(), "access-1");
}

#[tokio::test]
async fn a_logout_during_a_refresh_wins() {
    // The logout is in the same process, or in another one.
    for elsewhere in [false, true] {
        let world = World::new().await;
        world.clock.forward(61 * 60);
        world.provider.hold();
        let waiting = world.ask();
        settle().await;
        let who = if elsewhere { world.other() } else { world.manager.clone() };
        who.clear().await.unwrap();
        world.provider.let_through();
        let error = waiting.await.unwrap().unwrap_err();
        assert!(matches!(error, AuthError::TokenNotFound), "{error}");
        assert_eq!(world.stored().await, None);
        assert!(matches!(world.access().await, Err(AuthError::TokenNotFound)));
    }
}

#[tokio::test]
async fn a_login_during_a_refresh_wins() {
    for elsewhere in [false, true] {
        let world = World::new().await;
        world.clock.forward(61 * 60);
        world.provider.hold();
        let waiting = world.ask();
        settle().await;
        let login = AuthTokens::new("somebody else").with_refresh_token("theirs");
        let who = if elsewhere { world.other() } else { world.manager.clone() };
        who.set_tokens(login.clone()).await.unwrap();
        world.provider.let_through();
        assert_eq!(waiting.await.unwrap().unwrap(), "somebody else");
        assert_eq!(world.stored().await.unwrap().refresh_token, login.refresh_token);
    }
}

#[tokio::test]
async fn new_tokens_replace_a_record_that_was_rewritten_with_the_old_tokens() {
    let world = World::new().await;
    world.clock.forward(61 * 60);
    world.provider.hold();
    let waiting = world.ask();
    settle().await;
    // A rekey does the same.
    let there = world.store.inner.load().await.unwrap().unwrap();
    world.store.inner.save(&there.record, Precondition::Anything).await.unwrap();
    world.provider.let_through();
    assert_eq!(waiting.await.unwrap().unwrap(), "access-2");
    assert!(world.provider.accepts(&world.stored().await.unwrap()));
}

#[tokio::test]
async fn a_save_whose_answer_was_lost_is_recognised() {
    let world = World::new().await;
    world.store.set(|faults| faults.lose_answer = true);
    let refreshed = world.manager.refresh().await.unwrap();
    assert_eq!(world.stored().await.unwrap(), refreshed);
    assert!(world.provider.accepts(&refreshed));
    assert_eq!(world.manager.refresh().await.unwrap().access_token.expose_secret(), "access-3");
}

#[tokio::test]
async fn the_tokens_of_a_faster_program_without_a_lease_are_adopted() {
    let world = World::new().await;
    world.clock.forward(61 * 60);
    world.provider.hold();
    let waiting = world.ask();
    settle().await;
    // That program spends the token and saves its new tokens while our request is on its way.
    let winners = AuthTokens::new("winner")
        .with_refresh_token("winner-refresh")
        .with_expires_at(world.clock.in_minutes(60));
    world.store.inner.save(&winners.clone().into(), Precondition::Anything).await.unwrap();
    world.provider.revoke();
    world.provider.let_through();
    assert_eq!(waiting.await.unwrap().unwrap(), "winner");
    assert_eq!(world.stored().await.unwrap().access_token.expose_secret(), "winner");
}

#[tokio::test]
async fn a_token_is_not_sent_if_its_slot_cannot_be_written() {
    let world = World::new().await;
    world.store.set(|faults| faults.intent = Some(Faulty::read_only()));
    world.clock.forward(50 * 60);
    // The old token is served until its true expiry.
    assert_eq!(world.access().await.unwrap(), "access-1");
    world.clock.forward(10 * 60);
    let error = world.access().await.unwrap_err();
    assert!(matches!(error, AuthError::Store(StoreError::ReadOnly { .. })), "{error}");
    assert_eq!(world.provider.calls(), 0);
    world.store.set(|faults| faults.intent = None);
    world.clock.forward(60);
    assert_eq!(world.access().await.unwrap(), "access-2");
}

#[tokio::test]
async fn unsaved_tokens_are_served_from_memory_and_saved_later_under_the_same_lease() {
    let world = World::new().await;
    let mut events = world.manager.subscribe();
    world.store.set(|faults| faults.save = Some(Faulty::full_disk()));
    world.clock.forward(61 * 60);
    assert_eq!(world.access().await.unwrap(), "access-2");
    assert_eq!(drain(&mut events).await, ["SaveFailed", "Refreshed"]);
    // The same after another load, though the store still holds the old tokens.
    world.clock.forward_by(Duration::from_millis(400));
    settle().await;
    assert_eq!(world.access().await.unwrap(), "access-2");
    assert_eq!(world.manager.get_refresh_token().await.unwrap().expose_secret(), "refresh-2");
    assert_eq!(world.stored().await.unwrap().access_token.expose_secret(), "access-1");
    // No other process can send the old refresh token meanwhile.
    assert!(world.store.inner.try_lease().await.unwrap().is_none());
    let error = world.manager.shutdown(Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, AuthError::NotSaved(StoreError::Io { .. })), "{error}");

    world.store.set(|faults| faults.save = None);
    world.clock.forward(60);
    settle().await;
    assert_eq!(drain(&mut events).await, ["Saved"]);
    assert!(world.provider.accepts(&world.stored().await.unwrap()));
    drop(world.store.inner.try_lease().await.unwrap().expect("the lease was released"));
    assert_eq!(world.intent().await, None, "the doubt is over");
    world.manager.shutdown(Duration::ZERO).await.unwrap();
    assert_eq!(world.access().await.unwrap(), "access-2");
}

#[tokio::test]
async fn unsaved_tokens_are_not_refreshed() {
    let world = World::new().await;
    world.store.set(|faults| faults.save = Some(Faulty::full_disk()));
    world.manager.refresh().await.unwrap();
    for _ in 0..3 {
        let error = world.manager.refresh().await.unwrap_err();
        assert!(matches!(error, AuthError::NotSaved(StoreError::Io { .. })), "{error}");
    }
    // The unsaved tokens are served until their true expiry, even if they are due.
    world.clock.forward(10 * 3600 - 60);
    assert_eq!(world.access().await.unwrap(), "access-2");
    world.clock.forward(60);
    let error = world.access().await.unwrap_err();
    assert!(matches!(error, AuthError::NotSaved(StoreError::Io { .. })), "{error}");
    assert_eq!(world.provider.calls(), 1);
    // Once they are saved, they can be refreshed.
    world.store.set(|faults| faults.save = None);
    world.provider.issue_until(minutes(world.clock.date(), 600));
    world.clock.forward(60);
    settle().await;
    assert_eq!(world.access().await.unwrap(), "access-3");
    assert_eq!((world.provider.calls(), world.provider.replays()), (2, 0));
}

#[tokio::test]
async fn unsaved_tokens_are_not_refreshed_even_if_they_are_refused() {
    let world = World::new().await;
    world.store.set(|faults| faults.save = Some(Faulty::full_disk()));
    let refreshed = world.manager.refresh().await.unwrap();
    world.clock.forward(60);
    world.manager.invalidate(&refreshed.access_token);
    let error = world.access().await.unwrap_err();
    assert!(matches!(error, AuthError::NotSaved(StoreError::Io { .. })), "{error}");
    assert_eq!(world.provider.calls(), 1);
}

#[tokio::test]
async fn a_login_or_a_logout_ends_the_attempts_to_save_older_tokens() {
    for logout in [false, true] {
        for elsewhere in [false, true] {
            let world = World::new().await;
            world.store.set(|faults| faults.save = Some(Faulty::full_disk()));
            world.manager.refresh().await.unwrap();
            world.store.set(|faults| faults.save = None);
            let who = if elsewhere { world.other() } else { world.manager.clone() };
            if logout {
                who.clear().await.unwrap();
            } else {
                who.set_tokens(AuthTokens::new("new").with_refresh_token("new")).await.unwrap();
            }
            for _ in 0..10 {
                world.clock.forward(60);
                settle().await;
            }
            let stored = world.stored().await;
            assert_eq!(stored.is_none(), logout, "elsewhere: {elsewhere}");
            let ours = world.access().await;
            assert_eq!(ours.ok(), stored.map(|it| it.access_token.expose_secret().to_owned()));
            assert!(world.store.inner.try_lease().await.unwrap().is_some());
        }
    }
}

#[tokio::test]
async fn a_logout_in_another_process_is_noticed_while_the_disk_is_full() {
    let world = World::new().await;
    world.store.set(|faults| faults.save = Some(Faulty::full_disk()));
    world.manager.refresh().await.unwrap();
    world.other().clear().await.unwrap();
    world.clock.forward(31);
    settle().await;
    assert!(matches!(world.access().await, Err(AuthError::TokenNotFound)));
    world.manager.shutdown(Duration::ZERO).await.unwrap();
    assert_eq!(world.stored().await, None);
}

#[tokio::test]
async fn unsaved_tokens_are_kept_if_the_record_is_rewritten_with_the_old_tokens() {
    let world = World::new().await;
    world.store.set(|faults| faults.save = Some(Faulty::full_disk()));
    world.manager.refresh().await.unwrap();
    // A rekey does the same.
    let there = world.store.inner.load().await.unwrap().unwrap();
    world.store.inner.save(&there.record, Precondition::Anything).await.unwrap();
    world.clock.forward(31);
    settle().await;
    assert_eq!(world.access().await.unwrap(), "access-2");
    world.store.set(|faults| faults.save = None);
    world.manager.shutdown(Duration::from_secs(1)).await.unwrap();
    assert!(world.provider.accepts(&world.stored().await.unwrap()));
}

#[test]
fn the_next_caller_saves_the_tokens_of_a_runtime_that_ended() {
    let starter = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let world = starter.block_on(World::new());
    world.clock.forward(61 * 60);
    world.store.set(|faults| faults.hang = true);
    starter.block_on(async {
        let manager = world.manager.clone();
        tokio::spawn(async move { access(&manager).await });
        settle().await;
    });
    assert_eq!(world.provider.calls(), 1);
    drop(starter);
    world.store.set(|faults| faults.hang = false);
    let next = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(next.block_on(world.access()).unwrap(), "access-2");
    assert!(world.provider.accepts(&next.block_on(world.stored()).unwrap()));
    assert_eq!((world.provider.calls(), world.provider.replays()), (1, 0));
}

#[tokio::test]
async fn a_server_that_refuses_every_token_causes_one_refresh_in_30_seconds() {
    let world = World::new().await;
    for expected in ["access-1", "access-2", "access-2", "access-2"] {
        let token = world.manager.get_access_token().await.unwrap();
        assert_eq!(token.expose_secret(), expected);
        world.manager.invalidate(&token);
    }
    assert_eq!(world.provider.calls(), 1);
    world.clock.forward(30);
    assert_eq!(world.access().await.unwrap(), "access-3");
}

#[tokio::test]
async fn a_token_is_not_served_after_a_logout_even_if_the_refresh_fails() {
    let world = World::new().await;
    world.clock.forward(50 * 60);
    world.provider.hold();
    world.provider.script([transient()]);
    let waiting = world.ask();
    settle().await;
    world.manager.clear().await.unwrap();
    world.provider.let_through();
    assert!(matches!(waiting.await.unwrap(), Err(AuthError::TokenNotFound)));
}

#[tokio::test]
async fn without_rotation_a_rewritten_record_is_not_mistaken_for_the_new_tokens() {
    let world = World::new().await;
    world.clock.forward(61 * 60);
    world.provider.hold();
    world.provider.script([Step::KeepRefreshToken]);
    let waiting = world.ask();
    settle().await;
    let there = world.store.inner.load().await.unwrap().unwrap();
    world.store.inner.save(&there.record, Precondition::Anything).await.unwrap();
    world.provider.let_through();
    assert_eq!(waiting.await.unwrap().unwrap(), "access-2");
    assert_eq!(world.stored().await.unwrap().access_token.expose_secret(), "access-2");
}

#[tokio::test]
async fn after_a_failure_of_the_store_the_next_refresh_waits() {
    let world = World::new().await;
    let mut events = world.manager.subscribe();
    world.store.set(|faults| faults.intent = Some(Faulty::read_only()));
    world.clock.forward(50 * 60);
    for _ in 0..20 {
        assert_eq!(world.access().await.unwrap(), "access-1");
    }
    assert_eq!(drain(&mut events).await, ["RefreshFailed"]);
}

#[tokio::test]
async fn a_caller_with_an_accepted_token_waits_only_briefly_for_another_process() {
    let world = World::new().await;
    let _busy = world.store.inner.try_lease().await.unwrap().unwrap();
    world.clock.forward(50 * 60);
    let begin = world.clock.now();
    let waiting = world.ask();
    while !waiting.is_finished() {
        settle().await;
        world.clock.forward_by(Duration::from_millis(250));
    }
    assert_eq!(waiting.await.unwrap().unwrap(), "access-1");
    let waited = world.clock.now().duration_since(begin).unwrap();
    assert!(waited < Duration::from_secs(15), "{waited:?}");
}

#[tokio::test]
async fn a_forced_refresh_does_not_repeat_a_rejected_one_at_once() {
    let world = World::new().await;
    world.provider.script([Step::Fail(RefreshFailure::rejected("invalid_grant"))]);
    for _ in 0..3 {
        let error = world.manager.refresh().await.unwrap_err();
        assert!(matches!(error, AuthError::LoginRequired { .. }), "{error}");
    }
    assert_eq!(world.provider.calls(), 1);
}

#[tokio::test]
async fn a_rejection_after_an_interrupted_refresh_says_that_the_token_may_be_spent() {
    let world = World::new().await;
    let at = world.clock.date();
    world.interrupt(at).await;
    world.clock.forward(61 * 60);
    // The token was not sent after all, so nothing is lost.
    assert_eq!(world.access().await.unwrap(), "access-2");

    world.interrupt(at).await;
    world.provider.revoke();
    let error = world.manager.refresh().await.unwrap_err();
    assert!(
        matches!(error, AuthError::RefreshTokenSpent { by: SpentBy::DeadProcess { at: when } } if when == at),
        "{error}"
    );
    let text = "the refresh token may have been spent by an unfinished refresh at ";
    assert!(error.to_string().starts_with(text), "{error}");
    // A new process gets the same error.
    let error = world.other().refresh().await.unwrap_err();
    assert!(error.to_string().starts_with(text), "{error}");
}

#[tokio::test]
async fn a_backup_is_never_refreshed() {
    let world = World::new().await;
    let copy = MemoryStore::new();
    tokenkeep::transfer::backup(world.manager.store(), &copy).await.unwrap();
    let manager = world.clock.builder().store(copy).refresher(world.provider.clone()).build();
    world.clock.forward(61 * 60);
    for error in [access(&manager).await.unwrap_err(), manager.refresh().await.unwrap_err()] {
        assert!(matches!(error, AuthError::IsBackup), "{error}");
    }
    assert_eq!(world.provider.calls(), 0);
}

#[tokio::test]
async fn without_a_refresher_a_refresh_is_an_error() {
    let clock = Clock::new();
    let manager = clock.manager(MemoryStore::new());
    manager.set_tokens(AuthTokens::new("a")).await.unwrap();
    assert!(matches!(manager.refresh().await, Err(AuthError::NoRefresher)));
    let token = manager.get_access_token().await.unwrap();
    manager.invalidate(&token);
    assert!(matches!(manager.get_access_token().await, Err(AuthError::TokenExpired)));
}

#[tokio::test]
async fn a_refresh_in_the_background_serves_the_old_token_at_once() {
    let world = World::with_policy(RefreshPolicy::default().refresh_in_background()).await;
    world.clock.forward(46 * 60);
    world.provider.hold();
    assert_eq!(world.access().await.unwrap(), "access-1");
    assert_eq!(world.access().await.unwrap(), "access-1");
    settle().await;
    world.provider.let_through();
    world.manager.shutdown(Duration::from_secs(1)).await.unwrap();
    assert_eq!(world.access().await.unwrap(), "access-2");
    assert_eq!(world.provider.calls(), 1);
    assert!(world.provider.accepts(&world.stored().await.unwrap()));
    // If the token counts as expired, the caller waits for the refresh.
    world.clock.forward(1000 * 60);
    world.provider.issue_until(minutes(world.clock.date(), 60));
    assert_eq!(world.access().await.unwrap(), "access-3");
}

#[tokio::test]
async fn shutdown_waits_for_a_refresh_up_to_its_limit() {
    let world = World::new().await;
    world.provider.hold();
    let refreshing = tokio::spawn({
        let manager = world.manager.clone();
        async move { manager.refresh().await }
    });
    settle().await;
    let stopping = tokio::spawn({
        let manager = world.manager.clone();
        async move { manager.shutdown(Duration::from_secs(5)).await }
    });
    settle().await;
    assert!(!stopping.is_finished());
    world.clock.forward(5);
    assert!(matches!(stopping.await.unwrap(), Err(AuthError::Refresh(_))));
    world.provider.let_through();
    refreshing.await.unwrap().unwrap();
    world.manager.shutdown(Duration::ZERO).await.unwrap();
}

#[test]
fn a_waiting_caller_restarts_a_refresh_whose_runtime_ended() {
    let (world, starter) = {
        let starter = tokio::runtime::Builder::new_current_thread().build().unwrap();
        (starter.block_on(World::new()), starter)
    };
    world.clock.forward(61 * 60);
    world.provider.hold();
    // The refresh is started on a runtime that ends in the middle of it.
    starter.block_on(async {
        let manager = world.manager.clone();
        tokio::spawn(async move { access(&manager).await });
        settle().await;
    });
    assert_eq!(world.provider.calls(), 1);
    let waiter = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let manager = world.manager.clone();
    let waiting = waiter.spawn(async move { access(&manager).await });
    waiter.block_on(settle());
    drop(starter);
    world.provider.let_through();
    assert_eq!(waiter.block_on(waiting).unwrap().unwrap(), "access-2");
    assert_eq!((world.provider.calls(), world.provider.replays()), (2, 0));
}

#[test]
fn a_refresh_works_outside_a_runtime() {
    let world = crate::support::block_on(World::new());
    world.clock.forward(61 * 60);
    assert_eq!(crate::support::block_on(world.access()).unwrap(), "access-2");
    assert_eq!(world.provider.calls(), 1);
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_or_back_loses_no_token() {
    let world = World::new().await;
    assert_eq!(world.access().await.unwrap(), "access-1");
    world.clock.forward(8 * 3600);
    assert_eq!(world.access().await.unwrap(), "access-2");
    world.clock.back(9 * 3600);
    assert_eq!(world.access().await.unwrap(), "access-2");
    assert_eq!(world.provider.calls(), 1);
}

#[tokio::test]
async fn a_valid_token_is_served_while_the_store_cannot_be_loaded() {
    let world = World::new().await;
    assert_eq!(world.access().await.unwrap(), "access-1");
    let away = StoreError::Unavailable {
        place: "faulty".into(),
        reason: "away".into(),
        advice: "wait".into(),
    };
    world.store.set(|faults| faults.load = Some(away));
    for minutes in [50, 7] {
        world.clock.forward(minutes * 60);
        assert_eq!(world.access().await.unwrap(), "access-1");
    }
    world.clock.forward(3 * 60);
    assert!(matches!(world.access().await, Err(AuthError::Store(_))));
    assert_eq!(world.provider.calls(), 0);
}

#[tokio::test]
async fn events_and_errors_hold_no_secret() {
    let world = World::new().await;
    let mut events = world.manager.subscribe();
    let lost = || Step::Fail(RefreshFailure::ambiguous("broken"));
    world.provider.script([lost(), lost(), Step::Fail(RefreshFailure::rejected("invalid_grant"))]);
    let first = world.manager.refresh().await.unwrap_err();
    let second = world.manager.refresh().await.unwrap_err();
    world.manager.clear().await.unwrap();
    let mut shown = format!("{first} {first:?} {second} {second:?} {:?}", world.manager);
    for _ in 0..3 {
        shown += &format!("{:?}", events.next().await.unwrap());
    }
    assert!(shown.contains("LoginRequired") && shown.contains("Cleared"), "{shown}");
    assert!(!shown.contains("access-") && !shown.contains("refresh-"), "{shown}");
    let other = world.manager.clone();
    drop(world);
    drop(other);
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn the_times_of_a_custom_policy_are_exact() {
    let policy = RefreshPolicy::default()
        .refresh_before_expiry(Duration::from_secs(120))
        .expired_before_expiry(Duration::from_secs(60))
        .deadline(Duration::from_secs(2));
    let world = World::with_policy(policy).await;
    world.clock.forward(58 * 60 - 1);
    assert_eq!(world.access().await.unwrap(), "access-1");
    assert_eq!(world.provider.calls(), 0);
    world.clock.forward(1);
    world.provider.script([Step::Hang]);
    let waiting = world.ask();
    settle().await;
    world.clock.forward(2);
    settle().await;
    world.clock.forward(1);
    assert_eq!(waiting.await.unwrap().unwrap(), "access-2");
    assert_eq!(world.provider.calls(), 2);
}

#[tokio::test]
async fn jitter_refreshes_a_little_early_and_never_late() {
    let policy = RefreshPolicy::default().jitter(Duration::from_secs(600));
    let mut early = 0;
    for _ in 0..20 {
        let world = World::with_policy(policy).await;
        world.clock.forward(35 * 60 - 1);
        assert_eq!(world.access().await.unwrap(), "access-1", "too early");
        world.clock.forward(5 * 60);
        early += usize::from(world.access().await.unwrap() == "access-2");
        world.clock.forward(5 * 60 + 1);
        assert_eq!(world.access().await.unwrap(), "access-2", "later than without jitter");
    }
    assert!((1..20).contains(&early), "{early} of 20 were early by 5 minutes or more");
}

/// Keeps the output of `tracing` as text.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn tracing_shows_events_and_the_store_and_no_secret() {
    // At the first event of each place in the code, `tracing` asks whether there is a subscriber, and keeps
    // the answer for all threads. With only one subscriber, it asks only on the thread of the event. So a
    // test on another thread could give the wrong answer.
    if !is_alone("refresh::tracing_shows_events_and_the_store_and_no_secret") {
        return;
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let world = World::new().await;
    world.manager.refresh().await.unwrap();
    let hostile = "invalid_grant\u{1b}[2J\u{202e}\nINFO forged";
    world.provider.script([transient(), Step::Fail(RefreshFailure::rejected(hostile))]);
    world.manager.refresh().await.unwrap_err();
    world.manager.refresh().await.unwrap_err();
    world.manager.clear().await.unwrap();
    drop(guard);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for expected in [
        "tokenkeep.refresh{store=faulty}",
        "monotonic_counter.tokenkeep_refreshed=1",
        "monotonic_counter.tokenkeep_refresh_failed=1",
        "monotonic_counter.tokenkeep_login_required=1",
        "monotonic_counter.tokenkeep_saved=1",
        "monotonic_counter.tokenkeep_cleared=1",
    ] {
        assert!(log.contains(expected), "{expected}: {log}");
    }
    assert!(!log.contains("access-") && !log.contains("refresh-"), "{log}");
    // What a provider says cannot begin a line of the log, nor take over a terminal that shows it.
    assert!(log.contains(r"invalid_grant\u{1b}[2J\u{202e}\nINFO forged"), "{log}");
    assert!(!log.contains(['\u{1b}', '\u{202e}']), "{log}");
}
