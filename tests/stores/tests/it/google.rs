//! Our Google Cloud Storage speaks as object_store does, and refuses what Google refuses.

use berth_test_stores::{Backdoor as _, Google};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::multipart::MultipartStore as _;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};

use crate::contract::{self, PART, content};

#[tokio::test]
async fn it_keeps_the_contract() {
    let server = Google::of_the_run();
    let bucket = server.fresh_bucket().await;
    let client = server.client(&bucket);
    contract::objects(server, &bucket, &client).await;
    contract::behind_the_back(server, &bucket, &client).await;
    contract::multiparts(server, &bucket, &client).await;
    contract::aborted_multiparts(server, &bucket, &client).await;
    contract::lists(server, &bucket, &client).await;
}

#[tokio::test]
async fn parts_are_complete_in_their_order_with_their_tags_and_large_enough() {
    let server = Google::of_the_run();
    let bucket = server.fresh_bucket().await;
    let client = server.client(&bucket);
    let path = Path::from("object");
    let upload = client.create_multipart(&path).await.unwrap();
    let first = client.put_part(&path, &upload, 0, content(1, PART).into()).await.unwrap();
    let second = client.put_part(&path, &upload, 1, content(2, PART - 1).into()).await.unwrap();
    let third = client.put_part(&path, &upload, 2, content(3, 1).into()).await.unwrap();
    let complete = async |parts: Vec<_>| {
        let completed = client.complete_multipart(&path, &upload, parts).await;
        completed.map_err(|error| error.to_string())
    };

    let swapped = complete(vec![second.clone(), first.clone()]).await.unwrap_err();
    assert!(swapped.contains("InvalidPart"), "{swapped}");
    let small = complete(vec![first.clone(), second.clone(), third]).await.unwrap_err();
    assert!(small.contains("EntityTooSmall"), "{small}");

    complete(vec![first, second]).await.unwrap();
    assert_eq!(server.objects(&bucket).await, [("object".to_owned(), 2 * PART as u64 - 1)]);
}

#[tokio::test]
async fn an_object_is_created_once_if_that_is_asked() {
    let server = Google::of_the_run();
    let client = server.client(&server.fresh_bucket().await);
    let path = Path::from("object");
    let create = async || {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        client.put_opts(&path, content(1, 10).into(), options).await
    };
    create().await.unwrap();
    assert!(matches!(create().await, Err(object_store::Error::AlreadyExists { .. })));
}

#[tokio::test]
async fn who_has_no_token_of_the_account_is_refused() {
    let server = Google::of_the_run();
    let bucket = server.fresh_bucket().await;
    let key = r#"{"private_key": "", "private_key_id": "", "client_email": "", "disable_oauth": true}"#;
    let client = GoogleCloudStorageBuilder::new()
        .with_base_url(server.endpoint())
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .with_service_account_key(key)
        .with_bucket_name(bucket);
    let refused = client.build().unwrap().head(&Path::from("object")).await;
    assert!(matches!(refused, Err(object_store::Error::Unauthenticated { .. })), "{refused:?}");
}
