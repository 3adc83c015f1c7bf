//! Sends a form of the `oauth2` crate with what this client adds to it: parameters of the provider, and the
//! client's assertion.

use std::pin::Pin;
use std::sync::Arc;

use http::Response;
use oauth2::url::form_urlencoded::byte_serialize;
use oauth2::{AsyncHttpClient, HttpRequest, HttpResponse};
use zeroize::Zeroizing;

use super::OAuth2Client;
use super::assertion::{ASSERTION_TYPE, PrivateKeyJwt};
use super::failure::Failed;
use super::http::{Http, Reply};
use super::parameters::Pairs;
use crate::sys::clock::Clock;

/// Sends forms to one endpoint of the provider.
#[derive(Clone)]
pub(super) struct FormClient {
    http: Http,
    added: Arc<Pairs>,
    assertion: Option<Arc<Assertion>>,
}

/// What an assertion is made from. Each request gets one of its own.
struct Assertion {
    key: PrivateKeyJwt,
    client_id: String,
    provider: String,
    clock: Arc<Clock>,
}

impl OAuth2Client {
    /// Sends forms with `http`, each with these parameters and the client's assertion.
    pub(super) fn forms<'p>(
        &self,
        http: Http,
        added: impl Iterator<Item = (&'p str, &'p str)>,
    ) -> FormClient {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        // RFC 7523 (3) leaves it to the provider. Its successor wants the issuer (draft-ietf-oauth-rfc7523bis).
        let issuer = self.issuer.as_ref().map(|issuer| issuer.url.as_str());
        let provider = issuer.unwrap_or(self.token_url.as_str());
        let assertion = self.private_key.as_ref().map(|key| {
            Arc::new(Assertion {
                key: key.clone(),
                client_id: self.client_id.to_string(),
                provider: provider.to_owned(),
                clock: self.clock.clone(),
            })
        });
        FormClient { http, added: Arc::new(added.map(owned).collect()), assertion }
    }
}

impl FormClient {
    /// Sends a request, and returns the answer if it is a success.
    pub(super) async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, Failed> {
        self.http.exchange(self.complete(request)?).await
    }

    /// Sends a request for tokens, and returns the answer if it has any.
    async fn obtain(&self, request: HttpRequest) -> Result<HttpResponse, Failed> {
        let place = request.uri().authority().map_or_else(String::new, ToString::to_string);
        Ok(Response::new(self.send(request, &place).await?.judge_tokens(&place)?))
    }

    /// Sends a request to a server with this name, and returns any answer.
    pub(super) async fn send(&self, request: HttpRequest, place: &str) -> Result<Reply, Failed> {
        self.http.send(self.complete(request)?, place).await
    }

    /// Adds to a request what belongs in its form.
    fn complete(&self, mut request: HttpRequest) -> Result<HttpRequest, Failed> {
        let mut added: Vec<(&str, &str)> =
            self.added.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let assertion = self
            .assertion
            .as_ref()
            .map(|it| it.key.sign(&it.client_id, &it.provider, it.clock.now()));
        let assertion = assertion.transpose()?;
        if let Some(assertion) = &assertion {
            added.push(("client_assertion_type", ASSERTION_TYPE));
            added.push(("client_assertion", assertion.as_str()));
        }
        if !added.is_empty() {
            let body = Zeroizing::new(std::mem::take(request.body_mut()));
            *request.body_mut() = with_fields(&body, &added);
        }
        Ok(request)
    }
}

/// Requests tokens.
impl<'c> AsyncHttpClient<'c> for FormClient {
    type Error = Failed;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, Failed>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.obtain(request))
    }
}

/// Returns the form with more fields.
fn with_fields(form: &[u8], fields: &[(&str, &str)]) -> Vec<u8> {
    // A byte becomes 3 at most. The buffer has its full size, so it does not grow and leave copies behind.
    let more: usize = fields.iter().map(|(name, value)| 3 * (name.len() + value.len()) + 2).sum();
    let mut whole = Vec::with_capacity(form.len() + more);
    whole.extend_from_slice(form);
    for (name, value) in fields {
        if !whole.is_empty() {
            whole.push(b'&');
        }
        whole.extend(byte_serialize(name.as_bytes()).flat_map(str::bytes));
        whole.push(b'=');
        whole.extend(byte_serialize(value.as_bytes()).flat_map(str::bytes));
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_added_in_order_and_escaped() {
        let fields = [("resource", "https://a.example/x y"), ("resource", "b&c=d"), ("ä", "1")];
        let added = "resource=https%3A%2F%2Fa.example%2Fx+y&resource=b%26c%3Dd&%C3%A4=1";
        assert_eq!(with_fields(b"a=b", &fields), format!("a=b&{added}").as_bytes());
        assert_eq!(with_fields(b"", &fields), added.as_bytes());
        let whole = with_fields(b"a=b", &fields);
        assert!(whole.len() <= whole.capacity());
    }
}
