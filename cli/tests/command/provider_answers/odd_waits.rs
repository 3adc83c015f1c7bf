//! Values of `Retry-After` that are no wait at all, or too long for any number.

use super::waits::check;
use crate::support::can_fake_time;

#[test]
fn a_wait_that_is_huge_or_negative_is_bounded() {
    let test = "provider_answers::odd_waits::a_wait_that_is_huge_or_negative_is_bounded";
    if !can_fake_time(test) {
        return;
    }
    let waits = [("99999999999999999999999999", 3600), ("-5", 60), ("-99999999999999999999", 60)];
    check(waits.map(|(wait, over)| (wait.to_owned(), over)));
}
