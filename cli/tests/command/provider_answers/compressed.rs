//! Answers that are compressed, though `identity` was asked for.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;

use super::{EXPIRED, answer, check, fields, home, kept, tokens};
use crate::support::available;
use crate::token_server::TokenServer;

const GZIP: &str = "Content-Encoding: gzip\r\n";
const DEFLATE: &str = "Content-Encoding: deflate\r\n";

fn gzip(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut gzip = Command::new("gzip");
    gzip.args(["-c", "-9"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = gzip.spawn().unwrap();
    let (mut input, bytes) = (child.stdin.take().unwrap(), bytes.as_ref().to_vec());
    let feeding = std::thread::spawn(move || input.write_all(&bytes).unwrap());
    let done = child.wait_with_output().unwrap();
    feeding.join().unwrap();
    done.stdout
}

#[test]
fn a_compressed_answer_is_read_and_its_size_is_bounded() {
    let test = "provider_answers::compressed::a_compressed_answer_is_read_and_its_size_is_bounded";
    if !available(test, "gzip") {
        return;
    }
    let json = fields().to_string();
    let packed = gzip(&json);
    let large = json.replacen('{', &format!(r#"{{"x":"{}","#, "x".repeat(200 << 10)), 1);
    let chunked =
        |packed: &[u8]| [format!("{:x}\r\n", packed.len()).as_bytes(), packed, b"\r\n"].concat();
    let chunk = chunked(&packed);
    // Without the head of 10 bytes, and the end.
    let raw = &packed[10..packed.len() - 8];
    // Without its checksum.
    let zlib = [b"\x78\x9c", raw].concat();
    // Without its last 8 bytes, which are a checksum and a length.
    let cut = &packed[..packed.len() - 8];
    let bom = format!("\u{feff}{json}");
    check([
        kept("gzip", answer(200, GZIP, &packed)),
        kept("gzip by its older name", answer(200, "Content-Encoding: x-gzip\r\n", &packed)),
        kept("gzip in capitals", answer(200, "content-encoding: GZIP\r\n", &packed)),
        kept("gzip of which no header speaks", answer(200, "", &packed)),
        kept("a header that speaks of gzip, and none", answer(200, GZIP, &json)),
        kept("gzip of a byte order mark and tokens", answer(200, GZIP, gzip(bom))),
        kept("gzip of 200 KiB", answer(200, GZIP, gzip(large))),
        kept("gzip without its end", answer(200, GZIP, cut)),
        kept("deflate without a head", answer(200, DEFLATE, raw)),
        kept(
            "deflate in chunks",
            answer(200, &format!("{DEFLATE}Transfer-Encoding: chunked\r\n"), chunked(raw)),
        ),
        kept("deflate of which no header speaks", answer(200, "", &zlib)),
        kept("deflate with a head", answer(200, DEFLATE, &zlib)),
        kept(
            "deflate after another coding",
            answer(200, "Content-Encoding: identity, Deflate\r\n", raw),
        ),
        kept(
            "deflate in a header of its own",
            answer(200, &format!("Content-Encoding: identity\r\n{DEFLATE}"), raw),
        ),
        kept("gzip that says it is deflate", answer(200, DEFLATE, &packed)),
        kept("deflate that says it is gzip", answer(200, GZIP, raw)),
        kept(
            "gzip in chunks without the last one",
            answer(200, &format!("{GZIP}Transfer-Encoding: chunked\r\n"), chunk),
        ),
    ]);
    let bomb = gzip(format!(r#"{{"x":"{}"}}"#, "x".repeat(64 << 20)));
    let mut row = kept("gzip of 64 MiB", answer(200, GZIP, bomb));
    row.answers.push(tokens(&json!({})));
    row.requests = 2;
    check([row]);
}

#[test]
fn an_answer_is_asked_for_without_compression() {
    let server = TokenServer::start();
    home(&server, EXPIRED).run("get");
    assert_eq!(server.requests()[0].headers["accept-encoding"], "identity");
}
