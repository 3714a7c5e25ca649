//! A JWT taken apart: what it says, before anybody knows whether it is true.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::error::{LAST_MOMENT, Refused, moment, shown};
use super::json;

/// Longer tokens are not looked at.
const TOKEN_LIMIT: usize = 16 * 1024;
/// How far the clocks may be apart, in milliseconds.
const LEEWAY: i64 = 60_000;

pub(super) struct Token<'a> {
    /// The `alg` of the header, which may be anything.
    pub algorithm: String,
    /// The `kid` of the header.
    pub key_id: Option<String>,
    pub claims: Claims,
    /// What is signed: header and payload as they came.
    pub message: &'a str,
    /// The signature as it came, base64url.
    pub signature: &'a str,
}

impl<'a> Token<'a> {
    /// Takes a token apart. Whatever key the header itself offers (`jwk`, `jku`, `x5c`, `x5u`) is not even
    /// read: keys come from the issuer alone.
    pub fn parse(text: &'a str) -> Result<Self, Refused> {
        if text.len() > TOKEN_LIMIT {
            return Err(malformed(format!("it is longer than {TOKEN_LIMIT} bytes")));
        }
        let mut parts = text.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed("a JWT is three texts with a '.' between them"));
        };
        let header_object = object("header", header)?;
        // RFC 7515, 4.1.11: what is critical must be understood, and no extension is here.
        if header_object.contains_key("crit") {
            return Err(malformed("its header names critical extensions, of which none is known here"));
        }
        let Some(Value::String(algorithm)) = header_object.get("alg") else {
            return Err(malformed("its header does not say the algorithm"));
        };
        let key_id = match header_object.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err(malformed("the key id in its header is no text")),
        };
        let claims = Claims(object("payload", payload)?);
        let message = &text[..header.len() + 1 + payload.len()];
        Ok(Self { algorithm: algorithm.clone(), key_id, claims, message, signature })
    }
}

fn malformed(reason: impl Into<String>) -> Refused {
    Refused::Malformed(reason.into())
}

fn object(part: &str, text: &str) -> Result<Map<String, Value>, Refused> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text);
    let bytes = bytes.map_err(|_| malformed(format!("its {part} is no base64url")))?;
    json::object(&bytes).map_err(|reason| malformed(format!("its {part}: {reason}")))
}

/// What a token says.
pub(super) struct Claims(Map<String, Value>);

impl Claims {
    pub fn issuer(&self) -> Result<&str, Refused> {
        match self.0.get("iss") {
            Some(Value::String(issuer)) => Ok(issuer),
            _ => Err(malformed("it does not say its issuer (iss)")),
        }
    }

    /// Whom it is for: a text or a list of texts (RFC 7519, 4.1.3).
    pub fn audiences(&self) -> Result<Vec<&str>, Refused> {
        let wrong = || malformed("its audience (aud) is neither a text nor a list of texts");
        match self.0.get("aud") {
            Some(Value::String(audience)) => Ok(vec![audience]),
            Some(Value::Array(list)) => {
                list.iter().map(|audience| audience.as_str().ok_or_else(wrong)).collect()
            }
            Some(_) => Err(wrong()),
            None => Ok(Vec::new()),
        }
    }

    /// When it ends, in milliseconds, if it is to be used now.
    pub fn expiry(&self, now: i64) -> Result<i64, Refused> {
        let Some(expires_at) = self.time("exp")? else {
            return Err(malformed("it never expires (no exp)"));
        };
        if now >= expires_at.saturating_add(LEEWAY) {
            return Err(Refused::Expired { expired: moment(expires_at), now: moment(now) });
        }
        for claim in ["nbf", "iat"] {
            if let Some(from) = self.time(claim)?
                && from > now.saturating_add(LEEWAY)
            {
                return Err(Refused::NotYet { claim, from: moment(from), now: moment(now) });
            }
        }
        Ok(expires_at)
    }

    /// A `NumericDate` (RFC 7519, 2): seconds, which may have a fraction.
    fn time(&self, claim: &'static str) -> Result<Option<i64>, Refused> {
        let Some(value) = self.0.get(claim) else { return Ok(None) };
        let millis = match value {
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(seconds), _) => seconds.checked_mul(1000),
                #[expect(clippy::cast_possible_truncation, reason = "saturates, and is compared below")]
                (None, Some(seconds)) => Some((seconds * 1000.0) as i64),
                (None, None) => None,
            },
            _ => None,
        };
        let last = i64::try_from(LAST_MOMENT).unwrap_or(i64::MAX);
        let sound = millis.filter(|millis| (0..=last).contains(millis));
        sound.map(Some).ok_or_else(|| malformed(format!("its {claim} is no time")))
    }

    /// The value at a path: `project_path`, `kubernetes.io.pod.name`. A name with dots in it is taken whole
    /// where there is one.
    pub fn at(&self, path: &str) -> Option<&Value> {
        find(&self.0, path)
    }

    /// The text at a path; numbers and truth values are as they are written.
    pub fn text(&self, path: &str) -> Option<String> {
        text(self.at(path)?)
    }
}

fn find<'a>(object: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = object.get(path) {
        return Some(value);
    }
    path.rmatch_indices('.').find_map(|(dot, _)| match object.get(&path[..dot])? {
        Value::Object(inner) => find(inner, &path[dot + 1..]),
        _ => None,
    })
}

/// A plain value as text.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Longer names and attributes are none.
const TEXT_LIMIT: usize = 1024;

/// Why a text cannot be a name or an attribute, which are shown in logs and matched against patterns: one
/// line of characters one can see. What stands in it otherwise, `*` and `..` too, is taken as it is.
pub(crate) fn unfit(text: &str) -> Option<&'static str> {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    if text.is_empty() {
        Some("it is empty")
    } else if text.len() > TEXT_LIMIT {
        Some("it is too long")
    } else if text.chars().any(hidden) {
        Some("it has characters in it that cannot be seen")
    } else if text.trim() != text {
        Some("it begins or ends with a space")
    } else {
        None
    }
}

/// What may be shown of a list of texts.
pub(super) fn listed<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let list: Vec<_> = texts.into_iter().take(8).map(|text| format!("\"{}\"", shown(text))).collect();
    if list.is_empty() { "(none)".into() } else { list.join(" or ") }
}
