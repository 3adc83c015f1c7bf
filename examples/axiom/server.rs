//! A server with the API that axiomtrade-rs uses, on a port of this machine.
//!
//! It rotates the refresh token on each use. If a refresh token is sent twice, it ends the session, because
//! one of the two senders may be a thief.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::{BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD};

pub(crate) const EMAIL: &str = "user@example.com";
/// The password as the client sends it. It stands for a hash.
pub(crate) const PASSWORD: &str = "cGFzc3dvcmQtY2FuYXJ5LQ==";

const ACCESS_LIFETIME: u64 = 15 * 60;
const REFRESH_LIFETIME: u64 = 30 * 24 * 60 * 60;

/// The server. It ends with the process.
#[derive(Clone)]
pub(crate) struct Server {
    origin: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// How far the clock was set forward.
    turned: Duration,
    /// The one-time code of each login that has begun.
    logins: HashMap<String, String>,
    mailed: Option<String>,
    sessions: Vec<Session>,
    refreshes: usize,
}

#[derive(Default)]
struct Session {
    /// The access tokens, with the second at which each expires.
    access: Vec<(String, u64)>,
    refresh: String,
    refresh_expires: u64,
    spent: Vec<String>,
    ended: bool,
}

struct Request {
    line: String,
    cookie: Option<(String, String)>,
    body: Vec<u8>,
}

struct Answer {
    status: u16,
    cookies: Vec<String>,
    body: String,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let server = Self { origin: format!("http://{address}"), state: Arc::default() };
        let serving = server.clone();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let server = serving.clone();
                // An error means that the client has closed the connection.
                thread::spawn(move || server.serve(&connection));
            }
        });
        server
    }

    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// Returns the time of this server's clock.
    pub(crate) fn now(&self) -> SystemTime {
        SystemTime::now() + self.state().turned
    }

    pub(crate) fn turn_clock(&self, by: Duration) {
        self.state().turned += by;
    }

    /// Returns the code that was mailed last.
    pub(crate) fn mailed_code(&self) -> String {
        self.state().mailed.clone().unwrap_or_default()
    }

    /// Returns how many refresh requests came.
    pub(crate) fn refreshes(&self) -> usize {
        self.state().refreshes
    }

    fn serve(&self, mut connection: &TcpStream) -> std::io::Result<()> {
        let request = Request::read(connection)?;
        let answer = self.state().answer(&request);
        let Answer { status, cookies, body } = answer;
        let mut text = format!("HTTP/1.1 {status} \r\n");
        for cookie in cookies {
            text += &format!("Set-Cookie: {cookie}; Path=/; HttpOnly; Secure; SameSite=None\r\n");
        }
        text += &format!("Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        connection.write_all(text.as_bytes())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

impl Request {
    fn read(connection: &TcpStream) -> std::io::Result<Self> {
        let mut reader = BufReader::new(connection.take(64 * 1024));
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut request = Self { line: line.trim_end().to_owned(), cookie: None, body: Vec::new() };
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim_end().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => request.body.resize(value.parse().unwrap_or(0), 0),
                "cookie" => {
                    let pair = value.split_once('=');
                    request.cookie = pair.map(|(name, value)| (name.into(), value.into()));
                }
                _ => {}
            }
        }
        reader.read_exact(&mut request.body)?;
        Ok(request)
    }

    fn cookie(&self, wanted: &str) -> Option<&str> {
        let (name, value) = self.cookie.as_ref()?;
        (name == wanted).then_some(value)
    }

    fn json(&self, field: &str) -> Option<String> {
        let json: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        json[field].as_str().map(str::to_owned)
    }
}

impl State {
    fn answer(&mut self, request: &Request) -> Answer {
        let answer = match request.line.as_str() {
            "POST /login-password-v2 HTTP/1.1" => self.begin_login(request),
            "POST /login-otp HTTP/1.1" => self.complete_login(request),
            "POST /refresh-access-token HTTP/1.1" => self.refresh(request),
            "GET /portfolio HTTP/1.1" => self.portfolio(request),
            _ => return Answer { status: 404, cookies: Vec::new(), body: String::new() },
        };
        answer.unwrap_or_else(|| Answer { status: 401, cookies: Vec::new(), body: String::new() })
    }

    fn begin_login(&mut self, request: &Request) -> Option<Answer> {
        let is_right = request.json("email")? == EMAIL && request.json("b64Password")? == PASSWORD;
        if !is_right {
            return None;
        }
        let login = self.jwt(5 * 60);
        let code = format!("{:06}", u32::from_be_bytes(random()) % 1_000_000);
        self.mailed = Some(code.clone());
        let body = serde_json::json!({ "otpJwtToken": login }).to_string();
        self.logins.insert(login, code);
        Some(Answer { status: 200, cookies: Vec::new(), body })
    }

    fn complete_login(&mut self, request: &Request) -> Option<Answer> {
        // Each login allows one guess.
        let code = self.logins.remove(request.cookie("auth-otp-login-token")?)?;
        if request.json("code")? != code {
            return None;
        }
        self.sessions.push(Session::default());
        Some(self.issue(self.sessions.len() - 1))
    }

    fn refresh(&mut self, request: &Request) -> Option<Answer> {
        self.refreshes += 1;
        let token = request.cookie("auth-refresh-token")?;
        if !request.body.is_empty() {
            return None;
        }
        let now = self.seconds();
        let spent = |session: &Session| session.spent.iter().any(|spent| spent == token);
        if let Some(session) = self.sessions.iter_mut().find(|session| spent(session)) {
            session.ended = true;
            return None;
        }
        let is_live = |session: &Session| {
            !session.ended && session.refresh == token && now < session.refresh_expires
        };
        let index = self.sessions.iter().position(is_live)?;
        Some(self.issue(index))
    }

    fn portfolio(&self, request: &Request) -> Option<Answer> {
        let (token, now) = (request.cookie("auth-access-token")?, self.seconds());
        let mut live = self.sessions.iter().filter(|session| !session.ended);
        live.any(|session| session.access.iter().any(|(it, expires)| it == token && now < *expires))
            .then(|| Answer {
                status: 200,
                cookies: Vec::new(),
                body: r#"{"balance":"12.5"}"#.into(),
            })
    }

    fn issue(&mut self, index: usize) -> Answer {
        let (access, refresh) = (self.jwt(ACCESS_LIFETIME), self.jwt(REFRESH_LIFETIME));
        let now = self.seconds();
        let session = &mut self.sessions[index];
        session.access.push((access.clone(), now + ACCESS_LIFETIME));
        session.refresh_expires = now + REFRESH_LIFETIME;
        let old = std::mem::replace(&mut session.refresh, refresh.clone());
        session.spent.push(old);
        let cookies = vec![
            format!("auth-access-token={access}; Max-Age={ACCESS_LIFETIME}"),
            format!("auth-refresh-token={refresh}; Max-Age={REFRESH_LIFETIME}"),
        ];
        Answer { status: 200, cookies, body: String::new() }
    }

    /// Returns a token in the form of a JWT. Its signature ends with `=`, and nobody checks it.
    fn jwt(&self, lifetime: u64) -> String {
        let (iat, id) = (self.seconds(), BASE64_URL_SAFE_NO_PAD.encode(random::<16>()));
        let claims = serde_json::json!({ "iat": iat, "exp": iat + lifetime, "jti": id });
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let signature = BASE64_URL_SAFE.encode(random::<32>());
        format!(
            "{}.{}.{signature}",
            part(r#"{"alg":"HS256","typ":"JWT"}"#),
            part(&claims.to_string())
        )
    }

    fn seconds(&self) -> u64 {
        let now = SystemTime::now() + self.turned;
        now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    bytes
}
