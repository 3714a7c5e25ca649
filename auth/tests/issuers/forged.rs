//! Tokens that must not be believed.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::KeyPair as _;
use berth_auth::{Algorithm, Issuer, Refused};
use serde_json::json;

use crate::harness::{AUDIENCE, Key, TestIssuer, base64, issuers, refused, verify};

#[tokio::test]
async fn a_token_without_a_signature_is_refused() {
    let key = Key::rsa();
    let issuer = TestIssuer::with(&key).await;
    let issuers = issuer.issuers();
    for algorithm in ["none", "None", "NONE", "nOnE", ""] {
        let header = json!({"alg": algorithm, "kid": "k1"});
        let message = format!("{}.{}", base64(header.to_string()), base64(issuer.claims().to_string()));
        let refusal = refused(&issuers, &format!("{message}.")).await;
        assert!(matches!(refusal, Refused::Algorithm { .. }), "{refusal}");
    }
    assert_eq!(issuer.asked("/keys"), 0);
}

#[tokio::test]
async fn a_public_key_is_no_secret_to_sign_with() {
    for key in [Key::rsa(), Key::p256()] {
        let issuer = TestIssuer::with(&key).await;
        let jwk = key.jwk("k1");
        let secrets = match &key {
            Key::Rsa(pair) => vec![
                jwk["n"].as_str().unwrap().as_bytes().to_vec(),
                aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(
                    pair.public_key(),
                )
                .unwrap()
                .as_ref()
                .to_vec(),
                jwk.to_string().into_bytes(),
            ],
            _ => vec![jwk["x"].as_str().unwrap().as_bytes().to_vec(), jwk.to_string().into_bytes()],
        };
        for secret in secrets {
            let header = json!({"alg": "HS256", "kid": "k1"});
            let message = format!("{}.{}", base64(header.to_string()), base64(issuer.claims().to_string()));
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), message.as_bytes());
            let refusal = refused(&issuer.issuers(), &format!("{message}.{}", base64(tag))).await;
            assert!(matches!(refusal, Refused::Algorithm { .. }), "{refusal}");
        }
    }
    assert!("HS256".parse::<Algorithm>().is_err());
    assert!("none".parse::<Algorithm>().is_err());
}

#[tokio::test]
async fn the_key_in_a_header_is_not_looked_at() {
    let (key, stranger) = (Key::p256(), Key::p256());
    let issuer = TestIssuer::with(&key).await;
    let theirs = TestIssuer::with(&stranger).await;
    let issuers = issuer.issuers();
    let extras = [
        json!({"jwk": stranger.jwk("k1")}),
        json!({"jku": format!("{}/keys", theirs.url)}),
        json!({"x5u": format!("{}/keys", theirs.url)}),
        json!({"x5c": ["MIIB"]}),
        json!({"jwk": "no key at all", "x5c": 5}),
    ];
    for extra in extras {
        let mut header = json!({"alg": "ES256", "kid": "k1"});
        header.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let forged = stranger.sign_as(&header, &issuer.claims().to_string());
        assert!(matches!(refused(&issuers, &forged).await, Refused::Signature(_)), "{extra}");
        // Nor does it spoil an honest token.
        verify(&issuers, &key.sign_as(&header, &issuer.claims().to_string())).await.unwrap();
    }
    assert!(theirs.inside.lock().unwrap().asked.is_empty());
}

#[tokio::test]
async fn the_right_key_id_with_another_key_is_refused() {
    let (key, stranger) = (Key::rsa(), Key::rsa());
    let issuer = TestIssuer::with(&key).await;
    let refusal = refused(&issuer.issuers(), &stranger.sign("k1", &issuer.claims())).await;
    assert_eq!(refusal, Refused::Signature("ci".into()));
    let refusal = refused(&issuer.issuers(), &stranger.sign("k2", &issuer.claims())).await;
    assert_eq!(refusal, Refused::UnknownKey { issuer: "ci".into(), key: "k2".into() });
}

#[tokio::test]
async fn a_changed_token_is_refused() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    let issuers = issuer.issuers();
    let token = key.sign("k1", &issuer.claims());
    let parts: Vec<&str> = token.split('.').collect();
    let other = base64(issuer.with_claim("sub", "repo:acme/other:ref:refs/heads/main").to_string());
    let refusal = refused(&issuers, &format!("{}.{other}.{}", parts[0], parts[2])).await;
    assert_eq!(refusal, Refused::Signature("ci".into()));
    let zeros = base64([0; 64]);
    let refusal = refused(&issuers, &format!("{}.{}.{zeros}", parts[0], parts[1])).await;
    assert_eq!(refusal, Refused::Signature("ci".into()));
}

#[tokio::test]
async fn a_critical_extension_is_refused() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    for critical in [json!(["exp"]), json!([]), json!("b64"), json!(null)] {
        let header = json!({"alg": "ES256", "kid": "k1", "crit": critical, "b64": false});
        let refusal = refused(&issuer.issuers(), &key.sign_as(&header, &issuer.claims().to_string())).await;
        assert!(refusal.to_string().contains("critical"), "{refusal}");
    }
}

#[tokio::test]
async fn an_algorithm_must_be_allowed_and_be_the_keys() {
    let (rsa, p384, ed25519) = (Key::rsa(), Key::p384(), Key::ed25519());
    let issuer = TestIssuer::start().await;
    issuer.publish("rsa", &rsa);
    issuer.publish("p384", &p384);
    issuer.publish("ed25519", &ed25519);
    let (default, all) =
        (issuer.issuers(), issuers(vec![Issuer { algorithms: Algorithm::ALL.into(), ..issuer.settings() }]));
    for (id, key) in [("p384", &p384), ("ed25519", &ed25519)] {
        let token = key.sign(id, &issuer.claims());
        let refusal = refused(&default, &token).await;
        assert!(refusal.to_string().contains("RS256 or ES256"), "{refusal}");
        verify(&all, &token).await.unwrap();
    }
    // The key says it is for RS256 alone.
    let pss = rsa.sign_as(&json!({"alg": "PS256", "kid": "rsa"}), &issuer.claims().to_string());
    assert!(verify(&all, &pss).await.is_err());
    let mixed = p384.sign_as(&json!({"alg": "ES256", "kid": "p384"}), &issuer.claims().to_string());
    assert!(verify(&all, &mixed).await.is_err());
    issuer.change(|inside| {
        inside.keys.get_mut("rsa").unwrap().as_object_mut().unwrap().remove("alg");
    });
    let all = issuers(vec![Issuer { algorithms: Algorithm::ALL.into(), ..issuer.settings() }]);
    verify(&all, &pss).await.unwrap();
}

#[tokio::test]
async fn a_key_that_is_not_for_signatures_verifies_none() {
    let key = Key::rsa();
    for (name, value) in [("use", json!("enc")), ("key_ops", json!(["encrypt"])), ("alg", json!("RSA-OAEP"))]
    {
        let issuer = TestIssuer::with(&key).await;
        issuer.publish("other", &Key::p256());
        issuer.change(|inside| inside.keys.get_mut("k1").unwrap()[name] = value);
        assert!(verify(&issuer.issuers(), &key.sign("k1", &issuer.claims())).await.is_err(), "{name}");
    }
}

#[tokio::test]
async fn whom_it_is_from_and_for_counts_to_the_letter() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    let issuers = issuer.issuers();
    for other in
        [format!("{}/", issuer.url), issuer.url.to_uppercase(), String::new(), "https://evil.test".into()]
    {
        let refusal = refused(&issuers, &key.sign("k1", &issuer.with_claim("iss", other.as_str()))).await;
        assert!(matches!(refusal, Refused::UnknownIssuer(_)), "{other}: {refusal}");
    }
    for other in
        [json!("registry.test."), json!("Registry.test"), json!(["a", "b"]), json!([]), json!(""), json!("*")]
    {
        let refusal = refused(&issuers, &key.sign("k1", &issuer.with_claim("aud", other.clone()))).await;
        assert!(matches!(refusal, Refused::Audience { .. }), "{other}: {refusal}");
    }
    let refusal = refused(&issuers, &key.sign("k1", &issuer.with_claim("aud", "sts.amazonaws.com"))).await;
    assert_eq!(
        refusal.to_string(),
        r#"the token is for the audience "sts.amazonaws.com"; ci must make it for "registry.test""#
    );
    for odd in [json!(5), json!([5, AUDIENCE]), json!({"a": AUDIENCE}), json!(null), json!([[AUDIENCE]])] {
        let refusal = refused(&issuers, &key.sign("k1", &issuer.with_claim("aud", odd.clone()))).await;
        assert!(matches!(refusal, Refused::Malformed(_)), "{odd}: {refusal}");
    }
    verify(&issuers, &key.sign("k1", &issuer.with_claim("aud", json!(["other", AUDIENCE])))).await.unwrap();
}
