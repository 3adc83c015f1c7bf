//! Calls the dependencies alone, as their documentation says, with buffers that are wiped.

use std::io::{Read, Write};

use tokenkeep::secrecy::ExposeSecret;
use zeroize::Zeroizing;

use crate::{secret, tokens};

pub(crate) async fn call(what: &str, object: &str) {
    match what {
        "bare-age-seal" => seal(),
        "bare-age-open" => open(object),
        "bare-oauth2" => oauth2(object, false).await,
        "bare-oauth2-code" => oauth2(object, true).await,
        "bare-postgres" => postgres(object).await,
        "bare-serde-json" => {
            let json = Zeroizing::new(escaped());
            drop(Zeroizing::new(serde_json::from_str::<String>(&json).unwrap()));
        }
        _ => panic!("unknown order {what}"),
    }
}

/// Returns a JSON string with an escape in the middle.
fn escaped() -> String {
    let text = secret("ACCESS");
    let (start, end) = text.expose_secret().split_at(30);
    let mut json = String::with_capacity(64);
    json.extend(["\"", start, "\\/", end, "\""]);
    json
}

fn seal() {
    let recipient = age::x25519::Identity::generate().to_public();
    let recipients = std::iter::once(&recipient as &dyn age::Recipient);
    let encryptor = age::Encryptor::with_recipients(recipients).unwrap();
    let record = tokens().to_record("nowhere").unwrap();
    let mut sealed = Vec::with_capacity(64 * 1024);
    let mut writer = encryptor.wrap_output(&mut sealed).unwrap();
    writer.write_all(record.expose_secret().as_bytes()).unwrap();
    writer.finish().unwrap();
}

fn open(sealed: &str) {
    let identity: age::x25519::Identity = secret("IDENTITY").expose_secret().parse().unwrap();
    let sealed = std::fs::read(sealed).unwrap();
    let decryptor = age::Decryptor::new_buffered(&sealed[..]).unwrap();
    let mut reader = decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity)).unwrap();
    let mut plain = Zeroizing::new(vec![0; sealed.len()]);
    let mut filled = 0;
    loop {
        match reader.read(&mut plain[filled..]).unwrap() {
            0 => break,
            count => filled += count,
        }
    }
}

/// Connects with a password, and disconnects.
async fn postgres(url: &str) {
    let mut config: tokio_postgres::Config = url.parse().unwrap();
    config.password(secret("PASSWORD").expose_secret());
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.simple_query("SELECT 1").await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
}

/// Uses the `oauth2` crate with hyper, as the documentation of both says.
async fn oauth2(token_url: &str, by_code: bool) {
    use http_body_util::BodyExt;
    use hyper_util::rt::TokioIo;

    async fn send(request: oauth2::HttpRequest) -> Result<oauth2::HttpResponse, std::io::Error> {
        let authority = request.uri().authority().unwrap().clone();
        let stream = tokio::net::TcpStream::connect(authority.as_str()).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let (mut parts, body) = request.into_parts();
        parts.headers.insert("host", authority.as_str().parse().unwrap());
        parts.uri = parts.uri.path().parse().unwrap();
        let body = bytes::Bytes::from_owner(Zeroizing::new(body));
        let request = http::Request::from_parts(parts, http_body_util::Full::new(body));
        let response = sender.send_request(request).await.unwrap();
        let mut body = Vec::with_capacity(64 * 1024);
        let mut incoming = response.into_body();
        while let Some(frame) = incoming.frame().await {
            body.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        drop(sender);
        let _ = connection.await;
        Ok(http::Response::new(body))
    }

    let secret_of = |name: &str| secret(name).expose_secret().to_owned();
    let client = oauth2::basic::BasicClient::new(oauth2::ClientId::new("app".into()))
        .set_client_secret(oauth2::ClientSecret::new(secret_of("CLIENT")))
        .set_token_uri(oauth2::TokenUrl::new(token_url.into()).unwrap());
    if by_code {
        let code = oauth2::AuthorizationCode::new(secret_of("code"));
        let (_, verifier) = oauth2::PkceCodeChallenge::new_random_sha256();
        let back = oauth2::RedirectUrl::new("http://127.0.0.1:40000/callback".into()).unwrap();
        let exchange = client.exchange_code(code).set_pkce_verifier(verifier);
        let exchange = exchange.set_redirect_uri(std::borrow::Cow::Owned(back));
        exchange.request_async(&send).await.unwrap();
        return;
    }
    let token = oauth2::RefreshToken::new(secret_of("REFRESH"));
    client.exchange_refresh_token(&token).request_async(&send).await.unwrap();
}
