//! The cache manifests that `BuildKit` writes, made by hand, because its daemon needs more rights
//! than a test machine gives: an index whose entries are blobs without a platform.

use serde_json::{Value, json};

use crate::harness::{
    Repository, Server,
    content::{self, sha256},
    layout::{INDEX, MANIFEST},
    tools::workbench,
};

const CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Pushes the blobs of a cache; returns the descriptors of its layers and of its config.
async fn push_blobs(repository: &Repository, layer_type: &str) -> (Vec<Value>, Value) {
    let mut layers = Vec::new();
    for seed in 180..183 {
        let bytes = content::bytes(seed, 50_000);
        let digest = repository.push_blob(&bytes).await;
        layers.push(json!({
            "mediaType": layer_type,
            "digest": digest,
            "size": bytes.len(),
            "annotations": {
                "buildkit/createdat": "2026-01-02T03:04:05.678901234Z",
                "containerd.io/uncompressed": sha256(&seed.to_le_bytes()),
            },
        }));
    }
    let links: Vec<_> = layers.iter().map(|layer| json!({"blob": layer["digest"], "parent": -1})).collect();
    let config =
        json!({"layers": links, "records": [{"digest": sha256(b"a step"), "results": []}]}).to_string();
    let digest = repository.push_blob(config.as_bytes()).await;
    (layers, json!({"mediaType": CACHE_CONFIG, "digest": digest, "size": config.len()}))
}

/// Puts a cache manifest and reads it back, with all it names, by tag and by digest.
async fn assert_round_trip(repository: &Repository, media_type: &str, manifest: &Value, entries: usize) {
    // As Go writes it, whose order and spaces are not ours: the bytes must come back as they are.
    let bytes = serde_json::to_vec_pretty(manifest).expect("JSON can be written");

    let digest = repository.push_manifest("cache", media_type, &bytes).await;

    for reference in ["cache", &digest] {
        let held = repository.pull(reference).await;
        assert_eq!((held.digest.as_str(), held.media_type.as_str()), (digest.as_str(), media_type));
        assert_eq!(held.contents[&digest], bytes);
        assert_eq!(held.contents.len(), 1 + entries);
    }
    assert_eq!(repository.digest("cache").await, digest);
}

#[tokio::test]
async fn a_cache_index_whose_entries_are_blobs_is_kept() {
    let server = Server::start().await;
    let repository = server.repository("team/app/cache");
    let (mut entries, config) = push_blobs(&repository, "application/vnd.oci.image.layer.v1.tar+gzip").await;
    entries.push(config);
    let manifest = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});

    assert_round_trip(&repository, INDEX, &manifest, 4).await;
}

#[tokio::test]
async fn a_cache_list_in_the_docker_format_is_kept() {
    let server = Server::start().await;
    let repository = server.repository("team/app/cache");
    let (mut entries, config) =
        push_blobs(&repository, "application/vnd.docker.image.rootfs.diff.tar.gzip").await;
    entries.push(config);
    let manifest = json!({"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": entries});

    assert_round_trip(&repository, DOCKER_LIST, &manifest, 4).await;
}

#[tokio::test]
async fn a_cache_in_the_form_of_an_image_is_kept() {
    let server = Server::start().await;
    let repository = server.repository("team/app/cache");
    let (layers, config) = push_blobs(&repository, "application/vnd.oci.image.layer.v1.tar+zstd").await;
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});

    assert_round_trip(&repository, MANIFEST, &manifest, 4).await;
}

#[tokio::test]
async fn clients_copy_a_cache_index_to_another_repository() {
    let bench = workbench!("oras", "crane", "regctl");
    let server = Server::start().await;
    let repository = server.repository("team/app/cache");
    let (mut entries, config) = push_blobs(&repository, "application/vnd.oci.image.layer.v1.tar+gzip").await;
    entries.push(config);
    let manifest = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    repository.push_manifest("1", INDEX, manifest.to_string().as_bytes()).await;
    let [source, by_oras, by_crane, by_regctl] =
        ["app/cache", "oras", "crane", "regctl"].map(|name| format!("{}/team/{name}:1", server.host()));

    bench.run("oras", &["copy", "--from-plain-http", "--to-plain-http", &source, &by_oras]).await;
    bench.run("crane", &["--insecure", "copy", &source, &by_crane]).await;
    let host = format!("reg={},tls=disabled", server.host());
    bench.run("regctl", &["image", "copy", "--host", &host, &source, &by_regctl]).await;

    let cache = repository.pull("1").await;
    for name in ["team/oras", "team/crane", "team/regctl"] {
        assert_eq!(server.repository(name).pull("1").await.contents, cache.contents, "{name}");
    }
}
