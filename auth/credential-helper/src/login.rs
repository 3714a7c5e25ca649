//! `berth login`: a person, a browser anywhere, and a code (RFC 8628).

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use berth_token_client::{
    Clock, Discovery, Exchange, Http, Limit, RegistryHost, Secret, Settings, Subject, Trust, Wanted, revoke,
};
use serde::Deserialize;

use crate::{CLIENT, Error, Result, Session, Sessions, TOKEN_USER};

/// How long one request of a login may take.
const REQUEST: Duration = Duration::from_secs(20);
/// What RFC 8628 (section 3.2) has where the provider does not say.
const POLL_SECONDS: u64 = 5;

/// Which of the provider's tokens stands for the person.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LoginToken {
    /// The ID token.
    #[default]
    Id,
    /// The access token, where the provider makes JWTs of them and has no ID tokens with groups.
    Access,
}

/// A login that is wanted.
#[derive(Debug, Clone)]
pub struct Login {
    /// Where to.
    pub registry: RegistryHost,
    /// Certificates to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether the registry is spoken to without TLS, and the provider too where its address is http.
    pub plain_http: bool,
    /// Which of the provider's tokens stands for the person.
    pub token: LoginToken,
}

/// What the person has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The page to open.
    pub url: String,
    /// What to enter there.
    pub code: String,
    /// A page that has the code already.
    pub complete_url: Option<String>,
    /// For how many seconds the code is good.
    pub seconds: u64,
}

impl fmt::Display for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Open {} and enter the code {}", self.url, self.code)?;
        if let Some(url) = &self.complete_url {
            writeln!(f, "or open {url}")?;
        }
        write!(f, "The code is good for {} minutes.", self.seconds.div_ceil(60))
    }
}

#[derive(Deserialize)]
struct Described {
    issuer: String,
    client_id: String,
    scopes: String,
    audience: Option<String>,
}

#[derive(Deserialize)]
struct Provider {
    issuer: String,
    device_authorization_endpoint: Option<String>,
    token_endpoint: String,
}

#[derive(Deserialize)]
struct Device {
    #[serde(rename = "device_code")]
    secret_code: String,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: u64,
    interval: Option<u64>,
}

#[derive(Deserialize)]
struct Tokens {
    id_token: Option<String>,
    access_token: Option<String>,
}

/// Logs a person in and keeps the session; `prompt` is called once, with what the person has to do.
///
/// Blocks until the person has answered, or the code is too old.
pub fn login(
    login: &Login,
    sessions: &Sessions,
    clock: &Clock,
    prompt: &mut dyn FnMut(&Prompt),
) -> Result<Session> {
    let http = client(login.ca_file.clone(), login.plain_http, REQUEST, clock)?;
    let token = ask_provider(login, &http, clock, prompt)?;
    let service = Discovery::default().find(&http, &login.registry)?;
    let subject = Subject::Jwt(&token);
    let issued =
        Exchange { service: &service, subject, scope: None, wanted: Wanted::Refresh, client: CLIENT }
            .run(&http)?;
    let session = Session {
        server_url: login.registry.to_string(),
        username: TOKEN_USER.to_owned(),
        secret: issued.token.reveal().to_owned(),
        expires_at: Some(clock.now().saturating_add(issued.expires_in)),
    };
    sessions.put(session.clone())?;
    Ok(session)
}

/// Forgets a session and, as far as it can be reached, lets the registry know.
///
/// Returns whether there was one. That the registry could not be told is no error: the token ends by itself.
pub fn logout(
    server_url: &str,
    sessions: &Sessions,
    ca_file: Option<PathBuf>,
    plain_http: bool,
    clock: &Clock,
) -> Result<bool> {
    let Some(session) = sessions.remove(server_url)? else { return Ok(false) };
    let host = session.server_url.split_once("://").map_or(&*session.server_url, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or_default().parse::<RegistryHost>();
    // A password that was given to `docker login` is no token, and stays good.
    if session.username == TOKEN_USER
        && let (Ok(host), Ok(token)) = (host, Secret::new(session.secret, "the session's token"))
    {
        let told = client(ca_file, plain_http, Duration::from_secs(5), clock)
            .and_then(|http| Ok(revoke(&http, &host, &token)?));
        if let Err(error) = told {
            eprintln!("logged out here; {host} could not be told: {error}");
        }
    }
    Ok(true)
}

fn client(ca_file: Option<PathBuf>, plain_http: bool, each: Duration, clock: &Clock) -> Result<Http> {
    Ok(Http::new(&Settings {
        trust: ca_file.map_or(Trust::System, Trust::SystemAnd),
        client_certificate: None,
        limit: Limit::Each(each),
        plain_http,
        proxy: true,
        clock: clock.clone(),
    })?)
}

fn ask_provider(
    login: &Login,
    http: &Http,
    clock: &Clock,
    prompt: &mut dyn FnMut(&Prompt),
) -> Result<Secret> {
    let answer = http.get(&format!("{}://{}/.well-known/berth-login", http.scheme(), login.registry), &[])?;
    if answer.status == 404 {
        return Err(Error::NoLogin(login.registry.clone()));
    }
    let described: Described = answer.json()?;
    let issuer = described.issuer.trim_end_matches('/');
    // That the registry has no TLS is no reason to go without it elsewhere.
    let secure = if login.plain_http && issuer.starts_with("https://") {
        Some(client(login.ca_file.clone(), false, REQUEST, clock)?)
    } else {
        None
    };
    let http = secure.as_ref().unwrap_or(http);
    let provider: Provider = http.get(&format!("{issuer}/.well-known/openid-configuration"), &[])?.json()?;
    if provider.issuer.trim_end_matches('/') != issuer {
        return Err(Error::OtherIssuer { expected: visible(issuer), found: visible(&provider.issuer) });
    }
    let endpoint =
        provider.device_authorization_endpoint.ok_or_else(|| Error::NoDeviceFlow(visible(issuer)))?;
    let client = ("client_id", described.client_id.as_str());
    let mut form = vec![client, ("scope", described.scopes.as_str())];
    form.extend(described.audience.as_deref().map(|audience| ("audience", audience)));
    let device: Device = http.post(&endpoint, &form)?.json()?;
    prompt(&Prompt {
        url: visible(&device.verification_uri),
        code: visible(&device.user_code),
        complete_url: device.verification_uri_complete.as_deref().map(visible),
        seconds: device.expires_in,
    });

    let until = clock.now().saturating_add(device.expires_in);
    let mut interval = device.interval.unwrap_or(POLL_SECONDS).clamp(1, 60);
    let form = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
        ("device_code", device.secret_code.as_str()),
        client,
    ];
    loop {
        clock.sleep(Duration::from_secs(interval));
        if clock.now() >= until {
            return Err(Error::CodeExpired);
        }
        let refused =
            match http.post(&provider.token_endpoint, &form).and_then(|answer| answer.json::<Tokens>()) {
                Ok(tokens) => return chosen(login.token, tokens),
                Err(refused) => refused,
            };
        match &refused {
            berth_token_client::Error::Refused { code, .. } => match code.as_str() {
                "authorization_pending" => {}
                "slow_down" => interval += 5,
                "expired_token" => return Err(Error::CodeExpired),
                "access_denied" => return Err(Error::Denied),
                _ => return Err(refused.into()),
            },
            // The person is still at it: a connection that broke is no reason to let go (section 3.5).
            berth_token_client::Error::Unreachable { .. } => interval = (interval * 2).min(60),
            _ => return Err(refused.into()),
        }
    }
}

fn chosen(wanted: LoginToken, tokens: Tokens) -> Result<Secret> {
    let (token, name) = match wanted {
        LoginToken::Id => (tokens.id_token, "ID token; is openid among the scopes?"),
        LoginToken::Access => (tokens.access_token, "access token"),
    };
    Ok(Secret::new(token.ok_or(Error::NoToken(name))?, "the identity provider's token")?)
}

/// What another server wrote, without what would move a terminal's cursor.
fn visible(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(2000).collect()
}
