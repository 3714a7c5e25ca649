//! What a test sees and does in a bucket behind the back of the client that it tests.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::{Error, ObjectStore, ObjectStoreExt as _, PutPayload, path::Path};

/// The way round the client under test. A bucket is what Azure calls a container.
#[async_trait]
pub trait Backdoor: Sync {
    /// Makes an empty bucket that no other test has, and returns its name.
    async fn fresh_bucket(&self) -> String;

    /// The keys and sizes of all objects, in the order of their keys.
    async fn objects(&self, bucket: &str) -> Vec<(String, u64)>;

    /// How many multipart uploads were begun, and neither completed nor aborted.
    async fn open_multiparts(&self, bucket: &str) -> usize;

    /// The bytes of an object, if it is there.
    async fn get(&self, bucket: &str, key: &str) -> Option<Bytes>;

    /// Stores an object, in place of what is there.
    async fn put(&self, bucket: &str, key: &str, bytes: Bytes);

    /// Deletes an object, if it is there.
    async fn delete(&self, bucket: &str, key: &str);
}

pub(crate) async fn objects(store: &dyn ObjectStore) -> Vec<(String, u64)> {
    let objects = store.list(None).map_ok(|object| (object.location.to_string(), object.size));
    let mut objects: Vec<_> = objects.try_collect().await.expect("the store lists its objects");
    objects.sort();
    objects
}

pub(crate) async fn get(store: &dyn ObjectStore, key: &str) -> Option<Bytes> {
    match store.get(&Path::from(key)).await {
        Ok(object) => Some(object.bytes().await.expect("the store gives an object's bytes")),
        Err(Error::NotFound { .. }) => None,
        Err(error) => panic!("get {key}: {error}"),
    }
}

pub(crate) async fn put(store: &dyn ObjectStore, key: &str, bytes: Bytes) {
    store.put(&Path::from(key), PutPayload::from_bytes(bytes)).await.expect("the store takes an object");
}

pub(crate) async fn delete(store: &dyn ObjectStore, key: &str) {
    match store.delete(&Path::from(key)).await {
        Ok(()) | Err(Error::NotFound { .. }) => {}
        Err(error) => panic!("delete {key}: {error}"),
    }
}
