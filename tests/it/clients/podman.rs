//! podman, with its storage in the test's folder.

use crate::{
    clients::gunzip,
    harness::{
        Server,
        layout::{Compression, Layer},
        process::Answer,
        tools::{Workbench, workbench},
    },
};

async fn podman(bench: &Workbench, arguments: &[&str]) -> Answer {
    let [root, run_root, state] = ["root", "run", "state"].map(|name| bench.path(name));
    let mut all = vec!["--root", &root, "--runroot", &run_root, "--tmpdir", &state];
    all.extend(["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none"]);
    all.extend(arguments);
    bench.run("podman", &all).await
}

#[tokio::test]
async fn podman_pushes_an_image_and_runs_what_it_pulls_back() {
    let bench = workbench!("root", "podman", "runc", "busybox");
    let server = Server::start().await;
    let image = format!("{}/team/app:1", server.host());
    let tar = Layer::shell(Compression::None).tar;
    let file = bench.path("rootfs.tar");
    std::fs::write(&file, &tar).expect("write the layer");
    let id = podman(&bench, &["import", "--quiet", &file, &image]).await.text();
    let id = id.trim_start_matches("sha256:").to_owned();
    let digest_file = bench.path("digest");

    podman(&bench, &["push", "--tls-verify=false", "--digestfile", &digest_file, &image]).await;

    let held = server.repository("team/app").pull("1").await;
    assert_eq!(held.digest, std::fs::read_to_string(digest_file).expect("podman writes the digest"));
    assert_eq!(held.manifest()["config"]["digest"], format!("sha256:{id}"));
    let layer = held.manifest()["layers"][0]["digest"].as_str().expect("a digest is text").to_owned();
    assert!(gunzip(&held.contents[&layer]) == tar, "the layer is the tar file that was imported");

    podman(&bench, &["rmi", "--force", &image]).await;
    let pulled = podman(&bench, &["pull", "--quiet", "--tls-verify=false", &image]).await.text();
    assert_eq!(pulled, id);
    // Some sandboxes do not let even root raise limits, which podman does by default.
    let limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"];
    let arguments =
        [&["run", "--rm", "--network=none"], &limits[..], &[&image, "/bin/busybox", "echo", "hello"]];
    assert_eq!(podman(&bench, &arguments.concat()).await.text(), "hello");
}

#[tokio::test]
async fn podman_finds_repositories_by_a_part_of_their_name() {
    let bench = workbench!("root", "podman");
    let server = Server::start().await;
    for name in ["team/apple", "team/pear", "other/apple-pie"] {
        let repository = server.repository(name);
        let config = repository.push_blob(b"{}").await;
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
            "layers": [],
        });
        let media_type = manifest["mediaType"].as_str().expect("it says what it is");
        repository.push_manifest("1", media_type, manifest.to_string().as_bytes()).await;
    }

    let term = format!("{}/apple", server.host());
    let found = podman(&bench, &["search", "--tls-verify=false", "--format={{.Name}}", &term]).await.text();

    let mut found: Vec<_> = found.lines().collect();
    found.sort_unstable();
    let expected = ["other/apple-pie", "team/apple"].map(|name| format!("{}/{name}", server.host()));
    assert_eq!(found, expected);
}
