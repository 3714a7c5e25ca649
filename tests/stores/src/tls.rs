//! A certificate authority that nobody knows but a test, and a server's certificate of it.

use std::{path::PathBuf, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio_rustls::rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

use crate::run;

/// The authority, as whoever is to trust it needs it.
pub(crate) struct Authority {
    folder: TempDir,
}

impl Authority {
    /// Makes an authority, and what a server at 127.0.0.1 shows of it.
    pub(crate) fn new() -> (Self, ServerConfig) {
        let mut params = CertificateParams::new([]).expect("no name is a good name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("make a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("sign a certificate");
        let key = KeyPair::generate().expect("make a key");
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address is a name");
        let certificate = params.signed_by(&key, &issuer).expect("sign a certificate");
        let folder = run::folder("authority");
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("write a certificate");

        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider speaks TLS")
            .with_no_client_auth();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = config.with_single_cert(vec![certificate.der().clone()], key);
        (Self { folder }, config.expect("the key is the certificate's"))
    }

    /// The authority's certificate, PEM.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }
}
