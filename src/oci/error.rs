//! The error codes a client sees, and the JSON that carries them.
//!
//! Which code an error has is decided in `http/error.rs` alone; here is only the vocabulary.
//! The status belongs to HTTP and is not here either: one code goes with several.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

/// A code of the distribution spec, or one of the few of our own (the spec allows more).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The blob is not known to the repository.
    BlobUnknown,
    /// The upload cannot go on as asked.
    BlobUploadInvalid,
    /// The upload session is not known.
    BlobUploadUnknown,
    /// A digest is malformed, unsupported or not that of the content.
    DigestInvalid,
    /// A manifest names a blob or a manifest that the repository does not have.
    ManifestBlobUnknown,
    /// The manifest cannot be accepted.
    ManifestInvalid,
    /// The manifest is not known to the repository.
    ManifestUnknown,
    /// The repository name is malformed.
    NameInvalid,
    /// The repository is not known.
    NameUnknown,
    /// A length is not that of the content.
    SizeInvalid,
    /// The caller must authenticate.
    Unauthorized,
    /// The caller may not do this.
    Denied,
    /// The operation is not supported.
    Unsupported,
    /// Too many requests.
    TooManyRequests,
    /// A range or a chunk is out of place (docker's code, not the spec's).
    RangeInvalid,
    /// The parameter `n` of a listing is no number (docker's code, not the spec's).
    PaginationNumberInvalid,
    /// The tag is malformed (docker's code, not the spec's).
    TagInvalid,
    /// Berth, or what it depends on, cannot answer now; the same request may succeed later.
    Unavailable,
    /// Berth failed; the log has the cause under the request id.
    Internal,
}

impl ErrorCode {
    /// Every code, for tests and documentation.
    pub const ALL: [Self; 19] = [
        Self::BlobUnknown,
        Self::BlobUploadInvalid,
        Self::BlobUploadUnknown,
        Self::DigestInvalid,
        Self::ManifestBlobUnknown,
        Self::ManifestInvalid,
        Self::ManifestUnknown,
        Self::NameInvalid,
        Self::NameUnknown,
        Self::SizeInvalid,
        Self::Unauthorized,
        Self::Denied,
        Self::Unsupported,
        Self::TooManyRequests,
        Self::RangeInvalid,
        Self::PaginationNumberInvalid,
        Self::TagInvalid,
        Self::Unavailable,
        Self::Internal,
    ];

    /// The code as it stands in the JSON: upper case and underscores.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::RangeInvalid => "RANGE_INVALID",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::TagInvalid => "TAG_INVALID",
            Self::Unavailable => "UNAVAILABLE",
            Self::Internal => "INTERNAL",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The body of an error response: `{"errors":[{"code":…,"message":…,"detail":{"request_id":…}}]}`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ErrorBody {
    errors: Vec<Entry>,
}

/// One error of a body.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Entry {
    code: ErrorCode,
    message: String,
    detail: Map<String, Value>,
}

impl ErrorBody {
    /// Makes a body of one error.
    ///
    /// The fields of `more` join the request id in `detail`; a `more` that is no object stands
    /// there as `value`.
    pub fn new(code: ErrorCode, message: impl Into<String>, request_id: &str, more: Option<Value>) -> Self {
        Self { errors: Vec::new() }.and(code, message, request_id, more)
    }

    /// Adds another error: a push that misses three blobs says so three times.
    #[must_use]
    pub fn and(
        mut self,
        code: ErrorCode,
        message: impl Into<String>,
        request_id: &str,
        more: Option<Value>,
    ) -> Self {
        let mut detail = match more {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(fields)) => fields,
            Some(value) => Map::from_iter([("value".to_owned(), value)]),
        };
        detail.insert("request_id".to_owned(), request_id.into());
        self.errors.push(Entry { code, message: message.into(), detail });
        self
    }

    /// The body as JSON text.
    #[expect(clippy::missing_panics_doc, reason = "it cannot")]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and JSON values under string keys always serialise")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(body: &ErrorBody) -> Value {
        serde_json::from_str(&body.to_json()).unwrap()
    }

    #[test]
    fn codes_are_upper_case_and_differ() {
        let mut seen = std::collections::HashSet::new();
        for code in ErrorCode::ALL {
            assert!(code.as_str().bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'));
            assert!(seen.insert(code.to_string()), "{code} is there twice");
        }
    }

    #[test]
    fn an_error_carries_its_request_id() {
        let body = ErrorBody::new(ErrorCode::BlobUnknown, "blob not found", "r1", None);
        assert_eq!(
            read(&body),
            json!({"errors": [{"code": "BLOB_UNKNOWN", "message": "blob not found", "detail": {"request_id": "r1"}}]})
        );
    }

    #[test]
    fn further_details_stand_beside_the_request_id_and_cannot_replace_it() {
        let more = json!({"digest": "sha256:x", "request_id": "forged"});
        let body = ErrorBody::new(ErrorCode::DigestInvalid, "bad", "r1", Some(more));
        assert_eq!(read(&body)["errors"][0]["detail"], json!({"digest": "sha256:x", "request_id": "r1"}));
        let body = ErrorBody::new(ErrorCode::DigestInvalid, "bad", "r1", Some(json!([1])));
        assert_eq!(read(&body)["errors"][0]["detail"], json!({"value": [1], "request_id": "r1"}));
    }

    #[test]
    fn each_missing_blob_is_an_error_of_its_own() {
        let body = ErrorBody::new(ErrorCode::ManifestBlobUnknown, "a", "r1", None).and(
            ErrorCode::ManifestBlobUnknown,
            "b",
            "r1",
            None,
        );
        assert_eq!(read(&body)["errors"].as_array().unwrap().len(), 2);
    }

    proptest! {
        #[test]
        fn any_message_survives_the_journey(message in ".{0,100}", request_id in ".{0,40}") {
            let body = ErrorBody::new(ErrorCode::Internal, message.clone(), &request_id, None);
            let error = &read(&body)["errors"][0];
            prop_assert_eq!(error["message"].as_str(), Some(message.as_str()));
            prop_assert_eq!(error["detail"]["request_id"].as_str(), Some(request_id.as_str()));
        }
    }
}
