//! Requests that no client of good will sends: each has its status and its code, and costs nothing.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    harness::{Server, content::sha256},
    protocol::wire::{Berth, on_each_database, read_answer},
};

/// A good digest of a blob nobody has.
const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Method, target, status, code.
type Case = (&'static str, String, u16, &'static str);

/// Targets that try to leave their place in every part, as they are and percent-encoded.
fn traversals() -> Vec<Case> {
    let mut cases = Vec::new();
    for dots in [
        "..",
        "%2e%2e",
        ".%2E",
        "..%2f..%2fetc",
        "%2e%2e%2f",
        "..%5c..",
        "%00",
        "a%00b",
        "%ff",
        "%c0%ae%c0%ae",
    ] {
        // What a repository may be called stands on both sides of it, or not.
        for name in [dots.to_owned(), format!("a/{dots}"), format!("{dots}/a"), format!("a/{dots}/b")] {
            cases.push(("GET", format!("/v2/{name}/tags/list"), 400, "NAME_INVALID"));
            cases.push(("GET", format!("/v2/{name}/manifests/latest"), 400, "NAME_INVALID"));
            cases.push(("PUT", format!("/v2/{name}/manifests/latest"), 400, "NAME_INVALID"));
            cases.push(("GET", format!("/v2/{name}/blobs/{DIGEST}"), 400, "NAME_INVALID"));
            cases.push(("DELETE", format!("/v2/{name}/blobs/{DIGEST}"), 400, "NAME_INVALID"));
            cases.push(("GET", format!("/v2/{name}/referrers/{DIGEST}"), 400, "NAME_INVALID"));
            cases.push(("POST", format!("/v2/{name}/blobs/uploads/"), 400, "NAME_INVALID"));
            cases.push(("GET", format!("/v2/{name}/blobs/uploads/0123"), 400, "NAME_INVALID"));
        }
        for method in ["GET", "PUT", "DELETE"] {
            cases.push((method, format!("/v2/a/manifests/{dots}"), 400, "TAG_INVALID"));
            cases.push((method, format!("/v2/a/manifests/sha256:{dots}"), 400, "DIGEST_INVALID"));
            cases.push((method, format!("/v2/a/blobs/uploads/{dots}"), 404, "BLOB_UPLOAD_UNKNOWN"));
        }
        for method in ["GET", "DELETE"] {
            cases.push((method, format!("/v2/a/blobs/{dots}"), 400, "DIGEST_INVALID"));
            cases.push((method, format!("/v2/a/blobs/sha256:{dots}"), 400, "DIGEST_INVALID"));
        }
        cases.push(("GET", format!("/v2/a/referrers/{dots}"), 400, "DIGEST_INVALID"));
        cases.push(("POST", format!("/v2/a/blobs/uploads/?digest={dots}"), 400, "DIGEST_INVALID"));
        cases.push(("POST", format!("/v2/a/blobs/uploads/?mount={dots}"), 400, "DIGEST_INVALID"));
        cases.push(("POST", format!("/v2/a/blobs/uploads/?digest-algorithm={dots}"), 400, "DIGEST_INVALID"));
        cases.push(("PUT", format!("/v2/a/manifests/{DIGEST}?tag={dots}"), 400, "TAG_INVALID"));
        cases.push(("GET", format!("/v2/_catalog?n={dots}"), 400, "PAGINATION_NUMBER_INVALID"));
    }
    for target in [
        "/v2/../../etc/passwd",
        "/../etc/passwd",
        "/v2/%2e%2e/%2e%2e/etc/passwd",
        "/v2/a/manifests/../../../etc/passwd",
        "/v2/..%2f..%2fetc%2fpasswd",
        "/v2//etc/passwd",
        "/v2/a/blobs/../../../etc/passwd",
        "//v2/",
        "/v2%2f_catalog",
    ] {
        cases.push(("GET", target.to_owned(), 404, "UNSUPPORTED"));
    }
    cases
}

/// Names, tags, digests and numbers that are none.
fn malformed() -> Vec<Case> {
    let mut cases = Vec::new();
    let long = "a".repeat(256);
    let longer = "a/".repeat(5000) + "a";
    for name in [
        "Library",
        "library/Nginx",
        "library/ngin%58",
        "-a",
        "a-",
        "_a",
        "a_",
        "a..b",
        "a.",
        ".a",
        "a___b",
        "a._b",
        "a//b",
        "/a",
        "a/",
        "a%20b",
        "a+b",
        "a:b",
        "a@b",
        "a~b",
        "%C3%BC",
        "a%2Fb",
        "_oci",
        "_catalog/a",
        &long,
        &longer,
    ] {
        cases.push(("GET", format!("/v2/{name}/tags/list"), 400, "NAME_INVALID"));
        cases.push(("POST", format!("/v2/{name}/blobs/uploads/"), 400, "NAME_INVALID"));
        cases.push(("PUT", format!("/v2/{name}/manifests/v1"), 400, "NAME_INVALID"));
    }
    let long = "a".repeat(129);
    let longer = "a".repeat(10_000);
    for tag in ["-a", ".a", "a%20b", "a+b", "a~", "a%2Fb", "%C3%BC", "", &long, &longer] {
        for method in ["GET", "HEAD", "PUT", "DELETE"] {
            cases.push((method, format!("/v2/a/manifests/{tag}"), 400, "TAG_INVALID"));
        }
    }
    let hexadecimal = &DIGEST["sha256:".len()..];
    for digest in [
        "sha256:",
        "sha256:abc",
        &DIGEST.to_uppercase(),
        &format!("sha256:{}", hexadecimal.to_uppercase()),
        &format!("{DIGEST}0"),
        &DIGEST[..70],
        &format!("sha256:{}g", &hexadecimal[1..]),
        &format!("sha512:{hexadecimal}"),
        &format!("sha384:{hexadecimal}"),
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        &format!("sha256::{hexadecimal}"),
        &format!("sha256:%20{hexadecimal}"),
        ":",
        &format!("sha256:{}", "a".repeat(10_000)),
    ] {
        for method in ["GET", "HEAD", "DELETE"] {
            cases.push((method, format!("/v2/a/blobs/{digest}"), 400, "DIGEST_INVALID"));
            cases.push((method, format!("/v2/a/manifests/{digest}"), 400, "DIGEST_INVALID"));
        }
        cases.push(("PUT", format!("/v2/a/manifests/{digest}"), 400, "DIGEST_INVALID"));
        cases.push(("GET", format!("/v2/a/referrers/{digest}"), 400, "DIGEST_INVALID"));
        cases.push(("POST", format!("/v2/a/blobs/uploads/?digest={digest}"), 400, "DIGEST_INVALID"));
        cases.push(("POST", format!("/v2/a/blobs/uploads/?mount={digest}"), 400, "DIGEST_INVALID"));
    }
    for algorithm in ["md5", "sha1", "SHA256", "sha256:", "sha-256", "", "blake3", "sha384"] {
        cases.push((
            "POST",
            format!("/v2/a/blobs/uploads/?digest-algorithm={algorithm}"),
            400,
            "DIGEST_INVALID",
        ));
    }
    cases
}

/// Paths nobody has, and methods nobody knows.
fn strangers() -> Vec<Case> {
    let mut cases = Vec::new();
    for target in [
        "/",
        "/v1/",
        "/v2x",
        "/V2/",
        "/v2/a",
        "/v2/a/tags",
        "/v2/a/tags/other",
        "/v2/_oci/ext/discover",
        "/favicon.ico",
        "/v3/a/tags/list",
    ] {
        cases.push(("GET", target.to_owned(), 404, "UNSUPPORTED"));
        cases.push(("POST", target.to_owned(), 404, "UNSUPPORTED"));
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE"] {
        for target in ["/v2/", "/v2/_catalog", "/v2/a/tags/list", &format!("/v2/a/referrers/{DIGEST}")] {
            cases.push((method, target.to_owned(), 405, "UNSUPPORTED"));
        }
    }
    for method in ["POST", "PUT", "PATCH", "OPTIONS"] {
        cases.push((method, format!("/v2/a/blobs/{DIGEST}"), 405, "UNSUPPORTED"));
    }
    for method in ["GET", "HEAD", "PUT", "PATCH", "DELETE"] {
        cases.push((method, "/v2/a/blobs/uploads/".to_owned(), 405, "UNSUPPORTED"));
    }
    for method in ["POST", "PATCH"] {
        cases.push((method, "/v2/a/manifests/v1".to_owned(), 405, "UNSUPPORTED"));
    }
    cases.push((
        "POST",
        "/v2/a/blobs/uploads/0123456789abcdef0123456789abcdef".to_owned(),
        405,
        "UNSUPPORTED",
    ));
    cases
}

async fn check(berth: &Berth, cases: &[Case]) {
    for (method, target, status, code) in cases {
        let answer = ask_raw(berth, method, target).await;
        let shown = &target[..target.len().min(100)];
        assert_eq!(answer.status, *status, "{method} {shown}: {}", answer.text());
        if *method == "HEAD" {
            assert!(answer.headers.contains_key("x-request-id"), "{method} {shown}");
        } else {
            assert!(answer.text().contains(code), "{method} {shown}: {}", answer.text());
            answer.is_refused(*status, code);
        }
        assert_eq!(answer.headers.contains_key("allow"), *status == 405, "{method} {shown}");
    }
}

/// As [`Berth::ask_raw`]; the answer to a HEAD has no body, whatever its length says.
async fn ask_raw(berth: &Berth, method: &str, target: &str) -> crate::protocol::wire::Answer {
    let host = berth.server.host();
    let mut connection = berth.connect().await;
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    connection.write_all(request.as_bytes()).await.expect("the server reads");
    read_answer(&mut connection).await
}

#[tokio::test]
async fn nothing_leads_out_of_its_place() {
    on_each_database(async |berth| check(berth, &traversals()).await).await;
}

#[tokio::test]
async fn what_is_no_name_tag_digest_or_algorithm_is_refused_as_such() {
    on_each_database(async |berth| check(berth, &malformed()).await).await;
}

#[tokio::test]
async fn unknown_paths_are_404_and_wrong_methods_405() {
    on_each_database(async |berth| {
        check(berth, &strangers()).await;
        for (method, path, allowed) in [
            ("DELETE", "/v2/_catalog".to_owned(), "GET, HEAD"),
            ("PUT", format!("/v2/a/blobs/{DIGEST}"), "GET, HEAD, DELETE"),
            ("GET", "/v2/a/blobs/uploads/".to_owned(), "POST"),
            (
                "POST",
                "/v2/a/blobs/uploads/0123456789abcdef0123456789abcdef".to_owned(),
                "GET, HEAD, PATCH, PUT, DELETE",
            ),
            ("POST", "/v2/a/manifests/v1".to_owned(), "GET, HEAD, PUT, DELETE"),
        ] {
            assert_eq!(
                berth.ask_raw(method, &path).await.is_refused(405, "UNSUPPORTED").header("allow"),
                allowed
            );
        }
    })
    .await;
}

#[tokio::test]
async fn good_names_that_look_like_the_api_are_names() {
    on_each_database(async |berth| {
        for name in
            ["v2", "tags/list", "blobs/uploads", "manifests", "a/referrers/b", "catalog", &"a".repeat(255)]
        {
            let digest = berth.repository(name).push_blob(b"bytes").await;
            assert_eq!(berth.repository(name).blob(&digest).await, b"bytes");
            berth.ask("GET", &format!("/v2/{name}/tags/list")).await.is(200);
        }
        let tag = "_".to_owned() + &"A".repeat(127);
        berth.push_image("a", &tag, 1).await;
        berth.ask("GET", &format!("/v2/a/manifests/{tag}")).await.is(200);
        // Encoded or not, it is the same name.
        berth.ask_raw("GET", &format!("/v2/%61/manifests/{tag}")).await.is(200);
        berth.ask_raw("GET", "/v2").await.is(200);
    })
    .await;
}

#[tokio::test]
async fn a_target_that_is_too_long_is_414_and_headers_that_are_431() {
    let berth = Berth::of(Server::start().await);
    for length in [17_000, 60_000] {
        let target = format!("/v2/a/manifests/{}", "a".repeat(length));
        berth.ask_raw("GET", &target).await.is_refused(414, "UNSUPPORTED");
        let target = format!("/v2/_catalog?last={}", "a".repeat(length));
        berth.ask_raw("GET", &target).await.is_refused(414, "UNSUPPORTED");
    }
    let with = |header: String| format!("GET /v2/ HTTP/1.1\r\nHost: berth\r\n{header}\r\n");
    for length in [33_000, 120_000] {
        let answer = berth.send_raw(with(format!("X-Long: {}\r\n", "a".repeat(length)))).await;
        answer.is_refused(431, "UNSUPPORTED");
    }
    let many = format!("X-Many: {}\r\n", "a".repeat(1000)).repeat(90);
    berth.send_raw(with(many)).await.is_refused(431, "UNSUPPORTED");

    // Beyond what is read at all, the answer is not ours, but it is an answer.
    let target = format!("/v2/a/manifests/{}", "a".repeat(100_000));
    berth.ask_raw("GET", &target).await.is(414);
    berth.send_raw(with(format!("X-Long: {}\r\n", "a".repeat(2_000_000)))).await.is(431);
    let many = "X-Many: a\r\n".repeat(1000);
    berth.send_raw(with(many)).await.is(431);
    berth.ask("GET", "/v2/").await.is(200);
}

#[tokio::test]
async fn bytes_that_are_no_request_are_answered_or_hung_up_on() {
    let berth = Berth::of(Server::builder().on_disk().start().await);
    // What a client sends that tries TLS first.
    let hello: &[u8] = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\x03\x03 and so on\r\n\r\n";
    for garbage in [
        hello,
        b"\x00\x00\x00\x00\x00\x00\x00\x00\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nTransfer-Encoding: nonsense\r\n\r\n",
        b"GET /v2/\x00 HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnot a frame of HTTP/2, but a good many bytes all the same",
        b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
    ] {
        let mut connection = berth.connect().await;
        let _ = connection.write_all(garbage).await;
        connection.shutdown().await.expect("half of a connection closes");
        let mut answer = Vec::new();
        let _ = connection.read_to_end(&mut answer).await;
        let text = String::from_utf8_lossy(&answer);
        let http2 = garbage.starts_with(b"PRI");
        assert!(http2 || answer.is_empty() || text.starts_with("HTTP/1.1 400 "), "{garbage:?}: {text}");
    }
    for target in ["*", "http://other.example/v2/", "other.example:443", "v2/"] {
        let method = if target.ends_with("443") { "CONNECT" } else { "OPTIONS" };
        let answer = berth.ask_raw(method, target).await;
        assert!((400..500).contains(&answer.status), "{method} {target}: {answer:?}");
    }
    berth.ask("GET", "/v2/").await.is(200);
    let said = berth.server.said();
    assert!(!said.contains("WARN") && !said.contains("ERROR"), "{said}");
}

#[tokio::test]
async fn bad_requests_cost_no_memory_that_stays() {
    let berth = Berth::of(Server::start().await);
    let image = berth.push_image("team/app", "v1", 1).await;
    let bomb = format!(r#"{{"a":{}1{}}}"#, "[".repeat(1_000_000), "]".repeat(1_000_000));
    let entries = format!(r#"{{"schemaVersion":2,"manifests":[{}1]}}"#, "{},".repeat(1_300_000));
    let cases: Vec<_> = [traversals(), malformed(), strangers()].concat().into_iter().step_by(23).collect();
    let round = async || {
        check(&berth, &cases).await;
        for body in [&bomb, &entries] {
            let json = [("content-type", crate::harness::layout::INDEX)];
            let answer = berth.send("PUT", "/v2/team/app/manifests/bomb", &json, body.clone()).await;
            answer.is_refused(400, "MANIFEST_INVALID");
        }
        let location = berth.begin("team/app").await;
        berth.send("PATCH", &location, &[("content-range", "5-9")], "12345").await.is(416);
        berth.ask("DELETE", &location).await.is(204);
    };
    // Every thread has had such bodies once, and its allocator keeps room for the next.
    for _ in 0..20 {
        round().await;
    }
    let before = berth.server.rss_bytes();

    for _ in 0..60 {
        round().await;
    }

    let after = berth.server.rss_bytes();
    assert!(after < before + 24 * 1024 * 1024, "{before} bytes became {after}");
    assert_eq!(berth.repository("team/app").digest("v1").await, image.digest);
    assert!(!berth.server.said().contains("ERROR"), "{}", berth.server.said());
    berth.ask("HEAD", &format!("/v2/team/app/blobs/{}", sha256(b"none"))).await.is(404);
}
