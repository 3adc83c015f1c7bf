//! A tower layer: each request to a known server carries a token that is valid now.

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

/// Puts `Authorization: Bearer …` into requests to the servers that it was given, and into no other.
///
/// On a 401 it tells the manager so, and sends the request again, once, if that brings another token.
/// If it does not, the 401 is returned as it came. The body has to be `Clone`, as `Bytes` and
/// `String` are, because it may be sent twice.
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
/// Its services fail as the manager does ([`AuthError`](crate::AuthError), before anything is sent), or
/// as the service below.
///
/// # Security
///
/// A server is a scheme, a host and a port, and all three have to match; the scheme has to be `https`,
/// but for an address of this machine's own. A request that has an `Authorization` header already is
/// somebody else's business: it is sent as it is, and a 401 to it as well. The header is marked as
/// sensitive, which keeps it out of `Debug` and of HTTP/2's compression, and wiped. The service below
/// makes copies of it, and should not follow redirects to other hosts with it; reqwest takes it out.
#[derive(Clone)]
pub struct BearerLayer {
    manager: TokenManager,
    origins: Arc<Vec<Origin>>,
}

impl BearerLayer {
    /// Starts with no server: nothing gets a token.
    #[must_use]
    pub fn new(manager: TokenManager) -> Self {
        Self { manager, origins: Arc::default() }
    }

    /// Adds a server: `https://api.example`, `https://api.example:8443`, `http://127.0.0.1:8080`.
    ///
    /// # Errors
    ///
    /// [`InvalidOrigin`] if it is more than a server, or one that must not get a token.
    pub fn with_origin(mut self, origin: &str) -> Result<Self, InvalidOrigin> {
        Arc::make_mut(&mut self.origins).push(origin.parse()?);
        Ok(self)
    }

    /// Whether this request is to carry the token.
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
        // The one that was asked whether it is ready is the one that is.
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
                    // Its connection may be what the next request needs.
                    drop(response);
                    poll_fn(|context| inner.poll_ready(context)).await.map_err(Into::into)?;
                    inner.call(with(&fresh, request)?).await.map_err(Into::into)
                }
                // The server's word counts; whoever asks the manager next hears its reason.
                _ => Ok(response),
            }
        })
    }
}

/// Puts the token into a request.
fn with<B>(token: &AccessToken, mut request: Request<B>) -> Result<Request<B>, BoxError> {
    #[expect(clippy::disallowed_methods, reason = "it goes to a server that it is meant for")]
    let value = Zeroizing::new(["Bearer ", token.expose_secret()].concat().into_bytes());
    let value = HeaderValue::from_maybe_shared(Bytes::from_owner(value));
    let mut value = value.map_err(|_| "the access token has characters that no header may have")?;
    value.set_sensitive(true);
    request.headers_mut().insert(AUTHORIZATION, value);
    Ok(request)
}
