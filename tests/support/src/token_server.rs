//! A strict OAuth 2.0 provider on a port of this machine.
//!
//! It rotates the refresh token on each use. If a token is sent twice, the session ends for all clients, and
//! the answer is `invalid_grant` from then on. The server uses no code of the crate.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
#[cfg(unix)]
use rustls::pki_types::pem::PemObject;
#[cfg(unix)]
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

#[cfg(unix)]
use crate::certificates::{Issued, self_signed};

/// The server. It stops when the process ends.
#[derive(Clone)]
pub struct TokenServer {
    origin: String,
    state: Arc<Mutex<State>>,
}

/// What an endpoint does with its next request, instead of the usual.
pub enum Act {
    /// Sends this answer, and ignores the request.
    Answer { status: u16, headers: Vec<(String, String)>, body: String },
    /// Sends the usual answer with a changed body.
    Change(fn(serde_json::Value) -> serde_json::Value),
    /// Reads and ignores the request, and sends nothing.
    DropRequest,
    /// Does what is requested, which spends a refresh token, and sends nothing.
    DropAnswer,
    /// Sends the usual answer after [`Held::release`], or these bytes.
    Hold(Sender<TcpStream>, Receiver<()>, Option<Vec<u8>>),
    /// Sends the head of the answer and half of its body.
    BreakOff,
    /// Sends the head of an answer, and then a byte now and then until the client gives up.
    Drip,
    /// Sends these bytes, from the status line on, and ignores the request.
    Raw(Vec<u8>),
}

impl Act {
    /// Returns an answer with a JSON body.
    pub fn answer(status: u16, body: &str) -> Self {
        Self::Answer { status, headers: Vec::new(), body: body.to_owned() }
    }

    /// Returns an answer with an error code.
    pub fn error(status: u16, code: &str) -> Self {
        Self::answer(status, &format!(r#"{{"error":"{code}","error_description":"canary"}}"#))
    }

    /// Adds a header to an answer.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }
}

/// A request that waits at the server.
pub struct Held {
    arrived: Receiver<TcpStream>,
    release: Sender<()>,
}

impl Held {
    /// Waits until the request has arrived, and returns its connection. The request is not processed yet.
    pub fn wait(&self) -> TcpStream {
        self.arrived.recv().expect("the server lives")
    }

    /// Lets the server process the request.
    pub fn release(self) {
        // The server may have stopped waiting.
        let _ = self.release.send(());
    }
}

/// A request that the server received.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: BTreeMap<String, String>,
    /// With lower-case names.
    pub headers: BTreeMap<String, String>,
    pub form: BTreeMap<String, String>,
    pub body: String,
}

#[derive(Default)]
struct State {
    /// For each path, what happens to its next requests.
    acts: BTreeMap<&'static str, VecDeque<Act>>,
    requests: Vec<Request>,
    issued: usize,
    /// The session of each refresh token.
    refresh_tokens: BTreeMap<String, usize>,
    sessions: Vec<Session>,
    /// The access tokens that `/api` accepts.
    accepted: BTreeSet<String>,
    revoked: BTreeSet<String>,
    /// The client's id and secret, and whether the secret is sent by HTTP Basic.
    client: Option<(String, String, bool)>,
    /// The error codes that a device gets before it gets tokens.
    device_answers: VecDeque<String>,
    device_codes: BTreeSet<String>,
    /// For each authorization code, its PKCE challenge and its redirect URI.
    codes: BTreeMap<String, (String, String)>,
    denies: bool,
    /// The status and the body of each document, by its path.
    documents: BTreeMap<String, (u16, String)>,
    /// Returns the end of each new secret of a kind.
    mark: Option<fn(&'static str) -> String>,
}

#[derive(Default)]
struct Session {
    current: String,
    ended: bool,
}

/// How the redirect URIs begin that the provider knows.
const REDIRECTS: [&str; 5] = [
    "http://127.0.0.1:",
    "http://[::1]:",
    "http://localhost:",
    "https://app.example/",
    "com.example.app:",
];

/// The time between two bytes of [`Act::Drip`].
const DRIP: std::time::Duration = std::time::Duration::from_millis(500);

/// The lifetime of an access token, in seconds.
pub const LIFETIME: i64 = 3600;

impl TokenServer {
    pub fn start() -> Self {
        Self::listen(
            |address| format!("http://{address}"),
            |server, stream| {
                server.serve(&mut &stream, &stream);
            },
        )
    }

    /// Starts a server with TLS. Returns it and its self-signed certificate.
    #[cfg(unix)]
    pub fn start_with_tls() -> (Self, String) {
        let issued = self_signed("localhost", false);
        (Self::start_with_certificate("localhost", &issued), issued.certificate)
    }

    /// Starts a server with this certificate, whose URLs have this host.
    #[cfg(unix)]
    pub fn start_with_certificate(host: &'static str, issued: &Issued) -> Self {
        let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let config = Arc::new(config);
        let origin = |address: SocketAddr| format!("https://{host}:{}", address.port());
        Self::listen(origin, move |server, stream| {
            let tls = rustls::ServerConnection::new(config.clone()).unwrap();
            let tcp = stream.try_clone().unwrap();
            server.serve(&mut rustls::StreamOwned::new(tls, stream), &tcp);
        })
    }

    fn listen(
        origin: impl Fn(SocketAddr) -> String,
        serve: impl Fn(&Self, TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = origin(listener.local_addr().unwrap());
        let server = Self { origin, state: Arc::default() };
        let (serving, serve) = (server.clone(), Arc::new(serve));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (server, serve) = (serving.clone(), serve.clone());
                thread::spawn(move || serve(&server, stream.unwrap()));
            }
        });
        server
    }

    /// Returns a URL of this server, such as `url("/token")`.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    pub fn token_url(&self) -> String {
        self.url("/token")
    }

    /// Starts a session. Returns its access token and its refresh token.
    pub fn issue(&self) -> (String, String) {
        let mut state = self.state();
        state.sessions.push(Session::default());
        let session = state.sessions.len() - 1;
        state.rotate(session)
    }

    /// Rotates the refresh token that was issued last, so that its holder has a spent one.
    #[cfg(unix)]
    pub fn spend(&self) {
        let mut state = self.state();
        let session = state.sessions.len() - 1;
        state.rotate(session);
    }

    /// Sets what the token endpoint does with its next requests, one act for each.
    pub fn script(&self, acts: impl IntoIterator<Item = Act>) {
        self.script_at("/token", acts);
    }

    /// Sets what another endpoint does with its next requests, one act for each.
    pub fn script_at(&self, path: &'static str, acts: impl IntoIterator<Item = Act>) {
        self.state().acts.entry(path).or_default().extend(acts);
    }

    /// Makes the next request to the token endpoint wait.
    pub fn hold(&self) -> Held {
        self.hold_until(None)
    }

    /// Makes the next request to the token endpoint wait. Then it gets this answer, from the status line on.
    #[cfg(unix)]
    pub fn hold_with(&self, answer: Vec<u8>) -> Held {
        self.hold_until(Some(answer))
    }

    fn hold_until(&self, answer: Option<Vec<u8>>) -> Held {
        let (arrive, arrived) = channel();
        let (release, released) = channel();
        self.script([Act::Hold(arrive, released, answer)]);
        Held { arrived, release }
    }

    /// From now on a client must send this id and secret, by HTTP Basic or in the body.
    pub fn require_client(&self, id: &str, secret: &str, basic: bool) {
        self.state().client = Some((id.to_owned(), secret.to_owned(), basic));
    }

    /// Sets what is answered to a GET of this path, and to each request for `/register`.
    pub fn publish(&self, path: &str, status: u16, body: &str) {
        self.state().documents.insert(path.to_owned(), (status, body.to_owned()));
    }

    /// Returns metadata of this issuer, with the endpoints of this server.
    pub fn metadata(&self, issuer: &str) -> String {
        let metadata = serde_json::json!({
            "issuer": issuer,
            "authorization_endpoint": self.url("/authorize"),
            "device_authorization_endpoint": self.url("/device"),
            "revocation_endpoint": self.url("/revoke"),
            "token_endpoint": self.url("/token"),
            "scopes_supported": ["openid", "offline_access"],
        });
        metadata.to_string()
    }

    /// Returns the paths of all requests for documents, in the order of their arrival.
    pub fn looked_up(&self) -> Vec<String> {
        let requests = self.requests().into_iter();
        requests.map(|request| request.path).filter(|path| path.contains("/.well-known/")).collect()
    }

    /// Sets the error codes that a device gets before it gets tokens.
    pub fn device_hears<'a>(&self, codes: impl IntoIterator<Item = &'a str>) {
        self.state().device_answers.extend(codes.into_iter().map(str::to_owned));
    }

    /// From now on each new secret ends with the text that `mark` returns for its kind.
    #[allow(dead_code, reason = "only tests that look for secrets everywhere use it")]
    pub fn mark(&self, mark: fn(&'static str) -> String) {
        self.state().mark = Some(mark);
    }

    /// From now on the person at the browser refuses the sign-in.
    pub fn deny(&self) {
        self.state().denies = true;
    }

    /// From now on `/api` refuses all access tokens that were issued before.
    pub fn forget_access_tokens(&self) {
        self.state().accepted.clear();
    }

    /// Returns the number of requests to the token endpoint.
    pub fn calls(&self) -> usize {
        self.requests().iter().filter(|request| request.path == "/token").count()
    }

    /// Waits until the server has issued secrets `count` times.
    #[cfg(unix)]
    pub fn wait_for_issued(&self, count: usize) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while self.state().issued < count {
            assert!(std::time::Instant::now() < deadline, "too little was issued");
            thread::yield_now();
        }
    }

    /// Returns all requests, in the order of their arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// Returns all refresh tokens that were sent to the token endpoint, in the order of their arrival.
    pub fn received(&self) -> Vec<String> {
        let requests = self.requests();
        let refreshes = requests.iter().filter(|request| request.path == "/token");
        refreshes.filter_map(|request| request.form.get("refresh_token").cloned()).collect()
    }

    /// Returns whether a session was ended, because a refresh token was sent twice or was revoked.
    pub fn has_ended_a_session(&self) -> bool {
        self.state().sessions.iter().any(|session| session.ended)
    }

    /// Returns whether this token was revoked at the revocation endpoint.
    pub fn is_revoked(&self, token: &str) -> bool {
        self.state().revoked.contains(token)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Answers one request. Then the connection ends.
    fn serve(&self, stream: &mut (impl Read + Write), tcp: &TcpStream) {
        let Some(request) = Request::read(&mut BufReader::new(&mut *stream)) else { return };
        self.state().requests.push(request.clone());
        let act = self.state().acts.get_mut(&*request.path).and_then(VecDeque::pop_front);
        let mut answer = match &act {
            Some(Act::Answer { status, headers, body }) => {
                let mut answer = Answer::json(*status, body.clone());
                answer.headers.extend(headers.iter().cloned());
                answer
            }
            Some(Act::DropRequest) => return,
            Some(Act::Raw(bytes)) => {
                // The client may have closed the connection.
                let _ = stream.write_all(bytes);
                return;
            }
            Some(Act::Hold(arrive, release, answer)) => {
                arrive.send(tcp.try_clone().unwrap()).unwrap();
                let _ = release.recv();
                if let Some(bytes) = answer {
                    let _ = stream.write_all(bytes);
                    return;
                }
                self.state().answer(&request, &self.origin)
            }
            Some(Act::Drip) => {
                let head = "HTTP/1.1 200 Whatever\r\nContent-Length: 9999\r\n\r\n{";
                let mut sent = stream.write_all(head.as_bytes());
                while sent.is_ok() {
                    thread::sleep(DRIP);
                    sent = stream.write_all(b" ");
                }
                return;
            }
            _ => self.state().answer(&request, &self.origin),
        };
        match act {
            Some(Act::DropAnswer) => return,
            Some(Act::Change(change)) => {
                let body = serde_json::from_str(&answer.body).unwrap();
                answer.body = change(body).to_string();
            }
            _ => {}
        }
        let whole = answer.to_text();
        let end = match act {
            Some(Act::BreakOff) => whole.len() - answer.body.len() / 2,
            _ => whole.len(),
        };
        // The client may have closed the connection.
        let _ = stream.write_all(&whole.as_bytes()[..end]);
    }
}

impl State {
    fn marked(&self, kind: &'static str) -> String {
        let mark = self.mark.map_or_else(String::new, |mark| mark(kind));
        format!("{kind}-canary-{}{mark}", self.issued)
    }

    /// Issues the next tokens of a session.
    fn rotate(&mut self, session: usize) -> (String, String) {
        self.issued += 1;
        let (access, refresh) = (self.marked("access"), self.marked("refresh"));
        self.refresh_tokens.insert(refresh.clone(), session);
        self.accepted.insert(access.clone());
        self.sessions[session].current.clone_from(&refresh);
        (access, refresh)
    }

    fn answer(&mut self, request: &Request, origin: &str) -> Answer {
        let host = origin.split_once("://").map(|(_, host)| host);
        if request.headers.get("host").map(String::as_str) != host {
            return Answer::json(421, String::new());
        }
        if matches!((request.method.as_str(), request.path.as_str()), ("GET", _) | (_, "/register"))
            && let Some((status, body)) = self.documents.get(&request.path)
        {
            return Answer::json(*status, body.clone());
        }
        match (request.method.as_str(), request.path.as_str()) {
            ("POST", "/token") => self.token(request),
            ("POST", "/device") => self.device(request, origin),
            ("GET", "/authorize") => self.authorize(request),
            ("POST", "/revoke") => self.revoke(request),
            (_, "/api") => self.api(request),
            _ => Answer::json(404, String::new()),
        }
    }

    fn token(&mut self, request: &Request) -> Answer {
        if request.headers.get("content-type").map(String::as_str)
            != Some("application/x-www-form-urlencoded")
        {
            return Answer::error("invalid_request");
        }
        if !self.knows_client(request) {
            return Answer::error_with(401, "invalid_client");
        }
        let field = |name: &str| request.form.get(name).map_or("", String::as_str);
        let session = match field("grant_type") {
            "refresh_token" => {
                let token = field("refresh_token");
                let Some(&session) = self.refresh_tokens.get(token) else {
                    return Answer::error("invalid_grant");
                };
                if self.sessions[session].ended || self.sessions[session].current != token {
                    // There is a copy of the token. The server cannot know who is the thief.
                    self.sessions[session].ended = true;
                    return Answer::error("invalid_grant");
                }
                session
            }
            "authorization_code" => {
                let Some((challenge, redirect)) = self.codes.remove(field("code")) else {
                    return Answer::error("invalid_grant");
                };
                let verifier = field("code_verifier");
                let digest = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
                let is_proved = (43..=128).contains(&verifier.len()) && digest == challenge;
                if !is_proved || field("redirect_uri") != redirect {
                    return Answer::error("invalid_grant");
                }
                self.start_session()
            }
            "urn:ietf:params:oauth:grant-type:device_code" => {
                if !self.device_codes.contains(field("device_code")) {
                    return Answer::error("invalid_grant");
                }
                if let Some(code) = self.device_answers.pop_front() {
                    return Answer::error(&code);
                }
                self.device_codes.remove(field("device_code"));
                self.start_session()
            }
            _ => return Answer::error("unsupported_grant_type"),
        };
        let (access, refresh) = self.rotate(session);
        let body = serde_json::json!({
            "access_token": access,
            "expires_in": LIFETIME,
            "id_token": self.mark.map_or_else(|| "id-canary".to_owned(), |mark| mark("id")),
            "refresh_token": refresh,
            "scope": "read offline_access",
            "token_type": "Bearer",
        });
        Answer::json(200, body.to_string())
    }

    fn start_session(&mut self) -> usize {
        self.sessions.push(Session::default());
        self.sessions.len() - 1
    }

    fn knows_client(&self, request: &Request) -> bool {
        let Some((id, secret, basic)) = &self.client else { return true };
        if *basic {
            let expected = format!("Basic {}", BASE64_STANDARD.encode(format!("{id}:{secret}")));
            request.headers.get("authorization") == Some(&expected)
                && !request.form.contains_key("client_secret")
        } else {
            request.form.get("client_id") == Some(id)
                && request.form.get("client_secret") == Some(secret)
                && !request.headers.contains_key("authorization")
        }
    }

    fn device(&mut self, request: &Request, origin: &str) -> Answer {
        if !self.knows_client(request) {
            return Answer::error_with(401, "invalid_client");
        }
        self.issued += 1;
        let code = self.marked("device");
        self.device_codes.insert(code.clone());
        let body = serde_json::json!({
            "device_code": code,
            "expires_in": 600,
            "interval": 5,
            "user_code": "WDJB-MJHT",
            "verification_uri": format!("{origin}/device"),
        });
        Answer::json(200, body.to_string())
    }

    /// The person at the browser allows the sign-in at once, or refuses it.
    fn authorize(&mut self, request: &Request) -> Answer {
        let field = |name: &str| request.query.get(name).map_or("", String::as_str);
        let redirect = field("redirect_uri");
        let is_right = field("response_type") == "code"
            && field("code_challenge_method") == "S256"
            && field("code_challenge").len() == 43
            && field("state").len() >= 16
            && REDIRECTS.iter().any(|start| redirect.starts_with(start));
        if !is_right {
            return Answer::error("invalid_request");
        }
        self.issued += 1;
        let code = self.marked("code");
        let answer = if self.denies {
            "error=access_denied&error_description=canary".to_owned()
        } else {
            format!("code={code}")
        };
        self.codes.insert(code, (field("code_challenge").to_owned(), redirect.to_owned()));
        let mut found = Answer::json(302, String::new());
        found
            .headers
            .push(("Location".into(), format!("{redirect}?{answer}&state={}", field("state"))));
        found
    }

    /// An API that needs an access token.
    fn api(&self, request: &Request) -> Answer {
        let authorization = request.headers.get("authorization");
        let token = authorization.and_then(|it| it.strip_prefix("Bearer "));
        let is_known = token.is_some_and(|token| self.accepted.contains(token));
        Answer::json(if is_known { 200 } else { 401 }, "{}".to_owned())
    }

    fn revoke(&mut self, request: &Request) -> Answer {
        if !self.knows_client(request) {
            return Answer::error_with(401, "invalid_client");
        }
        let token = request.form.get("token").cloned().unwrap_or_default();
        if let Some(&session) = self.refresh_tokens.get(&token) {
            self.sessions[session].ended = true;
        }
        self.revoked.insert(token);
        // An unknown token is no error (RFC 7009, 2.2).
        Answer { status: 200, headers: Vec::new(), body: String::new() }
    }
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    fn json(status: u16, body: String) -> Self {
        let headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
        Self { status, headers, body }
    }

    fn error(code: &str) -> Self {
        Self::error_with(400, code)
    }

    fn error_with(status: u16, code: &str) -> Self {
        Self::json(status, format!(r#"{{"error":"{code}"}}"#))
    }

    fn to_text(&self) -> String {
        let mut text = format!("HTTP/1.1 {} Whatever\r\nConnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        text + &format!("Content-Length: {}\r\n\r\n{}", self.body.len(), self.body)
    }
}

impl Request {
    /// Reads a request. Returns `None` if the client closed the connection before.
    fn read(stream: &mut impl BufRead) -> Option<Self> {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let mut words = line.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let body = String::from_utf8(body).ok()?;
        let form = fields(&body);
        Some(Self { method, path: path.to_owned(), query: fields(query), headers, form, body })
    }
}

/// Splits form-encoded fields.
fn fields(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => other,
        });
    }
    String::from_utf8(bytes).unwrap()
}

/// Fetches a page as a browser does. Returns the status, the `Location` and the body.
pub fn fetch(url: &str) -> (u16, Option<String>, String) {
    let (address, target) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /{target} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let location = head.lines().find_map(|line| line.strip_prefix("Location: "));
    (status, location.map(str::to_owned), body.to_owned())
}
