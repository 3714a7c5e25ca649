//! Many uploads at once hold no more memory than they may.
//!
//! `TEST_UPLOAD_MIB` says how large each is.

use std::time::{Duration, Instant};

use berth_test_stores::Discard;
use bytes::Bytes;
use futures_util::{future::join_all, stream};
use reqwest::{Body, Client, StatusCode};
use sha2::{Digest as _, Sha256};

use crate::{
    harness::{Objects, Server, content, objects::seaweedfs},
    storage::MIB,
};

const AT_ONCE: usize = 200;
/// Three parts each.
const UPLOAD_MIB: usize = 24;
const MOST_BYTES: u64 = 400 * MIB as u64;

fn upload_mib() -> usize {
    std::env::var("TEST_UPLOAD_MIB").map_or(UPLOAD_MIB, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_uploads_at_once_stay_within_their_memory_and_none_fails() {
    let store = Discard::start().await;
    let at_the_store = format!("{}\nsign_payload = false", seaweedfs(store.endpoint(), "bucket"));
    let limits = "[limits]\nupload_memory = \"256MiB\"";
    let server = Server::builder().config(limits).objects(Objects::Nowhere, &at_the_store).start().await;
    // All but the last bytes are the same for all: they are made, and hashed, once.
    let piece = Bytes::from(content::bytes(1, MIB / 4));
    let pieces = vec![piece.clone(); upload_mib() * 4 - 1];
    let mut hasher = Sha256::new();
    for piece in &pieces {
        hasher.update(piece);
    }
    let idle = server.rss_bytes();
    let begun = Instant::now();

    let uploads = (0..AT_ONCE).map(|number| {
        let last = Bytes::from(content::bytes(1_000 + number as u64, MIB / 4));
        let digest = format!("sha256:{}", hex::encode(hasher.clone().chain_update(&last).finalize()));
        let pieces: Vec<_> = pieces.iter().cloned().chain([last]).collect();
        push(&server, number, pieces, digest)
    });
    join_all(uploads).await;

    let (took, peak) = (begun.elapsed(), server.peak_rss_bytes());
    eprintln!(
        "{AT_ONCE} uploads of {} MiB in {took:?}: {} MiB idle, {} MiB at most",
        upload_mib(),
        idle / MIB as u64,
        peak / MIB as u64
    );
    assert!(peak < MOST_BYTES, "{} MiB", peak / MIB as u64);
    let size_bytes = (upload_mib() * MIB) as u64;
    let whole = store.objects().into_values().filter(|size| *size == size_bytes).count();
    assert_eq!(whole, AT_ONCE);
}

/// Every other one as docker does, the rest as containerd.
async fn push(server: &Server, number: usize, pieces: Vec<Bytes>, digest: String) {
    let client = Client::builder().no_proxy().read_timeout(Duration::from_hours(1)).tls_certs_only([]);
    let client = client.build().expect("a client that trusts nobody has nothing to load");
    let url = server.repository(&format!("team/{number}")).url("blobs/uploads/");
    let begun = client.post(url).send().await.expect("POST");
    let location = begun.headers()["location"].to_str().expect("a location is text");
    let session = format!("{}{location}", server.url());
    let finish = format!("{session}?digest={digest}");
    let length: usize = pieces.iter().map(Bytes::len).sum();
    let body = Body::wrap_stream(stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>)));
    let put = if number.is_multiple_of(2) {
        let patched = client.patch(&session).body(body).send().await.expect("PATCH");
        assert_eq!(patched.status(), StatusCode::ACCEPTED, "{:?}", patched.text().await);
        client.put(&finish)
    } else {
        client.put(&finish).header("content-length", length).body(body)
    };
    let finished = put.send().await.expect("PUT");
    assert_eq!(finished.status(), StatusCode::CREATED, "{:?}", finished.text().await);
}
