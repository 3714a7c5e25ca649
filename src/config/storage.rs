//! `[storage]`: where the bytes are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Network, Secret, Size, Span, values};

/// Where the bytes are.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// What kind of store it is: `filesystem`, `s3`, `azure` or `gcs`.
    pub kind: StorageKind,
    /// The folder of a filesystem store; `objects` in the data folder unless set. At most 64 threads wait for
    /// its disk at a time.
    pub path: Option<PathBuf>,
    /// What stands before every object's name in a bucket, so that several registries can share one.
    pub prefix: Option<String>,
    /// The size of the parts in which large blobs are sent to an object store, from 5MiB to 256MiB. A
    /// blob that fits one part is sent in one request. Blobs beyond 15 GiB get larger ones by
    /// themselves.
    pub part_size: Size,
    /// Whether clients fetch blobs from the object store themselves.
    pub redirect: Redirect,
    /// What is kept of an object store on a local disk.
    pub cache: Cache,
    /// Bucket and credentials where `kind` is `s3`.
    pub s3: S3,
    /// Container and credentials where `kind` is `azure`.
    pub azure: Azure,
    /// Bucket and credentials where `kind` is `gcs`.
    pub gcs: Gcs,
}

/// Whether clients fetch blobs from the object store themselves. It takes the load from Berth, and needs
/// clients that reach the store and trust its certificate.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Redirect {
    /// Who is redirected: nobody (`off`), everybody (`on`), or clients in `networks` (`networks`).
    pub mode: RedirectMode,
    /// The networks of the clients that are redirected where `mode` is `networks`, as `["10.0.0.0/8"]`.
    /// Behind a proxy, see `http.trusted_proxies`.
    pub networks: Vec<Network>,
    /// How long the signed address of a blob can be used, at most 7 days; less where the credentials that
    /// sign it end sooner.
    pub expires_in: Span,
    /// The address of the store as clients reach it, where it is another. It is put into signed addresses
    /// and used for nothing else, but that an identity of Azure asks there for the key it signs with.
    pub public_endpoint: Option<String>,
}

/// What is kept of an object store on a local disk, so that what many pull is read from the store once.
/// It survives a restart, and is compared with its checksum when it is read.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// A folder that nothing else uses. Without one there is no cache. Each replica needs its own; it can be
    /// deleted while Berth is not running.
    pub folder: Option<PathBuf>,
    /// What the cache may take there, at least 1GiB. Another size begins with an empty cache.
    pub size: Size,
}

/// Who fetches blobs from the object store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RedirectMode {
    /// Nobody.
    #[default]
    Off,
    /// Everybody.
    On,
    /// Clients in some networks.
    Networks,
}

/// A kind of store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StorageKind {
    /// A local folder.
    #[default]
    Filesystem,
    /// Amazon S3, or whatever speaks its protocol.
    S3,
    /// Azure Blob Storage.
    Azure,
    /// Google Cloud Storage.
    Gcs,
}

/// A bucket of Amazon S3, or of whatever speaks its protocol.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct S3 {
    /// The bucket, which must exist.
    pub bucket: Option<String>,
    /// Its region; if not set, what the environment or the profile says.
    pub region: Option<String>,
    /// The address of a store that is not Amazon's, as `https://s3.example.com:9000`.
    pub endpoint: Option<String>,
    /// Whether the bucket's name goes into the path instead of the host name. If not set: yes where
    /// there is an `endpoint`.
    pub path_style: Option<bool>,
    /// An access key. Without one the whole AWS chain is tried: environment, profile, SSO, process,
    /// web identity (IRSA), EKS Pod Identity, ECS, instance metadata.
    pub access_key_id: Option<String>,
    /// The secret of the access key.
    pub secret_access_key: Option<Secret>,
    /// A file that holds the secret, for secrets that are mounted.
    pub secret_access_key_file: Option<PathBuf>,
    /// The profile to take from the AWS configuration files.
    pub profile: Option<String>,
    /// Encryption at rest: `bucket` (what the bucket does by itself), `s3` (SSE-S3) or `kms` (SSE-KMS).
    pub encryption: S3Encryption,
    /// The KMS key for `encryption = "kms"`; if not set, the account's own key for S3.
    pub kms_key_id: Option<String>,
    /// Whether S3 derives keys from the KMS key for a while, which saves requests to KMS.
    pub bucket_key: bool,
    /// Whether each request says the SHA-256 of its body, which the store then compares. If not set: yes
    /// where the address is no https.
    pub sign_payload: Option<bool>,
    /// Whether each request carries a CRC-64/NVME of its body: Amazon knows it, others may refuse it.
    pub crc64nvme: bool,
    /// Certificates to trust besides the system's, PEM.
    pub ca_file: Option<PathBuf>,
}

/// How S3 encrypts at rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum S3Encryption {
    /// As the bucket says.
    #[default]
    Bucket,
    /// With keys of S3.
    S3,
    /// With a key of KMS.
    Kms,
}

/// A container of Azure Blob Storage.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Azure {
    /// The storage account.
    pub account: Option<String>,
    /// The container, which must exist.
    pub container: Option<String>,
    /// The address, where it is not `https://ACCOUNT.blob.core.windows.net`.
    pub endpoint: Option<String>,
    /// The client id of a user-assigned managed identity. Without key, SAS and connection string the
    /// environment is asked: workload identity, client secret, managed identity.
    pub client_id: Option<String>,
    /// A key of the storage account.
    pub account_key: Option<Secret>,
    /// A file that holds the key.
    pub account_key_file: Option<PathBuf>,
    /// A shared access signature for the container.
    pub sas: Option<Secret>,
    /// A file that holds the shared access signature.
    pub sas_file: Option<PathBuf>,
    /// A connection string, instead of account, endpoint and key or SAS.
    pub connection_string: Option<Secret>,
    /// A file that holds the connection string.
    pub connection_string_file: Option<PathBuf>,
    /// Certificates to trust besides the system's, PEM.
    pub ca_file: Option<PathBuf>,
}

/// A bucket of Google Cloud Storage.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Gcs {
    /// The bucket, which must exist.
    pub bucket: Option<String>,
    /// The address, where it is not Google's.
    pub endpoint: Option<String>,
    /// The key file of a service account. Without one the environment is asked: application default
    /// credentials, workload identity, the machine's own account.
    pub service_account_file: Option<PathBuf>,
    /// Certificates to trust besides the system's, PEM.
    pub ca_file: Option<PathBuf>,
}

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;
const MINUTE: Duration = Duration::from_mins(1);
const WEEK: Duration = Duration::from_hours(7 * 24);

impl Default for Storage {
    fn default() -> Self {
        Self {
            kind: StorageKind::default(),
            path: None,
            prefix: None,
            part_size: Size::of(8 * MIB),
            redirect: Redirect::default(),
            cache: Cache::default(),
            s3: S3::default(),
            azure: Azure::default(),
            gcs: Gcs::default(),
        }
    }
}

impl Default for Redirect {
    fn default() -> Self {
        let (mode, networks) = (RedirectMode::default(), Vec::new());
        Self { mode, networks, expires_in: Span::seconds(15 * 60), public_endpoint: None }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self { folder: None, size: Size::of(10 * GIB) }
    }
}

impl Default for S3 {
    fn default() -> Self {
        Self {
            bucket: None,
            region: None,
            endpoint: None,
            path_style: None,
            access_key_id: None,
            secret_access_key: None,
            secret_access_key_file: None,
            profile: None,
            encryption: S3Encryption::default(),
            kms_key_id: None,
            bucket_key: true,
            sign_payload: None,
            crc64nvme: false,
            ca_file: None,
        }
    }
}

impl Storage {
    /// The folder of a filesystem store, for a data folder.
    pub fn folder(&self, data: &Path) -> PathBuf {
        self.path.clone().unwrap_or_else(|| data.join("objects"))
    }

    /// Reads the secrets that are in files.
    pub(super) fn read_secrets(&mut self) -> Result<(), ConfigError> {
        let s3 = &mut self.s3;
        values::read(
            "storage.s3.secret_access_key",
            &mut s3.secret_access_key,
            s3.secret_access_key_file.as_ref(),
        )?;
        let azure = &mut self.azure;
        values::read("storage.azure.account_key", &mut azure.account_key, azure.account_key_file.as_ref())?;
        values::read("storage.azure.sas", &mut azure.sas, azure.sas_file.as_ref())?;
        values::read(
            "storage.azure.connection_string",
            &mut azure.connection_string,
            azure.connection_string_file.as_ref(),
        )
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let (s3, azure, gcs) = (&self.s3, &self.azure, &self.gcs);
        let is = |kind| self.kind == kind;
        let azure_credentials = [&azure.account_key, &azure.sas, &azure.connection_string]
            .iter()
            .filter(|one| one.is_some())
            .count();
        let redirect = &self.redirect;
        let endpoints = [&s3.endpoint, &azure.endpoint, &gcs.endpoint, &redirect.public_endpoint];
        let is_address = |text: &Option<String>| {
            text.as_ref().is_none_or(|text| text.starts_with("http://") || text.starts_with("https://"))
        };
        let rules = [
            (
                (5 * MIB..=256 * MIB).contains(&self.part_size.bytes()),
                "storage.part_size must be between 5MiB and 256MiB",
            ),
            (
                self.prefix.as_ref().is_none_or(|prefix| is_prefix(prefix)),
                "storage.prefix is made of letters, digits, '.', '_', '-' and '/' between them",
            ),
            (
                !is(StorageKind::S3) || s3.bucket.is_some(),
                "storage.kind is s3: storage.s3.bucket must be set",
            ),
            (
                s3.access_key_id.is_some() == s3.secret_access_key.is_some(),
                "storage.s3.access_key_id and storage.s3.secret_access_key are set together or not at all",
            ),
            (
                s3.access_key_id.is_none() || s3.profile.is_none(),
                "storage.s3.access_key_id and storage.s3.profile exclude each other",
            ),
            (
                s3.kms_key_id.is_none() || s3.encryption == S3Encryption::Kms,
                "storage.s3.kms_key_id is of use only with storage.s3.encryption = \"kms\"",
            ),
            (
                !is(StorageKind::Azure) || azure.container.is_some(),
                "storage.kind is azure: storage.azure.container must be set",
            ),
            (
                !is(StorageKind::Azure) || azure.account.is_some() || azure.connection_string.is_some(),
                "storage.kind is azure: storage.azure.account must be set",
            ),
            (
                azure_credentials <= 1,
                "of storage.azure.account_key, sas and connection_string only one may be set",
            ),
            (
                !is(StorageKind::Gcs) || gcs.bucket.is_some(),
                "storage.kind is gcs: storage.gcs.bucket must be set",
            ),
            (
                redirect.mode == RedirectMode::Off || !is(StorageKind::Filesystem),
                "storage.redirect needs an object store: a folder has no address",
            ),
            (
                (redirect.mode == RedirectMode::Networks) != redirect.networks.is_empty(),
                "storage.redirect.networks belongs to storage.redirect.mode = \"networks\", and that needs it",
            ),
            (
                (MINUTE..=WEEK).contains(&redirect.expires_in.get()),
                "storage.redirect.expires_in must be between 1m and 7d",
            ),
            (
                redirect.mode == RedirectMode::Off || !is(StorageKind::Azure) || azure.sas.is_none(),
                "storage.redirect needs an account key or an identity: a SAS cannot sign",
            ),
            (
                self.cache.folder.is_none() || !is(StorageKind::Filesystem),
                "storage.cache is for an object store: a folder is near enough",
            ),
            (self.cache.size.bytes() >= GIB, "storage.cache.size must be at least 1GiB"),
            (
                endpoints.into_iter().all(is_address),
                "the endpoint of an object store begins with http:// or https://",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, text)) => Err(ConfigError::Invalid(text.into())),
            None => Ok(()),
        }
    }
}

fn is_prefix(prefix: &str) -> bool {
    let segment = |segment: &str| {
        !segment.is_empty()
            && segment != "."
            && segment != ".."
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    };
    prefix.split('/').all(segment)
}
