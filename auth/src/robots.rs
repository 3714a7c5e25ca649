//! Robots: programs that carry a key of Berth's own.
//!
//! A key has 256 random bits, so that its plain SHA-256 can be kept in a file and a key is found by
//! looking its hash up. A robot may have two keys at a time, which is what makes changing them safe.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, SecondsFormat};
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Identity, Kind, Network};

/// What every key starts with, so that those who look for leaked secrets find it.
pub const PREFIX: &str = "berth_robot_";

/// How many keys a robot may have.
const MAX_KEYS: usize = 2;

/// A program with a key of its own, for where there is no identity to use instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Robot {
    /// Its name, of `a-z 0-9 . _ -`. Rules know it as `robot:NAME`, and it is the user name to log in
    /// with.
    pub name: String,
    /// Its keys, at most two, as `berth robot new` prints them: `[{ hash = "sha256:…", expires =
    /// 2026-12-31T00:00:00Z }]`. Without `expires` a key is good until it is taken out.
    pub secrets: Vec<Key>,
    /// The networks it may come from; all, if none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Network>,
    /// The groups it is in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// What rules may use of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// One key of a robot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// `sha256:` and the SHA-256 of the key, in hex.
    pub hash: String,
    /// When it stops to be good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Moment>,
}

/// A moment in time: `2026-12-31T00:00:00Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[schemars(with = "String")]
pub struct Moment(i64);

/// Why a key is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is nobody's.
    #[error("no robot has this key")]
    Unknown,
    /// It is another robot's.
    #[error("the key is robot {robot}'s, and the user name says {said:?}")]
    OtherName {
        /// Whose it is.
        robot: String,
        /// The name that came with it.
        said: String,
    },
    /// It was good once.
    #[error("the key of robot {robot} expired on {expired}")]
    Expired {
        /// Whose it is.
        robot: String,
        /// When.
        expired: Moment,
    },
    /// It came from elsewhere.
    #[error("robot {robot} may not come from {}", client.map_or("an address that nobody knows".to_owned(), |client| client.to_string()))]
    Network {
        /// Whose it is.
        robot: String,
        /// The client's address.
        client: Option<IpAddr>,
    },
}

/// A robot that has shown its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Who it is.
    pub identity: Identity,
    /// When the key it used stops to be good.
    pub expires: Option<Moment>,
}

/// All robots, by key.
#[derive(Debug, Default)]
pub struct Robots {
    list: Vec<Robot>,
    /// Who each is, by name.
    identities: HashMap<String, Identity>,
    /// The hash of each key, and which robot's which key it is.
    keys: HashMap<[u8; 32], (usize, usize)>,
}

impl Moment {
    /// A moment by unix milliseconds.
    pub const fn of(unix_millis: i64) -> Self {
        Self(unix_millis)
    }

    /// Its unix milliseconds.
    pub const fn unix_millis(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = DateTime::from_timestamp_millis(self.0).unwrap_or_default();
        f.write_str(&moment.to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written: toml::value::Datetime = self.to_string().parse().map_err(serde::ser::Error::custom)?;
        written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = toml::value::Datetime::deserialize(deserializer)?;
        let moment = DateTime::parse_from_rfc3339(&written.to_string()).map_err(|_| {
            D::Error::custom(format!("{written} is no moment with its time zone, as 2026-12-31T00:00:00Z"))
        })?;
        Ok(Self(moment.timestamp_millis()))
    }
}

impl Robots {
    /// All of them, or which of them, the first being 0, has what wrong.
    pub(crate) fn new(robots: Vec<Robot>) -> Result<Self, (usize, String)> {
        let (mut identities, mut keys) = (HashMap::new(), HashMap::new());
        for (at, robot) in robots.iter().enumerate() {
            let wrong = |why: String| (at, format!("robot {:?}: {why}", robot.name));
            check_name(&robot.name).map_err(wrong)?;
            if identities.insert(robot.name.clone(), identity(robot)).is_some() {
                return Err(wrong("another robot has the same name".into()));
            }
            if robot.secrets.len() > MAX_KEYS {
                return Err(wrong(format!(
                    "it has {} secrets; at most {MAX_KEYS} are allowed",
                    robot.secrets.len()
                )));
            }
            for (which, key) in robot.secrets.iter().enumerate() {
                let hash = key.hash.strip_prefix("sha256:");
                let mut bytes = [0; 32];
                if hash.is_none_or(|hash| hex::decode_to_slice(hash, &mut bytes).is_err()) {
                    return Err(wrong(
                        "a hash is \"sha256:\" and 64 hex digits; `berth robot new` makes one".into(),
                    ));
                }
                if let Some((other, _)) = keys.insert(bytes, (at, which)) {
                    return Err(wrong(format!("robot {:?} has the same key", robots[other].name)));
                }
            }
        }
        Ok(Self { list: robots, identities, keys })
    }

    /// Who has this key. `name` is the user name that came with it, if one did.
    ///
    /// A key is good until the millisecond it expires, by the clock of this replica: there is no leeway.
    pub fn check(
        &self,
        name: Option<&str>,
        key: &str,
        client: Option<IpAddr>,
        now: i64,
    ) -> Result<Login, Refused> {
        let hash = digest(&SHA256, key.as_bytes());
        let key = *self.keys.get(hash.as_ref()).ok_or(Refused::Unknown)?;
        self.use_key(key, name, client, now)
    }

    /// As [`Self::check`], where the hash of the key is at hand, as 64 hex digits.
    pub fn check_hash(&self, hash: &str, client: Option<IpAddr>, now: i64) -> Result<Login, Refused> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(hash, &mut bytes).map_err(|_| Refused::Unknown)?;
        let key = *self.keys.get(&bytes).ok_or(Refused::Unknown)?;
        self.use_key(key, None, client, now)
    }

    fn use_key(
        &self,
        (at, which): (usize, usize),
        name: Option<&str>,
        client: Option<IpAddr>,
        now: i64,
    ) -> Result<Login, Refused> {
        let robot = &self.list[at];
        let expires = robot.secrets[which].expires;
        if let Some(said) = name.filter(|said| *said != robot.name) {
            return Err(Refused::OtherName { robot: robot.name.clone(), said: said.to_owned() });
        }
        if let Some(expired) = expires.filter(|expires| now >= expires.unix_millis()) {
            return Err(Refused::Expired { robot: robot.name.clone(), expired });
        }
        let is_in = |client| robot.networks.iter().any(|network| network.contains(client));
        if !robot.networks.is_empty() && !client.is_some_and(is_in) {
            let client = client.map(|client| client.to_canonical());
            return Err(Refused::Network { robot: robot.name.clone(), client });
        }
        Ok(Login { identity: self.identities[&robot.name].clone(), expires })
    }

    /// Who the robot of that name is.
    pub fn find(&self, name: &str) -> Option<Identity> {
        self.identities.get(name).cloned()
    }

    /// Every key: whose, which of its keys (the first being 0), and when it stops to be good.
    pub fn keys(&self) -> impl Iterator<Item = (&str, usize, Option<Moment>)> {
        self.list.iter().flat_map(|robot| {
            let keys = robot.secrets.iter().enumerate();
            keys.map(|(which, key)| (robot.name.as_str(), which, key.expires))
        })
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Robot> + Clone {
        self.list.iter()
    }
}

/// Checks the name of a robot: none has a character that shells or configuration files would take for
/// their own.
pub fn identity(robot: &Robot) -> Identity {
    let mut identity = Identity::new(Kind::Robot, &robot.name);
    identity.groups.clone_from(&robot.groups);
    identity.attributes.clone_from(&robot.attributes);
    identity
}

/// Whether a robot may be called so, or why not.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_of = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > 128 || !name.bytes().all(is_of) {
        return Err("the name of a robot has 1 to 128 characters of a-z 0-9 . _ -".into());
    }
    Ok(())
}

/// Whether a password looks like a key of a robot.
pub fn is_key(password: &str) -> bool {
    password.starts_with(PREFIX)
}

/// A new key of these random bytes, and what is kept of it.
pub fn generate(random: &[u8; 32]) -> (String, String) {
    let key = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
    let hash = format!("sha256:{}", hex::encode(digest(&SHA256, key.as_bytes())));
    (key, hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_798_718_400_000; // 2026-12-31T12:00:00Z

    fn robots(text: &str) -> Result<Robots, (usize, String)> {
        #[derive(Deserialize)]
        struct File {
            robot: Vec<Robot>,
        }
        Robots::new(toml::from_str::<File>(text).unwrap().robot)
    }

    #[test]
    fn a_key_is_good_while_another_takes_its_place_and_until_the_very_moment() {
        let ((old, old_hash), (new, new_hash)) = (generate(&[1; 32]), generate(&[2; 32]));
        let robots = robots(&format!(
            "[[robot]]\nname = 'ci'\ngroups = ['ci']\nattributes = {{ team = 'a' }}\n\
             secrets = [{{ hash = '{old_hash}', expires = 2026-12-31T12:00:00Z }}, {{ hash = '{new_hash}' }}]"
        ))
        .unwrap();
        let check = |key: &str, now| robots.check(Some("ci"), key, None, now);
        let login = check(&old, NOON - 1).unwrap();
        assert_eq!(login.identity.to_string(), "robot:ci");
        assert_eq!(login.identity.groups, ["ci"]);
        assert_eq!(login.identity.attributes["team"], "a");
        assert_eq!(login.expires, Some(Moment::of(NOON)));
        assert_eq!(
            check(&old, NOON).unwrap_err().to_string(),
            "the key of robot ci expired on 2026-12-31T12:00:00Z"
        );
        assert_eq!(check(&new, NOON).unwrap().expires, None);
        let keys: Vec<_> = robots.keys().collect();
        assert_eq!(keys, [("ci", 0, Some(Moment::of(NOON))), ("ci", 1, None)]);
    }

    #[test]
    fn only_the_right_key_learns_why_it_is_refused() {
        let (key, hash) = generate(&[1; 32]);
        let robots = robots(&format!(
            "[[robot]]\nname = 'ci'\nnetworks = ['10.0.0.0/8']\nsecrets = [{{ hash = '{hash}' }}]"
        ))
        .unwrap();
        let from = |address: &str| Some(address.parse().unwrap());
        assert!(robots.check(Some("ci"), &key, from("::ffff:10.1.2.3"), 0).is_ok());
        assert!(robots.check(None, &key, from("10.1.2.3"), 0).is_ok());
        let said = |name, key: &str, client| robots.check(name, key, client, 0).unwrap_err().to_string();
        assert_eq!(said(Some("ci"), &key, from("11.1.2.3")), "robot ci may not come from 11.1.2.3");
        assert_eq!(said(Some("ci"), &key, None), "robot ci may not come from an address that nobody knows");
        assert_eq!(
            said(Some("cd"), &key, from("10.1.2.3")),
            "the key is robot ci's, and the user name says \"cd\""
        );
        let other = generate(&[2; 32]).0;
        for wrong in [&other, &key[1..], "", &hash, "berth_robot_"] {
            assert_eq!(said(Some("ci"), wrong, from("11.1.2.3")), "no robot has this key");
        }
    }

    #[test]
    fn a_key_is_64_hex_digits_and_nobody_elses() {
        let hash = generate(&[1; 32]).1;
        let secret = format!("{{ hash = '{hash}' }}");
        let named =
            |name: &str, secrets: &str| format!("[[robot]]\nname = '{name}'\nsecrets = [{secrets}]\n");
        let cases = [
            (named("robot$ci", &secret), "a-z 0-9"),
            (named("CI", &secret), "a-z 0-9"),
            (named("", &secret), "a-z 0-9"),
            (named("ci", "{ hash = 'sha256:12' }"), "64 hex digits"),
            (named("ci", &format!("{{ hash = '{}' }}", &hash[7..])), "64 hex digits"),
            (named("ci", &format!("{secret}, {secret}")), "has the same key"),
            (named("ci", &format!("{secret}, {secret}, {secret}")), "at most 2"),
            (named("ci", &secret) + &named("cd", &secret), "robot \"ci\" has the same key"),
            (named("ci", "") + &named("ci", ""), "the same name"),
        ];
        for (text, said) in cases {
            let (_, error) = robots(&text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
        let local = format!("name = 'ci'\nsecrets = [{{ hash = '{hash}', expires = 2026-12-31T00:00:00 }}]");
        let error = toml::from_str::<Robot>(&local).unwrap_err().to_string();
        assert!(error.contains("time zone"), "{error}");
    }

    #[test]
    fn what_is_written_can_be_read_back() {
        let hash = generate(&[1; 32]).1;
        let secrets = vec![Key { hash, expires: Some(Moment::of(NOON)) }];
        let robot = Robot {
            name: "ci".into(),
            secrets,
            networks: vec![],
            groups: vec![],
            attributes: BTreeMap::new(),
            description: None,
        };
        let text = toml::to_string(&robot).unwrap();
        assert_eq!(toml::from_str::<Robot>(&text).unwrap(), robot, "{text}");
    }
}
