//! Docker's own configuration, as far as it says which helper a registry has.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use berth_token_client::RegistryHost;
use serde_json::{Map, Value};

use crate::sessions::replace;
use crate::{Error, Result};

/// `config.json` of docker's, which podman and others read too.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    path: PathBuf,
}

impl DockerConfig {
    /// The file of the user whose environment this is: in `$DOCKER_CONFIG`, else in `~/.docker`.
    pub fn of_user(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let given = variable("DOCKER_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        let folder = given.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".docker")));
        Ok(Self { path: folder.ok_or(Error::NoHome("DOCKER_CONFIG"))?.join("config.json") })
    }

    /// Says that `docker-credential-berth` has the credentials of `registry`, and changes nothing else.
    ///
    /// Returns the file.
    pub fn use_helper_for(&self, registry: &RegistryHost) -> Result<PathBuf> {
        // A file that is a link, as those who keep theirs in a repository have it, stays one.
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let (mut config, mode) = match std::fs::read(&path) {
            Ok(bytes) => {
                let config: Map<String, Value> = match bytes.trim_ascii() {
                    b"" => Map::new(),
                    bytes => {
                        serde_json::from_slice(bytes).map_err(|_| Error::DamagedDockerConfig(path.clone()))?
                    }
                };
                (config, std::fs::metadata(&path).map_err(Error::file(&path))?.permissions().mode() & 0o777)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let folder = path.parent().unwrap_or(&path);
                std::fs::create_dir_all(folder).map_err(Error::file(folder))?;
                (Map::new(), 0o600)
            }
            Err(error) => return Err(Error::file(path)(error)),
        };
        let helpers = config.entry("credHelpers").or_insert_with(|| Value::Object(Map::new()));
        let helpers = helpers.as_object_mut().ok_or_else(|| Error::DamagedDockerConfig(path.clone()))?;
        helpers.insert(registry.to_string(), "berth".into());
        let bytes = serde_json::to_vec_pretty(&config).map_err(|error| Error::file(&path)(error.into()))?;
        replace(&path, &bytes, mode)?;
        Ok(path)
    }
}
