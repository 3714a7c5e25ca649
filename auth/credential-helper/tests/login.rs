//! The device login, with a clock that only waiting moves.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use berth_credential_helper::{Error, Login, LoginToken, Prompt, Session, Sessions, login};
use berth_test_token_service::{IdentityProvider, Poll, Reply, TokenService, jwt};
use berth_token_client::Clock;
use serde_json::{Value, json};

const START: u64 = 1000;

struct Scene {
    service: TokenService,
    provider: IdentityProvider,
    folder: tempfile::TempDir,
    clock: Clock,
    id_token: String,
}

fn id_token() -> String {
    jwt(&json!({"sub": "alice"}))
}

fn granted() -> Poll {
    Poll::Granted(json!({"id_token": id_token(), "access_token": "alices-access-token"}))
}

impl Scene {
    fn new(polls: impl IntoIterator<Item = Poll>) -> Self {
        Self::with_audience(None, polls)
    }

    fn with_audience(audience: Option<&str>, polls: impl IntoIterator<Item = Poll>) -> Self {
        Self::at(TokenService::start(), audience, polls)
    }

    fn at(service: TokenService, audience: Option<&str>, polls: impl IntoIterator<Item = Poll>) -> Self {
        let provider = IdentityProvider::start(&service.authority(), audience, polls);
        let mut described = provider.login();
        if let Some(audience) = audience {
            described["audience"] = audience.into();
        }
        service.login_at(described);
        service.know(&id_token(), "alice");
        let folder = tempfile::tempdir().unwrap();
        service.ca_file(folder.path());
        let clock = Clock::Manual(Arc::new(AtomicU64::new(START)));
        Self { service, provider, folder, clock, id_token: id_token() }
    }

    fn sessions(&self) -> Sessions {
        Sessions::in_folder(self.folder.path().join("berth"))
    }

    fn login(&self) -> Result<Session, Error> {
        self.login_with(LoginToken::Id).0
    }

    fn login_with(&self, token: LoginToken) -> (Result<Session, Error>, Vec<Prompt>) {
        let wanted = Login {
            registry: self.service.host().parse().unwrap(),
            ca_file: Some(self.folder.path().join("ca.pem")),
            plain_http: self.service.is_plain(),
            token,
        };
        let mut prompts = Vec::new();
        let result =
            login(&wanted, &self.sessions(), &self.clock, &mut |prompt| prompts.push(prompt.clone()));
        (result, prompts)
    }

    fn waited(&self) -> u64 {
        self.clock.now() - START
    }
}

#[test]
fn the_session_is_kept_until_its_token_ends() {
    let scene = Scene::new([Poll::Pending, Poll::Pending, granted()]);
    scene.service.expire_in(Some(86_400));
    let (session, prompts) = scene.login_with(LoginToken::Id);
    let session = session.unwrap();
    assert_eq!(scene.sessions().get(&scene.service.host()).unwrap().unwrap(), session);
    assert_eq!((session.username.as_str(), session.secret.as_str()), ("<token>", "refresh-0"));
    assert_eq!(session.expires_at, Some(START + 3 + 86_400));
    assert_eq!(scene.waited(), 3, "three polls, a second apart");
    let url = "https://idp.example/device";
    let complete_url = Some(format!("{url}?user_code=WDJB-MJHT"));
    assert_eq!(prompts, [Prompt { url: url.into(), code: "WDJB-MJHT".into(), complete_url, seconds: 600 }]);
    assert_eq!(scene.service.exchanges()[0].identity, "alice");
}

#[test]
fn a_provider_that_says_slow_down_is_asked_less_often() {
    let scene = Scene::new([Poll::SlowDown, Poll::SlowDown, Poll::Pending, granted()]);
    scene.login().unwrap();
    assert_eq!(scene.waited(), 1 + 6 + 11 + 11);
}

#[test]
fn without_an_interval_it_is_five_seconds() {
    let scene = Scene::new([Poll::Pending, granted()]);
    scene.provider.answer_device("interval", Value::Null);
    scene.provider.answer_device("verification_uri_complete", Value::Null);
    let (session, prompts) = scene.login_with(LoginToken::Id);
    session.unwrap();
    assert_eq!((scene.waited(), &prompts[0].complete_url), (10, &None));
}

#[test]
fn a_broken_connection_does_not_end_a_login() {
    let polls = [Poll::Other(Reply::Close), Poll::Pending, granted()];
    let scene = Scene::new(polls);
    scene.login().unwrap();
    assert_eq!(scene.provider.polls_left(), 0);
}

#[test]
fn a_login_ends_when_the_code_does() {
    let scene = Scene::new([Poll::Pending, Poll::Pending, Poll::Pending, granted()]);
    scene.provider.answer_device("expires_in", 3.into());
    assert!(matches!(scene.login(), Err(Error::CodeExpired)));
    assert_eq!(scene.provider.polls_left(), 2, "the last poll would have been too late");
    for (poll, expired) in [(Poll::Expired, true), (Poll::Denied, false)] {
        let scene = Scene::new([poll]);
        let error = scene.login().unwrap_err();
        assert_eq!(matches!(error, Error::CodeExpired), expired, "{error}");
        assert_eq!(matches!(error, Error::Denied), !expired, "{error}");
        assert_eq!(scene.sessions().list().unwrap(), []);
    }
}

#[test]
fn the_access_token_is_sent_where_that_is_wanted() {
    let scene = Scene::new([granted()]);
    scene.service.know("alices-access-token", "alice-by-access");
    scene.login_with(LoginToken::Access).0.unwrap();
    assert_eq!(scene.service.exchanges()[0].identity, "alice-by-access");
    let scene = Scene::new([Poll::Granted(json!({"access_token": scene.id_token}))]);
    assert!(matches!(scene.login(), Err(Error::NoToken(_))));
}

#[test]
fn the_audience_goes_to_the_provider() {
    let scene = Scene::with_audience(Some("https://registry.example"), [granted()]);
    scene.login().unwrap();
}

#[test]
fn a_registry_without_tls_may_have_a_provider_with_it() {
    let scene = Scene::at(TokenService::start_plain(), None, [granted()]);
    let session = scene.login().unwrap();
    assert_eq!(scene.sessions().get(&scene.service.host()).unwrap().unwrap(), session);
    // The provider's TLS is checked as ever.
    let scene = Scene::at(TokenService::start_plain(), None, []);
    std::fs::write(scene.folder.path().join("ca.pem"), berth_test_token_service::Authority::new().pem())
        .unwrap();
    let error = scene.login().unwrap_err().to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
    assert_eq!(scene.provider.started(), 0);
}

#[test]
fn what_is_wrong_is_said_before_the_person_has_to_do_anything() {
    let no_login = Scene::new([]);
    no_login.service.login_at(Value::Null);
    let error = no_login.login().unwrap_err();
    assert!(error.to_string().contains("what it should not"), "{error}");

    let nobody = TokenService::start();
    let wanted = Login {
        registry: nobody.host().parse().unwrap(),
        ca_file: Some(nobody.ca_file(no_login.folder.path())),
        plain_http: false,
        token: LoginToken::Id,
    };
    let error =
        login(&wanted, &no_login.sessions(), &no_login.clock, &mut |_| panic!("a prompt")).unwrap_err();
    assert!(matches!(error, Error::NoLogin(_)), "{error}");

    let other = Scene::new([]);
    other.provider.call_itself("https://elsewhere.example");
    let error = other.login().unwrap_err();
    assert!(matches!(error, Error::OtherIssuer { .. }), "{error}");
    assert_eq!(other.provider.started(), 0);
}

#[test]
fn a_page_cannot_move_the_terminals_cursor() {
    let scene = Scene::new([granted()]);
    scene.provider.answer_device("user_code", "A\u{1b}[2JB\r\n".into());
    let (session, prompts) = scene.login_with(LoginToken::Id);
    session.unwrap();
    assert_eq!(prompts[0].code, "A[2JB");
}

#[test]
fn a_registry_that_refuses_the_person_keeps_no_session() {
    let scene = Scene::new([Poll::Granted(json!({"id_token": jwt(&json!({"sub": "mallory"}))}))]);
    let error = scene.login().unwrap_err().to_string();
    assert!(error.contains("no issuer here signed this token"), "{error}");
    assert_eq!(scene.sessions().list().unwrap(), []);
}
