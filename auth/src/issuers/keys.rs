//! The keys of one issuer: fetched at first use, and again before they are old.
//!
//! A token that names an unknown key makes us look again, once for all who wait, because keys rotate. Since
//! anyone can make up such tokens, fruitless looks are rationed; a look that finds the key is free, so that an
//! issuer may rotate as often as it likes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use serde::Deserialize;
use tracing::{debug, warn};
use url::Url;

use super::fetch::{self, Caller};
use super::jwks::{KeySet, Verdict};
use super::settings::{Algorithm, Calls, KeySource, KeysFrom, callable};
use super::token::Token;

const SECOND: i64 = 1000;
/// From this age on keys are fetched anew, while the old ones are used. Twice as old, a request waits for
/// the new ones, so that a key its issuer has withdrawn is soon no good here.
const FRESH: i64 = 300 * SECOND;
/// The same for a file, which costs nothing to read.
const FRESH_FILE: i64 = 5 * SECOND;
/// How long keys are good while their issuer cannot be asked.
const LAST_GOOD: i64 = 24 * 3600 * SECOND;
/// How long nobody tries again after a failure.
const PAUSE: i64 = 3 * SECOND;
/// How many fruitless looks there may be at once, and how long it takes until there may be another.
const LOOKS: u32 = 3;
const LOOK_AGAIN: i64 = 10 * SECOND;

type Flight = Shared<BoxFuture<'static, Result<(), Arc<str>>>>;

pub(super) struct Keys {
    /// The issuer's name here.
    name: String,
    /// Its `iss`, which a discovery document must say too.
    issuer: String,
    source: KeySource,
    caller: Caller,
    calls: Calls,
    fresh: i64,
    state: Mutex<State>,
}

struct State {
    set: Option<(Arc<KeySet>, i64)>,
    /// When the last try failed, if it did, and why.
    failure: Option<(i64, Arc<str>)>,
    flight: Option<Flight>,
    looks: Looks,
}

/// What is left of the ration of looks.
struct Looks {
    left: u32,
    since: i64,
}

impl Looks {
    fn take(&mut self, now: i64) -> bool {
        // A clock that was put back must not stop the refill.
        self.since = self.since.min(now);
        let more = (now - self.since) / LOOK_AGAIN;
        if self.left >= LOOKS {
            self.since = now;
        } else if more > 0 {
            self.left = LOOKS.min(self.left.saturating_add(u32::try_from(more).unwrap_or(LOOKS)));
            self.since += more * LOOK_AGAIN;
        }
        let some = self.left > 0;
        self.left -= u32::from(some);
        some
    }

    fn give_back(&mut self) {
        self.left = LOOKS.min(self.left + 1);
    }
}

impl Keys {
    pub fn new(name: String, issuer: String, source: KeySource, calls: Calls) -> Arc<Self> {
        let caller = Caller::new(calls.clone(), source.ca_file.clone());
        let fresh = if matches!(source.from, KeysFrom::File(_)) { FRESH_FILE } else { FRESH };
        let looks = Looks { left: LOOKS, since: 0 };
        let state = Mutex::new(State { set: None, failure: None, flight: None, looks });
        Arc::new(Self { name, issuer, source, caller, calls, fresh, state })
    }

    /// The keys as far as they are good now, or why there are none.
    pub async fn current(self: &Arc<Self>, now: i64) -> Result<Arc<KeySet>, Arc<str>> {
        let flight = {
            let mut state = self.state();
            let paused = state.failure.as_ref().is_some_and(|(at, _)| (now - at).abs() < PAUSE);
            let age = state.set.as_ref().map(|(_, at)| now - at);
            match age {
                Some(age) if age < self.fresh => return state.good(now),
                // Whoever waits for an issuer that is down waits for nothing.
                Some(age) if age < 2 * self.fresh || (state.failure.is_some() && age < LAST_GOOD) => {
                    if !paused {
                        // It goes on by itself.
                        drop(self.start(&mut state, now));
                    }
                    return state.good(now);
                }
                _ if paused => return state.good(now),
                _ => self.start(&mut state, now),
            }
        };
        // What came of it is in the state.
        let _ = flight.await;
        self.state().good(now)
    }

    /// Looks whether the issuer has a key by now that signed this token, unless there were too many
    /// fruitless looks lately. Answers what the newest keys say of it.
    pub async fn look_again(
        self: &Arc<Self>,
        token: &Token<'_>,
        algorithm: Algorithm,
        now: i64,
    ) -> Result<Verdict, Arc<str>> {
        loop {
            let (flight, own) = {
                let mut state = self.state();
                if let Some(flight) = state.flight.clone() {
                    (flight, false)
                } else {
                    // Others may have looked since this token was tried.
                    let known = state.good(now).map(|set| set.verify(token, algorithm));
                    if let Ok(Verdict::Signed) = known {
                        return known;
                    }
                    if let Some((at, reason)) = &state.failure
                        && (now - at).abs() < PAUSE
                    {
                        return settled(token, known).ok_or_else(|| reason.clone());
                    }
                    if !state.looks.take(now) {
                        debug!(
                            issuer = self.name,
                            "a token names an unknown key; too many did to look again"
                        );
                        return known;
                    }
                    (self.start(&mut state, now), true)
                }
            };
            let landed = flight.await;
            let verdict = self.state().good(now).map(|set| set.verify(token, algorithm));
            match verdict {
                Ok(Verdict::Signed) => {
                    if own {
                        self.state().looks.give_back();
                    }
                    return verdict;
                }
                // A flight of others may have left before the key was there.
                _ if !own => {}
                verdict => {
                    return landed
                        .and_then(|()| verdict.clone())
                        .or_else(|reason| settled(token, verdict).ok_or(reason));
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches the keys in a task of its own: if whoever asked hangs up, the others still get them.
    fn start(self: &Arc<Self>, state: &mut State, now: i64) -> Flight {
        if let Some(flight) = &state.flight {
            return flight.clone();
        }
        let keys = Arc::clone(self);
        let task = self.calls.tasks.spawn(async move {
            let fetched = keys.fetch().await;
            keys.land(fetched, now)
        });
        let outcome = async { task.await.unwrap_or_else(|_| Err("it was broken off".into())) };
        let flight = outcome.boxed().shared();
        state.flight = Some(flight.clone());
        flight
    }

    fn land(&self, fetched: Result<KeySet, String>, now: i64) -> Result<(), Arc<str>> {
        let mut state = self.state();
        state.flight = None;
        match fetched {
            Ok(set) => {
                if state.failure.take().is_some() {
                    debug!(issuer = self.name, "the keys of {} can be read again", self.name);
                }
                state.set = Some((Arc::new(set), now));
                Ok(())
            }
            Err(reason) => {
                let reason: Arc<str> = reason.into();
                warn!(issuer = self.name, %reason, "cannot read the keys of {}", self.name);
                state.failure = Some((now, reason.clone()));
                Err(reason)
            }
        }
    }

    async fn fetch(&self) -> Result<KeySet, String> {
        let url = match &self.source.from {
            KeysFrom::File(path) => {
                let text = fetch::read(path).await?;
                return KeySet::parse(&text).map_err(|reason| format!("{}: {reason}", path.display()));
            }
            KeysFrom::Url(url) | KeysFrom::Discovery(Some(url)) => url.clone(),
            KeysFrom::Discovery(None) => {
                let url = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
                Url::parse(&url).map_err(|_| format!("{url} is no URL"))?
            }
        };
        let bearer = match &self.source.bearer_token_file {
            Some(path) => Some(fetch::bearer(path).await?),
            None => None,
        };
        let document = self.caller.get(&url, bearer.as_deref()).await?;
        if matches!(self.source.from, KeysFrom::Url(_)) {
            return KeySet::parse(&document).map_err(|reason| format!("{url}: {reason}"));
        }
        let keys_url = self.discovered(&url, &document)?;
        let bearer = bearer.filter(|_| keys_url.origin() == url.origin());
        let document = self.caller.get(&keys_url, bearer.as_deref()).await?;
        KeySet::parse(&document).map_err(|reason| format!("{keys_url}: {reason}"))
    }

    /// Where the keys are, by a discovery document (`OpenID` Connect Discovery 1.0, 4.3).
    fn discovered(&self, url: &Url, document: &[u8]) -> Result<Url, String> {
        #[derive(Deserialize)]
        struct Discovery {
            issuer: String,
            jwks_uri: String,
        }
        let found: Discovery =
            serde_json::from_slice(document).map_err(|_| format!("{url} is no discovery document"))?;
        if found.issuer != self.issuer {
            let (theirs, ours) = (super::error::shown(&found.issuer), &self.issuer);
            return Err(format!("{url} is the document of issuer \"{theirs}\", not of \"{ours}\""));
        }
        let keys_url = Url::parse(&found.jwks_uri).map_err(|_| format!("{url} has no usable jwks_uri"))?;
        callable(&keys_url, self.source.allow_http)
            .map_err(|reason| format!("the jwks_uri of {url} cannot be used: {reason}"))?;
        Ok(keys_url)
    }
}

/// What is known for sure even while the issuer cannot be asked: the key that a token names did not sign it.
fn settled(token: &Token<'_>, known: Result<Verdict, Arc<str>>) -> Option<Verdict> {
    known.ok().filter(|verdict| *verdict == Verdict::Forged && token.key_id.is_some())
}

impl State {
    fn good(&self, now: i64) -> Result<Arc<KeySet>, Arc<str>> {
        let failure = || self.failure.as_ref().map(|(_, reason)| reason.clone());
        match &self.set {
            Some((set, at)) if now - at < LAST_GOOD => Ok(Arc::clone(set)),
            _ => Err(failure().unwrap_or_else(|| "its keys are not here yet".into())),
        }
    }
}
