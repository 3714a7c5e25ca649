//! What can go wrong.

use std::io;
use std::path::PathBuf;

use berth_token_client::RegistryHost;

/// The result of what this library does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why there is no credential. None of these holds one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The way to a token failed.
    #[error(transparent)]
    Token(#[from] berth_token_client::Error),
    /// A file cannot be read or written.
    #[error("cannot use {path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The sessions cannot be read.
    #[error("{path} is damaged; move it away and log in again", path = .0.display())]
    DamagedSessions(PathBuf),
    /// Docker's configuration cannot be read.
    #[error("{path} is not what docker writes; repair it first", path = .0.display())]
    DamagedDockerConfig(PathBuf),
    /// There is no place for files.
    #[error("neither {0} nor HOME is set: there is no place to keep anything")]
    NoHome(&'static str),
    /// The registry does not say how people log in.
    #[error("{0} has no login for people configured; ask whoever runs it")]
    NoLogin(RegistryHost),
    /// The identity provider is not who the registry says.
    #[error("the identity provider {expected} calls itself {found}")]
    OtherIssuer {
        /// What the registry says.
        expected: String,
        /// What the provider says.
        found: String,
    },
    /// The identity provider has no device flow.
    #[error("the identity provider {0} offers no login for programs without a browser (RFC 8628)")]
    NoDeviceFlow(String),
    /// Nobody answered in time.
    #[error("the code was not entered in time; begin again")]
    CodeExpired,
    /// The person said no.
    #[error("the login was denied")]
    Denied,
    /// The token that should stand for the person is not there.
    #[error("the identity provider gave no {0}")]
    NoToken(&'static str),
    /// Another program that should give a token failed.
    #[error("{program} failed: {problem}")]
    Program {
        /// The program.
        program: &'static str,
        /// What happened.
        problem: String,
    },
}

impl Error {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
