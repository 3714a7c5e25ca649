//! The helper, driven as docker drives it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use berth_test_token_service::{IdentityProvider, Metadata, Poll, Reply, TokenService, jwt};
use serde_json::{Value, json};

const NOT_FOUND: &str = "credentials not found in native keychain\n";

/// A user with an empty home, and a registry.
struct Scene {
    service: TokenService,
    home: tempfile::TempDir,
}

/// What a run gave.
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Run {
    fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        serde_json::from_str(&self.stdout).unwrap()
    }

    fn not_found(&self) {
        assert_eq!((self.code, self.stdout.as_str()), (Some(1), NOT_FOUND), "{}", self.stderr);
    }

    fn refused(&self, reason: &str) {
        let said = format!("{}{}", self.stdout, self.stderr);
        assert_eq!(self.code, Some(1), "{said}");
        assert!(said.contains(reason), "{said:?} does not say {reason:?}");
        assert!(!said.contains("eyJ"), "a token in {said:?}");
    }
}

impl Scene {
    fn new() -> Self {
        let scene = Self { service: TokenService::start(), home: tempfile::tempdir().unwrap() };
        scene.service.ca_file(scene.home.path());
        scene
    }

    fn path(&self, name: &str) -> String {
        self.home.path().join(name).to_str().unwrap().to_owned()
    }

    fn sessions(&self) -> PathBuf {
        self.home.path().join(".config/berth/sessions.json")
    }

    fn run(&self, arguments: &[&str], input: &str, environment: &[(&str, &str)]) -> Run {
        // The one that was built for the tests, or another, such as the static one.
        let built = env!("CARGO_BIN_EXE_docker-credential-berth").into();
        let mut child = Command::new(std::env::var_os("HELPER_UNDER_TEST").unwrap_or(built))
            .args(arguments)
            .env_clear()
            .env("HOME", self.home.path())
            .env("BERTH_CA_FILE", self.path("ca.pem"))
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A helper that needs no input may be gone already.
        let _written = child.stdin.take().unwrap().write_all(input.as_bytes());
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Run { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }

    fn get(&self, environment: &[(&str, &str)]) -> Run {
        self.run(&["get"], &self.service.host(), environment)
    }

    fn store(&self, server: &str, username: &str, secret: &str) {
        let input = json!({"ServerURL": server, "Username": username, "Secret": secret}).to_string();
        let run = self.run(&["store"], &input, &[]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""), "{}", run.stderr);
    }

    /// A token for this registry, of an identity that it knows, in a file.
    fn token_file(&self, identity: &str) -> String {
        self.token_file_for(identity, &self.service.host())
    }

    fn token_file_for(&self, identity: &str, audience: &str) -> String {
        let token = jwt(&json!({"sub": identity, "aud": [audience]}));
        self.service.know(&token, identity);
        let path = self.path(&format!("{identity}.token"));
        std::fs::write(&path, token + "\n").unwrap();
        path
    }

    /// Fails unless this is a refresh token that `identity` got.
    fn is_for(&self, run: &Run, identity: &str) {
        let answer = run.json();
        assert_eq!(
            (&answer["ServerURL"], &answer["Username"]),
            (&json!(self.service.host()), &json!("<token>"))
        );
        assert!(answer["Secret"].as_str().unwrap().starts_with("refresh-"), "{answer}");
        let last = self.service.exchanges().pop().unwrap();
        assert_eq!((last.identity.as_str(), last.refresh, last.scope), (identity, true, None));
        assert_eq!(last.client, "docker-credential-berth");
    }
}

#[test]
fn without_any_identity_nothing_is_found_and_nobody_is_asked() {
    let scene = Scene::new();
    scene.get(&[]).not_found();
    scene.run(&["get"], "https://index.hub.example/v1/\n", &[]).not_found();
    assert_eq!(scene.service.requests(), 0);
    assert_eq!(scene.run(&["list"], "", &[]).json(), json!({}));
    assert!(!scene.home.path().join(".config").exists(), "asking leaves nothing behind");
}

#[test]
fn what_docker_login_stores_is_found_again_listed_and_erased() {
    let scene = Scene::new();
    let host = scene.service.host();
    scene.store(&host, "alice", "p\u{e4}ss \"w\u{f6}rd\"");
    scene.store("https://index.hub.example/v1/", "bob", "b");
    let answer = scene.get(&[]).json();
    assert_eq!(answer, json!({"ServerURL": host, "Username": "alice", "Secret": "p\u{e4}ss \"w\u{f6}rd\""}));
    let answer = scene.run(&["get"], &format!("https://{host}/v2/\n"), &[]).json();
    assert_eq!(
        (&answer["Username"], &answer["ServerURL"]),
        (&json!("alice"), &json!(format!("https://{host}/v2/")))
    );
    assert_eq!(
        scene.run(&["list"], "", &[]).json(),
        json!({&host: "alice", "https://index.hub.example/v1/": "bob"})
    );
    let mode = std::fs::metadata(scene.sessions()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for _ in 0..2 {
        assert_eq!(scene.run(&["erase"], &host, &[]).code, Some(0), "to erase is to have nothing after it");
    }
    scene.get(&[]).not_found();
    assert_eq!(scene.run(&["list"], "", &[]).json(), json!({"https://index.hub.example/v1/": "bob"}));
    assert_eq!(scene.service.requests(), 0, "a password is not revoked");
}

#[test]
fn erasing_a_token_tells_the_registry() {
    let scene = Scene::new();
    let host = scene.service.host();
    scene.store(&host, "<token>", "refresh-of-mine");
    assert_eq!(scene.run(&["erase"], &format!("https://{host}"), &[]).code, Some(0));
    assert_eq!(scene.service.revoked(), ["refresh-of-mine"]);
    scene.get(&[]).not_found();
    // A registry that is gone is no reason to stay logged in.
    scene.store("127.0.0.1:1", "<token>", "lost");
    let run = scene.run(&["erase"], "127.0.0.1:1", &[]);
    assert_eq!(run.code, Some(0));
    assert!(run.stderr.contains("could not be told") && !run.stderr.contains("lost"), "{}", run.stderr);
    assert_eq!(scene.run(&["list"], "", &[]).json(), json!({}));
}

#[test]
fn bad_input_is_answered_as_the_protocol_has_it() {
    let scene = Scene::new();
    for action in ["get", "erase"] {
        let run = scene.run(&[action], " \n", &[]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), "no credentials server URL\n"));
    }
    for (input, said) in [
        ("{}", "no credentials server URL\n"),
        (r#"{"ServerURL":"r.example"}"#, "no credentials username\n"),
        ("", "docker-credential-berth: the input is no credential\n"),
        ("r.example", "docker-credential-berth: the input is no credential\n"),
    ] {
        let run = scene.run(&["store"], input, &[]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), said), "{input}");
    }
    scene.run(&["get"], "what is this", &[("BERTH_ID_TOKEN", "a.b.c")]).not_found();
    for arguments in [&[][..], &["gett"], &["get", "more"], &["login"], &["--what"], &["login", "https://r"]]
    {
        let run = scene.run(arguments, "", &[]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{arguments:?}");
    }
    assert!(scene.run(&["version"], "", &[]).stdout.starts_with("docker-credential-berth 0."));
    assert!(scene.run(&["--help"], "", &[]).stdout.contains("AWS_WEB_IDENTITY_TOKEN_FILE"));
}

#[test]
fn a_projected_token_becomes_a_refresh_token() {
    let scene = Scene::new();
    let file = scene.token_file("pod");
    scene.is_for(&scene.get(&[("BERTH_IDENTITY_TOKEN_FILE", &file)]), "pod");
    // It comes before what is stored.
    scene.store(&scene.service.host(), "alice", "a");
    scene.is_for(&scene.get(&[("BERTH_IDENTITY_TOKEN_FILE", &file)]), "pod");
    assert_eq!(scene.get(&[]).json()["Username"], "alice");
    scene.get(&[("BERTH_IDENTITY_TOKEN_FILE", "/nonexistent")]).refused("/nonexistent");
    let two = scene.path("two");
    std::fs::write(&two, "eyJa\neyJb\n").unwrap();
    scene.get(&[("BERTH_IDENTITY_TOKEN_FILE", &two)]).refused("a line break");
}

#[test]
fn github_makes_a_token_for_the_registrys_host() {
    let scene = Scene::new();
    let token = jwt(&json!({"sub": "repo:team/app:ref:refs/heads/main"}));
    scene.service.know(&token, "job");
    let url = scene.service.be_github("runtime-token", &scene.service.host(), &token);
    let mut environment = vec![
        ("ACTIONS_ID_TOKEN_REQUEST_URL", url.as_str()),
        ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "runtime-token"),
    ];
    scene.is_for(&scene.get(&environment), "job");
    scene.service.be_github("runtime-token", "https://registry.example", &token);
    environment.push(("BERTH_AUDIENCE", "https://registry.example"));
    scene.is_for(&scene.get(&environment), "job");
    // A job without `id-token: write` has neither, and one whose time is over gets an error.
    environment[1].1 = "old-token";
    scene.get(&environment).refused("answered 400");
    assert_eq!(scene.service.complaints().len(), 1);
    let plain = [("ACTIONS_ID_TOKEN_REQUEST_URL", "http://127.0.0.1:1/"), environment[1]];
    scene.get(&plain).refused("is not https");
}

#[test]
fn gitlab_and_the_clouds_files_are_found() {
    let scene = Scene::new();
    let host = scene.service.host();
    let token = jwt(&json!({"sub": "gitlab", "aud": format!("https://{host}")}));
    scene.service.know(&token, "gitlab");
    scene.is_for(&scene.get(&[("BERTH_ID_TOKEN", &token)]), "gitlab");

    for (variable, identity, audience) in [
        ("AZURE_FEDERATED_TOKEN_FILE", "azure", "api://AzureADTokenExchange"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "aws", "sts.example"),
        ("BERTH_IDENTITY_TOKEN_FILE", "pod", "berth"),
    ] {
        let file = scene.token_file_for(identity, audience);
        // These tokens open other doors: they go only where the user says.
        let run = scene.get(&[(variable, &file)]);
        run.not_found();
        assert!(
            run.stderr.contains("for another audience than") && !run.stderr.contains("eyJ"),
            "{}",
            run.stderr
        );
        let list = format!("other.example, {host}");
        scene.is_for(&scene.get(&[(variable, &file), ("BERTH_REGISTRY", &list)]), identity);
        scene.get(&[(variable, &file), ("BERTH_REGISTRY", "other.example")]).not_found();
    }
    assert_eq!(scene.service.exchanges().len(), 4);
}

#[test]
fn the_machines_identity_is_used_where_it_is_asked_for() {
    let scene = Scene::new();
    let host = scene.service.host();
    let machine = jwt(&json!({"sub": "machine", "aud": "api://berth"}));
    scene.service.know(&machine, "machine");
    let metadata = Metadata::start("api://berth", Some("client-1"), &host, &machine);
    let (azure, google) = (format!("http://{}", metadata.host()), metadata.host());
    let environment = [
        ("AZURE_POD_IDENTITY_AUTHORITY_HOST", azure.as_str()),
        ("AZURE_CLIENT_ID", "client-1"),
        ("GCE_METADATA_HOST", google.as_str()),
        ("BERTH_REGISTRY", host.as_str()),
    ];
    scene.get(&environment).not_found();
    for switch in [("BERTH_AZURE_RESOURCE", "api://berth"), ("BERTH_GCP_IDENTITY", "true")] {
        scene.is_for(&scene.get(&[&environment[..], &[switch]].concat()), "machine");
    }
}

#[test]
fn buildkites_agent_is_asked() {
    let scene = Scene::new();
    let host = scene.service.host();
    let token = jwt(&json!({"sub": "organization:team"}));
    scene.service.know(&token, "step");
    let agent = scene.home.path().join("buildkite-agent");
    let script =
        format!("#!/bin/sh\n[ \"$*\" = \"oidc request-token --audience {host}\" ] && echo {token}\n");
    std::fs::write(&agent, script).unwrap();
    std::fs::set_permissions(&agent, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("/nowhere:{}:/usr/bin:/bin", scene.home.path().display());
    let environment = [("BUILDKITE", "true"), ("PATH", path.as_str())];
    scene.is_for(&scene.get(&environment), "step");
    scene.get(&[environment[0], environment[1], ("BERTH_AUDIENCE", "x")]).refused("buildkite-agent failed");
    scene.get(&[("BUILDKITE", "true"), ("PATH", "/nowhere")]).not_found();
}

#[test]
fn an_identity_that_the_registry_refuses_is_an_error() {
    let scene = Scene::new();
    let token = jwt(&json!({"aud": scene.service.host()}));
    scene.get(&[("BERTH_ID_TOKEN", &token)]).refused("401: UNAUTHORIZED: no issuer here signed this token");
    scene.service.know(&token, "job");
    scene.service.reply_once(Reply::json(200, &json!({"access_token": "a", "token_type": "Bearer"})));
    scene.get(&[("BERTH_ID_TOKEN", &token)]).refused("of another kind");
    scene.is_for(&scene.get(&[("BERTH_ID_TOKEN", &token)]), "job");
}

#[test]
fn where_there_is_no_refresh_token_the_identity_itself_is_given() {
    let scene = Scene::new();
    let token = jwt(&json!({"aud": scene.service.host()}));
    scene.service.know(&token, "job");
    // An access token would end in the middle of the job.
    let access = "urn:ietf:params:oauth:token-type:access_token";
    let body = json!({"access_token": "a", "issued_token_type": access, "token_type": "Bearer"});
    scene.service.reply_once(Reply::json(200, &body));
    let answer = scene.get(&[("BERTH_ID_TOKEN", &token)]).json();
    assert_eq!((&answer["Username"], &answer["Secret"]), (&json!("<token>"), &json!(token)));
}

#[test]
fn other_registries_get_no_identity() {
    let scene = Scene::new();
    let host = scene.service.host();
    let token = jwt(&json!({"aud": host}));
    scene.service.know(&token, "job");
    // A registry that has its tokens elsewhere, as some public ones do.
    scene.service.name_realm("https://auth.registry.example/token");
    scene.store(&host, "alice", "a");
    let run = scene.get(&[("BERTH_ID_TOKEN", &token)]);
    assert_eq!(run.json()["Username"], "alice");
    assert!(run.stderr.contains("gets no identity from here"), "{}", run.stderr);
    // Where the user says that it is a Berth, the same is an error.
    scene.get(&[("BERTH_ID_TOKEN", &token), ("BERTH_REGISTRY", &host)]).refused("another host");
    assert!(scene.service.exchanges().is_empty());
}

#[test]
fn a_damaged_session_file_is_said_and_put_aside_by_the_next_login() {
    let scene = Scene::new();
    scene.store("r.example", "alice", "s3cr3t");
    let good = std::fs::read_to_string(scene.sessions()).unwrap();
    for damage in ["", "{", "[]", &good[..good.len() / 2], &good.replace("\"version\": 1", "\"version\": 2")]
    {
        std::fs::write(scene.sessions(), damage).unwrap();
        for action in ["get", "erase", "list"] {
            let run = scene.run(&[action], "r.example", &[]);
            run.refused("sessions.json is damaged");
            assert!(!run.stdout.contains("s3cr3t"));
        }
        assert_eq!(std::fs::read_to_string(scene.sessions()).unwrap(), damage, "nothing was lost");
        scene.store("other.example", "bob", "b");
        assert_eq!(scene.run(&["list"], "", &[]).json(), json!({"other.example": "bob"}));
        let aside = scene.sessions().with_extension("json.damaged");
        assert_eq!(std::fs::read_to_string(aside).unwrap(), damage);
    }
    // What this place gives does not depend on the file.
    std::fs::write(scene.sessions(), "{").unwrap();
    let file = scene.token_file("pod");
    scene.is_for(&scene.get(&[("BERTH_IDENTITY_TOKEN_FILE", &file)]), "pod");
}

#[test]
fn helpers_that_run_at_once_lose_nothing() {
    let scene = Scene::new();
    let server = |n: usize| format!("r{n}.example");
    for n in 0..20 {
        scene.store(&server(n), "old", "o");
    }
    std::thread::scope(|scope| {
        for n in 0..20 {
            let scene = &scene;
            scope.spawn(move || {
                assert_eq!(scene.run(&["erase"], &server(n), &[]).code, Some(0));
            });
            scope.spawn(move || scene.store(&server(n + 20), "new", "n"));
            scope.spawn(move || {
                // A reader sees a whole file, whenever it looks.
                scene.run(&["list"], "", &[]).json();
            });
        }
    });
    let expected: BTreeMap<_, _> = (20..40).map(|n| (server(n), "new")).collect();
    assert_eq!(scene.run(&["list"], "", &[]).json(), json!(expected));
    let files = std::fs::read_dir(scene.sessions().parent().unwrap()).unwrap().count();
    assert_eq!(files, 2, "the sessions and the lock, and nothing left over");
}

#[test]
fn a_person_logs_in_with_a_code_and_docker_finds_it() {
    let scene = Scene::new();
    let host = scene.service.host();
    let id_token = jwt(&json!({"sub": "alice"}));
    scene.service.know(&id_token, "alice");
    let granted = json!({"id_token": id_token, "access_token": "opaque", "token_type": "Bearer"});
    let provider =
        IdentityProvider::start(&scene.service.authority(), None, [Poll::Pending, Poll::Granted(granted)]);
    scene.service.login_at(provider.login());
    let docker = scene.home.path().join(".docker/config.json");
    std::fs::create_dir(docker.parent().unwrap()).unwrap();
    std::fs::write(&docker, r#"{"auths":{"x":{}},"credHelpers":{"other.example":"other"}}"#).unwrap();

    let run = scene.run(&["login", &host, "--configure-docker"], "", &[]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""), "{}", run.stderr);
    for said in
        ["https://idp.example/device and enter the code WDJB-MJHT", "user_code=WDJB-MJHT", "10 minutes"]
    {
        assert!(run.stderr.contains(said), "{}", run.stderr);
    }
    assert!(!run.stderr.contains("refresh-") && !run.stderr.contains("eyJ"), "{}", run.stderr);
    let config: Value = serde_json::from_slice(&std::fs::read(&docker).unwrap()).unwrap();
    assert_eq!(
        config,
        json!({"auths": {"x": {}}, "credHelpers": {"other.example": "other", &host: "berth"}})
    );

    scene.is_for(&scene.get(&[]), "alice");
    assert_eq!(scene.service.exchanges().len(), 1, "the session is used as it is");
    let run = scene.run(&["logout", &host], "", &[]);
    assert!(run.code == Some(0) && run.stderr.contains("Logged out"), "{}", run.stderr);
    assert_eq!(scene.service.revoked(), ["refresh-0"]);
    scene.get(&[]).not_found();
    assert!(scene.run(&["logout", &host], "", &[]).stderr.contains("Nobody was logged in"));
}

#[test]
fn a_session_that_has_ended_is_not_found() {
    let scene = Scene::new();
    let token = jwt(&json!({"sub": "alice"}));
    scene.service.know(&token, "alice");
    scene.service.expire_in(Some(0));
    let granted = json!({"id_token": token});
    let provider = IdentityProvider::start(&scene.service.authority(), None, [Poll::Granted(granted)]);
    scene.service.login_at(provider.login());
    assert_eq!(scene.run(&["login", &scene.service.host()], "", &[]).code, Some(0));
    let run = scene.get(&[]);
    run.not_found();
    assert!(run.stderr.contains("has ended; log in again"), "{}", run.stderr);
}

#[test]
fn dockers_configuration_is_not_broken() {
    let scene = Scene::new();
    let host = scene.service.host();
    let token = jwt(&json!({"sub": "alice"}));
    scene.service.know(&token, "alice");
    let polls = std::iter::repeat_n(Poll::Granted(json!({"id_token": token})), 3);
    let provider = IdentityProvider::start(&scene.service.authority(), None, polls);
    scene.service.login_at(provider.login());
    let folder = scene.home.path().join("docker");
    let (config, real) = (folder.join("config.json"), scene.home.path().join("real.json"));
    let environment = [("DOCKER_CONFIG", folder.to_str().unwrap())];
    let login = || scene.run(&["login", "--configure-docker", &host], "", &environment);

    // None yet.
    assert_eq!(login().code, Some(0));
    let written: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    assert_eq!(written, json!({"credHelpers": {&host: "berth"}}));
    // A link to where the user keeps it, readable for others.
    std::fs::rename(&config, &real).unwrap();
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::os::unix::fs::symlink(&real, &config).unwrap();
    std::fs::write(&real, r#"{"psFormat":"x"}"#).unwrap();
    assert_eq!(login().code, Some(0));
    assert!(std::fs::symlink_metadata(&config).unwrap().is_symlink());
    assert_eq!(std::fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o644);
    let written: Value = serde_json::from_slice(&std::fs::read(&real).unwrap()).unwrap();
    assert_eq!(written, json!({"psFormat": "x", "credHelpers": {&host: "berth"}}));
    // Damaged.
    std::fs::write(&real, "{ // mine").unwrap();
    login().refused("is not what docker writes");
    assert_eq!(std::fs::read_to_string(&real).unwrap(), "{ // mine");
}
