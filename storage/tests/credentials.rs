//! Credentials of Amazon's chain, which end and are asked for anew while a store is at work.
//!
//! The chain reads the environment, and a program's own cannot be changed safely while it runs: each
//! test runs itself once more in another process, with the environment of a pod.

mod backends;
mod session;

use std::env;
use std::time::{Duration, Instant};

use berth_storage::cloud::{Patience, Provider, S3, S3Credentials};
use berth_storage::{Algorithm, Store};
use berth_test_stores::{Backdoor as _, Hostile, Issuer, process, run};
use futures_util::TryStreamExt as _;

use self::backends::{TINY, content};
use self::session::Session;

const LIFE: Duration = Duration::from_secs(4);
/// Several lives long.
const WORK: Duration = Duration::from_secs(13);

const ENDPOINT: &str = "TEST_ENDPOINT";
const BUCKET: &str = "TEST_BUCKET";

#[tokio::test]
async fn a_store_works_on_while_credentials_for_a_web_identity_are_renewed() {
    works_on("a_store_works_on_while_credentials_for_a_web_identity_are_renewed", |issuer, token| {
        vec![
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token),
            ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/berth".to_owned()),
            ("AWS_ENDPOINT_URL_STS", issuer.endpoint().to_owned()),
        ]
    })
    .await;
}

#[tokio::test]
async fn a_store_works_on_while_credentials_of_a_pod_identity_are_renewed() {
    works_on("a_store_works_on_while_credentials_of_a_pod_identity_are_renewed", |issuer, token| {
        vec![
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/v1/credentials", issuer.endpoint())),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token),
        ]
    })
    .await;
}

async fn works_on(test: &str, environment: impl Fn(&Issuer, String) -> Vec<(&'static str, String)>) {
    if let (Ok(endpoint), Ok(bucket)) = (env::var(ENDPOINT), env::var(BUCKET)) {
        return store_and_read_for_a_while(&endpoint, &bucket).await;
    }
    let issuer = Issuer::start(LIFE);
    let server = Hostile::start();
    let bucket = server.fresh_bucket().await;
    server.trust_only(&issuer);
    let folder = run::folder("pod");
    let token = folder.path().join("token");
    std::fs::write(&token, issuer.identity()).unwrap();

    let mut command = run::command(env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]);
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("HOME", folder.path()).env("AWS_EC2_METADATA_DISABLED", "true");
    command.env(ENDPOINT, server.endpoint()).env(BUCKET, &bucket);
    command.envs(environment(&issuer, token.display().to_string()));
    process::run(command).await;

    assert!(server.requests().all() > 100, "{:?}", server.requests());
    // Each is used for half of its life.
    let times = issuer.issued();
    assert!((5..15).contains(&times), "{times} times");
}

async fn store_and_read_for_a_while(endpoint: &str, bucket: &str) {
    let chain = S3Credentials::Chain { profile: None };
    let settings = S3 { credentials: chain, ..backends::s3(endpoint, ("", ""), bucket) };
    let settings = backends::settings(Provider::S3(settings));
    let to = Store::open_cloud_within(&settings, Patience::default(), TINY).await.unwrap();
    // Amazon's own client has a cache of its own, which keeps nothing that ends within ten seconds.
    assert_eq!(to.open_multiparts().await.unwrap(), []);
    let since = Instant::now();
    let bytes = content(1, 100_000);
    while since.elapsed() < WORK {
        let mut writing = Session::begin(Algorithm::Sha256).write(&to);
        writing.bytes(&bytes, 10_000).await;
        let object = writing.finish(&bytes).await;
        let pieces = to.read(&object.key, object.size_bytes, 0..object.size_bytes).await.unwrap();
        let found = pieces.map_ok(|piece| piece.to_vec()).try_concat().await.unwrap();
        assert!(found == bytes);
        to.delete(&object.key, None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(to.open_multiparts().await.unwrap(), []);
}
