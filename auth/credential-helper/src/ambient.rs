//! The identity that this place gives to what runs in it.
//!
//! Where the audience can be chosen it is the registry's own host, so that the token is worth nothing to
//! any other. A token whose audience was chosen elsewhere goes only to the host it is for, or to one
//! that `BERTH_REGISTRY` lists: docker asks a helper about whatever registry an image is in.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use berth_token_client::{Claims, Http, RegistryHost, Secret, azure_identity, google_identity};
use serde::Deserialize;

use crate::{Error, Result};

/// Where Kubernetes puts the token if the pod follows Berth's guide.
const PROJECTED: &str = "/var/run/secrets/berth/token";

/// An identity that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A token in a file; the text says by whom.
    File(PathBuf, &'static str),
    /// GitHub Actions, which makes one on request.
    GitHub {
        /// Where.
        url: String,
        /// With what.
        bearer: String,
    },
    /// A token in the environment, as GitLab gives it.
    GitLab(String),
    /// Azure's managed identity.
    Azure {
        /// The application that the token is for.
        resource: String,
        /// Which identity.
        client: Option<String>,
        /// The metadata service.
        base: String,
    },
    /// Google's service account of the machine; its metadata server.
    Google(String),
    /// Buildkite's agent, which makes one on request.
    Buildkite(PathBuf),
}

/// The identities that are here, the first to be used first.
///
/// Looks at the environment alone; what is asked for anything is asked by [`Source::token`].
pub fn sources(variable: impl Fn(&str) -> Option<String>) -> Vec<Source> {
    let given = |name: &str| variable(name).filter(|value| !value.is_empty());
    let path = |name: &str| given(name).map(PathBuf::from);
    let on = |name: &str| given(name).is_some_and(|value| value == "true" || value == "1");
    let projected = || Some(PathBuf::from(PROJECTED)).filter(|path| path.exists());
    let mut found = Vec::new();
    let kubernetes = path("BERTH_IDENTITY_TOKEN_FILE").or_else(projected);
    found.extend(kubernetes.map(|path| Source::File(path, "the projected token")));
    if let (Some(url), Some(bearer)) =
        (given("ACTIONS_ID_TOKEN_REQUEST_URL"), given("ACTIONS_ID_TOKEN_REQUEST_TOKEN"))
    {
        found.push(Source::GitHub { url, bearer });
    }
    found.extend(given("BERTH_ID_TOKEN").map(Source::GitLab));
    found.extend(
        path("AZURE_FEDERATED_TOKEN_FILE").map(|path| Source::File(path, "Azure's workload identity")),
    );
    found.extend(given("BERTH_AZURE_RESOURCE").map(|resource| Source::Azure {
        resource,
        client: given("AZURE_CLIENT_ID"),
        base:
            given("AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or_else(|| "http://169.254.169.254".to_owned()),
    }));
    if on("BERTH_GCP_IDENTITY") {
        let host = given("GCE_METADATA_HOST").unwrap_or_else(|| "metadata.google.internal".to_owned());
        found.push(Source::Google(host));
    }
    found.extend(path("AWS_WEB_IDENTITY_TOKEN_FILE").map(|path| Source::File(path, "AWS' web identity")));
    if on("BUILDKITE") {
        // A step that runs in a container may be without it.
        let folders = given("PATH").unwrap_or_default();
        let mut agents = folders.split(':').map(|folder| Path::new(folder).join("buildkite-agent"));
        found.extend(agents.find(|path| path.is_file()).map(Source::Buildkite));
    }
    found
}

impl Source {
    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self {
            Self::File(_, name) => name,
            Self::GitHub { .. } => "GitHub Actions",
            Self::GitLab(_) => "BERTH_ID_TOKEN",
            Self::Azure { .. } => "Azure's managed identity",
            Self::Google(_) => "Google's metadata server",
            Self::Buildkite(_) => "buildkite-agent",
        }
    }

    /// Whether the token is made for an audience that is asked for.
    fn chooses_audience(&self) -> bool {
        matches!(self, Self::GitHub { .. } | Self::Google(_) | Self::Buildkite(_))
    }

    /// Gets the token; `metadata` is a client for servers on the machine's own network.
    pub fn token(&self, audience: &str, http: &Http, metadata: &Http) -> Result<Secret> {
        Ok(match self {
            Self::File(path, name) => {
                let text = std::fs::read_to_string(path).map_err(Error::file(path))?;
                Secret::from_text(&text, name)?
            }
            Self::GitLab(token) => Secret::from_text(token, self.name())?,
            Self::GitHub { url, bearer } => {
                #[derive(Deserialize)]
                struct Body {
                    value: String,
                }
                let query = berth_token_client::query(&[("audience", audience)]);
                let join = if url.contains('?') { '&' } else { '?' };
                let bearer = Secret::from_text(bearer, "ACTIONS_ID_TOKEN_REQUEST_TOKEN")?;
                let authorization = format!("Bearer {}", bearer.reveal());
                let headers = [("authorization", authorization.as_str()), ("accept", "application/json")];
                let body: Body = http.get(&format!("{url}{join}{query}"), &headers)?.json()?;
                Secret::new(body.value, self.name())?
            }
            Self::Azure { resource, client, base } => {
                azure_identity(metadata, base, resource, client.as_deref())?
            }
            Self::Google(host) => google_identity(metadata, host, audience)?,
            Self::Buildkite(agent) => {
                let program = self.name();
                let failed = |problem: String| Error::Program { program, problem };
                let output = Command::new(agent)
                    .args(["oidc", "request-token", "--audience", audience])
                    .stdin(Stdio::null())
                    // What it has to say is for whoever reads the job's log.
                    .stderr(Stdio::inherit())
                    .output()
                    .map_err(|error| failed(error.to_string()))?;
                if !output.status.success() {
                    return Err(failed(output.status.to_string()));
                }
                Secret::from_text(&String::from_utf8_lossy(&output.stdout), program)?
            }
        })
    }

    /// Whether this token may be sent to `registry`, without the user having said so.
    pub fn is_for(&self, token: &Secret, registry: &RegistryHost) -> bool {
        let audiences = || Claims::unverified(token).unwrap_or_default().aud;
        let names = [registry.as_str(), registry.without_port()];
        let fits = |audience: &String| {
            let audience = audience.strip_prefix("https://").unwrap_or(audience).trim_end_matches('/');
            names.iter().any(|name| audience.eq_ignore_ascii_case(name))
        };
        self.chooses_audience() || audiences().iter().any(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_the_documented_one() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("buildkite-agent"), "").unwrap();
        let path = format!("/nowhere:{}", folder.path().display());
        let all = [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/aws"),
            ("BERTH_GCP_IDENTITY", "true"),
            ("AZURE_FEDERATED_TOKEN_FILE", "/azure"),
            ("BERTH_AZURE_RESOURCE", "api://berth"),
            ("BERTH_ID_TOKEN", "t"),
            ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "b"),
            ("ACTIONS_ID_TOKEN_REQUEST_URL", "https://u"),
            ("BERTH_IDENTITY_TOKEN_FILE", "/k8s"),
            ("BUILDKITE", "true"),
            ("PATH", &path),
        ];
        let of = |environment: &[(&str, &str)]| {
            let environment: Vec<_> =
                environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let find =
                move |name: &str| Some(environment.iter().find(|(variable, _)| variable == name)?.1.clone());
            sources(find).iter().map(Source::name).collect::<Vec<_>>()
        };
        let names = [
            "the projected token",
            "GitHub Actions",
            "BERTH_ID_TOKEN",
            "Azure's workload identity",
            "Azure's managed identity",
            "Google's metadata server",
            "AWS' web identity",
            "buildkite-agent",
        ];
        assert_eq!(of(&all), names);
        // What is not switched on, or is there by half, is not there.
        assert_eq!(
            of(&[("ACTIONS_ID_TOKEN_REQUEST_URL", "u"), ("BERTH_GCP_IDENTITY", "no"), ("BUILDKITE", "true")]),
            [""; 0]
        );
        assert_eq!(of(&[("BERTH_ID_TOKEN", "")]), [""; 0]);
    }
}
