//! What claims become, and which are none.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_auth::{Issuer, Issuers, IssuersSettings, Preset, Refused, SettingsError};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::harness::{Key, NOW, TestIssuer, base64, calls, issuer_settings, issuers, refused, verify};

fn one_to_many(entries: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
    let owned = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    entries.iter().map(|(name, values)| ((*name).to_owned(), owned(values))).collect()
}

#[tokio::test]
async fn claims_become_attributes_and_groups() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    let mut settings = issuer.settings();
    settings.attributes = one_to_many(&[
        ("owner", &["repository_owner"]),
        ("pod", &["kubernetes.io.pod.name"]),
        ("number", &["run.number"]),
        ("protected", &["protected"]),
        ("application", &["azp", "appid"]),
        ("missing", &["nowhere.at.all"]),
        ("empty", &["empty"]),
        ("list", &["groups"]),
        ("null", &["nothing"]),
    ]);
    settings.groups_claim = Some("groups".into());
    settings.session_ttl = Some(Duration::from_mins(1));
    let mut claims = issuer.claims();
    claims["repository_owner"] = "acme".into();
    claims["kubernetes.io"] = json!({"pod": {"name": "web-1"}});
    claims["run"] = json!({"number": 42});
    claims["protected"] = true.into();
    claims["appid"] = "app".into();
    claims["empty"] = "".into();
    claims["nothing"] = Value::Null;
    claims["groups"] = json!(["devs", "ops"]);
    let proven = verify(&issuers(vec![settings]), &key.sign("k1", &claims)).await.unwrap();
    let attributes: Vec<_> =
        proven.identity.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        attributes,
        [
            ("application", "app"),
            ("issuer", "ci"),
            ("number", "42"),
            ("owner", "acme"),
            ("pod", "web-1"),
            ("protected", "true"),
        ]
    );
    assert_eq!(proven.identity.groups, ["devs", "ops"]);
    assert_eq!(proven.session_ttl, Some(Duration::from_mins(1)));
}

#[tokio::test]
async fn an_attribute_cannot_pretend_another_issuer() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    let mut settings = issuer.settings();
    settings.attributes = one_to_many(&[("issuer", &["fake"])]);
    let token = key.sign("k1", &issuer.with_claim("fake", "github"));
    let proven = verify(&issuers(vec![settings]), &token).await.unwrap();
    assert_eq!(proven.identity.attributes["issuer"], "ci");
}

#[tokio::test]
async fn a_wanted_claim_must_be_there_and_be_what_is_wanted() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    let mut settings = issuer.settings();
    settings.claims = one_to_many(&[("visibility", &["private", "internal"]), ("ref", &["refs/heads/*"])]);
    let issuers = issuers(vec![settings]);
    for (visibility, reference, good) in [
        (json!("private"), json!("refs/heads/main"), true),
        (json!("internal"), json!("refs/heads/"), true),
        (json!(["public", "private"]), json!("refs/heads/main"), true),
        (json!("public"), json!("refs/heads/main"), false),
        (json!("Private"), json!("refs/heads/main"), false),
        (json!("private "), json!("refs/heads/main"), false),
        (json!("private"), json!("refs/tags/refs/heads/main"), false),
        (json!("private"), json!(null), false),
        (json!({"private": true}), json!("refs/heads/main"), false),
        (json!([["private"]]), json!("refs/heads/main"), false),
        (json!([]), json!("refs/heads/main"), false),
        (json!(true), json!("refs/heads/main"), false),
    ] {
        let mut claims = issuer.with_claim("visibility", visibility.clone());
        claims["ref"] = reference.clone();
        let outcome = verify(&issuers, &key.sign("k1", &claims)).await;
        assert_eq!(outcome.is_ok(), good, "{visibility} {reference}: {outcome:?}");
    }
    let refusal = refused(&issuers, &key.sign("k1", &issuer.with_claim("ref", "refs/heads/main"))).await;
    assert_eq!(
        refusal.to_string(),
        r#"ci is trusted only where visibility is "private" or "internal"; in this token it is (none)"#
    );
}

#[tokio::test]
async fn a_subject_is_one_line_that_can_be_seen() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    let issuers = issuers(vec![issuer.settings()]);
    let long = "x".repeat(1025);
    let bad = [
        json!(""),
        json!("a\nb"),
        json!("a\rb"),
        json!("a\0b"),
        json!("\u{1b}[31mred"),
        json!("a\u{202e}b"),
        json!("a\u{200b}b"),
        json!("a\u{2028}b"),
        json!(" a"),
        json!("a "),
        json!("\u{feff}a"),
        json!("a\u{85}b"),
        json!(long),
        json!(5),
        json!(null),
        json!(["a"]),
        json!({"a": "b"}),
        json!(true),
    ];
    for subject in bad {
        let refusal = refused(&issuers, &key.sign("k1", &issuer.with_claim("sub", subject.clone()))).await;
        assert!(matches!(refusal, Refused::Claim { .. }), "{subject}: {refusal}");
        assert!(!refusal.to_string().contains(['\n', '\r', '\0', '\u{1b}', '\u{202e}']), "{refusal:?}");
    }
    let mut claims = issuer.claims();
    claims.as_object_mut().unwrap().remove("sub");
    assert!(matches!(refused(&issuers, &key.sign("k1", &claims)).await, Refused::Claim { .. }));
    for good in ["..", "*", "../../etc", "a/b:c@d", "{namespace}", "ünïcode 名", "auth0|5"] {
        let proven = verify(&issuers, &key.sign("k1", &issuer.with_claim("sub", good))).await.unwrap();
        assert_eq!(proven.identity.name(), format!("ci/{good}"));
    }
}

#[tokio::test]
async fn groups_and_attributes_are_texts_that_can_be_seen() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    let mut settings = issuer.settings();
    settings.groups_claim = Some("groups".into());
    settings.attributes = one_to_many(&[("workflow", &["workflow"])]);
    let issuers = issuers(vec![settings]);
    for groups in [json!(5), json!({"a": 1}), json!(["a", 5]), json!(["a\nb"]), json!([""]), json!([["a"]])] {
        let refusal = refused(&issuers, &key.sign("k1", &issuer.with_claim("groups", groups.clone()))).await;
        assert!(matches!(refusal, Refused::Claim { .. }), "{groups}: {refusal}");
    }
    let refusal = refused(&issuers, &key.sign("k1", &issuer.with_claim("workflow", "a\nb"))).await;
    assert!(matches!(refusal, Refused::Claim { .. }), "{refusal}");
    for (groups, count) in [(json!("one"), 1), (json!([]), 0), (json!(null), 0), (json!(["a", "b"]), 2)] {
        let proven = verify(&issuers, &key.sign("k1", &issuer.with_claim("groups", groups))).await.unwrap();
        assert_eq!(proven.identity.groups.len(), count);
    }
}

#[tokio::test]
async fn a_name_twice_in_an_object_is_refused() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    let issuers = issuers(vec![issuer.settings()]);
    let header = json!({"alg": "ES256", "kid": "k1"});
    let claims = issuer.claims().to_string();
    for extra in [
        r#"{"sub":"admin","#,
        r#"{"aud":"registry.test","#,
        r#"{"x":{"a":1,"a":2},"#,
        "{\"\\u0073ub\":\"admin\",",
    ] {
        let refusal = refused(&issuers, &key.sign_as(&header, &claims.replacen('{', extra, 1))).await;
        assert!(refusal.to_string().contains("twice"), "{extra}: {refusal}");
    }
    let header = r#"{"alg":"ES256","alg":"none","kid":"k1"}"#;
    let message = format!("{}.{}", base64(header), base64(&claims));
    let token = format!("{message}.{}", base64(key.signature("ES256", message.as_bytes())));
    assert!(refused(&issuers, &token).await.to_string().contains("twice"));
}

#[tokio::test]
async fn what_is_no_jwt_is_refused_in_words() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    let issuers = issuers(vec![issuer.settings()]);
    let good = key.sign("k1", &issuer.claims());
    let deep = format!("{}{}", "[".repeat(20), "]".repeat(20));
    let header = json!({"alg": "ES256", "kid": "k1"});
    let claims = issuer.claims().to_string();
    let bad = [
        String::new(),
        ".".into(),
        "..".into(),
        "a.b".into(),
        "a.b.c.d.e".into(),
        "hunter2".into(),
        format!("{good}."),
        format!("{good}=").replace('.', "=."),
        format!("{}.{}", base64("{}"), good.split_once('.').unwrap().1),
        key.sign_as(&json!({"alg": 5, "kid": "k1"}), &claims),
        key.sign_as(&json!({"alg": "ES256", "kid": 5}), &claims),
        key.sign_as(&json!(["ES256"]), &claims),
        key.sign_as(&header, "null"),
        key.sign_as(&header, "[]"),
        key.sign_as(&header, "{"),
        key.sign_as(&header, &format!("{claims} x")),
        key.sign_as(&header, &format!("\u{feff}{claims}")),
        key.sign_as(&header, &claims.replacen('{', &format!("{{\"deep\":{deep},"), 1)),
        key.sign_as(&header, &claims.replacen('{', &format!("{{\"long\":\"{}\",", "x".repeat(17_000)), 1)),
        key.sign_as(
            &header,
            &claims
                .replacen('{', "{\"iss\":5,", 1)
                .replace(&format!("\"iss\":\"{}\"", issuer.url), "\"x\":1"),
        ),
    ];
    for token in bad {
        let refusal = refused(&issuers, &token).await;
        assert!(matches!(refusal, Refused::Malformed(_)), "{token}: {refusal}");
        assert!(!refusal.to_string().contains("hunter2"));
    }
}

proptest! {
    #[test]
    fn whatever_comes_is_refused_and_nothing_breaks(
        header in "\\PC{0,40}",
        payload in "\\PC{0,80}",
        token in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let issuers = issuers(vec![issuer_settings("ci", "http://127.0.0.1:1")]);
        runtime.block_on(async {
            let text = String::from_utf8_lossy(&token).into_owned();
            prop_assert!(verify(&issuers, &text).await.is_err());
            let made = format!("{}.{}.{}", base64(&header), base64(&payload), base64(&token));
            prop_assert!(verify(&issuers, &made).await.is_err());
            let wrapped = json!({"iss": "http://127.0.0.1:1", "aud": payload, "exp": header, "kid": token});
            let made = format!("{}.{}.", base64(json!({"alg": header}).to_string()), base64(wrapped.to_string()));
            prop_assert!(verify(&issuers, &made).await.is_err());
            Ok(())
        })?;
    }

    #[test]
    fn no_spoilt_token_is_good(at in 0_usize..10_000, byte in any::<u8>()) {
        static SCENE: std::sync::OnceLock<(tokio::runtime::Runtime, String, berth_auth::Issuers)> =
            std::sync::OnceLock::new();
        let (runtime, token, issuers) = SCENE.get_or_init(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let key = Key::p256();
            let issuer = runtime.block_on(TestIssuer::with(&key));
            let token = key.sign("k1", &issuer.claims());
            let issuers = issuer.issuers();
            runtime.block_on(verify(&issuers, &token)).unwrap();
            (runtime, token, issuers)
        });
        let mut spoilt = token.clone().into_bytes();
        let at = at % spoilt.len();
        prop_assume!(spoilt[at] != byte);
        spoilt[at] = byte;
        let spoilt = String::from_utf8_lossy(&spoilt).into_owned();
        let later = runtime.block_on(issuers.verify(&spoilt, NOW * 1000));
        prop_assert!(later.is_err());
    }
}

#[tokio::test]
async fn presets_name_what_issuers_send() {
    let key = Key::rsa();
    let issuer = TestIssuer::with(&key).await;
    let preset = |preset: Preset| Issuer {
        attributes: preset.attributes(),
        groups_claim: preset.groups_claim().map(str::to_owned),
        subject_claim: preset.subject_claim().into(),
        ..issuer.settings()
    };
    let mut claims = issuer.claims();
    for (name, value) in [
        ("repository", "acme/app"),
        ("repository_owner", "acme"),
        ("environment", "production"),
        ("ref", "refs/heads/main"),
        ("job_workflow_ref", "acme/ci/.github/workflows/build.yml@refs/heads/main"),
        ("head_ref", ""),
        ("base_ref", ""),
    ] {
        claims[name] = value.into();
    }
    let proven = verify(&issuers(vec![preset(Preset::Github)]), &key.sign("k1", &claims)).await.unwrap();
    assert_eq!(proven.identity.attributes["repository_owner"], "acme");
    assert_eq!(proven.identity.attributes["environment"], "production");
    let mut claims = issuer.claims();
    claims["oid"] = "00000000-0000-0000-0000-000000000001".into();
    claims["tid"] = "00000000-0000-0000-0000-00000000000f".into();
    claims["appid"] = "00000000-0000-0000-0000-00000000000a".into();
    claims["idtyp"] = "app".into();
    let proven = verify(&issuers(vec![preset(Preset::Entra)]), &key.sign("k1", &claims)).await.unwrap();
    assert_eq!(proven.identity.name(), "ci/00000000-0000-0000-0000-000000000001");
    assert_eq!(proven.identity.attributes["application"], "00000000-0000-0000-0000-00000000000a");
    // Buildkite says null where there is nothing.
    let mut claims = issuer.claims();
    claims["organization_slug"] = "acme".into();
    claims["build_tag"] = Value::Null;
    let proven = verify(&issuers(vec![preset(Preset::Buildkite)]), &key.sign("k1", &claims)).await.unwrap();
    assert_eq!(proven.identity.attributes["organization"], "acme");
    assert!(!proven.identity.attributes.contains_key("tag"));
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let good = || issuer_settings("ci", "https://issuer.test");
    let build = |issuers: Vec<Issuer>| {
        Issuers::new(IssuersSettings { issuers, ..IssuersSettings::default() }, &calls()).map(|_| ())
    };
    build(vec![good()]).unwrap();
    for name in ["", "CI", "a/b", "a:b", "-a", ".", "a b", "ü", &"a".repeat(64)] {
        let refused = build(vec![Issuer { name: name.into(), ..good() }]);
        assert_eq!(refused, Err(SettingsError::Name(name.into())));
    }
    let other = Issuer { name: "other".into(), ..good() };
    assert!(matches!(build(vec![good(), other]), Err(SettingsError::SameIssuer(..))));
    let other = Issuer { issuer: "https://other.test".into(), ..good() };
    assert_eq!(build(vec![good(), other]), Err(SettingsError::SameName("ci".into())));
    for bad in [
        Issuer { audiences: vec![], ..good() },
        Issuer { audiences: vec![String::new()], ..good() },
        Issuer { algorithms: vec![], ..good() },
        Issuer { issuer: String::new(), ..good() },
    ] {
        assert!(matches!(build(vec![bad]), Err(SettingsError::Missing { .. })));
    }
}
