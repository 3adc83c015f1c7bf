//! Answers that come a byte at a time.

use std::time::{Duration, Instant};

use serde_json::json;
use tokenkeep::chrono::{TimeDelta, Utc};

use super::home;
use crate::token_server::{Act, TokenServer};

#[test]
fn a_server_that_drips_delays_a_good_token_by_20_s_at_most() {
    let server = TokenServer::start();
    let expiry = Utc::now() + TimeDelta::minutes(10);
    let due = json!({
        "access_token": "canary-old-a",
        "refresh_token": "canary-old-r",
        "expires_at": expiry.to_rfc3339(),
        "obtained_at": (expiry - TimeDelta::hours(1)).to_rfc3339(),
        "version": 2,
    });
    let home = home(&server, &due.to_string());
    server.script([Act::Drip, Act::Drip, Act::Drip]);
    let start = Instant::now();
    let got = home.run("get");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!(got.line(), "canary-old-a");
    assert!(server.calls() > 0);
}
