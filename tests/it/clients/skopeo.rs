//! skopeo, in every format it can write.

use std::{collections::BTreeMap, fs};

use serde_json::Value;

use crate::harness::{
    Layout, Server,
    content::{self, sha256},
    layout::{Compression, INDEX, Layer},
    tools::{Workbench, workbench},
};

/// An image with one layer stored each way, and another that depends on the seed.
fn image(layout: &Layout, architecture: &str, seed: u64) -> Value {
    layout.image(
        architecture,
        &[
            Layer::file("plain", &content::bytes(seed, 200_000), Compression::None),
            Layer::file("gzip", &content::bytes(seed + 1, 200_000), Compression::Gzip),
            Layer::file("zstd", &content::bytes(seed + 2, 200_000), Compression::Zstd),
        ],
    )
}

async fn copy(bench: &Workbench, options: &[&str], source: &str, destination: &str) {
    let common = ["copy", "--src-tls-verify=false", "--dest-tls-verify=false"];
    bench.run("skopeo", &[&common, options, &[source, destination]].concat()).await;
}

/// The files of a folder in skopeo's `dir:` form, by the digest of their bytes, but for those that
/// skopeo adds.
fn folder_contents(folder: &str) -> BTreeMap<String, Vec<u8>> {
    let files =
        fs::read_dir(folder).expect("skopeo has written the folder").map(|file| file.expect("a file").path());
    let contents = files.filter(|file| !file.ends_with("version")).map(|file| {
        let bytes = fs::read(&file).expect("read a file");
        let digest = sha256(&bytes);
        let name = file.file_name().expect("a file has a name").to_string_lossy().into_owned();
        let expected = name.trim_end_matches(".manifest.json");
        assert!(name == "manifest.json" || digest == format!("sha256:{expected}"), "{name} is {digest}");
        (digest, bytes)
    });
    contents.collect()
}

#[tokio::test]
async fn skopeo_copies_layers_as_they_are_in_and_out() {
    let bench = workbench!("skopeo");
    let server = Server::start().await;
    let mut layout = Layout::create(bench.path("layout"));
    let descriptor = image(&layout, "amd64", 10);
    layout.tag("1", &descriptor);
    let source = format!("oci:{}:1", layout.folder());
    let remote = format!("docker://{}/team/app:1", server.host());

    copy(&bench, &["--preserve-digests"], &source, &remote).await;

    let repository = server.repository("team/app");
    let held = repository.pull("1").await;
    assert_eq!(held.digest, layout.root());
    assert_eq!(held.contents, layout.contents());

    copy(&bench, &["--preserve-digests"], &remote, &format!("dir:{}", bench.path("dir"))).await;
    assert_eq!(folder_contents(&bench.path("dir")), layout.contents());
    copy(&bench, &["--preserve-digests"], &remote, &format!("oci:{}:1", bench.path("pulled"))).await;
    assert_eq!(Layout::open(bench.path("pulled")).contents(), layout.contents());
}

#[tokio::test]
async fn skopeo_pushes_layers_that_it_compresses_on_the_way() {
    let bench = workbench!("skopeo");
    let server = Server::start().await;
    let remote = format!("docker://{}/team/app:1", server.host());
    // Other bytes each time: skopeo remembers a layer that it has compressed, and how.
    for (seed, format, media_type) in [(20, "gzip", "tar+gzip"), (21, "zstd", "tar+zstd")] {
        let mut layout = Layout::create(bench.path(format));
        let tar = Layer::file("plain", &content::bytes(seed, 5_000_000), Compression::None);
        let descriptor = layout.image("amd64", std::slice::from_ref(&tar));
        layout.tag("1", &descriptor);
        let source = format!("oci:{}:1", layout.folder());

        copy(&bench, &["--dest-compress-format", format], &source, &remote).await;

        let held = server.repository("team/app").pull("1").await;
        let layer = &held.manifest()["layers"][0];
        assert_eq!(layer["mediaType"], format!("application/vnd.oci.image.layer.v1.{media_type}"));
        let stored = &held.contents[layer["digest"].as_str().expect("a digest is text")];
        let read = match format {
            "gzip" => super::gunzip(stored),
            _ => zstd::decode_all(stored.as_slice()).expect("the layer is compressed with zstd"),
        };
        assert!(read == tar.tar, "the layer is the tar file");
    }
}

#[tokio::test]
async fn skopeo_copies_the_docker_format_in_and_out() {
    let bench = workbench!("skopeo");
    let server = Server::start().await;
    let mut layout = Layout::create(bench.path("layout"));
    let layer = Layer::file("data", &content::bytes(30, 300_000), Compression::Gzip);
    let descriptor = layout.image("amd64", &[layer]);
    layout.tag("1", &descriptor);
    let source = format!("oci:{}:1", layout.folder());
    let remote = format!("docker://{}/team/app:1", server.host());

    copy(&bench, &["--format=v2s2"], &source, &remote).await;

    let held = server.repository("team/app").pull("1").await;
    assert_eq!(held.media_type, "application/vnd.docker.distribution.manifest.v2+json");
    let layer = &held.manifest()["layers"][0];
    assert_eq!(layer["mediaType"], "application/vnd.docker.image.rootfs.diff.tar.gzip");
    let digest = layer["digest"].as_str().expect("a digest is text");
    assert_eq!(held.contents[digest], layout.contents()[digest]);
    copy(&bench, &["--preserve-digests"], &remote, &format!("dir:{}", bench.path("dir"))).await;
    assert_eq!(folder_contents(&bench.path("dir")), held.contents);
}

#[tokio::test]
async fn skopeo_copies_an_index_with_all_its_images() {
    let bench = workbench!("skopeo");
    let server = Server::start().await;
    let mut layout = Layout::create(bench.path("layout"));
    let images = ["amd64", "arm64", "riscv64"].map(|platform| (platform, image(&layout, platform, 40)));
    let index = layout.index(&images);
    layout.tag("1", &index);
    let source = format!("oci:{}:1", layout.folder());
    let [first, second] = ["first", "second"].map(|name| format!("docker://{}/team/{name}:1", server.host()));

    copy(&bench, &["--all", "--preserve-digests"], &source, &first).await;
    // From one repository to another, where it mounts.
    copy(&bench, &["--all", "--preserve-digests"], &first, &second).await;

    for name in ["team/first", "team/second"] {
        let held = server.repository(name).pull("1").await;
        assert_eq!((held.media_type.as_str(), &held.digest), (INDEX, &layout.root()));
        assert_eq!(held.contents, layout.contents());
    }
    let pulled = bench.path("pulled");
    copy(&bench, &["--all", "--preserve-digests"], &second, &format!("oci:{pulled}:1")).await;
    assert_eq!(Layout::open(&pulled).contents(), layout.contents());
    let raw = bench.run("skopeo", &["inspect", "--raw", "--tls-verify=false", &second]).await;
    assert_eq!(raw.stdout, layout.read(&layout.root()));
}

#[tokio::test]
async fn skopeo_lists_tags_and_deletes_images() {
    let bench = workbench!("skopeo");
    let server = Server::start().await;
    let mut layout = Layout::create(bench.path("layout"));
    let descriptor = image(&layout, "amd64", 50);
    layout.tag("1", &descriptor);
    let source = format!("oci:{}:1", layout.folder());
    let repository = format!("docker://{}/team/app", server.host());
    for tag in ["one", "two"] {
        copy(&bench, &["--preserve-digests"], &source, &format!("{repository}:{tag}")).await;
    }
    let list = ["list-tags", "--tls-verify=false", &repository];
    assert_eq!(bench.run("skopeo", &list).await.json()["Tags"], serde_json::json!(["one", "two"]));

    // It asks for the tag's digest and deletes that, so both tags go.
    bench.run("skopeo", &["delete", "--tls-verify=false", &format!("{repository}:one")]).await;

    for tag in ["one", "two"] {
        let inspect = ["inspect", "--tls-verify=false", &format!("{repository}:{tag}")];
        let said = bench.run_and_fail("skopeo", &inspect).await;
        assert!(said.contains("manifest unknown"), "{said}");
    }
}
