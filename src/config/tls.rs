//! `[http.tls]`: the certificate of the server, from files.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Span};

/// TLS, with HTTP/1.1 and HTTP/2. Without a certificate there is none. The files are PEM; new ones are
/// taken within seconds, without a restart and without a broken connection, and those that are of no use
/// are logged and not taken.
///
/// Where `[[auth.cluster]]` or `[[auth.certificate]]` names a CA of client certificates, a client may show one;
/// nobody need, and one that none of those CAs signed is refused. TLS sessions are not resumed then, so that a
/// certificate is looked at with every connection.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// The server's certificate, then those that lead from it to one that clients know.
    pub certificate_file: Option<PathBuf>,
    /// The private key of that certificate, without a passphrase.
    pub key_file: Option<PathBuf>,
    /// How long a client may take from the connection to the end of the handshake.
    pub handshake_timeout: Span,
}

impl Default for Tls {
    fn default() -> Self {
        Self { certificate_file: None, key_file: None, handshake_timeout: Span::seconds(10) }
    }
}

impl Tls {
    /// Certificate and key, if TLS is wanted.
    pub fn pair(&self) -> Option<(&Path, &Path)> {
        self.certificate_file.as_deref().zip(self.key_file.as_deref())
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let invalid = |text: &str| Err(ConfigError::Invalid(text.to_owned()));
        match (&self.certificate_file, &self.key_file) {
            (Some(_), None) => {
                invalid("http.tls.certificate_file is set, and http.tls.key_file is not; set both")
            }
            (None, Some(_)) => {
                invalid("http.tls.key_file is set, and http.tls.certificate_file is not; set both")
            }
            _ => Ok(()),
        }
    }
}
