//! Where a request comes from.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::request::Parts;
use ipnet::IpNet;
use rustls_pki_types::CertificateDer;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// The other end of a connection, which the listener puts beside each request.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// The certificate it has shown, its own first and then what leads from it to a CA that is trusted here.
    pub certificates: Option<Arc<Vec<CertificateDer<'static>>>>,
}

/// The address of the client that makes a request.
pub(super) fn of(head: &Parts, trusted: &[IpNet]) -> Option<IpAddr> {
    head.extensions.get::<Peer>().map(|peer| address(peer.address, &head.headers, trusted))
}

/// Whether somebody's word on who they speak for is believed.
pub(super) fn is_trusted(address: &IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|network| network.contains(&address))
}

/// The address of the client: the peer's, or what trusted proxies say of theirs, the last of which is
/// nearest to us. Whoever is no trusted proxy could have written anything in front of that.
pub(super) fn address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = peer.to_canonical();
    let lists: Vec<&str> =
        headers.get_all(FORWARDED_FOR).iter().filter_map(|list| list.to_str().ok()).collect();
    for hop in lists.iter().rev().flat_map(|list| list.rsplit(',')) {
        if !is_trusted(&client) {
            break;
        }
        let Some(address) = parse(hop.trim()) else { break };
        client = address.to_canonical();
    }
    client
}

/// Some proxies write the port too.
fn parse(hop: &str) -> Option<IpAddr> {
    let with_port = || hop.parse().ok().map(|address: std::net::SocketAddr| address.ip());
    hop.trim_start_matches('[').trim_end_matches(']').parse().ok().or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, forwarded: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for list in forwarded {
            headers.append(FORWARDED_FOR, list.parse().unwrap());
        }
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());
        address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn a_stranger_says_nothing_of_their_address() {
        assert_eq!(client("192.0.2.1", &["10.1.2.3"]), "192.0.2.1");
    }

    #[test]
    fn a_trusted_proxy_says_who_it_speaks_for() {
        assert_eq!(client("10.0.0.1", &["192.0.2.7"]), "192.0.2.7");
        assert_eq!(client("::ffff:10.0.0.1", &["192.0.2.7:4711"]), "192.0.2.7");
        assert_eq!(client("fd00::1", &["[2001:db8::7]:4711"]), "2001:db8::7");
    }

    #[test]
    fn what_stands_in_front_of_the_first_stranger_is_theirs() {
        assert_eq!(client("10.0.0.1", &["10.9.9.9, 192.0.2.7, 10.0.0.2"]), "192.0.2.7");
        assert_eq!(client("10.0.0.1", &["10.9.9.9", "192.0.2.7", "10.0.0.2"]), "192.0.2.7");
    }

    #[test]
    fn what_is_no_address_ends_the_chain() {
        assert_eq!(client("10.0.0.1", &["192.0.2.7, unknown, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
    }
}
