//! SeaweedFS speaks S3 as object_store does.

use berth_test_stores::{Backdoor as _, SeaweedFs, require};

use crate::contract;

#[tokio::test]
async fn it_keeps_the_contract() {
    require!("weed");
    let server = SeaweedFs::of_the_run().await;
    let bucket = server.fresh_bucket().await;
    let client = server.client(&bucket);
    contract::objects(server, &bucket, &client).await;
    contract::behind_the_back(server, &bucket, &client).await;
    contract::multiparts(server, &bucket, &client).await;
    contract::aborted_multiparts(server, &bucket, &client).await;
    contract::lists(server, &bucket, &client).await;
}

#[tokio::test]
async fn buckets_are_apart() {
    require!("weed");
    let server = SeaweedFs::of_the_run().await;
    let [first, second] = [server.fresh_bucket().await, server.fresh_bucket().await];
    server.put(&first, "key", contract::content(1, 10)).await;
    assert_eq!(server.objects(&first).await.len(), 1);
    assert!(server.objects(&second).await.is_empty());
}
