//! The command line, and the environment behind it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use berth_token_client::RegistryHost;
use lexopt::prelude::*;

const HELP: &str = "\
Gives the kubelet credentials to pull from Berth with.

The kubelet starts this program; deploy/kubernetes/credential-provider-config.yaml shows how to tell
it to. It reads a CredentialProviderRequest from standard input and writes a
CredentialProviderResponse (credentialprovider.kubelet.k8s.io/v1) to standard output. On failure it
says why on standard error, and its exit code is 1.

Usage: berth-credential-provider [OPTIONS]

Which registries:
  --registry HOST[:PORT]     Answer for this registry only; may be given several times. An image of
                             another registry gets an empty answer, which is no error. Without it,
                             every image that the kubelet asks about is taken to be in a Berth
  --token-realm HOST[:PORT]  Send tokens to this host too, where a registry names it as its token
                             service; without it, to the registry itself alone

Whose identity:
  By default that of the pod's service account: its token is exchanged for one that can pull, what
  the account may, and nothing else, and ends no later. The kubelet sends it where
  tokenAttributes.serviceAccountTokenAudience is configured.
  --passthrough              Give the service account's token itself to the registry, as password,
                             instead of exchanging it. Needs cacheType: Token
  --node                     Use the node's identity, also where there is a service account
  --node-annotation KEY      Use the node's identity for service accounts that have the annotation
                             KEY=node. Whoever may annotate a service account can then pull what the
                             node can
  --node-identity KIND       How the node says who it is: certificate, azure, gcp or none. A pod
                             without a service account gets the node's identity too
                             [default: certificate if --node-certificate is given, else none]
  --node-certificate FILE    The node's certificate and key, PEM, in one file; the kubelet's own is
                             /var/lib/kubelet/pki/kubelet-client-current.pem
  --azure-resource URI       The application that the managed identity's token is for
  --azure-client-id ID       Which managed identity, where the machine has several
  --gcp-audience AUDIENCE    The audience of the machine's identity token [default: the registry's
                             host, with its port if there is one]
                             There is no aws: AWS gives its machines no token that others can verify

How:
  --ca-file FILE             Trust the certificates in this file, PEM, instead of the system's
  --timeout DURATION         End after this long, with retries and all: 500ms, 10s, 1m. The kubelet
                             waits for a minute [default: 10s]
  --username NAME            The user name to go with the token; the registry takes any
                             [default: berth]
  --plain-http               Speak HTTP without TLS to the registry: for a test on one machine
  -h, --help                 Say this
  -V, --version              Say which version this is

Each option can also be given by the environment: BERTH_PROVIDER_ and its name in capitals, such as
BERTH_PROVIDER_CA_FILE; true or false for those without a value, commas between several registries.
HTTPS_PROXY and NO_PROXY are followed.
";

/// How a node says who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeIdentity {
    /// By its client certificate.
    Certificate,
    /// By its managed identity.
    Azure,
    /// By its service account of Google's.
    Google,
    /// Not at all.
    None,
}

/// What the command line says.
#[derive(Debug)]
pub struct Flags {
    pub registries: Vec<RegistryHost>,
    pub token_realm: Option<RegistryHost>,
    pub passthrough: bool,
    pub node: bool,
    pub node_annotation: Option<String>,
    pub node_identity: NodeIdentity,
    pub node_certificate: Option<PathBuf>,
    pub azure_resource: Option<String>,
    pub azure_client_id: Option<String>,
    pub gcp_audience: Option<String>,
    pub azure_metadata: String,
    pub gcp_metadata: String,
    pub ca_file: Option<PathBuf>,
    pub timeout: Duration,
    pub username: String,
    pub plain_http: bool,
}

/// What is to be done.
#[derive(Debug)]
pub enum Command {
    /// Answer the kubelet.
    Provide(Box<Flags>),
    /// Say something.
    Say(String),
}

/// A command line that cannot be meant.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}; --help says what can be given")]
    Arguments(#[from] lexopt::Error),
    #[error("{name}: {problem}")]
    Value { name: String, problem: String },
}

const OPTIONS: [&str; 11] = [
    "registry",
    "token-realm",
    "node-annotation",
    "node-identity",
    "node-certificate",
    "azure-resource",
    "azure-client-id",
    "gcp-audience",
    "ca-file",
    "timeout",
    "username",
];
const SWITCHES: [&str; 3] = ["passthrough", "node", "plain-http"];

impl Flags {
    /// Reads the arguments, the program's name first, and for what they do not say the environment.
    pub fn read(
        arguments: impl IntoIterator<Item = OsString>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Command, Error> {
        let mut given: Vec<(&'static str, String)> = Vec::new();
        let mut parser = lexopt::Parser::from_iter(arguments);
        while let Some(argument) = parser.next()? {
            match argument {
                Short('h') | Long("help") => return Ok(Command::Say(HELP.to_owned())),
                Short('V') | Long("version") => {
                    let version = concat!("berth-credential-provider ", env!("CARGO_PKG_VERSION"), "\n");
                    return Ok(Command::Say(version.to_owned()));
                }
                Long(name) => {
                    if let Some(switch) = SWITCHES.into_iter().find(|switch| *switch == name) {
                        given.push((switch, "true".to_owned()));
                    } else if let Some(option) = OPTIONS.into_iter().find(|option| *option == name) {
                        given.push((option, parser.value()?.string()?));
                    } else {
                        return Err(argument.unexpected().into());
                    }
                }
                _ => return Err(argument.unexpected().into()),
            }
        }
        let from_environment = |name: &str| {
            let value = variable(&format!("BERTH_PROVIDER_{}", name.to_uppercase().replace('-', "_")))?;
            (!value.is_empty()).then_some(value)
        };
        let one = |name: &'static str| {
            let last = given.iter().rev().find(|(option, _)| *option == name);
            last.map(|(_, value)| value.clone()).or_else(|| from_environment(name))
        };
        let switch = |name: &'static str| match one(name).as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(_) => Err(wrong(name, "is either true or false")),
        };
        let host = |name: &str, text: &str| {
            text.trim().parse::<RegistryHost>().map_err(|error| wrong(name, &error.to_string()))
        };

        let mut registries: Vec<_> = given.iter().filter(|(name, _)| *name == "registry").collect();
        let listed = if registries.is_empty() { from_environment("registry") } else { None };
        let listed = listed.map(|value| ("registry", value));
        registries.extend(&listed);
        let registries = registries
            .iter()
            .flat_map(|(_, value)| value.split(','))
            .map(|text| host("registry", text))
            .collect::<Result<Vec<_>, _>>()?;
        let node_certificate = one("node-certificate").map(PathBuf::from);
        let node_identity = match one("node-identity").as_deref() {
            Some("certificate") => NodeIdentity::Certificate,
            Some("azure") => NodeIdentity::Azure,
            Some("gcp") => NodeIdentity::Google,
            Some("none") => NodeIdentity::None,
            Some("aws") => {
                let problem = "AWS gives its machines no token that others can verify; use a certificate";
                return Err(wrong("node-identity", problem));
            }
            Some(_) => return Err(wrong("node-identity", "is one of certificate, azure, gcp, none")),
            None if node_certificate.is_some() => NodeIdentity::Certificate,
            None => NodeIdentity::None,
        };
        let flags = Self {
            registries,
            token_realm: one("token-realm").map(|text| host("token-realm", &text)).transpose()?,
            passthrough: switch("passthrough")?,
            node: switch("node")?,
            node_annotation: one("node-annotation"),
            node_identity,
            node_certificate,
            azure_resource: one("azure-resource"),
            azure_client_id: one("azure-client-id"),
            gcp_audience: one("gcp-audience"),
            // The names by which the clouds' own libraries find another metadata server.
            azure_metadata: variable("AZURE_POD_IDENTITY_AUTHORITY_HOST")
                .unwrap_or_else(|| "http://169.254.169.254".to_owned()),
            gcp_metadata: variable("GCE_METADATA_HOST")
                .unwrap_or_else(|| "metadata.google.internal".to_owned()),
            ca_file: one("ca-file").map(PathBuf::from),
            timeout: one("timeout").map_or(Ok(Duration::from_secs(10)), |text| duration(&text))?,
            username: one("username").unwrap_or_else(|| "berth".to_owned()),
            plain_http: switch("plain-http")?,
        };
        flags.check()?;
        Ok(Command::Provide(Box::new(flags)))
    }

    fn check(&self) -> Result<(), Error> {
        let Self { node_identity, node_certificate, azure_resource, .. } = self;
        match node_identity {
            NodeIdentity::Certificate if node_certificate.is_none() => {
                Err(wrong("node-identity", "certificate needs --node-certificate FILE"))
            }
            NodeIdentity::Azure if azure_resource.is_none() => {
                Err(wrong("node-identity", "azure needs --azure-resource URI"))
            }
            NodeIdentity::None if self.node || self.node_annotation.is_some() => {
                Err(wrong("node", "needs --node-identity or --node-certificate"))
            }
            _ if self.node && self.passthrough => {
                Err(wrong("passthrough", "is for service accounts, and --node says to use none"))
            }
            _ if self.username.is_empty() || self.username.contains(':') => {
                Err(wrong("username", "cannot be empty or have a colon"))
            }
            _ => Ok(()),
        }
    }
}

fn wrong(name: &str, problem: &str) -> Error {
    Error::Value { name: format!("--{name}"), problem: problem.to_owned() }
}

fn duration(text: &str) -> Result<Duration, Error> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000)];
    let parsed = units.into_iter().find_map(|(unit, millis)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(millis)
    });
    match parsed {
        Some(millis @ 1..=3_600_000) => Ok(Duration::from_millis(millis)),
        _ => Err(wrong("timeout", "is a time such as 500ms, 10s or 1m, of at most an hour")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &str, environment: &[(&str, &str)]) -> Result<Flags, Error> {
        let arguments = ["program"].into_iter().chain(arguments.split_whitespace()).map(OsString::from);
        let variable = |name: &str| {
            let found = environment.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        match Flags::read(arguments, variable)? {
            Command::Provide(flags) => Ok(*flags),
            Command::Say(text) => panic!("{text}"),
        }
    }

    #[test]
    fn the_command_line_comes_before_the_environment() {
        let environment = [
            ("BERTH_PROVIDER_REGISTRY", "a.example, b.example:5000"),
            ("BERTH_PROVIDER_TIMEOUT", "3s"),
            ("BERTH_PROVIDER_PASSTHROUGH", "true"),
            ("BERTH_PROVIDER_USERNAME", ""),
        ];
        let flags = read("", &environment).unwrap();
        assert_eq!(
            flags.registries.iter().map(RegistryHost::as_str).collect::<Vec<_>>(),
            ["a.example", "b.example:5000"]
        );
        assert_eq!(
            (flags.timeout, flags.passthrough, &*flags.username),
            (Duration::from_secs(3), true, "berth")
        );
        let flags = read("--registry c.example --registry=d.example --timeout=250ms", &environment).unwrap();
        assert_eq!(
            flags.registries.iter().map(RegistryHost::as_str).collect::<Vec<_>>(),
            ["c.example", "d.example"]
        );
        assert_eq!(flags.timeout, Duration::from_millis(250));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for bad in [
            "--registry",
            "--registry https://r",
            "--unknown",
            "word",
            "--timeout 10",
            "--timeout 0s",
            "--timeout 2h",
            "--node",
            "--node-annotation key",
            "--node-identity certificate",
            "--node-identity azure",
            "--node-identity aws",
            "--node --passthrough --node-certificate f",
            "--username a:b",
            "--passthrough=maybe",
        ] {
            assert!(read(bad, &[]).is_err(), "{bad}");
        }
        assert!(read("", &[("BERTH_PROVIDER_NODE", "perhaps")]).is_err());
        assert!(read("--node-identity aws", &[]).unwrap_err().to_string().contains("no token"));
    }

    #[test]
    fn help_names_every_option() {
        for option in OPTIONS.into_iter().chain(SWITCHES) {
            assert!(HELP.contains(&format!("--{option} ")), "{option}");
        }
        assert!(HELP.lines().all(|line| line.len() <= 100));
    }
}
