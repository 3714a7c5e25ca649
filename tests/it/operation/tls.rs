//! TLS: certificates that come and go under clients that notice nothing, and clients that do it wrong.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use reqwest::{Version, tls::TlsInfo};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    harness::{
        Repository, Server, Tls, content,
        process::PATIENCE,
        run::folder,
        server::berth,
        tls::{Authority, Pair},
    },
    operation::scenes::{Ended, Image, Wire, eventually, metric, run},
};

const METRICS: &str = "[metrics]\nlisten = \"127.0.0.1:0\"";
const FAILURES: &str = "berth_certificate_reload_failures_total";

async fn server(config: &str) -> Server {
    Server::builder().tls().config(config).start().await
}

/// The certificate that a new connection is shown.
async fn shown(server: &Server) -> Vec<u8> {
    let client = server.tls().client().tls_info(true).build().expect("a client");
    let answer = client.get(server.url() + "/v2/").send().await.expect("GET of /v2/");
    let info: &TlsInfo = answer.extensions().get().expect("it came over TLS");
    info.peer_certificate().expect("a server shows its certificate").to_vec()
}

async fn until_shown(server: &Server, pair: &Pair) {
    eventually("the new certificate is shown", async || (shown(server).await == pair.der).then_some(()))
        .await;
}

#[tokio::test]
async fn an_image_is_pushed_and_pulled_in_either_http() {
    let server = server("").await;
    assert!(server.said().contains(&format!("listening on https://{}", server.host())), "{}", server.said());
    for (version, seed) in [(Version::HTTP_2, 1), (Version::HTTP_11, 2)] {
        let client = server.tls().client();
        let client = if version == Version::HTTP_11 { client.http1_only() } else { client };
        let client = client.build().expect("a client");
        let answer = client.get(server.url() + "/v2/").send().await.expect("GET of /v2/");
        assert_eq!((answer.status().as_u16(), answer.version()), (200, version));
        let repository = Repository::through(client, &server.url(), "team/app");
        let image = Image::of(seed, &[10, 100_000, 5_000_000]);
        for blob in &image.blobs {
            repository.push_blob(blob).await;
        }
        repository.push_manifest("1", crate::harness::layout::MANIFEST, &image.manifest).await;
        image.is_whole(&repository, "1").await;
    }
}

#[tokio::test]
async fn new_certificates_are_taken_and_no_request_notices() {
    let server = server(METRICS).await;
    let first = server.tls().authority.server();
    let repository = server.repository("team/app");
    let (large, small) = (content::bytes(1, 64_000_000), content::bytes(2, 300_000));
    let (large_digest, small_digest) =
        (repository.push_blob(&large).await, repository.push_blob(&small).await);
    // One that is in the middle of a pull all the time.
    let mut pull = repository.get(&format!("blobs/{large_digest}")).await;
    let mut pulled = pull.chunk().await.expect("a first piece").expect("it is not empty").to_vec();
    let done = AtomicBool::new(false);
    let busy = async |fresh: bool| {
        let mut requests = 0_u32;
        let mut client = server.client();
        while !done.load(Ordering::Relaxed) {
            if fresh {
                client = server.client();
            }
            let repository = Repository::through(client.clone(), &server.url(), "team/app");
            assert!(repository.blob(&small_digest).await == small);
            requests += 1;
        }
        requests
    };
    let reload = async {
        until_shown(&server, &first).await;
        for _ in 0..2 {
            let next = server.tls().authority.server();
            server.tls().swap(&[("tls.crt", &next.certificate), ("tls.key", &next.key)]);
            until_shown(&server, &next).await;
        }
        done.store(true, Ordering::Relaxed);
    };
    server.tls().swap(&[("tls.crt", &first.certificate), ("tls.key", &first.key)]);

    let (requests, fresh, ()) = tokio::join!(busy(false), busy(true), reload);

    assert!(requests > 10 && fresh > 10, "{requests} and {fresh} requests were made");
    while let Some(chunk) = pull.chunk().await.expect("the pull goes on") {
        pulled.extend_from_slice(&chunk);
    }
    assert!(pulled == large, "the pull that began before is whole");
    assert_eq!(metric(&server, FAILURES).await, 0);
    assert_eq!(server.said().matches("took a new certificate").count(), 3, "{}", server.said());
}

#[tokio::test]
async fn files_that_are_of_no_use_change_nothing_and_are_said_once() {
    let server = server(METRICS).await;
    let (first, other) = (shown(&server).await, server.tls().authority.server());
    let good =
        (fs::read_to_string(server.tls().certificate_file()), fs::read_to_string(server.tls().key_file()));
    let (good_certificate, good_key) = (good.0.expect("a certificate"), good.1.expect("a key"));
    let cases = [
        (vec![("tls.crt", "nonsense"), ("tls.key", &good_key)], "there is no certificate in"),
        (
            vec![("tls.crt", &good_certificate), ("tls.key", &other.key)],
            "is not the key of the certificate in",
        ),
        (vec![("tls.crt", good_certificate.as_str())], "cannot read"),
    ];
    for ((files, reason), failures) in cases.into_iter().zip(1..) {
        server.tls().swap(&files);

        eventually("it is noticed", async || (metric(&server, FAILURES).await == failures).then_some(()))
            .await;

        assert!(server.said().contains(reason), "{reason}: {}", server.said());
        assert_eq!(shown(&server).await, first, "{reason}: the certificate before stays");
    }
    // For as long as it takes to look at the files twice more.
    sleep(Duration::from_secs(5)).await;
    assert_eq!(metric(&server, FAILURES).await, 3, "{}", server.said());
    assert_eq!(server.said().matches("are of no use").count(), 3, "{}", server.said());

    server.tls().swap(&[("tls.crt", &other.certificate), ("tls.key", &other.key)]);
    until_shown(&server, &other).await;
}

#[tokio::test]
async fn plain_http_is_told_to_use_tls() {
    let server = server("").await;
    for request in [
        "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "GET /v2/ HTTP/1.1\r\nHost".to_owned(),
        // Its end is never read by any who answers before.
        format!(
            "POST /v2/team/app/blobs/uploads/ HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n{}",
            "x".repeat(1_000_000)
        ),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ] {
        let mut wire = Wire::connect(server.host()).await;
        wire.send(&request).await;
        let head = wire.head().await;
        assert!(head.starts_with("HTTP/1.1 400 ") && head.contains("connection: close"), "{head}");
        let text = String::from_utf8(wire.rest().await).expect("text");
        assert!(text.contains("this port speaks https"), "{text}");
    }
    let mut wire = Wire::connect(server.host()).await;
    wire.send([0x80, 0x2e, 0x01, 0x03]).await;
    let rest = wire.rest().await;
    assert!(!rest.starts_with(b"HTTP"), "what is neither is no request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_handshakes_keep_nobody_waiting_and_are_cut() {
    rlimit::increase_nofile_limit(16_384).expect("raise the limit of open files");
    let server = server("handshake_timeout = \"5s\"").await;
    let begun = Instant::now();
    let mut slow = Vec::new();
    for number in 0..500 {
        let mut wire = Wire::connect(server.host()).await;
        match number % 3 {
            0 => {}
            1 => drop(wire.send([0x16]).await),
            // The beginning of a hello of 512 bytes.
            _ => drop(wire.send([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).await),
        }
        slow.push(wire);
    }
    let image = Image::of(1, &[1_000, 3_000_000]);
    let repository = server.repository("team/app");
    let normal = async {
        for blob in &image.blobs {
            repository.push_blob(blob).await;
        }
        repository.push_manifest("1", crate::harness::layout::MANIFEST, &image.manifest).await;
        image.is_whole(&repository, "1").await;
    };
    timeout(Duration::from_secs(4), normal).await.expect("a normal client is served meanwhile");

    join_all(slow.iter_mut().map(Wire::rest)).await;

    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn who_watches_does_so_over_tls_too() {
    let server = server("[metrics]\nlisten = \"127.0.0.1:0\"\ntls = true").await;
    let said = server.said();
    let address = said.split_once("metrics  ").expect("it says where its metrics are").1;
    let address = address.split_whitespace().next().expect("an address follows");
    assert!(address.starts_with("https://"), "{address}");

    let answer = server.client().get(address).send().await.expect("GET of the metrics");

    let text = answer.text().await.expect("read the metrics");
    // The third of February 2042.
    assert!(text.contains("\nberth_certificate_expires_seconds 2274998400\n"), "{text}");
    assert!(text.contains(&format!("\n{FAILURES} 0\n")), "{text}");
}

#[tokio::test]
async fn a_server_without_tls_says_nothing_of_certificates() {
    let server = Server::builder().config(METRICS).start().await;
    let said = server.said();
    let address = said.split_once("metrics  ").expect("it says where its metrics are").1;
    let answer =
        server.client().get(address.split_whitespace().next().expect("an address follows")).send().await;
    let text = answer.expect("GET of the metrics").text().await.expect("read the metrics");
    assert!(!text.contains("certificate_expires"), "an alert on it would ring: {text}");
}

#[tokio::test]
async fn running_transfers_finish_before_the_server_ends() {
    let mut server = server("").await;
    let (repository, large) = (server.repository("team/app"), content::bytes(1, 32_000_000));
    let digest = repository.push_blob(&large).await;
    let mut pull = repository.get(&format!("blobs/{digest}")).await;
    let mut pulled = pull.chunk().await.expect("a first piece").expect("it is not empty").to_vec();
    let mut half_a_hello = Wire::connect(server.host()).await;
    half_a_hello.send([0x16, 3, 1]).await;

    server.signal("TERM");
    let host = server.host().to_owned();
    eventually("the door is closed", async || tokio::net::TcpStream::connect(&host).await.err()).await;

    while let Some(chunk) = pull.chunk().await.expect("the pull goes on") {
        pulled.extend_from_slice(&chunk);
    }
    assert!(pulled == large, "the download is whole");
    assert!(half_a_hello.rest().await.is_empty(), "who has not begun does not begin");
    assert_eq!(server.end().await.code(), Some(0));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut() {
    let server = server("[http]\nidle_timeout = \"1s\"").await;
    let digest = server.repository("team/app").push_blob(&content::bytes(1, 64_000_000)).await;
    for http1_only in [false, true] {
        let client = server.tls().client();
        let client = if http1_only { client.http1_only() } else { client };
        let client = client.build().expect("a client");
        let mut unread =
            Repository::through(client, &server.url(), "team/app").get(&format!("blobs/{digest}")).await;
        let file = format!("/proc/{}/fd", server.pid());
        let is_open = || {
            let mut open = fs::read_dir(&file).expect("the server is running").flatten();
            let objects = server.data().join("objects");
            open.any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(&objects)))
        };
        if matches!(server.objects(), crate::harness::Objects::Folder(_)) {
            eventually("the object is closed", async || (!is_open()).then_some(())).await;
        } else {
            sleep(Duration::from_secs(3)).await;
        }
        let rest = async {
            while unread.chunk().await?.is_some() {}
            Ok::<_, reqwest::Error>(())
        };
        timeout(PATIENCE, rest)
            .await
            .expect("in time")
            .expect_err("an answer that was cut does not look whole");
    }
}

/// What `berth config check` and `berth serve` say of some files.
async fn refused(config: &str) -> String {
    let place = folder("tls");
    let file = place.path().join("berth.toml");
    fs::write(&file, config).expect("write the configuration");
    let mut said = Vec::new();
    for arguments in [&["config", "check"][..], &["serve", "--listen", "127.0.0.1:0"]] {
        let mut command = berth();
        command.args(arguments).arg("--config").arg(&file).current_dir(place.path());
        let Ended { code, said: text } = run(command).await;
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
        said.push(text);
    }
    assert!(!place.path().join("berth-data").exists(), "nothing was made");
    assert_eq!(said[0], said[1], "both say the same");
    said.remove(0)
}

#[tokio::test]
async fn files_that_are_of_no_use_at_the_start_are_named() {
    let (tls, other) = (Tls::new(), Authority::new().server());
    let place = folder("certificates");
    let write = |name: &str, content: &str| {
        fs::write(place.path().join(name), content).expect("write a file");
        place.path().join(name)
    };
    let broken = write("broken", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n");
    let damaged = write("damaged", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let (other_key, none) = (write("other-key", &other.key), write("none", ""));
    let (certificate, key) = (tls.certificate_file(), tls.key_file());
    let nowhere = Path::new("/nowhere/tls.crt").to_owned();
    for (certificate, key, ca, reason, named) in [
        (&nowhere, &key, None, "cannot read", &nowhere),
        (&certificate, &nowhere, None, "cannot read", &nowhere),
        (&key, &key, None, "there is no certificate in", &key),
        (&none, &key, None, "there is no certificate in", &none),
        (&broken, &key, None, "is not what it should be", &broken),
        (&damaged, &key, None, "cannot be used", &damaged),
        (&certificate, &certificate, None, "there is no private key in", &certificate),
        (&certificate, &other_key, None, "is not the key of the certificate in", &other_key),
        (&certificate, &key, Some(&nowhere), "cannot read the CA of nodes", &nowhere),
        (&certificate, &key, Some(&none), "holds no certificate that can be used", &none),
        (&certificate, &key, Some(&damaged), "holds no certificate that can be used", &damaged),
    ] {
        let mut config = format!("[http.tls]\ncertificate_file = {certificate:?}\nkey_file = {key:?}\n");
        if let Some(file) = ca {
            config = format!("{config}[[auth.certificate]]\nname = \"nodes\"\nca_file = {file:?}\n");
        }
        let said = refused(&config).await;
        assert!(said.contains(reason) && said.contains(named.to_str().expect("text")), "{config}: {said}");
    }
}

#[tokio::test]
async fn settings_that_do_not_go_together_are_named() {
    for (config, name) in [
        ("[http.tls]\ncertificate_file = \"/tls.crt\"", "http.tls.key_file"),
        ("[http.tls]\nkey_file = \"/tls.key\"", "http.tls.certificate_file"),
        ("[[auth.certificate]]\nname = \"a\"\nca_file = \"/ca.crt\"", "auth.certificate needs http.tls"),
        (
            "[[auth.cluster]]\nname = \"a\"\nissuer = \"https://a.test\"\naudience = \"b\"\nclient_ca_file = \"/c\"",
            "auth.cluster.client_ca_file needs http.tls",
        ),
        ("[http.tls]\nhandshake_timeout = \"0s\"", "http.tls.handshake_timeout"),
        ("[metrics]\nlisten = \"127.0.0.1:0\"\ntls = true", "metrics.tls"),
    ] {
        let said = refused(config).await;
        assert!(said.contains(name), "{config}: {said}");
    }
}
