//! Limits: clients that are slow, silent or many, a memory that is small, a disk that is full.

use std::{fs, time::Duration};

use futures_util::{StreamExt as _, future::join_all, stream};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    harness::{
        Repository, Server, content, http,
        layout::{INDEX, MANIFEST},
        tools::workbench,
    },
    operation::scenes::{Disk, Image, Wire, begin, error_body, eventually, head},
};

const MIB: u64 = 1024 * 1024;

/// Lets this process have so many connections.
fn many_connections() {
    rlimit::increase_nofile_limit(16_384).expect("raise the limit of open files");
}

/// Whether the server still holds a connection that comes from a port.
fn is_established(server: &Server, from: u16) -> bool {
    let connections = fs::read_to_string("/proc/net/tcp").expect("the kernel lists its connections");
    let here = server.host().rsplit_once(':').expect("a port").1.parse::<u16>().expect("a number");
    // Local and remote address, then the state; 01 is established.
    let ours = format!("0100007F:{here:04X} 0100007F:{from:04X} 01 ");
    connections.contains(&ours)
}

/// The processor time the server has had, in hundredths of a second.
fn processor_time(server: &Server) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", server.pid())).expect("the server is running");
    // Behind the name in brackets, which may hold spaces: utime and stime are fields 14 and 15.
    let fields = stat.rsplit_once(')').expect("a name in brackets").1;
    let fields: Vec<_> = fields.split_whitespace().collect();
    [fields[11], fields[12]].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_slow_connections_do_not_keep_a_normal_client_waiting() {
    many_connections();
    let server = Server::start().await;
    let mut slow = Vec::new();
    for number in 0..1_000 {
        let mut wire = Wire::connect(server.host()).await;
        match number % 4 {
            0 => {}
            1 => drop(wire.send("P").await),
            2 => drop(wire.send("GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: ").await),
            _ => drop(wire.send("PRI * HTTP/2.0\r\n\r\nS").await),
        }
        slow.push(wire);
    }
    let dripping = async {
        loop {
            for wire in slow.iter_mut().skip(2).step_by(4) {
                wire.send("y").await;
                sleep(Duration::from_millis(1)).await;
            }
        }
    };
    let image = Image::of(1, &[1_000, 3_000_000]);
    let normal = async {
        let repository = server.repository("team/app");
        image.push(&repository, "1").await;
        image.is_whole(&repository, "1").await;
    };
    tokio::select! {
        () = dripping => {}
        done = timeout(Duration::from_secs(40), normal) => done.expect("a normal client is served"),
    }
}

#[tokio::test]
async fn connections_that_wait_cost_no_processor_time() {
    many_connections();
    let server = Server::start().await;
    let mut waiting = Vec::new();
    for _ in 0..500 {
        let mut wire = Wire::connect(server.host()).await;
        wire.send("P").await;
        waiting.push(wire);
    }
    sleep(Duration::from_secs(1)).await;
    let before = processor_time(&server);

    sleep(Duration::from_secs(2)).await;

    let spent = processor_time(&server) - before;
    assert!(spent < 40, "{spent} hundredths of a second of processor time for nothing");
}

#[tokio::test]
async fn a_request_whose_head_does_not_come_is_cut() {
    let server = Server::builder().config("[http]\nheader_timeout = \"1s\"").start().await;
    for begun in
        ["", "P", "GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: ", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"]
    {
        let mut wire = Wire::connect(server.host()).await;
        wire.send(begun).await;
        let drips = begun.ends_with(": ");
        let rest = async {
            while drips && wire.send("y").await {
                sleep(Duration::from_millis(100)).await;
            }
            wire.rest().await
        };
        // The last is a connection that is kept alive and not used.
        let rest = String::from_utf8_lossy(&rest.await).into_owned();
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 "), "{begun:?}: {rest}");
    }
}

#[tokio::test]
async fn a_body_that_falls_silent_is_cut_and_what_arrived_is_kept() {
    let server = Server::builder().config("[http]\nidle_timeout = \"1s\"").start().await;
    let session = begin(&server.repository("team/app")).await;
    let mut wire = Wire::connect(server.host()).await;
    wire.send(format!("PATCH {session} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")).await;
    wire.send(content::bytes(1, 100_000)).await;

    let head = wire.head().await;

    assert!(head.starts_with("HTTP/1.1 408"), "{head}");
    let body = String::from_utf8_lossy(&wire.rest().await).into_owned();
    let body: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error} in {body:?}"));
    assert_eq!(body["errors"][0]["code"], "BLOB_UPLOAD_INVALID");
    let answer = http().get(server.url() + &session).send().await.expect("GET of the session");
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["range"]),
        (204, &"0-99999".parse().expect("text"))
    );
}

#[tokio::test]
async fn a_slow_body_that_never_falls_silent_is_taken() {
    let server = Server::builder().config("[http]\nidle_timeout = \"2s\"").start().await;
    let digest = content::sha256(&[7; 40]);
    let mut wire = Wire::connect(server.host()).await;
    let head = "HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n";
    wire.send(format!("POST /v2/team/app/blobs/uploads/?digest={digest} {head}")).await;
    // Longer than a body may be silent.
    for _ in 0..40 {
        wire.send([7]).await;
        sleep(Duration::from_millis(100)).await;
    }
    assert!(wire.head().await.starts_with("HTTP/1.1 201"));
}

#[tokio::test]
async fn a_client_that_stops_reading_is_cut() {
    let server = Server::builder().config("[http]\nidle_timeout = \"1s\"").start().await;
    let repository = server.repository("team/app");
    let bytes = content::bytes(1, 32_000_000);
    let digest = repository.push_blob(&bytes).await;
    let mut wire = Wire::connect(server.host()).await;
    wire.send(format!("GET /v2/team/app/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    assert!(wire.head().await.starts_with("HTTP/1.1 200"));

    let port = wire.port();
    assert!(is_established(&server, port));
    eventually("the server hangs up", async || (!is_established(&server, port)).then_some(())).await;

    assert!(wire.rest().await.len() < bytes.len(), "a download that was cut does not look whole");
}

#[tokio::test]
async fn a_last_answer_arrives_whole_though_the_client_said_more_than_is_read() {
    let server = Server::builder().start().await;
    let bytes = content::bytes(1, 150_000);
    let digest = server.repository("team/app").push_blob(&bytes).await;
    let mut wire = Wire::connect(server.host()).await;
    let request = format!("GET /v2/team/app/blobs/{digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    wire.send([request.into_bytes(), vec![b'x'; 400_000]].concat()).await;
    // Meanwhile the server has handed all of it to the socket.
    sleep(Duration::from_secs(1)).await;
    assert!(wire.head().await.starts_with("HTTP/1.1 200"));
    assert!(wire.rest().await == bytes, "nothing of it is lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_open_sessions_cost_next_to_nothing_and_expire() {
    let config = "[uploads]\nttl = \"20s\"\n[gc]\ninterval = \"1s\"";
    let server = Server::builder().config(config).start().await;
    let client = http();
    let url = server.repository("team/app").url("blobs/uploads/");
    let open = |count: usize| {
        let requests = (0..count).map(|_| {
            let request = client.post(&url).send();
            async move {
                let answer = request.await.expect("start an upload");
                assert_eq!(answer.status(), 202);
                answer.headers()["location"].to_str().expect("a location is text").to_owned()
            }
        });
        stream::iter(requests.collect::<Vec<_>>()).buffer_unordered(32).collect::<Vec<_>>()
    };
    let mut sessions = open(500).await;
    let before = server.rss_bytes();

    sessions.extend(open(9_500).await);

    let grown = server.rss_bytes().saturating_sub(before);
    assert!(grown < 30 * MIB, "10,000 sessions took {grown} bytes of memory");
    let swept = || -> u64 {
        let said = server.said();
        let counts = said.split("swept ").skip(1).filter_map(|rest| rest.split_once(' '));
        counts.map(|(count, _)| count.parse::<u64>().expect("a number")).sum()
    };
    eventually("all are swept", async || (swept() == 10_000).then_some(())).await;
    for session in sessions.iter().step_by(500) {
        let answer = client.get(server.url() + session).send().await.expect("GET of a session");
        assert_eq!(answer.status(), 404);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_uploads_share_a_small_memory() {
    let server = Server::builder().config("[limits]\nupload_memory = \"2MiB\"").start().await;
    let bytes = content::bytes(1, 8 * 1024 * 1024 + 63);
    let repository = server.repository("team/app");
    let uploads = (0..64).map(|number| {
        // Each its own bytes, without 64 copies of them here.
        let part = bytes::Bytes::copy_from_slice(&bytes[number..number + 8 * 1024 * 1024]);
        let digest = content::sha256(&part);
        let url = repository.url(&format!("blobs/uploads/?digest={digest}"));
        async move {
            let answer = http().post(url).body(part).send().await.expect("POST a blob");
            assert_eq!(answer.status(), 201);
            digest
        }
    });

    let digests = join_all(uploads).await;

    let peak = server.peak_rss_bytes();
    assert!(peak < 96 * MIB, "64 uploads under 2 MiB took {peak} bytes of memory");
    assert_eq!(repository.blob(&digests[63]).await, bytes[63..]);
}

/// An index of nothing, with an annotation.
fn index(annotation: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[],"annotations":{{"a":"{annotation}"}}}}"#
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_a_large_manifest_take_little_memory_and_are_in_nobodys_way() {
    let server = Server::builder().config("[limits]\nmanifest_memory = \"16MiB\"").start().await;
    let url = server.repository("team/app").url("manifests/large");
    // Each byte is where it should be, also behind the borders of pieces.
    let numbers: String = (100_000..749_000).map(|number| number.to_string()).collect();
    let large = index(&numbers);
    let put = http().put(&url).header("content-type", INDEX).body(large.clone());
    assert_eq!(put.send().await.expect("PUT a manifest").status(), 201);
    let request = |range: &str| {
        format!("GET /v2/team/app/manifests/large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{range}\r\n")
    };
    let ranges = "Range: bytes=5-1899999,1900001-3800000\r\n";
    let mut wires = Vec::new();
    for number in 0..128 {
        let mut wire = Wire::connect_narrow(server.host()).await;
        wire.send(request(if number % 2 == 0 { "" } else { ranges })).await;
        let head = wire.head().await;
        assert!(head.starts_with(if number % 2 == 0 { "HTTP/1.1 200" } else { "HTTP/1.1 206" }), "{head}");
        wires.push(wire);
    }

    let read = async { http().get(url).send().await.expect("GET a manifest").text().await.expect("a text") };
    assert!(timeout(Duration::from_secs(20), read).await.expect("in time") == large);

    // All of them would be 500 MB.
    let peak = server.peak_rss_bytes();
    assert!(peak < 192 * MIB, "128 manifests of 4 MB that nobody reads took {peak} bytes of memory");
    let bodies = join_all(wires.into_iter().map(|mut wire| async move { wire.rest().await })).await;
    let is_in = |whole: &[u8], part: &str| whole.windows(part.len()).any(|window| window == part.as_bytes());
    for (number, body) in bodies.iter().enumerate() {
        if number % 2 == 0 {
            assert!(body == large.as_bytes(), "answer {number}");
        }
    }
    assert!(is_in(&bodies[1], &large[5..=1_899_999]) && is_in(&bodies[1], &large[1_900_001..=3_800_000]));
    assert!(bodies.iter().skip(1).step_by(2).all(|body| *body == bodies[1]));
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_their_turn() {
    let server = Server::builder().config("[limits]\nconnections = 3").start().await;
    let mut first = Vec::new();
    for _ in 0..3 {
        let mut wire = Wire::connect(server.host()).await;
        wire.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
        wire.head().await;
        first.push(wire);
    }
    let mut waiting = Wire::connect(server.host()).await;
    waiting.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(timeout(Duration::from_secs(1), waiting.head()).await.is_err(), "there is no slot for it");

    drop(first.pop());

    assert!(waiting.head().await.starts_with("HTTP/1.1 200"));
}

/// The status of a push of a blob, which must be an answer in OCI's form.
async fn push(repository: &Repository, bytes: &[u8]) -> u16 {
    let url = repository.url(&format!("blobs/uploads/?digest={}", content::sha256(bytes)));
    let answer = http().post(url).body(bytes.to_vec()).send().await.expect("an answer, whatever it is");
    let status = answer.status().as_u16();
    if status != 201 {
        let body = error_body(answer).await;
        assert!(body["errors"][0]["message"].as_str().is_some_and(|text| text.contains("full")), "{body}");
    }
    status
}

#[tokio::test]
async fn a_full_disk_refuses_pushes_and_loses_nothing() {
    let _bench = workbench!("root");
    let mut server = Server::builder().on_disk().start().await;
    assert!(server.terminate().await.success());
    let disk = Disk::mount(&server.data(), "16m");
    server.restart().await;
    let repository = server.repository("team/app");
    let image = Image::of(1, &[1_000, 2_000_000]);
    image.push(&repository, "1").await;
    let session = server.url() + &begin(&repository).await;
    let bytes = content::bytes(2, 3_000_000);
    let patch = |part: &[u8]| http().patch(&session).body(part.to_vec()).send();
    assert_eq!(patch(&bytes[..500_000]).await.expect("PATCH").status(), 202);
    disk.fill(200_000);

    // Room for rows, none for bytes.
    assert_eq!(patch(&bytes[500_000..]).await.expect("PATCH").status(), 507);
    let pushes = (10..18).map(|seed| (content::bytes(seed, 1_000_000), &repository));
    let statuses = join_all(pushes.map(async |(bytes, repository)| push(repository, &bytes).await)).await;
    assert!(statuses.iter().all(|status| *status == 507), "{statuses:?}");
    image.is_whole(&repository, "1").await;

    disk.free();
    let answer = http().get(&session).send().await.expect("GET of the session");
    let kept = answer.headers()["range"].to_str().expect("text").to_owned();
    let kept = kept.trim_start_matches("0-").parse::<usize>().expect("a number") + 1;
    assert!(kept >= 500_000, "{kept}");
    assert_eq!(patch(&bytes[kept..]).await.expect("PATCH").status(), 202);
    let digest = content::sha256(&bytes);
    let answer = http().put(format!("{session}?digest={digest}")).send().await.expect("PUT");
    assert_eq!(answer.status(), 201);
    assert_eq!(repository.blob(&digest).await, bytes);
    image.is_whole(&repository, "1").await;
}

#[tokio::test]
async fn an_index_without_room_refuses_commits_and_loses_nothing() {
    let _bench = workbench!("root");
    let mut server = Server::builder().on_disk().start().await;
    assert!(server.terminate().await.success());
    let disk = Disk::mount(&server.data(), "16m");
    server.restart().await;
    let repository = server.repository("team/app");
    let image = Image::of(1, &[1_000, 50_000]);
    image.push(&repository, "1").await;
    disk.fill(0);

    let mut acknowledged = Vec::new();
    let mut refused = 0;
    // As many at once as share a commit.
    for round in 0..4 {
        let pushes = (0..8).map(|number| content::bytes(1_000 + round * 8 + number, 10));
        let pushes = pushes.map(async |bytes| (push(&repository, &bytes).await, bytes));
        for (status, bytes) in join_all(pushes).await {
            match status {
                201 => acknowledged.push(bytes),
                507 => refused += 1,
                status => panic!("{status} from a full disk"),
            }
        }
    }
    assert!(refused > 0, "the disk was full");
    let answer = repository.put_manifest("2", MANIFEST, &image.manifest).await;
    assert_eq!(answer.status(), 507, "a tag needs room too");
    image.is_whole(&repository, "1").await;

    // Whatever was acknowledged survives a crash on the full disk …
    server.kill();
    disk.free();
    server.restart().await;
    let repository = server.repository("team/app");
    image.is_whole(&repository, "1").await;
    for bytes in acknowledged {
        assert_eq!(repository.blob(&content::sha256(&bytes)).await, bytes);
    }
    // … and with room there is work again, also without a restart.
    disk.fill(0);
    for _ in 0..20 {
        if push(&repository, b"small").await == 507 {
            break;
        }
    }
    disk.free();
    let until = Instant::now() + Duration::from_secs(30);
    while push(&repository, b"once more").await != 201 {
        assert!(Instant::now() < until, "it recovers");
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(repository.push_manifest("2", MANIFEST, &image.manifest).await, repository.digest("1").await);
    assert_eq!(head(&repository, &image.digest(1)).await, 200);
    assert!(server.terminate().await.success());
}
