//! Patterns of names: texts cut at their slashes, with `*` and `**`.
//!
//! A pattern is read once into parts and compared with a name part by part, so what takes the place of
//! a `${attribute}` is compared as the text it is: there is no step in which it could become a pattern.

use std::collections::BTreeMap;
use std::fmt;

/// The longest pattern, in bytes.
const MAX_BYTES: usize = 512;

/// The attributes of whoever asks.
pub(super) type Attributes = BTreeMap<String, String>;

/// A pattern, ready to compare.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    text: Box<str>,
    parts: Vec<Part>,
    is_plain: bool,
}

/// What stands between two slashes.
#[derive(Debug, Clone)]
enum Part {
    /// `**`: any number of parts; at least one at the end of the pattern.
    Deep,
    /// `${attribute}` alone: one part or several, as the value has.
    Attribute(Box<str>),
    /// The text itself, most of the time.
    Text(Box<str>),
    /// `*` alone: anything but nothing.
    Any,
    /// One part made of pieces.
    Mixed(Vec<Piece>),
}

#[derive(Debug, Clone)]
enum Piece {
    Text(Box<str>),
    /// `*`: any run of characters, even none.
    Star,
    /// `${attribute}`, of one part.
    Attribute(Box<str>),
}

/// What is left of a name.
#[derive(Debug, Clone, Copy)]
enum Left<'a> {
    /// Its last part was taken.
    Nothing,
    /// These parts; even none is one, and empty.
    Parts(&'a str),
}

/// What makes an attribute unfit for a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unfit {
    Missing(String),
    /// Its value is no path of a repository.
    NoPath(String, String),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(name) => write!(f, "there is no attribute {name}"),
            Self::NoPath(name, value) => {
                write!(f, "the attribute {name} is {value:?}, which cannot be a part of a repository's name")
            }
        }
    }
}

impl Pattern {
    /// Reads a pattern of repositories, which may hold `${attribute}`.
    pub(super) fn of_repositories(text: &str) -> Result<Self, String> {
        let pattern = Self::read(text, true)?;
        for part in text.split('/') {
            if part.is_empty() {
                return Err(format!("{text:?} has an empty part, which no repository's name has"));
            }
        }
        let plain = pattern.parts.iter().flat_map(|part| match part {
            Part::Text(text) => vec![text],
            Part::Mixed(pieces) => {
                let texts = pieces.iter();
                texts
                    .filter_map(|piece| if let Piece::Text(text) = piece { Some(text) } else { None })
                    .collect()
            }
            Part::Deep | Part::Attribute(_) | Part::Any => Vec::new(),
        });
        for plain in plain {
            if let Some(other) = plain.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-'))
            {
                return Err(format!(
                    "{text:?} has {other:?}, which no repository's name has; a pattern has a-z, 0-9, . _ - /, \
                     * within a part, ** for whole parts, and ${{attribute}}"
                ));
            }
        }
        Ok(pattern)
    }

    /// Reads a pattern of the names of identities or groups, where only `*` is special.
    pub(super) fn of_names(text: &str) -> Result<Self, String> {
        if text.contains("${") {
            return Err(format!("{text:?}: ${{attribute}} is for repositories"));
        }
        Self::read(text, false)
    }

    fn read(text: &str, attributes: bool) -> Result<Self, String> {
        if text.is_empty() || text.len() > MAX_BYTES {
            return Err(format!("a pattern has 1 to {MAX_BYTES} bytes"));
        }
        let parts = text.split('/').map(|part| Part::read(part, attributes));
        let parts: Vec<Part> = parts.collect::<Result<_, _>>().map_err(|why| format!("{text:?}: {why}"))?;
        let is_plain = parts.iter().all(|part| matches!(part, Part::Text(_)));
        Ok(Self { text: text.into(), parts, is_plain })
    }

    /// As it was written.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The one name it is, if nothing in it is special.
    pub(super) fn plain(&self) -> Option<&str> {
        self.is_plain.then_some(&self.text)
    }

    /// Whether a name fits.
    pub(super) fn fits(&self, name: &str, attributes: &Attributes) -> bool {
        let mut left = Left::Parts(name);
        let mut at = 0;
        // Where to go on when parts do not fit: behind the last `**`, which takes one part more. An
        // earlier one never has to: what stands between them fitted as far to the left as it can.
        let mut again: Option<(usize, &str)> = None;
        loop {
            match (self.parts.get(at), left) {
                (None, Left::Nothing) => return true,
                (Some(Part::Deep), Left::Parts(rest)) if at + 1 == self.parts.len() => {
                    return !rest.is_empty();
                }
                (Some(Part::Deep), Left::Parts(rest)) => {
                    at += 1;
                    again = Some((at, rest));
                    continue;
                }
                (Some(part), Left::Parts(rest)) => {
                    if let Some(next) = part.take(rest, attributes) {
                        left = next;
                        at += 1;
                        continue;
                    }
                }
                (None, Left::Parts(_)) | (Some(_), Left::Nothing) => {}
            }
            let Some((behind, (_, shorter))) = again.and_then(|(at, rest)| Some((at, rest.split_once('/')?)))
            else {
                return false;
            };
            (at, left, again) = (behind, Left::Parts(shorter), Some((behind, shorter)));
        }
    }

    /// The names of the attributes in it.
    pub(super) fn attributes(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().flat_map(|part| match part {
            Part::Attribute(name) => vec![&**name],
            Part::Mixed(pieces) => pieces.iter().filter_map(Piece::attribute).collect(),
            Part::Deep | Part::Text(_) | Part::Any => Vec::new(),
        })
    }

    /// The pattern with the attributes' values in their places, for people to read.
    pub(super) fn expanded(&self, attributes: &Attributes) -> Result<String, Unfit> {
        let mut parts = Vec::new();
        for part in &self.parts {
            parts.push(match part {
                Part::Deep => "**".to_owned(),
                Part::Any => "*".to_owned(),
                Part::Text(text) => text.to_string(),
                Part::Attribute(name) => value(name, attributes, is_path)?.to_owned(),
                Part::Mixed(pieces) => {
                    let mut whole = String::new();
                    for piece in pieces {
                        whole.push_str(match piece {
                            Piece::Text(text) => text,
                            Piece::Star => "*",
                            Piece::Attribute(name) => value(name, attributes, is_component)?,
                        });
                    }
                    whole
                }
            });
        }
        Ok(parts.join("/"))
    }
}

impl Part {
    fn read(text: &str, attributes: bool) -> Result<Self, String> {
        match text {
            "**" => return Ok(Self::Deep),
            "*" => return Ok(Self::Any),
            _ if text.contains("**") => return Err("** stands for whole parts, alone between slashes".into()),
            _ => {}
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let special =
                |at: &usize| rest[*at..].starts_with('*') || (attributes && rest[*at..].starts_with("${"));
            let plain = rest.char_indices().map(|(at, _)| at).find(special).unwrap_or(rest.len());
            if plain > 0 {
                pieces.push(Piece::Text(rest[..plain].into()));
                rest = &rest[plain..];
            } else if let Some(after) = rest.strip_prefix('*') {
                pieces.push(Piece::Star);
                rest = after;
            } else {
                let closed = rest.strip_prefix("${").and_then(|rest| rest.split_once('}'));
                let (name, after) = closed.ok_or("${ is never closed")?;
                if name.is_empty()
                    || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
                {
                    return Err(format!("{name:?} is no name of an attribute"));
                }
                pieces.push(Piece::Attribute(name.into()));
                rest = after;
            }
        }
        Ok(match pieces.as_slice() {
            [] => Self::Text("".into()),
            [Piece::Text(_)] => Self::Text(text.into()),
            [Piece::Attribute(name)] => Self::Attribute(name.clone()),
            _ => Self::Mixed(pieces),
        })
    }

    /// Takes what fits off the front of a name: what is left of it then.
    fn take<'a>(&self, name: &'a str, attributes: &Attributes) -> Option<Left<'a>> {
        let behind = |rest: &'a str| match rest.strip_prefix('/') {
            Some(left) => Some(Left::Parts(left)),
            None => rest.is_empty().then_some(Left::Nothing),
        };
        let next =
            || name.split_once('/').map_or((name, Left::Nothing), |(part, left)| (part, Left::Parts(left)));
        match self {
            Self::Deep => None,
            Self::Text(text) => behind(name.strip_prefix(&**text)?),
            Self::Attribute(attribute) => {
                behind(name.strip_prefix(value(attribute, attributes, is_path).ok()?)?)
            }
            Self::Any => {
                let (part, left) = next();
                (!part.is_empty()).then_some(left)
            }
            Self::Mixed(pieces) => {
                let (part, left) = next();
                fit(pieces, part, attributes).then_some(left)
            }
        }
    }
}

impl Piece {
    fn attribute(&self) -> Option<&str> {
        if let Self::Attribute(name) = self { Some(name) } else { None }
    }
}

/// Whether pieces make up one part. The last star is the only one that ever has to take more.
fn fit(pieces: &[Piece], part: &str, attributes: &Attributes) -> bool {
    let (mut at, mut left) = (0, part);
    let mut again: Option<(usize, &str)> = None;
    loop {
        let text = match pieces.get(at) {
            None if left.is_empty() => return true,
            None => None,
            Some(Piece::Star) => {
                at += 1;
                again = Some((at, left));
                continue;
            }
            Some(Piece::Text(text)) => Some(&**text),
            Some(Piece::Attribute(name)) => match value(name, attributes, is_component) {
                Ok(value) => Some(value),
                Err(_) => return false,
            },
        };
        if let Some(rest) = text.and_then(|text| left.strip_prefix(text)) {
            left = rest;
            at += 1;
            continue;
        }
        let Some((behind, rest)) = again else { return false };
        let mut shorter = rest.chars();
        if shorter.next().is_none() {
            return false;
        }
        (at, left, again) = (behind, shorter.as_str(), Some((behind, shorter.as_str())));
    }
}

fn value<'a>(name: &str, attributes: &'a Attributes, is_fit: fn(&str) -> bool) -> Result<&'a str, Unfit> {
    match attributes.get(name) {
        None => Err(Unfit::Missing(name.to_owned())),
        Some(value) if is_fit(value) => Ok(value),
        Some(value) => Err(Unfit::NoPath(name.to_owned(), value.clone())),
    }
}

/// Whether a text can be the name of a repository, or the first parts of one.
fn is_path(text: &str) -> bool {
    text.split('/').all(is_component)
}

/// The distribution spec's `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
pub(super) fn is_component(text: &str) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().is_some_and(is_word) || !bytes.last().is_some_and(is_word) {
        return false;
    }
    bytes.split(is_word).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-')
    })
}

/// What the lints want to know.
impl Pattern {
    /// Whether it fits all that another fits. No where there is doubt.
    pub(super) fn covers(&self, other: &Self) -> bool {
        covers(&self.parts, &other.parts)
    }

    /// Whether a name of so many parts can fit.
    pub(super) fn may_have(&self, parts: usize) -> bool {
        let deep = self.parts.iter().filter(|part| matches!(part, Part::Deep)).count();
        if deep == 0 { self.parts.len() == parts } else { self.parts.len() - deep <= parts }
    }

    /// A part that no repository's name has.
    pub(super) fn impossible(&self) -> Option<&str> {
        self.parts.iter().find_map(|part| match part {
            Part::Text(text) if !is_component(text) => Some(&**text),
            _ => None,
        })
    }
}

fn covers(all: &[Part], one: &[Part]) -> bool {
    match (all, one) {
        ([], []) | ([Part::Deep], [_, ..]) => true,
        ([Part::Deep, rest @ ..], _) if !rest.is_empty() => {
            (0..=one.len()).any(|skip| covers(rest, &one[skip..]))
        }
        ([first, all @ ..], [part, one @ ..]) => first.covers(part) && covers(all, one),
        _ => false,
    }
}

impl Part {
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, Self::Text(_) | Self::Any | Self::Mixed(_)) => true,
            (Self::Text(all), Self::Text(one)) | (Self::Attribute(all), Self::Attribute(one)) => all == one,
            (Self::Mixed(all), Self::Text(one)) => {
                all.iter().all(|piece| piece.attribute().is_none()) && fit(all, one, &Attributes::new())
            }
            _ => false,
        }
    }
}
