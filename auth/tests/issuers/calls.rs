//! What is asked of whom, and what is not.

use std::path::PathBuf;

use berth_auth::{Issuer, Issuers, IssuersSettings, KeySource, KeysFrom, SettingsError};
use tempfile::TempDir;

use crate::harness::{Key, NOW, TestIssuer, calls, from_url, issuers, refused, verify};

fn file(text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

#[tokio::test]
async fn a_closed_server_is_opened_with_the_token_of_the_moment() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    issuer.change(|inside| inside.bearer = Some("first".into()));
    let (_folder, path) = file("first\n");
    let keys = KeySource { bearer_token_file: Some(path.clone()), ..KeySource::default() };
    let issuers = issuers(vec![Issuer { keys, ..issuer.settings() }]);
    verify(&issuers, &key.sign("k1", &issuer.claims())).await.unwrap();
    // The token rotates, and so does the key.
    let next = Key::p256();
    std::fs::write(&path, "second").unwrap();
    issuer.change(|inside| inside.bearer = Some("second".into()));
    issuer.publish("k2", &next);
    verify(&issuers, &next.sign("k2", &issuer.claims())).await.unwrap();
}

#[tokio::test]
async fn a_bearer_goes_to_the_configured_origin_alone() {
    let key = Key::p256();
    let (issuer, elsewhere) = (TestIssuer::with(&key).await, TestIssuer::with(&key).await);
    issuer.change(|inside| {
        inside.bearer = Some("secret".into());
        inside.jwks_uri = Some(format!("{}/keys", elsewhere.url));
    });
    let (_folder, path) = file("secret");
    let keys = KeySource { bearer_token_file: Some(path), ..KeySource::default() };
    let issuers = issuers(vec![Issuer { keys, ..issuer.settings() }]);
    verify(&issuers, &key.sign("k1", &issuer.claims())).await.unwrap();
    assert_eq!(elsewhere.inside.lock().unwrap().asked, [("/keys".to_owned(), None)]);
}

#[tokio::test]
async fn a_redirect_elsewhere_is_refused_and_one_at_home_followed() {
    let key = Key::p256();
    let (issuer, elsewhere) = (TestIssuer::with(&key).await, TestIssuer::with(&key).await);
    let (_folder, path) = file("secret");
    for (status, location, good) in [
        (302, format!("{}/keys", elsewhere.url), false),
        (307, format!("{}/keys", elsewhere.url), false),
        (301, format!("{}/keys", elsewhere.url.replace("127.0.0.1", "localhost")), false),
        (308, "/openid/v1/jwks".to_owned(), true),
    ] {
        issuer.change(|inside| {
            drop(inside.answers.insert("/keys".into(), (status, location.clone(), String::new())));
        });
        let keys =
            KeySource { bearer_token_file: Some(path.clone()), ..from_url(&format!("{}/keys", issuer.url)) };
        let issuers = issuers(vec![Issuer { keys, ..issuer.settings() }]);
        let outcome = verify(&issuers, &key.sign("k1", &issuer.claims())).await;
        assert_eq!(outcome.is_ok(), good, "{location}");
        if let Err(refusal) = outcome {
            assert!(refusal.is_trouble() && refusal.to_string().contains("redirect"), "{refusal}");
        }
    }
    assert!(elsewhere.inside.lock().unwrap().asked.is_empty());
}

#[tokio::test]
async fn a_redirect_in_a_circle_ends() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    issuer.change(|inside| drop(inside.answers.insert("/keys".into(), (302, "/keys".into(), String::new()))));
    assert!(refused(&issuer.issuers(), &key.sign("k1", &issuer.claims())).await.is_trouble());
    assert!(issuer.asked("/keys") <= 5);
}

#[tokio::test]
async fn a_document_of_another_issuer_is_not_believed() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    for other in [format!("{}/", issuer.url), "https://evil.test".into()] {
        issuer.change(|inside| inside.issuer = Some(other.clone()));
        let refusal = refused(&issuer.issuers(), &key.sign("k1", &issuer.claims())).await;
        assert!(refusal.is_trouble() && refusal.to_string().contains(&other), "{refusal}");
    }
    assert_eq!(issuer.asked("/keys"), 0);
}

#[tokio::test]
async fn keys_over_plain_http_need_a_word() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    for uri in
        ["http://192.0.2.1/keys", "file:///etc/passwd", "ftp://127.0.0.1/", "keys", "https://u:p@127.0.0.1/"]
    {
        issuer.change(|inside| inside.jwks_uri = Some(uri.into()));
        let refusal = refused(&issuer.issuers(), &key.sign("k1", &issuer.claims())).await;
        assert!(refusal.is_trouble() && refusal.to_string().contains("jwks_uri"), "{uri}: {refusal}");
    }
    let settings = |url: &str, allow_http| {
        let keys = KeySource { allow_http, ..KeySource::default() };
        let issuers = vec![Issuer { keys, issuer: url.into(), ..issuer.settings() }];
        Issuers::new(IssuersSettings { issuers, ..IssuersSettings::default() }, &calls())
    };
    assert!(matches!(settings("http://issuer.test", false), Err(SettingsError::Url { .. })));
    assert!(matches!(settings("http://127.0.0.1.issuer.test", false), Err(SettingsError::Url { .. })));
    assert!(matches!(settings("issuer.test", true), Err(SettingsError::Url { .. })));
    assert!(settings("http://issuer.test", true).is_ok());
    assert!(settings("https://issuer.test", false).is_ok());
}

#[tokio::test]
async fn what_is_too_long_or_no_document_is_trouble() {
    let key = Key::p256();
    let issuer = TestIssuer::with(&key).await;
    let path = "/.well-known/openid-configuration";
    let honest = |pad: usize| {
        format!(r#"{{"issuer":"{0}","jwks_uri":"{0}/keys","pad":"{1}"}}"#, issuer.url, "x".repeat(pad))
    };
    let bad = [
        String::new(),
        "{".into(),
        "[]".into(),
        r#"{"issuer":5}"#.into(),
        "[".repeat(100_000),
        honest(1 << 20),
    ];
    for document in bad {
        issuer.change(|inside| {
            drop(inside.answers.insert(path.into(), (200, String::new(), document.clone())));
        });
        let refusal = refused(&issuer.issuers(), &key.sign("k1", &issuer.claims())).await;
        assert!(refusal.is_trouble(), "{refusal}");
        assert!(refusal.to_string().len() < 400, "{refusal}");
    }
    issuer.change(|inside| drop(inside.answers.insert(path.into(), (200, String::new(), honest(1 << 19)))));
    verify(&issuer.issuers(), &key.sign("k1", &issuer.claims())).await.unwrap();
}

#[tokio::test]
async fn an_issuer_with_a_certificate_of_its_own_is_known_by_its_ca() {
    let key = Key::p256();
    let behind = TestIssuer::with(&key).await;
    let (url, ca, _serving) = tls(&behind.url).await;
    behind.change(|inside| {
        inside.issuer = Some(url.clone());
        inside.jwks_uri = Some(format!("{url}/keys"));
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    let mut claims = behind.claims();
    claims["iss"] = url.as_str().into();
    let token = key.sign("k1", &claims);
    let settings = |ca_file| Issuer {
        keys: KeySource { from: KeysFrom::Discovery(None), ca_file, ..KeySource::default() },
        issuer: url.clone(),
        ..behind.settings()
    };
    // The system's CAs do not know it, nor does another.
    let refusal = refused(&issuers(vec![settings(None)]), &token).await;
    assert!(refusal.is_trouble() && refusal.to_string().contains("certificate"), "{refusal}");
    let (_, other, _also_serving) = tls(&behind.url).await;
    std::fs::write(&file, other).unwrap();
    let issuers = issuers(vec![settings(Some(file.clone()))]);
    assert!(refused(&issuers, &token).await.is_trouble());
    // The file is read again.
    std::fs::write(&file, "nothing").unwrap();
    let refusal = issuers.verify(&token, (NOW + 4) * 1000).await.unwrap_err();
    assert!(refusal.to_string().contains("holds no certificate"), "{refusal}");
    std::fs::write(&file, ca).unwrap();
    issuers.verify(&token, (NOW + 8) * 1000).await.unwrap();
}

/// TLS in front of a plain server: its address, the PEM of its CA, and the task that serves.
async fn tls(plain: &str) -> (String, String, tokio::task::JoinSet<()>) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
    use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().signed_by(&key, &ca).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let plain = plain.trim_start_matches("http://").to_owned();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, plain) = (acceptor.clone(), plain.clone());
            connections.spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut to = tokio::net::TcpStream::connect(&plain).await.unwrap();
                // Either side may hang up.
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut to).await;
            });
        }
    });
    (url, ca.pem(), tasks)
}
