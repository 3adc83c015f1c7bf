//! Standard input, and lines that are typed without being shown.

use std::fs::File;
#[cfg(unix)]
use std::io::Write;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use tokenkeep::secrecy::SecretString;
use zeroize::Zeroizing;

use crate::interrupt::Interrupts;

/// The maximum number of bytes that can be typed or pasted at a prompt.
const LONGEST: usize = 64 * 1024;

/// How often a prompt looks for what was typed.
#[cfg(unix)]
const LOOK: std::time::Duration = std::time::Duration::from_millis(20);

/// Reads a line without echo. Ctrl-C or a signal ends the process as usual meanwhile, and the
/// terminal settings are restored first. Fails with `TimedOut` soon after `is_over` becomes true.
///
/// Ctrl-Z restores the settings too, and a shell may do that. So the settings are looked at before each read, and the
/// prompt begins anew when the process continues. In the background nothing is read, because the system would stop the
/// process.
#[cfg(unix)]
pub(super) fn read_hidden(
    prompt: &str,
    interrupts: &Interrupts,
    is_over: Option<&AtomicBool>,
) -> io::Result<SecretString> {
    use std::os::unix::fs::OpenOptionsExt;

    use rustix::fs::OFlags;
    use rustix::termios::{
        LocalModes, OptionalActions, QueueSelector, tcflush, tcgetattr, tcsetattr,
    };

    const CTRL_D: u8 = 4;
    const BACKSPACE: u8 = 8;
    const CTRL_U: u8 = 21;
    const DELETE: u8 = 127;

    /// Restores the terminal settings, however the prompt ends.
    struct Restore<'a>(&'a Interrupts);

    impl Drop for Restore<'_> {
        fn drop(&mut self) {
            self.0.tidied();
        }
    }

    // Every failure means that there is no terminal.
    let none = |_| io::Error::from(io::ErrorKind::NotFound);
    let terminal = File::options().read(true).write(true).open("/dev/tty").map_err(none)?;
    // No read waits: if a shell turns line mode on, it would wait for a line.
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let mut input =
        File::options().read(true).custom_flags(nonblocking).open("/dev/tty").map_err(none)?;
    let before = tcgetattr(&terminal)?;
    let shown = LocalModes::ECHO | LocalModes::ICANON;
    let hide = || -> io::Result<()> {
        let mut hidden = tcgetattr(&terminal)?;
        // Line mode is off too: the system's own line editor stops at 4096 bytes.
        hidden.local_modes -= shown;
        Ok(tcsetattr(&terminal, OptionalActions::Now, &hidden)?)
    };

    let same = terminal.try_clone()?;
    let restore = Restore(interrupts);
    interrupts.tidy(
        || {
            hide()?;
            // What was typed before the prompt was shown.
            Ok(tcflush(&terminal, QueueSelector::IFlush)?)
        },
        move || {
            // In the background the terminal belongs to the shell, which has restored its settings.
            if is_foreground_of(&same) {
                let _ = tcflush(&same, QueueSelector::IFlush);
                let _ = tcsetattr(&same, OptionalActions::Now, &before);
                let _ = (&mut &same).write_all(b"\n");
            }
        },
    )?;
    (&mut &terminal).write_all(prompt.as_bytes())?;

    // Allocated at its full size, so that it does not grow and leave copies behind.
    let mut typed = Zeroizing::new(Vec::with_capacity(LONGEST));
    let mut byte = Zeroizing::new([0]);
    loop {
        if is_over.is_some_and(|is_over| is_over.load(Ordering::Relaxed)) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let modes = match tcgetattr(&terminal) {
            Ok(modes) => modes.local_modes,
            Err(_) if is_over.is_none() => return Err(io::ErrorKind::UnexpectedEof.into()),
            // The terminal is gone. The answer may still come in another way.
            Err(_) => {
                std::thread::sleep(LOOK);
                continue;
            }
        };
        if !is_foreground_of(&terminal) {
            std::thread::sleep(LOOK);
            continue;
        }
        if modes.intersects(shown) {
            typed.clear();
            // Ctrl-Z may have restored the settings just now, and the process may continue in the background.
            let is_hidden = interrupts.undisturbed(|| {
                let is_ours = is_foreground_of(&terminal);
                if is_ours { hide().map(|()| true) } else { Ok(false) }
            })?;
            if !is_hidden {
                continue;
            }
            (&mut &terminal).write_all(prompt.as_bytes())?;
        }
        match input.read(&mut *byte) {
            Ok(0) if is_over.is_none() => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if is_over.is_none() && error.kind() != io::ErrorKind::WouldBlock => {
                return Err(error);
            }
            // Nothing was typed, or the terminal is gone.
            Ok(0) | Err(_) => {
                std::thread::sleep(LOOK);
                continue;
            }
        }
        match byte[0] {
            b'\n' | b'\r' => break,
            CTRL_D if typed.is_empty() => return Err(io::Error::other("nothing was typed")),
            CTRL_D => break,
            CTRL_U => typed.clear(),
            BACKSPACE | DELETE => {
                // Removes all bytes of the last character.
                while typed.pop().is_some_and(|byte| byte & 0xC0 == 0x80) {}
            }
            other if typed.len() < LONGEST => typed.push(other),
            _ => return Err(io::Error::other("that is too long")),
        }
    }
    drop(restore);
    let text = str::from_utf8(&typed).map_err(|_| io::Error::other("that is not UTF-8 text"))?;
    secret(text)
}

/// Reads a line without echo. Keys that are read one by one are never shown, so there are no
/// settings to restore when Ctrl-C ends the process. Fails with `TimedOut` at the first key after `is_over` becomes
/// true.
#[cfg(windows)]
pub(super) fn read_hidden(
    prompt: &str,
    _interrupts: &Interrupts,
    is_over: Option<&AtomicBool>,
) -> io::Result<SecretString> {
    use std::io::IsTerminal;

    use console::{Key, Term};

    const CTRL_U: char = '\u{15}';

    let terminal = Term::stderr();
    let none = || io::Error::from(io::ErrorKind::NotFound);
    if !terminal.is_term() || !io::stdin().is_terminal() {
        return Err(none());
    }
    terminal.write_str(prompt)?;
    // Allocated at its full size, so that it does not grow and leave copies behind.
    let mut typed = Zeroizing::new(String::with_capacity(LONGEST));
    loop {
        // Some programs present a console that is not real and has no keys.
        let key = terminal.read_key().map_err(|_| none())?;
        if is_over.is_some_and(|is_over| is_over.load(Ordering::Relaxed)) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match key {
            Key::Enter => break,
            Key::Char(CTRL_U) => typed.clear(),
            Key::Backspace => drop(typed.pop()),
            Key::Char(other) if typed.len() + other.len_utf8() <= LONGEST => typed.push(other),
            Key::Char(_) => return Err(io::Error::other("that is too long")),
            _ => {}
        }
    }
    terminal.write_line("")?;
    secret(&typed)
}

fn secret(typed: &str) -> io::Result<SecretString> {
    if typed.is_empty() {
        return Err(io::Error::other("nothing was typed"));
    }
    Ok(SecretString::from(Box::<str>::from(typed)))
}

/// Returns whether this process may read from its terminal. The system stops a process that reads in the background.
pub(super) fn is_in_foreground() -> bool {
    #[cfg(unix)]
    let is_in_foreground = File::open("/dev/tty").is_ok_and(|terminal| is_foreground_of(&terminal));
    #[cfg(windows)]
    let is_in_foreground = true;
    is_in_foreground
}

#[cfg(unix)]
fn is_foreground_of(terminal: &File) -> bool {
    let group = rustix::termios::tcgetpgrp(terminal);
    group.is_ok_and(|group| group == rustix::process::getpgrp())
}

/// Reads one line from standard input, and nothing after it.
pub(crate) fn input_line() -> io::Result<SecretString> {
    let mut input = unbuffered_input()?;
    let mut line = Zeroizing::new(Vec::with_capacity(LONGEST));
    let mut byte = Zeroizing::new([0]);
    loop {
        match input.read(&mut *byte) {
            Ok(0) => break,
            Ok(_) if byte[0] == b'\n' => break,
            Ok(_) if line.len() < LONGEST => line.push(byte[0]),
            Ok(_) => return Err(io::Error::other("standard input has a line that is too long")),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let text = str::from_utf8(&line).map_err(|_| io::Error::other("that is not UTF-8 text"))?;
    Ok(SecretString::from(Box::<str>::from(text)))
}

/// Returns standard input without the standard library's buffer, which is never wiped.
pub(crate) fn unbuffered_input() -> io::Result<File> {
    let stdin = io::stdin();
    #[cfg(unix)]
    let input = std::os::fd::AsFd::as_fd(&stdin).try_clone_to_owned();
    #[cfg(windows)]
    let input = std::os::windows::io::AsHandle::as_handle(&stdin).try_clone_to_owned();
    input.map(File::from)
}
