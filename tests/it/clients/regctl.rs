//! regctl, of regclient: the client that uses most of the specification.

use std::fs;

use reqwest::StatusCode;
use serde_json::Value;

use crate::harness::{
    Layout, Server, content,
    content::{sha256, sha512},
    http,
    layout::{Compression, Layer},
    process,
    tools::{Workbench, workbench},
};

const SBOM: &str = "application/vnd.example.sbom";
const SIGNATURE: &str = "application/vnd.example.signature";

/// A workbench's regctl, told that the server speaks no TLS and with chunks of a megabyte.
async fn set_up(bench: &Workbench, server: &Server) {
    let sizes = ["--blob-max=1000000", "--blob-chunk=1000000"];
    let set = ["registry", "set", server.host(), "--tls=disabled", "--skip-check"];
    bench.run("regctl", &[&set, &sizes[..]].concat()).await;
}

fn image(layout: &Layout, architecture: &str, seed: u64) -> Value {
    layout.image(
        architecture,
        &[
            Layer::file("gzip", &content::bytes(seed, 2_500_000), Compression::Gzip),
            Layer::file("plain", &content::bytes(seed + 1, 200_000), Compression::None),
            Layer::file("zstd", &content::bytes(seed + 2, 200_000), Compression::Zstd),
        ],
    )
}

#[tokio::test]
async fn regctl_copies_an_index_in_across_and_out() {
    let bench = workbench!("regctl");
    let server = Server::start().await;
    set_up(&bench, &server).await;
    let mut layout = Layout::create(bench.path("layout"));
    let images = ["amd64", "arm64"].map(|architecture| (architecture, image(&layout, architecture, 140)));
    let index = layout.index(&images);
    layout.tag("1", &index);
    let [first, second] = ["first", "second"].map(|name| format!("{}/team/{name}:1", server.host()));
    let pulled = bench.path("pulled");

    for (source, destination) in [
        (&format!("ocidir://{}:1", layout.folder()), &first),
        (&first, &second),
        (&second, &format!("ocidir://{pulled}:1")),
    ] {
        bench.run("regctl", &["image", "copy", source, destination]).await;
    }

    for name in ["team/first", "team/second"] {
        let held = server.repository(name).pull("1").await;
        assert_eq!((&held.digest, &held.contents), (&layout.root(), &layout.contents()));
    }
    assert_eq!(Layout::open(&pulled).contents(), layout.contents());
    assert_eq!(bench.run("regctl", &["image", "digest", &second]).await.text(), layout.root());
    assert_eq!(bench.run("regctl", &["repo", "ls", server.host()]).await.text(), "team/first\nteam/second");
}

#[tokio::test]
async fn regctl_copies_an_image_with_what_refers_to_it() {
    let bench = workbench!("regctl");
    let server = Server::start().await;
    set_up(&bench, &server).await;
    let mut layout = Layout::create(bench.path("layout"));
    let descriptor = image(&layout, "amd64", 150);
    layout.tag("1", &descriptor);
    let [first, second] = ["first", "second"].map(|name| format!("{}/team/{name}:1", server.host()));
    bench.run("regctl", &["image", "copy", &format!("ocidir://{}:1", layout.folder()), &first]).await;
    for (artifact_type, text) in [(SBOM, "an sbom"), (SIGNATURE, "a signature")] {
        let file = bench.path("attached");
        fs::write(&file, text).expect("write a file");
        let put = ["artifact", "put", "--artifact-type", artifact_type, "--subject", &first, "--file", &file];
        bench.run("regctl", &put).await;
    }

    bench.run("regctl", &["image", "copy", "--referrers", &first, &second]).await;

    let list = ["artifact", "list", "--format", "{{json .Descriptors}}", &second];
    let all = bench.run("regctl", &list).await.json();
    assert_eq!(all.as_array().map(Vec::len), Some(2), "{all}");
    let sboms = bench.run("regctl", &[&list[..], &["--filter-artifact-type", SBOM]].concat()).await.json();
    let sboms = sboms.as_array().expect("a list of descriptors");
    assert_eq!((sboms.len(), &sboms[0]["artifactType"]), (1, &Value::from(SBOM)));
    let digest = sboms[0]["digest"].as_str().expect("a digest is text");
    let [from, to] = ["team/first", "team/second"].map(|name| server.repository(name));
    let held = to.pull(digest).await;
    assert_eq!(held.manifest()["subject"]["digest"], layout.root());
    assert!(held.contents.contains_key(&sha256(b"an sbom")), "the file is a layer");
    assert_eq!(held.contents, from.pull(digest).await.contents);
}

#[tokio::test]
async fn regctl_removes_one_tag_and_leaves_the_other() {
    let bench = workbench!("regctl");
    let server = Server::start().await;
    set_up(&bench, &server).await;
    let mut layout = Layout::create(bench.path("layout"));
    let descriptor = image(&layout, "amd64", 160);
    layout.tag("1", &descriptor);
    let repository = format!("{}/team/app", server.host());
    for tag in ["1", "2"] {
        let source = format!("ocidir://{}:1", layout.folder());
        bench.run("regctl", &["image", "copy", &source, &format!("{repository}:{tag}")]).await;
    }
    assert_eq!(bench.run("regctl", &["tag", "ls", &repository]).await.text(), "1\n2");

    bench.run("regctl", &["tag", "rm", &format!("{repository}:1")]).await;

    assert_eq!(bench.run("regctl", &["tag", "ls", &repository]).await.text(), "2");
    assert_eq!(server.repository("team/app").pull("2").await.contents, layout.contents());
}

#[tokio::test]
async fn regctl_puts_a_blob_in_chunks_by_either_algorithm() {
    let bench = workbench!("regctl");
    let server = Server::start().await;
    set_up(&bench, &server).await;
    let repository = format!("{}/team/app", server.host());
    let bytes = content::bytes(170, 5_500_001);
    let file = bench.path("blob");
    fs::write(&file, &bytes).expect("write a file");

    for digest in [sha256(&bytes), sha512(&bytes)] {
        let mut put = bench.command("regctl", &["blob", "put", "--digest", &digest, &repository]);
        put.stdin(fs::File::open(&file).expect("open a file"));
        assert_eq!(process::run(put).await.text(), digest);

        assert!(
            bench.run("regctl", &["blob", "get", &repository, &digest]).await.stdout == bytes,
            "{digest}"
        );
        let url = server.repository("team/app").url(&format!("blobs/{digest}"));
        let mut joined = Vec::new();
        for start in (0..bytes.len()).step_by(2_000_000) {
            let range = format!("bytes={start}-{}", start + 1_999_999);
            let answer = http().get(&url).header("Range", range).send().await.expect("ask for a range");
            assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
            joined.extend_from_slice(&answer.bytes().await.expect("read a range"));
        }
        assert!(joined == bytes, "the ranges of {digest} join up");
    }
}
