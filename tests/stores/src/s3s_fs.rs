//! s3s-fs: an S3 server over a folder, in this process.
//!
//! It needs no program besides the tests, and checks signatures and hashes of bodies. Where it is not
//! like S3: it lists no open multipart uploads (501), and answers `AccessDenied` and not `NoSuchUpload`
//! for one that was completed or aborted before.

use std::{
    path::Path,
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use object_store::aws::AmazonS3;
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;

use crate::{
    Backdoor, backdoor, run,
    s3_account::{REGION, S3Account},
    server::Server,
};

/// The run's s3s-fs.
pub struct S3sFs {
    account: S3Account,
    buckets: AtomicU32,
    folder: TempDir,
    _server: Server,
}

impl S3sFs {
    /// The server that all tests of the run share.
    pub fn of_the_run() -> &'static Self {
        static SERVER: LazyLock<S3sFs> = LazyLock::new(S3sFs::start);
        &SERVER
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

    fn start() -> Self {
        let folder = run::folder("s3s-fs");
        let (access_key, secret_key) = ("berth-tests", "not-a-secret");
        let mut service = S3ServiceBuilder::new(FileSystem::new(folder.path()).expect("use a folder"));
        service.set_auth(SimpleAuth::from_single(access_key, secret_key));
        let server = Server::start(service.build(), None);
        let account = S3Account { endpoint: format!("http://{}", server.address), access_key, secret_key };
        Self { account, buckets: AtomicU32::new(0), folder, _server: server }
    }
}

/// The uploads of a bucket that are open: each has a file that says whose it is, beside its attributes.
fn open_multiparts(root: &Path, bucket: &str) -> usize {
    let prefix = format!(".bucket-{}.object-", BASE64_URL_SAFE_NO_PAD.encode(bucket));
    let files = std::fs::read_dir(root).expect("list the folder of s3s-fs").flatten();
    let names = files.filter_map(|file| file.file_name().into_string().ok());
    let is_open = |name: &String| {
        let upload = name.strip_suffix(".metadata.json").and_then(|name| name.rsplit_once(".upload-"));
        upload.is_some_and(|(_, upload)| root.join(format!(".upload-{upload}.json")).exists())
    };
    names.filter(|name| name.starts_with(&prefix)).filter(is_open).count()
}

#[async_trait]
impl Backdoor for S3sFs {
    async fn fresh_bucket(&self) -> String {
        let bucket = format!("berth-{}", self.buckets.fetch_add(1, Ordering::Relaxed));
        self.account.create_bucket(&bucket).await;
        bucket
    }

    async fn objects(&self, bucket: &str) -> Vec<(String, u64)> {
        backdoor::objects(&self.client(bucket)).await
    }

    async fn open_multiparts(&self, bucket: &str) -> usize {
        open_multiparts(self.folder.path(), bucket)
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
