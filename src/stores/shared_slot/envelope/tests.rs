use age::x25519::Identity;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use serde_json::Value;

use super::*;
use crate::key::LastOpened;
use crate::store::Revision;
use crate::tokens::AuthTokens;

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// The vectors, which were made with `age` and Python's `hmac`.
fn vectors() -> Vec<Value> {
    serde_json::from_str(include_str!("../../../../tests/golden/fleet-records.json")).unwrap()
}

/// A key of these identities.
fn key_of(identities: &[&str]) -> AgeKey {
    let lines = identities.join("\n");
    AgeKey::custom("a key for these tests", move || Ok(SecretString::from(lines.clone())))
}

fn identities(vector: &Value) -> Vec<&str> {
    let writers = vector["writers"].as_array().unwrap().iter();
    writers.map(|writer| text(&writer["identity"])).collect()
}

fn whole(vector: &Value) -> Vec<u8> {
    let age_file = STANDARD.decode(text(&vector["age_file"])).unwrap();
    [text(&vector["line"]).as_bytes(), b"\n", &age_file].concat()
}

fn opened(key: &AgeKey, bytes: &[u8], slot: &str) -> Result<String, StoreError> {
    let opened = Envelope::parse(bytes, "here")?.open(key, slot, "here")?;
    Ok(String::from_utf8(opened.plain.to_vec()).unwrap())
}

fn is_refused(opened: &Result<String, StoreError>) -> bool {
    matches!(opened, Err(StoreError::NotAuthentic { .. } | StoreError::Corrupt { .. }))
}

#[test]
fn the_mac_of_each_vector_is_as_another_program_computes_it() {
    for vector in vectors() {
        let age_file = STANDARD.decode(text(&vector["age_file"])).unwrap();
        let (slot, generation) = (text(&vector["slot"]), vector["generation"].as_u64().unwrap());
        let statement = Statement { generation, slot, age_file: &age_file };
        for writer in vector["writers"].as_array().unwrap() {
            let identity: Identity = text(&writer["identity"]).parse().unwrap();
            let tag = statement.with_parts(|parts| MacKey::new(&identity).tag(parts));
            assert_eq!(STANDARD_NO_PAD.encode(tag), text(&writer["mac"]), "{}", vector["about"]);
        }
    }
}

#[test]
fn each_identity_of_the_writer_opens_each_vector() {
    for vector in vectors() {
        let (slot, bytes) = (text(&vector["slot"]), whole(&vector));
        for identity in identities(&vector) {
            let plain = opened(&key_of(&[identity]), &bytes, slot).unwrap();
            assert_eq!(plain, text(&vector["plaintext"]));
        }
        let parsed = Envelope::parse(&bytes, "here").unwrap();
        assert_eq!(parsed.generation, vector["generation"].as_u64().unwrap());
    }
}

#[test]
fn a_record_that_was_written_opens_as_a_record_and_as_an_emptied_slot() {
    let vector = &vectors()[1];
    let key = key_of(&identities(vector));
    let writer = key.writer("here", true).unwrap();
    for record in [Some(Record::new(AuthTokens::new("one"))), None] {
        let content = Content { generation: 7, record };
        let bytes = seal(&writer, &content, "fleet", "here").unwrap();
        for identity in identities(vector) {
            let plain = opened(&key_of(&[identity]), &bytes, "fleet").unwrap();
            assert_eq!(decode(plain.as_bytes(), "here").unwrap(), content.record);
        }
    }
}

#[test]
fn no_changed_byte_is_accepted() {
    for vector in vectors() {
        let (slot, bytes) = (text(&vector["slot"]), whole(&vector));
        let key = key_of(&identities(&vector)[..1]);
        // The MACs of the other identities are not checked, and cannot be.
        let line = text(&vector["line"]);
        let unchecked = line.match_indices(' ').nth(2).map_or(line.len(), |(index, _)| index);
        for index in (0..unchecked).chain(line.len()..bytes.len()) {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            let opened = opened(&key, &changed, slot);
            assert!(is_refused(&opened), "byte {index}: {opened:?}");
        }
        for end in 0..bytes.len() {
            assert!(opened(&key, &bytes[..end], slot).is_err(), "cut off at {end}");
        }
    }
}

#[test]
fn one_who_knows_only_the_recipient_can_plant_no_record() {
    let vector = &vectors()[0];
    let (own, foreign) = (identities(vector)[0], AgeKey::generate_identity());
    let recipient = own.parse::<Identity>().unwrap().to_public().to_string();
    #[expect(clippy::disallowed_methods, reason = "it is an identity for this test")]
    let foreign = key_of(&[secrecy::ExposeSecret::expose_secret(&foreign)]);
    let forger = foreign.with_recovery_recipient(&recipient).unwrap();
    let record = Some(Record::new(AuthTokens::new("the forger's")));
    let content = Content { generation: u64::MAX, record };
    let forged = seal(&forger.writer("here", true).unwrap(), &content, "fleet", "here").unwrap();
    let key = key_of(&[own]);
    let refused = opened(&key, &forged, "fleet").unwrap_err();
    assert!(matches!(refused, StoreError::NotAuthentic { .. }), "{refused}");
    // Nothing of it is decrypted: damage in it is not noticed.
    let damaged = opened(&key, &forged[..forged.len() - 1], "fleet").unwrap_err();
    assert!(matches!(damaged, StoreError::NotAuthentic { .. }), "{damaged}");
    // The recipient could decrypt it.
    let parsed = Envelope::parse(&forged, "here").unwrap();
    assert!(key.open(parsed.age_file, "here").is_ok());
    // A MAC of the real writer says nothing about another age file.
    let line = text(&vector["line"]);
    let mixed = [line.as_bytes(), b"\n", parsed.age_file].concat();
    assert!(matches!(opened(&key, &mixed, "fleet"), Err(StoreError::NotAuthentic { .. })));
}

#[test]
fn an_identity_that_was_taken_out_of_its_file_is_no_longer_accepted() {
    let vector = &vectors()[0];
    let (own, slot) = (identities(vector)[0], text(&vector["slot"]));
    let dir = tempfile::tempdir().unwrap();
    let file = crate::private_file::PrivateFile::new(dir.path().join("key.txt"), 1024);
    file.replace(format!("{own}\n").as_bytes()).unwrap();
    let key = AgeKey::identity_file(dir.path().join("key.txt"));
    opened(&key, &whole(vector), slot).unwrap();
    let new = AgeKey::generate_identity();
    #[expect(clippy::disallowed_methods, reason = "it is an identity for this test")]
    let new = secrecy::ExposeSecret::expose_secret(&new).to_owned();
    file.replace(format!("{new}\n").as_bytes()).unwrap();
    let refused = opened(&key, &whole(vector), slot).unwrap_err();
    assert!(matches!(refused, StoreError::NotAuthentic { .. }), "{refused}");
    // A file that cannot be read takes nothing away from a running process.
    let key = AgeKey::identity_file(dir.path().join("key.txt"));
    file.replace(format!("{own}\n").as_bytes()).unwrap();
    opened(&key, &whole(vector), slot).unwrap();
    for garbled in [Some("garbled"), None] {
        match garbled {
            Some(text) => file.replace(text.as_bytes()).unwrap(),
            None => file.remove().unwrap(),
        }
        opened(&key, &whole(vector), slot).unwrap();
    }
}

#[test]
fn a_record_is_not_accepted_with_the_count_or_in_the_slot_of_another() {
    let [first, _, emptied, _] = &vectors()[..] else { panic!("there are 4 vectors") };
    let key = key_of(&identities(first));
    let [one, other] =
        [first, emptied].map(|vector| STANDARD.decode(text(&vector["age_file"])).unwrap());
    let [line, other_line] = [first, emptied].map(|vector| text(&vector["line"]));
    let mac = |line: &str| line.rsplit_once(' ').unwrap().1.to_owned();
    for (line, age_file) in [
        (line.to_owned(), &other),
        (other_line.to_owned(), &one),
        (other_line.replace(&mac(other_line), &mac(line)), &one),
        (line.replace("1767225600000", "1767225600001"), &one),
        // A number has one spelling.
        (line.replace("1767225600000", "01767225600000"), &one),
        (line.replace("1767225600000", "+1767225600000"), &one),
    ] {
        let bytes = [line.as_bytes(), b"\n", age_file].concat();
        let opened = opened(&key, &bytes, "fleet");
        assert!(is_refused(&opened), "{line}: {opened:?}");
    }
    for slot in ["Fleet", "flee", "fleet2", ""] {
        let refused = opened(&key, &whole(first), slot).unwrap_err();
        assert!(matches!(refused, StoreError::NotAuthentic { .. }), "{refused}");
    }
}

#[test]
fn a_slots_name_cannot_be_continued_in_the_age_file() {
    let parts = |slot: &str, age_file: &[u8]| {
        Statement { generation: 1, slot, age_file }.with_parts(|parts| parts.concat())
    };
    assert_ne!(parts("fleet", b"age"), parts("fleeta", b"ge"));
    assert_ne!(parts("", b"fleetage"), parts("fleet", b"age"));
}

#[test]
fn a_record_of_an_earlier_build_has_no_mac_and_is_refused_with_what_to_do() {
    let vector = &vectors()[0];
    let bytes = STANDARD.decode(text(&vector["age_file"])).unwrap();
    let refused = opened(&key_of(&identities(vector)), &bytes, "fleet").unwrap_err();
    assert!(matches!(refused, StoreError::NotAuthentic { .. }), "{refused}");
    let message = refused.to_string();
    assert!(message.contains("no MAC") && message.contains("sign in again"), "{message}");
}

#[test]
fn a_key_with_more_identities_than_a_record_has_room_for_is_refused() {
    let vectors = vectors();
    let mut many = vec![identities(&vectors[0])[0]; mac::MOST];
    let bytes = {
        let content = Content { generation: u64::MAX, record: None };
        seal(&key_of(&many).writer("here", true).unwrap(), &content, "fleet", "here").unwrap()
    };
    assert_eq!(opened(&key_of(&many), &bytes, "fleet").unwrap(), "");
    assert_eq!(bytes.iter().position(|byte| *byte == b'\n'), Some(LONGEST_LINE));
    many.push(many[0]);
    let refused = key_of(&many).writer("here", true).unwrap_err();
    assert!(refused.to_string().contains("at most 16 can authenticate"), "{refused}");
}

#[test]
fn what_did_not_change_is_not_opened_again() {
    let vector = &vectors()[0];
    let key = key_of(&identities(vector));
    let last = LastOpened::default();
    let open = |bytes: &[u8]| {
        let envelope = Envelope::parse(bytes, "here").unwrap();
        let open = || envelope.open(&key, "fleet", "here");
        last.get_or_open(&key, &Revision::of(bytes), open, |plain| decode(plain, "here"))
    };
    let record = open(&whole(vector)).unwrap();
    assert!(record.is_some());
    for _ in 0..3 {
        assert_eq!(open(&whole(vector)).unwrap(), record);
    }
    assert_eq!(format!("{last:?}"), "LastOpened(opened 1 times)");
    // Another content is opened, and what cannot be opened leaves nothing behind.
    open(&whole(&vectors()[3])).unwrap_err();
    assert_eq!(open(&whole(vector)).unwrap(), record);
    assert_eq!(format!("{last:?}"), "LastOpened(opened 3 times)");
    last.forget();
    open(&whole(vector)).unwrap();
    assert_eq!(format!("{last:?}"), "LastOpened(opened 4 times)");
}
