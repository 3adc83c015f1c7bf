mod failure;
mod http;
mod object;
mod provider;

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload, UpdateVersion};
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};

use self::failure::{explain, is_no_object, is_too_often, is_unmet};
use self::provider::Provider;
use crate::error::StoreError;
use crate::key::AgeKey;
use crate::key::seal::MAX_SEALED;
use crate::net::io_runtime;
use crate::net::server_url::{FORM, is_endpoint};
use crate::printable::OneLine;
use crate::stores::shared_slot::{Engine, Found, Row, SharedSlot, keep_in_shared_slot};
use crate::sys::blocking;
use crate::sys::clock;

/// How long one answer may take, including retries. A healthy server needs 0.1 s.
const DEADLINE: Duration = Duration::from_secs(10);

/// The pause before an object is written again after "too many requests". Google accepts one write per second
/// ("Quotas & limits").
const ONE_WRITE: Duration = Duration::from_millis(1100);

/// The most bytes of an object: the ciphertext, and the lines before it.
const LONGEST_OBJECT: usize = MAX_SEALED + 8192;

/// The ending of the name of the object with which conditional writes are tested.
const TRIAL: &str = ".trial";

/// A condition for the test that no object meets.
const NO_VERSION: &str = "\"00000000000000000000000000000000\"";

/// Keeps the tokens of a whole fleet in one object: in S3 or a server with the same protocol, in Google Cloud
/// Storage, or in Azure Blob Storage. This store needs the feature `object-store`:
/// `cargo add tokenkeep --features object-store`. [Fleets](crate::docs::fleets#buckets) shows how to set it
/// up.
///
/// All replicas share the object and the lease in it. One replica refreshes, and the others use the new
/// tokens.
///
/// A write replaces only the version that was read, so the server must support conditional writes. Each
/// process tests this at its first write, with an object next to that of the slot (`KEY.trial`). A server
/// that does not support them is refused.
///
/// Such a server has no clock for a lease. So a replica takes the lease of a lost one only after the object
/// was unchanged for the whole length of the lease, by the replica's own clock.
///
/// The credentials come from the environment:
///
/// | URL | variables | what they must allow |
/// |---|---|---|
/// | `s3://BUCKET/KEY` | `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`; or the role of a pod, a task or an instance | `s3:GetObject`, `s3:PutObject`, and `s3:ListBucket`. Without the last, S3 answers 403 for an object that does not exist |
/// | `gs://BUCKET/KEY` | `GOOGLE_SERVICE_ACCOUNT`; or the service account of the instance | `storage.objects.get`, `create` and `delete` (needed for overwriting) |
/// | `az://CONTAINER/KEY` | `AZURE_STORAGE_ACCOUNT_NAME`, `AZURE_STORAGE_ACCOUNT_KEY`, `AZURE_STORAGE_CLIENT_ID` and the like; or the managed identity | Storage Blob Data Contributor on the container |
///
/// It works on any executor. One thread of this crate does the network I/O of the whole process.
///
/// No object is ever deleted: an emptied slot is an object that says so. A bucket with versioning keeps one
/// old version per refresh. Set a rule that expires old versions.
///
/// # Security
///
/// - The proxy that `HTTPS_PROXY` or `ALL_PROXY` names is used, except for the hosts in `NO_PROXY` and for this
///   machine. It sees the host and the port, and nothing that is sent there.
///   [`without_proxy`](Self::without_proxy) ignores it.
/// - Plain HTTP is used only for a loopback address and for the cloud's own metadata service, whatever the
///   environment says. Every other connection uses TLS.
/// - The body of an answer has at most 272 KiB. An error shows the status of an answer, and nothing else of
///   it.
/// - The credentials of the server are in the memory of the `object_store` crate, which does not wipe them.
/// - The object contains age ciphertext, a count of its changes, and MACs of both and of the object's key, made
///   with the identities of the age key ([how](crate::docs::authentication)). The operator of the server can
///   delete a record, or put an earlier one back. They cannot read or write one, and cannot use the record of
///   one slot for another. What they put there is refused with [`StoreError::NotAuthentic`].
/// - A process that has seen a later state refuses an earlier one with [`StoreError::RolledBack`]. A process
///   that has just started cannot detect it.
/// - Everyone who has one of the identities can write a record. A recovery recipient can only read.
/// - The store keeps the record that it opened last in memory, and does not decrypt it again.
#[derive(Debug)]
pub struct BucketStore(SharedSlot<Arc<Bucket>>);

struct Bucket {
    provider: Provider,
    name: String,
    key: Path,
    endpoint: Option<String>,
    /// Whether it uses the proxy of the environment.
    by_proxy: bool,
    store: OnceCell<Arc<dyn ObjectStore>>,
    /// Is set once the server has passed the test of conditional writes.
    trial: OnceCell<()>,
    watch: Mutex<Option<Watch>>,
}

/// Since when an object has not changed.
#[derive(Debug)]
struct Watch {
    version: UpdateVersion,
    since: Instant,
}

impl BucketStore {
    /// Makes a store for an object: `s3://BUCKET/KEY`, `gs://BUCKET/KEY` or `az://CONTAINER/KEY`.
    ///
    /// All replicas use the same age key. No connection is made yet.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if the URL is not one of these, [`StoreError::InvalidKey`] if the key is a
    /// passphrase alone.
    pub fn new(url: &str, key: AgeKey) -> Result<Self, StoreError> {
        let bucket = Bucket::new(url).ok_or_else(|| StoreError::Unavailable {
            // The URL is not quoted, because it may contain credentials.
            place: "a bucket".into(),
            reason: "its URL is not that of an object".into(),
            advice: "write s3://BUCKET/KEY, gs://BUCKET/KEY or az://CONTAINER/KEY".into(),
        })?;
        let name = bucket.key.to_string();
        SharedSlot::new(Arc::new(bucket), key, &name).map(Self)
    }

    /// Sets the URL of the server, if it is not the provider's own.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if the URL does not consist of a scheme, a host, and maybe a port and a
    /// path.
    ///
    /// # Panics
    ///
    /// Panics if the store was used before.
    pub fn with_endpoint(mut self, url: impl Into<String>) -> Result<Self, StoreError> {
        let url = url.into();
        if !is_endpoint(&url) {
            return Err(StoreError::Unavailable {
                place: self.to_string(),
                // The URL is not quoted, because it may contain credentials.
                reason: "its endpoint is not the URL of a server".into(),
                advice: FORM.into(),
            });
        }
        let bucket = Arc::get_mut(self.0.configure());
        bucket.expect("a store is set up before it is used").endpoint = Some(url);
        Ok(self)
    }

    /// Ignores the proxy that the environment names.
    ///
    /// # Panics
    ///
    /// Panics if the store was used before.
    #[must_use]
    pub fn without_proxy(mut self) -> Self {
        let bucket = Arc::get_mut(self.0.configure());
        bucket.expect("a store is set up before it is used").by_proxy = false;
        self
    }

    /// Tests whether the server supports conditional writes. The first write does the same.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if the server does not support them, or cannot be reached;
    /// [`StoreError::Denied`] if the credentials do not allow the test.
    ///
    /// # Cancel safety
    ///
    /// The server may still do the test. The call can be repeated.
    pub async fn try_conditional_writes(&self) -> Result<(), StoreError> {
        let bucket = self.0.engine().clone();
        let tried = io_runtime::run(async move { bucket.try_conditions().await }).await;
        tried.map_err(|error| error.unavailable(&self.to_string()))?
    }
}

impl fmt::Display for BucketStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.engine().fmt(f)
    }
}

keep_in_shared_slot!(BucketStore);

impl Bucket {
    fn new(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let provider = match scheme {
            "az" => Provider::Azure,
            "gs" => Provider::Google,
            "s3" => Provider::S3,
            _ => return None,
        };
        let (name, key) = rest.split_once('/')?;
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let is_key = |key: &Path| !key.as_ref().is_empty() && !key.as_ref().ends_with(TRIAL);
        let key = Path::parse(key).ok().filter(is_key)?;
        (!name.is_empty() && name.bytes().all(known)).then(|| Self {
            provider,
            name: name.to_owned(),
            key,
            endpoint: None,
            by_proxy: true,
            store: OnceCell::new(),
            trial: OnceCell::new(),
            watch: Mutex::default(),
        })
    }

    async fn store(&self) -> Result<&Arc<dyn ObjectStore>, StoreError> {
        self.store.get_or_try_init(|| self.open()).await
    }

    async fn open(&self) -> Result<Arc<dyn ObjectStore>, StoreError> {
        let (provider, by_proxy) = (self.provider, self.by_proxy);
        let (name, endpoint) = (self.name.clone(), self.endpoint.clone());
        let place = self.to_string();
        // This may read files that the environment names.
        blocking::run(&self.to_string(), move || {
            provider.open(&name, endpoint, by_proxy).map_err(|(reason, advice)| {
                StoreError::Unavailable {
                    place,
                    reason: reason.to_owned(),
                    advice: advice.to_owned(),
                }
            })
        })
        .await
    }

    /// Waits for an answer. The outer error is a timeout, the inner one that of the server.
    async fn answer<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<Result<T, Error>, StoreError> {
        timeout(DEADLINE, work).await.map_err(|_| StoreError::Timeout {
            place: self.to_string(),
            reason: format!("it did not answer within {} seconds", DEADLINE.as_secs()),
            advice: "check whether it can be reached, and whether the environment has \
                     credentials for it"
                .into(),
        })
    }

    async fn put(
        &self,
        key: &Path,
        bytes: Vec<u8>,
        mode: PutMode,
    ) -> Result<Result<(), Error>, StoreError> {
        let (store, payload) = (self.store().await?, PutPayload::from(bytes));
        let put = async {
            loop {
                match store.put_opts(key, payload.clone(), mode.clone().into()).await {
                    Err(error) if is_too_often(&error) => sleep(ONE_WRITE).await,
                    done => return done,
                }
            }
        };
        Ok(self.answer(put).await?.map(drop))
    }

    /// Tests whether conditions are respected, by two writes whose conditions are not met.
    ///
    /// Both must fail as soon as the object exists, even if another process does the same test at the same
    /// time. So the object is not deleted.
    async fn try_conditions(&self) -> Result<(), StoreError> {
        let trial = Path::parse(format!("{}{TRIAL}", self.key)).expect("it is one part longer");
        let note = b"tokenkeep tries here whether this store keeps conditional writes\n";
        let never = UpdateVersion { e_tag: Some(NO_VERSION.into()), version: Some("1".into()) };
        let first = self.put(&trial, note.to_vec(), PutMode::Create).await?;
        let again = self.put(&trial, note.to_vec(), PutMode::Create).await?;
        let other = self.put(&trial, note.to_vec(), PutMode::Update(never)).await?;
        if let Err(error) = first
            && !is_unmet(&error)
        {
            return Err(explain(&error, self));
        }
        for answered in [again, other] {
            match answered {
                Err(error) if is_unmet(&error) => {}
                Err(error) => return Err(explain(&error, self)),
                Ok(()) => {
                    return Err(StoreError::Unavailable {
                        place: self.to_string(),
                        reason: "it does not support conditional writes: it overwrote an object \
                                 although the condition was not met"
                            .into(),
                        advice: "use a server that supports them, or PostgreSQL".into(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Returns how long, by this machine's clock, the object has had this version. `asked` is when the read
    /// that found it was sent.
    fn unchanged_for(&self, version: &UpdateVersion, asked: Instant) -> Duration {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        match &*watch {
            Some(watch) if watch.version == *version => {
                asked.saturating_duration_since(watch.since)
            }
            _ => {
                *watch = Some(Watch { version: version.clone(), since: Instant::now() });
                Duration::ZERO
            }
        }
    }
}

/// Reads an object, and writes it again.
#[cfg(fuzzing)]
pub(crate) fn rewritten(bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
    object::decode(bytes).map(|row| object::encode(&row))
}

impl fmt::Debug for Bucket {
    /// Shows the name only, because the client of the server would show its credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({self})")
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(OneLine(f), "{}://{}/{}", self.provider.scheme(), self.name, self.key)?;
        match &self.endpoint {
            Some(endpoint) => write!(f, " at {endpoint}"),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Engine for Arc<Bucket> {
    type Version = UpdateVersion;

    async fn read(&self) -> Result<Option<Found<UpdateVersion>>, StoreError> {
        let asked = Instant::now();
        let store = self.store().await?;
        let corrupt = |reason: &str| StoreError::Corrupt {
            place: self.to_string(),
            reason: reason.to_owned(),
        };
        let limit = LONGEST_OBJECT;
        let get = async {
            let got = store.get(&self.key).await?;
            let meta = got.meta.clone();
            let is_small = usize::try_from(meta.size).is_ok_and(|size| size <= limit);
            Ok((meta, if is_small { Some(got.bytes().await?) } else { None }))
        };
        let (meta, bytes) = match self.answer(get).await? {
            Err(error) if is_no_object(&error) => return Ok(None),
            answered => answered.map_err(|error| explain(&error, self))?,
        };
        let bytes = bytes.ok_or_else(|| StoreError::TooLarge { place: self.to_string(), limit })?;
        let mut row = object::decode(&bytes).map_err(corrupt)?;
        let version = UpdateVersion { e_tag: meta.e_tag, version: meta.version };
        if version.e_tag.is_none() && version.version.is_none() {
            return Err(corrupt("the server sent no ETag with it"));
        }
        let unchanged = self.unchanged_for(&version, asked);
        if let Some(hold) = &mut row.hold {
            hold.is_over = hold.lasts.is_none_or(|lasts| unchanged >= lasts);
        }
        let written = clock::system_time(meta.last_modified);
        Ok(Some(Found { row, version, written }))
    }

    async fn replace(&self, over: Option<&UpdateVersion>, row: &Row) -> Result<bool, StoreError> {
        self.trial.get_or_try_init(|| self.try_conditions()).await?;
        let mode = over.map_or(PutMode::Create, |version| PutMode::Update(version.clone()));
        match self.put(&self.key, object::encode(row), mode).await? {
            Ok(()) => Ok(true),
            Err(error) if is_unmet(&error) => Ok(false),
            // The object was deleted meanwhile.
            Err(Error::NotFound { .. }) if over.is_some() => Ok(false),
            Err(error) => Err(explain(&error, self)),
        }
    }

    fn slot(&self) -> String {
        self.to_string()
    }
}
