//! The hostile S3 is hostile where it is told to be, and an S3 everywhere else.

use std::time::Duration;

use berth_test_stores::{Backdoor as _, Hostile, Lie, Operation};
use futures_util::TryStreamExt as _;
use object_store::multipart::MultipartStore as _;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt as _};

use crate::contract::{self, PART, content};

#[tokio::test]
async fn it_keeps_the_contract() {
    let server = Hostile::start();
    server.lag_lists(Duration::ZERO);
    let bucket = server.fresh_bucket().await;
    let client = server.client(&bucket);
    contract::objects(&server, &bucket, &client).await;
    contract::behind_the_back(&server, &bucket, &client).await;
    contract::multiparts(&server, &bucket, &client).await;
    contract::aborted_multiparts(&server, &bucket, &client).await;
    contract::lists(&server, &bucket, &client).await;
}

#[tokio::test]
async fn a_list_is_old() {
    let server = Hostile::start();
    let client = server.client(&server.fresh_bucket().await);
    client.put(&Path::from("object"), content(1, 10).into()).await.unwrap();
    let list = async || client.list(None).try_collect::<Vec<_>>().await.unwrap().len();
    assert_eq!(list().await, 0);
    server.lag_lists(Duration::ZERO);
    assert_eq!(list().await, 1);
}

#[tokio::test]
async fn nothing_is_copied_and_parts_are_of_equal_size() {
    let server = Hostile::start();
    let client = server.client(&server.fresh_bucket().await);
    let [object, other] = ["object", "other"].map(Path::from);
    let upload = client.create_multipart(&object).await.unwrap();
    let mut parts = Vec::new();
    for (index, length) in [PART, PART + 1, 1].into_iter().enumerate() {
        parts.push(client.put_part(&object, &upload, index, content(1, length).into()).await.unwrap());
    }
    let unequal = client.complete_multipart(&object, &upload, parts.clone()).await.unwrap_err();
    assert!(unequal.to_string().contains("InvalidPart"), "{unequal}");
    parts.remove(2);
    client.complete_multipart(&object, &upload, parts).await.unwrap();

    server.slow_down(0);
    assert!(client.copy(&object, &other).await.is_err());
    assert!(server.requests().of(Operation::Copy) > 0);
}

#[tokio::test]
async fn a_share_of_the_requests_is_slowed_down_or_not_heard_of_again() {
    let server = Hostile::start();
    let bucket = server.fresh_bucket().await;
    let client = server.client(&bucket);
    let put = async |count: u64| {
        let before = server.requests();
        for _ in 0..count {
            client.put(&Path::from("object"), content(1, 10).into()).await.unwrap();
        }
        server.requests().since(&before).of(Operation::Put)
    };
    assert_eq!(put(20).await, 20);
    server.slow_down(30);
    assert!((23..=45).contains(&put(20).await));
    server.slow_down(0);
    server.lose_answers(30);
    assert!((23..=45).contains(&put(20).await));
}

#[tokio::test]
async fn lies_are_lies() {
    let server = Hostile::start();
    let bucket = server.fresh_bucket().await;
    let client = server.client(&bucket);
    let put = async |lie| {
        server.lie(Some(lie));
        client.put(&Path::from("object"), content(1, 10).into()).await.unwrap();
        server.get(&bucket, "object").await
    };
    assert_eq!(put(Lie::Vanished).await, None);
    assert_eq!(put(Lie::Shorter).await.unwrap(), content(1, 9));
    let flipped = put(Lie::Flipped).await.unwrap();
    assert!(flipped != content(1, 10) && flipped.slice(1..) == content(1, 10).slice(1..));
    assert_eq!(put(Lie::Checksum).await.unwrap(), content(1, 10));
}

#[tokio::test]
async fn what_it_discards_is_as_long_as_what_it_was_sent() {
    let server = Hostile::start();
    server.discard();
    let bucket = server.fresh_bucket().await;
    let client = server.client(&bucket);
    let path = Path::from("object");
    client.put(&path, content(1, 3_000_000).into()).await.unwrap();
    assert_eq!(client.head(&path).await.unwrap().size, 3_000_000);
    let read = client.get(&path).await.unwrap().bytes().await.unwrap();
    assert_eq!(read.len(), 3_000_000);
    assert!(read[100_000..].iter().all(|byte| *byte == 0));
    assert_eq!(server.bytes_sent(), 3_000_000);
}

#[tokio::test]
async fn a_body_that_is_cut_is_an_error_for_who_reads_it() {
    let server = Hostile::start();
    let client = server.client(&server.fresh_bucket().await);
    let path = Path::from("object");
    client.put(&path, content(1, 1_000_000).into()).await.unwrap();
    server.cut_bodies(Some(300_000));
    let before = server.requests();
    let read = client.get(&path).await.unwrap().bytes().await.unwrap();
    // object_store takes it up again by itself.
    assert!(read == content(1, 1_000_000));
    assert_eq!(server.requests().since(&before).of(Operation::Get), 4);
    server.until_nothing_is_sent().await;
    assert_eq!(server.sending(), 0);
}

#[tokio::test]
async fn who_does_not_sign_or_sends_what_is_new_is_refused() {
    let server = Hostile::start();
    let bucket = server.fresh_bucket().await;
    let client = object_store::aws::AmazonS3Builder::new()
        .with_endpoint(server.endpoint())
        .with_allow_http(true)
        .with_region(server.region())
        .with_bucket_name(&bucket);
    let path = Path::from("object");
    let unsigned = client.clone().with_skip_signature(true).build().unwrap();
    let refused = unsigned.put(&path, content(1, 10).into()).await;
    assert!(matches!(refused, Err(Error::PermissionDenied { .. })), "{refused:?}");
    let checksum = client
        .with_access_key_id(server.access_key())
        .with_secret_access_key(server.secret_key())
        .with_checksum_algorithm(object_store::aws::Checksum::CRC64NVME)
        .build()
        .unwrap();
    assert!(checksum.put(&path, content(1, 10).into()).await.is_err());
    server.tell_checksums();
    checksum.put(&path, content(1, 10).into()).await.unwrap();
}
