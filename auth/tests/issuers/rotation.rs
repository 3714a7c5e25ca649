//! Keys that change, are unknown, or cannot be had.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use berth_auth::{Issuer, KeySource, KeysFrom, Refused};
use serde_json::json;

use crate::harness::{Key, NOW, TestIssuer, issuers, refused, verify};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_fetched_once_for_all_who_wait() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    issuer.change(|inside| inside.delay = Duration::from_millis(100));
    let issuers = Arc::new(issuer.issuers());
    let token = key.sign("k1", &issuer.claims());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (issuers, token) = (issuers.clone(), token.clone());
        tasks.spawn(async move { verify(&issuers, &token).await.unwrap() });
    }
    tasks.join_all().await;
    assert_eq!(issuer.asked("/keys"), 1);
}

#[tokio::test]
async fn one_who_hangs_up_does_not_take_the_fetch_with_them() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    issuer.change(|inside| inside.delay = Duration::from_millis(200));
    let issuers = issuer.issuers();
    let token = key.sign("k1", &issuer.claims());
    let hung_up = tokio::time::timeout(Duration::from_millis(50), verify(&issuers, &token)).await;
    assert!(hung_up.is_err());
    verify(&issuers, &token).await.unwrap();
    assert_eq!(issuer.asked("/keys"), 1);
}

#[tokio::test]
async fn made_up_key_ids_cost_the_issuer_next_to_nothing() {
    let (key, stranger) = (Key::p256(), Key::p256());
    let issuer = TestIssuer::with(&key).await;
    let issuers = issuer.issuers();
    let good = key.sign("k1", &issuer.claims());
    verify(&issuers, &good).await.unwrap();
    for second in 0..100_i64 {
        for round in 0..10 {
            let token = stranger.sign(&format!("made-up-{second}-{round}"), &issuer.claims());
            let refusal = issuers.verify(&token, (NOW + second) * 1000).await.unwrap_err();
            assert!(matches!(refusal, Refused::UnknownKey { .. }), "{refusal}");
        }
        issuers.verify(&good, (NOW + second) * 1000).await.unwrap();
    }
    // The first, three at once, then one in ten seconds.
    let asked = issuer.asked("/keys");
    assert!((5..=14).contains(&asked), "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_tokens_all_at_once_cost_no_more() {
    let (key, stranger) = (Key::p256(), Key::p256());
    let issuer = TestIssuer::with(&key).await;
    issuer.change(|inside| inside.delay = Duration::from_millis(20));
    let issuers = Arc::new(issuer.issuers());
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200 {
        let issuers = issuers.clone();
        let header = if n % 2 == 0 { json!({"alg": "ES256"}) } else { json!({"alg": "ES256", "kid": "k1"}) };
        let token = stranger.sign_as(&header, &issuer.claims().to_string());
        tasks.spawn(async move { refused(&issuers, &token).await });
    }
    for refusal in tasks.join_all().await {
        assert_eq!(refusal, Refused::Signature("ci".into()));
    }
    let asked = issuer.asked("/keys");
    assert!(asked <= 4, "{asked}");
}

/// A minute of the registry's clock, in which the issuer has another key each second and keeps the last
/// twenty, while four clients come with tokens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_rotate_each_second_refuse_nobody() {
    let issuer = Arc::new(TestIssuer::start().await);
    let first = Arc::new(Key::p256());
    issuer.publish("0", &first);
    let issuers = Arc::new(issuer.issuers());
    let newest = Arc::new(std::sync::Mutex::new((0, first)));
    let (clock, over) = (Arc::new(AtomicI64::new(NOW * 1000)), Arc::new(AtomicBool::new(false)));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (issuer, issuers, newest, clock, over) =
            (issuer.clone(), issuers.clone(), newest.clone(), clock.clone(), over.clone());
        clients.spawn(async move {
            let mut count = 0;
            while !over.load(Ordering::Relaxed) {
                let (id, key) = newest.lock().unwrap().clone();
                let token = key.sign(&id.to_string(), &issuer.claims());
                issuers.verify(&token, clock.load(Ordering::Relaxed)).await.unwrap();
                count += 1;
                // Known keys need no waiting, and the clock of the test needs the threads too.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            count
        });
    }
    for id in 1..60 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let key = Arc::new(Key::p256());
        issuer.publish(&id.to_string(), &key);
        if id >= 20 {
            issuer.change(|inside| drop(inside.keys.remove(&(id - 20).to_string())));
        }
        *newest.lock().unwrap() = (id, key);
        clock.fetch_add(1000, Ordering::Relaxed);
    }
    over.store(true, Ordering::Relaxed);
    let verified: u32 = clients.join_all().await.into_iter().sum();
    assert!(verified > 240, "{verified}");
    assert!(issuer.asked("/keys") <= 75, "{}", issuer.asked("/keys"));
}

#[tokio::test]
async fn a_token_without_a_key_id_is_tried_with_all_and_with_new_ones() {
    let (old, new) = (Key::p256(), Key::p256());
    let issuer = TestIssuer::start().await;
    issuer.publish("a", &Key::rsa());
    issuer.publish("b", &Key::p256());
    issuer.publish("c", &old);
    let issuers = issuer.issuers();
    let nameless = |key: &Key| key.sign_as(&json!({"alg": "ES256"}), &issuer.claims().to_string());
    verify(&issuers, &nameless(&old)).await.unwrap();
    issuer.publish("c", &new);
    verify(&issuers, &nameless(&new)).await.unwrap();
    // And a key of the set without an id is tried for every token.
    let plain = Key::p256();
    issuer.publish("d", &plain);
    issuer.change(|inside| drop(inside.keys.get_mut("d").unwrap().as_object_mut().unwrap().remove("kid")));
    verify(&issuers, &plain.sign("whatever", &issuer.claims())).await.unwrap();
}

#[tokio::test]
async fn the_last_good_keys_serve_for_a_day_while_the_issuer_is_down() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    let issuers = issuer.issuers();
    let mut claims = issuer.claims();
    claims["exp"] = (NOW + 48 * 3600).into();
    let token = key.sign("k1", &claims);
    verify(&issuers, &token).await.unwrap();
    issuer.change(|inside| inside.down = true);
    for later in [4 * MINUTE, 6 * MINUTE, HOUR, 23 * HOUR + 59 * MINUTE] {
        issuers.verify(&token, NOW * 1000 + later).await.unwrap();
    }
    // What is unknown now may be known to the issuer, who cannot be asked.
    let unknown = Key::p256().sign("k2", &claims);
    assert!(issuers.verify(&unknown, NOW * 1000 + 20 * HOUR).await.unwrap_err().is_trouble());
    // But what a known key did not sign is forged.
    let forged = Key::p256().sign("k1", &claims);
    let refusal = issuers.verify(&forged, NOW * 1000 + 20 * HOUR).await.unwrap_err();
    assert_eq!(refusal, Refused::Signature("ci".into()));
    let refusal = issuers.verify(&token, NOW * 1000 + 24 * HOUR + 1).await.unwrap_err();
    assert!(refusal.is_trouble(), "{refusal}");
    assert!(refusal.to_string().contains("503"), "{refusal}");
    issuer.change(|inside| inside.down = false);
    issuers.verify(&token, NOW * 1000 + 25 * HOUR).await.unwrap();
}

#[tokio::test]
async fn an_issuer_that_hangs_delays_nobody_whose_key_is_known() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    let issuers = issuer.issuers();
    let mut claims = issuer.claims();
    claims["exp"] = (NOW + 7200).into();
    let token = key.sign("k1", &claims);
    verify(&issuers, &token).await.unwrap();
    issuer.change(|inside| inside.delay = Duration::from_secs(5));
    let began = Instant::now();
    for second in 0..20 {
        issuers.verify(&token, NOW * 1000 + 6 * MINUTE + second * 1000).await.unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn berth_starts_while_an_issuer_is_down_and_says_so() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    issuer.change(|inside| inside.down = true);
    let issuers = issuer.issuers();
    let token = key.sign("k1", &issuer.claims());
    for _ in 0..50 {
        let refusal = refused(&issuers, &token).await;
        assert!(refusal.is_trouble(), "{refusal}");
    }
    assert_eq!(issuer.asked("/.well-known/openid-configuration"), 1);
    issuer.change(|inside| inside.down = false);
    issuers.verify(&token, (NOW + 4) * 1000).await.unwrap();
}

#[tokio::test]
async fn a_withdrawn_key_is_soon_no_good() {
    let (old, new) = (Key::p256(), Key::p256());
    let issuer = TestIssuer::with(&old).await;
    let issuers = issuer.issuers();
    let mut claims = issuer.claims();
    claims["exp"] = (NOW + 36_000).into();
    let token = old.sign("k1", &claims);
    verify(&issuers, &token).await.unwrap();
    issuer.change(|inside| inside.keys.clear());
    issuer.publish("k2", &new);
    // Nobody asked for hours: the first who does waits for the new keys.
    let refusal = issuers.verify(&token, NOW * 1000 + 3 * HOUR).await.unwrap_err();
    assert!(matches!(refusal, Refused::UnknownKey { .. }), "{refusal}");
}

#[tokio::test]
async fn a_bad_set_of_keys_leaves_the_good_one() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    let issuers = issuer.issuers();
    let mut claims = issuer.claims();
    claims["exp"] = (NOW + 80_000).into();
    let token = key.sign("k1", &claims);
    verify(&issuers, &token).await.unwrap();
    let key_text = key.jwk("k1").to_string();
    let many = format!(r#"{{"keys":[{}]}}"#, vec![key_text.as_str(); 65].join(","));
    let huge = format!(r#"{{"keys":[{key_text}],"x":"{}"}}"#, "x".repeat(1 << 20));
    let secret = r#"{"keys":[{"kty":"oct","k":"c2VjcmV0","kid":"k1"}]}"#;
    let mut later = 0;
    for bad in [
        "",
        "<html>",
        "{}",
        r#"{"keys":[]}"#,
        r#"{"keys":{}}"#,
        "[]",
        r#"{"keys":[5,{}]}"#,
        secret,
        &many,
        &huge,
    ] {
        issuer.change(|inside| drop(inside.answers.insert("/keys".into(), (200, String::new(), bad.into()))));
        later += 11 * MINUTE;
        let before = issuer.asked("/keys");
        while issuer.asked("/keys") == before {
            later += MINUTE;
            issuers.verify(&token, NOW * 1000 + later).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let unknown = Key::p256().sign("k2", &claims);
    let refusal = issuers.verify(&unknown, NOW * 1000 + later + MINUTE).await.unwrap_err();
    assert!(refusal.is_trouble() && refusal.to_string().contains("1 MiB"), "{refusal}");
}

#[tokio::test]
async fn a_file_of_keys_is_read_again_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let (old, new) = (Key::p256(), Key::ed25519());
    let write =
        |key: &Key, id: &str| std::fs::write(&file, json!({"keys": [key.jwk(id)]}).to_string()).unwrap();
    let issuer = TestIssuer::start().await;
    let keys = KeySource { from: KeysFrom::File(file.clone()), ..KeySource::default() };
    let issuers =
        issuers(vec![Issuer { keys, algorithms: berth_auth::Algorithm::ALL.into(), ..issuer.settings() }]);
    let token = old.sign("k1", &issuer.claims());
    let refusal = refused(&issuers, &token).await;
    assert!(refusal.is_trouble() && refusal.to_string().contains("keys.json"), "{refusal}");
    write(&old, "k1");
    issuers.verify(&token, (NOW + 4) * 1000).await.unwrap();
    write(&new, "k2");
    issuers.verify(&new.sign("k2", &issuer.claims()), (NOW + 5) * 1000).await.unwrap();
    assert!(issuers.verify(&token, (NOW + 5) * 1000).await.is_err());
    // A file that is broken changes nothing.
    std::fs::write(&file, "{").unwrap();
    issuers.verify(&new.sign("k2", &issuer.claims()), (NOW + 60) * 1000).await.unwrap();
    assert!(issuer.inside.lock().unwrap().asked.is_empty());
}
