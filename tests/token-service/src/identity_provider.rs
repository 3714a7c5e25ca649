//! An identity provider with the device flow (RFC 8628).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::authority::Authority;
use crate::complaints::Complaints;
use crate::server::{Reply, Request, Server};

/// What the provider says when it is polled.
#[derive(Debug, Clone)]
pub enum Poll {
    /// The person has not answered yet.
    Pending,
    /// The same, and ask less often.
    SlowDown,
    /// The person said no.
    Denied,
    /// The code is too old.
    Expired,
    /// The person said yes, and these are the tokens.
    Granted(Value),
    /// Something else.
    Other(Reply),
}

struct State {
    polls: VecDeque<Poll>,
    device: Value,
    started: usize,
    issuer: Option<String>,
}

/// An identity provider on a loopback port, with TLS.
pub struct IdentityProvider {
    server: Server,
    state: Arc<Mutex<State>>,
    complaints: Complaints,
}

impl IdentityProvider {
    /// The client that it knows.
    pub const CLIENT: &'static str = "berth-cli";
    /// The scopes that this client asks for.
    pub const SCOPES: &'static str = "openid profile groups";

    /// Starts it under `authority`; polls are answered in this order.
    pub fn start(
        authority: &Authority,
        audience: Option<&str>,
        polls: impl IntoIterator<Item = Poll>,
    ) -> Self {
        let device = json!({
            "device_code": "device-code-1",
            "user_code": "WDJB-MJHT",
            "verification_uri": "https://idp.example/device",
            "verification_uri_complete": "https://idp.example/device?user_code=WDJB-MJHT",
            "expires_in": 600,
            "interval": 1,
        });
        let polls = polls.into_iter().collect();
        let state = Arc::new(Mutex::new(State { polls, device, started: 0, issuer: None }));
        let complaints = Complaints::default();
        let handler = {
            let (state, complaints) = (state.clone(), complaints.clone());
            let audience = audience.map(str::to_owned);
            move |request: &Request| {
                let mut state = state.lock().expect("no holder panics");
                answer(&mut state, request, audience.as_deref()).unwrap_or_else(|complaint| {
                    complaints.add(format!("{} {}: {complaint}", request.method, request.path));
                    Reply::json(400, &json!({"error": "invalid_request", "error_description": complaint}))
                })
            }
        };
        Self { server: Server::start(Some(authority.server()), handler), state, complaints }
    }

    /// Its name.
    pub fn issuer(&self) -> String {
        format!("https://{}/realm", self.server.address)
    }

    /// What a registry's `berth-login` says of it.
    pub fn login(&self) -> Value {
        json!({"issuer": self.issuer(), "client_id": Self::CLIENT, "scopes": Self::SCOPES})
    }

    /// Changes what the device authorization answers; null takes a field out.
    pub fn answer_device(&self, field: &str, value: Value) {
        let mut state = self.state.lock().expect("no holder panics");
        let device = state.device.as_object_mut().expect("it is one");
        if value.is_null() {
            device.remove(field)
        } else {
            device.insert(field.to_owned(), value)
        };
    }

    /// Names itself otherwise in its discovery document.
    pub fn call_itself(&self, issuer: &str) {
        self.state.lock().expect("no holder panics").issuer = Some(issuer.to_owned());
    }

    /// How many logins were begun.
    pub fn started(&self) -> usize {
        self.state.lock().expect("no holder panics").started
    }

    /// How many polls are still to come.
    pub fn polls_left(&self) -> usize {
        self.state.lock().expect("no holder panics").polls.len()
    }

    /// What it was sent and should not have been.
    pub fn complaints(&self) -> Vec<String> {
        self.complaints.take()
    }
}

impl Drop for IdentityProvider {
    fn drop(&mut self) {
        self.complaints.settle();
    }
}

fn answer(state: &mut State, request: &Request, audience: Option<&str>) -> Result<Reply, String> {
    let base = format!("https://{}/realm", request.headers.get("host").ok_or("no Host")?);
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/realm/.well-known/openid-configuration") => Ok(Reply::json(
            200,
            &json!({
                "issuer": state.issuer.clone().unwrap_or_else(|| base.clone()),
                "device_authorization_endpoint": format!("{base}/device"),
                "token_endpoint": format!("{base}/token"),
            }),
        )),
        ("POST", "/realm/device") => {
            let form = request.form()?;
            let field = |name: &str| form.get(name).map(String::as_str);
            if field("client_id") != Some(IdentityProvider::CLIENT)
                || field("scope") != Some(IdentityProvider::SCOPES)
                || field("audience") != audience
            {
                return Err(format!("not what this client asks for: {form:?}"));
            }
            state.started += 1;
            Ok(Reply::json(200, &state.device))
        }
        ("POST", "/realm/token") => {
            let form = request.form()?;
            let field = |name: &str| form.get(name).map(String::as_str);
            if field("grant_type") != Some("urn:ietf:params:oauth:grant-type:device_code")
                || field("device_code") != Some("device-code-1")
                || field("client_id") != Some(IdentityProvider::CLIENT)
            {
                return Err(format!("no poll: {form:?}"));
            }
            let error = |code: &str| Reply::json(400, &json!({"error": code}));
            Ok(match state.polls.pop_front().ok_or("a poll after the last one")? {
                Poll::Pending => error("authorization_pending"),
                Poll::SlowDown => error("slow_down"),
                Poll::Denied => error("access_denied"),
                Poll::Expired => error("expired_token"),
                Poll::Granted(tokens) => Reply::json(200, &tokens),
                Poll::Other(reply) => reply,
            })
        }
        _ => Err("nothing is there".into()),
    }
}
