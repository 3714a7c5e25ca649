//! The audit log: what it says of who did what.

use serde_json::Value;

use super::scenes::{ask_token, push_as, robot, staged};
use crate::{operation::scenes::eventually, protocol::wire::Berth};

const JSON: &str = "[log]\nformat = \"json\"\n";

/// The events of a kind, when there is one more than `before`.
async fn events(berth: &Berth, event: &str, before: usize) -> Vec<Value> {
    eventually(event, async || {
        let said = berth.server.said();
        let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let found: Vec<Value> =
            lines.filter(|line| line["target"] == "audit" && line["event"] == event).collect();
        (found.len() > before).then_some(found)
    })
    .await
}

#[tokio::test]
async fn a_deleted_tag_is_written_down_with_what_it_pointed_at() {
    let berth = Berth::of(staged().config(JSON).start().await);
    let image = push_as(&berth, &robot("admin"), "private/app", "v1", 1).await;
    let target = "/v2/private/app/manifests/v1";
    berth.send("DELETE", target, &[("authorization", &robot("deleter"))], Vec::new()).await.is(202);
    let deleted = events(&berth, "delete", 0).await.remove(0);
    assert_eq!(deleted["identity"], "robot:deleter");
    assert_eq!((&deleted["repository"], &deleted["reference"]), (&"private/app".into(), &"v1".into()));
    assert_eq!(deleted["digest"], image.manifest);
    berth.send("DELETE", target, &[("authorization", &robot("deleter"))], Vec::new()).await.is(404);
}

#[tokio::test]
async fn a_refused_tag_is_written_down_with_its_repository() {
    let berth = Berth::of(staged().config(JSON).start().await);
    push_as(&berth, &robot("admin"), "private/app", "v1", 1).await.put.is(201);
    push_as(&berth, &robot("creator"), "private/app", "v1", 2).await.put.is_refused(403, "DENIED");
    let refused = events(&berth, "refusal", 0).await.remove(0);
    assert_eq!((&refused["identity"], &refused["action"]), (&"robot:creator".into(), &"overwrite".into()));
    assert_eq!((&refused["repository"], &refused["reference"]), (&"private/app".into(), &"v1".into()));
}

#[tokio::test]
async fn a_token_for_nobody_in_particular_is_no_grant() {
    let quiet = Berth::of(staged().config(JSON).start().await);
    ask_token(&quiet, "", "&scope=repository:public/x:pull").await.is(200);
    ask_token(&quiet, &robot("puller"), "&scope=repository:private/app:pull").await.is(200);
    let granted = events(&quiet, "grant", 0).await;
    assert_eq!(granted.len(), 1, "{granted:?}");
    assert_eq!(granted[0]["identity"], "robot:puller");
    let all = Berth::of(staged().config(&format!("{JSON}level = \"info,audit=debug\"\n")).start().await);
    ask_token(&all, "", "&scope=repository:public/x:pull").await.is(200);
    let granted = events(&all, "grant", 0).await.remove(0);
    assert_eq!(
        (&granted["identity"], &granted["scope"]),
        (&"anonymous".into(), &"repository:public/x:pull".into())
    );
}
