//! When a token is good.

use berth_auth::Refused;

use crate::harness::{Key, NOW, TestIssuer, refused, verify};

#[tokio::test]
async fn a_token_of_a_discovered_issuer_says_who_it_is() {
    let key = Key::rsa();
    let issuer = TestIssuer::with(&key).await;
    let proven = verify(&issuer.issuers(), &key.sign("k1", &issuer.claims())).await.unwrap();
    assert_eq!(proven.identity.to_string(), "oidc:ci/repo:acme/app:ref:refs/heads/main");
    assert_eq!(proven.expires_at, (NOW + 300) * 1000);
    assert_eq!((proven.issuer.as_str(), proven.session_ttl), ("ci", None));
}

#[tokio::test]
async fn clocks_may_be_a_minute_apart_and_no_more() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    let issuers = issuer.issuers();
    for (claim, good, bad) in
        [("exp", NOW - 59, NOW - 60), ("nbf", NOW + 60, NOW + 61), ("iat", NOW + 60, NOW + 61)]
    {
        let token = |at: i64| key.sign("k1", &issuer.with_claim(claim, at));
        verify(&issuers, &token(good)).await.unwrap();
        let refusal = refused(&issuers, &token(bad)).await;
        assert!(matches!(refusal, Refused::Expired { .. } | Refused::NotYet { .. }), "{claim}: {refusal}");
    }
}

#[tokio::test]
async fn an_expired_token_is_refused_with_both_times_and_without_a_call() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    let token = key.sign("k1", &issuer.with_claim("exp", NOW - 3600));
    let refusal = refused(&issuer.issuers(), &token).await.to_string();
    assert_eq!(refusal, "the token expired at 2026-11-26T21:40:00Z, and it is 2026-11-26T22:40:00Z here");
    assert_eq!(issuer.asked("/keys"), 0);
}

#[tokio::test]
async fn a_time_that_is_none_is_refused() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    let issuers = issuer.issuers();
    for claim in ["exp", "nbf", "iat"] {
        for odd in [
            "\"1795732900\"",
            "-1",
            "1e300",
            "18446744073709551615",
            "9223372036854775807",
            "null",
            "[1795732900]",
            "true",
            "253402300800",
        ] {
            let mut claims = issuer.claims();
            claims.as_object_mut().unwrap().remove(claim);
            let text = claims.to_string().replacen('{', &format!("{{\"{claim}\":{odd},"), 1);
            let token = key.sign_as(&serde_json::json!({"alg": "ES256", "kid": "k1"}), &text);
            let refusal = refused(&issuers, &token).await;
            assert!(matches!(refusal, Refused::Malformed(_)), "{claim} {odd}: {refusal}");
        }
    }
}

#[tokio::test]
async fn a_time_may_have_a_fraction() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    let claims = issuer.claims().to_string().replace(&(NOW + 300).to_string(), &format!("{}.5", NOW + 300));
    let token = key.sign_as(&serde_json::json!({"alg": "ES256", "kid": "k1"}), &claims);
    assert_eq!(verify(&issuer.issuers(), &token).await.unwrap().expires_at, (NOW + 300) * 1000 + 500);
}

#[tokio::test]
async fn a_token_without_an_end_is_refused() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    let mut claims = issuer.claims();
    claims.as_object_mut().unwrap().remove("exp");
    let refusal = refused(&issuer.issuers(), &key.sign("k1", &claims)).await;
    assert!(refusal.to_string().contains("never expires"), "{refusal}");
}
