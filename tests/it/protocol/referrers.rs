//! Referrers: filters, pages measured in bytes, and what older clients left under a tag.

use serde_json::{Value, json};

use crate::{
    harness::{
        content::{sha256, sha512},
        layout::{CONFIG, INDEX, MANIFEST},
    },
    protocol::wire::{Answer, Berth, Image, descriptor, next, on_each_database},
};

pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const CLIENTS_READ: usize = 4 * 1024 * 1024;

/// Pushes a manifest about another; returns its digest.
async fn refer(berth: &Berth, subject: &str, more: &Value) -> String {
    let config = berth.repository("team/app").push_blob(b"{}").await;
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(EMPTY, &config, 2),
        "layers": [],
        "subject": descriptor(MANIFEST, subject, 7),
    });
    let members = manifest.as_object_mut().expect("it is an object");
    members.extend(more.as_object().expect("it is an object").clone());
    let media_type = manifest["mediaType"].as_str().expect("a text").to_owned();
    let bytes = manifest.to_string().into_bytes();
    let digest = sha256(&bytes);
    let path = format!("/v2/team/app/manifests/{digest}");
    let answer = berth.send("PUT", &path, &[("content-type", &media_type)], bytes).await;
    assert_eq!(answer.is(201).header("oci-subject"), subject);
    digest
}

pub async fn list(berth: &Berth, subject: &str, query: &str) -> Answer {
    let answer = berth.ask("GET", &format!("/v2/team/app/referrers/{subject}{query}")).await;
    assert_eq!(answer.is(200).header("content-type"), INDEX);
    answer
}

/// The descriptors on a page, by digest.
pub fn listed(answer: &Answer) -> Vec<Value> {
    let index = answer.json();
    assert_eq!((&index["schemaVersion"], &index["mediaType"]), (&json!(2), &json!(INDEX)));
    index["manifests"].as_array().expect("a list").clone()
}

pub fn digests(descriptors: &[Value]) -> Vec<&str> {
    descriptors.iter().map(|descriptor| descriptor["digest"].as_str().expect("a text")).collect()
}

fn sorted<const N: usize>(mut digests: [&str; N]) -> [&str; N] {
    digests.sort_unstable();
    digests
}

#[tokio::test]
async fn a_subject_nobody_refers_to_or_knows_has_an_empty_list() {
    on_each_database(async |berth| {
        let Image { digest, .. } = berth.push_image("team/app", "v1", 1).await;
        for subject in [digest, sha256(b"unknown"), sha512(b"unknown")] {
            for repository in ["team/app", "team/none"] {
                let answer = berth.ask("GET", &format!("/v2/{repository}/referrers/{subject}")).await;
                assert_eq!(
                    answer.is(200).json(),
                    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []})
                );
                assert_eq!(answer.header("content-type"), INDEX);
                assert!(!answer.headers.contains_key("oci-filters-applied"));
            }
        }
        let bad = berth.ask("GET", "/v2/team/app/referrers/sha256:abc").await;
        bad.is_refused(400, "DIGEST_INVALID");
    })
    .await;
}

#[tokio::test]
async fn a_referrer_is_listed_with_its_type_and_annotations_until_it_is_deleted() {
    on_each_database(async |berth| {
        let subject = sha256(b"a subject that comes later, or never");
        let annotations = json!({"org.example.\u{fc}": "line\nbreak \"quoted\"", "empty": ""});
        let typed =
            refer(berth, &subject, &json!({"artifactType": "a/typed", "annotations": annotations})).await;
        let untyped = refer(berth, &subject, &json!({})).await;

        let found = listed(&list(berth, &subject, "").await);

        assert_eq!(digests(&found), sorted([&typed, &untyped]));
        let one = |digest: &str| found.iter().find(|one| one["digest"] == digest).expect("it is listed");
        assert_eq!(one(&typed)["artifactType"], "a/typed");
        assert_eq!(one(&typed)["annotations"], annotations);
        assert_eq!(one(&typed)["mediaType"], MANIFEST);
        // What a manifest without an artifact type has instead is the type of its config.
        assert_eq!(one(&untyped)["artifactType"], EMPTY);
        assert!(one(&untyped).get("annotations").is_none());
        let got = berth.ask("GET", &format!("/v2/team/app/manifests/{typed}")).await;
        assert_eq!(one(&typed)["size"], got.body.len());

        berth.ask("DELETE", &format!("/v2/team/app/manifests/{typed}")).await.is(202);
        assert_eq!(digests(&listed(&list(berth, &subject, "").await)), [&untyped]);
    })
    .await;
}

#[tokio::test]
async fn a_filter_by_type_may_name_several_and_is_said_to_be_applied() {
    on_each_database(async |berth| {
        let subject = sha256(b"subject");
        let a = refer(berth, &subject, &json!({"artifactType": "type/a"})).await;
        let b = refer(berth, &subject, &json!({"artifactType": "type/b"})).await;
        let c = refer(berth, &subject, &json!({"artifactType": "type/c+json"})).await;
        for (query, wanted) in [
            ("?artifactType=type/a", vec![a.as_str()]),
            ("?artifactType=type%2Fc%2Bjson", vec![&c]),
            ("?artifactType=type/a&artifactType=type/b", sorted([&a, &b]).to_vec()),
            ("?artifactType=type/a&artifactType=type/a", vec![&a]),
            ("?artifactType=none", vec![]),
            ("?artifactType=type/a&artifactType=none", vec![&a]),
            ("?artifactType=%00", vec![]),
            ("?artifactType=type/a%00", vec![]),
        ] {
            let answer = list(berth, &subject, query).await;
            assert_eq!(digests(&listed(&answer)), wanted, "{query}");
            assert_eq!(answer.header("oci-filters-applied"), "artifactType");
        }
        for query in ["", "?artifactType=", "?other=x", "?last=%00"] {
            let answer = list(berth, &subject, query).await;
            assert_eq!(digests(&listed(&answer)), sorted([&a, &b, &c]), "{query}");
            assert!(!answer.headers.contains_key("oci-filters-applied"));
        }
    })
    .await;
}

#[tokio::test]
async fn pages_stay_below_what_clients_read_and_are_followed_with_their_filter() {
    on_each_database(async |berth| {
        let subject = sha256(b"subject");
        let large = |name: &str| {
            let text = name.repeat(10_000);
            let annotations: serde_json::Map<_, _> =
                (0..390).map(|number| (format!("key-{number}"), json!(text))).collect();
            json!({"artifactType": format!("type/{name}"), "annotations": annotations})
        };
        let mut pushed = Vec::new();
        for name in ["a", "b", "c"] {
            pushed.push(refer(berth, &subject, &large(name)).await);
        }
        let small = refer(berth, &subject, &json!({"artifactType": "type/small"})).await;
        pushed.push(small);
        pushed.sort_unstable();

        let all = pages(berth, &subject, "").await;
        assert!(all.len() >= 3, "{}", all.len());
        assert_eq!(digests(&all.concat()), pushed);

        let two = pages(berth, &subject, "?artifactType=type/a&artifactType=type/b").await;
        assert_eq!(two.len(), 2);
        assert_eq!(two.concat().len(), 2);
        assert!(
            two.iter()
                .flatten()
                .all(|one| one["annotations"].as_object().map(serde_json::Map::len) == Some(390))
        );
    })
    .await;
}

/// Follows the links to the end; asserts that each page can be read.
async fn pages(berth: &Berth, subject: &str, query: &str) -> Vec<Vec<Value>> {
    let mut answer = list(berth, subject, query).await;
    let mut pages = Vec::new();
    loop {
        assert!(answer.body.len() < CLIENTS_READ, "{}", answer.body.len());
        assert_eq!(answer.headers.contains_key("oci-filters-applied"), query.contains("artifactType"));
        pages.push(listed(&answer));
        let Some(next) = next(&answer) else { return pages };
        answer = berth.ask("GET", &next).await;
        assert!(pages.len() < 10, "the pages do not end");
    }
}

#[tokio::test]
async fn what_older_clients_listed_under_a_tag_is_part_of_the_answer_once() {
    on_each_database(async |berth| {
        let image = berth.push_image("team/app", "v1", 2).await;
        let own = refer(berth, &image.digest, &json!({"artifactType": "type/own"})).await;
        // Pushed without a subject, as a client does that keeps the list by itself.
        let old = berth.push_image("team/app", "old", 3).await;
        let entry = |digest: &str, kind: &str| {
            let mut entry = descriptor(MANIFEST, digest, 7);
            entry["artifactType"] = json!(kind);
            entry["annotations"] = json!({"from": "the tag"});
            entry
        };
        let entries =
            [entry(&own, "type/other"), entry(&old.digest, "type/old"), entry(&old.digest, "type/old")];
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
        let tag = image.digest.replace(':', "-");
        berth.repository("team/app").push_manifest(&tag, INDEX, index.as_bytes()).await;

        let found = listed(&list(berth, &image.digest, "").await);
        assert_eq!(digests(&found), sorted([&own, &old.digest]));
        let of = |digest: &str| found.iter().find(|one| one["digest"] == digest).expect("it is listed");
        assert_eq!(of(&old.digest)["annotations"], json!({"from": "the tag"}));
        // Its own word counts for what is pushed with a subject.
        assert_eq!(of(&own)["artifactType"], "type/own");

        for (kind, wanted) in
            [("type/old", vec![old.digest.as_str()]), ("type/own", vec![&own]), ("type/other", vec![])]
        {
            let answer = list(berth, &image.digest, &format!("?artifactType={kind}")).await;
            assert_eq!(digests(&listed(&answer)), wanted, "{kind}");
        }
        let first = sorted([&own, &old.digest])[0];
        let rest = list(berth, &image.digest, &format!("?last={first}")).await;
        assert_eq!(listed(&rest).len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_long_page_is_sent_in_pieces_and_has_everything_once_and_in_order() {
    on_each_database(async |berth| {
        let image = berth.push_image("team/app", "v1", 2).await;
        let annotations = json!({"text": "x".repeat(60_000)});
        let mut wanted: [Vec<String>; 3] = Default::default();
        for number in 0..9 {
            let kind = number % 3;
            let more = json!({
                "artifactType": format!("type/{kind}"),
                "annotations": {"text": annotations["text"], "number": number.to_string()},
            });
            wanted[kind].push(refer(berth, &image.digest, &more).await);
        }
        // Older clients listed four more, between them by digest, and one that has spoken for itself since.
        let mut entries = Vec::new();
        for number in 0..4 {
            let digest = berth.push_image("team/app", "old", 10 + number).await.digest;
            let mut entry = descriptor(MANIFEST, &digest, 7);
            entry["artifactType"] = json!("type/1");
            entry["annotations"] = annotations.clone();
            entries.push(entry);
            wanted[1].push(digest);
        }
        entries.push(descriptor(MANIFEST, &wanted[0][0], 7));
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
        let tag = image.digest.replace(':', "-");
        berth.repository("team/app").push_manifest(&tag, INDEX, index.as_bytes()).await;

        for (query, kinds) in [
            ("", vec![0, 1, 2]),
            ("?artifactType=type/1", vec![1]),
            ("?artifactType=type/2&artifactType=type/1&artifactType=none", vec![1, 2]),
        ] {
            let answer = list(berth, &image.digest, query).await;
            let mut wanted: Vec<&str> =
                kinds.iter().flat_map(|kind| &wanted[*kind]).map(String::as_str).collect();
            wanted.sort_unstable();

            assert_eq!(digests(&listed(&answer)), wanted, "{query}");
            assert_eq!(next(&answer), None);
            // More than is in memory at a time has no length.
            assert!(!answer.headers.contains_key("content-length"), "{query}");
        }
        let short = list(berth, &image.digest, "?artifactType=none").await;
        assert_eq!(short.header("content-length"), short.body.len().to_string());
    })
    .await;
}

#[tokio::test]
async fn a_fallback_tag_that_lists_nothing_hides_nothing() {
    on_each_database(async |berth| {
        let image = berth.push_image("team/app", "v1", 4).await;
        let own = refer(berth, &image.digest, &json!({})).await;
        let tag = image.digest.replace(':', "-");
        // An image under the name, not an index.
        berth.push_image("team/app", &tag, 5).await;

        assert_eq!(digests(&listed(&list(berth, &image.digest, "").await)), [own]);
    })
    .await;
}

#[tokio::test]
async fn an_index_may_refer_and_has_only_a_type_of_its_own() {
    on_each_database(async |berth| {
        let image = berth.push_image("team/app", "v1", 6).await;
        for more in [json!({}), json!({"artifactType": "type/index"})] {
            let mut index = json!({
                "schemaVersion": 2,
                "mediaType": INDEX,
                "manifests": [],
                "subject": descriptor(CONFIG, &image.digest, 7),
            });
            let members = index.as_object_mut().expect("it is an object");
            members.extend(more.as_object().expect("it is an object").clone());
            let bytes = index.to_string().into_bytes();
            let digest = berth.repository("team/app").push_manifest("index", INDEX, &bytes).await;

            let found = listed(&list(berth, &image.digest, "").await);

            let one = found.iter().find(|one| one["digest"] == digest).expect("it is listed");
            assert_eq!(one.get("artifactType"), more.get("artifactType"));
            assert_eq!(one["mediaType"], INDEX);
        }
    })
    .await;
}
