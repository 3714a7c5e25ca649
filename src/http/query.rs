//! The query of a request, parameters repeated or not.

use super::error::HttpError;

/// Decoded parameters, in order.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: Option<&str>) -> Self {
        Self::of_form(query.unwrap_or_default().as_bytes())
    }

    /// The fields of a form are written as a query is.
    pub(super) fn of_form(form: &[u8]) -> Self {
        let pairs = form_urlencoded::parse(form);
        Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(each, _)| each == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(each, _)| each == name).map(|(_, value)| value.as_str())
    }

    /// `last`: the name a page begins after; empty for the first page.
    ///
    /// PostgreSQL has no text with a NUL in it. No name has one either, so names sort about what
    /// stands before it as they do about the whole.
    pub(super) fn last(&self) -> &str {
        self.get("last").and_then(|last| last.split('\0').next()).unwrap_or_default()
    }

    /// `n`: how many names a page has. Any whole number is taken, up to the limit.
    pub(super) fn page(&self, limit: usize) -> Result<usize, HttpError> {
        let Some(text) = self.get("n") else { return Ok(limit) };
        if text.is_empty() || !text.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(HttpError::PageNumber(text.chars().take(40).collect()));
        }
        // A number too large to hold is larger than the limit.
        Ok(text.parse().unwrap_or(limit).min(limit))
    }
}

/// The link to the page after `last`.
pub(super) fn next_link(path: &str, parameters: &[(&str, &str)]) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
    format!("<{path}?{query}>; rel=\"next\"")
}
