//! Pods of real clusters pull with the tokens they have anyway.

use std::{fs, path::Path, time::Duration};

use super::scenes::{ask_token, basic, bearer, cast, claims, post_token, push_as, robot};
use crate::{
    harness::{
        Cluster, Server,
        kubernetes::TokenRequest,
        process, run,
        server::{Builder, provider},
        tools::workbench,
    },
    operation::scenes::eventually,
    protocol::wire::Berth,
};

const AUDIENCE: &str = "registry.test";

/// A cluster as the configuration names it. Its discovery is closed, so the keys are read with a token.
fn entry(name: &str, cluster: &Cluster, token_file: &Path, more: &str) -> String {
    format!(
        "[[auth.cluster]]\nname = \"{name}\"\nissuer = \"{}\"\naudience = \"{AUDIENCE}\"\nca_file = \"{}\"\n\
         bearer_token_file = \"{}\"\n{more}\n",
        cluster.issuer(),
        cluster.ca_file().display(),
        token_file.display()
    )
}

/// What pods may do: pull what belongs to their namespace.
const OWN: &str = "[[auth.rule]]\nname = \"own namespace\"\nidentities = [\"serviceaccount:prod/*/*\"]\n\
                   repositories = [\"${namespace}/**\"]\nactions = [\"pull\"]\n";

fn builder(entries: &str) -> Builder {
    Server::builder().config(&cast()).config(OWN).config(entries)
}

/// Whether a credential pulls a repository's image.
async fn pulls(berth: &Berth, credential: &str, repository: &str) -> u16 {
    let path = format!("/v2/{repository}/manifests/v1");
    berth.send("GET", &path, &[("authorization", credential)], Vec::new()).await.status
}

#[tokio::test]
async fn a_pod_pulls_what_is_its_namespaces_with_the_token_it_has() {
    let _bench = workbench!("kubernetes");
    let cluster = Cluster::of_the_run().await;
    let folder = run::folder("cluster");
    let token_file = folder.path().join("reader");
    fs::write(&token_file, cluster.reader().await).expect("write a token");
    let berth = Berth::of(builder(&entry("prod", cluster, &token_file, "")).start().await);
    let (mine, other) = (cluster.namespace().await, cluster.namespace().await);
    cluster.service_account(&mine, "app").await;
    let node = cluster.node().await;
    let pod = cluster.pod(&mine, "app", &node).await;
    for namespace in [&mine, &other] {
        push_as(&berth, &robot("admin"), &format!("{namespace}/web"), "v1", 1).await.put.is(201);
    }

    let token = cluster.token(&TokenRequest::for_pod(&pod).audience(AUDIENCE)).await;

    // As a password, wherever a password is asked for.
    assert_eq!(pulls(&berth, &basic("anybody", &token), &format!("{mine}/web")).await, 200);
    assert_eq!(pulls(&berth, &basic("anybody", &token), &format!("{other}/web")).await, 404);
    let asked = format!("&scope=repository:{mine}/web:pull,push&scope=repository:{other}/web:pull");
    for credential in [basic("x", &token), bearer(&token)] {
        let answer = ask_token(&berth, &credential, &asked).await;
        let given = answer.is(200).json()["token"].as_str().expect("a token").to_owned();
        let says = claims(&given);
        assert_eq!(says["sub"], format!("serviceaccount:prod/{mine}/app"));
        assert_eq!(
            says["access"],
            serde_json::json!([{ "type": "repository", "name": format!("{mine}/web"), "actions": ["pull"] }])
        );
        assert_eq!(says["berth"]["attributes"]["pod"], pod.name);
        assert_eq!(says["berth"]["attributes"]["node"], node.name);
        assert_eq!(pulls(&berth, &bearer(&given), &format!("{mine}/web")).await, 200);
    }
    // By exchange, as the credential provider does.
    let fields = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token", token.as_str()),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
        ("scope", &format!("repository:{mine}/web:pull")),
    ];
    let answer = post_token(&berth, "/token", &fields).await;
    let given = bearer(answer.is(200).json()["access_token"].as_str().expect("a token"));
    assert_eq!(pulls(&berth, &given, &format!("{mine}/web")).await, 200);

    let elsewhere = cluster.token(&TokenRequest::for_pod(&pod).audience("other.test")).await;
    let refused = ask_token(&berth, &basic("x", &elsewhere), "").await;
    refused.is_refused(401, "UNAUTHORIZED");
    assert!(refused.text().contains(AUDIENCE) && refused.text().contains("other.test"), "{}", refused.text());
}

#[tokio::test]
async fn the_token_of_a_deleted_pod_stops_working_where_tokens_are_reviewed() {
    let _bench = workbench!("kubernetes");
    let cluster = Cluster::of_the_run().await;
    let folder = run::folder("cluster");
    let token_file = folder.path().join("reviewer");
    fs::write(&token_file, cluster.reviewer().await).expect("write a token");
    let berth = Berth::of(builder(&entry("prod", cluster, &token_file, "token_review = true")).start().await);
    let namespace = cluster.namespace().await;
    cluster.service_account(&namespace, "app").await;
    let node = cluster.node().await;
    let pod = cluster.pod(&namespace, "app", &node).await;
    let repository = format!("{namespace}/web");
    push_as(&berth, &robot("admin"), &repository, "v1", 1).await.put.is(201);
    let token = cluster.token(&TokenRequest::for_pod(&pod).audience(AUDIENCE)).await;
    let credential = basic("x", &token);
    assert_eq!(pulls(&berth, &credential, &repository).await, 200);

    cluster.delete_pod(&pod).await;

    // The API server itself remembers its verdict for ten seconds.
    eventually("the token is refused", async || {
        (pulls(&berth, &credential, &repository).await == 401).then_some(())
    })
    .await;
}

#[tokio::test]
async fn nothing_that_lasts_is_made_of_a_token_that_is_reviewed() {
    let _bench = workbench!("kubernetes");
    let cluster = Cluster::of_the_run().await;
    let folder = run::folder("cluster");
    let token_file = folder.path().join("reviewer");
    fs::write(&token_file, cluster.reviewer().await).expect("write a token");
    let mut berth = Berth::of(builder(&entry("prod", cluster, &token_file, "")).tls().start().await);
    let namespace = cluster.namespace().await;
    cluster.service_account(&namespace, "app").await;
    let node = cluster.node().await;
    let pod = cluster.pod(&namespace, "app", &node).await;
    let repository = format!("{namespace}/web");
    push_as(&berth, &robot("admin"), &repository, "v1", 1).await.put.is(201);
    let token = cluster.token(&TokenRequest::for_pod(&pod).audience(AUDIENCE)).await;
    let scope = format!("repository:{repository}:pull");
    let exchange = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token", token.as_str()),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
        ("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token"),
        ("scope", &scope),
    ];
    let query = format!("&offline_token=true&scope={scope}");
    // Without a review there is a refresh token, as long as the token is good.
    let lasting = post_token(&berth, "/token", &exchange).await.is(200).json();
    assert_eq!(lasting["issued_token_type"], "urn:ietf:params:oauth:token-type:refresh_token");
    let lasting = basic("x", lasting["access_token"].as_str().expect("a token"));
    ask_token(&berth, &lasting, &query).await.is(200);

    let config = fs::read_to_string(berth.server.config()).expect("read the configuration");
    let entry = "[[auth.cluster]]\n";
    assert!(config.contains(entry), "{config}");
    let reviewing = config.replace(entry, &format!("{entry}token_review = true\n"));
    fs::write(berth.server.config(), reviewing).expect("write the configuration");
    berth.server.restart().await;

    let refused = ask_token(&berth, &lasting, &query).await;
    refused.is_refused(401, "UNAUTHORIZED");
    assert!(refused.text().contains("prod vouches for no session any more"), "{}", refused.text());
    let got = ask_token(&berth, &basic("x", &token), &query).await.is(200).json();
    assert!(got.get("refresh_token").is_none(), "{got}");
    let short = post_token(&berth, "/token", &exchange).await.is(200).json();
    assert_eq!(short["issued_token_type"], "urn:ietf:params:oauth:token-type:access_token");
    assert_eq!((&short["expires_in"], &short["scope"]), (&serde_json::json!(300), &serde_json::json!(scope)));
    let short = short["access_token"].as_str().expect("a token").to_owned();
    assert_eq!(pulls(&berth, &bearer(&short), &repository).await, 200);
    let fields = [("grant_type", "access_token"), ("access_token", token.as_str())];
    post_token(&berth, "/oauth2/exchange", &fields).await.is_refused(400, "UNSUPPORTED");

    // The kubelet's provider makes do with that.
    let provided = || {
        let request = serde_json::json!({
            "kind": "CredentialProviderRequest",
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            "image": format!("{}/{repository}:v1", berth.server.host()),
            "serviceAccountToken": token,
        });
        let input = folder.path().join("request.json");
        fs::write(&input, request.to_string()).expect("write a request");
        let mut command = provider();
        command.env_clear().stdin(fs::File::open(&input).expect("open the request"));
        command.arg("--ca-file").arg(berth.server.tls().authority.file());
        command
    };
    let answer = process::run(provided()).await.text();
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer["cacheDuration"], "240s");
    let credential = &answer["auth"][berth.server.host()];
    let password = credential["password"].as_str().expect("a password");
    assert_eq!(pulls(&berth, &bearer(password), &repository).await, 200);

    cluster.delete_pod(&pod).await;

    eventually("the token is refused", async || {
        (ask_token(&berth, &basic("x", &token), &query).await.status == 401).then_some(())
    })
    .await;
    post_token(&berth, "/token", &exchange).await.is_refused(401, "UNAUTHORIZED");
    let said = process::run_and_fail(provided()).await;
    assert!(said.contains("answered 401: UNAUTHORIZED"), "{said}");
    // What it was given before lasts for what is left of its five minutes, and makes nothing that lasts longer.
    let again = ask_token(&berth, &basic("x", &short), &query).await.is(200).json();
    assert!(again.get("refresh_token").is_none(), "{again}");
    let again = again["token"].as_str().expect("a token");
    assert_eq!(claims(again)["exp"], claims(&short)["exp"]);
}

#[tokio::test]
async fn two_clusters_are_told_apart_and_a_cluster_nobody_trusts_is_refused() {
    let _bench = workbench!("kubernetes");
    let cluster = Cluster::of_the_run().await;
    let mut foreign = Cluster::start().await;
    foreign.open_discovery().await;
    let folder = run::folder("cluster");
    let token_file = folder.path().join("reader");
    fs::write(&token_file, cluster.reader().await).expect("write a token");
    let prod = entry("prod", cluster, &token_file, "");
    let berth = Berth::of(builder(&prod).start().await);
    let second = format!(
        "[[auth.cluster]]\nname = \"stage\"\nissuer = \"{}\"\naudience = \"{AUDIENCE}\"\nca_file = \"{}\"\n",
        foreign.issuer(),
        foreign.ca_file().display()
    );
    let both = Berth::of(builder(&format!("{prod}{second}")).start().await);
    let namespace = foreign.namespace().await;
    foreign.service_account(&namespace, "app").await;
    let token = foreign.token(&TokenRequest::of(&namespace, "app").audience(AUDIENCE)).await;
    ask_token(&berth, &basic("x", &token), "").await.is_refused(401, "UNAUTHORIZED");
    let known = ask_token(&both, &basic("x", &token), "").await;
    let says = claims(known.is(200).json()["token"].as_str().expect("a token"));
    assert_eq!(says["sub"], format!("serviceaccount:stage/{namespace}/app"));

    // A new key of the cluster's is found, and while the cluster is down its tokens are good all the same.
    foreign.rotate_signing_key().await;
    let request = TokenRequest::of(&namespace, "app").audience(AUDIENCE).lifetime(Duration::from_mins(20));
    let newer = foreign.token(&request).await;
    ask_token(&both, &basic("x", &newer), "").await.is(200);
    ask_token(&both, &basic("x", &token), "").await.is(200);
    foreign.stop();
    ask_token(&both, &basic("x", &newer), "").await.is(200);
}
