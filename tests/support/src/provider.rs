//! A strict authorization server in the process of the test. It rotates the refresh token on every refresh,
//! and ends the session if a token is sent twice.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use tokenkeep::chrono::{DateTime, TimeDelta, Utc};
use tokenkeep::refresh::RefreshPermit;
use tokenkeep::{AuthTokens, RefreshFailure, TokenRefresher, async_trait};
use tokio::sync::Semaphore;

#[derive(Clone, Default)]
pub struct Provider(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    called: Condvar,
    /// Lets calls continue, if calls have to wait.
    gate: Mutex<Option<Arc<Semaphore>>>,
}

#[derive(Default)]
struct State {
    /// The current refresh token of the session, or `None` after the session was ended.
    live: Option<String>,
    issued: u32,
    calls: Vec<String>,
    replays: u32,
    script: VecDeque<Step>,
    expires: Option<DateTime<Utc>>,
}

/// What a call does instead of a normal refresh.
pub enum Step {
    /// Fails. The token is not spent.
    Fail(RefreshFailure),
    /// Spends the token, and loses the answer.
    LoseAnswer,
    /// Answers without a refresh token. The old one is still accepted.
    KeepRefreshToken,
    /// Panics.
    Panic,
    /// Never answers.
    Hang,
    /// Answers with these tokens.
    Answer(AuthTokens),
}

impl Provider {
    /// Signs in. Returns tokens whose access token expires at this time.
    pub fn sign_in(&self, expires: DateTime<Utc>) -> AuthTokens {
        let mut state = self.state();
        state.expires = Some(expires);
        state.issue()
    }

    /// From now on, new access tokens expire at this time.
    pub fn issue_until(&self, expires: DateTime<Utc>) {
        self.state().expires = Some(expires);
    }

    /// Sets what the next calls do.
    pub fn script(&self, steps: impl IntoIterator<Item = Step>) {
        self.state().script.extend(steps);
    }

    /// Makes calls wait for [`let_through`](Self::let_through).
    pub fn hold(&self) {
        *self.0.gate.lock().unwrap() = Some(Arc::new(Semaphore::new(0)));
    }

    /// Lets waiting calls and all later ones continue.
    pub fn let_through(&self) {
        if let Some(gate) = self.0.gate.lock().unwrap().take() {
            gate.add_permits(Semaphore::MAX_PERMITS);
        }
    }

    /// Ends the session, as a token that is sent twice does.
    pub fn revoke(&self) {
        self.state().live = None;
    }

    /// Waits until there were this many calls.
    pub fn wait_for_calls(&self, calls: usize) {
        let mut state = self.state();
        while state.calls.len() < calls {
            let (waited, timed_out) =
                self.0.called.wait_timeout(state, Duration::from_secs(60)).unwrap();
            assert!(!timed_out.timed_out(), "there were too few calls");
            state = waited;
        }
    }

    /// Sets the number of replays to 0.
    #[cfg(unix)]
    pub fn forget_replays(&self) {
        self.state().replays = 0;
    }

    /// Returns the number of calls.
    pub fn calls(&self) -> usize {
        self.state().calls.len()
    }

    /// Returns how often a spent refresh token was sent.
    pub fn replays(&self) -> u32 {
        self.state().replays
    }

    /// Returns whether these are the last tokens that were issued, and are still accepted.
    pub fn accepts(&self, tokens: &AuthTokens) -> bool {
        let refresh = tokens.refresh_token.as_ref().map(|token| token.expose_secret().to_owned());
        refresh.is_some() && refresh == self.state().live
    }

    /// Serves other processes: reads a line with a refresh token, and answers with a line. Returns the address.
    pub fn listen(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let provider = self.clone();
        thread::spawn(move || {
            for connection in listener.incoming() {
                let (connection, provider) = (connection.unwrap(), provider.clone());
                thread::spawn(move || provider.serve(connection));
            }
        });
        address
    }

    fn serve(&self, mut connection: TcpStream) {
        let mut token = String::new();
        BufReader::new(connection.try_clone().unwrap()).read_line(&mut token).unwrap();
        // The client may have been killed before it sent a whole line.
        let Some(token) = token.strip_suffix('\n') else { return };
        let current = AuthTokens::new("any").with_refresh_token(token);
        let answer = match crate::block_on(self.refresh(current, &RefreshPermit::unlimited())) {
            Ok(tokens) => {
                let refresh = tokens.refresh_token.expect("it rotates");
                let expires = tokens.expires_at.expect("it expires").timestamp();
                let (access, refresh) =
                    (tokens.access_token.expose_secret(), refresh.expose_secret());
                format!("ok {access} {refresh} {expires}\n")
            }
            Err(failure) => format!("{failure}\n"),
        };
        // The client may have been killed.
        let _ = connection.write_all(answer.as_bytes());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }
}

impl State {
    fn issue(&mut self) -> AuthTokens {
        self.issued += 1;
        let refresh = format!("refresh-{}", self.issued);
        self.live = Some(refresh.clone());
        let mut tokens = AuthTokens::new(format!("access-{}", self.issued));
        tokens.expires_at = self.expires;
        tokens.with_refresh_token(refresh)
    }
}

#[async_trait]
impl TokenRefresher for Provider {
    async fn refresh(
        &self,
        current: AuthTokens,
        _permit: &RefreshPermit,
    ) -> Result<AuthTokens, RefreshFailure> {
        let token = current.refresh_token.expect("a refresh token").expose_secret().to_owned();
        let step = {
            let mut state = self.state();
            state.calls.push(token.clone());
            self.0.called.notify_all();
            state.script.pop_front()
        };
        let gate = self.0.gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            gate.acquire().await.unwrap().forget();
        }
        match &step {
            Some(Step::Fail(failure)) => return Err(failure.clone()),
            Some(Step::Panic) => panic!("the script demands a panic"),
            Some(Step::Hang) => std::future::pending().await,
            Some(Step::Answer(tokens)) => return Ok(tokens.clone()),
            _ => {}
        }
        let mut state = self.state();
        if state.live.as_ref() != Some(&token) {
            state.replays += 1;
            state.live = None;
            return Err(RefreshFailure::rejected("invalid_grant"));
        }
        if matches!(step, Some(Step::KeepRefreshToken)) {
            state.issued += 1;
            let mut tokens = AuthTokens::new(format!("access-{}", state.issued));
            tokens.expires_at = state.expires;
            return Ok(tokens);
        }
        let tokens = state.issue();
        match step {
            Some(Step::LoseAnswer) => Err(RefreshFailure::ambiguous("the connection broke")),
            _ => Ok(tokens),
        }
    }
}

/// Returns the date that is this many minutes after `from`.
pub fn minutes(from: DateTime<Utc>, minutes: i64) -> DateTime<Utc> {
    from + TimeDelta::minutes(minutes)
}
