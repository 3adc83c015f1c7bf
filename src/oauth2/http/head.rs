//! The head of an answer, before hyper reads it. A strict reader would lose the new tokens because of a length
//! that is none, of chunks that are none, or of a byte in another header.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use zeroize::Zeroizing;

use super::LONGEST_HEAD;

/// How much of a head is read at a time.
const PART: usize = 8 << 10;

/// What the head of each answer begins with.
const HTTP: &[u8] = b"HTTP/1.";

/// A connection whose answer has either a length that can be read or none. Without one, the answer ends with the
/// connection (RFC 9112, 6.3).
pub(super) struct Lenient<C> {
    inner: C,
    is_in_head: bool,
    /// Whether there is still no final answer after so many bytes. hyper would read informational ones without end, and
    /// let nothing else run meanwhile.
    is_too_long: bool,
    /// What was read of the head. The buffer has its full size, so it does not grow and leave copies behind.
    read: Zeroizing<Vec<u8>>,
    /// How much of it hyper has.
    given: usize,
}

impl<C> Lenient<C> {
    pub(super) fn new(inner: C) -> Self {
        let read = Zeroizing::new(Vec::with_capacity(LONGEST_HEAD + PART));
        Self { inner, is_in_head: true, is_too_long: false, read, given: 0 }
    }

    /// Corrects the head if all of it was read.
    fn correct(&mut self) {
        let mut start = 0;
        while let Some(length) = end_of_head(&self.read[start..]) {
            let head = &mut self.read[start..start + length];
            let is_last = head.get(b"HTTP/1.1 ".len()).is_none_or(|digit| *digit != b'1');
            drop_wrong_lengths(head);
            // hyper refuses a head with such a byte in any header.
            head.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
            if is_last {
                self.is_in_head = !self.correct_chunks(start, start + length);
                return;
            }
            // Another head follows an informational one (RFC 9110, 15.2).
            start += length;
        }
        let rest = &self.read[start..];
        let is_http = rest.iter().zip(HTTP).all(|(found, wanted)| found == wanted);
        self.is_too_long = is_http && self.read.len() >= LONGEST_HEAD;
        self.is_in_head = is_http && !self.is_too_long;
    }

    /// Makes the head say whether the body has chunks. Returns `false` if too little of the body was read to see that.
    fn correct_chunks(&mut self, start: usize, end: usize) -> bool {
        let (head, body) = self.read.split_at_mut(end);
        let head = &mut head[start..];
        let places = lines_named(head, b"transfer-encoding");
        if places.is_empty() {
            return true;
        }
        match begins_a_chunk(body) {
            None => return false,
            // In HTTP/1.0 there are none (RFC 9112, 6.1), and some servers send them.
            Some(true) => head[HTTP.len()] = b'1',
            Some(false) => places.into_iter().for_each(|place| head[place] = b'x'),
        }
        true
    }
}

/// The most digits of the size of a chunk: 64 bits.
const MOST_DIGITS: usize = 16;

/// Returns whether a body begins with the size of a chunk (RFC 9112, 7.1), or `None` if that cannot be seen yet.
fn begins_a_chunk(body: &[u8]) -> Option<bool> {
    let digits = body.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    if digits > MOST_DIGITS {
        return Some(false);
    }
    let ends = matches!(body.get(digits)?, b'\r' | b'\n' | b';' | b' ' | b'\t');
    Some(digits > 0 && ends)
}

/// Returns where the lines of a head begin that have this name, written in lower case.
fn lines_named(head: &[u8], name: &[u8]) -> Vec<usize> {
    let mut start = 0;
    let lines = head.split_inclusive(|byte| *byte == b'\n').map(|line| {
        start += line.len();
        (start - line.len(), line)
    });
    let is_named = |line: &[u8]| {
        let colon = line.iter().position(|byte| *byte == b':');
        colon.is_some_and(|colon| line[..colon].trim_ascii().eq_ignore_ascii_case(name))
    };
    lines.filter(|(_, line)| is_named(line)).map(|(place, _)| place).collect()
}

impl<C: Read + Unpin> Read for Lenient<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.is_in_head {
            let mut part = Zeroizing::new([0; PART]);
            let mut read = ReadBuf::new(&mut *part);
            ready!(Pin::new(&mut this.inner).poll_read(context, read.unfilled()))?;
            this.read.extend_from_slice(read.filled());
            if read.filled().is_empty() {
                this.is_in_head = false;
            } else {
                this.correct();
            }
            if this.is_too_long {
                return Poll::Ready(Err(io::Error::other("the head of the answer is too long")));
            }
        }
        let rest = &this.read[this.given..];
        if rest.is_empty() {
            return Pin::new(&mut this.inner).poll_read(context, buffer);
        }
        let part = &rest[..rest.len().min(buffer.remaining())];
        buffer.put_slice(part);
        this.given += part.len();
        Poll::Ready(Ok(()))
    }
}

impl<C: Write + Unpin> Write for Lenient<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, bytes)
    }
}

/// Returns the length of a head with the empty line that ends it.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut line_ends = (0..bytes.len()).filter(|at| bytes[*at] == b'\n');
    line_ends.find_map(|at| match &bytes[at + 1..] {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

/// Gives another name to the headers with the length if they do not name one number.
fn drop_wrong_lengths(head: &mut [u8]) {
    let places = lines_named(head, b"content-length");
    let mut values = Vec::new();
    for place in &places {
        let line = head[*place..].split(|byte| *byte == b'\n').next().unwrap_or_default();
        let value = line.splitn(2, |byte| *byte == b':').nth(1).unwrap_or_default();
        // Equal values count as one (RFC 9110, 8.6).
        values.extend(value.split(|byte| *byte == b',').map(number));
    }
    let is_right = values.iter().all(|value| value.is_some() && *value == values[0]);
    for place in places.into_iter().filter(|_| !is_right) {
        head[place] = b'x';
    }
}

/// Reads a length. A longer one than a file can have is none.
fn number(text: &[u8]) -> Option<i64> {
    let text = text.trim_ascii();
    let is_number = text.iter().all(u8::is_ascii_digit);
    str::from_utf8(text).ok().filter(|_| is_number)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corrected(head: &str) -> (String, bool) {
        let mut lenient = Lenient::new(());
        lenient.read.extend_from_slice(head.as_bytes());
        lenient.correct();
        (String::from_utf8(lenient.read.to_vec()).unwrap(), lenient.is_in_head)
    }

    #[test]
    fn only_a_length_that_is_none_is_changed() {
        for (lines, is_right) in [
            ("Content-Length: 5", true),
            ("content-length:5", true),
            ("CONTENT-LENGTH : 5, 5", true),
            ("Content-Length: 5\r\nA: b\r\nContent-Length: 05", true),
            ("Content-Length: 5\r\nA: b\r\nContent-Length: 6", false),
            ("Content-Length: 5, 6", false),
            ("Content-Length: 9223372036854775808", false),
            ("Content-Length: +5", false),
            ("Content-Length:", false),
            ("Content-Length: many", false),
            ("X-Content-Length: many", true),
            ("A: Content-Length: many", true),
        ] {
            for end in ["\r\n", "\n"] {
                let lines = lines.replace("\r\n", end);
                let body = "Content-Length: many";
                let answer = format!("HTTP/1.1 200 OK{end}{lines}{end}{end}{body}{end}{end}");
                let (read, is_in_head) = corrected(&answer);
                assert!(!is_in_head, "{lines}");
                assert_eq!(read == answer, is_right, "{lines}");
                assert_eq!(read.len(), answer.len());
                assert!(read.ends_with(&format!("{end}{body}{end}{end}")), "{read}");
            }
        }
    }

    #[test]
    fn a_head_says_that_there_are_chunks_only_if_there_are() {
        let head = |version: &str, name: &str| {
            format!("HTTP/1.{version} 200 OK\r\n{name}-Encoding: chunked\r\n\r\n")
        };
        for (body, expected, is_in_head) in [
            ("5\r\nhello", Some(true), false),
            ("1f;x=y\r\n", Some(true), false),
            ("{\"access_token\"", Some(false), false),
            ("access_token=a", Some(false), false),
            ("acce", None, true),
            ("", None, true),
            ("aaaaaaaaaaaaaaaaa", Some(false), false),
            ("\r\n", Some(false), false),
        ] {
            for version in ["0", "1"] {
                let read = corrected(&format!("{}{body}", head(version, "Transfer")));
                let expected = match expected {
                    Some(true) => head("1", "Transfer"),
                    Some(false) => head(version, "xransfer"),
                    None => head(version, "Transfer"),
                };
                assert_eq!(read, (format!("{expected}{body}"), is_in_head), "{body}");
            }
        }
    }

    #[test]
    fn a_head_is_read_to_its_end_unless_it_is_none() {
        for (head, is_in_head) in [
            ("H", true),
            ("HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r", true),
            ("HTTP/1.1 100 Continue\r\n\r\n", true),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200", true),
            ("220 ESMTP", false),
            ("HTTP/2 200 OK\r\n", false),
        ] {
            assert_eq!(corrected(head), (head.to_owned(), is_in_head));
        }
        let both =
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n";
        assert_eq!(corrected(both), (both.replace("Content-L", "xontent-L"), false));
        assert!(!corrected(&format!("{HTTP_1}{}", " ".repeat(LONGEST_HEAD))).1);
    }

    const HTTP_1: &str = "HTTP/1.";
}
