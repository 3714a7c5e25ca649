//! Docker's credential helper for Berth.
//!
//! The protocol is docker-credential-helpers': an action as argument, input on standard input, the answer
//! or the error on standard output.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use berth_credential_helper::{
    DockerConfig, Error, Login, LoginToken, Result, Session, Sessions, TOKEN_USER, ambient, login, logout,
};
use berth_token_client::{
    Clock, Discovery, Exchange, Http, Limit, RegistryHost, Secret, Settings, Subject, Trust, Wanted,
};
use lexopt::prelude::*;
use serde::{Deserialize, Serialize};

/// What clients compare with, to tell that there is no credential from a failure.
const NOT_FOUND: &str = "credentials not found in native keychain";
const NO_SERVER_URL: &str = "no credentials server URL";
const NO_USERNAME: &str = "no credentials username";
/// What docker writes is a host name, or a host name and a credential.
const INPUT_LIMIT_BYTES: u64 = 1024 * 1024;
const TIME_LIMIT: Duration = Duration::from_secs(20);

const HELP: &str = "\
Gives docker, podman, buildx, oras and their kin credentials for Berth.

Usage:
  docker-credential-berth login [OPTIONS] HOST[:PORT]
  docker-credential-berth logout [OPTIONS] HOST[:PORT]
  docker-credential-berth get|store|erase|list|version      (for docker and its kin)

Options:
  --configure-docker   login: also write into docker's config.json that this program has the
                       credentials of HOST
  --access-token       login: send the identity provider's access token, instead of its ID token
  --ca-file FILE       Trust the certificates in FILE, PEM, beside the system's [env: BERTH_CA_FILE]
  --plain-http         Speak HTTP without TLS: for a test on one machine [env: BERTH_PLAIN_HTTP=true]
  -h, --help           Say this
  -V, --version        Say which version this is

For get, the first of these that is there says who you are:
  BERTH_IDENTITY_TOKEN_FILE, or /var/run/secrets/berth/token    a pod's projected token
  ACTIONS_ID_TOKEN_REQUEST_URL and _TOKEN                       GitHub Actions (id-token: write)
  BERTH_ID_TOKEN                                                GitLab (id_tokens:), or any JWT
  AZURE_FEDERATED_TOKEN_FILE                                    Azure workload identity
  BERTH_AZURE_RESOURCE=URI (and AZURE_CLIENT_ID)                Azure managed identity
  BERTH_GCP_IDENTITY=true                                       the machine's Google service account
  AWS_WEB_IDENTITY_TOKEN_FILE                                   a pod's token for AWS (EKS)
  BUILDKITE=true, where buildkite-agent is                      Buildkite
  else the session of `login`, or what docker login left here.

A token that was made for another audience than HOST goes to HOST only if BERTH_REGISTRY lists it
(several with commas). With BERTH_REGISTRY, identities are used for no other registry. BERTH_AUDIENCE
is the audience to ask for instead of HOST.
";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(Failure::Protocol(text)) => {
            // Clients read an error from standard output.
            println!("{text}");
            ExitCode::FAILURE
        }
        Err(Failure::Person(text)) => {
            eprintln!("docker-credential-berth: {text}");
            ExitCode::FAILURE
        }
    }
}

enum Failure {
    Protocol(String),
    Person(String),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Credential {
    #[serde(rename = "ServerURL", default)]
    server_url: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

struct Arguments {
    words: Vec<String>,
    configure_docker: bool,
    token: LoginToken,
    ca_file: Option<PathBuf>,
    plain_http: bool,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn run() -> Result<ExitCode, Failure> {
    let person = |error: lexopt::Error| Failure::Person(format!("{error}; --help says what can be given"));
    let Some(arguments) = Arguments::read().map_err(person)? else { return Ok(ExitCode::SUCCESS) };
    let words: Vec<_> = arguments.words.iter().map(String::as_str).collect();
    let clock = Clock::System;
    match words.as_slice() {
        ["login", host] => arguments.login(host, &clock).map_err(|error| Failure::Person(error.to_string())),
        ["logout", host] => {
            arguments.logout(host, &clock).map_err(|error| Failure::Person(error.to_string()))
        }
        ["version"] => {
            println!("docker-credential-berth {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
        ["get"] => arguments.get(&input()?, &clock),
        ["store"] => store(&input()?),
        ["erase"] => arguments.erase(&input()?, &clock),
        ["list"] => list(),
        _ => Err(Failure::Person(
            "give it one of login, logout, get, store, erase, list, version; see --help".into(),
        )),
    }
}

fn input() -> Result<String, Failure> {
    let mut text = String::new();
    let mut limited = std::io::stdin().lock().take(INPUT_LIMIT_BYTES);
    limited
        .read_to_string(&mut text)
        .map_err(|error| Failure::Protocol(format!("cannot read the input: {error}")))?;
    Ok(text.trim().to_owned())
}

/// An error for whoever speaks the protocol.
fn protocol(error: impl std::fmt::Display) -> Failure {
    Failure::Protocol(format!("docker-credential-berth: {error}"))
}

impl Arguments {
    /// Reads the command line; `None` if all it wanted has been said.
    fn read() -> Result<Option<Self>, lexopt::Error> {
        let mut arguments = Self {
            words: Vec::new(),
            configure_docker: false,
            token: LoginToken::Id,
            ca_file: variable("BERTH_CA_FILE").map(PathBuf::from),
            plain_http: variable("BERTH_PLAIN_HTTP").is_some_and(|value| value == "true" || value == "1"),
        };
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Short('h') | Long("help") => {
                    print!("{HELP}");
                    return Ok(None);
                }
                Short('V') | Long("version") => arguments.words = vec!["version".to_owned()],
                Long("configure-docker") => arguments.configure_docker = true,
                Long("access-token") => arguments.token = LoginToken::Access,
                Long("ca-file") => arguments.ca_file = Some(parser.value()?.into()),
                Long("plain-http") => arguments.plain_http = true,
                Value(word) => arguments.words.push(word.string()?),
                _ => return Err(argument.unexpected()),
            }
        }
        Ok(Some(arguments))
    }

    fn login(&self, host: &str, clock: &Clock) -> Result<ExitCode> {
        let registry: RegistryHost = host.parse()?;
        let wanted = Login {
            registry: registry.clone(),
            ca_file: self.ca_file.clone(),
            plain_http: self.plain_http,
            token: self.token,
        };
        login(&wanted, &Sessions::of_user(variable)?, clock, &mut |prompt| eprintln!("{prompt}"))?;
        eprintln!("Logged in to {registry}.");
        if self.configure_docker {
            let path = DockerConfig::of_user(variable)?.use_helper_for(&registry)?;
            eprintln!("docker takes its credentials from here: see credHelpers in {}", path.display());
        } else {
            eprintln!("With --configure-docker, docker takes its credentials from here.");
        }
        Ok(ExitCode::SUCCESS)
    }

    fn logout(&self, host: &str, clock: &Clock) -> Result<ExitCode> {
        let registry: RegistryHost = host.parse()?;
        let sessions = Sessions::of_user(variable)?;
        let was = logout(registry.as_str(), &sessions, self.ca_file.clone(), self.plain_http, clock)?;
        eprintln!("{} {registry}.", if was { "Logged out of" } else { "Nobody was logged in to" });
        Ok(ExitCode::SUCCESS)
    }

    fn get(&self, server_url: &str, clock: &Clock) -> Result<ExitCode, Failure> {
        if server_url.is_empty() {
            return Err(Failure::Protocol(NO_SERVER_URL.to_owned()));
        }
        let found = match self.ambient_token(server_url, clock).map_err(protocol)? {
            Some(token) => Some((TOKEN_USER.to_owned(), token.reveal().to_owned())),
            None => {
                stored(server_url, clock).map_err(protocol)?.map(|session| (session.username, session.secret))
            }
        };
        let Some((username, secret)) = found else { return Err(Failure::Protocol(NOT_FOUND.to_owned())) };
        let credential = Credential { server_url: server_url.to_owned(), username, secret };
        println!("{}", serde_json::to_string(&credential).map_err(protocol)?);
        Ok(ExitCode::SUCCESS)
    }

    /// A token for the identity that this place gives, if it gives one and the registry is one for it.
    fn ambient_token(&self, server_url: &str, clock: &Clock) -> Result<Option<Secret>> {
        let sources = ambient::sources(variable);
        let host = server_url.split_once("://").map_or(server_url, |(_, rest)| rest);
        let Ok(registry) = host.trim_end_matches('/').parse::<RegistryHost>() else { return Ok(None) };
        let listed = match variable("BERTH_REGISTRY") {
            Some(list) => {
                let hosts = list.split(',').map(|host| host.trim().parse());
                hosts.collect::<Result<Vec<RegistryHost>, _>>()?.contains(&registry).then_some(true)
            }
            None => Some(false),
        };
        let (false, Some(listed)) = (sources.is_empty(), listed) else { return Ok(None) };
        let settings = Settings {
            trust: self.ca_file.clone().map_or(Trust::System, Trust::SystemAnd),
            client_certificate: None,
            limit: Limit::Until(std::time::Instant::now() + TIME_LIMIT),
            plain_http: self.plain_http,
            proxy: true,
            clock: clock.clone(),
        };
        let http = Http::new(&settings)?;
        let service = match Discovery::default().find(&http, &registry) {
            Ok(service) => service,
            // Docker asks about every registry, and most are none of ours.
            Err(error) if !listed => {
                eprintln!("docker-credential-berth: {registry} gets no identity from here: {error}");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let metadata = Http::new(&Settings { plain_http: true, proxy: false, ..settings })?;
        let audience = variable("BERTH_AUDIENCE").unwrap_or_else(|| registry.to_string());
        for source in sources {
            let token = source.token(&audience, &http, &metadata)?;
            if !listed && !source.is_for(&token, &registry) {
                let name = source.name();
                eprintln!(
                    "docker-credential-berth: {name} is for another audience than {registry}; BERTH_REGISTRY={registry} would have it sent there"
                );
                continue;
            }
            let (subject, wanted) = (Subject::Jwt(&token), Wanted::Lasting);
            let client = "docker-credential-berth";
            let issued = Exchange { service: &service, subject, scope: None, wanted, client }.run(&http)?;
            // An access token would end in the middle of the job. Where there is no other, the registry wants to
            // see the identity itself each time.
            return Ok(Some(if issued.refreshes { issued.token } else { token }));
        }
        Ok(None)
    }

    fn erase(&self, server_url: &str, clock: &Clock) -> Result<ExitCode, Failure> {
        if server_url.is_empty() {
            return Err(Failure::Protocol(NO_SERVER_URL.to_owned()));
        }
        let sessions = Sessions::of_user(variable).map_err(protocol)?;
        logout(server_url, &sessions, self.ca_file.clone(), self.plain_http, clock).map_err(protocol)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The session of a registry, unless it has ended.
fn stored(server_url: &str, clock: &Clock) -> Result<Option<Session>> {
    let sessions = match Sessions::of_user(variable) {
        // A container without a home has no sessions either.
        Err(Error::NoHome(_)) => return Ok(None),
        sessions => sessions?,
    };
    let session = sessions.get(server_url)?;
    if session.as_ref().and_then(|session| session.expires_at).is_some_and(|end| end <= clock.now()) {
        eprintln!("docker-credential-berth: the login to {server_url} has ended; log in again");
        return Ok(None);
    }
    Ok(session)
}

fn store(input: &str) -> Result<ExitCode, Failure> {
    let credential: Credential =
        serde_json::from_str(input).map_err(|_| protocol("the input is no credential"))?;
    if credential.server_url.is_empty() {
        return Err(Failure::Protocol(NO_SERVER_URL.to_owned()));
    }
    if credential.username.is_empty() {
        return Err(Failure::Protocol(NO_USERNAME.to_owned()));
    }
    let Credential { server_url, username, secret } = credential;
    let session = Session { server_url, username, secret, expires_at: None };
    Sessions::of_user(variable).and_then(|sessions| sessions.put(session)).map_err(protocol)?;
    Ok(ExitCode::SUCCESS)
}

fn list() -> Result<ExitCode, Failure> {
    let sessions = Sessions::of_user(variable).and_then(|sessions| sessions.list()).map_err(protocol)?;
    let users: std::collections::BTreeMap<_, _> =
        sessions.into_iter().map(|session| (session.server_url, session.username)).collect();
    println!("{}", serde_json::to_string(&users).map_err(protocol)?);
    Ok(ExitCode::SUCCESS)
}
