//! People with a password here.
//!
//! A password is checked with argon2id, which is meant to be slow; so few are checked at a time, and
//! that one was right is remembered for a few minutes, by a keyed hash that means nothing outside this
//! process. What is remembered is of one hash of one user: when either changes, it is found no more.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash as Phc;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Argon2, Params};
use aws_lc_rs::hmac;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::Semaphore;

use crate::{Identity, Kind};

/// How long a right password is remembered.
const REMEMBERED: Duration = Duration::from_mins(4);
/// How many passwords are checked at once: each costs some 20 MiB and a core for some 20 ms.
const AT_ONCE: usize = 2;
/// How many checks may wait for their turn.
const WAITING: usize = 256;
/// The longest password, in bytes.
const MAX_PASSWORD_BYTES: usize = 1024;
/// How many wrong tries of a name cost nothing, from one address and from anywhere.
const FREE_TRIES: [u32; 2] = [5, 100];
/// How long one has to wait at most before the next try.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// After how long without a wrong try they are forgotten.
const FORGOTTEN: Duration = Duration::from_mins(15);
/// How much is remembered at most, of right passwords and of wrong tries each.
const MAX_REMEMBERED: usize = 10_000;
/// The most memory a hash may ask for, in KiB, and the most passes.
const MAX_COST: (u32, u32) = (256 * 1024, 16);

/// A person with a password here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The name to log in with. Rules know it as `user:NAME`.
    pub name: String,
    /// The argon2id hash of the password, as `berth user hash` prints it.
    pub password_hash: PasswordHash,
    /// The groups the user is in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// What rules may use of the user.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// The hash of a password, a PHC string. It is never shown: it can be guessed against.
#[derive(Clone, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub struct PasswordHash(String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for PasswordHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl<'de> Deserialize<'de> for PasswordHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

impl PasswordHash {
    /// What the hash costs to check, or what is wrong with it.
    fn params(&self) -> Result<Params, String> {
        let phc =
            Phc::new(&self.0).map_err(|_| "password_hash is no PHC string; `berth user hash` makes one")?;
        if phc.algorithm.as_str() != "argon2id" {
            return Err(format!("password_hash is of {}; it must be of argon2id", phc.algorithm));
        }
        let params = Params::try_from(&phc).map_err(|error| format!("password_hash: {error}"))?;
        if phc.hash.is_none() || phc.salt.is_none() {
            return Err("password_hash is not whole".into());
        }
        if params.m_cost() > MAX_COST.0 || params.t_cost() > MAX_COST.1 {
            return Err(format!("password_hash costs more than m={},t={}", MAX_COST.0, MAX_COST.1));
        }
        Ok(params)
    }
}

/// Why somebody is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such user, or the password is another: which of the two is not said.
    #[error("the user name or the password is wrong")]
    Wrong,
    /// There were too many wrong tries.
    #[error("too many wrong passwords for {name:?}; try again in {} s", wait.as_secs().max(1))]
    TooMany {
        /// For this name.
        name: String,
        /// How long to wait.
        wait: Duration,
    },
    /// Too many checks wait for their turn.
    #[error("too many passwords are being checked; try again soon")]
    Busy,
}

/// All people, by name.
#[derive(Debug, Default)]
pub struct Users {
    by_name: HashMap<String, User>,
    /// Who each is, by name.
    identities: HashMap<String, Identity>,
    /// A hash that costs what the users' cost and that no password has, for names nobody has.
    decoy: String,
}

impl Users {
    /// All of them, or which of them, the first being 0, has what wrong.
    pub(crate) fn new(list: Vec<User>) -> Result<Self, (usize, String)> {
        let mut users = HashMap::new();
        let mut dearest = Params::default();
        for (at, user) in list.into_iter().enumerate() {
            let name = user.name.clone();
            let wrong = |why: String| (at, format!("user {name:?}: {why}"));
            check_name(&name).map_err(wrong)?;
            let params = user.password_hash.params().map_err(wrong)?;
            let cost = |params: &Params| u64::from(params.m_cost()) * u64::from(params.t_cost());
            if users.is_empty() || cost(&params) > cost(&dearest) {
                dearest = params;
            }
            if users.insert(name.clone(), user).is_some() {
                return Err(wrong("another user has the same name".into()));
            }
        }
        let decoy = format!(
            "$argon2id$v=19$m={},t={},p={}$c29tZSBzYWx0IG9mIG91cnM${}",
            dearest.m_cost(),
            dearest.t_cost(),
            dearest.p_cost(),
            "A".repeat(43)
        );
        let identities = users.iter().map(|(name, user)| (name.clone(), identity(user))).collect();
        Ok(Self { by_name: users, identities, decoy })
    }

    /// The one of that name.
    pub fn find(&self, name: &str) -> Option<&User> {
        self.by_name.get(name)
    }

    /// Who the one of that name is.
    pub fn identity(&self, name: &str) -> Option<Identity> {
        self.identities.get(name).cloned()
    }

    /// Each of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &User> + Clone {
        self.by_name.values()
    }
}

impl User {
    /// Who it is.
    pub fn identity(&self) -> Identity {
        identity(self)
    }

    /// What changes when the password does, and says nothing of it.
    pub fn fingerprint(&self) -> String {
        hex::encode(
            &aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.password_hash.0.as_bytes()).as_ref()
                [..16],
        )
    }
}

/// Checks passwords, and remembers. One for the life of the process, whatever becomes of the users.
pub struct Passwords {
    key: hmac::Key,
    turns: Semaphore,
    waiting: Semaphore,
    /// Until when each right password is remembered, in unix milliseconds.
    right: Mutex<HashMap<[u8; 32], i64>>,
    wrong: Mutex<HashMap<(String, Option<IpAddr>), Tries>>,
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passwords")
    }
}

/// Wrong tries of one name.
#[derive(Debug, Default)]
struct Tries {
    count: u32,
    last: i64,
}

impl Passwords {
    /// Nothing is remembered yet; `key` is random and of this process alone.
    pub fn new(key: &[u8; 32]) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            turns: Semaphore::new(AT_ONCE),
            waiting: Semaphore::new(WAITING),
            right: Mutex::default(),
            wrong: Mutex::default(),
        }
    }

    /// Who has this name and password. `client` is the address they come from, `now` what the clock
    /// says, in unix milliseconds.
    pub async fn check(
        &self,
        users: &Users,
        name: &str,
        password: &str,
        client: Option<IpAddr>,
        now: impl Fn() -> i64,
    ) -> Result<Identity, Refused> {
        if password.len() > MAX_PASSWORD_BYTES || name.len() > MAX_PASSWORD_BYTES {
            return Err(Refused::Wrong);
        }
        let user = users.by_name.get(name);
        let verdict = user.map(|user| self.verdict(user, password));
        let known = || verdict.filter(|verdict| self.remembers(verdict, now())).and(user).map(identity);
        // Before the tries are counted: who is in stays in, whatever others try with their name.
        if let Some(identity) = known() {
            return Ok(identity);
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| Refused::Busy)?;
        let _turn = self.turns.acquire().await.map_err(|_| Refused::Busy)?;
        // Of ten requests that a client sends at once, one is checked.
        if let Some(identity) = known() {
            return Ok(identity);
        }
        let keys = [Some(client.map(network)), None];
        let keys = keys.map(|client| (name.to_owned(), client.flatten()));
        self.try_once(&keys, name, now())?;
        let hash = user.map_or(&users.decoy, |user| &user.password_hash.0).clone();
        let password = password.to_owned();
        let checked = tokio::task::spawn_blocking(move || is_right(&hash, &password)).await;
        match (user, verdict) {
            (Some(user), Some(verdict)) if checked.unwrap_or(false) => {
                self.remember(verdict, now());
                let mut wrong = lock(&self.wrong);
                for key in &keys {
                    wrong.remove(key);
                }
                Ok(identity(user))
            }
            _ => Err(Refused::Wrong),
        }
    }

    /// What is remembered of a right password: nothing of it can be had from that without the key.
    fn verdict(&self, user: &User, password: &str) -> [u8; 32] {
        let mut mac = hmac::Context::with_key(&self.key);
        for part in [user.name.as_str(), &user.password_hash.0, password] {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part.as_bytes());
        }
        let mut verdict = [0; 32];
        verdict.copy_from_slice(mac.sign().as_ref());
        verdict
    }

    fn remembers(&self, verdict: &[u8; 32], now: i64) -> bool {
        lock(&self.right).get(verdict).is_some_and(|until| now < *until)
    }

    fn remember(&self, verdict: [u8; 32], now: i64) {
        let mut right = lock(&self.right);
        if right.len() >= MAX_REMEMBERED {
            right.retain(|_, until| now < *until);
        }
        if right.len() < MAX_REMEMBERED {
            right.insert(verdict, now.saturating_add(millis(REMEMBERED)));
        }
    }

    /// Counts a try before it is made, so that many at once are no way around it.
    fn try_once(&self, keys: &[(String, Option<IpAddr>); 2], name: &str, now: i64) -> Result<(), Refused> {
        let mut wrong = lock(&self.wrong);
        if wrong.len() >= MAX_REMEMBERED {
            wrong.retain(|_, tries| now.saturating_sub(tries.last) < millis(FORGOTTEN));
        }
        if wrong.len() >= MAX_REMEMBERED {
            // Each of these cost a check, so that this takes many minutes to reach.
            wrong.clear();
        }
        for (key, free) in keys.iter().zip(FREE_TRIES) {
            let Some(tries) = wrong.get(key) else { continue };
            let since = now.saturating_sub(tries.last);
            if since >= millis(FORGOTTEN) {
                wrong.remove(key);
                continue;
            }
            let over = tries.count.saturating_sub(free);
            let wait = if tries.count < free { 0 } else { 1_i64 << over.min(16) } * 1_000;
            let wait = wait.min(millis(LONGEST_WAIT));
            if since < wait {
                let left = Duration::from_millis(u64::try_from(wait - since).unwrap_or_default());
                return Err(Refused::TooMany { name: name.to_owned(), wait: left });
            }
        }
        for key in keys {
            let tries = wrong.entry(key.clone()).or_default();
            tries.count = tries.count.saturating_add(1);
            tries.last = now;
        }
        Ok(())
    }
}

fn identity(user: &User) -> Identity {
    let mut identity = Identity::new(Kind::User, &user.name);
    identity.groups.clone_from(&user.groups);
    identity.attributes.clone_from(&user.attributes);
    identity
}

/// What counts as one address: one IPv6 host has 2^64 of them.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => std::net::Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}

fn is_right(hash: &str, password: &str) -> bool {
    Phc::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// Whether a user can be called that, or why not.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_of = |c: char| c.is_ascii_alphanumeric() || "._-+@".contains(c);
    if name.is_empty() || name.len() > 128 || !name.chars().all(is_of) {
        return Err("the name of a user has 1 to 128 characters of A-Z a-z 0-9 . _ - + @".into());
    }
    Ok(())
}

/// The argon2id hash of a password, a PHC string with a salt of its own.
pub fn hash(password: &str) -> Result<String, HashError> {
    if password.is_empty() || password.len() > MAX_PASSWORD_BYTES {
        return Err(HashError::Length);
    }
    let hash = Argon2::default().hash_password(password.as_bytes());
    Ok(hash.map_err(|error| HashError::Argon2(error.to_string()))?.to_string())
}

/// Why a password cannot be hashed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// It is empty or too long.
    #[error("a password has 1 to {MAX_PASSWORD_BYTES} bytes")]
    Length,
    /// The hash function failed.
    #[error("cannot hash the password: {0}")]
    Argon2(String),
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    /// A hash that costs next to nothing.
    fn cheap(password: &str) -> String {
        let params = Params::new(8, 1, 1, None).unwrap();
        let argon2 = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        argon2.hash_password(password.as_bytes()).unwrap().to_string()
    }

    fn user(name: &str, hash: String) -> User {
        User {
            name: name.into(),
            password_hash: PasswordHash(hash),
            groups: vec!["people".into()],
            attributes: BTreeMap::from([("team".into(), "a".into())]),
        }
    }

    struct Scene {
        users: Users,
        passwords: Passwords,
        now: AtomicI64,
    }

    impl Scene {
        fn of(password: &str) -> Self {
            let users = Users::new(vec![user("alice", cheap(password))]).unwrap();
            Self { users, passwords: Passwords::new(&[7; 32]), now: AtomicI64::new(1_000_000) }
        }

        async fn check(&self, name: &str, password: &str) -> Result<Identity, Refused> {
            self.check_from("10.0.0.1", name, password).await
        }

        async fn check_from(&self, client: &str, name: &str, password: &str) -> Result<Identity, Refused> {
            let now = || self.now.load(Ordering::Relaxed);
            self.passwords.check(&self.users, name, password, Some(client.parse().unwrap()), now).await
        }

        fn later(&self, span: Duration) {
            self.now.fetch_add(millis(span), Ordering::Relaxed);
        }

        fn remembered(&self) -> usize {
            let now = self.now.load(Ordering::Relaxed);
            lock(&self.passwords.right).values().filter(|until| now < **until).count()
        }
    }

    #[tokio::test]
    async fn the_right_password_gives_the_user_with_groups_and_attributes() {
        let scene = Scene::of("geheim");
        for _ in 0..2 {
            let alice = scene.check("alice", "geheim").await.unwrap();
            assert_eq!(alice.to_string(), "user:alice");
            assert_eq!((alice.groups[0].as_str(), alice.attributes["team"].as_str()), ("people", "a"));
        }
        for (name, password) in [("alice", "Geheim"), ("alice", ""), ("Alice", "geheim"), ("bob", "geheim")] {
            assert_eq!(scene.check(name, password).await, Err(Refused::Wrong), "{name} {password}");
        }
        assert_eq!(scene.remembered(), 1, "only what was right is remembered");
    }

    #[tokio::test]
    async fn a_right_password_is_remembered_for_less_than_five_minutes() {
        let scene = Scene::of("geheim");
        scene.check("alice", "geheim").await.unwrap();
        scene.later(REMEMBERED.saturating_sub(Duration::from_millis(1)));
        assert_eq!(scene.remembered(), 1);
        // Being used makes it no younger.
        scene.check("alice", "geheim").await.unwrap();
        scene.later(Duration::from_millis(1));
        assert_eq!(scene.remembered(), 0);
        scene.check("alice", "geheim").await.unwrap();
        assert_eq!(scene.remembered(), 1);
    }

    #[tokio::test]
    async fn a_new_hash_and_a_user_who_is_gone_are_obeyed_at_once() {
        let mut scene = Scene::of("geheim");
        scene.check("alice", "geheim").await.unwrap();
        scene.users = Users::new(vec![user("alice", cheap("neu"))]).unwrap();
        assert_eq!(scene.check("alice", "geheim").await, Err(Refused::Wrong));
        scene.check("alice", "neu").await.unwrap();
        scene.users = Users::default();
        assert_eq!(scene.check("alice", "neu").await, Err(Refused::Wrong));
    }

    #[tokio::test]
    async fn many_wrong_tries_have_to_wait_and_those_who_are_in_stay_in() {
        let scene = Scene::of("geheim");
        scene.check("alice", "geheim").await.unwrap();
        for name in ["alice", "nobody"] {
            for _ in 0..FREE_TRIES[0] {
                assert_eq!(scene.check(name, "wrong").await, Err(Refused::Wrong));
            }
            let wait = |refused| match refused {
                Err(Refused::TooMany { wait, .. }) => wait,
                other => panic!("{other:?}"),
            };
            assert_eq!(wait(scene.check(name, "wrong").await), Duration::from_secs(1));
            assert_eq!(wait(scene.check(name, "another").await), Duration::from_secs(1), "{name}");
            scene.later(Duration::from_secs(1));
            assert_eq!(scene.check(name, "wrong").await, Err(Refused::Wrong));
            assert_eq!(wait(scene.check(name, "wrong").await), Duration::from_secs(2), "longer each time");
            for _ in 0..20 {
                scene.later(LONGEST_WAIT);
                assert_eq!(scene.check(name, "wrong").await, Err(Refused::Wrong));
            }
            assert_eq!(wait(scene.check(name, "wrong").await), LONGEST_WAIT, "but no longer than that");
        }
        let scene = Scene::of("geheim");
        scene.check("alice", "geheim").await.unwrap();
        for _ in 0..FREE_TRIES[0] + 3 {
            let _ = scene.check("alice", "wrong").await;
        }
        assert!(scene.check("alice", "wrong").await.is_err());
        scene.check("alice", "geheim").await.expect("the password that is remembered");
        scene.passwords.right.lock().unwrap().clear();
        scene.check_from("10.0.0.2", "alice", "geheim").await.expect("from elsewhere");
    }

    #[tokio::test]
    async fn a_right_password_ends_the_waiting() {
        let scene = Scene::of("geheim");
        for _ in 0..FREE_TRIES[0] {
            let _ = scene.check("alice", "wrong").await;
        }
        scene.later(Duration::from_secs(1));
        scene.check("alice", "geheim").await.unwrap();
        for _ in 0..FREE_TRIES[0] {
            assert_eq!(scene.check("alice", "wrong").await, Err(Refused::Wrong));
        }
    }

    #[tokio::test]
    async fn tries_from_everywhere_are_counted_together() {
        let scene = Scene::of("geheim");
        for at in 0..FREE_TRIES[1] {
            let client = format!("10.1.0.{at}");
            assert_eq!(scene.check_from(&client, "alice", "wrong").await, Err(Refused::Wrong));
        }
        let refused = scene.check_from("10.2.0.1", "alice", "wrong").await;
        assert!(matches!(refused, Err(Refused::TooMany { .. })), "{refused:?}");
        // An IPv6 host does not become many by changing its last half.
        for at in 0..FREE_TRIES[0] {
            let _ = scene.check_from(&format!("fd00::{at:x}"), "bob", "wrong").await;
        }
        let refused = scene.check_from("fd00::ffff", "bob", "wrong").await;
        assert!(matches!(refused, Err(Refused::TooMany { .. })), "{refused:?}");
    }

    /// A request is handled on whichever thread is free.
    fn sent<F: Future + Send>(future: F) -> F {
        future
    }

    #[tokio::test]
    async fn what_one_client_sends_at_once_is_checked_once() {
        let scene = Scene::of("geheim");
        let checks = (0..50).map(|_| sent(scene.check("alice", "geheim")));
        for checked in futures_util::future::join_all(checks).await {
            checked.expect("none of them is one too many");
        }
    }

    #[test]
    fn a_name_nobody_has_costs_what_a_wrong_password_costs() {
        let params = Params::new(8 * 1024, 2, 1, None).unwrap();
        let argon2 = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let hash = argon2.hash_password(b"geheim").unwrap().to_string();
        let users = Users::new(vec![user("alice", hash)]).unwrap();
        let decoy = Phc::new(&users.decoy).unwrap();
        let params = Params::try_from(&decoy).unwrap();
        assert_eq!((params.m_cost(), params.t_cost(), params.p_cost()), (8 * 1024, 2, 1));
        // Not a hash that cannot be read, which would cost nothing: one that is computed and compared.
        let compared = Argon2::default().verify_password(b"wrong", &decoy);
        assert_eq!(compared, Err(argon2::password_hash::Error::PasswordInvalid));
    }

    #[test]
    fn a_hash_that_berth_makes_is_taken_and_others_are_told_why_not() {
        let made = hash("geheim").unwrap();
        assert!(is_right(&made, "geheim") && !is_right(&made, "gehein"));
        assert!(Users::new(vec![user("alice", made.clone())]).is_ok());
        assert_ne!(hash("geheim").unwrap(), made, "each has a salt of its own");
        assert_eq!(hash(""), Err(HashError::Length));
        let cases = [
            ("alice", "geheim".to_owned(), "no PHC string"),
            ("alice", "$2b$12$abcdefghijklmnopqrstuuO5.jVVKfMVnW".to_owned(), "password_hash"),
            ("alice", made.replace("argon2id", "argon2i"), "argon2id"),
            ("alice", made.rsplit_once('$').unwrap().0.to_owned(), "not whole"),
            ("alice", made.replace("m=19456", "m=4000000"), "costs more"),
            ("a:b", made.clone(), "name of a user"),
            ("a/b", made.clone(), "name of a user"),
            ("", made.clone(), "name of a user"),
        ];
        for (name, hash, said) in cases {
            let (_, error) = Users::new(vec![user(name, hash)]).unwrap_err();
            assert!(error.contains(said), "{error}");
            assert!(!error.contains("$argon2"), "{error}");
        }
        let twice = Users::new(vec![user("alice", made.clone()), user("alice", made.clone())]).unwrap_err();
        assert!(twice.0 == 1 && twice.1.contains("same name"), "{twice:?}");
        assert!(!format!("{:?}", user("alice", made)).contains("argon2"));
    }
}
