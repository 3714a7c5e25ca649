//! Clients that fetch blobs from the object store themselves.

use berth_test_stores::require;
use reqwest::{Response, StatusCode, redirect::Policy};

use crate::{
    harness::{Server, Storage, content},
    operation::scenes::Image,
};

/// A server over an object store, with more configuration.
async fn server(redirect: &str) -> Server {
    Server::builder().storage(Storage::SeaweedFs).config(redirect).start().await
}

/// GETs a blob without following where that leads.
async fn get(server: &Server, digest: &str, forwarded_for: Option<&str>) -> Response {
    let client = reqwest::Client::builder().no_proxy().redirect(Policy::none()).build().expect("a client");
    let mut request = client.get(server.repository("team/app").url(&format!("blobs/{digest}")));
    if let Some(address) = forwarded_for {
        request = request.header("X-Forwarded-For", address);
    }
    request.send().await.expect("GET")
}

fn location(answer: &Response) -> &str {
    answer.headers()["location"].to_str().expect("a location is text")
}

#[tokio::test]
async fn a_client_that_is_redirected_gets_the_bytes_from_the_store() {
    require!("weed");
    let server = server("[storage.redirect]\nmode = \"on\"\nexpires_in = \"10m\"").await;
    let image = Image::of(1, &[300_000]);
    image.push(&server.repository("team/app"), "v1").await;

    let answer = get(&server, &image.digest(1), None).await;

    assert_eq!(answer.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(answer.headers()["docker-content-digest"], image.digest(1).as_str());
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let address = location(&answer).to_owned();
    assert!(address.contains("X-Amz-Expires=600") && !address.starts_with(&server.url()), "{address}");
    assert!(!address.contains("team") && !address.contains("app"), "the key carries no names: {address}");
    let again = get(&server, &image.digest(1), None).await;
    assert_eq!(location(&again), address, "it is fresh enough for another client");
    // Whoever follows it needs no right but the address, and may read a range.
    let bytes = crate::harness::http().get(&address).send().await.expect("GET of the store");
    assert_eq!(bytes.bytes().await.expect("read"), image.blobs[1]);
    let part = crate::harness::http().get(&address).header("Range", "bytes=5-9").send().await.expect("GET");
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.bytes().await.expect("read"), image.blobs[1][5..10]);
    // A client that follows by itself sees nothing of it.
    image.is_whole(&server.repository("team/app"), "v1").await;
}

#[tokio::test]
async fn head_and_manifests_and_unknown_blobs_are_answered_here() {
    require!("weed");
    let server = server("[storage.redirect]\nmode = \"on\"").await;
    let image = Image::of(2, &[1_000]);
    image.push(&server.repository("team/app"), "v1").await;
    let absent = content::sha256(b"nobody has this");

    assert_eq!(get(&server, &absent, None).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(crate::operation::scenes::head(&server.repository("team/app"), &image.digest(1)).await, 200);
    let manifest = server.repository("team/app").get("manifests/v1").await;
    assert_eq!(manifest.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_public_address_is_used_for_signing_alone() {
    require!("weed");
    let public = "https://store.example:8443";
    let redirect = format!("[storage.redirect]\nmode = \"on\"\npublic_endpoint = \"{public}\"");
    let server = server(&redirect).await;

    // The push went to the store's own address.
    let digest = server.repository("team/app").push_blob(b"some bytes").await;

    let answer = get(&server, &digest, None).await;
    assert!(location(&answer).starts_with(&format!("{public}/")), "{}", location(&answer));
}

#[tokio::test]
async fn only_clients_of_the_networks_named_are_redirected() {
    require!("weed");
    let redirect = "[http]\ntrusted_proxies = [\"127.0.0.0/8\"]\n\
                    [storage.redirect]\nmode = \"networks\"\nnetworks = [\"10.0.0.0/8\", \"2001:db8::/32\"]";
    let server = server(redirect).await;
    let digest = server.repository("team/app").push_blob(b"some bytes").await;

    for (client, status) in [
        (None, StatusCode::OK),
        (Some("10.1.2.3"), StatusCode::TEMPORARY_REDIRECT),
        (Some("2001:db8::5"), StatusCode::TEMPORARY_REDIRECT),
        (Some("192.0.2.1"), StatusCode::OK),
        // What stands in front of the first stranger is what the stranger wrote.
        (Some("10.1.2.3, 192.0.2.1"), StatusCode::OK),
    ] {
        assert_eq!(get(&server, &digest, client).await.status(), status, "{client:?}");
    }
}

#[tokio::test]
async fn a_strangers_word_on_where_they_come_from_is_not_believed() {
    require!("weed");
    let server = server("[storage.redirect]\nmode = \"networks\"\nnetworks = [\"10.0.0.0/8\"]").await;
    let digest = server.repository("team/app").push_blob(b"some bytes").await;

    assert_eq!(get(&server, &digest, Some("10.1.2.3")).await.status(), StatusCode::OK);
}
