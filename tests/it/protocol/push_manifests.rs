//! Pushing and deleting manifests: names, tags, and content that must be there.

use serde_json::{Value, json};

use crate::{
    harness::{
        content::{bytes, sha256, sha512},
        layout::{CONFIG, INDEX, LAYER, MANIFEST},
    },
    protocol::wire::{Answer, Berth, descriptor, on_each_database, on_each_database_with},
};

/// A rule that lets manifests name content which is not there.
const SPARSE: &str = "[[repositories]]\nmatch = 'mirror/**'\nallow_sparse = true";

async fn put(berth: &Berth, path: &str, media_type: &str, body: &[u8]) -> Answer {
    berth.send("PUT", path, &[("content-type", media_type)], body.to_vec()).await
}

/// An index of these manifests.
fn index(entries: &[Value]) -> Vec<u8> {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string().into_bytes()
}

#[tokio::test]
async fn a_manifest_is_put_by_tag_or_by_digest() {
    on_each_database(async |berth| {
        let image = berth.push_image("team/app", "first", 1).await;
        for (reference, digest) in [
            ("v1", image.digest.clone()),
            (image.digest.as_str(), image.digest.clone()),
            (sha512(&image.manifest).as_str(), sha512(&image.manifest)),
        ] {
            let path = format!("/v2/team/app/manifests/{reference}");

            let answer = put(berth, &path, MANIFEST, &image.manifest).await;

            assert_eq!(answer.is(201).header("docker-content-digest"), digest);
            assert_eq!(answer.header("location"), format!("/v2/team/app/manifests/{digest}"));
            assert!(!answer.headers.contains_key("oci-tag") && !answer.headers.contains_key("oci-subject"));
            let got = berth.ask("GET", answer.header("location")).await;
            assert_eq!(got.is(200).body, image.manifest);
            assert_eq!(got.header("content-type"), MANIFEST);
        }
    })
    .await;
}

#[tokio::test]
async fn a_manifest_under_a_digest_that_is_not_its_own_is_refused() {
    on_each_database(async |berth| {
        let image = berth.push_image("team/app", "v1", 2).await;
        for digest in [sha256(b"other"), sha512(b"other"), "sha256:baddigeststring".to_owned()] {
            let path = format!("/v2/team/app/manifests/{digest}?tag=v2");

            put(berth, &path, MANIFEST, &image.manifest).await.is_refused(400, "DIGEST_INVALID");

            berth.ask("GET", "/v2/team/app/manifests/v2").await.is_refused(404, "MANIFEST_UNKNOWN");
        }
    })
    .await;
}

#[tokio::test]
async fn a_manifest_put_by_digest_takes_tags_and_says_which() {
    on_each_database(async |berth| {
        let image = berth.push_image("team/app", "v1", 3).await;
        let tags: Vec<_> = (0..100).map(|number| format!("tag-{number}")).collect();
        let query: Vec<_> = tags.iter().map(|tag| format!("tag={tag}")).collect();
        let path = format!("/v2/team/app/manifests/{}?{}", image.digest, query.join("&"));

        let answer = put(berth, &path, MANIFEST, &image.manifest).await;

        let listed = answer.is(201).header("oci-tag");
        assert_eq!(listed.split(", ").collect::<Vec<_>>(), tags);
        for tag in ["tag-0", "tag-99"] {
            assert_eq!(berth.repository("team/app").digest(tag).await, image.digest);
        }
    })
    .await;
}

#[tokio::test]
async fn too_many_or_bad_tags_are_refused_and_none_is_set() {
    on_each_database(async |berth| {
        let image = berth.push_image("team/app", "v1", 4).await;
        let by_digest = format!("/v2/team/app/manifests/{}", image.digest);
        let many: Vec<_> = (0..101).map(|number| format!("tag=tag-{number}")).collect();
        for (path, status, code) in [
            (format!("{by_digest}?{}", many.join("&")), 414, "TAG_INVALID"),
            (format!("{by_digest}?tag=tag-0&tag=-bad"), 400, "TAG_INVALID"),
            (format!("{by_digest}?tag=tag-0&tag="), 400, "TAG_INVALID"),
            ("/v2/team/app/manifests/v2?tag=tag-0".to_owned(), 400, "MANIFEST_INVALID"),
        ] {
            put(berth, &path, MANIFEST, &image.manifest).await.is_refused(status, code);

            let listed = berth.ask("GET", "/v2/team/app/tags/list").await;
            assert_eq!(listed.json()["tags"], json!(["v1"]), "{path}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_manifest_names_each_content_that_is_missing() {
    on_each_database(async |berth| {
        let known = berth.repository("team/app").push_blob(b"{}").await;
        // In the registry, but not in the repository.
        let elsewhere = berth.repository("team/other").push_blob(b"elsewhere").await;
        let unknown = sha256(b"unknown");
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &known, 2),
            "layers": [descriptor(LAYER, &elsewhere, 9), descriptor(LAYER, &unknown, 7)],
        });

        let answer = put(berth, "/v2/team/app/manifests/v1", MANIFEST, manifest.to_string().as_bytes()).await;

        answer.is_refused(404, "MANIFEST_BLOB_UNKNOWN");
        let errors = answer.json();
        let named: Vec<_> =
            errors["errors"].as_array().expect("a list").iter().map(|e| &e["detail"]["digest"]).collect();
        assert_eq!(named, [&json!(elsewhere), &json!(unknown)]);
        berth.ask("GET", "/v2/team/app/manifests/v1").await.is_refused(404, "MANIFEST_UNKNOWN");
    })
    .await;
}

#[tokio::test]
async fn an_index_names_the_platform_of_each_image_that_is_missing() {
    on_each_database(async |berth| {
        let image = berth.push_image("team/app", "amd64", 5).await;
        let missing = sha256(b"never pushed");
        let mut arm = descriptor(MANIFEST, &missing, 500);
        arm["platform"] = json!({"os": "linux", "architecture": "arm64", "variant": "v8"});
        let index = index(&[descriptor(MANIFEST, &image.digest, image.manifest.len()), arm]);

        let answer = put(berth, "/v2/team/app/manifests/v1", INDEX, &index).await;

        answer.is_refused(404, "MANIFEST_BLOB_UNKNOWN");
        let errors = &answer.json()["errors"];
        assert_eq!(errors.as_array().map(Vec::len), Some(1));
        assert_eq!(errors[0]["detail"]["digest"], missing);
        assert_eq!(errors[0]["detail"]["platform"], "linux/arm64/v8");
        let message = errors[0]["message"].as_str().expect("a text");
        assert!(message.contains(&missing) && message.contains("linux/arm64/v8"), "{message}");
    })
    .await;
}

#[tokio::test]
async fn a_foreign_layer_and_a_subject_need_not_be_there_and_a_blob_may_stand_in_an_index() {
    on_each_database(async |berth| {
        let config = berth.repository("team/app").push_blob(b"{}").await;
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config, 2),
            "layers": [descriptor(foreign, &sha256(b"at Microsoft's"), 14)],
            "subject": descriptor(MANIFEST, &sha256(b"to come"), 7),
        });
        let answer = put(berth, "/v2/team/app/manifests/v1", MANIFEST, manifest.to_string().as_bytes()).await;
        assert_eq!(answer.is(201).header("oci-subject"), sha256(b"to come"));

        let cache = index(&[descriptor(LAYER, &config, 2)]);
        put(berth, "/v2/team/app/manifests/cache", INDEX, &cache).await.is(201);
        let blob = format!("/v2/team/app/blobs/{config}");
        berth.ask("DELETE", &blob).await.is_refused(403, "DENIED");
    })
    .await;
}

#[tokio::test]
async fn a_sparse_manifest_is_taken_by_rule_and_protects_what_arrives_later() {
    on_each_database_with(SPARSE, async |berth| {
        let (config, layer) = (b"{\"later\":true}".to_vec(), bytes(6, 5000));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &sha256(&config), config.len()),
            "layers": [descriptor(LAYER, &sha256(&layer), layer.len())],
        });
        let manifest = manifest.to_string().into_bytes();
        let index = index(&[descriptor(MANIFEST, &sha256(&manifest), manifest.len())]);
        put(berth, "/v2/mirror/app/manifests/v1", INDEX, &index).await.is(201);
        put(berth, "/v2/mirror/app/manifests/child", MANIFEST, &manifest).await.is(201);
        // The rule is of these repositories alone.
        put(berth, "/v2/team/app/manifests/v1", INDEX, &index).await.is_refused(404, "MANIFEST_BLOB_UNKNOWN");

        // One comes as an upload, the other by mount.
        berth.repository("mirror/app").push_blob(&config).await;
        let mounted = berth.repository("team/base").push_blob(&layer).await;
        berth.ask("POST", &format!("/v2/mirror/app/blobs/uploads/?mount={mounted}")).await.is(201);

        for blob in [sha256(&config), sha256(&layer)] {
            let refused = berth.ask("DELETE", &format!("/v2/mirror/app/blobs/{blob}")).await;
            let text = refused.is_refused(403, "DENIED").text();
            assert!(text.contains(&sha256(&manifest)), "{text}");
        }
        let child = berth.ask("DELETE", &format!("/v2/mirror/app/manifests/{}", sha256(&manifest))).await;
        let text = child.is_refused(403, "DENIED").text();
        assert!(text.contains(&sha256(&index)), "{text}");
        let pulled = berth.repository("mirror/app").pull("v1").await;
        assert_eq!(pulled.contents.len(), 4);
    })
    .await;
}

#[tokio::test]
async fn a_blob_that_many_manifests_wait_for_is_protected_by_each() {
    on_each_database_with(SPARSE, async |berth| {
        let (config, layer) = (b"{}".to_vec(), bytes(7, 5000));
        let manifests: Vec<Vec<u8>> = (0..600)
            .map(|number| {
                let manifest = json!({
                    "schemaVersion": 2,
                    "mediaType": MANIFEST,
                    "config": descriptor(CONFIG, &sha256(&config), config.len()),
                    "layers": [descriptor(LAYER, &sha256(&layer), layer.len())],
                    "annotations": {"number": number.to_string()},
                });
                manifest.to_string().into_bytes()
            })
            .collect();
        let path = |manifest: &[u8]| format!("/v2/mirror/app/manifests/{}", sha256(manifest));
        for manifest in &manifests {
            put(berth, &path(manifest), MANIFEST, manifest).await.is(201);
        }

        berth.repository("mirror/app").push_blob(&layer).await;

        // More than are tied to it in one go; the last of them alone is left.
        let (last, others) = manifests.split_last().unwrap();
        for manifest in others {
            berth.ask("DELETE", &path(manifest)).await.is(202);
        }
        let blob = format!("/v2/mirror/app/blobs/{}", sha256(&layer));
        let refused = berth.ask("DELETE", &blob).await;
        let text = refused.is_refused(403, "DENIED").text();
        assert!(text.contains(&sha256(last)), "{text}");
        berth.ask("DELETE", &path(last)).await.is(202);
        berth.ask("DELETE", &blob).await.is(202);
    })
    .await;
}

#[tokio::test]
async fn deleting_a_tag_removes_the_tag_alone() {
    on_each_database(async |berth| {
        let image = berth.push_image("team/app", "v1", 7).await;
        berth.repository("team/app").push_manifest("v2", MANIFEST, &image.manifest).await;

        berth.ask("DELETE", "/v2/team/app/manifests/v1").await.is(202);

        berth.ask("GET", "/v2/team/app/manifests/v1").await.is_refused(404, "MANIFEST_UNKNOWN");
        berth.ask("DELETE", "/v2/team/app/manifests/v1").await.is_refused(404, "MANIFEST_UNKNOWN");
        assert_eq!(berth.repository("team/app").digest("v2").await, image.digest);
        berth.ask("DELETE", "/v2/team/app/manifests/v2").await.is(202);
        let by_digest = format!("/v2/team/app/manifests/{}", image.digest);
        assert_eq!(berth.ask("GET", &by_digest).await.is(200).body, image.manifest);
    })
    .await;
}

#[tokio::test]
async fn deleting_a_manifest_removes_its_tags_at_once_and_lets_its_blobs_go() {
    on_each_database(async |berth| {
        let image = berth.push_image("team/app", "v1", 8).await;
        let other = berth.push_image("team/app", "v2", 9).await;
        let path = format!("/v2/team/app/manifests/{}", image.digest);

        berth.ask("DELETE", &path).await.is(202);

        berth.ask("HEAD", &path).await.is(404);
        berth.ask("GET", &path).await.is_refused(404, "MANIFEST_UNKNOWN");
        berth.ask("DELETE", &path).await.is_refused(404, "MANIFEST_UNKNOWN");
        berth.ask("GET", "/v2/team/app/manifests/v1").await.is_refused(404, "MANIFEST_UNKNOWN");
        let tags = berth.ask("GET", "/v2/team/app/tags/list").await;
        assert_eq!(tags.json(), json!({"name": "team/app", "tags": ["v2"]}));
        berth.ask("DELETE", &format!("/v2/team/app/blobs/{}", image.layer)).await.is(202);
        let needed = berth.ask("DELETE", &format!("/v2/team/app/blobs/{}", other.layer)).await;
        needed.is_refused(403, "DENIED");
    })
    .await;
}

#[tokio::test]
async fn what_something_needs_cannot_be_deleted_and_the_answer_names_it() {
    on_each_database(async |berth| {
        let image = berth.push_image("team/app", "amd64", 10).await;
        let entry = descriptor(MANIFEST, &image.digest, image.manifest.len());
        let parent = index(&[entry]);
        put(berth, "/v2/team/app/manifests/v1", INDEX, &parent).await.is(201);
        for (path, parent) in [
            (format!("manifests/{}", image.digest), sha256(&parent)),
            (format!("blobs/{}", image.layer), image.digest.clone()),
            (format!("blobs/{}", image.config), image.digest.clone()),
        ] {
            let path = format!("/v2/team/app/{path}");

            let refused = berth.ask("DELETE", &path).await;

            let text = refused.is_refused(403, "DENIED").text();
            assert!(text.contains(&parent), "{text}");
            berth.ask("HEAD", &path).await.is(200);
        }
        // All of it is still there, tags as well.
        assert_eq!(berth.repository("team/app").digest("amd64").await, image.digest);
        assert_eq!(berth.repository("team/app").pull("v1").await.contents.len(), 4);

        // From the top it goes.
        berth.ask("DELETE", &format!("/v2/team/app/manifests/{}", sha256(&parent))).await.is(202);
        berth.ask("DELETE", &format!("/v2/team/app/manifests/{}", image.digest)).await.is(202);
        berth.ask("DELETE", &format!("/v2/team/app/blobs/{}", image.layer)).await.is(202);
    })
    .await;
}

#[tokio::test]
async fn a_manifest_deleted_in_one_repository_stays_in_another() {
    on_each_database(async |berth| {
        let image = berth.push_image("team/one", "v1", 11).await;
        berth.push_image("team/two", "v1", 11).await;

        berth.ask("DELETE", &format!("/v2/team/one/manifests/{}", image.digest)).await.is(202);

        berth.ask("GET", "/v2/team/one/manifests/v1").await.is_refused(404, "MANIFEST_UNKNOWN");
        assert_eq!(berth.repository("team/two").digest("v1").await, image.digest);
        berth.ask("DELETE", &format!("/v2/team/one/blobs/{}", image.layer)).await.is(202);
        assert_eq!(berth.repository("team/two").pull("v1").await.contents.len(), 3);
    })
    .await;
}

#[tokio::test]
async fn a_tag_moves_to_the_last_manifest_put() {
    on_each_database(async |berth| {
        let first = berth.push_image("team/app", "latest", 12).await;
        let second = berth.push_image("team/app", "latest", 13).await;
        assert_eq!(berth.repository("team/app").digest("latest").await, second.digest);

        // The same again is no change, and no error.
        let answer = put(berth, "/v2/team/app/manifests/latest", MANIFEST, &first.manifest).await;

        assert_eq!(answer.is(201).header("docker-content-digest"), first.digest);
        assert_eq!(berth.repository("team/app").digest("latest").await, first.digest);
        let old = format!("/v2/team/app/manifests/{}", second.digest);
        berth.ask("HEAD", &old).await.is(200);
    })
    .await;
}
