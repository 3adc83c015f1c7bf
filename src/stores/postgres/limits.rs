//! Limits what a server can send.
//!
//! The driver keeps a message of any length in memory, and more than one. So this module follows the messages
//! of the protocol ("Frontend/Backend Protocol", "Message Formats" in PostgreSQL's manual), and ends the
//! connection before the driver sees too much.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsStream};

use super::failure::unavailable;
use crate::error::StoreError;
use crate::key::seal::MAX_SEALED;

/// The most bytes of an answer. Its row contains one record of at most [`MAX_SEALED`] bytes and little else.
const LONGEST_ANSWER: u64 = 8 * MAX_SEALED as u64;

/// The most messages of an answer. The answer to a statement has about 6, and the one to a start-up about 20.
const MOST_MESSAGES: u32 = 128;

/// The most bytes of an authentication message. Real ones have less than 200.
const LONGEST_AUTHENTICATION: u32 = 4096;

/// The least iterations of a password's hash without TLS (RFC 7677, 4), which is also PostgreSQL's default.
/// With fewer, an impostor could quickly try passwords against the client's proof. The driver has a limit for
/// the most.
const LEAST_ITERATIONS: u32 = 4096;

/// The type of an authentication message.
const AUTHENTICATION: u8 = b'R';

/// The type of a message with a parameter of the server. The driver keeps them as long as the connection.
const PARAMETER_STATUS: u8 = b'S';

/// The type of the message that ends an answer.
const READY: u8 = b'Z';

/// The codes of authentication messages.
const CLEARTEXT: u32 = 3;
const MD5: u32 = 5;
const SCRAM_CHALLENGE: u32 = 11;

/// Why the connection to a server was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It asks for the password in cleartext, and there is no TLS.
    Cleartext,
    /// It asks for a hash of the password that is too easy to guess, and there is no TLS.
    WeakHash,
    /// It asks for an MD5 hash of the password, and there is no TLS.
    Md5,
    /// It sent more than any answer has.
    TooMuch,
}

impl Refusal {
    pub(super) fn explain(self, place: &str) -> StoreError {
        const SCRAM: &str = "set `password_encryption = 'scram-sha-256'` on the server, set the \
             password again, and use `scram-sha-256` in its pg_hba.conf; or use `peer` with a socket";
        match self {
            Self::Cleartext => unavailable(
                place,
                "it asks for the password in cleartext, which is not sent without TLS",
                SCRAM,
            ),
            Self::Md5 => unavailable(
                place,
                "it asks for an MD5 hash of the password, which is not sent without TLS",
                SCRAM,
            ),
            Self::TooMuch => unavailable(
                place,
                &format!(
                    "it sent more than an answer, which has at most {LONGEST_ANSWER} bytes and \
                     {MOST_MESSAGES} messages"
                ),
                "check whether it is the PostgreSQL server that you want",
            ),
            Self::WeakHash => unavailable(
                place,
                &format!(
                    "it asks for a hash of the password with fewer than {LEAST_ITERATIONS} iterations, \
                     which is not sent without TLS"
                ),
                "set `scram_iterations = 4096` on the server, and set the password again",
            ),
        }
    }
}

/// What one connection may receive.
#[derive(Debug)]
pub(super) struct Limits {
    has_tls: bool,
    received: Mutex<Received>,
}

/// What the server sent since a time when no statement was running.
#[derive(Debug, Default)]
struct Received {
    /// How many statements have begun since then, and how many of them are running.
    begun: u32,
    running: u32,
    messages: u32,
    bytes: u64,
    /// How many answers it has ended.
    ended: u32,
    /// The bytes of all parameters since the connection was made.
    parameters: u64,
    refusal: Option<Refusal>,
}

/// A statement that is running.
pub(super) struct Running<'a>(&'a Limits);

impl Limits {
    pub(super) fn new(has_tls: bool) -> Arc<Self> {
        Arc::new(Self { has_tls, received: Mutex::default() })
    }

    /// Allows the answer to one more statement.
    pub(super) fn begin(&self) -> Running<'_> {
        let mut received = self.received();
        if received.running == 0 {
            *received = Received {
                parameters: received.parameters,
                refusal: received.refusal,
                ..Received::default()
            };
        }
        received.begun = received.begun.saturating_add(1);
        received.running += 1;
        Running(self)
    }

    /// Returns why the connection was ended, if it was ended here.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.received().refusal
    }

    fn received(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a message that begins.
    fn count(&self, kind: u8, length: u32) -> Result<(), Refusal> {
        let mut received = self.received();
        // The start-up is an answer too.
        let answers = received.begun.max(1);
        let bytes = u64::from(length) + 1;
        received.messages = received.messages.saturating_add(1);
        received.bytes = received.bytes.saturating_add(bytes);
        match kind {
            PARAMETER_STATUS => received.parameters = received.parameters.saturating_add(bytes),
            READY => received.ended = received.ended.saturating_add(1),
            _ => {}
        }
        let is_too_much = received.messages > answers.saturating_mul(MOST_MESSAGES)
            || received.bytes > u64::from(answers).saturating_mul(LONGEST_ANSWER)
            || bytes > LONGEST_ANSWER
            || received.parameters > LONGEST_ANSWER
            // The driver asks for the parts of a type that it does not know, and for the parts of those: a
            // server could go on until the stack overflows. No column of this crate has such a type. One end
            // more may be that of the statement before, because an error is returned before its answer ends.
            || received.ended > answers.saturating_add(1)
            || (kind == AUTHENTICATION && length > LONGEST_AUTHENTICATION);
        if is_too_much { Err(Refusal::TooMuch) } else { Ok(()) }
    }

    /// Checks what the server asks for.
    ///
    /// A server with TLS has proved its name, so it may ask for the password itself: servers that check it
    /// elsewhere, such as those with IAM tokens, need that. An MD5 hash gives away less. Without TLS, any
    /// program of this machine that has the port or the socket could ask.
    fn check(&self, body: &[u8]) -> Result<(), Refusal> {
        let Some((code, data)) = body.split_first_chunk() else { return Ok(()) };
        match u32::from_be_bytes(*code) {
            CLEARTEXT if !self.has_tls => Err(Refusal::Cleartext),
            MD5 if !self.has_tls => Err(Refusal::Md5),
            SCRAM_CHALLENGE if !self.has_tls && is_weak(data) => Err(Refusal::WeakHash),
            _ => Ok(()),
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.received().running -= 1;
    }
}

/// Returns whether a challenge asks for too few iterations: `r=NONCE,s=SALT,i=NUMBER` (RFC 5802, 5.1).
/// A challenge without a number is an error of the driver.
fn is_weak(challenge: &[u8]) -> bool {
    let mut fields = challenge.split(|byte| *byte == b',');
    let number = fields.find_map(|field| str::from_utf8(field.strip_prefix(b"i=")?).ok());
    let number: Option<u32> = number.and_then(|number| number.parse().ok());
    number.is_some_and(|number| number < LEAST_ITERATIONS)
}

/// A stream of messages from a server, which ends with an error at the first one that is refused.
pub(super) struct Limited<S> {
    stream: S,
    limits: Arc<Limits>,
    part: Part,
    /// How many bytes of this part are still to come.
    wanted: usize,
    /// The bytes of this part, unless it is the body of a message that is not checked.
    bytes: Vec<u8>,
}

/// A part of a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Its type, which is 1 byte, and its length, which counts itself and the body.
    Head,
    /// The body of an authentication message.
    Authentication,
    /// The body of any other message.
    Body,
}

/// The bytes of a type and a length.
const HEAD: usize = 5;

impl<S> Limited<S> {
    pub(super) fn new(stream: S, limits: Arc<Limits>) -> Self {
        Self { stream, limits, part: Part::Head, wanted: HEAD, bytes: Vec::new() }
    }

    /// Follows the messages in the next bytes of the stream.
    fn follow(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.wanted));
            bytes = later;
            self.wanted -= now.len();
            if self.part != Part::Body {
                self.bytes.extend_from_slice(now);
            }
            if self.wanted == 0 {
                self.end_part()?;
            }
        }
        Ok(())
    }

    /// Checks a part that is whole, and starts the next one.
    fn end_part(&mut self) -> Result<(), Refusal> {
        match (self.part, &*self.bytes) {
            (Part::Head, &[kind, a, b, c, d]) => {
                let length = u32::from_be_bytes([a, b, c, d]);
                self.limits.count(kind, length)?;
                // A length below 4 is an error of the driver.
                self.wanted = usize::try_from(length).unwrap_or(usize::MAX).saturating_sub(4);
                self.part = if kind == AUTHENTICATION { Part::Authentication } else { Part::Body };
            }
            (part, body) => {
                if part == Part::Authentication {
                    self.limits.check(body)?;
                }
                (self.part, self.wanted) = (Part::Head, HEAD);
            }
        }
        self.bytes.clear();
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Limited<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        Poll::Ready(this.follow(&buffer.filled()[before..]).map_err(|refusal| {
            this.limits.received().refusal = Some(refusal);
            io::Error::other("it was refused")
        }))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Limited<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Limited<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[kind], &length.to_be_bytes()[..], body].concat()
    }

    fn authentication(code: u32, data: &[u8]) -> Vec<u8> {
        message(AUTHENTICATION, &[&code.to_be_bytes(), data].concat())
    }

    /// Returns what comes of these bytes, whatever the pieces in which they arrive.
    fn received(limits: &Arc<Limits>, bytes: &[u8]) -> Result<(), Refusal> {
        Limited::new((), limits.clone()).follow(bytes)
    }

    fn in_pieces(has_tls: bool, bytes: &[u8]) -> Result<(), Refusal> {
        let all = received(&Limits::new(has_tls), bytes);
        for size in [1, 2, 5, 7] {
            let mut stream = Limited::new((), Limits::new(has_tls));
            let answer = bytes.chunks(size).try_for_each(|piece| stream.follow(piece));
            assert_eq!(answer, all, "in pieces of {size} bytes");
        }
        all
    }

    #[test]
    fn a_password_in_cleartext_or_by_md5_needs_tls() {
        for (code, refusal) in [(CLEARTEXT, Refusal::Cleartext), (MD5, Refusal::Md5)] {
            let asked = authentication(code, b"salt");
            for before in [vec![], authentication(0, b""), message(b'N', b"a notice")] {
                let bytes = [before, asked.clone()].concat();
                assert_eq!(in_pieces(false, &bytes), Err(refusal));
                assert_eq!(in_pieces(true, &bytes), Ok(()));
            }
        }
        for code in [0, 10, 12] {
            assert_eq!(in_pieces(false, &authentication(code, b"SCRAM-SHA-256\0\0")), Ok(()));
        }
    }

    #[test]
    fn a_hash_that_is_easy_to_guess_needs_tls() {
        for (number, is_weak) in
            [("0", true), ("1", true), ("4095", true), ("4096", false), ("100000", false)]
        {
            let challenge = format!("r=nonce,s=c2FsdA==,i={number}");
            let asked = authentication(SCRAM_CHALLENGE, challenge.as_bytes());
            let expected = if is_weak { Err(Refusal::WeakHash) } else { Ok(()) };
            assert_eq!(in_pieces(false, &asked), expected, "{number}");
            assert_eq!(in_pieces(true, &asked), Ok(()), "{number}");
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_refused_at_its_head() {
        let limit = u32::try_from(LONGEST_ANSWER).unwrap();
        for length in [limit, 1 << 31, u32::MAX] {
            let head = [&b"D"[..], &length.to_be_bytes()].concat();
            assert_eq!(in_pieces(false, &head), Err(Refusal::TooMuch), "{length}");
        }
        let head = [&b"R"[..], &(LONGEST_AUTHENTICATION + 1).to_be_bytes()].concat();
        assert_eq!(in_pieces(false, &head), Err(Refusal::TooMuch));
        let row = vec![0; MAX_SEALED + 1024];
        assert_eq!(received(&Limits::new(false), &message(b'D', &row)), Ok(()));
    }

    #[test]
    fn an_answer_of_too_many_messages_or_bytes_is_refused_and_the_next_one_starts_anew() {
        let limits = Limits::new(false);
        let short = message(b'N', b"");
        let most = short.repeat(MOST_MESSAGES as usize);
        assert_eq!(received(&limits, &most), Ok(()), "the start-up");
        assert_eq!(received(&limits, &short), Err(Refusal::TooMuch));
        for _ in 0..3 {
            let _running = limits.begin();
            assert_eq!(received(&limits, &most), Ok(()));
            assert_eq!(received(&limits, &short), Err(Refusal::TooMuch));
        }
        let half = message(b'D', &vec![0; 600_000]);
        let running = limits.begin();
        assert_eq!(received(&limits, &half), Ok(()));
        assert_eq!(received(&limits, &half), Err(Refusal::TooMuch));
        drop(running);
        // Statements that run at the same time have one answer each.
        let _running = [limits.begin(), limits.begin()];
        assert_eq!(received(&limits, &[half.clone(), half].concat()), Ok(()));
    }

    #[test]
    fn more_ends_of_answers_than_statements_are_refused() {
        let limits = Limits::new(false);
        let end = message(READY, b"I");
        for _ in 0..3 {
            let _running = [limits.begin(), limits.begin()];
            // The end of a statement before may come late.
            assert_eq!(received(&limits, &end.repeat(3)), Ok(()));
            assert_eq!(received(&limits, &end), Err(Refusal::TooMuch));
        }
    }

    #[test]
    fn the_parameters_of_a_connection_stay_few_however_long_it_lives() {
        let limits = Limits::new(false);
        let parameter = message(PARAMETER_STATUS, &vec![b'a'; 100_000]);
        let answers = (0..20).map(|_| {
            let _running = limits.begin();
            received(&limits, &parameter)
        });
        assert_eq!(answers.take_while(Result::is_ok).count(), 10);
    }
}
