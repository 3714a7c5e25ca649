//! Azurite speaks Azure as object_store does.

use berth_test_stores::{Azurite, Backdoor as _, require};

use crate::contract;

#[tokio::test]
async fn it_keeps_the_contract() {
    require!("azurite-blob");
    let server = Azurite::of_the_run().await;
    let container = server.fresh_bucket().await;
    let client = server.client(&container);
    contract::objects(server, &container, &client).await;
    contract::behind_the_back(server, &container, &client).await;
    contract::multiparts(server, &container, &client).await;
    contract::lists(server, &container, &client).await;
}
