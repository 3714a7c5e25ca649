//! A Kubernetes cluster as a registry meets it: a real API server over a real etcd.
//!
//! Nothing else of a cluster runs. Whatever a kubelet, a scheduler or a controller would do is done
//! by the test: it makes its nodes, binds pods to them, and has certificates signed by the
//! cluster's authority. The program `kubernetes` is built from tests/kubernetes.
//!
//! The API server decides by what its watches have told it, a moment behind what it has stored. What
//! changes here returns once the API server acts on it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use berth_test_stores::tools;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SignatureAlgorithm};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::OnceCell, time};

use super::{
    process::{PATIENCE, Process},
    run,
    tls::{Authority, Pair},
};

/// The manifest that users apply, and the audience for which it is written.
const AUDIENCE_MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kubernetes/audience-rbac.yaml");
pub const MANIFEST_AUDIENCE: &str = "registry.example.com";

const JSON: &str = "application/json";
const APPLY: &str = "application/apply-patch+yaml";

/// How often the API server is asked whether it is so far.
const TICK: Duration = Duration::from_millis(50);

/// A running cluster, which is its own issuer of service account tokens. Its API server knows its
/// users by certificates of its authority, by its own tokens, and lets in who has neither as
/// `system:anonymous`, as clusters do by default.
///
/// Tests that use it begin with `workbench!("kubernetes")`.
pub struct Cluster {
    authority: Authority,
    serving: Pair,
    port: u16,
    etcd_port: u16,
    admin: Api,
    /// Keys of the issuer. The last one signs, all of them verify.
    keys: Vec<SigningKey>,
    names: AtomicU32,
    api_server: Process,
    etcd: Process,
    // Last, so that it goes after the processes that write into it.
    folder: TempDir,
}

/// A node that runs pods as far as the API server knows.
pub struct Node {
    pub name: String,
    pub uid: String,
    /// Its client certificate, by which it is known to the API server and may be to a registry.
    pub certificate: Pair,
}

/// A pod that is bound to a node.
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub account: String,
}

/// A key of the issuer, as the API server wants it: a file to sign, another to verify.
struct SigningKey {
    private: PathBuf,
    public: PathBuf,
}

/// A request for a token of a service account, as a kubelet makes it for a pod.
pub struct TokenRequest {
    namespace: String,
    account: String,
    audiences: Vec<String>,
    pod: Option<(String, String)>,
    lifetime: Duration,
}

/// What the API server says to a request.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    /// JSON, or a string where it is none.
    pub body: Value,
}

/// The API, as one of its users.
pub struct Api {
    client: reqwest::Client,
    url: String,
    bearer: Option<String>,
}

impl Cluster {
    /// The cluster that the tests of the run share. Its discovery is closed, as it is by default.
    ///
    /// A test that needs it otherwise, or has its issuer down, starts one of its own.
    pub async fn of_the_run() -> &'static Self {
        static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
        CLUSTER.get_or_init(Self::start).await
    }

    /// Starts a cluster of the test's own.
    pub async fn start() -> Self {
        let folder = run::folder("kubernetes");
        let authority = Authority::new();
        let serving = authority.server();
        let administrator = authority.user("admin", "system:masters");
        // As kubeadm makes it, which nearly all clusters have.
        let keys = vec![SigningKey::new(folder.path(), "first", &PKCS_RSA_SHA256)];

        let etcd_port = run::free_port();
        let etcd = start_etcd(folder.path(), etcd_port).await;
        let port = run::free_port();
        let admin = Api::new(&authority, port, Some(&administrator), None);
        let api_server = start_api_server(folder.path(), &authority, &serving, port, etcd_port, &keys).await;
        let cluster = Self {
            authority,
            serving,
            port,
            etcd_port,
            admin,
            keys,
            names: AtomicU32::new(0),
            api_server,
            etcd,
            folder,
        };
        cluster.until_ready().await;
        cluster
    }

    /// The issuer of its service account tokens, which is the address of the API server:
    /// `https://127.0.0.1:PORT`.
    pub fn issuer(&self) -> &str {
        &self.admin.url
    }

    /// Where the issuer's keys are, as its discovery says.
    pub fn jwks_url(&self) -> String {
        format!("{}/openid/v1/jwks", self.issuer())
    }

    /// The certificate of the cluster's authority, PEM: of the API server and of nodes.
    pub fn ca_file(&self) -> PathBuf {
        self.authority.file()
    }

    /// The API without a credential.
    pub fn anonymous(&self) -> Api {
        Api::new(&self.authority, self.port, None, None)
    }

    /// The API with a token.
    pub fn bearer(&self, token: &str) -> Api {
        Api::new(&self.authority, self.port, None, Some(token))
    }

    /// The API with a client certificate.
    pub fn with_certificate(&self, certificate: &Pair) -> Api {
        Api::new(&self.authority, self.port, Some(certificate), None)
    }

    /// Makes a namespace that no other test has.
    pub async fn namespace(&self) -> String {
        let name = self.name("team");
        self.admin.create("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await;
        name
    }

    /// Makes a service account; returns its UID.
    pub async fn service_account(&self, namespace: &str, name: &str) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        uid(&self.admin.create(&path, &json!({"metadata": {"name": name}})).await)
    }

    /// Deletes a service account.
    pub async fn delete_service_account(&self, namespace: &str, name: &str) {
        self.admin.delete(&format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}")).await;
    }

    /// Makes a node that no other test has.
    pub async fn node(&self) -> Node {
        let name = self.name("node");
        let node = self.admin.create("/api/v1/nodes", &json!({"metadata": {"name": name}})).await;
        Node { certificate: self.node_certificate(&name), uid: uid(&node), name }
    }

    /// Signs the client certificate of a node, whether there is such a node or not.
    pub fn node_certificate(&self, name: &str) -> Pair {
        self.authority.user(&format!("system:node:{name}"), "system:nodes")
    }

    /// Makes a pod of a service account that is bound to a node.
    pub async fn pod(&self, namespace: &str, account: &str, node: &Node) -> Pod {
        let name = self.name("pod");
        let pod = json!({
            "metadata": {"name": name},
            "spec": {
                "serviceAccountName": account,
                "nodeName": node.name,
                "containers": [{"name": "main", "image": "registry.example.com/team/app"}],
            },
        });
        let pod = self.admin.create(&format!("/api/v1/namespaces/{namespace}/pods"), &pod).await;
        // Now the node may ask for tokens of this account, which it may for those of its pods only.
        let attributes = json!({"resourceAttributes": {
            "namespace": namespace, "verb": "create", "resource": "serviceaccounts", "subresource": "token",
            "name": account,
        }});
        self.until_allowed(&format!("system:node:{}", node.name), "system:nodes", &attributes).await;
        Pod { namespace: namespace.to_owned(), name, uid: uid(&pod), account: account.to_owned() }
    }

    /// Deletes a pod at once, as a kubelet does when its containers have ended.
    pub async fn delete_pod(&self, pod: &Pod) {
        let path = format!("/api/v1/namespaces/{}/pods/{}?gracePeriodSeconds=0", pod.namespace, pod.name);
        self.admin.delete(&path).await;
    }

    /// Requests a token as who may request any.
    pub async fn token(&self, request: &TokenRequest) -> String {
        token(&self.admin.create(&request.path(), &request.body()).await)
    }

    /// Requests a token as a node does for one of its pods; returns the refusal if that is what it gets.
    pub async fn token_for_node(&self, node: &Node, request: &TokenRequest) -> Result<String, Answer> {
        let api = self.with_certificate(&node.certificate);
        let answer = api.send(Method::POST, &request.path(), Some((JSON, request.body().to_string()))).await;
        if answer.status.is_success() { Ok(token(&answer.body)) } else { Err(answer) }
    }

    /// Makes a service account that may review tokens (`system:auth-delegator`); returns its token.
    pub async fn reviewer(&self) -> String {
        let namespace = self.namespace().await;
        self.service_account(&namespace, "reviewer").await;
        let subject = json!({"kind": "ServiceAccount", "name": "reviewer", "namespace": namespace});
        self.bind("system:auth-delegator", &subject).await;
        let attributes = json!({"resourceAttributes": {
            "group": "authentication.k8s.io", "verb": "create", "resource": "tokenreviews",
        }});
        let user = format!("system:serviceaccount:{namespace}:reviewer");
        self.until_allowed(&user, "system:serviceaccounts", &attributes).await;
        self.token(&TokenRequest::of(&namespace, "reviewer")).await
    }

    /// Makes a service account of no rights; returns its token, by which it may read the issuer's keys
    /// where discovery is closed, as every service account may.
    pub async fn reader(&self) -> String {
        let namespace = self.namespace().await;
        self.service_account(&namespace, "reader").await;
        self.token(&TokenRequest::of(&namespace, "reader")).await
    }

    /// Has a token reviewed for an audience, by one who has a [`Self::reviewer`]'s token; returns the
    /// status of the review.
    ///
    /// The API server itself believes for ten seconds what it has found good.
    pub async fn review(&self, reviewer: &str, token: &str, audience: &str) -> Value {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        });
        let mut review =
            self.bearer(reviewer).create("/apis/authentication.k8s.io/v1/tokenreviews", &review).await;
        review["status"].take()
    }

    /// Lets anybody read the issuer's keys from now on.
    pub async fn open_discovery(&mut self) {
        let everybody = json!({
            "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:unauthenticated",
        });
        self.bind("system:service-account-issuer-discovery", &everybody).await;
        let attributes = json!({"nonResourceAttributes": {"path": "/openid/v1/jwks", "verb": "get"}});
        self.until_allowed("system:anonymous", "system:unauthenticated", &attributes).await;
    }

    /// Lets nodes request tokens of an audience, by the manifest that users apply.
    pub async fn allow_audience(&self, audience: &str) {
        let manifest = fs::read_to_string(AUDIENCE_MANIFEST).expect("read the manifest");
        let manifest = if audience == MANIFEST_AUDIENCE {
            manifest
        } else {
            // Beside what another test has applied.
            let name = self.name("berth-audience");
            manifest
                .replace(MANIFEST_AUDIENCE, audience)
                .replace("name: berth-audience", &format!("name: {name}"))
        };
        self.apply(&manifest).await;
        let attributes = json!({"resourceAttributes": {
            "namespace": "default", "verb": "request-serviceaccounts-token-audience", "resource": audience,
        }});
        self.until_allowed("system:node:any", "system:nodes", &attributes).await;
    }

    /// Applies the YAML documents of a manifest, as `kubectl apply --server-side` would.
    pub async fn apply(&self, manifest: &str) {
        for document in manifest.split("\n---\n") {
            let path = path_of(document);
            let path = format!("{path}?fieldManager=tests&fieldValidation=Strict&force=true");
            let document = Some((APPLY, document.to_owned()));
            let answer = self.admin.send(Method::PATCH, &path, document).await;
            assert!(answer.status.is_success(), "PATCH {path}: {answer:?}");
        }
    }

    /// Ends the API server at once, so that the issuer is down.
    pub fn stop(&mut self) {
        self.api_server.kill();
    }

    /// Starts the API server again, on the same port and the same etcd.
    pub async fn start_again(&mut self) {
        self.stop();
        self.api_server = start_api_server(
            self.folder.path(),
            &self.authority,
            &self.serving,
            self.port,
            self.etcd_port,
            &self.keys,
        )
        .await;
        self.until_ready().await;
    }

    /// Starts the API server again with a new signing key, of another algorithm than the first. Tokens of
    /// the keys before it stay good.
    pub async fn rotate_signing_key(&mut self) {
        let name = self.name("key");
        self.keys.push(SigningKey::new(self.folder.path(), &name, &PKCS_ECDSA_P256_SHA256));
        self.start_again().await;
    }

    /// Starts the API server again without the keys that no longer sign, whose tokens end by that.
    pub async fn retire_old_keys(&mut self) {
        self.keys.drain(..self.keys.len() - 1);
        self.start_again().await;
    }

    /// Gives a `ClusterRole` to somebody, everywhere.
    async fn bind(&self, role: &str, subject: &Value) {
        let binding = json!({
            "metadata": {"name": self.name("binding")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [subject],
        });
        self.admin.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await;
    }

    /// A name that nothing else in the cluster has.
    fn name(&self, kind: &str) -> String {
        format!("{kind}-{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    async fn until_ready(&self) {
        let ready = async {
            while !self.admin.is_ready().await {
                time::sleep(TICK).await;
            }
        };
        let ready = time::timeout(PATIENCE, ready).await;
        ready.unwrap_or_else(|_| panic!("the API server is not ready, it said:\n{}", self.api_server.said()));
    }

    /// Waits until the API server would allow something to a user.
    async fn until_allowed(&self, user: &str, group: &str, attributes: &Value) {
        let mut spec = json!({"user": user, "groups": [group]});
        spec.as_object_mut().expect("it is one").extend(attributes.as_object().expect("it is one").clone());
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": spec,
        });
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let allowed = async {
            while self.admin.create(path, &review).await["status"]["allowed"] != true {
                time::sleep(TICK).await;
            }
        };
        let allowed = time::timeout(PATIENCE, allowed).await;
        allowed.unwrap_or_else(|_| panic!("{user} is not allowed {attributes}"));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Nothing here is to be kept, and both would take their time.
        self.api_server.kill();
        self.etcd.kill();
    }
}

impl TokenRequest {
    /// A token of a service account, for the API server itself, bound to nothing else.
    pub fn of(namespace: &str, account: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            account: account.to_owned(),
            audiences: Vec::new(),
            pod: None,
            lifetime: Duration::from_hours(1),
        }
    }

    /// A token of a pod's service account that is bound to the pod.
    pub fn for_pod(pod: &Pod) -> Self {
        let request = Self::of(&pod.namespace, &pod.account);
        Self { pod: Some((pod.name.clone(), pod.uid.clone())), ..request }
    }

    /// For whom the token is; more than one where this is called again.
    pub fn audience(mut self, audience: &str) -> Self {
        self.audiences.push(audience.to_owned());
        self
    }

    /// How long the token is good. The API server takes no less than ten minutes.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/serviceaccounts/{}/token", self.namespace, self.account)
    }

    fn body(&self) -> Value {
        let bound = self
            .pod
            .as_ref()
            .map(|(name, uid)| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}));
        json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": self.audiences,
                "expirationSeconds": self.lifetime.as_secs(),
                "boundObjectRef": bound,
            },
        })
    }
}

impl Api {
    fn new(authority: &Authority, port: u16, certificate: Option<&Pair>, bearer: Option<&str>) -> Self {
        // Tests share this, and a connection ends with the runtime of the test that made it.
        let mut client = reqwest::Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .pool_max_idle_per_host(0)
            .http1_only()
            .tls_certs_only([authority.root()]);
        if let Some(certificate) = certificate {
            client = client.identity(certificate.identity());
        }
        Self {
            client: client.build().expect("the certificates are good"),
            url: format!("https://127.0.0.1:{port}"),
            bearer: bearer.map(str::to_owned),
        }
    }

    /// Sends a GET, whatever comes back.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    /// Creates an object; returns it as the API server has it now.
    pub async fn create(&self, path: &str, object: &Value) -> Value {
        let answer = self.send(Method::POST, path, Some((JSON, object.to_string()))).await;
        assert!(answer.status.is_success(), "POST {path} of {object}: {answer:?}");
        answer.body
    }

    /// Deletes an object.
    pub async fn delete(&self, path: &str) {
        let answer = self.send(Method::DELETE, path, None).await;
        assert!(answer.status.is_success(), "DELETE {path}: {answer:?}");
    }

    /// Sends a request with a body of a media type, whatever comes back.
    pub async fn send(&self, method: Method, path: &str, body: Option<(&str, String)>) -> Answer {
        let mut request = self.client.request(method.clone(), format!("{}{path}", self.url));
        if let Some(bearer) = &self.bearer {
            request = request.bearer_auth(bearer);
        }
        if let Some((media_type, body)) = body {
            request = request.header("Content-Type", media_type).body(body);
        }
        let answer = request.send().await.unwrap_or_else(|error| panic!("{method} {path}: {error:?}"));
        let status = answer.status();
        let body = answer.text().await.unwrap_or_else(|error| panic!("{method} {path}: {error:?}"));
        Answer { status, body: serde_json::from_str(&body).unwrap_or(Value::String(body)) }
    }

    async fn is_ready(&self) -> bool {
        let answer = self.client.get(format!("{}/readyz", self.url)).send().await;
        answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
    }
}

impl SigningKey {
    fn new(folder: &Path, name: &str, algorithm: &'static SignatureAlgorithm) -> Self {
        let key = KeyPair::generate_for(algorithm).expect("make a key");
        let [private, public] = ["key", "pub"].map(|kind| folder.join(format!("{name}.{kind}")));
        fs::write(&private, key.serialize_pem()).expect("write a private key");
        fs::write(&public, key.public_key_pem()).expect("write a public key");
        Self { private, public }
    }
}

async fn start_etcd(folder: &Path, port: u16) -> Process {
    let client = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{}", run::free_port());
    let mut command = run::command(program());
    command.arg("etcd").current_dir(folder).args([
        "--data-dir=etcd".to_owned(),
        "--unsafe-no-fsync".to_owned(),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
    ]);
    let process = Process::start(command);
    let is_ready = |said: &str| said.contains("ready to serve client requests").then_some(());
    process.until("it serves", is_ready).await;
    process
}

/// Starts the API server and waits until it listens, before it is ready.
async fn start_api_server(
    folder: &Path,
    authority: &Authority,
    serving: &Pair,
    port: u16,
    etcd_port: u16,
    keys: &[SigningKey],
) -> Process {
    let issuer = format!("https://127.0.0.1:{port}");
    let mut command = run::command(program());
    command.arg("apiserver").current_dir(folder).args([
        format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--advertise-address=127.0.0.1".to_owned(),
        format!("--secure-port={port}"),
        // A service of this name would lead to the address above, which no pod could use.
        "--endpoint-reconciler-type=none".to_owned(),
        "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
        format!("--tls-cert-file={}", serving.certificate_file.display()),
        format!("--tls-private-key-file={}", serving.key_file.display()),
        format!("--client-ca-file={}", authority.file().display()),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        format!("--service-account-issuer={issuer}"),
        format!("--service-account-jwks-uri={issuer}/openid/v1/jwks"),
    ]);
    for key in keys {
        command.arg(format!("--service-account-key-file={}", key.public.display()));
    }
    let signing = keys.last().expect("an issuer has a key");
    command.arg(format!("--service-account-signing-key-file={}", signing.private.display()));
    let process = Process::start(command);
    process.until("it serves", |said| said.contains("Serving securely on").then_some(())).await;
    process
}

fn program() -> PathBuf {
    tools::tool("kubernetes").expect("the API server is missing (scripts/install-test-tools)")
}

/// Where in the API the object of a YAML document belongs. The document itself is read by the API server.
fn path_of(document: &str) -> String {
    let field = |name: &str| {
        let value = document.lines().find_map(|line| line.strip_prefix(name));
        value.map(|value| value.trim().trim_matches('"').to_owned())
    };
    let version = field("apiVersion:").expect("a document has an apiVersion");
    let kind = field("kind:").expect("a document has a kind").to_ascii_lowercase();
    // In the manifests here, those of the metadata come first.
    let name = field("  name:").expect("a document has a name");
    let root = if version.contains('/') { "apis" } else { "api" };
    let namespace = field("  namespace:").map(|name| format!("namespaces/{name}/")).unwrap_or_default();
    format!("/{root}/{version}/{namespace}{kind}s/{name}")
}

fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().expect("an object has a uid").to_owned()
}

fn token(request: &Value) -> String {
    request["status"]["token"].as_str().expect("a granted request has a token").to_owned()
}
