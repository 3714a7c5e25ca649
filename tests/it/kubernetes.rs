//! What a real cluster says about its service accounts: the ground that Berth's reading of their
//! tokens stands on, and the manifest that is shipped for nodes.

use std::{collections::BTreeSet, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time;

use crate::harness::{
    Cluster,
    kubernetes::{MANIFEST_AUDIENCE, TokenRequest},
    process::PATIENCE,
    tls::Authority,
    tools::workbench,
};

const DISCOVERY: &str = "/.well-known/openid-configuration";
const KEYS: &str = "/openid/v1/jwks";

#[tokio::test]
async fn a_pods_token_says_who_it_is() {
    let _bench = workbench!("kubernetes");
    let cluster = Cluster::of_the_run().await;
    let namespace = cluster.namespace().await;
    let account = cluster.service_account(&namespace, "builder").await;
    let node = cluster.node().await;
    let pod = cluster.pod(&namespace, "builder", &node).await;

    let request = TokenRequest::for_pod(&pod).audience("registry.test").lifetime(Duration::from_mins(20));
    let token = cluster.token(&request).await;

    let claims = part(&token, 1);
    assert_eq!(claims["iss"], cluster.issuer());
    assert_eq!(claims["aud"], json!(["registry.test"]));
    assert_eq!(claims["sub"], format!("system:serviceaccount:{namespace}:builder"));
    assert_eq!(seconds(&claims["exp"]) - seconds(&claims["iat"]), 20 * 60);
    assert!(seconds(&claims["nbf"]) <= seconds(&claims["iat"]));
    assert!(claims["jti"].is_string(), "{claims}");
    assert_eq!(
        claims["kubernetes.io"],
        json!({
            "namespace": namespace,
            "serviceaccount": {"name": "builder", "uid": account},
            "pod": {"name": pod.name, "uid": pod.uid},
            "node": {"name": node.name, "uid": node.uid},
        })
    );
}

#[tokio::test]
async fn a_token_that_is_bound_to_no_pod_names_none() {
    let _bench = workbench!("kubernetes");
    let cluster = Cluster::of_the_run().await;
    let namespace = cluster.namespace().await;
    let account = cluster.service_account(&namespace, "builder").await;

    let request = TokenRequest::of(&namespace, "builder").audience("registry.test").audience("other.test");
    let claims = part(&cluster.token(&request).await, 1);

    assert_eq!(claims["aud"], json!(["registry.test", "other.test"]));
    assert_eq!(
        claims["kubernetes.io"],
        json!({"namespace": namespace, "serviceaccount": {"name": "builder", "uid": account}})
    );
}

#[tokio::test]
async fn a_review_accepts_a_token_until_its_pod_is_deleted() {
    let _bench = workbench!("kubernetes");
    let cluster = Cluster::of_the_run().await;
    let reviewer = cluster.reviewer().await;
    let namespace = cluster.namespace().await;
    let account = cluster.service_account(&namespace, "builder").await;
    let node = cluster.node().await;
    let pod = cluster.pod(&namespace, "builder", &node).await;
    let request = TokenRequest::for_pod(&pod).audience("registry.test");
    let token = cluster.token(&request).await;
    // Never reviewed before the pod is gone, so that the API server remembers no verdict on it.
    let unseen = cluster.token(&request).await;

    let review = cluster.review(&reviewer, &token, "registry.test").await;
    assert_eq!(review["authenticated"], true, "{review}");
    assert_eq!(review["audiences"], json!(["registry.test"]));
    assert_eq!(review["user"]["username"], format!("system:serviceaccount:{namespace}:builder"));
    assert_eq!(review["user"]["uid"], account);
    let extra = &review["user"]["extra"];
    assert_eq!(extra["authentication.kubernetes.io/pod-name"], json!([pod.name]));
    assert_eq!(extra["authentication.kubernetes.io/node-name"], json!([node.name]));
    let review = cluster.review(&reviewer, &token, "other.test").await;
    assert_ne!(review["authenticated"], true, "{review}");

    cluster.delete_pod(&pod).await;

    until_refused(cluster, &reviewer, &unseen).await;
    // Ten seconds later at most.
    until_refused(cluster, &reviewer, &token).await;
}

#[tokio::test]
async fn a_review_refuses_a_token_whose_service_account_was_made_anew() {
    let _bench = workbench!("kubernetes");
    let cluster = Cluster::of_the_run().await;
    let reviewer = cluster.reviewer().await;
    let namespace = cluster.namespace().await;
    cluster.service_account(&namespace, "builder").await;
    let request = TokenRequest::of(&namespace, "builder").audience("registry.test");
    let token = cluster.token(&request).await;

    cluster.delete_service_account(&namespace, "builder").await;
    cluster.service_account(&namespace, "builder").await;

    until_refused(cluster, &reviewer, &token).await;
    let anew = cluster.token(&request).await;
    let review = cluster.review(&reviewer, &anew, "registry.test").await;
    assert_eq!(review["authenticated"], true, "{review}");
}

#[tokio::test]
async fn who_may_not_review_tokens_is_refused() {
    let _bench = workbench!("kubernetes");
    let cluster = Cluster::of_the_run().await;
    let reader = cluster.reader().await;
    let review = json!({"spec": {"token": reader}});

    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let review = Some(("application/json", review.to_string()));
    let answer = cluster.bearer(&reader).send(Method::POST, path, review).await;

    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{answer:?}");
}

#[tokio::test]
async fn the_issuers_keys_are_closed_to_strangers_and_open_to_service_accounts() {
    let _bench = workbench!("kubernetes");
    let cluster = Cluster::of_the_run().await;
    for path in [DISCOVERY, KEYS] {
        let answer = cluster.anonymous().get(path).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{answer:?}");
        let answer = cluster.bearer("nonsense").get(path).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{answer:?}");
    }

    let reader = cluster.bearer(&cluster.reader().await);
    let discovery = reader.get(DISCOVERY).await;
    let keys = reader.get(KEYS).await;

    assert_eq!(discovery.status, StatusCode::OK, "{discovery:?}");
    assert_eq!(discovery.body["issuer"], cluster.issuer());
    assert_eq!(discovery.body["jwks_uri"], cluster.jwks_url());
    assert_eq!(keys.status, StatusCode::OK, "{keys:?}");
    assert_eq!(keys.body["keys"].as_array().map(Vec::len), Some(1), "{keys:?}");
}

#[tokio::test]
async fn an_issuer_opens_its_keys_rotates_them_and_goes_down() {
    let _bench = workbench!("kubernetes");
    let mut cluster = Cluster::start().await;
    cluster.open_discovery().await;
    let namespace = cluster.namespace().await;
    cluster.service_account(&namespace, "builder").await;
    let request = TokenRequest::of(&namespace, "builder").audience("registry.test");
    let reviewer = cluster.reviewer().await;
    let first = cluster.token(&request).await;
    assert_eq!(part(&first, 0)["alg"], "RS256");
    assert_eq!(published(&cluster).await, BTreeSet::from([key_id(&first)]));

    cluster.rotate_signing_key().await;
    let second = cluster.token(&request).await;
    assert_eq!(part(&second, 0)["alg"], "ES256");
    assert_eq!(part(&second, 1)["iss"], cluster.issuer());
    assert_eq!(published(&cluster).await, BTreeSet::from([key_id(&first), key_id(&second)]));
    assert_eq!(cluster.review(&reviewer, &first, "registry.test").await["authenticated"], true);

    cluster.retire_old_keys().await;
    assert_eq!(published(&cluster).await, BTreeSet::from([key_id(&second)]));
    let reviewer = cluster.reviewer().await;
    assert_ne!(cluster.review(&reviewer, &first, "registry.test").await["authenticated"], true);
    assert_eq!(cluster.review(&reviewer, &second, "registry.test").await["authenticated"], true);

    cluster.stop();
    let certificate = std::fs::read(cluster.ca_file()).expect("read the authority's certificate");
    let certificate = reqwest::Certificate::from_pem(&certificate).expect("it is one");
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([certificate]);
    let client = client.build().expect("the certificate is good");
    let error = client.get(cluster.jwks_url()).send().await.expect_err("the issuer is down");
    assert!(error.is_connect(), "{error:?}");

    cluster.start_again().await;
    let keys = client.get(cluster.jwks_url()).send().await.expect("the issuer is up");
    assert_eq!(keys.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_node_may_request_the_audience_that_the_shipped_manifest_allows() {
    let _bench = workbench!("kubernetes");
    let cluster = Cluster::of_the_run().await;
    let namespace = cluster.namespace().await;
    cluster.service_account(&namespace, "builder").await;
    let node = cluster.node().await;
    let pod = cluster.pod(&namespace, "builder", &node).await;
    let request = TokenRequest::for_pod(&pod).audience(MANIFEST_AUDIENCE);
    let refusal = cluster.token_for_node(&node, &request).await.expect_err("nobody has allowed it");
    assert_eq!(refusal.status, StatusCode::FORBIDDEN);
    let message = refusal.body["message"].as_str().expect("a refusal has a message");
    let expected = format!("not authorized to request tokens for audience \"{MANIFEST_AUDIENCE}\"");
    assert!(message.contains(&expected), "{message}");

    cluster.allow_audience(MANIFEST_AUDIENCE).await;

    let token = cluster.token_for_node(&node, &request).await.expect("the manifest allows it");
    let claims = part(&token, 1);
    assert_eq!(claims["aud"], json!([MANIFEST_AUDIENCE]));
    assert_eq!(claims["kubernetes.io"]["node"]["name"], node.name.as_str());

    // It allows that audience, for the pods of the node that asks.
    let other = TokenRequest::for_pod(&pod).audience("registry.example.com.evil.test");
    let refusal = cluster.token_for_node(&node, &other).await.expect_err("nobody has allowed it");
    assert_eq!(refusal.status, StatusCode::FORBIDDEN, "{refusal:?}");
    let unbound = TokenRequest::of(&namespace, "builder").audience(MANIFEST_AUDIENCE);
    let refusal = cluster.token_for_node(&node, &unbound).await.expect_err("it is bound to no pod");
    assert_eq!(refusal.status, StatusCode::FORBIDDEN, "{refusal:?}");
    let stranger = cluster.node().await;
    let refusal = cluster.token_for_node(&stranger, &request).await.expect_err("the pod is not its");
    assert_eq!(refusal.status, StatusCode::FORBIDDEN, "{refusal:?}");
}

#[tokio::test]
async fn the_manifest_works_for_another_audience() {
    let _bench = workbench!("kubernetes");
    let cluster = Cluster::of_the_run().await;
    let namespace = cluster.namespace().await;
    cluster.service_account(&namespace, "builder").await;
    let node = cluster.node().await;
    let pod = cluster.pod(&namespace, "builder", &node).await;
    let request = TokenRequest::for_pod(&pod).audience("127.0.0.1:5000");
    cluster.token_for_node(&node, &request).await.expect_err("nobody has allowed it");

    cluster.allow_audience("127.0.0.1:5000").await;

    cluster.token_for_node(&node, &request).await.expect("the manifest allows it");
}

#[tokio::test]
async fn a_nodes_certificate_counts_only_from_the_clusters_authority() {
    let _bench = workbench!("kubernetes");
    let cluster = Cluster::of_the_run().await;
    let node = cluster.node().await;
    let path = format!("/api/v1/nodes/{}", node.name);

    let answer = cluster.with_certificate(&node.certificate).get(&path).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(answer.body["metadata"]["uid"], node.uid.as_str());

    let another = Authority::new();
    let forged = another.user(&format!("system:node:{}", node.name), "system:nodes");
    let answer = cluster.with_certificate(&forged).get(&path).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{answer:?}");
}

/// Reviews a token until the API server knows that it is no longer good.
async fn until_refused(cluster: &Cluster, reviewer: &str, token: &str) {
    let refused = async {
        while cluster.review(reviewer, token, "registry.test").await["authenticated"] == true {
            time::sleep(Duration::from_millis(100)).await;
        }
    };
    time::timeout(PATIENCE, refused).await.expect("the token is still good");
}

/// The ids of the keys that the issuer shows to anybody.
async fn published(cluster: &Cluster) -> BTreeSet<String> {
    let keys = cluster.anonymous().get(KEYS).await;
    assert_eq!(keys.status, StatusCode::OK, "{keys:?}");
    let keys = keys.body["keys"].as_array().expect("a list of keys").clone();
    keys.iter().map(|key| key["kid"].as_str().expect("a key has an id").to_owned()).collect()
}

fn key_id(token: &str) -> String {
    part(token, 0)["kid"].as_str().expect("a token names its key").to_owned()
}

/// The header (0) or the claims (1) of a token.
fn part(token: &str, number: usize) -> Value {
    let part = token.split('.').nth(number).expect("a token has three parts");
    let part = URL_SAFE_NO_PAD.decode(part).expect("a token is base64url");
    serde_json::from_slice(&part).expect("a token is JSON")
}

fn seconds(claim: &Value) -> i64 {
    claim.as_i64().expect("a time is a number")
}
