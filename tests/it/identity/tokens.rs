//! The token service, by the Docker and the OAuth ways, and the end of tokens.

use serde_json::json;

use super::scenes::{
    ask_token, basic, bearer, cast, claims, key, post_token, push_as, robot, robot_entry, rule, staged, token,
};
use crate::{
    faults::behind::command,
    harness::{Database, Server, process, tools::workbench},
    operation::scenes::eventually,
    protocol::wire::Berth,
};

const PULL: &str = "repository:private/app:pull";

#[tokio::test]
async fn a_get_gives_a_token_for_what_there_is_a_right_to() {
    let berth = Berth::of(staged().start().await);
    let scopes = "&scope=repository:private/app:pull,push%20repository:elsewhere/x:pull\
                  &scope=repository:private/base:pull&scope=registry:catalog:*";
    let answer = ask_token(&berth, &robot("puller"), scopes).await;
    answer.is(200);
    assert_eq!(answer.header("cache-control"), "no-store");
    let body = answer.json();
    assert_eq!(body["token"], body["access_token"]);
    assert_eq!(body["expires_in"], 300);
    assert!(body["issued_at"].as_str().is_some_and(|at| at.ends_with('Z') && at.len() == 20), "{body}");
    assert!(body.get("refresh_token").is_none(), "nobody asked for one: {body}");
    let claims = claims(body["token"].as_str().expect("a token"));
    assert_eq!(claims["sub"], "robot:puller");
    assert_eq!(claims["aud"], "registry.test");
    assert_eq!(
        claims["access"],
        json!([
            { "type": "repository", "name": "private/app", "actions": ["pull"] },
            { "type": "repository", "name": "private/base", "actions": ["pull"] },
            { "type": "registry", "name": "catalog", "actions": ["*"] },
        ])
    );
}

#[tokio::test]
async fn a_token_for_nothing_is_a_token() {
    let berth = Berth::of(staged().start().await);
    // Behind a mirror clients ask for names they made up.
    let nothing = ask_token(&berth, &robot("puller"), "&scope=repository:library/nginx:pull").await;
    assert_eq!(claims(nothing.is(200).json()["token"].as_str().expect("a token"))["access"], json!([]));
    ask_token(&berth, &robot("puller"), "").await.is(200);
    ask_token(&berth, "", "").await.is(200);
}

#[tokio::test]
async fn a_wrong_credential_is_refused_at_the_token_endpoint() {
    let berth = Berth::of(staged().start().await);
    for wrong in
        [robot("nobody"), basic("alice", "password"), basic("x", "eyJhbGciOiJub25lIn0.e30."), bearer("junk")]
    {
        ask_token(&berth, &wrong, "").await.is_refused(401, "UNAUTHORIZED");
    }
    let fields =
        [("grant_type", "password"), ("username", "alice"), ("password", "wrong"), ("client_id", "c")];
    post_token(&berth, "/token", &fields).await.is_refused(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn the_oauth_ways_work_with_every_kind_of_secret() {
    let berth = Berth::of(staged().start().await);
    let secret = key("puller");
    let password = [("grant_type", "password"), ("username", "x"), ("password", &secret), ("scope", PULL)];
    let refresh = [("grant_type", "refresh_token"), ("refresh_token", &secret), ("scope", PULL)];
    let exchange = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token", &secret),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("scope", PULL),
    ];
    for (path, fields) in [
        ("/token", &password[..]),
        ("/token", &refresh[..]),
        ("/token", &exchange[..]),
        ("/oauth2/token", &refresh[..]),
    ] {
        let answer = post_token(&berth, path, fields).await;
        let body = answer.is(200).json();
        assert_eq!(body["scope"], PULL, "{fields:?}");
        assert_eq!(body["token_type"], "Bearer");
        let token = body["access_token"].as_str().expect("a token");
        assert_eq!(claims(token)["sub"], "robot:puller");
    }
    for fields in [
        &[("grant_type", "telepathy")][..],
        &[("scope", PULL)][..],
        &[("grant_type", "refresh_token")][..],
        &[("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")][..],
    ] {
        post_token(&berth, "/token", fields).await.is_refused(400, "UNSUPPORTED");
    }
    let long = "x".repeat(200_000);
    post_token(&berth, "/token", &[("grant_type", "password"), ("password", &long)]).await.is(400);
    berth.ask("PUT", "/token").await.is_refused(405, "UNSUPPORTED");
}

#[tokio::test]
async fn ten_thousand_scopes_are_refused() {
    let berth = Berth::of(staged().start().await);
    let scopes = "repository:a:pull ".repeat(6_000);
    let fields = [("grant_type", "refresh_token"), ("refresh_token", &key("puller")), ("scope", &scopes)];
    post_token(&berth, "/token", &fields).await.is_refused(400, "UNSUPPORTED");
}

/// A refresh token, as `docker login` asks for it.
async fn log_in(berth: &Berth, robot_name: &str) -> String {
    let answer = ask_token(berth, &robot(robot_name), "&offline_token=true&client_id=docker").await;
    answer.is(200).json()["refresh_token"].as_str().expect("a refresh token").to_owned()
}

async fn with_refresh(berth: &Berth, token: &str) -> crate::protocol::wire::Answer {
    let fields =
        [("grant_type", "refresh_token"), ("refresh_token", token), ("scope", PULL), ("client_id", "c")];
    post_token(berth, "/token", &fields).await
}

#[tokio::test]
async fn a_refresh_token_is_listed_used_and_revoked() {
    let berth = Berth::of(staged().start().await);
    push_as(&berth, &robot("admin"), "private/app", "v1", 1).await.put.is(201);
    let refresh = log_in(&berth, "puller").await;
    let other = log_in(&berth, "puller").await;
    let made = with_refresh(&berth, &refresh).await.is(200).json();
    let made = bearer(made["access_token"].as_str().expect("a token"));
    let target = "/v2/private/app/manifests/v1";
    berth.send("GET", target, &[("authorization", &made)], Vec::new()).await.is(200);
    // Any user name does, as with every other secret.
    let headers = [("authorization", &*basic("<token>", &refresh))];
    berth.send("GET", target, &headers, Vec::new()).await.is(200);

    let list = command(&berth.server, &["token", "list", "--identity", "robot:puller", "--json"]);
    let listed = process::run(list).await.text();
    let sessions: Vec<serde_json::Value> =
        listed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(sessions.len(), 2, "{listed}");
    assert!(!listed.contains(&refresh) && !listed.contains("berth_refresh_"), "a list shows no secret");
    for session in &sessions {
        assert_eq!((&session["identity"], &session["client"]), (&json!("robot:puller"), &json!("docker")));
    }

    // One of the two, whichever it is; then the other.
    for (nth, session) in sessions.iter().enumerate() {
        let id = session["id"].as_str().expect("an id");
        process::run(command(&berth.server, &["token", "revoke", id])).await;
        let mut good = 0;
        for token in [&refresh, &other] {
            good += usize::from(with_refresh(&berth, token).await.status == 200);
        }
        assert_eq!(good, 1 - nth);
    }
    let answer = berth.send("GET", target, &[("authorization", &made)], Vec::new()).await;
    answer.is_refused(401, "UNAUTHORIZED");
    assert!(answer.text().contains("revoked"), "{}", answer.text());
    // The key itself is none of its tokens.
    let headers = [("authorization", &*robot("puller"))];
    berth.send("GET", target, &headers, Vec::new()).await.is(200);
}

#[tokio::test]
async fn whoever_has_a_refresh_token_may_end_it() {
    let berth = Berth::of(staged().start().await);
    let refresh = log_in(&berth, "puller").await;
    post_token(&berth, "/oauth2/revoke", &[("token", &refresh)]).await.is(200);
    with_refresh(&berth, &refresh).await.is_refused(401, "UNAUTHORIZED");
    post_token(&berth, "/oauth2/revoke", &[("token", &refresh)]).await.is(200);
}

#[tokio::test]
async fn nothing_that_is_made_from_a_token_exceeds_it() {
    let berth = Berth::of(staged().start().await);
    let narrow = token(&berth, &robot("admin"), &[PULL]).await;
    for credential in [basic("x", &narrow), bearer(&narrow)] {
        let query = "&scope=repository:private/app:pull,push,delete&scope=repository:public/x:pull&offline_token=true";
        let answer = ask_token(&berth, &credential, query).await;
        let body = answer.is(200).json();
        assert!(body.get("refresh_token").is_none(), "a short token became a long one: {body}");
        let again = claims(body["token"].as_str().expect("a token"));
        let access = json!([{ "type": "repository", "name": "private/app", "actions": ["pull"] }]);
        assert_eq!(again["access"], access);
        assert_eq!(again["exp"], claims(&narrow)["exp"]);
    }
}

#[tokio::test]
async fn the_tools_of_azure_get_their_tokens() {
    let berth = Berth::of(staged().start().await);
    let key = key("puller");
    let fields = [
        ("grant_type", "access_token"),
        ("service", "registry.test"),
        ("tenant", "any"),
        ("access_token", key.as_str()),
    ];
    let answer = post_token(&berth, "/oauth2/exchange", &fields).await;
    let refresh = answer.is(200).json()["refresh_token"].as_str().expect("a refresh token").to_owned();
    let fields = [
        ("grant_type", "refresh_token"),
        ("service", "registry.test"),
        ("scope", PULL),
        ("refresh_token", &refresh),
    ];
    let answer = post_token(&berth, "/oauth2/token", &fields).await;
    let token = answer.is(200).json()["access_token"].as_str().expect("a token").to_owned();
    assert_eq!(claims(&token)["sub"], "robot:puller");
    let zeros = basic("00000000-0000-0000-0000-000000000000", &refresh);
    let headers = [("authorization", zeros.as_str())];
    let path = format!("/oauth2/token?service=registry.test&scope={PULL}");
    berth.send("GET", &path, &headers, Vec::new()).await.is(200);
}

#[tokio::test]
async fn keys_are_published_and_there_is_no_token_service_in_an_open_registry() {
    let berth = Berth::of(staged().start().await);
    let keys = berth.ask("GET", "/.well-known/jwks.json").await.is(200).json();
    let key = &keys["keys"][0];
    assert_eq!((&key["kty"], &key["crv"], &key["alg"]), (&json!("EC"), &json!("P-256"), &json!("ES256")));
    assert!(key.get("d").is_none(), "the private half is nobody's");
    let open = Berth::of(Server::start().await);
    for path in ["/token", "/oauth2/token", "/oauth2/exchange", "/oauth2/revoke", "/.well-known/jwks.json"] {
        open.ask("GET", path).await.is_refused(404, "UNSUPPORTED");
    }
}

#[tokio::test]
async fn replicas_agree_on_keys_and_on_what_is_revoked() {
    let _bench = workbench!("postgres", "weed");
    let builder = staged().database(Database::Postgres).storage(crate::harness::Storage::SeaweedFs);
    let one = Berth::of(builder.start().await);
    let two = Berth::of(one.server.beside().start().await);
    push_as(&one, &robot("admin"), "private/app", "v1", 1).await.put.is(201);
    let made = bearer(&token(&one, &robot("puller"), &[PULL]).await);
    let target = "/v2/private/app/manifests/v1";
    two.send("GET", target, &[("authorization", &made)], Vec::new()).await.is(200);
    let refresh = log_in(&one, "puller").await;
    with_refresh(&two, &refresh).await.is(200);

    let begun = std::time::Instant::now();
    process::run(command(&one.server, &["token", "revoke", "--identity", "robot:puller"])).await;
    one.send("GET", target, &[("authorization", &made)], Vec::new()).await.is_refused(401, "UNAUTHORIZED");
    eventually("the other replica knows", async || {
        let answer = two.send("GET", target, &[("authorization", &made)], Vec::new()).await;
        (answer.status == 401).then_some(())
    })
    .await;
    assert!(begun.elapsed().as_secs() < 10, "it took {:?}", begun.elapsed());
    with_refresh(&two, &refresh).await.is_refused(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn tokens_survive_a_restart_and_are_managed_without_a_server() {
    let mut berth = Berth::of(staged().start().await);
    let refresh = log_in(&berth, "puller").await;
    let made = bearer(&token(&berth, &robot("admin"), &[PULL]).await);
    berth.server.restart().await;
    push_as(&berth, &robot("admin"), "private/app", "v1", 1).await.put.is(201);
    let target = "/v2/private/app/manifests/v1";
    berth.send("GET", target, &[("authorization", &made)], Vec::new()).await.is(200);
    with_refresh(&berth, &refresh).await.is(200);

    assert!(berth.server.terminate().await.success());
    process::run(command(&berth.server, &["token", "revoke", "--identity", "robot:puller"])).await;
    berth.server.restart().await;
    with_refresh(&berth, &refresh).await.is_refused(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn a_robot_that_is_taken_away_is_refused_with_the_token_it_has() {
    let folder = crate::harness::run::folder("policy");
    let file = folder.path().join("robots.toml");
    let entry = robot_entry("leaver").replace("[[auth.", "[[")
        + &rule("leaver", "private/**", "\"pull\"").replace("[[auth.", "[[");
    std::fs::write(&file, &entry).expect("write a policy");
    let config = format!(
        "{}[[auth.rule]]\nname = \"nobody\"\nidentities = [\"robot:nobody\"]\nrepositories = [\"x\"]\nactions = [\"pull\"]\n",
        cast().replacen("[auth]\n", &format!("[auth]\npolicy_folder = \"{}\"\n", folder.path().display()), 1)
    );
    let berth = Berth::of(Server::builder().config(&config).start().await);
    push_as(&berth, &robot("admin"), "private/app", "v1", 1).await.put.is(201);
    let made = bearer(&token(&berth, &robot("leaver"), &[PULL]).await);
    let target = "/v2/private/app/manifests/v1";
    berth.send("GET", target, &[("authorization", &made)], Vec::new()).await.is(200);
    // A bad file changes nothing.
    std::fs::write(&file, "[[rule]]\nname = 5\n").expect("write a bad policy");
    berth.server.until_said("the policy has changed and is not taken").await;
    berth.send("GET", target, &[("authorization", &made)], Vec::new()).await.is(200);

    std::fs::remove_file(&file).expect("take the robot away");

    eventually("the token is refused", async || {
        let answer = berth.send("GET", target, &[("authorization", &made)], Vec::new()).await;
        (answer.status == 401).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_refresh_token_may_be_for_one_repository_alone() {
    let berth = Berth::of(staged().start().await);
    let key = key("admin");
    let fields = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token", key.as_str()),
        ("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token"),
        ("scope", PULL),
    ];
    let answer = post_token(&berth, "/token", &fields).await;
    let body = answer.is(200).json();
    assert_eq!(body["scope"], PULL);
    let narrow = body["access_token"].as_str().expect("a token").to_owned();
    let asked = "&scope=repository:private/app:pull,push&scope=repository:private/other:pull";
    let given = ask_token(&berth, &basic("x", &narrow), asked).await;
    let access = json!([{ "type": "repository", "name": "private/app", "actions": ["pull"] }]);
    assert_eq!(claims(given.is(200).json()["token"].as_str().expect("a token"))["access"], access);
    let headers = [("authorization", &*basic("x", &narrow))];
    berth
        .send("GET", "/v2/private/other/tags/list", &headers, Vec::new())
        .await
        .is_refused(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn a_refresh_token_may_be_for_pulling_whatever_one_may_pull() {
    let folder = crate::harness::run::folder("policy");
    let setting = format!("[auth]\npolicy_folder = \"{}\"\n", folder.path().display());
    let config = cast().replacen("[auth]\n", &setting, 1);
    let berth = Berth::of(Server::builder().config(&config).start().await);
    let key = key("stranger");
    let fields = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token", key.as_str()),
        ("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token"),
        ("scope", "repository:*:pull,push"),
    ];
    let body = post_token(&berth, "/token", &fields).await.is(200).json();
    assert_eq!(body["scope"], "repository:*:pull");
    let refresh = body["access_token"].as_str().expect("a token").to_owned();
    let asked = "&scope=repository:elsewhere/x:pull,push&scope=repository:private/app:pull";
    let access = async || {
        let given = ask_token(&berth, &basic("x", &refresh), asked).await;
        claims(given.is(200).json()["token"].as_str().expect("a token"))["access"].clone()
    };
    let own = json!({ "type": "repository", "name": "elsewhere/x", "actions": ["pull"] });
    assert_eq!(access().await, json!([own]));
    // A right that is given while somebody has the token.
    let more = rule("stranger", "private/app", "\"pull\"").replace("auth.rule", "rule");
    std::fs::write(folder.path().join("more.toml"), more).expect("write a rule");
    let wider = json!({ "type": "repository", "name": "private/app", "actions": ["pull"] });
    let both = json!([own, wider]);
    eventually("the new right counts", async || (access().await == both).then_some(())).await;
    // Nobody in particular gets nothing for all at once, and a token for all at once opens what the rules do.
    let nobody = ask_token(&berth, "", "&scope=repository:*:pull").await.is(200).json();
    assert_eq!(claims(nobody["token"].as_str().expect("a token"))["access"], json!([]));
    let every = token(&berth, &robot("puller"), &["repository:*:pull"]).await;
    let headers = [("authorization", &*bearer(&every))];
    let list = async |repository: &str| {
        berth.send("GET", &format!("/v2/{repository}/tags/list"), &headers, Vec::new()).await
    };
    list("private/app").await.is_refused(404, "NAME_UNKNOWN");
    push_as(&berth, &robot("admin"), "private/app", "v1", 1).await.put.is(201);
    push_as(&berth, &robot("admin"), "elsewhere/x", "v1", 1).await.put.is(201);
    list("private/app").await.is(200);
    list("elsewhere/x").await.is_refused(404, "NAME_UNKNOWN");
    // Whoever may do everything pulls with it and nothing else.
    let bound = bearer(&token(&berth, &robot("admin"), &["repository:*:pull,push"]).await);
    let headers = [("authorization", &*bound)];
    let push = berth.send("POST", "/v2/private/app/blobs/uploads/", &headers, Vec::new()).await;
    push.is_refused(401, "UNAUTHORIZED");
    assert!(push.header("www-authenticate").contains("error=\"insufficient_scope\""));
}

#[tokio::test]
async fn no_secret_is_ever_logged() {
    let berth = Berth::of(staged().config("[log]\nlevel = \"trace\"\n").start().await);
    let refresh = log_in(&berth, "puller").await;
    let made = token(&berth, &robot("puller"), &[PULL]).await;
    with_refresh(&berth, &refresh).await.is(200);
    ask_token(&berth, &robot("nobody"), "").await.is(401);
    ask_token(&berth, &basic("alice", "correct horse"), "").await.is(401);
    push_as(&berth, &robot("admin"), "private/app", "v1", 1).await.put.is(201);
    let said = berth.server.said();
    let secrets = [refresh, made, key("puller"), key("nobody"), key("admin"), "correct horse".to_owned()];
    for secret in secrets {
        assert!(!said.contains(&secret), "a secret is in the log: {secret}");
    }
    for event in ["grant", "login", "refusal", "push"] {
        assert!(said.contains(event), "no {event} in the audit log");
    }
}
