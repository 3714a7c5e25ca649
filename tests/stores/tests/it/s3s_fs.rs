//! s3s-fs speaks S3 as object_store does.

use berth_test_stores::{Backdoor as _, S3sFs};

use crate::contract;

#[tokio::test]
async fn it_keeps_the_contract() {
    let server = S3sFs::of_the_run();
    let bucket = server.fresh_bucket().await;
    let client = server.client(&bucket);
    contract::objects(server, &bucket, &client).await;
    contract::behind_the_back(server, &bucket, &client).await;
    contract::multiparts(server, &bucket, &client).await;
    contract::aborted_multiparts(server, &bucket, &client).await;
    contract::lists(server, &bucket, &client).await;
}
