//! Repository names and tags.
//!
//! Both grammars are the distribution spec's, read by one linear scan each, so a name costs the
//! same to refuse as to accept. A name may be used as it is in a URL path, a log line and an SQL
//! parameter: it holds nothing but `a-z 0-9 . _ - /`, and a tag nothing but `A-Z a-z 0-9 . _ -`.

use std::fmt;
use std::str::FromStr;

use berth_storage::Digest;

/// The longest repository name, in bytes: what clients and other registries allow at least.
pub const NAME_MAX_BYTES: usize = 255;

/// The longest tag, in bytes, as the spec's grammar has it.
pub const TAG_MAX_BYTES: usize = 128;

/// The name of a repository: one or more parts joined by slashes, such as `team/api`.
///
/// Never starts with `_`, so the reserved prefixes `_catalog` and `_oci` cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName(String);

/// A tag: a name that moves from manifest to manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

/// Why a string is not a repository name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is no name.
    #[error("the repository name is empty; expected parts like team/api")]
    Empty,
    /// The name is longer than [`NAME_MAX_BYTES`].
    #[error("the repository name has {length_bytes} bytes; at most {NAME_MAX_BYTES} are allowed")]
    TooLong {
        /// The length of what was offered.
        length_bytes: usize,
    },
    /// A slash stands at the start, at the end or beside another slash.
    #[error("the repository name has an empty part; put no slash at its start or end and no two together")]
    EmptyPart,
    /// A slash was percent-encoded, so the URL's parts are not the name's.
    #[error("the repository name has a percent-encoded slash; write the slash itself")]
    EncodedSlash,
    /// A character that no repository name has.
    #[error(
        "the repository name has the character {character:?}; allowed are a-z, 0-9, and between them . _ __ - and /"
    )]
    Character {
        /// The first such character.
        character: char,
    },
    /// A separator stands at an end of a part, or beside another one.
    #[error(
        "a part of the repository name has a misplaced {separator:?}; a part starts and ends with a-z or 0-9 and has single . or _, double __ or any number of - in between"
    )]
    Separator {
        /// The separator found where a letter or a digit must stand.
        separator: char,
    },
}

/// Why a string is not a tag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// There is no tag.
    #[error("the tag is empty; expected a name like v1.2")]
    Empty,
    /// The tag is longer than [`TAG_MAX_BYTES`].
    #[error("the tag has {length_bytes} bytes; at most {TAG_MAX_BYTES} are allowed")]
    TooLong {
        /// The length of what was offered.
        length_bytes: usize,
    },
    /// A character that may not start a tag.
    #[error("the tag starts with {character:?}; a tag starts with A-Z, a-z, 0-9 or _")]
    Start {
        /// The first character.
        character: char,
    },
    /// A character that no tag has.
    #[error("the tag has the character {character:?}; allowed are A-Z, a-z, 0-9, _ . and -")]
    Character {
        /// The first such character.
        character: char,
    },
}

impl RepositoryName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Tag {
    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Makes the tag under which clients keep the referrers of `subject` in a registry that has
    /// no referrers API: the algorithm cut to 32 characters, a dash, the encoded part cut to 64.
    pub fn fallback_for(subject: &Digest) -> Self {
        let allowed = |character: char| match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '.' | '-' => character,
            _ => '-',
        };
        let mut tag = String::with_capacity(TAG_MAX_BYTES);
        tag.extend(subject.algorithm().as_str().chars().take(32).map(allowed));
        tag.push('-');
        tag.extend(subject.encoded().chars().take(64).map(allowed));
        Self(tag)
    }
}

/// Checks `name` against
/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`.
fn check_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_MAX_BYTES {
        return Err(NameError::TooLong { length_bytes: name.len() });
    }
    name.split('/').try_for_each(check_part)
}

/// Checks one part of a name, what stands between two slashes.
fn check_part(part: &str) -> Result<(), NameError> {
    // The separator being read and how often it stood in a row. A part starts as if after a
    // separator that nothing may follow but a letter or a digit.
    let mut run: Option<(char, usize)> = None;
    let mut started = false;
    for character in part.chars() {
        run = match character {
            'a'..='z' | '0'..='9' => {
                started = true;
                None
            }
            '.' | '_' | '-' => {
                let length = match run {
                    None if started => 1,
                    Some((before, length)) if before == character => length + 1,
                    _ => return Err(NameError::Separator { separator: character }),
                };
                let allowed = match character {
                    '.' => 1,
                    '_' => 2,
                    _ => usize::MAX,
                };
                if length > allowed {
                    return Err(NameError::Separator { separator: character });
                }
                Some((character, length))
            }
            _ => return Err(NameError::Character { character }),
        };
    }
    match run {
        Some((separator, _)) => Err(NameError::Separator { separator }),
        None if !started => Err(NameError::EmptyPart),
        None => Ok(()),
    }
}

/// Checks `tag` against `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
fn check_tag(tag: &str) -> Result<(), TagError> {
    let first = tag.chars().next().ok_or(TagError::Empty)?;
    if tag.len() > TAG_MAX_BYTES {
        return Err(TagError::TooLong { length_bytes: tag.len() });
    }
    if matches!(first, '.' | '-') {
        return Err(TagError::Start { character: first });
    }
    match tag
        .chars()
        .find(|character| !matches!(character, 'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '.' | '-'))
    {
        Some(character) => Err(TagError::Character { character }),
        None => Ok(()),
    }
}

impl TryFrom<String> for RepositoryName {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        check_name(&name)?;
        Ok(Self(name))
    }
}

impl FromStr for RepositoryName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        check_name(name)?;
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl AsRef<str> for RepositoryName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Tag {
    type Error = TagError;

    fn try_from(tag: String) -> Result<Self, TagError> {
        check_tag(&tag)?;
        Ok(Self(tag))
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(tag: &str) -> Result<Self, TagError> {
        check_tag(tag)?;
        Ok(Self(tag.to_owned()))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl AsRef<str> for Tag {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use berth_storage::Algorithm;
    use proptest::prelude::*;

    use super::*;

    const NAME_GRAMMAR: &str = r"[a-z0-9]{1,4}((\.|_|__|-{1,3})[a-z0-9]{1,4}){0,3}(/[a-z0-9]{1,4}((\.|_|__|-{1,3})[a-z0-9]{1,4}){0,3}){0,3}";

    /// The name grammar once more, by trying every split: slow, and free of the scanner's state.
    fn is_name(name: &str) -> bool {
        name.len() <= NAME_MAX_BYTES && name.split('/').all(is_part)
    }

    fn is_part(part: &str) -> bool {
        let boundaries = || (1..part.len()).filter(|&at| part.is_char_boundary(at));
        is_run(part)
            || boundaries().any(|end| {
                boundaries().filter(|&next| next > end).any(|next| {
                    is_run(&part[..end]) && is_separator(&part[end..next]) && is_part(&part[next..])
                })
            })
    }

    fn is_run(text: &str) -> bool {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    }

    fn is_separator(text: &str) -> bool {
        matches!(text, "." | "_" | "__") || text.bytes().all(|byte| byte == b'-')
    }

    #[test]
    fn names_of_the_grammar_are_accepted() {
        for name in [
            "a",
            "0",
            "nginx",
            "library/nginx",
            "a.b",
            "a_b",
            "a__b",
            "a-b",
            "a----b",
            "a.b_c__d--e",
            "team/blobs",
            "x/blobs/uploads",
            "x/manifests/y",
            "0/0/0",
        ] {
            assert_eq!(name.parse::<RepositoryName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn other_names_are_refused_with_the_reason() {
        let separator = |separator| NameError::Separator { separator };
        for (name, error) in [
            ("", NameError::Empty),
            ("/", NameError::EmptyPart),
            ("/a", NameError::EmptyPart),
            ("a/", NameError::EmptyPart),
            ("a//b", NameError::EmptyPart),
            ("_catalog", separator('_')),
            ("-a", separator('-')),
            ("a-", separator('-')),
            ("a/.b", separator('.')),
            ("a..b", separator('.')),
            ("a___b", separator('_')),
            ("a._b", separator('_')),
            ("a-_b", separator('_')),
            ("..", separator('.')),
            ("a/../b", separator('.')),
            ("A", NameError::Character { character: 'A' }),
            ("a b", NameError::Character { character: ' ' }),
            ("a\0", NameError::Character { character: '\0' }),
            ("ä", NameError::Character { character: 'ä' }),
            ("a:b", NameError::Character { character: ':' }),
            ("a%2fb", NameError::Character { character: '%' }),
        ] {
            assert_eq!(name.parse::<RepositoryName>().unwrap_err(), error, "{name:?}");
        }
    }

    #[test]
    fn a_name_has_at_most_255_bytes() {
        assert!("a".repeat(255).parse::<RepositoryName>().is_ok());
        assert_eq!("a".repeat(256).parse::<RepositoryName>(), Err(NameError::TooLong { length_bytes: 256 }));
    }

    #[test]
    fn tags_of_the_grammar_are_accepted() {
        for tag in ["latest", "v1.2-rc_1", "_", "_.-", "0", "A", &"x".repeat(128)] {
            assert_eq!(tag.parse::<Tag>().unwrap().as_str(), tag);
        }
    }

    #[test]
    fn other_tags_are_refused_with_the_reason() {
        for (tag, error) in [
            ("", TagError::Empty),
            (".", TagError::Start { character: '.' }),
            ("-a", TagError::Start { character: '-' }),
            ("a/b", TagError::Character { character: '/' }),
            ("a:b", TagError::Character { character: ':' }),
            ("a\n", TagError::Character { character: '\n' }),
            ("é", TagError::Character { character: 'é' }),
            (&"x".repeat(129), TagError::TooLong { length_bytes: 129 }),
        ] {
            assert_eq!(tag.parse::<Tag>().unwrap_err(), error, "{tag:?}");
        }
    }

    #[test]
    fn the_fallback_tag_of_a_long_digest_is_cut_to_64_characters() {
        let short = Digest::of(Algorithm::Sha256, b"x");
        assert_eq!(Tag::fallback_for(&short).as_str(), short.as_str().replace(':', "-"));
        let long = Digest::of(Algorithm::Sha512, b"x");
        assert_eq!(Tag::fallback_for(&long).as_str(), format!("sha512-{}", &long.encoded()[..64]));
        assert!(Tag::fallback_for(&long).as_str().parse::<Tag>().is_ok());
    }

    proptest! {
        #[test]
        fn every_name_of_the_grammar_parses(name in NAME_GRAMMAR) {
            let parsed: RepositoryName = name.parse().unwrap();
            prop_assert_eq!(parsed.to_string(), name);
        }

        #[test]
        fn the_scanner_agrees_with_the_grammar_spelt_out(name in "[a0./_-]{0,9}") {
            prop_assert_eq!(name.parse::<RepositoryName>().is_ok(), is_name(&name), "{:?}", name);
        }

        #[test]
        fn no_string_makes_the_parsers_panic(text in ".{0,300}") {
            if let Ok(name) = text.parse::<RepositoryName>() {
                prop_assert!(is_name(name.as_str()));
            }
            if let Ok(tag) = text.parse::<Tag>() {
                prop_assert_eq!(tag.as_str(), text);
            }
        }
    }
}
