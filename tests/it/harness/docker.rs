//! A Docker daemon of the test's own: its socket, its data, no network.

use std::{fs, path::Path};

use super::{
    layout::Layout,
    process::{Answer, Process},
    tools::Workbench,
};

/// A running dockerd.
pub struct Docker<'a> {
    bench: &'a Workbench,
    socket: String,
    // Stopped by SIGTERM when dropped, which takes down its containers and mounts.
    _daemon: Process,
}

impl<'a> Docker<'a> {
    /// Starts dockerd in the workbench's folder and waits until it serves.
    pub async fn start(bench: &'a Workbench) -> Self {
        let socket = format!("unix://{}", bench.path("docker.sock"));
        // Not the machine's /etc/docker/daemon.json.
        let config = bench.path("daemon.json");
        fs::write(&config, "{}").expect("write dockerd's configuration");
        let daemon = bench.start(
            "dockerd",
            &[
                "--config-file",
                &config,
                "--data-root",
                &bench.path("docker"),
                "--exec-root",
                &bench.path("exec"),
                "--pidfile",
                &bench.path("docker.pid"),
                "--host",
                &socket,
                "--bridge=none",
                "--iptables=false",
            ],
        );
        daemon.until("it serves", |said| said.contains("API listen on").then_some(())).await;
        Self { bench, socket, _daemon: daemon }
    }

    /// Runs the docker client.
    pub async fn run(&self, arguments: &[&str]) -> Answer {
        self.bench.run("docker", &[&["--host", &self.socket], arguments].concat()).await
    }

    /// Runs the docker client, which must fail; returns what it says.
    pub async fn run_and_fail(&self, arguments: &[&str]) -> String {
        self.bench.run_and_fail("docker", &[&["--host", &self.socket], arguments].concat()).await
    }

    /// The id of an image, which is the digest of its config.
    pub async fn id(&self, image: &str) -> String {
        self.run(&["image", "inspect", "--format", "{{.Id}}", image]).await.text()
    }

    /// Runs a container of an image; returns what it prints.
    pub async fn container(&self, image: &str, command: &[&str]) -> String {
        self.run(&[&["run", "--rm", "--network", "none", image], command].concat()).await.text()
    }

    /// Loads an image of a layout whose layers are not compressed, under a name.
    pub async fn load(&self, layout: &Layout, image: &str) {
        let archive = self.bench.path("load.tar");
        write_archive(layout, image, Path::new(&archive));
        self.run(&["load", "--input", &archive]).await;
        fs::remove_file(archive).expect("remove the archive");
    }
}

/// Writes an image as `docker save` would.
fn write_archive(layout: &Layout, image: &str, path: &Path) {
    let manifest: serde_json::Value =
        serde_json::from_slice(&layout.read(&layout.root())).expect("a manifest is JSON");
    let mut archive = tar::Builder::new(fs::File::create(path).expect("create the archive"));
    let mut add = |descriptor: &serde_json::Value| {
        let digest = descriptor["digest"].as_str().expect("a descriptor has a digest");
        let bytes = layout.read(digest);
        let name = format!("{}.blob", digest.replace(':', "-"));
        append(&mut archive, &name, &bytes);
        name
    };
    let config = add(&manifest["config"]);
    let layers: Vec<_> =
        manifest["layers"].as_array().expect("an image has layers").iter().map(add).collect();
    let list = serde_json::json!([{"Config": config, "RepoTags": [image], "Layers": layers}]).to_string();
    append(&mut archive, "manifest.json", list.as_bytes());
    archive.finish().expect("finish the archive");
}

fn append(archive: &mut tar::Builder<fs::File>, name: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, bytes).expect("write the archive");
}
