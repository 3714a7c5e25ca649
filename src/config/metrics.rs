//! `[metrics]`: for those who watch.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// For those who watch.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// An address and port of their own for `/metrics`, `/healthz` and `/readyz`. Nobody is asked who
    /// they are there: keep it inside the cluster. There are no metrics unless it is set.
    #[schemars(with = "Option<String>")]
    pub listen: Option<SocketAddr>,
    /// Speaks TLS there too, with the certificate of `http.tls`.
    pub tls: bool,
}
