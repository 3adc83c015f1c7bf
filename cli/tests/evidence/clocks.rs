//! Clocks that are wrong, and clocks that are corrected between two commands.

use std::process::Command;

use crate::figures::figure;
use crate::scenes::{Done, Scene};
use crate::support::can_fake_time;

/// Runs a command at this date. Only the wall clock is changed, not the monotonic clock.
fn at(scene: &Scene, date: &str, arguments: &[&str]) -> Done {
    let mut faketime: Command = scene.program("faketime");
    faketime.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").arg(date);
    faketime.arg(env!("CARGO_BIN_EXE_tokenkeep")).args(arguments);
    scene.play_in(faketime)
}

const DATES: [&str; 5] = [
    "1970-01-01 00:00:10",
    "2001-09-09 01:46:40",
    "2038-01-19 03:14:08",
    "2099-06-01 00:00:00",
    "2106-02-07 06:28:16",
];

#[test]
fn a_wrong_clock_causes_no_refresh_loop_and_loses_no_tokens() {
    let test = "clocks::a_wrong_clock_causes_no_refresh_loop_and_loses_no_tokens";
    if !can_fake_time(test) {
        return;
    }
    let steps = [("init", ""), ("set", crate::scenes::OLD)];
    let scene = Scene::with_provider("clocks", &steps).run("get", "").profile("default");
    let server = scene.server.clone().unwrap();
    let mut runs = 0;
    for then in DATES {
        for now in DATES {
            // Refresh at one date, and use the token three times at another date.
            scene.fresh();
            let done = at(&scene, then, &["refresh"]);
            assert_eq!(done.code, Some(0), "at {then}: {done:?}");
            let refreshed = server.calls();
            for _ in 0..3 {
                let done = at(&scene, now, &["get"]);
                assert_eq!(done.code, Some(0), "from {then} to {now}: {done:?}");
            }
            // If the token seems expired, the first use refreshes it.
            let more = server.calls() - refreshed;
            assert_eq!(more, usize::from(now > then), "from {then} to {now}");
            assert!(!server.has_ended_a_session(), "from {then} to {now}");
            assert_eq!(scene.look(), ["new"], "from {then} to {now}");
            assert!(scene.litter().is_empty(), "from {then} to {now}: {:?}", scene.litter());
            runs += 4;
        }
    }
    figure("wrong clocks", format!("{runs} runs at {} dates", DATES.len()), "0 lost, 0 loops");
}
