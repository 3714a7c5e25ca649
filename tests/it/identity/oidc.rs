//! CI jobs and people with the tokens of a real OIDC issuer: what they may do by what it says of them.

use std::{
    collections::BTreeSet,
    fs,
    process::Command,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::scenes::{ask_token, basic, bearer, claims, post_token, push_as};
use crate::{
    harness::{
        Server, http,
        oidc::OidcIssuer,
        process::{self, PATIENCE, Process},
        server::berth,
        tools::{Workbench, workbench},
    },
    operation::scenes::eventually,
    protocol::wire::{Answer, Berth},
};

/// A job of acme's on its main branch.
const ACME: &str = "acme-app";
const SUBJECT: &str = "oidc:ci/repo:acme/app:ref:refs/heads/main";

/// A server that trusts the issuer as it would GitHub, with more said of it, and lets jobs into the
/// repositories of their owner.
async fn registry(issuer: &OidcIssuer, more: &str) -> Berth {
    let config = format!(
        "[auth]\nservice = \"registry.test\"\n\
         [[auth.issuer]]\nname = \"ci\"\npreset = \"github\"\nissuer = \"{}\"\naudience = \"registry.test\"\n\
         ca_file = \"{}\"\n{more}\n\
         [[auth.rule]]\nname = \"jobs\"\nidentities = [\"oidc:ci/**\"]\n\
         repositories = [\"${{repository_owner}}/**\"]\nactions = [\"pull\", \"push\"]\n",
        issuer.issuer(),
        issuer.ca_file().display(),
    );
    Berth::of(Server::builder().config(&config).start().await)
}

async fn get(berth: &Berth, authorization: &str, path: &str) -> Answer {
    berth.send("GET", path, &[("authorization", authorization)], Vec::new()).await
}

/// What a registry says to a token where nothing but the token decides.
async fn show(berth: &Berth, token: &str) -> Answer {
    get(berth, &bearer(token), "/v2/").await
}

/// Asserts that a token was not believed, and gives back why.
#[track_caller]
fn why_refused(answer: &Answer) -> String {
    let body = answer.is_refused(401, "UNAUTHORIZED").json();
    body["errors"][0]["message"].as_str().expect("a message is text").to_owned()
}

/// The header of a token.
fn header(token: &str) -> Value {
    let first = token.split('.').next().expect("a token has three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(first).expect("base64")).expect("JSON")
}

#[tokio::test]
async fn a_job_pushes_and_pulls_by_every_way() {
    let _bench = workbench!("oidc-issuer");
    let issuer = OidcIssuer::start().await;
    let berth = registry(&issuer, "").await;

    for (client, algorithm, seed) in [(ACME, "RS256", 1), ("acme-app-es256", "ES256", 2)] {
        let token = issuer.token(client).await;
        assert_eq!(header(&token)["alg"], algorithm);

        // At the token endpoint, as docker does with what `docker login` was given.
        let asked = "&scope=repository:acme/app:pull,push";
        let answer = ask_token(&berth, &basic("any-name", &token), asked).await;
        let answer = answer.is(200).json();
        let ours = answer["token"].as_str().expect("a token");
        assert_eq!(claims(ours)["sub"], SUBJECT);
        let access = json!([{ "type": "repository", "name": "acme/app", "actions": ["pull", "push"] }]);
        assert_eq!(claims(ours)["access"], access);

        // Then with what that gave, and directly.
        let credentials = [bearer(ours), bearer(&token), basic("any-name", &token)];
        for (nth, credential) in credentials.iter().enumerate() {
            let tag = format!("{algorithm}-{nth}");
            let image = push_as(&berth, credential, "acme/app", &tag, seed).await;
            image.put.is(201);
            let pulled = get(&berth, credential, &format!("/v2/acme/app/manifests/{tag}")).await;
            assert_eq!(pulled.is(200).body, image.bytes);
            get(&berth, credential, &format!("/v2/acme/app/blobs/{}", image.blob)).await.is(200);
        }
    }
}

#[tokio::test]
async fn a_job_exchanges_its_token() {
    let _bench = workbench!("oidc-issuer");
    let issuer = OidcIssuer::start().await;
    let berth = registry(&issuer, "").await;
    let token = issuer.token(ACME).await;
    let exchange = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token", token.as_str()),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
        ("scope", "repository:acme/app:pull,push"),
    ];
    let for_a_session = ("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token");

    let access = post_token(&berth, "/token", &exchange).await.is(200).json();
    let fields = [&exchange[..], &[for_a_session]].concat();
    let session = post_token(&berth, "/token", &fields).await.is(200).json();

    assert_eq!(access["scope"], "repository:acme/app:pull,push");
    let ours = bearer(access["access_token"].as_str().expect("a token"));
    push_as(&berth, &ours, "acme/app", "v1", 1).await.put.is(201);
    // What is made of a token lasts no longer than the token, which is ten minutes.
    let seconds = session["expires_in"].as_i64().expect("a number");
    assert!((1..=600).contains(&seconds), "{session}");
    let session = basic("<token>", session["access_token"].as_str().expect("a token"));
    get(&berth, &session, "/v2/acme/app/manifests/v1").await.is(200);
}

#[tokio::test]
async fn a_job_of_another_owner_finds_nothing_and_changes_nothing() {
    let _bench = workbench!("oidc-issuer");
    let issuer = OidcIssuer::start().await;
    let berth = registry(&issuer, "").await;
    let acme = bearer(&issuer.token(ACME).await);
    let image = push_as(&berth, &acme, "acme/app", "v1", 1).await;
    image.put.is(201);

    let token = issuer.token("globex-app").await;
    for credential in [bearer(&token), basic("any-name", &token)] {
        let headers = [("authorization", credential.as_str())];
        let post = berth.send("POST", "/v2/acme/app/blobs/uploads/", &headers, Vec::new()).await;
        post.is_refused(403, "DENIED");
        let path = "/v2/acme/app/manifests/v1";
        get(&berth, &credential, path).await.is_refused(404, "NAME_UNKNOWN");
        let path = format!("/v2/acme/app/blobs/{}", image.blob);
        get(&berth, &credential, &path).await.is_refused(404, "NAME_UNKNOWN");
    }

    let scopes = "&scope=repository:globex/app:pull&scope=repository:acme/app:pull,push";
    let answer = ask_token(&berth, &basic("any-name", &token), scopes).await.is(200).json();
    let access = &claims(answer["token"].as_str().expect("a token"))["access"];
    assert_eq!(*access, json!([{ "type": "repository", "name": "globex/app", "actions": ["pull"] }]));
    // It is not that the rule were not theirs.
    push_as(&berth, &bearer(&token), "globex/app", "v1", 2).await.put.is(201);
}

#[tokio::test]
async fn a_required_claim_that_does_not_hold_is_named() {
    let _bench = workbench!("oidc-issuer");
    let issuer = OidcIssuer::start().await;
    let required = "claims = { repository_owner = \"acme\", ref = [\"refs/heads/main\", \"refs/tags/*\"] }";
    let berth = registry(&issuer, required).await;

    show(&berth, &issuer.token(ACME).await).await.is(200);
    let feature = issuer.token("acme-app-feature").await;
    let globex = issuer.token("globex-app").await;

    for (token, expected, found) in [
        (&feature, "ref is \"refs/heads/main\" or \"refs/tags/*\"", "\"refs/heads/feature\""),
        (&globex, "repository_owner is \"acme\"", "\"globex\""),
    ] {
        let asked = ask_token(&berth, &basic("any-name", token), "").await;
        for answer in [show(&berth, token).await, asked] {
            let message = why_refused(&answer);
            assert!(message.contains(expected) && message.contains(found), "{message}");
        }
    }
}

#[tokio::test]
async fn a_token_for_another_audience_is_refused() {
    let _bench = workbench!("oidc-issuer");
    let issuer = OidcIssuer::start().await;
    let berth = registry(&issuer, "").await;

    let message = why_refused(&show(&berth, &issuer.token("acme-app-for-others").await).await);

    assert!(message.contains("\"other.test\"") && message.contains("\"registry.test\""), "{message}");
}

#[tokio::test]
async fn an_algorithm_that_the_issuer_is_not_to_use_is_refused() {
    let _bench = workbench!("oidc-issuer");
    let issuer = OidcIssuer::start().await;
    let berth = registry(&issuer, "algorithms = [\"ES256\"]").await;

    let message = why_refused(&show(&berth, &issuer.token(ACME).await).await);

    assert!(message.contains("RS256") && message.contains("ES256"), "{message}");
    show(&berth, &issuer.token("acme-app-es256").await).await.is(200);
}

#[tokio::test]
async fn an_issuer_may_rotate_its_keys_every_second() {
    let _bench = workbench!("oidc-issuer");
    let issuer = OidcIssuer::start().await;
    let berth = registry(&issuer, "").await;
    let first = issuer.token(ACME).await;
    push_as(&berth, &bearer(&first), "acme/app", "v1", 1).await.put.is(201);
    let until = Instant::now() + Duration::from_secs(10);

    let rotate = async {
        while Instant::now() < until {
            issuer.rotate().await;
            sleep(Duration::from_secs(1)).await;
        }
    };
    let pull = async |client: &str| {
        let mut keys = BTreeSet::new();
        while Instant::now() < until {
            let token = issuer.token(client).await;
            keys.insert(header(&token)["kid"].to_string());
            get(&berth, &bearer(&token), "/v2/acme/app/manifests/v1").await.is(200);
            // The issuer shares its processor with all the other tests.
            sleep(Duration::from_millis(20)).await;
        }
        keys.len()
    };
    let ((), with_rsa, with_ecdsa) = tokio::join!(rotate, pull(ACME), pull("acme-app-es256"));

    assert!(with_rsa > 3 && with_ecdsa > 3, "only {with_rsa} and {with_ecdsa} keys were seen");
}

#[tokio::test]
async fn known_keys_are_good_while_the_issuer_is_down() {
    let _bench = workbench!("oidc-issuer");
    let mut issuer = OidcIssuer::start().await;
    let berth = registry(&issuer, "").await;
    let known = issuer.token(ACME).await;
    show(&berth, &issuer.token(ACME).await).await.is(200);
    issuer.rotate().await;
    let unknown = issuer.token(ACME).await;

    issuer.stop();

    push_as(&berth, &bearer(&known), "acme/app", "v1", 1).await.put.is(201);
    ask_token(&berth, &basic("any-name", &known), "").await.is(200);
    // It may well be good: nobody can say, which is not its holder's fault.
    show(&berth, &unknown).await.is_refused(503, "UNAVAILABLE");
    show(&berth, &known).await.is(200);

    issuer.start_again().await;
    let anew = issuer.token(ACME).await;
    eventually("the issuer is asked again", async || (show(&berth, &anew).await.status == 200).then_some(()))
        .await;
}

/// A server for people, who log in with a code. Those of one group may release.
async fn registry_for_people(issuer: &OidcIssuer) -> Berth {
    let issuer = issuer.issuer();
    let config = format!(
        "[auth]\nservice = \"registry.test\"\n\
         [auth.login]\nissuer = \"{issuer}\"\nclient_id = \"berth-cli\"\n\
         [[auth.issuer]]\nname = \"people\"\nissuer = \"{issuer}\"\naudience = \"berth-cli\"\n\
         groups_claim = \"groups\"\nsubject_claim = \"preferred_username\"\n\
         [[auth.rule]]\nname = \"release\"\nidentities = [\"group:release\"]\n\
         repositories = [\"acme/**\"]\nactions = [\"pull\", \"push\"]\n"
    );
    Berth::of(Server::builder().config(&config).start().await)
}

/// `berth login` or `berth logout` of somebody whose home is the workbench.
fn command(bench: &Workbench, name: &str, registry: &Berth) -> Command {
    let mut command = berth();
    command.args([name, "--plain-http", registry.server.host()]);
    command.env("HOME", bench.folder()).env_remove("XDG_CONFIG_HOME");
    command
}

/// Starts `berth login`; gives back the page and the code that it shows, too.
async fn log_in(bench: &Workbench, registry: &Berth) -> (Process, String, String) {
    let login = Process::start(command(bench, "login", registry));
    let after = |said: &str, words: &str| {
        let (_, rest) = said.split_once(words)?;
        Some(rest.split_once('\n')?.0.to_owned())
    };
    let shown = |said: &str| Some((after(said, "or open ")?, after(said, "enter the code ")?));
    let (page, code) = login.until("it shows a code", shown).await;
    (login, page, code)
}

/// The secret of the session that a login has left, if it has.
fn session(bench: &Workbench, registry: &Berth) -> Option<String> {
    let path = bench.path(".config/berth/sessions.json");
    let sessions: Value = serde_json::from_slice(&fs::read(path).ok()?).expect("the file is JSON");
    let session = sessions["sessions"].get(registry.server.host())?;
    assert_eq!(session["username"], "<token>");
    Some(session["secret"].as_str().expect("a secret is text").to_owned())
}

#[tokio::test]
async fn a_person_logs_in_with_a_code_and_out_again() {
    let bench = workbench!("oidc-issuer");
    let issuer = OidcIssuer::start_plain().await;
    let registry = registry_for_people(&issuer).await;

    let (mut login, page, code) = log_in(&bench, &registry).await;
    let page = http().get(page).send().await.expect("the page is there");
    assert!(page.text().await.expect("a page is text").contains(&code), "the page has the code already");
    issuer.approve(&code, "alice").await;

    assert!(login.end(PATIENCE).await.success(), "{}", login.said());
    let secret = session(&bench, &registry).expect("a session");
    assert!(!login.said().contains(&secret), "a secret is shown");
    let alice = basic("<token>", &secret);
    push_as(&registry, &alice, "acme/app", "v1", 1).await.put.is(201);
    let answer = ask_token(&registry, &alice, "").await.is(200).json();
    let ours = claims(answer["token"].as_str().expect("a token"));
    assert_eq!(ours["sub"], "oidc:people/alice@acme.test");

    process::run(command(&bench, "logout", &registry)).await;

    assert_eq!(session(&bench, &registry), None);
    ask_token(&registry, &alice, "").await.is_refused(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn a_person_who_is_in_no_group_logs_in_and_may_do_nothing() {
    let bench = workbench!("oidc-issuer");
    let issuer = OidcIssuer::start_plain().await;
    let registry = registry_for_people(&issuer).await;

    let (mut login, _, code) = log_in(&bench, &registry).await;
    issuer.approve(&code, "mallory").await;

    assert!(login.end(PATIENCE).await.success(), "{}", login.said());
    let credential = basic("<token>", &session(&bench, &registry).expect("a session"));
    let headers = [("authorization", credential.as_str())];
    let post = registry.send("POST", "/v2/acme/app/blobs/uploads/", &headers, Vec::new()).await;
    post.is_refused(403, "DENIED");
}

#[tokio::test]
async fn a_login_that_the_person_refuses_fails() {
    let bench = workbench!("oidc-issuer");
    let issuer = OidcIssuer::start_plain().await;
    let registry = registry_for_people(&issuer).await;

    let (mut login, _, code) = log_in(&bench, &registry).await;
    issuer.deny(&code).await;

    assert!(!login.end(PATIENCE).await.success(), "{}", login.said());
    assert!(login.said().contains("the login was denied"), "{}", login.said());
    assert_eq!(session(&bench, &registry), None);
}
