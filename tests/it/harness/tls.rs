//! Certificates of a test's own: an authority that nobody knows but who is told, and what it signs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use tempfile::TempDir;

use super::run;

/// An authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// A certificate and its key, PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
    /// The certificate alone, as it is sent.
    pub der: Vec<u8>,
}

/// What a server that speaks TLS is started with: its files, and who signed them.
pub struct Tls {
    pub authority: Authority,
    folder: TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).expect("no name is a good name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority of the tests");
        let key = KeyPair::generate().expect("make a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("sign a certificate");
        let folder = run::folder("authority");
        fs::write(folder.path().join("ca.crt"), issuer.pem()).expect("write a certificate");
        Self { issuer, folder }
    }

    /// The authority's own certificate, a file in PEM.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// The authority's own certificate, PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// What a server at 127.0.0.1 shows.
    pub fn server(&self) -> Pair {
        self.sign(["127.0.0.1".to_owned(), "localhost".to_owned()], ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// What a client shows.
    pub fn client(&self, name: &str) -> Pair {
        self.sign([name.to_owned()], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, names: impl Into<Vec<String>>, usage: ExtendedKeyUsagePurpose) -> Pair {
        let mut params = CertificateParams::new(names).expect("good names");
        params.extended_key_usages = vec![usage];
        params.not_after = date_time_ymd(2042, 2, 3);
        let key = KeyPair::generate().expect("make a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("sign a certificate");
        let der = certificate.der().to_vec();
        Pair { certificate: certificate.pem(), key: key.serialize_pem(), der }
    }
}

impl Pair {
    /// As a client shows it.
    pub fn identity(&self) -> reqwest::Identity {
        let pem = format!("{}{}", self.key, self.certificate);
        reqwest::Identity::from_pem(pem.as_bytes()).expect("a key and a certificate")
    }
}

impl Tls {
    /// A certificate of a new authority, in files that are swapped as Kubernetes swaps those of a secret.
    pub fn new() -> Self {
        let tls = Self { authority: Authority::new(), folder: run::folder("tls") };
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            let target = Path::new("..data").join(name);
            std::os::unix::fs::symlink(target, tls.folder.path().join(name)).expect("make a link");
        }
        let Pair { certificate, key, .. } = tls.authority.server();
        tls.swap(&[("tls.crt", &certificate), ("tls.key", &key)]);
        tls
    }

    /// The server's certificate, `tls.crt`.
    pub fn certificate_file(&self) -> PathBuf {
        self.folder.path().join("tls.crt")
    }

    /// Its key, `tls.key`.
    pub fn key_file(&self) -> PathBuf {
        self.folder.path().join("tls.key")
    }

    /// Where the bundle of those who sign for clients is, once it is swapped in: `ca.crt`.
    pub fn client_ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// Puts other files in the place of those that are there, all at once.
    pub fn swap(&self, files: &[(&str, &str)]) {
        let version = tempfile::Builder::new().prefix("..version").tempdir_in(self.folder.path());
        let version = version.expect("make a folder").keep();
        for (name, content) in files {
            fs::write(version.join(name), content).expect("write a file");
        }
        let link = self.folder.path().join("..data_tmp");
        std::os::unix::fs::symlink(&version, &link).expect("make a link");
        fs::rename(link, self.folder.path().join("..data")).expect("swap the link");
    }

    /// The settings that name the files.
    pub fn config(&self) -> String {
        let (certificate, key) = (self.certificate_file(), self.key_file());
        format!(
            "[http.tls]\ncertificate_file = \"{}\"\nkey_file = \"{}\"",
            certificate.display(),
            key.display()
        )
    }

    /// A client that trusts the authority and nobody else.
    pub fn client(&self) -> reqwest::ClientBuilder {
        let authority = reqwest::Certificate::from_pem(self.authority.pem().as_bytes());
        super::client().tls_certs_only([authority.expect("a certificate")])
    }
}
