//! The clients people use, at a private registry that speaks TLS, with every kind of secret.

use std::{fs, path::Path};

use super::scenes::{ask_token, basic, cast, key, push_as, robot};
use crate::{
    harness::{
        Cluster, Layout, Server, content,
        docker::Docker,
        kubernetes::TokenRequest,
        layout::{Compression, Layer},
        process::Process,
        run,
        tools::{Workbench, workbench},
    },
    protocol::wire::Berth,
};

const PASSWORD: &str = "correct horse battery staple";

/// Who logs in, with what.
struct Secret {
    user: &'static str,
    secret: String,
}

/// A private registry, and a secret of each kind.
struct Harbour {
    berth: Berth,
    secrets: Vec<Secret>,
    // What the configuration names.
    _folder: tempfile::TempDir,
}

impl Harbour {
    async fn open() -> Self {
        let cluster = Cluster::of_the_run().await;
        let folder = run::folder("harbour");
        let reader = folder.path().join("reader");
        fs::write(&reader, cluster.reader().await).expect("write a token");
        let hash = berth_auth::users::hash(PASSWORD).expect("hash a password");
        let config = format!(
            "{}[[auth.user]]\nname = \"alice\"\npassword_hash = \"{hash}\"\n\
             [[auth.rule]]\nname = \"people and pods\"\nidentities = [\"user:alice\", \"serviceaccount:prod/*/*\"]\n\
             repositories = [\"team/**\"]\nactions = [\"pull\", \"push\"]\n\
             [[auth.cluster]]\nname = \"prod\"\nissuer = \"{}\"\naudience = \"registry.test\"\nca_file = \"{}\"\n\
             bearer_token_file = \"{}\"\n",
            cast(),
            cluster.issuer(),
            cluster.ca_file().display(),
            reader.display()
        );
        // Where a client fails, its requests are shown.
        let server = Server::builder().config(&config).env("BERTH_LOG__LEVEL", "info,berth=debug");
        let berth = Berth::of(server.tls().start().await);
        let namespace = cluster.namespace().await;
        cluster.service_account(&namespace, "builder").await;
        let token = cluster.token(&TokenRequest::of(&namespace, "builder").audience("registry.test")).await;
        let login = ask_token(&berth, &basic("alice", PASSWORD), "&offline_token=true&client_id=test").await;
        let refresh = login.is(200).json()["refresh_token"].as_str().expect("a token").to_owned();
        let secrets = vec![
            Secret { user: "alice", secret: PASSWORD.to_owned() },
            Secret { user: "robot", secret: key("admin") },
            Secret { user: "serviceaccount", secret: token },
            Secret { user: "00000000-0000-0000-0000-000000000000", secret: refresh },
        ];
        Self { berth, secrets, _folder: folder }
    }

    fn host(&self) -> &str {
        self.berth.server.host()
    }

    /// The authority's certificate, in a folder of its own.
    fn ca(&self) -> String {
        self.berth.server.tls().authority.file().display().to_string()
    }

    fn ca_folder(&self) -> String {
        Path::new(&self.ca()).parent().expect("a folder").display().to_string()
    }

    /// The digest a tag points at.
    async fn digest(&self, repository: &str, tag: &str) -> String {
        let path = format!("/v2/{repository}/manifests/{tag}");
        let answer = self.berth.send("HEAD", &path, &[("authorization", &robot("admin"))], Vec::new()).await;
        answer.is(200).header("docker-content-digest").to_owned()
    }
}

fn layout(bench: &Workbench, seed: u64) -> Layout {
    let mut layout = Layout::create(bench.path(&format!("layout-{seed}")));
    let layers = [
        Layer::shell(Compression::Gzip),
        Layer::file("data", &content::bytes(seed, 300_000), Compression::Gzip),
    ];
    let descriptor = layout.image("amd64", &layers);
    layout.tag("1", &descriptor);
    layout
}

#[tokio::test]
async fn skopeo_logs_in_pushes_and_pulls_with_every_kind_of_secret() {
    let bench = workbench!("skopeo", "busybox", "kubernetes");
    let harbour = Harbour::open().await;
    let (host, certificates) = (harbour.host(), harbour.ca_folder());
    for (nth, Secret { user, secret }) in harbour.secrets.iter().enumerate() {
        let layout = layout(&bench, nth as u64);
        let authfile = bench.path(&format!("auth-{nth}.json"));
        let login =
            ["login", "--cert-dir", &certificates, "--authfile", &authfile, "-u", user, "-p", secret, host];
        bench.run("skopeo", &login).await;
        let remote = format!("docker://{host}/team/skopeo-{nth}:1");
        let local = format!("oci:{}:1", layout.folder());
        let push = [
            "copy",
            "--authfile",
            &authfile,
            "--dest-cert-dir",
            &certificates,
            "--preserve-digests",
            &local,
            &remote,
        ];
        bench.run("skopeo", &push).await;
        assert_eq!(harbour.digest(&format!("team/skopeo-{nth}"), "1").await, layout.root());
        let back = format!("oci:{}:1", bench.path(&format!("back-{nth}")));
        let pull = [
            "copy",
            "--authfile",
            &authfile,
            "--src-cert-dir",
            &certificates,
            "--preserve-digests",
            &remote,
            &back,
        ];
        bench.run("skopeo", &pull).await;
        assert_eq!(Layout::open(bench.path(&format!("back-{nth}"))).contents(), layout.contents());
    }
    let remote = format!("docker://{host}/team/skopeo-0:1");
    let said = bench.run_and_fail("skopeo", &["inspect", "--cert-dir", &certificates, &remote]).await;
    assert!(said.contains("unauthorized") || said.contains("authentication required"), "{said}");
}

#[tokio::test]
async fn podman_and_buildah_log_in_push_and_pull_with_every_kind_of_secret() {
    let bench = workbench!("root", "podman", "buildah", "busybox", "kubernetes");
    let harbour = Harbour::open().await;
    let (host, certificates) = (harbour.host(), harbour.ca_folder());
    for (nth, Secret { user, secret }) in harbour.secrets.iter().enumerate() {
        let program = if nth % 2 == 0 { "podman" } else { "buildah" };
        let authfile = bench.path(&format!("auth-{nth}.json"));
        let (root, run_root) = (bench.path("root"), bench.path("run"));
        let with = async |arguments: &[&str]| {
            let storage = ["--root", &root, "--runroot", &run_root, "--storage-driver=vfs"];
            bench.run(program, &[&storage, arguments].concat()).await
        };
        let common = ["--authfile", &authfile, "--cert-dir", &certificates];
        with(&[&["login"], &common[..], &["-u", user, "-p", secret, host]].concat()).await;
        let image = format!("{host}/team/{program}-{nth}:1");
        let tar = bench.path("rootfs.tar");
        fs::write(&tar, Layer::shell(Compression::None).tar).expect("write the layer");
        let id = if program == "podman" {
            with(&["import", "--quiet", &tar]).await.text()
        } else {
            let container = with(&["from", "scratch"]).await.text();
            with(&["add", "--quiet", &container, &tar]).await;
            with(&["commit", "--quiet", &container]).await.text()
        };
        let id = id.lines().last().expect("an id").trim_start_matches("sha256:").to_owned();
        with(&[&["push"], &common[..], &[&id, &image]].concat()).await;
        with(&["rmi", "--all", "--force"]).await;
        let pulled = with(&[&["pull", "--quiet"], &common[..], &[&image]].concat()).await.text();
        assert_eq!(pulled.lines().last(), Some(id.as_str()));
    }
}

#[tokio::test]
async fn docker_logs_in_pushes_and_pulls_with_every_kind_of_secret() {
    let bench = workbench!("root", "docker", "dockerd", "containerd", "runc", "busybox", "kubernetes");
    let harbour = Harbour::open().await;
    let host = harbour.host();
    let docker = Docker::start(&bench).await;
    for (nth, Secret { user, secret }) in harbour.secrets.iter().enumerate() {
        let image = format!("{host}/team/docker-{nth}:1");
        docker.run(&["login", "-u", user, "-p", secret, host]).await;
        docker.load(&layout(&bench, 20 + nth as u64), &image).await;
        let id = docker.id(&image).await;
        docker.run(&["push", &image]).await;
        docker.run(&["rmi", "--force", &id]).await;
        docker.run(&["pull", &image]).await;
        assert_eq!(docker.id(&image).await, id);
        // What is not theirs does not exist for them.
        if user == &"alice" {
            push_as(&harbour.berth, &robot("admin"), "private/app", "v1", 1).await.put.is(201);
            let said = docker.run_and_fail(&["pull", &format!("{host}/private/app:v1")]).await;
            assert!(said.contains("user:alice"), "docker shows why: {said}");
        }
        docker.run(&["logout", host]).await;
        let said = docker.run_and_fail(&["pull", &image]).await;
        assert!(said.contains("unauthorized") || said.contains("authentication required"), "{said}");
    }
    let wrong = ["login", "-u", "alice", "-p", "wrong", host];
    let said = docker.run_and_fail(&wrong).await;
    assert!(said.contains("the user name or the password is wrong"), "{said}");
}

#[tokio::test]
async fn containerd_pushes_and_pulls_with_every_kind_of_secret_and_a_hosts_toml() {
    let bench = workbench!("root", "containerd", "ctr", "runc", "busybox", "kubernetes");
    let harbour = Harbour::open().await;
    let host = harbour.host();
    let folder = bench.folder().join("certs.d").join(host);
    fs::create_dir_all(&folder).expect("make a folder");
    let hosts =
        format!("server = \"https://{host}\"\n[host.\"https://{host}\"]\nca = \"{}\"\n", harbour.ca());
    fs::write(folder.join("hosts.toml"), hosts).expect("write hosts.toml");
    let [config, root, state, socket, hosts] =
        ["containerd.toml", "root", "state", "containerd.sock", "certs.d"].map(|name| bench.path(name));
    let text = "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n";
    fs::write(&config, text).expect("write containerd's configuration");
    let arguments = ["--config", &config, "--root", &root, "--state", &state, "--address", &socket];
    let daemon: Process = bench.start("containerd", &arguments);
    daemon.until("it serves", |said| said.contains("successfully booted").then_some(())).await;
    for (nth, Secret { user, secret }) in harbour.secrets.iter().enumerate() {
        let layout = layout(&bench, 30 + nth as u64);
        let name = format!("{host}/team/containerd-{nth}");
        let reference = format!("{name}:1");
        let archive = bench.path("load.tar");
        let mut tar = tar::Builder::new(fs::File::create(&archive).expect("create the archive"));
        tar.append_dir_all(".", layout.folder()).expect("write the archive");
        tar.finish().expect("finish the archive");
        let ctr = async |arguments: &[&str]| {
            bench.run("ctr", &[&["--debug", "--address", &socket], arguments].concat()).await
        };
        ctr(&["images", "import", "--no-unpack", "--base-name", &name, &archive]).await;
        let credentials = format!("{user}:{secret}");
        ctr(&["images", "push", "--hosts-dir", &hosts, "--user", &credentials, &reference]).await;
        assert_eq!(harbour.digest(&format!("team/containerd-{nth}"), "1").await, layout.root());
        ctr(&["images", "remove", "--sync", &reference]).await;
        ctr(&["images", "pull", "--hosts-dir", &hosts, "--user", &credentials, &reference]).await;
        let found = ctr(&["images", "list", "-q"]).await.text();
        assert!(found.contains(&reference), "{found}");
    }
}

#[tokio::test]
async fn helm_and_oras_log_in_push_and_pull_with_every_kind_of_secret() {
    let bench = workbench!("helm", "oras", "kubernetes");
    let harbour = Harbour::open().await;
    let (host, ca) = (harbour.host(), harbour.ca());
    let chart = bench.folder().join("harbour");
    fs::create_dir_all(chart.join("templates")).expect("make a folder");
    let text = "apiVersion: v2\nname: harbour\nversion: 1.0.0\ndescription: a chart\n";
    fs::write(chart.join("Chart.yaml"), text).expect("write the chart");
    bench.run("helm", &["package", &bench.path("harbour")]).await;
    fs::write(bench.folder().join("artifact.txt"), content::bytes(7, 5_000)).expect("write a file");
    for (nth, Secret { user, secret }) in harbour.secrets.iter().enumerate() {
        let login = ["registry", "login", host, "--ca-file", &ca, "-u", user, "-p", secret];
        bench.run("helm", &login).await;
        let charts = format!("oci://{host}/team/charts-{nth}");
        bench.run("helm", &["push", "--ca-file", &ca, &bench.path("harbour-1.0.0.tgz"), &charts]).await;
        let folder = bench.path(&format!("charts-{nth}"));
        fs::create_dir(&folder).expect("make a folder");
        let chart = format!("{charts}/harbour");
        let pull = ["pull", "--ca-file", &ca, "--version", "1.0.0", "--destination", &folder, &chart];
        bench.run("helm", &pull).await;

        let configuration = bench.path(&format!("oras-{nth}.json"));
        let common = ["--registry-config", &configuration, "--ca-file", &ca];
        bench.run("oras", &[&["login"], &common[..], &["-u", user, "-p", secret, host]].concat()).await;
        let artifact = format!("{host}/team/artifacts-{nth}:1");
        bench.run("oras", &[&["push"], &common[..], &[&artifact, "artifact.txt"]].concat()).await;
        let folder = bench.path(&format!("artifacts-{nth}"));
        bench.run("oras", &[&["pull"], &common[..], &["--output", &folder, &artifact]].concat()).await;
        let pulled = fs::read(Path::new(&folder).join("artifact.txt")).expect("oras has written it");
        assert!(pulled == content::bytes(7, 5_000));
    }
}
