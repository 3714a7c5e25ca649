//! Client certificates over TLS: nodes of clusters, and whoever another CA vouches for.

use std::{fs, path::Path, process::Command};

use reqwest::Method;
use serde_json::{Value, json};

use super::scenes::{basic, bearer, cast, claims, push_as, robot};
use crate::{
    harness::{
        Cluster, Server, Tls, process,
        run::{self, folder},
        server::provider,
        tls::{Authority, Pair},
        tools::workbench,
    },
    operation::scenes::eventually,
    protocol::wire::{Answer, Berth},
};

/// What nodes may do.
const NODES: &str = "[[auth.rule]]\nname = \"nodes\"\nidentities = [\"node:prod/*\"]\n\
                     repositories = [\"team/**\"]\nactions = [\"pull\"]\n";
const SCOPE: &str = "repository:team/app:pull";

/// A cluster whose nodes show certificates of a CA. Nobody comes with its tokens here.
fn cluster(name: &str, client_ca: &Path) -> String {
    format!(
        "[[auth.cluster]]\nname = \"{name}\"\nissuer = \"https://{name}.test\"\naudience = \"registry.test\"\n\
         client_ca_file = \"{}\"\n",
        client_ca.display()
    )
}

fn node(authority: &Authority, name: &str) -> Pair {
    authority.user(&format!("system:node:{name}"), "system:nodes")
}

/// A registry over TLS with an image for nodes, and who signs for them.
async fn registry(client_ca: &Path) -> Berth {
    let config = format!("{}{NODES}{}", cast(), cluster("prod", client_ca));
    let berth = Berth::of(Server::builder().tls().config(&config).start().await);
    for repository in ["team/app", "private/app"] {
        push_as(&berth, &robot("admin"), repository, "v1", 1).await.put.is(201);
    }
    berth
}

/// Somebody who shows a certificate, or none, on a connection of their own.
struct Client<'a> {
    host: &'a str,
    client: reqwest::Client,
}

impl<'a> Client<'a> {
    fn showing(host: &'a str, tls: &Tls, pair: Option<&Pair>) -> Self {
        let client = tls.client().http1_only();
        let client = match pair {
            Some(pair) => client.identity(pair.identity()),
            None => client,
        };
        Self { host, client: client.build().expect("a client") }
    }

    fn of(berth: &'a Berth, pair: &Pair) -> Self {
        Self::showing(berth.server.host(), berth.server.tls(), Some(pair))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        authorization: Option<&str>,
        form: &[(&str, &str)],
    ) -> reqwest::Result<Answer> {
        let mut request = self.client.request(method.clone(), format!("https://{}{path}", self.host));
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        if method == Method::POST {
            let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
            request = request.header("content-type", "application/x-www-form-urlencoded").body(body);
        }
        let answer = request.send().await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Ok(Answer { status, headers, body: answer.bytes().await?.to_vec() })
    }

    async fn get(&self, path: &str, authorization: Option<&str>) -> Answer {
        self.send(Method::GET, path, authorization, &[]).await.expect("an answer")
    }

    /// Who the token is of that this client gets.
    async fn subject(&self) -> reqwest::Result<String> {
        let answer = self.send(Method::GET, "/token?service=registry.test", None, &[]).await?;
        let token = answer.is(200).json()["token"].as_str().expect("a token").to_owned();
        Ok(claims(&token)["sub"].as_str().expect("a token has a subject").to_owned())
    }

    /// What the handshake says to it.
    async fn is_turned_away(&self) -> String {
        format!("{:?}", self.subject().await.expect_err("its certificate is not taken"))
    }
}

#[tokio::test]
async fn a_node_pulls_with_the_certificate_of_its_kubelet() {
    let authority = Authority::new();
    let berth = registry(&authority.file()).await;
    let pair = node(&authority, "worker-1.example");
    let client = Client::of(&berth, &pair);
    let (mine, hidden) = ("/v2/team/app/manifests/v1", "/v2/private/app/manifests/v1");

    // As clients of OAuth ask, and as docker does.
    let form = [("grant_type", "client_credentials"), ("service", "registry.test"), ("scope", SCOPE)];
    let posted = client.send(Method::POST, "/token", None, &form).await.expect("an answer");
    let got =
        client.get(&format!("/token?service=registry.test&offline_token=true&scope={SCOPE}"), None).await;

    for answer in [&posted, &got] {
        let body = answer.is(200).json();
        assert!(body.get("refresh_token").is_none(), "a certificate makes nothing that lasts: {body}");
        let token = body["access_token"].as_str().expect("a token");
        let says = claims(token);
        assert_eq!(says["sub"], "node:prod/worker-1.example");
        assert_eq!(says["berth"]["attributes"], json!({"cluster": "prod", "node": "worker-1.example"}));
        let access = json!([{ "type": "repository", "name": "team/app", "actions": ["pull"] }]);
        assert_eq!(says["access"], access);
        // The token is good without the certificate: it is the container runtime that uses it.
        let token = bearer(token);
        let headers = [("authorization", token.as_str())];
        berth.send("GET", mine, &headers, Vec::new()).await.is(200);
        berth.send("GET", hidden, &headers, Vec::new()).await.is_refused(404, "NAME_UNKNOWN");
    }
    // The certificate says it all, without any token.
    client.get(mine, None).await.is(200);
    client.get(hidden, None).await.is_refused(404, "NAME_UNKNOWN");
    // What is shown beside it is stronger.
    client.get(hidden, Some(&robot("puller"))).await.is(200);
    client.get(mine, Some(&basic("x", "y"))).await.is_refused(401, "UNAUTHORIZED");
    // Nobody need show one, and then is nobody.
    let nobody = Client::showing(berth.server.host(), berth.server.tls(), None);
    nobody.get(mine, None).await.is_refused(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn a_certificate_that_is_no_nodes_is_refused_with_the_reason() {
    let (authority, stranger) = (Authority::called("kubernetes"), Authority::called("a stranger"));
    // Most clusters call theirs so.
    let same_name = Authority::called("kubernetes");
    let berth = registry(&authority.file()).await;
    let paths = [
        (Method::POST, "/token"),
        (Method::GET, "/token"),
        (Method::GET, "/v2/team/app/manifests/v1"),
        (Method::GET, "/v2/"),
    ];
    for (pair, reason) in [
        (authority.user("system:node:worker-1", "system:masters"), "not system:nodes alone"),
        (authority.user("worker-1", "system:nodes"), "not system:node:NAME"),
        (authority.user("system:node:../worker", "system:nodes"), "not system:node:NAME"),
        (authority.client("worker-1.example"), "not system:nodes alone"),
    ] {
        let client = Client::of(&berth, &pair);
        for (method, path) in paths.clone() {
            let form = [("grant_type", "client_credentials"), ("scope", SCOPE)];
            let answer = client.send(method, path, None, &form).await.expect("an answer");
            answer.is_refused(401, "UNAUTHORIZED");
            assert!(answer.text().contains(reason), "{path}: {}", answer.text());
        }
    }
    // Others do not get as far as a request: TLS itself says why.
    for (pair, alert) in [
        (node(&stranger, "worker-1"), "UnknownCA"),
        (node(&same_name, "worker-1"), "DecryptError"),
        (authority.user_until(2001, "system:node:worker-1", "system:nodes"), "CertificateExpired"),
        // It is good for a server, and not for a client.
        (authority.server(), "UnsupportedCertificate"),
    ] {
        let said = Client::of(&berth, &pair).is_turned_away().await;
        assert!(said.contains(alert), "{alert}: {said}");
    }
    let said = eventually("all four are in the audit log", async || {
        let said = berth.server.said();
        (said.matches("refused a client certificate").count() == 4).then_some(said)
    })
    .await;
    assert!(said.contains("UnknownIssuer") && said.contains("client=127.0.0.1"), "{said}");
}

#[tokio::test]
async fn cas_are_named_where_their_holders_are_and_read_again_when_they_change() {
    let tls = Tls::new();
    let [nodes, machines, next] = [Authority::new(), Authority::new(), Authority::new()];
    let place = folder("cas");
    let file = |name: &str| place.path().join(name);
    let write = |name: &str, content: &str| fs::write(file(name), content).expect("write a CA");
    write("nodes.crt", &nodes.pem());
    write("machines.crt", &machines.pem());
    let config = format!(
        "{}\n[metrics]\nlisten = \"127.0.0.1:0\"\n{}{}[[auth.certificate]]\nname = \"machines\"\n\
         ca_file = {:?}\nname_from = \"dns\"\n",
        tls.config(),
        cast(),
        cluster("prod", &file("nodes.crt")),
        file("machines.crt"),
    );
    let server = Server::builder().config(&config).start().await;
    let subject = async |pair: Option<&Pair>| Client::showing(server.host(), &tls, pair).subject().await;
    let (node_1, machine, newer) = (node(&nodes, "n1"), machines.client("m1.test"), next.client("m2.test"));

    assert_eq!(subject(None).await.expect("nobody need show one"), "");
    assert_eq!(subject(Some(&node_1)).await.expect("the cluster's CA signed it"), "node:prod/n1");
    assert_eq!(subject(Some(&machine)).await.expect("the CA signed it"), "certificate:machines/m1.test");
    subject(Some(&newer)).await.expect_err("nobody knows who signed it");

    // A file of no use leaves what was, and keeps nothing else from being taken.
    write("nodes.crt", "nonsense");
    write("machines.crt", &next.pem());
    let known = eventually("the new CA is known", async || subject(Some(&newer)).await.ok()).await;
    assert_eq!(known, "certificate:machines/m2.test");
    subject(Some(&machine)).await.expect_err("its CA is not trusted any more");
    assert_eq!(subject(Some(&node_1)).await.expect("its CA stays"), "node:prod/n1");
    let renewed = tls.authority.server();
    tls.swap(&[("tls.crt", &renewed.certificate), ("tls.key", &renewed.key)]);
    server.until_said("took a new certificate").await;
    assert_eq!(server.said().matches("those before stay: the CA of prod").count(), 1, "{}", server.said());

    write("nodes.crt", &format!("{}{}", nodes.pem(), machines.pem()));
    let other = node(&machines, "n2");
    let known = eventually("both CAs are known", async || subject(Some(&other)).await.ok()).await;
    assert_eq!(known, "node:prod/n2");
    assert_eq!(subject(Some(&node_1)).await.expect("its CA is still there"), "node:prod/n1");
}

/// What the kubelet gives to its providers.
fn request(image: &str) -> String {
    json!({
        "kind": "CredentialProviderRequest",
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "image": image,
        "serviceAccountAnnotations": null,
    })
    .to_string()
}

/// The provider as a kubelet starts it for a pod without a service account.
fn provided(berth: &Berth, place: &Path, certificate: &Path, image: &str) -> Command {
    let input = place.join("request.json");
    fs::write(&input, request(image)).expect("write a request");
    let mut command = provider();
    command.env_clear().stdin(fs::File::open(&input).expect("open the request"));
    command.arg("--ca-file").arg(berth.server.tls().authority.file());
    command.arg("--node-certificate").arg(certificate);
    command
}

#[tokio::test]
async fn the_provider_pulls_as_the_node_for_who_has_no_service_account() {
    let (authority, stranger) = (Authority::new(), Authority::called("a stranger"));
    let berth = registry(&authority.file()).await;
    let place = folder("kubelet");
    let image = format!("{}/team/app", berth.server.host());
    let pair = node(&authority, "worker-1");

    let answer = process::run(provided(&berth, place.path(), &pair.file, &(image.clone() + ":v1"))).await;

    let answer: Value = serde_json::from_str(&answer.text()).expect("JSON");
    assert_eq!(answer["kind"], "CredentialProviderResponse");
    // Four fifths of five minutes.
    assert_eq!((&answer["cacheKeyType"], &answer["cacheDuration"]), (&json!("Registry"), &json!("240s")));
    let credential = &answer["auth"][berth.server.host()];
    let [user, password] = ["username", "password"].map(|name| credential[name].as_str().expect("text"));
    assert_eq!(claims(password)["sub"], "node:prod/worker-1");
    // As the container runtime goes on with it.
    let path = format!("/token?service=registry.test&scope={SCOPE}");
    let headers = [("authorization", &*basic(user, password))];
    let given = berth.send("GET", &path, &headers, Vec::new()).await;
    let given = bearer(given.is(200).json()["token"].as_str().expect("a token"));
    let headers = [("authorization", given.as_str())];
    berth.send("GET", "/v2/team/app/manifests/v1", &headers, Vec::new()).await.is(200);

    // It is for all that the node may pull, and for nothing else.
    let path = "/token?service=registry.test&scope=repository:private/app:pull";
    let headers = [("authorization", &*basic(user, password))];
    let given = berth.send("GET", path, &headers, Vec::new()).await;
    let given = bearer(given.is(200).json()["token"].as_str().expect("a token"));
    let headers = [("authorization", given.as_str())];
    berth.send("GET", "/v2/private/app/manifests/v1", &headers, Vec::new()).await.is(404);

    for (pair, reason) in [
        (node(&stranger, "worker-1"), "UnknownCA"),
        (authority.user_until(2001, "system:node:worker-1", "system:nodes"), "CertificateExpired"),
        (authority.user("system:node:worker-1", "system:masters"), "answered 401: UNAUTHORIZED"),
    ] {
        let said = process::run_and_fail(provided(&berth, place.path(), &pair.file, &image)).await;
        assert!(said.contains(reason), "{reason}: {said}");
        assert!(!said.contains("CredentialProviderResponse"), "{said}");
    }
}

#[tokio::test]
async fn a_node_of_a_real_cluster_pulls_with_what_that_cluster_signed() {
    let _bench = workbench!("kubernetes");
    let cluster = Cluster::of_the_run().await;
    let berth = registry(&cluster.ca_file()).await;
    let node = cluster.node().await;
    let place = run::folder("kubelet");
    let image = format!("{}/team/app", berth.server.host());

    let answer = process::run(provided(&berth, place.path(), &node.certificate.file, &image)).await;

    let answer: Value = serde_json::from_str(&answer.text()).expect("JSON");
    let password = answer["auth"][berth.server.host()]["password"].as_str().expect("a password");
    assert_eq!(claims(password)["sub"], format!("node:prod/{}", node.name));
    let client = Client::of(&berth, &node.certificate);
    client.get("/v2/team/app/manifests/v1", None).await.is(200);
}
