//! The name of a registry.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// `HOST` or `HOST:PORT`, in lower case; an IPv6 address is in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistryHost(String);

impl RegistryHost {
    /// The name as it stands in an image.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without its port.
    pub fn without_port(&self) -> &str {
        split(&self.0).map_or(self.as_str(), |(host, _)| host)
    }

    /// The host with the port that a client of `scheme` connects to.
    pub(crate) fn endpoint(&self, scheme: &str) -> (String, u16) {
        let default = if scheme == "http" { 80 } else { 443 };
        let (host, port) = split(&self.0).unwrap_or((&self.0, None));
        (host.to_owned(), port.unwrap_or(default))
    }
}

impl FromStr for RegistryHost {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let name = text.to_ascii_lowercase();
        match split(&name) {
            Some(_) => Ok(Self(name)),
            None => Err(Error::Host(text.chars().take(300).collect())),
        }
    }
}

impl fmt::Display for RegistryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn split(name: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match name.strip_prefix('[') {
        Some(rest) => {
            let (address, _) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            let (host, after) = name.split_at(address.len() + 2);
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return None,
            }
        }
        None => match name.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (name, None),
        },
    };
    if !host.starts_with('[') {
        let label = |label: &str| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if host.len() > 253 || !host.split('.').all(label) {
            return None;
        }
    }
    let Some(port) = port else { return Some((host, None)) };
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((host, Some(port.parse().ok().filter(|port| *port > 0)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in ["registry", "r.example.com", "r.example.com:5000", "127.0.0.1:1", "[::1]:5000", "[::1]"]
        {
            assert_eq!(good.parse::<RegistryHost>().unwrap().as_str(), good);
        }
        assert_eq!("R.Example.COM".parse::<RegistryHost>().unwrap().as_str(), "r.example.com");
        assert_eq!("[::1]:5000".parse::<RegistryHost>().unwrap().without_port(), "[::1]");
        let bad = "|r:|r:0|r:65536|r:+1|r/x|https://r|a@b|a b|a..b|-a|::1|[::1|[x]:1|[::1]x|r:1:2|r\n|é";
        for bad in bad.split('|') {
            assert!(bad.parse::<RegistryHost>().is_err(), "{bad:?}");
        }
    }
}
