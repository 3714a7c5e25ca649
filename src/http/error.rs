//! The one place where an error becomes a status and a code.

use axum::body::Body;
use axum::response::Response;
use berth_auth::{Denied, Scope};
use berth_storage::{DigestError, StoreError};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use super::path::PathError;
use crate::db;
use crate::oci::{ContentRangeError, ErrorBody, ErrorCode, RepositoryName, range_until};
use crate::registry::{RegistryError, SourceError};
use crate::tokens::Refused;

/// Seconds after which a request may do better that met trouble.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// By the registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The path is malformed.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The path is not below `/v2/`.
    #[error("nothing is here; the registry's API is below /v2/")]
    NoSuchPath,
    /// By the policy.
    #[error("{0}")]
    Denied(Denied),
    /// By the policy, to somebody who may not know whether the repository exists.
    #[error("there is no repository {resource} for {identity}: {by}", resource = .0.resource, identity = .0.identity, by = .0.by)]
    Hidden(Denied),
    /// By the policy, which lets this one set other tags.
    #[error("{identity} may not {action} tag {tag}: {reason}")]
    TagDenied {
        /// Who asked.
        identity: String,
        /// To create or to overwrite.
        action: berth_auth::Permission,
        /// Where.
        repository: RepositoryName,
        /// Which tag.
        tag: String,
        /// Which rule says so.
        reason: String,
    },
    /// For lack of a token, or of one that is good for this.
    #[error("{reason}")]
    Unauthorized {
        /// What a token must be good for.
        scope: Scope,
        /// What is wrong with the one that came, as RFC 6750 says it.
        error: Option<&'static str>,
        /// What is wrong, for people.
        reason: String,
    },
    /// A credential is not good, or nobody can say.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A parameter of a form is not there.
    #[error("the parameter {0} is missing")]
    Missing(&'static str),
    /// A way to a token that is none.
    #[error(
        "grant_type {0:?} is none of password, refresh_token, client_credentials and \
         urn:ietf:params:oauth:grant-type:token-exchange"
    )]
    GrantType(String),
    /// A form that is too long, or did not come.
    #[error("the form is longer than {limit} bytes, or broke off")]
    Form {
        /// The limit, in bytes.
        limit: usize,
    },
    /// No refresh token is made from this credential.
    #[error("no refresh token is made from this credential of {0}; use the credential itself")]
    NoSession(String),
    /// The resource does not know the method.
    #[error("this resource takes {allowed}")]
    Method {
        /// Those it knows.
        allowed: &'static str,
    },
    /// A digest in a parameter is malformed.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// The parameter `digest` is not there.
    #[error("the parameter digest is missing")]
    DigestMissing,
    /// A tag in a parameter is malformed.
    #[error("{0:?} is no tag: up to 128 letters, digits, '_', '.' and '-', the first no '.' or '-'")]
    Tag(String),
    /// `n` is not a whole number.
    #[error("n must be a whole number, not {0:?}")]
    PageNumber(String),
    /// `Content-Range` is malformed.
    #[error("content-range: {0}")]
    ContentRange(#[from] ContentRangeError),
    /// The chunk is not as long as its range.
    #[error("content-length says {length} bytes and content-range {range}")]
    ChunkSize {
        /// The announced length, in bytes.
        length: u64,
        /// The announced range, in bytes.
        range: u64,
    },
    /// No byte of the range is there.
    #[error("the range is outside the {length} bytes there are")]
    Range {
        /// How many bytes there are.
        length: u64,
    },
    /// A chunk is out of order; where the session is.
    #[error("the chunk must begin at byte {offset}")]
    OutOfOrder {
        /// How many bytes the session has.
        offset: u64,
        /// The session's location.
        location: String,
    },
    /// The manifest is longer than taken.
    #[error("the manifest is larger than {limit} bytes")]
    ManifestTooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The body of a manifest broke off.
    #[error("the body broke off: {0}")]
    Body(SourceError),
    /// The request line is too long.
    #[error("path and query are longer than {limit} bytes")]
    UriTooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The headers are too long.
    #[error("the headers are longer than {limit} bytes")]
    HeadersTooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// Berth has a mistake.
    #[error("the request met a mistake in berth")]
    Panicked(String),
}

use ErrorCode as Code;
use StatusCode as Status;

impl HttpError {
    /// The status and the code of an error.
    fn verdict(&self) -> (Status, Code) {
        match self {
            Self::Registry(error) => registry(error),
            Self::Path(error) => match error {
                PathError::Unknown => (Status::NOT_FOUND, Code::Unsupported),
                PathError::Name(_) => (Status::BAD_REQUEST, Code::NameInvalid),
                PathError::Tag(_) => (Status::BAD_REQUEST, Code::TagInvalid),
                PathError::Digest(_) => (Status::BAD_REQUEST, Code::DigestInvalid),
                PathError::UploadUnknown => (Status::NOT_FOUND, Code::BlobUploadUnknown),
            },
            Self::NoSuchPath => (Status::NOT_FOUND, Code::Unsupported),
            Self::Denied(_) | Self::TagDenied { .. } => (Status::FORBIDDEN, Code::Denied),
            Self::Hidden(_) => (Status::NOT_FOUND, Code::NameUnknown),
            Self::Unauthorized { .. } => (Status::UNAUTHORIZED, Code::Unauthorized),
            Self::Refused(error) => refused(error),
            Self::Missing(_) | Self::GrantType(_) | Self::Form { .. } | Self::NoSession(_) => {
                (Status::BAD_REQUEST, Code::Unsupported)
            }
            Self::Method { .. } => (Status::METHOD_NOT_ALLOWED, Code::Unsupported),
            Self::Digest(_) | Self::DigestMissing => (Status::BAD_REQUEST, Code::DigestInvalid),
            Self::Tag(_) => (Status::BAD_REQUEST, Code::TagInvalid),
            Self::PageNumber(_) => (Status::BAD_REQUEST, Code::PaginationNumberInvalid),
            Self::ContentRange(_) => (Status::BAD_REQUEST, Code::RangeInvalid),
            Self::ChunkSize { .. } => (Status::BAD_REQUEST, Code::SizeInvalid),
            Self::Range { .. } => (Status::RANGE_NOT_SATISFIABLE, Code::RangeInvalid),
            Self::OutOfOrder { .. } => (Status::RANGE_NOT_SATISFIABLE, Code::BlobUploadInvalid),
            Self::ManifestTooLarge { .. } => (Status::PAYLOAD_TOO_LARGE, Code::ManifestInvalid),
            Self::Body(error) => (broken_off(error), Code::ManifestInvalid),
            Self::UriTooLong { .. } => (Status::URI_TOO_LONG, Code::Unsupported),
            Self::HeadersTooLong { .. } => (Status::REQUEST_HEADER_FIELDS_TOO_LARGE, Code::Unsupported),
            Self::Panicked(_) => (Status::INTERNAL_SERVER_ERROR, Code::Internal),
        }
    }

    /// The answer. What is our trouble goes to the log with its cause, under the request's id.
    pub(super) fn into_response(self, request_id: &str) -> Response {
        let (status, code) = self.verdict();
        if status.is_server_error() {
            tracing::error!(request_id, status = status.as_u16(), cause = chain(&self), "{self}");
        }
        let mut response = Response::new(Body::from(self.body(status, code, request_id).to_json()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if status == Status::SERVICE_UNAVAILABLE || status == Status::CONFLICT {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        match self {
            Self::Method { allowed } => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
            }
            Self::Range { length } => {
                headers
                    .extend(value(format!("bytes */{length}")).map(|value| (header::CONTENT_RANGE, value)));
            }
            Self::OutOfOrder { offset, location } => {
                headers.extend(value(range_until(offset)).map(|value| (header::RANGE, value)));
                headers.extend(value(location).map(|value| (header::LOCATION, value)));
            }
            _ => {}
        }
        response
    }

    fn body(&self, status: Status, code: Code, request_id: &str) -> ErrorBody {
        match self {
            Self::Registry(RegistryError::ManifestMisses(missing)) => {
                let mut body: Option<ErrorBody> = None;
                for one in missing {
                    let on =
                        one.platform.as_ref().map(|platform| format!(" ({platform})")).unwrap_or_default();
                    let text = format!("{}{on} is not in this repository; push it first", one.digest);
                    let more = Some(json!({ "digest": one.digest.as_str(), "platform": one.platform }));
                    body = Some(match body {
                        None => ErrorBody::new(code, text, request_id, more),
                        Some(body) => body.and(code, text, request_id, more),
                    });
                }
                body.unwrap_or_else(|| ErrorBody::new(code, self.to_string(), request_id, None))
            }
            // The cause is for the log; the client gets what helps it.
            _ if status == Status::INTERNAL_SERVER_ERROR => ErrorBody::new(
                code,
                "an internal error; the log has it under the request id",
                request_id,
                None,
            ),
            _ if status == Status::SERVICE_UNAVAILABLE => {
                ErrorBody::new(code, format!("{self}; try again in a moment"), request_id, None)
            }
            _ if status == Status::INSUFFICIENT_STORAGE => {
                ErrorBody::new(code, "the registry's disk is full; nothing was lost", request_id, None)
            }
            _ => ErrorBody::new(code, self.to_string(), request_id, None),
        }
    }
}

fn refused(error: &Refused) -> (Status, Code) {
    match error {
        Refused::Credential(_) | Refused::Token(_) => (Status::UNAUTHORIZED, Code::Unauthorized),
        Refused::Scopes(_) => (Status::BAD_REQUEST, Code::Unsupported),
        Refused::Unreachable(_) | Refused::NoKey => (Status::SERVICE_UNAVAILABLE, Code::Unavailable),
        Refused::Db(error) => database(error),
    }
}

fn registry(error: &RegistryError) -> (Status, Code) {
    use RegistryError as E;
    match error {
        E::BlobUnknown(_) => (Status::NOT_FOUND, Code::BlobUnknown),
        E::UploadUnknown | E::SessionDamaged => (Status::NOT_FOUND, Code::BlobUploadUnknown),
        E::UploadBusy => (Status::CONFLICT, Code::BlobUploadInvalid),
        E::OutOfOrder { .. } => (Status::RANGE_NOT_SATISFIABLE, Code::BlobUploadInvalid),
        E::SizeMismatch { .. } => (Status::BAD_REQUEST, Code::SizeInvalid),
        E::BrokenOff(why, _) => (broken_off(why), Code::BlobUploadInvalid),
        E::DigestMismatch { .. } => (Status::BAD_REQUEST, Code::DigestInvalid),
        E::ManifestUnknown(_) => (Status::NOT_FOUND, Code::ManifestUnknown),
        E::ManifestInvalid(_) | E::TagsWithTag => (Status::BAD_REQUEST, Code::ManifestInvalid),
        E::ManifestMisses(_) => (Status::NOT_FOUND, Code::ManifestBlobUnknown),
        E::TooManyTags { .. } => (Status::URI_TOO_LONG, Code::TagInvalid),
        E::InUse { .. } | E::TagDenied { .. } => (Status::FORBIDDEN, Code::Denied),
        E::RepositoryUnknown(_) => (Status::NOT_FOUND, Code::NameUnknown),
        E::Parser => (Status::INTERNAL_SERVER_ERROR, Code::Internal),
        E::Db(error) => database(error),
        E::Store(error) => store(error),
    }
}

fn broken_off(why: &SourceError) -> Status {
    match why {
        SourceError::Idle(_) => Status::REQUEST_TIMEOUT,
        SourceError::Cut(_) => Status::BAD_REQUEST,
    }
}

fn database(error: &db::Error) -> (Status, Code) {
    if error.is_full() {
        (Status::INSUFFICIENT_STORAGE, Code::Unavailable)
    } else if error.is_unavailable() {
        (Status::SERVICE_UNAVAILABLE, Code::Unavailable)
    } else {
        (Status::INTERNAL_SERVER_ERROR, Code::Internal)
    }
}

/// Trouble in the store is never absence: that would make a client believe that content is gone.
fn store(error: &StoreError) -> (Status, Code) {
    match error {
        StoreError::Full(_) => (Status::INSUFFICIENT_STORAGE, Code::Unavailable),
        StoreError::Unsynced(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            (Status::INSUFFICIENT_STORAGE, Code::Unavailable)
        }
        StoreError::TooLarge { .. } => (Status::PAYLOAD_TOO_LARGE, Code::BlobUploadInvalid),
        StoreError::Missing { .. }
        | StoreError::Busy { .. }
        | StoreError::Remote { .. }
        | StoreError::Altered { .. }
        | StoreError::Shared(_)
        | StoreError::Cache { .. }
        | StoreError::Index(_)
        | StoreError::Refused { .. }
        | StoreError::Settings(_)
        | StoreError::Unsynced(_)
        | StoreError::WrongSize { .. }
        | StoreError::Io { .. }
        | StoreError::NotWritable { .. }
        | StoreError::NotAStore { .. }
        | StoreError::Format { .. }
        | StoreError::Marker { .. } => (Status::SERVICE_UNAVAILABLE, Code::Unavailable),
    }
}

fn value(text: String) -> Option<HeaderValue> {
    HeaderValue::try_from(text).ok()
}

/// An error and its causes, for the log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut inner = error.source();
    while let Some(source) = inner {
        text.push_str(": ");
        text.push_str(&source.to_string());
        inner = source.source();
    }
    text
}
