//! The route matrix: every route, asked by everyone.

use berth::http::path::Resource;
use berth_auth::{Identity, Kind};
use reqwest::header::WWW_AUTHENTICATE;

use super::scenes::{bearer, push_as, robot, staged, token};
use crate::{
    faults::behind::command,
    harness::{content::sha256, layout::MANIFEST, process},
    protocol::wire::{Answer, Berth},
};

/// Something that is there to be asked for, made anew for each question.
struct Stage {
    image: super::scenes::Image,
    /// A blob that no manifest needs, so that it can be deleted.
    loose: String,
    upload: String,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Anonymous,
    /// Of another tenant.
    Stranger,
    /// With a token whose time is over.
    Expired,
    /// With a token that was revoked.
    Revoked,
    Puller,
    Pusher,
    Deleter,
    Admin,
    /// The admin, with a token for nothing but pulling.
    AdminForPull,
}

const EVERYONE: [Who; 9] = [
    Who::Anonymous,
    Who::Stranger,
    Who::Expired,
    Who::Revoked,
    Who::Puller,
    Who::Pusher,
    Who::Deleter,
    Who::Admin,
    Who::AdminForPull,
];

/// What a route is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Login,
    List,
    /// To see whether something is there, which whoever pushes may too.
    Look,
    Pull,
    Push,
    Delete,
}

/// Every kind of resource there is. A new one does not compile until it is in the matrix.
fn resources(repository: &str, stage: &Stage) -> Vec<Resource> {
    let of = |path: String| Resource::parse(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let all = vec![
        of(String::new()),
        of("_catalog".into()),
        of(format!("{repository}/tags/list")),
        of(format!("{repository}/referrers/{}", stage.image.manifest)),
        of(format!("{repository}/blobs/{}", stage.loose)),
        of(format!("{repository}/blobs/uploads/")),
        of(stage.upload.trim_start_matches("/v2/").to_owned()),
        of(format!("{repository}/manifests/v1")),
        of(format!("{repository}/manifests/{}", stage.image.manifest)),
    ];
    for resource in &all {
        match resource {
            Resource::Base
            | Resource::Catalog
            | Resource::Tags { .. }
            | Resource::Referrers { .. }
            | Resource::Blob { .. }
            | Resource::Uploads { .. }
            | Resource::Upload { .. }
            | Resource::Manifest { .. } => {}
        }
    }
    all
}

fn path(resource: &Resource) -> String {
    match resource {
        Resource::Base => "/v2/".into(),
        Resource::Catalog => "/v2/_catalog".into(),
        Resource::Tags { repository } => format!("/v2/{repository}/tags/list"),
        Resource::Referrers { repository, digest } => format!("/v2/{repository}/referrers/{digest}"),
        Resource::Blob { repository, digest } => format!("/v2/{repository}/blobs/{digest}"),
        Resource::Uploads { repository } => format!("/v2/{repository}/blobs/uploads/"),
        Resource::Upload { repository, id } => format!("/v2/{repository}/blobs/uploads/{id}"),
        Resource::Manifest { repository, reference } => format!("/v2/{repository}/manifests/{reference}"),
    }
}

fn need(resource: &Resource, method: &str) -> Need {
    match (resource, method) {
        (Resource::Base, _) => Need::Login,
        (Resource::Catalog, _) => Need::List,
        (Resource::Blob { .. } | Resource::Manifest { .. }, "HEAD") => Need::Look,
        (_, "DELETE") if !matches!(resource, Resource::Upload { .. }) => Need::Delete,
        (Resource::Uploads { .. } | Resource::Upload { .. }, _) | (_, "PUT" | "POST" | "PATCH") => Need::Push,
        _ => Need::Pull,
    }
}

/// What everyone is told: a status and a code.
fn expected(who: Who, need: Need) -> Option<(u16, &'static str)> {
    const HIDDEN: Option<(u16, &str)> = Some((404, "NAME_UNKNOWN"));
    const DENIED: Option<(u16, &str)> = Some((403, "DENIED"));
    const WHO: Option<(u16, &str)> = Some((401, "UNAUTHORIZED"));
    match (who, need) {
        (Who::Anonymous | Who::Expired | Who::Revoked, _)
        | (Who::AdminForPull, Need::List | Need::Push | Need::Delete) => WHO,
        // Whoever is known may log in, and list what they may see.
        (_, Need::Login | Need::List)
        | (Who::Admin | Who::AdminForPull, _)
        | (Who::Puller, Need::Pull | Need::Look)
        | (Who::Pusher, Need::Push | Need::Look)
        | (Who::Deleter, Need::Delete) => None,
        (_, Need::Pull | Need::Look) => HIDDEN,
        (_, Need::Push | Need::Delete) => DENIED,
    }
}

struct Casting {
    expired: String,
    revoked: String,
    for_pull: String,
}

impl Casting {
    fn of(&self, who: Who) -> Option<String> {
        match who {
            Who::Anonymous => None,
            Who::Stranger => Some(robot("stranger")),
            Who::Expired => Some(bearer(&self.expired)),
            Who::Revoked => Some(bearer(&self.revoked)),
            Who::Puller => Some(robot("puller")),
            Who::Pusher => Some(robot("pusher")),
            Who::Deleter => Some(robot("deleter")),
            Who::Admin => Some(robot("admin")),
            Who::AdminForPull => Some(bearer(&self.for_pull)),
        }
    }
}

async fn ask(berth: &Berth, who: Option<&str>, resource: &Resource, method: &str, stage: &Stage) -> Answer {
    let mut headers: Vec<(&str, &str)> = who.map(|text| ("authorization", text)).into_iter().collect();
    let mut target = path(resource);
    let mut body = Vec::new();
    match (resource, method) {
        (Resource::Manifest { .. }, "PUT") => {
            headers.push(("content-type", MANIFEST));
            body.clone_from(&stage.image.bytes);
        }
        (Resource::Upload { .. }, "PUT") => target = format!("{target}?digest={}", sha256(b"")),
        _ => {}
    }
    berth.send(method, &target, &headers, body).await
}

/// A server with a private image, and a fresh upload session of whoever pushes.
async fn stage(berth: &Berth, repository: &str, who: Who, credential: Option<&str>) -> Stage {
    let image = push_as(berth, &robot("admin"), repository, "v1", 1).await;
    image.put.is(201);
    // A session is its beginner's; nobody else's request could be told apart from one for none.
    let beginner = match (who, credential) {
        (Who::Pusher | Who::Admin, Some(credential)) => credential.to_owned(),
        _ => robot("admin"),
    };
    let target = format!("/v2/{repository}/blobs/uploads/");
    let begun = berth.send("POST", &target, &[("authorization", &beginner)], Vec::new()).await;
    let loose = sha256(b"loose");
    let whole = format!("{target}?digest={loose}");
    berth.send("POST", &whole, &[("authorization", &robot("admin"))], b"loose".to_vec()).await.is(201);
    Stage { image, loose, upload: begun.is(202).header("location").to_owned() }
}

#[tokio::test]
async fn every_route_answers_everyone_as_it_should() {
    let berth = Berth::of(staged().start().await);
    let for_pull = token(&berth, &robot("admin"), &["repository:private/app:pull"]).await;
    let everything = ["repository:private/app:*", "registry:catalog:*"];
    let revoked = token(&berth, &robot("admin"), &everything).await;
    // A second admin is not needed: what is made after the moment of a revocation is good again, so the token
    // that is to be revoked belongs to another robot.
    let of_creator = token(&berth, &robot("creator"), &everything).await;
    process::run(command(&berth.server, &["token", "revoke", "--identity", "robot:creator"])).await;
    drop(revoked);
    let expired = super::attacks::forge(&berth, |token| {
        token.identity = Identity::new(Kind::Robot, "admin");
        token.issued_at -= 24 * 3600;
        token.expires_at -= 24 * 3600;
    })
    .await;
    let casting = Casting { expired, revoked: of_creator, for_pull };
    let mut wrong = Vec::new();
    let mut asked = 0;
    for (exists, repository) in [(true, "private/app"), (false, "private/none")] {
        for who in EVERYONE {
            let credential = casting.of(who);
            // Tokens are for the one that exists.
            if !exists && who == Who::AdminForPull {
                continue;
            }
            let kinds =
                resources(repository, &stage(&berth, "private/app", who, credential.as_deref()).await).len();
            for kind in 0..kinds {
                let methods = {
                    let stage = stage(&berth, "private/app", who, credential.as_deref()).await;
                    resources("private/app", &stage)[kind].methods().to_owned()
                };
                for method in methods.split(", ") {
                    let stage = stage(&berth, "private/app", who, credential.as_deref()).await;
                    let resource = &resources(repository, &stage)[kind];
                    if !exists && matches!(resource, Resource::Upload { .. }) {
                        continue;
                    }
                    let answer = ask(&berth, credential.as_deref(), resource, method, &stage).await;
                    asked += 1;
                    let what = format!("{who:?} {method} {}", path(resource));
                    if let Some((status, code)) = expected(who, need(resource, method)) {
                        let body = answer.text();
                        let coded = method == "HEAD" || body.contains(&format!("\"code\":\"{code}\""));
                        if answer.status != status || !coded {
                            wrong.push(format!("{what}: {} {body}, not {status} {code}", answer.status));
                        }
                        if answer.headers.contains_key(WWW_AUTHENTICATE) != (status == 401) {
                            wrong.push(format!("{what}: a challenge belongs to 401, and to nothing else"));
                        }
                        continue;
                    }
                    // What is allowed either works, or says that it is not there.
                    let fine = answer.status < 300 || (!exists && answer.status == 404);
                    if !fine {
                        wrong.push(format!("{what}: {} {}", answer.status, answer.text()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {asked}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(asked > 200, "only {asked} questions were asked");
}

#[tokio::test]
async fn nothing_tells_a_private_repository_from_none() {
    let berth = Berth::of(staged().start().await);
    let image = push_as(&berth, &robot("admin"), "private/app", "v1", 1).await;
    image.put.is(201);
    for who in [None, Some(robot("stranger"))] {
        let headers: Vec<(&str, &str)> = who.iter().map(|text| ("authorization", text.as_str())).collect();
        for rest in [
            "tags/list".to_owned(),
            "manifests/v1".to_owned(),
            format!("manifests/{}", image.manifest),
            format!("blobs/{}", image.blob),
            format!("referrers/{}", image.manifest),
        ] {
            for method in ["GET", "HEAD"] {
                let mut answers = Vec::new();
                for name in ["private/app", "private/xxx"] {
                    let answer =
                        berth.send(method, &format!("/v2/{name}/{rest}"), &headers, Vec::new()).await;
                    let id = answer.header("x-request-id").to_owned();
                    let plain = |text: &str| text.replace(name, "NAME").replace(&id, "ID");
                    let mut seen: Vec<String> = answer
                        .headers
                        .iter()
                        .filter(|(header, _)| *header != "date")
                        .map(|(header, value)| format!("{header}: {}", plain(value.to_str().expect("text"))))
                        .collect();
                    seen.sort();
                    answers.push((answer.status, seen, plain(&answer.text())));
                }
                assert_eq!(answers[0], answers[1], "{method} {rest} of {who:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_challenge_names_what_is_needed_and_the_address_by_which_one_came() {
    let berth = Berth::of(staged().start().await);
    let host = berth.server.host().to_owned();
    for (method, target, scope) in [
        ("GET", "/v2/", ""),
        ("GET", "/v2/_catalog", ",scope=\"registry:catalog:*\""),
        ("GET", "/v2/private/app/manifests/v1", ",scope=\"repository:private/app:pull\""),
        ("HEAD", "/v2/private/app/manifests/v1", ",scope=\"repository:private/app:pull\""),
        ("POST", "/v2/private/app/blobs/uploads/", ",scope=\"repository:private/app:pull,push\""),
        ("DELETE", "/v2/private/app/manifests/v1", ",scope=\"repository:private/app:delete\""),
        (
            "POST",
            "/v2/private/app/blobs/uploads/?mount=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855&from=private/base",
            ",scope=\"repository:private/app:pull,push repository:private/base:pull\"",
        ),
    ] {
        let answer = berth.ask(method, target).await;
        answer.is(401);
        let challenge = answer.header("www-authenticate");
        let expected = format!("Bearer realm=\"http://{host}/token\",service=\"registry.test\"{scope}");
        assert_eq!(challenge, expected, "{method} {target}");
    }
}

#[tokio::test]
async fn what_is_public_needs_nobody_and_a_bad_credential_is_told_so() {
    let berth = Berth::of(staged().start().await);
    push_as(&berth, &robot("admin"), "public/app", "v1", 1).await.put.is(201);
    berth.ask("GET", "/v2/public/app/manifests/v1").await.is(200);
    berth.ask("GET", "/v2/public/app/tags/list").await.is(200);
    berth.ask("PUT", "/v2/public/app/manifests/v1").await.is_refused(401, "UNAUTHORIZED");
    // Whoever shows a key that is none has made a mistake, and shall know it (A10).
    let headers = [("authorization", robot("nobody"))];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let answer = berth.send("GET", "/v2/public/app/manifests/v1", &headers, Vec::new()).await;
    answer.is_refused(401, "UNAUTHORIZED");
    // The way clients go: a token for nobody.
    let token = token(&berth, "", &["repository:public/app:pull,push"]).await;
    let claims = super::scenes::claims(&token);
    assert_eq!(claims["access"][0]["actions"], serde_json::json!(["pull"]));
    let token = bearer(&token);
    berth.send("GET", "/v2/public/app/manifests/v1", &[("authorization", &token)], Vec::new()).await.is(200);
}

#[tokio::test]
async fn the_catalog_shows_what_one_may_pull() {
    let berth = Berth::of(staged().start().await);
    for (name, seed) in [("private/a", 1), ("private/b", 2), ("elsewhere/c", 3), ("public/d", 4)] {
        push_as(&berth, &robot("admin"), name, "v1", seed).await.put.is(201);
    }
    for (who, names) in [
        ("admin", vec!["elsewhere/c", "private/a", "private/b", "public/d"]),
        ("puller", vec!["private/a", "private/b"]),
        ("pusher", vec![]),
        ("stranger", vec!["elsewhere/c"]),
    ] {
        let credential = robot(who);
        let mut found = Vec::new();
        let mut next = Some("/v2/_catalog?n=1".to_owned());
        while let Some(page) = next {
            let answer = berth.send("GET", &page, &[("authorization", &credential)], Vec::new()).await;
            answer.is(200);
            for name in answer.json()["repositories"].as_array().expect("a list") {
                found.push(name.as_str().expect("a name").to_owned());
            }
            let link = answer.headers.get("link").map(|link| link.to_str().expect("text").to_owned());
            next = link.map(|link| link[1..link.find('>').expect("a link")].to_owned());
        }
        assert_eq!(found, names, "{who}");
    }
}

#[tokio::test]
async fn a_refusal_names_the_rule_or_what_the_token_lacks() {
    let config = "[[auth.rule]]\nname = \"releases stay as they are\"\neffect = \"deny\"\n\
                  identities = [\"**\"]\nrepositories = [\"private/release/**\"]\nactions = [\"overwrite\", \"delete\"]\n";
    let berth = Berth::of(staged().config(config).start().await);
    let admin = robot("admin");
    push_as(&berth, &admin, "private/release/app", "v1", 1).await.put.is(201);
    // The same again changes nothing.
    push_as(&berth, &admin, "private/release/app", "v1", 1).await.put.is(201);
    let moved = push_as(&berth, &admin, "private/release/app", "v1", 2).await.put;
    moved.is_refused(403, "DENIED");
    assert!(moved.text().contains("releases stay as they are"), "{}", moved.text());
    let target = "/v2/private/release/app/manifests/v1";
    let deleted = berth.send("DELETE", target, &[("authorization", &admin)], Vec::new()).await;
    deleted.is_refused(403, "DENIED");
    assert!(deleted.text().contains("releases stay as they are"), "{}", deleted.text());

    let narrow = bearer(&token(&berth, &admin, &["repository:private/app:pull"]).await);
    let target = "/v2/private/app/blobs/uploads/";
    let lacking = berth.send("POST", target, &[("authorization", &narrow)], Vec::new()).await;
    lacking.is_refused(401, "UNAUTHORIZED");
    assert!(lacking.header("www-authenticate").contains("error=\"insufficient_scope\""));
    assert!(lacking.text().contains("repository:private/app:pull,push"), "{}", lacking.text());
}

#[tokio::test]
async fn to_create_a_tag_is_one_right_and_to_overwrite_it_another() {
    let berth = Berth::of(staged().start().await);
    for tag in ["latest", "v1", "0", "sha256-0123"] {
        let (creator, mover) = (robot("creator"), robot("mover"));
        // Blobs may be pushed by both; the tag is what differs.
        push_as(&berth, &mover, "private/app", tag, 1).await.put.is_refused(403, "DENIED");
        push_as(&berth, &creator, "private/app", tag, 1).await.put.is(201);
        push_as(&berth, &creator, "private/app", tag, 2).await.put.is_refused(403, "DENIED");
        push_as(&berth, &mover, "private/app", tag, 3).await.put.is(201);
        let admin = robot("admin");
        let target = format!("/v2/private/app/manifests/{tag}");
        let now = berth.send("HEAD", &target, &[("authorization", &admin)], Vec::new()).await;
        let third = push_as(&berth, &admin, "private/other", "x", 3).await;
        assert_eq!(now.header("docker-content-digest"), third.manifest, "{tag}");
    }
}

#[tokio::test]
async fn of_many_who_create_the_same_tag_one_does() {
    let berth = Berth::of(staged().start().await);
    let creator = robot("creator");
    let racing = (0..8).map(|seed| push_as(&berth, &creator, "private/app", "latest", seed));
    let pushed = futures_util::future::join_all(racing).await;
    let created = pushed.iter().filter(|image| image.put.status == 201).count();
    assert_eq!(created, 1);
    for image in pushed.iter().filter(|image| image.put.status != 201) {
        image.put.is_refused(403, "DENIED");
    }
}
