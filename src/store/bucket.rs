mod http;
mod object;

use std::error::Error as _;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{
    BackoffConfig, Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig,
    UpdateVersion,
};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use self::http::{Connector, METADATA, NotReached};
use crate::blocking;
use crate::error::StoreError;
use crate::fleet::{Engine, FleetSlot, Found, Row, keep_in_fleet_slot};
use crate::key::AgeKey;
use crate::seal::MAX_SEALED;

/// How long one answer may take, tries after an error included. A good store needs a tenth of a second.
const DEADLINE: Duration = Duration::from_secs(10);

/// What is added to the ciphertext in an object, at most.
const HEAD: usize = 8192;

/// The condition that a trial asks for, which no object meets.
const NO_VERSION: &str = "\"00000000000000000000000000000000\"";

/// Keeps the tokens of a whole fleet in one object: in S3 and what speaks its protocol, in Google Cloud
/// Storage, or in Azure Blob Storage.
///
/// Its replicas share the object, which has the lease and the note of a refresh in it: one of them
/// refreshes, and the others notice. A write is done only over the very version that was read, so the
/// store must keep conditional writes; that is tried at the first write of each process, with an
/// object beside the slot's own (`KEY.trial`), and a store that does not keep them is refused then. Such a
/// store has no clock to measure a lease by. So a lease is taken from a holder that is gone only after its
/// object was seen unchanged for the lease's whole length, by the taker's own clock.
///
/// The credentials come from the environment:
///
/// | URL | variables | what they must allow |
/// |---|---|---|
/// | `s3://BUCKET/KEY` | `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`; or the role of a pod, a task or an instance | `s3:GetObject`, `s3:PutObject`, and `s3:ListBucket`, without which S3 answers 403 for an object that is not there |
/// | `gs://BUCKET/KEY` | `GOOGLE_SERVICE_ACCOUNT`; or the service account of the instance | `storage.objects.get`, `create` and `delete`, which overwriting takes |
/// | `az://CONTAINER/KEY` | `AZURE_STORAGE_ACCOUNT_NAME`, `AZURE_STORAGE_ACCOUNT_KEY`, `AZURE_STORAGE_CLIENT_ID` and the like; or the managed identity | Storage Blob Data Contributor on the container |
///
/// It is to be called within a tokio runtime with I/O and time. An emptied slot is an object that says so:
/// nothing is ever deleted. A bucket that keeps old versions keeps one of each refresh; have it expire
/// them.
///
/// # Security
///
/// Anything but an address of this machine, and a cloud's own metadata service, is spoken to over TLS alone,
/// whatever the environment says. The credentials of the store are in the memory of the `object_store` crate,
/// which does not wipe them.
///
/// The store holds age ciphertext, with the key of the object and a count of its changes inside. Whoever
/// runs it can delete a record, or put an earlier one back, and can neither read it nor have one slot's
/// taken for another's. A process that has seen a later state refuses an earlier one with
/// [`StoreError::RolledBack`]; one that has just started cannot know. Whoever has the recipient of the
/// key, which is no secret, and can write to the bucket, can put in a record of their own.
#[derive(Debug)]
pub struct BucketStore(FleetSlot<Bucket>);

#[derive(Debug)]
struct Bucket {
    provider: Provider,
    name: String,
    key: Path,
    endpoint: Option<String>,
    store: OnceCell<Arc<dyn ObjectStore>>,
    /// Whether the store was found to keep conditions.
    trial: OnceCell<()>,
    watch: Mutex<Option<Watch>>,
}

#[derive(Clone, Copy, Debug)]
enum Provider {
    Azure,
    Google,
    S3,
}

/// Since when an object was not seen to change.
#[derive(Debug)]
struct Watch {
    version: UpdateVersion,
    since: Instant,
}

impl BucketStore {
    /// Names an object: `s3://BUCKET/KEY`, `gs://BUCKET/KEY` or `az://CONTAINER/KEY`.
    ///
    /// The age key is the same for all who share it. Nothing is connected to yet.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if the URL is not one of these.
    pub fn new(url: &str, key: AgeKey) -> Result<Self, StoreError> {
        let bucket = Bucket::new(url).ok_or_else(|| StoreError::Unavailable {
            // Not quoted: it may hold credentials.
            place: "a bucket".into(),
            reason: "its URL is not one of an object".into(),
            advice: "name it like s3://BUCKET/KEY, gs://BUCKET/KEY or az://CONTAINER/KEY".into(),
        })?;
        let name = bucket.key.to_string();
        Ok(Self(FleetSlot::new(bucket, key, &name)))
    }

    /// Sets where the store is, by its URL, for one that is not the provider's own.
    ///
    /// # Panics
    ///
    /// If the store was used before.
    #[must_use]
    pub fn with_endpoint(mut self, url: impl Into<String>) -> Self {
        self.0.configure().endpoint = Some(url.into());
        self
    }

    /// Tries whether the store keeps conditional writes, as the first write does.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if it does not, or cannot be reached; [`StoreError::Denied`] if the
    /// credentials do not allow it to be tried.
    pub async fn try_conditional_writes(&self) -> Result<(), StoreError> {
        self.0.engine().try_conditions().await
    }
}

impl fmt::Display for BucketStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.engine().fmt(f)
    }
}

keep_in_fleet_slot!(BucketStore);

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
        let key = Path::parse(key).ok().filter(|key| !key.as_ref().is_empty())?;
        (!name.is_empty() && name.bytes().all(known)).then(|| Self {
            provider,
            name: name.to_owned(),
            key,
            endpoint: None,
            store: OnceCell::new(),
            trial: OnceCell::new(),
            watch: Mutex::default(),
        })
    }

    async fn store(&self) -> Result<&Arc<dyn ObjectStore>, StoreError> {
        self.store.get_or_try_init(|| self.open()).await
    }

    async fn open(&self) -> Result<Arc<dyn ObjectStore>, StoreError> {
        let (provider, name, endpoint) = (self.provider, self.name.clone(), self.endpoint.clone());
        let place = self.to_string();
        // It may read files that the environment names.
        blocking::run(&self.to_string(), move || {
            provider.open(&name, endpoint).map_err(|error| StoreError::Unavailable {
                place,
                reason: first_line(&error),
                advice: "see the environment, which has the credentials".into(),
            })
        })
        .await
    }

    /// Waits for an answer: its own error, or that of the store.
    async fn answer<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<Result<T, Error>, StoreError> {
        timeout(DEADLINE, work).await.map_err(|_| StoreError::Timeout {
            place: self.to_string(),
            reason: format!("it did not answer within {} seconds", DEADLINE.as_secs()),
            advice: "see whether it can be reached, and whether the environment has credentials \
                     for it"
                .into(),
        })
    }

    async fn put(
        &self,
        key: &Path,
        bytes: Vec<u8>,
        mode: PutMode,
    ) -> Result<Result<(), Error>, StoreError> {
        let store = self.store().await?;
        let put = store.put_opts(key, PutPayload::from(bytes), mode.into());
        Ok(self.answer(put).await?.map(drop))
    }

    /// Asks for two writes whose conditions are not met. Once there is an object, neither may be done,
    /// whoever else tries the same at the same time; so it is left there.
    async fn try_conditions(&self) -> Result<(), StoreError> {
        let trial = Path::from(format!("{}.trial", self.key));
        let note = b"tokenkeep tries here whether this store keeps conditional writes\n";
        let never = UpdateVersion { e_tag: Some(NO_VERSION.into()), version: Some("1".into()) };
        let first = self.put(&trial, note.to_vec(), PutMode::Create).await?;
        let again = self.put(&trial, note.to_vec(), PutMode::Create).await?;
        let other = self.put(&trial, note.to_vec(), PutMode::Update(never)).await?;
        if let Err(error) = first
            && !is_unmet(&error)
        {
            return Err(self.explain(&error));
        }
        for answered in [again, other] {
            match answered {
                Err(error) if is_unmet(&error) => {}
                Err(error) => return Err(self.explain(&error)),
                Ok(()) => {
                    return Err(StoreError::Unavailable {
                        place: self.to_string(),
                        reason: "it does not keep conditional writes: it overwrote what it was \
                                 asked not to"
                            .into(),
                        advice: "use a store that does, or a database".into(),
                    });
                }
            }
        }
        Ok(())
    }

    /// For how long, by this machine's clock, the object was this one, up to when it was asked for.
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

    /// Says what went wrong, without what was sent or what the server made of it.
    fn explain(&self, error: &Error) -> StoreError {
        let place = self.to_string();
        let unavailable = |reason: String, advice: &str| {
            let (place, advice) = (self.to_string(), advice.to_owned());
            StoreError::Unavailable { place, reason, advice }
        };
        match error {
            Error::NotFound { .. } => unavailable(
                format!("there is no bucket {}", self.name),
                "make it, or see whether the endpoint and the account are right",
            ),
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => StoreError::Denied {
                place,
                advice: format!(
                    "let the credentials in the environment get and put {} and {0}.trial",
                    self.key
                ),
            },
            // Where nothing is set, the cloud's own service is asked who this machine is.
            error if METADATA.iter().any(|host| error.to_string().contains(host)) => {
                let advice = "the environment has no credentials for it, and the service that gives \
                              them to the machines of a cloud has none either";
                StoreError::Denied { place, advice: advice.into() }
            }
            error => {
                let mut cause = error.source();
                while let Some(error) = cause {
                    if let Some(NotReached(reason)) = error.downcast_ref() {
                        return unavailable(reason.clone(), "see whether it is up");
                    }
                    cause = error.source();
                }
                unavailable(status(error), "see whether it is up, and whether it is set up right")
            }
        }
    }
}

/// Reads an object, and writes it again.
#[cfg(fuzzing)]
pub(crate) fn rewritten(bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
    object::decode(bytes).map(|row| object::encode(&row))
}

/// Says with which status a store refused, which its error has in its text alone.
fn status(error: &Error) -> String {
    let text = error.to_string();
    let status = text.split_once("status code: ").and_then(|(_, rest)| rest.get(..3));
    match status.filter(|status| status.bytes().all(|byte| byte.is_ascii_digit())) {
        Some(status) => format!("it answered {status}"),
        None => "it gave no answer that can be used".into(),
    }
}

/// The first line of what is wrong with the settings: they are named there, and their values are not.
fn first_line(error: &Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Tells whether a write was not done because its condition was not met.
fn is_unmet(error: &Error) -> bool {
    matches!(error, Error::AlreadyExists { .. } | Error::Precondition { .. })
}

impl Provider {
    const fn scheme(self) -> &'static str {
        match self {
            Self::Azure => "az",
            Self::Google => "gs",
            Self::S3 => "s3",
        }
    }

    /// Sets up the client of a bucket, with the credentials that the environment has.
    fn open(self, name: &str, endpoint: Option<String>) -> Result<Arc<dyn ObjectStore>, Error> {
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(50),
                max_backoff: Duration::from_secs(1),
                base: 2.,
            },
            max_retries: 3,
            retry_timeout: DEADLINE,
        };
        Ok(match self {
            Self::Azure => {
                let builder = MicrosoftAzureBuilder::from_env().with_container_name(name);
                let builder = builder.with_retry(retry).with_http_connector(Connector);
                Arc::new(match endpoint {
                    Some(endpoint) => builder.with_endpoint(endpoint).build()?,
                    None => builder.build()?,
                })
            }
            Self::Google => {
                let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(name);
                let builder = builder.with_retry(retry).with_http_connector(Connector);
                Arc::new(match endpoint {
                    Some(endpoint) => builder.with_base_url(&endpoint).build()?,
                    None => builder.build()?,
                })
            }
            Self::S3 => {
                let builder = AmazonS3Builder::from_env().with_bucket_name(name);
                let builder = builder.with_retry(retry).with_http_connector(Connector);
                Arc::new(match endpoint {
                    Some(endpoint) => builder.with_endpoint(endpoint).build()?,
                    None => builder.build()?,
                })
            }
        })
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/{}", self.provider.scheme(), self.name, self.key)?;
        match &self.endpoint {
            Some(endpoint) => write!(f, " at {endpoint}"),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Engine for Bucket {
    type Version = UpdateVersion;

    async fn read(&self) -> Result<Option<Found<UpdateVersion>>, StoreError> {
        let asked = Instant::now();
        let store = self.store().await?;
        let corrupt = |reason: &str| StoreError::Corrupt {
            place: self.to_string(),
            reason: reason.to_owned(),
        };
        let limit = MAX_SEALED + HEAD;
        let get = async {
            let got = store.get(&self.key).await?;
            let meta = got.meta.clone();
            let is_small = usize::try_from(meta.size).is_ok_and(|size| size <= limit);
            Ok((meta, if is_small { Some(got.bytes().await?) } else { None }))
        };
        let (meta, bytes) = match self.answer(get).await? {
            // An object that is not there, or a bucket.
            Err(error @ Error::NotFound { .. }) => {
                let text = error.to_string();
                let no_bucket = ["NoSuchBucket", "ContainerNotFound"];
                return match no_bucket.iter().any(|code| text.contains(code)) {
                    true => Err(self.explain(&error)),
                    false => Ok(None),
                };
            }
            answered => answered.map_err(|error| self.explain(&error))?,
        };
        let bytes = bytes.ok_or_else(|| StoreError::TooLarge { place: self.to_string(), limit })?;
        let mut row = object::decode(&bytes).map_err(corrupt)?;
        let version = UpdateVersion { e_tag: meta.e_tag, version: meta.version };
        if version.e_tag.is_none() && version.version.is_none() {
            return Err(corrupt("the store gave no ETag with it"));
        }
        let unchanged = self.unchanged_for(&version, asked);
        if let Some(hold) = &mut row.hold {
            hold.is_over = hold.lasts.is_none_or(|lasts| unchanged >= lasts);
        }
        Ok(Some(Found { row, version }))
    }

    async fn replace(&self, over: Option<&UpdateVersion>, row: &Row) -> Result<bool, StoreError> {
        self.trial.get_or_try_init(|| self.try_conditions()).await?;
        let mode = over.map_or(PutMode::Create, |version| PutMode::Update(version.clone()));
        match self.put(&self.key, object::encode(row), mode).await? {
            Ok(()) => Ok(true),
            Err(error) if is_unmet(&error) => Ok(false),
            // It was deleted meanwhile.
            Err(Error::NotFound { .. }) if over.is_some() => Ok(false),
            Err(error) => Err(self.explain(&error)),
        }
    }

    fn slot(&self) -> String {
        self.to_string()
    }
}
