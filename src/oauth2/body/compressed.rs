//! Compressed bodies.
//!
//! Each request asks for none (`Accept-Encoding: identity`), and some servers and proxies compress all the same.

use flate2::bufread::GzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use zeroize::Zeroizing;

/// What each gzip file begins with (RFC 1952, 2.3.1). No JSON and no form begins like this.
const GZIP: &[u8] = b"\x1f\x8b";

/// The length of the checksum and the size after the data of a gzip file (RFC 1952, 2.3.1).
const GZIP_END: usize = 8;

/// The lengths of the head of the zlib format, and of the checksum at its end (RFC 1950, 2.2).
const ZLIB_HEAD: usize = 2;
const ZLIB_END: usize = 4;

/// How often a body may be compressed: by the server, and by a proxy before it.
const MOST_LAYERS: usize = 3;

/// A body would be longer than its limit.
#[derive(Debug, PartialEq)]
pub(in crate::oauth2) struct TooLong;

/// Returns the decompressed body, and whether it was whole. A body that is not compressed stays as it is.
///
/// What the body is decides, because some servers and proxies send a wrong header or none. `is_deflated` is whether
/// a header says so, and counts only for a part of a body. The checksums are not used: a body with readable tokens
/// must not be lost.
pub(in crate::oauth2) fn decompressed(
    body: Zeroizing<Vec<u8>>,
    is_deflated: bool,
    limit: usize,
) -> Result<(Zeroizing<Vec<u8>>, bool), TooLong> {
    let (mut body, mut is_whole) = once_decompressed(body, is_deflated, limit)?;
    for _ in 1..MOST_LAYERS {
        if !body.starts_with(GZIP) && !is_zlib(&body) {
            break;
        }
        let (inner, is_inner_whole) = once_decompressed(body, false, limit)?;
        is_whole &= is_inner_whole;
        body = inner;
    }
    Ok((body, is_whole))
}

fn once_decompressed(
    body: Zeroizing<Vec<u8>>,
    is_deflated: bool,
    limit: usize,
) -> Result<(Zeroizing<Vec<u8>>, bool), TooLong> {
    if body.starts_with(GZIP) {
        return gunzipped(&body, limit);
    }
    let is_text = str::from_utf8(&body).is_ok() || body.trim_ascii_start().starts_with(b"{");
    if is_text {
        return Ok((body, true));
    }
    // RFC 9110 (8.4.1.2) wants the zlib format, and some servers leave out its head.
    let data = if is_zlib(&body) { &body[ZLIB_HEAD..] } else { &body };
    let mut plain = Plain::with(limit);
    match plain.inflate(data) {
        Err(TooLong) if is_deflated => Err(TooLong),
        Ok((length, is_whole)) if is_deflated || is_whole && data.len() - length <= ZLIB_END => {
            Ok((plain.0, is_whole))
        }
        // The beginning of any other data may look like data that are compressed.
        _ => Ok((body, true)),
    }
}

fn gunzipped(mut rest: &[u8], limit: usize) -> Result<(Zeroizing<Vec<u8>>, bool), TooLong> {
    let mut plain = Plain::with(limit);
    // A gzip file may have several parts (RFC 1952, 2.2).
    while rest.starts_with(GZIP) {
        let decoder = GzDecoder::new(rest);
        if decoder.header().is_none() {
            return Ok((plain.0, false));
        }
        // `GzDecoder` would keep a copy of the last 32 KiB, which is not wiped. So it only reads the head.
        let data = decoder.into_inner();
        let (length, is_whole) = plain.inflate(data)?;
        if !is_whole {
            return Ok((plain.0, false));
        }
        rest = data.get(length + GZIP_END..).unwrap_or_default();
    }
    Ok((plain.0, true))
}

/// Returns whether data begin with the head of the zlib format (RFC 1950, 2.2).
fn is_zlib(data: &[u8]) -> bool {
    matches!(data, [first, second, ..]
        if first & 0x0f == 8 && (u16::from(*first) << 8 | u16::from(*second)) % 31 == 0)
}

/// Decompressed data. The buffer has its full size, so it does not grow and leave copies behind.
struct Plain(Zeroizing<Vec<u8>>);

impl Plain {
    fn with(limit: usize) -> Self {
        Self(Zeroizing::new(Vec::with_capacity(limit)))
    }

    /// Adds the data of one stream. Returns how many bytes of the input belong to it, and whether it was whole.
    fn inflate(&mut self, data: &[u8]) -> Result<(usize, bool), TooLong> {
        let mut inflate = Decompress::new(false);
        // With `Finish` in the first call, the data go to the buffer directly.
        let done = inflate.decompress_vec(data, &mut self.0, FlushDecompress::Finish);
        let is_whole = matches!(done, Ok(Status::StreamEnd));
        if !is_whole && self.0.len() == self.0.capacity() {
            return Err(TooLong);
        }
        Ok((usize::try_from(inflate.total_in()).unwrap_or(data.len()), is_whole))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    const JSON: &[u8] = br#"{"access_token":"a","refresh_token":"r"}"#;
    const LIMIT: usize = 1000;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn read(body: &[u8], is_deflated: bool) -> Result<(Vec<u8>, bool), TooLong> {
        let read = decompressed(Zeroizing::new(body.to_vec()), is_deflated, LIMIT);
        read.map(|(body, is_whole)| (body.to_vec(), is_whole))
    }

    #[test]
    fn a_compressed_body_is_read_whatever_its_header_says() {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(JSON).unwrap();
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::default());
        raw.write_all(JSON).unwrap();
        let plain = Ok((JSON.to_vec(), true));
        for is_deflated in [false, true] {
            assert_eq!(read(&gzip(JSON), is_deflated), plain);
            assert_eq!(read(JSON, is_deflated), plain);
            assert_eq!(read(b"", is_deflated), Ok((Vec::new(), true)));
        }
        let (zlib, raw) = (zlib.finish().unwrap(), raw.finish().unwrap());
        for is_deflated in [false, true] {
            assert_eq!(read(&zlib, is_deflated), plain);
            assert_eq!(read(&zlib[..zlib.len() - ZLIB_END], is_deflated), plain);
            assert_eq!(read(&raw, is_deflated), plain);
        }
        // Only with its header, the beginning is known to be one.
        assert!(matches!(read(&raw[..raw.len() - 1], true), Ok((_, false))));
        for other in [&raw[..raw.len() - 1], b"[\"\xeb\"]", b"a=\xeb", b"<p>\xeb", b"\xff\xfe{\0"] {
            assert_eq!(read(other, false), Ok((other.to_vec(), true)));
        }
        let (first, second) = JSON.split_at(7);
        assert_eq!(read(&[gzip(first), gzip(second)].concat(), false), plain);
        assert_eq!(read(&gzip(&gzip(JSON)), false), plain);
        assert_eq!(read(&gzip(&gzip(&gzip(JSON))), false), plain);
        assert_eq!(read(&gzip(&zlib), false), plain);
        let four_times = gzip(&gzip(&gzip(&gzip(JSON))));
        assert_eq!(read(&four_times, false), Ok((gzip(JSON), true)));
        // What comes after the data does no harm, and a wrong checksum does none either.
        assert_eq!(read(&[gzip(JSON), b"\n".to_vec()].concat(), false), plain);
        let mut wrong = gzip(JSON);
        let at = wrong.len() - GZIP_END;
        wrong[at] ^= 1;
        assert_eq!(read(&wrong, false), plain);
    }

    #[test]
    fn a_body_that_is_not_whole_is_read_as_far_as_it_goes() {
        let whole = gzip(JSON);
        // The end of the data is missing, or only the checksum.
        for (length, expected) in [(whole.len() - GZIP_END, true), (whole.len() - 9, false)] {
            let (read, is_whole) = read(&whole[..length], false).unwrap();
            assert_eq!((read.as_slice(), is_whole), (JSON, expected), "{length}");
        }
        for length in 2..whole.len() - 9 {
            let (read, is_whole) = read(&whole[..length], false).unwrap();
            assert!(JSON.starts_with(&read) && !is_whole, "{length}");
        }
        assert_eq!(read(b"\x1f\x8bcanary-canary", false), Ok((Vec::new(), false)));
    }

    #[test]
    fn a_decompressed_body_has_the_limit_of_a_plain_one() {
        let spaces = |count| vec![b' '; count];
        assert_eq!(read(&gzip(&spaces(LIMIT)), false), Ok((spaces(LIMIT), true)));
        assert_eq!(read(&gzip(&spaces(LIMIT + 1)), false), Err(TooLong));
        assert_eq!(read(&gzip(&spaces(LIMIT << 12)), false), Err(TooLong));
        let half = gzip(&spaces(LIMIT / 2 + 1));
        assert_eq!(read(&[half.clone(), half].concat(), false), Err(TooLong));
        assert_eq!(read(&gzip(&gzip(&spaces(LIMIT + 1))), false), Err(TooLong));
    }
}
