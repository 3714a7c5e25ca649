//! `[http]`: where and how requests come in.

use std::net::{Ipv4Addr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Network, Span, Tls};

/// Where and how requests come in.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// The address and port to listen on. Port 0 takes a free one.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// Lets everyone who can reach an address that is not loopback read, push and delete.
    pub allow_anonymous: bool,
    /// How long the headers of a request may take. A connection that is kept alive is closed after
    /// so long without a new request.
    pub header_timeout: Span,
    /// How long a body may be silent, in either direction. There is no limit on how long it takes.
    /// After the last answer of a connection a client has 2 s to close its side.
    pub idle_timeout: Span,
    /// The networks of the proxies and load balancers in front, as `["10.0.0.0/8"]`: what they say of a
    /// client's address (`X-Forwarded-For`) is believed, and nobody else's word is.
    pub trusted_proxies: Vec<Network>,
    /// TLS.
    pub tls: Tls,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 5000)),
            allow_anonymous: false,
            header_timeout: Span::seconds(120),
            idle_timeout: Span::seconds(60),
            trusted_proxies: Vec::new(),
            tls: Tls::default(),
        }
    }
}
