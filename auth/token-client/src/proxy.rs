//! Which proxy a request goes through, by the rules that Go has: the kubelet's environment is written for
//! it, and docker's, podman's and the others' too.

use std::net::IpAddr;

use ureq::Proxy;
use ureq::http::Uri;

use crate::{Error, Result};

/// The proxy of the environment, and who is reached without it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proxies {
    proxy: Option<Proxy>,
    exceptions: String,
}

impl Proxies {
    /// Reads `HTTPS_PROXY`, or `HTTP_PROXY` for those who speak plain HTTP, and `NO_PROXY`.
    pub(crate) fn of_environment(plain: bool, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let either = |upper: &str| {
            let found = variable(upper).or_else(|| variable(&upper.to_lowercase()));
            found.filter(|value| !value.trim().is_empty())
        };
        let name = if plain { "HTTP_PROXY" } else { "HTTPS_PROXY" };
        let proxy = either(name).map(|address| Proxy::new(address.trim())).transpose();
        // The address may hold a password.
        let proxy = proxy.map_err(|_| Error::Proxy(name))?;
        Ok(Self { proxy, exceptions: either("NO_PROXY").unwrap_or_default() })
    }

    /// The proxy for a request to `url`.
    pub(crate) fn find(&self, url: &str) -> Option<Proxy> {
        let uri: Uri = url.parse().ok()?;
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
        let host = uri.host()?.trim_matches(['[', ']']);
        self.proxy.clone().filter(|_| !is_exception(&self.exceptions, &host.to_ascii_lowercase(), port))
    }
}

/// Whether a host is reached without the proxy: this machine itself, and what the list has.
fn is_exception(list: &str, host: &str, port: u16) -> bool {
    let address: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    list.split(',').map(|entry| entry.trim().to_ascii_lowercase()).filter(|entry| !entry.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let (Some((network, bits)), Some(address)) = (entry.split_once('/'), address) {
            let (network, bits) = (network.parse::<IpAddr>(), bits.parse::<u32>());
            return matches!((network, bits), (Ok(network), Ok(bits)) if is_within(network, bits, address));
        }
        if let (Ok(entry), Some(address)) = (entry.parse::<IpAddr>(), address) {
            return entry == address;
        }
        let (name, wanted) = match entry.rsplit_once(':').map(|(name, port)| (name, port.parse::<u16>())) {
            Some((name, Ok(port))) => (name.trim_matches(['[', ']']), Some(port)),
            _ => (entry.as_str(), None),
        };
        if wanted.is_some_and(|wanted| wanted != port) {
            return false;
        }
        // `.example.com` and `*.example.com` are what is below it, `example.com` is it too.
        let below = |domain: &str| host.strip_suffix(domain).is_some_and(|before| before.ends_with('.'));
        match name.strip_prefix("*.").or_else(|| name.strip_prefix('.')) {
            Some(domain) => below(domain),
            None => host == name || (address.is_none() && below(name)),
        }
    })
}

fn is_within(network: IpAddr, bits: u32, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) if bits <= 32 => {
            let differ = u32::from(network) ^ u32::from(address);
            differ.checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(network), IpAddr::V6(address)) if bits <= 128 => {
            let differ = u128::from(network) ^ u128::from(address);
            differ.checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions() {
        let list = "10.0.0.0/8, .svc,example.com,*.corp.example,192.0.2.7,2001:db8::/32,port.example:5000";
        let out = [
            "10.1.2.3",
            "a.svc",
            "example.com",
            "r.example.com",
            "a.corp.example",
            "192.0.2.7",
            "2001:db8::1",
        ];
        for host in out {
            assert!(is_exception(list, host, 443), "{host}");
        }
        let through =
            ["11.0.0.1", "svc", "notexample.com", "corp.example", "192.0.2.8", "2001:db9::1", "port.example"];
        for host in through {
            assert!(!is_exception(list, host, 443), "{host}");
        }
        assert!(is_exception(list, "port.example", 5000));
        assert!(is_exception("*", "anything", 443) && is_exception("", "localhost", 1));
        assert!(is_exception("", "127.8.9.1", 1) && is_exception("", "::1", 1));
        assert!(is_exception("0.0.0.0/0", "192.0.2.8", 443) && !is_exception("10.0.0.0/33", "10.0.0.0", 443));
    }

    #[test]
    fn the_proxy_of_the_scheme_is_taken() {
        let of = |plain: bool, pairs: &'static [(&str, &str)], url: &str| {
            let find = |name: &str| Some(pairs.iter().find(|(variable, _)| *variable == name)?.1.to_owned());
            let found = Proxies::of_environment(plain, find).unwrap().find(url);
            found.map(|proxy| format!("{}:{}", proxy.host(), proxy.port()))
        };
        let url = "https://r.example/token";
        assert_eq!(of(false, &[("HTTP_PROXY", "http://p.example:1")], url), None);
        assert_eq!(of(true, &[("HTTP_PROXY", "http://p.example:1")], url).as_deref(), Some("p.example:1"));
        assert_eq!(of(false, &[("https_proxy", "http://p.example:2")], url).as_deref(), Some("p.example:2"));
        let both: &[(&str, &str)] = &[("HTTPS_PROXY", "http://p.example:2"), ("NO_PROXY", "r.example")];
        assert_eq!(of(false, both, url), None);
        assert!(of(false, both, "https://other.example:5000/v2/").is_some());
        let bad =
            Proxies::of_environment(false, |_| Some("ftp://user:s3cr3t@p.example".to_owned())).unwrap_err();
        assert!(!format!("{bad} {bad:?}").contains("s3cr3t"));
    }
}
