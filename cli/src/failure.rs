//! Failures, with a message for people and an exit code for scripts.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use tokenkeep::oauth2::OAuth2Error;
use tokenkeep::store_url::InvalidStoreUrl;
use tokenkeep::transfer::TransferError;
use tokenkeep::{AuthError, StoreError};

use crate::terminal::Terminal;

/// The exit codes that scripts can rely on. Success is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Other = 1,
    Usage = 2,
    NoTokens = 3,
    Expired = 4,
    Inaccessible = 5,
    Unreadable = 6,
    Conflict = 7,
    Spent = 8,
    /// For the command that `exec` runs. The numbers are those of a shell.
    NotExecutable = 126,
    NotFound = 127,
}

/// The result of a command.
pub(crate) type Outcome = Result<ExitCode, Failure>;

pub(crate) const DONE: Outcome = Ok(ExitCode::SUCCESS);

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

#[derive(Debug)]
pub(crate) struct Failure {
    code: Code,
    message: String,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, message)
    }

    pub(crate) fn no_refresh_token() -> Self {
        Self::new(Code::NoTokens, "there is no refresh token; the server issued none")
    }

    /// Makes a failure from an I/O error: which action failed on which file.
    pub(crate) fn io(action: &str, path: &Path, error: &io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Code::Inaccessible
            }
            _ => Code::Other,
        };
        Self::new(code, format!("cannot {action} {}: {error}", path.display()))
    }

    /// Takes the text of an error and of its causes.
    fn of(code: Code, error: &dyn Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            write!(message, ": {error}").expect("a String takes everything");
            cause = error.source();
        }
        Self { code, message }
    }

    /// Puts words before the message.
    pub(crate) fn within(self, words: &str) -> Self {
        Self { message: format!("{words}: {}", self.message), ..self }
    }

    /// Puts the next step after the message.
    pub(crate) fn followed_by(self, words: &str) -> Self {
        Self { message: format!("{}; {words}", self.message), ..self }
    }

    pub(crate) fn with_message(self, message: String) -> Self {
        Self { message, ..self }
    }

    pub(crate) fn say(&self, terminal: &Terminal) {
        if !self.message.is_empty() {
            // In one line, so that a name in it cannot look like a message of its own.
            terminal.say(&format!("tokenkeep: {}", self.message.replace('\n', "\\n")));
        }
    }

    pub(crate) fn report(self, terminal: &Terminal) -> ExitCode {
        self.say(terminal);
        self.code.into()
    }

    pub(crate) fn is(&self, code: Code) -> bool {
        self.code == code
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

fn code_of(error: &StoreError) -> Code {
    match error {
        StoreError::Conflict { .. } => Code::Conflict,
        StoreError::Corrupt { .. }
        | StoreError::InvalidKey { .. }
        | StoreError::NewerVersion { .. }
        | StoreError::NotAFile { .. }
        | StoreError::NotARecord { .. }
        | StoreError::NotAuthentic { .. }
        | StoreError::RolledBack { .. }
        | StoreError::TooLarge { .. }
        | StoreError::Undecryptable { .. } => Code::Unreadable,
        StoreError::Denied { .. }
        | StoreError::Exposed { .. }
        | StoreError::KeyMissing { .. }
        | StoreError::Locked { .. }
        | StoreError::NoSpace { .. }
        | StoreError::ReadOnly { .. }
        | StoreError::Timeout { .. }
        | StoreError::Unavailable { .. } => Code::Inaccessible,
        _ => Code::Other,
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let mut failure = Self::of(code_of(&error), &error);
        if matches!(error, StoreError::Locked { .. }) && failure.message.ends_with("allow prompts")
        {
            failure.message += " (--allow-prompt)";
        }
        failure
    }
}

impl From<AuthError> for Failure {
    fn from(error: AuthError) -> Self {
        let error = match error {
            AuthError::Store(error) => return error.into(),
            error => error,
        };
        let code = match &error {
            AuthError::NotSaved(error) => code_of(error),
            AuthError::LoginRequired { .. } | AuthError::TokenExpired => Code::Expired,
            AuthError::RefreshTokenSpent { .. } => Code::Spent,
            AuthError::TokenNotFound => Code::NoTokens,
            _ => Code::Other,
        };
        Self::of(code, &error)
    }
}

impl From<OAuth2Error> for Failure {
    fn from(error: OAuth2Error) -> Self {
        let code = match &error {
            OAuth2Error::Declined
            | OAuth2Error::OpenedTwice
            | OAuth2Error::SignInRequired { .. }
            | OAuth2Error::TimedOut => Code::Expired,
            OAuth2Error::InvalidSetting { .. } | OAuth2Error::NotThisSignIn => Code::Usage,
            _ => Code::Other,
        };
        Self::of(code, &error)
    }
}

impl From<TransferError> for Failure {
    fn from(error: TransferError) -> Self {
        let error = match error {
            TransferError::Store(error) => return error.into(),
            error => error,
        };
        let code = match &error {
            TransferError::Busy { .. }
            | TransferError::Changing { .. }
            | TransferError::Newer { .. }
            | TransferError::Occupied { .. } => Code::Conflict,
            TransferError::Empty { .. } => Code::NoTokens,
            TransferError::NotABackup { .. } | TransferError::SameSlot { .. } => Code::Usage,
            _ => Code::Other,
        };
        Self::of(code, &error)
    }
}

impl From<InvalidStoreUrl> for Failure {
    fn from(error: InvalidStoreUrl) -> Self {
        Self::of(Code::Usage, &error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // The reader of the output has closed it. There is nothing to say.
            io::ErrorKind::BrokenPipe => Self::new(Code::Other, ""),
            _ => Self::of(Code::Other, &error),
        }
    }
}
