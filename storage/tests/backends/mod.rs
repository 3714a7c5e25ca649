//! Stores to test: each of a test's own, in a folder or at a server of the run.

#![expect(dead_code, reason = "each test program uses some of it")]

use berth_storage::cloud::{Azure, AzureCredentials, Gcs, Patience, Provider, S3, S3Credentials, Settings};
use berth_storage::{Key, Memory, Store};
use berth_test_stores::{Azurite, Backdoor as _, Google, Hostile, S3sFs, SeaweedFs, tools};
use bytes::Bytes;
use tempfile::TempDir;

/// The size of the parts here: the smallest that stores take.
pub const PART: usize = 5 * 1024 * 1024;
/// Memory for two batches, the least there is, or one part, and for two large pieces on their way out.
pub const TINY: Memory = Memory { upload_bytes: 1, download_bytes: 512 * 1024 };

/// A store of a test's own, and what goes away with it.
pub struct Scene {
    pub store: Store,
    pub bucket: String,
    /// The server, where it is one of the test's own.
    pub hostile: Option<Hostile>,
    _folder: Option<TempDir>,
}

pub async fn filesystem(memory: Memory) -> Option<Scene> {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_filesystem(folder.path(), memory).await.unwrap();
    Some(Scene { store, bucket: String::new(), hostile: None, _folder: Some(folder) })
}

pub async fn seaweedfs(memory: Memory) -> Option<Scene> {
    if !has("weed") {
        return None;
    }
    let server = SeaweedFs::of_the_run().await;
    let bucket = server.fresh_bucket().await;
    let provider = s3(server.endpoint(), (server.access_key(), server.secret_key()), &bucket);
    Some(cloud(Provider::S3(provider), bucket, memory).await)
}

pub async fn s3s_fs(memory: Memory) -> Option<Scene> {
    let server = S3sFs::of_the_run();
    let bucket = server.fresh_bucket().await;
    let provider = s3(server.endpoint(), (server.access_key(), server.secret_key()), &bucket);
    Some(cloud(Provider::S3(provider), bucket, memory).await)
}

pub async fn google(memory: Memory) -> Option<Scene> {
    let server = Google::of_the_run();
    let bucket = server.fresh_bucket().await;
    let provider = Gcs {
        bucket: bucket.clone(),
        endpoint: Some(server.endpoint().to_owned()),
        service_account_file: Some(server.service_account_file()),
        ca_file: None,
    };
    Some(cloud(Provider::Gcs(provider), bucket, memory).await)
}

/// A hostile S3 that answers almost every third request with `503 SlowDown`.
pub async fn hostile(memory: Memory) -> Option<Scene> {
    let scene = plain(Patience::default(), memory).await;
    scene.hostile().slow_down(30);
    Some(scene)
}

/// A hostile S3 that is not hostile yet.
pub async fn plain(patience: Patience, memory: Memory) -> Scene {
    let server = Hostile::start();
    let bucket = server.fresh_bucket().await;
    let provider = Provider::S3(at(&server, &bucket));
    let store = Store::open_cloud_within(&settings(provider), patience, memory).await.unwrap();
    store.name(Key::generate().as_str()).await.unwrap();
    Scene { store, bucket, hostile: Some(server), _folder: None }
}

/// A bucket at a hostile S3.
pub fn at(server: &Hostile, bucket: &str) -> S3 {
    let keys = (server.access_key(), server.secret_key());
    S3 { ca_file: server.ca_file(), ..s3(server.endpoint(), keys, bucket) }
}

impl Scene {
    /// The server, which is of the test's own.
    pub fn hostile(&self) -> &Hostile {
        self.hostile.as_ref().unwrap()
    }
}

pub async fn azurite(memory: Memory) -> Option<Scene> {
    if !has("azurite-blob") {
        return None;
    }
    let server = Azurite::of_the_run().await;
    let container = server.fresh_bucket().await;
    let provider = Azure {
        account: server.account().to_owned(),
        container: container.clone(),
        endpoint: Some(server.endpoint().to_owned()),
        credentials: AzureCredentials::Key(server.key().to_owned()),
        ca_file: None,
    };
    Some(cloud(Provider::Azure(provider), container, memory).await)
}

pub fn s3(endpoint: &str, (id, secret): (&str, &str), bucket: &str) -> S3 {
    S3 {
        bucket: bucket.to_owned(),
        region: None,
        endpoint: Some(endpoint.to_owned()),
        path_style: true,
        credentials: S3Credentials::Key { id: id.to_owned(), secret: secret.to_owned() },
        encryption: None,
        sign_payload: true,
        crc64nvme: false,
        ca_file: None,
    }
}

pub fn settings(provider: Provider) -> Settings {
    Settings { provider, prefix: Some("a/prefix".into()), part_bytes: PART as u64, signing: None }
}

async fn cloud(provider: Provider, bucket: String, memory: Memory) -> Scene {
    let store = Store::open_cloud(&settings(provider), memory).await.unwrap();
    store.name(Key::generate().as_str()).await.unwrap();
    Scene { store, bucket, hostile: None, _folder: None }
}

/// Whether a program is there; if not, that is said.
fn has(program: &str) -> bool {
    fn here() {}
    let is_there = tools::tool(program).is_some();
    if !is_there {
        tools::skip(std::any::type_name_of_val(&here), program);
    }
    is_there
}

/// Bytes that depend on the seed alone.
pub fn content(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(length.div_ceil(8)).flatten().take(length).collect()
}
