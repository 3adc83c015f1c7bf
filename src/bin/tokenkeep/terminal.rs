//! The terminal: what is asked, what is shown, and what is not.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::ProgressBar;
use tokenkeep::secrecy::SecretString;

/// For those who have no terminal to type a passphrase on.
pub(crate) const PASSPHRASE_VARIABLE: &str = "TOKENKEEP_PASSPHRASE";

static SPINNER: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Asks for the passphrase of something that is there, and shows that it is being worked on.
pub(crate) fn ask_passphrase() -> io::Result<SecretString> {
    let passphrase = passphrase("Passphrase: ")?;
    start_working("working on the passphrase");
    Ok(passphrase)
}

/// Asks for a new passphrase, twice.
pub(crate) fn ask_new_passphrase() -> io::Result<SecretString> {
    let first = passphrase("New passphrase: ")?;
    if std::env::var_os(PASSPHRASE_VARIABLE).is_none() {
        let second = passphrase("The same again: ")?;
        if !is_same(&first, &second) {
            return Err(io::Error::other("the two are not the same"));
        }
    }
    start_working("working on the passphrase");
    Ok(first)
}

#[expect(clippy::disallowed_methods, reason = "compared, and looked at for being empty")]
fn is_same(first: &SecretString, second: &SecretString) -> bool {
    use tokenkeep::secrecy::ExposeSecret;
    first.expose_secret() == second.expose_secret()
}

fn passphrase(prompt: &str) -> io::Result<SecretString> {
    if let Ok(passphrase) = std::env::var(PASSPHRASE_VARIABLE) {
        return Ok(passphrase.into());
    }
    ask_hidden(prompt).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            io::Error::other(format!("there is no terminal to ask on; set {PASSPHRASE_VARIABLE}"))
        }
        _ => error,
    })
}

/// Shows that something takes its time, if somebody is looking.
pub(crate) fn start_working(on: &'static str) {
    let mut spinner = SPINNER.lock().unwrap_or_else(PoisonError::into_inner);
    if spinner.is_none() && io::stderr().is_terminal() {
        let fresh = ProgressBar::new_spinner().with_message(on);
        fresh.enable_steady_tick(Duration::from_millis(100));
        *spinner = Some(fresh);
    }
}

pub(crate) fn stop_working() {
    if let Some(spinner) = SPINNER.lock().unwrap_or_else(PoisonError::into_inner).take() {
        spinner.finish_and_clear();
    }
}

/// Prints a secret to standard output: alone, and with a newline only where a person looks.
pub(crate) fn print_secret(secret: &str) -> io::Result<()> {
    stop_working();
    let mut output = io::stdout().lock();
    output.write_all(secret.as_bytes())?;
    if output.is_terminal() {
        output.write_all(b"\n")?;
    }
    output.flush()
}

/// Prints what is no secret to standard output.
pub(crate) fn print(text: &str) -> io::Result<()> {
    stop_working();
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        output.write_all(b"\n")?;
    }
    output.flush()
}

/// Says something to the person in front of it.
#[expect(clippy::print_stderr, reason = "this is where it comes out")]
pub(crate) fn say(text: &str) {
    stop_working();
    eprintln!("{text}");
}

/// Reads a line that is not shown, from the terminal and not from standard input. Ctrl-C ends the
/// process as it always does, with the terminal as it was.
#[cfg(unix)]
pub(crate) fn ask_hidden(prompt: &str) -> io::Result<SecretString> {
    use std::fs::File;
    use std::io::Read;

    use rustix::process::{Signal, getpid, kill_process};
    use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
    use zeroize::Zeroizing;

    /// Puts the terminal back, however this ends.
    struct Restore<'a>(&'a File, Termios);

    impl Drop for Restore<'_> {
        fn drop(&mut self) {
            let _ = tcsetattr(self.0, OptionalActions::Flush, &self.1);
            let _ = (&mut &*self.0).write_all(b"\n");
        }
    }

    const LONGEST: usize = 64 * 1024;
    const CTRL_C: u8 = 3;
    const CTRL_D: u8 = 4;
    const BACKSPACE: u8 = 8;
    const CTRL_U: u8 = 21;
    const DELETE: u8 = 127;

    stop_working();
    let terminal = File::options().read(true).write(true).open("/dev/tty").map_err(|_| {
        // Whatever the reason, there is none.
        io::Error::from(io::ErrorKind::NotFound)
    })?;
    let before = tcgetattr(&terminal)?;
    let mut hidden = before.clone();
    hidden.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
    let restore = Restore(&terminal, before);
    tcsetattr(&terminal, OptionalActions::Flush, &hidden)?;
    (&mut &terminal).write_all(prompt.as_bytes())?;

    // Of its full size, so that it does not grow and leave copies behind.
    let mut typed = Zeroizing::new(Vec::with_capacity(LONGEST));
    let mut byte = Zeroizing::new([0]);
    loop {
        if (&mut &terminal).read(&mut *byte)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match byte[0] {
            b'\n' | b'\r' => break,
            CTRL_C => {
                drop(restore);
                kill_process(getpid(), Signal::INT)?;
                return Err(io::ErrorKind::Interrupted.into());
            }
            CTRL_D if typed.is_empty() => return Err(io::Error::other("nothing was typed")),
            CTRL_D => break,
            CTRL_U => typed.clear(),
            BACKSPACE | DELETE => {
                // The whole of the last character.
                while typed.pop().is_some_and(|byte| byte & 0xC0 == 0x80) {}
            }
            other if typed.len() < LONGEST => typed.push(other),
            _ => return Err(io::Error::other("that is too long")),
        }
    }
    let text = str::from_utf8(&typed).map_err(|_| io::Error::other("that is not UTF-8 text"))?;
    if text.is_empty() {
        return Err(io::Error::other("nothing was typed"));
    }
    Ok(SecretString::from(Box::<str>::from(text)))
}

#[cfg(not(unix))]
pub(crate) fn ask_hidden(_prompt: &str) -> io::Result<SecretString> {
    Err(io::ErrorKind::NotFound.into())
}
