//! A store in S3, Azure Blob or Google Cloud Storage: `<prefix>/<first two digits>/<key>`.
//!
//! One code path over what the three have in common: put, ranged get, head, delete, and multipart
//! uploads with parts of equal size. Serving a request never lists, copies or renames. An object is
//! written by one writer only, under a key of its own, because nothing here can be locked.

mod connect;
mod pieces;
mod reading;
mod signing;
mod wire;
mod writing;

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutPayload};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use url::Url;

pub use self::connect::{Azure, AzureCredentials, Encryption, Gcs, Provider, S3, S3Credentials};
pub(crate) use self::connect::{CONNECT_WITHIN, read_certificates};
pub use self::wire::Patience;
pub(crate) use self::writing::Writer;
use crate::budget::Budget;
use crate::cache::Cache;
use crate::s3::{Bucket, Session};
use crate::tally::{Reads, Tally};
use crate::upload::Context;
use crate::{Algorithm, ByteStream, Cause, Digest, Hasher, Key, Listed, StoreError, Upload};

const FORMAT: u64 = 1;
/// How long a second look may take at a store that has just failed: whoever waits has waited long enough.
const LOOK_WITHIN: Duration = Duration::from_secs(2);
const MARKER: &str = "berth-store.json";

/// Where objects are, and how they are put there.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose store it is.
    pub provider: Provider,
    /// What stands before every object's name, if anything.
    pub prefix: Option<String>,
    /// The size of a part, in bytes.
    pub part_bytes: u64,
    /// How URLs are signed, if they are.
    pub signing: Option<Signing>,
}

/// How URLs are signed.
#[derive(Debug, Clone)]
pub struct Signing {
    /// The address of the store as clients reach it, where it is another.
    pub public_endpoint: Option<String>,
    /// How long one can be used, unless the credentials end sooner.
    pub life: Duration,
}

/// What Berth needs of an object store.
trait Remote: ObjectStore + MultipartStore + Signer {}

impl<T: ObjectStore + MultipartStore + Signer> Remote for T {}

#[derive(Debug, Clone)]
pub(crate) struct Cloud(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    remote: Arc<dyn Remote>,
    signing: Option<signing::Signing>,
    /// What only S3 tells.
    bucket: Option<Bucket>,
    kind: Kind,
    prefix: Path,
    part_bytes: u64,
    patience: Patience,
    pieces: pieces::Pieces,
    tally: Tally,
    id: OnceLock<String>,
    location: String,
}

/// Where the three differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    S3,
    Azure,
    Gcs,
}

/// Written once, when a store is made.
#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    format: u64,
    id: String,
}

impl Cloud {
    pub(crate) async fn open(
        settings: &Settings,
        patience: Patience,
        download_memory_bytes: u64,
    ) -> Result<Self, StoreError> {
        let (kind, location) = settings.provider.describe();
        let session = match &settings.provider {
            Provider::S3(s3) => Some(Session::load(s3, patience).await?),
            Provider::Azure(_) | Provider::Gcs(_) => None,
        };
        let remote = connect::connect(&settings.provider, None, session.as_ref(), patience)?;
        let signing = match &settings.signing {
            None => None,
            Some(Signing { public_endpoint, life }) => {
                let endpoint = public_endpoint.as_ref();
                let signer = connect::connect(&settings.provider, endpoint, session.as_ref(), patience)?;
                let credentials = session.as_ref().and_then(Session::credentials);
                Some(signing::Signing::new(signer, credentials, *life))
            }
        };
        let bucket = match (&settings.provider, &session) {
            (Provider::S3(s3), Some(session)) => Some(Bucket::new(s3, session)),
            _ => None,
        };
        let prefix = Path::from(settings.prefix.as_deref().unwrap_or_default());
        let location = match prefix.as_ref() {
            "" => location,
            prefix => format!("{location} below {prefix}/"),
        };
        let pieces = pieces::Pieces::new(download_memory_bytes, settings.part_bytes);
        let (part_bytes, tally, id) = (settings.part_bytes, Tally::default(), OnceLock::new());
        let inner = Inner {
            remote,
            signing,
            bucket,
            kind,
            prefix,
            part_bytes,
            patience,
            pieces,
            tally,
            id,
            location,
        };
        if let Some(marker) = inner.marker().await? {
            inner.id.get_or_init(|| marker.id);
        }
        inner.probe().await?;
        let cloud = Self(Arc::new(inner));
        // That nothing can be signed is said now, not at the first pull.
        cloud.signed_url(&Key::generate()).await.map_err(|error| {
            StoreError::Settings(format!("clients cannot be redirected to {}: {error}", cloud.location()))
        })?;
        Ok(cloud)
    }

    pub(crate) fn id(&self) -> Option<&str> {
        self.0.id.get().map(String::as_str)
    }

    pub(crate) async fn name(&self, id: &str) -> Result<(), StoreError> {
        if self.id().is_none() {
            let marker = Marker { format: FORMAT, id: id.to_owned() };
            let text = serde_json::to_vec(&marker).expect("a marker is plain JSON");
            let put = self.0.remote.put(&self.0.prefix.clone().join(MARKER), text.into()).await;
            put.map_err(|error| self.0.refused(error))?;
            self.0.id.get_or_init(|| marker.id);
        }
        Ok(())
    }

    pub(crate) fn location(&self) -> String {
        self.0.location.clone()
    }

    pub(crate) fn part_bytes(&self) -> u64 {
        self.0.part_bytes
    }

    pub(crate) fn writer(&self, upload: Upload, context: Context, budget: Arc<Budget>) -> Writer {
        Writer::new(self.clone(), upload, context, budget)
    }

    fn path(&self, key: &Key) -> Path {
        self.0.prefix.clone().join(key.shard()).join(key.as_str())
    }

    pub(crate) async fn read(
        &self,
        key: &Key,
        size_bytes: u64,
        range: Range<u64>,
    ) -> Result<ByteStream, StoreError> {
        if range.is_empty() {
            return self.stream(key, size_bytes, range).await;
        }
        pieces::begin(self.clone(), key.clone(), size_bytes, range).await
    }

    /// Reads a range as it is in the store now, whatever is kept of it nearer.
    pub(crate) async fn stream(
        &self,
        key: &Key,
        size_bytes: u64,
        range: Range<u64>,
    ) -> Result<ByteStream, StoreError> {
        if range.is_empty() {
            self.whole(key, size_bytes).await?;
            return Ok(futures_util::stream::empty().boxed());
        }
        reading::begin(self.clone(), key.clone(), size_bytes, range).await
    }

    /// What has been read.
    pub(crate) fn reads(&self) -> Reads {
        self.0.tally.reads()
    }

    /// Keeps what is read in a cache from now on.
    pub(crate) fn keep_near(&self, cache: Cache) {
        self.0.pieces.keep_near(cache);
    }

    pub(crate) async fn close(&self) {
        self.end().await;
    }

    /// Begins to read a range; an object of another size is an error.
    async fn get(
        &self,
        key: &Key,
        size_bytes: u64,
        range: Range<u64>,
    ) -> Result<futures_util::stream::BoxStream<'static, object_store::Result<Bytes>>, StoreError> {
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        self.0.tally.request();
        match self.0.remote.get_opts(&self.path(key), options).await {
            Ok(found) if found.meta.size == size_bytes => Ok(found.into_stream()),
            Ok(found) => Err(wrong_size(key, size_bytes, found.meta.size)),
            Err(error @ Error::NotFound { .. }) => {
                self.whole(key, size_bytes).await?;
                Err(failed("read an object")(error))
            }
            // A range outside what is there says no more than that: the size says what is wrong.
            Err(error) => match timeout(LOOK_WITHIN, self.whole(key, size_bytes)).await {
                Ok(Err(wrong @ StoreError::WrongSize { .. })) => Err(wrong),
                _ => Err(failed("read an object")(error)),
            },
        }
    }

    /// An error unless the object is there, as long as it should be.
    async fn whole(&self, key: &Key, size_bytes: u64) -> Result<(), StoreError> {
        match self.size(key).await? {
            Some(actual) if actual == size_bytes => Ok(()),
            Some(actual) => Err(wrong_size(key, size_bytes, actual)),
            None => Err(StoreError::Missing { key: key.clone() }),
        }
    }

    pub(crate) async fn size(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        match self.0.remote.head(&self.path(key)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(Error::NotFound { .. }) => {
                // A bucket that is gone, or hidden behind a proxy, answers 404 for each of its objects.
                self.0.is_there().await?;
                Ok(None)
            }
            Err(error) => Err(failed("look at an object")(error)),
        }
    }

    /// Deletes an object, and whatever a multipart upload left under its key. `false` if the store
    /// said that there was none; not every store says so.
    pub(crate) async fn delete(&self, key: &Key, multipart: Option<&str>) -> Result<bool, StoreError> {
        self.forget(key);
        let path = self.path(key);
        if let Some(multipart) = multipart {
            self.abort(key, multipart).await?;
            if self.0.kind == Kind::Azure {
                // Azure keeps uncommitted blocks for a week; another blob under the name ends them.
                self.put(key, PutPayload::new()).await?;
            }
        }
        match self.0.remote.delete(&path).await {
            Ok(()) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(failed("delete an object")(error)),
        }
    }

    /// Ends a multipart upload that will not be completed. One that is not there is no error.
    pub(crate) async fn abort(&self, key: &Key, multipart: &str) -> Result<(), StoreError> {
        match self.0.remote.abort_multipart(&self.path(key), &multipart.to_owned()).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("abort a multipart upload")(error)),
        }
    }

    /// The multipart uploads that are open, where the store tells: S3 does.
    pub(crate) async fn open_multiparts(&self) -> Result<Vec<(Key, String)>, StoreError> {
        let Some(bucket) = &self.0.bucket else { return Ok(Vec::new()) };
        let found = bucket.open_multiparts(&self.0.below()).await?.into_iter();
        let ours = |(name, multipart): (String, String)| {
            let key = Key::try_from(name.rsplit('/').next()?.to_owned()).ok()?;
            (self.path(&key).as_ref() == name).then_some((key, multipart))
        };
        Ok(found.filter_map(ours).collect())
    }

    /// What the operator should know of the store, if anything.
    pub(crate) async fn advice(&self) -> Option<String> {
        let bucket = self.0.bucket.as_ref()?;
        (bucket.aborts_incomplete().await == Some(false)).then(|| {
            format!(
                "{} never aborts multipart uploads that are left incomplete; Berth aborts those it knows of, but \
                 a crash at the wrong moment leaves parts that are paid for: add a lifecycle rule that aborts \
                 incomplete multipart uploads after some days, or run `berth fsck --repair` now and then",
                self.0.location
            )
        })
    }

    pub(crate) async fn list(&self, shard: u8) -> Result<Vec<Listed>, StoreError> {
        let folder = self.0.prefix.clone().join(format!("{shard:02x}"));
        let mut found: Vec<Listed> = self
            .0
            .remote
            .list(Some(&folder))
            .try_filter_map(|meta| async move {
                let key = meta.location.filename().and_then(|name| Key::try_from(name.to_owned()).ok());
                Ok(key.map(|key| Listed { key, size_bytes: meta.size }))
            })
            .try_collect()
            .await
            .map_err(|error| self.0.refused(error))?;
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// Whether there is no object at all.
    pub(crate) async fn is_empty(&self) -> Result<bool, StoreError> {
        let prefix = Some(&self.0.prefix).filter(|prefix| !prefix.as_ref().is_empty());
        let mut listed = self.0.remote.list(prefix);
        while let Some(meta) = listed.try_next().await.map_err(|error| self.0.refused(error))? {
            if meta.location.filename().is_some_and(|name| Key::try_from(name.to_owned()).is_ok()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(crate) async fn hash(
        &self,
        key: &Key,
        size_bytes: u64,
        algorithm: Algorithm,
    ) -> Result<Digest, StoreError> {
        let mut hasher = Hasher::new(algorithm);
        let mut bytes = self.stream(key, size_bytes, 0..size_bytes).await?;
        while let Some(piece) = bytes.try_next().await? {
            hasher.update(&piece);
        }
        Ok(hasher.digest())
    }

    /// A URL that anyone may read the object with for a while.
    pub(crate) async fn signed_url(&self, key: &Key) -> Result<Option<Url>, StoreError> {
        match &self.0.signing {
            Some(signing) => signing.url(self, key).await,
            None => Ok(None),
        }
    }

    async fn put(&self, key: &Key, payload: PutPayload) -> Result<(), StoreError> {
        self.0.remote.put(&self.path(key), payload).await.map_err(failed("write an object"))?;
        fail::fail_point!("storage::put", |_| std::process::abort());
        Ok(())
    }

    async fn create_multipart(&self, key: &Key) -> Result<String, StoreError> {
        let id = self.0.remote.create_multipart(&self.path(key)).await;
        id.map_err(failed("begin a multipart upload"))
    }

    async fn put_part(
        &self,
        key: &Key,
        multipart: &str,
        index: u64,
        payload: PutPayload,
    ) -> Result<String, StoreError> {
        let index = usize::try_from(index).expect("there are at most 10,000 parts");
        let put = self.0.remote.put_part(&self.path(key), &multipart.to_owned(), index, payload).await;
        put.map(|part| part.content_id).map_err(failed("write a part"))
    }

    async fn complete(&self, key: &Key, multipart: &str, parts: Vec<String>) -> Result<(), StoreError> {
        let parts = parts.into_iter().map(|content_id| PartId { content_id }).collect();
        let completed = self.0.remote.complete_multipart(&self.path(key), &multipart.to_owned(), parts).await;
        completed.map(drop).map_err(failed("complete a multipart upload"))
    }
}

impl Inner {
    /// What the store says of itself, if it has been one before.
    async fn marker(&self) -> Result<Option<Marker>, StoreError> {
        let path = self.prefix.clone().join(MARKER);
        let text = match self.remote.get(&path).await {
            Ok(found) => found.bytes().await.map_err(failed("read the store's marker"))?,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.refused(error)),
        };
        let damaged = |reason: String| StoreError::Marker { path: self.location.clone().into(), reason };
        let value: serde_json::Value =
            serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        let found = value.get("format").and_then(serde_json::Value::as_u64);
        let found = found.ok_or_else(|| damaged("it names no format".into()))?;
        if found != FORMAT {
            return Err(StoreError::Format { path: self.location.clone().into(), found, supported: FORMAT });
        }
        serde_json::from_value(value).map(Some).map_err(|error| damaged(error.to_string()))
    }

    /// What every object's name begins with.
    fn below(&self) -> String {
        if self.prefix.as_ref().is_empty() { String::new() } else { format!("{}/", self.prefix) }
    }

    /// A store that cannot be written is refused now, not at the first push.
    async fn probe(&self) -> Result<(), StoreError> {
        let path = self.prefix.clone().join(format!("{MARKER}.probe-{}", Key::generate()));
        let put = self.remote.put(&path, Bytes::from_static(b"berth").into()).await;
        put.map_err(|error| self.refused(error))?;
        self.remote.delete(&path).await.map_err(|error| self.refused(error))
    }

    fn refused(&self, error: Error) -> StoreError {
        let source = match error {
            Error::NotFound { .. } => "there is no such bucket or container".into(),
            error => error.into(),
        };
        StoreError::Refused { location: self.location.clone(), source }
    }

    /// An error if not even the marker is there: then it is not the object that is missing.
    async fn is_there(&self) -> Result<(), StoreError> {
        match self.remote.head(&self.prefix.clone().join(MARKER)).await {
            Ok(_) => Ok(()),
            Err(error) => Err(failed("find the store")(error)),
        }
    }
}

fn wrong_size(key: &Key, expected: u64, actual: u64) -> StoreError {
    StoreError::WrongSize { key: key.clone(), expected, actual }
}

/// A read that did not come to its end.
fn broken(why: impl Into<Cause>) -> StoreError {
    StoreError::Remote { operation: "read an object", source: why.into() }
}

fn failed(operation: &'static str) -> impl Fn(Error) -> StoreError {
    move |source| StoreError::Remote { operation, source: source.into() }
}
