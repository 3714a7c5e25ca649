//! umoci, which works on layouts; skopeo carries them.

use std::fs;

use crate::harness::{
    Layout, Server, content,
    layout::{Compression, Layer},
    tools::{Workbench, workbench},
};

async fn copy(bench: &Workbench, source: &str, destination: &str) {
    let arguments = ["copy", "--src-tls-verify=false", "--dest-tls-verify=false", source, destination];
    bench.run("skopeo", &arguments).await;
}

#[tokio::test]
async fn umoci_unpacks_changes_and_repacks_an_image_that_then_travels_on() {
    let bench = workbench!("root", "umoci", "skopeo");
    let server = Server::start().await;
    let remote = format!("docker://{}/team/app", server.host());
    let [kept, added] = [content::bytes(80, 1_000_000), content::bytes(81, 1_000_000)];
    let mut layout = Layout::create(bench.path("layout"));
    let layers = [
        Layer::file("kept", &kept, Compression::Gzip),
        Layer::file("removed", b"this goes away", Compression::Gzip),
    ];
    let descriptor = layout.image("amd64", &layers);
    layout.tag("1", &descriptor);
    copy(&bench, &format!("oci:{}:1", layout.folder()), &format!("{remote}:1")).await;

    let local = bench.path("local");
    copy(&bench, &format!("{remote}:1"), &format!("oci:{local}:1")).await;
    bench.run("umoci", &["unpack", "--image", &format!("{local}:1"), &bench.path("bundle")]).await;
    let root = bench.folder().join("bundle/rootfs");
    fs::write(root.join("added"), &added).expect("add a file");
    fs::remove_file(root.join("removed")).expect("remove a file");
    bench.run("umoci", &["repack", "--image", &format!("{local}:2"), &bench.path("bundle")]).await;
    copy(&bench, &format!("oci:{local}:2"), &format!("{remote}:2")).await;

    let pulled = bench.path("pulled");
    copy(&bench, &format!("{remote}:2"), &format!("oci:{pulled}:2")).await;
    let held = server.repository("team/app").pull("2").await;
    assert_eq!(held.contents, Layout::open(&pulled).contents());
    assert_eq!(held.manifest()["layers"].as_array().map(Vec::len), Some(3));
    bench.run("umoci", &["unpack", "--image", &format!("{pulled}:2"), &bench.path("again")]).await;
    let root = bench.folder().join("again/rootfs");
    assert!(fs::read(root.join("kept")).expect("read a file") == kept, "the file of the first layer");
    assert!(fs::read(root.join("added")).expect("read a file") == added, "the file of the last layer");
    assert!(!root.join("removed").exists(), "the last layer hides the file");
}
