//! The server that issues the tokens. It rotates the refresh token each time, and ends a session in which
//! a refresh token is used twice.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use super::model::{SessionId, Spender, Verdict};
use super::{Random, Soak};

/// The lifetime of an access token.
pub(super) const LIFETIME: Duration = Duration::from_secs(3);

/// Returns new tokens as three words: access token, refresh token, expiry in milliseconds.
pub(super) fn tokens(session: SessionId, generation: u32) -> String {
    let expiry = SystemTime::now() + LIFETIME;
    let expiry = expiry.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    format!("access-{session}-{generation}-{expiry} refresh-{session}-{generation} {expiry}")
}

/// Returns when an access token expires.
pub(super) fn expiry(access: &str) -> SystemTime {
    let expiry = access.rsplit('-').next().unwrap().parse().unwrap();
    SystemTime::UNIX_EPOCH + Duration::from_millis(expiry)
}

/// Starts the server, and returns its address.
pub(super) fn listen(soak: &Arc<Soak>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let random = Arc::new(Mutex::new(Random::new(soak.seed, 3000)));
    let soak = soak.clone();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let (soak, random, connection) = (soak.clone(), random.clone(), connection.unwrap());
            thread::spawn(move || serve(&soak, &random, connection));
        }
    });
    address
}

fn serve(soak: &Soak, random: &Mutex<Random>, mut connection: TcpStream) {
    let below = |bound| random.lock().unwrap().below(bound);
    let faults = soak.faults.load(Ordering::SeqCst);
    let happens = |one_in| faults && below(one_in) == 0;
    let mut line = String::new();
    // The client may have been killed.
    if BufReader::new(connection.try_clone().unwrap()).read_line(&mut line).is_err() {
        return;
    }
    let Some(line) = line.strip_suffix('\n') else { return };
    thread::sleep(Duration::from_millis(below(15)));
    let (who, token) = line.split_once(' ').unwrap();
    let (process, life) = who.split_once('.').unwrap();
    let by = Spender { process: process.parse().unwrap(), life: life.parse().unwrap() };
    if happens(60) {
        let _ = connection.write_all(b"busy\n");
        return;
    }
    let mut parts = token.split('-').skip(1).map(|part| part.parse::<u32>().unwrap());
    let (session, generation) = (parts.next().unwrap() as SessionId, parts.next().unwrap());
    let answer = {
        let mut world = soak.world();
        if world.killed.contains(&(by.process, by.life)) {
            // The process is dead, so its request counts as lost.
            return;
        }
        match world.spend(soak.now(), by, session, generation) {
            Verdict::Rotated { generation } => format!("ok {}\n", tokens(session, generation)),
            Verdict::Rejected => "rejected\n".to_owned(),
        }
    };
    if happens(50) && soak.kill(by.process, Some(by.life)) {
        return;
    }
    thread::sleep(Duration::from_millis(below(15)));
    let _ = connection.write_all(answer.as_bytes());
    if happens(50) {
        // The process has the answer, and may be about to save it.
        thread::sleep(Duration::from_micros(below(3000)));
        soak.kill(by.process, Some(by.life));
    }
}
