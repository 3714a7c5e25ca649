//! What is the same for everybody who uses a well-known issuer: its address and the names of its claims.

use std::collections::BTreeMap;

/// A well-known issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// GitHub Actions.
    Github,
    /// GitLab CI/CD.
    Gitlab,
    /// Azure Pipelines.
    AzureDevops,
    /// Buildkite.
    Buildkite,
    /// Microsoft Entra ID.
    Entra,
}

impl Preset {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Github, Self::Gitlab, Self::AzureDevops, Self::Buildkite, Self::Entra];

    /// The `iss`, where all have the same.
    pub fn issuer(self) -> Option<&'static str> {
        match self {
            Self::Github => Some("https://token.actions.githubusercontent.com"),
            Self::Gitlab => Some("https://gitlab.com"),
            Self::Buildkite => Some("https://agent.buildkite.com"),
            // One for each organization, and for each tenant.
            Self::AzureDevops | Self::Entra => None,
        }
    }

    /// The audience, where a job cannot choose it.
    pub fn audience(self) -> Option<&'static str> {
        (self == Self::AzureDevops).then_some("api://AzureADTokenExchange")
    }

    /// The claim that names the identity. The `sub` of Entra is another for each application, `oid` is the
    /// user or service principal.
    pub fn subject_claim(self) -> &'static str {
        if self == Self::Entra { "oid" } else { "sub" }
    }

    /// The claim with the groups.
    pub fn groups_claim(self) -> Option<&'static str> {
        match self {
            Self::Entra => Some("groups"),
            Self::Github | Self::Gitlab | Self::AzureDevops | Self::Buildkite => None,
        }
    }

    /// Attributes by the claims they come from, the first that is there.
    pub fn attributes(self) -> BTreeMap<String, Vec<String>> {
        let same = |names: &[&'static str]| names.iter().map(|name| (*name, vec![*name])).collect::<Vec<_>>();
        let attributes = match self {
            // docs.github.com/actions/reference/security/oidc
            Self::Github => same(&[
                "repository",
                "repository_id",
                "repository_owner",
                "repository_owner_id",
                "repository_visibility",
                "ref",
                "ref_type",
                "ref_protected",
                "environment",
                "workflow_ref",
                "job_workflow_ref",
                "event_name",
                "actor",
                "runner_environment",
            ]),
            // docs.gitlab.com/ci/secrets/id_token_authentication
            Self::Gitlab => same(&[
                "namespace_id",
                "namespace_path",
                "project_id",
                "project_path",
                "ref",
                "ref_type",
                "ref_path",
                "ref_protected",
                "environment",
                "environment_protected",
                "deployment_tier",
                "pipeline_source",
                "user_login",
                "runner_environment",
            ]),
            // The token of a pipeline; that of a service connection says only `sub`.
            Self::AzureDevops => vec![
                ("organization_id", vec!["org_id"]),
                ("project_id", vec!["prj_id"]),
                ("pipeline_id", vec!["def_id"]),
                ("repository", vec!["rpo_id"]),
                ("repository_uri", vec!["rpo_uri"]),
                ("ref", vec!["rpo_ref"]),
            ],
            // buildkite.com/docs/agent/v3/cli-oidc
            Self::Buildkite => vec![
                ("organization", vec!["organization_slug"]),
                ("organization_id", vec!["organization_id"]),
                ("pipeline", vec!["pipeline_slug"]),
                ("pipeline_id", vec!["pipeline_id"]),
                ("branch", vec!["build_branch"]),
                ("tag", vec!["build_tag"]),
                ("step", vec!["step_key"]),
                ("build_source", vec!["build_source"]),
                ("runner_environment", vec!["runner_environment"]),
            ],
            // learn.microsoft.com/entra/identity-platform/access-token-claims-reference
            Self::Entra => vec![
                ("tenant", vec!["tid"]),
                ("application", vec!["azp", "appid"]),
                ("identity_type", vec!["idtyp"]),
                ("username", vec!["preferred_username", "upn", "unique_name"]),
                ("resource_id", vec!["xms_mirid"]),
            ],
        };
        let owned = |claims: Vec<&str>| claims.into_iter().map(str::to_owned).collect();
        attributes.into_iter().map(|(name, claims)| (name.to_owned(), owned(claims))).collect()
    }
}
