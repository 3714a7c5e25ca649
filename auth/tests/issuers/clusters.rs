//! Service accounts of clusters.

use std::path::PathBuf;
use std::time::Duration;

use berth_auth::{
    Algorithm, Cluster, Issuers, IssuersSettings, KeySource, KeysFrom, Refused, SettingsError, TokenReview,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{AUDIENCE, Key, NOW, TestIssuer, calls, from_url, issuer_settings, refused, verify};

const INSIDE: &str = "https://kubernetes.default.svc.cluster.local";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

fn cluster(name: &str, server: &TestIssuer) -> Cluster {
    Cluster {
        name: name.into(),
        issuer: INSIDE.into(),
        audiences: vec![AUDIENCE.into()],
        algorithms: Algorithm::DEFAULT.into(),
        keys: from_url(&format!("{}/openid/v1/jwks", server.url)),
        token_review: None,
        session_ttl: None,
    }
}

fn issuers(clusters: Vec<Cluster>) -> Issuers {
    Issuers::new(IssuersSettings { clusters, ..IssuersSettings::default() }, &calls()).unwrap()
}

fn claims() -> Value {
    json!({
        "iss": INSIDE, "aud": [AUDIENCE], "sub": "system:serviceaccount:shop:web",
        "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 3600, "jti": "5",
        "kubernetes.io": {
            "namespace": "shop",
            "node": {"name": "node-1.internal", "uid": "n"},
            "pod": {"name": "web-7f9c", "uid": "11111111-2222-3333-4444-555555555555"},
            "serviceaccount": {"name": "web", "uid": "s"},
        },
    })
}

#[tokio::test]
async fn a_service_account_is_known_with_its_pod_and_node() {
    let key = Key::rsa();
    let server = TestIssuer::with(&key).await;
    let proven = verify(&issuers(vec![cluster("east", &server)]), &key.sign("k1", &claims())).await.unwrap();
    assert_eq!(proven.identity.to_string(), "serviceaccount:east/shop/web");
    let attributes: Vec<_> =
        proven.identity.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        attributes,
        [
            ("cluster", "east"),
            ("namespace", "shop"),
            ("node", "node-1.internal"),
            ("pod", "web-7f9c"),
            ("pod_uid", "11111111-2222-3333-4444-555555555555"),
            ("serviceaccount", "web"),
        ]
    );
    // Older clusters say less.
    let mut few = claims();
    few.as_object_mut().unwrap().remove("kubernetes.io");
    let proven = verify(&issuers(vec![cluster("east", &server)]), &key.sign("k1", &few)).await.unwrap();
    assert_eq!(proven.identity.name(), "east/shop/web");
    assert!(!proven.identity.attributes.contains_key("pod"));
}

#[tokio::test]
async fn clusters_with_the_same_issuer_are_told_apart_by_their_keys() {
    let (key_east, key_west, key_foreign) = (Key::rsa(), Key::rsa(), Key::rsa());
    let (east, west) = (TestIssuer::start().await, TestIssuer::start().await);
    east.publish("east-1", &key_east);
    west.publish("west-1", &key_west);
    let both = issuers(vec![cluster("east", &east), cluster("west", &west)]);
    for _ in 0..20 {
        let proven = verify(&both, &key_west.sign("west-1", &claims())).await.unwrap();
        assert_eq!(proven.identity.name(), "west/shop/web");
        let proven = verify(&both, &key_east.sign("east-1", &claims())).await.unwrap();
        assert_eq!(proven.identity.name(), "east/shop/web");
    }
    // No unknown key was looked for.
    assert_eq!((east.asked("/openid/v1/jwks"), west.asked("/openid/v1/jwks")), (1, 1));
    let refusal = refused(&both, &key_foreign.sign("north-1", &claims())).await;
    assert!(matches!(refusal, Refused::UnknownKey { .. }), "{refusal}");
    let refusal = refused(&both, &key_foreign.sign("east-1", &claims())).await;
    assert!(matches!(refusal, Refused::Signature(_)), "{refusal}");
    // Without a key id it is the signature alone that tells.
    let nameless = key_west.sign_as(&json!({"alg": "RS256"}), &claims().to_string());
    assert_eq!(verify(&both, &nameless).await.unwrap().identity.name(), "west/shop/web");
}

#[tokio::test]
async fn the_audience_of_one_cluster_is_not_that_of_another() {
    let (key_east, key_west) = (Key::p256(), Key::p256());
    let (east, west) = (TestIssuer::start().await, TestIssuer::start().await);
    east.publish("east-1", &key_east);
    west.publish("west-1", &key_west);
    let west_settings = Cluster { audiences: vec!["west.test".into()], ..cluster("west", &west) };
    let both = issuers(vec![cluster("east", &east), west_settings]);
    // A token of the west for the audience of the east.
    assert!(verify(&both, &key_west.sign("west-1", &claims())).await.is_err());
    let mut for_west = claims();
    for_west["aud"] = "west.test".into();
    verify(&both, &key_west.sign("west-1", &for_west)).await.unwrap();
    assert!(verify(&both, &key_east.sign("east-1", &for_west)).await.is_err());
}

#[tokio::test]
async fn a_cluster_that_is_down_does_not_take_another_with_it() {
    let key = Key::p256();
    let (east, west) = (TestIssuer::start().await, TestIssuer::with(&key).await);
    east.change(|inside| inside.delay = Duration::from_mins(1));
    let both = issuers(vec![cluster("east", &east), cluster("west", &west)]);
    let token = key.sign("k1", &claims());
    let proven = tokio::time::timeout(Duration::from_secs(5), verify(&both, &token)).await.unwrap().unwrap();
    assert_eq!(proven.identity.name(), "west/shop/web");
    // A new key of the west is found too.
    let next = Key::p256();
    west.publish("k2", &next);
    let token = next.sign("k2", &claims());
    tokio::time::timeout(Duration::from_secs(5), verify(&both, &token)).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_no_service_account_is_refused() {
    let key = Key::p256();
    let server = TestIssuer::with(&key).await;
    let issuers = issuers(vec![cluster("east", &server)]);
    for subject in [
        json!("system:node:node-1"),
        json!("system:serviceaccount:shop"),
        json!("system:serviceaccount:shop:"),
        json!("system:serviceaccount::web"),
        json!("system:serviceaccount:shop:web:more"),
        json!("system:serviceaccount:shop/other:web"),
        json!("system:serviceaccount:sh.op:web"),
        json!("system:serviceaccount:shop:we*b"),
        json!("system:serviceaccount:shop:../web"),
        json!("system:serviceaccount:shop:web\n"),
        json!("system:serviceaccount:Shop:web"),
        json!("System:serviceaccount:shop:web"),
        json!(""),
        json!(5),
        json!(null),
        json!(format!("system:serviceaccount:{}:web", "a".repeat(64))),
    ] {
        let mut claims = claims();
        claims["sub"] = subject.clone();
        claims.as_object_mut().unwrap().remove("kubernetes.io");
        let refusal = refused(&issuers, &key.sign("k1", &claims)).await;
        assert!(matches!(refusal, Refused::Claim { .. }), "{subject}: {refusal}");
    }
    for (path, value) in [
        ("/kubernetes.io/namespace", json!("kube-system")),
        ("/kubernetes.io/namespace", json!(5)),
        ("/kubernetes.io/serviceaccount/name", json!("admin")),
        ("/kubernetes.io/pod/name", json!("a\nb")),
        ("/kubernetes.io/node/name", json!("")),
    ] {
        let mut claims = claims();
        *claims.pointer_mut(path).unwrap() = value.clone();
        let refusal = refused(&issuers, &key.sign("k1", &claims)).await;
        assert!(matches!(refusal, Refused::Claim { .. }), "{path} {value}: {refusal}");
    }
}

fn review(server: &TestIssuer, bearer: &str) -> (TempDir, TokenReview) {
    let folder = tempfile::tempdir().unwrap();
    let bearer_token_file: PathBuf = folder.path().join("token");
    std::fs::write(&bearer_token_file, bearer).unwrap();
    (folder, TokenReview { api: server.url.parse().unwrap(), ca_file: None, bearer_token_file })
}

fn says(server: &TestIssuer, status: &Value) {
    let answer = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status});
    server.change(|inside| {
        drop(inside.answers.insert(REVIEWS.into(), (201, String::new(), answer.to_string())));
    });
}

#[tokio::test]
async fn the_token_of_a_pod_that_is_gone_stops_working() {
    let key = Key::p256();
    let server = TestIssuer::with(&key).await;
    let (_folder, review) = review(&server, "reviewer");
    let issuers = issuers(vec![Cluster { token_review: Some(review), ..cluster("east", &server) }]);
    let token = key.sign("k1", &claims());
    let good = json!({"authenticated": true, "audiences": [AUDIENCE],
        "user": {"username": "system:serviceaccount:shop:web", "uid": "s"}});
    says(&server, &good);
    for _ in 0..10 {
        verify(&issuers, &token).await.unwrap();
    }
    assert_eq!(server.asked(REVIEWS), 1);
    let (asked, question) = {
        let inside = server.inside.lock().unwrap();
        let at = inside.asked.iter().position(|(path, _)| path == REVIEWS).unwrap();
        (inside.asked[at].clone(), serde_json::from_str::<Value>(&inside.bodies[at]).unwrap())
    };
    assert_eq!(asked.1.as_deref(), Some("Bearer reviewer"));
    assert_eq!(question["spec"], json!({"token": token, "audiences": [AUDIENCE]}));
    says(&server, &json!({"error": "[invalid bearer token, pod has been deleted]"}));
    verify(&issuers, &token).await.unwrap();
    let refusal = issuers.verify(&token, (NOW + 5) * 1000).await.unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "cluster east does not accept the token: [invalid bearer token, pod has been deleted]"
    );
}

#[tokio::test]
async fn an_answer_that_is_not_about_this_token_for_us_is_none() {
    let key = Key::p256();
    let server = TestIssuer::with(&key).await;
    let user = json!({"username": "system:serviceaccount:shop:web"});
    for (status, trouble) in [
        (json!({"authenticated": false}), false),
        (json!({"authenticated": true, "user": user}), false),
        (json!({"authenticated": true, "user": user, "audiences": ["other"]}), false),
        (json!({"authenticated": true, "user": {"username": "admin"}, "audiences": [AUDIENCE]}), false),
        (json!({"authenticated": true, "audiences": [AUDIENCE]}), false),
        (json!("yes"), true),
        (json!({"authenticated": "true"}), true),
    ] {
        let (_folder, review) = review(&server, "reviewer");
        let issuers = issuers(vec![Cluster { token_review: Some(review), ..cluster("east", &server) }]);
        says(&server, &status);
        let refusal = refused(&issuers, &key.sign("k1", &claims())).await;
        assert_eq!(refusal.is_trouble(), trouble, "{status}: {refusal}");
    }
}

#[tokio::test]
async fn a_server_that_cannot_review_is_trouble_that_is_not_remembered() {
    let key = Key::p256();
    let (server, elsewhere) = (TestIssuer::with(&key).await, TestIssuer::with(&key).await);
    let (folder, review) = review(&server, "reviewer");
    let issuers = issuers(vec![Cluster { token_review: Some(review), ..cluster("east", &server) }]);
    let token = key.sign("k1", &claims());
    for (status, location) in [(401, ""), (403, ""), (500, ""), (200, ""), (307, elsewhere.url.as_str())] {
        server.change(|inside| {
            drop(inside.answers.insert(REVIEWS.into(), (status, location.into(), "{".into())));
        });
        let refusal = refused(&issuers, &token).await;
        assert!(refusal.is_trouble(), "{refusal}");
        assert!(!refusal.to_string().contains(&token));
    }
    assert!(elsewhere.inside.lock().unwrap().asked.is_empty());
    std::fs::remove_file(folder.path().join("token")).unwrap();
    assert!(refused(&issuers, &token).await.is_trouble());
    std::fs::write(folder.path().join("token"), "again").unwrap();
    says(
        &server,
        &json!({"authenticated": true, "audiences": [AUDIENCE],
        "user": {"username": "system:serviceaccount:shop:web"}}),
    );
    verify(&issuers, &token).await.unwrap();
}

#[tokio::test]
async fn a_forged_token_is_not_shown_to_the_cluster() {
    let key = Key::p256();
    let server = TestIssuer::with(&key).await;
    let (_folder, review) = review(&server, "reviewer");
    let issuers = issuers(vec![Cluster { token_review: Some(review), ..cluster("east", &server) }]);
    says(&server, &json!({"authenticated": true}));
    refused(&issuers, &Key::p256().sign("k1", &claims())).await;
    assert_eq!(server.asked(REVIEWS), 0);
}

#[test]
fn a_cluster_and_an_issuer_cannot_have_the_same_issuer() {
    let cluster = Cluster {
        name: "east".into(),
        issuer: "https://issuer.test".into(),
        audiences: vec![AUDIENCE.into()],
        algorithms: Algorithm::DEFAULT.into(),
        keys: KeySource { from: KeysFrom::Discovery(None), ..KeySource::default() },
        token_review: None,
        session_ttl: None,
    };
    let settings = IssuersSettings {
        clusters: vec![cluster],
        issuers: vec![issuer_settings("ci", "https://issuer.test")],
    };
    assert!(matches!(Issuers::new(settings, &calls()), Err(SettingsError::SameIssuer(..))));
}
