//! Identities that a cloud gives to its machines.
//!
//! AWS has none to offer here: its instance metadata hands out keys that sign requests to AWS, and no
//! token that another service could verify.

use serde::Deserialize;

use crate::{Http, Result, Secret, query};

/// Asks Azure's metadata service at `base` for a token of the machine's managed identity.
///
/// `resource` is the application that the token is for, `client` chooses one of several identities.
pub fn azure_identity(http: &Http, base: &str, resource: &str, client: Option<&str>) -> Result<Secret> {
    #[derive(Deserialize)]
    struct Body {
        access_token: String,
    }
    let mut parameters = vec![("api-version", "2018-02-01"), ("resource", resource)];
    parameters.extend(client.map(|client| ("client_id", client)));
    let base = base.trim_end_matches('/');
    let url = format!("{base}/metadata/identity/oauth2/token?{}", query(&parameters));
    let body: Body = http.get(&url, &[("Metadata", "true")])?.json()?;
    Secret::new(body.access_token, "the managed identity's token")
}

/// Asks Google's metadata server at `host` for an identity token of the machine's service account.
pub fn google_identity(http: &Http, host: &str, audience: &str) -> Result<Secret> {
    let query = query(&[("audience", audience), ("format", "full")]);
    let url = format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/identity?{query}");
    let answer = http.get(&url, &[("Metadata-Flavor", "Google")])?;
    Secret::from_text(answer.text()?, "the machine's identity token")
}
