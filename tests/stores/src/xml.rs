//! The protocol that S3 and Google's XML API have in common: what a request asks for, and how answers
//! are written.

use std::{collections::HashMap, fmt::Write as _, io, ops::Range};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Full, combinators::UnsyncBoxBody};
use percent_encoding::percent_decode_str;

use crate::bucket::{Listed, MOST_LISTED};

/// The body of an answer. An error in it cuts the connection.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// When everything here was stored, as nobody asks.
pub(crate) const MODIFIED: &str = "Wed, 01 Jan 2025 00:00:00 GMT";
const MODIFIED_IN_LISTS: &str = "2025-01-01T00:00:00.000Z";

/// What can be asked of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Storing an object in one request.
    Put,
    /// Beginning a multipart upload.
    CreateMultipart,
    /// Storing a part.
    PutPart,
    /// Making an object of parts.
    Complete,
    /// Ending a multipart upload without an object.
    Abort,
    /// Reading an object.
    Get,
    /// Looking at an object.
    Head,
    /// Deleting an object.
    Delete,
    /// Listing objects.
    List,
    /// Listing open multipart uploads.
    ListMultiparts,
    /// Copying an object, or a part out of one.
    Copy,
    /// Something else.
    Other,
}

/// A request, taken apart.
pub(crate) struct Asked {
    pub(crate) operation: Operation,
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) query: HashMap<String, String>,
}

impl Asked {
    /// Takes a request with the bucket in its path apart.
    pub(crate) fn of<B>(request: &Request<B>, copy_source: &str) -> Self {
        let path = request.uri().path().trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let query = request.uri().query().unwrap_or_default();
        let query: HashMap<_, _> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let has = |name: &str| query.contains_key(name);
        let operation = match *request.method() {
            _ if request.headers().contains_key(copy_source) => Operation::Copy,
            Method::GET if key.is_empty() && has("uploads") => Operation::ListMultiparts,
            Method::GET if key.is_empty() && has("list-type") => Operation::List,
            _ if key.is_empty() => Operation::Other,
            Method::GET => Operation::Get,
            Method::HEAD => Operation::Head,
            Method::PUT if has("uploadId") => Operation::PutPart,
            Method::PUT => Operation::Put,
            Method::POST if has("uploads") => Operation::CreateMultipart,
            Method::POST if has("uploadId") => Operation::Complete,
            Method::DELETE if has("uploadId") => Operation::Abort,
            Method::DELETE => Operation::Delete,
            _ => Operation::Other,
        };
        Self { operation, bucket: decode(bucket), key: decode(key), query }
    }

    /// A parameter of the query; empty if it is not there.
    pub(crate) fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// The number of a part, if it is one that parts may have.
    pub(crate) fn part_number(&self) -> Option<u32> {
        self.parameter("partNumber").parse().ok().filter(|number| (1..=10_000).contains(number))
    }
}

/// A request that is refused, as the store says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: &'static str,
}

impl Refusal {
    pub(crate) const NO_SUCH_BUCKET: Self =
        Self::new(StatusCode::NOT_FOUND, "NoSuchBucket", "The specified bucket does not exist.");
    pub(crate) const NO_SUCH_KEY: Self =
        Self::new(StatusCode::NOT_FOUND, "NoSuchKey", "The specified key does not exist.");
    pub(crate) const NO_SUCH_UPLOAD: Self =
        Self::new(StatusCode::NOT_FOUND, "NoSuchUpload", "The requested upload was not found.");
    pub(crate) const INVALID_PART: Self =
        Self::new(StatusCode::BAD_REQUEST, "InvalidPart", "A part was not found, or has another ETag.");
    pub(crate) const INVALID_PART_ORDER: Self =
        Self::new(StatusCode::BAD_REQUEST, "InvalidPartOrder", "Parts must be named in ascending order.");
    pub(crate) const ENTITY_TOO_SMALL: Self =
        Self::new(StatusCode::BAD_REQUEST, "EntityTooSmall", "All parts but the last must have 5 MiB.");
    pub(crate) const INVALID_RANGE: Self = Self::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        "InvalidRange",
        "The requested range cannot be satisfied.",
    );
    pub(crate) const INVALID_ARGUMENT: Self =
        Self::new(StatusCode::BAD_REQUEST, "InvalidArgument", "Invalid argument.");
    pub(crate) const BAD_DIGEST: Self =
        Self::new(StatusCode::BAD_REQUEST, "BadDigest", "The checksum is not that of what was received.");
    pub(crate) const NOT_IMPLEMENTED: Self =
        Self::new(StatusCode::NOT_IMPLEMENTED, "NotImplemented", "The operation is not implemented.");

    pub(crate) const fn new(status: StatusCode, code: &'static str, message: &'static str) -> Self {
        Self { status, code, message }
    }

    pub(crate) fn answer(self) -> Response<Body> {
        let text = format!("<Error><Code>{}</Code><Message>{}</Message></Error>", self.code, self.message);
        document(self.status, &text)
    }
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// An answer that is a document.
pub(crate) fn document(status: StatusCode, text: &str) -> Response<Body> {
    let text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>{text}");
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("application/xml; charset=UTF-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A multipart upload was begun.
pub(crate) fn begun(asked: &Asked, upload: &str) -> Response<Body> {
    let text = format!(
        "<InitiateMultipartUploadResult><Bucket>{}</Bucket><Key>{}</Key><UploadId>{upload}</UploadId>\
         </InitiateMultipartUploadResult>",
        escape(&asked.bucket),
        escape(&asked.key)
    );
    document(StatusCode::OK, &text)
}

/// A multipart upload became an object.
pub(crate) fn completed(asked: &Asked, e_tag: &str) -> Response<Body> {
    let text = format!(
        "<CompleteMultipartUploadResult><Bucket>{}</Bucket><Key>{}</Key><ETag>{}</ETag>\
         </CompleteMultipartUploadResult>",
        escape(&asked.bucket),
        escape(&asked.key),
        escape(e_tag)
    );
    document(StatusCode::OK, &text)
}

/// What a list asks for, out of all objects in the order of their keys.
pub(crate) fn listed<'a>(asked: &Asked, all: impl Iterator<Item = Listed<'a>>) -> Response<Body> {
    let (prefix, delimiter) = (asked.parameter("prefix"), asked.parameter("delimiter"));
    let after = asked.parameter("start-after").max(asked.parameter("continuation-token"));
    let most = asked.parameter("max-keys").parse().unwrap_or(MOST_LISTED).min(MOST_LISTED);
    let (mut text, mut count, mut last, mut more) = (String::new(), 0, String::new(), false);
    for object in all.filter(|object| object.key.starts_with(prefix)) {
        let rest = &object.key[prefix.len()..];
        let folder = rest.split_once(delimiter).filter(|_| !delimiter.is_empty());
        let folder = folder.map(|(folder, _)| format!("{prefix}{folder}{delimiter}"));
        let name = folder.as_deref().unwrap_or(object.key);
        // All that is in a folder is listed by its name, once.
        if name <= after || name == last {
            continue;
        }
        if count == most {
            more = true;
            break;
        }
        count += 1;
        name.clone_into(&mut last);
        let _ = match &folder {
            Some(folder) => {
                write!(text, "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escape(folder))
            }
            None => write!(
                text,
                "<Contents><Key>{}</Key><LastModified>{MODIFIED_IN_LISTS}</LastModified><ETag>{}</ETag>\
                 <Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
                escape(object.key),
                escape(object.e_tag),
                object.size_bytes
            ),
        };
    }
    let next = if more {
        format!("<NextContinuationToken>{}</NextContinuationToken>", escape(&last))
    } else {
        String::new()
    };
    let text = format!(
        "<ListBucketResult><Name>{}</Name><Prefix>{}</Prefix><KeyCount>{count}</KeyCount>\
         <IsTruncated>{more}</IsTruncated>{next}{text}</ListBucketResult>",
        escape(&asked.bucket),
        escape(prefix)
    );
    document(StatusCode::OK, &text)
}

/// The open multipart uploads: of which key, and what each is called.
pub(crate) fn listed_multiparts<'a>(
    asked: &Asked,
    all: impl Iterator<Item = (&'a str, &'a str)>,
) -> Response<Body> {
    let mut text = String::new();
    for (key, upload) in all.filter(|(key, _)| key.starts_with(asked.parameter("prefix"))) {
        let _ = write!(text, "<Upload><Key>{}</Key><UploadId>{upload}</UploadId></Upload>", escape(key));
    }
    let text = format!(
        "<ListMultipartUploadsResult><Bucket>{}</Bucket><IsTruncated>false</IsTruncated>{text}\
         </ListMultipartUploadsResult>",
        escape(&asked.bucket)
    );
    document(StatusCode::OK, &text)
}

/// The parts that a completion names: their numbers and ETags.
pub(crate) fn parts(text: &str) -> Option<Vec<(u32, String)>> {
    let element = |part: &str, name: &str| {
        let (_, rest) = part.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0.trim().to_owned())
    };
    let parts = text.split("<Part>").skip(1);
    parts
        .map(|part| {
            Some((element(part, "PartNumber")?.parse().ok()?, element(part, "ETag")?.replace("&quot;", "\"")))
        })
        .collect()
}

/// The range of an object that a request wants: `None` for all of it.
pub(crate) fn range(headers: &HeaderMap, size_bytes: u64) -> Result<Option<Range<u64>>, Refusal> {
    let Some(wanted) = headers.get(header::RANGE).and_then(|value| value.to_str().ok()) else {
        return Ok(None);
    };
    // What is no range of bytes is ignored.
    let Some((first, last)) = wanted.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Ok(None);
    };
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(size_bytes),
        (Ok(first), Err(_)) if last.is_empty() => first..size_bytes,
        (Err(_), Ok(length)) if first.is_empty() => size_bytes.saturating_sub(length)..size_bytes,
        _ => return Ok(None),
    };
    if range.start >= size_bytes { Err(Refusal::INVALID_RANGE) } else { Ok(Some(range)) }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
