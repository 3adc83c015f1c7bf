//! Polling the token endpoint until a person has signed in (RFC 8628, 3.4 and 3.5).

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use http::{Response, StatusCode};
use oauth2::{AsyncHttpClient, HttpRequest, HttpResponse};

use super::super::failure::Failed;
use super::super::http::Reply;
use super::answer::{LONGEST_INTERVAL, interval};
use crate::sys::clock::Clock;

/// How much longer each pause is after `slow_down` (RFC 8628, 3.5).
const SLOWER: Duration = Duration::from_secs(5);

/// The longest pause after failed connections: the limit of the exponential backoff of RFC 8628 (3.5).
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// How many answers in a row that only a wrong setting explains end the polling. Gateways send such answers too,
/// while the server behind them starts.
const MOST_UNCLEAR: usize = 5;

type Replied = Pin<Box<dyn Future<Output = Result<Reply, Failed>> + Send>>;

/// Sends a request, and returns the answer.
pub(in super::super) type Exchange = dyn Fn(HttpRequest) -> Replied + Send + Sync;

/// Adapts an exchange to the polling of the `oauth2` crate. That crate polls again after `authorization_pending`,
/// and stops after any other error code. This decides which of the two an answer means, and how long the next pause
/// is.
pub(super) struct Poll<'a> {
    clock: &'a Clock,
    exchange: &'a Exchange,
    /// The name of the server, for errors.
    place: &'a str,
    state: Mutex<State>,
}

/// The polls so far.
pub(super) struct State {
    /// The shortest pause from now on.
    interval: Duration,
    /// The next pause.
    pause: Duration,
    unclear: usize,
    /// When the last request was sent.
    pub(super) sent: Option<SystemTime>,
    /// How the last request failed, if it did.
    pub(super) failed: Option<Failed>,
}

/// What a failed poll means.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Meaning {
    /// The provider has decided. Another poll would not help.
    Final,
    /// No answer came.
    NoAnswer,
    /// The person has not signed in yet.
    Pending,
    SlowDown,
    /// The server or a gateway cannot answer now.
    Temporary,
    /// The server knows no such client or no such URL, or it is not the server that answers.
    Unclear,
}

impl<'a> Poll<'a> {
    pub(super) fn new(
        clock: &'a Clock,
        exchange: &'a Exchange,
        place: &'a str,
        interval: Duration,
    ) -> Self {
        let state = State { interval, pause: interval, unclear: 0, sent: None, failed: None };
        Self { clock, exchange, place, state: Mutex::new(state) }
    }

    /// Returns how long to wait before the next poll.
    pub(super) fn pause(&self) -> Duration {
        self.state().pause
    }

    pub(super) fn into_state(self) -> State {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the tokens, or else what makes the `oauth2` crate do the right thing.
    fn judge(&self, replied: Result<Reply, Failed>) -> HttpResponse {
        let (mut retry_after, mut named, mut status) = (None, None, None);
        let judged = replied.and_then(|mut reply| {
            status = Some(reply.status);
            retry_after = reply.retry_after;
            named = interval(&reply.body);
            if reply.error_code().is_some_and(|code| decides(&code, reply.status)) {
                reply.status = StatusCode::BAD_REQUEST;
            }
            reply.judge_tokens(self.place)
        });
        match judged {
            Ok(body) => {
                self.state().failed = None;
                Response::new(body)
            }
            Err(failed) => {
                let goes_on = self.state().goes_on(failed, status, named, retry_after);
                let code = if goes_on { "authorization_pending" } else { "" };
                let mut response = Response::new(format!(r#"{{"error":"{code}"}}"#).into_bytes());
                *response.status_mut() = StatusCode::BAD_REQUEST;
                response
            }
        }
    }
}

impl State {
    /// Records a failed poll. Returns whether there is another one.
    fn goes_on(
        &mut self,
        failed: Failed,
        status: Option<StatusCode>,
        named: Option<Duration>,
        retry_after: Option<Duration>,
    ) -> bool {
        let meaning = meaning(&failed, status);
        match meaning {
            Meaning::SlowDown => {
                let slower = self.interval + SLOWER;
                self.interval = slower.max(named.unwrap_or_default()).min(LONGEST_INTERVAL);
            }
            Meaning::NoAnswer => {
                self.interval = (self.interval * 2).min(self.interval.max(LONGEST_BACKOFF));
            }
            _ => {}
        }
        self.unclear = if meaning == Meaning::Unclear { self.unclear + 1 } else { 0 };
        self.pause = self.interval.max(retry_after.unwrap_or_default());
        let is_failure = !matches!(meaning, Meaning::Pending | Meaning::SlowDown);
        self.failed = is_failure.then_some(failed);
        meaning != Meaning::Final && self.unclear < MOST_UNCLEAR
    }
}

/// Returns whether an error code counts whatever the status is: those of RFC 8628 (3.5) and Microsoft's. Nothing but
/// the provider writes one.
fn decides(code: &str, status: StatusCode) -> bool {
    match code {
        // Polling less often is right then.
        "authorization_pending" => status != StatusCode::TOO_MANY_REQUESTS,
        "access_denied"
        | "authorization_declined"
        | "code_expired"
        | "expired_token"
        | "slow_down" => true,
        _ => false,
    }
}

fn meaning(failed: &Failed, status: Option<StatusCode>) -> Meaning {
    let is_forbidden = status == Some(StatusCode::FORBIDDEN);
    match failed {
        Failed::Refused { code, .. } if code == "authorization_pending" => Meaning::Pending,
        Failed::Refused { code, .. } if code == "slow_down" => Meaning::SlowDown,
        // Auth0 sends `slow_down` with this status. A gateway that sends it wants the same.
        Failed::Answered { status: 429, .. } => Meaning::SlowDown,
        Failed::NoAnswer { .. } | Failed::NotSent { .. } => Meaning::NoAnswer,
        failed if failed.is_temporary() => Meaning::Temporary,
        // A firewall, or the sign-in page of a network.
        Failed::Answered { .. } if is_forbidden => Meaning::Temporary,
        Failed::Refused { code, .. } if is_forbidden && code.is_empty() => Meaning::Temporary,
        Failed::Unreadable { .. } => Meaning::Temporary,
        // Frameworks send an error page as JSON: `{"status":404,"error":"Not Found"}`.
        Failed::Refused { code, .. } if code.is_empty() => Meaning::Unclear,
        Failed::Answered { .. } | Failed::NotHttp { .. } => Meaning::Unclear,
        Failed::Refused { .. }
        | Failed::NotAdmitted { .. }
        | Failed::NotPermitted(_)
        | Failed::Unsendable { .. } => Meaning::Final,
    }
}

impl<'c> AsyncHttpClient<'c> for Poll<'_> {
    type Error = Failed;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, Failed>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async {
            self.state().sent = Some(self.clock.now());
            let replied = (self.exchange)(request).await;
            Ok(self.judge(replied))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future;

    use zeroize::Zeroizing;

    use super::*;

    /// Returns whether the polling goes on after these answers, and the pauses in seconds.
    fn after(answers: &[(u16, &str, Option<u64>)]) -> (bool, Vec<u64>) {
        let clock = Clock::default();
        let exchange: &Exchange = &|_| Box::pin(future::pending());
        let poll = Poll::new(&clock, exchange, "issuer.example", Duration::from_secs(5));
        let mut goes_on = true;
        let pauses = answers.iter().map(|&(status, body, wait)| {
            assert!(goes_on, "the polling had ended before {status} {body}");
            let replied = match status {
                0 => Err(Failed::NoAnswer { reason: String::new() }),
                _ => Ok(Reply {
                    status: StatusCode::from_u16(status).unwrap(),
                    retry_after: wait.map(Duration::from_secs),
                    body: Zeroizing::new(body.into()),
                }),
            };
            let response = poll.judge(replied);
            goes_on = response.body().ends_with(br#""authorization_pending"}"#);
            poll.pause().as_secs()
        });
        let pauses = pauses.collect();
        (goes_on, pauses)
    }

    const PENDING: &str = r#"{"error":"authorization_pending"}"#;
    const SLOW_DOWN: &str = r#"{"error":"slow_down"}"#;

    #[test]
    fn a_code_that_decides_counts_with_any_status() {
        for status in [200, 400, 404, 429, 500, 503] {
            for code in ["access_denied", "authorization_declined", "code_expired", "expired_token"]
            {
                let body = format!(r#"{{"error":"{code}"}}"#);
                assert_eq!(after(&[(status, &body, None)]), (false, vec![5]), "{status} {code}");
            }
            let pauses = if status == 429 { vec![10, 15] } else { vec![5, 5] };
            let pending = [(status, PENDING, None), (status, PENDING, None)];
            assert_eq!(after(&pending), (true, pauses), "{status}");
            assert_eq!(after(&[(status, SLOW_DOWN, None)]), (true, vec![10]), "{status}");
        }
        // It does not count as an answer that only a wrong setting explains.
        assert!(after(&[(404, PENDING, None); MOST_UNCLEAR + 1]).0);
    }

    #[test]
    fn slow_down_holds_for_all_later_polls_with_any_status() {
        for status in [200, 400, 403, 429] {
            let answers =
                [(status, SLOW_DOWN, None), (400, PENDING, None), (status, SLOW_DOWN, None)];
            assert_eq!(after(&answers), (true, vec![10, 10, 15]), "{status}");
        }
        // GitHub names the new interval.
        for (named, pause) in [("12", 12), ("\"12\"", 12), ("7", 10), ("1e9", 300)] {
            let body = format!(r#"{{"error":"slow_down","interval":{named}}}"#);
            assert_eq!(after(&[(200, &body, None)]), (true, vec![pause]), "{named}");
        }
    }

    #[test]
    fn a_wait_that_the_server_asks_for_is_kept_once() {
        let answers = [
            (503, "", Some(40)),
            (400, PENDING, None),
            (400, PENDING, Some(20)),
            (429, "", Some(60)),
        ];
        assert_eq!(after(&answers), (true, vec![40, 5, 20, 60]));
        assert_eq!(after(&[(429, "", Some(60)), (428, PENDING, None)]), (true, vec![60, 10]));
    }

    #[test]
    fn a_lost_connection_makes_the_polls_slower() {
        let answers = [(0, "", None), (0, "", None), (400, PENDING, None)];
        assert_eq!(after(&answers), (true, vec![10, 10, 10]));
    }

    #[test]
    fn what_passes_ends_nothing() {
        let page = "<html>no</html>";
        for (status, body) in [
            (0, ""),
            (200, ""),
            (200, page),
            (200, "{}"),
            (200, r#"{"access_token":""}"#),
            (403, page),
            (403, r#"{"message":"no"}"#),
            (403, r#"{"error":"Forbidden"}"#),
            (408, ""),
            (428, PENDING),
            (429, page),
            (500, r#"{"error":"invalid_client"}"#),
            (502, page),
            (503, page),
            (400, r#"{"error":"server_error"}"#),
            (400, r#"{"error":"temporarily_unavailable"}"#),
        ] {
            assert!(after(&[(status, body, None); 20]).0, "{status} {body}");
        }
    }

    #[test]
    fn a_decision_of_the_provider_ends_the_polling_at_once() {
        for code in [
            "access_denied",
            "authorization_declined",
            "bad_verification_code",
            "code_expired",
            "expired_token",
            "incorrect_device_code",
            "invalid_client",
            "invalid_grant",
            "unauthorized_client",
            "unsupported_grant_type",
        ] {
            for status in [200, 400, 401, 403] {
                let body = format!(r#"{{"error":"{code}"}}"#);
                assert!(!after(&[(status, &body, None)]).0, "{status} {code}");
            }
        }
    }

    #[test]
    fn what_only_a_wrong_setting_explains_ends_the_polling_when_it_repeats() {
        for (status, body) in [
            (301, ""),
            (307, ""),
            (400, "<html>no</html>"),
            (401, ""),
            (404, ""),
            (400, r#"{"error":"Bad Request"}"#),
        ] {
            let (few, many) = ([(status, body, None); 4], [(status, body, None); 5]);
            assert!(after(&few).0 && !after(&many).0, "{status} {body}");
            // Another answer in between shows that it is the right server.
            let mixed = [&few[..], &[(400, PENDING, None)], &few[..]].concat();
            assert!(after(&mixed).0, "{status} {body}");
        }
    }
}
