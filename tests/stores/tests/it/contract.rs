//! What each of the stores must do for object_store's clients, which is what Berth uses of them.

use berth_test_stores::Backdoor;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::{Error, ObjectStore, ObjectStoreExt as _, path::Path};
use object_store::{PutPayload, multipart::MultipartStore};

/// The least that S3 and Google take for a part that is not the last.
pub const PART: usize = 5 * 1024 * 1024;

/// Bytes that depend on the seed alone.
pub fn content(seed: u8, length: usize) -> Bytes {
    let mut state = u32::from(seed) + 1;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24).to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// An object is what was put, whole and in ranges, until it is deleted.
pub async fn objects(server: &impl Backdoor, bucket: &str, client: &impl ObjectStore) {
    let bytes = content(1, 300_000);
    let path = Path::from("objects/aa/first");

    client.put(&path, PutPayload::from_bytes(bytes.clone())).await.unwrap();

    assert_eq!(client.head(&path).await.unwrap().size, 300_000);
    assert!(client.get(&path).await.unwrap().bytes().await.unwrap() == bytes);
    assert!(client.get_range(&path, 100..200_000).await.unwrap() == bytes.slice(100..200_000));
    assert!(client.get_range(&path, 299_999..300_000).await.unwrap() == bytes.slice(299_999..));
    assert!(client.get_range(&path, 300_000..300_010).await.is_err());
    assert_eq!(server.objects(bucket).await, [("objects/aa/first".to_owned(), 300_000)]);
    assert!(server.get(bucket, "objects/aa/first").await.unwrap() == bytes);

    client.delete(&path).await.unwrap();

    assert!(matches!(client.get(&path).await, Err(Error::NotFound { .. })));
    assert!(matches!(client.head(&path).await, Err(Error::NotFound { .. })));
    assert!(server.get(bucket, "objects/aa/first").await.is_none());
    assert!(server.objects(bucket).await.is_empty());
}

/// What is done behind a client's back is what the client sees.
pub async fn behind_the_back(server: &impl Backdoor, bucket: &str, client: &impl ObjectStore) {
    let path = Path::from("objects/aa/other");

    server.put(bucket, "objects/aa/other", content(2, 10)).await;
    assert!(client.get(&path).await.unwrap().bytes().await.unwrap() == content(2, 10));

    server.delete(bucket, "objects/aa/other").await;
    assert!(matches!(client.get(&path).await, Err(Error::NotFound { .. })));
    server.delete(bucket, "objects/aa/other").await;
}

/// A multipart upload is an object once it is complete, and nothing once it is aborted.
pub async fn multiparts(server: &impl Backdoor, bucket: &str, client: &(impl ObjectStore + MultipartStore)) {
    let path = Path::from("objects/bb/large");
    let bytes = content(3, 2 * PART + 1_234);
    let part = |number: usize| bytes.slice(number * PART..bytes.len().min((number + 1) * PART));

    let upload = client.create_multipart(&path).await.unwrap();
    // Out of order, as parts may be.
    let second = client.put_part(&path, &upload, 1, part(1).into()).await.unwrap();
    let first = client.put_part(&path, &upload, 0, part(0).into()).await.unwrap();
    let third = client.put_part(&path, &upload, 2, part(2).into()).await.unwrap();
    assert_eq!(server.open_multiparts(bucket).await, 1);
    assert!(server.objects(bucket).await.is_empty());
    client.complete_multipart(&path, &upload, vec![first, second, third]).await.unwrap();

    assert_eq!(server.open_multiparts(bucket).await, 0);
    assert!(server.get(bucket, "objects/bb/large").await.unwrap() == bytes);
    let seam = (PART - 5) as u64..(PART + 5) as u64;
    assert!(client.get_range(&path, seam).await.unwrap() == bytes.slice(PART - 5..PART + 5));
    client.delete(&path).await.unwrap();
}

/// An aborted upload leaves nothing. Not for Azure, which has nothing to abort.
pub async fn aborted_multiparts(
    server: &impl Backdoor,
    bucket: &str,
    client: &(impl ObjectStore + MultipartStore),
) {
    let path = Path::from("objects/cc/never");
    let upload = client.create_multipart(&path).await.unwrap();
    let part = client.put_part(&path, &upload, 0, content(4, 1_000).into()).await.unwrap();
    assert_eq!(server.open_multiparts(bucket).await, 1);

    client.abort_multipart(&path, &upload).await.unwrap();

    assert_eq!(server.open_multiparts(bucket).await, 0);
    assert!(client.complete_multipart(&path, &upload, vec![part]).await.is_err());
    assert!(server.objects(bucket).await.is_empty());
}

/// A list is of a prefix, and goes on beyond a page.
pub async fn lists(server: &impl Backdoor, bucket: &str, client: &impl ObjectStore) {
    let puts = (0..1_005).map(|number| async move {
        let path = Path::from(format!("objects/dd/{number:04}"));
        client.put(&path, Bytes::from_static(b"bytes").into()).await.unwrap();
    });
    futures_util::StreamExt::collect::<()>(futures_util::StreamExt::buffer_unordered(
        futures_util::stream::iter(puts),
        16,
    ))
    .await;
    server.put(bucket, "objects/ee/other", content(5, 1)).await;

    let prefix = Path::from("objects/dd");
    let listed: Vec<_> = client.list(Some(&prefix)).try_collect().await.unwrap();
    assert_eq!(listed.len(), 1_005);
    let other: Vec<_> = client.list(Some(&Path::from("objects/ee"))).try_collect().await.unwrap();
    assert_eq!(other.len(), 1);
    assert_eq!((other[0].location.as_ref(), other[0].size), ("objects/ee/other", 1));
    assert_eq!(server.objects(bucket).await.len(), 1_006);
}
