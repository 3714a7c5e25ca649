//! Bodies that no client of good will sends: too long, cut short, or made to be read in two ways.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, time::timeout};

use crate::{
    harness::{
        Server,
        content::sha256,
        layout::{CONFIG, INDEX, LAYER, MANIFEST},
    },
    protocol::wire::{Berth, chunked, descriptor, on_each_database, on_each_database_with, read_answer},
};

const SPARSE: &str = "[[repositories]]\nmatch = '**'\nallow_sparse = true";
const MANIFEST_MAX: usize = 4 * 1024 * 1024;
const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// A media type, a document, and what is wrong with it.
type Bad = (&'static str, String, &'static str);

/// A good image, to be spoilt.
fn image() -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &sha256(b"config"), 6),
        "layers": [descriptor(LAYER, &sha256(b"layer"), 5)],
    })
}

fn with(member: &str, value: Value) -> String {
    let mut image = image();
    image[member] = value;
    image.to_string()
}

fn entry() -> Value {
    descriptor(MANIFEST, &sha256(b"entry"), 5)
}

/// An image with lists in lists.
fn deep(levels: usize) -> String {
    format!(r#"{{"schemaVersion":2,"layers":[],"x":{}1{}}}"#, "[".repeat(levels), "]".repeat(levels))
}

/// An index of so many entries.
fn crowd(count: usize) -> String {
    json!({"schemaVersion": 2, "manifests": vec![entry(); count]}).to_string()
}

/// What is not one document of one kind, or too much of one.
fn bad_documents() -> Vec<Bad> {
    vec![
        (MANIFEST, String::new(), "empty"),
        (MANIFEST, "{".to_owned(), "cut short"),
        (MANIFEST, image().to_string() + "{}", "two documents"),
        (MANIFEST, "null".to_owned(), "not an object"),
        (MANIFEST, "[]".to_owned(), "not an object"),
        (MANIFEST, "\"text\"".to_owned(), "not an object"),
        (MANIFEST, "<html></html>".to_owned(), "not JSON"),
        (MANIFEST, format!("\u{feff}{}", image()), "a byte order mark"),
        (MANIFEST, image().to_string().replacen('{', r#"{"config":null,"#, 1), "a key twice"),
        (
            MANIFEST,
            image().to_string().replacen('{', r#"{"layer\u0073":[],"#, 1),
            "a key twice, once in disguise",
        ),
        (
            MANIFEST,
            image().to_string().replacen(r#""size":"#, r#""size":1,"size":"#, 1),
            "a key twice further in",
        ),
        (INDEX, image().to_string(), "mediaType against Content-Type"),
        (DOCKER_LIST, image().to_string(), "mediaType against Content-Type"),
        (MANIFEST, with("mediaType", json!(INDEX)), "mediaType against Content-Type"),
        (MANIFEST, with("mediaType", json!(7)), "mediaType is a number"),
        (MANIFEST, with("manifests", json!([entry()])), "layers and manifests"),
        (MANIFEST, with("manifests", json!(null)), "layers and manifests"),
        (MANIFEST, with("manifests", json!([])), "layers and manifests"),
        (
            INDEX,
            json!({"schemaVersion": 2, "manifests": [], "layers": []}).to_string(),
            "manifests and layers",
        ),
        (INDEX, json!({"schemaVersion": 2, "config": entry()}).to_string(), "an index with a config"),
        (MANIFEST, json!({"schemaVersion": 2, "manifests": []}).to_string(), "a manifest with manifests"),
        (MANIFEST, deep(40), "too deep"),
        (MANIFEST, deep(1_000_000), "far too deep"),
        (INDEX, crowd(10_001), "too many entries"),
        ("text/html; charset=x", image().to_string(), "mediaType against Content-Type"),
        ("a\tb", json!({"schemaVersion": 2}).to_string(), "a Content-Type with a control character"),
        ("", json!({"schemaVersion": 2}).to_string(), "nothing says what it is"),
    ]
}

/// Documents with one bad member.
fn bad_members() -> Vec<Bad> {
    vec![
        (MANIFEST, with("schemaVersion", json!(1)), "schema 1"),
        (MANIFEST, with("schemaVersion", json!(3)), "schema 3"),
        (MANIFEST, with("schemaVersion", json!("2")), "a schema in words"),
        (SCHEMA_1, json!({"schemaVersion": 1, "fsLayers": [], "signatures": []}).to_string(), "schema 1"),
        (MANIFEST, with("fsLayers", json!([])), "layers of schema 1"),
        (MANIFEST, with("layers", json!({})), "layers are an object"),
        (MANIFEST, with("layers", json!([7])), "a layer is a number"),
        (MANIFEST, with("layers", json!([{"mediaType": LAYER, "size": 5}])), "no digest"),
        (MANIFEST, with("layers", json!([descriptor(LAYER, "sha256:abc", 5)])), "a bad digest"),
        (
            MANIFEST,
            with("layers", json!([descriptor(LAYER, "md5:d41d8cd98f00b204e9800998ecf8427e", 5)])),
            "md5",
        ),
        (
            MANIFEST,
            with("layers", json!([{"mediaType": LAYER, "digest": sha256(b""), "size": -1}])),
            "size -1",
        ),
        (
            MANIFEST,
            with("layers", json!([{"mediaType": LAYER, "digest": sha256(b""), "size": u64::MAX}])),
            "size 2^64 - 1",
        ),
        (
            MANIFEST,
            with("layers", json!([{"mediaType": LAYER, "digest": sha256(b""), "size": 1.5}])),
            "size 1.5",
        ),
        (MANIFEST, with("config", json!("text")), "a config in words"),
        (MANIFEST, with("subject", json!({"digest": "../../etc"})), "a bad subject"),
        (MANIFEST, with("annotations", json!([])), "annotations are a list"),
        (MANIFEST, with("annotations", json!({"a": 1})), "an annotation is a number"),
        (MANIFEST, with("artifactType", json!("a\u{0}b")), "an artifact type with a control character"),
        (MANIFEST, with("artifactType", json!("a".repeat(256))), "an artifact type that is too long"),
    ]
}

#[tokio::test]
async fn a_document_that_is_no_manifest_or_could_be_two_is_refused() {
    // Nothing is missing, so nothing but the document itself can be what is refused.
    on_each_database_with(SPARSE, async |berth| {
        let put = async |tag: &str, content_type: &str, body: Vec<u8>| {
            let path = format!("/v2/team/app/manifests/{tag}");
            berth.send("PUT", &path, &[("content-type", content_type)], body).await
        };
        for (content_type, body, why) in bad_documents().into_iter().chain(bad_members()) {
            let answer = put("bad", content_type, body.into_bytes()).await;

            assert_eq!(answer.status, 400, "{why}: {}", answer.text());
            answer.is_refused(400, "MANIFEST_INVALID");
        }
        let mut text = image().to_string().into_bytes();
        text.splice(1..1, *b"\"x\":\"\xff\",");
        put("bad", MANIFEST, text).await.is_refused(400, "MANIFEST_INVALID");
        berth.ask("GET", "/v2/team/app/manifests/bad").await.is_refused(404, "MANIFEST_UNKNOWN");
        // What was spoilt above is good as it is.
        for (content_type, body) in
            [(MANIFEST, image().to_string()), (INDEX, crowd(10_000)), (MANIFEST, deep(31))]
        {
            put("good", content_type, body.into_bytes()).await.is(201);
        }
    })
    .await;
}

#[tokio::test]
async fn a_manifest_of_the_largest_size_is_taken_and_one_byte_more_is_not() {
    on_each_database(async |berth| {
        let sized = |length: usize| {
            let empty = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).to_string();
            empty.clone() + &" ".repeat(length - empty.len())
        };
        let json = [("content-type", INDEX)];
        let (fits, over) = (sized(MANIFEST_MAX), sized(MANIFEST_MAX + 1));
        for (tag, body) in [("length", fits.clone().into()), ("chunked", chunked(fits.as_bytes()))] {
            berth.send("PUT", &format!("/v2/team/app/manifests/{tag}"), &json, body).await.is(201);
            let got = berth.ask("GET", &format!("/v2/team/app/manifests/{tag}")).await;
            assert!(got.is(200).body == fits.as_bytes());
        }
        for body in [over.clone().into(), chunked(over.as_bytes())] {
            let answer = berth.send("PUT", "/v2/team/app/manifests/over", &json, body).await;
            answer.is_refused(413, "MANIFEST_INVALID");
        }
        berth.ask("GET", "/v2/team/app/manifests/over").await.is_refused(404, "MANIFEST_UNKNOWN");
    })
    .await;
}

#[tokio::test]
async fn a_manifest_that_announces_too_much_is_refused_before_it_comes() {
    let berth = Berth::of(Server::start().await);
    let head = "PUT /v2/team/app/manifests/v1 HTTP/1.1\r\nHost: berth\r\nContent-Type: application/json\r\n";
    for (announced, sent) in [
        ("Content-Length: 100000000000\r\n\r\n", "a few bytes".to_owned()),
        ("Content-Length: 4194305\r\n\r\n", String::new()),
        // One that asks first is told at once, and sends nothing.
        ("Content-Length: 4194305\r\nExpect: 100-continue\r\n\r\n", String::new()),
        ("Transfer-Encoding: chunked\r\n\r\n", format!("500000\r\n{}", " ".repeat(0x0050_0000))),
        ("Transfer-Encoding: chunked\r\n\r\n", format!("ffffffffff\r\n{}", " ".repeat(5_000_000))),
    ] {
        let mut connection = berth.connect().await;
        connection.write_all(format!("{head}{announced}{sent}").as_bytes()).await.expect("the server reads");

        let answer = timeout(Duration::from_secs(30), read_answer(&mut connection)).await;

        answer.expect("it does not wait for the rest").is_refused(413, "MANIFEST_INVALID");
    }
    let said = berth.server.said();
    assert!(!said.contains("ERROR"), "{said}");
    assert!(berth.server.peak_rss_bytes() < 200 * 1024 * 1024);
}

#[tokio::test]
async fn a_manifest_that_is_cut_short_is_not_stored() {
    on_each_database(async |berth| {
        let body = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).to_string();
        let head =
            format!("PUT /v2/team/app/manifests/v1 HTTP/1.1\r\nHost: berth\r\nContent-Type: {INDEX}\r\n");
        for announced in [
            format!("Content-Length: {}\r\n\r\n{body}", body.len() + 1),
            format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n", body.len()),
            format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\nnonsense\r\n", body.len()),
        ] {
            let mut connection = berth.connect().await;
            connection.write_all(format!("{head}{announced}").as_bytes()).await.expect("the server reads");
            connection.shutdown().await.expect("half of a connection closes");

            read_answer(&mut connection).await.is_refused(400, "MANIFEST_INVALID");

            berth.ask("GET", "/v2/team/app/manifests/v1").await.is_refused(404, "MANIFEST_UNKNOWN");
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_before_the_end_of_a_body_is_heard_and_the_connection_goes_on() {
    on_each_database(async |berth| {
        // Clients that write before they read must not find the connection reset.
        let body = vec![b' '; 8 * 1024 * 1024];
        for path in ["/v2/UPPER/manifests/v1", "/v2/team/app/manifests/-bad", "/v2/team/app/tags/list"] {
            let answer = berth.send("PUT", path, &[], body.clone()).await;
            assert!((400..=405).contains(&answer.status), "{path}: {}", answer.status);
            berth.ask("GET", "/v2/").await.is(200);
        }
    })
    .await;
}
