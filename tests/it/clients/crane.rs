//! crane, of go-containerregistry.

use serde_json::Value;

use crate::harness::{
    Layout, Server, content,
    layout::{Compression, Layer},
    process::Answer,
    tools::{Workbench, workbench},
};

async fn crane(bench: &Workbench, arguments: &[&str]) -> Answer {
    bench.run("crane", &[&["--insecure"], arguments].concat()).await
}

fn image(layout: &Layout, architecture: &str, seed: u64) -> Value {
    layout.image(
        architecture,
        &[
            Layer::file("gzip", &content::bytes(seed, 2_000_000), Compression::Gzip),
            Layer::file("plain", &content::bytes(seed + 1, 200_000), Compression::None),
            Layer::file("zstd", &content::bytes(seed + 2, 200_000), Compression::Zstd),
        ],
    )
}

#[tokio::test]
async fn crane_pushes_an_image_and_pulls_it_back() {
    let bench = workbench!("crane");
    let server = Server::start().await;
    let mut layout = Layout::create(bench.path("layout"));
    let descriptor = image(&layout, "amd64", 110);
    layout.tag("1", &descriptor);
    let reference = format!("{}/team/app:1", server.host());

    crane(&bench, &["push", layout.folder(), &reference]).await;

    let held = server.repository("team/app").pull("1").await;
    assert_eq!((&held.digest, &held.contents), (&layout.root(), &layout.contents()));
    assert_eq!(crane(&bench, &["digest", &reference]).await.text(), held.digest);
    assert_eq!(crane(&bench, &["manifest", &reference]).await.stdout, layout.read(&held.digest));
    let pulled = bench.path("pulled");
    crane(&bench, &["pull", "--format=oci", &reference, &pulled]).await;
    assert_eq!(Layout::open(&pulled).contents(), layout.contents());
}

#[tokio::test]
async fn crane_copies_an_index_between_repositories_and_lists_them() {
    let bench = workbench!("crane");
    let server = Server::start().await;
    let mut layout = Layout::create(bench.path("layout"));
    let images = ["amd64", "arm64"].map(|architecture| (architecture, image(&layout, architecture, 120)));
    let index = layout.index(&images);
    layout.tag("1", &index);
    let [first, second] = ["first", "second"].map(|name| format!("{}/team/{name}", server.host()));
    // A layout's own index is pushed as one more index around ours, which the copy takes apart.
    crane(&bench, &["push", "--index", layout.folder(), &format!("{first}:all")]).await;
    let ours = format!("{first}@{}", layout.root());

    crane(&bench, &["copy", &ours, &format!("{second}:1")]).await;
    crane(&bench, &["tag", &format!("{second}:1"), "2"]).await;

    for tag in ["1", "2"] {
        let held = server.repository("team/second").pull(tag).await;
        assert_eq!((&held.digest, &held.contents), (&layout.root(), &layout.contents()));
    }
    assert_eq!(crane(&bench, &["ls", &second]).await.text(), "1\n2");
    assert_eq!(crane(&bench, &["catalog", server.host()]).await.text(), "team/first\nteam/second");
}

#[tokio::test]
async fn crane_appends_a_layer_to_an_image_and_deletes_the_result() {
    let bench = workbench!("crane");
    let server = Server::start().await;
    let mut layout = Layout::create(bench.path("layout"));
    let layer = Layer::file("first", &content::bytes(130, 100_000), Compression::Gzip);
    let descriptor = layout.image("amd64", &[layer]);
    layout.tag("1", &descriptor);
    let repository = format!("{}/team/app", server.host());
    crane(&bench, &["push", layout.folder(), &format!("{repository}:1")]).await;
    let added = Layer::file("second", &content::bytes(131, 3_000_000), Compression::None).tar;
    let file = bench.path("added.tar");
    std::fs::write(&file, &added).expect("write the layer");

    let [base, appended] = [1, 2].map(|tag| format!("{repository}:{tag}"));
    crane(&bench, &["append", "--base", &base, "--new_layer", &file, "--new_tag", &appended]).await;

    crane(&bench, &["validate", "--remote", &appended]).await;
    let held = server.repository("team/app").pull("2").await;
    let manifest = held.manifest();
    let layers = manifest["layers"].as_array().expect("an image has layers");
    assert_eq!(layers.len(), 2);
    let last = &held.contents[layers[1]["digest"].as_str().expect("a digest is text")];
    assert!(super::gunzip(last) == added, "the layer is the tar file that was appended");

    crane(&bench, &["delete", &format!("{repository}@{}", held.digest)]).await;
    let answer = server.repository("team/app").get("manifests/2").await;
    assert_eq!(answer.status(), reqwest::StatusCode::NOT_FOUND);
    assert_eq!(server.repository("team/app").pull("1").await.contents, layout.contents());
}
