//! The port that a browser is redirected to.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use oauth2::AuthorizationCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::{AbortHandle, JoinSet, yield_now};
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::super::OAuth2Error;
use super::super::failure::Failed;
use super::callback::{Expected, head, header, is_prefetch, line};

/// How long a browser may take to send its request. It sends it at once. Browsers also open connections that they
/// never use.
const VISIT: Duration = Duration::from_secs(10);

/// How many connections wait for their request at a time. A browser opens 2 or 3. If there are more, the oldest one
/// ends.
const VISITS: usize = 64;

/// The most bytes of a request. A browser sends all cookies of the host to each of its ports.
const LONGEST_REQUEST: usize = 64 * 1024;

/// How long a page may take to arrive. The browser is on this machine.
const PAGE: Duration = Duration::from_secs(2);

/// The pause after a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// What the port gives to the sign-in.
pub(super) struct Arrival {
    pub(super) brought: Result<AuthorizationCode, OAuth2Error>,
    /// The browser, which waits for its page.
    pub(super) browser: Option<Browser>,
}

/// A URL of this port that leads to the provider, once.
pub(super) struct Entrance {
    pub(super) path: String,
    pub(super) leads_to: String,
    pub(super) openings: AtomicUsize,
}

impl Entrance {
    /// Returns whether this request opens it. A browser that only prepares for a page does not.
    fn is_opened_by(&self, request: &[u8]) -> bool {
        line(request).is_some_and(|(method, target)| method == "GET" && target == self.path)
            && !is_prefetch(request)
    }

    /// Fails if it was opened twice. One of the two was not the browser of the person.
    pub(super) fn check(&self) -> Result<(), OAuth2Error> {
        match self.openings.load(Ordering::SeqCst) {
            0 | 1 => Ok(()),
            _ => Err(OAuth2Error::OpenedTwice),
        }
    }
}

/// Serves the port until it is dropped.
pub(super) struct Port(
    #[expect(dead_code, reason = "aborts its tasks when it is dropped")] JoinSet<()>,
);

impl Port {
    pub(super) fn open(
        listeners: Vec<TcpListener>,
        expected: &Arc<Expected>,
        entrance: &Arc<Entrance>,
        bring: &Sender<Arrival>,
    ) -> Self {
        let mut port = JoinSet::new();
        for listener in listeners {
            port.spawn(serve(listener, expected.clone(), entrance.clone(), bring.clone()));
        }
        Self(port)
    }
}

async fn serve(
    listener: TcpListener,
    expected: Arc<Expected>,
    entrance: Arc<Entrance>,
    bring: Sender<Arrival>,
) {
    // The set aborts its tasks when it is dropped.
    let mut visits = JoinSet::new();
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // The connection broke, or no descriptor is free. The next accept may succeed.
            sleep(PAUSE).await;
            continue;
        };
        while visits.try_join_next().is_some() {}
        open.retain(|visit| !visit.is_finished());
        if open.len() >= VISITS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        let (expected, entrance, bring) = (expected.clone(), entrance.clone(), bring.clone());
        open.push_back(visits.spawn(async move {
            visit(Browser(stream), &expected, &entrance, &bring).await;
        }));
        // A request that has arrived is read before so many connections are accepted that this one ends.
        yield_now().await;
    }
}

/// Reads one request, and answers it or hands it on.
async fn visit(
    mut browser: Browser,
    expected: &Expected,
    entrance: &Entrance,
    bring: &Sender<Arrival>,
) {
    let Ok(Some(request)) = timeout(VISIT, browser.request()).await else { return };
    if let Some(brought) = expected.read(&request) {
        let brought = brought.map_err(Failed::of_a_sign_in);
        let arrival = Arrival { brought, browser: Some(browser) };
        // If there are several answers, the first counts.
        if let Err(TrySendError::Full(late) | TrySendError::Closed(late)) = bring.try_send(arrival)
            && let Some(browser) = late.browser
        {
            browser.show(Page::Unknown).await;
        }
        return;
    }
    if !entrance.is_opened_by(&request) {
        return browser.show(Page::Unknown).await;
    }
    if entrance.openings.fetch_add(1, Ordering::SeqCst) == 0 {
        return browser.show(Page::Entrance(&entrance.leads_to)).await;
    }
    // The page comes first, because the port closes with the sign-in.
    browser.show(Page::OpenedTwice).await;
    // If another answer came first, the sign-in looks at the number of openings.
    let _ = bring.try_send(Arrival { brought: Err(OAuth2Error::OpenedTwice), browser: None });
}

/// A browser that waits for a page.
pub(super) struct Browser(TcpStream);

pub(super) enum Page<'a> {
    Declined,
    Done,
    Entrance(&'a str),
    OpenedTwice,
    Unknown,
}

impl Browser {
    /// Reads a request. Returns `None` if it is too long, or if the browser closes the connection.
    async fn request(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        // The buffer has its full size, so it does not grow and leave copies of the code behind.
        let mut request = Zeroizing::new(Vec::with_capacity(LONGEST_REQUEST));
        let mut whole = None;
        while whole.is_none_or(|whole| request.len() < whole) {
            let seen = request.len();
            if seen >= LONGEST_REQUEST || self.0.read_buf(&mut *request).await.ok()? == 0 {
                return None;
            }
            let new = seen.saturating_sub(3);
            if whole.is_none()
                && let Some(end) = head(&request[new..])
            {
                whole = Some(new + end + body_length(&request));
            }
        }
        Some(request)
    }

    /// Sends a page. If the browser is gone, nothing is lost.
    pub(super) async fn show(mut self, page: Page<'_>) {
        let answer = page.to_answer();
        let _ = timeout(PAGE, async {
            self.0.write_all(answer.as_bytes()).await?;
            self.0.shutdown().await
        })
        .await;
    }
}

/// Returns the length of the body, which only the POST of a form has.
fn body_length(request: &[u8]) -> usize {
    let is_form = line(request).is_some_and(|(method, _)| method == "POST");
    let length = header(request, "content-length").filter(|_| is_form);
    let length = length.and_then(|length| str::from_utf8(length).ok()?.parse().ok());
    // A longer request is refused anyway, and the sum must not overflow.
    length.unwrap_or(0).min(LONGEST_REQUEST)
}

impl Page<'_> {
    /// Returns the whole answer. Nothing of the request is in it, and it runs no script.
    fn to_answer(&self) -> String {
        let (status, location, title, says) = match self {
            Self::Declined => (
                "200 OK",
                None,
                "Not signed in",
                "You are not signed in. Go back to the program; it says why.",
            ),
            Self::Done => (
                "200 OK",
                None,
                "Signed in",
                "Thank you. Close this window, and go back to the program.",
            ),
            Self::Entrance(url) => ("302 Found", Some(url), "Sign in", "The sign-in starts now."),
            Self::OpenedTwice => (
                "403 Forbidden",
                None,
                "Opened twice",
                "This sign-in was opened twice, perhaps by somebody else who uses this machine. It has ended, and nobody \
                 is signed in. Go back to the program, and start the sign-in again.",
            ),
            Self::Unknown => ("404 Not Found", None, "Not found", "This is not part of a sign-in."),
        };
        let page = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title></head>\
             <body><p>{says}</p></body></html>\n"
        );
        let location = location.map_or_else(String::new, |url| format!("Location: {url}\r\n"));
        format!(
            "HTTP/1.1 {status}\r\n\
             {location}\
             Content-Type: text/html; charset=utf-8\r\n\
             Content-Length: {}\r\n\
             Cache-Control: no-store\r\n\
             Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n\
             Referrer-Policy: no-referrer\r\n\
             X-Content-Type-Options: nosniff\r\n\
             Connection: close\r\n\r\n{page}",
            page.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_post_of_a_form_has_a_body_and_a_huge_one_is_refused() {
        let length = |method: &str, length: &str| {
            body_length(
                format!("{method} / HTTP/1.1\r\ncontent-length:{length}\r\n\r\n").as_bytes(),
            )
        };
        assert_eq!(length("POST", " 7"), 7);
        assert_eq!(length("POST", "18446744073709551615"), LONGEST_REQUEST);
        assert_eq!(length("POST", "-1"), 0);
        assert_eq!(length("GET", "7"), 0);
    }
}
