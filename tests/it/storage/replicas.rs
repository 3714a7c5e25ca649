//! Several processes on one PostgreSQL database and one bucket: any of them goes on with any upload.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use crate::{
    faults::{
        behind::{Index, assert_clean, assert_only_these_are_left},
        wire::{Dice, Image, Way, Wire, blob},
    },
    harness::{Database, Server, Storage, content::sha256, server::Builder, tools::workbench},
    operation::scenes::eventually,
    storage::{MIB, SMALL_PARTS},
};

const PART: usize = 5 * MIB;

/// How far the clocks of two machines may differ here.
const AHEAD: &str = "+45s";

fn builder() -> Builder {
    let (name, value) = SMALL_PARTS;
    Server::builder().database(Database::Postgres).storage(Storage::SeaweedFs).env(name, value)
}

fn beside(server: &Server) -> Builder {
    let (name, value) = SMALL_PARTS;
    server.beside().env(name, value)
}

#[tokio::test]
async fn an_upload_goes_on_elsewhere_when_its_process_is_killed_between_two_requests() {
    let _bench = workbench!("postgres", "weed");
    let mut first = builder().start().await;
    let mut second = beside(&first).start().await;
    let bytes = blob(1, 13 * MIB + 77);
    let (there, here) = (Wire::to(&first), Wire::to(&second));
    let mut location = there.start("team/app").await.expect("begin");
    for piece in [bytes.slice(..MIB), bytes.slice(MIB..7 * MIB + 5)] {
        location = there.append(&location, piece).await.expect("append");
    }

    first.kill();

    let stands_at = here.offset(&location).await.expect("status");
    assert_eq!(stands_at, 7 * MIB + 5, "what was acknowledged is kept");
    let location = here.append(&location, bytes.slice(stands_at..)).await.expect("append");
    here.finish(&location, &sha256(&bytes)).await.expect("finish");
    assert_eq!(here.blob("team/app", &sha256(&bytes)).await.expect("pull"), bytes);
    leaves_nothing_else(&mut second, &bytes).await;
}

#[tokio::test]
async fn an_upload_goes_on_elsewhere_when_its_process_is_killed_in_the_middle_of_a_request() {
    let _bench = workbench!("postgres", "weed");
    for (seed, before) in [(1, 0), (2, 3 * MIB), (3, 6 * MIB)] {
        let mut first = builder().start().await;
        let mut second = beside(&first).start().await;
        let bytes = blob(seed, 20 * MIB + 1);
        let (there, here) = (Wire::to(&first), Wire::to(&second));
        let mut location = there.start("team/app").await.expect("begin");
        if before > 0 {
            location = there.append(&location, bytes.slice(..before)).await.expect("append");
        }
        // Enough for two parts that nobody was told of, and then silence.
        let sent = bytes.slice(before..before + 2 * PART + MIB);
        let open = stream::iter([Ok::<_, std::io::Error>(sent)]).chain(stream::pending());
        let killed = there.patch(&location, reqwest::Body::wrap_stream(open));
        let kill = async {
            let mut index = Index::of(&second).await;
            eventually("the request writes to a multipart upload", async || {
                let noted = "SELECT id FROM uploads WHERE writer_until > 0
                             AND (multipart IS NOT NULL OR writer_multipart IS NOT NULL)";
                (!index.texts(noted).await.is_empty()).then_some(())
            })
            .await;
            index.close().await;
            first.kill();
        };
        let (killed, ()) = tokio::join!(killed, kill);
        killed.expect_err("its server is gone");

        let too_early = here.append(&location, bytes.slice(before..=before)).await;
        assert!(too_early.is_err_and(|failure| failure.is_busy()), "the lease is not over");
        let mut index = Index::of(&second).await;
        index.execute("UPDATE uploads SET writer_until = writer_until - 60000 WHERE writer_until > 0").await;
        index.close().await;

        // Nothing of the request was acknowledged, so all of it is sent again.
        let rest = bytes.slice(before..);
        let location = here.append(&location, rest).await.expect("append");
        here.finish(&location, &sha256(&bytes)).await.expect("finish");
        assert_eq!(here.blob("team/app", &sha256(&bytes)).await.expect("pull"), bytes);
        leaves_nothing_else(&mut second, &bytes).await;
    }
}

#[tokio::test]
async fn a_hundred_odd_chunks_may_each_go_to_another_process() {
    let _bench = workbench!("postgres", "weed");
    let mut last = builder().start().await;
    let three = [beside(&last).start().await, beside(&last).start().await, beside(&last).start().await];
    let wires = three.each_ref().map(Wire::to);
    for seed in [7, 8] {
        let mut dice = Dice::new(seed);
        let lengths: Vec<_> = (0..100)
            .map(|_| {
                let most =
                    [2, 1_000, 300_000, 700_000][usize::try_from(dice.below(4)).expect("a small number")];
                usize::try_from(1 + dice.below(most)).expect("a small number")
            })
            .collect();
        let bytes = blob(seed, lengths.iter().sum());
        let mut rest = bytes.clone();
        let mut location = wires[0].start("team/app").await.expect("begin");
        let mut at = 0;
        for (number, length) in lengths.iter().enumerate() {
            // Another one than the one before.
            at = (at + 1 + usize::try_from(dice.below(2)).expect("a small number")) % 3;
            let piece = rest.split_to(*length);
            location = wires[at].append(&location, piece).await.unwrap_or_else(|failure| {
                panic!("chunk {number} of seed {seed}, {length} bytes at {at}: {failure:?}")
            });
        }

        Wire::to(&last).finish(&location, &sha256(&bytes)).await.expect("finish");

        for wire in &wires {
            assert_eq!(wire.blob("team/app", &sha256(&bytes)).await.expect("pull"), bytes);
        }
        eprintln!("seed {seed}: {} bytes in 100 chunks", bytes.len());
    }
    drop(three);
    last.kill();
    assert_clean(&last).await;
    assert_eq!(last.objects().open_multiparts().await, 0);
}

/// Kills a server, lets its time go by, and looks that it has one blob and nothing else.
async fn leaves_nothing_else(server: &mut Server, bytes: &Bytes) {
    let image = Image::new(1, [bytes.clone()]);
    Wire::to(server).push("team/app", "1", &image, Way::Docker, None).await.expect("push");
    server.kill();
    let blobs: BTreeSet<String> = image.blobs.iter().map(|bytes| sha256(bytes)).collect();
    assert_only_these_are_left(server, &blobs).await;
}

/// Two servers, the clock of the second ahead of the first's. Only the second collects.
async fn two_clocks(config: &str) -> (Server, Server) {
    let config = format!("[gc]\ninterval = \"1h\"\n{config}");
    let behind = builder().config(&config).start().await;
    let ahead = beside(&behind).clock(AHEAD).await.env("BERTH_GC__INTERVAL", "200ms").start().await;
    let mut begun = Vec::new();
    for server in [&behind, &ahead] {
        begun.push(Wire::to(server).start("team/clocks").await.expect("begin"));
    }
    let mut index = Index::of(&behind).await;
    let apart = index.texts("SELECT CAST(MAX(created_at) - MIN(created_at) AS TEXT) FROM uploads").await;
    assert!(apart[0].parse::<u64>().is_ok_and(|apart| (40_000..60_000).contains(&apart)), "{apart:?}");
    index.close().await;
    for location in begun {
        Wire::to(&behind).cancel(&location).await.expect("cancel");
    }
    (behind, ahead)
}

#[tokio::test]
async fn uploads_move_between_clocks_that_are_45_seconds_apart() {
    let _bench = workbench!("postgres", "weed", "faketime");
    let (behind, mut ahead) = two_clocks("").await;
    let bytes = blob(1, 12 * MIB);
    let wires = [Wire::to(&behind), Wire::to(&ahead)];
    let mut location = wires[1].start("team/app").await.expect("begin");

    for (number, piece) in bytes.chunks(MIB + 1).enumerate() {
        let piece = bytes.slice_ref(piece);
        location = wires[number % 2].append(&location, piece).await.expect("append");
    }
    wires[0].finish(&location, &sha256(&bytes)).await.expect("finish");

    for wire in &wires {
        assert_eq!(wire.blob("team/app", &sha256(&bytes)).await.expect("pull"), bytes);
    }
    leaves_nothing_else(&mut ahead, &bytes).await;
}

#[tokio::test]
async fn no_session_is_stolen_from_a_living_writer_by_a_clock_that_is_ahead() {
    let _bench = workbench!("postgres", "weed", "faketime");
    let (behind, ahead) = two_clocks("").await;
    let bytes = blob(1, 3 * MIB);
    let (writer, thief) = (Wire::to(&behind), Wire::to(&ahead));
    let location = writer.start("team/app").await.expect("begin");
    let is_over = AtomicBool::new(false);
    // Longer than what is left of a lease for a clock that is so far ahead: a checkpoint must come first.
    let write = async {
        let pieces = bytes.chunks(MIB / 4).map(|piece| bytes.slice_ref(piece)).collect();
        let written = writer.append_pieces(&location, pieces, Duration::from_millis(1_700)).await;
        is_over.store(true, Ordering::Relaxed);
        written.expect("append")
    };
    let steal = async {
        let mut index = Index::of(&ahead).await;
        eventually("it is claimed", async || {
            let claimed = "SELECT id FROM uploads WHERE writer_until > 0";
            (!index.texts(claimed).await.is_empty()).then_some(())
        })
        .await;
        index.close().await;
        let mut turned_away = 0;
        eventually("the writer is done", async || {
            let stolen = thief.append(&location, Bytes::from_static(b"stolen")).await;
            match stolen {
                Err(failure) if failure.is_busy() => turned_away += 1,
                // It came after the writer, whose answer is still on its way.
                other => assert!(turned_away > 100, "{other:?} after {turned_away} attempts"),
            }
            is_over.load(Ordering::Relaxed).then_some(())
        })
        .await;
        turned_away
    };
    let (location, turned_away) = tokio::join!(write, steal);
    eprintln!("turned away {turned_away} times");
    let stands_at = thief.offset(&location).await.expect("status");
    assert!(stands_at >= bytes.len(), "{stands_at}");
}

#[tokio::test]
async fn nothing_is_collected_early_by_a_clock_that_is_ahead() {
    let _bench = workbench!("postgres", "weed", "faketime");
    let (behind, ahead) = two_clocks("min_age = \"4m\"\n[uploads]\nttl = \"10m\"").await;
    let wire = Wire::to(&behind);
    let (young, old) = (blob(1, 1_000), blob(2, 2_000));
    wire.upload("team/young", &young, Way::Docker).await.expect("upload");
    wire.upload("team/old", &old, Way::Docker).await.expect("upload");
    let session = wire.start("team/young").await.expect("begin");
    let session = wire.append(&session, young.slice(..500)).await.expect("append");
    assert_eq!(ahead.objects().list().await.len(), 3);

    // Almost all of what is promised goes by, for one of them much more.
    let mut index = Index::of(&ahead).await;
    index.execute("UPDATE uploads SET expires_at = expires_at - 540000").await;
    index.execute("UPDATE repository_blobs SET idle_since = idle_since - 235000").await;
    index
        .execute(
            "UPDATE repository_blobs SET idle_since = idle_since - 172800000
             WHERE repository_id = (SELECT id FROM repositories WHERE name = 'team/old')",
        )
        .await;
    eventually("the old one is collected", async || (ahead.objects().list().await.len() == 2).then_some(()))
        .await;

    assert_eq!(wire.blob("team/young", &sha256(&young)).await.expect("it is still there"), young);
    wire.append(&session, young.slice(500..)).await.expect("the session is still there");
    index.close().await;
}
