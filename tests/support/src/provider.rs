//! A strict authorization server that is part of the test's own process: it rotates the refresh
//! token on every refresh, and ends the session when one is used twice.

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
    /// How many calls may go on, if they are to wait.
    gate: Mutex<Option<Arc<Semaphore>>>,
}

#[derive(Default)]
struct State {
    /// The session's present refresh token; none once the session was ended.
    live: Option<String>,
    issued: u32,
    calls: Vec<String>,
    replays: u32,
    script: VecDeque<Step>,
    expires: Option<DateTime<Utc>>,
}

/// What a call does instead of what it should.
pub enum Step {
    /// It fails, and the token is as it was.
    Fail(RefreshFailure),
    /// The token is spent, and the answer lost.
    LoseAnswer,
    /// The answer has no refresh token; the old one stays good.
    KeepRefreshToken,
    /// It panics.
    Panic,
    /// It never answers.
    Hang,
    /// It answers this.
    Answer(AuthTokens),
}

impl Provider {
    /// A login: tokens whose access token is good until then.
    pub fn sign_in(&self, expires: DateTime<Utc>) -> AuthTokens {
        let mut state = self.state();
        state.expires = Some(expires);
        state.issue()
    }

    /// From now on, what is issued is good until then.
    pub fn issue_until(&self, expires: DateTime<Utc>) {
        self.state().expires = Some(expires);
    }

    /// Says what the next calls do.
    pub fn script(&self, steps: impl IntoIterator<Item = Step>) {
        self.state().script.extend(steps);
    }

    /// Lets calls wait until they are let through.
    pub fn hold(&self) {
        *self.0.gate.lock().unwrap() = Some(Arc::new(Semaphore::new(0)));
    }

    /// Lets all calls through from now on, those that wait included.
    pub fn let_through(&self) {
        if let Some(gate) = self.0.gate.lock().unwrap().take() {
            gate.add_permits(Semaphore::MAX_PERMITS);
        }
    }

    /// Ends the session, as a replay does.
    pub fn revoke(&self) {
        self.state().live = None;
    }

    /// Waits until it was called so often.
    pub fn wait_for_calls(&self, calls: usize) {
        let mut state = self.state();
        while state.calls.len() < calls {
            let (waited, timed_out) =
                self.0.called.wait_timeout(state, Duration::from_secs(60)).unwrap();
            assert!(!timed_out.timed_out(), "it was not called");
            state = waited;
        }
    }

    /// Counts replays anew.
    #[cfg(unix)]
    pub fn forget_replays(&self) {
        self.state().replays = 0;
    }

    /// How often it was called.
    pub fn calls(&self) -> usize {
        self.state().calls.len()
    }

    /// How often a refresh token came that had been spent.
    pub fn replays(&self) -> u32 {
        self.state().replays
    }

    /// Whether these are the tokens that it issued last, and still accepts.
    pub fn accepts(&self, tokens: &AuthTokens) -> bool {
        let refresh = tokens.refresh_token.as_ref().map(|token| token.expose_secret().to_owned());
        refresh.is_some() && refresh == self.state().live
    }

    /// Serves other processes, a line for a line: the refresh token, and what came of it. Returns
    /// where.
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
        // Who was killed before it sent anything.
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
        // Who asked may have been killed.
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
            Some(Step::Panic) => panic!("as the script has it"),
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

/// Minutes from a date on.
pub fn minutes(from: DateTime<Utc>, minutes: i64) -> DateTime<Utc> {
    from + TimeDelta::minutes(minutes)
}
