//! TLS of a listener: certificates from files, read again when they change, and the CAs of the identities that
//! come with a certificate.
//!
//! A handshake takes the certificates of its moment; a connection keeps what it began with. New files
//! that are of no use change nothing but the log and a metric.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::{interval, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::parse_x509_certificate;

use crate::config::Tls;
use crate::telemetry::{Metrics, audit};

/// How often the files are looked at. New ones are taken once they were the same at two looks: a
/// certificate and its key are seldom written in one go.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// What HTTP over TLS is asked for by name.
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Files that are of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// One cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// It is not PEM.
    #[error("{} is not what it should be: {reason}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It holds no certificate.
    #[error("there is no certificate in {}; it takes PEM, the server's own certificate first, then its chain", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// It holds no private key.
    #[error("there is no private key in {}; it takes PEM, without a passphrase", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// Key and certificate do not go together.
    #[error("the private key in {} is not the key of the certificate in {}", key.display(), certificate.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// Its content cannot be used.
    #[error("{} cannot be used: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// The certificates of a listener. Clones are of the same.
#[derive(Debug, Clone)]
pub(super) struct Certificates(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: Files,
    authorities: Arc<berth_auth::Certificates>,
    handshake_timeout: Duration,
    /// What the next handshake is made with.
    current: RwLock<Arc<ServerConfig>>,
    /// What that was made from at first, and when its certificate ends.
    begun_with: Contents,
    expires: i64,
}

/// Where they are.
#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// What is in the files, and whose client certificates are taken.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authorities: Vec<TrustAnchor<'static>>,
}

/// What a handshake needs, and when the certificate ends, in unix seconds.
struct Loaded {
    config: ServerConfig,
    expires: i64,
}

/// A connection of which the first bytes are known.
pub(super) enum Accepted {
    /// It speaks TLS, and in it HTTP/2 or HTTP/1.1.
    Tls {
        stream: Box<TlsStream<TcpStream>>,
        speaks_http2: bool,
        certificates: Option<Arc<Vec<CertificateDer<'static>>>>,
    },
    /// It was somebody who speaks HTTP without TLS, and was told.
    Plain,
}

impl Certificates {
    /// Reads the files; `None` if no TLS is wanted.
    pub(super) async fn open(
        settings: &Tls,
        authorities: Arc<berth_auth::Certificates>,
    ) -> Result<Option<Self>, TlsError> {
        let Some((certificate, key)) = settings.pair() else { return Ok(None) };
        let files = Files { certificate: certificate.to_owned(), key: key.to_owned() };
        let begun_with = files.read(&authorities).await?;
        let Loaded { config, expires } = files.load(&begun_with)?;
        let handshake_timeout = settings.handshake_timeout.get();
        let current = RwLock::new(Arc::new(config));
        let inner = Inner { files, authorities, handshake_timeout, current, begun_with, expires };
        Ok(Some(Self(Arc::new(inner))))
    }

    /// Shows in the metrics when the certificate ends.
    pub(super) fn show(&self, metrics: &Metrics) {
        metrics.certificate_expires(self.0.expires);
    }

    /// Looks at the files again and again, and takes new ones.
    pub(super) async fn follow(self, metrics: Metrics) {
        let Inner { files, authorities, current, begun_with, .. } = &*self.0;
        let mut trouble = Vec::new();
        let mut tried = Ok(begun_with.clone());
        let mut seen = tried.clone();
        let mut ticks = interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            let wrong = look_at(authorities).await;
            // Once, not every two seconds.
            for error in wrong.iter().filter(|error| !trouble.contains(*error)) {
                metrics.certificate_reload_failed();
                tracing::warn!("new CAs of client certificates are of no use; those before stay: {error}");
            }
            trouble = wrong;
            let found = files.read(authorities).await;
            if found == tried || found != seen {
                seen = found;
                continue;
            }
            tried = found;
            match tried.clone().and_then(|contents| files.load(&contents)) {
                Ok(Loaded { config, expires }) => {
                    *current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                    metrics.certificate_expires(expires);
                    tracing::info!(certificate = %files.certificate.display(), "took a new certificate");
                }
                Err(error) => {
                    metrics.certificate_reload_failed();
                    tracing::warn!(%error, "new certificate files are of no use; the ones before stay in use");
                }
            }
        }
    }

    /// Waits for the first bytes of a connection, and shakes hands.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<Accepted> {
        timeout(self.0.handshake_timeout, self.shake_hands(stream)).await?
    }

    async fn shake_hands(&self, stream: TcpStream) -> io::Result<Accepted> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Every method is in capitals; no record of TLS begins with one.
        if first[0].is_ascii_uppercase() {
            tell_to_use_tls(stream).await?;
            return Ok(Accepted::Plain);
        }
        let config = Arc::clone(&self.0.current.read().unwrap_or_else(PoisonError::into_inner));
        let stream = match TlsAcceptor::from(config).accept(stream).into_fallible().await {
            Ok(stream) => Box::new(stream),
            Err((error, stream)) => {
                if let (Some(reason), Ok(client)) = (refused_certificate(&error), stream.peer_addr()) {
                    audit::refused_certificate(&reason, client.ip());
                }
                // The client was sent why.
                let _ = end(stream).await;
                return Err(error);
            }
        };
        let (_, session) = stream.get_ref();
        let speaks_http2 = session.alpn_protocol() == Some(HTTP2);
        let certificates = session.peer_certificates().map(|chain| Arc::new(chain.to_vec()));
        Ok(Accepted::Tls { stream, speaks_http2, certificates })
    }
}

/// Why a client's certificate was not taken, if that is what went wrong.
fn refused_certificate(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    matches!(error, rustls::Error::InvalidCertificate(_)).then(|| error.to_string())
}

/// Reads the CAs again; what is wrong with them.
async fn look_at(authorities: &Arc<berth_auth::Certificates>) -> Vec<String> {
    if authorities.is_empty() {
        return Vec::new();
    }
    let authorities = Arc::clone(authorities);
    let looked = spawn_blocking(move || authorities.reload()).await.unwrap_or_default();
    looked.iter().map(ToString::to_string).collect()
}

impl Files {
    async fn read(&self, authorities: &berth_auth::Certificates) -> Result<Contents, TlsError> {
        let read = async |path: &Path| {
            let failed = |error: io::Error| TlsError::Read { path: path.into(), reason: error.to_string() };
            tokio::fs::read(path).await.map_err(failed)
        };
        Ok(Contents {
            certificate: read(&self.certificate).await?,
            key: read(&self.key).await?,
            authorities: authorities.authorities(),
        })
    }

    fn load(&self, contents: &Contents) -> Result<Loaded, TlsError> {
        let chain = certificates(&self.certificate, &contents.certificate)?;
        let unusable = |path: &Path, error: &dyn std::error::Error| TlsError::Unusable {
            path: path.into(),
            reason: error.to_string(),
        };
        let expires = match parse_x509_certificate(&chain[0]) {
            Ok((_, certificate)) => certificate.validity().not_after.timestamp(),
            Err(error) => return Err(unusable(&self.certificate, &error)),
        };
        let key = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|error| match error {
            pem::Error::NoItemsFound => TlsError::NoKey { path: self.key.clone() },
            error => TlsError::Pem { path: self.key.clone(), reason: error.to_string() },
        })?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for the versions of TLS it supports");
        let builder = if contents.authorities.is_empty() {
            builder.with_no_client_auth()
        } else {
            let roots = RootCertStore { roots: contents.authorities.clone() };
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let verifier = verifier.allow_unauthenticated().build();
            builder.with_client_cert_verifier(verifier.expect("there are CAs, and no lists of revoked ones"))
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                TlsError::Mismatch { certificate: self.certificate.clone(), key: self.key.clone() }
            }
            rustls::Error::InvalidCertificate(_) => unusable(&self.certificate, &error),
            error => unusable(&self.key, &error),
        })?;
        config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        if contents.authorities.is_empty() {
            config.ticketer =
                rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|error| unusable(&self.key, &error))?;
        } else {
            // A session that is resumed is not verified again, and a certificate may have expired since.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Loaded { config, expires })
    }
}

fn certificates(path: &Path, content: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(content).collect();
    let found = found.map_err(|error| TlsError::Pem { path: path.into(), reason: error.to_string() })?;
    if found.is_empty() { Err(TlsError::NoCertificate { path: path.into() }) } else { Ok(found) }
}

/// As other servers do: a client that speaks plain HTTP shall say what is wrong, and not that the
/// connection broke.
async fn tell_to_use_tls(mut stream: TcpStream) -> io::Result<()> {
    const TEXT: &str = "this port speaks https: the address must begin with https://\n";
    let head = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close";
    let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{TEXT}", TEXT.len());
    stream.write_all(answer.as_bytes()).await?;
    end(stream).await
}

/// Ends a connection so that the last that was said arrives: what the client has sent is read. Were it not, the
/// system would reset the connection, and the answer might be lost.
async fn end(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = [0; 4096];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Contents").finish_non_exhaustive()
    }
}
