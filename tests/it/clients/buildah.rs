//! buildah, with its storage in the test's folder.

use std::{fs, io::Read};

use crate::{
    clients::gunzip,
    harness::{
        Server, content,
        process::Answer,
        tools::{Workbench, workbench},
    },
};

async fn buildah(bench: &Workbench, arguments: &[&str]) -> Answer {
    let [root, run_root] = ["root", "run"].map(|name| bench.path(name));
    let mut all = vec!["--root", &root, "--runroot", &run_root, "--storage-driver=vfs"];
    all.extend(arguments);
    bench.run("buildah", &all).await
}

#[tokio::test]
async fn buildah_pushes_what_it_built_and_pulls_it_back() {
    let bench = workbench!("root", "buildah");
    let server = Server::start().await;
    let image = format!("{}/team/built:1", server.host());
    let data = content::bytes(1, 3_000_000);
    fs::write(bench.path("data"), &data).expect("write a file");
    let container = buildah(&bench, &["from", "scratch"]).await.text();
    buildah(&bench, &["copy", &container, &bench.path("data"), "/srv/data"]).await;
    let id = buildah(&bench, &["commit", "--quiet", "--rm", &container, &image]).await.text();
    let digest_file = bench.path("digest");

    buildah(&bench, &["push", "--tls-verify=false", "--digestfile", &digest_file, &image]).await;

    let held = server.repository("team/built").pull("1").await;
    assert_eq!(held.digest, fs::read_to_string(digest_file).expect("buildah writes the digest"));
    let layer = held.manifest()["layers"][0]["digest"].as_str().expect("a digest is text").to_owned();
    let tar = gunzip(&held.contents[&layer]);
    assert!(file_in(&tar, "srv/data") == data, "the layer holds the file that was copied in");

    buildah(&bench, &["rmi", "--force", &image]).await;
    let pulled = buildah(&bench, &["pull", "--quiet", "--tls-verify=false", &image]).await.text();
    assert_eq!(pulled, id);
    let container = buildah(&bench, &["from", "--pull-never", &image]).await.text();
    let folder = buildah(&bench, &["mount", &container]).await.text();
    assert!(fs::read(format!("{folder}/srv/data")).expect("read the file") == data, "the file came back");
    buildah(&bench, &["rm", &container]).await;
}

#[tokio::test]
async fn buildah_pushes_a_manifest_list_with_all_its_images() {
    let bench = workbench!("root", "buildah");
    let server = Server::start().await;
    let list = format!("{}/team/list:1", server.host());
    buildah(&bench, &["manifest", "create", &list]).await;
    for architecture in ["amd64", "arm64"] {
        fs::write(bench.path(architecture), architecture).expect("write a file");
        let container = buildah(&bench, &["from", "scratch"]).await.text();
        buildah(&bench, &["copy", &container, &bench.path(architecture), "/architecture"]).await;
        buildah(&bench, &["config", "--arch", architecture, &container]).await;
        buildah(&bench, &["commit", "--quiet", "--rm", "--manifest", &list, &container]).await;
    }

    let destination = format!("docker://{list}");
    buildah(&bench, &["manifest", "push", "--all", "--tls-verify=false", &list, &destination]).await;

    let held = server.repository("team/list").pull("1").await;
    let manifest = held.manifest();
    let images = manifest["manifests"].as_array().expect("a list has manifests");
    let mut architectures: Vec<_> =
        images.iter().filter_map(|image| image["platform"]["architecture"].as_str()).collect();
    architectures.sort_unstable();
    assert_eq!(architectures, ["amd64", "arm64"]);
    // The list, and for each image its manifest, its config and its layer.
    assert_eq!(held.contents.len(), 7);
}

fn file_in(tar: &[u8], path: &str) -> Vec<u8> {
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries().expect("a layer is a tar file") {
        let mut entry = entry.expect("a layer is a tar file");
        if entry.path().expect("an entry has a path").as_os_str() == path {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("read an entry");
            return bytes;
        }
    }
    panic!("{path} is not in the layer");
}
