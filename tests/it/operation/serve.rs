//! `berth serve`: how it begins, whom it refuses, and how it ends.

use std::{fs, time::Duration};

use reqwest::StatusCode;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    harness::{
        Repository, Server, Storage, content, http,
        postgres::Postgres,
        process::{PATIENCE, Process},
        run::folder,
        server::berth,
        tools::workbench,
    },
    operation::scenes::{Forwarder, Image, Wire, begin, error_body, eventually, head, run, run_on},
};

async fn status(url: String) -> u16 {
    http().get(&url).send().await.unwrap_or_else(|error| panic!("{url}: {error}")).status().as_u16()
}

/// Waits until nobody new is let in.
async fn until_closed(server: &Server) {
    let host = server.host().to_owned();
    eventually("the door is closed", async || TcpStream::connect(&host).await.err()).await;
}

#[tokio::test]
async fn the_first_words_are_where_everything_is_and_three_commands() {
    let server = Server::builder().on_disk().start().await;
    let (said, data) = (server.said(), server.data());
    assert!(said.contains(data.join("berth.db").to_str().expect("a plain path")), "{said}");
    assert!(said.contains(data.join("objects").to_str().expect("a plain path")), "{said}");
    for command in ["docker pull", "docker tag", "docker push"] {
        assert!(said.contains(command), "{said}");
    }
    assert!(said.contains(&format!("docker push {}/", server.host())), "{said}");
    assert!(!said.contains("docker login"), "nobody has to: {said}");
}

#[tokio::test]
async fn the_first_words_name_the_registry_as_clients_can() {
    let rule =
        "[[auth.rule]]\nname = \"all\"\nidentities = [\"*\"]\nrepositories = [\"**\"]\nactions = [\"*\"]\n";
    let known = Server::builder().config(rule).start().await;
    let said = known.said();
    let login = format!(
        "  docker login {0}\n  docker pull busybox\n  docker tag busybox {0}/busybox\n",
        known.host()
    );
    assert!(said.contains(&login), "{said}");
    let public = format!("[auth]\npublic_url = \"https://registry.example.com/\"\n{rule}");
    let public = Server::builder().config(&public).start().await;
    let said = public.said();
    assert!(said.contains("  docker login registry.example.com\n"), "{said}");
    assert!(said.contains("  docker push registry.example.com/busybox\n"), "{said}");
    assert!(said.contains(&format!("Berth is listening on http://{}\n", public.host())), "{said}");
}

#[tokio::test]
async fn the_first_words_say_which_bucket_it_is() {
    let _bench = workbench!("weed");
    let server = Server::builder().storage(Storage::SeaweedFs).start().await;
    let said = server.said();
    assert!(said.contains("  objects  s3://berth-") && said.contains(" at http://127.0.0.1:"), "{said}");
}

#[tokio::test]
async fn a_second_process_on_the_same_data_is_refused() {
    let server = Server::builder().on_disk().start().await;
    for command in [&["serve", "--listen", "127.0.0.1:0"][..], &["gc"], &["fsck"], &["migrate"]] {
        let ended = run_on(&server, command).await;
        assert_eq!(ended.code, Some(2), "{command:?}: {}", ended.said);
        assert!(ended.said.contains("in use by another berth process"), "{}", ended.said);
        assert!(ended.said.contains("stop it first"), "it says the way out: {}", ended.said);
    }
    assert_eq!(status(server.url() + "/readyz").await, 200);
}

#[tokio::test]
async fn an_address_that_others_reach_needs_a_word() {
    let place = folder("serve");
    let data = place.path().join("data");
    let mut command = berth();
    command.args(["serve", "--listen", "0.0.0.0:0", "--data"]).arg(&data);
    let ended = run(command).await;
    assert_eq!(ended.code, Some(2), "{}", ended.said);
    assert!(ended.said.contains("--allow-anonymous"), "it says the way out: {}", ended.said);
    assert!(ended.said.contains("no identities"), "it says why: {}", ended.said);
    assert!(!data.exists(), "nothing was made");

    let mut command = berth();
    command.args(["serve", "--listen", "0.0.0.0:0", "--allow-anonymous", "--data"]).arg(&data);
    let process = Process::start(command);
    let port = process.until("it listens", |said| {
        let host = said.split_once("listening on http://0.0.0.0:")?.1;
        Some(host.split_once(char::is_whitespace)?.0.to_owned())
    });
    let port = port.await;
    assert_eq!(status(format!("http://127.0.0.1:{port}/v2/")).await, 200);
    // Every address is listened on, and none of them is called that.
    let push = format!("docker push 127.0.0.1:{port}/busybox");
    process.until("it says how to push", |said| said.contains(&push).then_some(())).await;
}

#[tokio::test]
async fn an_address_that_is_taken_is_named_and_nothing_is_made() {
    let server = Server::start().await;
    let place = folder("serve");
    let data = place.path().join("data");
    let mut command = berth();
    command.args(["serve", "--listen", server.host(), "--data"]).arg(&data);

    let ended = run(command).await;

    assert_eq!(ended.code, Some(2), "{}", ended.said);
    assert!(ended.said.contains(server.host()) && ended.said.contains("in use"), "{}", ended.said);
    assert!(!data.exists(), "nothing was made");
}

#[tokio::test]
async fn a_server_says_that_it_lives_and_that_it_is_ready() {
    let server = Server::start().await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(status(server.url() + path).await, 200, "{path}");
    }
}

#[tokio::test]
async fn a_server_that_is_told_to_end_is_not_ready_at_once_and_still_serves() {
    let mut server = Server::builder().config("[drain]\ndelay = \"5s\"").start().await;
    let repository = server.repository("team/app");
    let digest = repository.push_blob(b"hello").await;

    server.signal("TERM");
    server.until_said("draining").await;

    assert_eq!(status(server.url() + "/readyz").await, 503);
    assert_eq!(status(server.url() + "/healthz").await, 200);
    assert_eq!(repository.blob(&digest).await, b"hello");
    assert_eq!(server.end().await.code(), Some(0));
}

#[tokio::test]
async fn running_transfers_finish_before_the_server_ends() {
    let mut server = Server::start().await;
    let repository = server.repository("team/app");
    let (large, mine) = (content::bytes(1, 32_000_000), content::bytes(2, 1_000_000));
    let down = repository.push_blob(&large).await;
    let up = content::sha256(&mine);
    let session = begin(&repository).await;
    let mut upload = Wire::connect(server.host()).await;
    let length = mine.len();
    upload
        .send(format!("PUT {session}?digest={up} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"))
        .await;
    upload.send(&mine[..500_000]).await;
    let mut download = Wire::connect(server.host()).await;
    download.send(format!("GET /v2/team/app/blobs/{down} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    assert!(download.head().await.starts_with("HTTP/1.1 200"));
    let begun = download.body(10_000).await;

    server.signal("TERM");
    until_closed(&server).await;

    upload.send(&mine[500_000..]).await;
    assert!(upload.head().await.starts_with("HTTP/1.1 201"));
    assert!([begun, download.rest().await].concat() == large, "the download is whole");
    assert_eq!(server.end().await.code(), Some(0));
    server.restart().await;
    assert_eq!(server.repository("team/app").blob(&up).await, mine);
}

#[tokio::test]
async fn a_transfer_that_outlasts_the_drain_is_cut_and_what_arrived_is_kept() {
    // Only a folder shows what has arrived before the request ends.
    let builder = Server::builder().config("[drain]\ntimeout = \"1s\"").storage(Storage::Filesystem);
    let mut server = builder.start().await;
    let repository = server.repository("team/app");
    let session = begin(&repository).await;
    let mut upload = Wire::connect(server.host()).await;
    upload.send(format!("PATCH {session} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n")).await;
    upload.send(&content::bytes(1, 1_000_000)).await;
    let arrived =
        async || server.objects().list().await.values().any(|size| *size == 1_000_000).then_some(());
    eventually("the bytes arrived", arrived).await;

    assert_eq!(server.terminate().await.code(), Some(0));

    server.restart().await;
    let answer = http().get(server.url() + &session).send().await.expect("ask for the session");
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    assert_eq!(answer.headers()["range"], "0-999999");
}

#[tokio::test]
async fn connections_that_ask_for_nothing_do_not_keep_the_server_from_ending() {
    let mut server = Server::builder().config("[http]\nheader_timeout = \"10m\"").start().await;
    let silent = Wire::connect(server.host()).await;
    let mut half = Wire::connect(server.host()).await;
    half.send("P").await;
    let mut idle = Wire::connect(server.host()).await;
    idle.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    idle.head().await;

    assert_eq!(server.terminate().await.code(), Some(0));

    drop((silent, half, idle));
}

#[tokio::test]
async fn an_interrupt_ends_the_server_as_well() {
    let mut server = Server::start().await;
    server.signal("INT");
    assert_eq!(server.end().await.code(), Some(0));
}

#[tokio::test]
async fn a_client_of_http2_is_served_without_asking_first() {
    let server = Server::start().await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().timeout(PATIENCE);
    let client = client.tls_certs_only([]).build().expect("a client that trusts nobody has nothing to load");
    let bytes = content::bytes(1, 5_000_000);
    let digest = content::sha256(&bytes);
    let repository = server.repository("team/app");

    let url = repository.url(&format!("blobs/uploads/?digest={digest}"));
    let answer = client.post(url).body(bytes.clone()).send().await.expect("POST a blob");
    assert_eq!((answer.status(), answer.version()), (StatusCode::CREATED, reqwest::Version::HTTP_2));
    let answer = client.get(repository.url(&format!("blobs/{digest}"))).send().await.expect("GET a blob");
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    assert!(answer.bytes().await.expect("read a blob") == bytes);
}

#[tokio::test]
async fn a_restart_keeps_everything() {
    let mut server = Server::start().await;
    let image = Image::of(1, &[100_000, 700_000]);
    image.push(&server.repository("team/app"), "1").await;
    let session = begin(&server.repository("team/app")).await;
    let bytes = content::bytes(9, 200_000);
    let answer = http().patch(server.url() + &session).body(bytes[..150_000].to_vec()).send().await;
    assert_eq!(answer.expect("PATCH").status(), StatusCode::ACCEPTED);

    for crash in [false, true] {
        if crash {
            server.kill();
        } else {
            assert!(server.terminate().await.success());
        }
        server.restart().await;
        image.is_whole(&server.repository("team/app"), "1").await;
    }

    let digest = content::sha256(&bytes);
    let url = format!("{}{session}?digest={digest}", server.url());
    let answer = http().put(url).body(bytes[150_000..].to_vec()).send().await.expect("PUT");
    assert_eq!(answer.status(), StatusCode::CREATED);
    assert_eq!(server.repository("team/app").blob(&digest).await, bytes);
}

#[tokio::test]
async fn an_index_of_another_store_is_refused() {
    let [mut mine, mut other] =
        [Server::builder().on_disk().start().await, Server::builder().on_disk().start().await];
    for server in [&mut mine, &mut other] {
        server.repository("team/app").push_blob(b"hello").await;
        assert!(server.terminate().await.success());
    }
    fs::copy(other.data().join("berth.db"), mine.data().join("berth.db")).expect("swap the index");

    let ended = run_on(&mine, &["serve", "--listen", "127.0.0.1:0"]).await;

    assert_eq!(ended.code, Some(2), "{}", ended.said);
    assert!(ended.said.contains("another store"), "{}", ended.said);
    assert!(ended.said.contains(mine.data().to_str().expect("a plain path")), "{}", ended.said);
}

#[tokio::test]
async fn a_store_that_lost_its_index_is_refused_and_the_way_out_is_named() {
    let mut server = Server::builder().on_disk().start().await;
    server.repository("team/app").push_blob(b"hello").await;
    assert!(server.terminate().await.success());
    fs::remove_file(server.data().join("berth.db")).expect("lose the index");

    // Twice: the first attempt must not make the second one pass.
    for _ in 0..2 {
        let ended = run_on(&server, &["serve", "--listen", "127.0.0.1:0"]).await;
        assert_eq!(ended.code, Some(2), "{}", ended.said);
        assert!(ended.said.contains("berth fsck --rebuild"), "{}", ended.said);
    }
}

#[tokio::test]
async fn a_store_that_berth_did_not_make_is_refused() {
    let place = folder("serve");
    fs::create_dir(place.path().join("objects")).expect("make a folder");
    fs::write(place.path().join("objects/holiday.jpg"), b"sea").expect("write a file");
    let mut command = berth();
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(place.path());
    let ended = run(command).await;
    assert_eq!(ended.code, Some(2), "{}", ended.said);
    assert!(ended.said.contains("choose an empty folder"), "{}", ended.said);
}

#[tokio::test]
async fn a_database_that_is_away_is_trouble_and_never_absence() {
    let _bench = workbench!("postgres");
    let url = Postgres::of_the_run().await.fresh_database().await;
    let (host, name) = url.trim_start_matches("postgres://postgres@").split_once('/').expect("host and name");
    let mut way = Forwarder::to(host.to_owned()).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/{name}", way.port());
    let server = Server::builder().index(&url).start().await;
    let repository = server.repository("team/app");
    let image = Image::of(1, &[1_000]);
    image.push(&repository, "1").await;
    let session = begin(&repository).await;

    way.cut().await;

    let asked = ["manifests/1".to_owned(), "tags/list".into(), format!("blobs/{}", image.digest(1))];
    let answers = asked.iter().map(|path| repository.get(path));
    for answer in futures_util::future::join_all(answers).await {
        let url = answer.url().clone();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{url}");
        assert!(answer.headers().contains_key("retry-after"), "{url}");
        let body = error_body(answer).await;
        assert_eq!(body["errors"][0]["code"], "UNAVAILABLE", "{url}: {body}");
    }
    let layer = image.digest(1);
    let (absent, patched, begun, ready) = tokio::join!(
        head(&repository, &layer),
        http().patch(server.url() + &session).body("bytes").send(),
        http().post(repository.url("blobs/uploads/")).send(),
        status(server.url() + "/readyz"),
    );
    assert_eq!([absent, ready], [503, 503]);
    assert_eq!([patched, begun].map(|answer| answer.expect("an answer").status().as_u16()), [503, 503]);
    assert_eq!(status(server.url() + "/healthz").await, 200);

    way.mend().await;

    eventually("it is ready again", async || (status(server.url() + "/readyz").await == 200).then_some(()))
        .await;
    image.is_whole(&repository, "1").await;
    let answer = http().patch(server.url() + &session).body("bytes").send().await.expect("PATCH");
    assert_eq!(answer.status(), StatusCode::ACCEPTED, "the session goes on");
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_is_named_and_its_password_is_not() {
    let place = folder("serve");
    let url = "postgres://berth:geheim@127.0.0.1:1/berth";
    let mut command = berth();
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(place.path())
        .env("BERTH_DATABASE__URL", url);
    let ended = timeout(PATIENCE, run(command)).await.expect("it gives up");
    assert_eq!(ended.code, Some(2), "{}", ended.said);
    assert!(ended.said.contains("index") && !ended.said.contains("geheim"), "{}", ended.said);
}

#[tokio::test]
async fn two_servers_share_a_database() {
    let _bench = workbench!("postgres");
    let objects = folder("shared");
    let url = Postgres::of_the_run().await.fresh_database().await;
    let path = objects.path().display();
    let start = async || {
        let folder = format!("[storage]\npath = \"{path}\"");
        Server::builder().storage(Storage::Filesystem).index(&url).config(&folder).start().await
    };
    let [first, second] = [start().await, start().await];
    let image = Image::of(1, &[1_000, 600_000]);

    image.push(&first.repository("team/app"), "1").await;

    let there = Repository::at(&second.url(), "team/app");
    image.is_whole(&there, "1").await;
    // An upload may move between them.
    let session = begin(&there).await;
    for (server, part) in [(&first, "one "), (&second, "two ")] {
        let answer = http().patch(server.url() + &session).body(part).send().await.expect("PATCH");
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
    }
    let digest = content::sha256(b"one two three");
    let put = http().put(format!("{}{session}?digest={digest}", first.url())).body("three").send();
    assert_eq!(timeout(Duration::from_mins(1), put).await.expect("in time").expect("PUT").status(), 201);
}
