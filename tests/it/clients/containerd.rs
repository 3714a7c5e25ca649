//! containerd and its client ctr, which is how Kubernetes pulls.

use std::fs;

use serde_json::Value;

use crate::harness::{
    Layout, Server, content,
    layout::{Compression, Layer},
    process::{Answer, Process},
    tools::{Workbench, workbench},
};

/// A running containerd.
struct Containerd<'a> {
    bench: &'a Workbench,
    socket: String,
    _daemon: Process,
}

impl<'a> Containerd<'a> {
    async fn start(bench: &'a Workbench) -> Self {
        let [config, root, state, socket] =
            ["containerd.toml", "root", "state", "containerd.sock"].map(|name| bench.path(name));
        // Its CRI plugin wants a network for pods, which no test here has.
        let text = "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n";
        fs::write(&config, text).expect("write containerd's configuration");
        let arguments = ["--config", &config, "--root", &root, "--state", &state, "--address", &socket];
        let daemon = bench.start("containerd", &arguments);
        daemon.until("it serves", |said| said.contains("successfully booted").then_some(())).await;
        Self { bench, socket, _daemon: daemon }
    }

    async fn ctr(&self, arguments: &[&str]) -> Answer {
        self.bench.run("ctr", &[&["--address", &self.socket], arguments].concat()).await
    }

    /// Loads all images of a layout under a name without its tag.
    async fn load(&self, layout: &Layout, name: &str) {
        let archive = self.bench.path("load.tar");
        let mut tar = tar::Builder::new(fs::File::create(&archive).expect("create the archive"));
        tar.append_dir_all(".", layout.folder()).expect("write the archive");
        tar.finish().expect("finish the archive");
        self.ctr(&["images", "import", "--all-platforms", "--no-unpack", "--base-name", name, &archive])
            .await;
    }

    /// Removes an image and all that only it held.
    async fn forget(&self, image: &str) {
        self.ctr(&["images", "remove", "--sync", image]).await;
        assert_eq!(self.ctr(&["content", "list", "--quiet"]).await.text(), "");
    }

    /// Compares everything a layout holds with what containerd holds.
    async fn assert_holds(&self, layout: &Layout) {
        for (digest, bytes) in layout.contents() {
            assert!(self.ctr(&["content", "get", &digest]).await.stdout == bytes, "the bytes of {digest}");
        }
    }
}

fn image(layout: &Layout, architecture: &str, seed: u64) -> Value {
    layout.image(
        architecture,
        &[
            Layer::shell(Compression::Gzip),
            Layer::file("gzip", &content::bytes(seed, 2_000_000), Compression::Gzip),
            Layer::file("plain", &content::bytes(seed + 1, 200_000), Compression::None),
            Layer::file("zstd", &content::bytes(seed + 2, 200_000), Compression::Zstd),
        ],
    )
}

#[tokio::test]
async fn containerd_pushes_an_image_and_runs_what_it_pulls_back() {
    let bench = workbench!("root", "containerd", "ctr", "runc", "busybox");
    let server = Server::start().await;
    let containerd = Containerd::start(&bench).await;
    let mut layout = Layout::create(bench.path("layout"));
    let descriptor = image(&layout, "amd64", 60);
    layout.tag("1", &descriptor);
    let name = format!("{}/team/app", server.host());
    let reference = format!("{name}:1");
    containerd.load(&layout, &name).await;

    containerd.ctr(&["images", "push", "--plain-http", &reference]).await;

    let held = server.repository("team/app").pull("1").await;
    assert_eq!((&held.digest, &held.contents), (&layout.root(), &layout.contents()));

    containerd.forget(&reference).await;
    containerd.ctr(&["images", "pull", "--plain-http", &reference]).await;
    containerd.assert_holds(&layout).await;
    let container = format!("berth-{}", server.pid());
    let said =
        containerd.ctr(&["run", "--rm", &reference, &container, "/bin/busybox", "echo", "hello"]).await;
    assert_eq!(said.text(), "hello");
}

#[tokio::test]
async fn containerd_fetches_an_index_with_all_its_images() {
    let bench = workbench!("root", "containerd", "ctr", "busybox");
    let server = Server::start().await;
    let containerd = Containerd::start(&bench).await;
    let mut layout = Layout::create(bench.path("layout"));
    let images = ["amd64", "arm64"].map(|architecture| (architecture, image(&layout, architecture, 70)));
    let index = layout.index(&images);
    layout.tag("1", &index);
    let [first, second] = ["first", "second"].map(|name| format!("{}/team/{name}", server.host()));
    let [first_tag, second_tag] = [&first, &second].map(|name| format!("{name}:1"));
    containerd.load(&layout, &first).await;
    containerd.ctr(&["images", "push", "--plain-http", &first_tag]).await;
    // It knows from its labels where the layers came from, and mounts them.
    containerd.ctr(&["images", "tag", &first_tag, &second_tag]).await;
    containerd.ctr(&["images", "push", "--plain-http", &second_tag]).await;
    containerd.ctr(&["images", "remove", &first_tag]).await;
    containerd.forget(&second_tag).await;

    containerd.ctr(&["content", "fetch", "--plain-http", "--all-platforms", &second_tag]).await;

    containerd.assert_holds(&layout).await;
    for name in ["team/first", "team/second"] {
        assert_eq!(server.repository(name).pull("1").await.contents, layout.contents());
    }
}
