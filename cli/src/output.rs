//! Standard output. Each write that fails is an error, and nothing waits in a buffer.

use std::io;

use zeroize::Zeroizing;

/// Writes lines to standard output. The last line always ends with a newline, also in a pipe: `read`,
/// `while read` and `xargs` treat a line without one as the end of their input.
pub(crate) fn write_lines(text: &str) -> io::Result<()> {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    // At its exact size, because a text that grows leaves copies behind.
    let mut lines = Zeroizing::new(String::with_capacity(text.len() + end.len()));
    lines.push_str(text);
    lines.push_str(end);
    write(lines.as_bytes()).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot write to standard output: {error}"))
    })
}

/// The standard library takes a descriptor that is closed or cannot be written to for a successful write.
/// The system does not.
#[cfg(unix)]
fn write(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(io::stdout(), bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A console takes UTF-16, which only the standard library's output writes.
#[cfg(not(unix))]
fn write(bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;

    let mut output = io::stdout().lock();
    output.write_all(bytes)?;
    output.flush()
}

/// Fails if this process was started without a standard output. What is printed then would be lost.
///
/// The standard library opens `/dev/null` in its place, for reading and writing, before `main`. A shell opens
/// it for writing only. Some programs open it for both when they discard the output, so this is only for
/// output that must not be lost.
#[cfg(unix)]
pub(crate) fn refuse_closed() -> io::Result<()> {
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::{OFlags, fcntl_getfl};

    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let is_for_both = fcntl_getfl(&output)? & OFlags::ACCMODE == OFlags::RDWR;
    let device = output.metadata()?.rdev();
    if !is_for_both || !fs::metadata("/dev/null").is_ok_and(|null| null.rdev() == device) {
        return Ok(());
    }
    Err(io::Error::other(
        "standard output is closed, or is /dev/null opened for reading and writing; a secret would be lost \
         there, so none is printed (`tokenkeep refresh` prints none)",
    ))
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "as on Unix")]
pub(crate) fn refuse_closed() -> io::Result<()> {
    Ok(())
}
