//! Tokens that nobody gave.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use berth::clock::Clock;
use berth_auth::{
    AccessToken, Identity, Kind, Permissions, Scope,
    keys::{KeyRing, SigningKey, generate},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use super::scenes::{bearer, claims, push_as, robot, staged, token};
use crate::{faults::behind::Index, protocol::wire::Berth};

/// The registry's own key, from behind its back.
async fn stolen(berth: &Berth) -> (String, Vec<u8>) {
    let mut index = Index::of(&berth.server).await;
    let kid = index.texts("SELECT kid FROM signing_keys ORDER BY number").await.remove(0);
    let key = index.bytes("SELECT private_key FROM signing_keys ORDER BY number").await.remove(0);
    index.close().await;
    (kid, key)
}

/// What a token of the admin's says, of this moment in unix seconds.
fn of_the_admin(now: i64) -> AccessToken {
    AccessToken {
        identity: Identity::new(Kind::Robot, "admin"),
        scope: Scope::of("private/app", Permissions::ALL),
        session: None,
        issued_at: now,
        expires_at: now + 300,
        id: "forged".to_owned(),
    }
}

/// A token with the registry's own key, which says what the test wants.
pub async fn forge(berth: &Berth, change: impl FnOnce(&mut AccessToken)) -> String {
    let (kid, key) = stolen(berth).await;
    let ring = KeyRing::new(vec![SigningKey::read(1, kid, &key, 0).expect("a key")]);
    let now = Clock::System.now() / 1000;
    let mut token = of_the_admin(now);
    change(&mut token);
    token.sign("registry.test", &ring, now * 1000).expect("a signature")
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

async fn is_refused(berth: &Berth, token: &str, why: &str) {
    let answer = berth
        .send("GET", "/v2/private/app/tags/list", &[("authorization", &bearer(token))], Vec::new())
        .await;
    assert_eq!(answer.status, 401, "{why}: {}", answer.text());
    let basic = super::scenes::basic("x", token);
    let answer = super::scenes::ask_token(berth, &basic, "&scope=repository:private/app:pull").await;
    assert_eq!(answer.status, 401, "{why}: {}", answer.text());
}

#[tokio::test]
async fn a_token_that_was_not_given_here_is_refused() {
    let berth = Berth::of(staged().start().await);
    push_as(&berth, &robot("admin"), "private/app", "v1", 1).await.put.is(201);
    let good = token(&berth, &robot("admin"), &["repository:private/app:pull"]).await;
    let target = "/v2/private/app/tags/list";
    berth.send("GET", target, &[("authorization", &bearer(&good))], Vec::new()).await.is(200);
    let (kid, _) = stolen(&berth).await;
    let claims = claims(&good);
    let [_, body, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let public = berth.ask("GET", "/.well-known/jwks.json").await.json()["keys"][0].clone();

    for alg in ["none", "None", "NONE"] {
        let header = part(&json!({"typ": "JWT", "alg": alg, "kid": kid}));
        is_refused(&berth, &format!("{header}.{body}."), alg).await;
        is_refused(&berth, &format!("{header}.{body}.{signature}"), alg).await;
    }
    // The public key as the secret of an HMAC, in every form somebody may have taken it for one.
    let (x, y) = (public["x"].as_str().expect("x"), public["y"].as_str().expect("y"));
    let mut point = vec![4];
    point.extend(URL_SAFE_NO_PAD.decode(x).expect("base64"));
    point.extend(URL_SAFE_NO_PAD.decode(y).expect("base64"));
    for secret in [point.clone(), public.to_string().into_bytes(), x.as_bytes().to_vec(), Vec::new()] {
        let text = format!("{}.{body}", part(&json!({"typ": "JWT", "alg": "HS256", "kid": kid})));
        let mut mac = Hmac::<Sha256>::new_from_slice(&secret).expect("any length does");
        mac.update(text.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
        is_refused(&berth, &format!("{text}.{signature}"), "HS256 with the public key").await;
    }
    // A key of the attacker's, under the right name, and with itself in the header.
    let own = generate();
    let ring = KeyRing::new(vec![SigningKey::read(1, kid.clone(), &own, 0).expect("a key")]);
    let now = claims["iat"].as_i64().expect("a time");
    let token = of_the_admin(now);
    let signed = token.sign("registry.test", &ring, now * 1000).expect("a signature");
    is_refused(&berth, &signed, "the right name and the wrong key").await;
    let jwk = serde_json::to_value(&ring.jwks()[0]).expect("JSON");
    for header in [
        json!({"typ": "JWT", "alg": "ES256", "kid": kid, "jwk": jwk}),
        json!({"typ": "JWT", "alg": "ES256", "jwk": jwk}),
        json!({"typ": "JWT", "alg": "ES256", "kid": "other", "jku": "http://127.0.0.1:1/keys"}),
        json!({"typ": "JWT", "alg": "ES256", "kid": kid, "x5u": "http://127.0.0.1:1/keys", "x5c": ["MAA="]}),
        json!({"typ": "JWT", "alg": "ES256", "kid": "../../etc/passwd"}),
        json!({"typ": "JWT", "alg": "ES256", "kid": "' OR 1=1 --"}),
    ] {
        let text = format!("{}.{body}", part(&header));
        let signature = sign(&own, text.as_bytes());
        is_refused(&berth, &format!("{text}.{signature}"), &header.to_string()).await;
    }
    // The registry's own signature, under words it did not sign.
    let mut more = claims.clone();
    more["access"] = json!([{"type": "repository", "name": "private/app", "actions": ["*"]}]);
    let [header, ..] = good.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    is_refused(&berth, &format!("{header}.{}.{signature}", part(&more)), "other words").await;
    for junk in ["", "a.b.c", "eyJ.eyJ.", &format!("{good}.x"), &"eyJ".repeat(10_000)] {
        let answer = berth.send("GET", target, &[("authorization", &bearer(junk))], Vec::new()).await;
        assert!(matches!(answer.status, 401 | 431), "{junk:.40}: {}", answer.status);
    }
}

fn sign(pkcs8: &[u8], text: &[u8]) -> String {
    let key = jsonwebtoken::EncodingKey::from_ec_der(pkcs8);
    jsonwebtoken::crypto::sign(text, &key, jsonwebtoken::Algorithm::ES256).expect("a signature")
}

#[tokio::test]
async fn a_token_of_another_registry_is_refused_though_the_key_is_the_same() {
    let berth = Berth::of(staged().start().await);
    let (kid, key) = stolen(&berth).await;
    let ring = KeyRing::new(vec![SigningKey::read(1, kid, &key, 0).expect("a key")]);
    let good = claims(&forge(&berth, |_| {}).await);
    let now = good["iat"].as_i64().expect("a time");
    let token = of_the_admin(now);
    for service in ["other.test", "", "registry.test.", "REGISTRY.TEST"] {
        let text = token.sign(service, &ring, now * 1000).expect("a signature");
        is_refused(&berth, &text, service).await;
    }
    let ahead = forge(&berth, |token| {
        token.issued_at += 120;
        token.expires_at += 120;
    })
    .await;
    is_refused(&berth, &ahead, "two minutes ahead").await;
    // A clock may be 45 s off.
    for skew in [-45, 45] {
        let text = forge(&berth, |token| {
            token.issued_at += skew;
            token.expires_at = token.issued_at + 5;
        })
        .await;
        let target = "/v2/private/app/tags/list";
        let answer = berth.send("GET", target, &[("authorization", &bearer(&text))], Vec::new()).await;
        assert_eq!(
            answer.status,
            404,
            "the repository is not there, but who asks is known: {}",
            answer.text()
        );
    }
}
