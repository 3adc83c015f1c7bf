//! The head of an answer, before hyper reads it. A strict reader would lose the new tokens because of a length
//! that is none.

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
    /// What was read of the head. The buffer has its full size, so it does not grow and leave copies behind.
    read: Zeroizing<Vec<u8>>,
    /// How much of it hyper has.
    given: usize,
}

impl<C> Lenient<C> {
    pub(super) fn new(inner: C) -> Self {
        let read = Zeroizing::new(Vec::with_capacity(LONGEST_HEAD + PART));
        Self { inner, is_in_head: true, read, given: 0 }
    }

    /// Corrects the head if all of it was read.
    fn correct(&mut self) {
        let mut start = 0;
        while let Some(length) = end_of_head(&self.read[start..]) {
            let head = &mut self.read[start..start + length];
            let is_last = head.get(b"HTTP/1.1 ".len()).is_none_or(|digit| *digit != b'1');
            drop_wrong_lengths(head);
            if is_last {
                self.is_in_head = false;
                return;
            }
            // Another head follows an informational one (RFC 9110, 15.2).
            start += length;
        }
        let rest = &self.read[start..];
        let is_http = rest.iter().zip(HTTP).all(|(found, wanted)| found == wanted);
        self.is_in_head = is_http && self.read.len() < LONGEST_HEAD;
    }
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
    let (mut places, mut values) = (Vec::new(), Vec::new());
    let mut start = 0;
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        if let Some(colon) = line.iter().position(|byte| *byte == b':')
            && line[..colon].trim_ascii().eq_ignore_ascii_case(b"content-length")
        {
            places.push(start);
            // Equal values count as one (RFC 9110, 8.6).
            values.extend(line[colon + 1..].split(|byte| *byte == b',').map(number));
        }
        start += line.len();
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
