//! Who wrote a record: what the operator of a server can plant, and what other programs can check.

use std::fmt::Write as _;
use std::fs;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use tokenkeep::store::Precondition;
use tokenkeep::{AgeKey, AuthTokens, StoreError, StoreUrl, TokenManager, TokenStore};

use crate::support::available;
use crate::world::{Engine, World, on_each_engine};

#[tokio::test]
async fn one_who_can_write_to_the_server_and_knows_the_recipient_cannot_plant_a_session() {
    let test = "authenticity::one_who_can_write_to_the_server_and_knows_the_recipient_cannot_plant_a_session";
    on_each_engine(test, async |world: World| {
        let tokens = world.sign_in(60).await;
        let running = TokenManager::builder().store(world.open()).build();
        let served = running.get_access_token().await.unwrap();
        let recipient = AgeKey::identity_file(world.dir.path().join("key.txt"));
        let recipient = recipient.recipients().await.unwrap().remove(0);
        let forger = AgeKey::generate().with_recovery_recipient(&recipient).unwrap();
        let forger = world.url.parse::<StoreUrl>().unwrap().open_with_key(forger).unwrap();
        forger.clear(Precondition::Anything).await.unwrap();
        forger.save(&AuthTokens::new("planted").into(), Precondition::Anything).await.unwrap();

        let store = world.open();
        for refused in [
            store.load().await.unwrap_err(),
            store.save(&tokens.clone().into(), Precondition::Anything).await.unwrap_err(),
        ] {
            assert!(matches!(refused, StoreError::NotAuthentic { .. }), "{refused}");
            let said = refused.to_string();
            assert!(
                said.contains("somebody without this key") && said.contains("key.txt"),
                "{said}"
            );
        }
        // A process that runs goes on with what it has.
        assert_eq!(running.get_access_token().await.unwrap(), served);
        // An explicit sign-in replaces it.
        store.clear(Precondition::Anything).await.unwrap();
        store.save(&tokens.clone().into(), Precondition::Absent).await.unwrap();
        assert_eq!(world.stored().await, tokens);
    })
    .await;
}

/// What a program prints for this input.
fn printed_by(program: &str, arguments: &[&str], input: &[u8], world: &World) -> Vec<u8> {
    let path = world.dir.path().join("input");
    fs::write(&path, input).unwrap();
    let mut command = Command::new(program);
    command.args(arguments).stdin(fs::File::open(&path).unwrap()).stderr(Stdio::inherit());
    let done = command.output().unwrap();
    assert!(done.status.success(), "{program} {arguments:?}");
    done.stdout
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[tokio::test]
async fn age_opens_a_record_without_its_first_line_and_openssl_computes_its_mac() {
    let test =
        "authenticity::age_opens_a_record_without_its_first_line_and_openssl_computes_its_mac";
    if !available(test, "age") || !available(test, "openssl") {
        return;
    }
    on_each_engine(test, async |world: World| {
        world.sign_in(60).await;
        let (row, skipped) = match &world.engine {
            Engine::Postgres(_, database) => {
                let row = database.sql("SELECT encode(record, 'hex') FROM tokenkeep");
                let row = row.trim().as_bytes().chunks(2).map(|digits| {
                    u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
                });
                let row: Vec<u8> = row.collect();
                (row, 0)
            }
            Engine::Bucket(server) => (server.object("fleet"), 2),
        };
        let lines: Vec<&[u8]> = row.splitn(skipped + 2, |byte| *byte == b'\n').collect();
        let (line, age_file) = (std::str::from_utf8(lines[skipped]).unwrap(), lines[skipped + 1]);
        let identity = world.dir.path().join("key.txt");
        let opened = printed_by("age", &["-d", "-i", identity.to_str().unwrap()], age_file, &world);
        let opened: serde_json::Value = serde_json::from_slice(&opened).unwrap();
        let stored = world.stored().await;
        assert_eq!(opened["access_token"], stored.access_token.expose_secret());

        let text = fs::read_to_string(&identity).unwrap();
        let secret = text.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).unwrap();
        let key = printed_by(
            "openssl",
            &[
                "kdf",
                "-keylen",
                "32",
                "-binary",
                "-kdfopt",
                "digest:SHA256",
                "-kdfopt",
                &format!("key:{secret}"),
                "-kdfopt",
                "info:tokenkeep-slot/2 MAC key",
                "HKDF",
            ],
            b"",
            &world,
        );
        let words: Vec<&str> = line.split(' ').collect();
        let generation: u64 = words[1].parse().unwrap();
        let message = [
            b"tokenkeep-slot/2",
            &generation.to_be_bytes()[..],
            &5_u64.to_be_bytes(),
            b"fleet",
            age_file,
        ]
        .concat();
        let key = format!("hexkey:{}", hex(&key));
        let options = ["dgst", "-sha256", "-mac", "HMAC", "-macopt", &key, "-binary"];
        let mac = printed_by("openssl", &options, &message, &world);
        let mac = STANDARD_NO_PAD.encode(mac);
        assert_eq!((words[0], &words[2..]), ("tokenkeep-slot/2", &[&*mac][..]));
    })
    .await;
}
