//! Pulling: HEAD as GET, ranges, conditions, and bytes that come out as they went in.

use crate::{
    harness::{
        Database, Server,
        content::{bytes, sha256},
        layout::{INDEX, MANIFEST},
        tools::workbench,
    },
    protocol::wire::{Answer, Berth, descriptor, on_each_database, on_each_database_with},
};

#[tokio::test]
async fn head_is_get_without_its_body_in_either_http() {
    let _bench = workbench!("postgres");
    for database in Database::each() {
        for of in [Berth::of, Berth::over_http2] {
            let berth = of(Server::builder().database(database).start().await);
            let image = berth.push_image("team/app", "v1", 1).await;
            for path in [
                "/v2/".to_owned(),
                "/v2/_catalog".to_owned(),
                "/v2/team/app/tags/list".to_owned(),
                "/v2/team/app/tags/list?n=0".to_owned(),
                "/v2/team/app/manifests/v1".to_owned(),
                format!("/v2/team/app/manifests/{}", image.digest),
                format!("/v2/team/app/blobs/{}", image.layer),
                format!("/v2/team/app/blobs/{}", image.config),
                format!("/v2/team/app/referrers/{}", image.digest),
                "/v2/team/app/manifests/none".to_owned(),
                format!("/v2/team/app/blobs/{}", sha256(b"none")),
                "/v2/team/none/tags/list".to_owned(),
                "/v2/UPPER/tags/list".to_owned(),
            ] {
                let (get, head) = (berth.ask("GET", &path).await, berth.ask("HEAD", &path).await);

                assert_eq!(head.status, get.status, "{path}");
                assert!(head.body.is_empty(), "{path}");
                assert_eq!(get.header("content-length"), get.body.len().to_string(), "{path}");
                // A message of one digit more or less would be another error.
                assert_eq!(comparable(&head), comparable(&get), "{path}");
            }
        }
    }
}

/// The headers, without those that differ from one answer to the next.
fn comparable(answer: &Answer) -> http::HeaderMap {
    let mut headers = answer.headers.clone();
    for name in ["date", "x-request-id"] {
        assert!(headers.remove(name).is_some(), "{name}");
    }
    headers
}

#[tokio::test]
async fn content_is_named_by_its_digest_and_can_be_had_in_parts() {
    on_each_database(async |berth| {
        let image = berth.push_image("team/app", "v1", 2).await;
        for (path, digest, media_type, length) in [
            (format!("blobs/{}", image.layer), &image.layer, "application/octet-stream", 1000),
            ("manifests/v1".to_owned(), &image.digest, MANIFEST, image.manifest.len()),
            (format!("manifests/{}", image.digest), &image.digest, MANIFEST, image.manifest.len()),
        ] {
            for method in ["GET", "HEAD"] {
                let answer = berth.ask(method, &format!("/v2/team/app/{path}")).await;

                assert_eq!(answer.is(200).header("docker-content-digest"), digest);
                assert_eq!(answer.header("etag"), format!("\"{digest}\""));
                assert_eq!(answer.header("content-type"), media_type);
                assert_eq!(answer.header("content-length"), length.to_string());
                assert_eq!(answer.header("accept-ranges"), "bytes");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn one_range_is_answered_with_its_bytes() {
    on_each_database(async |berth| {
        for (path, content) in things(berth, 3).await {
            let length = content.len();
            for (range, from, to) in [
                ("bytes=0-0", 0, 1),
                ("bytes=100-199", 100, 200),
                ("bytes=100-", 100, length),
                ("bytes=-100", length - 100, length),
                ("bytes=-1000000", 0, length),
                ("bytes=100-1000000", 100, length),
                ("bytes=100-99999999999999999999999", 100, length),
                ("BYTES=5-9", 5, 10),
                // Several that are one.
                ("bytes=5-9,10-19,7-12", 5, 20),
                // Only one of them is there.
                ("bytes=5-9,1000000-", 5, 10),
            ] {
                let answer = berth.send("GET", &path, &[("range", range)], "").await;

                assert_eq!(answer.is(206).body, content[from..to], "{range} of {path}");
                let last = to - 1;
                assert_eq!(answer.header("content-range"), format!("bytes {from}-{last}/{length}"));
                assert_eq!(answer.header("content-length"), (to - from).to_string());
                assert_eq!(answer.header("docker-content-digest"), sha256(&content));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn several_ranges_are_answered_in_parts() {
    on_each_database(async |berth| {
        for (path, content) in things(berth, 4).await {
            let whole = berth.ask("GET", &path).await;
            let length = content.len();
            let ranges = [("range", "bytes=-10,0-9,50-99,1000000-1000009")];

            let answer = berth.send("GET", &path, &ranges, "").await;

            answer.is(206);
            assert_eq!(answer.header("content-length"), answer.body.len().to_string());
            assert!(!answer.headers.contains_key("content-range"));
            let boundary = answer.header("content-type").strip_prefix("multipart/byteranges; boundary=");
            let parts = parts(&answer.body, boundary.expect("the body has parts"));
            let wanted = [(0, 10), (50, 100), (length - 10, length)];
            assert_eq!(parts.len(), wanted.len());
            for ((head, body), (from, to)) in parts.iter().zip(wanted) {
                let range = format!("Content-Range: bytes {from}-{}/{length}", to - 1);
                let kind = format!("Content-Type: {}", whole.header("content-type"));
                assert!(head.contains(&range) && head.contains(&kind), "{head}");
                assert_eq!(*body, content[from..to]);
            }
        }
    })
    .await;
}

/// The parts of a multipart body (RFC 2046), each its head and its bytes.
pub fn parts(body: &[u8], boundary: &str) -> Vec<(String, Vec<u8>)> {
    let position = |from: usize, text: &str| {
        let found = body[from..].windows(text.len()).position(|window| window == text.as_bytes());
        from + found.unwrap_or_else(|| panic!("{text:?} follows"))
    };
    let delimiter = format!("\r\n--{boundary}");
    let mut parts = Vec::new();
    let mut at = position(0, &delimiter) + delimiter.len();
    while !body[at..].starts_with(b"--") {
        let begin = position(at, "\r\n\r\n");
        let end = position(begin + 4, &delimiter);
        let head = String::from_utf8(body[at..begin].to_vec()).expect("a head is text");
        parts.push((head, body[begin + 4..end].to_vec()));
        at = end + delimiter.len();
    }
    assert_eq!(&body[at..], b"--\r\n");
    parts
}

#[tokio::test]
async fn a_range_that_is_not_there_is_refused_with_the_length() {
    on_each_database(async |berth| {
        for (path, content) in things(berth, 5).await {
            let length = content.len();
            let past = format!("bytes={length}-");
            for range in [past.as_str(), "bytes=1000000-1000009", "bytes=500-0", "bytes=-0"] {
                let answer = berth.send("GET", &path, &[("range", range)], "").await;

                answer.is_refused(416, "RANGE_INVALID");
                assert_eq!(answer.header("content-range"), format!("bytes */{length}"), "{range}");
            }
        }
        let empty = berth.repository("team/app").push_blob(b"").await;
        let path = format!("/v2/team/app/blobs/{empty}");
        let answer = berth.send("GET", &path, &[("range", "bytes=0-0")], "").await;
        assert_eq!(answer.is_refused(416, "RANGE_INVALID").header("content-range"), "bytes */0");
        assert_eq!(berth.ask("GET", &path).await.is(200).header("content-length"), "0");
    })
    .await;
}

#[tokio::test]
async fn a_range_that_makes_no_sense_is_ignored() {
    on_each_database(async |berth| {
        let many = format!(
            "bytes={}",
            (0..65).map(|at| format!("{}-{}", at * 3, at * 3)).collect::<Vec<_>>().join(",")
        );
        for (path, content) in things(berth, 6).await {
            for range in ["lines=1-2", "bytes", "bytes=", "bytes=a-b", "bytes=1", "bytes=1-2,x", "0-5", &many]
            {
                let answer = berth.send("GET", &path, &[("range", range)], "").await;
                assert_eq!(answer.is(200).body, content, "{range}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn what_the_client_has_is_not_sent_again() {
    on_each_database(async |berth| {
        for (path, content) in things(berth, 7).await {
            let (entity, other) = (format!("\"{}\"", sha256(&content)), format!("\"{}\"", sha256(b"other")));
            let (weak, list) = (format!("W/{entity}"), format!("{other}, {entity}"));
            for method in ["GET", "HEAD"] {
                for known in [&entity, &weak, &list, "*"] {
                    let answer = berth.send(method, &path, &[("if-none-match", known)], "").await;
                    assert_eq!(answer.is(304).header("etag"), entity, "{known}");
                    assert_eq!(answer.header("docker-content-digest"), sha256(&content));
                    assert!(answer.body.is_empty());
                }
                berth.send(method, &path, &[("if-none-match", &other)], "").await.is(200);
            }
        }
        let unknown = format!("/v2/team/app/blobs/{}", sha256(b"nobody has these"));
        berth.send("GET", &unknown, &[("if-none-match", "*")], "").await.is_refused(404, "BLOB_UNKNOWN");
    })
    .await;
}

#[tokio::test]
async fn a_range_of_another_entity_is_the_whole() {
    on_each_database(async |berth| {
        for (path, content) in things(berth, 8).await {
            let range = ("range", "bytes=0-9");
            let (entity, other) = (format!("\"{}\"", sha256(&content)), format!("\"{}\"", sha256(b"other")));

            let same = berth.send("GET", &path, &[range, ("if-range", &entity)], "").await;
            assert_eq!(same.is(206).body, content[..10]);

            for validator in [other.as_str(), "Sat, 01 Jan 2000 00:00:00 GMT"] {
                let answer = berth.send("GET", &path, &[range, ("if-range", validator)], "").await;
                assert_eq!(answer.is(200).body, content);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_manifest_is_no_blob_and_a_blob_no_manifest() {
    on_each_database(async |berth| {
        let image = berth.push_image("team/app", "v1", 9).await;
        let blob = format!("/v2/team/app/blobs/{}", image.digest);
        let manifest = format!("/v2/team/app/manifests/{}", image.layer);

        berth.ask("HEAD", &blob).await.is(404);
        berth.ask("GET", &blob).await.is_refused(404, "BLOB_UNKNOWN");
        berth.ask("DELETE", &blob).await.is_refused(404, "BLOB_UNKNOWN");
        berth.ask("HEAD", &manifest).await.is(404);
        berth.ask("GET", &manifest).await.is_refused(404, "MANIFEST_UNKNOWN");
        berth.ask("DELETE", &manifest).await.is_refused(404, "MANIFEST_UNKNOWN");
    })
    .await;
}

#[tokio::test]
async fn nothing_is_seen_from_another_repository() {
    on_each_database(async |berth| {
        let image = berth.push_image("team/app", "v1", 10).await;
        berth.push_image("team/other", "v2", 11).await;
        for repository in ["team/other", "team/none", "team", "team/app/more"] {
            for (path, code) in [
                (format!("blobs/{}", image.layer), "BLOB_UNKNOWN"),
                (format!("manifests/{}", image.digest), "MANIFEST_UNKNOWN"),
                ("manifests/v1".to_owned(), "MANIFEST_UNKNOWN"),
            ] {
                berth.ask("GET", &format!("/v2/{repository}/{path}")).await.is_refused(404, code);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_bytes_of_a_manifest_come_out_as_they_went_in() {
    on_each_database(async |berth| {
        let image = berth.push_image("team/app", "v1", 12).await;
        let entry = descriptor(MANIFEST, &image.digest, image.manifest.len());
        for odd in [
            format!("{{ \"manifests\":[{entry}] ,\n\t\"schemaVersion\":2}}\n\n"),
            format!("\r\n{{\"schemaVersion\":2,\"manifests\":[\n{entry}\n],\"annotations\":{{\"\\u0061\":\"\\u00e9 \\/ ü\"}}}}"),
            format!("{{\"schemaVersion\":2,\"unknown\":[1.0,1e2,null,{{}}],\"manifests\":[{entry}]}}"),
        ] {
            for media_type in [INDEX, "application/vnd.docker.distribution.manifest.list.v2+json"] {
                let digest = berth.repository("team/app").push_manifest("odd", media_type, odd.as_bytes()).await;

                // By the digest it keeps the media type it first came with.
                let got = berth.ask("GET", "/v2/team/app/manifests/odd").await;
                assert_eq!(got.is(200).body, odd.as_bytes());
                assert_eq!(got.header("docker-content-digest"), digest);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_rule_gives_its_repositories_a_warning() {
    let rule = "[[repositories]]\nmatch = 'old/**'\nwarning = 'moved to \"new\", see \\ the wiki'";
    on_each_database_with(rule, async |berth| {
        let warning = r#"299 - "moved to \"new\", see \\ the wiki""#;
        let image = berth.push_image("old/app", "v1", 13).await;
        berth.push_image("new/app", "v1", 13).await;
        for path in [
            "manifests/v1".to_owned(),
            "tags/list".to_owned(),
            format!("blobs/{}", image.layer),
            format!("referrers/{}", image.digest),
        ] {
            let old = berth.ask("GET", &format!("/v2/old/app/{path}")).await;
            assert_eq!(old.is(200).all("warning"), [warning]);
            let new = berth.ask("GET", &format!("/v2/new/app/{path}")).await;
            assert!(!new.is(200).headers.contains_key("warning"));
        }
        let begun = berth.ask("POST", "/v2/old/app/blobs/uploads/").await;
        assert_eq!(begun.is(202).all("warning"), [warning]);
        // Whoever does not find it needs it most.
        let gone = berth.ask("GET", "/v2/old/app/manifests/gone").await;
        assert_eq!(gone.is_refused(404, "MANIFEST_UNKNOWN").all("warning"), [warning]);
    })
    .await;
}

/// A blob and a manifest, each its path and its bytes.
async fn things(berth: &Berth, seed: u64) -> [(String, Vec<u8>); 2] {
    let image = berth.push_image("team/app", "v1", seed).await;
    let layer = format!("/v2/team/app/blobs/{}", image.layer);
    [(layer, bytes(seed, 1000)), ("/v2/team/app/manifests/v1".to_owned(), image.manifest)]
}
