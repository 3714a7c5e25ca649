//! SeaweedFS: a real S3 server, one for the run, started by the first test that asks; the benchmarks
//! have one of their own.
//!
//! It is a master, a volume server, a filer and an S3 gateway in one process, about 110 MiB when
//! idle, and there after three to four seconds. Buckets are folders of the filer, and cheap.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use object_store::{ObjectStoreExt as _, aws::AmazonS3, path};
use serde_json::json;
use tempfile::TempDir;
use tokio::{sync::OnceCell, time};

use crate::{
    Backdoor, backdoor,
    process::{PATIENCE, Process},
    run,
    s3_account::{REGION, S3Account},
    tools,
};

const WEED: &str = "weed";

/// A SeaweedFS. Tests that use the run's begin with `require!("weed")`.
pub struct SeaweedFs {
    account: S3Account,
    buckets: AtomicU32,
    // The run's is never dropped, as it lives in a static: the watcher ends it.
    _process: Process,
    _folder: TempDir,
}

impl SeaweedFs {
    /// The server that all tests of the run share.
    pub async fn of_the_run() -> &'static Self {
        static SERVER: OnceCell<SeaweedFs> = OnceCell::const_new();
        SERVER.get_or_init(|| Self::start(None)).await
    }

    /// A server of one's own, which keeps what it stores in a folder that is there already.
    pub async fn in_folder(data: &Path) -> Self {
        Self::start(Some(data)).await
    }

    /// Deletes a bucket with all that is in it. Its volumes are files of its own, which go at once.
    pub async fn remove_bucket(&self, bucket: &str) {
        self.account.remove_bucket(bucket).await;
    }

    /// The address: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> &str {
        &self.account.endpoint
    }

    /// The access key that may do everything.
    pub fn access_key(&self) -> &str {
        self.account.access_key
    }

    /// The secret of [`Self::access_key`].
    pub fn secret_key(&self) -> &str {
        self.account.secret_key
    }

    /// The region that signatures name.
    pub fn region(&self) -> &'static str {
        REGION
    }

    /// A client of a bucket that is not the one under test.
    pub fn client(&self, bucket: &str) -> AmazonS3 {
        self.account.client(bucket)
    }

    async fn start(data: Option<&Path>) -> Self {
        let weed = tools::tool(WEED).expect("weed is missing (scripts/install-test-tools)");
        let folder = run::folder("seaweedfs");
        let data = data.map_or_else(|| folder.path().join("data"), PathBuf::from);
        fs::create_dir_all(&data).expect("make SeaweedFS's folder");
        let s3 = run::free_port();
        let account = S3Account {
            endpoint: format!("http://127.0.0.1:{s3}"),
            access_key: "berth-tests",
            secret_key: "not-a-secret",
        };
        let mut command = run::command(weed);
        command.current_dir(folder.path()).env("HOME", folder.path());
        // A bucket has volumes of its own. Without this it begins with seven.
        command.env("WEED_MASTER_VOLUME_GROWTH_COPY_1", "1");
        command.args(arguments(folder.path(), &data, s3, &account));
        let process = Process::start(command);
        process
            .until("its gateway serves", |said| said.contains("Start Seaweed S3 API Server").then_some(()))
            .await;
        let server = Self { account, buckets: AtomicU32::new(0), _process: process, _folder: folder };
        server.until_it_stores().await;
        server
    }

    /// The gateway may be there before the volumes that it writes to.
    async fn until_it_stores(&self) {
        let bucket = self.fresh_bucket().await;
        let client = self.client(&bucket);
        let storing = async {
            while client.put(&path::Path::from("first"), Bytes::from_static(b"bytes").into()).await.is_err() {
                time::sleep(Duration::from_millis(50)).await;
            }
        };
        time::timeout(PATIENCE, storing).await.expect("SeaweedFS takes too long to store a first object");
    }
}

fn arguments(folder: &Path, data: &Path, s3: u16, account: &S3Account) -> Vec<String> {
    let identity = json!({
        "name": "tests",
        "credentials": [{"accessKey": account.access_key, "secretKey": account.secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    });
    fs::write(folder.join("s3.json"), json!({"identities": [identity]}).to_string()).expect("write s3.json");
    let mut arguments: Vec<String> = [
        "-logtostderr=true",
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-master.electionTimeout=1s",
        // Volumes take only the space that is used of them.
        "-master.volumeSizeLimitMB=1024",
        "-volume.max=1000",
        "-volume.preStopSeconds=0",
        "-s3",
        "-s3.config=s3.json",
        "-s3.localSocket=s3.sock",
        "-filer.localSocket=filer.sock",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]
    .map(str::to_owned)
    .into();
    arguments.push(format!("-dir={}", data.display()));
    arguments.push(format!("-s3.port={s3}"));
    for name in ["master", "volume", "filer", "s3"] {
        if name != "s3" {
            arguments.push(format!("-{name}.port={}", run::free_port()));
        }
        let port = run::free_port();
        arguments.push(format!("-{name}.port.grpc={port}"));
        // Beside each of these ports it opens a socket whose path nobody can choose.
        run::remove_at_the_end(Path::new(&format!("/tmp/seaweedfs-{name}-grpc-{port}.sock")));
    }
    arguments
}

#[async_trait]
impl Backdoor for SeaweedFs {
    async fn fresh_bucket(&self) -> String {
        let bucket = format!("berth-{}", self.buckets.fetch_add(1, Ordering::Relaxed));
        self.account.create_bucket(&bucket).await;
        bucket
    }

    async fn objects(&self, bucket: &str) -> Vec<(String, u64)> {
        backdoor::objects(&self.client(bucket)).await
    }

    async fn open_multiparts(&self, bucket: &str) -> usize {
        self.account.open_multiparts(bucket).await
    }

    async fn get(&self, bucket: &str, key: &str) -> Option<Bytes> {
        backdoor::get(&self.client(bucket), key).await
    }

    async fn put(&self, bucket: &str, key: &str, bytes: Bytes) {
        backdoor::put(&self.client(bucket), key, bytes).await;
    }

    async fn delete(&self, bucket: &str, key: &str) {
        backdoor::delete(&self.client(bucket), key).await;
    }
}
