//! Who is logged in where: one file, for its owner alone.
//!
//! Docker runs a helper for each registry it asks about, several at once. Writers take turns by a lock
//! and put a whole new file in place, so a reader needs none.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A login.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The registry, as whoever logged in named it.
    pub server_url: String,
    /// The user, or [`crate::TOKEN_USER`] where the secret is a refresh token.
    pub username: String,
    /// The password or the refresh token.
    pub secret: String,
    /// When it ends, in unix seconds, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("server_url", &self.server_url).finish_non_exhaustive()
    }
}

/// The file of all logins.
#[derive(Debug, Clone)]
pub struct Sessions {
    folder: PathBuf,
}

#[derive(Default, Serialize, Deserialize)]
struct Contents {
    version: u32,
    sessions: BTreeMap<String, Session>,
}

const VERSION: u32 = 1;

impl Sessions {
    /// The file in `folder`.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The file of the user whose environment this is: in `$XDG_CONFIG_HOME/berth`, else `~/.config/berth`.
    pub fn of_user(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        // The XDG specification has a relative path ignored.
        let given = variable("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let config = given.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".config")));
        Ok(Self::in_folder(config.ok_or(Error::NoHome("XDG_CONFIG_HOME"))?.join("berth")))
    }

    /// Where the sessions are.
    pub fn path(&self) -> PathBuf {
        self.folder.join("sessions.json")
    }

    /// The session for a registry.
    pub fn get(&self, server_url: &str) -> Result<Option<Session>> {
        Ok(self.read()?.sessions.remove(&key(server_url)))
    }

    /// All sessions.
    pub fn list(&self) -> Result<Vec<Session>> {
        Ok(self.read()?.sessions.into_values().collect())
    }

    /// Keeps a session, instead of one that was there. A damaged file is put aside.
    pub fn put(&self, session: Session) -> Result<()> {
        let _lock = self.lock()?;
        let mut contents = match self.read() {
            Err(Error::DamagedSessions(path)) => {
                let aside = path.with_extension("json.damaged");
                std::fs::rename(&path, &aside).map_err(Error::file(&path))?;
                eprintln!("{} was damaged, and is now {}", path.display(), aside.display());
                Contents::default()
            }
            read => read?,
        };
        contents.sessions.insert(key(&session.server_url), session);
        self.write(contents)
    }

    /// Forgets a session, and gives it back.
    pub fn remove(&self, server_url: &str) -> Result<Option<Session>> {
        // Without a file there is nothing to forget, and no reason to make a folder.
        if !self.path().exists() {
            return Ok(None);
        }
        let _lock = self.lock()?;
        let mut contents = self.read()?;
        let removed = contents.sessions.remove(&key(server_url));
        if removed.is_some() {
            self.write(contents)?;
        }
        Ok(removed)
    }

    fn read(&self) -> Result<Contents> {
        let path = self.path();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Contents::default()),
            Err(error) => return Err(Error::file(path)(error)),
        };
        match serde_json::from_slice::<Contents>(&bytes) {
            Ok(contents) if contents.version == VERSION => Ok(contents),
            _ => Err(Error::DamagedSessions(path)),
        }
    }

    fn write(&self, contents: Contents) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(&Contents { version: VERSION, ..contents })
            .map_err(|error| Error::file(self.path())(error.into()))?;
        replace(&self.path(), &bytes, 0o600)
    }

    /// Waits for its turn; it ends when what is returned is dropped.
    fn lock(&self) -> Result<File> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(Error::file(&self.folder))?;
        let path = self.folder.join("sessions.lock");
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(Error::file(&path))?;
        file.lock().map_err(Error::file(&path))?;
        Ok(file)
    }
}

/// Puts a new file in the place of the old one: whoever reads sees the one or the other.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(Error::file(path))
}

/// Clients name a registry by its host or by some URL on it; both are the same login.
fn key(server_url: &str) -> String {
    let without_scheme = server_url.split_once("://").map_or(server_url, |(_, rest)| rest);
    without_scheme.split('/').next().unwrap_or_default().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(server_url: &str, secret: &str) -> Session {
        Session {
            server_url: server_url.into(),
            username: "u".into(),
            secret: secret.into(),
            expires_at: None,
        }
    }

    #[test]
    fn a_registry_is_one_however_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = Sessions::in_folder(folder.path().join("berth"));
        assert_eq!(sessions.get("r.example").unwrap(), None);
        assert_eq!(sessions.remove("r.example").unwrap(), None);
        assert!(!folder.path().join("berth").exists());
        sessions.put(session("https://R.example/v1/", "one")).unwrap();
        sessions.put(session("r.example:5000", "two")).unwrap();
        for name in ["r.example", "https://r.example", "http://r.example/", "R.EXAMPLE"] {
            assert_eq!(sessions.get(name).unwrap().unwrap().secret, "one", "{name}");
        }
        assert_eq!(sessions.remove("https://r.example:5000/v2/").unwrap().unwrap().secret, "two");
        let left: Vec<_> = sessions.list().unwrap().into_iter().map(|session| session.server_url).collect();
        assert_eq!(left, ["https://R.example/v1/"]);
    }

    #[test]
    fn the_file_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = Sessions::in_folder(folder.path().join("a/berth"));
        sessions.put(session("r.example", "s")).unwrap();
        let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(sessions.path()), 0o600);
        assert_eq!(mode(folder.path().join("a/berth")), 0o700);
        let names = std::fs::read_dir(folder.path().join("a/berth")).unwrap().count();
        assert_eq!(names, 2, "the sessions and the lock, and nothing left over");
        assert!(!format!("{:?}", session("r.example", "s3cr3t")).contains("s3cr3t"));
    }

    #[test]
    fn the_place_is_the_users() {
        let of = |xdg: Option<&str>, home: Option<&str>| {
            let (xdg, home) = (xdg.map(str::to_owned), home.map(str::to_owned));
            Sessions::of_user(move |name| if name == "HOME" { home.clone() } else { xdg.clone() })
                .map(|sessions| sessions.path().display().to_string())
        };
        assert_eq!(of(Some("/x"), Some("/h")).unwrap(), "/x/berth/sessions.json");
        assert_eq!(of(Some("x"), Some("/h")).unwrap(), "/h/.config/berth/sessions.json");
        assert!(of(None, None).is_err());
    }
}
