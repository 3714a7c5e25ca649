//! What can go wrong on the way to a token.

use std::io;
use std::path::PathBuf;

use crate::RegistryHost;

/// The result of asking for a token.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why there is no token. None of these holds one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A string from outside that should name a registry.
    #[error("{0:?} is no registry host: expected HOST or HOST:PORT")]
    Host(String),
    /// Something that should be a token is not.
    #[error("{origin} {problem}")]
    BadToken {
        /// Where it came from.
        origin: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A file that was named cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that was named holds something else.
    #[error("{path} {problem}", path = path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is missing in it.
        problem: &'static str,
    },
    /// The system has no trusted certificates.
    #[error("this system has no CA certificates; name a file that has some with --ca-file")]
    NoRoots,
    /// The environment names a proxy that cannot be one.
    #[error("{0} is no address of a proxy")]
    Proxy(&'static str),
    /// There was no answer.
    #[error("cannot reach {url}: {cause}")]
    Unreachable {
        /// Who was asked.
        url: String,
        /// Why.
        cause: String,
    },
    /// The answer is an error.
    #[error("{url} answered {status}: {message}")]
    Refused {
        /// Who was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The `error` of OAuth, or the code of an OCI error; empty where there is none.
        code: String,
        /// What the answer says, shortened, without anything secret.
        message: String,
    },
    /// The answer is not what it should be.
    #[error("{url} answered what it should not: {problem}")]
    Garbage {
        /// Who was asked.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// A token would go over plain HTTP.
    #[error("{0} is not https")]
    Plain(String),
    /// The challenge sends tokens elsewhere.
    #[error("{registry} names {realm} as its token service, which is another host; allow it by name")]
    ForeignRealm {
        /// The registry.
        registry: RegistryHost,
        /// Where it would have the token sent.
        realm: String,
    },
}
