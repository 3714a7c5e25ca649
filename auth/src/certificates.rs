//! Those who show a client certificate: nodes of clusters, and whoever a CA named in the configuration vouches for.
//!
//! The listener takes a certificate that any of these CAs signed. Which of them did decides what it means, so each
//! entry verifies the chain again with its own CA alone: a node is a node of that cluster only if that cluster's
//! CA says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::AttributeTypeAndValue;

use crate::issuers::kubernetes::is_name as is_node_name;
use crate::issuers::settings::is_name;
use crate::issuers::words::{moment, shown, unfit};
use crate::{Identity, Kind, Proven};

/// Whose certificates are taken.
#[derive(Debug, Clone, Default)]
pub struct CertificatesSettings {
    /// Clusters whose nodes are identities.
    pub nodes: Vec<NodeAuthority>,
    /// Any other CA.
    pub authorities: Vec<Authority>,
}

/// The CA that signs the certificates of a cluster's kubelets.
#[derive(Debug, Clone)]
pub struct NodeAuthority {
    /// What the cluster is called here; the first part of the names of its nodes.
    pub cluster: String,
    /// The CA, PEM.
    pub ca_file: PathBuf,
}

/// A CA that vouches for the holders of its certificates.
#[derive(Debug, Clone)]
pub struct Authority {
    /// What it is called here.
    pub name: String,
    /// The CA, PEM.
    pub ca_file: PathBuf,
    /// Which name in a certificate is the holder's.
    pub name_from: NameFrom,
    /// The SPIFFE trust domains it speaks for; any, if it is the only one that speaks for any.
    pub trust_domains: Vec<String>,
}

/// Which name in a certificate is the holder's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NameFrom {
    /// The SPIFFE id, which is the only URI in it.
    #[default]
    Spiffe,
    /// The only DNS name in it.
    Dns,
    /// The only mail address in it.
    Email,
}

/// CAs that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The name is none.
    #[error("{0:?} is no name for a CA: take lower-case letters, digits, '.', '_' and '-', at most 63")]
    Name(String),
    /// Two have the same name.
    #[error("two CAs for client certificates are called {0}")]
    SameName(String),
    /// Several speak for any trust domain, so that each could name the other's holders.
    #[error("{0} must say its trust_domains, since it is not the only CA for SPIFFE ids")]
    TrustDomains(String),
    /// The file cannot be read.
    #[error("cannot read the CA of {name}, {path}: {source}")]
    Read {
        /// Whose CA.
        name: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// There is no certificate in it, or one that cannot be a CA.
    #[error("the CA of {name}, {path}, holds no certificate that can be used")]
    Unusable {
        /// Whose CA.
        name: String,
        /// The file.
        path: PathBuf,
    },
}

/// Why a certificate says nothing here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateRefused {
    /// It cannot be read.
    #[error("the client certificate cannot be read")]
    Malformed,
    /// No CA trusted here signed it.
    #[error("the client certificate is signed by no CA that is trusted here")]
    UnknownAuthority,
    /// It, or one between it and the CA, is over.
    #[error("the client certificate expired at {expired}, and it is {now} here")]
    Expired {
        /// When.
        expired: String,
        /// What the clock says here.
        now: String,
    },
    /// It, or one between it and the CA, is not yet to be used.
    #[error("the client certificate is good from {from}, and it is {now} here")]
    NotYet {
        /// From when.
        from: String,
        /// What the clock says here.
        now: String,
    },
    /// It is not for clients.
    #[error("the certificate is not for clients (its extended key usage lacks clientAuth)")]
    NotForClients,
    /// The chain is not sound.
    #[error("the client certificate is not sound: {0}")]
    Chain(String),
    /// Who it is for cannot be said.
    #[error("the client certificate names nobody {authority} vouches for here: {reason}")]
    Name {
        /// The name here of the CA that signed it.
        authority: String,
        /// Why not.
        reason: String,
    },
}

/// The CAs whose certificates are taken.
#[derive(Debug)]
pub struct Certificates {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    ca_file: PathBuf,
    holders: Holders,
    ca: Mutex<Arc<Ca>>,
}

#[derive(Debug)]
enum Holders {
    Nodes,
    Others { name_from: NameFrom, trust_domains: Vec<String> },
}

#[derive(Debug)]
struct Ca {
    anchors: Vec<TrustAnchor<'static>>,
}

impl Certificates {
    /// Reads the CAs.
    pub fn load(settings: CertificatesSettings) -> Result<Self, AuthorityError> {
        let spiffe = |authority: &&Authority| authority.name_from == NameFrom::Spiffe;
        let several = settings.authorities.iter().filter(spiffe).count() > 1;
        let vague = settings.authorities.iter().filter(spiffe).find(|one| one.trust_domains.is_empty());
        if let (true, Some(vague)) = (several, vague) {
            return Err(AuthorityError::TrustDomains(vague.name.clone()));
        }
        let nodes = settings.nodes.into_iter().map(|nodes| (nodes.cluster, nodes.ca_file, Holders::Nodes));
        let others = settings.authorities.into_iter().map(|authority| {
            let Authority { name, ca_file, name_from, trust_domains } = authority;
            (name, ca_file, Holders::Others { name_from, trust_domains })
        });
        let mut entries: Vec<Entry> = Vec::new();
        for (name, ca_file, holders) in nodes.chain(others) {
            if !is_name(&name) {
                return Err(AuthorityError::Name(name));
            }
            if entries.iter().any(|entry| entry.name == name) {
                return Err(AuthorityError::SameName(name));
            }
            let ca = Mutex::new(Arc::new(Ca::read(&name, &ca_file)?));
            entries.push(Entry { name, ca_file, holders, ca });
        }
        Ok(Self { entries })
    }

    /// Whether no certificate is taken.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Reads the CAs again. One that cannot be used leaves what was, and is told.
    pub fn reload(&self) -> Vec<AuthorityError> {
        let mut errors = Vec::new();
        for entry in &self.entries {
            match Ca::read(&entry.name, &entry.ca_file) {
                Ok(ca) => *entry.ca.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(ca),
                Err(error) => errors.push(error),
            }
        }
        errors
    }

    /// All the CAs, for the listener, which asks clients for a certificate of one of them.
    pub fn authorities(&self) -> Vec<TrustAnchor<'static>> {
        self.entries.iter().flat_map(|entry| entry.ca().anchors.clone()).collect()
    }

    /// Who a chain, the client's own certificate first, is about. `now` is in unix milliseconds.
    pub fn identify(&self, chain: &[CertificateDer<'_>], now: i64) -> Result<Proven, CertificateRefused> {
        let Some((own, between)) = chain.split_first() else { return Err(CertificateRefused::Malformed) };
        let (rest, certificate) =
            X509Certificate::from_der(own).map_err(|_| CertificateRefused::Malformed)?;
        if !rest.is_empty() {
            return Err(CertificateRefused::Malformed);
        }
        let mut refused = CertificateRefused::UnknownAuthority;
        for entry in &self.entries {
            let outcome = entry
                .ca()
                .verify(own, between, now)
                .and_then(|()| for_clients(&certificate))
                .and_then(|()| entry.identity(&certificate));
            match outcome {
                Ok(identity) => {
                    let expires_at = certificate.validity().not_after.timestamp().saturating_mul(1000);
                    let issuer = entry.name.clone();
                    return Ok(Proven { identity, expires_at, session_ttl: None, issuer, reviewed: false });
                }
                // What a CA that signed it has against it says more than that another did not.
                Err(reason) if refused == CertificateRefused::UnknownAuthority => refused = reason,
                Err(reason @ CertificateRefused::Name { .. }) => refused = reason,
                Err(_) => {}
            }
        }
        Err(refused)
    }
}

/// A certificate without the extension would be good for anything, also for servers alone.
fn for_clients(certificate: &X509Certificate<'_>) -> Result<(), CertificateRefused> {
    match certificate.extended_key_usage() {
        Ok(Some(usage)) if usage.value.client_auth => Ok(()),
        _ => Err(CertificateRefused::NotForClients),
    }
}

impl Ca {
    fn read(name: &str, path: &Path) -> Result<Self, AuthorityError> {
        let (name, path) = (|| name.to_owned(), || path.to_owned());
        let text =
            fs::read(path()).map_err(|source| AuthorityError::Read { name: name(), path: path(), source })?;
        let unusable = || AuthorityError::Unusable { name: name(), path: path() };
        let certificates: Vec<_> =
            CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|_| unusable())?;
        let anchor = |certificate| anchor_from_trusted_cert(certificate).map(|anchor| anchor.to_owned());
        let anchors: Vec<_> =
            certificates.iter().map(anchor).collect::<Result<_, _>>().map_err(|_| unusable())?;
        if anchors.is_empty() { Err(unusable()) } else { Ok(Self { anchors }) }
    }

    fn verify(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: i64,
    ) -> Result<(), CertificateRefused> {
        let end = EndEntityCert::try_from(own).map_err(|_| CertificateRefused::Malformed)?;
        let time = UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(now).unwrap_or(0)));
        let usage = KeyUsage::client_auth();
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        let verified = end.verify_for_usage(algorithms, &self.anchors, between, time, usage, None, None);
        verified.map(|_| ()).map_err(|error| refusal(&error, now))
    }
}

fn refusal(error: &webpki::Error, now: i64) -> CertificateRefused {
    let at = |time: &UnixTime| moment(i64::try_from(time.as_secs()).unwrap_or(i64::MAX).saturating_mul(1000));
    match error {
        // A CA may have the name of another: then the signature is not this one's.
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            CertificateRefused::UnknownAuthority
        }
        webpki::Error::CertExpired { not_after, .. } => {
            CertificateRefused::Expired { expired: at(not_after), now: moment(now) }
        }
        webpki::Error::CertNotValidYet { not_before, .. } => {
            CertificateRefused::NotYet { from: at(not_before), now: moment(now) }
        }
        webpki::Error::RequiredEkuNotFoundContext(_) => CertificateRefused::NotForClients,
        error => CertificateRefused::Chain(error.to_string()),
    }
}

impl Entry {
    fn ca(&self) -> Arc<Ca> {
        Arc::clone(&self.ca.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn identity(&self, certificate: &X509Certificate<'_>) -> Result<Identity, CertificateRefused> {
        let identity = match &self.holders {
            Holders::Nodes => self.node(certificate),
            Holders::Others { name_from: NameFrom::Spiffe, trust_domains } => {
                self.workload(certificate, trust_domains)
            }
            Holders::Others { name_from: NameFrom::Dns, .. } => {
                self.named(certificate, "DNS name", |name| match name {
                    GeneralName::DNSName(name) => Some(name),
                    _ => None,
                })
            }
            Holders::Others { name_from: NameFrom::Email, .. } => {
                self.named(certificate, "mail address", |name| match name {
                    GeneralName::RFC822Name(name) => Some(name),
                    _ => None,
                })
            }
        };
        let authority = self.name.clone();
        identity.map_err(|reason| CertificateRefused::Name { authority, reason })
    }

    /// A kubelet, as Kubernetes knows it (`O=system:nodes`, `CN=system:node:NAME`).
    fn node(&self, certificate: &X509Certificate<'_>) -> Result<Identity, String> {
        let subject = certificate.subject();
        let organizations: Vec<_> = subject.iter_organization().map(AttributeTypeAndValue::as_str).collect();
        if !matches!(organizations[..], [Ok("system:nodes")]) {
            return Err("its organization is not system:nodes alone, so it is no node's".into());
        }
        let names: Vec<_> = subject.iter_common_name().map(AttributeTypeAndValue::as_str).collect();
        let name = match names[..] {
            [Ok(name)] => name.strip_prefix("system:node:"),
            _ => None,
        };
        let Some(name) = name.filter(|name| is_node_name(name)) else {
            return Err("its common name is not system:node:NAME".into());
        };
        let cluster = &self.name;
        Ok(Identity::new(Kind::Node, format!("{cluster}/{name}")).with("cluster", cluster).with("node", name))
    }

    fn workload(
        &self,
        certificate: &X509Certificate<'_>,
        trust_domains: &[String],
    ) -> Result<Identity, String> {
        let id = only(certificate, "URI", |name| match name {
            GeneralName::URI(uri) => Some(uri),
            _ => None,
        })?;
        let domain = trust_domain(id).ok_or_else(|| format!("\"{}\" is no SPIFFE id", shown(id)))?;
        if !trust_domains.is_empty() && !trust_domains.iter().any(|allowed| allowed == domain) {
            return Err(format!("it does not speak for the trust domain {}", shown(domain)));
        }
        Ok(Identity::new(Kind::Certificate, id).with("authority", &self.name).with("trust_domain", domain))
    }

    fn named<'a>(
        &self,
        certificate: &'a X509Certificate<'_>,
        what: &str,
        pick: impl Fn(&GeneralName<'a>) -> Option<&'a str>,
    ) -> Result<Identity, String> {
        let name = only(certificate, what, pick)?;
        if let Some(reason) = unfit(name) {
            return Err(format!("its {what} cannot be used: {reason}"));
        }
        let name = format!("{}/{name}", self.name);
        Ok(Identity::new(Kind::Certificate, name).with("authority", &self.name))
    }
}

/// The only name of a kind: of several nobody could say which is meant.
fn only<'a>(
    certificate: &'a X509Certificate<'_>,
    what: &str,
    pick: impl Fn(&GeneralName<'a>) -> Option<&'a str>,
) -> Result<&'a str, String> {
    let names = certificate.subject_alternative_name().map_err(|_| "its names cannot be read".to_owned())?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let found: Vec<_> = names.iter().filter_map(pick).collect();
    match found[..] {
        [name] => Ok(name),
        [] => Err(format!("there is no {what} in it")),
        _ => Err(format!("there is more than one {what} in it")),
    }
}

/// The trust domain of a SPIFFE id that can name a workload (SPIFFE-ID, 2; X509-SVID, 4.1).
fn trust_domain(id: &str) -> Option<&str> {
    let (domain, path) = id.strip_prefix("spiffe://")?.split_once('/')?;
    let in_domain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    let in_path = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let is_segment =
        |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(in_path);
    let sound = id.len() <= 1024
        && !domain.is_empty()
        && domain.len() <= 255
        && domain.bytes().all(in_domain)
        && path.split('/').all(is_segment);
    sound.then_some(domain)
}
