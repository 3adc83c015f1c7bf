//! Servers without TLS: what they are sent, and who may be behind a socket.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tokenkeep::stores::PostgresStore;
use tokenkeep::{AgeKey, TokenStore};

use crate::postgres_server::{PostgresServer, can_serve};
use crate::support::{Actor, available, make_pipe, program, scratch, skip};

/// A user that is neither root nor the server.
const NEIGHBOUR: u32 = 65534;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// A server of a neighbour, which does nothing with who connects.
struct Impostor(Child);

impl Impostor {
    fn listen(at: &Path) -> Self {
        const LISTEN: &str = "import os, socket, sys, time\n\
            if os.path.exists(sys.argv[1]): os.unlink(sys.argv[1])\n\
            s = socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\ns.listen()\n\
            print('listening', flush=True)\ntime.sleep(600)";
        let mut command = Command::new("python3");
        command.args(["-c", LISTEN]).arg(at).stdout(Stdio::piped());
        let mut child = command.uid(NEIGHBOUR).gid(NEIGHBOUR).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "listening\n");
        Self(child)
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_socket_is_used_only_if_a_neighbour_cannot_be_behind_it() {
    let test = "sockets::a_socket_is_used_only_if_a_neighbour_cannot_be_behind_it";
    if !can_serve(test) || !available(test, "python3") {
        return;
    }
    let mut server = PostgresServer::start();
    let database = server.database().await;
    // As Debian has it: root's directory, and in it one of the server's user, with a group that can write.
    let above = scratch();
    set_mode(above.path(), 0o755);
    let directory = above.path().join("postgresql");
    fs::create_dir(&directory).unwrap();
    server.give(&directory);
    set_mode(&directory, 0o2775);
    server.restart_with(&format!("unix_socket_directories = '{}'\n", directory.display()));
    let key = AgeKey::create_identity_file(above.path().join("key.txt")).await.unwrap();
    let load = async |directory: &Path| {
        let host = directory.display().to_string().replace('/', "%2F");
        let address = database.address("postgres", &host);
        let store = PostgresStore::new(&address, "fleet", key.clone()).unwrap();
        store.load().await.map(|stored| assert!(stored.is_none())).map_err(|it| it.to_string())
    };
    assert_eq!(load(&directory).await, Ok(()));
    let (link, other) = (above.path().join("link"), above.path().join("other"));
    symlink(&directory, &link).unwrap();
    symlink("./link", &other).unwrap();
    assert_eq!(load(&other).await, Ok(()));
    fs::remove_file(&other).unwrap();
    symlink("other", &other).unwrap();
    let refused = load(&other).await.unwrap_err();
    assert!(refused.contains("other"), "a link to itself: {refused}");

    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return skip(test, "only root can start the server of a neighbour");
    }
    // Anybody can put a socket there, and this one is still the server's own.
    set_mode(&directory, 0o777);
    assert_eq!(load(&directory).await, Ok(()));

    // A neighbour can replace the whole directory.
    set_mode(above.path(), 0o777);
    let refused = load(&directory).await.unwrap_err();
    assert!(refused.contains("others can write to this directory, which leads to"), "{refused}");
    assert!(refused.contains(&above.path().display().to_string()), "{refused}");
    set_mode(above.path(), 0o755);

    // Or a link that leads to it.
    let theirs = above.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    set_mode(&theirs, 0o777);
    symlink(&directory, theirs.join("link")).unwrap();
    let refused = load(&theirs.join("link")).await.unwrap_err();
    assert!(refused.contains("others can write to this directory, which leads to"), "{refused}");
    set_mode(&theirs, 0o1777);
    assert_eq!(load(&theirs.join("link")).await, Ok(()), "a link of root in a sticky directory");
    lchown(theirs.join("link"), Some(NEIGHBOUR), Some(NEIGHBOUR)).unwrap();
    let refused = load(&theirs.join("link")).await.unwrap_err();
    assert!(refused.contains("everybody can create files beside it"), "{refused}");

    let impostor = Impostor::listen(&directory.join(format!(".s.PGSQL.{}", server.port())));
    let refused = load(&directory).await.unwrap_err();
    assert!(refused.contains("runs as user 65534, and the directory belongs to user"), "{refused}");
    assert!(refused.contains("use a socket in a directory that only"), "{refused}");
    // Root has put it there by itself.
    chown(&directory, Some(0), Some(0)).unwrap();
    set_mode(&directory, 0o755);
    let allowed = tokio::time::timeout(std::time::Duration::from_secs(1), load(&directory)).await;
    assert!(allowed.is_err(), "it is asked, and does not answer: {allowed:?}");
    drop(impostor);

    // A directory that a neighbour made in /tmp.
    let theirs = scratch();
    set_mode(theirs.path(), 0o755);
    chown(theirs.path(), Some(NEIGHBOUR), Some(NEIGHBOUR)).unwrap();
    let _impostor = Impostor::listen(&theirs.path().join(format!(".s.PGSQL.{}", server.port())));
    let refused = load(theirs.path()).await.unwrap_err();
    assert!(refused.contains("everybody can create files beside it"), "{refused}");
}

#[tokio::test]
async fn without_tls_a_real_server_gets_a_password_by_scram_only() {
    if !can_serve("sockets::without_tls_a_real_server_gets_a_password_by_scram_only") {
        return;
    }
    let mut server = PostgresServer::start();
    let database = server.database().await;
    let dir = scratch();
    let (identity, passwords) = (dir.path().join("key.txt"), dir.path().join("passwords"));
    AgeKey::create_identity_file(&identity).await.unwrap();
    fs::write(&passwords, "*:*:*:*:canary\n").unwrap();
    set_mode(&passwords, 0o600);
    let cases = [
        ("scram-sha-256", "scram-sha-256", None),
        ("scram-sha-256", "md5", None),
        (
            "md5",
            "md5",
            Some("it asks for an MD5 hash of the password, which is not sent without TLS"),
        ),
        (
            "md5",
            "password",
            Some("it asks for the password in cleartext, which is not sent without TLS"),
        ),
        ("scram-sha-256", "password", Some("it asks for the password in cleartext")),
    ];
    let mut rules = String::from("host all postgres all trust\n");
    for (number, (encryption, method, _)) in cases.iter().enumerate() {
        database.sql(&format!(
            "SET password_encryption = '{encryption}'; CREATE ROLE app{number} LOGIN PASSWORD 'canary'; \
             GRANT SELECT, INSERT, UPDATE ON tokenkeep TO app{number}"
        ));
        rules += &format!("host all app{number} all {method}\n");
    }
    server.write("pg_hba.conf", &rules);
    server.restart_with("unix_socket_directories = ''\n");
    for (number, (encryption, method, refused)) in cases.iter().enumerate() {
        let url = database.url("fleet", &identity).replace("postgres@", &format!("app{number}@"));
        let mut command = Command::new(program("test-actor"));
        let command = command.args(["--with-network", &url]).env("PGPASSFILE", &passwords);
        let answer = Actor::spawn(command).ask("load");
        match refused {
            None => assert_eq!(answer, "ok none", "{encryption} {method}"),
            Some(reason) => {
                assert!(answer.contains(reason), "{encryption} {method}: {answer}");
                assert!(answer.contains("set `password_encryption"), "{answer}");
            }
        }
    }
}

#[tokio::test]
async fn root_certificates_that_others_can_change_are_refused_and_a_pipe_is_not_waited_for() {
    let dir = scratch();
    let key = AgeKey::create_identity_file(dir.path().join("key.txt")).await.unwrap();
    let load = async |roots: &Path| {
        let store = PostgresStore::new("postgres://me@localhost:1/db", "a", key.clone()).unwrap();
        let refused = store.with_root_certificates(roots).load().await.unwrap_err();
        format!("{refused:?} {refused}")
    };
    let roots = dir.path().join("roots.pem");
    let missing = load(&roots).await;
    assert!(missing.contains("roots.pem does not exist"), "{missing}");
    make_pipe(&roots);
    let refused = load(&roots).await;
    assert!(refused.contains("NotAFile"), "{refused}");
    fs::remove_file(&roots).unwrap();
    fs::write(&roots, "").unwrap();
    set_mode(&roots, 0o666);
    let refused = load(&roots).await;
    assert!(refused.contains("Exposed") && refused.contains("chmod go-w"), "{refused}");
    set_mode(&roots, 0o644);
    let empty = load(&roots).await;
    assert!(empty.contains("holds no certificates"), "{empty}");
    fs::write(&roots, vec![b'a'; (1 << 20) + 1]).unwrap();
    let large = load(&roots).await;
    assert!(large.contains("TooLarge"), "{large}");
}
