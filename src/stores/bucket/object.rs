//! The format of an object: a line that names the format, a line of JSON, and the ciphertext.

use std::time::Duration;

use serde_json::{Value, json};

use crate::stores::shared_slot::{Hold, Row};

const FORMAT: &[u8] = b"tokenkeep-object/1";

/// The most bytes of the second line. A longer one was not written by this crate, and is not read.
const LONGEST_HEAD: usize = 4096;

pub(super) fn encode(row: &Row) -> Vec<u8> {
    let hold = row.hold.as_ref().map(|hold| {
        let lasts = hold.lasts.unwrap_or_default().as_millis();
        json!({ "holder": hold.holder, "lasts_ms": u64::try_from(lasts).unwrap_or(u64::MAX) })
    });
    let head = json!({
        "revision": row.revision,
        "fence": row.fence,
        "lease": hold,
    });
    let mut object = FORMAT.to_vec();
    object.push(b'\n');
    object.extend_from_slice(head.to_string().as_bytes());
    object.push(b'\n');
    object.extend_from_slice(&row.record);
    object
}

/// Decodes an object. A lease in it counts as not over.
pub(super) fn decode(object: &[u8]) -> Result<Row, &'static str> {
    let mut parts = object.splitn(3, |byte| *byte == b'\n');
    if parts.next() != Some(FORMAT) {
        return Err("its format is unknown to this program");
    }
    let head = parts.next().filter(|head| head.len() <= LONGEST_HEAD);
    let head: Option<Value> = head.and_then(|head| serde_json::from_slice(head).ok());
    let (Some(head), Some(record)) = (head, parts.next()) else {
        return Err("its second line is not in the form that this program writes");
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let lease = &head["lease"];
    let hold = match (text(&lease["holder"]), lease["lasts_ms"].as_u64()) {
        (Some(holder), Some(lasts)) => {
            Some(Hold { holder, lasts: Some(Duration::from_millis(lasts)), is_over: false })
        }
        _ if lease.is_null() => None,
        _ => return Err("its lease has no holder or no length"),
    };
    let (Some(revision), Some(fence)) = (text(&head["revision"]), head["fence"].as_u64()) else {
        return Err("its revision or its fence is missing");
    };
    Ok(Row { revision, record: record.to_vec(), fence, hold })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            revision: "r".into(),
            record: b"one\ntwo\n\n\xff".to_vec(),
            fence: 7,
            hold: Some(Hold {
                holder: "1-a".into(),
                lasts: Some(Duration::from_secs(30)),
                is_over: false,
            }),
        }
    }

    #[test]
    fn a_row_is_the_same_after_it_was_written_and_read() {
        let empty = Row { revision: "r".into(), ..Row::default() };
        for row in [row(), empty] {
            assert_eq!(decode(&encode(&row)).unwrap(), row);
        }
    }

    #[test]
    fn a_truncated_or_foreign_object_is_refused() {
        let whole = encode(&row());
        let head = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(1).unwrap().0;
        for end in 0..=head {
            assert!(decode(&whole[..end]).is_err(), "{end}");
        }
        let foreign: [&[u8]; 5] = [
            b"tokenkeep-object/2\n{}\n",
            b"tokenkeep-object/1\n[]\n",
            b"tokenkeep-object/1\n{\"revision\":1,\"fence\":1}\n",
            b"tokenkeep-object/1\n{\"revision\":\"a\",\"fence\":-1}\n",
            b"tokenkeep-object/1\n{\"revision\":\"a\",\"fence\":1,\"lease\":{}}\n",
        ];
        for object in foreign {
            assert!(decode(object).is_err(), "{object:?}");
        }
        let long =
            format!("tokenkeep-object/1\n{{\"revision\":\"{}\",\"fence\":1}}\n", "a".repeat(5000));
        assert!(decode(long.as_bytes()).is_err());
    }
}
