//! Large blobs out of a folder, whose bytes go from the file to the connection: they are the same
//! whichever way they take, and a connection is good for the next answer.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use rustix::fs::{Advice, fadvise};

use crate::{
    harness::{Server, content},
    operation::scenes::{Wire, eventually},
    protocol::{pull::parts, wire::Berth},
};

const MIB: usize = 1024 * 1024;
const SIZE: usize = 9 * MIB + 13;

async fn server() -> Server {
    Server::builder().on_disk().start().await
}

/// The one object of a server.
async fn object(server: &Server) -> PathBuf {
    let key = server.objects().list().await.into_keys().next().expect("there is an object");
    server.data().join("objects").join(&key[..2]).join(key)
}

/// Drops a part of a file from the page cache.
fn chill(file: &Path, from: usize, length: usize) {
    let file = File::open(file).expect("open the object");
    fadvise(&file, from as u64, std::num::NonZeroU64::new(length as u64), Advice::DontNeed)
        .expect("drop the object from the page cache");
}

#[tokio::test]
async fn a_large_blob_arrives_whole_and_in_ranges_from_memory_and_from_the_disk() {
    let blob = content::bytes(1, SIZE);
    for of in [Berth::of, Berth::over_http2] {
        let berth = of(server().await);
        let digest = berth.repository("team/app").push_blob(&blob).await;
        let (path, file) = (format!("/v2/team/app/blobs/{digest}"), object(&berth.server).await);
        // Warm, cold, and cold in the middle and at the end.
        for cold in [vec![], vec![(0, SIZE)], vec![(3 * MIB, 2 * MIB)], vec![(8 * MIB, 2 * MIB)]] {
            let chill = || cold.iter().for_each(|(from, length)| chill(&file, *from, *length));
            chill();
            assert!(berth.ask("GET", &path).await.is(200).body == blob, "whole, cold at {cold:?}");
            for (from, to) in
                [(0, SIZE), (1, SIZE - 1), (MIB - 7, 5 * MIB + 1), (SIZE - 100_000, SIZE), (77, 78)]
            {
                chill();
                let range = format!("bytes={from}-{}", to - 1);
                let answer = berth.send("GET", &path, &[("range", &range)], "").await;
                assert!(answer.is(206).body == blob[from..to], "{range}, cold at {cold:?}");
            }
            chill();
            let ranges = [("range", "bytes=10-2000009,4000000-8000000,-500000")];
            let answer = berth.send("GET", &path, &ranges, "").await;
            let boundary = answer.is(206).header("content-type").split_once("boundary=").expect("parts").1;
            let wanted = [&blob[10..2_000_010], &blob[4_000_000..8_000_001], &blob[SIZE - 500_000..]];
            let bodies: Vec<_> = parts(&answer.body, boundary).into_iter().map(|(_, body)| body).collect();
            assert!(bodies == wanted, "several ranges, cold at {cold:?}");
        }
    }
}

#[tokio::test]
async fn answers_on_one_connection_do_not_mix() {
    let server = server().await;
    let repository = server.repository("team/app");
    let sizes = [3 * MIB, 1, 70_000, MIB + 1, 200, 0, 2 * MIB, 65_536, 65_537, 4 * MIB];
    let mut blobs = Vec::new();
    for (size, seed) in sizes.into_iter().zip(1..) {
        let blob = content::bytes(seed, size);
        blobs.push((repository.push_blob(&blob).await, blob));
    }
    let mut wire = Wire::connect(server.host()).await;
    // All at once, so that an answer waits behind another.
    let requests = blobs.iter().map(|(digest, _)| {
        let head = format!("/v2/team/app/blobs/{digest} HTTP/1.1\r\nHost: x\r\n");
        let of_blob = format!("HEAD {head}\r\nGET {head}\r\nGET {head}Range: bytes=100-199999\r\n\r\n");
        of_blob + "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"
    });
    let requests: String = requests.collect();
    wire.send(requests).await;

    for (digest, blob) in &blobs {
        assert_eq!(length(&wire.head().await), blob.len(), "HEAD");
        assert_eq!(length(&wire.head().await), blob.len(), "GET");
        assert!(wire.body(blob.len()).await == *blob, "{digest} of {} bytes", blob.len());
        let head = wire.head().await;
        if blob.len() > 100 {
            let wanted = &blob[100..blob.len().min(200_000)];
            assert!(head.starts_with("HTTP/1.1 206"), "{head}");
            assert!(wire.body(wanted.len()).await == *wanted, "a range of {digest}");
        } else {
            assert!(head.starts_with("HTTP/1.1 416"), "{head}");
            wire.body(length(&head)).await;
        }
        assert_eq!(length(&wire.head().await), 2);
        assert_eq!(wire.body(2).await, b"{}");
    }
}

fn length(head: &str) -> usize {
    let line = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    line.unwrap_or_else(|| panic!("no length in {head}")).parse().expect("a length is a number")
}

#[tokio::test]
async fn a_pull_that_the_client_cuts_leaves_nothing_open() {
    let server = server().await;
    let repository = server.repository("team/app");
    let blob = content::bytes(1, SIZE);
    let digest = repository.push_blob(&blob).await;
    let file = object(&server).await;
    for cut in 0..40 {
        let mut wire = Wire::connect(server.host()).await;
        wire.send(format!("GET /v2/team/app/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        wire.head().await;
        wire.body(1 + cut * 150_000).await;
    }
    let descriptors = format!("/proc/{}/fd", server.pid());
    eventually("the object is closed", async || {
        let mut open = fs::read_dir(&descriptors).expect("the server is running").flatten();
        let is_open = open.any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == file));
        (!is_open).then_some(())
    })
    .await;
    assert!(repository.blob(&digest).await == blob);
}

#[tokio::test]
async fn a_file_that_is_cut_under_a_pull_ends_the_connection_and_no_zeros_are_sent() {
    let server = server().await;
    // Without a zero, and more than the connection holds by itself.
    let blob = vec![0xb7; 64 * MIB];
    let digest = server.repository("team/app").push_blob(&blob).await;
    let file = File::options().write(true).open(object(&server).await).expect("open the object");
    let mut wire = Wire::connect(server.host()).await;
    wire.send(format!("GET /v2/team/app/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    assert_eq!(length(&wire.head().await), blob.len());
    wire.body(MIB).await;

    // Far behind what is on its way already.
    file.set_len(40 * MIB as u64 + 100).expect("cut the object");

    let rest = wire.rest().await;
    assert!(MIB + rest.len() <= 40 * MIB + 100, "{} bytes came", MIB + rest.len());
    assert!(rest.iter().all(|byte| *byte == 0xb7));
}
