//! A tower layer that adds a valid access token to each request to a known server.
//! This module needs the feature `tower`: `cargo add tokenkeep --features tower`.
//! [Providers](crate::docs::providers#put-the-token-into-requests) shows an example.

mod origin;

use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, Response, StatusCode};
use tower_layer::Layer;
use tower_service::Service;
use zeroize::Zeroizing;

pub use self::origin::InvalidOrigin;
use self::origin::Origin;
use crate::manager::TokenManager;
use crate::tokens::AccessToken;

type BoxError = Box<dyn Error + Send + Sync>;

/// Adds `Authorization: Bearer …` to requests to the servers that it knows, and to no other requests.
///
/// Each token is sent as a bearer token (RFC 6750), whatever its
/// [`token_type`](crate::AuthTokens::token_type).
///
/// After a 401, the token is invalidated. If the manager then returns another token, the request is sent once
/// more. If it does not, the 401 is returned unchanged. The body must be `Clone`, like `Bytes` and `String`,
/// because it may be sent twice.
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use tokenkeep::TokenManager;
/// use tokenkeep::tower::{BearerLayer, InvalidOrigin};
/// use tower::{Service, ServiceBuilder};
///
/// fn client(
///     manager: TokenManager,
/// ) -> Result<impl Service<Request<Bytes>, Response = Response<reqwest::Body>>, InvalidOrigin> {
///     let layer = BearerLayer::new(manager).with_origin("https://api.example")?;
///     Ok(ServiceBuilder::new()
///         .layer(layer)
///         .map_request(|request: Request<Bytes>| {
///             reqwest::Request::try_from(request).expect("it has an absolute URL")
///         })
///         .map_response(|response: reqwest::Response| response.into())
///         .service(reqwest::Client::new()))
/// }
/// ```
///
/// # Errors
///
/// Its services return the errors of the manager ([`AuthError`](crate::AuthError), before anything is sent)
/// and of the inner service.
///
/// # Security
///
/// - A server is a scheme, a host and a port. All three must match. The scheme must be `https`, except for a
///   loopback address. A pattern like `*.example` is refused.
/// - A request that already has an `Authorization` header is sent unchanged, and a 401 to it is returned
///   unchanged.
/// - The header is marked as sensitive, so `Debug` does not show it and HTTP/2 does not compress it. It is
///   wiped.
/// - The inner service makes copies of the header. It should not send it to other hosts when it follows a
///   redirect. reqwest removes it.
#[derive(Clone)]
pub struct BearerLayer {
    manager: TokenManager,
    origins: Arc<Vec<Origin>>,
}

impl BearerLayer {
    /// Makes a layer that knows no server, so no request gets a token.
    #[must_use]
    pub fn new(manager: TokenManager) -> Self {
        Self { manager, origins: Arc::default() }
    }

    /// Adds a server: `https://api.example`, `https://api.example:8443`, `http://127.0.0.1:8080`.
    ///
    /// # Errors
    ///
    /// [`InvalidOrigin`] if the text is more than a server, or a server that must not get a token.
    pub fn with_origin(mut self, origin: &str) -> Result<Self, InvalidOrigin> {
        Arc::make_mut(&mut self.origins).push(origin.parse()?);
        Ok(self)
    }

    /// Returns whether to add the token to this request.
    fn is_for<B>(&self, request: &Request<B>) -> bool {
        let is_known = Origin::of(request.uri()).is_some_and(|it| self.origins.contains(&it));
        is_known && !request.headers().contains_key(AUTHORIZATION)
    }
}

impl fmt::Debug for BearerLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerLayer")
            .field("manager", &self.manager)
            .field("origins", &self.origins)
            .finish()
    }
}

impl<S> Layer<S> for BearerLayer {
    type Service = Bearer<S>;

    fn layer(&self, inner: S) -> Bearer<S> {
        Bearer { inner, layer: self.clone() }
    }
}

/// The service that a [`BearerLayer`] makes.
#[derive(Clone, Debug)]
pub struct Bearer<S> {
    inner: S,
    layer: BearerLayer,
}

impl<S, B, R> Service<Request<B>> for Bearer<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Clone + Send + 'static,
    R: Send,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // `poll_ready` was called on `self.inner`, so that service is used. Its clone may not be ready.
        let next = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, next);
        if !self.layer.is_for(&request) {
            let response = inner.call(request);
            return Box::pin(async { response.await.map_err(Into::into) });
        }
        let manager = self.layer.manager.clone();
        Box::pin(async move {
            let token = manager.get_access_token().await?;
            let response = inner.call(with(&token, request.clone())?).await.map_err(Into::into)?;
            if response.status() != StatusCode::UNAUTHORIZED {
                return Ok(response);
            }
            manager.invalidate(&token);
            match manager.get_access_token().await {
                Ok(fresh) if fresh != token => {
                    // The next request may need its connection.
                    drop(response);
                    poll_fn(|context| inner.poll_ready(context)).await.map_err(Into::into)?;
                    inner.call(with(&fresh, request)?).await.map_err(Into::into)
                }
                // The server's answer counts. The next call of the manager returns its error.
                _ => Ok(response),
            }
        })
    }
}

/// Adds the token to a request.
fn with<B>(token: &AccessToken, mut request: Request<B>) -> Result<Request<B>, BoxError> {
    #[expect(clippy::disallowed_methods, reason = "it goes to a server that it is meant for")]
    let value = Zeroizing::new(["Bearer ", token.expose_secret()].concat().into_bytes());
    let value = HeaderValue::from_maybe_shared(Bytes::from_owner(value));
    let mut value = value.map_err(
        |_| "the access token has characters that a header cannot contain; sign in again",
    )?;
    value.set_sensitive(true);
    request.headers_mut().insert(AUTHORIZATION, value);
    Ok(request)
}
