//! Azurite: Microsoft's own emulator of Azure Blob Storage, one for the run, started by the first
//! test that asks.
//!
//! It is a Node program of about 110 MiB, and there after a second or two.

use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use object_store::azure::{
    AzureAccessKey, AzureAuthorizer, AzureCredential, MicrosoftAzure, MicrosoftAzureBuilder,
};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::{
    Backdoor, backdoor,
    client::{self, Straight},
    process::Process,
    run, tools,
};

const AZURITE: &str = "azurite-blob";

/// The account and key that Microsoft documents for every emulator.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

const LISTENING: &str = "successfully listens on ";

/// The run's Azurite. Tests that use it begin with `require!("azurite-blob")`.
pub struct Azurite {
    endpoint: String,
    containers: AtomicU32,
    // Never dropped, as this lives in a static: the run's watcher ends it.
    _process: Process,
    _folder: TempDir,
}

impl Azurite {
    /// The server that all tests of the run share.
    pub async fn of_the_run() -> &'static Self {
        static SERVER: OnceCell<Azurite> = OnceCell::const_new();
        SERVER.get_or_init(Self::start).await
    }

    /// The address, which has the account for its path: `http://127.0.0.1:PORT/devstoreaccount1`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The storage account.
    pub fn account(&self) -> &'static str {
        ACCOUNT
    }

    /// The shared key of the account.
    pub fn key(&self) -> &'static str {
        KEY
    }

    /// A client of a container that is not the one under test.
    pub fn client(&self, container: &str) -> MicrosoftAzure {
        let client = MicrosoftAzureBuilder::new()
            .with_endpoint(self.endpoint.clone())
            .with_allow_http(true)
            .with_account(ACCOUNT)
            .with_access_key(KEY)
            .with_container_name(container)
            .with_http_connector(Straight);
        client.build().expect("an address and a key are all it needs")
    }

    async fn start() -> Self {
        let azurite = tools::tool(AZURITE).expect("Azurite is missing (scripts/install-test-tools)");
        let folder = run::folder("azurite");
        let mut command = run::command(azurite);
        command.current_dir(folder.path()).env("HOME", folder.path());
        command.args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--location"]).arg(folder.path());
        // Clients may be newer than the emulator: it would refuse the versions that they name.
        command.args(["--silent", "--disableTelemetry", "--skipApiVersionCheck"]);
        let process = Process::start(command);
        let address = process
            .until("it listens", |said| {
                let line = said.split_once(LISTENING)?.1;
                Some(line.split_once(char::is_whitespace)?.0.to_owned())
            })
            .await;
        let endpoint = format!("{address}/{ACCOUNT}");
        Self { endpoint, containers: AtomicU32::new(0), _process: process, _folder: folder }
    }

    /// Sends a signed request without a body.
    async fn send(&self, method: &str, path: &str) -> (StatusCode, String) {
        let mut request = client::request(method, &format!("{}{path}", self.endpoint));
        request.headers_mut().insert("content-length", http::HeaderValue::from_static("0"));
        let key = AzureAccessKey::try_new(KEY).expect("the key is one");
        let credential = AzureCredential::AccessKey(key);
        let authorizer = AzureAuthorizer::new(&credential, ACCOUNT);
        authorizer.try_authorize(&mut request).expect("a request can be signed");
        client::send(request).await
    }
}

#[async_trait]
impl Backdoor for Azurite {
    async fn fresh_bucket(&self) -> String {
        let container = format!("berth-{}", self.containers.fetch_add(1, Ordering::Relaxed));
        let (status, said) = self.send("PUT", &format!("/{container}?restype=container")).await;
        assert!(status.is_success(), "create {container}: {status} {said}");
        container
    }

    async fn objects(&self, container: &str) -> Vec<(String, u64)> {
        backdoor::objects(&self.client(container)).await
    }

    /// Azure has no uploads to begin: these are blobs that have blocks, and no list of them yet.
    async fn open_multiparts(&self, container: &str) -> usize {
        let list = format!("/{container}?restype=container&comp=list&include=uncommittedblobs");
        let (status, said) = self.send("GET", &list).await;
        assert!(status.is_success(), "list {container}: {status} {said}");
        said.matches("<Blob>").count() - self.objects(container).await.len()
    }

    async fn get(&self, container: &str, key: &str) -> Option<Bytes> {
        backdoor::get(&self.client(container), key).await
    }

    async fn put(&self, container: &str, key: &str, bytes: Bytes) {
        backdoor::put(&self.client(container), key, bytes).await;
    }

    async fn delete(&self, container: &str, key: &str) {
        backdoor::delete(&self.client(container), key).await;
    }
}
