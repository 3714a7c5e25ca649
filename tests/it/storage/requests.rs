//! What a request costs at the store, counted.

use std::time::{Duration, Instant};

use berth_test_stores::{Kind, Proxy};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
};

use crate::{
    faults::{
        behind::Index,
        wire::{Dice, Image, Way, Wire, blob},
    },
    harness::{Server, content::sha256, tools::workbench},
    storage::{MIB, assert_no_list_and_no_copy, behind_a_proxy, count, until_only_objects_are_left, writes},
};

const WAYS: [Way; 3] = [Way::Docker, Way::Containerd, Way::Single];
const PART: usize = 8 * MIB;

async fn start(config: &str) -> (Proxy, Server, Wire) {
    let (proxy, builder) = behind_a_proxy(config).await;
    let server = builder.start().await;
    let wire = Wire::to(&server);
    proxy.forget();
    (proxy, server, wire)
}

#[tokio::test]
async fn a_blob_that_fits_one_part_costs_one_write_whichever_way_it_is_pushed() {
    let _bench = workbench!("weed");
    let (proxy, _server, wire) = start("").await;
    for (seed, length) in [(1, 0), (2, 1), (3, 300_000), (4, PART)] {
        for (number, way) in (0..).zip(WAYS) {
            let bytes = blob(seed * 10 + number, length);
            // The empty blob is the same for all.
            let repository = format!("team/{number}");
            proxy.forget();

            wire.upload(&repository, &bytes, way).await.expect("upload");

            assert_eq!(writes(&proxy), [Kind::Put], "{length} bytes, {way:?}: {:#?}", proxy.passed());
            assert_eq!(proxy.passed().len(), 2, "one write and one look at it: {:#?}", proxy.passed());
            assert_eq!(wire.blob(&repository, &sha256(&bytes)).await.expect("pull"), bytes);
        }
    }
}

#[tokio::test]
async fn a_blob_of_n_parts_costs_n_writes_and_two() {
    let _bench = workbench!("weed");
    let (proxy, _server, wire) = start("").await;
    for (seed, way) in (0..).zip(WAYS) {
        let bytes = blob(seed, 20 * MIB);
        proxy.forget();

        wire.upload("team/app", &bytes, way).await.expect("upload");

        let kinds = writes(&proxy);
        assert_eq!(count(&kinds, Kind::Part), 3, "{way:?}: {kinds:?}");
        assert_eq!(kinds.len(), 3 + 2, "{way:?}: {kinds:?}");
        assert_eq!((kinds[0], kinds[4]), (Kind::Begin, Kind::Complete), "{way:?}: {kinds:?}");
        let sent: u64 = proxy
            .passed()
            .iter()
            .filter(|passed| passed.kind() == Kind::Part)
            .map(|passed| passed.sent_bytes)
            .sum();
        assert_eq!(sent, bytes.len() as u64, "no byte is sent twice");
        assert_eq!(wire.blob("team/app", &sha256(&bytes)).await.expect("pull"), bytes);
    }
}

/// A session whose requests end in the middle of its first part puts what it has as an object, because
/// there is nothing else to put it in: that is one write for each of these requests. Once the first part
/// is full, what stands behind the last one is the index's to keep.
#[tokio::test]
async fn a_request_that_ends_in_the_middle_of_the_first_part_costs_one_write_more_and_a_later_one_none() {
    let _bench = workbench!("weed");
    let (proxy, _server, wire) = start("").await;
    for seed in 0..4 {
        let bytes = blob(seed, 20 * MIB);
        let pieces = odd_pieces(&mut Dice::new(seed), &bytes);
        proxy.forget();
        let mut location = wire.start("team/app").await.expect("begin");
        let (mut early, mut end) = (0, 0);
        for piece in &pieces {
            location = wire.append(&location, piece.clone()).await.expect("append");
            end += piece.len();
            early += usize::from(end <= PART);
        }

        wire.finish(&location, &sha256(&bytes)).await.expect("finish");

        let kinds = writes(&proxy);
        assert_eq!(count(&kinds, Kind::Put), early, "{kinds:?}");
        assert_eq!(count(&kinds, Kind::Part), 3, "{kinds:?}");
        assert_eq!(kinds.len(), early + 3 + 2, "{kinds:?}");
        // Whoever goes on in the first part reads back what is there: one look and one read.
        let reads = proxy.passed().len() - kinds.len();
        assert_eq!(reads, 2 * early + 1, "{:#?}", proxy.passed());
        assert_eq!(wire.blob("team/app", &sha256(&bytes)).await.expect("pull"), bytes);
    }
}

#[tokio::test]
async fn a_request_that_ends_with_a_full_part_leaves_nothing_for_the_index_to_keep() {
    let _bench = workbench!("weed");
    let (proxy, server, wire) = start("").await;
    let bytes = blob(1, 2 * PART);
    let location = wire.start("team/app").await.expect("begin");

    let location = wire.append(&location, bytes.clone()).await.expect("append");

    assert_eq!(writes(&proxy), [Kind::Begin, Kind::Part, Kind::Part]);
    let mut index = Index::of(&server).await;
    assert!(index.texts("SELECT upload_id FROM upload_tails").await.is_empty());
    index.close().await;
    wire.finish(&location, &sha256(&bytes)).await.expect("finish");
    assert_eq!(wire.blob("team/app", &sha256(&bytes)).await.expect("pull"), bytes);
}

fn odd_pieces(dice: &mut Dice, bytes: &Bytes) -> Vec<Bytes> {
    let mut rest = bytes.clone();
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let length = usize::try_from(1 + dice.below(4_000_000)).expect("a small number");
        pieces.push(rest.split_to(length.min(rest.len())));
    }
    pieces
}

#[tokio::test]
async fn nothing_is_listed_and_nothing_copied_for_a_push_a_pull_a_delete_an_expiry_or_a_collection() {
    let _bench = workbench!("weed");
    let config = "[gc]\ninterval = \"200ms\"";
    let (proxy, server, wire) = start(config).await;
    let image = Image::new(1, [blob(1, 1_000), blob(2, 9 * MIB), Bytes::new()]);

    for (tag, way) in [("1", Way::Docker), ("2", Way::Containerd), ("3", Way::Single)] {
        wire.push("team/app", tag, &image, way, None).await.expect("push");
    }
    wire.push("team/other", "1", &image, Way::Docker, Some("team/app")).await.expect("push with mounts");
    wire.pull("team/other", "1", &image).await.expect("pull");
    assert!(wire.has("team/app", &sha256(&image.blobs[1])).await.expect("HEAD"));
    for bytes in [blob(3, 1_000), blob(4, 9 * MIB)] {
        let left = wire.start("team/app").await.expect("begin");
        wire.append(&left, bytes.clone()).await.expect("append");
        let cancelled = wire.start("team/app").await.expect("begin");
        let cancelled = wire.append(&cancelled, bytes).await.expect("append");
        wire.cancel(&cancelled).await.expect("cancel");
    }
    for repository in ["team/app", "team/other"] {
        wire.delete(repository, &format!("manifests/{}", image.digest)).await.expect("delete");
    }
    wire.delete("team/app", &format!("blobs/{}", sha256(&image.blobs[1]))).await.expect("delete");
    let mut index = Index::of(&server).await;
    index.two_days_go_by().await;
    index.close().await;
    until_only_objects_are_left(&server, 0).await;

    assert_no_list_and_no_copy(&proxy);
    assert_eq!(server.objects().open_multiparts().await, 0);
}

#[tokio::test]
async fn a_client_that_hangs_up_stops_the_reading_of_the_store() {
    const READ: usize = MIB;
    let _bench = workbench!("weed");
    let (proxy, server, wire) = start("").await;
    let bytes = blob(1, 64 * MIB);
    wire.upload("team/app", &bytes, Way::Single).await.expect("upload");
    proxy.forget();
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(64 * 1024).expect("a socket takes the option");
    let mut client = socket.connect(server.host().parse().expect("an address")).await.expect("connect");
    let request = format!("GET /v2/team/app/blobs/{} HTTP/1.1\r\nHost: berth\r\n\r\n", sha256(&bytes));
    client.write_all(request.as_bytes()).await.expect("the server reads");
    client.read_exact(&mut vec![0; READ]).await.expect("the blob begins");

    let hung_up = Instant::now();
    drop(client);

    let is_get = |kind| kind == Kind::Get;
    let (dropped, read) = proxy
        .until("the read is dropped", |passed| {
            let read = passed.iter().find(|passed| is_get(passed.kind()))?;
            Some((read.dropped?, read.received_bytes))
        })
        .await;
    let after = dropped.saturating_duration_since(hung_up);
    eprintln!("the read of the store ended {after:?} after the client, {read} bytes of {}", bytes.len());
    assert!(after < Duration::from_millis(500), "{after:?}");
    assert!(read <= (READ + PART) as u64, "{read} bytes were read for {READ}");
    assert_eq!(proxy.passed().iter().filter(|passed| is_get(passed.kind())).count(), 1);
}
