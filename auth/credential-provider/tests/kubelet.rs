//! The provider, driven as the kubelet drives it.

mod model;

use std::time::{Duration, Instant};

use berth_test_token_service::{Authority, Exchanged, Metadata, Reply, TokenService, jwt};
use serde_json::json;

use crate::model::{Kubelet, Pod, Run, provider, request, spawn};

const ACCOUNT: &str = "system:serviceaccount:shop:web";

fn token(name: &str) -> String {
    jwt(&json!({"sub": name, "aud": ["berth"], "exp": 4_000_000_000_u64}))
}

/// A token service that knows the account `shop/web` and lets it pull `team/app`.
struct Scene {
    service: TokenService,
    folder: tempfile::TempDir,
    token: String,
}

impl Scene {
    fn new() -> Self {
        let scene = Self {
            service: TokenService::start(),
            folder: tempfile::tempdir().unwrap(),
            token: token(ACCOUNT),
        };
        scene.service.know(&scene.token, ACCOUNT);
        scene.service.allow(ACCOUNT, "team/app");
        scene.service.ca_file(scene.folder.path());
        scene
    }

    fn flags(&self, more: &[&str]) -> Vec<String> {
        let ca = self.folder.path().join("ca.pem");
        let ca = ["--ca-file", ca.to_str().unwrap()];
        ca.iter().chain(more).map(|flag| (*flag).to_owned()).collect()
    }

    fn image(&self) -> String {
        format!("{}/team/app", self.service.host())
    }

    fn run(&self, more: &[&str]) -> Run {
        provider(&self.flags(more), &request(&self.image(), &self.token, &json!(null)))
    }

    fn node_certificate(&self, name: &str) -> String {
        let path = self.folder.path().join(format!("{name}.pem"));
        std::fs::write(&path, self.service.authority().client(&format!("system:node:{name}"))).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[test]
fn a_service_account_gets_a_token_for_what_it_may_pull() {
    let scene = Scene::new();
    scene.service.allow(ACCOUNT, "team/base");
    for suffix in ["", ":v1", &format!(":v1@sha256:{}", "a".repeat(64))] {
        let request = request(&(scene.image() + suffix), &scene.token, &json!({"a": "b"}));
        let answer = provider(&scene.flags(&[]), &request).answer();
        assert_eq!(answer["apiVersion"], "credentialprovider.kubelet.k8s.io/v1");
        assert_eq!(answer["kind"], "CredentialProviderResponse");
        assert_eq!(
            (&answer["cacheKeyType"], &answer["cacheDuration"]),
            (&json!("Registry"), &json!("2880s"))
        );
        assert_eq!(answer["auth"].as_object().unwrap().keys().collect::<Vec<_>>(), [&scene.service.host()]);
        let credential = &answer["auth"][scene.service.host()];
        assert_eq!(credential["username"], "berth");
        let password = credential["password"].as_str().unwrap();
        assert!(scene.service.opens(password, "team/app") && scene.service.opens(password, "team/base"));
        assert!(!scene.service.opens(password, "team/other"));
    }
    let exchanges = scene.service.exchanges();
    assert_eq!(exchanges.len(), 3);
    for exchange in exchanges {
        assert_eq!((exchange.identity.as_str(), exchange.refresh), (ACCOUNT, true));
        assert_eq!(exchange.scope.as_deref(), Some("repository:*:pull"));
        assert_eq!(exchange.client, "berth-credential-provider");
    }
    assert_eq!(scene.service.connections(), 3, "a run takes one connection");
}

#[test]
fn a_token_near_its_end_is_not_kept() {
    let scene = Scene::new();
    let kept = [
        (Some(1), "0s"),
        (Some(59), "0s"),
        (Some(60), "48s"),
        (None, "48s"),
        (Some(4500), "3600s"),
        (Some(u64::MAX), "3600s"),
    ];
    for (seconds, kept) in kept {
        scene.service.expire_in(seconds);
        assert_eq!(scene.run(&[]).answer()["cacheDuration"], kept, "{seconds:?}");
    }
}

#[test]
fn an_image_of_another_registry_gets_an_empty_answer_and_no_token_leaves() {
    let scene = Scene::new();
    let (host, ours) = (scene.service.host(), scene.image());
    for (image, registry) in [
        ("hub.example/library/nginx", host.as_str()),
        ("nginx", host.as_str()),
        ("library/nginx:1", host.as_str()),
        (ours.as_str(), "registry.example"),
        // Another port is another registry.
        (ours.as_str(), "127.0.0.1"),
    ] {
        let run =
            provider(&scene.flags(&["--registry", registry]), &request(image, &scene.token, &json!(null)));
        let answer = run.answer();
        assert_eq!((&answer["auth"], &answer["cacheKeyType"]), (&json!({}), &json!("Registry")), "{image}");
    }
    assert_eq!(scene.service.requests(), 0);
    let answer = scene.run(&["--registry", "registry.example", "--registry", &host]).answer();
    assert_eq!(answer["auth"].as_object().unwrap().len(), 1);
}

#[test]
fn bad_requests_are_refused_without_a_word_of_the_token() {
    let scene = Scene::new();
    let (good, token) = (request(&scene.image(), &scene.token, &json!(null)), &scene.token);
    let v1 = "credentialprovider.kubelet.k8s.io/v1";
    let refused = |input: &str, reason: &str| {
        let run = provider(&scene.flags(&[]), input);
        run.refused(reason);
        assert!(!run.stderr.contains(&token[..20]), "{}", run.stderr);
    };
    refused("", "no request");
    refused(" \n", "no request");
    refused("{", "no JSON");
    refused("[]", "of version \"\"");
    refused(token, "no CredentialProviderRequest");
    refused(&format!("{good}{good}"), "no CredentialProviderRequest");
    refused(&good.replace(&scene.image(), ""), "names no image");
    refused(&good.replace("\"image\"", "\"picture\""), "no CredentialProviderRequest");
    refused(
        &good.replace(v1, &format!("{v1}beta1")),
        "v1beta1\", and credentialprovider.kubelet.k8s.io/v1 is what",
    );
    refused(&good.replace(v1, &format!("{v1}alpha1")), "v1alpha1");
    refused(&good.replace("CredentialProviderRequest", "Pod"), "kind \"Pod\"");
    refused(&request("https://r.example/a", token, &json!(null)), "no image reference");
    refused(&request(&format!("{}/A", scene.service.host()), token, &json!(null)), "no image reference");
    refused(&request("a b", token, &json!(null)), "no image reference");
    refused(&request(&scene.image(), &format!("{token}\nX"), &json!(null)), "a line break");
    refused(&request(&scene.image(), &format!("{token}\r\n"), &json!(null)), "a line break");
    refused(&request(&scene.image(), "", &json!(null)), "no service account token");
    refused(&request(&scene.image(), token, &json!("text")), "no CredentialProviderRequest");
    refused(&request(&scene.image(), &"x".repeat(2 << 20), &json!(null)), "larger than 1 MiB");
    refused(&request(&scene.image(), &"x".repeat(100_000), &json!(null)), "larger than 64 KiB");
    assert!(scene.service.exchanges().is_empty());
}

#[test]
fn a_server_that_recovers_in_time_costs_a_moment_only() {
    let scene = Scene::new();
    scene.service.reply_once(Reply::oci_error(503, "UNAVAILABLE", "starting"));
    scene.service.reply_once(Reply::Close);
    scene.service.reply_once(Reply::oci_error(503, "UNAVAILABLE", "starting").with("Retry-After", "1"));
    scene.service.reply_once(Reply::text(429, ""));
    let run = scene.run(&[]);
    run.answer();
    assert!(run.took >= Duration::from_secs(1) && run.took < Duration::from_secs(6), "{:?}", run.took);
}

#[test]
fn a_server_that_says_nothing_is_asked_anew() {
    let scene = Scene::new();
    scene.service.reply_once(Reply::Silence);
    let run = scene.run(&["--timeout", "20s"]);
    run.answer();
    assert!(run.took < Duration::from_secs(10), "{:?}", run.took);
}

#[test]
fn the_time_limit_holds_whatever_the_server_does() {
    let scene = Scene::new();
    let late = Reply::Late(Duration::from_secs(30), Box::new(Reply::Close));
    for (reply, reason) in [
        (Reply::Silence, "no answer in time"),
        (late, "no answer in time"),
        (Reply::Close, "cannot reach"),
        (
            Reply::oci_error(503, "UNAVAILABLE", "the database is away"),
            "503: UNAVAILABLE: the database is away",
        ),
        (Reply::text(502, ""), "answered 502"),
    ] {
        scene.service.reply_always(reply);
        let run = scene.run(&["--timeout", "1s"]);
        // On a machine that is too busy to say it in time, the limit itself ends the run.
        run.refused(if run.stderr.contains("no credential within 1 s") { "" } else { reason });
        assert!(run.took < Duration::from_secs(3), "{:?}", run.took);
    }
    // Longer than there is time for: there is nothing to wait for.
    scene.service.reply_always(Reply::oci_error(503, "UNAVAILABLE", "later").with("Retry-After", "120"));
    let run = scene.run(&[]);
    run.refused("503: UNAVAILABLE: later");
    assert!(run.took < Duration::from_secs(3), "{:?}", run.took);
    // Nobody listens there.
    let image = "127.0.0.1:1/team/app";
    let run = provider(&scene.flags(&["--timeout", "1s"]), &request(image, &scene.token, &json!(null)));
    run.refused("cannot reach https://127.0.0.1:1/v2/");
    assert!(run.took < Duration::from_secs(3), "{:?}", run.took);
}

#[test]
fn the_time_limit_holds_for_a_request_that_never_ends() {
    let started = Instant::now();
    let mut child = spawn(&["--timeout".to_owned(), "300ms".to_owned()], &[]);
    let _open = child.stdin.take().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_refusal_is_said_at_once_and_not_tried_again() {
    let scene = Scene::new();
    let stranger = token("stranger");
    let run = provider(&scene.flags(&[]), &request(&scene.image(), &stranger, &json!(null)));
    run.refused("answered 401: UNAUTHORIZED: no issuer here signed this token");
    assert_eq!(scene.service.requests(), 2, "the challenge and the one exchange");
    // A server that puts what it was sent into its error.
    scene.service.reply_once(Reply::json(
        400,
        &json!({"error": "invalid_grant", "error_description": format!("cannot read {stranger}")}),
    ));
    let run = provider(&scene.flags(&[]), &request(&scene.image(), &stranger, &json!(null)));
    run.refused("invalid_grant: cannot read [hidden]");
}

#[test]
fn where_there_is_no_refresh_token_an_access_token_is_kept_for_less_than_it_lives() {
    let scene = Scene::new();
    let body = json!({
        "access_token": "a", "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "expires_in": 300, "scope": "repository:*:pull",
    });
    scene.service.reply_once(Reply::json(200, &body));
    let answer = scene.run(&[]).answer();
    assert_eq!((&answer["cacheKeyType"], &answer["cacheDuration"]), (&json!("Registry"), &json!("240s")));
    assert_eq!(answer["auth"][scene.service.host()]["password"], "a");
}

#[test]
fn answers_that_are_none_are_refused() {
    let scene = Scene::new();
    let elsewhere = "https://127.0.0.1:1/token";
    let refresh = "urn:ietf:params:oauth:token-type:refresh_token";
    let good =
        json!({"access_token": "a", "issued_token_type": refresh, "scope": "repository:team/app:pull"});
    scene.service.reply_once(Reply::json(200, &good));
    scene.run(&[]).answer();
    let but = |field: &str, value: serde_json::Value| {
        let mut body = good.clone();
        body[field] = value;
        Reply::json(200, &body)
    };
    for reply in [
        Reply::text(200, ""),
        Reply::text(200, "<html>login</html>"),
        Reply::text(200, "[]"),
        Reply::json(200, &json!({})),
        but("access_token", json!(null)),
        but("access_token", json!(5)),
        but("access_token", json!("")),
        but("access_token", json!("a\nb")),
        but("expires_in", json!(-5)),
        but("issued_token_type", json!(null)),
        but("issued_token_type", json!("urn:ietf:params:oauth:token-type:saml2")),
        but("scope", json!(null)),
        Reply::text(200, &"x".repeat(3 << 20)),
        Reply::text(307, "").with("Location", elsewhere),
        Reply::text(204, ""),
        Reply::text(500, ""),
        Reply::Raw(b"SSH-2.0-x\r\n".to_vec()),
        Reply::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_vec()),
    ] {
        let what = format!("{reply:?}");
        scene.service.reply_always(reply);
        let run = scene.run(&["--timeout", "1s"]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{what:.200}");
        assert!(run.stderr.starts_with("berth-credential-provider: "), "{what:.200}: {}", run.stderr);
        assert!(!run.stderr.contains("eyJ"), "{}", run.stderr);
    }
}

#[test]
fn a_certificate_of_another_authority_is_refused_at_once() {
    let scene = Scene::new();
    let other = scene.folder.path().join("other.pem");
    std::fs::write(&other, Authority::new().pem()).unwrap();
    let input = request(&scene.image(), &scene.token, &json!(null));
    let with = |file: &str| provider(&["--ca-file".to_owned(), file.to_owned()], &input);
    let run = with(other.to_str().unwrap());
    run.refused("invalid peer certificate");
    assert!(run.took < Duration::from_secs(3), "{:?}", run.took);
    with("/nonexistent/ca.pem").refused("cannot read /nonexistent/ca.pem");
    std::fs::write(&other, "nothing").unwrap();
    with(other.to_str().unwrap()).refused("holds no certificate");
    assert_eq!(scene.service.requests(), 0, "no token went to whoever it is");
    // The system's own certificates are those of SSL_CERT_FILE.
    let ca = scene.folder.path().join("ca.pem");
    let environment = [("SSL_CERT_FILE", ca.to_str().unwrap())];
    model::finish(spawn(&[], &environment), &input).answer();
}

#[test]
fn a_token_goes_to_the_registry_itself_alone() {
    let scene = Scene::new();
    let other = TokenService::with(scene.service.authority());
    other.know(&scene.token, ACCOUNT);
    other.allow(ACCOUNT, "team/app");
    let realm = format!("https://{}/token", other.host());
    scene.service.name_realm(&realm);
    scene.run(&[]).refused(&format!("names {realm} as its token service, which is another host"));
    for tricky in [
        realm.replace("https://", "http://"),
        format!("https://{}@{}/token", scene.service.host().replace(':', "%3A"), other.host()),
        "https://registry.example/token".to_owned(),
        "token".to_owned(),
        String::new(),
    ] {
        scene.service.name_realm(&tricky);
        assert_eq!(scene.run(&[]).code, Some(1), "{tricky}");
    }
    assert_eq!(other.requests(), 0);
    scene.service.name_realm(&realm);
    let answer = scene.run(&["--token-realm", &other.host()]).answer();
    assert_eq!(answer["auth"].as_object().unwrap().keys().collect::<Vec<_>>(), [&scene.service.host()]);
    assert_eq!(other.exchanges().len(), 1);
}

#[test]
fn what_is_no_registry_is_told_from_one() {
    let scene = Scene::new();
    for (reply, reason) in [
        (Reply::text(404, ""), "/v2/ answered 404"),
        (Reply::text(401, ""), "without a Bearer challenge"),
        (Reply::text(401, "").with("WWW-Authenticate", "Basic realm=\"x\""), "without a Bearer challenge"),
        (Reply::text(301, "").with("Location", "https://127.0.0.1:1/"), "/v2/ answered 301"),
    ] {
        scene.service.challenge_with(reply);
        scene.run(&[]).refused(reason);
    }
    assert!(scene.service.exchanges().is_empty());
}

#[test]
fn a_grant_of_nothing_is_handed_on_but_not_kept() {
    let scene = Scene::new();
    let refresh = "urn:ietf:params:oauth:token-type:refresh_token";
    let nothing = json!({"access_token": "a", "issued_token_type": refresh, "expires_in": 3600, "scope": ""});
    scene.service.reply_once(Reply::json(200, &nothing));
    let run = scene.run(&[]);
    let answer = run.answer();
    assert_eq!(answer["cacheDuration"], "0s");
    assert_eq!(answer["auth"][scene.service.host()]["password"], "a");
    assert!(run.stderr.contains("grants nothing, on team/app"), "{}", run.stderr);
    assert_eq!(scene.run(&[]).answer()["cacheDuration"], "2880s");
}

#[test]
fn a_right_that_is_given_counts_while_the_kubelet_keeps_the_answer() {
    let scene = Scene::new();
    let mut kubelet = Kubelet::new(&scene.flags(&[]), &[&scene.service.host()]);
    let pod = Pod { account: "shop/web".to_owned(), token: scene.token.clone() };
    let image = format!("{}/team/secret", scene.service.host());
    let (_, password) = kubelet.pull(&image, &pod).remove(0);
    assert!(!scene.service.opens(&password, "team/secret"));
    scene.service.allow(ACCOUNT, "team/secret");
    assert_eq!(kubelet.pull(&image, &pod), [("berth".to_owned(), password.clone())]);
    assert!(scene.service.opens(&password, "team/secret"));
    assert_eq!(kubelet.runs, 1);
}

#[test]
fn a_pull_that_starts_late_and_takes_long_is_let_in_to_its_end() {
    let scene = Scene::new();
    scene.service.expire_in(Some(1000));
    let mut kubelet = Kubelet::new(&scene.flags(&[]), &[&scene.service.host()]);
    let pod = Pod { account: "shop/web".to_owned(), token: scene.token.clone() };
    kubelet.pull(&scene.image(), &pod);
    kubelet.now += 800;
    scene.service.pass(800);
    // From the cache, at the last moment.
    let (_, password) = kubelet.pull(&scene.image(), &pod).remove(0);
    assert_eq!(kubelet.runs, 1);
    scene.service.pass(199);
    assert!(scene.service.opens(&password, "team/app"), "the token is good as long as the pod's was");
    assert!(!scene.service.opens(&password, "team/other"));
    scene.service.pass(1);
    assert!(!scene.service.opens(&password, "team/app"), "and no longer");
}

#[test]
fn a_node_that_pulls_a_hundred_images_asks_once_for_each_account() {
    let scene = Scene::new();
    let mut kubelet = Kubelet::new(&scene.flags(&[]), &[&scene.service.host()]);
    let images: Vec<_> = (0..100).map(|n| format!("team/app{n}")).collect();
    for repository in &images {
        scene.service.allow(ACCOUNT, repository);
    }
    let pod = Pod { account: "shop/web".to_owned(), token: scene.token.clone() };
    for round in 0..3 {
        for repository in &images {
            let image = format!("{}/{repository}", scene.service.host());
            let credentials = kubelet.pull(&image, &pod);
            let (_, password) = credentials.first().expect("there is one");
            assert!(scene.service.opens(password, repository), "{repository}");
        }
        assert_eq!(kubelet.runs, 1, "round {round}");
        kubelet.now += 900;
    }
    // 2880 s after the first round the answer is gone.
    kubelet.now += 181;
    for repository in &images {
        kubelet.pull(&format!("{}/{repository}", scene.service.host()), &pod);
    }
    assert_eq!(kubelet.runs, 2);
    // Another account's pods get nothing that was asked for the first.
    let other = token("system:serviceaccount:shop:batch");
    scene.service.know(&other, "system:serviceaccount:shop:batch");
    scene.service.allow("system:serviceaccount:shop:batch", "team/app1");
    let pod = Pod { account: "shop/batch".to_owned(), token: other };
    let credentials = kubelet.pull(&format!("{}/team/app1", scene.service.host()), &pod);
    assert!(scene.service.opens(&credentials[0].1, "team/app1"));
    assert!(!scene.service.opens(&credentials[0].1, "team/app2"));
    assert_eq!((kubelet.runs, scene.service.exchanges().len()), (3, 3));
}

#[test]
fn the_kubelet_asks_again_for_what_it_may_not_keep() {
    let scene = Scene::new();
    scene.service.expire_in(Some(59));
    let mut kubelet = Kubelet::new(&scene.flags(&[]), &["*.0.0.1", &scene.service.host()]);
    let pod = Pod { account: "shop/web".to_owned(), token: scene.token.clone() };
    for runs in 1..4 {
        assert_eq!(kubelet.pull(&scene.image(), &pod).len(), 1);
        assert_eq!(kubelet.runs, runs);
    }
    assert!(kubelet.pull("registry.example/team/app", &pod).is_empty());
    assert_eq!(kubelet.runs, 3, "not an image that this provider is for");
}

#[test]
fn a_failure_leaves_the_pod_without_credentials_and_is_not_kept() {
    let scene = Scene::new();
    let mut kubelet = Kubelet::new(&scene.flags(&[]), &[&scene.service.host()]);
    let pod = Pod { account: "shop/web".to_owned(), token: scene.token.clone() };
    scene.service.reply_once(Reply::oci_error(401, "UNAUTHORIZED", "not yet"));
    assert!(kubelet.pull(&scene.image(), &pod).is_empty());
    assert_eq!(kubelet.pull(&scene.image(), &pod).len(), 1);
}

#[test]
fn passthrough_hands_the_token_itself_on_for_as_long_as_it_is_good() {
    let scene = Scene::new();
    let now = berth_token_client::Clock::System.now();
    for (exp, longest) in [(now + 10_000, 3600), (now + 1000, 800), (now + 58, 0), (now - 10, 0)] {
        let token = jwt(&json!({"exp": exp, "sub": ACCOUNT}));
        scene.service.know(&token, ACCOUNT);
        let input = request(&scene.image(), &token, &json!(null));
        let answer = provider(&scene.flags(&["--passthrough"]), &input).answer();
        assert_eq!(answer["cacheKeyType"], "Registry");
        let kept: u64 = answer["cacheDuration"].as_str().unwrap().strip_suffix('s').unwrap().parse().unwrap();
        assert!(kept <= longest && longest - kept <= 16, "{kept} s where {longest} s are left");
        let auth = answer["auth"].as_object().unwrap();
        assert_eq!(auth.keys().collect::<Vec<_>>(), [&scene.service.host()]);
        assert_eq!(auth[&scene.service.host()]["password"], token);
        assert!(scene.service.opens(&token, "team/app"));
    }
    // What has no end that can be read is not kept.
    let answer =
        provider(&scene.flags(&["--passthrough"]), &request(&scene.image(), "opaque", &json!(null))).answer();
    assert_eq!(answer["cacheDuration"], "0s");
    assert_eq!(scene.service.requests(), 0);
    // One run serves every image of the registry, for this pod.
    let mut kubelet = Kubelet::new(&scene.flags(&["--passthrough"]), &[&scene.service.host()]);
    let pod = Pod { account: "shop/web".to_owned(), token: scene.token.clone() };
    for n in 0..100 {
        assert_eq!(kubelet.pull(&format!("{}/team/app{n}", scene.service.host()), &pod)[0].1, scene.token);
    }
    assert_eq!(kubelet.runs, 1);
}

#[test]
fn a_node_pulls_with_the_kubelets_certificate() {
    let scene = Scene::new();
    scene.service.know_node("system:node:worker-1");
    scene.service.allow("system:node:worker-1", "team/app");
    let certificate = scene.node_certificate("worker-1");
    let with = ["--node-certificate", certificate.as_str()];
    let who = |flags: &[&str], token: &str, annotations| {
        let answer = provider(&scene.flags(flags), &request(&scene.image(), token, &annotations)).answer();
        let password = answer["auth"][scene.service.host()]["password"].as_str().unwrap().to_owned();
        assert!(scene.service.opens(&password, "team/app"));
        assert_eq!(answer["cacheKeyType"], "Registry");
        let Exchanged { identity, scope, refresh, .. } = scene.service.exchanges().pop().unwrap();
        assert_eq!(scope.as_deref(), Some("repository:*:pull"));
        // A certificate gets an access token, which ends soon.
        let kept = if identity == ACCOUNT { "2880s" } else { "240s" };
        assert_eq!((refresh, &answer["cacheDuration"]), (identity == ACCOUNT, &json!(kept)));
        identity
    };
    // A static pod, which has no service account.
    assert_eq!(who(&with, "", json!(null)), "system:node:worker-1");
    // With one, its own identity comes first, and the node's certificate is not shown.
    assert_eq!(who(&with, &scene.token, json!(null)), ACCOUNT);
    assert_eq!(who(&[with[0], with[1], "--node"], &scene.token, json!(null)), "system:node:worker-1");
    let annotated = [with[0], with[1], "--node-annotation", "berth/identity"];
    assert_eq!(who(&annotated, &scene.token, json!({"berth/identity": "node"})), "system:node:worker-1");
    assert_eq!(who(&annotated, &scene.token, json!({"berth/identity": "pod"})), ACCOUNT);
    assert_eq!(who(&annotated, &scene.token, json!({"other": "node"})), ACCOUNT);
    // Without the flag an annotation says nothing.
    assert_eq!(who(&with, &scene.token, json!({"berth/identity": "node"})), ACCOUNT);

    // A registry that knows the node by its connection asks for nothing more.
    let realm = format!("https://{}/token", scene.service.host());
    scene.service.name_realm(&realm);
    let stranger = scene.node_certificate("stranger");
    let input = request(&scene.image(), "", &json!(null));
    provider(&scene.flags(&["--node-certificate", &stranger]), &input).refused("answered 401");
    let ca = scene.folder.path().join("ca.pem");
    provider(&scene.flags(&["--node-certificate", ca.to_str().unwrap()]), &input)
        .refused("holds no private key");
    provider(&scene.flags(&["--node-certificate", "/nonexistent"]), &input)
        .refused("cannot read /nonexistent");
}

#[test]
fn a_node_pulls_with_its_clouds_identity() {
    let scene = Scene::new();
    let machine = token("machine");
    scene.service.know(&machine, "machine");
    scene.service.allow("machine", "team/app");
    let metadata = Metadata::start("api://berth", Some("client-1"), &scene.service.host(), &machine);
    let (azure, google) = (format!("http://{}", metadata.host()), metadata.host());
    // A proxy is not asked for what is on the machine's own network.
    let environment = [
        ("AZURE_POD_IDENTITY_AUTHORITY_HOST", azure.as_str()),
        ("GCE_METADATA_HOST", google.as_str()),
        ("HTTP_PROXY", "http://127.0.0.1:1"),
    ];
    let azure =
        ["--node-identity", "azure", "--azure-resource", "api://berth", "--azure-client-id", "client-1"];
    for flags in [&azure[..], &["--node-identity", "gcp"]] {
        let child = spawn(&scene.flags(flags), &environment);
        let answer = model::finish(child, &request(&scene.image(), "", &json!(null))).answer();
        let password = answer["auth"][scene.service.host()]["password"].as_str().unwrap();
        assert!(scene.service.opens(password, "team/app"));
        let last = scene.service.exchanges().pop().unwrap();
        assert_eq!((last.identity.as_str(), last.refresh), ("machine", true));
        assert_eq!(last.scope.as_deref(), Some("repository:*:pull"));
    }
    let input = request(&scene.image(), "", &json!(null));
    provider(&scene.flags(&["--node-identity", "aws"]), &input).refused("AWS gives its machines no token");
    // Another resource than the identity is for.
    let flags = scene.flags(&["--node-identity", "azure", "--azure-resource", "api://other"]);
    model::finish(spawn(&flags, &environment), &input).refused("answered 400");
    assert_eq!(metadata.complaints().len(), 1);
}

#[test]
fn the_proxy_of_the_kubelets_environment_is_used() {
    let scene = Scene::new();
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let seen = std::thread::spawn(move || {
        use std::io::{BufRead as _, Write as _};
        let (mut stream, _) = proxy.accept().unwrap();
        let mut line = String::new();
        std::io::BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").unwrap();
        line
    });
    let flags =
        ["--timeout".to_owned(), "2s".to_owned()].into_iter().chain(scene.flags(&[])).collect::<Vec<_>>();
    let input = request("registry.example:5000/team/app", &scene.token, &json!(null));
    let run = model::finish(spawn(&flags, &[("HTTPS_PROXY", &address)]), &input);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    assert_eq!(seen.join().unwrap().trim_end(), "CONNECT registry.example:5000 HTTP/1.1");
    // What NO_PROXY has, and this machine, are reached without it.
    let environment = [("HTTPS_PROXY", address.as_str())];
    let input = request(&scene.image(), &scene.token, &json!(null));
    model::finish(spawn(&flags, &environment), &input).answer();
}

#[test]
fn flags_may_come_from_the_environment() {
    let scene = Scene::new();
    let (ca, host) = (scene.folder.path().join("ca.pem"), scene.service.host());
    let input = request(&scene.image(), &scene.token, &json!(null));
    let environment = [
        ("BERTH_PROVIDER_CA_FILE", ca.to_str().unwrap()),
        ("BERTH_PROVIDER_REGISTRY", host.as_str()),
        ("BERTH_PROVIDER_USERNAME", "node"),
    ];
    let answer = model::finish(spawn(&[], &environment), &input).answer();
    assert_eq!(answer["auth"][scene.service.host()]["username"], "node");
    let run = model::finish(spawn(&["--help".to_owned()], &[]), "");
    assert!(run.code == Some(0) && run.stdout.contains("--node-certificate FILE"), "{}", run.stdout);
    model::finish(spawn(&["--registri".to_owned()], &[]), "").refused("--help");
}
