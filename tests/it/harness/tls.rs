//! Certificates of a test's own: an authority that nobody knows but who is told, and what it signs.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tempfile::TempDir;

use super::run;

/// An authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    signed: AtomicU32,
    folder: TempDir,
}

/// A certificate and its key, PEM. Their files go with the authority.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
    /// The certificate alone, as it is sent.
    pub der: Vec<u8>,
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
    /// Both in one, as a kubelet has them.
    pub file: PathBuf,
}

/// What a server that speaks TLS is started with: its files, and who signed them.
pub struct Tls {
    pub authority: Authority,
    folder: TempDir,
}

impl Authority {
    pub fn new() -> Self {
        Self::called("an authority of the tests")
    }

    /// One with a name. Others may have the same.
    pub fn called(name: &str) -> Self {
        let mut params = CertificateParams::new([]).expect("no name is a good name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("make a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("sign a certificate");
        let folder = run::folder("authority");
        fs::write(folder.path().join("ca.crt"), issuer.pem()).expect("write a certificate");
        Self { issuer, signed: AtomicU32::new(0), folder }
    }

    /// The authority's own certificate, a file in PEM.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// The authority's own certificate, PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// For a client that trusts it.
    pub fn root(&self) -> reqwest::Certificate {
        reqwest::Certificate::from_pem(self.pem().as_bytes()).expect("it is a certificate")
    }

    /// What a server at 127.0.0.1 shows.
    pub fn server(&self) -> Pair {
        self.sign(&["127.0.0.1", "localhost"], &[], ExtendedKeyUsagePurpose::ServerAuth, 2042)
    }

    /// What a client shows that is known by its DNS name.
    pub fn client(&self, name: &str) -> Pair {
        self.sign(&[name], &[], ExtendedKeyUsagePurpose::ClientAuth, 2042)
    }

    /// What a client shows that Kubernetes knows as a user, who is in a group of users.
    pub fn user(&self, name: &str, group: &str) -> Pair {
        self.user_until(2042, name, group)
    }

    /// The same, until a year.
    pub fn user_until(&self, year: i32, name: &str, group: &str) -> Pair {
        let subject = [(DnType::OrganizationName, group), (DnType::CommonName, name)];
        self.sign(&[], &subject, ExtendedKeyUsagePurpose::ClientAuth, year)
    }

    fn sign(
        &self,
        names: &[&str],
        subject: &[(DnType, &str)],
        usage: ExtendedKeyUsagePurpose,
        year: i32,
    ) -> Pair {
        let names = names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let mut params = CertificateParams::new(names).expect("good names");
        for (kind, text) in subject {
            params.distinguished_name.push(kind.clone(), *text);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.not_after = date_time_ymd(year, 2, 3);
        let key = KeyPair::generate().expect("make a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("sign a certificate");
        let (der, certificate, key) = (certificate.der().to_vec(), certificate.pem(), key.serialize_pem());
        let number = self.signed.fetch_add(1, Ordering::Relaxed);
        let write = |name: String, content: &str| {
            let file = self.folder.path().join(name);
            fs::write(&file, content).expect("write a certificate");
            file
        };
        Pair {
            certificate_file: write(format!("{number}.pem"), &certificate),
            key_file: write(format!("{number}-key.pem"), &key),
            file: write(format!("{number}-both.pem"), &format!("{certificate}{key}")),
            certificate,
            key,
            der,
        }
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
        for name in ["tls.crt", "tls.key"] {
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
        super::client().tls_certs_only([self.authority.root()])
    }
}
