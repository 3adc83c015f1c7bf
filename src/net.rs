//! Helpers for network I/O.

#[cfg(any(feature = "oauth2", feature = "object-store", feature = "postgres"))]
pub(crate) mod certificate;
#[cfg(any(feature = "oauth2", feature = "object-store"))]
pub(crate) mod connect;
#[cfg(any(feature = "oauth2", feature = "object-store", feature = "postgres"))]
pub(crate) mod io_runtime;
#[cfg(any(feature = "oauth2", feature = "object-store", feature = "postgres", feature = "tower"))]
pub(crate) mod loopback;
#[cfg(any(feature = "oauth2", feature = "object-store"))]
pub(crate) mod proxy;
pub(crate) mod server_url;
#[cfg(any(feature = "oauth2", feature = "object-store"))]
pub(crate) mod tls;
#[cfg(any(feature = "oauth2", feature = "object-store"))]
pub(crate) mod unreached;
