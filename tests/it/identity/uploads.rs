//! Long uploads and short tokens.

use berth_auth::{Identity, Kind, Permission, Permissions, Scope};

use super::{
    attacks::forge,
    scenes::{bearer, push_as, robot, staged, token},
};
use crate::{
    harness::content::{self, sha256},
    protocol::wire::Berth,
};

fn push_scope() -> Scope {
    Scope::of("private/app", Permissions::PUSH.union(Permission::Pull.into()))
}

#[tokio::test]
async fn an_upload_goes_on_with_the_token_it_was_begun_with_when_that_is_over() {
    let berth = Berth::of(staged().start().await);
    let bytes = content::bytes(1, 3000);
    let fresh = bearer(&token(&berth, &robot("pusher"), &["repository:private/app:push"]).await);
    let target = "/v2/private/app/blobs/uploads/";
    let begun = berth.send("POST", target, &[("authorization", &fresh)], Vec::new()).await;
    let location = begun.is(202).header("location").to_owned();
    // An hour later.
    let over = |hours: i64| {
        forge(&berth, move |token| {
            token.identity = Identity::new(Kind::Robot, "pusher");
            token.scope = push_scope();
            token.issued_at -= hours * 3600;
            token.expires_at -= hours * 3600;
        })
    };
    let (hour, day) = (bearer(&over(1).await), bearer(&over(24).await));
    let headers = [("authorization", hour.as_str())];
    berth.send("PATCH", &location, &headers, bytes[..1000].to_vec()).await.is(202);
    berth.send("GET", &location, &headers, Vec::new()).await.is(204);
    // There is an end to it.
    let late = [("authorization", day.as_str())];
    berth.send("PATCH", &location, &late, bytes[1000..].to_vec()).await.is_refused(401, "UNAUTHORIZED");
    let last = format!("{location}?digest={}", sha256(&bytes));
    berth.send("PUT", &last, &headers, bytes[1000..].to_vec()).await.is(201);
    // For anything else it is over.
    berth.send("POST", target, &headers, Vec::new()).await.is_refused(401, "UNAUTHORIZED");
    let blob = format!("/v2/private/app/blobs/{}", sha256(&bytes));
    berth.send("HEAD", &blob, &headers, Vec::new()).await.is(401);
}

#[tokio::test]
async fn an_upload_is_its_beginners_and_nobody_elses() {
    let berth = Berth::of(staged().start().await);
    let (pusher, admin) = (robot("pusher"), robot("admin"));
    let target = "/v2/private/app/blobs/uploads/";
    let begun = berth.send("POST", target, &[("authorization", &pusher)], Vec::new()).await;
    let location = begun.is(202).header("location").to_owned();
    for (method, path) in [
        ("GET", location.clone()),
        ("PATCH", location.clone()),
        ("PUT", format!("{location}?digest={}", sha256(b""))),
        ("DELETE", location.clone()),
    ] {
        // Whoever may do everything may not do this.
        let answer = berth.send(method, &path, &[("authorization", &admin)], Vec::new()).await;
        answer.is_refused(404, "BLOB_UPLOAD_UNKNOWN");
        let elsewhere = path.replace("private/app", "private/other");
        let answer = berth.send(method, &elsewhere, &[("authorization", &pusher)], Vec::new()).await;
        answer.is_refused(404, "BLOB_UPLOAD_UNKNOWN");
    }
    berth.send("DELETE", &location, &[("authorization", &pusher)], Vec::new()).await.is(204);
}

#[tokio::test]
async fn knowing_a_digest_of_another_tenant_is_worth_nothing() {
    let berth = Berth::of(staged().start().await);
    let image = push_as(&berth, &robot("admin"), "private/app", "v1", 1).await;
    image.put.is(201);
    let stranger = robot("stranger");
    let headers = [("authorization", stranger.as_str())];
    for method in ["HEAD", "GET"] {
        let target = format!("/v2/elsewhere/mine/blobs/{}", image.blob);
        berth.send(method, &target, &headers, Vec::new()).await.is(404);
    }
    for from in ["&from=private/app", ""] {
        let target = format!("/v2/elsewhere/mine/blobs/uploads/?mount={}{from}", image.blob);
        let answer = berth.send("POST", &target, &headers, Vec::new()).await;
        // It is uploaded then, as if nobody had it.
        assert!(answer.is(202).header("location").contains("/v2/elsewhere/mine/blobs/uploads/"));
    }
    let mut put = headers.to_vec();
    put.push(("content-type", crate::harness::layout::MANIFEST));
    let target = "/v2/elsewhere/mine/manifests/v1";
    let answer = berth.send("PUT", target, &put, image.bytes.clone()).await;
    answer.is_refused(404, "MANIFEST_BLOB_UNKNOWN");
    let target = format!("/v2/elsewhere/mine/referrers/{}", image.manifest);
    let referrers = berth.send("GET", &target, &headers, Vec::new()).await;
    assert_eq!(referrers.is(200).json()["manifests"], serde_json::json!([]));
    // Who may read there mounts.
    let target = format!("/v2/elsewhere/mine/blobs/uploads/?mount={}&from=private/app", image.blob);
    berth.send("POST", &target, &[("authorization", &robot("admin"))], Vec::new()).await.is(201);
    // And a token that is for the target alone does not (A3).
    let narrow = bearer(&token(&berth, &robot("admin"), &["repository:private/two:pull,push"]).await);
    let target = format!("/v2/private/two/blobs/uploads/?mount={}&from=private/app", image.blob);
    berth.send("POST", &target, &[("authorization", &narrow)], Vec::new()).await.is(202);
}
