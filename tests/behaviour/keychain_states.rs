//! Keychains that are locked, missing, silent or killed, and items of other programs.
#![cfg(all(unix, not(target_vendor = "apple")))]

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use zbus::zvariant::{OwnedObjectPath, OwnedValue, Value};

use crate::session::Session;
use crate::support::{Actor, available, program, scratch};

const STORE: &str = "keychain:axiomtrade/alice";
const ITEM: &str = "keychain item tokenkeep:axiomtrade/alice";

const COLLECTION: &str = "/org/freedesktop/secrets/collection/login";

/// Returns whether all programs that these tests need are installed.
fn parts(test: &str) -> bool {
    ["dbus-daemon", "dbus-monitor", "gnome-keyring-daemon", "gdbus", "secret-tool"]
        .iter()
        .all(|program| available(&format!("keychain_states::{test}"), program))
}

/// A Secret Service with an empty collection. A call that creates an item never ends. The service reports to
/// the test when such a call or a search arrives.
struct Service {
    /// Gets a message for each search.
    searched: Mutex<Sender<()>>,
    /// How long a search takes. Meanwhile nobody else is answered.
    delay: Duration,
}

#[zbus::interface(name = "org.freedesktop.Secret.Service")]
#[allow(clippy::unused_self, reason = "as D-Bus has it")]
impl Service {
    fn search_items(
        &self,
        _attributes: HashMap<String, String>,
    ) -> (Vec<OwnedObjectPath>, Vec<OwnedObjectPath>) {
        self.searched.lock().unwrap().send(()).unwrap();
        thread::sleep(self.delay);
        Default::default()
    }

    #[zbus(property)]
    fn collections(&self) -> Vec<OwnedObjectPath> {
        vec![OwnedObjectPath::try_from(COLLECTION).unwrap()]
    }

    fn read_alias(&self, _name: &str) -> OwnedObjectPath {
        OwnedObjectPath::try_from(COLLECTION).unwrap()
    }

    fn open_session(&self, _algorithm: &str, _key: Value<'_>) -> (OwnedValue, OwnedObjectPath) {
        // Any number can be the public key, because nothing is ever decrypted with it.
        let key = OwnedValue::try_from(Value::from(vec![2_u8; 128])).unwrap();
        (key, OwnedObjectPath::try_from("/org/freedesktop/secrets/session/s1").unwrap())
    }
}

struct Collection {
    /// Gets a message for each call that creates an item.
    making: Mutex<Sender<()>>,
    locked: bool,
}

/// The session, the parameters of the cipher, the value, and its type.
type Secret = (OwnedObjectPath, Vec<u8>, Vec<u8>, String);

#[zbus::interface(name = "org.freedesktop.Secret.Collection")]
#[allow(clippy::unused_self, reason = "as D-Bus has it")]
impl Collection {
    async fn create_item(
        &self,
        _properties: HashMap<String, OwnedValue>,
        _secret: Secret,
        _replace: bool,
    ) -> (OwnedObjectPath, OwnedObjectPath) {
        self.making.lock().unwrap().send(()).unwrap();
        std::future::pending().await
    }

    #[zbus(property)]
    fn locked(&self) -> bool {
        self.locked
    }
}

/// A Secret Service of the test on the bus of the session.
struct Provider {
    connection: zbus::blocking::Connection,
    making: Receiver<()>,
    searched: Receiver<()>,
}

impl Provider {
    fn start(session: &Session, locked: bool) -> Self {
        Self::slow(session, locked, Duration::ZERO)
    }

    fn slow(session: &Session, locked: bool, delay: Duration) -> Self {
        let ((made, making), (found, searched)) = (mpsc::channel(), mpsc::channel());
        let connection = zbus::blocking::connection::Builder::address(session.address())
            .unwrap()
            .serve_at("/org/freedesktop/secrets", Service { searched: Mutex::new(found), delay })
            .unwrap()
            .serve_at(COLLECTION, Collection { making: Mutex::new(made), locked })
            .unwrap()
            .name("org.freedesktop.secrets")
            .unwrap()
            .build()
            .unwrap();
        Self { connection, making, searched }
    }

    fn die(self) {
        self.connection.close().unwrap();
    }
}

/// Returns the state of the keychain of the session. The process checks that it answered within 2 seconds.
fn probe(session: &Session) -> String {
    session.actor("memory:").ask("probe")
}

#[test]
fn a_probe_returns_the_state_of_a_keychain() {
    if !parts("a_probe_returns_the_state_of_a_keychain") {
        return;
    }
    let mut session = Session::without_keychain();
    assert_eq!(probe(&session), "ok no provider");
    session.start_empty_keychain();
    assert_eq!(probe(&session), "ok no default collection");
    session.start_keychain();
    assert_eq!(probe(&session), "ok works");
    session.lock_keychain();
    assert_eq!(probe(&session), "ok locked");
    // The probe did not unlock it.
    assert_eq!(probe(&session), "ok locked");
    session.suspend_keychain();
    assert_eq!(probe(&session), "ok not answering");
}

#[test]
fn a_keychain_without_a_default_collection_is_an_error_and_none_is_created() {
    if !parts("a_keychain_without_a_default_collection_is_an_error_and_none_is_created") {
        return;
    }
    let mut session = Session::without_keychain();
    session.start_empty_keychain();
    let answer = session.actor(STORE).ask("save mine absent");
    assert!(answer.starts_with(&format!("error Unavailable: {ITEM}")), "{answer}");
    assert!(answer.contains("no default collection"), "{answer}");
    assert!(answer.contains("create a default keyring"), "{answer}");
    assert_eq!(probe(&session), "ok no default collection");
    assert!(!session.state().join("tokenkeep/axiomtrade/alice.age").exists());
}

#[test]
fn without_a_provider_the_error_says_so_and_nothing_is_written() {
    if !parts("without_a_provider_the_error_says_so_and_nothing_is_written") {
        return;
    }
    let session = Session::without_keychain();
    let answer = session.actor(STORE).ask("save mine absent");
    assert!(answer.starts_with(&format!("error Unavailable: {ITEM}")), "{answer}");
    assert!(answer.contains("no provider") && answer.contains("gnome-keyring"), "{answer}");
    assert!(!session.state().join("tokenkeep/axiomtrade/alice.age").exists());
    // Neither reading nor clearing an empty slot needs a keychain.
    assert_eq!(session.actor(STORE).ask("load"), "ok none");
    let mut other = session.actor("keychain:axiomtrade/bob");
    assert_eq!(other.ask("clear"), "ok cleared");
}

#[test]
fn without_a_bus_the_error_says_so() {
    let dir = scratch();
    let mut command = Command::new(program("test-actor"));
    command
        .arg(STORE)
        .env("XDG_STATE_HOME", dir.path())
        .env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}/none", dir.path().display()));
    let mut actor = Actor::spawn(&mut command);
    assert_eq!(actor.ask("probe"), "ok no bus");
    let answer = actor.ask("save mine absent");
    assert!(answer.starts_with(&format!("error Unavailable: {ITEM}")), "{answer}");
    assert!(answer.contains("no bus") && answer.contains("dbus-run-session"), "{answer}");
}

#[test]
fn a_bus_that_never_answers_is_waited_for_once_and_does_not_keep_the_process_alive() {
    let dir = scratch();
    let socket = dir.path().join("bus");
    // Accepts connections, and never answers.
    let _listener = UnixListener::bind(&socket).unwrap();
    let mut command = Command::new(program("test-actor"));
    command
        .arg(STORE)
        .env("XDG_STATE_HOME", dir.path())
        .env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", socket.display()));
    let mut actor = Actor::spawn(&mut command);
    let answer = actor.ask("save mine absent");
    assert!(answer.starts_with("error Timeout: "), "{answer}");
    assert!(answer.contains("did not answer within 3s"), "{answer}");
    // The next call does not wait for the one that hangs.
    let answer = actor.ask("save mine absent");
    assert!(answer.contains("has not answered an earlier call yet"), "{answer}");
    assert_eq!(actor.ask("probe"), "ok not answering");
    let before = Instant::now();
    assert!(actor.end().success());
    assert!(before.elapsed() < Duration::from_secs(2), "the process ends at once");
}

#[test]
fn a_call_that_its_provider_never_answers_keeps_its_lock() {
    if !parts("a_call_that_its_provider_never_answers_keeps_its_lock") {
        return;
    }
    let mut session = Session::without_keychain();
    let provider = Provider::start(&session, false);
    let mut actor = session.actor(STORE);
    let answer = actor.ask("save mine absent");
    assert!(answer.contains("did not answer within 3s"), "{answer}");
    provider.making.recv().unwrap();
    // The call may still take effect, so no other process may create a key meanwhile.
    let lock = File::open(session.state().join("tokenkeep/axiomtrade/alice.key.lock")).unwrap();
    assert!(lock.try_lock().is_err(), "the abandoned call has released its lock");
    // When the provider dies, the call ends.
    provider.die();
    lock.lock().unwrap();
    lock.unlock().unwrap();
    session.start_keychain();
    assert_eq!(actor.ask("save mine absent"), "ok saved");
    assert!(actor.end().success());
    assert_eq!(session.actor(STORE).ask("load"), "ok mine");
}

#[test]
fn processes_that_use_a_slow_keychain_at_once_wait_for_each_other() {
    if !parts("processes_that_use_a_slow_keychain_at_once_wait_for_each_other") {
        return;
    }
    let session = Session::without_keychain();
    // A call searches twice. All of them together take longer than one call may.
    let _provider = Provider::slow(&session, false, Duration::from_millis(400));
    let mut actors: Vec<Actor> =
        (0..6).map(|_| session.actor("keychain-item:theirs/alice")).collect();
    for actor in &mut actors {
        actor.send("load");
    }
    for actor in &mut actors {
        assert_eq!(actor.answer().as_deref(), Some("ok none"));
    }
}

#[test]
fn a_provider_killed_during_a_call_is_an_error_and_a_new_one_is_used() {
    if !parts("a_provider_killed_during_a_call_is_an_error_and_a_new_one_is_used") {
        return;
    }
    let mut session = Session::without_keychain();
    let provider = Provider::start(&session, false);
    let mut actor = session.actor(STORE);
    actor.send("save mine absent");
    provider.making.recv().unwrap();
    provider.die();
    let answer = actor.answer().unwrap();
    assert!(answer.starts_with(&format!("error Unavailable: {ITEM}")), "{answer}");
    session.start_keychain();
    assert_eq!(actor.ask("save mine absent"), "ok saved");
    assert_eq!(session.actor(STORE).ask("load"), "ok mine");
}

#[test]
fn a_locked_keychain_is_asked_to_unlock_only_if_prompts_are_allowed() {
    if !parts("a_locked_keychain_is_asked_to_unlock_only_if_prompts_are_allowed") {
        return;
    }
    let session = Session::with_keychain();
    assert_eq!(session.actor(STORE).ask("save mine absent"), "ok saved");
    session.lock_keychain();
    let prompts = session.watch("org.freedesktop.Secret.Prompt", "Prompt");
    let answer = session.actor(STORE).ask("load");
    assert!(answer.starts_with(&format!("error Locked: {ITEM}")), "{answer}");
    assert!(answer.contains("unlock the keychain") && answer.contains("allow prompts"), "{answer}");
    assert_eq!(prompts.calls(&session), 0, "a prompt was requested");

    let prompts = session.watch("org.freedesktop.Secret.Prompt", "Prompt");
    let mut actor = session.actor_with_prompts(STORE);
    // Nobody answers the prompt, so the keychain stays locked.
    let answer = actor.ask("load");
    assert!(answer.starts_with(&format!("error Locked: {ITEM}")), "{answer}");
    assert!(answer.contains("its prompt was not answered"), "{answer}");
    assert_eq!(prompts.calls(&session), 1);
}

#[test]
fn a_locked_keychain_is_not_searched() {
    if !parts("a_locked_keychain_is_not_searched") {
        return;
    }
    let mut session = Session::with_keychain();
    assert_eq!(session.actor(STORE).ask("save mine absent"), "ok saved");
    session.stop_keychain();
    // While they are locked, some providers find nothing, and some show a prompt for a search.
    let provider = Provider::start(&session, true);
    let answer = session.actor(STORE).ask("load");
    assert!(answer.starts_with(&format!("error Locked: {ITEM}")), "{answer}");
    let answer = session.actor("keychain-item:theirs/alice").ask("load");
    assert!(answer.starts_with("error Locked: keychain item theirs/alice"), "{answer}");
    assert!(provider.searched.try_recv().is_err(), "it was searched");
    provider.die();
    session.start_keychain();
    assert_eq!(session.actor(STORE).ask("load"), "ok mine");
}

#[test]
fn a_keychain_that_lost_its_collection_is_not_reported_as_a_missing_key() {
    if !parts("a_keychain_that_lost_its_collection_is_not_reported_as_a_missing_key") {
        return;
    }
    let mut session = Session::with_keychain();
    assert_eq!(session.actor(STORE).ask("save mine absent"), "ok saved");
    session.forget_keychain();
    session.start_empty_keychain();
    for mut actor in [session.actor(STORE), session.actor_with_prompts(STORE)] {
        let answer = actor.ask("load");
        assert!(answer.starts_with(&format!("error Unavailable: {ITEM}")), "{answer}");
        assert!(answer.contains("no default collection"), "{answer}");
    }
}

#[test]
fn tokens_that_cannot_be_moved_out_of_a_locked_keychain_stay_there() {
    if !parts("tokens_that_cannot_be_moved_out_of_a_locked_keychain_stay_there") {
        return;
    }
    let mut session = Session::with_keychain();
    let to = format!("plaintext:{}", session.state().join("tokens.json").display());
    let mut actor = session.actor(STORE);
    assert_eq!(actor.ask("save mine absent"), "ok saved");
    session.lock_keychain();
    // The record can be read, because the key is in memory. But the key cannot be removed.
    let answer = actor.ask(&format!("migrate {to}"));
    assert!(answer.contains("unlock the keychain"), "{answer}");
    assert_eq!(actor.ask("load"), "ok mine");
    session.start_keychain();
    assert_eq!(actor.ask(&format!("migrate {to}")), "ok moved");
    assert_eq!(session.actor(STORE).ask("load"), "ok none");
    let key = ["lookup", "service", "tokenkeep:axiomtrade", "username", "alice"];
    assert_eq!(session.output("secret-tool", &key), "");
}

#[test]
fn an_age_key_is_not_read_as_a_token() {
    if !parts("an_age_key_is_not_read_as_a_token") {
        return;
    }
    let session = Session::with_keychain();
    let sealed = session.state().join("tokens.age");
    let sealed = format!("age:{}?identity=keychain:axiomtrade/shared", sealed.display());
    assert_eq!(session.actor(&sealed).ask("save mine absent"), "ok saved");
    // This URL names the key as if it were the record.
    let item = "keychain-item:axiomtrade/shared";
    let to = format!("plaintext:{}", session.state().join("tokens.json").display());
    for order in [&format!("migrate {to}"), "clear", "load"] {
        let answer = session.actor(item).ask(order);
        assert!(answer.contains("it is an age identity, not a token"), "{order}: {answer}");
        assert!(!answer.contains("AGE-SECRET"), "{answer}");
    }
    assert_eq!(session.actor(&sealed).ask("load"), "ok mine");
}

#[test]
fn items_of_other_programs_with_the_same_names_are_an_error_and_are_not_changed() {
    if !parts("items_of_other_programs_with_the_same_names_are_an_error_and_are_not_changed") {
        return;
    }
    let session = Session::with_keychain();
    assert_eq!(session.actor(STORE).ask("save mine absent"), "ok saved");
    let script = "printf canary | secret-tool store --label theirs service tokenkeep:axiomtrade \
                  username alice application theirs";
    session.output("sh", &["-c", script]);
    let mut actor = session.actor(STORE);
    for order in ["load", "save new anything"] {
        let answer = actor.ask(order);
        assert!(answer.starts_with(&format!("error Unavailable: {ITEM}")), "{answer}");
        assert!(answer.contains("the keychain holds 2 items of this name"), "{answer}");
        assert!(answer.contains("\"tokenkeep: key of axiomtrade/alice\""), "{answer}");
        assert!(!answer.contains("canary"), "{answer}");
    }
    // This follows the advice in the error.
    session.output("secret-tool", &["clear", "application", "theirs"]);
    assert_eq!(actor.ask("load"), "ok mine");
}

#[test]
fn the_keychain_works_outside_a_runtime() {
    if !parts("the_keychain_works_outside_a_runtime") {
        return;
    }
    let session = Session::with_keychain();
    let mut command = session.command(program("test-actor"));
    let mut actor = Actor::spawn(command.args(["--without-runtime", STORE]));
    assert_eq!(actor.ask("probe"), "ok works");
    assert_eq!(actor.ask("save mine absent"), "ok saved");
    assert_eq!(actor.ask("load"), "ok mine");
    assert_eq!(session.actor(STORE).ask("load"), "ok mine");
}

#[test]
fn no_token_is_lost_if_the_keychain_is_locked_during_a_refresh() {
    if !parts("no_token_is_lost_if_the_keychain_is_locked_during_a_refresh") {
        return;
    }
    let mut session = Session::with_keychain();
    let mut running = session.actor(STORE);
    assert_eq!(running.ask("save old absent"), "ok saved");
    // The steps of a refresh until its request is sent. Then the keychain is locked.
    assert_eq!(running.ask("lease"), "ok leased");
    assert_eq!(running.ask("load"), "ok old");
    assert_eq!(running.ask("reserve"), "ok reserved");
    assert_eq!(running.ask("intent"), "ok written");
    session.lock_keychain();
    let asked = session.watch("org.freedesktop.Secret.Service", "SearchItems");
    assert_eq!(running.ask("save rotated last"), "ok saved");
    assert_eq!(running.ask("load"), "ok rotated");
    assert_eq!(asked.calls(&session), 0, "the save searched the keychain");
    session.start_keychain();
    assert_eq!(session.actor(STORE).ask("load"), "ok rotated");
}
