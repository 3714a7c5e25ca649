//! Pages of referrers that are kept in memory: what they show is what the index has.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    faults::{behind::Index, wire::Dice},
    harness::{
        content::sha256,
        layout::{INDEX, MANIFEST},
    },
    protocol::{
        referrers::{EMPTY, digests, list, listed},
        wire::{Berth, descriptor, on_each_database, on_each_database_with},
    },
};

/// Types of artifacts: one of each is among those that come and go.
const KINDS: [&str; 3] = ["type/a", "type/b", "type/c"];
/// What the fallback tag points at, in turns: the manifests that each index lists.
const TAGGED: [&[usize]; 3] = [&[0, 1], &[1, 2, 4], &[4, 5]];

struct Referrer {
    bytes: Vec<u8>,
    digest: String,
    kind: &'static str,
}

/// A manifest about a subject, not pushed yet.
fn referrer(subject: &str, number: usize) -> Referrer {
    let kind = KINDS[number % 3];
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": kind,
        "config": descriptor(EMPTY, &sha256(b"{}"), 2),
        "layers": [],
        "subject": descriptor(MANIFEST, subject, 7),
        "annotations": {"number": number.to_string()},
    });
    let bytes = manifest.to_string().into_bytes();
    Referrer { digest: sha256(&bytes), bytes, kind }
}

/// An index that lists some referrers as older clients would, with a type of their own.
fn index(referrers: &[Referrer], listed: &[usize]) -> Vec<u8> {
    let entry = |number: &usize| {
        let mut entry = descriptor(MANIFEST, &referrers[*number].digest, 7);
        entry["artifactType"] = json!("type/old");
        entry
    };
    let entries: Vec<Value> = listed.iter().map(entry).collect();
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string().into_bytes()
}

/// What the index should have.
#[derive(Default)]
struct Model {
    /// Types by digest, of those that speak for themselves.
    own: BTreeMap<String, &'static str>,
    /// Which of [`TAGGED`] the fallback tag points at.
    tagged: Option<usize>,
}

impl Model {
    fn lists(&self, referrers: &[Referrer], kinds: &[&str]) -> Vec<(String, String)> {
        let tagged = self.tagged.map_or(&[][..], |number| TAGGED[number]);
        let mut all: BTreeMap<String, &str> =
            tagged.iter().map(|number| (referrers[*number].digest.clone(), "type/old")).collect();
        all.extend(self.own.clone());
        all.retain(|_, kind| kinds.is_empty() || kinds.contains(kind));
        all.into_iter().map(|(digest, kind)| (digest, kind.to_owned())).collect()
    }
}

#[tokio::test]
async fn a_list_is_what_the_index_has_whatever_came_and_went() {
    on_each_database(async |berth| {
        let subject = sha256(b"a subject");
        let referrers: Vec<Referrer> = (0..6).map(|number| referrer(&subject, number)).collect();
        let repository = berth.repository("team/app");
        repository.push_blob(b"{}").await;
        // So that the indexes may list them, for a moment at least.
        for one in &referrers {
            repository.push_manifest(&one.digest, MANIFEST, &one.bytes).await;
        }
        let tag = subject.replace(':', "-");
        let mut model = Model::default();
        model.own.extend(referrers.iter().map(|one| (one.digest.clone(), one.kind)));
        let mut dice = Dice::new(5);
        for step in 0..150 {
            let number = usize::try_from(dice.below(6)).expect("a small number");
            let Referrer { bytes, digest, kind } = &referrers[number];
            match dice.below(5) {
                // An index needs what it lists.
                0 | 1 if model.own.contains_key(digest) && model.tagged.is_none() => {
                    berth.ask("DELETE", &format!("/v2/team/app/manifests/{digest}")).await.is(202);
                    model.own.remove(digest);
                }
                0..3 => {
                    repository.push_manifest(digest, MANIFEST, bytes).await;
                    model.own.insert(digest.clone(), *kind);
                }
                3 => {
                    let listed = TAGGED[number % 3];
                    if listed.iter().all(|number| model.own.contains_key(&referrers[*number].digest)) {
                        let bytes = index(&referrers, listed);
                        repository.push_manifest(&tag, INDEX, &bytes).await;
                        model.tagged = Some(number % 3);
                    }
                }
                _ => {
                    // Whatever index it points at goes with it, and the others.
                    for listed in TAGGED {
                        let digest = sha256(&index(&referrers, listed));
                        berth.ask("DELETE", &format!("/v2/team/app/manifests/{digest}")).await;
                    }
                    model.tagged = None;
                }
            }
            for kinds in [&[][..], &["type/a"], &["type/b", "type/old"]] {
                let query: Vec<String> = kinds.iter().map(|kind| format!("artifactType={kind}")).collect();
                let answer = list(berth, &subject, &format!("?{}", query.join("&"))).await;
                let text = |value: &Value| value.as_str().expect("a text").to_owned();
                let found: Vec<_> = listed(&answer)
                    .iter()
                    .map(|one| (text(&one["digest"]), text(&one["artifactType"])))
                    .collect();
                assert_eq!(found, model.lists(&referrers, kinds), "step {step}, {kinds:?}");
            }
        }
    })
    .await;
}

/// Changes what a list says behind the back of whoever counts its changes.
async fn change_a_text(berth: &Berth) {
    let mut index = Index::of(&berth.server).await;
    index.execute("UPDATE referrers SET descriptor = REPLACE(descriptor, 'type/a', 'type/A')").await;
    index.close().await;
}

#[tokio::test]
async fn a_page_is_kept_until_its_list_changes() {
    on_each_database(async |berth| {
        let subject = sha256(b"a subject");
        let [first, second] = [0, 3].map(|number| referrer(&subject, number));
        let repository = berth.repository("team/app");
        repository.push_blob(b"{}").await;
        repository.push_manifest(&first.digest, MANIFEST, &first.bytes).await;
        let before = list(berth, &subject, "").await;

        change_a_text(berth).await;

        assert_eq!(list(berth, &subject, "").await.text(), before.text(), "it was not read again");
        repository.push_manifest(&second.digest, MANIFEST, &second.bytes).await;
        let after = list(berth, &subject, "").await;
        assert_eq!(digests(&listed(&after)).len(), 2);
        assert!(after.text().contains("type/A"), "{}", after.text());
    })
    .await;
}

#[tokio::test]
async fn no_page_is_kept_where_there_is_no_room_for_one() {
    on_each_database_with("[limits]\nreferrers_memory = \"0B\"\n", async |berth| {
        let subject = sha256(b"a subject");
        let one = referrer(&subject, 0);
        let repository = berth.repository("team/app");
        repository.push_blob(b"{}").await;
        repository.push_manifest(&one.digest, MANIFEST, &one.bytes).await;
        list(berth, &subject, "").await;

        change_a_text(berth).await;

        let read = list(berth, &subject, "").await;
        assert!(read.text().contains("type/A"), "{}", read.text());
    })
    .await;
}
