//! Image references, as far as they say which repository of which registry.

use berth_token_client::RegistryHost;

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub registry: RegistryHost,
    pub repository: String,
}

/// An image reference that is none.
#[derive(Debug, thiserror::Error)]
#[error("{image:?} is no image reference: {problem}")]
pub struct Malformed {
    image: String,
    problem: &'static str,
}

impl Image {
    /// Reads `HOST[:PORT]/NAME[:TAG][@DIGEST]`; `None` where no registry is named.
    ///
    /// The kubelet has filled in the default registry before it asks, so a name without a registry is none of ours.
    pub fn parse(image: &str) -> Result<Option<Self>, Malformed> {
        let malformed = |problem| Malformed { image: image.chars().take(300).collect(), problem };
        if image.is_empty() {
            return Err(malformed("it is empty"));
        }
        let (name, digest) = match image.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (image, None),
        };
        let good_digest = |digest: &str| {
            digest.split_once(':').is_some_and(|(algorithm, encoded)| {
                !algorithm.is_empty()
                    && algorithm.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+._-".contains(&byte))
                    && encoded.len() >= 32
                    && encoded.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"=_-".contains(&byte))
            })
        };
        if digest.is_some_and(|digest| !good_digest(digest)) {
            return Err(malformed("its digest is none"));
        }
        // A colon before the last slash is the port's.
        let (name, tag) = match name.rsplit_once(':') {
            Some((before, tag)) if !tag.contains('/') => (before, Some(tag)),
            _ => (name, None),
        };
        let good_tag = |tag: &str| {
            let byte = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
            (1..=128).contains(&tag.len()) && tag.bytes().all(byte) && !tag.starts_with(['.', '-'])
        };
        if tag.is_some_and(|tag| !good_tag(tag)) {
            return Err(malformed("its tag is none"));
        }
        // The first part is a registry if it cannot be a part of a repository's name (the reference
        // grammar of docker, which the kubelet uses).
        let registry = name.split_once('/').filter(|(first, _)| {
            first.contains(['.', ':', '['])
                || *first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase())
        });
        let repository = registry.map_or(name, |(_, repository)| repository);
        if !is_repository(repository) {
            return Err(malformed("its repository's name is none"));
        }
        let Some((registry, repository)) = registry else { return Ok(None) };
        let registry = registry.parse().map_err(|_| malformed("its registry's name is none"))?;
        Ok(Some(Self { registry, repository: repository.to_owned() }))
    }
}

/// Parts of lower-case letters and digits between slashes, with single separators inside.
fn is_repository(name: &str) -> bool {
    let word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let part = |part: &str| {
        let mut separators = part.as_bytes().split(word).filter(|run| !run.is_empty());
        part.as_bytes().first().is_some_and(word)
            && part.as_bytes().last().is_some_and(word)
            && separators
                .all(|run| matches!(run, b"." | b"_" | b"__") || run.iter().all(|byte| *byte == b'-'))
    };
    name.len() <= 255 && name.split('/').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_and_the_repository_are_found() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for suffix in ["", ":v1", ":V1.0_rc-1", &format!("@{digest}"), &format!(":v1@{digest}")] {
            for (host, repository) in [
                ("r.example.com", "app"),
                ("r.example.com:5000", "team/app"),
                ("localhost", "a/b/c"),
                ("localhost:5000", "a"),
                ("127.0.0.1:443", "a--b/c__d/e.f"),
                ("[::1]:5000", "a"),
            ] {
                let image = Image::parse(&format!("{host}/{repository}{suffix}")).unwrap().unwrap();
                assert_eq!((image.registry.as_str(), &*image.repository), (host, repository));
            }
        }
    }

    #[test]
    fn without_a_registry_it_is_none_of_ours() {
        for image in ["nginx", "nginx:1", "library/nginx", "team/app:v1"] {
            assert_eq!(Image::parse(image).unwrap(), None, "{image}");
        }
    }

    #[test]
    fn malformed_references_are_refused() {
        let bad = "|r.example/|r.example//a|r.example/A|r.example/a:|r.example/a:-x|r.example/a@|r.example/a@sha256|\
            r.example/a@sha256:zz|r.example:/a|r.example:x/a|/a|r.example/a b|r.example/a\n|https://r.example/a|\
            r.example/a..b|r.example/-a|r.example/a:b:c|r.example/a@b@c|r.exam ple/a|..|a/../b|r.example/a?b";
        for bad in bad.split('|') {
            assert!(Image::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Image::parse(&format!("r.example/{}", "a".repeat(256))).is_err());
    }
}
