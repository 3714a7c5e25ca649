//! Upload sessions when things go wrong: other repositories, other writers, cut connections.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use crate::{
    harness::content::{bytes, sha256},
    protocol::wire::{Berth, on_each_database, on_each_database_with, read_answer, with_digest},
};

#[tokio::test]
async fn a_session_belongs_to_its_repository() {
    on_each_database(async |berth| {
        let location = berth.begin("team/app").await;
        berth.send("PATCH", &location, &[], "some bytes").await.is(202);
        let stolen = location.replace("team/app", "team/other");
        let finish = with_digest(&stolen, &sha256(b"some bytes"));

        for (method, path) in [("GET", &stolen), ("PATCH", &stolen), ("PUT", &finish), ("DELETE", &stolen)] {
            berth.ask(method, path).await.is_refused(404, "BLOB_UPLOAD_UNKNOWN");
        }

        berth.ask("GET", &location).await.is(204).stands_at(10);
        berth.ask("PUT", &with_digest(&location, &sha256(b"some bytes"))).await.is(201);
        berth.ask("HEAD", &format!("/v2/team/other/blobs/{}", sha256(b"some bytes"))).await.is(404);
    })
    .await;
}

#[tokio::test]
async fn a_session_nobody_began_is_unknown() {
    on_each_database(async |berth| {
        berth.begin("team/app").await;
        for id in ["0123456789abcdef0123456789abcdef", "x", "00000000-0000-0000-0000-000000000000"] {
            for method in ["GET", "HEAD", "PATCH", "DELETE"] {
                let answer = berth.ask(method, &format!("/v2/team/app/blobs/uploads/{id}")).await;
                assert_eq!(answer.status, 404, "{method} {id}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_second_writer_is_turned_away_while_the_first_still_sends() {
    on_each_database(async |berth| {
        let content = bytes(1, 200_000);
        let location = berth.begin("team/app").await;
        let mut writer = writing(berth, "PATCH", &location, "Content-Length: 200000").await;
        writer.write_all(&content[..100_000]).await.expect("the server reads");

        let finish = with_digest(&location, &sha256(b"intruder"));
        for (method, path) in [("PATCH", &location), ("PUT", &finish)] {
            let turned_away = berth.send(method, path, &[], "intruder").await;
            turned_away.is_refused(409, "BLOB_UPLOAD_INVALID").header("retry-after");
        }

        writer.write_all(&content[100_000..]).await.expect("the server reads");
        read_answer(&mut writer).await.is(202).stands_at(content.len());
        berth.ask("PUT", &with_digest(&location, &sha256(&content))).await.is(201);
        assert_eq!(berth.repository("team/app").blob(&sha256(&content)).await, content);
    })
    .await;
}

#[tokio::test]
async fn an_upload_cancelled_under_its_writer_is_gone_for_the_writer_too() {
    on_each_database(async |berth| {
        let location = berth.begin("team/app").await;
        let mut writer = writing(berth, "PATCH", &location, "Content-Length: 20").await;
        writer.write_all(b"ten bytes,").await.expect("the server reads");

        berth.ask("DELETE", &location).await.is(204);

        writer.write_all(b"and others").await.expect("the server reads");
        read_answer(&mut writer).await.is_refused(404, "BLOB_UPLOAD_UNKNOWN");
        berth.ask("GET", &location).await.is_refused(404, "BLOB_UPLOAD_UNKNOWN");
    })
    .await;
}

#[tokio::test]
async fn a_patch_that_is_cut_keeps_what_arrived() {
    on_each_database(async |berth| {
        for (seed, framing) in [(3, "Content-Length: 299000"), (4, "Transfer-Encoding: chunked")] {
            for cut in [Cut::Close, Cut::Reset] {
                let content = bytes(seed, 300_000);
                let location = berth.begin("team/app").await;
                berth.send("PATCH", &location, &[], content[..1000].to_vec()).await.is(202);
                let mut writer = writing(berth, "PATCH", &location, framing).await;
                if framing.ends_with("chunked") {
                    writer.write_all(b"48ff8\r\n").await.expect("the server reads");
                }
                writer.write_all(&content[1000..150_000]).await.expect("the server reads");

                cut.end(writer);

                let kept = until_free(berth, &location).await;
                assert!((1000..=150_000).contains(&kept), "{kept}");
                // What is in flight when a connection is reset is lost; a close delivers it.
                assert!(matches!(cut, Cut::Reset) || kept == 150_000, "{kept}");
                let range = format!("{kept}-{}", content.len() - 1);
                let range = [("content-range", range.as_str())];
                let resumed = berth.send("PATCH", &location, &range, content[kept..].to_vec()).await;
                resumed.is(202).stands_at(content.len());
                berth.ask("PUT", &with_digest(&location, &sha256(&content))).await.is(201);
                assert_eq!(berth.repository("team/app").blob(&sha256(&content)).await, content);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_that_ends_early_is_answered_and_what_came_is_kept() {
    on_each_database(async |berth| {
        let location = berth.begin("team/app").await;
        let finish = with_digest(&location, &sha256(b"twelve bytes and more"));
        for (method, path, kept) in [("PATCH", &location, 12), ("PUT", &finish, 24)] {
            let mut connection = berth.connect().await;
            let request =
                format!("{method} {path} HTTP/1.1\r\nHost: berth\r\nContent-Length: 100\r\n\r\ntwelve bytes");
            connection.write_all(request.as_bytes()).await.expect("the server reads");
            connection.shutdown().await.expect("half of a connection closes");

            read_answer(&mut connection).await.is_refused(400, "BLOB_UPLOAD_INVALID");

            berth.ask("GET", &location).await.is(204).stands_at(kept);
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_that_falls_silent_is_answered_and_what_came_is_kept() {
    on_each_database_with("[http]\nidle_timeout = '1s'", async |berth| {
        let location = berth.begin("team/app").await;
        let mut writer = writing(berth, "PATCH", &location, "Content-Length: 100").await;
        writer.write_all(b"twelve bytes").await.expect("the server reads");

        read_answer(&mut writer).await.is_refused(408, "BLOB_UPLOAD_INVALID");

        berth.ask("GET", &location).await.is(204).stands_at(12);
        berth.ask("PUT", &with_digest(&location, &sha256(b"twelve bytes"))).await.is(201);
    })
    .await;
}

#[tokio::test]
async fn a_put_that_is_cut_is_no_blob_and_can_be_resumed() {
    on_each_database(async |berth| {
        let content = bytes(5, 100_000);
        let digest = sha256(&content);
        let location = berth.begin("team/app").await;
        let target = with_digest(&location, &digest);
        let mut writer = writing(berth, "PUT", &target, "Content-Length: 100000").await;
        writer.write_all(&content[..60_000]).await.expect("the server reads");
        drop(writer);

        let kept = until_free(berth, &location).await;

        assert_eq!(kept, 60_000);
        berth.ask("HEAD", &format!("/v2/team/app/blobs/{digest}")).await.is(404);
        berth.send("PUT", &target, &[], content[kept..].to_vec()).await.is(201);
        assert_eq!(berth.repository("team/app").blob(&digest).await, content);
    })
    .await;
}

/// How a connection ends that has not said all it wanted.
#[derive(Clone, Copy)]
enum Cut {
    Close,
    Reset,
}

impl Cut {
    fn end(self, connection: TcpStream) {
        if let Self::Reset = self {
            connection.set_zero_linger().expect("a socket takes the option");
        }
        drop(connection);
    }
}

/// Begins to write to a session. The server bids to go on when it has made the session the writer's.
async fn writing(berth: &Berth, method: &str, target: &str, framing: &str) -> TcpStream {
    const GO_ON: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut connection = berth.connect().await;
    let head =
        format!("{method} {target} HTTP/1.1\r\nHost: berth\r\nExpect: 100-continue\r\n{framing}\r\n\r\n");
    connection.write_all(head.as_bytes()).await.expect("the server reads");
    let mut answer = [0; GO_ON.len()];
    connection.read_exact(&mut answer).await.expect("the server bids to go on");
    assert_eq!(answer, GO_ON, "{}", String::from_utf8_lossy(&answer));
    connection
}

/// Waits until nobody writes to a session; returns how many bytes it has.
async fn until_free(berth: &Berth, location: &str) -> usize {
    for _ in 0..1000 {
        // A chunk that is never in order: it is refused for that once nobody else writes.
        let probe = berth.send("PATCH", location, &[("content-range", "900000000-900000000")], "x").await;
        if probe.status != 409 {
            let (_, last) = probe.is(416).header("range").split_once('-').expect("a range");
            return last.parse::<usize>().expect("a number") + 1;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("the session stays busy");
}
