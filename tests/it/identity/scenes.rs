//! What the tests of identity share: robots with rights of their own, and ways to ask for tokens.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    harness::{Server, server::Builder},
    protocol::wire::{Answer, Berth},
};

/// The key of a robot of the tests: its name, as often as it takes.
pub fn key(robot: &str) -> String {
    let random: [u8; 32] = Sha256::digest(robot.as_bytes()).into();
    format!("berth_robot_{}", URL_SAFE_NO_PAD.encode(random))
}

/// The `Authorization` of Basic.
pub fn basic(user: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{secret}")))
}

/// The `Authorization` of a robot.
pub fn robot(name: &str) -> String {
    basic("any-name", &key(name))
}

pub fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// A robot, as the configuration names it.
pub fn robot_entry(name: &str) -> String {
    let hash = hex::encode(Sha256::digest(key(name).as_bytes()));
    format!("[[auth.robot]]\nname = \"{name}\"\nsecrets = [{{ hash = \"sha256:{hash}\" }}]\n")
}

/// A rule for one robot.
pub fn rule(robot: &str, repositories: &str, actions: &str) -> String {
    format!(
        "[[auth.rule]]\nname = \"{robot} on {repositories}\"\nidentities = [\"robot:{robot}\"]\n\
         repositories = [\"{repositories}\"]\nactions = [{actions}]\n"
    )
}

/// A robot with one right below `private/`, and one that has all of them everywhere.
pub fn cast() -> String {
    let mut config = "[auth]\nservice = \"registry.test\"\n".to_owned();
    for (name, actions) in [
        ("puller", "\"pull\""),
        ("pusher", "\"push\""),
        ("creator", "\"create\", \"pull\""),
        ("mover", "\"overwrite\", \"pull\""),
        ("deleter", "\"delete\""),
    ] {
        config += &robot_entry(name);
        config += &rule(name, "private/**", actions);
    }
    config += &robot_entry("admin");
    config += &rule("admin", "**", "\"*\"");
    // A tenant of their own.
    config += &robot_entry("stranger");
    config += &rule("stranger", "elsewhere/**", "\"*\"");
    config += "[[auth.rule]]\nname = \"public\"\nidentities = [\"anonymous\"]\n\
               repositories = [\"public/**\"]\nactions = [\"pull\"]\n";
    config
}

/// A server with the [`cast`].
pub fn staged() -> Builder {
    Server::builder().config(&cast())
}

/// What the token endpoint answers to a GET.
pub async fn ask_token(berth: &Berth, authorization: &str, query: &str) -> Answer {
    let headers: &[(&str, &str)] = &[("authorization", authorization)];
    let headers = if authorization.is_empty() { &headers[..0] } else { headers };
    berth.send("GET", &format!("/token?service=registry.test{query}"), headers, Vec::new()).await
}

/// A token for some scopes.
pub async fn token(berth: &Berth, authorization: &str, scopes: &[&str]) -> String {
    let query = scopes.iter().fold(String::new(), |query, scope| query + "&scope=" + scope);
    let answer = ask_token(berth, authorization, &query).await;
    answer.is(200).json()["token"].as_str().expect("a token").to_owned()
}

/// What the token endpoint answers to a form.
pub async fn post_token(berth: &Berth, path: &str, fields: &[(&str, &str)]) -> Answer {
    let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    berth.send("POST", path, &[("content-type", "application/x-www-form-urlencoded")], form).await
}

/// What a token says, without a look at its signature.
pub fn claims(token: &str) -> Value {
    let middle = token.split('.').nth(1).expect("a token has three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(middle).expect("base64")).expect("JSON")
}

/// Pushes an image as the admin; gives back what it is made of.
pub async fn push_as(berth: &Berth, authorization: &str, repository: &str, tag: &str, seed: u64) -> Image {
    let with = |more: &'static [(&'static str, &'static str)]| {
        let mut headers = vec![("authorization", authorization)];
        headers.extend_from_slice(more);
        headers
    };
    let config = format!(r#"{{"seed":{seed}}}"#).into_bytes();
    let digest = crate::harness::content::sha256(&config);
    let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
    berth.send("POST", &path, &with(&[]), config.clone()).await.is(201);
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": crate::harness::layout::MANIFEST,
        "config": { "mediaType": crate::harness::layout::CONFIG, "digest": digest, "size": config.len() },
        "layers": [],
    });
    let manifest = manifest.to_string().into_bytes();
    let path = format!("/v2/{repository}/manifests/{tag}");
    let kind = [("content-type", crate::harness::layout::MANIFEST)];
    let mut headers = with(&[]);
    headers.extend_from_slice(&kind);
    let put = berth.send("PUT", &path, &headers, manifest.clone()).await;
    let manifest_digest = crate::harness::content::sha256(&manifest);
    Image { put, blob: digest, manifest: manifest_digest, bytes: manifest }
}

/// An image without layers.
pub struct Image {
    /// What the registry answered to its manifest.
    pub put: Answer,
    /// Its config.
    pub blob: String,
    /// Its manifest.
    pub manifest: String,
    pub bytes: Vec<u8>,
}
