//! Why a token is not believed, in words its holder can act on and with nothing secret in them.

use std::time::{Duration, UNIX_EPOCH};

/// Why a token is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is no JWT, or not a sound one.
    #[error("the token cannot be read: {0}")]
    Malformed(String),
    /// Nobody here trusts whoever it says it is from.
    #[error("no issuer {0:?} is trusted here")]
    UnknownIssuer(String),
    /// It is signed with an algorithm its issuer is not to use.
    #[error("tokens of {issuer} are signed with {allowed}, this one with {found:?}")]
    Algorithm {
        /// The issuer's name here.
        issuer: String,
        /// What is allowed.
        allowed: String,
        /// What it says.
        found: String,
    },
    /// The key it is signed with is none of the issuer's.
    #[error("the key {key:?} the token is signed with is none of {issuer}'s")]
    UnknownKey {
        /// The issuer's name here.
        issuer: String,
        /// The key id in its header; empty if there is none.
        key: String,
    },
    /// The signature is not the key's.
    #[error("the signature of the token is not {0}'s")]
    Signature(String),
    /// It was made for somebody else.
    #[error("the token is for the audience {found}; {issuer} must make it for {expected}")]
    Audience {
        /// The issuer's name here.
        issuer: String,
        /// Whom it must be for.
        expected: String,
        /// Whom it is for.
        found: String,
    },
    /// It is over.
    #[error("the token expired at {expired}, and it is {now} here")]
    Expired {
        /// When.
        expired: String,
        /// What the clock says here.
        now: String,
    },
    /// It is not yet to be used, or comes from the future.
    #[error("the token's {claim} is {from}, and it is {now} here: one of the two clocks is wrong")]
    NotYet {
        /// `nbf` or `iat`.
        claim: &'static str,
        /// From when.
        from: String,
        /// What the clock says here.
        now: String,
    },
    /// A claim that must be there is not, or cannot be used.
    #[error("the token of {issuer} has no claim {claim} that can be used: {reason}")]
    Claim {
        /// The issuer's name here.
        issuer: String,
        /// The claim.
        claim: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A claim is not what the configuration wants.
    #[error("{issuer} is trusted only where {claim} is {expected}; in this token it is {found}")]
    ClaimValue {
        /// The issuer's name here.
        issuer: String,
        /// The claim.
        claim: String,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The cluster does not know the token, any longer or at all.
    #[error("cluster {cluster} does not accept the token: {reason}")]
    Review {
        /// The cluster's name here.
        cluster: String,
        /// What it said.
        reason: String,
    },
    /// Nobody can say whether the token is good: its issuer cannot be asked. Not the token's fault.
    #[error("{issuer} cannot be asked about the token: {reason}")]
    Trouble {
        /// The issuer's name here.
        issuer: String,
        /// What is wrong.
        reason: String,
    },
}

impl Refused {
    /// Whether it may well be good, and only cannot be verified now: 503, not 401.
    pub fn is_trouble(&self) -> bool {
        matches!(self, Self::Trouble { .. })
    }
}

const SHOWN: usize = 120;

/// A text from outside, as it can stand in an answer or a log: one line, not too long.
pub(crate) fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        short.push('…');
    }
    short
}

/// A moment in words, `2026-11-26T22:31:00Z`.
pub(crate) fn moment(millis: i64) -> String {
    let since = Duration::from_millis(u64::try_from(millis).unwrap_or(0).min(LAST_MOMENT));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

/// The end of the year 9999, which is as far as times are written.
pub(super) const LAST_MOMENT: u64 = 253_402_300_799_000;
