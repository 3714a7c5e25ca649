//! Which resource a path under `/v2/` names.
//!
//! A repository name may have any number of parts, and the words of the API are good parts of
//! one, so a path is read from its right end, where the grammar is fixed: the last segments say
//! what is meant and all that stands before them is the name. `x/blobs/uploads/tags/list` lists
//! the tags of the repository `x/blobs/uploads`. The last but one segment alone decides between
//! the routes, save that no digest reads `uploads`; that is why no path has two meanings.

use std::borrow::Cow;

use berth_storage::{Digest, DigestError};
use percent_encoding::percent_decode_str;

use crate::oci::name::{NAME_MAX_BYTES, NameError, RepositoryName, TagError};
use crate::oci::reference::{Reference, ReferenceError};

/// A thing under `/v2/` that requests are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// The API itself, `/v2/`.
    Base,
    /// The list of repositories, `_catalog`.
    Catalog,
    /// A blob, `NAME/blobs/DIGEST`.
    Blob {
        /// The repository that holds it.
        repository: RepositoryName,
        /// The digest of its bytes.
        digest: Digest,
    },
    /// Where uploads start, `NAME/blobs/uploads/`, with or without the last slash.
    Uploads {
        /// The repository to push to.
        repository: RepositoryName,
    },
    /// An upload session, `NAME/blobs/uploads/ID`.
    Upload {
        /// The repository being pushed to.
        repository: RepositoryName,
        /// The session's id, 32 lower-case hexadecimal characters.
        id: String,
    },
    /// A manifest, `NAME/manifests/REFERENCE`.
    Manifest {
        /// The repository that holds it.
        repository: RepositoryName,
        /// The tag or digest asked for.
        reference: Reference,
    },
    /// The tags of a repository, `NAME/tags/list`.
    Tags {
        /// The repository.
        repository: RepositoryName,
    },
    /// The manifests that name a subject, `NAME/referrers/DIGEST`.
    Referrers {
        /// The repository.
        repository: RepositoryName,
        /// The subject's digest.
        digest: Digest,
    },
}

/// Why a path names no resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No route has this form.
    #[error("no such resource; see the OCI distribution spec for the paths under /v2/")]
    Unknown,
    /// The repository name is malformed.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The tag is malformed.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// The digest is malformed or of an unsupported algorithm.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// The id of the upload session is not one that Berth hands out.
    #[error("no such upload session; start another with a POST to NAME/blobs/uploads/")]
    UploadUnknown,
}

impl From<ReferenceError> for PathError {
    fn from(error: ReferenceError) -> Self {
        match error {
            ReferenceError::Tag(error) => Self::Tag(error),
            ReferenceError::Digest(error) => Self::Digest(error),
        }
    }
}

impl Resource {
    /// The methods it takes, as `Allow` lists them.
    pub fn methods(&self) -> &'static str {
        match self {
            Self::Base | Self::Catalog | Self::Tags { .. } | Self::Referrers { .. } => "GET, HEAD",
            Self::Blob { .. } => "GET, HEAD, DELETE",
            Self::Uploads { .. } => "POST",
            Self::Upload { .. } => "GET, HEAD, PATCH, PUT, DELETE",
            Self::Manifest { .. } => "GET, HEAD, PUT, DELETE",
        }
    }

    /// Reads what follows `/v2/` in a URL's path: not yet percent-decoded, without the query;
    /// empty for `/v2/` itself.
    ///
    /// # Errors
    /// No route has this form, or a name, tag, digest or session id in it is malformed. The
    /// repository's name is judged before what stands behind it.
    pub fn parse(raw_path_after_v2: &str) -> Result<Self, PathError> {
        let Some((rest, last)) = raw_path_after_v2.rsplit_once('/') else {
            return match &*decode(raw_path_after_v2) {
                "" => Ok(Self::Base),
                "_catalog" => Ok(Self::Catalog),
                _ => Err(PathError::Unknown),
            };
        };
        let last = decode(last);
        let (name, word) = split_last(rest);
        match &*word {
            "blobs" => {
                let repository = repository(name)?;
                if last == "uploads" {
                    return Ok(Self::Uploads { repository });
                }
                let digest = last.parse()?;
                Ok(Self::Blob { repository, digest })
            }
            "uploads" => {
                let (name, word) = split_last(name.ok_or(PathError::Unknown)?);
                if word != "blobs" {
                    return Err(PathError::Unknown);
                }
                let repository = repository(name)?;
                if last.is_empty() {
                    return Ok(Self::Uploads { repository });
                }
                if !is_upload_id(&last) {
                    return Err(PathError::UploadUnknown);
                }
                let id = last.into_owned();
                Ok(Self::Upload { repository, id })
            }
            "manifests" => {
                let repository = repository(name)?;
                let reference = last.parse()?;
                Ok(Self::Manifest { repository, reference })
            }
            "tags" if last == "list" => {
                let repository = repository(name)?;
                Ok(Self::Tags { repository })
            }
            "referrers" => {
                let repository = repository(name)?;
                let digest = last.parse()?;
                Ok(Self::Referrers { repository, digest })
            }
            _ => Err(PathError::Unknown),
        }
    }
}

/// Splits off and decodes the last segment.
fn split_last(path: &str) -> (Option<&str>, Cow<'_, str>) {
    match path.rsplit_once('/') {
        Some((before, last)) => (Some(before), decode(last)),
        None => (None, decode(path)),
    }
}

/// Decodes one segment. What is not UTF-8 becomes U+FFFD, which no grammar here has.
fn decode(segment: &str) -> Cow<'_, str> {
    percent_decode_str(segment).decode_utf8_lossy()
}

/// Reads the segments before the API's words as a repository name.
fn repository(path: Option<&str>) -> Result<RepositoryName, NameError> {
    let path = path.ok_or(NameError::Empty)?;
    // Nothing longer can decode to a name: three bytes make one at most.
    if path.len() > 3 * NAME_MAX_BYTES {
        return Err(NameError::TooLong { length_bytes: path.len() });
    }
    let mut name = String::with_capacity(path.len());
    for (position, segment) in path.split('/').enumerate() {
        if position > 0 {
            name.push('/');
        }
        let segment = decode(segment);
        if segment.contains('/') {
            return Err(NameError::EncodedSlash);
        }
        name.push_str(&segment);
    }
    name.try_into()
}

/// Whether Berth could have handed out this id.
fn is_upload_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use berth_storage::Algorithm;
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn digest() -> Digest {
        Digest::of(Algorithm::Sha256, b"blob")
    }

    fn name(name: &str) -> RepositoryName {
        name.parse().unwrap()
    }

    fn parse(path: &str) -> Resource {
        Resource::parse(path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
    }

    #[test]
    fn every_route_is_found_for_names_that_look_like_routes() {
        assert_eq!(parse(""), Resource::Base);
        assert_eq!(parse("_catalog"), Resource::Catalog);
        for repository in [
            "a",
            "team/api",
            "team/blobs",
            "x/blobs/uploads",
            "blobs",
            "blobs/uploads",
            "tags/list",
            "manifests/latest",
            "referrers",
            "a/manifests",
            "uploads",
        ] {
            let repository = name(repository);
            let digest = digest();
            assert_eq!(
                parse(&format!("{repository}/blobs/{digest}")),
                Resource::Blob { repository: repository.clone(), digest: digest.clone() }
            );
            for slash in ["", "/"] {
                assert_eq!(
                    parse(&format!("{repository}/blobs/uploads{slash}")),
                    Resource::Uploads { repository: repository.clone() }
                );
            }
            assert_eq!(
                parse(&format!("{repository}/blobs/uploads/{ID}")),
                Resource::Upload { repository: repository.clone(), id: ID.to_owned() }
            );
            for reference in ["latest", "uploads", "list", digest.as_str()] {
                assert_eq!(
                    parse(&format!("{repository}/manifests/{reference}")),
                    Resource::Manifest {
                        repository: repository.clone(),
                        reference: reference.parse().unwrap()
                    }
                );
            }
            assert_eq!(
                parse(&format!("{repository}/tags/list")),
                Resource::Tags { repository: repository.clone() }
            );
            assert_eq!(
                parse(&format!("{repository}/referrers/{digest}")),
                Resource::Referrers { repository, digest }
            );
        }
    }

    #[test]
    fn percent_encoding_is_undone_within_a_segment_only() {
        let encoded = digest().to_string().replace(':', "%3A");
        assert_eq!(
            parse(&format!("team/%61pi/blobs/{encoded}")),
            Resource::Blob { repository: name("team/api"), digest: digest() }
        );
        for path in ["team%2Fapi/tags/list", "a/%2e%2e%2fb/tags/list"] {
            assert!(matches!(Resource::parse(path), Err(PathError::Name(NameError::EncodedSlash))), "{path}");
        }
        for path in [
            "a%00/tags/list",
            "a/../b/tags/list",
            "a/%2e%2e/tags/list",
            "%ff/tags/list",
            "a%/tags/list",
            "a%zz/tags/list",
        ] {
            assert!(matches!(Resource::parse(path), Err(PathError::Name(_))), "{path}");
        }
        assert!(matches!(Resource::parse("a/manifests/x%2fy"), Err(PathError::Tag(_))));
        assert!(matches!(Resource::parse("a/manifests/%ff"), Err(PathError::Tag(_))));
        assert!(matches!(Resource::parse("a/tags%2flist"), Err(PathError::Unknown)));
        // Decoded once and not again.
        assert!(matches!(Resource::parse("a%2561/tags/list"), Err(PathError::Name(_))));
    }

    #[test]
    fn empty_segments_are_refused() {
        for path in [
            "/tags/list",
            "/a/tags/list",
            "a//b/tags/list",
            "a//tags/list",
            "a//blobs/uploads/",
            "//blobs/uploads",
        ] {
            assert!(matches!(Resource::parse(path), Err(PathError::Name(_))), "{path}");
        }
        for path in ["tags/list", "manifests/latest", "blobs/uploads", "blobs/uploads/"] {
            assert!(matches!(Resource::parse(path), Err(PathError::Name(NameError::Empty))), "{path}");
        }
        for path in [
            "/",
            "//",
            "///",
            "_catalog/",
            "/_catalog",
            "a/tags/list/",
            "a/blobs/uploads//",
            "a/",
            "uploads/",
        ] {
            assert!(matches!(Resource::parse(path), Err(PathError::Unknown)), "{path}");
        }
        assert!(matches!(Resource::parse("a/manifests/"), Err(PathError::Tag(TagError::Empty))));
        assert!(matches!(Resource::parse("a/blobs/"), Err(PathError::Digest(_))));
    }

    #[test]
    fn other_paths_are_unknown() {
        for path in [
            "a",
            "a/b",
            "a/b/c",
            "a/tags/lists",
            "_oci/ext/discover",
            "_catalog/x",
            "a/uploads/x",
            "uploads",
            "a/Blobs/uploads",
        ] {
            assert!(matches!(Resource::parse(path), Err(PathError::Unknown)), "{path}");
        }
    }

    #[test]
    fn an_upload_id_has_32_lower_case_hexadecimal_characters() {
        for id in ["x", "..", &ID[1..], &ID.to_uppercase(), &format!("{ID}0"), "%00", &"é".repeat(16)] {
            let path = format!("a/blobs/uploads/{id}");
            assert!(matches!(Resource::parse(&path), Err(PathError::UploadUnknown)), "{path}");
        }
    }

    #[test]
    fn the_first_thing_wrong_is_reported() {
        assert!(matches!(
            Resource::parse("A/manifests/sha256:bad"),
            Err(PathError::Name(NameError::Character { character: 'A' }))
        ));
        assert!(matches!(Resource::parse("a/manifests/sha256:bad"), Err(PathError::Digest(_))));
        assert!(matches!(Resource::parse("a/blobs/sha256:bad"), Err(PathError::Digest(_))));
        assert!(matches!(Resource::parse("a/referrers/latest"), Err(PathError::Digest(_))));
        assert!(matches!(Resource::parse("a/manifests/.x"), Err(PathError::Tag(_))));
        let long = "a".repeat(100_000);
        assert!(matches!(
            Resource::parse(&format!("{long}/tags/list")),
            Err(PathError::Name(NameError::TooLong { .. }))
        ));
    }

    proptest! {
        #[test]
        fn no_path_makes_the_parser_panic(path in ".{0,120}") {
            let _ = Resource::parse(&path);
        }

        #[test]
        fn paths_made_of_the_apis_words_have_at_most_one_meaning(
            words in prop::collection::vec(
                prop::sample::select(vec!["a", "blobs", "uploads", "manifests", "tags", "list", "referrers", "", "_catalog", ID]),
                0..7,
            ),
        ) {
            let path = words.join("/");
            if let Ok(resource) = Resource::parse(&path) {
                let written = match &resource {
                    Resource::Base => String::new(),
                    Resource::Catalog => "_catalog".to_owned(),
                    Resource::Blob { repository, digest } => format!("{repository}/blobs/{digest}"),
                    Resource::Uploads { repository } => format!("{repository}/blobs/uploads"),
                    Resource::Upload { repository, id } => format!("{repository}/blobs/uploads/{id}"),
                    Resource::Manifest { repository, reference } => format!("{repository}/manifests/{reference}"),
                    Resource::Tags { repository } => format!("{repository}/tags/list"),
                    Resource::Referrers { repository, digest } => format!("{repository}/referrers/{digest}"),
                };
                prop_assert_eq!(path.trim_end_matches('/'), written);
            }
        }
    }
}
