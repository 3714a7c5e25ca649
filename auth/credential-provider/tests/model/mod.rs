//! As much of the kubelet as deals with credential providers (`pkg/credentialprovider` of Kubernetes).

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// What a run of the provider gave.
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Run {
    /// The answer of a run that succeeded.
    pub fn answer(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// Fails unless the run failed, and said why, and gave nothing.
    pub fn refused(&self, reason: &str) {
        assert_eq!((self.code, self.stdout.as_str()), (Some(1), ""), "{}", self.stderr);
        assert!(self.stderr.contains(reason), "{:?} does not say {reason:?}", self.stderr);
        assert!(!self.stderr.contains("eyJ"), "a token in {:?}", self.stderr);
    }
}

/// A request, as the kubelet encodes it.
pub fn request(image: &str, token: &str, annotations: &Value) -> String {
    let mut request = json!({
        "kind": "CredentialProviderRequest",
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "image": image,
        "serviceAccountAnnotations": annotations,
    });
    if !token.is_empty() {
        request["serviceAccountToken"] = token.into();
    }
    request.to_string() + "\n"
}

/// Starts the provider: the one that was built for the tests, or the one that `PROVIDER_UNDER_TEST` names.
pub fn spawn(flags: &[String], environment: &[(&str, &str)]) -> Child {
    let built = env!("CARGO_BIN_EXE_berth-credential-provider").into();
    Command::new(std::env::var_os("PROVIDER_UNDER_TEST").unwrap_or(built))
        .args(flags)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Writes the request to a provider, and waits for the end.
pub fn finish(mut child: Child, input: &str) -> Run {
    let started = Instant::now();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let input = input.to_owned();
    // A provider that does not read all is not the kubelet's failure either.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()).is_ok());
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text)
    });
    let mut out = String::new();
    stdout.read_to_string(&mut out).unwrap();
    let code = child.wait().unwrap().code();
    let _written = writer.join().unwrap();
    Run { code, stdout: out, stderr: errors.join().unwrap().unwrap(), took: started.elapsed() }
}

/// Runs the provider.
pub fn provider(flags: &[String], input: &str) -> Run {
    finish(spawn(flags, &[]), input)
}

/// Whose image is pulled.
pub struct Pod {
    pub account: String,
    pub token: String,
}

/// User name and password by pattern.
type Credentials = BTreeMap<String, (String, String)>;

/// A kubelet with one provider, whose `cacheType` is `ServiceAccount`.
pub struct Kubelet {
    flags: Vec<String>,
    match_images: Vec<String>,
    cache: BTreeMap<(String, String), (u64, Credentials)>,
    pub now: u64,
    pub runs: usize,
}

impl Kubelet {
    pub fn new(flags: &[String], match_images: &[&str]) -> Self {
        let match_images = match_images.iter().map(|pattern| (*pattern).to_owned()).collect();
        Self { flags: flags.to_vec(), match_images, cache: BTreeMap::new(), now: 1000, runs: 0 }
    }

    /// The credentials that a pull tries, in this order.
    pub fn pull(&mut self, image: &str, pod: &Pod) -> Vec<(String, String)> {
        let found = self.provide(image, pod);
        // The keyring's index is sorted in reverse, so that the longer pattern comes first.
        found
            .iter()
            .rev()
            .filter(|(pattern, _)| matches(pattern, image))
            .map(|(_, found)| found.clone())
            .collect()
    }

    fn provide(&mut self, image: &str, pod: &Pod) -> Credentials {
        if !self.match_images.iter().any(|pattern| matches(pattern, image)) {
            return Credentials::new();
        }
        let registry = image.split('/').next().unwrap();
        for key in [image, registry, "global"] {
            let cached = self.cache.get(&(key.to_owned(), pod.account.clone()));
            if let Some((_, credentials)) = cached.filter(|(expires, _)| self.now <= *expires) {
                return credentials.clone();
            }
        }
        self.runs += 1;
        let run = provider(&self.flags, &request(image, &pod.token, &json!({})));
        assert!(run.took < Duration::from_mins(1), "the kubelet would have killed it");
        if run.code != Some(0) {
            return Credentials::new();
        }
        let answer = run.answer();
        assert_eq!(answer["apiVersion"], "credentialprovider.kubelet.k8s.io/v1");
        assert_eq!(answer["kind"], "CredentialProviderResponse");
        let key = match answer["cacheKeyType"].as_str() {
            Some("Image") => image,
            Some("Registry") => registry,
            Some("Global") => "global",
            other => panic!("the kubelet ignores an answer with cacheKeyType {other:?}"),
        };
        let credentials: Credentials = answer["auth"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(pattern, auth)| {
                let text = |field: &str| auth[field].as_str().unwrap().to_owned();
                (pattern.clone(), (text("username"), text("password")))
            })
            .collect();
        let seconds: u64 =
            answer["cacheDuration"].as_str().unwrap().strip_suffix('s').unwrap().parse().unwrap();
        if seconds > 0 {
            let entry = (self.now + seconds, credentials.clone());
            self.cache.insert((key.to_owned(), pod.account.clone()), entry);
        }
        credentials
    }
}

/// `URLsMatchStr`: the same port, as many labels, each a match, and the path a prefix.
fn matches(pattern: &str, image: &str) -> bool {
    let split = |url: &str| {
        let (authority, path) = url.split_once('/').map_or((url, ""), |(authority, path)| (authority, path));
        let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
        let labels: Vec<_> = host.split('.').map(str::to_owned).collect();
        (labels, port.to_owned(), path.to_owned())
    };
    let ((labels, port, path), (image_labels, image_port, image_path)) = (split(pattern), split(image));
    let label = |(glob, label): (&String, &String)| match glob.split_once('*') {
        Some((before, after)) => {
            label.len() >= before.len() + after.len() && label.starts_with(before) && label.ends_with(after)
        }
        None => glob == label,
    };
    port == image_port
        && labels.len() == image_labels.len()
        && image_path.starts_with(&path)
        && labels.iter().zip(&image_labels).all(label)
}
