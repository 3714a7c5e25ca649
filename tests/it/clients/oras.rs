//! ORAS, for artifacts of any type and what refers to them.

use std::{collections::BTreeSet, fs};

use reqwest::StatusCode;
use serde_json::Value;

use crate::harness::{
    Server, content,
    content::sha256,
    process::Answer,
    tools::{Workbench, workbench},
};

const ARTIFACT: &str = "application/vnd.example.thing";
const SBOM: &str = "application/vnd.example.sbom";
const SIGNATURE: &str = "application/vnd.example.signature";

async fn oras(bench: &Workbench, arguments: &[&str]) -> Answer {
    bench.run("oras", arguments).await
}

/// Pushes an artifact of two files; returns the digest of its manifest.
async fn push(bench: &Workbench, reference: &str) -> String {
    fs::write(bench.path("large.bin"), content::bytes(100, 9_000_000)).expect("write a file");
    fs::write(bench.path("small.txt"), "small\n").expect("write a file");
    let files = ["large.bin:application/octet-stream", "small.txt:text/plain"];
    let push = ["push", "--plain-http", "--format=json", "--artifact-type", ARTIFACT, "--annotation", "a=b"];
    let answer = oras(bench, &[&push[..], &[reference], &files].concat()).await;
    answer.json()["digest"].as_str().expect("oras says the digest").to_owned()
}

/// Attaches a file to an artifact; returns the digest of the manifest that refers to it.
async fn attach(bench: &Workbench, artifact_type: &str, reference: &str, text: &str) -> String {
    fs::write(bench.path("attached"), text).expect("write a file");
    let attach =
        ["attach", "--plain-http", "--format=json", "--artifact-type", artifact_type, reference, "attached"];
    oras(bench, &attach).await.json()["digest"].as_str().expect("oras says the digest").to_owned()
}

/// The digests of what refers to an artifact, as ORAS finds them.
async fn discover(bench: &Workbench, options: &[&str], reference: &str) -> BTreeSet<String> {
    let discover =
        [&["discover", "--plain-http", "--format=json", "--depth=1"], options, &[reference]].concat();
    let found = oras(bench, &discover).await.json();
    digests(&found["referrers"])
}

fn digests(list: &Value) -> BTreeSet<String> {
    let list = list.as_array().unwrap_or_else(|| panic!("a list of referrers, not {list}"));
    list.iter()
        .map(|descriptor| descriptor["digest"].as_str().expect("a digest is text").to_owned())
        .collect()
}

#[tokio::test]
async fn oras_pushes_files_and_pulls_them_back() {
    let bench = workbench!("oras");
    let server = Server::start().await;
    let reference = format!("{}/team/thing:1", server.host());

    let digest = push(&bench, &reference).await;

    let held = server.repository("team/thing").pull("1").await;
    assert_eq!(held.digest, digest);
    assert_eq!(held.manifest()["artifactType"], ARTIFACT);
    let pulled = bench.path("pulled");
    oras(&bench, &["pull", "--plain-http", "--output", &pulled, &reference]).await;
    for file in ["large.bin", "small.txt"] {
        let bytes = fs::read(bench.path(file)).expect("read a file");
        assert!(held.contents[&sha256(&bytes)] == bytes, "{file} is a layer");
        assert!(fs::read(format!("{pulled}/{file}")).expect("read a file") == bytes, "{file} came back");
    }
    let manifest = oras(&bench, &["manifest", "fetch", "--plain-http", &reference]).await.stdout;
    assert_eq!(manifest, held.contents[&digest]);
}

#[tokio::test]
async fn oras_attaches_and_discovers_and_copies_what_refers_to_an_artifact() {
    let bench = workbench!("oras");
    let server = Server::start().await;
    let [first, second] = ["first", "second"].map(|name| format!("{}/team/{name}:1", server.host()));
    let subject = push(&bench, &first).await;

    let sbom = attach(&bench, SBOM, &first, "an sbom").await;
    let signature = attach(&bench, SIGNATURE, &first, "a signature").await;

    let both = BTreeSet::from([sbom.clone(), signature]);
    assert_eq!(discover(&bench, &[], &first).await, both);
    assert_eq!(discover(&bench, &["--artifact-type", SBOM], &first).await, BTreeSet::from([sbom]));
    oras(&bench, &["copy", "--recursive", "--from-plain-http", "--to-plain-http", &first, &second]).await;
    assert_eq!(discover(&bench, &[], &second).await, both);
    for name in ["team/first", "team/second"] {
        let repository = server.repository(name);
        let answer = repository.get(&format!("referrers/{subject}")).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let index: Value =
            serde_json::from_slice(&answer.bytes().await.expect("read an index")).expect("JSON");
        assert_eq!(digests(&index["manifests"]), both);
        for digest in &both {
            assert_eq!(repository.pull(digest).await.manifest()["subject"]["digest"], subject);
        }
        // A registry that answers OCI-Subject is spared the fallback tags.
        let tags =
            oras(&bench, &["repo", "tags", "--plain-http", &format!("{}/{name}", server.host())]).await;
        assert_eq!(tags.text(), "1");
    }
}

#[tokio::test]
async fn oras_lists_repositories_and_deletes_blobs_and_manifests() {
    let bench = workbench!("oras");
    let server = Server::start().await;
    let repository = format!("{}/team/thing", server.host());
    let digest = push(&bench, &format!("{repository}:1,2")).await;
    let list = ["repo", "ls", "--plain-http", server.host()];
    assert_eq!(oras(&bench, &list).await.text(), "team/thing");
    let bytes = content::bytes(101, 100_000);
    let file = bench.path("blob");
    fs::write(&file, &bytes).expect("write a file");
    let blob = format!("{repository}@{}", sha256(&bytes));
    oras(&bench, &["blob", "push", "--plain-http", &blob, &file]).await;
    let fetched = bench.path("fetched");
    oras(&bench, &["blob", "fetch", "--plain-http", "--output", &fetched, &blob]).await;
    assert!(fs::read(&fetched).expect("read a file") == bytes, "the blob came back");

    oras(&bench, &["blob", "delete", "--plain-http", "--force", &blob]).await;
    oras(&bench, &["manifest", "delete", "--plain-http", "--force", &format!("{repository}@{digest}")]).await;

    let repository = server.repository("team/thing");
    for path in [format!("blobs/{}", sha256(&bytes)), format!("manifests/{digest}"), "manifests/2".to_owned()]
    {
        assert_eq!(repository.get(&path).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
}
