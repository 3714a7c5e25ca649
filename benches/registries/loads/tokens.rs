//! Access tokens, granted to who proves an identity.

use anyhow::{Context, Result};
use form_urlencoded::Serializer;
use http::Method;

use super::Stage;
use super::ask::{Body, Question, Questions};
use crate::client::{form_bytes, request_bytes};
use crate::servers::{AUDIENCE, Identities};

const SERVICE_ACCOUNTS: usize = 256;
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const SCOPE: &str = "repository:bench/app-00:pull";

/// Exchanges of service accounts' tokens, as a credential provider makes them, or a login as docker's.
pub fn prepare(by_service_account: bool, stage: &Stage) -> Result<Questions> {
    let address = stage.server.address();
    let identities = stage.server.identities.as_ref().context("a server without identities")?;
    let question =
        |request, begins| Question { request, status: 200, digest: None, body: Body::Begins(begins) };
    if !by_service_account {
        let path = format!("/token?service={AUDIENCE}&scope={SCOPE}");
        let request = request_bytes(address, &Method::GET, &path, Some(&Identities::person()))?;
        return Ok(Questions::new(vec![question(request, "{\"access_token\":\"ey")], None));
    }
    let exchange = |number| {
        let token = identities.service_account(number)?;
        let form = Serializer::new(String::new())
            .append_pair("grant_type", EXCHANGE)
            .append_pair("subject_token", &token)
            .append_pair("subject_token_type", JWT)
            .append_pair("service", AUDIENCE)
            .append_pair("scope", SCOPE)
            .finish();
        Ok(question(form_bytes(address, "/token", &form)?, "{\"access_token\":\"ey"))
    };
    Ok(Questions::new((0..SERVICE_ACCOUNTS).map(exchange).collect::<Result<_>>()?, None))
}
